"""The result of an evaluation: numbers for each query, and what is read off them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reidlab.evaluation.rules import SAMPLED

ABSENT = "identity not in the gallery"
OWN_CAMERA = "identity only in the query's own camera"


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
        at_chance: whether the mean AP cannot be told from chance; False where too few people decide nothing.
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
        interval holds the middle `level` of the results. It knows nothing of other galleries, other data or
        other training runs. Several queries of one person succeed and fail together; `over="identities"` draws
        people with all their queries, and is then the wider and the more honest of the two.

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
        values = self._values(name)
        if not 0 < level < 1 or samples < 1:
            raise ValueError(f"level={level}, samples={samples}: expected a level in (0, 1) and at least one sample")
        if over not in ("queries", "identities"):
            raise ValueError(f"over={over!r}: expected queries or identities")
        valid = np.isfinite(values)
        values, pids = values[valid], self.query_pids[valid]
        unit = np.arange(len(values)) if over == "queries" else np.unique(pids, return_inverse=True)[1]
        sums, counts = np.bincount(unit, values), np.bincount(unit)
        generator = np.random.default_rng(seed)
        means = [sums[drawn].sum() / counts[drawn].sum() for drawn in _draws(generator, len(sums), samples)]
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        return float(low), float(high)

    def _values(self, name: str) -> np.ndarray:
        values = {
            "rank1": self.rank1_credit,
            "mean_ap": self.average_precision,
            "mean_ap_trapezoid": self.average_precision_trapezoid,
            "mean_inp": self.inverse_negative_penalty,
        }
        if name not in values:
            raise ValueError(f"{name!r}: expected one of {', '.join(values)}")
        return values[name]

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


def _draws(generator: np.random.Generator, size: int, samples: int) -> Iterator[np.ndarray]:
    """Bootstrap samples one at a time, so that memory does not grow with their number."""
    return (generator.integers(0, size, size) for _ in range(samples))
