"""Triplet losses: four ways to choose triplets from a batch, and what a batch holds."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from reidlab.checks import feature_tensor, pid_tensor
from reidlab.distances import pairwise

MININGS = ("batch_hard", "batch_all", "semi_hard", "random")

_log = logging.getLogger("reidlab.losses")


def triplet_loss(
    features: Tensor,
    pids: Tensor,
    margin: float | None = 0.3,
    mining: str = "batch_hard",
    metric: str = "euclidean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Make every image nearer to its own identity than to others, for triplets chosen from a batch.

    A triplet is an anchor, a positive (another image of its identity) and a negative (an image of another
    identity). Any mix of labels is allowed; an anchor without a positive or without a negative makes no
    triplet. `mining` says which triplets count:

    - "batch_hard": for each anchor its farthest positive and its nearest negative; mean over the anchors.
    - "batch_all": all triplets; mean over those with a loss above 0, or over all with the soft margin.
    - "semi_hard": for each anchor and positive the nearest negative beyond the positive, or where there is
      none the farthest negative; mean over these pairs.
    - "random": for each anchor a random positive and a random negative; mean over the anchors.

    Without a single triplet the loss is a zero that still has a graph, and the logger "reidlab.losses" warns.

    Args:
        features: (B, D), not normalised.
        pids: (B,) integer identities.
        margin: how much farther the negative must be than the positive, in units of the distance; None for
            the soft margin log(1 + exp(d_ap - d_an)).
        mining: one of `MININGS`.
        metric: "euclidean", "squared" or "cosine"; a margin means something else with each.
        generator: on the CPU; needed by "random" only.

    Returns:
        A scalar ≥ 0.

    Raises:
        ValueError: shapes that do not fit, a negative margin, an unknown mining or metric, "random" without a
            generator, NaN or infinity in the features.

    Example:
        >>> features, pids = torch.tensor([[0.0], [1.0], [3.0], [5.0]]), torch.tensor([7, 7, 8, 8])
        >>> round(triplet_loss(features, pids, margin=0.3).item(), 4)
        0.075
        >>> round(triplet_loss(features, pids, margin=0.3, mining="batch_all").item(), 4)
        0.3

    Source: Hermans, Beyer, Leibe, "In defense of the triplet loss for person re-identification", 2017, eq. 5
    (batch-hard) and 6 (batch-all); Schroff, Kalenichenko, Philbin, "FaceNet", 2015, eq. 4 (semi-hard).
    Taught in: notebooks/03_triplet_losses.ipynb
    """
    features, pids = _checked(features, pids, margin)
    distances = pairwise(features, metric=metric)  # (B, B)
    anchors, positives, negatives = choose_triplets(distances, pids, mining, generator).unbind(1)  # (T,) each
    if not len(anchors):
        _log.warning("no triplet in a batch of %d images of %d identities: loss 0", len(pids), len(pids.unique()))
        return (features * 0.0).sum()  # in this order, since a sum of float16 can be infinite
    gaps = distances[anchors, positives] - distances[anchors, negatives]
    if margin is None:
        return F.softplus(gaps).mean()
    losses = F.relu(gaps + margin)
    return losses.sum() / (losses > 0).sum().clamp(min=1) if mining == "batch_all" else losses.mean()


def positives_and_negatives(pids: Tensor) -> tuple[Tensor, Tensor]:
    """For every two images of a batch, whether the second is a positive or a negative of the first.

    Args:
        pids: (B,) identities.

    Returns:
        Two boolean (B, B) tensors; an image is neither its own positive nor its own negative.

    Example:
        >>> positive, negative = positives_and_negatives(torch.tensor([7, 7, 8]))
        >>> positive.int().tolist(), negative.int().tolist()
        ([[0, 1, 0], [1, 0, 0], [0, 0, 0]], [[0, 0, 1], [0, 0, 1], [1, 1, 0]])

    Taught in: notebooks/03_triplet_losses.ipynb
    """
    same = pids[:, None] == pids[None, :]
    return same & ~torch.eye(len(pids), dtype=torch.bool, device=pids.device), ~same


@torch.no_grad()
def choose_triplets(
    distances: Tensor, pids: Tensor, mining: str = "batch_hard", generator: torch.Generator | None = None
) -> Tensor:
    """Choose triplets of a batch, as `triplet_loss` does.

    Args:
        distances: (B, B) between the images of the batch.
        pids: (B,) identities.
        mining: one of `MININGS`.
        generator: on the CPU; for "random".

    Returns:
        (T, 3) indices of anchor, positive and negative, ordered by anchor, T ≥ 0. Of equally far images the first
        is chosen.

    Raises:
        ValueError: a matrix of another size, an unknown mining, or "random" without a generator.

    Example:
        >>> distances, pids = torch.tensor([[0.0, 1, 3], [1, 0, 2], [3, 2, 0]]), torch.tensor([7, 7, 8])
        >>> choose_triplets(distances, pids).tolist()
        [[0, 1, 2], [1, 0, 2]]

    Taught in: notebooks/03_triplet_losses.ipynb
    """
    pids = pid_tensor(pids, distances)
    if distances.shape != (len(pids), len(pids)):
        raise ValueError(
            f"distances: got shape {tuple(distances.shape)} for {len(pids)} pids, expected one of each pair"
        )
    if mining not in MININGS:
        raise ValueError(f"mining={mining!r}: expected one of {', '.join(MININGS)}")
    if mining == "random" and generator is None:
        raise ValueError("mining='random' samples triplets: pass generator=torch.Generator().manual_seed(0)")
    positive, negative = positives_and_negatives(pids)
    if mining in ("batch_all", "semi_hard"):
        anchors, p = (positive & negative.any(1, keepdim=True)).nonzero(as_tuple=True)  # every pair
    else:
        anchors = (positive.any(1) & negative.any(1)).nonzero().flatten()
    if not len(anchors):
        return anchors.new_empty(0, 3)
    positive, negative, from_anchor = positive[anchors], negative[anchors], distances[anchors]  # (T, B) each
    if mining == "batch_all":
        pair, n = negative.nonzero(as_tuple=True)
        return torch.stack([anchors[pair], p[pair], n], dim=1)
    if mining == "random":
        p, n = (torch.multinomial(mask.float().cpu(), 1, generator=generator)[:, 0] for mask in (positive, negative))
        p, n = p.to(anchors.device), n.to(anchors.device)
    elif mining == "semi_hard":
        beyond = negative & (from_anchor > distances[anchors, p][:, None])
        n = torch.where(beyond.any(1), _nearest(from_anchor, beyond), _farthest(from_anchor, negative))
    else:
        p, n = _farthest(from_anchor, positive), _nearest(from_anchor, negative)
    return torch.stack([anchors, p, n], dim=1)


def _farthest(distances: Tensor, mask: Tensor) -> Tensor:
    return distances.masked_fill(~mask, -torch.inf).argmax(1)


def _nearest(distances: Tensor, mask: Tensor) -> Tensor:
    return distances.masked_fill(~mask, torch.inf).argmin(1)


def _checked(features: Tensor, pids: Tensor, margin: float | None) -> tuple[Tensor, Tensor]:
    features = feature_tensor("features", features)
    pids = pid_tensor(pids, features)
    if margin is not None and not margin >= 0:
        raise ValueError(f"margin={margin}: expected a number ≥ 0, or None for the soft margin")
    return features, pids


@dataclass(frozen=True)
class TripletStatistics:
    """What the triplets of a batch look like.

    Args:
        num_anchors: images with a positive and a negative.
        num_triplets: all triplets of the batch.
        easy: share of triplets with d_ap + margin ≤ d_an: no gradient.
        semi_hard: share with d_ap < d_an < d_ap + margin: right order, too close.
        hard: share with d_an ≤ d_ap: wrong order.
        active_anchors: share of anchors whose batch-hard triplet is not easy.
        hardest_positive: distance to the farthest positive, mean over anchors.
        hardest_negative: distance to the nearest negative, mean over anchors.
        mean_distance: between two different images of the batch; near 0 the features have collapsed.

    Taught in: notebooks/03_triplet_losses.ipynb
    """

    num_anchors: int
    num_triplets: int
    easy: float
    semi_hard: float
    hard: float
    active_anchors: float
    hardest_positive: float
    hardest_negative: float
    mean_distance: float

    @property
    def active(self) -> float:
        """Share of triplets that are not easy; with the soft margin easy ones have a small loss, too."""
        return self.semi_hard + self.hard


@torch.no_grad()
def triplet_statistics(
    features: Tensor, pids: Tensor, margin: float | None = 0.3, metric: str = "euclidean"
) -> TripletStatistics:
    """Count easy, semi-hard and hard triplets of a batch.

    A loss near 0 may mean that all is learned, that the batch holds no triplet, or that all features collapsed
    into one point. These numbers distinguish the three.

    Args:
        features, pids, metric: as for `triplet_loss`.
        margin: as there; the soft margin None counts as 0, so that no triplet is semi-hard.

    Returns:
        A `TripletStatistics`; without a triplet all shares and distances over anchors are 0.

    Raises:
        ValueError: as for `triplet_loss`.

    Example:
        >>> features, pids = torch.tensor([[0.0], [1.0], [3.0], [5.0]]), torch.tensor([7, 7, 8, 8])
        >>> found = triplet_statistics(features, pids, margin=1.5)
        >>> found.num_triplets, found.easy, found.semi_hard, found.hard
        (8, 0.625, 0.25, 0.125)

    Taught in: notebooks/03_triplet_losses.ipynb
    """
    features, pids = _checked(features, pids, margin)
    if metric != "cosine":  # changes no distance, and keeps the digits of long features that lie close together
        features = features if features.dtype == torch.float64 else features.float()  # Apple's GPUs have no float64
        features = features - features[:1]
    distances = pairwise(features, metric=metric)
    positive, negative = positives_and_negatives(pids)
    counts = positive.any(1) & negative.any(1)
    num_items = len(pids)
    mean_distance = float(distances.sum() / max(1, num_items * (num_items - 1)))
    if not counts.any():
        return TripletStatistics(0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, mean_distance)
    anchors, p = positive.nonzero(as_tuple=True)
    gaps = distances[anchors, p][:, None] - distances[anchors]  # (pairs, B)
    valid = negative[anchors]
    num_triplets, hard = int(valid.sum()), int((valid & (gaps >= 0)).sum())
    easy = int((valid & _is_easy(gaps, margin)).sum())
    farthest = distances.masked_fill(~positive, -torch.inf).amax(1)[counts]
    nearest = distances.masked_fill(~negative, torch.inf).amin(1)[counts]
    return TripletStatistics(
        num_anchors=int(counts.sum()),
        num_triplets=num_triplets,
        easy=easy / num_triplets,
        semi_hard=(num_triplets - easy - hard) / num_triplets,
        hard=hard / num_triplets,
        active_anchors=1 - _is_easy(farthest - nearest, margin).float().mean().item(),
        hardest_positive=farthest.mean().item(),
        hardest_negative=nearest.mean().item(),
        mean_distance=mean_distance,
    )


def _is_easy(gaps: Tensor, margin: float | None) -> Tensor:
    return (gaps + (margin or 0.0) <= 0) & (gaps < 0)
