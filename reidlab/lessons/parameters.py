"""A notebook's parameters: which there are, and whether given values fit them."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reidlab.errors import DataError
from reidlab.results import plain


def read_notebook(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a notebook file as plain JSON.

    Raises:
        FileNotFoundError: no such file.
        DataError: the file cannot be read, or is not a notebook of format 4.
    """
    path = Path(path)
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such notebook") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
        raise DataError(f"{path}: is not a notebook ({error}); get it again from the repository") from None
    if not isinstance(notebook, dict) or notebook.get("nbformat") != 4 or not isinstance(notebook.get("cells"), list):
        raise DataError(f"{path}: is not a notebook of format 4; open and save it once in JupyterLab")
    for number, cell in enumerate(notebook["cells"]):
        if not _is_cell(cell):
            raise DataError(f"{path}: cells[{number}] is not a cell of format 4; get the notebook again")
    return notebook


def _is_cell(cell: Any) -> bool:
    if not isinstance(cell, dict) or not isinstance(cell.get("cell_type"), str):
        return False
    source, metadata = cell.get("source"), cell.get("metadata", {})
    tags = metadata.get("tags", []) if isinstance(metadata, dict) else None
    lists = [part for part in (source, tags) if not isinstance(part, str)]
    return not isinstance(tags, str) and all(
        isinstance(part, list) and all(isinstance(text, str) for text in part) for part in lists
    )


def source_of(cell: Mapping[str, Any]) -> str:
    """Return a cell's text; files hold it as one text or as a list of lines.

    Example:
        >>> source_of({"source": ["a = 1\\n", "b = 2"]})
        'a = 1\\nb = 2'
    """
    source = cell["source"]
    return source if isinstance(source, str) else "".join(source)


def tags_of(cell: Mapping[str, Any]) -> list[str]:
    """Return a cell's tags.

    Example:
        >>> tags_of({"metadata": {"tags": ["exercise"]}}), tags_of({"metadata": {}})
        (['exercise'], [])
    """
    return list(cell.get("metadata", {}).get("tags", []))


def read_parameters(notebook: str | os.PathLike[str]) -> dict[str, Any]:
    """Return a notebook's parameters with their defaults, from the one cell tagged `parameters`.

    Args:
        notebook: the file.

    Raises:
        DataError: there is no such cell, more than one, or it holds anything but assignments of literals.
    """
    cells = [c for c in read_notebook(notebook)["cells"] if c["cell_type"] == "code" and "parameters" in tags_of(c)]
    if len(cells) != 1:
        raise DataError(f"{notebook}: has {len(cells)} cells tagged `parameters`, expected exactly one")
    return literals(source_of(cells[0]), str(notebook))


def literals(source: str, where: str = "parameters") -> dict[str, Any]:
    """Read `NAME = literal` lines without running them.

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
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            if len(targets) != 1 or not isinstance(targets[0], ast.Name) or getattr(statement, "value", None) is None:
                raise ValueError(f"line {statement.lineno}")
            if isinstance(statement, ast.AugAssign):
                raise ValueError(f"line {statement.lineno}")
            value = ast.literal_eval(statement.value)
            plain(targets[0].id, value)  # refuses what a record cannot hold
            found[targets[0].id] = value
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        message = f"{where}: the parameters cell may hold only lines such as NAME = 3, one literal each ({error})"
        raise DataError(message) from None
    return found


def parse_parameters(given: Iterable[tuple[str, str]], known: Mapping[str, Any]) -> dict[str, Any]:
    """Turn texts from a command line into values of the types that a notebook's defaults have.

    The texts `True`, `False` and `None` and Python's numbers are literals, as for papermill; unlike papermill, a
    value that does not fit the default's type is refused. A whole number fits where a float is expected; for a text,
    any text does; where the default is None, anything does.

    Args:
        given: pairs of name and text.
        known: the notebook's parameters with their defaults.

    Raises:
        ValueError: an unknown name (the known ones are listed), a name given twice, a value of another type.

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
        values[name] = _value(name, text, known[name])
    return values


def _value(name: str, text: str, default: Any) -> Any:
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        value = _number(text)
    kind = type(default)
    if default is None or type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    expected = {bool: "True or False", int: "a whole number", float: "a number"}.get(kind, f"a {kind.__name__}")
    raise ValueError(f"{name}: got {text!r}, expected {expected} such as {default!r}")


def _number(text: str) -> Any:
    try:
        return float(text)  # "nan" and "inf" are numbers on a command line, though not literals
    except ValueError:
        return text
