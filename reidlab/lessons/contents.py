"""The table of contents of the series: what each lesson is about, and which comes before and after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reidlab.errors import DataError

INDEX = "../README.md"
PROFILES = ("smoke", "laptop", "gpu")


@dataclass(frozen=True)
class Lesson:
    """One lesson, as `notebooks/lessons.toml` describes it.

    Args:
        stem: the notebook's file name without `.ipynb`, beginning with the two-digit number.
        title: what it is called.
        goal: one sentence.
        objectives: what the reader can do afterwards; each begins with a verb.
        needs: what to know or have done before.
        minutes: upper bound of the running time by profile; `gpu` may be missing.

    Taught in: notebooks/00_start_here.ipynb
    """

    stem: str
    title: str
    goal: str
    objectives: Sequence[str]
    needs: Sequence[str]
    minutes: dict[str, float]

    @property
    def number(self) -> str:
        """The two digits that the file name begins with."""
        return self.stem[:2]

    @property
    def notebook(self) -> str:
        """The file name."""
        return f"{self.stem}.ipynb"


def notebooks_folder() -> Path:
    """Return the folder `notebooks/` of the clone that this package runs from.

    Raises:
        FileNotFoundError: the package was installed without the lessons.

    Example:
        >>> notebooks_folder().name
        'notebooks'
    """
    folder = Path(__file__).resolve().parents[2] / "notebooks"
    if not (folder / "lessons.toml").is_file():
        raise FileNotFoundError(
            f"{folder / 'lessons.toml'}: not found; the lessons are in the repository, not in the installed package: "
            "clone it and install with pip install -e '.[lessons]'"
        )
    return folder


def catalogue(path: str | os.PathLike[str] | None = None) -> list[Lesson]:
    """Read the table of contents, in the order of the series.

    Args:
        path: the TOML file; the clone's `notebooks/lessons.toml` if not given.

    Raises:
        FileNotFoundError: no such file.
        DataError: the file is not TOML, or an entry misses something or names something unknown.

    Example:
        >>> catalogue()[0].stem
        '00_start_here'
    """
    path = notebooks_folder() / "lessons.toml" if path is None else Path(path)
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return [Lesson(stem, **table) for stem, table in tables.items()]
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise DataError(f"{path}: is not a table of contents ({error}); get it again from the repository") from None


def header(stem: str, lessons: list[Lesson] | None = None) -> str:
    """Return the navigation line of a lesson: previous, index, next, as Markdown.

    The first cell of a notebook and its last Markdown cell carry this line; a test compares them.

    Raises:
        ValueError: there is no such lesson.

    Example:
        >>> one, two = (Lesson(stem, stem[3:].title(), "", (), (), {}) for stem in ("00_start", "01_data"))
        >>> header("01_data", [one, two])
        '[← 00 Start](00_start.ipynb) · [index](../README.md)'
    """
    lessons = catalogue() if lessons is None else lessons
    stems = [lesson.stem for lesson in lessons]
    if stem not in stems:
        raise ValueError(f"got lesson {stem!r}, expected one of {', '.join(stems)}")
    at = stems.index(stem)
    parts = [f"[← {lesson.number} {lesson.title}]({lesson.notebook})" for lesson in lessons[max(at - 1, 0) : at]]
    parts.append(f"[index]({INDEX})")
    parts += [f"[{lesson.number} {lesson.title} →]({lesson.notebook})" for lesson in lessons[at + 1 : at + 2]]
    return " · ".join(parts)


def table(lessons: list[Lesson] | None = None, folder: str = "notebooks") -> str:
    """Return the table of lessons for README.md, as Markdown; a test compares them.

    Args:
        lessons: the series; that of `catalogue()` if not given.
        folder: where the notebooks are, relative to the file that holds the table.

    Example:
        >>> print(table([Lesson("00_start", "Start", "Begin.", ("do a", "do b"), (), {"smoke": 0.5, "laptop": 3})]))
        | | lesson | what it does | laptop minutes, at most |
        |---|---|---|---|
        | 00 | [Start](notebooks/00_start.ipynb) | Begin. | 3 |
    """
    rows = ["| | lesson | what it does | laptop minutes, at most |", "|---|---|---|---|"]
    for lesson in catalogue() if lessons is None else lessons:
        link, minutes = f"[{lesson.title}]({folder}/{lesson.notebook})", lesson.minutes["laptop"]
        rows.append(f"| {lesson.number} | {link} | {lesson.goal} | {minutes:g} |")
    return "\n".join(rows)
