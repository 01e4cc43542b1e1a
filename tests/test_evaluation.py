"""Ranks, average precision and the curve: by hand, against plain loops, and what must not change them."""

import itertools

import numpy as np
import pytest
import torch
from evaluation_reference import labels
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from reidlab.distances import DISTANCES, l2_normalize, pairwise
from reidlab.evaluation import evaluate, evaluate_distances
from reidlab.evaluation.ranking import count_nearer, count_nearer_at_once


def ranking(hits, size):
    """One query whose matches stand at the given ranks, counted from 1."""
    gallery = [1 if rank in hits else 2 for rank in range(1, size + 1)]
    distances = torch.arange(size, dtype=torch.float32)[None]
    return evaluate_distances(distances, **labels([1], gallery, [1], [2] * size))


def features(num_queries, num_gallery, seed=0, dtype=torch.float32):
    """People as noisy points around centres, in three cameras."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(12, 16, generator=generator)
    query_pids, gallery_pids = torch.arange(num_queries) % 12, torch.arange(num_gallery) % 12
    query, gallery = (
        (centres[pids] + 0.8 * torch.randn(len(pids), 16, generator=generator)).to(dtype)
        for pids in (query_pids, gallery_pids)
    )
    return query, gallery, labels(query_pids, gallery_pids, query_pids % 3, torch.arange(num_gallery) // 12 % 3)


def same(one, other):
    for name in ("cmc", "average_precision", "average_precision_trapezoid", "inverse_negative_penalty", "first_hit"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.skipped == other.skipped and one.num_tied_queries == other.num_tied_queries


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
    with pytest.raises(ValueError, match=r"ranks 1 … 10"):
        result.rank(11)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 29))
def test_average_precision_is_that_of_scikit_learn(seed, size):
    rng = np.random.default_rng(seed)
    right, distances = rng.integers(0, 2, size).astype(bool), rng.random((1, size))
    right[0] = True
    result = evaluate_distances(distances, **labels([1], np.where(right, 1, 2), [1], [2] * size))
    assert result.mean_ap == pytest.approx(average_precision_score(right, -distances[0]), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3000), st.integers(1, 40), st.booleans())
def test_count_nearer_equals_comparing_all(seed, size, num_values, with_ties):
    rng = np.random.default_rng(seed)
    row = rng.integers(-50, 50, size).astype(np.float32) if with_ties else rng.standard_normal(size)
    values = np.sort(rng.choice(row, num_values))[::-1]
    more, reach = count_nearer(row, values)
    assert more.tolist() == [(row > value).sum() for value in values]
    assert reach.tolist() == [(row >= value).sum() for value in values]
    # on GPUs all rows are counted at once: here between a row without values and one with a single value, NaN and inf
    others = np.stack([row, row, np.full(size, np.nan, row.dtype)])
    others[2, 0], others[2, 1:2] = 0, np.inf
    at_once = count_nearer_at_once(
        torch.from_numpy(others), np.r_[np.full(num_values, 1), 2], np.r_[values, others[2, 0]].astype(row.dtype)
    )
    beyond = int(size > 1)  # the infinity
    assert [counts.tolist() for counts in at_once] == [[*more, beyond], [*reach, beyond + 1]]


@pytest.mark.parametrize("metric", DISTANCES)
def test_features_rank_as_their_distances_do(metric):
    query, gallery, names = features(40, 300, dtype=torch.float64)
    from_features = evaluate(query, gallery, metric=metric, **names)
    same(from_features, evaluate_distances(pairwise(query, gallery, metric), **names))
    assert from_features.metric == metric and 0.5 < from_features.rank1 < 1
    unit = l2_normalize(query), l2_normalize(gallery)  # rank alike by every metric
    same(evaluate(*unit, metric=metric, **names), evaluate(*unit, metric="cosine", **names))


@pytest.mark.parametrize("metric", DISTANCES)
def test_chunks_and_precision_change_nothing(metric):
    query, gallery, names = features(40, 300)
    whole = evaluate(query, gallery, metric=metric, **names)
    for chunk_size in (1, 7, 1000):
        same(evaluate(query, gallery, metric=metric, chunk_size=chunk_size, **names), whole)
    same(evaluate(query.double(), gallery.double(), metric=metric, **names), whole)
    same(
        evaluate(query.half(), gallery.half(), metric=metric, **names),
        evaluate(query.half().float(), gallery.half().float(), metric=metric, **names),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same(evaluate(query.requires_grad_(), gallery.requires_grad_(), metric=metric, **names), whole)


def test_the_order_of_the_gallery_changes_nothing_without_ties():
    query, gallery, names = features(40, 300, dtype=torch.float64)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    shuffled = {name: value[order] if name.startswith("gallery") else value for name, value in names.items()}
    expected = evaluate(query, gallery, **names)
    assert expected.num_tied_queries == 0
    same(evaluate(query, gallery[order], **shuffled), expected)


def test_blocks_of_a_matrix_are_as_good_as_the_matrix():
    query, gallery, names = features(11, 50)
    distmat = pairwise(query, gallery, "cosine")
    before = distmat.clone()
    whole = evaluate_distances(distmat, **names)
    same(evaluate_distances((block for block in distmat.split(4)), **names), whole)
    same(evaluate_distances([distmat[:1].numpy(), distmat[1:].numpy()], **names), whole)
    assert torch.equal(distmat, before)  # what was passed is not written to
    with pytest.raises(ValueError, match="got 8 rows in all, expected 11"):
        evaluate_distances(distmat[:8].split(4), **names)
    with pytest.raises(ValueError, match=r"got \(4, 50\) for queries from 8 on, expected blocks"):
        evaluate_distances([distmat[:4]] * 3, **names)
    with pytest.raises(ValueError, match=r"got \(50,\) for queries from 0 on"):
        evaluate_distances(distmat.tolist(), **names)
    distmat[5, 1] = torch.nan
    with pytest.raises(ValueError, match="got NaN for query 5, expected distances without NaN"):
        evaluate_distances([distmat[:4], distmat[4:]], **names)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.uint8])
def test_any_kind_of_number_is_ranked(dtype):
    distmat = np.array([[30, 10, 20]], dtype)
    result = evaluate_distances(distmat, **labels([1], [1, 2, 1], [1], [2, 2, 2]))
    assert result.mean_ap == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_constant_matrix_ranks_in_gallery_order():
    """All equal: the list is the gallery, less junk; a constant distance gains nothing."""
    names = labels([1, 1, 3], [1, 2, 1, 2, 3, 1], [1, 2, 2], [1, 1, 2, 2, 1, 2])
    result = evaluate_distances(np.full((3, 6), 0.25), **names)
    # the lists are 2 [1] 2 3 [1], then [1] 2 2 3, then 1 2 1 2 [3] 1
    assert result.average_precision.tolist() == pytest.approx([(1 / 2 + 2 / 5) / 2, 1, 1 / 5])
    assert result.first_hit.tolist() == [2, 1, 5]
    assert result.num_tied_queries == 3 and "3 with ties" in str(result)


def test_collapsed_features_score_what_their_order_gives():
    """Every image has one and the same feature: all rows tie exactly, whatever the sizes."""
    _, _, names = features(33, 1237)
    for metric, size in itertools.product(DISTANCES, (16, 256, 1000)):
        direction = torch.randn(size, generator=torch.Generator().manual_seed(size))
        result = evaluate(direction.expand(33, size), direction.expand(1237, size), metric=metric, **names)
        same(result, evaluate_distances(torch.zeros(33, 1237), **names))
        assert result.num_tied_queries == 33


def test_junk_and_ties_among_right_images():
    names = labels([1], [1, 1, 1, 2], [1], [2, 2, 1, 2])  # the third is junk: the query's own camera
    result = evaluate_distances(np.array([[0.1, 0.1, 0.1, 0.2]]), **names)
    assert result.num_tied_queries == 0 and result.mean_ap == 1.0
    # nearest comes junk, then identity -1
    names = labels([1], [1, -1, 2, 1], [1], [1, 2, 2, 2])
    result = evaluate_distances(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), **names)
    assert result.mean_ap == 0.5 and result.rank1 == 0.0


def test_infinite_distances_come_last_and_first():
    names = labels([1], [1, 2, 1, 2], [1], [2, 2, 2, 2])
    result = evaluate_distances(np.array([[np.inf, 0.5, -np.inf, np.inf]]), **names)
    assert result.average_precision.tolist() == pytest.approx([(1 + 2 / 3) / 2])
    assert result.num_tied_queries == 1


def test_one_query_one_image_and_queries_without_a_match():
    result = evaluate(torch.ones(1, 2), torch.ones(1, 2), **labels([1], [1], [1], [2]))
    assert (result.rank1, result.mean_ap, result.mean_inp, len(result.cmc)) == (1, 1, 1, 1)
    result = evaluate_distances(torch.rand(2, 2), **labels([1, 5], [1, 2], [1, 1], [2, 2]))
    assert (result.num_queries, result.num_valid_queries) == (2, 1)
    assert "1 without a match" in str(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_pids": [1]}, r"query_pids: got shape \(1,\), expected \(2,\)"),
        ({"gallery_camids": [1, 1]}, r"never in another camera \(cameras: \[1\]\)"),
        ({"gallery_pids": [7, 8]}, "no identity is in both"),
        ({"query_pids": [-1, 2], "gallery_pids": [-1, -1]}, "no identity is in both query and gallery"),
        ({"query_pids": [1.7, 2.0]}, "whole numbers"),
        ({"rule": "cuhk"}, "rule='cuhk': expected one of market, cuhk03_open_reid, cuhk03_torchreid, allshots"),
        ({"same_camera": "drop"}, "same_camera='drop': expected one of exclude, keep"),
        ({"rule": "cuhk03_open_reid", "same_camera": "keep"}, 'Use rule="cuhk03_torchreid"'),
        ({"repeats": 0}, "repeats=0: expected at least 1"),
        ({"max_rank": 0}, "max_rank=0: expected at least 1"),
        ({"metric": "l1"}, "metric='l1'"),
        ({"chunk_size": 0}, "chunk_size=0: expected at least 1"),
        ({"gallery_features": torch.ones(2, 3)}, "same model"),
        ({"gallery_features": torch.tensor([[1.0, 2.0], [torch.nan, 1.0]])}, "NaN"),
        ({"gallery_features": torch.tensor([[1.0, 2.0], [torch.nan, 1.0]]), "metric": "euclidean"}, "NaN"),
    ],
)
def test_errors_say_what_to_do(change, message):
    given = {"query_features": torch.eye(2), "gallery_features": torch.eye(2)}
    with pytest.raises(ValueError, match=message):
        evaluate(**{**given, **labels([1, 2], [1, 2], [1, 1], [2, 2]), **change})
