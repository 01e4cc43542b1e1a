import numpy as np
import pytest
import torch
from evaluation_reference import brute_force, labels
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlab.evaluation import RULES, evaluate, evaluate_distances
from reidlab.evaluation.rules import SAMPLED, GallerySampler

# A query of person 1 in camera 1 and six gallery images, nearest first, worked by hand below.
SIX = labels([1], [2, 1, 3, 1, 2, 1], [1], [1, 1, 2, 2, 2, 2])
SIX_DISTANCES = np.arange(6.0)[None]


@pytest.mark.parametrize(
    ("rule", "curve"),
    [
        ("market", [0, 0, 1, 1]),  # list: 2 3 [1] 2 [1]; the image at rank 2 is junk
        ("allshots", [0, 0, 0.5, 1]),  # two wrong before the one, three before the other
        ("cuhk03_torchreid", [0, 0.25, 1, 1]),  # of 2×2 draws, only [near 1, far 2] leaves one wrong before the right
        ("cuhk03_open_reid", [0, 0.5, 1, 1]),  # camera 1 is out: 3 [1] 2 [1]; the near 1 is second, the far 1 third
    ],
)
def test_six_images_under_four_rules(rule, curve):
    result = evaluate_distances(SIX_DISTANCES, rule=rule, repeats=4000, **SIX)
    assert result.cmc[:4] == pytest.approx(curve, abs=0.03 if rule in SAMPLED else 1e-12)
    assert result.mean_ap == pytest.approx((1 / 3 + 2 / 5) / 2)  # on the full list, whatever the rule
    assert result.mean_inp == pytest.approx(2 / 5)
    assert result.first_hit.tolist() == [3]


def random_case(seed, images=14, people=4):
    rng = np.random.default_rng(seed)
    num_queries, num_gallery = rng.integers(1, 8), rng.integers(2, images)
    distmat = rng.integers(0, 12, (num_queries, num_gallery)) / 4.0  # many ties
    values = (
        rng.integers(0, people, num_queries), rng.integers(-1, people, num_gallery),
        rng.integers(1, 4, num_queries), rng.integers(1, 4, num_gallery),
    )  # fmt: skip
    return distmat, values


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.sampled_from(["market", "allshots"]), st.sampled_from(["exclude", "keep"]))
def test_lists_and_curves_equal_plain_loops(seed, rule, same_camera):
    distmat, values = random_case(seed, images=40)
    distmat = distmat + 1  # with "keep", distances next to 0 are refused: queries that find themselves
    curve, lists = brute_force(rule, distmat, *values, same_camera)
    if curve is None:
        with pytest.raises(ValueError, match="has a match to find"):
            evaluate_distances(distmat, rule=rule, same_camera=same_camera, **labels(*values))
        return
    result = evaluate_distances(distmat, rule=rule, same_camera=same_camera, **labels(*values))
    assert result.cmc == pytest.approx(curve, abs=1e-12)
    found = (result.average_precision, result.average_precision_trapezoid, result.inverse_negative_penalty)
    for expected, got in zip(lists, zip(*found, strict=True), strict=True):
        assert np.isnan(got).all() if expected is None else got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("rule", SAMPLED)
@pytest.mark.parametrize("seed", range(4))
def test_sampled_curves_tend_to_the_mean_over_all_draws(rule, seed):
    distmat, values = random_case(seed)
    curve, _ = brute_force(rule, distmat, *values)
    result = evaluate_distances(distmat, rule=rule, repeats=3000, **labels(*values))
    assert result.cmc == pytest.approx(curve, abs=0.04)  # 4 standard errors of one query


def test_draws_are_even_and_leave_out_what_the_rule_says():
    pids, camids = np.array([7, 7, 7, 5, 5, -1, 9]), np.array([1, 2, 2, 1, 2, 2, 1])
    sampler = GallerySampler("cuhk03_torchreid", pids, camids, 6000, seed=1)
    drawn, own = sampler.draw(query_camid=1, right=np.array([1, 2]))
    assert pids[drawn[0]].tolist() == [5, 7, 9] and own == 1
    counts = np.bincount(drawn.ravel(), minlength=7) / 6000
    assert counts == pytest.approx([0, 0.5, 0.5, 0.5, 0.5, 0, 1], abs=0.03)
    other = GallerySampler("cuhk03_open_reid", pids, camids, 10, seed=1).draw(1, np.array([1, 2]))[0]
    assert set(other.ravel()) == {1, 2, 4}  # camera 1 and with it person 9 are gone


def test_draws_depend_on_the_seed_and_on_nothing_else():
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(30, 4, generator=generator), torch.randn(90, 4, generator=generator)
    names = labels(np.arange(30) % 10, np.arange(90) % 10, np.ones(30, int), np.full(90, 2))
    options = {"rule": "cuhk03_torchreid", "repeats": 3}
    first = evaluate(query, gallery, seed=5, **options, **names)
    again = evaluate(query, gallery, seed=5, chunk_size=7, **options, **names)
    other = evaluate(query, gallery, seed=6, **options, **names)
    assert np.array_equal(first.cmc, again.cmc) and not np.array_equal(first.cmc, other.cmc)
    assert (first.repeats, first.seed) == (3, 5)
    assert "(3 draws, seed 5)" in str(first)
    assert (first.scores()["repeats"], first.scores()["seed"]) == (3, 5)
    assert np.array_equal(first.average_precision, other.average_precision)


@pytest.mark.parametrize("rule", RULES)
def test_rank1_is_the_mean_of_its_credits(rule):
    distmat, values = random_case(3, images=40)
    result = evaluate_distances(distmat, rule=rule, **labels(*values))
    assert np.nanmean(result.rank1_credit) == pytest.approx(result.rank1)
    assert result.cmc[-1] == pytest.approx(1.0) and (np.diff(result.cmc) >= 0).all()
    assert len(result.cmc) == distmat.shape[1]
    short = evaluate_distances(distmat, rule=rule, max_rank=3, **labels(*values))
    assert np.array_equal(short.cmc, result.cmc[:3])


def test_one_camera_needs_keep():
    names = labels([1, 2], [1, 2, 2], [1, 1], [1, 1, 1])
    distmat = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3]])
    with pytest.raises(ValueError, match=r"all images are from one camera; check camids, or pass same_camera=\"keep\""):
        evaluate_distances(distmat, **names)
    result = evaluate_distances(distmat, same_camera="keep", **names)
    assert result.average_precision.tolist() == pytest.approx([1.0, (1 / 2 + 2 / 3) / 2])
    assert "own camera kept" in str(result) and result.scores()["same_camera"] == "keep"
