"""Normalisation and distances between features, each with its range."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_SQUARE = 1e-12
"""Squared distances are held above this before the root, whose slope at zero is infinite."""


def _check_features(name: str, features: Tensor) -> Tensor:
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name}: got shape {tuple(features.shape)}, expected (N, D) with D > 0, one row an image")
    bad = (~torch.isfinite(features)).any(dim=1).nonzero().flatten()
    if len(bad):
        raise ValueError(
            f"{name}: NaN or infinity in {len(bad)} of {len(features)} rows, first row {int(bad[0])}; "
            "look at the image and the network that made it, distances to it mean nothing"
        )
    return features.float() if features.dtype != torch.float64 else features


def _check_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = _check_features("x", x), _check_features("y", y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} dimensions and y has {y.shape[1]}; both must come from the same model")
    return x, y


def l2_normalize(features: Tensor) -> Tensor:
    """Scale every row to Euclidean length 1.

    Args:
        features: (N, D), any finite numbers; half precision is computed in float32.

    Returns:
        (N, D), float32 or float64, rows of length 1.

    Raises:
        ValueError: a row is zero (it has no direction), or holds NaN or infinity.

    Example:
        >>> l2_normalize(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])

    Taught in: notebooks/00_start_here.ipynb
    """
    features = _check_features("features", features)
    length = features.norm(dim=1, keepdim=True)
    zero = (length.flatten() == 0).nonzero().flatten()
    if len(zero):
        raise ValueError(f"features: row {int(zero[0])} is all zeros ({len(zero)} such rows); it has no direction")
    return features / length


def cosine_distance(x: Tensor, y: Tensor) -> Tensor:
    """One minus the cosine of the angle between each row of `x` and each row of `y`.

    Both sides are normalised here, so raw features may be passed.

    Args:
        x: (Q, D) features.
        y: (G, D) features.

    Returns:
        (Q, G) distances in [0, 2]: 0 same direction, 1 at right angles, 2 opposite.

    Raises:
        ValueError: different D, a zero row, NaN or infinity.

    Example:
        >>> cosine_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]))
        tensor([[0., 1., 2.]])

    Taught in: notebooks/00_start_here.ipynb
    """
    x, y = _check_pair(x, y)
    with torch.autocast(x.device.type, enabled=False):
        return (1 - l2_normalize(x) @ l2_normalize(y).T).clamp(0, 2)


def euclidean_distance(x: Tensor, y: Tensor) -> Tensor:
    """Straight-line distance between each row of `x` and each row of `y`.

    Uses |x|² + |y|² - 2⟨x, y⟩, held above 1e-12 before the root: the formula can come out slightly
    negative for equal rows, and the slope of the root at zero is infinite.

    Args:
        x: (Q, D) features.
        y: (G, D) features.

    Returns:
        (Q, G) distances, at least 1e-6.

    Raises:
        ValueError: different D, NaN or infinity.

    Example:
        >>> euclidean_distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([[5.]])

    Taught in: notebooks/00_start_here.ipynb
    """
    x, y = _check_pair(x, y)
    with torch.autocast(x.device.type, enabled=False):
        squares = x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * (x @ y.T)
        return squares.clamp(min=SMALLEST_SQUARE).sqrt()


DISTANCES = {"cosine": cosine_distance, "euclidean": euclidean_distance}


def pairwise(x: Tensor, y: Tensor, metric: str) -> Tensor:
    """Distances (Q, G) by the name of the metric, "cosine" or "euclidean".

    Example:
        >>> pairwise(torch.eye(2), torch.eye(2), "cosine")
        tensor([[0., 1.],
                [1., 0.]])
    """
    if metric not in DISTANCES:
        raise ValueError(f"metric={metric!r}: expected one of {', '.join(DISTANCES)}")
    return DISTANCES[metric](x, y)
