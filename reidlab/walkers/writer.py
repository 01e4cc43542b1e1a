"""Write a world to disk: in parallel, the same bytes every time, whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import time
import zlib
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from reidlab.data.matfile import write_cuhk03_mat
from reidlab.data.names import BOXES
from reidlab.data.protocolfile import write_new_protocol
from reidlab.errors import DataError
from reidlab.files import read_json, sweep, unfinished, write_json
from reidlab.progress import progress
from reidlab.signals import termination_as_interrupt
from reidlab.walkers.processes import in_order
from reidlab.walkers.truth import TruthWriter
from reidlab.walkers.world import World

log = logging.getLogger(__name__)
Task = tuple[int, int, tuple[tuple[int, bool, bool], ...]]
_BYTES_PER_SHOT = 150_000  # two boxes and their masks


def write_world(world: World, root: Path, jobs: int | None = None) -> Path:
    """Write `world` to `root`; see `World.write`."""
    if jobs is None:  # starting processes takes longer than drawing a few people
        jobs = min(os.cpu_count() or 1, 64) if world.num_identities > 50 else 1
    if isinstance(jobs, bool) or not isinstance(jobs, (int, np.integer)) or not 1 <= jobs <= 64:
        raise ValueError(f"got jobs={jobs!r}, expected a whole number 1..64, or None")
    root = root.absolute()
    if _is_there(root, world.key):
        return root
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        sweep(root.parent, root.name)
        _check_room(world, root)
        with unfinished(root, folder=True) as partial:
            with termination_as_interrupt():
                _fill(world, partial, int(jobs), root.name)
            if not _is_there(root, world.key):  # another process may have been quicker
                _swap(partial, root)
    except OSError as error:
        raise _explain(error, root) from error
    return root


def _check_room(world: World, root: Path) -> None:
    """Refuse at once what cannot fit: HDF5 does not take a full disk well."""
    shots = int((world.plan.present["labeled"] | world.plan.present["detected"]).sum())
    need, free = shots * _BYTES_PER_SHOT, shutil.disk_usage(root.parent).free
    if free < need:
        raise OSError(errno.ENOSPC, f"{need / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free")


def _explain(error: OSError, root: Path) -> OSError:
    reason = error.strerror or str(error)
    remedy = "free space or choose another folder" if error.errno == errno.ENOSPC else "choose another folder"
    message = f"cannot write the world to {root} ({reason}); {remedy}"
    return OSError(message) if error.errno is None else type(error)(error.errno, message)


def _is_there(root: Path, key: str) -> bool:
    """True if `root` is this very world; refuses folders that are not worlds."""
    if not root.exists() and not root.is_symlink():
        return False
    if not root.is_dir():
        raise DataError(f"{root}: is a file; a world needs a folder of its own, choose another name")
    if not any(root.iterdir()):
        return False
    try:
        found = read_json(root / "world.json")
        name, have = found["dataset"], found["key"]
    except (OSError, ValueError, KeyError, TypeError):
        name = have = None
    if name != "walkers":
        raise DataError(f"{root}: holds something that is not a world (no readable world.json); choose another folder")
    return have == key


def _swap(partial: Path, root: Path) -> None:
    """Put the finished folder in its place; an older world steps aside and goes."""
    if root.exists() and any(root.iterdir()):
        with unfinished(root, folder=True) as aside:
            root.replace(aside / "old")
            try:
                partial.replace(root)
            except OSError:
                (aside / "old").replace(root)
                raise
    else:
        partial.replace(root)


def _tasks(world: World) -> list[Task]:
    """(person, camera, shots) grouped by camera, so that a worker draws each street once."""
    plan, tasks = world.plan, []
    labeled, detected = (plan.present[box] for box in BOXES)
    for person in range(world.num_identities):
        for view in (0, 1):
            shots = tuple(
                (i, bool(labeled[person, 5 * view + i]), bool(detected[person, 5 * view + i]))
                for i in range(5)
                if labeled[person, 5 * view + i] or detected[person, 5 * view + i]
            )
            if shots:
                tasks.append((person, 2 * (int(plan.pair[person]) - 1) + view, shots))
    return sorted(tasks, key=lambda task: (task[1], task[0]))


def render_task(world: World, task: Task) -> list[dict]:
    """Render all shots of one person at one camera, boxes cut, masks packed."""
    person, camera, shots = task
    out = []
    for index, labeled, detected in shots:
        plan = world.shot_plan(person, camera, index)
        shot = world.shot(person, camera, index)
        crops = {}
        for box, wanted in zip(BOXES, (labeled, detected), strict=True):
            if wanted:
                image, mask = shot.crop(box)
                crops[box] = (image, mask.shape, zlib.compress(mask.tobytes(), 4))
        out.append(
            {"person": person, "camera": camera, "index": index, "plan": plan, "shot": _slim(shot), "crops": crops}
        )
    return out


def _slim(shot) -> dict:
    return {n: getattr(shot, n) for n in ("labeled", "detected", "occluded", "origin")}


def _work(world: tuple[int, int], task: Task) -> list[dict]:
    return render_task(_world(*world), task)


@lru_cache(maxsize=1)
def _world(num_identities: int, seed: int) -> World:
    return World(num_identities, seed)


def _fill(world: World, folder: Path, jobs: int, name: str) -> None:
    """Write all files of a world into an empty folder."""
    start = time.perf_counter()
    plan = world.plan
    total = int((plan.present["labeled"] | plan.present["detected"]).sum())
    with h5py.File(folder / "walkers.h5", "w") as file:
        truth = TruthWriter(file, world)

        def images():
            tasks = _tasks(world)
            shots = (shot for task in in_order(tasks, jobs, _work, (world.num_identities, world.seed)) for shot in task)
            for shot in progress(shots, f"drawing {name}", total, "shot"):
                truth.add(shot)
                person, column = shot["person"], 5 * (shot["camera"] % 2) + shot["index"]
                for box, (image, *_) in shot["crops"].items():
                    yield box, int(plan.pair[person]), int(plan.identity[person]), column, image

        (folder / "cuhk03_release").mkdir()
        stream = images()
        with contextlib.closing(stream):
            write_cuhk03_mat(folder / "cuhk03_release" / "cuhk-03.mat", plan.identities_per_pair, stream, plan.testsets)
        truth.close()
    counts = {}
    for box in BOXES:
        protocol = plan.protocol(box)
        write_new_protocol(folder / f"cuhk03_new_protocol_config_{box}.mat", **protocol)
        counts[box] = {"images": len(protocol["names"])}
        counts[box] |= {k.removesuffix("_idx"): len(protocol[k]) for k in ("train_idx", "query_idx", "gallery_idx")}
    about = {"dataset": "walkers", "num_identities": world.num_identities, "seed": world.seed, "key": world.key}
    about |= {"identities_per_pair": list(plan.identities_per_pair), "train_identities": int(plan.train.sum())}
    seconds = round(time.perf_counter() - start, 2)
    write_json(folder / "world.json", about | {"counts": counts, "seconds": seconds, "jobs": jobs})
    log.info("%s written in %.1f s", world, seconds)
