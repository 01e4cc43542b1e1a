"""Normalisation and distances between features, each with its range and the guards that check it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from reidlab.checks import feature_tensor

SMALLEST_SQUARE = 1e-12
"""Squared distances up to this count as 0 before the root, whose slope at zero is infinite."""

RANGES = {"cosine": (0.0, 2.0), "euclidean": (0.0, 2.0), "squared": (0.0, 4.0)}
"""The least and the largest distance of two features of unit norm, by metric."""

RANGE_TOLERANCE = 1e-3
"""How far rounding may take a distance out of its range, as a share of the largest one: features of unit norm
rounded to float16 can need all of it."""


def squared_lengths(name: str, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the features in float32 or float64 and (N,) squared lengths, all of them finite."""
    features = feature_tensor(name, features)
    features = features if features.dtype == torch.float64 else features.float()
    squares = features.square().sum(1)  # (N,), NaN or infinity as soon as one value of the row is
    largest = torch.finfo(squares.dtype).max / 4  # a squared distance is at most twice the sum of two
    bad = (~(squares <= largest)).nonzero().flatten()
    if len(bad):
        overflow = bool(torch.isfinite(features[bad]).all())
        problem = f"numbers too large to be squared in {features.dtype}" if overflow else "NaN or infinity"
        raise ValueError(
            f"{name}: {problem} in {len(bad)} of {len(features)} rows, first row {int(bad[0])}; "
            "look at the image and the network that made it, distances to it mean nothing"
        )
    return features, squares


def _check_same_kind(x: Tensor, y: Tensor) -> None:
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x has {x.shape[1]} dimensions and y has {y.shape[1]}; both must come from the same model")
    if x.dtype != y.dtype:
        raise ValueError(f"x is computed in {x.dtype} and y in {y.dtype}; convert one with .float() or .double()")


def near_one(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Shift and scale features (Q, D) and (G, D) alike, so that their Euclidean distances can be computed.

    Neither changes an order of distances, or their ratios. Features whose values are near 1 and spread around 0 stay
    as they are. Far from the origin squares are large and their differences lose all digits; tiny squares become 0.

    Returns:
        Both in float32, or in float64 where near neighbours are much nearer to each other than to the origin.

    Raises:
        ValueError: NaN or infinity; or one row is so far from the others that the distances among those are lost.

    Example:
        >>> x, y = near_one(torch.tensor([[1e-30, 0.0]]), torch.tensor([[4e-30, 0.0]]))
        >>> bool((x.abs() > 0.1).any())
        True
    """
    for name, rows in (("query_features", x), ("gallery_features", y)):
        bad = (~rows.isfinite().all(1)).nonzero().flatten()
        if len(bad):
            raise ValueError(f"{name}: NaN or infinity in {len(bad)} of {len(rows)} rows, first row {int(bad[0])}")
    x, y = (rows if rows.dtype == torch.float64 else rows.float() for rows in (x, y))
    _check_same_kind(x, y)
    largest = max(float(x.abs().max()), float(y.abs().max()))
    if largest == 0:
        return x, y
    exponent = math.frexp(largest)[1]
    if not -8 < exponent < 24:  # a power of two, in two steps: half of it may be the most that a number can be
        for part in (-exponent // 2, -exponent - -exponent // 2):
            x, y = (rows * 2.0**part for rows in (x, y))
    lengths = torch.cat([x, y]).norm(dim=1)
    usual, longest = float(lengths.median()), float(lengths.max())
    if longest > 1e6 * usual > 0:
        row = int(lengths.argmax())
        where = f"query_features: row {row}" if row < len(x) else f"gallery_features: row {row - len(x)}"
        raise ValueError(
            f"{where} is more than a million times as long as most rows; look at the image and the network that made "
            "it, distances among the others are lost beside it"
        )
    centre = y.mean(0)
    spread = (y - centre).square().sum(1).mean()
    if float(centre.square().sum()) > 16 * float(spread):
        x, y = x - centre, y - centre
        if bool(y.any()) and float(y.abs().max()) < 2.0**-8:
            return near_one(x, y)
    if x.dtype == torch.float64 or x.device.type == "mps":  # Apple's GPUs have no float64
        return x, y
    # float64, where the error of squares in float32 would hide the distances of near neighbours
    some, others = (rows[torch.linspace(0, len(rows) - 1, min(len(rows), 128)).round().long()] for rows in (x, y))
    squares = torch.cdist(some, others, compute_mode="donot_use_mm_for_euclid_dist").square()
    nearest = squares.masked_fill(squares == 0, torch.inf).amin(1)
    lost = nearest < 1e-4 * (some.square().sum(1) + others.square().sum(1).max())  # 100 times the error of a square
    return (x.double(), y.double()) if float(lost.float().mean()) > 0.05 else (x, y)


def l2_normalize(features: Tensor) -> Tensor:
    """Scale every row to unit norm.

    Args:
        features: (N, D), any finite values; half precision is computed in float32.

    Returns:
        (N, D), float32 or float64.

    Raises:
        ValueError: a row is zero (it has no direction), or holds NaN or infinity.

    Example:
        >>> l2_normalize(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])

    Taught in: notebooks/02_feature_normalisation.ipynb
    """
    return _unit_rows("features", features)


def _unit_rows(name: str, features: Tensor) -> Tensor:
    features, squares = squared_lengths(name, features)
    zero = (squares < torch.finfo(squares.dtype).tiny).nonzero().flatten()  # below it, squares lose their digits
    if len(zero):
        row = int(zero[0])
        what = "too short for its length to be computed" if features[row].any() else "all zeros"
        raise ValueError(f"{name}: row {row} is {what} ({len(zero)} such rows); it has no direction")
    return features / squares.sqrt()[:, None]


def cosine_distance(x: Tensor, y: Tensor | None = None) -> Tensor:
    """One minus the cosine of the angle between each row of `x` and each row of `y`.

    Both sides are normalised here, so raw features may be passed. It orders pairs as the Euclidean distance
    of the normalised features does, but it is not a metric: the triangle inequality does not hold.

    Args:
        x: (Q, D) features.
        y: (G, D) features; None for the rows of `x` among themselves, with a diagonal of exactly 0.

    Returns:
        (Q, G) distances in [0, 2]: 0 same direction, 1 at right angles, 2 opposite.

    Raises:
        ValueError: different D, a zero row, NaN or infinity.

    Example:
        >>> cosine_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]))
        tensor([[0., 1., 2.]])

    Taught in: notebooks/02_feature_normalisation.ipynb
    """
    unit_x = _unit_rows("x", x)
    unit_y = unit_x if y is None else _unit_rows("y", y)
    _check_same_kind(unit_x, unit_y)
    with torch.autocast(unit_x.device.type, enabled=False):
        distances = (1 - unit_x @ unit_y.T).clamp(0, 2)  # (Q, G), rounding can leave the range by 1e-7
    return distances.fill_diagonal_(0) if y is None else distances


def squared_euclidean_distance(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Squared Euclidean distance between each row of `x` and each row of `y`.

    Computed as |x|² + |y|² - 2⟨x, y⟩: one matrix product, no (Q, G, D) array of differences. The price is
    cancellation: the error reaches 5e-7 · (|x|² + |y|²) in float32 and 3e-15 · (|x|² + |y|²) in float64,
    however small the distance. Far from the origin that hides small distances: subtract the mean first.

    Args:
        x, y: as in `cosine_distance`.

    Returns:
        (Q, G) squares, never negative; in [0, 4] for features of unit norm, where they are 2 - 2 cos.

    Raises:
        ValueError: different D, NaN or infinity, or numbers too large to be squared.

    Example:
        >>> squared_euclidean_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
        tensor([[ 0., 25.],
                [25.,  0.]])

    Taught in: notebooks/02_feature_normalisation.ipynb
    """
    x, squares_x = squared_lengths("x", x)
    x_or_y, squares_y = (x, squares_x) if y is None else squared_lengths("y", y)
    _check_same_kind(x, x_or_y)
    with torch.autocast(x.device.type, enabled=False):
        sums = squares_x[:, None] + squares_y  # (Q, G)
        squares = torch.addmm(sums, x, x_or_y.T, alpha=-2).clamp(min=0)  # sums - 2⟨x, y⟩ without a copy
    return squares.fill_diagonal_(0) if y is None else squares


def euclidean_distance(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Euclidean distance between each row of `x` and each row of `y`.

    The root of `squared_euclidean_distance`. Squares up to 1e-12 give exactly 0 and no gradient, because the
    slope of the root at zero is infinite. The root enlarges the error of a small square: in float32, equal
    rows of length L can come out 0.001 · L apart.

    Args:
        x, y: as in `cosine_distance`.

    Returns:
        (Q, G) distances ≥ 0; in [0, 2] for features of unit norm.

    Raises:
        ValueError: as there.

    Example:
        >>> euclidean_distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([[5.]])

    Taught in: notebooks/02_feature_normalisation.ipynb
    """
    squares = squared_euclidean_distance(x, y)
    touching = squares <= SMALLEST_SQUARE
    return squares.masked_fill(touching, 1).sqrt().masked_fill(touching, 0)  # no root at 0, so no infinite slope


DISTANCES = {"cosine": cosine_distance, "euclidean": euclidean_distance, "squared": squared_euclidean_distance}
"""The distances by name."""


def _check_metric(metric: str) -> None:
    if metric not in DISTANCES:
        raise ValueError(f"metric={metric!r}: expected one of {', '.join(DISTANCES)}")


def pairwise(x: Tensor, y: Tensor | None = None, metric: str = "cosine") -> Tensor:
    """Distances (Q, G) by the name of the metric.

    Args:
        x, y: as in `cosine_distance`.
        metric: "cosine", "euclidean" or "squared".

    Raises:
        ValueError: another name, or what the distance refuses.

    Example:
        >>> pairwise(torch.eye(2), metric="squared")
        tensor([[0., 2.],
                [2., 0.]])

    Taught in: notebooks/02_feature_normalisation.ipynb
    """
    _check_metric(metric)
    return DISTANCES[metric](x, y)


def check_range(distmat: Tensor, metric: str, unit_norm: bool = True) -> Tensor:
    """Refuse values that cannot be distances of this metric, such as dot products.

    Args:
        distmat: distances, of any shape, mostly (Q, G).
        metric: "cosine", "euclidean" or "squared"; the ranges are [0, 2], [0, 2] and [0, 4].
        unit_norm: whether the features have unit norm; if not, "euclidean" and "squared" end at infinity.

    Returns:
        `distmat` unchanged, so that the check can stand around an expression. Values may leave the range by a
        thousandth of its width, since features rounded to float16 need that.

    Raises:
        ValueError: an unknown metric, or an entry that is outside, NaN or infinite.

    Example:
        >>> check_range(cosine_distance(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 1.0]])), "cosine")
        tensor([[0.2000]])
        >>> check_range(1 - torch.tensor([[1.0, 2.0]]) @ torch.tensor([[2.0], [1.0]]), "cosine")
        Traceback (most recent call last):
        ValueError: distmat[0, 0] is -3: a cosine distance lies in [0, 2]...

    Taught in: notebooks/02_feature_normalisation.ipynb
    """
    _check_metric(metric)
    low, high = RANGES[metric] if unit_norm or metric == "cosine" else (0.0, math.inf)
    rounding = RANGE_TOLERANCE * RANGES[metric][1]
    inside = (distmat >= low - rounding) & (distmat <= high + rounding) & torch.isfinite(distmat)
    if inside.all():
        return distmat
    outside = (~inside).nonzero()
    first = tuple(outside[0].tolist())
    value = float(distmat[first])
    if not math.isfinite(value):
        mistake = "NaN or infinity in the features?"
    elif value < low or metric == "cosine":
        mistake = "a dot product of features that were not normalised?"
    else:
        mistake = "features that were not normalised? If they need not be, pass unit_norm=False"
    wanted = f"[{low:g}, {high:g}]" if math.isfinite(high) else f"[{low:g}, infinity)"
    raise ValueError(
        f"distmat{list(first)} is {value:.4g}: a {metric} distance lies in {wanted} "
        f"({len(outside)} of {distmat.numel()} entries do not); {mistake}"
    )


def check_unit_norm(features: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Refuse features whose rows do not have unit norm.

    Args:
        features: (N, D).
        tolerance: how far a length may be from 1, ≥ 0; features rounded to float16 need 5e-4.

    Returns:
        `features` unchanged, so that the check can stand around an expression.

    Raises:
        ValueError: a row is shorter or longer, zero, or holds NaN or infinity.

    Example:
        >>> check_unit_norm(torch.tensor([[0.6, 0.8], [3.0, 4.0]]))
        Traceback (most recent call last):
        ValueError: features: row 1 has length 5, expected 1 ± 0.001 (1 of 2 rows differ); call l2_normalize first

    Taught in: notebooks/02_feature_normalisation.ipynb
    """
    _, squares = squared_lengths("features", features.detach())
    lengths = squares.sqrt()
    wrong = ((lengths - 1).abs() > tolerance).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"features: row {row} has length {float(lengths[row]):.4g}, expected 1 ± {tolerance:g} "
            f"({len(wrong)} of {len(features)} rows differ); call l2_normalize first"
        )
    return features
