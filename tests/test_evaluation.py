import numpy as np
import pytest
import torch
from evaluation_reference import labels
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from reidlab.evaluation import evaluate, evaluate_distances


def ranking(hits, size):
    """One query whose matches stand at the given ranks, counted from 1."""
    gallery = [1 if rank in hits else 2 for rank in range(1, size + 1)]
    distances = torch.arange(size, dtype=torch.float32)[None]
    return evaluate_distances(distances, **labels([1], gallery, [1], [2] * size))


@pytest.mark.parametrize(
    ("hits", "step", "trapezoid"),
    [
        ([1, 3, 6, 9, 10], 0.6222, None),  # the field's tutorial example
        ([2, 5, 7], 0.4429, None),
        ([2], 0.5, 0.25),
        ([2, 5], 0.45, 0.2875),
        ([1, 2, 4, 7], 0.8304, 0.811),
        ([1], 1.0, 1.0),
    ],
)
def test_average_precision_worked_by_hand(hits, step, trapezoid):
    result = ranking(hits, 10)
    assert result.mean_ap == pytest.approx(step, abs=5e-5)
    if trapezoid is not None:
        assert result.mean_ap_trapezoid == pytest.approx(trapezoid, abs=5e-4)
    assert result.mean_ap_trapezoid <= result.mean_ap


def brute_force(distmat, query_pids, gallery_pids, query_camids, gallery_camids):
    first_hits, precisions = [], []
    for q in range(len(query_pids)):
        kept = [
            g
            for g in np.argsort(distmat[q], kind="stable")
            if not (gallery_pids[g] == query_pids[q] and gallery_camids[g] == query_camids[q]) and gallery_pids[g] != -1
        ]
        right = np.array([gallery_pids[g] == query_pids[q] for g in kept], bool)
        if right.any():
            first_hits.append(int(np.argmax(right)))
            precisions.append(average_precision_score(right, -np.arange(len(right))))
    return first_hits, precisions


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_equals_brute_force_and_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    num_queries, num_gallery = rng.integers(1, 8), rng.integers(2, 30)
    distmat = rng.random((num_queries, num_gallery)).astype(np.float32)
    values = (
        rng.integers(0, 4, num_queries), rng.integers(-1, 4, num_gallery),
        rng.integers(1, 3, num_queries), rng.integers(1, 3, num_gallery),
    )  # fmt: skip
    first_hits, precisions = brute_force(distmat, *values)
    if not first_hits:
        with pytest.raises(ValueError, match="has a match to find"):
            evaluate_distances(torch.from_numpy(distmat), **labels(*values))
        return
    result = evaluate_distances(torch.from_numpy(distmat), **labels(*values))
    assert result.num_valid_queries == len(first_hits)
    assert result.mean_ap == pytest.approx(np.mean(precisions), abs=1e-9)
    for k in range(1, num_gallery + 1):
        assert result.rank(k) == pytest.approx(np.mean([hit < k for hit in first_hits]))


def test_features_and_chunks_give_the_same_as_the_whole_matrix():
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(11, 6, generator=generator), torch.randn(23, 6, generator=generator)
    names = labels([i % 4 for i in range(11)], [i % 5 for i in range(23)], [1] * 11, [2] * 23)
    with pytest.raises(ValueError, match="chunk_size=0: expected at least 1"):
        evaluate(query, gallery, chunk_size=0, **names)
    whole = evaluate(query, gallery, **names)
    chunked = evaluate(query, gallery, chunk_size=3, **names)
    assert np.array_equal(whole.average_precision, chunked.average_precision, equal_nan=True)
    assert np.array_equal(whole.cmc, chunked.cmc)


def test_junk_leaves_no_trace():
    # the nearest image is the same person in the query's own camera; an image of nobody (-1) comes next
    with_junk = evaluate_distances(
        torch.tensor([[0.1, 0.2, 0.3, 0.4]]), **labels([1], [1, -1, 2, 1], [1], [1, 2, 2, 2])
    )
    without = evaluate_distances(torch.tensor([[0.3, 0.4]]), **labels([1], [2, 1], [1], [2, 2]))
    assert with_junk.mean_ap == without.mean_ap == 0.5
    assert with_junk.rank1 == without.rank1 == 0.0


def test_ties_keep_gallery_order():
    names = labels([1, 1], [2, 1, 1], [1, 1], [2, 2, 2])
    result = evaluate_distances(torch.zeros(2, 3), **names)
    assert result.average_precision.tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2] * 2)


def test_queries_without_a_match_are_skipped_and_counted():
    result = evaluate_distances(torch.rand(2, 2), **labels([1, 5], [1, 2], [1, 1], [2, 2]))
    assert (result.num_queries, result.num_valid_queries) == (2, 1)
    assert "1 without a match" in str(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_pids": [1]}, r"query_pids: got shape \(1,\), expected \(2,\)"),
        ({"gallery_camids": [1, 1]}, r"never in another camera \(cameras: \[1\]\)"),
        ({"gallery_pids": [7, 8]}, "no identity is in both"),
        ({"rule": "cuhk"}, "rule='cuhk': expected one of market"),
        ({"max_rank": 0}, "max_rank=0: expected at least 1"),
        ({"query_pids": [1.7, 2.0]}, "whole numbers"),
    ],
)
def test_errors_say_what_to_do(change, message):
    names = labels([1, 2], [1, 2], [1, 1], [2, 2])
    with pytest.raises(ValueError, match=message):
        evaluate_distances(np.random.default_rng(0).random((2, 2)), **{**names, **change})


def test_nan_distances_are_refused():
    with pytest.raises(ValueError, match="without NaN"):
        evaluate_distances(torch.tensor([[float("nan")]]), **labels([1], [1], [1], [2]))


def test_rank_beyond_the_curve_is_refused():
    with pytest.raises(ValueError, match=r"ranks 1 … 2"):
        ranking([1], 2).rank(3)
