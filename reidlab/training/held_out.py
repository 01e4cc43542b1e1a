"""Watching a run on people of the training set: never on those it will be judged by."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from reidlab.data.folders import query_and_gallery
from reidlab.data.records import Record, Splits
from reidlab.errors import CollapseError, DataError
from reidlab.evaluation.chance import ChanceLevelWarning
from reidlab.features import evaluate_model
from reidlab.models import Model
from reidlab.ranks import Ranks
from reidlab.training.config import TrainConfig

SEEN = (25, 100)
"""With nobody held out, a tenth of the people seen in training are looked at, within these numbers of them."""
AFTER = 0.25
"""Share of the run after which a score at chance level, twice in a row, ends it."""


def hold_out(data: Splits, config: TrainConfig) -> tuple[list[Record], Splits | None]:
    """Divide the training identities into those to train on and those to watch the run by.

    Args:
        data: a data set; only `data.train` is read.
        config: `held_out`, `evaluate_every` and `seed`, by which people are chosen.

    Returns:
        The records to train on, and query and gallery to evaluate on, or None if `evaluate_every` is 0. With
        `held_out` above 0 nobody is in both. Queries are the first image of each camera of a person, as in
        `FolderDataset`.

    Raises:
        ValueError: `data.train` is empty; fewer than two people would be held out, or trained on; or nobody was seen
            by two cameras.
    """
    records = list(data.train)
    if not records:
        raise ValueError(f"data.train of {data.name} is empty: nothing to train on; give data with a part for training")
    if not config.evaluate_every:
        return records, None
    pids = np.unique([record.pid for record in records])
    number = round(config.held_out * len(pids))
    if config.held_out and not 2 <= number <= len(pids) - 2:
        raise ValueError(f"held_out={config.held_out} of {len(pids)} identities are {number}; at least 2 are needed")
    looked_at = number or min(len(pids), max(SEEN[0], min(SEEN[1], len(pids) // 10)))
    chosen = set(np.random.default_rng([config.seed, 1]).permutation(pids)[:looked_at].tolist())
    try:
        query, gallery = query_and_gallery("training identities", [r for r in records if r.pid in chosen])
    except DataError as error:
        raise ValueError(f"{error}; or set evaluate_every=0") from None
    kept = [record for record in records if not number or record.pid not in chosen]
    protocol = "held-out training identities" if number else "identities seen in training"
    return kept, Splits(data.name, data.box, protocol, kept, query, gallery)


class Lookout:
    """Evaluates a run now and then, and stops one that has learned nothing.

    Args:
        config: the settings.
        watched: query and gallery of `hold_out`.
        device, workers, ranks: as for `reidlab.features.evaluate_model`.
    """

    def __init__(self, config: TrainConfig, watched: Splits, device: str, workers: int, ranks: Ranks = Ranks()):
        self.config, self.watched, self.device, self.workers, self.ranks = config, watched, device, workers, ranks
        self.at_chance = 0

    def look(self, model: Model, iteration: int) -> dict[str, Any]:
        """Evaluate; the random generators are left as they were.

        Returns:
            A row for the log: `people` ("held-out" or "seen") and their number, `rank1`, `mean_ap`, `chance_mean_ap`.

        Raises:
            CollapseError: after a quarter of the run, scores were at chance level twice in a row.
        """
        devices = [torch.device(self.device)] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices), warnings.catch_warnings():
            warnings.simplefilter("ignore", ChanceLevelWarning)  # one such score early on means nothing
            found = evaluate_model(model, self.watched, device=self.device, workers=self.workers, ranks=self.ranks)
        self.at_chance = self.at_chance + 1 if found.at_chance and iteration >= AFTER * self.config.iterations else 0
        if self.at_chance >= 2:
            raise CollapseError(
                f"iteration {iteration}: mAP {found.mean_ap:.1%} on {self.watched.protocol}, and a random order would "
                f"have {found.chance['mean_ap']:.1%}: nothing was learned. Check that labels and images belong "
                "together and that pretrained weights were really loaded, lower learning_rate"
            )
        people = "held-out" if self.config.held_out else "seen"
        number = len({record.pid for record in self.watched.query})
        row = {"iteration": iteration, "people": people, "identities": number, "rank1": found.rank1}
        return row | {"mean_ap": found.mean_ap, "chance_mean_ap": found.chance["mean_ap"]}
