"""The shipped weights, made again: everything that `reidlab weights` does, in small."""

import dataclasses
import hashlib
import json
import os

import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from reidlab.cli import app
from reidlab.evaluation import evaluate_model
from reidlab.models import Baseline
from reidlab.walkers import World, streets
from reidlab.walkers.pretraining import make_weights, street_config
from reidlab.walkers.street_crops import StreetCrops
from reidlab.walkers.streets import Streets

SITE, PEOPLE = 8, 16
SETTINGS = {"iterations": 2, "seed": 3, "identities_per_batch": 4, "images_per_identity": 2, "precision": "float32"}
OPTIONS = [text for name, value in SETTINGS.items() for text in ("--set", f"{name}={value}")]


def run(*arguments):
    return CliRunner().invoke(app, ["weights", *map(str, arguments)])


def make_small(patch):
    """Sites of eight people, two shots each, measured on the tiny world."""
    patch.setattr(os, "cpu_count", lambda: 1)  # other processes would draw sites of the usual size
    patch.setattr(streets, "PEOPLE_PER_SITE", SITE)
    patch.setattr(streets, "SHOTS", 2)
    patch.setattr(World, "preset", classmethod(lambda cls, name: cls({"small": 16}[name])))


@pytest.fixture
def small(monkeypatch):
    make_small(monkeypatch)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_world):
    """A folder with `a.safetensors`, `a.json` and the crops in `set`, and what the command said."""
    folder = tmp_path_factory.mktemp("weights")
    files = ["--out", folder / "deep" / "a.safetensors", "--record", folder / "deep" / "a.json"]
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        result = run(*files, "--data", folder / "set", "--walkers", tiny_world, "--people", PEOPLE, *OPTIONS)
    assert result.exit_code == 0, result.output
    return folder, result.output


@pytest.fixture
def record(made):
    return json.loads((made[0] / "deep" / "a.json").read_text())


def test_the_command_tells_what_it_does_and_how_good_it_is(made, record):
    folder, output = made
    assert "iteration      2" in output and f"weights: {folder / 'deep' / 'a.safetensors'}" in output
    measured = [(row["dataset"], row["box"], row["protocol"]) for row in record["scores"]]
    assert measured == [
        ("Walkers streets", "drawn", "last 8 people held out"),
        ("Walkers (16 people, seed 0)", "labeled", "new"),
        ("Walkers (16 people, seed 0)", "detected", "new"),
    ]
    for row in record["scores"]:
        assert f"{row['dataset']}, {row['box']} boxes: rank-1 {row['rank1']:.1%}, mAP {row['mean_ap']:.1%}" in output
        assert row["seeds"] == [3]
        assert row["rule"] == "market" and 0 <= row["mean_ap"] <= 1


def test_the_recipe_says_all_that_is_needed_to_cook_again(made, record, small):
    recipe = record["recipe"]
    assert recipe["streets"] == "Streets(num_people=16, seed=0)" and recipe["streets_key"] == Streets(PEOPLE).key
    settings = dataclasses.asdict(street_config(**SETTINGS)) | {"augmentation": "StreetAugmentation"}
    assert recipe["settings"] == json.loads(json.dumps(settings))
    assert recipe["threads"] == 1
    assert set(recipe["seconds"]) == {"drawing", "training"} and min(recipe["seconds"].values()) > 0
    path = made[0] / "deep" / "a.safetensors"
    assert recipe["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()["recipe"])
    # nothing that another run or a change of a comment in the code changes
    assert told == {name: recipe[name] for name in ("streets", "settings", "threads")}
    assert set(recipe) == {*told, "streets_key", "seconds", "sha256"}


def test_the_weights_load_and_score_what_the_record_says(made, record):
    model = Baseline.pretrained(path=made[0] / "deep" / "a.safetensors")
    settings = {"backbone": "small", "margin": None, "label_smoothing": 0.1, "flip": True, "num_stripes": 4}
    settings |= {"metric_loss": "batch_hard", "metric": "euclidean", "cross_entropy": True, "neck": True}
    assert not model.training and model.arguments == {"num_classes": 1, **settings}
    score = evaluate_model(model, StreetCrops(made[0] / "set"))
    assert score.mean_ap == pytest.approx(record["scores"][0]["mean_ap"], abs=1e-6)
    assert score.rank1 == record["scores"][0]["rank1"]


def test_made_again_the_file_is_the_same_on_any_number_of_threads(made, small, tmp_path, monkeypatch):
    """From the crops that are there: nothing is drawn."""
    monkeypatch.setattr(streets, "_draw_site", None)
    rows, before = [], torch.get_num_threads()
    config = street_config(**SETTINGS)
    torch.set_num_threads(before + 1)
    try:
        make_weights(
            config, made[0] / "set", tmp_path / "b", PEOPLE, report=lambda row: rows.append(torch.get_num_threads())
        )
        assert rows == [1] and torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert (tmp_path / "b").read_bytes() == (made[0] / "deep" / "a.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "other"], "not a street set"),
        (["--walkers", "other"], "not a world"),
        (["--out", "other"], "is a folder, expected a file name"),
        (["--record", "other"], "is a folder, expected a file name"),
        (["--people", SITE], "people=8: one site; expected two or more, to train on and to measure on: 16"),
        (["--people", 0], "got num_people=0, expected a multiple of 8"),
        (["--set", "flip=yes"], "flip='yes': expected True or False"),
        (
            ["--set", "num_stripes=3", "--data", "new"],
            "num_stripes=3: the map has 8 rows; expected one of [0, 1, 2, 4, 8]",
        ),
        (["--set", "identities_per_batch=9"], "identities_per_batch=9, but the training set has 8 identities"),
    ],
)
def test_errors_are_one_line_before_anything_is_drawn(
    made, small, tmp_path, tiny_world, monkeypatch, arguments, message
):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(streets, "_draw_site", None)
    usual = ["--out", "a.safetensors", "--data", made[0] / "set", "--walkers", tiny_world, "--people", PEOPLE]
    result = run(*usual, *OPTIONS, *arguments)
    assert result.exit_code == 1
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--people", PEOPLE], "--people and --set make other weights than those of the package: say where with --out"),
        (["--set", "iterations=3"], "--people and --set make other weights than those of the package"),
        (["--out", "a.safetensors", "--people", 12], "got num_people=12, expected a multiple of 8"),
    ],
)
def test_what_is_asked_for_is_checked_before_the_measuring_world_is_drawn(
    small, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("reidlab.models.weights.WEIGHTS", tmp_path / "shipped.safetensors")
    monkeypatch.setattr(streets, "_draw_site", None)
    monkeypatch.setattr(World, "write", lambda world, root, **options: tmp_path.joinpath(root).mkdir())
    result = run("--data", "set", "--walkers", "world", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "world").exists() and list(tmp_path.iterdir()) == []


def test_other_people_are_drawn_before_they_are_trained_on(made, small, tmp_path, tiny_world, monkeypatch):
    """Crops of other streets are not taken for those asked for."""
    drawn = []
    monkeypatch.setattr(streets, "_draw_site", lambda key, site: drawn.append((key, site)) or 128)
    result = run("--out", tmp_path / "a.safetensors", "--data", tmp_path / "set", "--walkers", tiny_world,
                 "--people", 3 * SITE, *OPTIONS, "--set", "iterations=1")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert drawn == [((24, 0), site) for site in range(3)] and StreetCrops(tmp_path / "set").people == 24
