import dataclasses
import math

import pytest
import torch

from reidlab.errors import CollapseError
from reidlab.losses import METRIC_LOSSES, MININGS
from reidlab.models import Baseline, RelativeDistanceNet
from reidlab.training import TrainConfig, load_checkpoint, save_checkpoint, train

SMOKE = TrainConfig.preset("smoke", iterations=6, log_every=3)


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", [*METRIC_LOSSES, "none"])
def test_every_metric_loss_trains_and_repeats_itself(colours, name):
    config = dataclasses.replace(SMOKE, metric_loss=name, cross_entropy=name == "none", iterations=2, log_every=1)
    first, again = train(config, colours), train(config, colours)
    assert first.history == again.history and same_weights(first.model, again.model)
    term = "cross_entropy" if name == "none" else "triplet" if name in MININGS else name
    assert term in first.history[0] and len(set(first.history[0]) & {"cross_entropy", "triplet", name}) == 1


def test_the_network_of_relative_distances_trains_and_its_checkpoint_is_read(colours, tmp_path):
    config = TrainConfig.preset("relative_distance", iterations=2, identities_per_batch=4, images_per_identity=2)
    result = train(config, colours)
    assert isinstance(result.model, RelativeDistanceNet) and "relative_distance" in result.history[0]
    again, content = load_checkpoint(save_checkpoint(tmp_path / "a.pt", result, colours))
    assert same_weights(again, result.model) and content["config"]["model"] == "relative_distance"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric_loss": "semihard"}, "metric_loss='semihard': expected one of batch_hard"),
        ({"metric_loss": "none", "cross_entropy": False}, "leaves nothing to learn from"),
        ({"model": "relative_distance", "stripes": 4, "margin": 1.0}, "does not read stripes, margin"),
        ({"metric": "l1"}, "metric='l1'"),
    ],
)
def test_losses_that_cannot_be_trained_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)


@pytest.mark.parametrize("margin", [0.3, None])
def test_a_collapsed_run_is_stopped(colours, monkeypatch, margin):
    forward = Baseline.forward

    def one_point(self, images, precision=None):
        return {name: value * 1e-4 for name, value in forward(self, images, precision).items()}

    config = dataclasses.replace(SMOKE, cross_entropy=False, margin=margin, iterations=6, log_every=1)
    assert len(train(config, colours).history) == 6
    monkeypatch.setattr(Baseline, "forward", one_point)
    rows = []
    with pytest.raises(CollapseError, match="iteration 2: the features of all images have become one point"):
        train(config, colours, report=rows.append)
    stuck = math.log(2) if margin is None else margin
    assert rows[-1]["triplet"] == pytest.approx(stuck, abs=0.01) and rows[-1]["mean_distance"] < 0.03
