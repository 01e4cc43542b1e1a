import itertools
import warnings

import numpy as np
import pytest
import torch
from evaluation_reference import average_precisions, curve_of, labels

from reidlab.evaluation import ChanceLevelWarning, evaluate, evaluate_distances
from reidlab.evaluation.scores import MIN_IDENTITIES, expected_average_precision, expected_rank1


@pytest.mark.parametrize(("kept", "right"), [(1, 1), (5, 1), (7, 3), (9, 8), (6, 6)])
def test_expected_scores_are_the_mean_over_all_orders(kept, right):
    orders = [[k in places for k in range(kept)] for places in itertools.combinations(range(kept), right)]
    mean_ap = np.mean([average_precisions(order)[0] for order in orders])
    assert expected_average_precision(kept, right) == pytest.approx(mean_ap, abs=1e-12)
    for rule, every in (("market", False), ("allshots", True)):
        rank1 = np.mean([curve_of(order, True, kept, every)[0] for order in orders])
        assert expected_rank1(rule, kept, right, 0) == pytest.approx(rank1, abs=1e-12)


def people(num_people, num_queries=2, num_gallery=5, noise=1e9, seed=0):
    """Query features in camera 1, gallery features in cameras 1 and 2; noise 1e9 leaves nothing of the person."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(num_people, 8, generator=generator)
    query_pids = torch.arange(num_people).repeat(num_queries)
    gallery_pids = torch.arange(num_people).repeat(num_gallery)
    parts = (centres[p] + noise * torch.randn(len(p), 8, generator=generator) for p in (query_pids, gallery_pids))
    camids = torch.ones(len(query_pids)), torch.arange(len(gallery_pids)) // num_people % 2 + 1
    return *parts, labels(query_pids, gallery_pids, *camids)


@pytest.mark.parametrize("rule", ["market", "cuhk03_open_reid", "cuhk03_torchreid", "allshots"])
def test_random_features_score_what_is_expected(rule):
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ChanceLevelWarning)
        for seed in range(150):
            query, gallery, names = people(30, seed=seed)
            results.append(evaluate(query, gallery, rule=rule, **names))
    chance = results[0].chance
    for name, values in (("rank1", [r.rank1 for r in results]), ("mean_ap", [r.mean_ap for r in results])):
        error = np.std(values) / np.sqrt(len(values))
        assert np.mean(values) == pytest.approx(chance[name], abs=4 * error) and error < 0.1 * chance[name]
    assert np.mean([r.at_chance for r in results]) > 0.95


def test_random_features_are_warned_of_where_evaluate_was_called():
    query, gallery, names = people(60)
    with pytest.warns(
        ChanceLevelWarning, match=r"is not significantly above chance \(2\..*weights that were not loaded"
    ) as seen:
        result = evaluate(query, gallery, **names)
    assert result.at_chance and seen[0].filename == __file__
    with pytest.warns(ChanceLevelWarning) as seen:
        evaluate_distances(torch.rand(120, 300, generator=torch.Generator().manual_seed(0)), **names)
    assert seen[0].filename == __file__


def test_a_gain_from_the_order_of_the_gallery_alone_is_warned_of():
    """Equal distances list the gallery as it is; with distractors at its end that is surely better than chance."""
    people = np.random.default_rng(0).permutation(np.arange(1, 401).repeat(10))
    gallery_pids = np.concatenate([people, np.zeros(2000, int)])
    names = labels(np.arange(1, 401), gallery_pids, [1] * 400, [2] * 6000)
    with pytest.warns(ChanceLevelWarning):
        result = evaluate_distances(np.zeros((400, 6000)), **names)
    assert result.mean_ap > 1.2 * result.chance["mean_ap"]


@pytest.mark.filterwarnings("error")
def test_no_false_alarm():
    for noise in (0.1, 1.0, 1.5):  # down to a mean AP of about 0.2 where chance is 0.06
        for seed in range(10):
            query, gallery, names = people(MIN_IDENTITIES + 10, noise=noise, seed=seed)
            assert not evaluate(query, gallery, **names).at_chance
    for seed in range(10):  # too few people to say anything, even where all is random
        query, gallery, names = people(MIN_IDENTITIES - 1, num_queries=3, seed=seed)
        assert not evaluate(query, gallery, **names).at_chance


def test_one_person_many_times_is_one_person():
    """Forty queries of two people: what looks like a run of failures is two failures."""
    rng = np.random.default_rng(0)
    names = labels([1, 2] * 20, [1, 2, *range(3, 40)], [1] * 40, [2] * 39)
    assert not evaluate_distances(rng.random((40, 39)), **names).at_chance


def test_interval_is_that_of_the_mean():
    query, gallery, names = people(100, num_queries=1, noise=0.8)
    result = evaluate(query, gallery, **names)
    for name, values, score in (
        ("mean_ap", result.average_precision, result.mean_ap),
        ("mean_ap_trapezoid", result.average_precision_trapezoid, result.mean_ap_trapezoid),
        ("mean_inp", result.inverse_negative_penalty, result.mean_inp),
        ("rank1", result.rank1_credit, result.rank1),
    ):
        low, high = result.interval(name, samples=4000)
        half = 1.96 * values.std() / np.sqrt(100)
        assert (low, high) == pytest.approx((score - half, score + half), abs=0.15 * half)
    assert result.interval("mean_ap") == result.interval("mean_ap") != result.interval("mean_ap", seed=1)
    narrow, wide = result.interval("mean_ap", level=0.5), result.interval("mean_ap", level=0.99)
    assert wide[0] < narrow[0] < result.mean_ap < narrow[1] < wide[1]


def test_interval_over_people_is_wider_where_their_queries_are_alike():
    query, gallery, names = people(50, num_queries=1, noise=0.8)
    four_times = {key: value.repeat(4) if key.startswith("query") else value for key, value in names.items()}
    once, repeated = evaluate(query, gallery, **names), evaluate(query.repeat(4, 1), gallery, **four_times)
    width = {
        "once": np.diff(once.interval("mean_ap", samples=3000))[0],
        "queries": np.diff(repeated.interval("mean_ap", samples=3000))[0],
        "identities": np.diff(repeated.interval("mean_ap", samples=3000, over="identities"))[0],
    }
    assert width["queries"] == pytest.approx(width["once"] / 2, rel=0.1)
    assert width["identities"] == pytest.approx(width["once"], rel=0.1)


def test_interval_refuses_what_it_does_not_know():
    query, gallery, names = people(5, noise=0.1)
    result = evaluate(query, gallery, **names)
    with pytest.raises(ValueError, match="'map': expected one of rank1, mean_ap"):
        result.interval("map")
    with pytest.raises(ValueError, match="level=95, samples=1000: expected a level in"):
        result.interval("rank1", level=95)
    with pytest.raises(ValueError, match="samples=0"):
        result.interval("rank1", samples=0)
    with pytest.raises(ValueError, match="expected queries or identities"):
        result.interval("rank1", over="cameras")
