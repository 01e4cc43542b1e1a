"""Committed notebooks keep the rules; and the rules notice when one is broken."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import notebook_rules as rules
import pytest
from conftest import REPOSITORY

from reidlab.lessons.contents import catalogue, header
from reidlab.lessons.parameters import read_notebook

FOLDER = REPOSITORY / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
KEYS = set(re.findall(r"^@\w+\{([^,]+),", (REPOSITORY / "references.bib").read_text(encoding="utf-8"), re.MULTILINE))
NAMES = ("execution_counts", "metadata", "parameters", "outputs", "lengths", "paths", "figures", "compared", "guesses")
RULES = {name: getattr(rules, name) for name in (*NAMES, "exercises", "habits")}
RULES["links"] = lambda notebook: rules.links(notebook, FOLDER)
RULES["citations"] = lambda notebook: rules.citations(notebook, KEYS)


def test_the_notebooks_are_those_of_the_table_of_contents():
    assert [path.stem for path in NOTEBOOKS] == [lesson.stem for lesson in catalogue()]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("rule", RULES)
def test_rule(path: Path, rule: str):
    assert RULES[rule](read_notebook(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_size_navigation_and_title(path: Path):
    notebook = read_notebook(path)
    assert path.stat().st_size <= 1_000_000
    assert rules.navigation(notebook, header(path.stem)) == []
    lesson = next(lesson for lesson in catalogue() if lesson.stem == path.stem)
    first_heading = re.search(r"^# (.+)$", rules.markdown(notebook)[0], re.MULTILINE)
    assert first_heading and lesson.title in first_heading[1]


def code(source: str, count: int, outputs=(), tags=()) -> dict:
    return {
        "cell_type": "code",
        "source": source,
        "execution_count": count,
        "outputs": list(outputs),
        "metadata": {"tags": list(tags)},
    }


def prose(source: str, tags=()) -> dict:
    return {"cell_type": "markdown", "source": source, "metadata": {"tags": list(tags)}}


def stream(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


PICTURE = {"output_type": "display_data", "data": {"image/png": "", "text/plain": "<Figure size 1x1>"}, "metadata": {}}


def sound() -> dict:
    """A small notebook in which nothing is wrong."""
    values = "".join(f"{name} = {value!r}  # what it is\n" for name, value in rules.COMMON.items())
    solution = "<details><summary>Solution</summary>\n\n```python\nanswer = 2\n```\n</details>"
    cells = [
        prose("# Title\n[index](lessons.toml) (Luo et al., 2019; `luo2019bag`)"),
        code(values, 1, (), ["parameters"]),
    ]
    cells.append(code(f"print({', '.join(rules.COMMON)})", 2, [PICTURE, stream("Figure: a grid\n")]))
    cells += [code("guess = ...", 3), code('check.predict("x", guess, 1)', 4)]
    for number in range(3):
        cells += [code("answer = ...", 5 + 2 * number, (), ["exercise"])]
        cells += [code('check.exercise("x", answer, 2)', 6 + 2 * number), prose(solution, ["solution"])]
    return {"cells": cells, "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}


FAULTS = {
    "execution_counts": [
        lambda n: n["cells"][2].update(execution_count=None),
        lambda n: n["cells"][2].update(execution_count=9),
    ],
    "metadata": [
        lambda n: n["metadata"].update(widgets={}),
        lambda n: n["metadata"].update(kernelspec={"name": "mine"}),
        lambda n: n["cells"][2]["metadata"].update(execution={}),
    ],
    "parameters": [
        lambda n: n["cells"][1].update(source=n["cells"][1]["source"] + "MORE = len([1])  # no literal"),
        lambda n: n["cells"][1].update(source=n["cells"][1]["source"].replace("'laptop'", "'smoke'")),
        lambda n: n["cells"][1].update(source=n["cells"][1]["source"].replace("# what it is", "", 1)),
        lambda n: n["cells"][1].update(source=n["cells"][1]["source"] + "UNUSED = 3  # of nothing"),
        lambda n: n["cells"][2]["metadata"].update(tags=["parameters"]),
    ],
    "outputs": [
        lambda n: n["cells"][2]["outputs"].append(stream("warning", "stderr")),
        lambda n: n["cells"][2]["outputs"].append({"output_type": "error", "ename": "ValueError"}),
    ],
    "lengths": [
        lambda n: n["cells"][2].update(source="a = 1\n" * 31),
        lambda n: [n["cells"][index].update(source="a = 1\n" * 11) for index in (2, 3)],
        lambda n: [cell.update(source="a = 1\n" * 6) for cell in rules.code_cells(n)],
    ],
    "paths": [
        lambda n: n["cells"][2]["outputs"].append(stream("read from /home/me/data")),
        lambda n: n["cells"][0].update(source="# Title, in C:\\Users"),
    ],
    "figures": [lambda n: n["cells"][2]["outputs"].pop()],
    "links": [
        lambda n: n["cells"][0].update(source="[next](02_nowhere.ipynb)"),
        lambda n: n["cells"][0].update(source="![](lessons.toml)"),
        lambda n: n["cells"][0].update(source='<img src="a.png">'),
    ],
    "citations": [lambda n: n["cells"][0].update(source="(Nobody, 1999; `nobody1999nothing`)")],
    "compared": [lambda n: [cell["metadata"]["tags"].append("nbval-skip") for cell in rules.code_cells(n)[:6]]],
    "guesses": [
        lambda n: n["cells"][4].update(source="pass"),
        lambda n: n["cells"][3].update(source="guess = 0.5"),
        lambda n: n["cells"][3].update(source="pass"),
    ],
    "exercises": [
        lambda n: n["cells"].pop(),
        lambda n: n["cells"][5].update(source="answer = 2"),
        lambda n: n["cells"][6].update(source="print(answer)"),
        lambda n: n["cells"][7].update(source="see the forum"),
    ],
    "habits": [
        lambda n: n["cells"][2].update(source="!ls"),
        lambda n: n["cells"][2].update(source="sys.path.append(1)"),
    ],
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_pass_a_sound_notebook(rule: str):
    assert RULES[rule](sound()) == []


@pytest.mark.parametrize(("rule", "fault"), [(rule, fault) for rule in FAULTS for fault in FAULTS[rule]])
def test_rules_notice_faults(rule: str, fault):
    notebook = copy.deepcopy(sound())
    fault(notebook)
    assert RULES[rule](notebook) != []


def test_every_rule_has_a_fault():
    assert set(RULES) == set(FAULTS)


def test_navigation_is_noticed():
    assert len(rules.navigation(sound(), "[index](../README.md)")) == 2


def test_long_definitions_may_be_whole():
    notebook = sound()
    notebook["cells"][2].update(source="a = 1\n" * 31)
    notebook["cells"][2]["metadata"]["tags"] = ["definition"]
    assert rules.lengths(notebook) == []


def test_solutions_replace_exercises():
    solved = rules.with_solutions(sound())
    assert [cell["source"] for cell in solved["cells"] if "exercise" in cell["metadata"]["tags"]] == ["answer = 2"] * 3
    assert sound()["cells"][5]["source"] == "answer = ..."
