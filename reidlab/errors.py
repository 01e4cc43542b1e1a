"""The exception types that the package adds, and which errors are meant for the user of the command line.

Meant for the user are: the types below; `ValueError`, `OSError` and `FloatingPointError` from a `raise` statement of
this package; errors of the system that name a file or a resource that ran out; a lack of memory. The same `ValueError`
from a line that called numpy, torch or Python is a bug, a missing check. So code that calls a library with input that
it may refuse catches its error and raises one of the package's own.
"""

from __future__ import annotations

import dis
import errno
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType


class DataError(ValueError):
    """A file or folder does not hold what it should; the message says which one and what to do.

    Example:
        >>> raise DataError("cuhk-03.mat: got 3 of 9 bytes; copy the file again")
        Traceback (most recent call last):
        reidlab.errors.DataError: cuhk-03.mat: got 3 of 9 bytes; copy the file again
    """


class CollapseError(RuntimeError):
    """A training run put all images into one point, where a triplet loss has nothing left to say."""


class ProcessError(RuntimeError):
    """One of the processes that work together was lost, or they did not find each other."""


class WorkerError(RuntimeError):
    """A process that reads images for a training run has ended."""


_OWN = (DataError, CollapseError, ProcessError, WorkerError)
_RAN_OUT = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}


def message_for_user(error: BaseException) -> str | None:
    """Return the one line that an error has for the user of the command line; None for a bug.

    Example:
        >>> def attempt(action):
        ...     try:
        ...         action()
        ...     except Exception as error:
        ...         return message_for_user(error)
        >>> attempt(lambda: open("no-such-file"))
        "[Errno 2] No such file or directory: 'no-such-file'"
        >>> attempt(lambda: int("three")) is None
        True
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the second is torch's
        return f"out of memory ({_line(error)}); use smaller batches or images, or fewer workers"
    own = isinstance(error, _OWN)
    if isinstance(error, (ValueError, OSError, FloatingPointError)):
        own = own or _is_raised_here(error.__traceback__)
    if isinstance(error, OSError):
        own = own or error.filename is not None or error.errno in _RAN_OUT
        if error.strerror and error.filename is None:
            return error.strerror if own else None  # the text, less "[Errno N]"
    return _line(error) if own else None


def a_few(items: Sequence[object], limit: int = 3) -> str:
    """Write the first items of a list for an error message.

    Example:
        >>> a_few(["a", "b", "c", "d", "e"])
        'a, b, c, ... (5 in all)'
    """
    text = ", ".join(str(item) for item in items[:limit])
    return text if len(items) <= limit else f"{text}, ... ({len(items)} in all)"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_raised_here(traceback: TracebackType | None) -> bool:
    """Whether an error began at a `raise` statement of this package."""
    if traceback is None:
        return False
    while traceback.tb_next:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    if Path(__file__).resolve().parent not in Path(code.co_filename).resolve().parents:
        return False
    return dis.opname[code.co_code[traceback.tb_lasti]] == "RAISE_VARARGS"
