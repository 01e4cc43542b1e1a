"""What is measured beside the loss: scores on identities of the training set, and signs of a collapse."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidlab.data.folders import query_and_gallery
from reidlab.data.records import Record, Splits
from reidlab.distributed import Processes
from reidlab.errors import CollapseError, DataError
from reidlab.evaluation import ChanceLevelWarning, evaluate_model
from reidlab.losses import MININGS, triplet_statistics
from reidlab.models import Baseline, ReIDModel
from reidlab.training.config import TrainConfig

SEEN = (25, 100)
"""With no identities held out, a tenth of those seen in training are evaluated, within these numbers of them."""
AFTER = 0.25
"""Share of the run after which a score at chance level, twice in a row, ends it."""
COLLAPSED = 0.1
"""A mean distance within the batch below this share of the margin may be a collapse; a soft margin counts as 0.3."""
AT_THE_MARGIN = 0.05
"""It is one if the loss, too, is no farther than this share from what it is when all features are equal."""


def hold_out(data: Splits, config: TrainConfig) -> tuple[list[Record], Splits | None]:
    """Divide the training identities into those to train on and those to evaluate the run on.

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
    evaluated = number or min(len(pids), max(SEEN[0], min(SEEN[1], len(pids) // 10)))
    chosen = set(np.random.default_rng([config.seed, 1]).permutation(pids)[:evaluated].tolist())
    try:
        query, gallery = query_and_gallery("training identities", [r for r in records if r.pid in chosen])
    except DataError as error:
        raise ValueError(f"{error}; or set evaluate_every=0") from None
    kept = [record for record in records if not number or record.pid not in chosen]
    protocol = "held-out training identities" if number else "identities seen in training"
    return kept, Splits(data.name, data.box, protocol, kept, query, gallery)


class ValidationMonitor:
    """Evaluates a run on identities of the training set, and stops one that has learned nothing.

    Args:
        config: the settings.
        data: query and gallery of `hold_out`.
        device, workers, processes: as for `reidlab.evaluation.evaluate_model`.
    """

    def __init__(
        self, config: TrainConfig, data: Splits, device: str, workers: int, processes: Processes = Processes()
    ):
        self.config, self.data, self.device, self.workers, self.processes = config, data, device, workers, processes
        self.at_chance = 0

    def validate(self, model: ReIDModel, iteration: int) -> dict[str, Any]:
        """Evaluate; the random generators are left as they were.

        Returns:
            A row for the log: `people` ("held-out" or "seen") and their number, `rank1`, `mean_ap`, `chance_mean_ap`.

        Raises:
            CollapseError: after a quarter of the run, scores were at chance level twice in a row.
        """
        devices = [torch.device(self.device)] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices), warnings.catch_warnings():
            warnings.simplefilter("ignore", ChanceLevelWarning)  # one such score early on means nothing
            found = evaluate_model(model, self.data, device=self.device, workers=self.workers, processes=self.processes)
        self.at_chance = self.at_chance + 1 if found.at_chance and iteration >= AFTER * self.config.iterations else 0
        if self.at_chance >= 2:
            raise CollapseError(
                f"iteration {iteration}: mAP {found.mean_ap:.1%} on {self.data.protocol}, and a random order would "
                f"have {found.chance['mean_ap']:.1%}: nothing was learned. Check that labels and images belong "
                "together and that pretrained weights were really loaded, lower learning_rate"
            )
        people = "held-out" if self.config.held_out else "seen"
        number = len({record.pid for record in self.data.query})
        row = {"iteration": iteration, "people": people, "identities": number, "rank1": found.rank1}
        return row | {"mean_ap": found.mean_ap, "chance_mean_ap": found.chance["mean_ap"]}


class CollapseMonitor:
    """Measures the batch of each row of the history, and stops a run whose features have become one point.

    Args:
        model: one that was made with a triplet loss (`margin`, `metric`) is monitored. Those of parts have one for
            each of their features: the mean of these counts, and the distances of all features side by side.

    Taught in: notebooks/03_triplet_losses.ipynb
    """

    def __init__(self, model: ReIDModel):
        made = model.arguments
        self.model, self.rows = model, 0
        self.margin, self.metric = made.get("margin"), made.get("metric", "euclidean")
        self.monitored = "margin" in made and made.get("metric_loss", "batch_hard") in MININGS

    def row(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        """Return `mean_distance` of a batch, and with one triplet loss `active_anchors`, as in `TripletStatistics`."""
        if not self.monitored:
            return {}
        found = triplet_statistics(features, labels, self.margin, self.metric)
        active = {"active_anchors": found.active_anchors} if isinstance(self.model, Baseline) else {}
        return {**active, "mean_distance": found.mean_distance}

    def check(self, row: dict[str, float]) -> None:
        """Raise at the second row in a row that shows a collapse.

        Both signs are needed: with a large margin, or the cosine distance, good features can be close together,
        and a network that has hardly begun can have a loss near the margin.

        Args:
            row: of the history, with `iteration`, `mean_distance`, and `triplet` or terms "triplet/…"; other rows are
                let through.

        Raises:
            CollapseError: the message says what was seen and what to try.
        """
        losses = [value for name, value in row.items() if name.partition("/")[0] == "triplet"]
        if "mean_distance" not in row or not losses:
            return
        loss = sum(losses) / len(losses)
        margin = self.margin
        stuck = math.log(2) if margin is None else margin
        close = row["mean_distance"] < COLLAPSED * (margin or 0.3)
        self.rows = self.rows + 1 if close and abs(loss - stuck) <= AT_THE_MARGIN * stuck else 0
        if self.rows >= 2:
            gentler = ", or begin with metric_loss='batch_all'" if type(self.model) is Baseline else ""
            where = "ln 2 = 0.693" if margin is None else f"the margin, {margin}"
            raise CollapseError(
                f"iteration {row['iteration']:.0f}: the features of all images have become one point (mean distance "
                f"{row['mean_distance']:.1e}, triplet loss {loss:.3f}; a collapsed run stays at {where}). "
                "Lower learning_rate or weight_decay, lengthen the warm-up, check that pretrained weights were really "
                f"loaded{gentler}"
            )
