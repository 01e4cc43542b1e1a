"""The four rules that public evaluation code uses: what is removed, what is drawn, how the matching curve credits.

| rule | left out of the curve, for each query | credit |
|---|---|---|
| market | same identity in the same camera | 1 at the first right image |
| cuhk03_open_reid | every image of the query's camera | 1/repeats at the right image of each draw |
| cuhk03_torchreid | same identity in the same camera | 1/repeats at the right image of each draw |
| allshots | same identity in the same camera | 1/n at each of the n right images |

A draw takes one random image of every identity that is left, so it holds one right image. market and allshots look
at every image that is left.

Three things are the same under all four. Average precision and mINP look at the whole list, less the same identity
in the same camera: they do not depend on the rule. Gallery images of identity -1 are junk for everybody. And a query
without a right image left is skipped, not counted as 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

RULES = ("market", "cuhk03_open_reid", "cuhk03_torchreid", "allshots")
SAMPLED = ("cuhk03_open_reid", "cuhk03_torchreid")
"""Rules whose matching curve is taken on random draws of one image an identity."""
SAME_CAMERA = ("exclude", "keep")


def check_rule(rule: str, same_camera: str = "exclude", repeats: int = 10) -> None:
    """Refuse what no rule knows.

    Raises:
        ValueError: an unknown name, fewer than one draw, or "keep" with `cuhk03_open_reid`, which is about cameras.

    Example:
        >>> check_rule("cuhk03_open_reid", "keep")
        Traceback (most recent call last):
        ValueError: rule="cuhk03_open_reid" removes every image of the query's camera; with same_camera="keep" ...

    Taught in: notebooks/07_evaluation.ipynb
    """
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


def matches_and_junk(
    query_pids: Tensor,
    query_camids: Tensor,
    gallery_pids: Tensor,
    gallery_camids: Tensor,
    same_camera: str = "exclude",
) -> tuple[Tensor, Tensor]:
    """Tell which gallery images are right, and which do not count at all, for average precision in every rule.

    Args:
        query_pids, query_camids: identities and cameras of queries, in a shape that broadcasts with the others.
        gallery_pids, gallery_camids: identities and cameras of gallery images.
        same_camera: "exclude", or "keep" for data from one camera: then only identity -1 is junk.

    Returns:
        Two boolean tensors: right matches (same identity, other camera), and junk (same identity and same
        camera, or identity -1).

    Example:
        >>> import torch
        >>> matches, junk = matches_and_junk(
        ...     torch.tensor(4), torch.tensor(1), torch.tensor([4, 9, 4, -1]), torch.tensor([1, 1, 2, 2]))
        >>> matches.tolist(), junk.tolist()
        ([False, False, True, False], [True, False, False, True])

    Source: Zheng et al. 2015.
    Taught in: notebooks/00_start_here.ipynb
    """
    same_person = gallery_pids == query_pids
    junk = gallery_pids == -1
    if same_camera == "exclude":
        junk = junk | (same_person & (gallery_camids == query_camids))
    return same_person & ~junk, junk


def first_hit_credit(ranks: np.ndarray, hits: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the matching curve rises, and by how much, when the first right image of a list counts.

    Args:
        ranks: (n,) ranks of right images in their list, from 1.
        hits: (n,) how many right images the list has up to this one: 1, 2, 3, …
        total: (n,) how many right images the list has in all; not used here.

    Returns:
        (n,) places on the curve, from 1, and (n,) credits.

    Example:
        >>> first_hit_credit(np.array([2, 5, 7]), np.array([1, 2, 3]), np.array([3, 3, 3]))
        (array([2, 5, 7]), array([1., 0., 0.]))

    Taught in: notebooks/07_evaluation.ipynb
    """
    return ranks, (hits == 1).astype(np.float64)


def every_hit_credit(ranks: np.ndarray, hits: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the matching curve rises, and by how much, when each of n right images of a list counts 1/n.

    A right image's place is 1 + the number of wrong images before it: right ones do not push each other down.

    Arguments and result as in `first_hit_credit`.

    Example:
        >>> every_hit_credit(np.array([1, 2, 5, 7]), np.array([1, 2, 3, 4]), np.array([4, 4, 4, 4]))
        (array([1, 1, 3, 4]), array([0.25, 0.25, 0.25, 0.25]))

    Source: the rule "allshots" of open-reid.
    Taught in: notebooks/07_evaluation.ipynb
    """
    return ranks - (hits - 1), 1 / total


@dataclass(frozen=True)
class _Identities:
    """Gallery images sorted by identity: those of `pids[k]` are `order[starts[k] : starts[k] + counts[k]]`."""

    order: np.ndarray
    pids: np.ndarray
    starts: np.ndarray
    counts: np.ndarray


class GallerySampler:
    """Draws one image of every identity that is left in a query's gallery.

    Args:
        rule: "cuhk03_open_reid" (all images of the query's camera are out) or "cuhk03_torchreid" (only those of
            the query's own identity are).
        gallery_pids, gallery_camids: (G,) labels.
        repeats: draws for each query.
        seed: of the draws; queries draw one after the other, so the same queries give the same draws.

    Example:
        >>> sampler = GallerySampler("cuhk03_torchreid", np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2]), 3, seed=0)
        >>> drawn, own = sampler.draw(query_camid=1, right=np.array([1]))
        >>> drawn.shape, drawn[:, own].tolist()
        ((3, 2), [1, 1, 1])

    Source: open-reid and torchreid, which draw without a seed.
    Taught in: notebooks/07_evaluation.ipynb
    """

    def __init__(self, rule: str, gallery_pids: np.ndarray, gallery_camids: np.ndarray, repeats: int, seed: int):
        self.other_cameras_only = rule == "cuhk03_open_reid"
        self.pids, self.camids, self.repeats = gallery_pids, gallery_camids, repeats
        self.generator = np.random.default_rng(seed)
        self._by_camera: dict[int | None, _Identities] = {}

    def identities(self, query_camid: int) -> _Identities:
        """The gallery that a query in this camera draws from; its own identity's images are not yet cut."""
        camera = query_camid if self.other_cameras_only else None
        if camera not in self._by_camera:
            kept = np.flatnonzero((self.pids != -1) & ((camera is None) | (self.camids != camera)))
            order = kept[np.argsort(self.pids[kept], kind="stable")]
            self._by_camera[camera] = _Identities(
                order, *np.unique(self.pids[order], return_index=True, return_counts=True)
            )
        return self._by_camera[camera]

    def draw(self, query_camid: int, right: np.ndarray) -> tuple[np.ndarray, int]:
        """Draw for one query.

        Args:
            query_camid: its camera.
            right: (n,) gallery indices of its right images, at least one.

        Returns:
            (repeats, K) gallery indices, one column an identity, and the column of the query's identity.
        """
        table = self.identities(query_camid)
        own = int(np.searchsorted(table.pids, self.pids[right[0]]))
        share = self.generator.random((self.repeats, len(table.pids)))  # (R, K)
        drawn = table.order[table.starts + (share * table.counts).astype(np.int64)]
        drawn[:, own] = right[(share[:, own] * len(right)).astype(np.int64)]
        return drawn, own
