"""What a run needs, measured before it begins, and what is refused before hours are spent."""

import dataclasses
import importlib
import random
import re
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch

from reidlab.data.records import Record
from reidlab.distributed import Processes
from reidlab.errors import DataError
from reidlab.evaluation import evaluate
from reidlab.models import Baseline
from reidlab.training import RunFolder, TrainConfig, Training, train
from reidlab.training.dry_run import dry_run
from reidlab.training.optimizing import new_schedule
from reidlab.training.randomness import seed_everything
from reidlab.training.step import Step

module = importlib.import_module("reidlab.training.dry_run")
pytestmark = pytest.mark.usefixtures("half_size")
SMOKE = TrainConfig.preset("smoke", iterations=6, log_every=3, learning_rate=1e-3, precision="float32")
WATCHED = SMOKE.replace(evaluate_every=4, held_out=0.34, identities_per_batch=2)
Usage = namedtuple("Usage", "total used free")


def settings(config, data, processes=1):
    """The lines that say what the settings mean; no step is taken."""
    training = Training(config, data)
    training.processes = Processes(0, processes)
    return module._settings_table(training)


# --- what is measured ----------------------------------------------------------------------------------------------


def states():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002


def test_a_dry_run_changes_nothing(colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    alone = train(SMOKE, colours)
    seed_everything(5)
    before = states()
    dry_run(SMOKE.replace(seed=3), colours, out="run", cache="images.store")
    for one, other in zip(before, states(), strict=True):
        assert one == other if isinstance(one, tuple) else (one == other).all()
    assert train(SMOKE, colours).history == alone.history
    assert list(tmp_path.iterdir()) == []


def test_random_generators_come_back_after_a_failure_too(colours):
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="identities_per_batch=99"):
        dry_run(SMOKE.replace(identities_per_batch=99), colours)
    assert torch.equal(before, torch.get_rng_state())


def test_the_steps_are_those_of_training(colours, monkeypatch):
    seen = []
    call = Step.__call__

    def watched(self, images, labels, iteration, chance):
        seen.append((images.clone(), labels.clone(), iteration))
        return call(self, images, labels, iteration, chance)

    monkeypatch.setattr(Step, "__call__", watched)
    found = dry_run(SMOKE, colours)
    tried, seen[:] = list(seen), []
    row = train(SMOKE.replace(log_every=1), colours).history[2]
    assert [iteration for *_, iteration in tried] == [1, 2, 3]
    for (images, labels, _), (others, other_labels, _) in zip(tried, seen[:3], strict=True):
        assert torch.equal(images, others) and torch.equal(labels, other_labels)
    assert f"loss {row['cross_entropy'] + row['triplet']:.3f} (2 terms)" in found.table["steps"]


def test_time_is_that_of_the_steps_after_the_first(colours, monkeypatch):
    """Steps of 5, 1 and 2 seconds: 1.5 s each, and a quarter of a second to read one of 24 images."""
    monkeypatch.setattr(module, "_take_steps", lambda training, steps: ([5.0, 1.0, 2.0], 0.25, {"loss": 1.0}))
    for iterations, workers, images in ((2000, 0, 24), (2000, 3, 24 / 3), (2, 0, 16)):
        config = SMOKE.replace(iterations=iterations)
        found = dry_run(config, colours, workers=workers, cache="images.store")
        assert found.step_seconds == 1.5 and found.seconds == iterations * 1.5 + images * 0.25
    long = dry_run(SMOKE.replace(iterations=2000), colours)
    assert "50 min for 2,000 steps of 1.5 s, and 250.0 ms to read an image" in " ".join(str(long).split())


def test_time_and_memory_are_measured(colours):
    found = dry_run(SMOKE, colours)
    assert found.seconds > 6 * found.step_seconds > 0
    if sys.platform in ("linux", "darwin"):
        assert 5e7 < found.peak_bytes < 1e12 and "the most that this process took" in found.table["memory"]


def test_files_are_as_large_as_said(colours, tmp_path):
    config = WATCHED.replace(ema_decay=0.5, augmentation="zoom")
    found = dry_run(config, colours)
    run = RunFolder(tmp_path / "run")
    train(config, colours, run=run)
    assert run.last.stat().st_size == pytest.approx(found.last_bytes, rel=0.05)
    assert run.best.stat().st_size == pytest.approx(found.best_bytes, rel=0.05)
    assert found.store_bytes == 16 * 3 * 72 * 36  # of those who are not held out, with a border


# --- what the settings mean ----------------------------------------------------------------------------------------


def test_iterations_epochs_and_passes(colours):
    """Six people in batches of 4 × 2: two batches an epoch; 48 draws of 24 images."""
    found = settings(SMOKE, colours)
    assert "24 images of 6 identities to train on" in found["data"] and "no identities held out" in found["data"]
    assert found["iterations"] == "6 = 3.0 epochs of 2 batches = 2.0 passes over the images"
    assert found["batch"] == "4 identities × 2 images = 8" and found["evaluations"] == "none during the run"


def test_people_held_out_and_evaluations(colours):
    found, result = settings(WATCHED, colours), train(WATCHED, colours)
    assert len(result.evaluations) == 3  # at 0, 4 and 6
    assert found["evaluations"] == "3 during the run, of 8 images each"
    assert "16 images of 4 identities to train on, 2 identities held out" in found["data"]


@pytest.mark.parametrize("warmup", [0.0, 0.125, 0.21])
def test_warm_up_and_drops_are_those_of_the_schedule(colours, warmup):
    config = SMOKE.replace(iterations=40, warmup=warmup, milestones=(0.5, 0.8), gamma=0.1)
    text = settings(config, colours)["learning rate"]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
    schedule, rates = new_schedule(optimizer, config), []
    for _ in range(40):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    rise = int(found[1]) if (found := re.search(r"warm-up of (\d+) iteration", text)) else 0
    assert rates[rise] == pytest.approx(config.learning_rate)
    assert all(rate < config.learning_rate * 0.999 for rate in rates[:rise])
    assert ("no warm-up" in text) == (warmup == 0)
    drops = [i for i in range(1, 40) if rates[i] < 0.5 * rates[i - 1]]
    assert drops == [20, 32] and text.endswith("× 0.1 after iterations 20, 32")


def test_rates_chunks_processes_and_identities_with_few_images_are_said(colours):
    data = dataclasses.replace(colours, train=colours.train[:-3])
    changes = {"optimizer": "sgd", "learning_rate": 0.01, "backbone_lr_mult": 0.1, "microbatch_size": 4, "warmup": 0.34}
    found = settings(SMOKE.replace(**changes), data)
    assert found["learning rate"].startswith("0.01 for new layers, 0.001 for the backbone; warm-up of 2 iterations")
    assert found["batch"].endswith("= 8, 4 at a time through the network")
    assert "1 have fewer than 2 images" in found["data"]
    assert settings(SMOKE, colours, processes=2)["batch"].endswith("= 8, 4 in each of 2 processes")


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
    monkeypatch.setattr(Baseline, "forward", failing(error))
    for chunk, remedy in ((0, "set microbatch_size=4, or"), (4, "a smaller one would not help")):
        with pytest.raises(
            OSError, match=rf"not enough for a step with {chunk or 8} images at a time.*{remedy}"
        ) as found:
            dry_run(SMOKE.replace(microbatch_size=chunk), colours)
        assert "\n" not in str(found.value)


def test_other_failures_stay_what_they_are(colours, monkeypatch):
    monkeypatch.setattr(Baseline, "forward", failing(RuntimeError("shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match=r"^shapes cannot be multiplied$"):
        dry_run(SMOKE, colours)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell what is free")
def test_more_than_the_free_memory_fails_in_python(monkeypatch):
    tell = module._proc_bytes
    assert 10**6 < tell("/proc/meminfo", "MemAvailable:") < 10**14
    monkeypatch.setattr(module, "_proc_bytes", lambda file, name: 10**8 if "Available" in name else tell(file, name))
    with module._bounded_memory("cpu"), pytest.raises(RuntimeError, match=module._SHORTAGE.pattern):
        torch.empty(2 * 10**8, dtype=torch.uint8)
    assert len(torch.empty(2 * 10**8, dtype=torch.uint8)) == 2 * 10**8


def test_a_network_that_explodes_is_noticed_before_the_run(colours, monkeypatch):
    step = torch.optim.AdamW.step

    def explosive(self, *arguments):
        step(self, *arguments)
        for group in self.param_groups:
            for weight in group["params"]:
                weight.data.mul_(1e30)

    monkeypatch.setattr(torch.optim.AdamW, "step", explosive)
    with pytest.raises(FloatingPointError, match="iteration 2: NaN or infinity in features"):
        dry_run(SMOKE, colours)


# --- data and disk -------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Steps that are not taken: checks of data and disk do not need them."""
    monkeypatch.setattr(module, "_take_steps", lambda training, steps: ([1.0] * steps, 0.0, {"loss": 1.0}))


class Damaged:
    """Images of one grey, but for those whose names say otherwise."""

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
def test_a_bad_image_is_found_at_the_ends_of_each_camera(colours, place, name):
    data = dataclasses.replace(colours, train=many({place: name}))
    with pytest.raises(DataError, match=rf"1 of \d+ images that were opened cannot be used; the first: {name}: "):
        dry_run(SMOKE, data)


def test_a_sample_of_a_large_part_is_opened(colours):
    line = module._check_data(dataclasses.replace(colours, train=many({7: "broken 7", 305: "missing 305"})))
    opened = int(re.match(r"(\d+) of 1,024 images opened; 6 of 6 queries have a match", line)[1])
    assert 6 + 18 + 64 <= opened <= 6 + 18 + 64 + 4


def test_a_search_without_right_answers_is_refused(colours):
    one_camera = [dataclasses.replace(record, camid=1) for record in colours.gallery]
    others = [dataclasses.replace(record, pid=99) for record in colours.gallery]
    junk = [dataclasses.replace(record, pid=-1) for record in colours.gallery]
    junk_queries = [dataclasses.replace(record, pid=-1) for record in colours.query]
    for query, gallery in [(colours.query, one_camera), (colours.query, others), (junk_queries, junk), ([], [])]:
        data = dataclasses.replace(colours, query=query, gallery=gallery)
        with pytest.raises(ValueError, match=rf"none of {len(query)} queries has an image .*{len(gallery)} gallery"):
            dry_run(SMOKE, data)


def test_the_queries_that_count_are_those_of_evaluation(colours):
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
    assert f"; {found.num_valid_queries} of 30 queries" in module._check_data(data)


def test_a_disk_that_is_too_small_is_refused(colours, quick, tmp_path, monkeypatch):
    run, cache = tmp_path / "runs" / "first", tmp_path / "cache" / "images"
    free = {"bytes": 10**9}
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(10**12, 0, free["bytes"]))
    found = dry_run(SMOKE, colours, out=run, cache=cache)
    need = 2 * found.last_bytes + found.store_bytes  # last.pt, its temporary copy, and the store; none is held out
    assert f"; {need / 1e6:.1f} MB needed, 1.00 GB free" in found.table["disk"]
    free["bytes"] = need
    dry_run(SMOKE, colours, out=run, cache=cache)
    free["bytes"] = need - 1
    sizes = (
        rf"first: the run needs {need / 1e6:.1f} MB of disk space, free are {free['bytes'] / 1e6:.1f} MB; free space"
    )
    with pytest.raises(OSError, match=sizes):
        dry_run(SMOKE, colours, out=run, cache=cache)
    dry_run(SMOKE, colours, out=run)  # without the store it fits
    dry_run(SMOKE, colours, cache=cache)
    assert list(tmp_path.iterdir()) == []
    cache.parent.mkdir()
    cache.touch()  # a store that is there has taken its space
    dry_run(SMOKE, colours, out=run, cache=cache)


def test_a_resumed_run_needs_space_for_the_temporary_file_alone(colours, quick, tmp_path, monkeypatch):
    size = dry_run(SMOKE, colours).last_bytes
    (tmp_path / "last.pt").write_bytes(bytes(size))
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(10**12, 0, size))
    dry_run(SMOKE, colours, out=tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: Usage(10**12, 0, size - 1))
    with pytest.raises(OSError, match="of disk space"):
        dry_run(SMOKE, colours, out=tmp_path)
