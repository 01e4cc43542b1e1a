import dataclasses
import datetime
import importlib
import random
import re
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reidlab.data.records import Record
from reidlab.errors import DataError
from reidlab.evaluation import evaluate
from reidlab.ranks import Ranks
from reidlab.training import RunFolder, TrainConfig, Training, train
from reidlab.training.optimizing import new_schedule
from reidlab.training.plan import plan
from reidlab.training.preflight import preflight
from reidlab.training.randomness import seed_everything
from reidlab.training.step import Step
from reidlab.training.trial import count_bytes, kept_bytes, step_memory

preflight_module = importlib.import_module("reidlab.training.preflight")
trial_module = importlib.import_module("reidlab.training.trial")
pytestmark = pytest.mark.usefixtures("half_size")
SMOKE = TrainConfig.preset("smoke", iterations=6, log_every=3, learning_rate=1e-3)
WATCHED = dataclasses.replace(SMOKE, evaluate_every=4, held_out=0.34, identities_per_batch=2)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def planned(colours):
    return plan(SMOKE, colours, steps=2)


# --- what a step takes -------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """Three layers whose memory can be counted by hand, and one number that is there whatever the batch."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)
        self.linear = nn.Linear(2 * 4 * 5, 7)
        self.scale = nn.Parameter(torch.ones(11))

    def forward(self, images):
        maps = self.norm(self.convolution(images)).relu()
        return self.linear(maps.flatten(1)).sum() + self.scale.exp().sum()


def test_what_is_kept_by_hand():
    """Image, convolution's output (batch norm's input), ReLU's output, which flatten reads out again in another order.

    Besides, batch norm keeps mean and spread of two channels, exp its 11 results.
    """
    network = Layers()
    a_map = 2 * 4 * 5
    two, four = (kept_bytes(network, (n, 3, 4, 5)) for n in (2, 4))
    assert (four - two) // 2 == 4 * (3 * 4 * 5 + 3 * a_map)
    assert 2 * two - four == 4 * (2 + 2 + 11)


def test_parameters_and_views_of_one_storage_are_counted_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 4, 5))

        def forward(self, images):
            return (images * self.weight).sum() + (images[:, :2] * self.weight[:2]).sum()

    assert kept_bytes(Twice(), (6, 3, 4, 5)) == 4 * 6 * 3 * 4 * 5


@pytest.mark.parametrize("changes", [{}, {"optimizer": "sgd", "weight_decay": 0.0}, {"precision": "bfloat16"}])
def test_the_estimate_is_what_a_step_leaves_in_memory(colours, changes):
    training = Training(dataclasses.replace(SMOKE, **changes), colours)
    found = step_memory(training)
    images, labels = next(training.inputs.after(0))
    training.step(images, labels, 1, training.chance)
    moments = [v for state in training.optimizer.state.values() for v in state.values() if v is not None and v.ndim]
    assert found.optimizer == count_bytes(moments)
    assert found.gradients == count_bytes(p.grad for p in training.model.parameters() if p.requires_grad)
    assert found.weights == count_bytes(training.model.state_dict().values())
    precision = torch.bfloat16 if changes.get("precision") else None
    assert found.images == len(images) == 8
    kept = kept_bytes(training.model, tuple(images.shape), precision)
    assert found.besides + 8 * found.per_image == pytest.approx(kept, rel=1e-3)  # the line through 2 and 4 holds at 8


def test_half_precision_chunks_averages_and_processes_change_the_estimate(colours):
    def memory(ranks=Ranks(), **changes):
        return plan(
            dataclasses.replace(SMOKE, **{"precision": "float32"} | changes), colours, ranks=ranks, steps=0
        ).memory

    usual, half = memory(), memory(precision="bfloat16")
    assert 0.4 * usual.per_image < half.per_image < 0.8 * usual.per_image
    chunked = memory(chunk=4, average=0.9)
    assert chunked.images == 4 and chunked.weights == 2 * usual.weights
    assert chunked.total == usual.total - 4 * usual.per_image + usual.weights
    other = memory(Ranks(1, 2), optimizer="sgd", momentum=0.0)
    assert other.images == 4 and other.optimizer == 0


# --- the plan ----------------------------------------------------------------------------------------------------


def states():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002


def test_a_plan_changes_nothing(colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone = train(SMOKE, colours)
    seed_everything(5)
    before = states()
    plan(dataclasses.replace(SMOKE, seed=3), colours, cache="images.store", steps=1)
    for one, other in zip(before, states(), strict=True):
        assert one == other if isinstance(one, tuple) else (one == other).all()
    assert train(SMOKE, colours).history == alone.history
    assert list(tmp_path.iterdir()) == []


def test_random_generators_come_back_after_a_failure_too(colours):
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="identities_per_batch=99"):
        plan(dataclasses.replace(SMOKE, identities_per_batch=99), colours)
    assert torch.equal(before, torch.get_rng_state())


def test_iterations_epochs_and_passes(colours, planned):
    """Six people in batches of 4 × 2: two batches an epoch; 48 draws of 24 images."""
    assert (planned.images, planned.identities, planned.held_out, planned.batches) == (24, 6, 0, 2)
    assert planned.epochs == 3 and planned.passes == 2 and planned.rows == 8
    assert "run            6 iterations = 3.0 epochs of 2 batches = 2.0 passes over the images" in str(planned)
    assert "4 identities × 2 images = 8\n" in str(planned)
    assert "none during the run" in str(planned) and "nobody held out" in str(planned)


def test_people_held_out_and_evaluations(colours):
    found = plan(WATCHED, colours, steps=0)
    result = train(WATCHED, colours)
    assert found.evaluations == len(result.evaluations) == 3  # at 0, 4 and 6
    assert (found.identities, found.held_out, found.images) == (4, 2, 16)
    assert found.watched == 8 and "3 during the run, of 8 images each" in str(found)
    assert found.trial is None and found.seconds is None and "not measured" in str(found)


@pytest.mark.parametrize("warmup", [0.0, 0.125, 0.21])
def test_warm_up_and_steps_are_those_of_the_schedule(colours, warmup):
    config = dataclasses.replace(SMOKE, iterations=40, warmup=warmup, schedule="steps", steps=(0.5, 0.8), decay=0.1)
    found = plan(config, colours, steps=0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
    schedule, rates = new_schedule(optimizer, config), []
    for _ in range(40):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[found.warmup] == pytest.approx(config.learning_rate)
    assert all(rate < config.learning_rate * 0.999 for rate in rates[: found.warmup])
    assert ("no warm-up, ×" in str(found)) == (warmup == 0)
    drops = tuple(i for i in range(1, 40) if rates[i] < 0.5 * rates[i - 1])
    assert found.drops == drops == (20, 32)
    assert "× 0.1 after iterations 20, 32" in str(found)


def test_rates_chunks_and_identities_with_few_images_are_said(colours):
    data = dataclasses.replace(colours, train=colours.train[:-3])
    changes = {"optimizer": "sgd", "learning_rate": 0.01, "backbone_rate": 0.1, "chunk": 4, "warmup": 0.34}
    text = " ".join(str(plan(dataclasses.replace(SMOKE, **changes), data, steps=0)).split())
    assert "0.01 for new layers, 0.001 for the backbone; warm-up of 2 iterations, then half a cosine" in text
    assert "= 8, 4 at a time through the network" in text
    assert "; 1 have fewer than 2 images" in text
    text = str(plan(dataclasses.replace(SMOKE, precision="float32"), colours, ranks=Ranks(0, 2), steps=0))
    assert "= 8, 4 in each of 2 processes" in text and "for a step of each process" in text


def test_files_are_as_large_as_said(colours, tmp_path):
    config = dataclasses.replace(WATCHED, average=0.5)
    found = plan(config, colours, steps=0)
    run = RunFolder(tmp_path / "run")
    train(config, colours, run=run)
    assert run.last.stat().st_size == pytest.approx(found.last, rel=0.05)
    assert run.best.stat().st_size == pytest.approx(found.best, rel=0.05)


def test_the_store_is_as_large_as_said(colours, tmp_path):
    config = dataclasses.replace(SMOKE, augmentation="zoom")
    found = plan(config, colours, steps=0, cache="x")
    assert found.stored == 24 * 3 * 72 * 36 and found.cache == "x" and "0.5 MB" not in str(found).split("images ")[0]
    assert Training(config, colours).inputs.dataset.store.nbytes == found.stored


def test_the_expected_time_adds_up(planned):
    trial = planned.trial
    assert trial.steps == 2 and trial.seconds > 0 and trial.terms == 2 and trial.peak is None
    assert planned.seconds == pytest.approx(6 * trial.seconds + 24 * trial.reading)
    slow = dataclasses.replace(
        planned,
        trial=dataclasses.replace(trial, seconds=1.5, reading=0.25),
        config=dataclasses.replace(SMOKE, iterations=2000),
        made=datetime.datetime(2026, 2, 27, 23, 30, tzinfo=datetime.timezone.utc),
    )
    assert slow.seconds == 2000 * 1.5 + 24 * 0.25
    text = " ".join(str(slow).split())
    assert "50 min, from 1.5 s a step (median of 2) and 250.0 ms to read an image" in text
    assert "ends on 2026-02-28 at 00:20" in text and "writing last.pt (× 8)" in text
    assert dataclasses.replace(slow, workers=3).seconds == 3000 + 2
    few = dataclasses.replace(slow, config=dataclasses.replace(SMOKE, iterations=2))
    assert few.seconds == 3 + 16 * 0.25  # two batches of 8 do not reach all images


def test_measured_memory_takes_the_place_of_the_estimate(planned):
    on_gpu = dataclasses.replace(planned, device="cuda:1", trial=dataclasses.replace(planned.trial, peak=7_500_000_000))
    assert "7.50 GB for a step, measured: the most that torch took of cuda:1" in str(on_gpu)
    assert "estimate" not in str(on_gpu) and "an estimate of weights" in str(planned)


def test_the_steps_are_those_of_training(colours, monkeypatch):
    seen = []
    call = Step.__call__

    def watched(self, images, labels, iteration, chance):
        seen.append((images.clone(), labels.clone(), iteration))
        return call(self, images, labels, iteration, chance)

    monkeypatch.setattr(Step, "__call__", watched)
    found = plan(SMOKE, colours, steps=2)
    tried, seen[:] = list(seen), []
    result = train(dataclasses.replace(SMOKE, log_every=1), colours)
    assert [iteration for *_, iteration in tried] == [1, 2, 3]
    for (images, labels, _), (others, other_labels, _) in zip(tried, seen[:3], strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)
    row = result.history[2]
    assert found.trial.loss == pytest.approx(row["cross_entropy"] + row["triplet"])


def test_wrong_steps_are_refused(colours):
    with pytest.raises(ValueError, match="steps=-1: expected 0 or more"):
        plan(SMOKE, colours, steps=-1)


# --- too little memory, numbers too large --------------------------------------------------------------------------


def failing(error):
    def forward(self, *arguments):
        raise error

    return forward


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you t"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
        MemoryError(),
    ],
)
def test_running_out_of_memory_ends_in_a_line_that_proposes_a_chunk(colours, monkeypatch, error):
    monkeypatch.setattr(Step, "_compute", failing(error))
    with pytest.raises(OSError, match=r"not enough for a step with 8 images at a time.*set chunk=4, so that") as found:
        plan(SMOKE, colours)
    assert "\n" not in str(found.value)


def test_other_failures_stay_what_they_are(colours, monkeypatch):
    forward = failing(RuntimeError("shapes cannot be multiplied"))
    monkeypatch.setattr(Step, "_compute", forward)
    with pytest.raises(RuntimeError, match=r"^shapes cannot be multiplied$"):
        plan(SMOKE, colours)


def test_what_cannot_fit_is_not_tried(colours, planned, monkeypatch):
    memory = planned.memory
    free = memory.total - 3 * memory.per_image  # 5 images would fit, and 4 are half of the batch
    monkeypatch.setattr(trial_module, "_available", lambda: free)
    with pytest.raises(OSError, match=r"8 images at a time needs [\d.]+ MB of memory or more, free are .*chunk=4"):
        plan(SMOKE, colours)
    assert plan(dataclasses.replace(SMOKE, chunk=4), colours, steps=1).trial
    monkeypatch.setattr(trial_module, "_available", lambda: 1000)
    with pytest.raises(OSError, match=r"with 4 images at a time.*no chunk is small enough"):
        plan(dataclasses.replace(SMOKE, chunk=4), colours)


def test_chunks_divide_the_batch_and_are_not_tiny(colours):
    config = dataclasses.replace(SMOKE, identities_per_batch=6, images_per_identity=5)
    training = Training(config, colours)
    memory = step_memory(training)
    assert memory.images == 30
    limits = {15: 1e12, 10: memory.total - 19 * memory.per_image, 5: memory.total - 24 * memory.per_image}
    for chunk, limit in limits.items():
        assert trial_module._remedy(training, memory, limit).startswith(f"set chunk={chunk},")
    assert "no chunk" in trial_module._remedy(training, memory, memory.total - 25 * memory.per_image)


def test_free_memory_is_read_where_the_system_tells():
    found = trial_module._available()
    assert found is None if not Path("/proc/meminfo").exists() else 10**6 < found < 10**14


def test_a_network_that_explodes_is_noticed_before_the_run(colours, monkeypatch):
    step = torch.optim.AdamW.step

    def explosive(self, *arguments):
        step(self, *arguments)
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data.mul_(1e30)

    monkeypatch.setattr(torch.optim.AdamW, "step", explosive)
    with pytest.raises(FloatingPointError, match="iteration 2: NaN or infinity in features"):
        preflight(SMOKE, colours)


# --- preflight -----------------------------------------------------------------------------------------------------


def test_preflight_says_what_is_in_order(colours, planned, tmp_path):
    lines = preflight(SMOKE, colours, tmp_path / "runs" / "first", cache=tmp_path / "images", planned=planned)
    assert lines[0] == "images: 48 of 48 opened, all can be used"
    assert lines[1] == "search: 6 of 6 queries have a right image from another camera"
    assert re.match(r"step: 3 on weights that were thrown away, loss \d+\.\d{3} \(2 terms, all finite\)", lines[2])
    assert lines[3].startswith("disk: ") and len(lines) == 4
    assert list(tmp_path.iterdir()) == []
    assert len(preflight(SMOKE, colours, planned=planned)) == 3


def test_preflight_takes_a_step_only_if_none_was_taken(colours, planned, monkeypatch):
    calls = []

    def counted(*arguments, **named):
        calls.append(named["steps"])
        return planned

    monkeypatch.setattr(preflight_module, "plan", counted)
    preflight(SMOKE, colours, planned=planned)
    assert calls == []
    preflight(SMOKE, colours)
    preflight(SMOKE, colours, planned=dataclasses.replace(planned, trial=None))
    assert calls == [1, 1]


class Damaged:
    """Grey images, but for those whose names say otherwise."""

    def load(self, name):
        if "missing" in name:
            raise FileNotFoundError(f"{name}: no such image")
        if "broken" in name:
            raise DataError(f"{name}: cannot be read as an image; copy the file again")
        if "grey" in name:
            return np.zeros((64, 32), np.uint8)
        return np.full((64, 32, 3), 99, np.uint8)


def many(wrong, count=1000):
    """Records of two cameras, the first half and the second half; `wrong` maps places to names."""
    return [Record(wrong.get(i, f"{i}"), i // 4, 1 + (i >= count // 2), Damaged()) for i in range(count)]


@pytest.mark.parametrize("place", [0, 499, 500, 999])
@pytest.mark.parametrize("name", ["broken", "missing", "grey"])
def test_a_bad_image_is_found_at_the_ends_of_each_camera(colours, planned, place, name):
    data = dataclasses.replace(colours, train=many({place: name}))
    with pytest.raises(DataError, match=rf"1 of \d+ images that were opened cannot be used; the first: {name}: "):
        preflight(SMOKE, data, planned=planned)


def test_a_bad_image_in_between_is_found_on_demand_and_all_are_counted(colours, planned):
    data = dataclasses.replace(colours, train=many({7: "broken 7", 305: "missing 305"}))
    line = preflight(SMOKE, data, planned=planned)[0]  # a sample
    opened = int(re.match(r"images: (\d+) of 1,024 opened", line)[1])
    assert 6 + 18 + 64 <= opened <= 6 + 18 + 64 + 4
    with pytest.raises(DataError, match="2 of 1024 images that were opened cannot be used; the first: broken 7"):
        preflight(SMOKE, data, planned=planned, every_image=True)


def test_a_search_without_right_answers_is_refused(colours, planned):
    one_camera = [dataclasses.replace(record, camid=1) for record in colours.gallery]
    others = [dataclasses.replace(record, pid=99) for record in colours.gallery]
    junk = [dataclasses.replace(record, pid=-1) for record in colours.gallery]
    junk_queries = [dataclasses.replace(record, pid=-1) for record in colours.query]
    for query, gallery in [(colours.query, one_camera), (colours.query, others), (junk_queries, junk), ([], [])]:
        data = dataclasses.replace(colours, query=query, gallery=gallery)
        with pytest.raises(ValueError, match=rf"none of {len(query)} queries has an image .*{len(gallery)} gallery"):
            preflight(SMOKE, data, planned=planned)


def test_the_queries_that_count_are_those_of_evaluation(colours, planned):
    generator = np.random.default_rng(0)
    people, cameras = generator.integers(-1, 12, 60), generator.integers(1, 3, 60)
    records = [Record(f"{i}", int(p), int(c), Damaged()) for i, (p, c) in enumerate(zip(people, cameras, strict=True))]
    data = dataclasses.replace(colours, query=records[:30], gallery=records[30:])
    found = evaluate(
        torch.rand(30, 3),
        torch.rand(30, 3),
        query_pids=people[:30],
        gallery_pids=people[30:],
        query_camids=cameras[:30],
        gallery_camids=cameras[30:],
    )
    assert 0 < found.num_valid_queries < 30 and -1 in people[:30] and -1 in people[30:]
    assert preflight(SMOKE, data, planned=planned)[1].startswith(f"search: {found.num_valid_queries} of 30 queries")


def test_a_disk_that_is_too_small_is_refused(colours, planned, tmp_path, monkeypatch):
    run, cache = tmp_path / "runs" / "first", tmp_path / "cache" / "images"
    need = 2 * planned.last + planned.stored  # last.pt, its temporary copy, and the store; nobody is held out
    free = {"bytes": need}
    monkeypatch.setattr(preflight_module.shutil, "disk_usage", lambda path: Usage(10**12, 0, free["bytes"]))
    assert "disk: " in preflight(SMOKE, colours, run, cache=cache, planned=planned)[-1]
    free["bytes"] = need - 1
    sizes = rf"the run needs {need / 1e6:.1f} MB of disk space, free are {free['bytes'] / 1e6:.1f} MB; free space"
    with pytest.raises(OSError, match=sizes):
        preflight(SMOKE, colours, run, cache=cache, planned=planned)
    assert len(preflight(SMOKE, colours, run, planned=planned)) == 4  # without the store it fits
    assert list(tmp_path.iterdir()) == []
    cache.parent.mkdir()
    cache.touch()  # a store that is there has taken its space
    assert len(preflight(SMOKE, colours, run, cache=cache, planned=planned)) == 4


def test_a_run_to_go_on_with_needs_less_space(colours, planned, tmp_path, monkeypatch):
    (tmp_path / "last.pt").write_bytes(bytes(planned.last))
    monkeypatch.setattr(preflight_module.shutil, "disk_usage", lambda path: Usage(10**12, 0, planned.last))
    assert len(preflight(SMOKE, colours, tmp_path, planned=planned)) == 4  # the temporary copy alone
    monkeypatch.setattr(preflight_module.shutil, "disk_usage", lambda path: Usage(10**12, 0, planned.last - 1))
    with pytest.raises(OSError, match="of disk space"):
        preflight(SMOKE, colours, tmp_path, planned=planned)


def test_each_disk_is_looked_at_for_itself(colours, planned, tmp_path, monkeypatch):
    """Without a stat that distinguishes disks, both needs would be added up."""
    run, cache = tmp_path / "a", tmp_path / "b" / "images"
    for folder in (run, cache.parent):
        folder.mkdir()
    stat = Path.stat

    def other_disk(self, **named):
        found = stat(self, **named)
        return namedtuple("Stat", "st_dev st_size")(self.name, found.st_size) if self.parent == tmp_path else found

    monkeypatch.setattr(Path, "stat", other_disk)
    free = {"a": 2 * planned.last, "b": planned.stored}
    monkeypatch.setattr(preflight_module.shutil, "disk_usage", lambda path: Usage(10**12, 0, free[path.name]))
    assert len(preflight(SMOKE, colours, run, cache=cache, planned=planned)) == 5
    free["b"] -= 1
    with pytest.raises(OSError, match=f"{cache.parent.name}: the run needs"):
        preflight(SMOKE, colours, run, cache=cache, planned=planned)
