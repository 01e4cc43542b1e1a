"""One lesson in a process of its own: `python -m reidlab.lessons.execute JOB.json`. Started by the runner."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from reidlab.files import write_json
from reidlab.signals import end_with_parent


def execute(job: dict[str, Any]) -> str | None:
    """Run one notebook with papermill and make its page.

    Args:
        job: `notebook`, `output`, `page` (or None), `parameters`, `timeout` (seconds for one cell, or None),
            and for `main` the process id of the `runner`.

    Returns:
        None if every cell ran, else one line that says which cell failed and how.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    message = None
    notebook = Path(job["notebook"])
    try:
        papermill.execute_notebook(
            _as_is(str(notebook)),
            _as_is(job["output"]),
            parameters=job["parameters"],
            kernel_name="python3",
            kernel_manager_class=own_kernel(),
            cwd=str(notebook.parent),
            progress_bar=False,
            execution_timeout=job["timeout"],
            coalesce_streams=True,
        )
    except PapermillExecutionError as error:
        message = f"cell [{error.exec_count}]: {error.ename}: {_first_line(error.evalue)}"
    except Exception as error:  # a dead kernel, a timeout, a full disk: all end this one lesson
        message = f"{type(error).__name__}: {_first_line(str(error))}"
    if job["page"] and Path(job["output"]).is_file():
        from reidlab.lessons.pages import lesson_page

        try:
            lesson_page(job["output"], job["page"])
        except Exception as error:  # the lesson ran; the log says why there is no page of it
            logging.warning("%s: no page (%s: %s)", notebook, type(error).__name__, _first_line(str(error)))
    return message


def own_kernel() -> type:
    """Return a class of kernel managers whose kernel "python3" is this Python, whatever kernels are installed."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class OwnKernelManager(AsyncKernelManager):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**{"kernel_spec_manager": KernelSpecManager(kernel_dirs=[]), **settings})

    return OwnKernelManager


def _as_is(path: str) -> str:
    """Keep papermill from putting parameters into a path with braces."""
    return path.replace("{", "{{").replace("}", "}}")


def _first_line(text: str) -> str:
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", str(text)).splitlines() if line.strip()]
    return lines[0][:300] if lines else "no message"


def main(path: str) -> int:
    """Read a job, run it, write `report.json` beside it.

    Args:
        path: the job's file.

    Returns:
        0 if every cell ran, 1 otherwise.
    """
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    if "runner" in job:  # when it was killed, end this process and with it its kernel
        end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM), job["runner"])
    message = execute(job)
    write_json(Path(path).with_name("report.json"), {"message": message})
    return 0 if message is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
