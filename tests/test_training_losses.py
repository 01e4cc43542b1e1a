import math

import pytest
import torch
from typer.testing import CliRunner

from reidlab.cli import app
from reidlab.errors import CollapseError
from reidlab.losses import METRIC_LOSSES, MININGS
from reidlab.models import MODELS, Baseline, RelativeDistanceNet
from reidlab.training import TrainConfig, load_checkpoint, save_checkpoint, train
from reidlab.training.monitors import CollapseMonitor

pytestmark = pytest.mark.usefixtures("half_size")
SMOKE = TrainConfig.preset("smoke", iterations=6, log_every=3)


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("name", [*METRIC_LOSSES, None])
def test_every_metric_loss_trains_and_repeats_itself(colours, name):
    config = SMOKE.replace(metric_loss=name, cross_entropy=name is None, iterations=2, log_every=1)
    first, again = train(config, colours), train(config, colours)
    assert first.history == again.history and same_weights(first.model, again.model)
    term = "cross_entropy" if name is None else "triplet" if name in MININGS else name
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
        ({"metric_loss": None, "cross_entropy": False}, "leaves nothing to learn from"),
        ({"model": "relative_distance", "margin": 1.0}, "unknown setting margin; .* height, width, features"),
        (
            {"metric_loss": "pull_push", "margin": 1.2, "metric": "cosine"},
            "margin=1.2 is not read with metric_loss='pull_push'",
        ),
        ({"cross_entropy": False, "label_smoothing": 0.3}, "label_smoothing=0.3 is not read with cross_entropy=False"),
        ({"metric": "l1"}, "metric='l1'"),
    ],
)
def test_losses_that_cannot_be_trained_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig().replace(**settings)


@pytest.mark.parametrize("margin", [0.3, None])
def test_a_collapsed_run_is_stopped(colours, monkeypatch, margin):
    forward = Baseline.forward

    def one_point(self, images, precision=None):
        return {name: value * 1e-4 for name, value in forward(self, images, precision).items()}

    config = SMOKE.replace(cross_entropy=False, margin=margin, iterations=6, log_every=1)
    assert len(train(config, colours).history) == 6
    monkeypatch.setattr(Baseline, "forward", one_point)
    rows = []
    with pytest.raises(CollapseError, match="iteration 2: the features of all images have become one point"):
        train(config, colours, report=rows.append)
    stuck = math.log(2) if margin is None else margin
    assert rows[-1]["triplet"] == pytest.approx(stuck, abs=0.01) and rows[-1]["mean_distance"] < 0.03


@pytest.mark.parametrize("learning_rate", [1e3, 1e6])
def test_a_diverged_run_is_told_from_a_bad_image(colours, learning_rate):
    config = SMOKE.replace(cross_entropy=False, iterations=30, learning_rate=learning_rate, warmup=0.0)
    with pytest.raises(FloatingPointError, match=r"iteration \d+: .* lower learning_rate"):
        train(config, colours)


def rows(*pairs):
    return [{"iteration": i, "triplet": loss, "mean_distance": d} for i, (loss, d) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("pairs", "stops"),
    [
        ([(0.3, 1e-4), (0.3, 1e-4)], True),
        ([(0.3, 1e-4), (0.2, 1.0), (0.3, 1e-4)], False),  # one row is no collapse, and two must follow each other
        ([(0.05, 0.02), (0.05, 0.02)], False),  # close together, and all triplets in order: a good network
        ([(0.3, 2.0), (0.3, 2.0)], False),  # at the margin by chance
    ],
)
def test_both_signs_of_a_collapse_are_needed_twice(pairs, stops):
    monitor = CollapseMonitor(Baseline(2))
    if stops:
        with pytest.raises(CollapseError, match="Lower learning_rate or weight_decay"):
            [monitor.check(row) for row in rows(*pairs)]
    else:
        [monitor.check(row) for row in rows(*pairs)]


def test_long_features_in_one_point_are_seen_to_be_there():
    point = 300 * torch.nn.functional.normalize(torch.randn(1, 64, generator=torch.Generator().manual_seed(0)))
    found = CollapseMonitor(Baseline(2)).row(point.repeat(8, 1), torch.arange(8) // 2)
    assert found["mean_distance"] < 1e-3 and found["active_anchors"] == 1


@pytest.mark.parametrize("model", ["relation", "mgn"])
def test_networks_of_parts_are_watched_by_the_mean_of_their_triplet_losses(model):
    monitor = CollapseMonitor(MODELS[model](2, "small"))
    features, labels = torch.full((4, 8), 0.5), torch.tensor([0, 0, 1, 1])
    row = monitor.row(features + torch.eye(4, 8) * 1e-6, labels)
    assert set(row) == {"mean_distance"} and row["mean_distance"] < 1e-5
    row |= {"iteration": 5, "triplet/part6.1": 1.19, "triplet/global6": 1.21, "local/part6.1": 6.0}
    monitor.check(row)
    monitor.check(row | {"triplet/global6": 0.4})  # one of them still learns
    monitor.check(row)
    with pytest.raises(CollapseError, match=r"triplet loss 1\.200; a collapsed run stays at the margin, 1\.2"):
        monitor.check(row)


def test_a_collapse_is_one_line_on_the_command_line(monkeypatch):
    def collapse(*_):
        raise CollapseError("iteration 50: one point")

    monkeypatch.setattr("reidlab.cli.open_data", collapse)
    result = CliRunner().invoke(app, ["train", "nowhere", "--box", "labeled"])
    assert result.exit_code == 1 and result.stderr == "error: iteration 50: one point\n"
