"""The strict runner: lessons in parallel, each in a process of its own; nothing half-written, nothing ignored."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from reidlab.errors import DataError
from reidlab.files import check_writable
from reidlab.lessons.contents import PROFILES, Lesson, catalogue, notebooks_folder
from reidlab.lessons.environment import check_runnable
from reidlab.lessons.parameters import parse_parameters, read_parameters
from reidlab.lessons.processes import Job, run_all
from reidlab.lessons.summary import LessonResult, print_result, print_summary, shown, write_summary
from reidlab.progress import say
from reidlab.results import plain


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
        KeyboardInterrupt: Ctrl-C, or a request to end; processes were ended, unfinished output removed.
    """
    pairs = list(parameters)
    if not any(name == "PROFILE" for name, _ in pairs):
        pairs.insert(0, ("PROFILE", profile))
    _check_arguments(dict(pairs)["PROFILE"], jobs, timeout)
    check_runnable()
    paths, lessons, out = find_notebooks(notebooks), _known_lessons(), Path(out).resolve()
    check_writable(out / "results.json")
    results: dict[str, LessonResult] = {}
    waiting = []
    say(f"{len(paths)} lesson{'s' if len(paths) != 1 else ''}, {jobs} at a time, into {shown(out)}")
    for path in paths:
        job = _prepare(path, pairs, lessons, timeout, out)
        if isinstance(job, LessonResult):
            results[path.stem] = job
            print_result(job)
        else:
            waiting.append(job)
    waiting.sort(key=lambda job: -(job.timeout or 0))  # the longest first: all cores have work until the end
    with contextlib.closing(run_all(waiting, out, jobs, html)) as finished:  # closed at once on Ctrl-C
        for result in finished:
            results[result.lesson] = result
            print_result(result)
    ordered = [results[path.stem] for path in paths]
    write_summary(out, ordered, lessons, html)
    print_summary(out, ordered, html)
    return ordered


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


def _check_arguments(profile: str, jobs: int, timeout: float | None) -> None:
    if profile not in PROFILES:
        raise ValueError(f"profile is {profile!r}, expected one of {', '.join(map(repr, PROFILES))}")
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}, expected at least 1")
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout is {timeout} seconds, expected more than 0")


def _known_lessons() -> dict[str, Lesson]:
    try:
        return {lesson.stem: lesson for lesson in catalogue()}
    except FileNotFoundError:  # someone runs notebooks of their own with an installed package
        return {}


def _prepare(
    path: Path, pairs: list[tuple[str, str]], lessons: dict[str, Lesson], timeout: float | None, out: Path
) -> Job | LessonResult:
    try:
        defaults = read_parameters(path)
        given = parse_parameters(pairs, defaults)
        plain("parameters", given)  # refuses what results.json cannot hold
    except (DataError, ValueError) as error:
        return LessonResult(path.stem, "refused", 0.0, dict(pairs), str(error))
    values = {**defaults, **given}
    if timeout is None and values["PROFILE"] != "gpu":
        minutes = lessons[path.stem].minutes[values["PROFILE"]] if path.stem in lessons else 3
        timeout = max(300.0, 10 * 60 * minutes)
    return Job(path, values, given, timeout, out / f".partial-{path.stem}")
