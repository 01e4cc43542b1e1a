"""From the ranks of right images, query by query, to an `Evaluation`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reidlab.evaluation.chance import ChanceLevelWarning, expected_average_precision, expected_rank1, is_at_chance
from reidlab.evaluation.counting import look_up, rank_right_images
from reidlab.evaluation.labels import LabelSet
from reidlab.evaluation.rules import SAMPLED, GallerySampler, check_rule, every_hit_credit, first_hit_credit
from reidlab.evaluation.scores import Evaluation


@dataclass(frozen=True)
class Settings:
    """What `evaluate` and `evaluate_distances` have in common, checked; see there."""

    metric: str
    rule: str
    same_camera: str
    repeats: int
    seed: int
    max_rank: int | None

    def __post_init__(self) -> None:
        check_rule(self.rule, self.same_camera, self.repeats)
        if self.max_rank is not None and self.max_rank < 1:
            raise ValueError(f"max_rank={self.max_rank}: expected at least 1, or None for the whole curve")


def score(blocks: Iterable[Tensor], labels: LabelSet, settings: Settings) -> Evaluation:
    """Rank and score block by block.

    Args:
        blocks: similarity (rows, G without identity -1) of the queries in their order, larger meaning nearer, free
            of NaN; each block is done with before the next is asked for, and is written to.
        labels: checked.
        settings: checked.

    Raises:
        ValueError: no query has a right image to find.
    """
    tally = _Tally(labels, settings)
    start = 0
    for block in blocks:
        tally.add(block, start)
        start += len(block)
    return tally.evaluation()


class _Tally:
    """What is known so far. Flat arrays hold one entry for each right image, with the query it belongs to."""

    def __init__(self, labels: LabelSet, settings: Settings) -> None:
        self.labels, self.settings = labels, settings
        num_queries = len(labels.query_pids)
        self.query: list[np.ndarray] = []  # flat, a block in each entry, as are the ranks
        self.ranks: list[np.ndarray] = []
        self.drawn: list[tuple[int, np.ndarray]] = []  # query, and the right image's rank in each draw
        self.kept = np.full(num_queries, len(labels.gallery_pids))  # images in the list
        self.identities = np.zeros(num_queries, np.int64)  # in a draw
        self.num_tied = 0
        self.sampler = None
        if settings.rule in SAMPLED:
            gallery = labels.gallery_pids, labels.gallery_camids
            self.sampler = GallerySampler(settings.rule, *gallery, settings.repeats, settings.seed)

    def add(self, block: Tensor, start: int) -> None:
        """Take in the similarity (rows, G) of the queries from `start` on; overwrites junk in the block."""
        row, column, junk = self.labels.same_identity(start, start + len(block))
        if junk.any():
            at = (torch.from_numpy(index[junk]).to(block.device) for index in (row, column))
            block[tuple(at)] = torch.nan
        self.kept[start : start + len(block)] -= np.bincount(row, junk, minlength=len(block)).astype(np.int64)
        row, column = row[~junk], column[~junk]
        ranks, tied = rank_right_images(block, row, column)
        self.num_tied += int(tied.sum())
        self.query.append(start + row)
        self.ranks.append(ranks)
        if self.sampler is not None:
            for i in np.unique(row):
                self._draw(block, int(i), start + int(i), column[row == i])

    def _draw(self, block: Tensor, i: int, query: int, right: np.ndarray) -> None:
        """Rank one query's right image in each draw of the gallery."""
        drawn, own = self.sampler.draw(int(self.labels.query_camids[query]), right)  # (R, K)
        similarity = look_up(block, np.full_like(drawn, i), drawn)
        of_right, right_index = similarity[:, own, None], drawn[:, own, None]
        before = (similarity > of_right) | ((similarity == of_right) & (drawn < right_index))
        self.drawn.append((query, 1 + before.sum(1)))
        self.identities[query] = drawn.shape[1]

    def evaluation(self) -> Evaluation:
        """Put the scores together."""
        query, ranks = np.concatenate(self.query), np.concatenate(self.ranks)
        num_right = np.bincount(query, minlength=len(self.kept))
        valid = num_right > 0
        if not valid.any():
            raise ValueError(self.labels.no_match_message())
        firsts = np.cumsum(num_right)[valid] - num_right[valid]  # where each valid query begins in the flat arrays
        hits = 1 + np.arange(len(ranks)) - np.repeat(firsts, num_right[valid])
        step, trapezoid, penalty = _list_scores(ranks, hits, query, num_right)
        curve, rank1 = self._curve(query, ranks, hits, num_right)
        first_hit = np.zeros(len(valid), np.int64)
        first_hit[valid] = ranks[firsts]
        return Evaluation(
            rule=self.settings.rule,
            metric=self.settings.metric,
            same_camera=self.settings.same_camera,
            cmc=curve,
            average_precision=step,
            average_precision_trapezoid=trapezoid,
            inverse_negative_penalty=penalty,
            rank1_credit=rank1,
            first_hit=first_hit,
            query_pids=self.labels.query_pids,
            skipped=self.labels.skipped(valid),
            num_tied_queries=self.num_tied,
            **self._chance(step, num_right, valid),
            **({"repeats": self.settings.repeats, "seed": self.settings.seed} if self.sampler else {}),
        )

    def _curve(
        self, query: np.ndarray, ranks: np.ndarray, hits: np.ndarray, num_right: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The matching curve, and each query's credit at rank 1."""
        if self.sampler is None:
            credit_of = every_hit_credit if self.settings.rule == "allshots" else first_hit_credit
            places, credit = credit_of(ranks, hits, num_right[query])
        else:
            places = np.concatenate([ranks for _, ranks in self.drawn])
            query = np.repeat([query for query, _ in self.drawn], self.settings.repeats)
            credit = np.full(len(places), 1 / self.settings.repeats)
        size = min(self.settings.max_rank or self.labels.num_gallery, self.labels.num_gallery)
        rises = np.bincount(places, credit, minlength=size + 1)[1 : size + 1]
        valid = num_right > 0
        rank1 = np.bincount(query, credit * (places == 1), minlength=len(num_right))
        # n times 1/n may come out as 1 + 2e-16
        return (rises.cumsum() / valid.sum()).clip(max=1.0), np.where(valid, rank1.clip(max=1.0), np.nan)

    def _chance(self, step: np.ndarray, num_right: np.ndarray, valid: np.ndarray) -> dict[str, object]:
        """What a random order would score, and whether this is any better; warns if it is not."""
        kept, identities = self.kept[valid], self.identities[valid]
        expected = expected_average_precision(kept, num_right[valid])
        rank1 = expected_rank1(self.settings.rule, kept, num_right[valid], identities)
        at_chance = is_at_chance(step[valid], expected, self.labels.query_pids[valid])
        if at_chance:
            warnings.warn(
                f"mAP {step[valid].mean():.2%} cannot be told from chance ({expected.mean():.2%}) over "
                f"{valid.sum()} queries. Likely causes: features and labels in different orders, weights that "
                "were not loaded, query and gallery from different models or preprocessing, pids numbered "
                "differently, similarities passed as distances, features that all fell together",
                ChanceLevelWarning,
                stacklevel=5,  # the caller of evaluate
            )
        return {"chance": {"rank1": float(rank1.mean()), "mean_ap": float(expected.mean())}, "at_chance": at_chance}


def _list_scores(
    ranks: np.ndarray, hits: np.ndarray, query: np.ndarray, num_right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step and trapezoid average precision and inverse negative penalty by query; NaN without a right image."""
    precision = hits / ranks
    # just before each hit; before rank 1 the trapezoid formula takes precision to be 1
    before = np.where(ranks > 1, (hits - 1) / np.maximum(ranks - 1, 1), 1.0)
    terms = (precision, (precision + before) / 2, precision * (hits == num_right[query]))
    total = np.where(num_right > 0, num_right, np.nan)
    step, trapezoid, last = (np.bincount(query, term, minlength=len(total)) for term in terms)
    return step / total, trapezoid / total, np.where(num_right > 0, last, np.nan)
