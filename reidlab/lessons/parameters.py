"""A notebook's parameters: which there are, and whether given values fit them."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reidlab.errors import DataError
from reidlab.results import plain


def read_notebook(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and validate a notebook file; formats before 4 are converted.

    Raises:
        FileNotFoundError: no such file.
        DataError: the file cannot be read, or is not a notebook.
    """
    import nbformat

    try:
        notebook = nbformat.read(Path(path), as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such notebook") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # whatever a damaged file leads to inside nbformat
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: is not a notebook ({reason}); get it again from the repository") from None
    return notebook


def read_parameters(notebook: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a notebook's parameters with their defaults, from the one cell tagged `parameters`.

    Raises:
        DataError: there is no such cell, more than one, or it holds anything but assignments of literals.
    """
    code = (cell for cell in read_notebook(notebook)["cells"] if cell["cell_type"] == "code")
    cells = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise DataError(f"{notebook}: has {len(cells)} cells tagged `parameters`, expected exactly one")
    return literals(cells[0]["source"], str(notebook))


def literals(source: str, where: str = "parameters") -> dict[str, Any]:
    """Read `NAME = literal` lines without running them.

    `papermill.inspect_notebook` gives the names, but texts in place of values, and passes over other lines.

    Args:
        source: Python text.
        where: named in messages.

    Raises:
        DataError: anything else is in the text.

    Example:
        >>> literals('PROFILE = "laptop"  # smoke, laptop or gpu')
        {'PROFILE': 'laptop'}
    """
    found: dict[str, Any] = {}
    try:
        for statement in ast.parse(source).body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    found[name] = ast.literal_eval(value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    found[name] = ast.literal_eval(value)
                case _:
                    raise ValueError(f"line {statement.lineno}")
            plain(name, found[name])  # refuses what a record cannot hold
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        message = f"{where}: the parameters cell may hold only lines such as NAME = 3, one literal each ({error})"
        raise DataError(message) from None
    return found


def parse_parameters(given: Iterable[tuple[str, str]], known: Mapping[str, Any]) -> dict[str, Any]:
    """Turn texts from a command line into values of the types that a notebook's defaults have.

    A whole number fits where a float is expected; any text fits where the default is one; anything where it is None.

    Args:
        given: pairs of name and text.
        known: the notebook's parameters with their defaults.

    Raises:
        ValueError: an unknown name (the known ones are listed), a name given twice, a value of another type, or one
            that is not finite.

    Example:
        >>> parse_parameters([("SEED", "3"), ("DATA_DIR", "2024")], {"SEED": 0, "DATA_DIR": "../data"})
        {'SEED': 3, 'DATA_DIR': '2024'}
        >>> parse_parameters([("SEED", "no")], {"SEED": 0})
        Traceback (most recent call last):
        ValueError: SEED: got 'no', expected a whole number such as 0
    """
    values: dict[str, Any] = {}
    for name, text in given:
        if name not in known:
            raise ValueError(f"unknown parameter {name}; known are {', '.join(known) or 'none'}")
        if name in values:
            raise ValueError(f"parameter {name} is given twice")
        default = known[name]
        try:
            value = text if isinstance(default, str) else ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = text
        if type(value) is int and isinstance(default, float):
            value = float(value)
        if default is not None and type(value) is not type(default):
            kind = type(default)
            expected = {bool: "True or False", int: "a whole number", float: "a number"}.get(kind, f"a {kind.__name__}")
            raise ValueError(f"{name}: got {text!r}, expected {expected} such as {default!r}")
        plain(name, value)  # refuses what results.json cannot hold
        values[name] = value
    return values
