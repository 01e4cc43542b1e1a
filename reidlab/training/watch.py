"""What a loss does not tell about a run: how many triplets still teach, and whether all features are one."""

from __future__ import annotations

from torch import Tensor

from reidlab.errors import CollapseError
from reidlab.losses import MININGS, triplet_statistics
from reidlab.training.config import TrainConfig

COLLAPSED = 0.1
"""Share of the margin below which the mean distance within a batch counts as none; a soft margin counts as 0.3."""


class Watch:
    """Looks at the batch of each row of the history, and stops a run that has collapsed.

    Args:
        config: the settings; without a triplet loss there is nothing to watch.

    Taught in: notebooks/03_triplet_losses.ipynb
    """

    def __init__(self, config: TrainConfig):
        self.config, self.rows_without_distance = config, 0

    def row(self, features: Tensor, labels: Tensor) -> dict[str, float]:
        """Return `active_anchors` and `mean_distance` of a batch, as in `TripletStatistics`."""
        if self.config.model != "baseline" or self.config.metric_loss not in MININGS:
            return {}
        found = triplet_statistics(features, labels, self.config.margin, self.config.metric)
        small = found.mean_distance < COLLAPSED * (self.config.margin or 0.3)
        self.rows_without_distance = self.rows_without_distance + 1 if small else 0
        return {"active_anchors": found.active_anchors, "mean_distance": found.mean_distance}

    def check(self, row: dict[str, float]) -> None:
        """Raise after two rows in a row without distance between images.

        Raises:
            CollapseError: the message says what was seen and what to try.
        """
        if self.rows_without_distance >= 2:
            stuck = "ln 2 = 0.693" if self.config.margin is None else f"the margin, {self.config.margin}"
            raise CollapseError(
                f"iteration {row['iteration']:.0f}: the features of all images have become one point (mean distance "
                f"{row['mean_distance']:.1e}, triplet loss {row['triplet']:.3f}; a collapsed run stays at {stuck}). "
                "Lower learning_rate, lengthen the warm-up, check that pretrained weights were really loaded, or "
                "begin with metric_loss='batch_all'"
            )
