"""The baseline: one pooled feature, a batch-norm neck, a classifier for training."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reidlab.data.transforms import test_transform, to_image_tensor
from reidlab.losses import METRIC_LOSSES, MININGS, metric_loss
from reidlab.models.backbones import BACKBONES
from reidlab.models.pooling import AveragePooling, StripePooling


class Baseline(nn.Module):
    """Backbone, pooling, BNNeck.

    The triplet loss works on the pooled feature, the classifier on its batch-normalised copy, and search
    uses the latter with cosine distance.

    Args:
        num_classes: identities to distinguish in training.
        backbone: "small" (128×64 images) or "resnet50" (256×128).
        weights: ImageNet weights for "resnet50": a path, "torchvision" or None.
        margin: of the triplet loss; None for the soft margin.
        label_smoothing: ε in [0, 1) of the cross-entropy.
        stripes: 0 for global average pooling; n for `StripePooling` over n stripes, 64 numbers each.
        flip: search with the mean of the features, with unit norm, of an image and of its mirror image; takes
            twice as long.
        metric_loss: by its name in `reidlab.losses.METRIC_LOSSES`; "none" for the classifier alone. Triplet losses
            work on the features before the neck. Losses on inner products work on the embedding after it: with
            average pooling no feature is negative, so that no two of them could point away from each other.
        metric: distance of the triplet losses.
        cross_entropy: False leaves the classifier out of the loss.
        neck: False leaves the batch norm out: losses and search all work on the pooled feature.

    Raises:
        ValueError: an unknown backbone or loss, weights for one that has none, or stripes that do not fit the map.

    Example:
        >>> model = Baseline(num_classes=5)
        >>> outputs = model(torch.zeros(4, 3, 128, 64))
        >>> {name: tuple(tensor.shape) for name, tensor in outputs.items()}
        {'features': (4, 256), 'embedding': (4, 256), 'logits': (4, 5)}
        >>> sorted(model.loss(outputs, torch.tensor([0, 0, 1, 1])))
        ['cross_entropy', 'triplet']

    Source: Luo et al., "Bag of tricks and a strong baseline for deep person re-identification", 2019.
    Taught in: notebooks/00_start_here.ipynb
    """

    def __init__(
        self,
        num_classes: int,
        backbone: str = "small",
        weights: str | os.PathLike[str] | None = None,
        margin: float | None = 0.3,
        label_smoothing: float = 0.1,
        flip: bool = False,
        stripes: int = 0,
        metric_loss: str = "batch_hard",
        metric: str = "euclidean",
        cross_entropy: bool = True,
        neck: bool = True,
    ):
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone={backbone!r}: expected one of {', '.join(BACKBONES)}")
        if weights is not None and backbone != "resnet50":
            raise ValueError(f"weights={str(weights)!r}: only backbone='resnet50' takes ImageNet weights")
        self.arguments = {"num_classes": num_classes, "backbone": backbone, "margin": margin}
        self.arguments |= {"label_smoothing": label_smoothing, "flip": flip, "stripes": stripes}
        self.arguments |= {"metric_loss": metric_loss, "metric": metric, "cross_entropy": cross_entropy}
        self.arguments |= {"neck": neck}
        if metric_loss not in (*METRIC_LOSSES, "none"):
            raise ValueError(f"metric_loss={metric_loss!r}: expected none or one of {', '.join(METRIC_LOSSES)}")
        self.backbone = BACKBONES[backbone]() if weights is None else BACKBONES[backbone](weights)
        self.height, self.width = self.backbone.height, self.backbone.width
        rows = self.backbone.height // 16  # of the map
        if isinstance(stripes, bool) or not isinstance(stripes, int) or stripes < 0 or (stripes and rows % stripes):
            fit = [n for n in range(1, rows + 1) if rows % n == 0]
            raise ValueError(f"stripes={stripes!r}: the map has {rows} rows; expected 0 or one of {fit}")
        width = self.backbone.channels
        self.pool = StripePooling(width, stripes) if stripes else AveragePooling(width)
        self.neck = nn.BatchNorm1d(self.pool.channels) if neck else nn.Identity()
        if neck:
            self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(self.pool.channels, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.margin, self.label_smoothing, self.flip = margin, label_smoothing, flip
        self.metric_loss, self.metric, self.cross_entropy = metric_loss, metric, cross_entropy
        self.recipe: dict[str, Any] = {}  # of weights that were read from a file

    @classmethod
    def pretrained(cls, num_classes: int = 1, path: str | os.PathLike[str] | None = None) -> Baseline:
        """Return the network that comes with the package, trained on rendered people only.

        Args:
            num_classes: outputs of the classifier, which is new, from torch's global generator; `embed` does
                not use it.
            path: another file of `save_weights`.

        Returns:
            A model in evaluation mode; its `recipe` says how the weights were made.

        Raises:
            FileNotFoundError: this copy of the package has no weights, or there is no such file.
            DataError: the file is damaged, or not one of `save_weights`.
        """
        from reidlab.models.weights import WEIGHTS, load_weights  # which need this class

        return load_weights(WEIGHTS if path is None else path, num_classes)

    def forward(self, images: Tensor, precision: torch.dtype | None = None) -> dict[str, Tensor]:
        """Compute what the losses need.

        Args:
            images: (B, 3, height, width), normalised.
            precision: type that the backbone computes in, by autocast; None leaves it alone. Everything
                after the backbone is computed in the type of the weights.

        Returns:
            `features` (B, D) before the neck, `embedding` (B, D) after it, `logits` (B, num_classes).
        """
        with torch.autocast(images.device.type, precision) if precision else nullcontext():
            maps = self.backbone(images)
        features = self.pool(maps.to(self.classifier.weight.dtype))  # (B, D)
        embedding = self.neck(features)
        return {"features": features, "embedding": embedding, "logits": self.classifier(embedding)}

    def loss(
        self, outputs: dict[str, Tensor], labels: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the terms of the loss by name; training minimises their sum.

        Args:
            outputs: what `forward` returned.
            labels: (B,) class numbers 0 … num_classes - 1.
            generator: for metric losses that draw triplets by chance.
        """
        terms = {}
        if self.cross_entropy:
            terms["cross_entropy"] = F.cross_entropy(outputs["logits"], labels, label_smoothing=self.label_smoothing)
        if self.metric_loss != "none":
            name, where = ("triplet", "features") if self.metric_loss in MININGS else (self.metric_loss, "embedding")
            value = metric_loss(self.metric_loss, outputs[where], labels, self.margin, self.metric, generator)
            terms[name] = value
        return terms

    def __len__(self) -> int:
        """1, so that `model or other` works for a model that torch.compile has wrapped, which asks for a length."""
        return 1

    def embed(self, images: Tensor) -> Tensor:
        """Return features (B, D) to search with: `embedding`, or its mean over both mirror images if `flip`.

        Args:
            images: (B, 3, height, width), normalised.

        Raises:
            ValueError: the model is in training mode, where an image's feature depends on its batch.
        """
        if self.training:
            raise ValueError("the model is in training mode: call model.eval() before embed()")
        found = self._searched(images)
        if not self.flip:
            return found
        return (F.normalize(found) + F.normalize(self._searched(images.flip(3)))) / 2

    def _searched(self, images: Tensor) -> Tensor:
        return self.neck(self.pool(self.backbone(images)))

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Turn one uint8 (H, W, 3) RGB image into the (3, height, width) tensor this model was made for.

        Example:
            >>> Baseline(num_classes=2).preprocess(np.zeros((200, 80, 3), np.uint8)).shape
            torch.Size([3, 128, 64])
        """
        return test_transform(self.height, self.width)(to_image_tensor(image))
