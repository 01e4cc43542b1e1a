"""Worlds on disk: counts, determinism, atomic writing, the truth file."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from reidlab.data.names import parse_image_name
from reidlab.data.protocolfile import read_new_protocol
from reidlab.errors import DataError
from reidlab.walkers import World, read_truth, writer
from reidlab.walkers.plan import make_plan, split_whole

FILES = ["cuhk03_release/cuhk-03.mat", "walkers.h5"]
FILES += [f"cuhk03_new_protocol_config_{box}.mat" for box in ("labeled", "detected")]


def test_full_has_the_published_counts():
    plan = make_plan(1467, seed=0)
    assert plan.identities_per_pair == (843, 440, 77, 58, 49)
    counts = {box: [int(p[plan.pair == k].sum()) for k in range(1, 6)] for box, p in plan.present.items()}
    assert counts["labeled"] == [8177, 4337, 649, 510, 423]
    assert sum(counts["detected"]) == 14097
    assert int(plan.train.sum()) == 767
    for box, expected in (("labeled", (14096, 7368, 1400, 5328)), ("detected", (14097, 7365, 1400, 5332))):
        protocol = plan.protocol(box)
        assert tuple(len(protocol[k]) for k in ("names", "train_idx", "query_idx", "gallery_idx")) == expected
        per_person = plan.present[box].sum(1)
        assert per_person.min() == (5 if box == "labeled" else 6) and per_person.max() == 10
    one_view = ~plan.present["labeled"][:, 5:].any(1) | ~plan.present["labeled"][:, :5].any(1)
    assert int(one_view.sum()) == 1 and bool(plan.train[one_view].all())
    assert len(plan.testsets) == 20 and all(len(t) == 100 for t in plan.testsets)


@pytest.mark.parametrize("size", [10, 16, 37, 250, 2000])
def test_every_size_can_be_evaluated(size):
    plan = make_plan(size, seed=3)
    assert sum(plan.identities_per_pair) == size and min(plan.identities_per_pair) >= 2
    assert 0 < plan.train.sum() < size
    for box in ("labeled", "detected"):
        views = plan.present[box].reshape(size, 2, 5).sum(2)
        assert (views[~plan.train] >= 2).all()  # one query and at least one gallery picture
        protocol = plan.protocol(box)
        assert protocol["labels"] == sorted(protocol["labels"])
        assert len(protocol["query_idx"]) == 2 * int((~plan.train).sum())
        roles = [set(protocol[k]) for k in ("train_idx", "query_idx", "gallery_idx")]
        assert sum(map(len, roles)) == len(set.union(*roles)) == len(protocol["names"])
    for testset in plan.testsets:
        assert len(testset) == min(100, size // 5) == len({tuple(row) for row in testset.tolist()})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: World(9), "num_identities"),
        (lambda: World(10**5), "num_identities"),
        (lambda: World(16, seed=-1), "whole number"),
        (lambda: World(16, seed=1.5), "whole number"),
        (lambda: World(16, seed=True), "whole number"),
        (lambda: World.preset("huge"), "tiny, small, full"),
        (lambda: World(10).write("w", jobs=0), "jobs"),
        (lambda: World(10).write("w", jobs=1.5), "jobs"),
        (lambda: World(10).write("w", jobs=65), "jobs"),
    ],
)
def test_impossible_worlds(build, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        build()
    assert not list(tmp_path.iterdir())


def test_split_whole_by_hand():
    assert split_whole(10, [1, 1, 1]) == [4, 3, 3]
    assert split_whole(7, [5, 1, 1], least=2) == [3, 2, 2]
    assert split_whole(0, [0, 0]) == [0, 0]


def test_files_hold_what_the_plan_says(tiny_world):
    about = json.loads((tiny_world / "world.json").read_text())
    assert about["dataset"] == "walkers" and about["num_identities"] == 16
    plan, truth = World.preset("tiny").plan, read_truth(tiny_world)
    with h5py.File(tiny_world / FILES[0]) as file:
        for box in ("labeled", "detected"):
            protocol = read_new_protocol(tiny_world / f"cuhk03_new_protocol_config_{box}.mat")
            assert list(protocol.names) == plan.protocol(box)["names"]
            for name in protocol.names[::9]:
                pair, identity, _, image = parse_image_name(name)
                pixels = file[file[file[box][0, pair - 1]][image - 1, identity - 1]][()].T
                assert truth.mask(name, box).shape == pixels.shape[:2]
                left, top, right, bottom = truth.shot(name, box).box
                assert (bottom - top, right - left) == pixels.shape[:2]


def test_stored_pictures_are_those_of_render(tiny_world):
    world = World.preset("tiny")
    with h5py.File(tiny_world / FILES[0]) as file:
        for box in ("labeled", "detected"):
            person, column = np.argwhere(world.plan.present[box])[40]
            p = world.people[person]
            stored = file[file[file[box][0, p.pair - 1]][column, p.identity - 1]][()].T
            camera = 2 * (p.pair - 1) + column // 5
            assert np.array_equal(stored, world.render(int(person), int(camera), int(column % 5), box=box))


def test_truth_and_its_refusals(tiny_world):
    truth = pickle.loads(pickle.dumps(read_truth(tiny_world)))
    name = truth.names[0]
    mask = truth.mask("images_labeled/" + name, "labeled")
    assert mask.dtype == np.uint8 and set(np.unique(mask)) <= set(truth.legend)
    assert truth.legend[4] == "torso" and len(truth.cameras) == 10
    shot = truth.shot(name, "labeled")
    assert truth.attributes(shot.pid)["identity"] == shot.identity
    assert truth.attributes(1)["description"].startswith("Person 1:")
    again = pickle.loads(pickle.dumps(truth))  # also after it has been opened
    assert np.array_equal(again.mask(name, "labeled"), mask)
    for call in (lambda: truth.mask(name, "both"), lambda: truth.shot(name, "both"), lambda: truth.attributes(17)):
        with pytest.raises(ValueError, match="expected"):
            call()
    for call in (lambda: truth.mask("9_999_1_01.png", "labeled"), lambda: truth.shot("9_999_1_01.png", "labeled")):
        with pytest.raises(ValueError, match="no labeled picture"):
            call()
    with pytest.raises(FileNotFoundError, match="only worlds have it"):
        read_truth(tiny_world / "cuhk03_release")


def test_damaged_truth(tiny_world, tmp_path):
    (tmp_path / "walkers.h5").write_bytes((tiny_world / "walkers.h5").read_bytes()[:5000])
    with pytest.raises(DataError, match="write it again"):
        read_truth(tmp_path).names  # noqa: B018


def test_jobs_do_not_change_the_bytes(tmp_path, monkeypatch):
    """With one shot of each person at each camera, of up to five."""
    tasks = writer._tasks
    monkeypatch.setattr(writer, "_tasks", lambda world: [(*who, shots[:1]) for *who, shots in tasks(world)])
    one, two = (World(10, seed=5).write(tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    for name in FILES:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]


def test_written_world_is_kept(tiny_world, monkeypatch):
    before = (tiny_world / FILES[0]).stat().st_mtime_ns
    monkeypatch.setattr(writer, "_fill", None)  # nothing is drawn
    assert World.preset("tiny").write(tiny_world) == tiny_world
    assert (tiny_world / FILES[0]).stat().st_mtime_ns == before


@pytest.fixture
def quick_fill(monkeypatch):
    """Write a stand-in instead of pictures: for tests of what happens around the drawing."""

    def fill(world, folder, jobs, name):
        (folder / "world.json").write_text(json.dumps({"dataset": "walkers", "key": world.key}))

    monkeypatch.setattr(writer, "_fill", fill)
    return fill


def test_other_world_is_replaced_whole(tmp_path, quick_fill):
    (tmp_path / "w").mkdir()  # an empty folder is taken
    root = World(10, seed=1).write(tmp_path / "w")
    (root / "old.txt").write_text("old")
    World(10, seed=2).write(root)
    assert json.loads((root / "world.json").read_text())["key"] == World(10, seed=2).key
    assert not (root / "old.txt").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


def test_foreign_folder_is_refused(tmp_path, quick_fill):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not a world"):
        World(10).write(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(DataError, match="is a file"):
        World(10).write(tmp_path / "thesis.txt")
    with pytest.raises(OSError, match="cannot write the world"):
        World(10).write(tmp_path / "thesis.txt" / "w")


def test_failure_leaves_the_old_world(tmp_path, quick_fill, monkeypatch):
    root = World(10, seed=1).write(tmp_path / "w")
    for problem, expected in ((KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "full"), OSError)):

        def fail(world, folder, jobs, name, problem=problem):
            (folder / "half").write_text("half")
            raise problem

        monkeypatch.setattr(writer, "_fill", fail)
        with pytest.raises(expected) as caught:
            World(10, seed=2).write(root)
        if expected is OSError:
            assert str(root) in str(caught.value) and "free space" in str(caught.value)
        assert [p.name for p in tmp_path.iterdir()] == ["w"]
        assert json.loads((root / "world.json").read_text())["key"] == World(10, seed=1).key


def test_full_disk_is_seen_before_drawing(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(OSError, match=r"MB are needed, 1 MB are free.*free space") as caught:
        World(10).write(tmp_path / "w")
    assert caught.value.errno == errno.ENOSPC and not list(tmp_path.iterdir())


def group_is_gone(group: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(os.name != "posix", reason="process groups and kill -9 are POSIX")
@pytest.mark.parametrize(("jobs", "ending"), [(1, signal.SIGKILL), (2, signal.SIGKILL), (2, signal.SIGTERM)])
def test_ended_writer_leaves_no_process_and_the_next_run_no_rest(tmp_path, quick_fill, jobs, ending):
    script = f"from reidlab.walkers import World; World(60).write({str(tmp_path / 'w')!r}, jobs={jobs})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(writer.__file__).parents[2]), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", script], env=environment, start_new_session=True)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(".w-*.partial/cuhk03_release/.*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)  # until the drawing processes are at work
    process.send_signal(ending)
    process.wait()
    assert group_is_gone(process.pid, seconds=15)
    assert not (tmp_path / "w").exists()
    assert bool(list(tmp_path.glob(".w-*.partial"))) == (ending == signal.SIGKILL)
    World(60).write(tmp_path / "w")
    assert [p.name for p in tmp_path.iterdir()] == ["w"]
