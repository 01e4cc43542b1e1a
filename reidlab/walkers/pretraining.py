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
from reidlab.evaluation import evaluate_model
from reidlab.models.baseline import Baseline
from reidlab.models.weights import WEIGHTS, save_weights
from reidlab.results import score_record
from reidlab.training import TrainConfig, train
from reidlab.training.config import new_model
from reidlab.walkers.street_augmentation import StreetAugmentation
from reidlab.walkers.street_crops import StreetCrops
from reidlab.walkers.streets import Streets

PEOPLE, SEED = 6000, 0
SETTINGS: dict[str, Any] = {
    "num_stripes": 4,
    "flip": True,
    "distinct_cameras": True,
    "iterations": 6000,
    "warmup": 0.05,
    "weight_decay": 1e-2,
    "margin": None,
    "ema_decay": 0.999,
    "max_grad_norm": 20.0,
    "log_every": 100,
}
"""What the shipped weights are trained with, besides `StreetAugmentation` at its usual strengths."""


def street_config(**changes: Any) -> TrainConfig:
    """Return the settings of the shipped weights, with some of them changed.

    Raises:
        ValueError: no such setting.

    Example:
        >>> street_config(iterations=800).model_args["num_stripes"]
        4
    """
    return TrainConfig.preset("laptop", **SETTINGS | changes)


def make_weights(
    config: TrainConfig,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str] = WEIGHTS,
    people: int = PEOPLE,
    jobs: int | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Draw the streets, train on them and write the weights.

    One thread computes, however many there are: with another number sums are rounded in another order, and
    the file would depend on the machine's cores.

    Args:
        config: settings of the training, for the shipped file `street_config()`.
        data: folder for the crops (0.5 MB a person); used again if it holds the same streets.
        out: the weights file.
        people: how many strangers, a multiple of 40, from 80 on; jobs: processes that draw them.
        report: called with each row of the training's history.

    Returns:
        The recipe: streets and settings as written into the file, seconds, and the file's SHA-256.
    """
    start = time.perf_counter()
    streets = Streets(people, SEED)
    if streets.num_sites < 2:
        raise ValueError(
            f"people={people}: one site; expected two or more, to train on and to measure on: {2 * people}"
        )
    model = new_model(config.model, config.model_args, 1)  # what does not fit says so before all is drawn
    augment = StreetAugmentation(model.height, model.width)
    crops = StreetCrops(streets.write(data, jobs))
    drawn = time.perf_counter() - start
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        trained = train(config, crops, report=report, augment=augment)
    finally:
        torch.set_num_threads(before)
    settings = dataclasses.asdict(trained.config) | {"augmentation": type(augment).__name__}
    recipe = {"streets": repr(streets), "settings": settings, "threads": 1}
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
        model: in evaluation mode; seed: what it was trained with.
        streets, walkers: folders of the crops and of a world.
    """
    sets = [StreetCrops(streets), *(CUHK03(walkers, box=box, protocol="new") for box in ("labeled", "detected"))]
    return [score_record(evaluate_model(model, data), data, seeds=[seed]) for data in sets]
