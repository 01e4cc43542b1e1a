"""The parts a report is put together from: every text that comes in is escaped, every picture is inside the page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #55585c; --paper: #fff; --line: #d0d3d7; --shade: #f3f4f6;
  --note: #fff4d6; --noteline: #b98900 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ea; --soft: #a9adb3; --paper: #17181a; --line: #45484d;
  --shade: #232528; --note: #3a3016; --noteline: #d9a514 } }
* { box-sizing: border-box }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin: 0; overflow-wrap: anywhere } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem;
  border-bottom: 1px solid var(--line); padding-bottom: .2rem } h3 { font-size: 1rem; margin: 1.4rem 0 .3rem }
p { margin: .4rem 0 } p.under, nav, caption, figcaption { color: var(--soft) }
nav a { color: inherit; margin-right: 1em } ul { margin: .4rem 0; padding-left: 1.2rem }
.note { background: var(--note); border-left: 4px solid var(--noteline); padding: .5rem .9rem; margin: 1rem 0 }
.scroll { overflow-x: auto } table { border-collapse: collapse; margin: .6rem 0; min-width: 50% }
caption { text-align: left; font-size: .9rem; padding-bottom: .3rem }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line) }
td { overflow-wrap: anywhere } td.number, th.number { text-align: right } th.number { white-space: nowrap }
tbody th { font-weight: 600 } table.facts th { width: 14rem }
pre { background: var(--shade); padding: .6rem .9rem; white-space: pre-wrap; overflow-wrap: anywhere }
figure { margin: 1rem 0 } figure img { max-width: 100%; height: auto; background: #fff; padding: .5rem;
  border: 1px solid var(--line); border-radius: 4px } figcaption { font-size: .9rem }
.beside { display: flex; flex-wrap: wrap; gap: 0 1.2rem } .beside figure { flex: 1 1 26rem }
@media print { :root { --ink: #000; --soft: #333; --paper: #fff; --line: #bbb; --shade: #f3f4f6; --note: #fff;
  --noteline: #000 } body { max-width: none; margin: 0; font-size: 10.5pt } nav { display: none }
  figure, tr, .note { break-inside: avoid } h2, h3, caption { break-after: avoid } .scroll { overflow: visible } }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the browser is told to allow: pictures inside the page and the style above, nothing from anywhere else."""
QUALITY = 82
"""Of JPEG, for photographs."""


def page(title: str, under: str, sections: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Put a page together.

    Args:
        title: plain text.
        under: plain text below the title.
        sections: headings in plain text, each with pieces of HTML made by the functions of this module; a section
            without pieces is left out.
    """
    there = [(f"s{number}", heading, pieces) for number, (heading, pieces) in enumerate(sections) if pieces]
    links = "".join(f'<a href="#{mark}">{escape(heading)}</a>' for mark, heading, _ in there if heading)
    body = "\n".join(
        f'<section id="{mark}">{f"<h2>{escape(heading)}</h2>" if heading else ""}\n'
        + "\n".join(pieces)
        + "\n</section>"
        for mark, heading, pieces in there
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}"><style>{STYLE}</style></head>
<body><header><h1>{escape(title)}</h1>
<p class="under">{escape(under)}</p>
<nav aria-label="Parts of this page">{links}</nav></header>
<main>
{body}
</main></body></html>
"""


def escape(value: Any) -> str:
    """Turn anything into text that HTML shows as it is.

    Example:
        >>> escape("<b>")
        '&lt;b&gt;'
    """
    return html.escape(str(value))


def paragraph(text: str) -> str:
    """One paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def subheading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def bullets(texts: Iterable[str]) -> str:
    """A list of plain texts."""
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"


def note(heading: str, texts: Iterable[str]) -> str:
    """A box that stands out."""
    return f'<div class="note" role="note"><strong>{escape(heading)}</strong>{bullets(texts)}</div>'


def preformatted(text: str) -> str:
    """A command, to be copied as it is."""
    return f"<pre>{escape(text)}</pre>"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "", numbers: Sequence[int] = ()) -> str:
    """A table whose first column names the rows.

    Args:
        head: headings of the columns, or () for a list of facts.
        rows: cells.
        caption: plain text above it.
        numbers: columns to set flush right.
    """
    kind = dict.fromkeys(numbers, ' class="number"')
    top = "".join(f'<th scope="col"{kind.get(i, "")}>{escape(text)}</th>' for i, text in enumerate(head))
    lines = "\n".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td{kind.get(i, '')}>{escape(cell)}</td>" for i, cell in enumerate(rest, start=1))
        + "</tr>"
        for first, *rest in rows
    )
    inside = f"<caption>{escape(caption)}</caption>" if caption else ""
    inside += f"<thead><tr>{top}</tr></thead>" if head else ""
    return (
        f'<div class="scroll"><table{"" if head else " class=facts"}>{inside}<tbody>\n{lines}\n</tbody></table></div>'
    )


def picture(drawn: tuple[Figure, str], photographs: bool = False) -> str:
    """Put a figure into the page with its description below, and close it.

    The description is also the picture's alternative text; readers of the page who hear it do not hear it twice.

    Args:
        drawn: what the functions of `reidlab.plots` return.
        photographs: store as JPEG, which is smaller for them, instead of PNG.

    Example:
        >>> picture((plt.figure(figsize=(1, 1)), "Figure: nothing."))[:58]
        '<figure><img width="90" alt="Figure: nothing." src="data:i'
    """
    figure, description = drawn
    buffer = io.BytesIO()
    try:
        kind = {"format": "jpeg", "pil_kwargs": {"quality": QUALITY}} if photographs else {"format": "png"}
        figure.savefig(buffer, dpi=130, **kind)
        width = round(figure.get_size_inches()[0] * 90)
    finally:
        plt.close(figure)
    text = description.removeprefix("Figure: ")
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img width="{width}" alt="{escape(description)}" '
        f'src="data:image/{kind["format"]};base64,{content}">'
        f'<figcaption aria-hidden="true">{escape(text[:1].upper() + text[1:])}</figcaption></figure>'
    )


def beside(*pictures: str) -> str:
    """Pictures next to each other, where the window is wide enough."""
    return f'<div class="beside">{"".join(pictures)}</div>'
