"""Write a world to disk: in parallel, the same bytes every time, whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import time
import zlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import h5py

from reidlab.data.matfile import write_cuhk03_mat
from reidlab.data.names import BOXES
from reidlab.data.protocolfile import write_new_protocol
from reidlab.files import sweep, unfinished, write_json
from reidlab.progress import progress
from reidlab.signals import termination_as_interrupt
from reidlab.walkers.processes import check_index, check_room, errors_explained, holds, in_order
from reidlab.walkers.truth import TruthWriter
from reidlab.walkers.world import World

log = logging.getLogger(__name__)
Task = tuple[int, int, tuple[tuple[int, bool, bool], ...]]
_BYTES_PER_SHOT = 150_000  # two boxes and their masks


def write_world(world: World, root: Path, jobs: int | None = None) -> Path:
    """Write `world` to `root`; see `World.write`."""
    if jobs is None:  # starting processes takes longer than drawing a few people
        jobs = min(os.cpu_count() or 1, 64) if world.num_identities > 50 else 1
    check_index("jobs", jobs, 1, 65, ", or None")
    root = root.absolute()
    if _is_there(root, world):
        return root
    with errors_explained(root, "world"):
        root.parent.mkdir(parents=True, exist_ok=True)
        sweep(root.parent, root.name)
        check_room(root.parent, _num_shots(world) * _BYTES_PER_SHOT)
        with unfinished(root, folder=True) as partial:
            with termination_as_interrupt():
                _fill(world, partial, int(jobs), root.name)
            if not _is_there(root, world):  # another process may have been quicker
                _swap(partial, root)
    return root


def _num_shots(world: World) -> int:
    return int((world.plan.present["labeled"] | world.plan.present["detected"]).sum())


def _is_there(root: Path, world: World) -> bool:
    return holds(root, "world.json", "walkers", "world", world.key)


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
            there = [(i, bool(labeled[person, 5 * view + i]), bool(detected[person, 5 * view + i])) for i in range(5)]
            shots = tuple(shot for shot in there if any(shot[1:]))
            if shots:
                tasks.append((person, 2 * (int(plan.pair[person]) - 1) + view, shots))
    return sorted(tasks, key=lambda task: (task[1], task[0]))


def _draw(key: tuple[int, int], task: Task) -> list[tuple]:
    """Draw all shots of one person at one camera: for each what `TruthWriter.add` takes, masks packed."""
    world, (person, camera, shots), drawn = _world(*key), task, []
    for index, *wanted in shots:
        shot, crops = world.shot(person, camera, index), {}
        for box in (box for box, there in zip(BOXES, wanted, strict=True) if there):
            image, mask = shot.crop(box)
            crops[box] = (image, mask.shape, zlib.compress(mask.tobytes(), 4))
        plan = world.shot_plan(person, camera, index)
        drawn.append((person, camera, index, plan, replace(shot, image=None, mask=None), crops))
    return drawn


@lru_cache(maxsize=1)
def _world(num_identities: int, seed: int) -> World:
    return World(num_identities, seed)


def _fill(world: World, folder: Path, jobs: int, name: str) -> None:
    """Write all files of a world into an empty folder."""
    start = time.perf_counter()
    plan = world.plan
    with h5py.File(folder / "walkers.h5", "w") as file:
        truth = TruthWriter(file, world)

        def images():
            drawn = in_order(_tasks(world), jobs, _draw, (world.num_identities, world.seed))
            shots = (shot for task in drawn for shot in task)
            for shot in progress(shots, f"drawing {name}", _num_shots(world), "shot"):
                truth.add(*shot)
                person, camera, index, *_, crops = shot
                for box, (image, *_) in crops.items():
                    place = int(plan.pair[person]), int(plan.identity[person]), 5 * (camera % 2) + index
                    yield box, *place, image

        (folder / "cuhk03_release").mkdir()
        with contextlib.closing(images()) as stream:
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
