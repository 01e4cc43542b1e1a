"""The network of relative distance comparison: two convolutions and a unit-length feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reidlab.losses import generate_triplets, relative_distance_loss
from reidlab.models.base import ReIDModel, autocast

SMALLEST_SIDE = 33
"""Pixels; from a smaller image the layers leave nothing."""


class RelativeDistanceNet(ReIDModel):
    """A small network trained by triplets alone: no classifier, so it does not need to know the identities.

    Convolution 5×5 with stride 2, pooling, local response norm, convolution 5×5, pooling, one linear layer,
    length 1. There is no batch norm: the feature of an image does not depend on its batch, in training neither,
    which the gradient by images of `relative_distance_gradient` needs.

    Args:
        height, width: of the images, in pixels, at least 33.
        features: numbers of a feature, at least 1.
        triplets_per_image: how many triplets the loss draws for each image that has a positive.

    Raises:
        ValueError: a size below the least.

    Example:
        >>> model = RelativeDistanceNet()
        >>> outputs = model(torch.rand(4, 3, 250, 100))
        >>> {name: tuple(tensor.shape) for name, tensor in outputs.items()}
        {'features': (4, 400)}
        >>> list(model.loss(outputs, torch.tensor([0, 0, 1, 1]), torch.Generator().manual_seed(0)))
        ['relative_distance']

    Source: Ding, Lin, Wang, Chao, "Deep feature learning with relative distance comparison for person
    re-identification", Pattern Recognition 2015. The sizes are the paper's; the weights start as torch starts
    them, and the local response norm has torch's constants.
    Taught in: notebooks/03_triplet_losses.ipynb
    """

    name = "relative_distance"

    def __init__(self, height: int = 250, width: int = 100, features: int = 400, triplets_per_image: int = 1):
        super().__init__()
        least = {"height": SMALLEST_SIDE, "width": SMALLEST_SIDE, "features": 1, "triplets_per_image": 1}
        for name, value in self.arguments.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < least[name]:
                raise ValueError(f"{name}={value!r}: expected a whole number of at least {least[name]}")
        self.height, self.width, self.triplets_per_image = height, width, triplets_per_image
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 5, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.LocalResponseNorm(5),
            nn.Conv2d(32, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
        )
        self.linear = nn.Linear(32 * _left(height) * _left(width), features)

    def forward(self, images: Tensor, precision: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return `features` (B, D) of unit norm.

        An image whose outputs are all 0 has no direction: its feature stays zero, and the loss and the cosine
        distance refuse it by its row.
        """
        self.check_images(images)
        with autocast(images, precision):
            maps = self.layers(images)  # (B, 32, h, w)
        return {"features": F.normalize(self.linear(maps.to(self.linear.weight.dtype).flatten(1)))}

    def loss(
        self, outputs: dict[str, Tensor], pids: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the mean relative distance over triplets that are drawn anew at each call; from -1 to 4.

        Raises:
            ValueError: no triplet can be made: fewer than two identities, or none with two images.
        """
        generator = torch.default_generator if generator is None else generator
        triplets = torch.cat([generate_triplets(pids, generator) for _ in range(self.triplets_per_image)])  # (T, 3)
        return {"relative_distance": relative_distance_loss(outputs["features"], triplets)}

    def embed(self, images: Tensor) -> Tensor:
        """Return features (B, D) of unit norm to search with; the same in training and in evaluation mode."""
        return self(images)["features"]


def _left(side: int) -> int:
    """Rows or columns of the last map, of `side` pixels."""
    first = (side - 5) // 2 + 1  # convolution with stride 2
    pooled = (first - 3) // 2 + 1
    return (pooled - 4 - 3) // 2 + 1  # convolution, pooling
