"""Running lessons with papermill: in parallel, each in a kernel of its own; nothing half-written, nothing ignored."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from reidlab.errors import DataError
from reidlab.files import alone, atomic_path, check_writable
from reidlab.lessons.contents import PROFILES, catalogue, notebooks_folder
from reidlab.lessons.pages import LessonResult, lesson_page, print_result, print_summary, shown, write_summary
from reidlab.lessons.parameters import parse_parameters, read_parameters
from reidlab.lessons.results import FOLDER_VARIABLE
from reidlab.progress import say
from reidlab.results import COMMAND_VARIABLE, installed
from reidlab.signals import termination_as_interrupt


def run_lessons(
    notebooks: Sequence[str | os.PathLike[str]] | None = None,
    out: str | os.PathLike[str] = "build",
    profile: str = "laptop",
    parameters: Iterable[tuple[str, str]] = (),
    jobs: int = 2,
    timeout: float | None = None,
    html: bool = True,
) -> list[LessonResult]:
    """Run lessons and collect what they made: notebooks, pages, results.

    `out` receives `notebooks/<lesson>.ipynb` (a failed one as `<lesson>.failed.ipynb`), `pages/<lesson>.html`,
    `results/<lesson>.json` (what the lesson recorded), `results.json` (how each run ended) and `index.html`.
    A file appears there only when it is whole. Entries of lessons that were not run this time stay.

    Args:
        notebooks: files, or stems or numbers of lessons ("00_start_here", "00"); all lessons if empty.
        out: the folder to write to.
        profile: "smoke", "laptop" or "gpu"; a pair ("PROFILE", ...) among `parameters` has precedence.
        parameters: pairs of name and text, as from a command line; each notebook that does not know a name, or
            whose default is of another type, is refused.
        jobs: how many run at the same time, the longest first; processor cores are shared out among them.
        timeout: seconds that one lesson may take; ten times what the table of contents says, and at least 300,
            if not given; no limit for the profile "gpu".
        html: make pages and index.

    Returns:
        One result for each notebook, in the order given. Failures are results, not exceptions.

    Raises:
        ValueError: unknown profile, `jobs` < 1, `timeout` <= 0, two notebooks of one name.
        FileNotFoundError: a notebook does not exist, or what runs them is not installed.
        OSError: `out` cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM; kernels were ended, unfinished output removed.
    """
    pairs = list(parameters)
    if "PROFILE" not in dict(pairs):
        pairs.insert(0, ("PROFILE", profile))
    profile = dict(pairs)["PROFILE"]
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(map(repr, PROFILES))}")
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, expected at least 1")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is {timeout} seconds, expected more than 0")
    _check_installed()
    paths, out = find_notebooks(notebooks), Path(out).resolve()
    check_writable(out / "results.json")
    try:
        lessons = {lesson.stem: lesson for lesson in catalogue()}
    except FileNotFoundError:  # someone runs notebooks of their own with an installed package
        lessons = {}

    def minutes(path: Path) -> float:
        known = lessons[path.stem].minutes if path.stem in lessons else {"laptop": 3}
        return known.get(profile, known["laptop"])

    def run(path: Path, kernels: _Kernels) -> LessonResult:
        try:
            defaults = read_parameters(path)
            given = parse_parameters(pairs, defaults)
        except (DataError, ValueError) as error:
            return LessonResult(path.stem, "refused", 0.0, dict(pairs), str(error))
        limit = timeout or (None if profile == "gpu" else max(300.0, 10 * 60 * minutes(path)))
        execute = partial(_execute, path, kernels=kernels, parameters=given, timeout=limit, at_a_time=jobs)
        try:
            with alone(out / f".partial-{path.stem}.lock", f"running {path.stem} into this folder"):
                return _run_into(out, path.stem, {**defaults, **given}, execute, html)
        except FileExistsError as error:
            return LessonResult(path.stem, "refused", 0.0, {**defaults, **given}, str(error))

    say(f"{len(paths)} lesson{'s' if len(paths) != 1 else ''}, {jobs} at a time, into {shown(out)}")
    results = _run_all(paths, run, jobs, minutes)
    write_summary(out, results, lessons, html)
    print_summary(out, results, html)
    return results


def refresh(notebooks: Sequence[str | os.PathLike[str]] | None = None) -> list[LessonResult]:
    """Execute notebooks with their own defaults and store the outputs and execution counts in them, nothing else.

    A notebook in which a cell raised stays as it was.

    Args:
        notebooks: as for `run_lessons`; all lessons if empty.

    Returns:
        One result for each notebook; "passed" means written. Failures are results, not exceptions.

    Raises:
        FileNotFoundError: a notebook does not exist, or what runs them is not installed.
    """
    _check_installed()
    paths = find_notebooks(notebooks)
    return _run_all(paths, _refresh, at_a_time=1)


def find_notebooks(notebooks: Sequence[str | os.PathLike[str]] | None = None) -> list[Path]:
    """Find notebooks by file, stem or number; all lessons of the table of contents for none.

    Raises:
        FileNotFoundError: neither a file nor a lesson.
        ValueError: two of them have the same name.

    Example:
        >>> find_notebooks(["no_such_lesson"])
        Traceback (most recent call last):
        FileNotFoundError: no_such_lesson: no such notebook; lessons are 00_start_here...
    """
    found = []
    for given in notebooks or [lesson.stem for lesson in catalogue()]:
        path = Path(given)
        if not path.is_file():
            named = [les for les in catalogue() if str(given) in (les.stem, les.number, les.notebook)]
            path = notebooks_folder() / named[0].notebook if named else path
        if not path.is_file():
            stems = ", ".join(lesson.stem for lesson in catalogue())
            raise FileNotFoundError(f"{path}: no such notebook; lessons are {stems}")
        found.append(path.resolve())
    stems = [path.stem for path in found]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise ValueError(f"got {', '.join(twice)} more than once; outputs would overwrite each other")
    return found


class _Kernels:
    """The kernels of one run: each is this Python, and none outlives this process, however that ends."""

    def __init__(self) -> None:
        self.managers: list[Any] = []
        self.stopped = False

    def kill(self) -> None:
        """End all kernels with the processes that they started; one that is starting ends as soon as it has."""
        self.stopped = True
        for manager in self.managers:
            if manager.has_kernel:
                asyncio.run(manager.provisioner.kill())

    def manager_class(self, environment: dict[str, str]) -> type:
        """Return a class of kernel managers that start this Python, whatever kernels are installed."""
        from jupyter_client.kernelspec import KernelSpecManager
        from jupyter_client.manager import AsyncKernelManager

        kernels = self

        class KernelManager(AsyncKernelManager):
            def __init__(self, **settings: Any) -> None:
                super().__init__(**{"kernel_spec_manager": KernelSpecManager(kernel_dirs=[]), **settings})

            async def start_kernel(self, **options: Any) -> None:
                kernels.managers.append(self)
                quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # outputs of cells come otherwise
                await super().start_kernel(env=environment, **quiet, **options)
                if kernels.stopped:
                    await self.provisioner.kill()

        return KernelManager


def _run_all(
    paths: Sequence[Path],
    work: Callable[[Path, _Kernels], LessonResult],
    at_a_time: int,
    minutes: Callable[[Path], float] = lambda path: 0.0,
) -> list[LessonResult]:
    """Call `work` on each notebook in threads, the longest first so that all cores have work until the end.

    Results are printed as they come and returned in the order of `paths`; no kernel stays behind.
    """
    kernels, pool, results = _Kernels(), ThreadPoolExecutor(at_a_time), {}
    try:
        with termination_as_interrupt():
            waiting = {pool.submit(work, path, kernels): path for path in sorted(paths, key=lambda p: -minutes(p))}
            while waiting:
                done, _ = wait(waiting, 0.2, FIRST_COMPLETED)  # short, since Windows reads Ctrl-C only in between
                for future in done:
                    path = waiting.pop(future)
                    results[path] = future.result()
                    print_result(results[path])
    finally:
        kernels.kill()
        pool.shutdown(cancel_futures=True)
    return [results[path] for path in paths]


def _run_into(
    out: Path, stem: str, values: dict[str, Any], execute: Callable[..., str | None], html: bool
) -> LessonResult:
    """Run a lesson in a folder for unfinished things, then move what is whole to its place in `out`."""
    work, started = out / f".partial-{stem}", time.monotonic()
    pairs = [f"{name}={value}" for name, value in values.items()]
    command = f"reidlab lessons run {shlex.quote(stem)} {' '.join(f'-p {shlex.quote(pair)}' for pair in pairs)}"
    say(f"… {stem}  {' '.join(pairs)}")
    shutil.rmtree(work, ignore_errors=True)  # what a killed run left
    try:
        (work / "results").mkdir(parents=True)
        variables = {FOLDER_VARIABLE: str(work / "results"), COMMAND_VARIABLE: command}
        message = execute(work / "lesson.ipynb", **variables)
        seconds = round(time.monotonic() - started, 1)
        if html and (work / "lesson.ipynb").is_file():
            try:
                lesson_page(work / "lesson.ipynb", work / "lesson.html")
            except Exception as error:  # the lesson ran; only its page is missing
                say(f"{stem}: no page ({type(error).__name__}: {_first_line(error)})", error=True)
        whole, broken = out / "notebooks" / f"{stem}.ipynb", out / "notebooks" / f"{stem}.failed.ipynb"
        page = out / "pages" / f"{stem}.html"
        for earlier in (whole, broken, page, out / "results" / f"{stem}.json"):  # the last run decides what lies there
            earlier.unlink(missing_ok=True)
        notebook = _move(work / "lesson.ipynb", broken if message else whole)
        page = _move(work / "lesson.html", page)
        for record in [] if message else sorted((work / "results").glob("*.json")):
            _move(record, out / "results" / record.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return LessonResult(stem, "failed" if message else "passed", seconds, values, message, notebook, page)


def _move(source: Path, target: Path) -> Path | None:
    if not source.is_file():
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    return source.replace(target)


def _refresh(path: Path, kernels: _Kernels) -> LessonResult:
    say(f"… {path.stem}")
    started, values, message = time.monotonic(), {}, None
    try:
        values = read_parameters(path)
        if values.get("PROFILE") != "laptop":
            raise DataError(f"its PROFILE is {values.get('PROFILE')!r}; lessons are committed in the profile 'laptop'")
        before = path.read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            executed = Path(folder) / "executed.ipynb"
            message = _execute(path, executed, kernels)
            if message is None:
                _store_outputs(path, before, json.loads(executed.read_text(encoding="utf-8")))
    except (DataError, OSError) as error:
        message = str(error)
    message = f"{message}; nothing written" if message else None
    seconds = round(time.monotonic() - started, 1)
    return LessonResult(path.stem, "failed" if message else "passed", seconds, values, message, path)


def _store_outputs(path: Path, before: bytes, executed: dict[str, Any]) -> None:
    notebook = json.loads(before)  # not through nbformat, which would bring ids and metadata up to date
    for cell, done in zip(notebook["cells"], executed["cells"], strict=True):
        if cell["cell_type"] == "code":
            cell |= {name: done[name] for name in ("execution_count", "outputs")}
    if path.read_bytes() != before:
        raise DataError(f"{path}: changed while it was executed")
    text = json.dumps(notebook, ensure_ascii=False, indent=1) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\r\n" if b"\r\n" in before else "\n")


def _execute(
    notebook: Path,
    output: Path,
    kernels: _Kernels,
    parameters: dict[str, Any] | None = None,
    timeout: float | None = None,
    at_a_time: int = 1,
    **variables: str,
) -> str | None:
    """Execute a notebook with papermill; return None if every cell ran, else one line: which cell failed, and how."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what it logs is in the result
    end = None if timeout is None else time.monotonic() + timeout
    try:
        papermill.execute_notebook(
            _as_is(notebook),
            _as_is(output),
            parameters=parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            resources={"metadata": {"path": str(notebook.parent)}},  # papermill's `cwd` is one for all threads
            kernel_manager_class=kernels.manager_class(_environment(at_a_time) | variables),
            extra_arguments=_end_with(os.getpid()),
            timeout_func=lambda cell: None if end is None else max(1, int(end - time.monotonic())),
            coalesce_streams=True,
        )
    except Exception as error:  # also a full disk, a kernel that does not start: it ends this one lesson
        if kernels.stopped:
            raise
        if isinstance(error, PapermillExecutionError):
            return f"cell [{error.exec_count}]: {error.ename}: {_first_line(error.evalue)}"
        if isinstance(error, CellTimeoutError):
            return f"took longer than {timeout:.0f} seconds; give more with --timeout"
        if isinstance(error, DeadKernelError):
            return "its kernel was killed or crashed; out of memory?"
        return f"{type(error).__name__}: {_first_line(error)}"
    return None


def _end_with(runner: int) -> list[str]:
    """Return arguments by which a kernel ends when the runner is gone, with the processes that it started.

    ipykernel's own watch is off: it leaves those, and misses a runner that is gone before the kernel begins to watch.
    """
    end = "killpg(0, 9)" if os.name == "posix" else "_exit(1)"  # jupyter_client gives each kernel a group of its own
    line = f"__import__('reidlab.signals').signals.end_with_parent(lambda: __import__('os').{end}, {runner})"
    return ["--IPKernelApp.parent_handle=0", f"--IPKernelApp.exec_lines={line}"]


def _environment(at_a_time: int) -> dict[str, str]:
    """Return the environment of a kernel: quiet, this package, a fair share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # it may hide figures
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = str(max(1, cores // at_a_time))
    package = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return environment | {"TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def _check_installed() -> None:
    missing = [package for package in ("ipykernel", "papermill", "nbconvert") if installed(package) is None]
    if missing:
        raise FileNotFoundError(
            f"{sys.executable}: {', '.join(missing)} missing in this Python, which runs the lessons: "
            "pip install -e '.[lessons]'"
        )


def _as_is(path: Path) -> str:
    """Keep papermill from putting parameters into a path with braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _first_line(text: object) -> str:
    return next((line for line in str(text).splitlines() if line.strip()), "no message")[:300]
