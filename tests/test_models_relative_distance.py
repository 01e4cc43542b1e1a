import pytest
import torch

from reidlab.losses import generate_triplets, relative_distance_gradient, relative_distance_loss
from reidlab.models import RelativeDistanceNet
from reidlab.models.relative_distance import SMALLEST_SIDE


def small(**arguments):
    torch.manual_seed(0)
    return RelativeDistanceNet(**{"height": 48, "width": 36, "features": 16, **arguments})


def images(count, seed=0, height=48, width=36):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_the_papers_sizes():
    model = RelativeDistanceNet()
    maps = model.layers(torch.zeros(2, 3, 250, 100))
    assert maps.shape == (2, 32, 28, 9)
    assert model.embed(torch.zeros(2, 3, 250, 100)).shape == (2, 400)
    # 5×5×3×32 + 32, 5×5×32×32 + 32 and 28×9×32×400 + 400
    assert sum(p.numel() for p in model.parameters()) == 2432 + 25632 + 3226000


@pytest.mark.parametrize("height, width", [(33, 33), (34, 39), (128, 64), (61, 250)])
def test_other_sizes_fit_the_linear_layer(height, width):
    model = RelativeDistanceNet(height=height, width=width, features=8)
    assert model(images(2, 0, height, width))["features"].shape == (2, 8)


def test_features_have_length_one_and_every_weight_gets_a_gradient():
    model = small()
    outputs = model(images(6))
    assert outputs["features"].norm(dim=1).tolist() == pytest.approx([1] * 6, abs=1e-6)
    terms = model.loss(outputs, torch.tensor([0, 0, 1, 1, 2, 2]), torch.Generator().manual_seed(0))
    sum(terms.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("training", [True, False])
def test_images_do_not_influence_each_other(training):
    model, batch = small().train(training), images(5)
    together = model.embed(batch)
    assert torch.allclose(together[2:3], model.embed(batch[2:3]), atol=1e-6)
    batch[3] += 100
    assert torch.equal(model.embed(batch)[:3], together[:3]) and not torch.equal(model.embed(batch)[3], together[3])


def test_loss_is_the_mean_over_triplets_and_draws_new_ones():
    model, labels = small(triplets_per_image=3), torch.tensor([0, 0, 0, 1, 1, 1, 2])
    outputs = model(images(7))
    first, same, other = (
        model.loss(outputs, labels, torch.Generator().manual_seed(seed))["relative_distance"].item()
        for seed in (0, 0, 1)
    )
    assert first == same != other
    generator = torch.Generator().manual_seed(0)
    triplets = torch.cat([generate_triplets(labels, generator) for _ in range(3)])
    assert first == relative_distance_loss(outputs["features"], triplets).item()
    torch.manual_seed(0)  # without a generator it is torch's global one that is drawn from
    assert model.loss(outputs, labels)["relative_distance"].item() == first
    features = torch.eye(16)[[0, 0, 0, 1, 1, 1, 2]]  # every triplet is 0 - 2
    assert model.loss({"features": features}, labels)["relative_distance"].item() == -1
    # the first person on one point, all others at right angles: triplets are 0 - 2, held at -1, and 2 - 2
    features = torch.eye(16)[[0, 0, 0, 1, 2, 3, 4]]
    assert model.loss({"features": features}, labels)["relative_distance"].item() == pytest.approx(-0.5)


def test_gradient_by_images_fits_this_network():
    model, batch = small(), images(4)
    triplets = torch.tensor([[0, 1, 2], [1, 0, 3], [2, 3, 0]])
    found = relative_distance_gradient(model.embed, list(model.parameters()), batch, triplets)
    relative_distance_loss(model.embed(batch), triplets, reduction="sum").backward()
    for gradient, parameter in zip(found.gradients, model.parameters(), strict=True):
        assert torch.allclose(gradient, parameter.grad, atol=1e-5)


def test_an_output_of_zeros_is_no_feature_and_is_refused_by_its_row():
    model = small()
    torch.nn.init.zeros_(model.linear.weight)
    torch.nn.init.zeros_(model.linear.bias)
    outputs = model(images(4))
    assert not outputs["features"].any()  # no direction is made up, no NaN either
    with pytest.raises(ValueError, match="row 0 has length 0"):
        model.loss(outputs, torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize(
    "argument, value",
    [("height", SMALLEST_SIDE - 1), ("width", 32.5), ("features", 0), ("features", True), ("triplets_per_image", 0)],
)
def test_bad_arguments_are_refused(argument, value):
    with pytest.raises(ValueError, match=rf"{argument}={value}: expected a whole number of at least"):
        RelativeDistanceNet(**{argument: value})


def test_learns_to_tell_four_coloured_blobs():
    model, generator = small(), torch.Generator().manual_seed(0)
    labels = torch.arange(16) % 4
    blobs = torch.randn(4, 3, 1, 1, generator=generator) + torch.zeros(1, 1, 48, 36)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(30):
        noisy = blobs[labels] + 0.5 * torch.randn(16, 3, 48, 36, generator=generator)
        loss = model.loss(model(noisy), labels, generator)["relative_distance"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > -0.6 and losses[-1] < -0.95  # -1 is the best
