"""Executed lessons as HTML pages, and the index page that leads to them."""

from __future__ import annotations

import html
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from reidlab.files import atomic_path
from reidlab.lessons.contents import INDEX, Lesson

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

    Args:
        notebook: an executed notebook.
        page: the HTML file to write.

    Returns:
        `page`.
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

    Returns:
        `path`.
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
