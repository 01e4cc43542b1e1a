"""Drawing in several processes: results in the order of the tasks, no orphans, bounded memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from reidlab.signals import begin_worker

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Result = TypeVar("Result")


def in_order(
    tasks: Sequence[Any], jobs: int, work: Callable[[Any, Any], Result], key: Any, ahead: int = 8
) -> Iterator[Result]:
    """Yield `work(key, task)` for each task, in the order of the tasks, however many processes work.

    Args:
        tasks: what to do; each is pickled.
        jobs: processes, 1 or more; 1 = in this one.
        work: a function of a module, so that it can be pickled.
        key: what all tasks share; `work` may cache by it.
        ahead: tasks per process that may be finished or under way before they are asked for.

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
