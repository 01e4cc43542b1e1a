"""The baseline: one pooled feature, a batch-norm neck, a classifier for training."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reidlab.checks import check_choice, check_switch
from reidlab.distances import DISTANCES
from reidlab.losses import METRIC_LOSSES, MININGS, metric_loss
from reidlab.models.backbones import new_backbone
from reidlab.models.base import ReIDModel, autocast
from reidlab.models.parts import check_loss_settings
from reidlab.models.pooling import AveragePooling, StripePooling


class Baseline(ReIDModel):
    """Backbone, pooling, BNNeck.

    The triplet loss works on the pooled feature, the classifier on its batch-normalised copy, and search
    uses the latter with cosine distance.

    Args:
        num_classes: identities to distinguish in training.
        backbone: "small" (128×64 images) or "resnet50" (256×128).
        weights: ImageNet weights for "resnet50": a path, "torchvision" or None.
        margin: of the triplet loss; None for the soft margin.
        label_smoothing: ε in [0, 1) of the cross-entropy.
        num_stripes: 0 for global average pooling; n for `StripePooling` over n stripes, 64 values each.
        flip: search with the mean of the features, with unit norm, of an image and of its mirror image; takes
            twice as long.
        metric_loss: by its name in `reidlab.losses.METRIC_LOSSES`; None for the classifier alone. Triplet losses work
            on the features before the neck. Losses on inner products work on the embedding after it: with average
            pooling no feature is negative, so that no two of them could point away from each other.
        metric: distance of the triplet losses.
        cross_entropy: False leaves the classifier out of the loss.
        neck: False leaves the batch norm out: losses and search all work on the pooled feature.

    Raises:
        ValueError: an unknown backbone or loss, weights for one that has none, stripes that do not fit the map, no
            loss at all, or an argument that the others leave without effect.

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

    name = "baseline"
    backbone_prefixes = ("backbone.",)

    def __init__(
        self,
        num_classes: int,
        backbone: str = "small",
        weights: str | os.PathLike[str] | None = None,
        margin: float | None = 0.3,
        label_smoothing: float = 0.1,
        flip: bool = False,
        num_stripes: int = 0,
        metric_loss: str | None = "batch_hard",
        metric: str = "euclidean",
        cross_entropy: bool = True,
        neck: bool = True,
    ):
        super().__init__()
        if metric_loss is not None:
            check_choice("metric_loss", metric_loss, METRIC_LOSSES)
        elif not cross_entropy:
            raise ValueError("cross_entropy=False with metric_loss=None leaves nothing to learn from; set one of them")
        check_choice("metric", metric, DISTANCES)
        check_loss_settings(margin, label_smoothing)
        check_switch(flip=flip, cross_entropy=cross_entropy, neck=neck)
        if metric_loss not in MININGS:
            self.refuse_unread(f"metric_loss={metric_loss!r}", "margin", "metric")
        if not cross_entropy:
            self.refuse_unread("cross_entropy=False", "label_smoothing")
        self.backbone = new_backbone(backbone, weights)
        self.height, self.width = self.backbone.height, self.backbone.width
        rows = self.backbone.height // 16  # of the map
        fit = [0, *(n for n in range(1, rows + 1) if rows % n == 0)]
        if isinstance(num_stripes, bool) or not isinstance(num_stripes, int) or num_stripes not in fit:
            raise ValueError(f"num_stripes={num_stripes!r}: the map has {rows} rows; expected one of {fit}")
        width = self.backbone.channels
        self.pool = StripePooling(width, num_stripes) if num_stripes else AveragePooling(width)
        self.neck = nn.BatchNorm1d(self.pool.channels) if neck else nn.Identity()
        if neck:
            self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(self.pool.channels, num_classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)
        self.margin, self.label_smoothing, self.flip = margin, label_smoothing, flip
        self.metric_loss, self.metric, self.cross_entropy = metric_loss, metric, cross_entropy

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
            ValueError: called on a subclass, of which no weights come with the package.
        """
        from reidlab.models.weights import WEIGHTS, load_weights  # which need this class

        if cls is not Baseline:
            raise ValueError(
                f"no weights of {cls.__name__} come with the package: Baseline.pretrained() has some, and "
                "load_published reads the files of the authors of RGA and of the relation network"
            )
        return load_weights(WEIGHTS if path is None else path, num_classes)

    def forward(self, images: Tensor, precision: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return `features` (B, D) before the neck, `embedding` (B, D) after it, `logits` (B, num_classes)."""
        with autocast(images, precision):
            maps = self.backbone(images)
        features = self.pool(maps.to(self.classifier.weight.dtype))  # (B, D)
        embedding = self.neck(features)
        return {"features": features, "embedding": embedding, "logits": self.classifier(embedding)}

    def loss(
        self, outputs: dict[str, Tensor], pids: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the terms "cross_entropy" and "triplet", or the name of another metric loss; see `ReIDModel.loss`."""
        terms = {}
        if self.cross_entropy:
            terms["cross_entropy"] = F.cross_entropy(outputs["logits"], pids, label_smoothing=self.label_smoothing)
        if self.metric_loss is not None:
            name, where = ("triplet", "features") if self.metric_loss in MININGS else (self.metric_loss, "embedding")
            value = metric_loss(self.metric_loss, outputs[where], pids, self.margin, self.metric, generator)
            terms[name] = value
        return terms

    def describe(self, images: Tensor) -> Tensor:
        """Return the `embedding` (B, D) of `forward` without the classifier's work."""
        return self.neck(self.pool(self.backbone(images)))
