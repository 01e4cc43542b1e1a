"""Drawing to disk: in several processes, where there is room, into a folder of its own."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from reidlab.errors import DataError
from reidlab.files import read_json
from reidlab.signals import begin_worker

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Result = TypeVar("Result")


def is_whole(value: object, start: int, stop: float) -> bool:
    """Tell whether `value` is a whole number, start ≤ value < stop."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and start <= value < stop


def check_index(name: str, value: object, start: int, stop: int, also: str = "") -> None:
    """Refuse what is not a whole number, start ≤ value < stop.

    Raises:
        ValueError: names the range.
    """
    if not is_whole(value, start, stop):
        raise ValueError(f"got {name}={value!r}, expected a whole number {start}..{stop - 1}{also}")


def holds(root: Path, about: str, dataset: str, what: str, key: str, rests: Sequence[Path] = ()) -> bool:
    """Tell whether a folder holds what is to be drawn into it.

    Args:
        root: the folder; it may be absent.
        about: the JSON file in it with "dataset" and "key"; dataset, key: what they must be.
        what: it is, for messages.
        rests: files that an interrupted process may have left; a folder with only such is empty.

    Raises:
        DataError: `root` is a file, or holds something of another kind.
    """
    if not root.exists() and not root.is_symlink():
        return False
    if not root.is_dir():
        raise DataError(f"{root}: is a file; a {what} needs a folder of its own, choose another name")
    if {*root.iterdir()} <= {*rests}:
        return False
    try:
        found = read_json(root / about)
        name, have = found["dataset"], found["key"]
    except (OSError, ValueError, KeyError, TypeError):
        name = have = None
    if name != dataset:
        raise DataError(f"{root}: holds something that is not a {what} (no readable {about}); choose another folder")
    return have == key


def check_room(folder: Path, need: float) -> None:
    """Refuse at once what cannot fit: neither HDF5 nor a mapped file takes a full disk well.

    Raises:
        OSError: fewer than `need` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(errno.ENOSPC, f"{need / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free")


@contextlib.contextmanager
def errors_explained(root: Path, what: str) -> Iterator[None]:
    """Make any OSError say what was written where, and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "free space or choose another folder" if error.errno == errno.ENOSPC else "choose another folder"
        message = f"cannot write the {what} to {root} ({reason}); {remedy}"
        raise (OSError(message) if error.errno is None else type(error)(error.errno, message)) from error


def in_order(
    tasks: Sequence[Any], jobs: int, work: Callable[[Any, Any], Result], key: Any, ahead: int = 8
) -> Iterator[Result]:
    """Yield `work(key, task)` for each task, in the order of the tasks, however many processes work.

    Args:
        tasks: what to do; each is pickled.
        jobs: processes, 1 or more; 1 = in this one.
        work: a function of a module, so that it can be pickled.
        key: what all tasks share; `work` may cache by it.
        ahead: tasks per process that may be finished or under way before their results are needed.

    Raises:
        OSError: a process died.

    Example:
        >>> list(in_order([1, 2, 3], 1, pow, 2))
        [2, 4, 8]
    """
    jobs = min(jobs, len(tasks))
    if jobs <= 1:
        for task in tasks:
            yield work(key, task)
        return
    # Spawn, not fork: this process may hold threads of torch or of a notebook.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, begin_worker)
    waiting: deque = deque()
    try:
        with _single_threaded(), _importable_main():
            for task in tasks[: ahead * jobs]:
                waiting.append(pool.submit(work, key, task))
        for task in tasks[ahead * jobs :]:  # never more pictures in memory than that
            yield waiting.popleft().result()
            waiting.append(pool.submit(work, key, task))
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise OSError("a drawing process died, perhaps for lack of memory: try jobs=1") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    """Children started inside use one thread each in their linear algebra."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


@contextlib.contextmanager
def _importable_main() -> Iterator[None]:
    """Keep children from running the caller's script again: they need only this module."""
    main = sys.modules["__main__"]
    hidden = {n: main.__dict__.pop(n) for n in ("__file__",) if n in main.__dict__ and main.__spec__ is None}
    try:
        yield
    finally:
        main.__dict__.update(hidden)
