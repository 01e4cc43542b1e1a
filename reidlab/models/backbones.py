"""Convolutional networks without a head: images in, a map of features out."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models

from reidlab.checks import check_choice, check_whole
from reidlab.errors import DataError
from reidlab.models.tensors import BATCH_COUNTER, plain_state, read_torch_file, refuse_lost, state_differences

RESNET50_TENSORS = 265
"""Tensors of a ResNet-50 without classifier and without batch norm's batch counters."""


class InstanceBatchNorm(nn.Module):
    """Half of the channels normalised per image, the other half per batch.

    Instance norm takes away what a camera does to a whole picture (brightness, contrast, tint); batch
    norm on the other half keeps what would be lost with it.

    Args:
        channels: number of channels, even.

    Example:
        >>> InstanceBatchNorm(8)(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 8, 4, 4])

    Source: Pan et al., "Two at once: enhancing learning and generalization capacities via IBN-Net", 2018.
    """

    def __init__(self, channels: int):
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels={channels}: expected an even number, one half for each kind of norm")
        self.instance = nn.InstanceNorm2d(channels // 2, affine=True)
        self.batch = nn.BatchNorm2d(channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        # instance norm computes in the usual memory order; the rest stays in that of x, which saves copies
        order = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        first, second = x.chunk(2, dim=1)  # (B, C/2, H, W) each
        first = self.instance(first.contiguous()).contiguous(memory_format=order)
        return torch.cat([first, self.batch(second.contiguous(memory_format=order))], dim=1)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut.

    Args:
        channels_in: channels of the input.
        channels: channels of the output.
        stride: of the first convolution.
        norm: the first normalisation, made for a number of channels.

    Example:
        >>> ResidualBlock(8, 16, 2, nn.BatchNorm2d)(torch.zeros(2, 8, 4, 4)).shape
        torch.Size([2, 16, 2, 2])
    """

    def __init__(self, channels_in: int, channels: int, stride: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
            if stride != 1 or channels_in != channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, channels, H/stride, W/stride)."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class SmallBackbone(nn.Module):
    """A residual network that trains in CPU minutes: 128×64 images to (B, 256, 8, 4) maps.

    Args:
        widths: channels of the stem and of the three stages.
        blocks: residual blocks in each stage, ≥ 1.

    Raises:
        ValueError: not three stages, or a stage without a block.

    Example:
        >>> SmallBackbone()(torch.zeros(1, 3, 128, 64)).shape
        torch.Size([1, 256, 8, 4])

    Taught in: notebooks/00_start_here.ipynb
    """

    height, width = 128, 64
    stage_strides = (4, 8, 16)

    def __init__(
        self, widths: tuple[int, int, int, int] = (32, 64, 128, 256), blocks: tuple[int, int, int] = (1, 1, 1)
    ):
        super().__init__()
        if len(widths) != 4 or len(blocks) != 3 or min(blocks) < 1:
            raise ValueError(f"got widths={widths}, blocks={blocks}: expected 4 widths and 3 numbers of blocks ≥ 1")
        stem, *stages = widths
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 5, 2, 2, bias=False), InstanceBatchNorm(stem), nn.ReLU(), nn.MaxPool2d(2)
        )
        norms: list[Callable[[int], nn.Module]] = [InstanceBatchNorm, InstanceBatchNorm, nn.BatchNorm2d]
        layers: list[nn.Module] = []
        self.blocks = blocks
        channels = stem
        for width, stride, norm, number in zip(stages, (1, 2, 2), norms, blocks, strict=True):
            layers.append(ResidualBlock(channels, width, stride, norm))
            layers += [ResidualBlock(width, width, 1, norm) for _ in range(number - 1)]
            channels = width
        self.stages = nn.Sequential(*layers)
        self.channels, self.stage_channels = stages[-1], tuple(stages)

    def first(self, images: Tensor) -> Tensor:
        """What comes before the first stage."""
        return self.stem(images)

    def stage_list(self) -> list[nn.Module]:
        """Return the three stages in their order."""
        ends = [sum(self.blocks[:n]) for n in range(4)]
        return [self.stages[start:end] for start, end in pairwise(ends)]

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 256, H/16, W/16)."""
        return self.stages(self.first(images))


class ResNet50Backbone(nn.Module):
    """ResNet-50 without its classifier; the last stage keeps its resolution (stride 1).

    Args:
        weights: None for random numbers; a path to a state dict of torchvision's or the original ResNet-50;
            or "torchvision", which lets torchvision download its first ImageNet weights (IMAGENET1K_V1), those that
            the papers on person re-identification began from.

    Example:
        >>> ResNet50Backbone()(torch.zeros(1, 3, 64, 32)).shape
        torch.Size([1, 2048, 4, 2])

    Source: He et al. 2016; last stride 1: Luo et al. 2019, section 3.4.
    """

    height, width = 256, 128
    stage_strides = (4, 8, 16, 16)
    stage_channels = (256, 512, 1024, 2048)

    def __init__(self, weights: str | os.PathLike[str] | None = None):
        super().__init__()
        resnet = torchvision_models.resnet50(weights=None)
        resnet.layer4[0].conv2.stride = (1, 1)
        resnet.layer4[0].downsample[0].stride = (1, 1)
        for name, module in resnet.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, module)
        self.channels = 2048
        self.num_loaded = 0 if weights is None else load_resnet50_weights(self, weights)

    def first(self, images: Tensor) -> Tensor:
        """What comes before the first stage."""
        return self.maxpool(self.relu(self.bn1(self.conv1(images))))

    def stage_list(self) -> list[nn.Module]:
        """Return the four stages in their order."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2048, H/16, W/16)."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self.first(images)))))


def load_resnet50_weights(backbone: nn.Module, weights: str | os.PathLike[str]) -> int:
    """Copy ImageNet weights into a ResNet-50, all of them or none, and say how many.

    A loop that gives up at the first name it does not find leaves a network that is nearly random and
    still trains; that is why the count is returned and checked.

    Args:
        backbone: a `ResNet50Backbone`.
        weights: a path, or "torchvision". Names may begin with "module." or "_orig_mod.", and the weights may lie
            in a dict under "state_dict", "model" and the like (`plain_state`).

    Returns:
        265, the number of tensors copied (batch norm's batch counters are not counted).

    Raises:
        FileNotFoundError: no such file, or torchvision could not download.
        DataError: the file is no state dict of a ResNet-50; names and shapes that do not fit are listed.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "resnet50.pth"
        >>> torch.save(torchvision_models.resnet50(weights=None).state_dict(), file)
        >>> load_resnet50_weights(ResNet50Backbone(), file)
        265

    Taught in: notebooks/06_training.ipynb
    """
    state = _torchvision_state() if weights == "torchvision" else read_state_dict(weights)
    state = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    own = backbone.state_dict()
    differences = state_differences(state, own)
    if differences:
        raise DataError(f"{weights}: not the weights of a ResNet-50: {differences}; nothing was loaded")
    refuse_lost(state, str(weights))
    backbone.load_state_dict({**own, **state})
    return sum(not name.endswith(BATCH_COUNTER) for name in own)


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a file by their plain names, as `plain_state` finds them, executing nothing.

    Raises:
        FileNotFoundError: no such file.
        DataError: the file is damaged, or holds no tensors by name.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such weights file; pass the path of a saved state dict")
    return plain_state(read_torch_file(path), str(path))


def _torchvision_state() -> dict[str, Tensor]:
    try:
        return torchvision_models.ResNet50_Weights.IMAGENET1K_V1.get_state_dict(progress=False)
    except OSError as error:
        raise FileNotFoundError(
            f"torchvision could not fetch its ImageNet weights ({error}); "
            "fetch resnet50 weights on a connected machine and pass their path instead"
        ) from None


BACKBONES: dict[str, Callable[..., nn.Module]] = {"small": SmallBackbone, "resnet50": ResNet50Backbone}
PART_IMAGE_SIZES = {"small": (192, 64), "resnet50": (384, 128)}
"""Usual height and width of the images, in pixels, for networks of parts: maps of 12×4 and 24×8."""


def new_backbone(name: str, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """Return a backbone by its name in `BACKBONES`.

    Args:
        name: "small" or "resnet50".
        weights: for "resnet50", as for `ResNet50Backbone`.

    Raises:
        ValueError: an unknown backbone, or weights for one that has none.

    Example:
        >>> new_backbone("small").channels
        256
    """
    check_choice("backbone", name, BACKBONES)
    check_weights(name, weights)
    return BACKBONES[name]() if weights is None else BACKBONES[name](weights)


def check_weights(backbone: str, weights: object) -> None:
    """Refuse weights that are neither None nor a path, or for a backbone that has none.

    Raises:
        ValueError: says which.

    Example:
        >>> check_weights("resnet50", "torchvision")
    """
    if weights is not None and (not isinstance(weights, (str, os.PathLike)) or not os.fspath(weights)):
        raise ValueError(f"weights={weights!r}: expected a path, 'torchvision' or None")
    if weights is not None and backbone != "resnet50":
        raise ValueError(f"weights={str(weights)!r}: only backbone='resnet50' takes ImageNet weights")


def part_image_size(backbone: str, height: int | None, width: int | None) -> tuple[int, int]:
    """Return height and width of the images of a network of parts: those given, or the backbone's usual ones.

    Raises:
        ValueError: an unknown backbone, or a side that 16 does not divide.

    Example:
        >>> part_image_size("small", None, 32)
        (192, 32)
    """
    check_choice("backbone", backbone, PART_IMAGE_SIZES)
    usual = PART_IMAGE_SIZES[backbone]
    height, width = usual[0] if height is None else height, usual[1] if width is None else width
    check_whole(1, height=height, width=width)
    if height % 16 or width % 16:
        raise ValueError(f"got {height}×{width} images, expected a height and a width that 16 divides")
    return height, width
