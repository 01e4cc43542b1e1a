"""Augmentation of whole batches, strong enough to carry a network from rendered streets to real cameras."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from reidlab.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from reidlab.walkers.streets import BORDER

STORED_BORDER = 1 + BORDER
"""Sides of a stored crop over the sides of the person's box in it: the border that shifted crops are cut from."""


class StreetAugmentation:
    """Change pose, optics, light and colour of a batch as other cameras would, each image by draws of its own.

    The steps, in this order: cut the box out of its border, shifted, stretched, turned and perhaps mirrored;
    lower the resolution; soften or sharpen; throw a shadow with a soft edge; change gamma, channels,
    saturation, contrast and offset; take away the colours; add noise; normalise; erase a rectangle. At
    strength 0 a step is left out; with every strength 0, what is left is `test_transform`.

    Args:
        height, width: size of the results in pixels. Stored images should be little larger, with a border of
            `border` around the person: shrinking by a lot would alias.
        colour: strength of the changes of gamma, channels, saturation and contrast, ≥ 0.
        grey: probability in [0, 1] that an image loses its colours.
        geometry: strength of shifting, stretching and turning, ≥ 0; above 0, half of the images are mirrored.
        blur: strength of low resolution, softening and sharpening, ≥ 0.
        shade: probability in [0, 1] of a shadow.
        noise: largest standard deviation of the noise, ≥ 0, in units of the brightest value.
        erasing: probability in [0, 1] that a rectangle of 2–30 % of the area is filled with a random colour.
        border: sides of the images over the sides of the boxes in them; 1 for images cut to the box, whose edges
            are then mirrored where a shifted crop looks beyond them.

    Raises:
        ValueError: a strength out of its range.

    Example:
        >>> street = StreetAugmentation(128, 64)
        >>> street(torch.zeros(2, 3, *street.stored_size, dtype=torch.uint8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 128, 64])

    Source: erasing: Zhong et al., "Random erasing data augmentation", 2017; the other steps and all
    strengths were chosen for this package.
    """

    def __init__(
        self,
        height: int,
        width: int,
        colour: float = 1.0,
        grey: float = 0.05,
        geometry: float = 1.0,
        blur: float = 1.0,
        shade: float = 0.3,
        noise: float = 0.05,
        erasing: float = 0.5,
        border: float = STORED_BORDER,
    ):
        strengths = {"colour": colour, "geometry": geometry, "blur": blur, "noise": noise}
        shares = {"grey": grey, "shade": shade, "erasing": erasing}
        for name, value in {**strengths, **shares}.items():
            high = 1 if name in shares else math.inf
            if not 0 <= value <= high or value == math.inf:
                raise ValueError(f"{name}={value}: expected a number {'from 0 to 1' if name in shares else '≥ 0'}")
        if not 1 <= border <= 2:
            raise ValueError(f"border={border}: expected a number from 1 to 2")
        self.height, self.width, self.border = height, width, border
        self.colour, self.geometry, self.blur, self.noise = colour, geometry, blur, noise
        self.grey, self.shade, self.erasing = grey, shade, erasing

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width that images are kept at in training: with a border that shifted crops are cut from."""
        return self.height * 9 // 8, self.width * 9 // 8

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return new images; those passed in stay as they are.

        Args:
            images: uint8 (B, 3, H, W), RGB.
            generator: on the CPU; everything random is drawn from it.

        Returns:
            float32 (B, 3, height, width), normalised as by `test_transform`.

        Raises:
            ValueError: another shape or type.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: got {images.dtype} {tuple(images.shape)}, expected torch.uint8 (B, 3, H, W)")
        x = self._cut(images, generator)
        for strength, step in (
            (self.blur, self._lower_resolution),
            (self.blur, self._soften_or_sharpen),
            (self.shade, self._shadow),
            (self.colour, self._gamma_and_channels),
            (self.colour or self.grey, self._saturation_and_grey),
            (self.colour, self._contrast_and_offset),
            (self.noise, self._noise),
        ):
            x = step(x, generator) if strength else x
        x = v2.functional.normalize(x.clamp(0, 1), list(IMAGENET_MEAN), list(IMAGENET_STD))
        return self._erase(x, generator) if self.erasing else x

    def _cut(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Cut (B, 3, H, W) to (B, 3, height, width) by one affine map an image, as float32 in [0, 1]."""
        if not self.geometry:
            shrunk = v2.functional.resize(images, [self.height, self.width], antialias=True)
            return v2.functional.to_dtype(shrunk, torch.float32, scale=True)
        number, strength, aspect = len(images), self.geometry, images.shape[2] / images.shape[3]
        tall = _factor(generator, images, 0.06 * strength, number) / self.border
        wide = _factor(generator, images, 0.09 * strength, number) / self.border
        wide = torch.where(_uniform(generator, images, number) < 0.5, -wide, wide)
        angle = _normal(generator, images, number) * 0.045 * strength  # radians
        right = _normal(generator, images, number) * 0.05 * strength  # of half the stored width
        down = _normal(generator, images, number) * 0.04 * strength
        # grid_sample measures both sides as 2, so a turn has to convert between them
        rows = [
            [wide * torch.cos(angle), -tall * torch.sin(angle) * aspect, right],
            [wide * torch.sin(angle) / aspect, tall * torch.cos(angle), down],
        ]
        maps = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)  # (B, 2, 3)
        grid = F.affine_grid(maps, [number, 3, self.height, self.width], align_corners=False)
        floats = v2.functional.to_dtype(images, torch.float32, scale=True)
        return F.grid_sample(floats, grid, padding_mode="reflection", align_corners=False)

    def _lower_resolution(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Shrink about a third of the images to 0.3–0.8 of their sides and enlarge them again."""
        chosen = (_uniform(generator, x, len(x)) < 0.35 * self.blur).nonzero()[:, 0]
        if not len(chosen):
            return x
        x = x.clone()
        for part in chosen.chunk(2):  # two sizes a batch: images of one size are resized in one go
            share = _number(generator, 0.3, 0.8)
            size = [max(1, int(side * share)) for side in (self.height, self.width)]
            small = F.interpolate(x[part], size=size, mode="area")
            x[part] = F.interpolate(small, size=(self.height, self.width), mode="bilinear")
        return x

    def _soften_or_sharpen(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Move six images in ten towards a 3×3 smoothed copy (amount > 0) or away from it (< 0)."""
        line = torch.tensor([0.25, 0.5, 0.25], device=x.device)
        kernel = torch.outer(line, line).expand(3, 1, 3, 3)
        soft = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
        amount = (_uniform(generator, x, len(x)) * 2.2 - 1.5) * self.blur
        amount = torch.where(_uniform(generator, x, len(x)) < 0.6, amount, 0.0)
        return x + _per_image(amount) * (soft - x)

    def _shadow(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Darken one side of a straight, more or less soft edge by up to 60 %."""
        number = len(x)
        shaded = _per_image((_uniform(generator, x, number) < self.shade).float())
        down = torch.linspace(-1, 1, self.height, device=x.device)[:, None]
        right = torch.linspace(-1, 1, self.width, device=x.device) * 0.5  # a picture is half as wide as it is tall
        angle = _per_image(_uniform(generator, x, number) * 2 * math.pi)
        offset = _per_image(_uniform(generator, x, number) * 1.2 - 0.6)
        steepness = _per_image(_factor(generator, x, 1.0, number) * 4)
        edge = torch.sigmoid(steepness * (down * torch.sin(angle) + right * torch.cos(angle) - offset))
        depth = _per_image(_uniform(generator, x, number) * 0.6)
        return x * (1 - shaded * depth * edge)

    def _gamma_and_channels(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Bend the tone curve, then mix and amplify the channels: light of another colour on another sensor."""
        number, strength = len(x), self.colour
        x = x.clamp(1e-3, 1) ** _per_image(_factor(generator, x, 0.25 * strength, number))
        mixing = torch.eye(3, device=x.device) + _normal(generator, x, number, 3, 3) * 0.06 * strength
        brightness = _normal(generator, x, number, 1, 1) * 0.22 * strength
        gains = _normal(generator, x, number, 3, 1) * 0.1 * strength
        return torch.einsum("bij,bjhw->bihw", mixing * torch.exp(brightness + gains), x)

    def _saturation_and_grey(self, x: Tensor, generator: torch.Generator) -> Tensor:
        mean = x.mean(dim=1, keepdim=True)  # (B, 1, height, width)
        if self.colour:
            x = mean + _per_image(_factor(generator, x, 0.35 * self.colour, len(x))) * (x - mean)
        if self.grey:
            x = torch.where(_per_image(_uniform(generator, x, len(x)) < self.grey), mean, x)
        return x

    def _contrast_and_offset(self, x: Tensor, generator: torch.Generator) -> Tensor:
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        contrast = _per_image(_factor(generator, x, 0.2 * self.colour, len(x)))
        return mean + contrast * (x - mean) + 0.03 * self.colour * _normal(generator, x, len(x), 3, 1, 1)

    def _noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Add white noise; squared draws make most images nearly clean."""
        return x + _normal(generator, x, *x.shape) * (_uniform(generator, x, len(x), 1, 1, 1) ** 2 * self.noise)

    def _erase(self, x: Tensor, generator: torch.Generator) -> Tensor:
        x = x.clone()
        for index in (_uniform(generator, x, len(x)) < self.erasing).nonzero()[:, 0].tolist():
            area = _number(generator, 0.02, 0.3) * self.height * self.width
            ratio = math.exp(_number(generator, -0.5, 1.5))  # of height to width
            tall = min(self.height, max(1, int(math.sqrt(area * ratio))))
            wide = min(self.width, max(1, int(math.sqrt(area / ratio))))
            top = int(_number(generator, 0, self.height - tall + 1))
            left = int(_number(generator, 0, self.width - wide + 1))
            x[index, :, top : top + tall, left : left + wide] = _normal(generator, x, 3, 1, 1) * 0.7
        return x


def _uniform(generator: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    """Draw from [0, 1), on the CPU whatever the device of `like`, so that devices get the same draws."""
    return torch.rand(*shape, generator=generator).to(like.device)


def _normal(generator: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator).to(like.device)


def _factor(generator: torch.Generator, like: Tensor, spread: float, *shape: int) -> Tensor:
    """Draw factors around 1, log-normal."""
    return torch.exp(_normal(generator, like, *shape) * spread)


def _number(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(1, generator=generator))


def _per_image(values: Tensor) -> Tensor:
    """Shape one value an image for arithmetic with (B, C, H, W)."""
    return values.view(-1, 1, 1, 1)
