"""Errors of the processes that read images, as if this process had read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

from reidlab.errors import DataError, WorkerError

Batch = TypeVar("Batch")


def named_errors(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches of a DataLoader; an error of a worker comes with its own message, without torch's traceback.

    Raises:
        DataError, OSError: as the data set raised it, in this process or in a worker. Anything else is a bug, and keeps
            the worker's traceback.
    """
    try:
        yield from batches
    except (DataError, OSError) as error:
        begin = rf"^(?:\w+\.)*{type(error).__name__}: "
        found = re.search(rf".*{begin}(.*)", str(error), re.DOTALL | re.MULTILINE)  # the last line that begins so
        if not found or "Original Traceback" not in str(error):
            raise
        raise type(error)(found[1].strip()) from None


def worker_lost(error: Exception) -> WorkerError | None:
    """Return what to say if an error is torch's word for a lost worker, which it raises at any place."""
    if "DataLoader worker" not in str(error):
        return None
    return WorkerError(
        f"a process that reads images was lost ({' '.join(str(error).split())[:120]}); it may have needed more "
        "memory than there is: use fewer workers, or a cache file"
    )
