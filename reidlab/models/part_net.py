"""What networks of parts have in common: images, features to search with, classifiers."""

from __future__ import annotations

import os

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from reidlab.data.transforms import test_transform, to_image_tensor
from reidlab.models.backbones import BACKBONES
from reidlab.models.parts import PartLinear, check_positive

IMAGE_SIZES = {"small": (192, 64), "resnet50": (384, 128)}
"""Usual height and width of the images, in pixels, for networks of parts: maps of 12×4 and 24×8."""


class PartNet(nn.Module):
    """What networks of parts have in common: how images come in and how features to search with come out.

    A network of this kind sets `height`, `width` and `flip` and computes `describe`.
    """

    height: int
    width: int
    flip: bool

    def describe(self, images: Tensor) -> Tensor:
        """Return (B, D) features, not normalised."""
        raise NotImplementedError

    def __len__(self) -> int:
        """1, so that `model or other` works for a model that torch.compile has wrapped, which asks for a length."""
        return 1

    def embed(self, images: Tensor) -> Tensor:
        """Return features (B, D) of unit norm to search with.

        If `flip`, the features of an image and of its mirror image are averaged as they are. The mean is then
        scaled to unit norm as a whole, so that a part with large numbers counts more than one with small ones.

        Args:
            images: (B, 3, height, width), normalised.

        Raises:
            ValueError: the model is in training mode, where an image's feature depends on its batch; or images
                of another size.
        """
        if self.training:
            raise ValueError("the model is in training mode: call model.eval() before embed()")
        features = self.describe(images)
        if self.flip:
            features = (features + self.describe(images.flip(3))) / 2
        return F.normalize(features)

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Turn one uint8 (H, W, 3) RGB image into the (3, height, width) tensor this model was made for."""
        return test_transform(self.height, self.width)(to_image_tensor(image))

    def check_images(self, images: Tensor) -> None:
        """Refuse images of another size than the model was built for.

        Raises:
            ValueError: another size.
        """
        if images.ndim != 4 or images.shape[1:] != (3, self.height, self.width):
            raise ValueError(
                f"images: got shape {tuple(images.shape)}, expected (B, 3, {self.height}, {self.width}); "
                "model.preprocess brings an image to that size"
            )


def part_backbone(
    name: str, weights: str | os.PathLike[str] | None, height: int | None, width: int | None
) -> tuple[nn.Module, int, int]:
    """Return a backbone for a network of parts, with height and width of its images.

    Args:
        name: "small" or "resnet50".
        weights: for "resnet50", as for `ResNet50Backbone`.
        height, width: in pixels, multiples of 16; None for the usual ones.

    Raises:
        ValueError: an unknown backbone, weights for one that has none, or another size.

    Example:
        >>> part_backbone("small", None, None, None)[1:]
        (192, 64)
    """
    if name not in BACKBONES:
        raise ValueError(f"backbone={name!r}: expected one of {', '.join(BACKBONES)}")
    if weights is not None and name != "resnet50":
        raise ValueError(f"weights={str(weights)!r}: only backbone='resnet50' takes ImageNet weights")
    usual = IMAGE_SIZES[name]
    size = (usual[0] if height is None else height, usual[1] if width is None else width)
    check_positive(height=size[0], width=size[1])
    if size[0] % 16 or size[1] % 16:
        raise ValueError(f"got {size[0]}×{size[1]} images, expected a height and a width that 16 divides")
    return BACKBONES[name]() if weights is None else BACKBONES[name](weights), *size


def class_scores(features: int, num_classes: int, num_parts: int) -> PartLinear:
    """Return a classifier for each part, with small random weights and no bias yet.

    Example:
        >>> import torch
        >>> class_scores(256, 10, num_parts=45)(torch.zeros(2, 45, 256)).shape
        torch.Size([2, 45, 10])
    """
    layer = PartLinear(features, num_classes, num_parts)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer


def cross_entropies(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each part's classifier, the mean over the images.

    Args:
        logits: (B, n, num_classes).
        labels: (B,) class numbers, the same for all parts.
        label_smoothing: ε in [0, 1).

    Returns:
        (n,) numbers ≥ 0.

    Example:
        >>> import torch
        >>> cross_entropies(torch.zeros(2, 3, 10), torch.tensor([4, 5]))
        tensor([2.3026, 2.3026, 2.3026])
    """
    batch, parts, _ = logits.shape
    flat = logits.transpose(0, 1).flatten(0, 1)  # (n·B, num_classes)
    each = F.cross_entropy(flat, labels.repeat(parts), reduction="none", label_smoothing=label_smoothing)
    return each.view(parts, batch).mean(1)
