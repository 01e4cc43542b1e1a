"""The multiple granularity network: three branches that look at the whole, at halves and at thirds."""

from __future__ import annotations

import copy
import os

import torch
from torch import Tensor, nn

from reidlab.checks import check_switch, check_whole
from reidlab.losses import triplet_loss
from reidlab.models.backbones import ResNet50Backbone, new_backbone, part_image_size
from reidlab.models.base import ReIDModel, autocast
from reidlab.models.parts import (
    PartLayer,
    check_loss_settings,
    check_stripes,
    class_scores,
    cross_entropies,
    stripe_maxima,
)

WHOLES = ("global1", "global2", "global3")
"""The whole of the map in each branch; the number is that of the branch's stripes."""
STRIPES = ("part2.1", "part2.2", "part3.1", "part3.2", "part3.3")
"""The stripes of the second and of the third branch, from top to bottom."""


class MGN(ReIDModel):
    """Three branches over shared first stages, with eight features of 256 numbers.

    Each branch is a copy of the backbone's last stages and learns for itself. The first sees the whole person
    on a map of half the resolution, the second also two stripes, the third also three. All eight vectors are the
    largest values of their place, each reduced by a layer of its own.

    What feeds which loss:

    - the three wholes as they are pooled (all channels of the backbone): cross-entropy;
    - the three wholes, reduced: batch-hard triplet loss;
    - the five stripes, reduced: cross-entropy.

    Search uses all eight reduced vectors: the wholes of the three branches, then the two stripes, then the three.

    Args:
        num_classes: identities to distinguish in training.
        backbone: "resnet50" (384×128 images; branches part after the first block of the third stage) or "small"
            (192×64; they part before the last stage).
        weights: ImageNet weights for "resnet50": a path, "torchvision" or None.
        margin: of the triplet losses, which work on features as they are, not with unit norm; None for the soft
            margin.
        label_smoothing: ε in [0, 1) of the cross-entropies.
        height, width: of the images, in pixels; None for the backbone's usual size.
        flip: search with the mean of the features of an image and of its mirror image; takes twice as long.

    Raises:
        ValueError: an unknown backbone, or images whose map has no halves and thirds.

    Example:
        >>> model = MGN(num_classes=5, backbone="small")
        >>> outputs = model(torch.zeros(4, 3, 192, 64))
        >>> {name: tuple(tensor.shape) for name, tensor in outputs.items()}
        {'features': (4, 2048), 'logits': (4, 8, 5)}
        >>> len(model.loss(outputs, torch.tensor([0, 0, 1, 1])))
        11

    Source: Wang et al., "Learning discriminative features with multiple granularities for person
    re-identification", ACM Multimedia 2018.
    Taught in: notebooks/05_relation_network.ipynb
    """

    name = "mgn"
    backbone_prefixes = ("shared.", "branches.")
    normalise_mean = True

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        weights: str | os.PathLike[str] | None = None,
        margin: float | None = 1.2,
        label_smoothing: float = 0.0,
        height: int | None = None,
        width: int | None = None,
        flip: bool = True,
    ):
        super().__init__()
        check_whole(1, num_classes=num_classes)
        check_loss_settings(margin, label_smoothing)
        check_switch(flip=flip)
        self.height, self.width = part_image_size(backbone, height, width)
        whole = new_backbone(backbone, weights)
        self.shared, self.branches, stride = _split(whole)
        check_stripes(self.height // stride, (2, 3))
        self.arguments |= {"height": self.height, "width": self.width}
        self.margin, self.label_smoothing, self.flip = margin, label_smoothing, flip
        self.reduce = PartLayer(whole.channels, 256, len(WHOLES + STRIPES), bias=False)
        self.classify_wholes = class_scores(whole.channels, num_classes, len(WHOLES))
        self.classify_stripes = class_scores(256, num_classes, len(STRIPES))

    def forward(self, images: Tensor, precision: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return `features` (B, 8 * 256) and `logits` (B, 8, num_classes), in the order of `WHOLES`, then `STRIPES`.

        Raises:
            ValueError: images of another size, or one image in training mode.
        """
        pooled = self._pooled(images, precision)  # (B, 8, C)
        features = self.reduce(pooled)  # (B, 8, 256)
        of_wholes = self.classify_wholes(pooled[:, : len(WHOLES)])
        of_stripes = self.classify_stripes(features[:, len(WHOLES) :])
        return {"features": features.flatten(1), "logits": torch.cat([of_wholes, of_stripes], dim=1)}

    def describe(self, images: Tensor) -> Tensor:
        """Return `features` (B, 8 * 256) of `forward` without the classifiers' work."""
        return self.reduce(self._pooled(images, None)).flatten(1)

    def _pooled(self, images: Tensor, precision: torch.dtype | None) -> Tensor:
        """Return (B, 8, C): the largest values of the three wholes, of the two stripes and of the three."""
        self.check_images(images)
        with autocast(images, precision):
            shared = self.shared(images)
            maps = [branch(shared) for branch in self.branches]
        stripes = [stripe_maxima(m.to(self.reduce.weight.dtype), n) for n, m in enumerate(maps, start=1)]  # (B, C, n)
        wholes = [values.amax(2, keepdim=True) for values in stripes]  # (B, C, 1)
        return torch.cat([*wholes, *stripes[1:]], dim=2).transpose(1, 2)

    def loss(
        self, outputs: dict[str, Tensor], pids: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the 11 terms of the loss by name; training minimises their sum.

        Names are "triplet/global1" … "triplet/global3" and "cross_entropy/" with the names of `WHOLES` and
        `STRIPES`.
        """
        features = outputs["features"].unflatten(1, (len(WHOLES + STRIPES), -1))  # (B, 8, 256)
        terms = {f"triplet/{name}": triplet_loss(features[:, i], pids, self.margin) for i, name in enumerate(WHOLES)}
        entropies = cross_entropies(outputs["logits"], pids, self.label_smoothing)  # (8,)
        names = (f"cross_entropy/{name}" for name in WHOLES + STRIPES)
        return terms | dict(zip(names, entropies.unbind(), strict=True))


def _split(backbone: nn.Module) -> tuple[nn.Sequential, nn.ModuleList, int]:
    """Return the shared stages, three copies of the rest, and how many pixels a row of the last two maps spans."""
    stages = backbone.stage_list()
    if isinstance(backbone, ResNet50Backbone):
        before = [backbone.conv1, backbone.bn1, backbone.relu, backbone.maxpool]
        shared, rest = nn.Sequential(*before, *stages[:2], stages[2][:1]), nn.Sequential(stages[2][1:], stages[3])
        strided = [stages[3][0].conv2, stages[3][0].downsample[0]]
    else:
        shared, rest = nn.Sequential(backbone.stem, *stages[:2]), stages[2]
        strided = [stages[2][0].conv1, stages[2][0].shortcut[0]]
    branches = nn.ModuleList()
    for stride in (2, 1, 1):  # the whole is looked at coarsely, stripes are not
        for convolution in strided:
            convolution.stride = (stride, stride)
        branches.append(copy.deepcopy(rest))
    return shared, branches, backbone.stage_strides[-2]
