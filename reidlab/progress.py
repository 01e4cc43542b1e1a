"""One progress bar for the whole package: shown to a person, silent in a batch run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(iterable: Iterable[T], description: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate with a bar on stderr if stderr is a live terminal, without one otherwise.

    Notebooks and job queues get no bar: one refresh per line is what stored outputs and logs fill up with.
    `TQDM_DISABLE=1` in the environment silences it in terminals too.

    Args:
        iterable: what to iterate over.
        description: what is being done, in front of the bar.
        total: number of items, if `len(iterable)` does not tell.
        unit: what one item is called.

    Example:
        >>> list(progress([1, 2, 3], "counting"))
        [1, 2, 3]
    """
    disable = True if not sys.stderr.isatty() else None  # None leaves the choice to TQDM_DISABLE
    yield from tqdm(iterable, desc=description, total=total, unit=unit, disable=disable, leave=False)
