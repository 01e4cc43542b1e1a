"""Records as a torch Dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from reidlab.data.records import Record
from reidlab.data.transforms import to_image_tensor


class ReIDDataset(Dataset[tuple[Tensor, int, int]]):
    """Images, labels and cameras of a list of records.

    Args:
        records: what to serve, in this order.
        transform: from a uint8 (3, H, W) tensor to the network's input.
        labels: class number of each identity, for training; None serves the identities themselves.
        cache_size: (height, width) to keep every image at in memory as uint8 after its first use; None reads each time.

    Example:
        >>> from reidlab.data.transforms import test_transform
        >>> class Black:
        ...     def load(self, name):
        ...         import numpy as np
        ...         return np.zeros((160, 60, 3), np.uint8)
        >>> image, pid, camid = ReIDDataset([Record("a", 5, 1, Black())], test_transform(128, 64))[0]
        >>> image.shape, pid, camid
        (torch.Size([3, 128, 64]), 5, 1)

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """

    def __init__(
        self,
        records: Sequence[Record],
        transform: Callable[[Tensor], Tensor],
        labels: dict[int, int] | None = None,
        cache_size: tuple[int, int] | None = None,
    ):
        self.records, self.transform, self.labels = records, transform, labels
        self._shrink = v2.Resize(cache_size, antialias=True) if cache_size else None
        self._cache: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        record = self.records[index]
        image = self._cache.get(index)
        if image is None:
            image = to_image_tensor(record.load())
            if self._shrink is not None:
                image = self._cache[index] = self._shrink(image)
        label = record.pid if self.labels is None else self.labels[record.pid]
        return self.transform(image), label, record.camid


def class_labels(records: Sequence[Record]) -> dict[int, int]:
    """Number the identities 0 … C-1 in increasing order of pid, as a classifier needs them.

    Example:
        >>> class_labels([Record("a", 5, 1, None), Record("b", 2, 1, None), Record("c", 5, 2, None)])
        {2: 0, 5: 1}
    """
    return {pid: number for number, pid in enumerate(sorted({record.pid for record in records}))}


def stack_batch(batch: list[tuple[Tensor, int, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Collate items into images (B, 3, h, w), labels (B,) and camera ids (B,)."""
    images, labels, camids = zip(*batch, strict=True)
    return torch.stack(images), torch.tensor(labels), torch.tensor(camids)
