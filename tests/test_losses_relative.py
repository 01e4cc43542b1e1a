import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from reidlab.losses import generate_triplets, relative_distance_gradient, relative_distance_loss

SEEDS = st.integers(0, 10_000)
LABELS = st.lists(st.integers(0, 3), min_size=3, max_size=12)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def unit(seed, rows, dims=4):
    return F.normalize(torch.randn(rows, dims, generator=seeded(seed), dtype=torch.float64))


def network(seed=0):
    """A network of two layers with unit features, which counts the images that pass; and its parameters."""
    shapes = ((6, 5), (5,), (5, 4))
    weights = [torch.randn(shape, generator=seeded(seed + i), dtype=torch.float64) for i, shape in enumerate(shapes)]
    weights = [weight.requires_grad_() for weight in weights]

    def embed(images):
        embed.passes += len(images)
        return F.normalize(torch.tanh(images @ weights[0] + weights[1]) @ weights[2])

    embed.passes = 0
    return embed, weights


def by_autograd(embed, weights, images, triplets, constant):
    loss = relative_distance_loss(embed(images), triplets, constant, "sum")
    return loss.item(), torch.autograd.grad(loss, weights)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 8), st.sampled_from([-1.0, -2.0, 0.0, -0.3]))
def test_loss_equals_the_loop(seed, num_triplets, constant):
    features = unit(seed, 5)
    triplets = torch.randint(0, 5, (num_triplets, 3), generator=seeded(seed))
    rows = features.tolist()
    terms = [
        max(math.dist(rows[a], rows[p]) ** 2 - math.dist(rows[a], rows[n]) ** 2, constant)
        for a, p, n in triplets.tolist()
    ]
    found = relative_distance_loss(features, triplets, constant)
    assert found.item() == pytest.approx(sum(terms) / num_triplets, abs=1e-9)
    summed = relative_distance_loss(features, triplets, constant, "sum")
    assert summed.item() == pytest.approx(sum(terms), abs=1e-9)


def test_loss_by_hand():
    # in degrees 0, 60, 90, 180: squared distances are 2 - 2 cos, so 0–60: 1, 0–90: 2, 0–180: 4, 60–180: 3
    angles = torch.tensor([0.0, 60.0, 90.0, 180.0]).deg2rad()
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    for triplet, difference in (((0, 1, 2), -1), ((0, 2, 1), 1), ((0, 3, 1), 3), ((1, 0, 3), -2), ((0, 1, 3), -3)):
        found = relative_distance_loss(features, torch.tensor([triplet])).item()
        assert found == pytest.approx(max(difference, -1), abs=1e-6)
    found = relative_distance_loss(features, torch.tensor([[0, 2, 1], [1, 0, 3]]), constant=-3).item()
    assert found == pytest.approx((1 - 2) / 2, abs=1e-6)


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12), st.sampled_from([-1.0, -0.2]))
def test_both_ways_give_the_gradient_of_autograd(seed, num_triplets, constant):
    embed, weights = network(seed)
    images = torch.randn(6, 6, generator=seeded(seed), dtype=torch.float64)
    triplets = torch.randint(0, 6, (num_triplets, 3), generator=seeded(seed))  # an image may be its own positive too
    loss, expected = by_autograd(embed, weights, images, triplets, constant)
    for method in ("image", "triplet"):
        found = relative_distance_gradient(embed, weights, images, triplets, constant, method)
        assert found.loss == pytest.approx(loss, abs=1e-9)
        for ours, theirs in zip(found.gradients, expected, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    assert all(weight.grad is None for weight in weights)  # gradients are returned, not left in the parameters


@pytest.mark.parametrize("num_triplets", [1, 4, 16, 64])
def test_passes_grow_with_triplets_or_with_images(num_triplets):
    embed, weights = network()
    images, pids = torch.randn(8, 6, generator=seeded(0), dtype=torch.float64), torch.arange(8) % 2
    triplets = generate_triplets(pids, seeded(0), num_triplets=num_triplets)
    passes = {"triplet": 3 * num_triplets, "image": len(set(triplets.flatten().tolist()))}
    for method, expected in passes.items():
        embed.passes = 0
        found = relative_distance_gradient(embed, weights, images, triplets, method=method)
        assert found.forward_passes == found.backward_passes == expected == embed.passes
    assert passes["image"] <= 8


@pytest.mark.parametrize("method", ["image", "triplet", "autograd"])
@pytest.mark.parametrize("constant", [-2.0, -1.0])  # at the hinge exactly, and beyond it
def test_triplets_at_the_hinge_contribute_nothing(method, constant):
    images = torch.eye(3, dtype=torch.float64)[[0, 0, 1]]
    weight = torch.eye(3, dtype=torch.float64, requires_grad=True)
    triplets = torch.tensor([[0, 1, 2]])  # 0 - 2

    def embed(images):
        return images @ weight

    if method == "autograd":
        loss, gradients = by_autograd(embed, [weight], images, triplets, constant)
    else:
        found = relative_distance_gradient(embed, [weight], images, triplets, constant, method)
        loss, gradients = found.loss, found.gradients
        assert found.backward_passes == 3  # an image-based pass for each image that is used, pulled at or not
    assert loss == constant and not gradients[0].any()


def test_a_parameter_without_influence_has_a_gradient_of_zero():
    embed, weights = network()
    idle = torch.ones(3, requires_grad=True)
    images = torch.randn(4, 6, generator=seeded(0), dtype=torch.float64)
    for method in ("image", "triplet"):
        found = relative_distance_gradient(
            embed, (w for w in [*weights, idle]), images, torch.tensor([[0, 1, 2]]), method=method
        )
        assert [g.shape for g in found.gradients] == [w.shape for w in [*weights, idle]]
        assert not found.gradients[-1].any()


def test_gradient_of_the_loss_is_right():
    def loss(raw):
        return relative_distance_loss(F.normalize(raw), torch.tensor([[0, 1, 2], [1, 0, 3], [2, 3, 0]]))

    assert torch.autograd.gradcheck(loss, torch.randn(4, 3, generator=seeded(0), dtype=torch.float64).requires_grad_())


@settings(deadline=None)
@given(SEEDS, LABELS)
def test_triplets_are_valid_and_every_image_with_a_positive_is_an_anchor_once(seed, labels):
    pids = torch.tensor(labels)
    anchors = [i for i, pid in enumerate(labels) if labels.count(pid) > 1]
    if len(set(labels)) < 2 or not anchors:
        with pytest.raises(ValueError, match=r"a triplet needs two|no image has a positive"):
            generate_triplets(pids, seeded(seed))
        return
    triplets = generate_triplets(pids, seeded(seed))
    assert triplets.dtype == torch.long and triplets[:, 0].tolist() == anchors
    for a, p, n in triplets.tolist():
        assert a != p and labels[a] == labels[p] and labels[a] != labels[n]


@settings(deadline=None)
@given(SEEDS, st.integers(1, 30), st.integers(2, 4))
def test_number_of_triplets_and_of_identities(seed, num_triplets, num_identities):
    pids = torch.arange(12) % 4 + 100
    triplets = generate_triplets(pids, seeded(seed), num_triplets, num_identities)
    assert triplets.shape == (num_triplets, 3)
    assert len(pids[triplets].unique()) <= num_identities
    anchors = Counter(triplets[:, 0].tolist())  # no image twice before all had their turn
    assert max(anchors.values()) == -(-num_triplets // (3 * num_identities))
    if num_identities == 4:
        assert max(anchors.values()) - min(anchors[image] for image in range(12)) <= 1


def test_every_positive_negative_and_identity_is_sampled_equally_often():
    pids, generator = torch.tensor([1, 1, 1, 2, 2, 3]), seeded(0)
    triplets = torch.cat([generate_triplets(pids, generator) for _ in range(900)])
    for anchor, column, options in ((0, 1, {1, 2}), (0, 2, {3, 4, 5}), (3, 2, {0, 1, 2, 5})):
        seen = Counter(triplets[triplets[:, 0] == anchor][:, column].tolist())
        expected = 900 / len(options)
        assert set(seen) == options and all(abs(count - expected) < 5 * expected**0.5 for count in seen.values())
    four = torch.arange(8) % 4
    pairs = Counter(
        tuple(four[generate_triplets(four, generator, num_identities=2)].unique().tolist()) for _ in range(600)
    )
    assert len(pairs) == 6 and all(abs(count - 100) < 50 for count in pairs.values())


def test_new_triplets_from_the_same_images_and_the_same_from_the_same_seed():
    pids, generator = torch.arange(12) % 3, seeded(0)
    first, second = generate_triplets(pids, generator), generate_triplets(pids, generator)
    assert torch.equal(first, generate_triplets(pids, seeded(0))) and not torch.equal(first, second)


def test_bad_arguments_are_refused():
    pids, features, triplet = torch.tensor([1, 1, 2, 2]), torch.eye(4), torch.tensor([[0, 1, 2]])
    for wrong in (1, 3):
        with pytest.raises(ValueError, match=rf"got 2 identities to sample {wrong} from; a triplet needs two"):
            generate_triplets(pids, seeded(0), num_identities=wrong)
    with pytest.raises(ValueError, match="num_triplets=0: expected at least 1"):
        generate_triplets(pids, seeded(0), num_triplets=0)
    with pytest.raises(ValueError, match="none of the 3 identities has two images"):
        generate_triplets(torch.tensor([1, 2, 3]), seeded(0))
    with pytest.raises(ValueError, match=r"row 0 has length 2.*call l2_normalize"):
        relative_distance_loss(2 * features, triplet)
    with pytest.raises(ValueError, match="reduction='none': expected 'mean' or 'sum'"):
        relative_distance_loss(features, triplet, reduction="none")
    for wrong in (triplet[0], triplet[:, :2], triplet[:0], triplet.float()):
        with pytest.raises(ValueError, match=r"expected \(T, 3\) integers, T > 0"):
            relative_distance_loss(features, wrong)
    for wrong in (triplet + 2, triplet - 1):
        with pytest.raises(ValueError, match=r"triplets hold indices .* expected 0 … 3"):
            relative_distance_loss(features, wrong)
        with pytest.raises(ValueError, match=r"triplets hold indices .* expected 0 … 3"):
            relative_distance_gradient(torch.nn.Identity(), [], features, wrong)
    with pytest.raises(ValueError, match="method='both': expected 'image' or 'triplet'"):
        relative_distance_gradient(torch.nn.Identity(), [], features, triplet, method="both")
    weight = torch.eye(4, requires_grad=True)
    for method in ("image", "triplet"):
        with pytest.raises(ValueError, match="has length 3, expected 1"):
            relative_distance_gradient(lambda x: 3 * x @ weight, [weight], features, triplet, method=method)


@pytest.mark.parametrize("seed", range(8))
def test_few_identities_always_hold_an_anchor(seed):
    pids = torch.tensor([1, 1, 2, 3, 4, 5])
    triplets = generate_triplets(pids, torch.Generator().manual_seed(seed), num_identities=2)
    assert sorted(triplets[:, 0].tolist()) == [0, 1] and len(triplets[:, 2].unique()) == 1
