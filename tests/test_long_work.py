"""Long work, and what must not end it, double it or outlive it: consoles, side matters, other processes, kills."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import multiprocessing
import os
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Colours
from typer.testing import CliRunner

from reidlab import progress
from reidlab.cli import app
from reidlab.data.records import Record
from reidlab.errors import DataError, message_for_user
from reidlab.evaluation import extract_features
from reidlab.files import Lock, alone, atomic_path, sweep, unfinished, write_json
from reidlab.lessons.pages import index_page
from reidlab.lessons.parameters import parse_parameters, read_parameters
from reidlab.lessons.runner import _Kernels, run_lessons
from reidlab.models.pixels import RawPixels
from reidlab.signals import end_with_parent
from reidlab.training import RunFolder, TrainConfig
from reidlab.training.run_folder import read_run
from reidlab.walkers import World, writer

posix = pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="fork, and kills as POSIX has them")


@contextlib.contextmanager
def another(work, *arguments):
    """Run a function in another process, which hands over the pipe's end when it is ready, and kill it at the end."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(there, *arguments))
    process.start()
    try:
        assert here.poll(20)
        yield here
    finally:
        process.kill()
        process.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def gone(pid: int, seconds: float) -> bool:
    """Whether a process ended in time; one that nobody waited for counts as ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def hold(pipe, path):
    with alone(path, "working"):
        pipe.send("ready")
        time.sleep(60)


def write_slowly(pipe, path):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        pipe.send(temporary.name)
        time.sleep(60)


@posix
def test_a_lock_goes_with_the_process_that_has_it(tmp_path):
    with another(hold, tmp_path / ".lock"):
        assert not Lock(tmp_path / ".lock").take()
        with pytest.raises(FileExistsError, match="another process is working"), alone(tmp_path / ".lock", "working"):
            pass
    assert names(tmp_path) == [".lock"]
    with alone(tmp_path / ".lock", "working"):
        assert not Lock(tmp_path / ".lock").take()
    assert names(tmp_path) == []


def test_a_folder_that_refuses_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(handle):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("reidlab.files._lock", refuse)
    with alone(tmp_path / ".lock", "working"):
        assert "make sure that no other process is working" in caplog.text
    write_json(tmp_path / "a.json", {})
    assert names(tmp_path) == ["a.json"]


@posix
@pytest.mark.parametrize("name", ["last.pt", "a [b]*? %d#.json", "ü", "w-99999.x"])
def test_what_a_killed_write_left_goes_and_what_is_being_written_stays(tmp_path, name):
    with another(write_slowly, tmp_path / name) as pipe:
        living = pipe.recv()
        with another(write_slowly, tmp_path / name) as pipe:
            dead = pipe.recv()
        assert {living, dead, f"{dead}.lock"} <= set(names(tmp_path))
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_text("whole")
        assert names(tmp_path) == sorted([name, living, f"{living}.lock"])
    sweep(tmp_path)
    assert names(tmp_path) == [name] and (tmp_path / name).read_text() == "whole"


def test_leftovers_without_a_lock_go_by_their_age(tmp_path):
    for name, hours in ((".last-old.partial.pt", 2), (".last-new.partial.pt", 0), (".best-old.partial.pt.lock", 2)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (time.time() - 3600 * hours,) * 2)
    for mine in ("notes.partial.txt", ".notes.partial", ".partial-00_start", ".lock"):
        (tmp_path / mine).write_text("mine")
    sweep(tmp_path)
    assert names(tmp_path) == sorted(
        [".last-new.partial.pt", ".lock", ".notes.partial", ".partial-00_start", "notes.partial.txt"]
    )


def draw_slowly(pipe, root):
    def fill(world, folder, jobs, name):
        (folder / "half").write_text("half")
        pipe.send(folder.name)
        time.sleep(60)

    writer._fill = fill
    World(10).write(root)


@posix
def test_a_world_leaves_those_beside_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(
        writer, "_fill", lambda world, folder, *_: write_json(folder / "world.json", {"dataset": "walkers", "key": ""})
    )
    with another(draw_slowly, tmp_path / "w[1]-99999") as pipe:
        other = pipe.recv()
        for name in ("w[1]", "w[1]-99999", "w"):
            World(10, seed=1).write(tmp_path / name)
            assert (tmp_path / other / "half").exists()
    World(10).write(tmp_path / "w[1]")
    assert names(tmp_path) == ["w", "w[1]", "w[1]-99999"]


def begun(folder, data):
    facts = {"data": {"dataset": "d", "box": "b", "protocol": "p"}, "processes": 1}
    folder.begin(TrainConfig(), data, facts)
    return folder


def train_slowly(pipe, path):
    folder = begun(RunFolder(path), None)
    pipe.send(folder.path.name)
    time.sleep(60)


@posix
def test_one_process_trains_into_a_folder(tmp_path):
    path, early = tmp_path / "run", RunFolder(tmp_path / "run")
    with another(train_slowly, path):
        with pytest.raises(FileExistsError, match="another process is training into this folder"):
            begun(RunFolder(path, resume=True), None)
        assert read_run(path).config["processes"] == 1  # reading needs no lock
        RunFolder(path, resume=True, writes=False)
    with pytest.raises(FileExistsError, match="holds a run already"):
        begun(early, None)
    early.close()
    (path / ".last-abcd.partial.pt").write_bytes(b"half")
    folder = begun(RunFolder(path, resume=True), None)
    folder.close()
    assert names(path) == ["config.json"]


def orphan(pipe):
    """Start a process that asks for its parent only when that is gone."""
    parent = os.getpid()
    if os.fork() == 0:
        while os.getppid() == parent:
            time.sleep(0.01)
        pipe.send(os.getpid())
        end_with_parent(lambda: os._exit(1), parent)
        time.sleep(60)
        os._exit(0)
    pipe.send("ready")


@posix
def test_a_process_whose_parent_is_gone_already_ends(tmp_path):
    with another(orphan) as pipe:
        pipe.recv()
        assert gone(pipe.recv(), 10)


class Slow(Colours):
    def __init__(self, pipe):
        self.pipe = pipe

    def load(self, name):
        self.pipe.send(os.getpid())
        time.sleep(60)


def embed_slowly(pipe):
    torch.set_num_threads(1)
    extract_features(RawPixels(), [Record("10_0", 10, 1, Slow(pipe))] * 3, batch_size=1, workers=2)


@posix
def test_readers_of_images_end_with_the_process_that_embeds():
    with another(embed_slowly) as pipe:
        workers = [pipe.recv(), pipe.recv()]
    assert all(gone(worker, 4) for worker in workers)  # torch's own watch, which may begin too late, takes 5 seconds


def test_a_console_ends_nothing(monkeypatch):
    for encoding, shown in (("ascii", "? ? done\n"), ("cp1252", "? ü done\n"), ("utf-8", "✓ ü done\n")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding, newline="\n")
        monkeypatch.setattr(sys, "stdout", stream)
        progress.say("✓ ü done")
        assert stream.buffer.getvalue().decode(encoding) == shown
    read, write = os.pipe()
    os.close(read)
    closed = io.StringIO()
    closed.close()
    for stream in (os.fdopen(write, "w"), closed, None):
        monkeypatch.setattr(sys, "stdout", stream)
        progress.say("nobody reads this")
        progress.say("nor this")
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(progress.progress([1, 2], "counting")) == [1, 2]
        with contextlib.suppress(BrokenPipeError):
            stream and stream.close()
        for replaced in (sys.stdout, sys.stderr):
            if replaced is not stream:
                replaced.close()


ROW = {"kind": "train", "triplet": 0.5}


@pytest.mark.parametrize("place", ["__init__", "add_scalar", "close", None])
@pytest.mark.parametrize("error", [AttributeError("np.float_"), TypeError("Descriptors"), OSError(28, "full")])
def test_tensorboard_ends_no_run(tmp_path, monkeypatch, caplog, place, error):
    def fail(*_, **__):
        raise error

    usual = dict.fromkeys(("__init__", "add_scalar", "close"), lambda *_, **__: None)
    module = types.ModuleType("torch.utils.tensorboard")
    if place:
        module.SummaryWriter = type("SummaryWriter", (), usual | {place: fail})
    else:
        module.__getattr__ = fail  # at the import
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    folder = RunFolder(tmp_path)
    for iteration in (1, 2, 3):
        folder.add({**ROW, "iteration": iteration})
    folder.close()
    assert [row["iteration"] for row in folder.rows()] == [1, 2, 3]
    (warning,) = caplog.messages
    assert (place is None or type(error).__name__ in warning) and "no more events are written" in warning


def test_rows_that_could_not_be_written_are_written_later(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    folder = RunFolder(tmp_path)
    folder.add({**ROW, "iteration": 1})
    good = folder.metrics
    folder.metrics = tmp_path  # a folder, which cannot be opened
    folder.add({**ROW, "iteration": 2})
    folder.add({**ROW, "iteration": 3})
    assert sum("not written" in message for message in caplog.messages) == 1
    folder.metrics = good
    folder.add({**ROW, "iteration": 4})
    assert [row["iteration"] for row in folder.rows()] == [1, 2, 3, 4]
    folder.metrics = tmp_path
    folder.add({**ROW, "iteration": 5})
    folder.close()
    assert "last 1 rows are missing" in caplog.messages[-1]


def caught(action):
    try:
        action()
    except BaseException as error:
        return message_for_user(error)
    return "no error"


def in_block(error, path):
    with atomic_path(path):
        raise error


def of_system(code, *more):
    raise OSError(code, os.strerror(code), *more)


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def test_deliberate_errors_are_a_line_and_bugs_are_none(tmp_path):
    meant = {
        "expected one of tiny": lambda: World.preset("huge"),
        "holds no run": lambda: RunFolder(tmp_path / "none", resume=True),
        "cannot be read": lambda: read_parameters(tmp_path),
        "is a folder": lambda: write_json(tmp_path, {}),
        "none.txt": (tmp_path / "none.txt").read_text,
        "No space left": lambda: of_system(errno.ENOSPC),
        "Permission denied": lambda: of_system(errno.EACCES, "people.png"),
        "the disk is full": lambda: in_block(OSError(errno.ENOSPC, "full"), tmp_path / "a"),
        "out of memory": lambda: np.zeros((2**40, 2**16)),
        "use smaller batches": lambda: (_ for _ in ()).throw(OutOfMemoryError("CUDA")),
        "of a type that is ours": lambda: (_ for _ in ()).throw(DataError("of a type\nthat is ours")),
    }
    for text, action in meant.items():
        assert text in caught(action) and "\n" not in caught(action), text
    bugs = [
        lambda: np.zeros(3).reshape(2, 2),
        lambda: json.loads("{"),
        lambda: torch.zeros(2).view(3),
        lambda: torch.nn.Dropout(3.0),
        lambda: int("three"),
        lambda: parse_parameters(3, {}),
        lambda: parse_parameters([("A",)], {"A": 1}),  # unpacked in the package, and raised by Python
        lambda: World(10).people[99],
        lambda: in_block(ValueError("of the caller"), tmp_path / "a"),
        lambda: of_system(errno.ECHILD),
        lambda: (_ for _ in ()).throw(OSError("of a library")),
    ]
    assert [caught(bug) for bug in bugs] == [None] * len(bugs)


def test_the_command_shows_where_a_bug_is_and_what_a_user_did(monkeypatch):
    bad = ["evaluate", ".", "--format", "mars"]
    plain = CliRunner().invoke(app, bad)
    assert plain.exit_code == 1 and isinstance(plain.exception, SystemExit) and plain.stderr.count("\n") == 1
    for asked in (["--traceback", *bad], [*bad, "--traceback"]):
        assert isinstance(CliRunner().invoke(app, asked).exception, ValueError)
    monkeypatch.setattr("reidlab.data.Market1501", lambda root: np.zeros(3).reshape(2, 2))
    bug = CliRunner().invoke(app, ["evaluate", ".", "--format", "market1501"])
    assert type(bug.exception) is ValueError and "error:" not in bug.stderr


def test_a_kernel_is_of_this_python_whatever_is_installed(tmp_path, monkeypatch):
    spec = {"argv": ["/other/python"], "display_name": "Python 3", "language": "python"}
    write_json(tmp_path / "kernels" / "python3" / "kernel.json", spec)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    from jupyter_client.kernelspec import get_kernel_spec

    assert get_kernel_spec("python3").argv[0] == "/other/python"
    assert _Kernels().manager_class({})(kernel_name="python3").kernel_spec.argv[0] == sys.executable


def test_a_python_without_kernels_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("reidlab.lessons.runner.installed", lambda name: None if name == "ipykernel" else "1")
    with pytest.raises(FileNotFoundError, match=r"ipykernel missing in this Python.*pip install"):
        run_lessons(["00"], tmp_path)


def book(*cells, **more):
    return json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": list(cells), **more})


def parameters(source, tags=("parameters",)):
    blank = {"cell_type": "code", "execution_count": None, "outputs": []}
    return {**blank, "metadata": {"tags": tags}, "source": source}


ODD = {
    "a number": book(3),
    "no type": book({"metadata": {}}),
    "no source": book({"cell_type": "code"}),
    "source of numbers": book(parameters([3])),
    "source of no kind": book(parameters({"a": 1})),
    "tags of no kind": book(parameters("A = 1", tags={"parameters": 1})),
    "tags as a text": book(parameters("A = 1", tags="parameters")),
    "metadata of no kind": book({"cell_type": "code", "metadata": [1], "source": ""}),
    "no key": book(parameters('PROFILE = "smoke"\nA = {[]: 1}')),
    "deep literal": book(parameters("A = " + "(" * 5000)),
    "deep value": book(parameters("A = " + "-" * 50000 + "1")),
    "null byte": book(parameters("A = 1\0")),
    "bytes": book(parameters('PROFILE = "smoke"\nA = b"1"')),
    "infinite": book(parameters('PROFILE = "smoke"\nA = 1e999')),
    "deep": "[" * 200000,
    "long number": '{"nbformat": ' + "4" * 5000 + "}",
    "other encoding": book(parameters("A = 'ü'")).replace("\\u00fc", "ü").encode("latin-1"),
    "a text": '"cells"',
    "empty": "",
}


def test_odd_notebooks_are_refused_one_by_one(tmp_path, capsys):
    paths = []
    for name, content in ODD.items():
        paths.append(tmp_path / f"{name}.ipynb")
        paths[-1].write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "out").mkdir()
    earlier = [{"lesson": ["a"]}, {"lesson": 3, "status": 1}, 7]
    (tmp_path / "out" / "results.json").write_text(json.dumps(earlier))
    results = run_lessons(paths, tmp_path / "out")
    assert [result.status for result in results] == ["refused"] * len(ODD)
    for result, path in zip(results, paths, strict=True):
        assert str(path) in result.message and "\n" not in result.message, path
    assert len(json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))) == len(ODD)
    assert names(tmp_path / "out") == ["index.html", "results.json"]


def test_values_that_no_record_holds_are_refused(tmp_path):
    (tmp_path / "mini.ipynb").write_text(book(parameters('PROFILE = "laptop"\nRATE = 0.1')))
    (result,) = run_lessons([tmp_path / "mini.ipynb"], tmp_path / "out", parameters=[("RATE", "nan")], html=False)
    assert result.status == "refused" and result.message == "RATE: got 'nan', expected a number such as 0.1"
    with pytest.raises(ValueError, match="expected a dict"):
        parse_parameters([("A", "{[]: 1}")], {"A": {}})


@posix
def test_a_lesson_that_runs_already_is_refused(tmp_path):
    (tmp_path / "mini.ipynb").write_text(book(parameters('PROFILE = "laptop"')))
    with another(hold, tmp_path / "out" / ".partial-mini.lock"):
        (result,) = run_lessons([tmp_path / "mini.ipynb"], tmp_path / "out", html=False)
    assert result.status == "refused" and "another process is running mini" in result.message


def test_links_to_pages_with_odd_names(tmp_path):
    result = {"lesson": "a#1", "status": "passed", "seconds": 1, "profile": "smoke", "page": "pages/a#1 %.html"}
    text = index_page(tmp_path / "index.html", [], [{**result, "message": None, "date": "2020"}]).read_text()
    assert 'href="pages/a%231%20%25.html"' in text


def test_an_unfinished_folder_is_removed_with_what_is_in_it(tmp_path):
    with unfinished(tmp_path / "w", folder=True) as folder:
        (folder / "deep").mkdir()
    assert names(tmp_path) == []
