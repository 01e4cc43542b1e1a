"""Runs that are interrupted and resumed end in the same numbers, bit for bit."""

import dataclasses
import errno
import functools
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import train_workers
from forked import Forked
from torch import nn

from reidlab.errors import DataError
from reidlab.losses import triplet_loss
from reidlab.models import wrap
from reidlab.models.backbones import SmallBackbone
from reidlab.training import RunFolder, TrainConfig, Training, load_checkpoint, train
from reidlab.training.step import Step
from reidlab.walkers import StreetAugmentation

SMALL = {"identities_per_batch": 4, "images_per_identity": 2, "iterations": 8, "log_every": 3, "save_every": 4}
KINDS = {
    "light": {},
    "crop, steps, held out": {
        "augmentation": "crop",
        "milestones": (0.5, 0.75),
        "optimizer": "sgd",
        "identities_per_batch": 2,
        "evaluate_every": 3,
        "held_out": 0.34,
        "learning_rate": 1e-3,
    },
    "zoom, float16": {
        "augmentation": "zoom",
        "precision": "float16",
        "optimizer": "adam",
        "max_grad_norm": 1.0,
        "identities_per_batch": 2,
    },
    "own augmentation, average": {"ema_decay": 0.9, "precision": "bfloat16", "identities_per_batch": 2},
    "random triplets": {"metric_loss": "random", "microbatch_size": 3},
}
OWN = {"own augmentation, average": StreetAugmentation(32, 16)}


@pytest.fixture(scope="module", autouse=True)
def tiny_pictures(half_size):
    """Images of 32×16 pixels: without instructions for it, half precision takes ten times as long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SmallBackbone, "height", 32)
        patch.setattr(SmallBackbone, "width", 16)
        yield


@pytest.fixture(scope="module")
def in_one(colours, tmp_path_factory):
    """The run in one piece of each kind, and its folder."""

    @functools.cache
    def of(kind):
        folder = tmp_path_factory.mktemp("whole") / "whole"
        return train(settings(kind), colours, run=RunFolder(folder), augment=OWN.get(kind)), folder

    return of


def settings(kind, **changes):
    return TrainConfig().replace(**(SMALL | KINDS[kind] | changes))


def same(one, other):
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return one.history == other.history and all(torch.equal(a, b) for a, b in pairs)


def interrupted(config, data, path, after, augment=None):
    """A run that is told to end in its iteration `after`."""
    seen = []

    def end(row):
        seen.append(row["iteration"])
        if row["iteration"] == after:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(config, data, report=end, run=RunFolder(path), augment=augment)
    return seen


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [3, 6])
def test_a_run_in_two_pieces_is_the_run_in_one(kind, after, colours, in_one, tmp_path):
    config, (whole, folder) = settings(kind), in_one(kind)
    interrupted(config, colours, tmp_path / "pieces", after, OWN.get(kind))
    rest = train(config, colours, run=RunFolder(tmp_path / "pieces", resume=True), augment=OWN.get(kind))
    assert same(whole, rest) and len(whole.history) == 3
    numbers = [
        [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second", "memory_mb")} for row in rows]
        for rows in (RunFolder(path, resume=True).rows() for path in (folder, tmp_path / "pieces"))
    ]
    assert numbers[0] == numbers[1] and {row["iteration"] for row in numbers[0]} >= {3, 6, 8}
    models = [load_checkpoint(path / "last.pt")[0].state_dict() for path in (folder, tmp_path / "pieces")]
    assert all(torch.equal(a, b) for a, b in zip(*(model.values() for model in models), strict=True))


def test_a_run_is_resumed_with_the_augmentation_it_was_begun_with(colours, in_one):
    _, folder = in_one("own augmentation, average")
    with pytest.raises(
        ValueError, match=r"was begun with augment=StreetAugmentation\(.*\), got None; give the same one"
    ):
        train(settings("own augmentation, average"), colours, run=RunFolder(folder, resume=True))


def foreign():
    torch.manual_seed(3)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return wrap(nn.Sequential(*layers), height=32, width=16)


def soft_triplet(outputs, pids):
    return triplet_loss(outputs["features"], pids, margin=None)


def test_a_model_a_loss_and_a_preset_of_ones_own_are_trained_saved_and_resumed(colours, tmp_path):
    whole = train(settings("light"), colours, out=tmp_path / "whole", model=foreign(), loss=soft_triplet)
    assert whole.history[-1].keys() == {"iteration", "learning_rate", "loss"} and whole.history[-1]["loss"] > 0
    before = foreign().state_dict()
    assert not all(torch.equal(before[name], value) for name, value in whole.model.state_dict().items())

    def end(row):
        if row["iteration"] == 3:
            signal.raise_signal(signal.SIGINT)

    how = {"out": tmp_path / "pieces", "resume": True, "loss": soft_triplet}  # resume: begins where there is none
    with pytest.raises(KeyboardInterrupt):
        train(settings("light"), colours, model=foreign(), report=end, **how)
    assert same(whole, train(settings("light"), colours, model=foreign(), **how))
    with pytest.raises(ValueError, match="was begun with loss=soft_triplet, got None; give the same one"):
        train(settings("light"), colours, model=foreign(), out=tmp_path / "pieces", resume=True)

    with pytest.raises(DataError, match=r"a model of a class without a name, .*give the model to load_checkpoint"):
        load_checkpoint(tmp_path / "whole" / "last.pt")
    again, _ = load_checkpoint(tmp_path / "whole" / "last.pt", foreign())
    images = torch.rand(2, 3, 32, 16)
    assert torch.equal(again.embed(images), whole.model.embed(images))
    with pytest.raises(DataError, match="not the weights of the model given"):
        load_checkpoint(tmp_path / "whole" / "last.pt", wrap(nn.Conv2d(3, 2, 1), 32, 16))


def test_doors_that_do_not_fit_are_refused(colours, tmp_path):
    with pytest.raises(ValueError, match="got resume without out"):
        train("smoke", colours, resume=True)
    with pytest.raises(ValueError, match="both out and run"):
        train("smoke", colours, out=tmp_path / "a", run=RunFolder(tmp_path / "b"))
    with pytest.raises(ValueError, match=r"model: got Linear, expected a ReIDModel; reidlab\.wrap"):
        train("smoke", colours, model=nn.Linear(2, 2))
    with pytest.raises(ValueError, match="preset='large': expected one of"):
        train("large", colours)


def test_four_epochs_are_two_and_two(colours, tmp_path):
    """Six identities by four are two batches an epoch, the second one filled up."""
    config = settings("light", log_every=1)
    whole = train(config, colours)
    assert whole.epochs == 4
    assert interrupted(config, colours, tmp_path / "run", 4) == [1, 2, 3, 4]
    assert same(whole, train(config, colours, run=RunFolder(tmp_path / "run", resume=True)))


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    def start(name, *options):
        return Forked(train_workers.slowly, tmp_path / name, options, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def end(process):
        said = process.communicate()[1]
        assert process.returncode == 0, said

    end(start("whole"))
    victim, told = start("run", "slow"), tmp_path / "run.told"
    deadline = time.monotonic() + 120
    while not told.exists() or "6\n" not in told.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim.kill()
    victim.wait(30)
    assert victim.returncode == -signal.SIGKILL
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(rows) == 6  # two of them after the last checkpoint, which is of iteration 4
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(rows) + '\n{"iteration": 7, "trip')  # a half-written line
    told.unlink()
    end(start("run", "resume"))
    assert told.read_text().startswith("5\n")
    assert (tmp_path / "run.history").read_text() == (tmp_path / "whole.history").read_text()
    iterations = [
        json.loads(line)["iteration"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert iterations == list(range(1, 13))


def test_a_run_killed_before_its_first_checkpoint_begins_again(colours, tmp_path):
    config = settings("light")
    train(config, colours, run=RunFolder(tmp_path / "run"))
    (tmp_path / "run" / "last.pt").unlink()
    again = train(config, colours, run=RunFolder(tmp_path / "run", resume=True))
    assert same(again, train(config, colours))
    assert [row["iteration"] for row in RunFolder(tmp_path / "run", resume=True).rows()] == [3, 6, 8]


@pytest.fixture
def begun(colours, tmp_path):
    train(settings("light"), colours, run=RunFolder(tmp_path / "run", preset="smoke"))
    return tmp_path / "run"


def test_what_a_run_leaves_behind(begun, colours):
    content = json.loads((begun / "config.json").read_text())
    assert content["preset"] == "smoke" and content["config"]["iterations"] == 8 and content["processes"] == 1
    assert content["data"]["train_identities"] == 6 and len(content["data"]["fingerprint"]) == 16
    assert content["epochs"] == 4 and content["passes"] == pytest.approx(8 * 8 / 24)
    assert not (begun / "best.pt").exists()  # nobody was held out
    _, content = load_checkpoint(begun / "last.pt")
    assert content["input"]["mean"] == [0.485, 0.456, 0.406] and content["data"]["box"] == "as given"
    assert "progress" not in content and not list(begun.glob(".*"))


def test_a_second_run_does_not_overwrite_a_first(begun):
    held = r"holds a run already \(config\.json, metrics\.jsonl, last\.pt\); resume it"
    with pytest.raises(FileExistsError, match=held):
        RunFolder(begun)
    with pytest.raises(FileNotFoundError, match="holds no run to resume"):
        RunFolder(begun / "deeper", resume=True)


def go_on(run, data, **changes):
    return train(dataclasses.replace(settings("light"), **changes), data, run=RunFolder(run, resume=True))


def test_other_settings_or_data_are_refused(begun, colours):
    with pytest.raises(ValueError, match=r"learning_rate=0\.1 \(it began with 0\.002\); begin a new run"):
        go_on(begun, colours, learning_rate=0.1)
    assert go_on(begun, colours, log_every=1).history  # which changes nothing that is learned
    fewer = dataclasses.replace(colours, train=colours.train[:-4])
    with pytest.raises(ValueError, match=r"the data has changed since the run began: .*train_identities 6 became 5"):
        go_on(begun, fewer)
    renamed = [dataclasses.replace(r, camid=3) if i == 5 else r for i, r in enumerate(colours.train)]
    with pytest.raises(ValueError, match=r"the data has changed since the run began: fingerprint \w+ became \w+"):
        go_on(begun, dataclasses.replace(colours, train=renamed))


@pytest.mark.parametrize(
    "damage", ["cut", "text", "a model alone", "another run's", "optimizer", "random", "config.json", "metrics.jsonl"]
)
def test_damaged_files_give_one_clear_line(begun, colours, damage):
    last = begun / "last.pt"
    if damage == "cut":
        last.write_bytes(last.read_bytes()[:5000])
    elif damage == "text":
        last.write_text("nothing")
    elif damage == "a model alone":
        content = torch.load(last, weights_only=True)
        del content["progress"]
        torch.save(content, last)
    elif damage.endswith(("json", "jsonl")):
        (begun / damage).write_text("{\n{" if damage == "config.json" else '{"iteration": 1}\n[1]\n{"iteration": 3}\n')
    elif damage == "another run's":
        other = train(settings("light", seed=5), colours, run=RunFolder(begun.parent / "other"))
        last.write_bytes((begun.parent / "other" / "last.pt").read_bytes())
        assert other.config.seed == 5
    elif damage in ("optimizer", "random"):
        content = torch.load(last, weights_only=True)
        content["progress"][damage] = {} if damage == "optimizer" else []
        torch.save(content, last)
    name = damage if damage.endswith(("json", "jsonl")) else "last.pt"
    with pytest.raises(DataError, match=rf"{name}: "):
        go_on(begun, colours)


def test_a_full_disk_leaves_the_checkpoint_before(colours, tmp_path, monkeypatch):
    write, written = Path.write_bytes, []

    def full_the_second_time(self, data):
        written.append(self)
        if len(written) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full_the_second_time)
    with pytest.raises(OSError, match=r"last\.pt: not written, the disk is full; free space and run again"):
        train(settings("light"), colours, run=RunFolder(tmp_path / "run"))
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / "run" / "last.pt")[1]["iteration"] == 4
    rest = train(settings("light"), colours, run=RunFolder(tmp_path / "run", resume=True))
    assert same(rest, train(settings("light"), colours))


def test_a_log_that_cannot_be_written_is_named_and_ends_nothing(colours, tmp_path, caplog):
    run = RunFolder(tmp_path / "run")

    class Full(type(run.metrics)):
        def open(self, *_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

    run.metrics = Full(run.metrics)
    result = train(settings("light"), colours, run=run)
    assert "metrics.jsonl: not written (No space left on device); make room there" in caplog.text
    assert "metrics.jsonl: the last 3 rows are missing" in caplog.text
    _, saved = load_checkpoint(tmp_path / "run" / "last.pt")
    assert saved["iteration"] == 8 and len(result.history) == 3


def test_an_exploding_run_says_which_checkpoint_is_left(colours, tmp_path):
    config = settings("light", iterations=60, learning_rate=1e6, warmup=0.3, weight_decay=1e6, save_every=1)
    with pytest.raises(FloatingPointError, match=r"iteration \d+: .*\(.*last\.pt is from iteration \d+\)") as error:
        train(config, colours, run=RunFolder(tmp_path / "run"))
    model, content = load_checkpoint(tmp_path / "run" / "last.pt")
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    first = re.search(r"iteration (\d+): ", str(error.value))[1]
    assert content["iteration"] < int(first)


def test_weights_that_are_lost_are_not_saved(colours, tmp_path, monkeypatch):
    """The loss of a step is finite, and its weights are not: the file before stays."""
    usual = Step.__call__

    def lost(self, images, labels, iteration, chance):
        found = usual(self, images, labels, iteration, chance)
        if iteration == 4:
            next(self.model.parameters()).detach().fill_(float("nan"))
        return found

    monkeypatch.setattr(Step, "__call__", lost)
    with pytest.raises(FloatingPointError, match=r"iteration 4: NaN .* in backbone.*last\.pt is from iteration 2\)"):
        train(settings("light", save_every=2), colours, run=RunFolder(tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run" / "last.pt")[1]["iteration"] == 2


def test_the_best_survives_an_interruption(colours, tmp_path):
    """With a rate this high the score falls after a while; what was best before the interruption stays the best."""
    config = settings("crop, steps, held out", iterations=12, evaluate_every=2, learning_rate=0.05, seed=1)
    whole = train(config, colours, run=RunFolder(tmp_path / "whole"))
    best = max(whole.evaluations, key=lambda row: row["mean_ap"])["iteration"]
    assert best < 12
    interrupted(config, colours, tmp_path / "run", next(i for i in (3, 6, 9) if i >= best))
    train(config, colours, run=RunFolder(tmp_path / "run", resume=True))
    kept = [load_checkpoint(tmp_path / name / "best.pt")[1] for name in ("whole", "run")]
    assert kept[0]["iteration"] == kept[1]["iteration"] == best and kept[0]["held_out"] == kept[1]["held_out"]


def test_alarms_count_on_after_an_interruption(colours, tmp_path):
    training = Training(settings("crop, steps, held out"), colours)
    training.collapse.rows, training.validation.at_chance = 1, 1
    again = Training(settings("crop, steps, held out"), colours)
    again.restore(training.state())
    assert (again.collapse.rows, again.validation.at_chance) == (1, 1)
