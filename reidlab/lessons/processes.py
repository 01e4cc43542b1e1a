"""Lessons as processes: starting them, waiting, collecting what they made, ending them in order."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reidlab.files import alone, write_json
from reidlab.lessons.results import FOLDER_VARIABLE
from reidlab.lessons.summary import LessonResult
from reidlab.progress import say
from reidlab.results import COMMAND_VARIABLE
from reidlab.signals import termination_as_interrupt

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Job:
    """One lesson to run: where it is, its values, those given, seconds it may take, a folder for unfinished things."""

    notebook: Path
    parameters: dict[str, Any]
    given: dict[str, Any]
    timeout: float | None
    folder: Path
    process: subprocess.Popen | None = field(default=None, repr=False)
    started: float = 0.0
    late: bool = False
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self.started


def run_all(waiting: Sequence[Job], out: Path, jobs: int, html: bool) -> Iterator[LessonResult]:
    """Run jobs in processes of their own and yield each result as it comes.

    Closing the iterator, or an exception inside it, ends what still runs and removes what it had written.

    Args:
        waiting: the jobs, in the order in which to start them.
        out: the folder that receives what they make.
        jobs: how many at the same time.
        html: make a page of each.
    """
    running: list[Job] = []
    waiting = list(waiting)
    try:
        with termination_as_interrupt():
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(waiting.pop(0))
                    try:
                        _start(running[-1], jobs, html)
                    except FileExistsError as error:
                        job = running.pop()
                        yield LessonResult(job.notebook.stem, "refused", 0.0, job.parameters, str(error))
                time.sleep(0.05)
                for job in list(running):
                    if job.process.poll() is not None:
                        running.remove(job)
                        yield _collect(job, out)
                    elif job.timeout is not None and job.seconds > job.timeout + 5 and not job.late:
                        job.late = True  # the cell's own time limit should have come first: code that does not react
                        _end([job])
    finally:
        _end(running)
        for job in running:
            shutil.rmtree(job.folder, ignore_errors=True)
            job.held.close()


def _start(job: Job, jobs: int, html: bool) -> None:
    lock = job.folder.with_name(f"{job.folder.name}.lock")
    job.held.enter_context(alone(lock, f"running {job.notebook.stem} into this folder"))
    shutil.rmtree(job.folder, ignore_errors=True)
    (job.folder / "results").mkdir(parents=True)
    page = str(job.folder / f"{job.notebook.stem}.html") if html else None
    output = str(job.folder / job.notebook.name)
    description = {"notebook": str(job.notebook), "output": output, "page": page, "parameters": job.given}
    description |= {"timeout": job.timeout and int(max(1, job.timeout)), "runner": os.getpid()}
    write_json(job.folder / "job.json", description)
    command = [sys.executable, "-m", "reidlab.lessons.execute", str(job.folder / "job.json")]
    job.started = time.monotonic()
    with (job.folder / "log.txt").open("wb") as log:
        job.process = subprocess.Popen(
            command,
            env=_environment(job, jobs),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the runner alone, which then ends its children in order
        )
    say(f"… {job.notebook.stem}  {_parameters_line(job.parameters)}")


def kernel_environment(jobs: int) -> dict[str, str]:
    """Return the environment in which lessons run in batch: quiet, this package, a fair share of the cores.

    Args:
        jobs: how many lessons run at the same time.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = dict(os.environ)
    environment.pop("MPLBACKEND", None)  # any value there takes the figures out of the notebook
    environment.update(dict.fromkeys(THREAD_VARIABLES, str(max(1, cores // jobs))))
    package = str(Path(__file__).resolve().parents[2])
    environment.update(
        TQDM_DISABLE="1",
        PYDEVD_DISABLE_FILE_VALIDATION="1",
        PYTHONPATH=os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
    )
    return environment


def _environment(job: Job, jobs: int) -> dict[str, str]:
    given = " ".join(f"-p {shlex.quote(f'{name}={value}')}" for name, value in job.parameters.items())
    own = {
        FOLDER_VARIABLE: str(job.folder / "results"),
        COMMAND_VARIABLE: f"reidlab lessons run {shlex.quote(job.notebook.stem)} {given}",
    }
    return {**kernel_environment(jobs), **own}


def _collect(job: Job, out: Path) -> LessonResult:
    stem, seconds = job.notebook.stem, round(job.seconds, 1)
    message = _message(job)
    status = "passed" if message is None else "failed"
    whole, broken = out / "notebooks" / f"{stem}.ipynb", out / "notebooks" / f"{stem}.failed.ipynb"
    page = _move(job.folder / f"{stem}.html", out / "pages" / f"{stem}.html")
    for stale in (whole, broken, out / "results" / f"{stem}.json"):  # the last run decides what lies there
        stale.unlink(missing_ok=True)
    notebook = _move(job.folder / job.notebook.name, broken if message else whole)
    if message is None:
        for file in sorted((job.folder / "results").glob("*.json")):
            _move(file, out / "results" / file.name)
    shutil.rmtree(job.folder, ignore_errors=True)
    job.held.close()
    return LessonResult(stem, status, seconds, job.parameters, message, notebook, page)


def _move(source: Path, target: Path) -> Path | None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file():
        target.unlink(missing_ok=True)
        return None
    return source.replace(target)


def _message(job: Job) -> str | None:
    if job.late:
        return f"took longer than {job.timeout:.0f} seconds; give more with --timeout"
    report = job.folder / "report.json"
    if report.is_file():
        return json.loads(report.read_text(encoding="utf-8"))["message"]
    log = (job.folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    code = job.process.returncode
    if code < 0:
        reason = "; out of memory?" if -code == signal.SIGKILL else ""
        return f"the process was ended by {signal.Signals(-code).name}{reason}"
    return f"the process ended with code {code}: {log[-1] if log else 'no message'}"


def _end(jobs: list[Job]) -> None:
    for job in jobs:
        if job.process is not None and job.process.poll() is None:
            job.process.terminate()  # the notebook client then shuts its kernel down
    for job in jobs:
        if job.process is not None:
            try:
                job.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                job.process.kill()  # its kernel sees that the parent is gone
                job.process.wait()


def _parameters_line(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())
