"""precision="auto": what it becomes, and that every record says so."""

import json

import pytest
import torch

from reidlab.lessons.setup import say_duration
from reidlab.training import RunFolder, TrainConfig, load_checkpoint, precision, train
from reidlab.training.dry_run import forecast
from reidlab.training.precision import quickest_precision, settle_precision

SMALL = {"identities_per_batch": 2, "images_per_identity": 2, "iterations": 2, "log_every": 1}


@pytest.mark.parametrize(
    ("full", "half", "chosen"),
    [(1.0, 0.5, "bfloat16"), (1.0, 0.9, "float32"), (1.0, 10.0, "float32"), (1.0, None, "float32")],
)
def test_bfloat16_is_chosen_only_where_a_step_is_clearly_quicker(monkeypatch, full, half, chosen):
    def seconds(_block, _images, in_half):
        if in_half and half is None:
            raise RuntimeError("no bfloat16 here")
        return half if in_half else full

    monkeypatch.setattr(precision, "_block_seconds", seconds)
    quickest_precision.cache_clear()
    try:
        assert quickest_precision("cpu") == chosen
    finally:
        quickest_precision.cache_clear()


def test_measuring_leaves_the_random_numbers_alone_and_happens_once():
    torch.manual_seed(0)
    quickest_precision.cache_clear()
    first = quickest_precision("cpu")
    drawn = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(3))
    assert quickest_precision("cpu") == first and quickest_precision.cache_info().hits >= 1


def test_the_environment_variable_decides_and_a_named_precision_stays(monkeypatch):
    monkeypatch.setenv("REIDLAB_PRECISION", "bfloat16")
    assert settle_precision(TrainConfig()).precision == "bfloat16"
    assert settle_precision(TrainConfig(precision="float32")).precision == "float32"
    monkeypatch.setenv("REIDLAB_PRECISION", "half")
    with pytest.raises(ValueError, match="REIDLAB_PRECISION=half"):
        settle_precision(TrainConfig())


def test_processes_that_share_a_batch_take_the_choice_of_the_first(monkeypatch):
    class Processes:
        def broadcast(self, value):
            return "bfloat16"

    monkeypatch.setenv("REIDLAB_PRECISION", "float32")
    assert settle_precision(TrainConfig(), processes=Processes()).precision == "bfloat16"


def test_records_say_what_was_chosen_and_a_resumed_run_keeps_it(colours, tmp_path, monkeypatch):
    config, run = TrainConfig().replace(**SMALL), tmp_path / "run"

    def stop(row):
        raise KeyboardInterrupt

    monkeypatch.setenv("REIDLAB_PRECISION", "bfloat16")
    whole = train(config, colours)
    with pytest.raises(KeyboardInterrupt):
        train(config, colours, run=RunFolder(run), report=stop)
    assert json.loads((run / "config.json").read_text())["config"]["precision"] == "bfloat16"
    monkeypatch.setenv("REIDLAB_PRECISION", "float32")
    resumed = train(config, colours, run=RunFolder(run, resume=True))
    assert resumed.config.precision == whole.config.precision == "bfloat16"
    assert load_checkpoint(run / "last.pt")[1]["config"]["precision"] == "bfloat16"
    assert resumed.history == whole.history
    assert train(config, colours).history != whole.history  # float32 computes other numbers


def test_the_time_of_a_training_is_estimated_from_smaller_steps(colours, capsys):
    config = TrainConfig().replace(**SMALL | {"identities_per_batch": 6, "images_per_identity": 4})
    torch.manual_seed(1)
    seconds = forecast(config, colours)
    drawn = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    assert 0 < seconds < 100
    settled = say_duration(config, colours)
    assert settled.precision in ("float32", "bfloat16")
    assert f"2 batches of 24 images, {settled.precision}, cpu" in capsys.readouterr().out
