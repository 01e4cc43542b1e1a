"""One lesson in a process of its own: `python -m reidlab.lessons.execute JOB.json`. Started by the runner."""

from __future__ import annotations

import json
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
        job: `notebook`, `output`, `page` (or None), `parameters`, `timeout` (seconds for one cell, or None).

    Returns:
        None if every cell ran, else one line that says which cell failed and how.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    message = None
    notebook = Path(job["notebook"])
    try:
        papermill.execute_notebook(
            str(notebook),
            job["output"],
            parameters=job["parameters"],
            kernel_name="python3",
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

        lesson_page(job["output"], job["page"])
    return message


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
    # when the runner was killed, end this process and with it its kernel
    end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    message = execute(json.loads(Path(path).read_text(encoding="utf-8")))
    write_json(Path(path).with_name("report.json"), {"message": message})
    return 0 if message is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
