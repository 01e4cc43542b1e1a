"""Search a gallery: the images most similar to each query, without identities."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from reidlab.data.records import FolderSource, Record
from reidlab.distances import cosine_distance
from reidlab.evaluation.features import extract_features

Image: TypeAlias = "Record | str | os.PathLike[str] | np.ndarray"
_ROWS = 256  # queries whose distances are in memory at a time


@dataclass(frozen=True)
class Hits:
    """The images found for each query, the most similar first.

    Args:
        indices: (Q, k) int64, places in the gallery.
        distances: (Q, k) float32, cosine distances in [0, 2].
    """

    indices: Tensor
    distances: Tensor

    @property
    def scores(self) -> Tensor:
        """(Q, k) cosine similarities in [-1, 1], the largest first."""
        return 1 - self.distances


def search(
    model: nn.Module,
    queries: Sequence[Image] | Tensor,
    gallery: Sequence[Image] | Tensor,
    k: int = 10,
    batch_size: int = 64,
    device: str = "cpu",
    workers: int = 0,
) -> Hits:
    """Find the k gallery images that are nearest to each query, by the cosine distance of their features.

    Args:
        model: has `preprocess(image)` and `embed(images)`.
        queries: Q images: records, paths, or uint8 arrays (H, W, 3), RGB; or their features (Q, D), as `embed_images`
            returns them.
        gallery: G images or features, likewise. Features save embedding the same gallery for each search.
        k: how many to return, from 1 to G.
        batch_size, device, workers: as for `reidlab.evaluation.extract_features`.

    Returns:
        `Hits`. Of equal distances the one earlier in the gallery comes first.

    Raises:
        ValueError: no images, k out of its range, features of different D, an array that is not an image.
        FileNotFoundError, DataError: an image that cannot be read; the message names it.

    Example:
        >>> from reidlab.models.pixels import RawPixels
        >>> dark, light = np.zeros((2, 64, 32, 3), np.uint8)
        >>> light[:32], dark[32:] = 200, 90
        >>> hits = search(RawPixels(), [light], [dark, light], k=1)
        >>> hits.indices.tolist(), round(hits.scores.item(), 3)
        ([[1]], 1.0)
    """
    query_features, gallery_features = (
        images if isinstance(images, Tensor) else embed_images(model, images, batch_size, device, workers)
        for images in (queries, gallery)
    )
    size = len(gallery_features)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= size:
        raise ValueError(f"k={k!r}: expected a whole number from 1 to {size}, the images in the gallery")
    blocks = (cosine_distance(rows, gallery_features) for rows in query_features.split(_ROWS))  # (256, G) each
    nearest = [block.sort(dim=1, stable=True) for block in blocks]
    values, indices = (torch.cat([part[i][:, :k] for part in nearest]) for i in (0, 1))
    return Hits(indices, values)


def embed_images(
    model: nn.Module, images: Sequence[Image], batch_size: int = 64, device: str = "cpu", workers: int = 0
) -> Tensor:
    """Embed images that need no identity.

    Args:
        model, batch_size, device, workers: as for `reidlab.evaluation.extract_features`.
        images: N records, paths, or uint8 arrays (H, W, 3), RGB, in any mixture.

    Returns:
        (N, D) float32 on the CPU, in the order of the images.

    Raises:
        ValueError: no images, or something else among them.
        FileNotFoundError, DataError: an image that cannot be read; the message names it.
    """
    if isinstance(images, (str, os.PathLike)):
        raise ValueError(f"got one path, {os.fspath(images)!r}; expected a list of images, such as [path]")
    records = [_record(number, image) for number, image in enumerate(images)]
    return extract_features(model, records, batch_size, device, workers).features


@dataclass(frozen=True)
class _Pixels:
    """One image that is in memory already."""

    image: np.ndarray

    def load(self, name: str) -> np.ndarray:
        return self.image


def _record(number: int, image: Image) -> Record:
    if isinstance(image, Record):
        return image
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        return Record(path.name, -1, 0, FolderSource(path.parent))
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image {number}: got {type(image).__name__}, expected a record, a path, or a uint8 array")
    return Record(f"image {number}", -1, 0, _Pixels(image))
