"""From a map of features to one vector an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AveragePooling(nn.Module):
    """The mean over all places.

    Args:
        channels: of the map.

    Example:
        >>> AveragePooling(256)(torch.zeros(2, 256, 8, 4)).shape
        torch.Size([2, 256])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C)."""
        return maps.mean(dim=(2, 3))


class StripePooling(nn.Module):
    """The mean over all places, and beside it a shorter description of each horizontal stripe.

    A person stands upright in the box, so a stripe holds about the same part of everybody: head, chest,
    hips, feet. The overall mean cannot tell a red shirt over blue trousers from the reverse; stripes can.

    Args:
        channels: of the map.
        num_stripes: how many; they divide the map's height.
        length: of each stripe's description.

    Raises:
        ValueError: the map's height is no multiple of `num_stripes`.

    Example:
        >>> StripePooling(256, num_stripes=4, length=64)(torch.zeros(2, 256, 8, 4)).shape
        torch.Size([2, 512])

    Source: the stripes are those of Sun et al., "Beyond part models", 2018; here all of them share one loss.
    """

    def __init__(self, channels: int, num_stripes: int = 4, length: int = 64):
        super().__init__()
        self.num_stripes, self.channels = num_stripes, channels + num_stripes * length
        self.shorten = nn.Conv1d(num_stripes * channels, num_stripes * length, 1, groups=num_stripes, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C + num_stripes * length)."""
        if maps.shape[2] % self.num_stripes:
            raise ValueError(f"a map of height {maps.shape[2]} cannot be cut into {self.num_stripes} equal stripes")
        parts = maps.unflatten(2, (self.num_stripes, -1)).mean(dim=(3, 4))  # (B, C, stripes)
        short = self.shorten(parts.transpose(1, 2).flatten(1).unsqueeze(2)).squeeze(2)
        return torch.cat([maps.mean(dim=(2, 3)), short], dim=1)
