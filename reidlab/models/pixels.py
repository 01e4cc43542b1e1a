"""The simplest feature of all: a shrunken picture."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from reidlab.data.transforms import test_transform, to_image_tensor


class RawPixels(nn.Module):
    """The picture itself at 32×16, as a yardstick: what a network must beat.

    Example:
        >>> pixels = RawPixels()
        >>> pixels.embed(pixels.preprocess(np.zeros((160, 60, 3), np.uint8))[None]).shape
        torch.Size([1, 1536])

    Taught in: notebooks/00_start_here.ipynb
    """

    height, width = 32, 16

    def embed(self, images: Tensor) -> Tensor:
        """Return (B, 1536): the pixels, less the mean of each image, with unit norm."""
        flat = images.flatten(1)  # (B, 3·32·16)
        return F.normalize(flat - flat.mean(dim=1, keepdim=True) + 1e-6)

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Turn one uint8 (H, W, 3) RGB image into (3, 32, 16)."""
        return test_transform(self.height, self.width)(to_image_tensor(image))
