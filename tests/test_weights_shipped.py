"""The weights that come with the package: what they are, and that they do what their card says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from safetensors import safe_open

from reidlab.data import CUHK03, Market1501
from reidlab.evaluation import evaluate_model, extract_features
from reidlab.models import Baseline
from reidlab.models.pixels import RawPixels
from reidlab.models.weights import WEIGHTS
from reidlab.training import TrainConfig
from reidlab.training.config import RENAMED
from reidlab.walkers.pretraining import street_config


@pytest.fixture(scope="module")
def model() -> Baseline:
    return Baseline.pretrained()


def test_the_file_is_small_and_says_how_it_was_made():
    assert WEIGHTS.stat().st_size <= 4_000_000
    with safe_open(WEIGHTS, framework="pt") as file:
        recipe = json.loads(file.metadata()["recipe"])
    record = json.loads((REPOSITORY / "results" / "walkers_small_weights.json").read_text(encoding="utf-8"))["recipe"]
    assert recipe["settings"] == record["settings"]
    made_with = street_config(precision="bfloat16")  # "auto" on the machine that made them
    settings = {RENAMED.get(name, name): value for name, value in recipe["settings"].items()}
    settings |= {"augmentation": "light"}  # "street" then, today an argument of train()
    assert TrainConfig().replace(**settings) == made_with  # newer settings have kept their meaning
    assert recipe["streets"] == record["streets"] == "Streets(num_people=6000, seed=0)"


def test_it_finds_walkers_it_has_never_seen(model: Baseline, tiny_world: Path):
    data = CUHK03(tiny_world, box="detected", protocol="new")
    assert evaluate_model(model, data).mean_ap > evaluate_model(RawPixels(), data).mean_ap + 0.2


def test_it_starts_a_training(tiny_world: Path):
    model = Baseline.pretrained(num_classes=3).train()
    terms = model.loss(model(torch.rand(6, 3, 128, 64)), torch.tensor([0, 0, 1, 1, 2, 2]))
    sum(terms.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_real_people_score_as_the_card_says(model: Baseline, real_data: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    import real_people

    data = Market1501(real_data / "pku_reid")
    found = extract_features(model, [*data.query, *data.gallery])
    scores = [real_people.between_cameras(found, query, gallery) for query, gallery in ((1, 2), (2, 1))]
    card = (WEIGHTS.parent / "README.md").read_text(encoding="utf-8")
    for score, way in zip(scores, ("1 → 2", "2 → 1"), strict=True):
        row = next(line for line in card.splitlines() if f"camera {way}" in line)
        printed = [float(cell) for cell in row.replace("|", " ").split() if cell.replace(".", "", 1).isdigit()][-2:]
        assert np.allclose(printed, [score.rank1, score.mean_ap], atol=0.006), (row, score)
    sys.modules.pop("real_people")
