import itertools

import numpy as np
import pytest
import torch
from evaluation_reference import labels
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlab.distances import DISTANCES, l2_normalize, pairwise
from reidlab.evaluation import evaluate, evaluate_distances
from reidlab.evaluation.ranking import count_nearer, count_nearer_at_once


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


def same(one, other, tolerance=0.0):
    for name in ("cmc", "average_precision", "average_precision_trapezoid", "inverse_negative_penalty", "first_hit"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=tolerance)
    assert one.skipped == other.skipped and one.num_tied_queries == other.num_tied_queries


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3000), st.integers(1, 40), st.booleans())
def test_count_nearer_equals_comparing_all(seed, size, num_values, with_ties):
    rng = np.random.default_rng(seed)
    row = rng.integers(-50, 50, size).astype(np.float32) if with_ties else rng.standard_normal(size)
    values = np.sort(rng.choice(row, num_values))[::-1]
    more, reach = count_nearer(row, values)
    assert more.tolist() == [(row > value).sum() for value in values]
    assert reach.tolist() == [(row >= value).sum() for value in values]
    at_once = count_nearer_at_once(torch.from_numpy(row)[None], np.zeros(num_values, np.int64), values.copy())
    assert [counts.tolist() for counts in at_once] == [more.tolist(), reach.tolist()]


@pytest.mark.parametrize("rule", ["market", "cuhk03_torchreid", "allshots"])
def test_the_way_for_gpus_gives_the_same(monkeypatch, rule):
    rng = np.random.default_rng(0)
    distmat = rng.integers(0, 30, (9, 200)) / 8.0
    distmat[0, :5], distmat[1, :5] = np.inf, -np.inf
    names = labels(rng.integers(0, 9, 9), rng.integers(-1, 8, 200), rng.integers(0, 3, 9), rng.integers(0, 3, 200))
    expected = evaluate_distances(distmat, rule=rule, **names)
    monkeypatch.setattr(counting, "count_nearer_by_rows", count_nearer_at_once)
    same(evaluate_distances(distmat, rule=rule, **names), expected)


@pytest.mark.parametrize("metric", DISTANCES)
def test_features_rank_as_their_distances_do(metric):
    query, gallery, names = features(40, 300, dtype=torch.float64)
    from_features = evaluate(query, gallery, metric=metric, **names)
    same(from_features, evaluate_distances(pairwise(query, gallery, metric), **names))
    assert from_features.metric == metric and 0.5 < from_features.rank1 < 1


@pytest.mark.parametrize("metric", DISTANCES)
def test_chunks_and_precision_change_nothing(metric):
    query, gallery, names = features(40, 300)
    whole = evaluate(query, gallery, metric=metric, **names)
    for chunk_size in (1, 7, 40, 1000):
        same(evaluate(query, gallery, metric=metric, chunk_size=chunk_size, **names), whole)
    same(evaluate(query.double(), gallery.double(), metric=metric, **names), whole)
    half = evaluate(query.half(), gallery.half(), metric=metric, **names)
    assert half.mean_ap == pytest.approx(whole.mean_ap, abs=0.01)
    same(half, evaluate(query.half().float(), gallery.half().float(), metric=metric, **names))


def test_autocast_and_gradients_change_nothing():
    query, gallery, names = features(10, 100)
    expected = evaluate(query, gallery, **names)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same(evaluate(query.requires_grad_(), gallery.requires_grad_(), **names), expected)


def test_the_order_of_the_gallery_changes_nothing_without_ties():
    query, gallery, names = features(40, 300)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    shuffled = {name: value[order] if name.startswith("gallery") else value for name, value in names.items()}
    expected = evaluate(query.double(), gallery.double(), **names)
    assert expected.num_tied_queries == 0
    same(evaluate(query.double(), gallery[order].double(), **shuffled), expected)


def test_blocks_of_a_matrix_are_as_good_as_the_matrix():
    query, gallery, names = features(11, 50)
    distmat = pairwise(query, gallery, "cosine")
    whole = evaluate_distances(distmat, **names)
    same(evaluate_distances((block for block in distmat.split(4)), **names), whole)
    same(evaluate_distances([distmat[:1].numpy(), distmat[1:].numpy()], **names), whole)
    with pytest.raises(ValueError, match="got 8 rows in all, expected 11"):
        evaluate_distances(distmat[:8].split(4), **names)
    with pytest.raises(ValueError, match=r"got \(4, 50\) for queries from 8 on, expected blocks"):
        evaluate_distances([distmat[:4]] * 3, **names)
    with pytest.raises(ValueError, match=r"got \(50,\) for queries from 0 on"):
        evaluate_distances(distmat.tolist(), **names)
    with pytest.raises(ValueError, match="got some for query 5"):
        evaluate_distances(
            [distmat[:4], distmat[4:].clone().index_put_((torch.tensor(1),), torch.tensor(torch.nan))], **names
        )


def test_given_distances_are_left_as_they_are():
    distmat = np.random.default_rng(0).random((5, 20))
    before = distmat.copy()
    evaluate_distances(distmat, **labels([1] * 5, [1] * 10 + [2] * 10, [1] * 5, [2] * 20))
    assert np.array_equal(distmat, before)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, np.uint8])
def test_any_kind_of_number_is_ranked(dtype):
    distmat = np.array([[30, 10, 20]], dtype)
    result = evaluate_distances(distmat, **labels([1], [1, 2, 1], [1], [2, 2, 2]))
    assert result.mean_ap == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_a_constant_matrix_ranks_in_gallery_order():
    """All equal: the list is the gallery, less junk; nothing is won by calling everything near."""
    names = labels([1, 1, 3], [1, 2, 1, 2, 3, 1], [1, 2, 2], [1, 1, 2, 2, 1, 2])
    result = evaluate_distances(np.full((3, 6), 0.25), **names)
    lists = ["2 1 2 3 1", "1 2 2 3", "1 2 1 2 3 1"]  # of the three queries; right ones at 2 and 5, 1, 5
    assert [len(text.split()) for text in lists] == [5, 4, 6]
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


def test_a_tie_among_right_images_or_with_junk_is_none():
    names = labels([1], [1, 1, 1, 2], [1], [2, 2, 1, 2])
    result = evaluate_distances(np.array([[0.1, 0.1, 0.1, 0.2]]), **names)
    assert result.num_tied_queries == 0 and result.mean_ap == 1.0


def test_infinite_distances_come_last_and_first():
    names = labels([1], [1, 2, 1, 2], [1], [2, 2, 2, 2])
    result = evaluate_distances(np.array([[np.inf, 0.5, -np.inf, np.inf]]), **names)
    assert result.average_precision.tolist() == pytest.approx([(1 + 2 / 3) / 2])
    assert result.num_tied_queries == 1


def test_one_query_one_image():
    result = evaluate(torch.ones(1, 2), torch.ones(1, 2), **labels([1], [1], [1], [2]))
    assert (result.rank1, result.mean_ap, result.mean_inp, len(result.cmc)) == (1, 1, 1, 1)


def test_a_gallery_of_nobody():
    with pytest.raises(ValueError, match="no identity is in both query and gallery"):
        evaluate(torch.ones(1, 2), torch.ones(3, 2), **labels([-1], [-1, -1, -1], [1], [2, 2, 2]))


def test_features_that_mean_nothing_are_refused():
    names = labels([1], [1, 2], [1], [2, 2])
    for metric in DISTANCES:
        with pytest.raises(ValueError, match="NaN"):
            evaluate(torch.ones(1, 2), torch.tensor([[1.0, 2.0], [torch.nan, 1.0]]), metric=metric, **names)
    with pytest.raises(ValueError, match="metric='l1'"):
        evaluate(torch.ones(1, 2), torch.ones(2, 2), metric="l1", **names)
    with pytest.raises(ValueError, match="same model"):
        evaluate(torch.ones(1, 2), torch.ones(2, 3), **names)


def test_normalised_features_rank_alike_by_every_metric():
    query, gallery, names = features(40, 300, dtype=torch.float64)
    unit = l2_normalize(query), l2_normalize(gallery)
    expected = evaluate(*unit, metric="cosine", **names)
    for metric in ("euclidean", "squared"):
        same(evaluate(*unit, metric=metric, **names), expected)
