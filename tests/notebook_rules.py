"""The rules for committed notebooks: each takes a notebook as JSON and returns what is wrong with it."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path
from typing import Any

from reidlab.errors import DataError
from reidlab.lessons.parameters import literals

COMMON = {"PROFILE": "laptop", "DATASET": "walkers", "DATA_DIR": "../data", "BOX": "labeled", "SEED": 0}
COMMON |= {"DEVICE": "auto", "WORKERS": 0}
ABSOLUTE_PATH = re.compile(
    r"(?<![\w./:~>])/(home|root|tmp|work|opt|mnt|srv|var|usr|Users|private|data)/\w|\b[A-Z]:\\\w"
)
CITATION = re.compile(r"`([a-z]+(?:19|20)\d\d[a-z]+)`")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
NOT_COMPARED = {"nbval-ignore-output", "nbval-skip"}
PYTHON_BLOCK = re.compile(r"```python\n(.*?)\n```", re.DOTALL)


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def tags_of(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def markdown(notebook: dict) -> list[str]:
    return [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "markdown"]


def text_of(output: dict) -> str:
    """All text of an output: streams, results as text or HTML, tracebacks."""
    parts: list[Any] = [output.get("text", "")]
    parts += [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(part if isinstance(part, str) else "".join(part) for part in parts)


def lines_of(cell: dict) -> int:
    return sum(bool(line.strip()) for line in cell["source"].splitlines())


def execution_counts(notebook: dict) -> list[str]:
    """nbval compares nothing in a cell without a count: a stripped notebook would pass."""
    counts = [cell.get("execution_count") for cell in code_cells(notebook)]
    good = counts == list(range(1, len(counts) + 1)) and counts
    return [] if good else [f"execution counts are {counts}; run `make refresh`"]


def metadata(notebook: dict) -> list[str]:
    found = []
    if notebook["metadata"].get("kernelspec", {}).get("name") != "python3":
        found.append(f"kernelspec is {notebook['metadata'].get('kernelspec')}, expected python3")
    for key in ("widgets", "papermill"):
        if key in notebook["metadata"] or any(key in cell["metadata"] for cell in notebook["cells"]):
            found.append(f"metadata holds {key}")
    if "version" in notebook["metadata"].get("language_info", {}):
        found.append("metadata names a Python version")
    if any("execution" in cell["metadata"] for cell in notebook["cells"]):
        found.append("metadata holds times of execution")
    return found


def parameters(notebook: dict) -> list[str]:
    cells = [cell for cell in code_cells(notebook) if "parameters" in tags_of(cell)]
    if len(cells) != 1:
        return [f"{len(cells)} cells are tagged `parameters`, expected exactly one"]
    source = cells[0]["source"]
    try:
        values = literals(source)
    except DataError as error:
        return [str(error)]
    lines = [line for line in source.splitlines() if line.strip() and not line.strip().startswith("#")]
    found = [f"parameter without a comment: {line}" for line in lines if not re.search(r"\s#\s*\w", line)]
    found += [f"{name} = {value!r} is missing" for name, value in COMMON.items() if values.get(name, ...) != value]
    if len(values) > len(COMMON) + 5:
        found.append(f"{len(values) - len(COMMON)} parameters of its own, expected at most five")
    return found + [f"parameter {name} is never used" for name in values if name not in _names_read(notebook)]


def _names_read(notebook: dict) -> set[str]:
    names = set()
    for cell in code_cells(notebook):
        if "parameters" not in tags_of(cell):
            tree = ast.parse(re.sub(r"^\s*[%!].*$", "pass", cell["source"], flags=re.MULTILINE))
            nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Name))
            names |= {node.id for node in nodes if isinstance(node.ctx, ast.Load)}
    return names


def outputs(notebook: dict) -> list[str]:
    found = []
    for cell in code_cells(notebook):
        for output in cell["outputs"]:
            where = f"cell [{cell.get('execution_count')}]"
            if output["output_type"] == "error":
                found.append(f"{where} stores an error: {output['ename']}")
            if output.get("name") == "stderr":
                found.append(f"{where} stores stderr: {text_of(output)[:80]!r}")
    return found


def lengths(notebook: dict) -> list[str]:
    cells = code_cells(notebook)
    found = []
    median = statistics.median([lines_of(cell) for cell in cells] or [0])
    if median > 5:
        found.append(f"the median code cell has {median} lines, expected at most 5")
    for cell in cells:
        if lines_of(cell) > 30 and "definition" not in tags_of(cell):
            found.append(f"cell [{cell.get('execution_count')}] has {lines_of(cell)} lines, expected at most 30")
    for first, second in zip(notebook["cells"], notebook["cells"][1:], strict=False):
        both_code = first["cell_type"] == second["cell_type"] == "code"
        if both_code and min(lines_of(first), lines_of(second)) > 10:
            found.append(f"cells [{first.get('execution_count')}] and the next: over 10 lines each, no prose between")
    return found


def paths(notebook: dict) -> list[str]:
    texts = [cell["source"] for cell in notebook["cells"]]
    texts += [text_of(output) for cell in code_cells(notebook) for output in cell["outputs"]]
    hits = (ABSOLUTE_PATH.search(text) for text in texts)
    return [f"absolute path: {hit.string[hit.start() : hit.start() + 60]!r}" for hit in hits if hit]


def figures(notebook: dict) -> list[str]:
    """Every picture is followed by a printed line `Figure: ...` before the next picture and the cell's end."""
    found = []
    for cell in code_cells(notebook):
        waiting = False
        for output in [*cell["outputs"], {"data": {"image/end": ""}}]:
            picture = any(kind.startswith("image/") for kind in output.get("data", {}))
            if picture and waiting:
                found.append(f"cell [{cell.get('execution_count')}]: a figure without a printed `Figure: ...` line")
            waiting = picture or (waiting and not re.search(r"^Figure: \S", text_of(output), re.MULTILINE))
    return found


def links(notebook: dict, folder: Path) -> list[str]:
    found = []
    for text in markdown(notebook):
        found += link_problems(text, folder)
        found += ["<img> without alt text" for tag in re.findall(r"<img[^>]*>", text) if not re.search(r'alt="\S', tag)]
    return found


def link_problems(text: str, folder: Path) -> list[str]:
    found = []
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    for image, label, target in LINK.findall(text):
        if image and not label.strip():
            found.append(f"picture without alt text: {target}")
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        if not (folder / target.split("#")[0]).exists():
            found.append(f"link to nowhere: {target}")
    return found


def citations(notebook: dict, keys: set[str]) -> list[str]:
    cited = {key for text in markdown(notebook) for key in CITATION.findall(text)}
    return [f"`{key}` is not in references.bib" for key in sorted(cited - keys)]


def navigation(notebook: dict, line: str) -> list[str]:
    texts = markdown(notebook)
    places = {"first": texts[:1], "last": texts[-1:]}
    return [
        f"the {name} Markdown cell lacks: {line}" for name, text in places.items() if not text or line not in text[0]
    ]


def compared(notebook: dict) -> list[str]:
    cells = code_cells(notebook)
    count = sum(not NOT_COMPARED & set(tags_of(cell)) for cell in cells)
    return [] if 2 * count >= len(cells) else [f"nbval compares {count} of {len(cells)} code cells, expected half"]


def guesses(notebook: dict) -> list[str]:
    """Every guess is asked for with `guess... = ...` and compared before it is asked for again."""
    found, open_guess, asked = [], None, 0
    for cell in code_cells(notebook):
        source = cell["source"]
        for match in re.finditer(r"^(guess\w*) = (.+)$|check\.predict\(([^)]*)", source, re.MULTILINE):
            if match[1]:
                asked += 1
                if match[2].split("#")[0].strip() != "...":
                    found.append(f"{match[1]} is committed as {match[2]}, expected `...`")
                if open_guess:
                    found.append(f"{open_guess} is never compared with check.predict")
                open_guess = match[1]
            elif open_guess and re.search(rf"\b{open_guess}\b", match[3]):
                open_guess = None
    if open_guess:
        found.append(f"{open_guess} is never compared with check.predict")
    return found if asked else [*found, "no guess is asked for"]


def exercises(notebook: dict) -> list[str]:
    """Exercise, check, solution follow each other; only Markdown may stand between."""
    found = []
    cells = notebook["cells"]
    at = [index for index, cell in enumerate(cells) if "exercise" in tags_of(cell)]
    solutions = [index for index, cell in enumerate(cells) if "solution" in tags_of(cell)]
    if not 3 <= len(at) <= 5 or len(solutions) != len(at):
        found.append(f"{len(at)} exercises and {len(solutions)} solutions, expected three to five of each")
    for start, end in zip(at, [*at[1:], len(cells)], strict=True):
        number = at.index(start) + 1
        if "..." not in cells[start]["source"]:
            found.append(f"exercise {number} holds no `...`: is it solved already?")
        code = [cell for cell in cells[start + 1 : end] if cell["cell_type"] == "code"][:1]
        if not code or not re.search(r"check\.(exercise|function)\(", code[0]["source"]):
            found.append(f"exercise {number}: the next code cell is no check.exercise or check.function")
        own = [cell for cell in cells[start + 1 : end] if "solution" in tags_of(cell)]
        text = own[0]["source"] if len(own) == 1 else ""
        parts = ("<details>", "<summary>", "</details>")
        if not all(part in text for part in parts) or len(PYTHON_BLOCK.findall(text)) != 1:
            found.append(f"exercise {number}: expected one collapsed solution with one ```python block after it")
    return found


def habits(notebook: dict) -> list[str]:
    pattern = re.compile(r"^\s*[!%]pip|^\s*!|sys\.path|filterwarnings\(.ignore", re.MULTILINE)
    hits = (pattern.search(cell["source"]) for cell in code_cells(notebook))
    return [f"not in a lesson: {hit.group().strip()}" for hit in hits if hit]


def with_solutions(notebook: dict) -> dict:
    """Put each solution's code in the place of its exercise."""
    cells, waiting = [dict(cell) for cell in notebook["cells"]], None
    for cell in cells:
        if "exercise" in tags_of(cell):
            waiting = cell
        elif "solution" in tags_of(cell) and waiting is not None:
            waiting["source"] = PYTHON_BLOCK.findall(cell["source"])[0]
            waiting = None
    return {**notebook, "cells": cells}
