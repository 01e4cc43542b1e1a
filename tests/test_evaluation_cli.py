"""The options of an evaluation arrive where they should: from the command line, through models, into records."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from reidlab.cli import app
from reidlab.data import FolderDataset
from reidlab.evaluation import evaluate_model
from reidlab.models.pixels import RawPixels
from reidlab.results import check_comparable, score_record


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", params=[1, 2], ids=["one camera", "two cameras"])
def people(request, tmp_path_factory):
    """Four people, one grey each, four images each, in one camera or two."""
    root = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(0)
    for pid in range(1, 5):
        for number in range(4):
            part = root / ("query" if number == 0 else "gallery") / str(pid)
            part.mkdir(parents=True, exist_ok=True)
            image = np.clip(60 * pid + rng.integers(-9, 9, (32, 16, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(part / f"{1 + number % request.param}_{number}.png")
    return root, request.param


def test_rule_and_camera_options_reach_the_scores(people, tmp_path):
    root, cameras = people
    command = ["evaluate", root, "--format", "folder", "--device", "cpu"]
    plain = run(*command, "--rule", "allshots")
    if cameras == 1:
        assert plain.exit_code == 1 and 'pass same_camera="keep"' in plain.output
    else:
        assert plain.exit_code == 0 and "allshots rule" in plain.output, plain.output
    out = tmp_path / "scores.json"
    kept = run(*command, "--rule", "cuhk03_torchreid", "--same-camera", "keep", "--out", out)
    assert kept.exit_code == 0 and "cuhk03_torchreid rule (10 draws, seed 0), own camera kept" in kept.output, (
        kept.output
    )
    content = json.loads(out.read_text())
    assert (content["rule"], content["same_camera"], content["repeats"]) == ("cuhk03_torchreid", "keep", 10)
    assert 0 < content["chance"]["mean_ap"] < content["mean_ap"] <= 1 and content["mean_inp"] <= content["mean_ap"]


def test_a_rule_that_is_not_there_is_refused_before_work_begins(people):
    result = run("evaluate", people[0], "--format", "folder", "--rule", "cuhk03")
    assert result.exit_code == 1 and "expected one of market" in result.output and "embedding" not in result.output


def test_records_with_and_without_the_own_camera_are_not_compared(people):
    data = FolderDataset(people[0])
    kept = score_record(evaluate_model(RawPixels(), data, same_camera="keep"), data, seeds=[])
    before = {key: value for key, value in kept.items() if key != "same_camera"}  # a record of an older version
    with pytest.raises(ValueError, match="same_camera is 'exclude' in one and 'keep' in another"):
        check_comparable([kept, before])
    check_comparable([{**kept, "same_camera": "exclude"}, before])
