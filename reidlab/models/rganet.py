"""RGA-Net: a backbone with relation-aware attention after its stages."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reidlab.checks import check_choice, check_switch, check_whole
from reidlab.models.baseline import Baseline
from reidlab.models.rga import Attended, RelationAwareAttention

RETRIEVAL_FEATURES = ("before_bn", "after_bn")


class AttendedBackbone(nn.Module):
    """A backbone that passes the maps of some of its stages through an attention module.

    Args:
        base: a backbone of `reidlab.models.backbones`.
        attention: modules by the number of the stage they follow, as text, "1" first.

    Example:
        >>> from reidlab.models.backbones import SmallBackbone
        >>> module = RelationAwareAttention(128, 16, 8)
        >>> AttendedBackbone(SmallBackbone(), {"2": module})(torch.zeros(1, 3, 128, 64)).shape
        torch.Size([1, 256, 8, 4])
    """

    def __init__(self, base: nn.Module, attention: dict[str, RelationAwareAttention]):
        super().__init__()
        self.base, self.attention = base, nn.ModuleDict(attention)
        self.channels = base.channels

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to the base's last map."""
        return self._through(images)

    def attention_maps(self, images: Tensor) -> dict[int, Attended]:
        """Return the gates of each module by the number of its stage."""
        maps: dict[int, Attended] = {}
        self._through(images, maps)
        return maps

    def _through(self, images: Tensor, maps: dict[int, Attended] | None = None) -> Tensor:
        """Compute the last map; the gates on the way are put into `maps`."""
        x = self.base.first(images)
        for number, stage in enumerate(self.base.stage_list(), start=1):
            x = stage(x)
            if str(number) in self.attention:
                module = self.attention[str(number)]
                if maps is not None:
                    maps[number] = module.attention_maps(x)
                x = module(x)
        return x


class RGANet(Baseline):
    """The baseline with a relation-aware attention module after each stage of the backbone.

    The triplet loss works on the pooled feature, the classifier on its batch-normalised copy, as in `Baseline`.

    Args:
        num_classes: identities to distinguish in training.
        backbone: "resnet50" or "small".
        weights: ImageNet weights for "resnet50": a path, "torchvision" or None.
        margin: of the triplet loss; None for the soft margin.
        label_smoothing: ε in [0, 1) of the cross-entropy.
        flip: search with the mean of the features, with unit norm, of an image and of its mirror image.
        spatial, channel: which halves the modules have; with neither there is no module at all.
        stages: numbers of the stages that a module follows, from 1 on; None for all.
        reduction: see `RelationAttention`.
        method: see `RelationAwareAttention`.
        gate_init: see `RelationAttention`; without ImageNet weights use "half".
        retrieval_feature: "before_bn", before the batch-norm neck, which the authors report as `feat_`, or "after_bn".
        height, width: of the images; None for the backbone's usual ones. They cannot be changed later.

    Raises:
        ValueError: an unknown backbone, stage or feature, or images whose maps do not come out even.

    Example:
        >>> model = RGANet(num_classes=5, backbone="small", stages=(2, 3)).eval()
        >>> model.embed(torch.zeros(2, 3, 128, 64)).shape
        torch.Size([2, 256])
        >>> model.attention_maps(torch.zeros(2, 3, 128, 64))[2].spatial.shape
        torch.Size([2, 16, 8])

    Source: Zhang et al., "Relation-aware global attention for person re-identification", CVPR 2020.
    Taught in: notebooks/04_rga_attention.ipynb
    """

    name = "rga"
    backbone_prefixes = ("backbone.base.",)

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        weights: str | os.PathLike[str] | None = None,
        margin: float | None = 0.3,
        label_smoothing: float = 0.1,
        flip: bool = False,
        spatial: bool = True,
        channel: bool = True,
        stages: Sequence[int] | None = None,
        reduction: int = 8,
        method: str = "factored",
        gate_init: str = "random",
        retrieval_feature: str = "before_bn",
        height: int | None = None,
        width: int | None = None,
    ):
        super().__init__(num_classes, backbone, weights, margin, label_smoothing, flip)
        check_choice("retrieval_feature", retrieval_feature, RETRIEVAL_FEATURES)
        check_switch(spatial=spatial, channel=channel)
        if not spatial and not channel:
            self.refuse_unread("spatial=False and channel=False", "gate_init")
        base = self.backbone
        self.retrieval_feature = retrieval_feature
        self.height, self.width = self.height if height is None else height, self.width if width is None else width
        check_whole(1, num_classes=num_classes, height=self.height, width=self.width)
        there = range(1, len(base.stage_channels) + 1)
        stages = tuple(there) if stages is None else tuple(stages)
        if not set(stages) <= set(there) or len(set(stages)) < len(stages):
            raise ValueError(f"stages={stages}: the {backbone} backbone has stages {', '.join(map(str, there))}")
        stride = base.stage_strides[-1]
        if min(self.height, self.width) < stride or self.height % stride or self.width % stride:
            raise ValueError(f"images of {self.height}×{self.width}: expected multiples of {stride}")
        modules = {
            str(n): RelationAwareAttention(
                base.stage_channels[n - 1],
                self.height // base.stage_strides[n - 1],
                self.width // base.stage_strides[n - 1],
                spatial,
                channel,
                reduction,
                method,
                gate_init,
            )
            for n in sorted(stages)
            if spatial or channel
        }
        self.backbone = AttendedBackbone(base, modules)
        self.arguments |= {"stages": list(stages), "height": self.height, "width": self.width}

    def forward(self, images: Tensor, precision: torch.dtype | None = None) -> dict[str, Tensor]:
        """Compute what the losses need, as `Baseline.forward`.

        Raises:
            ValueError: images of another size than the network was made for.
        """
        self.check_images(images)
        return super().forward(images, precision)

    def describe(self, images: Tensor) -> Tensor:
        """Return the features (B, D) that `retrieval_feature` names, without the classifier's work."""
        self.check_images(images)
        pooled = self.pool(self.backbone(images))
        return pooled if self.retrieval_feature == "before_bn" else self.neck(pooled)

    def attention_maps(self, images: Tensor) -> dict[int, Attended]:
        """Return the gates of each module by the number of its stage, without a gradient.

        Args:
            images: (B, 3, height, width), normalised.

        Raises:
            ValueError: the model is in training mode, where gates depend on the batch, or images of another size.
        """
        if self.training:
            raise ValueError("the model is in training mode: call model.eval() before attention_maps()")
        self.check_images(images)
        with torch.no_grad():
            return self.backbone.attention_maps(images)
