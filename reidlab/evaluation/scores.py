"""From the ranks of right images to scores: average precision, mINP, the matching curve, and what chance would give."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reidlab.evaluation.rules import SAMPLED, LabelSet

MIN_IDENTITIES = 20
"""With valid queries of fewer identities than this nothing is said about chance."""
STANDARD_ERRORS = 2.0
"""A mean AP is at chance if it is not more than this many standard errors above what chance would give …"""
NEGLIGIBLE = 0.005
"""… or not more than this share of the way from chance to 1 above it: on large galleries the order in which equal
distances are listed, or a trace of something else, is significant and yet worth nothing."""


class ChanceLevelWarning(UserWarning):
    """The mean AP is not significantly above that of a random order; see `Evaluation.at_chance`."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one ranking, with all that is needed to read them.

    Per-query values are for the whole list, whatever the rule, less the same identity in the same camera; only
    `cmc` and `rank1_credit` follow the rule. Skipped queries have NaN, and rank 0 in `first_hit`.

    Args:
        rule: one of `RULES`.
        metric: the distance the ranking used.
        same_camera: "exclude" or "keep".
        cmc: (R,) matching curve: mean credit of the valid queries among the first 1 … R results, in [0, 1].
        average_precision: (Q,) step sum, in [0, 1].
        average_precision_trapezoid: (Q,) the same by the trapezoid formula, never the higher of the two.
        inverse_negative_penalty: (Q,) n / rank of the last of the n right images, in (0, 1].
        rank1_credit: (Q,) credit at rank 1 under the rule, in [0, 1]; its mean over valid queries is `rank1`.
        first_hit: (Q,) rank of the first right image.
        query_pids: (Q,) identities of the queries.
        skipped: queries without a right image to find, counted by reason.
        num_tied_queries: queries with a right and a wrong image at exactly the same distance.
        chance: what a random order is expected to score: "rank1" under the rule, and "mean_ap".
        at_chance: whether the mean AP is not significantly above chance; False with fewer than `MIN_IDENTITIES`.
        repeats: draws of the gallery for each query; None for a rule without draws.
        seed: of the draws; None for a rule without draws.

    Taught in: notebooks/00_start_here.ipynb
    """

    rule: str
    metric: str
    same_camera: str
    cmc: np.ndarray = field(repr=False)
    average_precision: np.ndarray = field(repr=False)
    average_precision_trapezoid: np.ndarray = field(repr=False)
    inverse_negative_penalty: np.ndarray = field(repr=False)
    rank1_credit: np.ndarray = field(repr=False)
    first_hit: np.ndarray = field(repr=False)
    query_pids: np.ndarray = field(repr=False)
    skipped: dict[str, int]
    num_tied_queries: int
    chance: dict[str, float]
    at_chance: bool
    repeats: int | None = None
    seed: int | None = None

    @property
    def num_queries(self) -> int:
        """Q."""
        return len(self.average_precision)

    @property
    def num_valid_queries(self) -> int:
        """Queries with at least one right match left in their gallery; the others are skipped, not counted as 0."""
        return int(np.isfinite(self.average_precision).sum())

    @property
    def rank1(self) -> float:
        """Share of valid queries whose nearest image is the right person, in [0, 1]."""
        return self.rank(1)

    def rank(self, k: int) -> float:
        """Share of valid queries with a right match among the k nearest images, in [0, 1]; the curve at k."""
        if not 1 <= k <= len(self.cmc):
            raise ValueError(f"rank {k}: the curve was computed for ranks 1 … {len(self.cmc)}")
        return float(self.cmc[k - 1])

    @property
    def mean_ap(self) -> float:
        """Mean of the step-sum average precision over the valid queries, in [0, 1]."""
        return float(np.nanmean(self.average_precision))

    @property
    def mean_ap_trapezoid(self) -> float:
        """Mean of the trapezoid average precision, in [0, 1]; compare it with MATLAB-era papers only."""
        return float(np.nanmean(self.average_precision_trapezoid))

    @property
    def mean_inp(self) -> float:
        """mINP: mean inverse negative penalty, in [0, 1]; high when even the hardest right image comes early."""
        return float(np.nanmean(self.inverse_negative_penalty))

    def interval(
        self, name: str, level: float = 0.95, samples: int = 1000, seed: int = 0, over: str = "queries"
    ) -> tuple[float, float]:
        """Bootstrap interval: what the score might have been with other queries of the same kind.

        Valid queries are drawn with replacement, as many as there are, and the score is taken each time; the
        interval holds the middle `level` of the results. It does not cover other galleries, other data or other
        training runs. Queries of one identity succeed and fail together: `over="identities"` draws identities with
        all their queries, and is then wider and more honest.

        Args:
            name: "rank1", "mean_ap", "mean_ap_trapezoid" or "mean_inp".
            level: share of the results inside, in (0, 1).
            samples: how often to draw.
            seed: of the draws.
            over: what is drawn, "queries" or "identities".

        Returns:
            The lower and the upper end, in [0, 1].

        Raises:
            ValueError: an unknown name, a level outside (0, 1), or no samples.

        Example:
            >>> from reidlab.evaluation import evaluate_distances
            >>> result = evaluate_distances(
            ...     np.array([[0.1, 0.2], [0.2, 0.1], [0.1, 0.2]]), query_pids=[1, 1, 1], gallery_pids=[1, 2],
            ...     query_camids=[1, 1, 1], gallery_camids=[2, 2])
            >>> result.interval("mean_ap", level=0.5)
            (0.6666666666666666, 1.0)

        Source: Efron 1979 (percentile bootstrap).
        Taught in: notebooks/07_evaluation.ipynb
        """
        scores = {
            "rank1": self.rank1_credit,
            "mean_ap": self.average_precision,
            "mean_ap_trapezoid": self.average_precision_trapezoid,
            "mean_inp": self.inverse_negative_penalty,
        }
        if name not in scores:
            raise ValueError(f"{name!r}: expected one of {', '.join(scores)}")
        if not 0 < level < 1 or samples < 1:
            raise ValueError(f"level={level}, samples={samples}: expected a level in (0, 1) and at least one sample")
        if over not in ("queries", "identities"):
            raise ValueError(f"over={over!r}: expected queries or identities")
        valid = np.isfinite(scores[name])
        values, pids = scores[name][valid], self.query_pids[valid]
        unit = np.arange(len(values)) if over == "queries" else np.unique(pids, return_inverse=True)[1]
        sums, counts = np.bincount(unit, values), np.bincount(unit)
        generator = np.random.default_rng(seed)
        means = []
        for _ in range(samples):  # one at a time, so that memory does not grow with their number
            drawn = generator.integers(0, len(sums), len(sums))
            means.append(sums[drawn].sum() / counts[drawn].sum())
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def scores(self) -> dict[str, Any]:
        """The numbers of a results file, under the names that every results file uses."""
        ranks = {f"rank{k}": self.rank(k) for k in (1, 5, 10) if k <= len(self.cmc)}
        drawn = {"repeats": self.repeats, "seed": self.seed} if self.rule in SAMPLED else {}
        return {
            "rule": self.rule,
            "metric": self.metric,
            "same_camera": self.same_camera,
            "ap_formula": "step",
            **ranks,
            "mean_ap": self.mean_ap,
            "mean_ap_trapezoid": self.mean_ap_trapezoid,
            "mean_inp": self.mean_inp,
            "num_queries": self.num_queries,
            "num_valid_queries": self.num_valid_queries,
            **drawn,
            "chance": dict(self.chance),
        }

    def __str__(self) -> str:
        drawn = f" ({self.repeats} draws, seed {self.seed})" if self.rule in SAMPLED else ""
        kept = ", own camera kept" if self.same_camera == "keep" else ""
        tied = f", {self.num_tied_queries} with ties" if self.num_tied_queries else ""
        skipped = self.num_queries - self.num_valid_queries
        return (
            f"rank-1 {self.rank1:.1%}, mAP (step) {self.mean_ap:.1%}, mAP (trapezoid) {self.mean_ap_trapezoid:.1%}; "
            f"{self.rule} rule{drawn}{kept}, {self.metric} distance, {self.num_valid_queries} queries, "
            f"{skipped} without a match{tied}"
        )


@dataclass(frozen=True)
class RankedLists:
    """The ranked lists of all queries, as far as scores need them."""

    query: np.ndarray  # (n,) for each right image of any query, the query; ascending
    ranks: np.ndarray  # (n,) and its rank in the query's list, from 1; ascending for each query
    kept: np.ndarray  # (Q,) images in the list
    num_tied: int  # queries with a right and a wrong image at exactly the same distance
    drawn: list[tuple[int, np.ndarray, int]]  # query, right image's rank in each draw (repeats,), identities in a draw


def score_lists(
    lists: RankedLists, labels: LabelSet, metric: str, rule: str, repeats: int, seed: int, max_rank: int | None
) -> Evaluation:
    """Compute all scores from the ranks of the right images; arguments as in `evaluate`."""
    query, ranks = lists.query, lists.ranks
    num_right = np.bincount(query, minlength=len(lists.kept))
    valid = num_right > 0
    if not valid.any():
        raise ValueError(labels.no_match_message())
    firsts = np.cumsum(num_right)[valid] - num_right[valid]  # where each valid query begins in the flat arrays
    hits = 1 + np.arange(len(ranks)) - np.repeat(firsts, num_right[valid])  # 1, 2, … for each query

    precision = hits / ranks
    # just before each hit; before rank 1 the trapezoid formula takes precision to be 1
    before = np.where(ranks > 1, (hits - 1) / np.maximum(ranks - 1, 1), 1.0)
    total = np.where(valid, num_right, np.nan)
    step, trapezoid = (np.bincount(query, term, len(valid)) / total for term in (precision, (precision + before) / 2))
    penalty = np.where(valid, np.bincount(query, precision * (hits == num_right[query]), len(valid)), np.nan)
    first_hit = np.zeros(len(valid), np.int64)
    first_hit[valid] = ranks[firsts]

    identities = np.zeros(len(valid), np.int64)
    places, credit = ranks, (hits == 1).astype(np.float64)  # the rule "market"
    if rule == "allshots":  # a place is 1 + the wrong images before: right ones do not push each other down
        places, credit = ranks - (hits - 1), 1 / num_right[query]
    elif rule in SAMPLED:
        for one, _, size in lists.drawn:
            identities[one] = size
        query = np.repeat([one for one, _, _ in lists.drawn], repeats)
        places = np.concatenate([found for _, found, _ in lists.drawn])
        credit = np.full(len(places), 1 / repeats)
    size = min(max_rank or labels.num_gallery, labels.num_gallery)
    rises = np.bincount(places, credit, minlength=size + 1)[1 : size + 1]
    rank1 = np.bincount(query, credit * (places == 1), minlength=len(valid))

    expected = expected_average_precision(lists.kept[valid], num_right[valid])
    expected_first = expected_rank1(rule, lists.kept[valid], num_right[valid], identities[valid])
    at_chance = is_at_chance(step[valid], expected, labels.query_pids[valid])
    if at_chance:
        warnings.warn(
            f"mAP {step[valid].mean():.2%} is not significantly above chance ({expected.mean():.2%}) over "
            f"{valid.sum()} queries. Likely causes: features and labels in different orders, weights that "
            "were not loaded, query and gallery from different models or preprocessing, pids numbered "
            "differently, similarities passed as distances, features that collapsed into one point",
            ChanceLevelWarning,
            stacklevel=3,  # the caller of evaluate
        )
    return Evaluation(
        rule=rule,
        metric=metric,
        same_camera=labels.same_camera,
        cmc=(rises.cumsum() / valid.sum()).clip(max=1.0),  # n times 1/n may come out as 1 + 2e-16
        average_precision=step,
        average_precision_trapezoid=trapezoid,
        inverse_negative_penalty=penalty,
        rank1_credit=np.where(valid, rank1.clip(max=1.0), np.nan),
        first_hit=first_hit,
        query_pids=labels.query_pids,
        skipped=labels.skipped(valid),
        num_tied_queries=lists.num_tied,
        chance={"rank1": float(expected_first.mean()), "mean_ap": float(expected.mean())},
        at_chance=at_chance,
        **({"repeats": repeats, "seed": seed} if rule in SAMPLED else {}),
    )


def expected_average_precision(kept: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Expected average precision (step sum) of a random order of N images (kept), n of which are right.

    The image at rank k is right with probability n/N; given that, each of the k - 1 before it is right with
    probability (n - 1)/(N - 1). So precision at k is expected to be (1 + (k - 1)(n - 1)/(N - 1))/k, and the mean
    over the ranks is H/N + (N - H)/N · (n - 1)/(N - 1), where H = 1 + 1/2 + … + 1/N.

    Example:
        >>> expected_average_precision(np.array([2, 3]), np.array([1, 3]))  # (1 + 1/2)/2; all are right
        array([0.75, 1.  ])
    """
    kept, right = np.asarray(kept, np.int64), np.asarray(right, np.int64)
    harmonic = np.cumsum(1 / np.arange(1, kept.max(initial=1) + 1))[kept - 1]
    return (harmonic + (kept - harmonic) * (right - 1) / np.maximum(kept - 1, 1)) / kept


def expected_rank1(rule: str, kept: np.ndarray, right: np.ndarray, identities: np.ndarray) -> np.ndarray:
    """Expected credit of a query at rank 1 for a random order of N images (kept), n of which are right.

    market: n/N. allshots: each right image has credit if it comes before all N - n wrong ones, 1/(N - n + 1). The
    rules that draw: 1/K, for K identities in a draw.

    Example:
        >>> [round(float(expected_rank1(rule, 10, 2, 5)), 3) for rule in ("market", "allshots", "cuhk03_torchreid")]
        [0.2, 0.111, 0.2]
    """
    if rule == "market":
        return np.divide(right, kept)
    return np.divide(1, np.subtract(kept, right) + 1 if rule == "allshots" else identities)


def is_at_chance(average_precision: np.ndarray, expected: np.ndarray, pids: np.ndarray) -> bool:
    """Whether average precisions (n,) of valid queries are no better than those expected of a random order (n,).

    The excess over chance is summed for each identity, since queries of one identity succeed and fail together, and
    the sum over identities is compared with its standard error; a negligible excess counts as none. With fewer than
    `MIN_IDENTITIES` the answer is no: a good model may score low on a few queries, and false warnings get ignored.
    """
    _, identity = np.unique(pids, return_inverse=True)
    excess = np.bincount(identity, average_precision - expected)
    if len(excess) < MIN_IDENTITIES or expected.min() > 1 - 1e-9:  # 1: all images are right ones
        return False
    by_luck = STANDARD_ERRORS * np.sqrt(len(excess)) * excess.std(ddof=1)
    return bool(excess.sum() <= max(by_luck, NEGLIGIBLE * (1 - expected).sum()))
