"""Losses on features of a batch of images with known identities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reidlab.distances import euclidean_distance


def triplet_loss(features: Tensor, pids: Tensor, margin: float | None = 0.3) -> Tensor:
    """Batch-hard triplet loss: every image against its farthest positive and its nearest negative.

    An anchor counts if another image of its identity and an image of another identity are in the batch;
    any mix of labels is allowed. Without a single such anchor the loss is a zero that still has a graph.

    Args:
        features: (B, D), not normalised.
        pids: (B,) integer identities.
        margin: how much farther the nearest negative must be than the farthest positive, in units of
            Euclidean distance; None for the soft margin log(1 + exp(d_ap - d_an)).

    Returns:
        The mean over the anchors that count, a scalar ≥ 0.

    Raises:
        ValueError: shapes that do not fit, a negative margin, NaN or infinity in the features.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [3.0], [5.0]])
        >>> round(triplet_loss(features, torch.tensor([7, 7, 8, 8]), margin=0.3).item(), 4)
        0.075

    Source: Hermans, Beyer, Leibe, "In defense of the triplet loss for person re-identification", 2017, eq. 5.
    Taught in: notebooks/00_start_here.ipynb
    """
    if pids.shape != features.shape[:1]:
        raise ValueError(f"got {tuple(pids.shape)} pids for features {tuple(features.shape)}, expected one pid a row")
    if margin is not None and margin < 0:
        raise ValueError(f"margin={margin}: expected a number ≥ 0, or None for the soft margin")
    distances = euclidean_distance(features, features)  # (B, B)
    same = pids[:, None] == pids[None, :]
    itself = torch.eye(len(pids), dtype=torch.bool, device=pids.device)
    positive, negative = same & ~itself, ~same
    counts = positive.any(1) & negative.any(1)
    if not counts.any():
        return features.sum() * 0.0
    hardest_positive = distances.masked_fill(~positive, -torch.inf).amax(1)[counts]
    hardest_negative = distances.masked_fill(~negative, torch.inf).amin(1)[counts]
    gap = hardest_positive - hardest_negative
    return (F.softplus(gap) if margin is None else F.relu(gap + margin)).mean()
