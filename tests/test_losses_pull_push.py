import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from reidlab.distances import cosine_distance
from reidlab.losses import pull_push_loss

SEEDS = st.integers(0, 10_000)


def unit(seed, rows, dims=4):
    return F.normalize(torch.randn(rows, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def loop(features, pids, target, negatives):
    """Both means, pair by pair."""
    pull, push, met = [], [], set()
    first = [not (pid in met or met.add(pid)) for pid in pids]
    for i, j in itertools.product(range(len(pids)), repeat=2):
        product = sum(a * b for a, b in zip(features[i], features[j], strict=True))
        if i != j and pids[i] == pids[j]:
            pull.append(1 - product)
        if pids[i] != pids[j] and (negatives == "all" or (first[i] and first[j])):
            push.append(product if target == -1 else max(product, 0))
    return sum(pull) / max(1, len(pull)) + sum(push) / max(1, len(push))


@settings(deadline=None)
@given(
    SEEDS,
    st.lists(st.integers(0, 3), min_size=1, max_size=9),
    st.sampled_from([-1.0, 0.0]),
    st.sampled_from(["first", "all"]),
)
def test_equals_the_loop_for_any_mix_of_labels(seed, pids, target, negatives):
    features = unit(seed, len(pids))
    found = pull_push_loss(features, torch.tensor(pids), target, negatives)
    assert found.item() == pytest.approx(loop(features.tolist(), pids, target, negatives), abs=1e-9)


def test_by_hand_with_unequal_images_for_each_identity():
    # at 0, 90, 180 degrees: the first person; at 0: the second; at 60: the third
    angles = torch.tensor([0.0, 90.0, 180.0, 0.0, 60.0]).deg2rad()
    features, pids = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([5, 5, 5, 6, 7])
    pull = (1 + 2 + 1) / 3
    # first images: products 1 (0–0), 0.5 (0–60), 0.5 (0–60); the other pairs: 90–0, 180–0, 90–60, 180–60
    first = (1 + 0.5 + 0.5) / 3
    every = (1 + 0.5 + 0.5 + 0 - 1 + 0.75**0.5 - 0.5) / 7
    positive = (1 + 0.5 + 0.5 + 0.75**0.5) / 7
    assert pull_push_loss(features, pids).item() == pytest.approx(pull + first)
    assert pull_push_loss(features, pids, negatives="all").item() == pytest.approx(pull + every)
    assert pull_push_loss(features, pids, 0, "all").item() == pytest.approx(pull + positive)


def test_the_least_value_is_minus_one_for_two_identities_and_zero_with_target_zero():
    opposite, pids = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]), torch.tensor([1, 1, 2, 2])
    assert pull_push_loss(opposite, pids).item() == -1
    assert pull_push_loss(opposite, pids, 0.0).item() == 0
    right_angle = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert pull_push_loss(right_angle, pids, 0.0).item() == pull_push_loss(right_angle, pids).item() == 0


def test_equals_the_cosine_distance_of_the_same_pairs():
    features, pids = unit(0, 8), torch.arange(8) % 4
    distances, same = cosine_distance(features), pids[:, None] == pids[None, :]
    expected = distances[same & ~torch.eye(8, dtype=torch.bool)].mean() + 1 - distances[~same].mean()
    assert pull_push_loss(features, pids, negatives="all").item() == pytest.approx(expected.item())


@settings(deadline=None)
@given(SEEDS)
def test_order_matters_only_to_which_image_is_first(seed):
    features, pids = unit(seed, 9), torch.arange(9) % 4
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    for target in (-1.0, 0.0):
        whole = pull_push_loss(features, pids, target, "all")
        assert pull_push_loss(features[order], pids[order], target, "all").item() == pytest.approx(whole.item())
    swapped = [4, 1, 2, 3, 0, 5, 6, 7, 8]  # images 0 and 4 are of one person
    before, after = pull_push_loss(features, pids), pull_push_loss(features[swapped], pids[swapped])
    assert before.item() != pytest.approx(after.item(), abs=1e-9)


@pytest.mark.parametrize("target", [-1.0, 0.0])
@pytest.mark.parametrize("negatives", ["first", "all"])
def test_gradient_is_right(target, negatives):
    raw = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    pids = torch.tensor([0, 1, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda x: pull_push_loss(F.normalize(x), pids, target, negatives), raw)


@pytest.mark.parametrize("pids, expected", [([1, 1], 1.0), ([1, 2], 0.0), ([1], 0.0)])
def test_a_part_without_a_pair_is_zero_and_has_a_graph(pids, expected):
    features = torch.eye(2)[: len(pids)].requires_grad_()
    loss = pull_push_loss(features, torch.tensor(pids))
    loss.backward()
    assert loss.item() == expected and torch.isfinite(features.grad).all()


def test_autocast_does_not_lower_the_precision():
    features, pids = unit(0, 8, 64).float(), torch.arange(8) % 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pull_push_loss(features, pids)
    assert inside == pull_push_loss(features, pids)


def test_bad_arguments_are_refused():
    features, pids = torch.eye(3), torch.tensor([1, 1, 2])
    with pytest.raises(ValueError, match=r"row 0 has length 2.*call l2_normalize"):
        pull_push_loss(2 * features, pids)
    with pytest.raises(ValueError, match=r"got \(2,\) pids for features \(3, 3\)"):
        pull_push_loss(features, pids[:2])
    with pytest.raises(ValueError, match=r"negative_target=0\.5: expected -1 or 0"):
        pull_push_loss(features, pids, 0.5)
    with pytest.raises(ValueError, match="negatives='last': expected one of first, all"):
        pull_push_loss(features, pids, negatives="last")
