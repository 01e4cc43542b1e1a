"""The strict runner on toy notebooks: what passes, what is refused, what a failure or an end leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from conftest import REPOSITORY
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from reidlab.lessons.contents import Lesson
from reidlab.lessons.pages import index_page, lesson_page
from reidlab.lessons.runner import find_notebooks, refresh, run_lessons

PARAMETERS = 'PROFILE = "laptop"  # how much\nSEED = 0  # of the draw\nFAST = True  # or slow\n'
WORK = """import os, sys
from pathlib import Path
from reidlab.lessons import results
print("in", Path.cwd().name, "threads", os.environ["OMP_NUM_THREADS"], file=sys.stdout)
results.write("20_good", seed=SEED, profile=PROFILE)"""


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    text = new_markdown_cell("# Toy\n[next](21_bad.ipynb) · [index](../README.md)")
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[text, first, *map(new_code_cell, cells)], metadata=metadata), path)
    return path


def entry(lesson: str, status: str, message: str | None) -> dict:
    shared = {"seconds": 1, "profile": "gpu", "page": None, "date": "2020"}
    return {"lesson": lesson, "status": status, "message": message, **shared}


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of four notebooks, over what an earlier run had left: good, raising, dying, not knowing FAST."""
    folder = tmp_path_factory.mktemp("lessons")
    out = folder / "out"
    notebooks = [
        write_notebook(folder / "20_good.ipynb", WORK, "import matplotlib.pyplot as plt; plt.plot([1]); plt.show()"),
        write_notebook(folder / "21_bad.ipynb", "1 / 0", "print('never')"),
        write_notebook(folder / "22_dead.ipynb", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        write_notebook(folder / "23_other.ipynb", "1", parameters='PROFILE = "laptop"  # x'),
    ]
    before = {path.name: path.read_bytes() for path in notebooks}
    for stale in ("notebooks/21_bad.ipynb", "results/21_bad.json", ".partial-20_good/rest"):
        (out / stale).parent.mkdir(parents=True, exist_ok=True)
        (out / stale).write_text("of an earlier run")
    earlier = entry("00_earlier", "passed", None)
    (out / "results.json").write_text(json.dumps([earlier, {"lesson": "damaged"}]))
    os.environ["MPLBACKEND"] = "agg"
    try:
        results = run_lessons(notebooks, out, profile="smoke", parameters=[("SEED", "3"), ("FAST", "False")], jobs=2)
    finally:
        del os.environ["MPLBACKEND"]
    assert {path.name: path.read_bytes() for path in notebooks} == before
    return out, {result.lesson: result for result in results}


def test_statuses(run):
    _, results = run
    statuses = {name: result.status for name, result in results.items()}
    assert statuses == {"20_good": "passed", "21_bad": "failed", "22_dead": "failed", "23_other": "refused"}
    assert results["21_bad"].message == "cell [3]: ZeroDivisionError: division by zero"
    assert "killed or crashed" in results["22_dead"].message
    assert results["23_other"].message == "unknown parameter SEED; known are PROFILE"
    assert results["20_good"].parameters == {"PROFILE": "smoke", "SEED": 3, "FAST": False}


def test_files(run):
    out, _ = run
    assert files_in(out) - {"notebooks/22_dead.failed.ipynb", "pages/22_dead.html"} == {
        "index.html",
        "results.json",
        "notebooks/20_good.ipynb",
        "notebooks/21_bad.failed.ipynb",
        "pages/20_good.html",
        "pages/21_bad.html",
        "results/20_good.json",
    }


def test_contents(run):
    out, _ = run
    executed = nbformat.read(out / "notebooks" / "20_good.ipynb", as_version=4)
    printed = "".join(output.get("text", "") for cell in executed.cells for output in cell.get("outputs", []))
    assert f"in {out.parent.name} threads" in printed
    record = json.loads((out / "results" / "20_good.json").read_text())
    assert record["seed"] == 3 and record["profile"] == "smoke"
    assert record["command"] == "reidlab lessons run 20_good -p PROFILE=smoke -p SEED=3 -p FAST=False"
    summary = {entry["lesson"]: entry for entry in json.loads((out / "results.json").read_text())}
    assert list(summary) == ["00_earlier", "20_good", "21_bad", "22_dead", "23_other"]
    assert summary["20_good"]["page"] == "pages/20_good.html" and summary["20_good"]["seconds"] > 0
    page = (out / "pages" / "20_good.html").read_text()
    assert 'href="21_bad.html"' in page and 'href="../index.html"' in page and ".ipynb" not in page
    assert "data:image/png;base64" in page
    index = (out / "index.html").read_text()
    assert 'href="pages/20_good.html"' in index and "division by zero" in index and "http" not in index


def test_what_is_printed(tmp_path, capsys):
    notebook = write_notebook(tmp_path / "20_good.ipynb", WORK)
    run_lessons([notebook], tmp_path / "out", parameters=[("PROFILE", "smoke"), ("SEED", "no")], html=False)
    printed = capsys.readouterr().out
    assert "✗ 20_good  refused after 0.0 s  SEED: got 'no', expected a whole number such as 0" in printed
    assert "0 of 1 passed. 1 did not." in printed and "results.json" in printed
    assert not (tmp_path / "out" / "index.html").exists()


def test_arguments_are_checked(tmp_path):
    notebook = write_notebook(tmp_path / "20_good.ipynb", WORK)
    again = write_notebook(tmp_path.joinpath("other").mkdir() or tmp_path / "other" / "20_good.ipynb", WORK)
    for options, message in [
        ({"profile": "fast"}, "profile is 'fast', expected one of 'smoke', 'laptop', 'gpu'"),
        ({"parameters": [("PROFILE", "fast")]}, "profile is 'fast'"),
        ({"jobs": 0}, "jobs is 0"),
        ({"timeout": 0}, "timeout is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            run_lessons([notebook], tmp_path / "out", **options)
    assert find_notebooks(["00"]) == find_notebooks(["00_start_here"]) == find_notebooks()[:1]
    with pytest.raises(ValueError, match="got 20_good more than once"):
        run_lessons([notebook, again], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="99: no such notebook; lessons are 00_start_here, 01_"):
        run_lessons(["99"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lesson_that_takes_too_long(tmp_path):
    notebook = write_notebook(tmp_path / "24_slow.ipynb", "import time; time.sleep(60)")
    (result,) = run_lessons([notebook], tmp_path / "out", profile="smoke", timeout=1, html=False)
    assert result.status == "failed" and result.seconds < 40
    assert re.search("timed out.*after 1 second|took longer than 1 second", result.message)  # cell or lesson


def test_longest_first_and_as_many_at_a_time_as_asked_for(tmp_path, capsys):
    meet = "import os, time; from pathlib import Path; Path(f'here{os.getpid()}').touch()\n"
    meet += "while len(list(Path().glob('here*'))) < 2: time.sleep(0.05)"
    paths = [write_notebook(tmp_path / f"{stem}.ipynb", meet) for stem in ("00_start_here", "06_training")]
    results = run_lessons(paths, tmp_path / "out", timeout=40, html=False, jobs=2)
    assert [result.lesson for result in results if result.ok] == ["00_start_here", "06_training"]
    capsys.readouterr()
    run_lessons(paths, tmp_path / "out", timeout=40, html=False, jobs=1)
    printed = capsys.readouterr().out
    assert printed.index("… 06_training") < printed.index("… 00_start_here")


SLOW = """import os, subprocess, sys, time
from pathlib import Path
if not Path("pids").exists():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path("pids").write_text(f"{os.getpid()} {child.pid} ")
    time.sleep(60)"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX systems")
def test_an_ended_runner_leaves_no_process_and_nothing_half_written(tmp_path, number):
    notebook, out = write_notebook(tmp_path / "24_slow.ipynb", SLOW), tmp_path / "out"
    # Shells start background jobs with Ctrl-C ignored, and children inherit that; this one shall hear it in any case.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from reidlab.lessons.runner import run_lessons; run_lessons(sys.argv[1:2], sys.argv[2], 'smoke')"
    command = [sys.executable, "-c", code, str(notebook), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    runner = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    pids = tmp_path / "pids"
    wait_until(lambda: pids.is_file() and pids.read_text().endswith(" "), 60)
    runner.send_signal(number)
    _, errors = runner.communicate(timeout=30)
    assert runner.returncode != 0
    wait_until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()), 20)
    left = files_in(tmp_path) - {"24_slow.ipynb", "pids"}
    if number == signal.SIGKILL:
        assert all(name.startswith("out/.partial-24_slow") for name in left)
        (result,) = run_lessons([notebook], out, html=False)
        assert result.ok and files_in(out) == {"notebooks/24_slow.ipynb", "results.json"}
    else:
        assert "KeyboardInterrupt" in errors and not left


def wait_until(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_refresh(tmp_path):
    good = tmp_path / "20_good.ipynb"
    write_notebook(good, "import sys\nprint(SEED)", "print('a'); sys.stdout.flush(); print('b')")
    bad = write_notebook(tmp_path / "21_bad.ipynb", "raise ValueError('on purpose')")
    small = write_notebook(tmp_path / "22_small.ipynb", "1", parameters=PARAMETERS.replace("laptop", "smoke"))
    before = bad.read_bytes(), small.read_bytes()
    results = refresh([good, bad, small])
    assert [result.ok for result in results] == [True, False, False]
    assert "ValueError: on purpose" in results[1].message and "'smoke'" in results[2].message
    assert (bad.read_bytes(), small.read_bytes()) == before
    notebook = nbformat.read(good, as_version=4)
    assert [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"] == [1, 2, 3]
    assert notebook.cells[3].outputs[0].text == "a\nb\n" and len(notebook.cells[3].outputs) == 1


def test_refresh_changes_outputs_and_counts_only(tmp_path):
    path = write_notebook(tmp_path / "20_good.ipynb", "print(SEED, 'é')", "1 + 1")
    content = json.loads(path.read_text(encoding="utf-8"))
    content["metadata"] |= {"title": "kept", "authors": [{"name": "A"}]}
    content["cells"][2]["metadata"] = {"tags": ["kept"], "collapsed": True}
    before = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    path.write_text(before, encoding="utf-8", newline="\r\n")
    assert refresh([path])[0].ok
    first = path.read_bytes()
    assert first.count(b"\r\n") == first.count(b"\n")
    after = json.loads(first)
    assert "".join(after["cells"][2]["outputs"][0]["text"]) == "0 é\n"
    for cell in after["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    assert json.dumps(after, ensure_ascii=False, indent=1) + "\n" == before
    refresh([path])
    assert path.read_bytes() == first


def test_pages_escape_what_they_show(tmp_path):
    lesson = Lesson("00_a", "A & <b>", "Goal <i>.", ("do > see",), (), {"smoke": 1, "laptop": 1})
    text = index_page(tmp_path / "index.html", [lesson], [entry("00_a", "failed", "<script>")]).read_text()
    assert "<script>" not in text and "&lt;script&gt;" in text and "A &amp; &lt;b&gt;" in text
    notebook = write_notebook(tmp_path / "00_a.ipynb")
    assert lesson_page(notebook, tmp_path / "00_a.html").read_text().startswith("<!DOCTYPE html>")
    assert files_in(tmp_path) == {"index.html", "00_a.ipynb", "00_a.html"}
