"""Lines, a progress bar, and texts of sizes and durations; a console that fails ends no work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def say(text: str = "", error: bool = False) -> None:
    """Print a line to stdout, or with `error` to stderr; long work must not be lost to a console.

    Characters that its encoding lacks become question marks. Where nothing can be written, as to a closed pipe or a
    full disk, this line and all that follow are dropped.

    Example:
        >>> say("✓ done")
        ✓ done
    """
    name = "stderr" if error else "stdout"
    stream, line = getattr(sys, name), f"{text}\n"
    if stream is None:  # closed before the program began
        return
    try:
        try:
            stream.write(line)
        except UnicodeEncodeError:
            stream.write(line.encode(stream.encoding, "replace").decode(stream.encoding))
        stream.flush()
    except (OSError, ValueError):  # ValueError: a closed file
        setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115


def progress(iterable: Iterable[T], description: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Iterate, with a bar on stderr in a terminal (unless `TQDM_DISABLE=1`), without one in notebooks and job queues.

    Args:
        iterable: what to iterate over.
        description: text in front of the bar.
        total: number of items, if `iterable` has no length.
        unit: what one item is called.

    Example:
        >>> list(progress([1, 2, 3], "counting"))
        [1, 2, 3]
    """
    live = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
    disable = None if live else True  # None leaves the choice to TQDM_DISABLE
    yield from tqdm(iterable, desc=description, total=total, unit=unit, disable=disable, leave=False)


def size_text(number: float) -> str:
    """Write a number of bytes, in units of 10^6 or 10^9.

    Example:
        >>> size_text(2_500_000), size_text(7_384_000_000)
        ('2.5 MB', '7.38 GB')
    """
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def duration_text(seconds: float) -> str:
    """Write a time in seconds, minutes or hours.

    Example:
        >>> duration_text(0.123), duration_text(75.4), duration_text(600), duration_text(10_000)
        ('0.12 s', '75 s', '10 min', '2 h 47 min')
    """
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
