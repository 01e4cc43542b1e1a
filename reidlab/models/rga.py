"""Relation-aware global attention: what each place, or channel, has to do with all others decides its weight."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from reidlab.checks import check_choice, check_whole
from reidlab.models.rga_relations import (
    explicit_relations,
    factored_relations,
    fused_forward,
    fused_supported,
    pointwise,
)

METHODS = ("factored", "explicit")
GATE_INITS = ("random", "half")


class Attended(NamedTuple):
    """The two gates of a `RelationAwareAttention`, between 0 and 1; None for a half that is switched off.

    Args:
        spatial: (B, H, W), one number for each place.
        channel: (B, C), one number for each channel.
    """

    spatial: Tensor | None
    channel: Tensor | None


class RelationAttention(nn.Module):
    """One half of a relation-aware attention: a gate for each node, from its relations to all nodes.

    Three 1×1 convolutions, written as one, reduce a node's features to θ, φ and g. The relation of node i to node
    j is θ_i · φ_j. For node i, all its relations, in both directions, pass through a convolution; with the mean of
    g, they give one number.

    Args:
        nodes: how many there are, M.
        features: numbers that describe a node, F.
        reduction: the convolutions reduce F, M and what follows by this factor, to no less than 1.
        method: "explicit" forms the M × M matrix of relations; "factored" gives the same numbers without it.
        gate_init: gates of a new module. "random" as in the published code: torch's initial weights make them differ
            from node to node by chance. "half" sets the scale of the last batch norm to 0, so that all gates are 0.5
            until training makes them differ; a network that starts from random weights needs it (see the lesson).

    Raises:
        ValueError: an unknown method or gate_init, or a number below 1.

    Example:
        >>> half = RelationAttention(nodes=32, features=64)
        >>> half(torch.rand(2, 64, 8, 4)).shape
        torch.Size([2, 1, 8, 4])

    Source: Zhang, Lan, Zeng, Jin, Chen, "Relation-aware global attention for person re-identification", CVPR 2020,
    section 3.
    Taught in: notebooks/04_rga_attention.ipynb
    """

    def __init__(
        self, nodes: int, features: int, reduction: int = 8, method: str = "factored", gate_init: str = "random"
    ):
        super().__init__()
        check_choice("method", method, METHODS)
        check_choice("gate_init", gate_init, GATE_INITS)
        check_whole(1, nodes=nodes, features=features, reduction=reduction)
        self.nodes, self.method = nodes, method
        short, relations = max(1, features // reduction), max(1, nodes // reduction)
        squeezed = max(1, (1 + relations) // reduction)
        self.project = nn.Conv2d(features, 3 * short, 1, bias=False)  # θ, φ, g
        self.project_norm = nn.BatchNorm2d(3 * short)
        self.relate = nn.Conv2d(2 * nodes, relations, 1, bias=False)
        self.relate_norm = nn.BatchNorm2d(relations)
        self.squeeze = nn.Conv2d(1 + relations, squeezed, 1, bias=False)
        self.squeeze_norm = nn.BatchNorm2d(squeezed)
        self.score = nn.Conv2d(squeezed, 1, 1, bias=False)
        self.score_norm = nn.BatchNorm2d(1)
        if gate_init == "half":
            nn.init.zeros_(self.score_norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return a gate between 0 and 1 for each node: (B, 1, H, W).

        Args:
            x: (B, F, H, W); H · W nodes.
        """
        relate = explicit_relations if self.method == "explicit" else factored_relations
        relations, g = relate(self._projected(x), self.relate.weight.flatten(1))
        relations = torch.relu_(self.relate_norm(relations))  # (B, M/8, H, W)
        # the squeezing convolution reads [mean of g, relations]; adding two convolutions spares the stacked copy
        weight = self.squeeze.weight
        squeezed = pointwise(relations, weight[:, 1:]) + g * weight[:, 0]
        return torch.sigmoid(self.score_norm(self.score(torch.relu_(self.squeeze_norm(squeezed)))))

    def gated(self, x: Tensor) -> Tensor:
        """Return x times its gates; in training with less time and memory than `x * self(x)`.

        Args:
            x: (B, F, H, W).
        """
        return fused_forward(self, x) if fused_supported(self, x) else x * self(x)

    def norms(self) -> tuple[nn.BatchNorm2d, ...]:
        """Return the four batch norms in the order in which they are computed."""
        return self.project_norm, self.relate_norm, self.squeeze_norm, self.score_norm

    def relations(self, x: Tensor) -> Tensor:
        """Return the matrix of relations (B, M, M): row i, column j holds θ_i · φ_j."""
        theta, phi, _ = self._projected(x).flatten(2).chunk(3, dim=1)  # (B, F/8, M) each
        return theta.mT @ phi

    def _projected(self, x: Tensor) -> Tensor:
        """θ, φ and g one behind the other: (B, 3F/8, H, W)."""
        return torch.relu_(self.project_norm(pointwise(x, self.project.weight)))


class RelationAwareAttention(nn.Module):
    """Weigh the places of a map, then its channels, each by its relations to all others.

    Args:
        channels: of the map.
        height, width: of the map. They fix the sizes of the weights: a module made for one size works at no other.
        spatial: a gate for each place.
        channel: a gate for each channel, from the map that the spatial gates have weighed.
        reduction: see `RelationAttention`.
        method: "factored", or "explicit" for the computation of the paper, with its matrices of relations; the same
            weights give the same numbers.
        gate_init: see `RelationAttention`.

    Raises:
        ValueError: neither half, or what `RelationAttention` refuses.

    Example:
        >>> attention = RelationAwareAttention(channels=64, height=8, width=4)
        >>> attention(torch.rand(2, 64, 8, 4)).shape
        torch.Size([2, 64, 8, 4])
        >>> attention.attention_maps(torch.rand(2, 64, 8, 4)).spatial.shape
        torch.Size([2, 8, 4])

    Source: Zhang, Lan, Zeng, Jin, Chen, "Relation-aware global attention for person re-identification", CVPR 2020;
    weights as in the authors' code. The factored form is an exact identity, derived in the lesson.
    Taught in: notebooks/04_rga_attention.ipynb
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        spatial: bool = True,
        channel: bool = True,
        reduction: int = 8,
        method: str = "factored",
        gate_init: str = "random",
    ):
        super().__init__()
        if not (spatial or channel):
            raise ValueError("spatial=False with channel=False leaves nothing to do; set one of them")
        check_whole(1, channels=channels, height=height, width=width)
        self.channels, self.height, self.width = channels, height, width
        places = height * width
        self.spatial = RelationAttention(places, channels, reduction, method, gate_init) if spatial else None
        self.channel = RelationAttention(channels, places, reduction, method, gate_init) if channel else None

    def forward(self, x: Tensor) -> Tensor:
        """Weigh (B, C, H, W); the result has the same shape.

        Raises:
            ValueError: a map of another size than the module was made for.
        """
        self._check(x)
        if self.spatial is not None:
            x = self.spatial.gated(x)
        if self.channel is not None:
            x = _as_map(self.channel.gated(_channels_as_nodes(x)), self.width)
        return x

    @torch.no_grad()
    def attention_maps(self, x: Tensor) -> Attended:
        """Return the gates for maps (B, C, H, W), without a gradient.

        In training mode they depend on the whole batch, and the running statistics of the batch norms change.
        """
        self._check(x)
        place = channel = None
        if self.spatial is not None:
            place = self.spatial(x)
            x = x * place
        if self.channel is not None:
            channel = self.channel(_channels_as_nodes(x)).flatten(1)  # (B, C)
        return Attended(None if place is None else place.squeeze(1), channel)

    def _check(self, x: Tensor) -> None:
        if x.ndim == 4 and x.shape[1:] == (self.channels, self.height, self.width):
            return
        got = f"{x.shape[2]}×{x.shape[3]} maps of {x.shape[1]} channels" if x.ndim == 4 else f"shape {tuple(x.shape)}"
        raise ValueError(
            f"built for {self.height}×{self.width} maps of {self.channels} channels, got {got}; resize the images, or "
            "make a new module: the weights of relations belong to single places of the map"
        )


def _channels_as_nodes(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H · W, C, 1); a channels-last map is not copied."""
    return x.permute(0, 2, 3, 1).flatten(1, 2).unsqueeze(3)


def _as_map(nodes: Tensor, width: int) -> Tensor:
    """The way back from `_channels_as_nodes`."""
    return nodes.squeeze(3).unflatten(1, (-1, width)).permute(0, 3, 1, 2)
