"""The simplest feature of all: a small copy of the image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from reidlab.models.base import ReIDModel


class RawPixels(ReIDModel):
    """The image itself at 32×16 pixels, as a yardstick for networks. Nothing is trained; it is in evaluation mode.

    Example:
        >>> import numpy as np
        >>> pixels = RawPixels()
        >>> pixels.embed(pixels.preprocess(np.zeros((160, 60, 3), np.uint8))[None]).shape
        torch.Size([1, 1536])

    Taught in: notebooks/00_start_here.ipynb
    """

    height, width = 32, 16

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def forward(self, images: Tensor, precision: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return `features` (B, 1536): the pixels, less the mean of each image, with unit norm."""
        flat = images.flatten(1)  # (B, 3·32·16)
        return {"features": F.normalize(flat - flat.mean(dim=1, keepdim=True) + 1e-6)}
