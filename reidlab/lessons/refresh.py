"""Executing the committed notebooks in place, so that their outputs belong to their code."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reidlab.errors import DataError
from reidlab.files import atomic_path
from reidlab.lessons.environment import check_runnable
from reidlab.lessons.execute import own_kernel
from reidlab.lessons.parameters import read_parameters
from reidlab.lessons.processes import kernel_environment
from reidlab.lessons.run import find_notebooks
from reidlab.lessons.summary import LessonResult, print_result
from reidlab.progress import say

KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def refresh(
    notebooks: Sequence[str | os.PathLike[str]] | None = None, timeout: float | None = None
) -> list[LessonResult]:
    """Execute notebooks with their own defaults and store the outputs in them.

    Times, versions and widget states are left out, so that executing twice changes nothing but what was measured.
    A notebook in which a cell raised stays as it was.

    Args:
        notebooks: as for `run_lessons`; all lessons if empty.
        timeout: seconds that one cell may take; no limit if not given.

    Returns:
        One result for each notebook; "passed" means written. Failures are results, not exceptions.

    Raises:
        FileNotFoundError: a notebook does not exist, or what runs them is not installed.
    """
    check_runnable()
    results = []
    for path in find_notebooks(notebooks):
        say(f"… {path.stem}")
        started = time.monotonic()
        parameters, message = {}, None
        try:
            parameters = read_parameters(path)
            message = _refresh(path, parameters, timeout)
        except DataError as error:
            message = str(error)
        except Exception as error:  # of nbformat or the kernel: it ends this one notebook, the others are executed
            message = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; nothing written"
        seconds = round(time.monotonic() - started, 1)
        results.append(LessonResult(path.stem, "failed" if message else "passed", seconds, parameters, message, path))
        print_result(results[-1])
    return results


def clean(notebook: Any) -> None:
    """Take out of a notebook what says when and with what it was run; set the kernel to `python3`.

    Args:
        notebook: an nbformat node; changed in place.

    Example:
        >>> from nbformat.v4 import new_code_cell, new_notebook
        >>> notebook = new_notebook(cells=[new_code_cell("1", metadata={"execution": {"iopub.status.idle": "now"}})])
        >>> clean(notebook)
        >>> notebook.cells[0].metadata, notebook.metadata["kernelspec"]["name"]
        ({}, 'python3')
    """
    language = dict(notebook.metadata.get("language_info", {"name": "python"}))
    language.pop("version", None)
    notebook.metadata = type(notebook.metadata)({"kernelspec": dict(KERNELSPEC), "language_info": language})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        cell.metadata.pop("papermill", None)


def _refresh(path: Path, parameters: dict[str, Any], timeout: float | None) -> str | None:
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    if parameters.get("PROFILE") != "laptop":
        return f"its PROFILE is {parameters.get('PROFILE')!r}; lessons are committed in the profile 'laptop'"
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=timeout and int(max(1, timeout)),
        kernel_name="python3",
        kernel_manager_class=own_kernel(),
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    )
    try:
        client.execute(env=kernel_environment(jobs=1))
    except CellExecutionError as error:
        return f"a cell raised {error.ename}: {error.evalue.splitlines()[0] if error.evalue else ''}; nothing written"
    except (CellTimeoutError, DeadKernelError) as error:
        return f"{str(error).splitlines()[0]}; nothing written"
    clean(notebook)
    with atomic_path(path) as temporary:
        nbformat.write(notebook, temporary)
    return None
