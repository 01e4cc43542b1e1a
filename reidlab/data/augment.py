"""Augmentation of whole batches as the published recipes have it: mirror, shift, erase."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import v2

from reidlab.checks import check_between, check_choice, check_whole
from reidlab.data.transforms import IMAGENET_MEAN, IMAGENET_STD

SHIFTS = ("none", "crop", "zoom")
PADDING = 10  # black pixels around an image that "crop" cuts from
ZOOMED = 0.5  # share of the images that "zoom" shows enlarged
AREA = (0.02, 0.4)  # smallest and largest share of the image that is erased
ASPECT = (0.3, 1 / 0.3)  # smallest and largest height over width of what is erased
TRIES = 100  # rectangles drawn for an image; the first that fits into it is erased
_DRAWS = 7 + 2 * TRIES  # numbers drawn for an image, used or not


class BatchAugmentation:
    """Shift, mirror, normalise and erase a batch of images, each by random numbers of its own.

    Each image takes the same number of draws, used or not: with other settings the same seed still mirrors the same
    images, and processes that share a batch can each draw for all of it.

    Args:
        height, width: size of the results in pixels.
        shift: "none"; "crop": black pixels are added on all sides, and a window of the old size is cut out at random;
            "zoom": half of the images are seen through such a window at 9/8 of their size.
        flip: probability in [0, 1] that an image is mirrored.
        erasing: probability in [0, 1] that a rectangle of 2–40 % of the area, of height over width between 0.3 and
            3.3, gets the mean colour.
        mean, std: of each colour channel, for pixels from 0 to 1.
        generator: on the CPU; everything random is drawn from it.

    Raises:
        ValueError: an unknown shift, a probability out of its range, or a size below 1.

    Example:
        >>> augment = BatchAugmentation(256, 128, "zoom", generator=torch.Generator().manual_seed(0))
        >>> augment.stored_size
        (288, 144)
        >>> augment(torch.zeros(2, 3, 288, 144, dtype=torch.uint8)).shape
        torch.Size([2, 3, 256, 128])

    Source: crop: Luo et al. 2019; zoom: Zhang et al. 2020; erasing: Zhong et al., "Random erasing data augmentation",
    2017, algorithm 1.
    Taught in: notebooks/06_training.ipynb
    """

    def __init__(
        self,
        height: int,
        width: int,
        shift: str = "none",
        flip: float = 0.5,
        erasing: float = 0.5,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        generator: torch.Generator,
    ) -> None:
        check_whole(1, height=height, width=width)
        check_choice("shift", shift, SHIFTS)
        check_between(0, 1, flip=flip, erasing=erasing)
        self.height, self.width, self.shift, self.flip, self.erasing = height, width, shift, flip, erasing
        self.mean, self.std, self.generator = mean, std, generator

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width that images must come at."""
        if self.shift == "zoom":
            return self.height * 9 // 8, self.width * 9 // 8
        return self.height, self.width

    def __call__(self, images: Tensor, part: tuple[int, int, int] | None = None) -> Tensor:
        """Return new images; those passed in stay as they are.

        Args:
            images: uint8 (B, 3, H, W), RGB, of the `stored_size`, on any device.
            part: (start, stop, total): the images are rows start … stop - 1 of a batch of `total`, whose other rows
                other processes have. Generators in the same state then give, together, what one process would.

        Returns:
            float32 (B, 3, height, width), normalised as by `test_transform`.

        Raises:
            ValueError: another type, shape or size, or a part of another length than the batch.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images: got {images.dtype} {tuple(images.shape)}, expected torch.uint8 (B, 3, H, W)")
        if tuple(images.shape[2:]) != self.stored_size:
            got, expected = ("{}×{}".format(*size) for size in (images.shape[2:], self.stored_size))
            raise ValueError(f"images: got {got}, expected {expected} with shift={self.shift!r}; see stored_size")
        start, stop, total = part or (0, len(images), len(images))
        if not 0 <= start <= stop <= total or stop - start != len(images):
            raise ValueError(
                f"part={part}: got {len(images)} images, expected (start, stop, total) with stop - start as many"
            )
        draws = torch.rand(total, _DRAWS, generator=self.generator)[start:stop]
        x = _normalise(self._place(images, draws), self.mean, self.std)
        for index, top, left, tall, wide in self._rectangles(draws):
            x[index, :, top : top + tall, left : left + wide] = 0
        return x

    def _place(self, images: Tensor, draws: Tensor) -> Tensor:
        """Shift and mirror (B, 3, H, W) into a new (B, 3, height, width), still uint8."""
        windows = self._windows(images, draws)
        placed = images.new_zeros(len(images), 3, self.height, self.width)
        mirrored = (draws[:, 0] < self.flip).tolist()
        for target, (window, top, left), mirror in zip(placed, windows, mirrored, strict=True):
            rows, columns = window.shape[1:]
            if mirror:
                window, left = window.flip(2), self.width - left - columns
            target[:, top : top + rows, left : left + columns] = window
        return placed

    def _windows(self, images: Tensor, draws: Tensor) -> list[tuple[Tensor, int, int]]:
        """Return of each image what is seen of it, and the row and column where it belongs."""
        if self.shift == "none":
            return [(image, 0, 0) for image in images]
        play = [2 * PADDING] * 2
        if self.shift == "zoom":
            play = [stored - side for stored, side in zip(self.stored_size, (self.height, self.width), strict=True)]
        moves = (draws[:, 2:4] * (torch.tensor(play) + 1)).long()  # (B, 2), from 0 to what there is to play with
        if self.shift == "crop":
            found = []
            for image, (down, right) in zip(images, (PADDING - moves).tolist(), strict=True):
                # What leaves the frame is cut off; the other side stays black.
                rows, columns = max(0, self.height - abs(down)), max(0, self.width - abs(right))
                top, left = max(0, -down), max(0, -right)
                found.append((image[:, top : top + rows, left : left + columns], max(0, down), max(0, right)))
            return found
        zoomed = draws[:, 1] < ZOOMED
        rest = images.index_select(0, (~zoomed).nonzero()[:, 0].to(images.device))  # a mask would be 10 times as slow
        size = [self.height, self.width]
        shrunk = iter(v2.functional.resize(rest, size, antialias=True) if len(rest) else ())
        return [
            (image[:, down : down + size[0], right : right + size[1]] if zoom else next(shrunk), 0, 0)
            for image, zoom, (down, right) in zip(images, zoomed.tolist(), moves.tolist(), strict=True)
        ]

    def _rectangles(self, draws: Tensor) -> list[list[int]]:
        """Return what to erase, each [index, top, left, height, width]."""
        chosen = (draws[:, 4] < self.erasing).nonzero()[:, 0]
        areas, aspects = draws[chosen, 7:].view(-1, 2, TRIES).unbind(1)  # (E, TRIES) each
        areas = (AREA[0] + (AREA[1] - AREA[0]) * areas) * (self.height * self.width)
        aspects = ASPECT[0] + (ASPECT[1] - ASPECT[0]) * aspects
        sides = torch.stack([areas.mul(aspects).sqrt().round(), areas.div(aspects).sqrt().round()], dim=2)
        room = torch.tensor([self.height, self.width]) - sides  # (E, TRIES, 2)
        fits = (room > 0).all(2)
        first = fits.int().argmax(1)
        row = torch.arange(len(chosen))
        places = (draws[chosen, 5:7] * (room[row, first] + 1)).long()
        found = torch.cat([chosen[:, None], places, sides[row, first].long()], dim=1)
        return found[fits[row, first]].tolist()


def _normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise uint8 (B, 3, H, W); on a CPU image by image, so that an image is in the cache when it is scaled."""
    centre, spread = (torch.tensor(values, device=pixels.device) for values in (mean, std))
    scale, offset = 1 / (255 * spread)[:, None, None], (-centre / spread)[:, None, None]  # (3, 1, 1)
    x = torch.empty(pixels.shape, device=pixels.device)
    step = 1 if pixels.device.type == "cpu" else max(1, len(x))
    for floats, integers in zip(x.split(step), pixels.split(step), strict=True):
        floats.copy_(integers).mul_(scale).add_(offset)
    return x
