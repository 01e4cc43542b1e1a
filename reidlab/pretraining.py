"""The shipped weights, made again from nothing: draw the streets, train, write, measure. No real image is read.

`make weights` does it with the settings that are shipped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from reidlab.data import CUHK03
from reidlab.data.streets import StreetCrops
from reidlab.features import evaluate_model
from reidlab.models.baseline import Baseline
from reidlab.models.weights import WEIGHTS, save_weights
from reidlab.results import score_record
from reidlab.synth.streets import Streets
from reidlab.training import TrainConfig, train

PEOPLE, SEED = 6000, 0


def make_weights(
    config: TrainConfig,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] = WEIGHTS,
    people: int = PEOPLE,
    jobs: int | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Draw the streets, train on them and write the weights.

    Args:
        config: settings of the training, for the shipped file `TrainConfig.preset("street")`.
        data: folder for the crops (0.5 MB a person); used again if it holds the same streets.
        out: the weights file.
        people: how many strangers, a multiple of 40, from 80 on.
        jobs: processes that draw.
        report: called with each row of the training's history.

    Returns:
        The recipe: streets and settings as written into the file, seconds, and the file's SHA-256.

    One thread computes, however many there are: with another number sums are rounded in another order, and
    the file would depend on the machine's cores.
    """
    start = time.perf_counter()
    streets = Streets(people, SEED)
    if streets.num_sites < 2:
        raise ValueError(
            f"people={people}: one site; expected two or more, to train on and to measure on: {2 * people}"
        )
    Baseline(1, config.backbone, stripes=config.stripes)  # what does not fit should say so before all is drawn
    crops = StreetCrops(streets.write(data, jobs))
    drawn = time.perf_counter() - start
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trained = train(config, crops, report=report)
    finally:
        torch.set_num_threads(before)
    recipe = {"streets": repr(streets), "settings": dataclasses.asdict(config), "threads": 1}
    save_weights(trained.model, out, recipe)  # neither times nor versions: the same weights, the same bytes
    digest = hashlib.sha256(Path(out).read_bytes()).hexdigest()
    return recipe | {
        "streets_key": streets.key,
        "seconds": {"drawing": drawn, "training": trained.seconds},
        "sha256": digest,
    }


def measure(
    model: Baseline, streets: str | os.PathLike[str], walkers: str | os.PathLike[str], seed: int
) -> list[dict[str, Any]]:
    """Score a model on drawn people it was not trained on: the held-out strangers, and both boxes of a world.

    Args:
        model: in evaluation mode.
        streets: folder of the crops.
        walkers: folder of a world.
        seed: what the model was trained with.
    """
    sets = [StreetCrops(streets), *(CUHK03(walkers, box=box, protocol="new") for box in ("labeled", "detected"))]
    return [score_record(evaluate_model(model, data), data, seeds=[seed]) for data in sets]
