"""How a run of lessons ended: one result each, printed, as JSON, and as an index page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reidlab.files import alone, read_json, write_json
from reidlab.lessons.contents import Lesson
from reidlab.lessons.pages import index_page
from reidlab.progress import say
from reidlab.results import circumstances, plain


@dataclass(frozen=True)
class LessonResult:
    """How one lesson ended.

    Args:
        lesson: the notebook's file stem.
        status: "passed", "failed" (a cell raised, took too long, or the process died) or "refused" (the parameters
            do not fit; nothing was run).
        seconds: from start to end, start of the kernel included.
        parameters: the values the lesson ran with, defaults included.
        message: what went wrong, in one line; None if it passed.
        notebook: the executed notebook, or None.
        page: its HTML page, or None.
    """

    lesson: str
    status: str
    seconds: float
    parameters: dict[str, Any]
    message: str | None = None
    notebook: Path | None = None
    page: Path | None = None

    @property
    def ok(self) -> bool:
        """Whether every cell ran."""
        return self.status == "passed"


def shown(path: Path) -> str:
    """Write a path relative to the current folder where it is inside it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def print_result(result: LessonResult) -> None:
    """Print one line: how a lesson ended."""
    mark = "✓" if result.ok else "✗"
    say(f"{mark} {result.lesson}  {result.status} after {result.seconds:.1f} s  {result.message or ''}".rstrip())


def write_summary(out: Path, results: Sequence[LessonResult], lessons: dict[str, Lesson], html: bool) -> None:
    """Write `results.json` and the index page; entries of lessons that were not run this time stay."""
    with alone(out / ".results.lock", "writing results.json"):
        _write_summary(out, results, lessons, html)


def _write_summary(out: Path, results: Sequence[LessonResult], lessons: dict[str, Lesson], html: bool) -> None:
    path, now = out / "results.json", circumstances()
    now.pop("command")
    entries = {entry["lesson"]: entry for entry in _earlier(path)}
    for result in results:
        entries[result.lesson] = {
            "lesson": result.lesson,
            "status": result.status,
            "seconds": result.seconds,
            "profile": result.parameters.get("PROFILE"),
            "parameters": plain("parameters", result.parameters),
            "message": result.message,
            "notebook": result.notebook and result.notebook.relative_to(out).as_posix(),
            "page": result.page and result.page.relative_to(out).as_posix(),
            **now,
        }
    ordered = [entries[stem] for stem in sorted(entries)]
    write_json(path, ordered)
    if html:
        index_page(out / "index.html", lessons.values(), ordered)


def _earlier(path: Path) -> list[dict[str, Any]]:
    text, perhaps = str, (str, type(None))
    needed = {"lesson": text, "status": text, "profile": perhaps, "message": perhaps, "page": perhaps, "date": text}
    needed["seconds"] = (int, float)
    try:
        entries = read_json(path)
    except (OSError, ValueError):
        return []  # absent, or damaged: this run's entries are all there is to say
    entries = entries if isinstance(entries, list) else []
    return [
        entry
        for entry in entries
        if isinstance(entry, dict) and all(isinstance(entry.get(name, ...), kind) for name, kind in needed.items())
    ]


def print_summary(out: Path, results: Sequence[LessonResult], html: bool) -> None:
    """Print the table of all results, and where things lie."""
    width = max([len("lesson"), *(len(result.lesson) for result in results)])
    say(f"\n{'lesson':<{width}}  result   seconds")
    for result in results:
        say(f"{result.lesson:<{width}}  {result.status:<7}  {result.seconds:7.1f}")
    failed = sum(not result.ok for result in results)
    say(f"\n{len(results) - failed} of {len(results)} passed." + (f" {failed} did not." if failed else ""))
    say(f"notebooks: {shown(out / 'notebooks')}   results: {shown(out / 'results.json')}, {shown(out / 'results')}/")
    if html:
        say(f"pages:     {shown(out / 'index.html')}")
