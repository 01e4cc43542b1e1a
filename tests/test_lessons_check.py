"""Checks print one line, whatever they are given, and never raise."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlab.lessons import check
from reidlab.lessons.compare import difference


@pytest.fixture
def line(capsys):
    """Call a check and return what it printed, which must be one line."""

    def call(function, *args, **kwargs) -> str:
        assert function(*args, **kwargs) is None  # a value would show up under the cell
        out = capsys.readouterr().out
        assert out.count("\n") == 1 and out.endswith("\n")
        return out.strip()

    return call


@pytest.mark.parametrize(
    ("guess", "truth", "options", "expected"),
    [
        (20, 62.0, {"unit": "%"}, "you guessed 20 %, measured 62 %: too low by 42 points."),
        (14000, 14096, {"unit": "images"}, "you guessed 14,000 images, measured 14,096 images: close, 96 images off."),
        (1, 0, {}, "you guessed 1, measured 0: too high by 1."),
        (0.7, 0.5, {}, "you guessed 0.7, measured 0.5: too high by 0.2."),
        (0.7, 0.5, {"tolerance": 0.3}, "you guessed 0.7, measured 0.5: close, 0.2 off."),
        (torch.tensor(0.5), np.float32(0.5), {}, "you guessed 0.5, measured 0.5: exactly right."),
        ("B ", "b", {}, "you guessed 'B ', and that is right."),
        ("a", "b", {}, "you guessed 'a', measured 'b'."),
        (True, False, {}, "you guessed True, measured False."),
        ((2, 0, 1), [2, 0, 1], {}, "you guessed (2, 0, 1), and that is right."),
    ],
)
def test_predict(line, guess, truth, options, expected):
    assert line(check.predict, "it", guess, truth, **options) == f"→ it: {expected}"


@pytest.mark.parametrize(
    ("guess", "truth", "expected"),
    [
        ("0.3", 0.62, "is a number, got '0.3'"),
        (True, 0.62, "is a number, got True"),
        (float("nan"), 0.62, "is a finite number, got nan"),
        (0.5, float("nan"), "what was measured is nan"),
        (2, "b", "is a text in quotes, got 2"),
        (1, True, "is True or False, got 1"),
        (1, [1, 2], "is a list, got 1"),
    ],
)
def test_predict_of_the_wrong_kind_is_friendly(line, guess, truth, expected):
    printed = line(check.predict, "it", guess, truth)
    assert printed.startswith("? it: ") and expected in printed


@settings(max_examples=40)
@given(st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(), st.lists(st.floats()), st.binary()))
def test_nothing_raises(value):
    for other in (0.5, 3, "b", True, [1.0, 2.0], {1, 2}, {"a": 1}, None, np.eye(2), torch.eye(2)):
        check.predict("it", value, other)
        check.exercise("it", value, other, hints=[(value, "hint"), (lambda answer: answer > 1, "other")])
        check.function("it", lambda x, value=value: value, [((0,), other)])


@pytest.mark.parametrize(
    ("answer", "expected", "printed"),
    [
        (0.5, 0.53333, "✗ 1: got 0.5, which is 0.0333 away from the right value"),
        (14097, 14096, "✗ 1: got 14,097, which is 1 away from the right value"),
        (2.9999999, 3, "✓ 1"),
        (True, 1, "✗ 1: got True, expected a whole number"),
        (1, True, "✗ 1: got 1, expected True or False"),
        (torch.eye(2, dtype=torch.bfloat16), torch.eye(2), "✓ 1"),
        (np.zeros((2, 3)), np.zeros((3, 2)), "✗ 1: got shape (2, 3), expected shape (3, 2)"),
        ([1, 2, 4], [1, 2, 3], "✗ 1: 1 of 3 values differ, the largest difference is 1 at [2]: got 4"),
        ([1.0, float("nan")], [1.0, 2.0], "✗ 1: 1 of 2 values are not a number (nan)"),
        ([float("inf"), float("nan")], [float("inf"), float("nan")], "✓ 1"),
        ([True, False], [True, True], "✗ 1: 1 of 2 values differ"),
        ({1, 2}, {1, 3}, "✗ 1: 1 missing and 2 should not be there"),
        ([3, 1], {1, 3}, "✓ 1"),
        ({"a": 1}, {"a": 2}, "✗ 1: at 'a': got 1, which is 1 away from the right value"),
        ({"b": 1}, {"a": 1}, "✗ 1: keys: 1 missing and 'b' should not be there"),
        (["x", "y"], ["x", "z"], "✗ 1: item 1: got 'y'"),
        (" Labeled ", "labeled", "✓ 1"),
        (5, "labeled", "✗ 1: got 5, expected a text in quotes"),
        (5, lambda answer: answer % 2 == 1, "✓ 1"),
        (4, lambda answer: "must be odd" if answer % 2 == 0 else True, "✗ 1: must be odd"),
    ],
)
def test_exercise(line, answer, expected, printed):
    assert line(check.exercise, "1", answer, expected) == printed


def test_tolerance_and_hints(line):
    assert line(check.exercise, "1", 0.53, 0.53333, tolerance=0.01) == "✓ 1"
    hints = {0.5: "that is the mean", (lambda answer: answer > 1): "a share lies in [0, 1]"}
    assert line(check.exercise, "1", 0.5, 0.62, hints=hints).endswith("Hint: that is the mean")
    assert line(check.exercise, "1", 53, 0.62, hints=hints).endswith("Hint: a share lies in [0, 1]")
    assert "Hint" not in line(check.exercise, "1", "text", 0.62, hints=hints)
    twice = line(check.exercise, "1", torch.ones(2) * 2, torch.ones(2), hints=[(torch.ones(2) * 2, "halve it")])
    assert twice.endswith("Hint: halve it")


def test_scale_of_numbers_does_not_matter():
    for scale in (1e-12, 1.0, 1e12):
        assert difference([scale, 2 * scale], [scale, 2 * scale * (1 + 1e-6)], None) is None
        assert difference([scale, 2 * scale], [scale, 2.1 * scale], None) is not None


def test_function_finds_the_failing_case(line):
    def mean(values):
        total = sum(values)
        return total / len(values)

    assert line(check.function, "2", mean, [(([1, 2],), 1.5), (([3],), 3)]) == "✓ 2 (2 cases)"
    printed = line(check.function, "2", mean, [(([1, 2],), 1.5), (([],), 0)])
    assert printed == "✗ 2: mean([]) raised ZeroDivisionError: division by zero (line 3 of your function)"
    assert line(check.function, "2", mean, [(([1, 2],), 3)], hints={1.5: "sum"}).endswith(
        "away from the right value. Hint: sum"
    )


def test_function_not_written_yet(line):
    def empty(values): ...

    def ellipsis(values):
        return ...

    def forgot(values):
        values + 1

    for function in (..., empty, ellipsis):
        assert "not attempted yet" in line(check.function, "2", function, [((1,), 2)])
    assert "does the function end in `return`?" in line(check.function, "2", forgot, [((1,), 2)])
    assert "expected a function" in line(check.function, "2", 3, [((1,), 2)])


def test_function_cannot_spoil_its_arguments(line):
    def add_in_place(values):
        values += 1
        return values

    zeros = np.zeros(2)
    assert line(check.function, "2", add_in_place, [((zeros,), np.ones(2)), (zeros, np.ones(2))]) == "✓ 2 (2 cases)"
    assert zeros.sum() == 0


def test_environment_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(check, "installed", lambda package: {"torch": "2.3.1", "numpy": None}.get(package, "99"))
    check.environment()
    printed = capsys.readouterr().out
    assert "✗ torch 2.3.1 is installed; 2.6 or newer is needed" in printed
    assert "✗ numpy is not installed; 1.26 or newer is needed" in printed
    assert "✓ scipy 1.11 or newer" in printed
    assert not re.search(r"\d\.\d+\.\d+", printed.replace("2.3.1", ""))  # exact versions would break strict comparison


def test_checks_do_not_load_torch():
    code = "import reidlab.lessons.check, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
