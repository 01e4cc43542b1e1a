"""What a run of lessons leaves behind: pages, the index, results as JSON and in print."""

from __future__ import annotations

import html
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reidlab.files import alone, atomic_path, read_json, write_json
from reidlab.lessons.contents import INDEX, Lesson
from reidlab.progress import say
from reidlab.results import circumstances, plain

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .5rem .8rem; border-bottom: 1px solid #ccc }
td:nth-child(2) { width: 45% } td.number { text-align: right; white-space: nowrap }
ul { margin: .2rem 0 0; padding-left: 1.1rem; color: #444; font-size: .9rem }
.passed { color: #00632b } .failed, .refused, .stopped { color: #a01010; font-weight: 600 }
small, p.note { color: #555; font-size: .85rem }
"""


def lesson_page(notebook: str | os.PathLike[str], page: str | os.PathLike[str]) -> Path:
    """Write one executed notebook as a self-contained HTML page.

    Pictures are inside the page. Formulas are set by MathJax, which the browser fetches from the network; without
    one they show as their source. Links between lessons lead to pages.
    """
    import nbformat
    from nbconvert import HTMLExporter

    content = nbformat.read(notebook, as_version=4)
    log = logging.getLogger("nbconvert")
    log.setLevel(logging.ERROR)  # it warns of each picture without alternative text; lessons describe theirs in print
    exporter = HTMLExporter(template_name="lab", require_js_url="", jquery_url="", log=log)
    text, _ = exporter.from_notebook_node(content, resources={"metadata": {"name": Path(page).stem}})
    text = re.sub(r'href="(\d\d_\w+)\.ipynb(#[^"]*)?"', r'href="\1.html\2"', text)
    text = text.replace(f'href="{INDEX}"', 'href="../index.html"')
    with atomic_path(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(page)


def index_page(path: str | os.PathLike[str], lessons: Iterable[Lesson], results: Iterable[Mapping[str, Any]]) -> Path:
    """Write the index: one row a lesson with what it is for, how it ended, how long it took, and its page.

    Args:
        path: the HTML file to write.
        lessons: the series.
        results: entries of `results.json`.
    """
    described = {lesson.stem: lesson for lesson in lessons}
    rows = "\n".join(_row(result, described.get(result["lesson"])) for result in results)
    text = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>reidlab lessons</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>
<body><h1>reidlab lessons</h1>
<p>Person re-identification, from raw files to a ranked list. These pages show the lessons as they ran.</p>
<table><thead><tr><th>lesson</th><th>afterwards you can</th><th>result</th><th>seconds</th></tr></thead>
<tbody>
{rows}
</tbody></table>
<p class="note">Formulas in the pages need a network connection; everything else is in the files.</p>
</body></html>
"""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def _row(result: Mapping[str, Any], lesson: Lesson | None) -> str:
    stem = result["lesson"]
    title = html.escape(f"{lesson.number} {lesson.title}" if lesson else stem)
    link = f'<a href="{html.escape(quote(result["page"]))}">{title}</a>' if result["page"] else title
    goal = f"<br><small>{html.escape(lesson.goal)}</small>" if lesson else ""
    points = "".join(f"<li>{html.escape(point)}</li>" for point in lesson.objectives) if lesson else ""
    status, message = html.escape(result["status"]), html.escape(result["message"] or "")
    circumstances = html.escape(f"profile {result['profile']}, {result['date'][:16].replace('T', ' ')} UTC")
    return (
        f"<tr><td>{link}{goal}</td><td><ul>{points}</ul></td>"
        f'<td><span class="{status}">{status}</span><br><small>{message} {circumstances}</small></td>'
        f'<td class="number">{result["seconds"]:.1f}</td></tr>'
    )


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
    path, now = out / "results.json", circumstances()
    now.pop("command")
    with alone(out / ".results.lock", "writing results.json"):
        entries = {entry["lesson"]: entry for entry in _earlier(path)}
        for result in results:
            own = {name: getattr(result, name) for name in ("lesson", "status", "seconds", "message")}
            own |= {"profile": result.parameters.get("PROFILE"), "parameters": plain("parameters", result.parameters)}
            for name in ("notebook", "page"):
                made = getattr(result, name)
                own[name] = made and made.relative_to(out).as_posix()
            entries[result.lesson] = own | now
        ordered = [entries[stem] for stem in sorted(entries)]
        write_json(path, ordered)
        if html:
            index_page(out / "index.html", lessons.values(), ordered)


def _earlier(path: Path) -> list[dict[str, Any]]:
    """Read what an earlier run wrote; what is absent or damaged is left out."""
    perhaps = (str, type(None))
    needed = {"lesson": str, "status": str, "date": str, "profile": perhaps, "message": perhaps, "page": perhaps}
    needed["seconds"] = (int, float)

    def whole(entry: Any) -> bool:
        return isinstance(entry, dict) and all(isinstance(entry.get(n, ...), kind) for n, kind in needed.items())

    try:
        entries = read_json(path)
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if whole(entry)] if isinstance(entries, list) else []


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
