"""What networks of parts are built of: stripes, layers with weights of their own for each part, relations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reidlab.checks import check_between, check_choice, check_whole

CONTRASTS = ("released", "paper")
"""Two readings of what the global feature is contrasted with, see `GlobalContrastivePooling`."""


def stripe_maxima(maps: Tensor, num_parts: int) -> Tensor:
    """Cut a map into horizontal stripes of equal height and keep each channel's largest value.

    Args:
        maps: (B, C, H, W).
        num_parts: number of stripes; divides H.

    Returns:
        (B, C, num_parts), from top to bottom.

    Raises:
        ValueError: the stripes do not divide the rows.

    Example:
        >>> stripe_maxima(torch.arange(8.0).reshape(1, 1, 4, 2), 2)
        tensor([[[3., 7.]]])

    Taught in: notebooks/05_relation_network.ipynb
    """
    check_stripes(maps.shape[2], (num_parts,))
    return F.max_pool2d(maps, (maps.shape[2] // num_parts, maps.shape[3])).squeeze(3)


def check_stripes(rows: int, num_stripes: tuple[int, ...]) -> None:
    """Refuse numbers of stripes that do not divide the rows of a map.

    Args:
        rows: of the map.
        num_stripes: numbers of stripes, each ≥ 1.

    Raises:
        ValueError: one that does not fit; the message lists those that do.

    Example:
        >>> check_stripes(12, (6, 4, 2))
    """
    for number in num_stripes:
        if isinstance(number, bool) or not isinstance(number, int) or number < 1 or rows % number:
            fit = [n for n in range(1, rows + 1) if rows % n == 0]
            raise ValueError(
                f"num_stripes: a map of {rows} rows cannot be cut into {number!r} equal stripes; {fit} fit"
            )


class PartLinear(nn.Module):
    """A linear layer for each part, all of them in one batched product.

    Args:
        features: numbers that go in, for each part.
        out_features: numbers that come out.
        num_parts: how many parts, ≥ 1.
        bias: add a constant to each number that comes out.

    Example:
        >>> PartLinear(8, 3, num_parts=6)(torch.zeros(2, 6, 8)).shape
        torch.Size([2, 6, 3])

    Taught in: notebooks/05_relation_network.ipynb
    """

    def __init__(self, features: int, out_features: int, num_parts: int, bias: bool = True):
        super().__init__()
        bound = features**-0.5  # as torch starts a linear layer or a 1×1 convolution
        self.weight = nn.Parameter(torch.empty(num_parts, out_features, features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_parts, out_features).uniform_(-bound, bound)) if bias else None

    def forward(self, parts: Tensor) -> Tensor:
        """Map (B, num_parts, features) to (B, num_parts, out_features)."""
        each = parts.permute(1, 2, 0)  # (n, features, B)
        # weights come first in the product: their gradients then have the weights' own order in memory
        values = self.weight @ each if self.bias is None else torch.baddbmm(self.bias[:, :, None], self.weight, each)
        return values.permute(2, 0, 1)  # (B, n, out)


class PartLayer(PartLinear):
    """A 1×1 convolution, batch norm and ReLU for each part, with weights of its own.

    Args:
        channels: numbers that go in, for each part.
        out_channels: numbers that come out.
        num_parts: how many parts, ≥ 1.
        bias: of the convolution. Batch norm takes it out again; published weights have it.

    Example:
        >>> PartLayer(8, 3, num_parts=6)(torch.zeros(2, 6, 8)).shape
        torch.Size([2, 6, 3])

    Taught in: notebooks/05_relation_network.ipynb
    """

    def __init__(self, channels: int, out_channels: int, num_parts: int, bias: bool = True):
        super().__init__(channels, out_channels, num_parts, bias)
        self.norm = nn.BatchNorm1d(num_parts * out_channels)

    def forward(self, parts: Tensor) -> Tensor:
        """Map (B, num_parts, channels) to (B, num_parts, out_channels), none of it negative.

        Raises:
            ValueError: one image in training mode, where batch norm needs two.
        """
        if self.training and len(parts) < 2:
            raise ValueError(
                f"a batch of {len(parts)} in training mode: batch norm needs at least two images; "
                "pass more, or call model.eval()"
            )
        values = super().forward(parts).permute(1, 2, 0)  # (n, out, B), its order in memory
        normed = self.norm(values.reshape(1, -1, len(parts)))  # (1, n·out, B): batch norm over the images
        return torch.relu(normed).view(values.shape).permute(2, 0, 1)  # (B, n, out)


def class_scores(features: int, num_classes: int, num_parts: int) -> PartLinear:
    """Return a classifier for each part, with small random weights and no bias yet.

    Example:
        >>> class_scores(256, 10, num_parts=45)(torch.zeros(2, 45, 256)).shape
        torch.Size([2, 45, 10])
    """
    layer = PartLinear(features, num_classes, num_parts)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer


def cross_entropies(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each part's classifier, the mean over the images.

    Args:
        logits: (B, n, num_classes).
        labels: (B,) class numbers, the same for all parts.
        label_smoothing: ε in [0, 1).

    Returns:
        (n,) numbers ≥ 0.

    Example:
        >>> cross_entropies(torch.zeros(2, 3, 10), torch.tensor([4, 5]))
        tensor([2.3026, 2.3026, 2.3026])
    """
    batch, parts, _ = logits.shape
    flat = logits.transpose(0, 1).flatten(0, 1)  # (n·B, num_classes)
    each = F.cross_entropy(flat, labels.repeat(parts), reduction="none", label_smoothing=label_smoothing)
    return each.view(parts, batch).mean(1)


class PartFeatures(NamedTuple):
    """What `OneVsRest` finds, each (B, n, out_channels).

    Args:
        relational: each part in relation to the rest, to search with.
        local: each part by itself.
        rest: what each part is compared with.

    Taught in: notebooks/05_relation_network.ipynb
    """

    relational: Tensor
    local: Tensor
    rest: Tensor


class OneVsRest(nn.Module):
    """Describe each part together with what the rest of the person looks like.

    With p_i a part and r_i the mean of the other parts, q_i = p̄_i + relation([p̄_i, r̄_i]), where p̄ and r̄ are
    reduced by a 1×1 convolution, batch norm and ReLU, and the relation is one more. Every part has weights
    of its own. With one part there is no rest: r_1 is the zero vector.

    Args:
        channels: of a part.
        out_channels: of its features.
        num_parts: how many parts, ≥ 1.

    Raises:
        ValueError: a number below 1.

    Example:
        >>> found = OneVsRest(8, 3, num_parts=6)(torch.zeros(2, 8, 6))
        >>> found.relational.shape, found.local.shape, found.rest.shape
        (torch.Size([2, 6, 3]), torch.Size([2, 6, 3]), torch.Size([2, 6, 3]))

    Source: Park, Ham, "Relation network for person re-identification", AAAI 2020, the one-vs.-rest relational
    module.
    Taught in: notebooks/05_relation_network.ipynb
    """

    def __init__(self, channels: int, out_channels: int, num_parts: int):
        super().__init__()
        check_whole(1, channels=channels, out_channels=out_channels, num_parts=num_parts)
        self.channels, self.num_parts = channels, num_parts
        self.local = PartLayer(channels, out_channels, num_parts)
        self.rest = PartLayer(channels, out_channels, num_parts)
        self.relation = PartLayer(2 * out_channels, out_channels, num_parts)

    def forward(self, parts: Tensor) -> PartFeatures:
        """Map (B, channels, num_parts) to three times (B, num_parts, out_channels).

        Raises:
            ValueError: parts of another shape, or one image in training mode.
        """
        check_parts(parts, self.channels, self.num_parts)
        others = (parts.sum(2, keepdim=True) - parts) / max(1, self.num_parts - 1)
        local = self.local(parts.transpose(1, 2))
        rest = self.rest(others.transpose(1, 2))
        return PartFeatures(local + self.relation(torch.cat([local, rest], dim=2)), local, rest)


class GlobalFeatures(NamedTuple):
    """What `GlobalContrastivePooling` finds, each (B, out_channels).

    Args:
        relational: the largest values in relation to the contrast, to search with.
        largest: the largest values by themselves.
        contrast: what they are contrasted with.

    Taught in: notebooks/05_relation_network.ipynb
    """

    relational: Tensor
    largest: Tensor
    contrast: Tensor


class GlobalContrastivePooling(nn.Module):
    """Describe the whole person by the largest values and by how far they stand out.

    Average pooling covers the whole person and takes the background with it; max pooling keeps the strongest
    place alone. Here the strongest values, p_max, are compared with the other parts:
    q = p̄_max + relation([p̄_max, p̄_cont]). What the contrast is, is told in two ways:

    - "released": p_cont = (Σ p_i - p_max) / (n - 1), as published code computes it: channel by channel, the mean
      of all parts but the largest.
    - "paper": p_cont = mean of p_i - p_max, as the text says; never above 0.

    With one part nothing stands beside the largest: either contrast is the zero vector.

    Args:
        channels: of a part.
        out_channels: of the features.
        num_parts: how many parts, ≥ 1.
        contrast: "released" or "paper".

    Raises:
        ValueError: a number below 1, or an unknown contrast.

    Example:
        >>> found = GlobalContrastivePooling(8, 3, num_parts=6)(torch.zeros(2, 8, 6))
        >>> found.relational.shape, found.largest.shape, found.contrast.shape
        (torch.Size([2, 3]), torch.Size([2, 3]), torch.Size([2, 3]))

    Source: Park, Ham, "Relation network for person re-identification", AAAI 2020, global contrastive pooling.
    Taught in: notebooks/05_relation_network.ipynb
    """

    def __init__(self, channels: int, out_channels: int, num_parts: int, contrast: str = "released"):
        super().__init__()
        check_whole(1, channels=channels, out_channels=out_channels, num_parts=num_parts)
        check_choice("contrast", contrast, CONTRASTS)
        self.channels, self.num_parts, self.kind = channels, num_parts, contrast
        self.largest = PartLayer(channels, out_channels, 1)
        self.contrast = PartLayer(channels, out_channels, 1)
        self.relation = PartLayer(2 * out_channels, out_channels, 1)

    def forward(self, parts: Tensor) -> GlobalFeatures:
        """Map (B, channels, num_parts) to three times (B, out_channels).

        Raises:
            ValueError: parts of another shape, or one image in training mode.
        """
        check_parts(parts, self.channels, self.num_parts)
        strongest = parts.amax(2)  # (B, channels)
        if self.kind == "released":
            beside = (parts.sum(2) - strongest) / max(1, self.num_parts - 1)
        else:
            beside = parts.mean(2) - strongest
        largest, contrast = self.largest(strongest[:, None]), self.contrast(beside[:, None])  # (B, 1, out)
        relational = largest + self.relation(torch.cat([largest, contrast], dim=2))
        return GlobalFeatures(relational.squeeze(1), largest.squeeze(1), contrast.squeeze(1))


def check_parts(parts: Tensor, channels: int, num_parts: int) -> None:
    """Refuse parts of another shape than a module was built for.

    Raises:
        ValueError: another shape.

    Example:
        >>> check_parts(torch.zeros(2, 8, 6), channels=8, num_parts=6)
    """
    if parts.ndim != 3 or parts.shape[1:] != (channels, num_parts):
        raise ValueError(f"parts: got shape {tuple(parts.shape)}, expected (B, {channels}, {num_parts})")


def check_loss_settings(margin: object, label_smoothing: object = 0.0) -> None:
    """Refuse a margin below 0, or a label smoothing that leaves nothing of the labels.

    Raises:
        ValueError: the first of them; a margin of None, the soft margin, is let through.

    Example:
        >>> check_loss_settings(None, 0.1)
    """
    if margin is not None:
        check_between(0, 1e6, margin=margin)
    check_between(0, 0.99, label_smoothing=label_smoothing)
