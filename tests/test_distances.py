import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from reidlab.distances import (
    DISTANCES,
    RANGES,
    check_range,
    check_unit_norm,
    cosine_distance,
    euclidean_distance,
    l2_normalize,
    pairwise,
    squared_euclidean_distance,
)

SEEDS = st.integers(0, 10_000)
METRICS = st.sampled_from(sorted(DISTANCES))
NAME_AT_SCIPY = {"cosine": "cosine", "euclidean": "euclidean", "squared": "sqeuclidean"}


def features(seed, rows, dims=8, dtype=torch.float64):
    return torch.randn(rows, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@settings(deadline=None)
@given(SEEDS, METRICS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 40))
def test_agrees_with_scipy_in_double_precision(seed, metric, rows, columns, dims):
    x, y = features(seed, rows, dims), features(seed + 1, columns, dims)
    assert torch.allclose(pairwise(x, y, metric), torch.from_numpy(cdist(x, y, NAME_AT_SCIPY[metric])), atol=1e-9)


@settings(deadline=None)
@given(SEEDS, METRICS, st.floats(0.1, 30))
def test_float32_stays_within_the_documented_error_of_float64(seed, metric, length):
    x = l2_normalize(features(seed, 6, 256, torch.float32)) * length
    exact = pairwise(x.double(), x.double().flip(0), metric)
    error = (pairwise(x, x.flip(0), metric).double() - exact).abs()  # the two equal rows are on the other diagonal
    limits = {"cosine": 1e-6, "squared": 5e-7 * 2 * length**2, "euclidean": 0.001 * length}
    assert error.max() <= limits[metric]
    if metric == "euclidean":
        assert error[~torch.eye(6, dtype=torch.bool).flip(1)].max() <= 1e-6 * length  # large distances lose nothing


@settings(deadline=None)
@given(SEEDS, METRICS, st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_never_negative_and_in_range_for_unit_features(seed, metric, dtype):
    x = l2_normalize(features(seed, 6, 64)).to(dtype)
    x = torch.cat([x, x, -x])  # 0 and the greatest distance are among them
    assert pairwise(x, x, metric).min() >= 0
    assert torch.equal(check_range(pairwise(x, x, metric), metric), pairwise(x, x, metric))


def test_triangle_inequality_fails_for_cosine_and_squares():
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])  # 0, 45 and 90 degrees
    cosine, squared = cosine_distance(x), squared_euclidean_distance(x[[0, 1, 1]] * torch.tensor([[0.0], [1], [2]]))
    assert cosine[0, 1] + cosine[1, 2] < cosine[0, 2]
    assert squared[0, 1] + squared[1, 2] < squared[0, 2]


@settings(deadline=None)
@given(SEEDS, METRICS, st.booleans())
def test_rows_among_themselves_have_a_diagonal_of_zero_and_no_gradient_through_it(seed, metric, single):
    x = features(seed, 5, dtype=torch.float32 if single else torch.float64).requires_grad_()
    among = pairwise(x, metric=metric)
    assert torch.equal(among.diagonal(), torch.zeros(5, dtype=x.dtype))
    off = ~torch.eye(5, dtype=torch.bool)
    assert torch.allclose(among[off], pairwise(x, x, metric)[off], atol=1e-6)
    among.diagonal().sum().backward()
    assert not x.grad.any()


@pytest.mark.parametrize("metric", sorted(DISTANCES))
def test_gradients_are_right_with_one_side_and_with_two(metric):
    x, y = features(0, 4, 3).requires_grad_(), features(1, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: pairwise(x, y, metric), (x, y))
    assert torch.autograd.gradcheck(lambda x: pairwise(x, metric=metric), (x,))


def test_the_root_stops_at_squares_of_1e_12():
    x = torch.tensor([[0.0], [0.9e-6], [1.1e-6]], dtype=torch.float64)
    assert euclidean_distance(x)[0].tolist() == [0, 0, pytest.approx(1.1e-6)]


def test_half_precision_is_computed_in_float32():
    x = torch.full((1, 2048), 30.0, dtype=torch.float16)  # its squared norm, 1.8 million, overflows float16
    assert euclidean_distance(x, x + 1).dtype == torch.float32
    assert euclidean_distance(x, x + 1).item() == pytest.approx(2048**0.5, rel=1e-3)


@pytest.mark.parametrize("metric", sorted(DISTANCES))
def test_autocast_does_not_lower_the_precision(metric):
    x = features(0, 6, 64, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x.T).dtype == torch.bfloat16
        among, between = pairwise(x, metric=metric), pairwise(x, x.flip(0), metric)
    assert torch.equal(among, pairwise(x, metric=metric)) and torch.equal(between, pairwise(x, x.flip(0), metric))


@pytest.mark.parametrize("metric", sorted(DISTANCES))
def test_no_rows_give_no_distances(metric):
    assert pairwise(torch.ones(0, 3), torch.ones(2, 3), metric).shape == (0, 2)
    assert pairwise(torch.ones(0, 3), metric=metric).shape == (0, 0)


@pytest.mark.parametrize("distance", [*DISTANCES.values(), lambda x, y: l2_normalize(x)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_numbers_are_refused_with_their_row(distance, bad):
    x = torch.zeros(4, 3) + 1
    x[2, 1] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity in 1 of 4 rows, first row 2"):
        distance(x, x)


def test_the_side_that_is_bad_is_named():
    with pytest.raises(ValueError, match=r"^y: NaN or infinity in 2 of 2 rows, first row 0"):
        cosine_distance(torch.ones(4, 3), torch.full((2, 3), float("nan")))
    with pytest.raises(ValueError, match=r"^y: row 0 is all zeros"):
        cosine_distance(torch.ones(4, 3), torch.zeros(2, 3))


@pytest.mark.parametrize("dtype, size", [(torch.float32, 1e19), (torch.float64, 1e154)])
def test_numbers_whose_squares_overflow_are_refused(dtype, size):
    x = torch.eye(3, dtype=dtype) * size
    with pytest.raises(ValueError, match=rf"numbers too large to be squared in {dtype} in 3 of 3 rows, first row 0"):
        euclidean_distance(x)
    assert torch.isfinite(squared_euclidean_distance(x / 2, -x / 2)).all()


def test_zero_rows_have_no_direction_but_a_place():
    x = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    for refuses in (l2_normalize, cosine_distance):
        with pytest.raises(ValueError, match=r"row 1 is all zeros \(1 such rows\); it has no direction"):
            refuses(x)
    with pytest.raises(ValueError, match="row 0 is too short for its length to be computed"):
        l2_normalize(torch.tensor([[1e-20, 1e-20]]))
    assert euclidean_distance(x).tolist() == [[0, 1], [1, 0]]


def test_shapes_and_names_are_checked():
    for distance in DISTANCES.values():
        with pytest.raises(ValueError, match="x has 3 dimensions and y has 4"):
            distance(torch.ones(2, 3), torch.ones(2, 4))
        with pytest.raises(ValueError, match=r"x: got shape \(3,\), expected \(N, D\)"):
            distance(torch.ones(3), torch.ones(2, 3))
        with pytest.raises(ValueError, match=r"x is computed in torch.float64 and y in torch.float32; convert one"):
            distance(torch.ones(2, 3).double(), torch.ones(2, 3).half())
    with pytest.raises(ValueError, match="metric='cosin': expected one of cosine, euclidean, squared"):
        pairwise(torch.ones(2, 3), torch.ones(2, 3), "cosin")
    with pytest.raises(ValueError, match="metric='dot': expected one of"):
        check_range(torch.ones(2, 3), "dot")


@pytest.mark.parametrize("metric", sorted(RANGES))
def test_check_range_allows_rounding_only(metric):
    low, high = RANGES[metric]
    distances = torch.tensor([[low - 0.9e-3 * high, high + 0.9e-3 * high]])
    assert check_range(distances, metric) is distances
    for bad in (low - 1.1e-3 * high, high + 1.1e-3 * high, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"^distmat\[1, 0\] is .* \(2 of 6 entries do not\)"):
            check_range(torch.tensor([[1, 1, 1], [bad, 1, bad]]), metric)


def test_check_range_finds_dot_products_of_raw_features():
    x = features(0, 5, 64)
    with pytest.raises(ValueError, match=r"cosine distance lies in \[0, 2\].*dot product of features that were not"):
        check_range(1 - x @ x.T, "cosine")
    with pytest.raises(ValueError, match=r"\[0, infinity\).*dot product of features that were not normalised"):
        check_range(-(x @ x.T), "squared", unit_norm=False)
    with pytest.raises(ValueError, match=r"euclidean distance lies in \[0, 2\].*pass unit_norm=False"):
        check_range(euclidean_distance(x), "euclidean")
    with pytest.raises(ValueError, match="NaN or infinity in the features"):
        check_range(torch.tensor([torch.inf]), "euclidean", unit_norm=False)
    with pytest.raises(ValueError, match=r"a cosine distance lies in \[0, 2\]"):  # whatever the lengths
        check_range(torch.tensor([3.0]), "cosine", unit_norm=False)
    raw = euclidean_distance(x)
    assert check_range(raw, "euclidean", unit_norm=False) is raw


def test_check_unit_norm():
    unit = l2_normalize(features(0, 5, 64)).requires_grad_()
    assert check_unit_norm(unit) is unit and check_unit_norm(unit.half()).dtype == torch.float16
    x = torch.eye(3)
    x[1, 1] = 1.002
    with pytest.raises(ValueError, match=r"row 1 has length 1\.002, expected 1 ± 0\.001 \(1 of 3 rows differ\)"):
        check_unit_norm(x)
    assert check_unit_norm(x, tolerance=0.01) is x
    with pytest.raises(ValueError, match=r"row 0 has length 0, .*call l2_normalize first"):
        check_unit_norm(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 2 rows, first row 1"):
        check_unit_norm(torch.tensor([[1.0], [torch.nan]]))
