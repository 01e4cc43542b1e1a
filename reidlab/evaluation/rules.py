"""Which gallery images count for a query: the four rules that public evaluation code uses.

| rule | left out of the curve, for each query | credit |
|---|---|---|
| market | same identity in the same camera | 1 at the first right image |
| cuhk03_open_reid | every image of the query's camera | 1/repeats at the right image of each draw |
| cuhk03_torchreid | same identity in the same camera | 1/repeats at the right image of each draw |
| allshots | same identity in the same camera | 1/n at each of the n right images |

A draw takes one random image of every identity that is left, so it holds one right image. market and allshots use
every image that is left.

The rest is the same under all four. Average precision and mINP are computed on the whole list, less the same identity
in the same camera. Gallery images of identity -1 are junk for every query. A query without a right image left is
skipped, not counted as 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from reidlab.checks import whole_numbers
from reidlab.distances import l2_normalize

RULES = ("market", "cuhk03_open_reid", "cuhk03_torchreid", "allshots")
SAMPLED = ("cuhk03_open_reid", "cuhk03_torchreid")
"""Rules whose matching curve is taken on random draws of one image an identity."""
SAME_CAMERA = ("exclude", "keep")

Labels = Tensor | np.ndarray | list[int]


def check_rule(rule: str, same_camera: str = "exclude", repeats: int = 10, max_rank: int | None = None) -> None:
    """Refuse unknown names, fewer than one draw or rank, and "keep" with the rule that removes the query's camera."""
    if rule not in RULES:
        raise ValueError(f"rule={rule!r}: expected one of {', '.join(RULES)}")
    if same_camera not in SAME_CAMERA:
        raise ValueError(f"same_camera={same_camera!r}: expected one of {', '.join(SAME_CAMERA)}")
    if rule == "cuhk03_open_reid" and same_camera == "keep":
        raise ValueError(
            'rule="cuhk03_open_reid" removes every image of the query\'s camera; with same_camera="keep" nothing of '
            'it is left. Use rule="cuhk03_torchreid", which draws in the same way'
        )
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: expected at least 1 draw of the gallery")
    if max_rank is not None and max_rank < 1:
        raise ValueError(f"max_rank={max_rank}: expected at least 1, or None for the whole curve")


def matches_and_junk(
    query_pids: Tensor,
    query_camids: Tensor,
    gallery_pids: Tensor,
    gallery_camids: Tensor,
    same_camera: str = "exclude",
) -> tuple[Tensor, Tensor]:
    """Find the gallery images that are right, and those that do not count, for average precision in every rule.

    Args:
        query_pids, query_camids: identities and cameras of queries, in a shape that broadcasts with the others.
        gallery_pids, gallery_camids: identities and cameras of gallery images.
        same_camera: "exclude", or "keep" for data from one camera: then only identity -1 is junk.

    Returns:
        Two boolean tensors: right matches (same identity, other camera), and junk (same identity and same
        camera, or identity -1).

    Example:
        >>> matches, junk = matches_and_junk(
        ...     torch.tensor(4), torch.tensor(1), torch.tensor([4, 9, 4, -1]), torch.tensor([1, 1, 2, 2]))
        >>> matches.tolist(), junk.tolist()
        ([False, False, True, False], [True, False, False, True])

    Source: Zheng et al. 2015.
    Taught in: notebooks/00_start_here.ipynb
    """
    same_identity = gallery_pids == query_pids
    junk = gallery_pids == -1
    if same_camera == "exclude":
        junk = junk | (same_identity & (gallery_camids == query_camids))
    return same_identity & ~junk, junk


class LabelSet:
    """The four label vectors, checked, without the gallery's identity -1.

    Args:
        query_pids, query_camids: (Q,) whole numbers.
        gallery_pids, gallery_camids: (G,) whole numbers; identity -1 is junk for every query.
        same_camera: "exclude" or "keep".
        shape: (Q, G) of the features or distances; None for that of the labels.
    """

    def __init__(
        self,
        query_pids: Labels,
        gallery_pids: Labels,
        query_camids: Labels,
        gallery_camids: Labels,
        same_camera: str = "exclude",
        shape: tuple[int, int] | None = None,
    ) -> None:
        self.query_pids = whole_numbers("query_pids", query_pids)
        self.query_camids = whole_numbers("query_camids", query_camids)
        gallery_pids = whole_numbers("gallery_pids", gallery_pids)
        gallery_camids = whole_numbers("gallery_camids", gallery_camids)
        num_queries, self.num_gallery = shape or (self.query_pids.size, gallery_pids.size)
        if not num_queries or not self.num_gallery:
            raise ValueError(
                f"got {num_queries} queries and {self.num_gallery} gallery images, expected at least one of each"
            )
        for name, labels, expected in (
            ("query_pids", self.query_pids, num_queries),
            ("query_camids", self.query_camids, num_queries),
            ("gallery_pids", gallery_pids, self.num_gallery),
            ("gallery_camids", gallery_camids, self.num_gallery),
        ):
            if labels.shape != (expected,):
                raise ValueError(f"{name}: got shape {labels.shape}, expected ({expected},), one for each feature")
        self.same_camera = same_camera
        self.cameras = np.union1d(self.query_camids, gallery_camids).tolist()
        self.known = np.flatnonzero(gallery_pids != -1)  # places in the gallery as it was given
        self.gallery_pids, self.gallery_camids = gallery_pids[self.known], gallery_camids[self.known]
        self._by_pid = np.argsort(self.gallery_pids, kind="stable")
        ordered = self.gallery_pids[self._by_pid]
        self._starts, self._stops = (np.searchsorted(ordered, self.query_pids, side) for side in ("left", "right"))

    def without_unknown(self, values: Tensor, dim: int) -> Tensor:
        """Leave the gallery images of identity -1 out of features (G, D), or with dim=1 of distances (rows, G)."""
        if len(self.known) == self.num_gallery:
            return values
        return values.index_select(dim, torch.from_numpy(self.known).to(values.device))

    def same_identity(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the gallery images of the identities of the queries from `start` to `stop`.

        Returns:
            (n,) queries counted from `start`, ascending; (n,) gallery indices, ascending for each query; and (n,)
            whether the image is junk, because the query's own camera took it.
        """
        first, counts = self._starts[start:stop], (self._stops - self._starts)[start:stop]
        row = np.repeat(np.arange(stop - start), counts)
        inside = np.arange(len(row)) - np.repeat(counts.cumsum() - counts, counts)  # 0, 1, … for each query
        column = self._by_pid[first[row] + inside]
        own_camera = self.gallery_camids[column] == self.query_camids[start:stop][row]
        return row, column, own_camera & (self.same_camera == "exclude")

    def skipped(self, valid: np.ndarray) -> dict[str, int]:
        """Count the queries that are not valid (Q,) by reason."""
        absent = self._starts == self._stops
        counts = {
            "identity not in the gallery": int((absent & ~valid).sum()),
            "identity only in the query's own camera": int((~absent & ~valid).sum()),
        }
        return {reason: count for reason, count in counts.items() if count}

    def no_match_message(self) -> str:
        """Why no query has a right image in the gallery, and what to do."""
        shared = len(np.intersect1d(self.query_pids, self.gallery_pids))
        start = f"none of the {len(self.query_pids)} queries has a match to find: "
        if not shared:
            return start + (
                "no identity is in both query and gallery. Check that the pids of both come from the same numbering, "
                "and that the gallery is not all -1"
            )
        shown = str(self.cameras) if len(self.cameras) <= 10 else f"{len(self.cameras)} of them"
        one = "all images are from one camera; " if len(self.cameras) == 1 else ""
        return start + (
            f"{shared} identities are in both, but never in another camera (cameras: {shown}). Usually a match "
            f'is the same identity in another camera; {one}check camids, or pass same_camera="keep" '
            "(--same-camera keep) to count matches from the query's own camera, if no query image is itself in the "
            "gallery"
        )


COPY, COPY_OF_MANY = 0.002, 0.02
"""An image and its copy are at most this far apart, as a share of the median distance between identities: COPY covers
rounding in float32, for a single query; COPY_OF_MANY, for half of the queries, images that were embedded again in
bfloat16. Two frames of a video are farther apart."""


def refuse_own_features(query: Tensor, gallery: Tensor, labels: LabelSet, metric: str) -> None:
    """With same_camera="keep", refuse queries that are in the gallery themselves: their copies would count as right.

    A copy is a gallery image (G', D) of the query's identity at nearly the same point, whatever the cameras; the
    gallery is without identity -1. The cosine compares directions.
    """
    if labels.same_camera != "keep":
        return
    row, column, _ = labels.same_identity(0, len(query))
    if not len(row):
        return
    if metric == "cosine":
        query, gallery = l2_normalize(query), l2_normalize(gallery)
    some, others = (_spread(len(features)).to(query.device) for features in (query, gallery))
    sample = torch.cdist(query[some], gallery[others], compute_mode="donot_use_mm_for_euclid_dist")
    pairs = (torch.from_numpy(places).to(query.device).split(4096) for places in (row, column))  # bounds the memory
    distances = torch.cat([(query[rows] - gallery[columns]).norm(dim=1) for rows, columns in zip(*pairs, strict=True)])
    _refuse(distances, row, column, _usual(sample, labels, some, others), labels)


def refuse_own_distances(distances: Tensor, labels: LabelSet, start: int) -> None:
    """The same for a block (rows, G') of distances, for the queries from `start` on.

    If some are negative, as negated similarities are, the smallest of the block takes the place of 0, and half of the
    queries must be next to it.
    """
    if labels.same_camera != "keep":
        return
    row, column, _ = labels.same_identity(start, start + len(distances))
    if not len(row):
        return
    some, others = (_spread(size).to(distances.device) for size in distances.shape)
    usual = _usual(distances[some][:, others], labels, start + some, others)
    smallest = distances.min().clamp(max=0)
    at = (torch.from_numpy(places).to(distances.device) for places in (row, column))
    _refuse(distances[tuple(at)] - smallest, start + row, column, usual - smallest, labels, bool(smallest < 0))


def _spread(size: int, most: int = 256) -> Tensor:
    return torch.linspace(0, size - 1, min(size, most)).round().long()


def _usual(distances: Tensor, labels: LabelSet, rows: Tensor, columns: Tensor) -> Tensor:
    """Median distance between different identities, or the largest distance if there are none."""
    other = labels.query_pids[rows.cpu().numpy()][:, None] != labels.gallery_pids[columns.cpu().numpy()][None]
    found = distances[torch.from_numpy(other).to(distances.device) & distances.isfinite()]
    return found.median() if len(found) else distances.max()


def _refuse(
    distances: Tensor, row: np.ndarray, column: np.ndarray, usual: Tensor, labels: LabelSet, shifted: bool = False
) -> None:
    half = len(np.unique(row)) / 2
    for limit, least in [(COPY, half)] if shifted else [(COPY_OF_MANY, half), (COPY, 1)]:
        found = (distances < limit * usual).cpu().numpy()
        copied = len(np.unique(row[found]))
        if copied >= least:
            first = int(found.argmax())
            raise ValueError(
                f"{copied} of {len(labels.query_pids)} queries are in the gallery themselves, or as a copy: query "
                f"{int(row[first])} and gallery image {int(labels.known[column[first]])} are of one identity and "
                'nearly the same. With same_camera="keep" each would find itself first; take these images out of the '
                "gallery"
            )


class GallerySampler:
    """Draws one image of every identity that is left in a query's gallery.

    "cuhk03_open_reid" leaves out all images of the query's camera, "cuhk03_torchreid" only those of its own identity
    there. Queries draw one after the other, so the same queries and seed give the same draws.

    Source: open-reid and torchreid, which draw without a seed.
    """

    def __init__(self, rule: str, gallery_pids: np.ndarray, gallery_camids: np.ndarray, repeats: int, seed: int):
        self.other_cameras_only = rule == "cuhk03_open_reid"
        self.pids, self.camids, self.repeats = gallery_pids, gallery_camids, repeats
        self.generator = np.random.default_rng(seed)
        self._by_camera: dict[int | None, tuple[np.ndarray, ...]] = {}

    def draw(self, query_camid: int, right: np.ndarray) -> tuple[np.ndarray, int]:
        """Draw for one query, given its camera and the gallery indices (n,) of its right images, at least one.

        Returns:
            (repeats, K) gallery indices, one column for each identity, and the column of the query's identity.
        """
        camera = query_camid if self.other_cameras_only else None
        if camera not in self._by_camera:
            kept = np.flatnonzero((self.pids != -1) & ((camera is None) | (self.camids != camera)))
            order = kept[np.argsort(self.pids[kept], kind="stable")]
            self._by_camera[camera] = order, *np.unique(self.pids[order], return_index=True, return_counts=True)
        order, pids, starts, counts = self._by_camera[camera]  # identity pids[k]: order[starts[k] :][: counts[k]]
        own = int(np.searchsorted(pids, self.pids[right[0]]))
        share = self.generator.random((self.repeats, len(pids)))  # (R, K)
        drawn = order[starts + (share * counts).astype(np.int64)]
        drawn[:, own] = right[(share[:, own] * len(right)).astype(np.int64)]
        return drawn, own
