"""From parameters to a data set, a device, a record of results, a table of contents."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from reidlab.errors import DataError
from reidlab.lessons import results, setup
from reidlab.lessons.contents import PROFILES, catalogue, header, table
from reidlab.lessons.parameters import literals, parse_parameters, read_notebook, read_parameters
from reidlab.walkers import World, writer

SCORE = {"dataset": "Walkers", "box": "labeled", "protocol": "new", "rule": "market", "metric": "cosine"}
SCORE |= {"ap_formula": "step", "seeds": [0]}


def test_the_same_lesson_opens_the_world_and_the_real_layout(tmp_path, tiny_world, monkeypatch):
    def fill(world, folder, *_):
        assert world.key == World.preset("tiny").key
        shutil.copytree(tiny_world, folder, dirs_exist_ok=True)

    monkeypatch.setattr(writer, "_fill", fill)  # the same files, drawn already
    world = setup.open_dataset("walkers", tmp_path, box="labeled", profile="smoke")
    folder = tmp_path / "walkers-tiny"
    real = setup.open_dataset("cuhk03", folder, box="labeled", profile="smoke")
    assert len(world.train) > 0 and world.train == real.train and world.query == real.query
    detected = setup.open_dataset("cuhk03", folder, box="detected", profile="smoke")
    assert detected.box == "detected"
    before = (folder / "cuhk03_release" / "cuhk-03.mat").stat().st_mtime_ns
    classic = setup.open_dataset("walkers", tmp_path, box="labeled", profile="smoke", protocol="classic", split=1)
    assert (folder / "cuhk03_release" / "cuhk-03.mat").stat().st_mtime_ns == before  # not written again
    assert "classic" in classic.protocol and classic.query != world.query


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="DATASET is 'mars', expected one of 'walkers', 'cuhk03'"):
        setup.open_dataset("mars", tmp_path, box="labeled", profile="smoke")
    with pytest.raises(ValueError, match="PROFILE is 'fast', expected one of 'smoke', 'laptop', 'gpu'"):
        setup.open_dataset("walkers", tmp_path, box="labeled", profile="fast")
    with pytest.raises(FileNotFoundError):
        setup.open_dataset("cuhk03", tmp_path / "absent", box="labeled", profile="smoke")
    assert list(tmp_path.iterdir()) == []


def test_device():
    assert setup.device("auto").type in ("cpu", "cuda")
    assert setup.device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="DEVICE is 'gpu0'"):
        setup.device("gpu0")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"DEVICE is 'cuda'.*always works"):
            setup.device("cuda")


def test_results_are_written_only_for_the_runner(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv(results.FOLDER_VARIABLE, raising=False)
    results.write("00_start_here", rank1=np.float32(0.5), **SCORE)
    assert capsys.readouterr().out.startswith("00_start_here: rank1 0.5, dataset Walkers, ")
    monkeypatch.setenv(results.FOLDER_VARIABLE, str(tmp_path))
    results.write("00_start_here", rank1=np.float32(0.5), cmc=torch.tensor([0.5, 1.0]), **SCORE)
    content = json.loads((tmp_path / "00_start_here.json").read_text())
    assert content["rank1"] == 0.5 and content["cmc"] == [0.5, 1.0] and content["lesson"] == "00_start_here"
    assert {"date", "hardware", "versions", "command"} <= set(content)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": float("nan")}, "loss is nan"),
        ({"rank1": 0.5}, "got rank1 without dataset, box, protocol"),
        ({**SCORE, "rank1": 62.0}, "rank1 is 62.0, expected a share"),
    ],
)
def test_results_refuse_what_cannot_be_read_later(tmp_path, monkeypatch, values, message):
    monkeypatch.setenv(results.FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(ValueError, match=message):
        results.write("x", **values)
    assert list(tmp_path.iterdir()) == []


def test_the_table_of_contents_is_complete():
    lessons = catalogue()
    numbers = [lesson.number for lesson in lessons]  # lessons still to be written leave gaps
    assert numbers == sorted(numbers)
    for lesson in lessons:
        assert set(lesson.minutes) <= set(PROFILES) and lesson.needs
        assert 3 <= len(lesson.objectives) <= 5 and lesson.goal.endswith(".")
        assert lesson.minutes["smoke"] <= 0.5 and lesson.minutes["laptop"] <= 6
        assert f"({lesson.notebook})" not in header(lesson.stem)  # a lesson does not link to itself
    assert sum(lesson.minutes["laptop"] for lesson in lessons) <= 30
    assert table().count("\n") == len(lessons) + 1


def test_navigation_leads_to_neighbours_only():
    lessons = catalogue()
    first, last = header(lessons[0].stem), header(lessons[-1].stem)
    assert "←" not in first and "→" not in last and "[index](../README.md)" in first
    for before, after in pairwise(lessons):
        assert f"[{after.number} {after.title} →]({after.notebook})" in header(before.stem)
        assert f"[← {before.number} {before.title}]({before.notebook})" in header(after.stem)
    with pytest.raises(ValueError, match="got lesson '99_none'"):
        header("99_none")


GOOD = '[00_a]\ntitle = "A"\ngoal = "G."\nobjectives = ["do"]\nneeds = []\nminutes = { smoke = 0.5, laptop = 1 }\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[00_a", "not a table of contents"),
        (GOOD.replace('goal = "G."\n', ""), "missing .* 'goal'"),
        (GOOD.replace("goal", "aim"), "'aim'"),
    ],
)
def test_damaged_tables_of_contents(tmp_path, text, message):
    path = tmp_path / "lessons.toml"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        catalogue(path)


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [("3", 0, 3), ("3", 0.5, 3.0), ("True", False, True), ("3", "text", "3"), ("smoke", None, "smoke")],
)
def test_parameters_take_the_type_of_the_default(text, default, expected):
    value = parse_parameters([("X", text)], {"X": default})["X"]
    assert value == expected and type(value) is type(expected)


@pytest.mark.parametrize(
    ("pairs", "known", "message"),
    [
        ([("EPOCH", "3")], {"EPOCHS": 1, "SEED": 0}, "unknown parameter EPOCH; known are EPOCHS, SEED"),
        ([("FAST", "no")], {"FAST": True}, "FAST: got 'no', expected True or False such as True"),
        ([("N", "abc")], {"N": 3}, "N: got 'abc', expected a whole number such as 3"),
        ([("N", "True")], {"N": 3}, "N: got 'True', expected a whole number"),
        ([("N", "1"), ("N", "2")], {"N": 3}, "parameter N is given twice"),
        ([("L", "3")], {"L": [1]}, "L: got '3', expected a list"),
        ([("X", "nan")], {"X": 0.5}, "X: got 'nan', expected a number"),
        ([("X", "1e999")], {"X": 0.5}, "X is inf; only finite"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(pairs, known, message):
    with pytest.raises(ValueError, match=message):
        parse_parameters(pairs, known)


@pytest.mark.parametrize("source", ["A = len('x')", "A += 1", "import os", "A = B = 1", "A: int", "A = "])
def test_parameters_cells_hold_literals_only(source):
    with pytest.raises(DataError, match="may hold only lines such as NAME = 3"):
        literals(source)
    assert literals("A: int = -1\n# note\nB = None") == {"A": -1, "B": None}


@pytest.mark.parametrize("text", ["", "[]", '{"nbformat": 3}', '{"nbformat": 4}', "\x00\xff"])
def test_files_that_are_no_notebooks(tmp_path, text):
    path = tmp_path / "x.ipynb"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"x\.ipynb: is not a notebook"):
        read_notebook(path)
    with pytest.raises(FileNotFoundError, match="no such notebook"):
        read_parameters(tmp_path / "y.ipynb")


@pytest.mark.parametrize("path", sorted((REPOSITORY / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_papermill_sees_the_same_parameters(path):
    import papermill

    assert set(papermill.inspect_notebook(str(path))) == set(read_parameters(path))


def test_a_record_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(FileNotFoundError, match=r"nothing\.json: no such record; results/ holds .*world_speed"):
        results.recorded("nothing")


def test_a_relative_folder_starts_at_the_notebooks_wherever_the_kernel_runs(tmp_path, monkeypatch):
    from_here = setup.from_notebooks("../data").resolve()
    monkeypatch.chdir(tmp_path)
    assert setup.from_notebooks("../data").resolve() == from_here
    assert setup.from_notebooks(tmp_path) == tmp_path
    monkeypatch.chdir(from_here)
    assert setup.from_notebooks("../data") == Path()
