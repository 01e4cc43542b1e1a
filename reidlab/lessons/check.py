"""Guesses and exercises that check themselves: one printed line each, never an exception.

`...` means "not attempted yet" everywhere, so that *Run All* and batch runs of a fresh lesson end well.

Taught in: notebooks/00_start_here.ipynb
"""

from __future__ import annotations

import copy
import dis
import math
import platform
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reidlab.lessons.compare import as_numbers, difference, is_number, show
from reidlab.progress import say
from reidlab.results import MINIMUM, installed

__all__ = ["environment", "exercise", "function", "predict"]

Hints = Mapping[Any, str] | Sequence[tuple[Any, str]]


def environment() -> None:
    """Print one line for each package the lessons need: there and new enough, or what to do.

    The lines name the versions needed, not the ones installed, so they are the same on every computer that is
    in order.

    Example:
        >>> environment()  # doctest: +ELLIPSIS
        ✓ python 3.10 or newer
        ✓ torch 2.6 or newer...
    """

    def numbers(version: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", version)[:3]]

    for package, minimum in {"python": "3.10", **MINIMUM}.items():
        found = platform.python_version() if package == "python" else installed(package)
        if found is not None and numbers(found) >= numbers(minimum):
            say(f"✓ {package} {minimum} or newer")
        else:
            there = f"{package} is not installed" if found is None else f"{package} {found} is installed"
            say(f"✗ {there}; {minimum} or newer is needed: pip install -e '.[lessons]'")


def predict(name: str, guess: Any, truth: Any, unit: str = "", tolerance: float | None = None) -> None:
    """Compare a guess, made before looking, with what was measured; print one line.

    Nothing fails here, and the measured value is not shown before there is a guess.

    Args:
        name: what was to be guessed, as the line's beginning.
        guess: a number, a text (one of several choices), True or False, or a list of such; `...` for none yet.
        truth: what was measured, of the same kind.
        unit: written after numbers; with "%" the distance is in points.
        tolerance: how far off still counts as close, in the unit of `truth`; 10 % of `truth` if not given.

    Example:
        >>> predict("rank-1 of a random ranking", 0.30, 0.62)
        → rank-1 of a random ranking: you guessed 0.3, measured 0.62: too low by a factor of 2.07.
        >>> predict("rank-1", 60, 62, unit="%")
        → rank-1: you guessed 60 %, measured 62 %: close, 2 points off.
        >>> predict("which box is larger", "b", truth="b")
        → which box is larger: you guessed 'b', and that is right.
        >>> predict("images", ..., 14096)
        … images: no guess yet. Replace the ... in `guess = ...`, then run both cells.
    """
    if guess is ...:
        line = f"… {name}: no guess yet. Replace the ... in `guess = ...`, then run both cells."
    elif is_number(truth):
        line = _compare_numbers(name, guess, truth, unit, tolerance)
    else:
        line = _compare_choices(name, guess, truth)
    say(line)


def exercise(name: str, answer: Any, expected: Any, hints: Hints | None = None, tolerance: float | None = None) -> None:
    """Check the answer to an exercise; print ✓, or ✗ with the difference and a hint.

    Args:
        name: the exercise's name, as the line's beginning.
        answer: the student's answer: a number, text, list, set, dict, numpy array or tensor; `...` for none yet.
        expected: the right answer, or a function that takes the answer and returns True, False, or a text
            that says what is wrong (for exercises with more than one right answer).
        hints: for likely wrong answers, `{wrong answer: message}`; a key may be a function of the answer that
            returns True where its message helps. Pairs `[(wrong, message), ...]` serve for arrays as keys.
        tolerance: largest allowed difference, relative to the largest expected value; if not given, 1e-4, and
            whole numbers must be met exactly.

    Example:
        >>> exercise("1", 0.5, 0.53, tolerance=0.01, hints={0.5: "that is the mean over all ranks"})
        ✗ 1: got 0.5, which is 0.03 away from the right value. Hint: that is the mean over all ranks
        >>> exercise("2", [[1.0, 2.0]], [[1.0, 2.0]])
        ✓ 2
        >>> exercise("3", ..., 7)
        … 3: not attempted yet. Replace the ... and run both cells.
    """
    if answer is ...:
        say(_not_attempted(name))
        return
    found = _judge(answer, expected, tolerance)
    say(f"✓ {name}" if found is None else f"✗ {name}: {found}{_hint(answer, hints, tolerance)}")


def function(
    name: str, fn: Any, cases: Iterable[tuple[Any, Any]], hints: Hints | None = None, tolerance: float | None = None
) -> None:
    """Check a function that the student wrote, case by case; print one line, for the first case that fails.

    Whatever the function raises is caught and shown in that line, with the line of the function it came from.
    Arguments are copied, so a function that changes its input cannot spoil the next case.

    Args:
        name: the exercise's name, as the line's beginning.
        fn: the student's function; `...`, or a function that is still empty, counts as not attempted.
        cases: pairs of arguments (a tuple; anything else is taken as the only argument) and the expected result.
        hints: as in `exercise`, for results.
        tolerance: as in `exercise`.

    Example:
        >>> function("4", lambda x: x + 1, [((1,), 2), ((2,), 3)])
        ✓ 4 (2 cases)
        >>> function("5", lambda x: 1 / x, [((2,), 0.5), ((0,), float("inf"))])
        ✗ 5: fn(0) raised ZeroDivisionError: division by zero (line 1 of your function)
    """
    if fn is ... or _is_empty(fn):
        say(_not_attempted(name))
        return
    if not callable(fn):
        say(f"✗ {name}: got {show(fn)}, expected a function")
        return
    cases = list(cases)
    for arguments, expected in cases:
        arguments = arguments if isinstance(arguments, tuple) else (arguments,)
        line = _failing_case(name, fn, arguments, expected, hints, tolerance)
        if line is not None:
            say(line)
            return
    say(f"✓ {name} ({len(cases)} case{'s' if len(cases) != 1 else ''})")


def _failing_case(
    name: str, fn: Any, arguments: tuple, expected: Any, hints: Hints | None, tolerance: float | None
) -> str | None:
    fn_name = str(getattr(fn, "__name__", "fn")).replace("<lambda>", "fn")
    call = f"{fn_name}({', '.join(map(show, arguments))})"
    try:
        result = fn(*copy.deepcopy(arguments))
    except Exception as error:
        return f"✗ {name}: {call} raised {_one_line(error)}{_line_in(fn, error)}"
    if result is ...:
        return _not_attempted(name)
    if result is None and expected is not None:
        return f"✗ {name}: {call} returned None; does the function end in `return`?"
    found = _judge(result, expected, tolerance)
    return None if found is None else f"✗ {name}: {call}: {found}{_hint(result, hints, tolerance)}"


def _not_attempted(name: str) -> str:
    return f"… {name}: not attempted yet. Replace the ... and run both cells."


def _compare_numbers(name: str, guess: Any, truth: Any, unit: str, tolerance: float | None) -> str:
    if not is_number(guess):
        return _other_kind(name, "a number", guess)
    mine, right = (float(as_numbers(value).reshape(()).item()) for value in (guess, truth))
    if not math.isfinite(mine):
        return _other_kind(name, "a finite number", guess)
    if not math.isfinite(right):
        return f"? {name}: what was measured is {show(truth)}, not a number; was a cell above changed or left out?"
    space = f" {unit}" if unit else ""
    line = f"→ {name}: you guessed {show(guess)}{space}, measured {show(truth)}{space}: "
    away, allowed = abs(mine - right), 0.1 * abs(right) if tolerance is None else tolerance
    points = f"{show(away)} {'points' if unit == '%' else unit}".strip()
    if away == 0:
        return line + "exactly right."
    if away <= allowed:
        return line + f"close, {points} off."
    direction = "too low" if mine < right else "too high"
    if unit != "%" and mine * right > 0 and max(mine / right, right / mine) >= 1.5:
        return line + f"{direction} by a factor of {show(max(mine / right, right / mine))}."
    return line + f"{direction} by {points}."


def _compare_choices(name: str, guess: Any, truth: Any) -> str:
    kinds = (str, "a text in quotes"), (bool, "True or False"), ((list, tuple), "a list")
    for kind, expected in kinds:
        if isinstance(truth, kind) and not isinstance(guess, kind):
            return _other_kind(name, expected, guess)
    if _judge(guess, truth, 0.0) is None:
        return f"→ {name}: you guessed {show(guess)}, and that is right."
    return f"→ {name}: you guessed {show(guess)}, measured {show(truth)}."


def _other_kind(name: str, expected: str, guess: Any) -> str:
    return f"? {name}: a guess for this is {expected}, got {show(guess)}. Change `guess` and run both cells."


def _judge(answer: Any, expected: Any, tolerance: float | None) -> str | None:
    try:
        if callable(expected):
            verdict = expected(answer)
            if isinstance(verdict, str):
                return verdict or None
            return None if verdict else f"got {show(answer)}"
        return difference(answer, expected, tolerance)
    except Exception as error:  # an answer of any type may come in; the lesson must continue
        return f"got {show(answer)}, which cannot be compared ({_one_line(error)})"


def _hint(answer: Any, hints: Hints | None, tolerance: float | None) -> str:
    pairs = hints.items() if isinstance(hints, Mapping) else hints or ()
    for wrong, message in pairs:
        try:
            fits = bool(wrong(answer)) if callable(wrong) else difference(answer, wrong, tolerance) is None
        except Exception:  # a hint made for another type of answer does not fit this one
            fits = False
        if fits:
            return f". Hint: {message}"
    return ""


def _is_empty(fn: Any) -> bool:
    code = getattr(fn, "__code__", None)
    if code is None:
        return False
    harmless = {"RESUME", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE", "NOP", "COPY_FREE_VARS"}
    steps = list(dis.get_instructions(code))
    constants = [step.argval for step in steps if step.opname in ("LOAD_CONST", "RETURN_CONST")]
    return all(step.opname in harmless for step in steps) and constants == [None]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:150]}" if text else type(error).__name__


def _line_in(fn: Any, error: Exception) -> str:
    code = getattr(fn, "__code__", None)
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_code is code and code is not None:
            return f" (line {line - code.co_firstlineno + 1} of your function)"
    return ""
