"""Losses by name, for settings of a training run."""

from __future__ import annotations

import torch
from torch import Tensor

from reidlab.distances import l2_normalize
from reidlab.losses.pull_push import pull_push_loss
from reidlab.losses.relative import generate_triplets, relative_distance_loss
from reidlab.losses.triplet import MININGS, triplet_loss

PULL_PUSH = {
    "pull_push": (-1.0, "first"),
    "pull_push_all": (-1.0, "all"),
    "pull_push_zero": (0.0, "first"),
    "pull_push_zero_all": (0.0, "all"),
}
"""Target of the negatives, and which negatives, by name."""

METRIC_LOSSES = (*MININGS, "relative_distance", *PULL_PUSH)


def metric_loss(
    name: str,
    features: Tensor,
    pids: Tensor,
    margin: float | None = 0.3,
    metric: str = "euclidean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Compute the loss called `name` on features of any norm.

    Args:
        name: one of `METRIC_LOSSES`: a mining of `triplet_loss`; "relative_distance" with one triplet per image
            from `generate_triplets`; or "pull_push" with target -1 and first images, "…_zero" with target 0,
            "…_all" with all images. All but the triplet losses first normalise the features.
        features: (B, D).
        pids: (B,) identities.
        margin, metric: for the triplet losses; the others have none.
        generator: on the CPU; needed by "random" and "relative_distance".

    Returns:
        A scalar.

    Raises:
        ValueError: an unknown name, no generator where one is needed, or what the loss itself refuses.

    Example:
        >>> features, pids = torch.tensor([[3.0, 0.0], [0.6, 0.8], [0.0, 2.0]]), torch.tensor([1, 1, 2])
        >>> round(metric_loss("pull_push", features, pids).item(), 4)
        0.4

    Taught in: notebooks/03_triplet_losses.ipynb
    """
    if name in MININGS:
        return triplet_loss(features, pids, margin, name, metric, generator)
    if name not in METRIC_LOSSES:
        raise ValueError(f"metric loss {name!r}: expected one of {', '.join(METRIC_LOSSES)}")
    unit = l2_normalize(features)
    if name in PULL_PUSH:
        return pull_push_loss(unit, pids, *PULL_PUSH[name])
    if generator is None:
        raise ValueError(f"{name!r} samples triplets: pass generator=torch.Generator().manual_seed(0)")
    return relative_distance_loss(unit, generate_triplets(pids, generator))
