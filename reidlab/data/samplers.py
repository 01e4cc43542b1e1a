"""Batches of P identities with K images each, as triplet losses need them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from reidlab.checks import check_whole, whole_numbers


@dataclass(frozen=True)
class Coverage:
    """How much of a training set the batches of some epochs cover."""

    epochs: int
    batches: int
    draws: int  # repeats included
    images_seen: int
    images: int
    identities_seen: int
    identities: int
    repeats_in_batch: int  # draws that repeat an image which is already in the same batch
    short_identities: int  # identities with fewer than K images, which cause those repeats

    def __str__(self) -> str:
        return (
            f"{self.epochs} epoch(s) = {self.batches} batches = {self.draws} draws: "
            f"{self.images_seen} of {self.images} images, {self.identities_seen} of {self.identities} identities, "
            f"{self.short_identities} identities with fewer than K images, {self.repeats_in_batch} repeats in a batch"
        )


class PKBatchSampler(Sampler[list[int]]):
    """Yield batches of indices: P identities, K images of each.

    One epoch visits every identity once, in random order. If the number of identities is not a multiple of P, the last
    batch is filled up with identities from earlier in the epoch, never with one it holds. From an identity with K or
    more images, K different ones are drawn. From one with n < K, all n are taken and the other K - n are drawn from
    them again, so the batch holds a positive pair at distance 0; `coverage()` counts how often.

    The batches depend on the seed and the epoch alone: call `set_epoch` before each epoch.

    Args:
        pids: identity of each training image, in the data set's order.
        num_identities: P, at least 2.
        images_per_identity: K, at least 2.
        seed: any integer ≥ 0.
        camids: camera of each training image; if given, an identity's images are drawn from different cameras, and
            from one camera twice only when K exceeds their number.

    Raises:
        ValueError: P or K below 2, P above the number of identities, or another number of cameras than of images.

    Example:
        >>> sampler = PKBatchSampler([7, 7, 7, 8, 8, 9, 9, 9], num_identities=2, images_per_identity=2)
        >>> [len(batch) for batch in sampler]
        [4, 4]
        >>> print(sampler.coverage(epochs=10))
        10 epoch(s) = 20 batches = 80 draws: 8 of 8 images, 3 of 3 identities,
        0 identities with fewer than K images, 0 repeats in a batch

    Source: Hermans et al. 2017, section 2 (PK batches).
    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """

    def __init__(
        self,
        pids: Sequence[int],
        num_identities: int,
        images_per_identity: int,
        seed: int = 0,
        camids: Sequence[int] | None = None,
    ):
        check_whole(2, num_identities=num_identities, images_per_identity=images_per_identity)
        pids = whole_numbers("pids", pids)
        if pids.ndim != 1:
            raise ValueError(f"pids: got shape {pids.shape}, expected one identity an image, (N,)")
        order = np.argsort(pids, kind="stable")
        people, starts = np.unique(pids[order], return_index=True)
        self.indices: dict[int, np.ndarray] = {
            int(pid): images for pid, images in zip(people, np.split(order, starts)[1:], strict=True)
        }
        if num_identities > len(self.indices):
            raise ValueError(
                f"got P={num_identities}, but the training set has {len(self.indices)} identities; lower P to that"
            )
        if camids is not None and len(camids) != len(pids):
            raise ValueError(f"got {len(camids)} camids and {len(pids)} pids; expected one of each for every image")
        self.num_identities, self.images_per_identity = num_identities, images_per_identity
        self.camids = None if camids is None else whole_numbers("camids", camids)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, whose batches the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.indices) // self.num_identities)

    def __iter__(self) -> Iterator[list[int]]:
        yield from self._batches(self.epoch)

    def _batches(self, epoch: int) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(list(self.indices))
        for start in range(0, len(order), self.num_identities):
            chosen = order[start : start + self.num_identities]
            missing = self.num_identities - len(chosen)
            if missing:
                chosen = np.concatenate([chosen, rng.choice(order[:start], missing, replace=False)])
            yield [int(index) for pid in chosen for index in self._draw(self.indices[int(pid)], rng)]

    def _draw(self, images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        short = self.images_per_identity - len(images)
        if short > 0:
            return np.concatenate([rng.permutation(images), rng.choice(images, short, replace=True)])
        if self.camids is None:
            return rng.choice(images, self.images_per_identity, replace=False)
        shuffled = rng.permutation(images)
        cameras = self.camids[shuffled]
        turn = np.array([(cameras[:i] == camera).sum() for i, camera in enumerate(cameras)])  # 0 = its camera's first
        return shuffled[np.argsort(turn, kind="stable")[: self.images_per_identity]]

    def coverage(self, epochs: int = 1) -> Coverage:
        """Count what the first `epochs` epochs draw."""
        owner = {int(i): pid for pid, images in self.indices.items() for i in images}
        batches = [batch for epoch in range(epochs) for batch in self._batches(epoch)]
        seen = {index for batch in batches for index in batch}
        return Coverage(
            epochs=epochs,
            batches=len(batches),
            draws=sum(map(len, batches)),
            images_seen=len(seen),
            images=len(owner),
            identities_seen=len({owner[index] for index in seen}),
            identities=len(self.indices),
            repeats_in_batch=sum(len(batch) - len(set(batch)) for batch in batches),
            short_identities=sum(len(images) < self.images_per_identity for images in self.indices.values()),
        )
