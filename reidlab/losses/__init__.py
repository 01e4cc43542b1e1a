"""Losses on features of a batch of images with known identities."""

from reidlab.losses.choice import METRIC_LOSSES, metric_loss
from reidlab.losses.pull_push import pull_push_loss
from reidlab.losses.relative import (
    RelativeGradient,
    generate_triplets,
    relative_distance_gradient,
    relative_distance_loss,
)
from reidlab.losses.triplet import (
    MININGS,
    TripletStatistics,
    choose_triplets,
    positives_and_negatives,
    triplet_loss,
    triplet_statistics,
)

__all__ = [
    "METRIC_LOSSES",
    "MININGS",
    "RelativeGradient",
    "TripletStatistics",
    "choose_triplets",
    "generate_triplets",
    "metric_loss",
    "positives_and_negatives",
    "pull_push_loss",
    "relative_distance_gradient",
    "relative_distance_loss",
    "triplet_loss",
    "triplet_statistics",
]
