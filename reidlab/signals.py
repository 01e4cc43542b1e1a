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
    """Treat a job queue's request to end (SIGTERM) like Ctrl-C, so that clean-up runs.

    Only the main thread can choose how signals are taken; elsewhere this does nothing.

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

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class StopRequest:
    """Whether a signal has requested that the run stop."""

    requested: bool = False


@contextlib.contextmanager
def finish_first() -> Iterator[StopRequest]:
    """Note a first Ctrl-C or SIGTERM instead of stopping in the middle; one that comes later interrupts at once.

    Signals within a second are one: job queues send theirs to a process and to the one that started it, which hands
    it on. Only the main thread can choose how signals are taken; elsewhere this does nothing.

    Yields:
        A `StopRequest`, to be read between steps.

    Example:
        >>> with finish_first() as stop:
        ...     signal.raise_signal(signal.SIGINT)
        ...     print("the step is finished")
        the step is finished
        >>> stop.requested
        True
    """
    stop = StopRequest()

    first = 0.0

    def note(*_: Any) -> None:
        nonlocal first
        if stop.requested and time.monotonic() > first + 1:
            raise KeyboardInterrupt
        first = first or time.monotonic()
        stop.requested = True

    before: dict[int, Any] = {}
    try:
        with contextlib.suppress(ValueError):  # not the main thread
            before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent(end: Callable[[], None], parent: int) -> None:
    """Call `end` once the process that started this one is gone and nobody waits any more, even if it is gone already.

    Args:
        end: called in a thread of its own.
        parent: id of that process as it told it itself: what this process sees may be the one it was left to.
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
    """Begin a process that `multiprocessing` started: it leaves Ctrl-C to its parent, and ends with it.

    Ctrl-C reaches all processes of a terminal; the parent ends its workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(lambda: os._exit(1), multiprocessing.parent_process().pid)
