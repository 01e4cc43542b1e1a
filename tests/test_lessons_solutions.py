"""Each lesson, with its exercises solved by its own solutions, says ✓ everywhere; in the profile smoke."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import notebook_rules as rules
import pytest
from conftest import REPOSITORY
from nbclient import NotebookClient

from reidlab.lessons.parameters import read_notebook
from reidlab.lessons.processes import kernel_environment

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def printed_by_checks(path: Path) -> list[str]:
    """Run a lesson with solutions in place; return the lines that its exercise checks printed."""
    solved = rules.with_solutions(read_notebook(path))
    for cell in rules.code_cells(solved):
        if "parameters" in rules.tags_of(cell):
            cell["source"] = re.sub(r'(?m)^PROFILE = "laptop"', 'PROFILE = "smoke"', rules.source_of(cell))
    notebook = nbformat.reads(json.dumps(solved), as_version=4)
    client = NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        coalesce_streams=True,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute(env=kernel_environment(jobs=2))
    lines = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and re.search(r"check\.(exercise|function)\(", cell.source):
            lines += [line for output in cell.outputs for line in output.get("text", "").splitlines()]
    return [line for line in lines if line[:1] in "✓✗…"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_solutions_solve_the_exercises(path: Path):
    lines = printed_by_checks(path)
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
