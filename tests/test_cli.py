import errno
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from reidlab.cli import app

runner = CliRunner()


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


def test_train_then_evaluate_then_a_results_file(market, tmp_path):
    checkpoint, scores = tmp_path / "last.pt", tmp_path / "scores.json"
    options = ["--format", "market1501", "--preset", "smoke", "--set", "iterations=4", "--device", "cpu"]
    trained = run("train", market, "--out", checkpoint, *options)
    assert trained.exit_code == 0, trained.output
    assert "iteration      4" in trained.output and "rank-1" in trained.output
    evaluated = run("evaluate", market, "--format", "market1501", "--checkpoint", checkpoint, "--out", scores)
    assert evaluated.exit_code == 0, evaluated.output
    content = json.loads(scores.read_text())
    assert content["rule"] == "market" and content["seeds"] == [0] and 0 <= content["rank1"] <= 1
    printed = next(line for line in trained.output.splitlines() if "rank-1" in line).split(": ", 1)[1]
    assert printed in evaluated.output  # the checkpoint scores what the run said


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
        (["train", ".", "--format", "market1501", "--out", "."], "is a folder, expected a file name"),
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
