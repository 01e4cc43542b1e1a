"""Pull together, push apart: a loss on the inner products of unit-norm features."""

from __future__ import annotations

import torch
from torch import Tensor

from reidlab.checks import feature_tensor, pid_tensor
from reidlab.distances import check_unit_norm
from reidlab.losses.triplet import positives_and_negatives

NEGATIVES = ("first", "all")


def pull_push_loss(features: Tensor, pids: Tensor, negative_target: float = -1.0, negatives: str = "first") -> Tensor:
    """Pull images of one identity towards inner product 1, push different identities towards -1 or 0.

    pull = mean of 1 - ⟨f_i, f_j⟩ over pairs of one identity, i ≠ j. push = mean of ⟨f_i, f_j⟩ over pairs of
    different identities (target -1), or of max(⟨f_i, f_j⟩, 0) (target 0), which has no gradient at a right angle
    or beyond. For unit-norm features 1 - ⟨f_i, f_j⟩ is the cosine distance.

    Args:
        features: (B, D) of unit norm.
        pids: (B,) identities; any mix.
        negative_target: -1 or 0.
        negatives: "first" compares only the first image, in batch order, of each identity with the first of
            the others, "all" every image with all images of the others.

    Returns:
        pull + push, a scalar from -1 to 3. A part that has no pair is 0.

    Raises:
        ValueError: features that are not of unit norm, shapes that do not fit, another target or choice.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
        >>> pids = torch.tensor([1, 1, 2, 2])
        >>> round(pull_push_loss(features, pids).item(), 4)  # pull (0.4 + 1) / 2, push ⟨f_0, f_2⟩ = 0
        0.7
        >>> round(pull_push_loss(features, pids, negatives="all").item(), 4)  # push (0 - 1 + 0.8 - 0.6) / 4
        0.5

    Taught in: notebooks/03_triplet_losses.ipynb
    """
    features = check_unit_norm(feature_tensor("features", features))
    pids = pid_tensor(pids, features)
    if negative_target not in (-1, 0):
        raise ValueError(f"negative_target={negative_target}: expected -1 or 0")
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives={negatives!r}: expected one of {', '.join(NEGATIVES)}")
    features = features if features.dtype == torch.float64 else features.float()
    with torch.autocast(features.device.type, enabled=False):
        products = features @ features.T  # (B, B)
    positive, negative = positives_and_negatives(pids)
    if negatives == "first":
        first = ~(positive.tril(-1).any(1))  # no earlier image of the same identity
        negative = negative & first[:, None] & first[None, :]
    pushed = products if negative_target == -1 else products.clamp(min=0)
    return _mean(1 - products, positive) + _mean(pushed, negative)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean over chosen pairs; 0, with a graph, without any."""
    return (values * where).sum() / where.sum().clamp(min=1)
