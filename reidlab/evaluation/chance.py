"""What a random order of the gallery would score, and whether a score is any better."""

from __future__ import annotations

import numpy as np

MIN_IDENTITIES = 20
"""With valid queries of fewer people than this nothing is said about chance."""
STANDARD_ERRORS = 2.0
"""A mean AP is at chance if it is not more than so many standard errors above what chance would give …"""
NEGLIGIBLE = 0.005
"""… or not more than this share of the way from chance to 1 above it: on large galleries the order in which equal
distances are listed, or a trace of something else, is significant and yet worth nothing."""


class ChanceLevelWarning(UserWarning):
    """The ranking cannot be told from a random one; see `Evaluation.at_chance`."""


def expected_average_precision(kept: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Expected average precision (step sum) of a random order.

    The image at rank k is right with probability n/N; given that, each of the k - 1 before it is right with
    probability (n - 1)/(N - 1). So precision at k is expected to be (1 + (k - 1)(n - 1)/(N - 1))/k, and the mean
    over the ranks is H/N + (N - H)/N · (n - 1)/(N - 1), where H = 1 + 1/2 + … + 1/N.

    Args:
        kept: images in the list, N >= 1; an array or a number.
        right: right images among them, 1 <= n <= N.

    Returns:
        Values in (0, 1], in the shape of the arguments.

    Example:
        >>> expected_average_precision(np.array([2, 3]), np.array([1, 3]))  # (1 + 1/2)/2; all are right
        array([0.75, 1.  ])

    Taught in: notebooks/07_evaluation.ipynb
    """
    kept, right = np.asarray(kept, np.int64), np.asarray(right, np.int64)
    harmonic = np.cumsum(1 / np.arange(1, kept.max(initial=1) + 1))[kept - 1]
    return (harmonic + (kept - harmonic) * (right - 1) / np.maximum(kept - 1, 1)) / kept


def expected_rank1(rule: str, kept: np.ndarray, right: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """Expected credit of a query at rank 1 for a random order.

    market: n/N, the share of right images. The sampled rules: 1/K, one image an identity. allshots: each right
    image has credit if it comes before all N - n wrong ones, 1/(N - n + 1).

    Args:
        rule: one of `RULES`.
        kept: images in the list, N.
        right: right images among them, n.
        identities: identities a draw has, K; used by the sampled rules.

    Example:
        >>> [float(expected_rank1(rule, 10, 2, 5)) for rule in ("market", "cuhk03_torchreid")]
        [0.2, 0.2]
        >>> round(float(expected_rank1("allshots", 10, 2, 5)), 3)
        0.111

    Taught in: notebooks/07_evaluation.ipynb
    """
    if rule == "market":
        return np.divide(right, kept)
    return np.divide(1, np.subtract(kept, right) + 1 if rule == "allshots" else identities)


def is_at_chance(average_precision: np.ndarray, expected: np.ndarray, pids: np.ndarray) -> bool:
    """Tell whether average precisions are no better than chance.

    The excess over chance is summed for each person, since queries of one person succeed and fail together, and
    the sum over people is compared with its standard error; an excess that is negligible counts as none. Fewer
    than `MIN_IDENTITIES` people decide nothing: a good model may look bad on a handful of queries, and a warning
    there would teach to ignore it.

    Args:
        average_precision: (n,) of the valid queries.
        expected: (n,) what a random order would give them.
        pids: (n,) their identities.

    Returns:
        True if there are enough people, and the mean excess is at most `STANDARD_ERRORS` standard errors, or
        `NEGLIGIBLE` of what there is to gain.

    Example:
        >>> is_at_chance(np.full(30, 0.8), np.full(30, 0.1), np.arange(30))
        False

    Taught in: notebooks/07_evaluation.ipynb
    """
    _, person = np.unique(pids, return_inverse=True)
    excess = np.bincount(person, average_precision - expected)
    if len(excess) < MIN_IDENTITIES or expected.min() > 1 - 1e-9:  # 1: all images are right ones
        return False
    by_luck = STANDARD_ERRORS * np.sqrt(len(excess)) * excess.std(ddof=1)
    return bool(excess.sum() <= max(by_luck, NEGLIGIBLE * (1 - expected).sum()))
