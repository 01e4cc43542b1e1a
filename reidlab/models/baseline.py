"""The baseline: one pooled feature, a batch-norm neck, a classifier for training."""

from __future__ import annotations

import os

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from reidlab.data.transforms import test_transform, to_image_tensor
from reidlab.losses import triplet_loss
from reidlab.models.backbones import BACKBONES


class Baseline(nn.Module):
    """Backbone, global average pooling, BNNeck.

    The triplet loss works on the pooled feature, the classifier on its batch-normalised copy, and search
    uses the latter with cosine distance.

    Args:
        num_classes: identities to tell apart in training.
        backbone: "small" (128×64 images) or "resnet50" (256×128).
        weights: ImageNet weights for "resnet50": a path, "torchvision" or None.
        margin: of the triplet loss; None for the soft margin.
        label_smoothing: ε in [0, 1) of the cross-entropy.

    Raises:
        ValueError: an unknown backbone, or weights for one that has none.

    Example:
        >>> import torch
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
    ):
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"backbone={backbone!r}: expected one of {', '.join(BACKBONES)}")
        if weights is not None and backbone != "resnet50":
            raise ValueError(f"weights={str(weights)!r}: only backbone='resnet50' takes ImageNet weights")
        self.arguments = {"num_classes": num_classes, "backbone": backbone, "margin": margin}
        self.arguments["label_smoothing"] = label_smoothing
        self.backbone = BACKBONES[backbone]() if weights is None else BACKBONES[backbone](weights)
        self.height, self.width = self.backbone.height, self.backbone.width
        self.neck = nn.BatchNorm1d(self.backbone.channels)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(self.backbone.channels, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.margin, self.label_smoothing = margin, label_smoothing

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Compute what the losses need.

        Args:
            images: (B, 3, height, width), normalised.

        Returns:
            `features` (B, D) before the neck, `embedding` (B, D) after it, `logits` (B, num_classes).
        """
        features = self.backbone(images).mean(dim=(2, 3))  # (B, D)
        embedding = self.neck(features)
        return {"features": features, "embedding": embedding, "logits": self.classifier(embedding)}

    def loss(self, outputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss by name; training minimises their sum.

        Args:
            outputs: what `forward` returned.
            labels: (B,) class numbers 0 … num_classes - 1.
        """
        return {
            "cross_entropy": F.cross_entropy(outputs["logits"], labels, label_smoothing=self.label_smoothing),
            "triplet": triplet_loss(outputs["features"], labels, margin=self.margin),
        }

    def embed(self, images: Tensor) -> Tensor:
        """Return features (B, D) to search with.

        Raises:
            ValueError: the model is in training mode, where an image's feature depends on its batch.
        """
        if self.training:
            raise ValueError("the model is in training mode: call model.eval() before embed()")
        return self.neck(self.backbone(images).mean(dim=(2, 3)))

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Turn one uint8 (H, W, 3) RGB image into the (3, height, width) tensor this model was made for.

        Example:
            >>> Baseline(num_classes=2).preprocess(np.zeros((200, 80, 3), np.uint8)).shape
            torch.Size([3, 128, 64])
        """
        return test_transform(self.height, self.width)(to_image_tensor(image))
