"""Processes that end when they should: on a request to end, and with the process that started them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@contextlib.contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Treat a job queue's request to end (SIGTERM) like Ctrl-C, so that clean-up runs; only in the main thread.

    Example:
        >>> try:
        ...     with termination_as_interrupt():
        ...         signal.raise_signal(signal.SIGTERM)
        ... except KeyboardInterrupt:
        ...     print("cleaned up")
        cleaned up
    """

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt, signal.SIGTERM):
        yield


@contextlib.contextmanager
def _handled(handler: Callable[..., None], *numbers: int) -> Iterator[None]:
    """Handle signals inside; only the main thread can, elsewhere this does nothing."""
    before: dict[int, Any] = {}
    try:
        with contextlib.suppress(ValueError):  # not the main thread
            before.update((number, signal.signal(number, handler)) for number in numbers)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass
class StopRequest:
    """Whether a signal has requested that the run stop."""

    requested: bool = False


@contextlib.contextmanager
def finish_first() -> Iterator[StopRequest]:
    """Yield a `StopRequest` that a first Ctrl-C or SIGTERM sets; a later one interrupts. Only in the main thread.

    Signals within a second are one: job queues send theirs to a process and to the one that started it, which passes
    it on.

    Example:
        >>> with finish_first() as stop:
        ...     signal.raise_signal(signal.SIGINT)
        ...     print("the step is finished")
        the step is finished
        >>> stop.requested
        True
    """
    stop, first = StopRequest(), 0.0

    def note(*_: Any) -> None:
        nonlocal first
        if stop.requested and time.monotonic() > first + 1:
            raise KeyboardInterrupt
        first = first or time.monotonic()
        stop.requested = True

    with _handled(note, signal.SIGINT, signal.SIGTERM):
        yield stop


def end_with_parent(end: Callable[[], None], parent: int) -> None:
    """Call `end`, in a thread of its own, when the process that started this one ends, or at once if it has ended.

    Args:
        end: what to call.
        parent: id of that process, from itself: `os.getppid()` may be that of the process that adopted this one.
    """

    def watch() -> None:
        if os.name == "posix":
            while os.getppid() == parent:
                time.sleep(0.5)
        else:
            import _winapi

            with contextlib.suppress(OSError):  # ended already
                handle = _winapi.OpenProcess(0x00100000, False, parent)  # SYNCHRONIZE
                _winapi.WaitForSingleObject(handle, _winapi.INFINITE)
        end()

    threading.Thread(target=watch, daemon=True).start()


def begin_worker(*_: Any) -> None:
    """Begin a process of `multiprocessing`: it ignores Ctrl-C, which reaches its parent too, and ends with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(lambda: os._exit(1), multiprocessing.parent_process().pid)
