import pytest
import torch

from reidlab.distances import l2_normalize
from reidlab.losses import (
    METRIC_LOSSES,
    MININGS,
    generate_triplets,
    metric_loss,
    pull_push_loss,
    relative_distance_loss,
    triplet_loss,
)

FEATURES = 3 * torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
PIDS = torch.tensor([1, 1, 2, 2, 2, 3, 3, 4])
UNIT = l2_normalize(FEATURES)


def seeded():
    return torch.Generator().manual_seed(5)


EXPECTED = {name: lambda name=name: triplet_loss(FEATURES, PIDS, 20.0, name, "squared", seeded()) for name in MININGS}
EXPECTED |= {
    "relative_distance": lambda: relative_distance_loss(UNIT, generate_triplets(PIDS, seeded())),
    "pull_push": lambda: pull_push_loss(UNIT, PIDS, -1.0, "first"),
    "pull_push_all": lambda: pull_push_loss(UNIT, PIDS, -1.0, "all"),
    "pull_push_zero": lambda: pull_push_loss(UNIT, PIDS, 0.0, "first"),
    "pull_push_zero_all": lambda: pull_push_loss(UNIT, PIDS, 0.0, "all"),
}


def test_every_name_is_tested_here():
    assert set(EXPECTED) == set(METRIC_LOSSES)


@pytest.mark.parametrize("name", METRIC_LOSSES)
def test_names_stand_for_their_losses(name):
    features = FEATURES.clone().requires_grad_()
    found = metric_loss(name, features, PIDS, 20.0, "squared", seeded())
    assert found.item() == pytest.approx(EXPECTED[name]().item(), abs=1e-6)
    others = [other for other in EXPECTED if other != name]
    assert all(abs(found.item() - EXPECTED[other]().item()) > 1e-4 for other in others)  # no two are one
    found.backward()
    assert features.grad.any()


@pytest.mark.parametrize("name", ["random", "relative_distance"])
def test_sampling_needs_a_generator(name):
    with pytest.raises(ValueError, match="samples triplets: pass generator="):
        metric_loss(name, FEATURES, PIDS)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"metric loss 'hard': expected one of batch_hard, .*pull_push_zero_all"):
        metric_loss("hard", FEATURES, PIDS)
