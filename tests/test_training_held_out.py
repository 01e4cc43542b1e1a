"""Watching a run on people of the training set, and what its folder keeps of that."""

import dataclasses
import json
import multiprocessing
import os
import signal
import sys
import time

import numpy as np
import pytest
import torch
from conftest import Colours

from reidlab.data.records import Record, Splits, fingerprint
from reidlab.data.workers import worker_lost
from reidlab.errors import CollapseError, WorkerError
from reidlab.evaluation import evaluate_model
from reidlab.training import RunFolder, TrainConfig, Training, load_checkpoint, train
from reidlab.training.dry_run import dry_run
from reidlab.training.monitors import ValidationMonitor, hold_out
from reidlab.training.step import Step

pytestmark = pytest.mark.usefixtures("half_size")
WATCHED = {"identities_per_batch": 3, "images_per_identity": 2, "iterations": 9, "log_every": 3, "evaluate_every": 3}


def people(number, cameras=2):
    records = [Record(f"{pid}_{i}", pid, 1 + i % cameras, None) for pid in range(number) for i in range(4)]
    return Splits("many", "as given", "all", records, [], [])


def test_nobody_is_trained_on_and_evaluated_on():
    data = people(50)
    kept, watched = hold_out(data, TrainConfig(evaluate_every=1, held_out=0.2))
    held = {r.pid for r in watched.query} | {r.pid for r in watched.gallery}
    assert len(held) == 10 and len({r.pid for r in kept}) == 40 and not held & {r.pid for r in kept}
    assert len(kept) + len(watched.query) + len(watched.gallery) == 200
    assert [r.image for r in watched.query[:2]] == [f"{min(held)}_0", f"{min(held)}_1"]  # each camera's first
    again = hold_out(data, TrainConfig(evaluate_every=1, held_out=0.2))[1]
    other = hold_out(data, TrainConfig(evaluate_every=1, held_out=0.2, seed=1))[1]
    assert again.query == watched.query and other.query != watched.query


@pytest.mark.parametrize(("number", "looked_at"), [(12, 12), (50, 25), (500, 50), (1500, 100)])
def test_without_a_held_out_part_some_of_those_seen_are_looked_at(number, looked_at):
    data = people(number)
    kept, watched = hold_out(data, TrainConfig(evaluate_every=1))
    assert kept == list(data.train) and len({r.pid for r in watched.query}) == looked_at
    assert watched.protocol == "identities seen in training"
    assert hold_out(data, TrainConfig())[1] is None


@pytest.mark.parametrize(
    ("data", "share", "message"),
    [
        (people(50), 0.01, r"held_out=0\.01 of 50 identities are 0; at least 2"),
        (people(6), 0.9, r"held_out=0\.9 of 6 identities are 5; at least 2"),
        (people(50, cameras=1), 0.2, "training identities: nobody was seen by two cameras .* or set evaluate_every=0"),
    ],
)
def test_a_part_that_cannot_be_held_out(data, share, message):
    with pytest.raises(ValueError, match=message):
        hold_out(data, TrainConfig(evaluate_every=1, held_out=share))


def test_a_fingerprint_sees_names_people_cameras_and_pixels(colours):
    records = colours.train
    own = fingerprint(records)
    assert own == fingerprint(list(records)) and len(own) == 16
    for change in ({"pid": 99}, {"camid": 3}, {"image": "10_9"}):
        changed = [dataclasses.replace(records[5], **change), *records[6:]]
        assert fingerprint([*records[:5], *changed]) != own

    class Dark:
        def load(self, name):
            return np.zeros((64, 32, 3), np.uint8)

    assert fingerprint([dataclasses.replace(r, source=Dark()) for r in records]) != own


def test_evaluations_do_not_change_what_is_learned(colours):
    plain = train(TrainConfig().replace(**{**WATCHED, "evaluate_every": 0}), colours)
    watched = train(TrainConfig().replace(**WATCHED), colours)
    assert plain.history == watched.history
    assert [row["iteration"] for row in watched.evaluations] == [0, 3, 6, 9]
    assert {row["people"] for row in watched.evaluations} == {"seen"}


def test_the_best_is_that_of_the_people_held_out(colours, tmp_path):
    config = TrainConfig().replace(**WATCHED, held_out=0.34, seed=3, learning_rate=1e-2)
    result = train(config, colours, run=RunFolder(tmp_path / "run"))
    best = max(result.evaluations, key=lambda row: row["mean_ap"])  # the first of equals
    model, content = load_checkpoint(tmp_path / "run" / "best.pt")
    assert content["held_out"] == best and content["iteration"] == best["iteration"]
    watched = hold_out(colours, config)[1]
    assert evaluate_model(model, watched).mean_ap == pytest.approx(best["mean_ap"], abs=1e-6)
    assert model.arguments["num_classes"] == 4  # two of the six were held out
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["mean_ap"] for row in rows if row["kind"] == "evaluation"] == [r["mean_ap"] for r in result.evaluations]
    assert all(row["seconds"] > 0 for row in rows) and all(r["images_per_second"] > 0 for r in rows if "triplet" in r)


class Blind:
    """Pictures that say nothing about who is in them."""

    def load(self, name):
        return np.random.default_rng(int(name)).integers(0, 255, (32, 16, 3), np.uint8)


def test_scores_at_chance_level_end_a_run():
    records = [Record(str(4 * pid + i), pid, 1 + i % 2, Blind()) for pid in range(30) for i in range(4)]
    config = TrainConfig().replace(**WATCHED, learning_rate=1e-6, margin=5.0)
    with pytest.raises(CollapseError, match=r"iteration 6: mAP .* a random order would\s+have .* nothing was learned"):
        train(config, Splits("blind", "as given", "all", records, [], []))


def test_one_score_at_chance_level_does_not(colours):
    monitor = ValidationMonitor(TrainConfig().replace(**WATCHED), colours, "cpu", 0)
    monitor.at_chance = 1
    torch.manual_seed(0)
    from reidlab.models import Baseline

    monitor.validate(Baseline(6).eval(), 9)
    assert monitor.at_chance == 0


def test_events_for_tensorboard(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = RunFolder(tmp_path)
    for iteration in (1, 2):
        folder.add({"kind": "train", "iteration": iteration, "triplet": 0.5 / iteration})
        folder.add({"kind": "evaluation", "people": "held-out", "iteration": iteration, "mean_ap": 0.25 * iteration})
    folder.close()
    events = event_accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/triplet")] == [(1, 0.5), (2, 0.25)]
    assert [(e.step, e.value) for e in events.Scalars("held-out/mean_ap")] == [(1, 0.25), (2, 0.5)]


def test_without_tensorboard_the_numbers_are_in_the_log_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    folder = RunFolder(tmp_path)
    folder.add({"kind": "train", "iteration": 1, "triplet": 0.5})
    folder.close()
    assert folder.rows() == [{"kind": "train", "iteration": 1, "triplet": 0.5}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


class Unreadable:
    def load(self, name):
        if name.startswith("12"):
            raise OSError(f"{name}: cannot be read as an image; copy the file again")
        return np.zeros((64, 32, 3), np.uint8)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_one_line_also_from_a_worker(workers, colours):
    records = [dataclasses.replace(r, source=Unreadable()) for r in colours.train]
    config = TrainConfig(identities_per_batch=6, images_per_identity=4, iterations=2)
    with pytest.raises(OSError, match=r"^12_\d: cannot be read as an image; copy the file again$"):
        train(config, dataclasses.replace(colours, train=records), workers=workers)


class Deadly(Colours):
    """Pictures that end the process that reads them for another one."""

    def load(self, name):
        if torch.utils.data.get_worker_info():
            os._exit(9)
        return super().load(name)


def test_a_worker_that_dies_during_a_step_is_one_line(colours, monkeypatch):
    """torch reports it from a signal handler, wherever the main process is."""

    def lost(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(Step, "__call__", lost)
    with pytest.raises(WorkerError, match=r"a process that reads images was lost \(DataLoader worker .* fewer workers"):
        train(TrainConfig.preset("smoke"), colours)
    assert worker_lost(RuntimeError("something else")) is None


def test_workers_that_end_with_the_run_are_an_interruption(colours, monkeypatch, tmp_path):
    """A job queue sends SIGTERM to all processes of a run."""
    usual = Step.__call__

    def lost(self, images, labels, iteration, chance):
        if iteration == 4:
            signal.raise_signal(signal.SIGTERM)
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")
        return usual(self, images, labels, iteration, chance)

    monkeypatch.setattr(Step, "__call__", lost)
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig.preset("smoke", save_every=2), colours, run=RunFolder(tmp_path / "run"))
    assert load_checkpoint(tmp_path / "run" / "last.pt")[1]["iteration"] == 2


def test_workers_leave_ctrl_c_to_the_process_that_trains(colours):
    inputs = Training(TrainConfig.preset("smoke", iterations=4), colours, workers=1).inputs
    batches = inputs.after(0)
    next(batches)
    worker = next(iter(multiprocessing.active_children()))
    os.kill(worker.pid, signal.SIGINT)
    time.sleep(0.5)
    assert worker.is_alive()
    assert len(next(batches)[1]) == 8


def test_where_workers_cannot_share_memory_they_need_a_file(colours, monkeypatch, tmp_path):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(
        ValueError, match="workers=2: on this system workers cannot share images in memory; give a cache"
    ):
        Training(TrainConfig.preset("smoke"), colours, workers=2)
    Training(TrainConfig.preset("smoke"), colours, workers=2, cache=tmp_path / "pixels")
    assert dry_run(TrainConfig.preset("smoke"), colours, workers=2, cache=tmp_path / "pixels").seconds > 0


def test_a_worker_that_really_dies(colours, tmp_path):
    records = [dataclasses.replace(record, source=Deadly()) for record in colours.train]
    config = TrainConfig(identities_per_batch=6, images_per_identity=4, iterations=2)
    with pytest.raises(WorkerError, match=r"a process that reads images was lost \(.*\(nothing was saved before\)"):
        train(config, dataclasses.replace(colours, train=records), workers=1, run=RunFolder(tmp_path / "run"))
