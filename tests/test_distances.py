import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from reidlab.distances import cosine_distance, euclidean_distance, l2_normalize, pairwise


def features(seed, rows, dims=8):
    return torch.randn(rows, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(st.integers(0, 10_000))
def test_both_distances_agree_with_scipy_in_double_precision(seed):
    x, y = features(seed, 5), features(seed + 1, 7)
    assert torch.allclose(euclidean_distance(x, y), torch.from_numpy(cdist(x, y)), atol=1e-9)
    assert torch.allclose(cosine_distance(x, y), torch.from_numpy(cdist(x, y, "cosine")), atol=1e-9)


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_cosine_does_not_see_scale_and_both_are_symmetric(seed, scale):
    x, y = features(seed, 4), features(seed + 1, 4)
    assert torch.allclose(cosine_distance(x * scale, y), cosine_distance(x, y), atol=1e-9)
    assert torch.allclose(cosine_distance(x, y), cosine_distance(y, x).T)
    assert torch.allclose(euclidean_distance(x, y), euclidean_distance(y, x).T, atol=1e-9)


def test_equal_rows_have_a_finite_gradient():
    x = torch.ones(2, 4, requires_grad=True)
    euclidean_distance(x, x).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_half_precision_is_computed_in_float32():
    x = torch.full((1, 2048), 30.0, dtype=torch.float16)  # its squared norm, 1.8 million, overflows float16
    assert euclidean_distance(x, x + 1).dtype == torch.float32
    assert euclidean_distance(x, x + 1).item() == pytest.approx(2048**0.5, rel=1e-3)


def test_autocast_does_not_lower_the_precision():
    x = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(euclidean_distance(x, x.flip(0)), euclidean_distance(x, x.flip(0)).float())
        inside = cosine_distance(x, x)
    assert torch.equal(inside, cosine_distance(x, x))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_numbers_are_refused_with_their_row(bad):
    x = torch.zeros(4, 3) + 1
    x[2, 1] = bad
    with pytest.raises(ValueError, match=r"1 of 4 rows, first row 2"):
        euclidean_distance(x, x)


def test_zero_rows_have_no_direction():
    with pytest.raises(ValueError, match="row 1 is all zeros"):
        l2_normalize(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def test_shapes_and_names_are_checked():
    with pytest.raises(ValueError, match="x has 3 dimensions and y has 4"):
        cosine_distance(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"expected \(N, D\)"):
        cosine_distance(torch.ones(3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="expected one of cosine, euclidean"):
        pairwise(torch.ones(2, 3), torch.ones(2, 3), "cosin")


def test_unit_vectors_tie_the_two_distances():
    x, y = l2_normalize(features(0, 5)), l2_normalize(features(1, 6))
    assert np.allclose(euclidean_distance(x, y) ** 2, 2 * cosine_distance(x, y))
