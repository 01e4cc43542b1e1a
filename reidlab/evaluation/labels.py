"""Identities and cameras of queries and gallery, checked, and which gallery images concern which query."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from reidlab.checks import whole_numbers
from reidlab.evaluation.scores import ABSENT, OWN_CAMERA

Labels = Tensor | np.ndarray | list[int]


class LabelSet:
    """The four label vectors, without the gallery's identity -1.

    Args:
        query_pids, query_camids: (Q,) whole numbers.
        gallery_pids, gallery_camids: (G,) whole numbers; identity -1 is junk for every query.
        same_camera: "exclude" or "keep".

    Raises:
        ValueError: labels that are no whole numbers, no queries or gallery, or lengths that do not fit.
    """

    def __init__(
        self,
        query_pids: Labels,
        gallery_pids: Labels,
        query_camids: Labels,
        gallery_camids: Labels,
        same_camera: str = "exclude",
    ) -> None:
        self.query_pids = whole_numbers("query_pids", query_pids)
        self.query_camids = whole_numbers("query_camids", query_camids)
        self.all_gallery_pids = whole_numbers("gallery_pids", gallery_pids)
        self.all_gallery_camids = whole_numbers("gallery_camids", gallery_camids)
        self.same_camera = same_camera

    def check(self, num_queries: int, num_gallery: int) -> None:
        """Compare the lengths with those of the features, and prepare the look-up."""
        if not num_queries or not num_gallery:
            raise ValueError(
                f"got {num_queries} queries and {num_gallery} gallery images, expected at least one of each"
            )
        for name, expected in (("query", num_queries), ("gallery", num_gallery)):
            for kind in ("pids", "camids"):
                got = getattr(self, f"{'all_' if name == 'gallery' else ''}{name}_{kind}").shape
                if got != (expected,):
                    raise ValueError(f"{name}_{kind}: got shape {got}, expected ({expected},), one for each feature")
        self.somebody = np.flatnonzero(self.all_gallery_pids != -1)
        self.gallery_pids, self.gallery_camids = (
            labels[self.somebody] for labels in (self.all_gallery_pids, self.all_gallery_camids)
        )
        self._by_pid = np.argsort(self.gallery_pids, kind="stable")
        ordered = self.gallery_pids[self._by_pid]
        self._starts, self._stops = (np.searchsorted(ordered, self.query_pids, side) for side in ("left", "right"))

    @property
    def num_gallery(self) -> int:
        """Gallery images, those of identity -1 included."""
        return len(self.all_gallery_pids)

    @property
    def has_nobody(self) -> bool:
        """Whether there are gallery images of identity -1; indices and features are without them."""
        return len(self.somebody) < self.num_gallery

    def same_identity(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the gallery images of the identities of some queries.

        Args:
            start, stop: the queries.

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
        """Count the queries that are not valid by reason."""
        absent = self._starts == self._stops
        counts = {ABSENT: int((absent & ~valid).sum()), OWN_CAMERA: int((~absent & ~valid).sum())}
        return {reason: count for reason, count in counts.items() if count}

    def no_match_message(self) -> str:
        """Say why no query has anything to find, and what to do about it."""
        cameras = sorted({*self.query_camids.tolist(), *self.all_gallery_camids.tolist()})
        shared = np.intersect1d(self.query_pids, self.gallery_pids)
        start = f"none of the {len(self.query_pids)} queries has a match to find: "
        if not len(shared):
            return start + (
                "no identity is in both query and gallery. Check that the pids of both come from the same numbering, "
                "and that the gallery is not all -1"
            )
        shown = str(cameras) if len(cameras) <= 10 else f"{len(cameras)} of them"
        one = "all images are from one camera; " if len(cameras) == 1 else ""
        return start + (
            f"{len(shared)} identities are in both, but never in another camera (cameras: {shown}). Usually a match "
            f'is the same identity in another camera; {one}check camids, or pass same_camera="keep" '
            "(--same-camera keep) to count matches from the query's own camera, if no query image is itself in the "
            "gallery"
        )
