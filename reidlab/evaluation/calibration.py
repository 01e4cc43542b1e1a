"""From distances to decisions: a threshold, its error rates, and what it does to identities not in the gallery."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from reidlab.evaluation.ranking import distance_blocks
from reidlab.evaluation.rules import SAME_CAMERA, Labels, LabelSet, matches_and_junk

ABSENT = ("removed", "given")
"""Which queries count as absent, see `Calibration.open_set`."""


@dataclass(frozen=True)
class OpenSet:
    """What a threshold does to queries that may or may not be in the gallery; rates as a function of the threshold.

    Args:
        thresholds: (T,) distances.
        detection_identification_rate: (T,) share of present queries whose nearest image is the right person and
            within the threshold, in [0, 1].
        false_alarm_rate: (T,) share of absent queries with any image within the threshold, in [0, 1].
        num_present, num_absent: queries behind the two rates.
        absent: "removed" or "given", see `Calibration.open_set`.

    Taught in: notebooks/07_evaluation.ipynb
    """

    thresholds: np.ndarray
    detection_identification_rate: np.ndarray
    false_alarm_rate: np.ndarray
    num_present: int
    num_absent: int
    absent: str


@dataclass(frozen=True)
class Calibration:
    """A threshold with its error rates, on the pairs it was measured on.

    It belongs to one model on one site: another network, or other cameras, light and crowds, move the distances.
    Calibrate again there, on labelled pairs that were not used for training.

    Args:
        threshold: accept a pair whose distance is at most this.
        false_accept_rate: share of pairs of different people that it accepts, in [0, 1]; at most the requested rate.
        true_accept_rate: share of pairs of one person that it accepts, in [0, 1].
        equal_error_rate: the rate at which as large a share of impostors is accepted as of right pairs rejected, in
            [0, 1], interpolated linearly between neighbouring thresholds.
        equal_error_threshold: the distance at which that happens, interpolated in the same way.
        bin_edges: (B + 1,) common edges of the two histograms.
        positives, negatives: (B,) counts of pairs of one person and of different people.
        num_positives, num_negatives: how many pairs there are.
        same_camera: the rule, "exclude" or "keep".
        nearest_right, nearest_wrong: (Q,) distance of each query's nearest image of its own and of another person,
            inf where there is none.
        found: (Q,) whether the nearest image of all is of its own person; equal distances rank in gallery order.

    Taught in: notebooks/07_evaluation.ipynb
    """

    threshold: float
    false_accept_rate: float
    true_accept_rate: float
    equal_error_rate: float
    equal_error_threshold: float
    bin_edges: np.ndarray = field(repr=False)
    positives: np.ndarray = field(repr=False)
    negatives: np.ndarray = field(repr=False)
    num_positives: int
    num_negatives: int
    same_camera: str
    nearest_right: np.ndarray = field(repr=False)
    nearest_wrong: np.ndarray = field(repr=False)
    found: np.ndarray = field(repr=False)

    def open_set(
        self, thresholds: float | Iterable[float] | np.ndarray | Tensor | None = None, absent: str = "removed"
    ) -> OpenSet:
        """Rates for a search in which the person may not be in the gallery.

        Present are the queries with a right image to find. Images that the same-camera rule or identity -1 leave
        out of the gallery are left out here too: they are neither found nor a false alarm.

        Args:
            thresholds: distances; None for `threshold` alone. `bin_edges` gives a curve.
            absent: "removed": every query counts as absent once more, with the images of its own person
                taken out of the gallery. "given": the queries without a right image in the gallery as it is.

        Returns:
            An `OpenSet`.

        Raises:
            ValueError: NaN among the thresholds, another `absent`, or "given" where every query has a match.

        Example:
            >>> result = calibrate(
            ...     torch.tensor([[0.2, 0.6], [0.9, 0.5], [0.4, 0.8]]), query_pids=[1, 2, 3], gallery_pids=[1, 2],
            ...     query_camids=[1, 1, 1], gallery_camids=[2, 2], false_accept_rate=0.25)
            >>> rates = result.open_set([0.3, 0.5], absent="given")
            >>> rates.detection_identification_rate.tolist(), rates.false_alarm_rate.tolist()
            ([0.5, 1.0], [0.0, 1.0])

        Source: Phillips, Grother and Micheals 2011, open-set identification at rank 1.
        Taught in: notebooks/07_evaluation.ipynb
        """
        if absent not in ABSENT:
            raise ValueError(f"absent={absent!r}: expected one of {', '.join(ABSENT)}")
        if isinstance(thresholds, Tensor):
            thresholds = thresholds.detach().cpu()
        chosen = np.atleast_1d(np.asarray(self.threshold if thresholds is None else thresholds, dtype=np.float64))
        if chosen.ndim != 1 or not len(chosen) or np.isnan(chosen).any():
            raise ValueError(f"thresholds: got shape {chosen.shape}, expected (T,) distances without NaN, at least one")
        present = np.isfinite(self.nearest_right)
        gone = ~present if absent == "given" else np.isfinite(self.nearest_wrong)
        if not gone.any():
            raise ValueError(
                f'absent="given": all {len(present)} queries have a match in the gallery. Add queries of '
                'people who are not in it, or use absent="removed"'
            )
        right = np.sort(self.nearest_right[present & self.found])
        return OpenSet(
            thresholds=chosen,
            detection_identification_rate=np.searchsorted(right, chosen, side="right") / present.sum(),
            false_alarm_rate=np.searchsorted(np.sort(self.nearest_wrong[gone]), chosen, side="right") / gone.sum(),
            num_present=int(present.sum()),
            num_absent=int(gone.sum()),
            absent=absent,
        )

    def __str__(self) -> str:
        return (
            f"threshold {self.threshold:.4g} accepts {self.true_accept_rate:.1%} of {self.num_positives:,} pairs of "
            f"one person and {self.false_accept_rate:.3%} of {self.num_negatives:,} pairs of different people; equal "
            f"error rate {self.equal_error_rate:.1%} at {self.equal_error_threshold:.4g}; "
            f"same camera: {self.same_camera}"
        )


def calibrate(
    distmat: Tensor | np.ndarray | Iterable[Tensor | np.ndarray],
    *,
    query_pids: Labels,
    gallery_pids: Labels,
    query_camids: Labels,
    gallery_camids: Labels,
    false_accept_rate: float = 0.01,
    same_camera: str = "exclude",
    bins: int = 50,
) -> Calibration:
    """Choose the distance up to which two images count as one person, by the share of impostors that it accepts.

    A pair is accepted if its distance is at most the threshold: the largest distance among all pairs at which no
    larger share of the pairs of different people is accepted than requested. So it is exact, and of pairs at equal
    distance either all are accepted or none. If even the nearest distance accepts too many, it is the next number
    below that distance, and accepts nothing.

    Every query is paired with every gallery image, except those of identity -1 and, with same_camera="exclude",
    those of its own identity in its own camera. Pairs of different people in one camera stay.

    Args:
        distmat: (Q, G) finite distances, or blocks (rows, G) of it in the order of the queries. All pairs are kept, in
            4 bytes each for float32: where that is too much, pass a part of the queries.
        query_pids, gallery_pids: (Q,) and (G,) identities.
        query_camids, gallery_camids: (Q,) and (G,) cameras.
        false_accept_rate: in [0, 1). Finer than 1 / (pairs of different people) cannot be measured and is refused,
            except 0: no false accept among these pairs, which is no promise for others.
        same_camera: "exclude", or "keep" for data with one camera or none.
        bins: of the histograms, from the smallest distance to the largest.

    Returns:
        A `Calibration`. It belongs to this model and this site.

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, no pair of one person or of different people, queries
            that are in the gallery, or a rate that is out of range or too fine.

    Example:
        >>> result = calibrate(
        ...     torch.tensor([[0.1, 0.4, 0.8], [0.7, 0.3, 0.2]]), query_pids=[1, 2], gallery_pids=[1, 1, 2],
        ...     query_camids=[1, 1], gallery_camids=[2, 2, 2], false_accept_rate=0.34)
        >>> round(result.threshold, 2), round(result.false_accept_rate, 2), result.true_accept_rate
        (0.4, 0.33, 1.0)

    Taught in: notebooks/07_evaluation.ipynb
    """
    if not 0 <= false_accept_rate < 1:
        raise ValueError(f"false_accept_rate={false_accept_rate}: expected a share in [0, 1), such as 0.01 for 1 %")
    if same_camera not in SAME_CAMERA:
        raise ValueError(f"same_camera={same_camera!r}: expected one of {', '.join(SAME_CAMERA)}")
    if bins < 1:
        raise ValueError(f"bins={bins}: expected at least 1")
    given = query_pids, gallery_pids, query_camids, gallery_camids
    blocks, labels = distance_blocks(distmat, *given, same_camera, finite=True)
    if not len(labels.known):
        raise ValueError(labels.no_match_message())
    collected = map(np.concatenate, zip(*_pairs(blocks, labels), strict=True))
    positives, negatives, nearest_right, nearest_wrong, found = collected
    if not len(positives):
        raise ValueError(labels.no_match_message())
    if not len(negatives):
        raise ValueError("there is no pair of different people; a threshold needs impostors to keep out")
    positives.sort()  # in place, since there may be many
    negatives.sort()
    allowed = math.floor(false_accept_rate * len(negatives) + 1e-9)  # 0.29 × 100 is 28.999999999999996
    if false_accept_rate > 0 and allowed < 1:
        raise ValueError(
            f"false_accept_rate={false_accept_rate}: needs at least {math.ceil(1 / false_accept_rate):,} pairs of "
            f"different people to be measured, got {len(negatives):,}. Ask for 1/{len(negatives)} or more, or for 0 "
            "(none of these pairs)"
        )
    limit = negatives[allowed]  # the nearest pair that must not be accepted
    below = [values[place - 1] for values in (positives, negatives) if (place := np.searchsorted(values, limit))]
    threshold = float(max(below)) if below else float(np.nextafter(limit, limit.dtype.type(-np.inf)))
    equal_error_rate, equal_error_threshold = _equal_error(positives, negatives)
    ends = min(positives[0], negatives[0]), max(positives[-1], negatives[-1])
    edges = np.histogram_bin_edges(np.array(ends, dtype=np.float64), bins)
    return Calibration(
        threshold=threshold,
        false_accept_rate=float(_share_within(negatives, threshold)),
        true_accept_rate=float(_share_within(positives, threshold)),
        equal_error_rate=equal_error_rate,
        equal_error_threshold=equal_error_threshold,
        bin_edges=edges,
        positives=np.histogram(positives, edges)[0],
        negatives=np.histogram(negatives, edges)[0],
        num_positives=len(positives),
        num_negatives=len(negatives),
        same_camera=same_camera,
        nearest_right=nearest_right,
        nearest_wrong=nearest_wrong,
        found=found,
    )


def _pairs(blocks: Iterable[Tensor], labels: LabelSet) -> Iterator[tuple[np.ndarray, ...]]:
    """For each block (rows, G): the distances of pairs of one person, and of different people.

    Then for each row the nearest distance of either kind, inf without one, and whether the right one comes first.
    """
    start = 0
    for block in blocks:
        rows = slice(start, start + len(block))
        start = rows.stop
        query = (labels.query_pids[rows, None], labels.query_camids[rows, None])
        all_four = (*query, labels.gallery_pids, labels.gallery_camids)
        right, junk = matches_and_junk(*(torch.from_numpy(x).to(block.device) for x in all_four), labels.same_camera)
        wrong = ~(right | junk)
        columns = torch.arange(block.shape[1], device=block.device)
        nearest, places = [], []
        for counted in (right, wrong):
            distances = block.masked_fill(~counted, torch.inf)
            nearest.append(distances.amin(1))
            lowest = torch.where(distances == nearest[-1][:, None], columns, len(columns)).amin(1)  # of equal ones
            places.append(lowest)
        found = (nearest[0] < nearest[1]) | ((nearest[0] == nearest[1]) & (places[0] < places[1]))
        results = block[right], block[wrong], *nearest, found & nearest[0].isfinite()
        yield tuple(values.cpu().numpy() for values in results)


def _share_within(sorted_distances: np.ndarray, threshold: float | np.ndarray) -> np.ndarray:
    """Share of the distances that are at most `threshold`."""
    return np.searchsorted(sorted_distances, threshold, side="right") / len(sorted_distances)


def _equal_error(positives: np.ndarray, negatives: np.ndarray) -> tuple[float, float]:
    """Equal error rate and its threshold, where the lines between neighbouring thresholds cross."""
    steps = np.unique(positives)
    reached = _share_within(negatives, steps) >= 1 - _share_within(positives, steps)
    last = int(reached.argmax())  # the last step at latest: it rejects no right pair
    low, high = (steps[last - 1] if last else -np.inf), steps[last]
    between = negatives[np.searchsorted(negatives, low, side="right") : np.searchsorted(negatives, high)]
    steps = np.append(np.unique(between), high)
    if last:
        steps = np.insert(steps, 0, low)
    accepted, rejected = _share_within(negatives, steps), 1 - _share_within(positives, steps)
    at = int((accepted >= rejected).argmax())
    before = (accepted[at - 1], rejected[at - 1], steps[at - 1]) if at else (0.0, 1.0, steps[0])
    gap = before[1] - before[0]
    part = gap / (gap + accepted[at] - rejected[at])  # of the way from the threshold before
    rate = before[0] + part * (accepted[at] - before[0])
    return float(rate), float(before[2] + part * (steps[at] - before[2]))
