"""From pixels to the input of a network, for training and for testing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from reidlab.checks import image_problem

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_image_tensor(image: np.ndarray) -> Tensor:
    """Turn a uint8 (H, W, 3) RGB image into a uint8 (3, H, W) tensor.

    Raises:
        ValueError: another shape or type.

    Example:
        >>> to_image_tensor(np.zeros((4, 2, 3), np.uint8)).shape
        torch.Size([3, 4, 2])
    """
    if problem := image_problem(image):
        raise ValueError(f"image: {problem}")
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))  # (3, H, W)


def test_transform(
    height: int, width: int, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> v2.Compose:
    """Resize and normalise, nothing random: uint8 (3, H, W) to float32 (3, height, width).

    Example:
        >>> test_transform(128, 64)(torch.zeros(3, 200, 90, dtype=torch.uint8)).shape
        torch.Size([3, 128, 64])

    Taught in: notebooks/00_start_here.ipynb
    """
    return v2.Compose([v2.Resize((height, width), antialias=True), *_to_normalised(mean, std)])


test_transform.__test__ = False  # pytest takes names that begin with test_ for tests


def train_transform(
    height: int,
    width: int,
    erasing: float = 0.5,
    jitter: float = 0.1,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> v2.Compose:
    """Resize, flip, shift, jitter colours, normalise, erase; randomness is of torch's global generator.

    Args:
        height, width: size of the result in pixels.
        erasing: probability in [0, 1] that a rectangle of 2–33 % of the area is filled with the mean colour.
        jitter: how far brightness, contrast and saturation are drawn from 1, ≥ 0.
        mean, std: of each colour channel, for pixels from 0 to 1.

    Example:
        >>> train_transform(128, 64)(torch.zeros(3, 200, 90, dtype=torch.uint8)).shape
        torch.Size([3, 128, 64])

    Source: Luo et al. 2019 (flip, pad and crop, erase); the jitter is for the small network without pretraining.
    Taught in: notebooks/00_start_here.ipynb
    """
    colours = [v2.ColorJitter(jitter, jitter, jitter)] if jitter else []
    padding = height // 16
    return v2.Compose(
        [
            v2.Resize((height, width), antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.Pad(padding),
            v2.RandomCrop((height, width)),
            *colours,
            *_to_normalised(mean, std),
            v2.RandomErasing(erasing, scale=(0.02, 0.33), ratio=(0.3, 3.3), value=0),
        ]
    )


def _to_normalised(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
