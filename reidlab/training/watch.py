"""What a loss does not tell about a run: how many triplets still teach, and whether all features are one."""

from __future__ import annotations

import math

from torch import Tensor

from reidlab.errors import CollapseError
from reidlab.losses import MININGS, triplet_statistics
from reidlab.training.config import TrainConfig

COLLAPSED = 0.1
"""A mean distance within the batch below this share of the margin may be a collapse; a soft margin counts as 0.3."""
AT_THE_MARGIN = 0.05
"""It is one if the loss, too, is no farther than this share from what it is when all features are equal."""


class Watch:
    """Looks at the batch of each row of the history, and stops a run that has collapsed.

    Args:
        config: the settings; watched are networks with triplet losses. Those of parts have one for each of their
            features: it is the mean of these that is looked at, and the distances of all features side by side.

    Taught in: notebooks/03_triplet_losses.ipynb
    """

    def __init__(self, config: TrainConfig):
        self.config, self.rows = config, 0

    def row(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        """Return `mean_distance` of a batch, and with one triplet loss `active_anchors`, as in `TripletStatistics`."""
        if self.config.model == "relative_distance" or self.config.metric_loss not in MININGS:
            return {}
        found = triplet_statistics(features, labels, self.config.margin, self.config.metric)
        active = {"active_anchors": found.active_anchors} if self.config.model in ("baseline", "rga") else {}
        return {**active, "mean_distance": found.mean_distance}

    def check(self, row: dict[str, float]) -> None:
        """Raise at the second row in a row that shows a collapse.

        Both signs are asked for: with a large margin, or the cosine distance, good features can be close together,
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
        margin = self.config.margin
        stuck = math.log(2) if margin is None else margin
        close = row["mean_distance"] < COLLAPSED * (margin or 0.3)
        self.rows = self.rows + 1 if close and abs(loss - stuck) <= AT_THE_MARGIN * stuck else 0
        if self.rows >= 2:
            gentler = ", or begin with metric_loss='batch_all'" if self.config.model == "baseline" else ""
            where = "ln 2 = 0.693" if margin is None else f"the margin, {margin}"
            raise CollapseError(
                f"iteration {row['iteration']:.0f}: the features of all images have become one point (mean distance "
                f"{row['mean_distance']:.1e}, triplet loss {loss:.3f}; a collapsed run stays at {where}). "
                "Lower learning_rate or weight_decay, lengthen the warm-up, check that pretrained weights were really "
                f"loaded{gentler}"
            )
