"""Each lesson, with its exercises solved by its own solutions, says ✓ everywhere; in the profile smoke."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import symtable
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import notebook_rules as rules
import pytest
import torch
from conftest import REPOSITORY

from reidlab.lessons.parameters import read_notebook

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def names_of(source: str) -> tuple[set[str], set[str]]:
    """Names that a cell sets or changes, and names that it reads from earlier cells."""
    found = symtable.symtable(source, "cell", "exec")
    own = {symbol.get_name() for symbol in found.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    read = {symbol.get_name() for symbol in found.get_symbols() if symbol.is_referenced()} - own
    inner = list(found.get_children())
    for table in inner:
        inner += table.get_children()
        read |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()} - own
    for node in ast.walk(ast.parse(source)):  # x[0] = 1 and x.y = 1 change x
        if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            while isinstance(node, (ast.Subscript, ast.Attribute)):
                node = node.value
            if isinstance(node, ast.Name):
                own.add(node.id)
    return own, read


def code_for_exercises(notebook: dict) -> list[tuple[str, bool]]:
    """Code of exercises, checks and all that they need, and whether it checks; `make smoke` runs whole lessons."""
    needed, wanted = [], set()
    for cell in reversed(rules.code_cells(notebook)):
        source = re.sub(r"(?m)^( *)%.*$", r"\1pass", cell["source"])
        checks = re.search(r"check\.(exercise|function)\(", source) is not None
        own, read = names_of(source)
        if checks or "exercise" in rules.tags_of(cell) or own & wanted:
            needed.append((source, checks))
            wanted |= read
    return needed[::-1]


def printed_by_checks(path: Path, data: str | None = None) -> list[str]:
    """Run what exercises of a lesson need, with solutions in place; return the lines that the checks printed."""
    solved = rules.with_solutions(read_notebook(path))
    for cell in rules.code_cells(solved):
        if "parameters" in rules.tags_of(cell):
            source = re.sub(r'(?m)^PROFILE = "laptop"', 'PROFILE = "smoke"', cell["source"])
            cell["source"] = re.sub(r'(?m)^DATA_DIR = "\.\./data"', lambda _: f"DATA_DIR = {data!r}", source)
    lines, names = [], {"__name__": "__main__"}
    with torch.random.fork_rng():
        for source, checks in code_for_exercises(solved):
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(source, path.name, "exec"), names)
            lines += out.getvalue().splitlines() if checks else []
    plt.close("all")
    return [line for line in lines if line[:1] in "✓✗…"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_solutions_solve_the_exercises(path: Path, tiny_world: Path, monkeypatch):
    monkeypatch.chdir(path.parent)
    lines = printed_by_checks(path, str(tiny_world.parent))
    exercises = [cell for cell in read_notebook(path)["cells"] if "exercise" in rules.tags_of(cell)]
    assert len(lines) >= len(exercises) > 0
    assert [line for line in lines if not line.startswith("✓")] == []


def test_a_wrong_solution_is_noticed(tmp_path: Path):
    def lesson(solution: str) -> Path:
        cells = [
            nbformat.v4.new_code_cell("answer = ...", metadata={"tags": ["exercise"]}),
            nbformat.v4.new_code_cell("from reidlab.lessons import check\ncheck.exercise('1', answer, 4)"),
            nbformat.v4.new_markdown_cell(f"```python\n{solution}\n```", metadata={"tags": ["solution"]}),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "x.ipynb")
        return tmp_path / "x.ipynb"

    assert printed_by_checks(lesson("answer = 2 + 2")) == ["✓ 1"]
    assert printed_by_checks(lesson("answer = 5"))[0].startswith("✗ 1")
