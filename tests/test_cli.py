import errno
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch.distributed.run
import typer
from conftest import describe_pictures
from PIL import Image
from typer.testing import CliRunner

from reidlab.cli import app

runner = CliRunner()
pytestmark = pytest.mark.usefixtures("half_size")


def run(*arguments):
    return runner.invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """Ten people in two cameras, one colour each, in Market-1501's layout: five to train, five to test."""
    root = tmp_path_factory.mktemp("market")
    rng = np.random.default_rng(0)
    for pid in range(1, 11):
        colour = rng.integers(0, 255, 3)
        for camid in (1, 2):
            for number in range(2):
                folder = "bounding_box_train" if pid <= 5 else "query" if number == 0 else "bounding_box_test"
                image = np.clip(colour + rng.integers(-20, 20, (64, 32, 3)), 0, 255).astype(np.uint8)
                (root / folder).mkdir(exist_ok=True)
                Image.fromarray(image).save(root / folder / f"{pid:04d}_c{camid}s1_{number:06d}_00.png")
    return root


SMALL = ["--format", "market1501", "--preset", "smoke", "--device", "cpu", "--set", "iterations=4"]


@pytest.fixture(scope="module")
def trained(market, tmp_path_factory):
    """A run of the command, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    with pytest.MonkeyPatch.context() as patch:
        describe_pictures(patch)  # test_report.py has one with pictures
        result = run("train", market, "--out", folder, *SMALL, "--set", "save_every=2", "--set", "evaluate_every=2")
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_train_then_evaluate_then_a_results_file(market, trained, tmp_path):
    folder, printed = trained
    assert "iteration      4" in printed and "images/s" in printed and "MB" in printed
    look = r"iteration +0 +5 seen training identities: rank-1 [\d.]+%  mAP [\d.]+% \(chance [\d.]+%\)"
    assert re.search(look, printed)
    scores = tmp_path / "scores.json"
    evaluated = run("evaluate", market, "--format", "market1501", "--checkpoint", folder / "last.pt", "--out", scores)
    assert evaluated.exit_code == 0, evaluated.output
    content = json.loads(scores.read_text())
    assert content["rule"] == "market" and content["seeds"] == [0] and 0 <= content["rank1"] <= 1
    own = json.loads((folder / "scores.json").read_text())["last"]  # the checkpoint scores what the run said
    assert (own["rank1"], own["mean_ap"]) == (content["rank1"], content["mean_ap"])
    assert f"last.pt: rank-1 {own['rank1']:.1%}, mAP (step) {own['mean_ap']:.1%}; market rule, cosine" in printed
    assert "<html" in (folder / "report.html").read_text()


def test_a_run_is_not_overwritten_but_gone_on_with(market, trained, described):
    folder, _ = trained
    again = run("train", market, "--out", folder, *SMALL)
    assert again.exit_code == 1 and "holds a run already" in again.stderr and again.stderr.count("\n") == 1
    last = (folder / "last.pt").stat().st_mtime_ns
    same = [*SMALL, "--set", "save_every=2", "--set", "evaluate_every=2"]
    on = run("train", market, "--out", folder, "--resume", *same)
    assert on.exit_code == 0 and "last.pt: rank-1" in on.output  # there was nothing left to do
    assert (folder / "last.pt").stat().st_mtime_ns == last
    other = run("train", market, "--out", folder, "--resume", *same, "--set", "learning_rate=0.5")
    assert other.exit_code == 1 and "learning_rate=0.5 (it began with 0.002)" in other.stderr


def test_ctrl_c_says_how_to_go_on(market, tmp_path, described, monkeypatch):
    import reidlab.cli

    def interrupt(row):
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(reidlab.cli, "_print_row", interrupt)
        stopped = run("train", market, "--out", tmp_path / "run", *SMALL, "--set", "log_every=1")
    assert stopped.exit_code == 130 and "last.pt is written; the same command with --resume goes on" in stopped.output
    on = run("train", market, "--out", tmp_path / "run", "--resume", *SMALL, "--set", "log_every=1")
    assert on.exit_code == 0 and "iteration      2" in on.output and "iteration      1" not in on.output


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_torchrun_hands_every_option_on(command):
    """It takes what abbreviates an option of its own, such as --run, for that option, wherever it stands."""
    own = {command.name: command for command in typer.main.get_command(app).commands.values()}[command]
    options = [name for parameter in own.params for name in parameter.opts if name.startswith("--")]
    assert "--device" in options and len(options) > 8
    for name in options:
        parsed = torch.distributed.run.get_args_parser().parse_args(["-m", "reidlab", command, name, "value"])
        assert parsed.training_script_args == [command, name, "value"]


def test_ctrl_c_at_the_scores_says_that_resume_takes_them(market, tmp_path, described, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("reidlab.training.report.finish_run", interrupt)
        stopped = run("train", market, "--out", tmp_path / "run", *SMALL)
    assert stopped.exit_code == 130 and "the same command with --resume goes on" in stopped.output
    on = run("train", market, "--out", tmp_path / "run", "--resume", *SMALL)
    assert on.exit_code == 0 and "last.pt: rank-1" in on.output


def test_a_dry_run_prints_a_table_and_writes_nothing(market, tmp_path):
    planned = run("train", market, "--out", tmp_path / "run", "--dry-run", *SMALL)
    assert planned.exit_code == 0, planned.output
    assert "iterations" in planned.output and "parameters" in planned.output
    assert list(tmp_path.iterdir()) == []


def test_raw_pixels_find_people_of_one_colour(market):
    result = run("evaluate", market, "--format", "market1501")
    assert result.exit_code == 0 and "raw pixels (no --checkpoint given)" in result.output


def test_the_shipped_weights_find_people_of_one_colour(market, tmp_path):
    scores = tmp_path / "scores.json"
    result = run("evaluate", market, "--format", "market1501", "--shipped", "--out", scores)
    assert result.exit_code == 0 and "shipped weights" in result.output, result.output
    content = json.loads(scores.read_text())
    assert content["seeds"] == [0] and content["rank1"] > 0.5
    both = run("evaluate", market, "--format", "market1501", "--shipped", "--checkpoint", "last.pt")
    assert both.exit_code == 1 and "expected one of them" in both.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "."], "--box is missing"),
        (
            ["evaluate", ".", "--format", "market1501", "--box", "labeled"],
            "--box, --protocol and --split are for CUHK03",
        ),
        (["evaluate", ".", "--format", "folder", "--split", "3"], "are for CUHK03"),
        (["train", ".", "--format", "market1501", "--preset", "desktop"], "expected one of laptop"),
        (["train", ".", "--format", "market1501", "--set", "lr=1"], "unknown setting lr"),
        (["train", ".", "--format", "market1501", "--dry-run", "--resume"], "expected one of them"),
        (["evaluate", ".", "--format", "mars"], "expected cuhk03, market1501 or folder"),
        (["evaluate", "no-such-folder", "--box", "labeled"], "no-such-folder"),
        (["train", ".", "--format", "market1501", "--set", "iterations"], "expected NAME=VALUE"),
        (["lessons", "run", "-p", "PROFILE"], "expected NAME=VALUE"),
        (["lessons", "run", "absent.ipynb"], "absent.ipynb"),
        (["world", "out", "--size", "huge"], "huge"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(market, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(market if "--set" in arguments else tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr and result.stderr.count("\n") == 1


def test_check_passes_a_whole_world_and_fails_a_broken_one(tiny_world, tmp_path):
    good = run("check", tiny_world)
    assert good.exit_code == 0 and "ok" in good.output
    (tmp_path / "cuhk-03.mat").write_text("<!DOCTYPE html><html></html>")
    bad = run("check", tmp_path)
    assert bad.exit_code == 1 and "web page" in bad.output


def test_world_is_written_and_then_found(tmp_path, tiny_world):
    result = run("world", tiny_world, "--size", "tiny")  # same parameters: nothing is written again
    assert result.exit_code == 0 and str(tiny_world) in result.output


def test_the_module_runs_as_a_command():
    done = subprocess.run([sys.executable, "-m", "reidlab", "--help"], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in ("world", "check", "train", "evaluate", "lessons"))


def test_a_system_error_keeps_the_name_of_the_file(market, monkeypatch):
    def refuse(root):
        raise PermissionError(errno.EACCES, "Permission denied", "people.png")

    monkeypatch.setattr("reidlab.data.Market1501", refuse)
    result = run("evaluate", market, "--format", "market1501")
    assert result.exit_code == 1 and "people.png" in result.stderr


def test_scores_survive_a_page_that_cannot_be_made(market, trained, monkeypatch, caplog):
    from reidlab.data import Market1501
    from reidlab.training.report import finish_run

    def fail(*_):
        raise ImportError("Cannot load backend 'TkAgg'")

    folder, _ = trained
    before = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").unlink()
    monkeypatch.setattr("reidlab.training.report._write_page", fail)
    finish_run(folder, Market1501(market))
    after = json.loads((folder / "scores.json").read_text())
    assert after["last"]["mean_ap"] == before["last"]["mean_ap"]
    assert "report.html: not written (ImportError: Cannot load backend 'TkAgg')" in caplog.text
