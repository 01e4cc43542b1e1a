"""Thresholds and error rates: six pairs by hand, scikit-learn's curve, and the cases at the ends."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from reidlab.evaluation import evaluate_distances
from reidlab.evaluation.calibration import calibrate


def pairs(positives, negatives, **kwargs):
    """Calibrate on given distances: two queries of one image each, whose partners are all in the gallery."""
    distances = torch.tensor([[*positives, *negatives]], dtype=torch.float64)
    pids = [1] * len(positives) + [2] * len(negatives)
    return calibrate(
        distances, query_pids=[1], gallery_pids=pids, query_camids=[1], gallery_camids=[2] * len(pids), **kwargs
    )


def crowd(num_queries=30, num_gallery=50, identities=8, seed=0, decimals=None):
    """Distances that are smaller for the same person, with labels; identity -1 and absent people are among them."""
    generator = np.random.default_rng(seed)
    labels = {
        "query_pids": generator.integers(0, identities + 2, num_queries),
        "gallery_pids": generator.integers(-1, identities, num_gallery),
        "query_camids": generator.integers(0, 3, num_queries),
        "gallery_camids": generator.integers(0, 3, num_gallery),
    }
    same = labels["query_pids"][:, None] == labels["gallery_pids"]
    distances = generator.normal(1.0, 0.3, same.shape) - 0.5 * same
    return (distances if decimals is None else distances.round(decimals)), labels


def listed(distances, labels, same_camera="exclude"):
    """The pairs that count, one at a time: (distances of one person, of different people)."""
    right, wrong = [], []
    for q, row in enumerate(distances):
        for g, distance in enumerate(row):
            if labels["gallery_pids"][g] == -1:
                continue
            if labels["query_pids"][q] != labels["gallery_pids"][g]:
                wrong.append(distance)
            elif same_camera == "keep" or labels["query_camids"][q] != labels["gallery_camids"][g]:
                right.append(distance)
    return np.array(right), np.array(wrong)


def test_six_pairs_by_hand():
    """Right pairs at 1, 3, 5 and impostors at 2, 4, 6."""
    result = pairs([1, 3, 5], [2, 4, 6], false_accept_rate=1 / 3, bins=5)
    # 3 accepts the impostor at 2; 4 would be the second of three
    assert (result.threshold, result.false_accept_rate, result.true_accept_rate) == (3.0, 1 / 3, 2 / 3)
    # at 3 a third of the right pairs is rejected and a third of the impostors accepted
    assert result.equal_error_rate == pytest.approx(1 / 3) and result.equal_error_threshold == pytest.approx(3)
    assert result.bin_edges.tolist() == [1, 2, 3, 4, 5, 6]
    assert result.positives.tolist() == [1, 0, 1, 0, 1] and result.negatives.tolist() == [0, 1, 0, 1, 1]
    assert (result.num_positives, result.num_negatives) == (3, 3)


def test_a_rate_that_a_product_rounds_down():
    assert pairs([0.5], range(1, 101), false_accept_rate=0.29).false_accept_rate == 0.29  # 0.29 · 100 = 28.999…


@pytest.mark.parametrize(
    ("positives", "negatives", "rate", "threshold", "true_accepts", "error_rate", "error_threshold"),
    [
        ([1, 2], [7, 9], 0, 2, 1, 0, 2),  # separated
        ([7, 9], [1, 2], 0.5, 1, 0, 1, None),  # in the wrong order
        (range(1, 101), range(1, 101), 0.2, 20, 0.2, 0.5, 50),  # the same on both sides
        ([1, 3], [2, 3, 3, 4], 0.5, 2, 0.5, None, None),  # tied pairs are accepted together or not at all
        # from 2 to 3 accepted impostors go from 0 to 1/2, and 1/3 of the right pairs is rejected: 2/3 of the way
        ([1, 2, 5], [3, 4], 0, 2, 2 / 3, 1 / 3, 2 + 2 / 3),
    ],
)
def test_more_by_hand(positives, negatives, rate, threshold, true_accepts, error_rate, error_threshold):
    result = pairs(positives, negatives, false_accept_rate=rate)
    assert (result.threshold, result.true_accept_rate) == (threshold, pytest.approx(true_accepts))
    if error_rate is not None:
        assert result.equal_error_rate == pytest.approx(error_rate)
    if error_threshold is not None:
        assert result.equal_error_threshold == pytest.approx(error_threshold)


def test_constant_distances():
    """Nothing distinguishes the pairs: accept all or none."""
    result = pairs([1, 1], [1, 1, 1], false_accept_rate=0.5)
    assert result.threshold < 1 and result.threshold == np.nextafter(1, 0)
    assert (result.false_accept_rate, result.true_accept_rate, result.equal_error_rate) == (0, 0, 0.5)
    assert result.positives.sum() == 2 and result.negatives.sum() == 3


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_is_scikit_learns_curve(data):
    """Ties included: distances are drawn from few values."""
    values = st.lists(st.integers(0, 12), min_size=1, max_size=30)
    right, wrong = data.draw(values), data.draw(values)
    rate = data.draw(st.integers(0, len(wrong) - 1)) / len(wrong)
    result = pairs(right, wrong, false_accept_rate=rate)
    accepted, found, at = roc_curve(
        [1] * len(right) + [0] * len(wrong), -np.array(right + wrong, dtype=float), drop_intermediate=False
    )
    allowed = np.flatnonzero(accepted <= rate + 1e-12)
    assert result.true_accept_rate == pytest.approx(found[allowed].max())
    assert result.false_accept_rate == pytest.approx(accepted[allowed[-1]])
    if allowed[-1]:
        assert result.threshold == -at[allowed[-1]]
    # the equal error rate lies on the line through the curve's points
    grid = accepted - (1 - found)
    k = int((grid >= -1e-12).argmax())
    part = -grid[k - 1] / (grid[k] - grid[k - 1])
    assert result.equal_error_rate == pytest.approx(accepted[k - 1] + part * (accepted[k] - accepted[k - 1]))


@pytest.mark.parametrize("same_camera", ["exclude", "keep"])
@pytest.mark.parametrize("decimals", [None, 1])
def test_pairs_are_those_that_count(same_camera, decimals):
    distances, labels = crowd(decimals=decimals)
    distances = distances + 1  # with "keep", distances next to 0 are refused: queries that find themselves
    right, wrong = listed(distances, labels, same_camera)
    result = calibrate(distances, **labels, false_accept_rate=0.1, same_camera=same_camera)
    assert (result.num_positives, result.num_negatives) == (len(right), len(wrong))
    candidates = np.unique(np.concatenate([right, wrong]))
    threshold = max(t for t in candidates if (wrong <= t).mean() <= 0.1)
    assert result.threshold == threshold
    assert result.false_accept_rate == pytest.approx((wrong <= threshold).mean())
    assert result.true_accept_rate == pytest.approx((right <= threshold).mean())
    for counts, values in ((result.positives, right), (result.negatives, wrong)):
        np.testing.assert_array_equal(counts, np.histogram(values, result.bin_edges)[0])
        assert counts.sum() == len(values) and len(counts) == 50


@pytest.mark.parametrize("rows", [1, 7, 30])
def test_blocks_give_what_the_matrix_gives(rows):
    distances, labels = crowd()
    whole = calibrate(distances, **labels)
    blocks = (distances[start : start + rows] for start in range(0, len(distances), rows))
    parts = calibrate(blocks, **labels)
    assert str(parts) == str(whole)
    for name in ("positives", "negatives", "bin_edges", "nearest_right", "nearest_wrong", "found"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_order_does_not_matter_and_scale_moves_the_threshold():
    distances, labels = crowd()
    whole = calibrate(distances, **labels)
    rows, columns = np.random.default_rng(1).permutation(30), np.random.default_rng(2).permutation(50)
    shuffled = {name: value[rows if "query" in name else columns] for name, value in labels.items()}
    assert str(calibrate(distances[rows][:, columns], **shuffled)) == str(whole)
    scaled = calibrate(4 * distances, **labels)
    assert scaled.threshold == 4 * whole.threshold and scaled.true_accept_rate == whole.true_accept_rate
    assert scaled.equal_error_rate == whole.equal_error_rate


@pytest.mark.parametrize("absent", ["removed", "given"])
@pytest.mark.parametrize("decimals", [None, 1, 0])  # with 0 most of the nearest are tied
def test_open_set_rates_query_by_query(absent, decimals):
    distances, labels = crowd(decimals=decimals)
    result = calibrate(distances, **labels)
    thresholds = np.unique(distances)[:: max(1, len(np.unique(distances)) // 50)]
    found, alarms, present, gone = np.zeros(len(thresholds)), np.zeros(len(thresholds)), 0, 0
    for q, row in enumerate(distances):
        same = labels["gallery_pids"] == labels["query_pids"][q]
        kept = ~(same & (labels["gallery_camids"] == labels["query_camids"][q])) & (labels["gallery_pids"] != -1)
        others = row[kept & ~same]
        if (same & kept).any():
            present += 1
            best = min(np.flatnonzero(kept), key=lambda g, row=row: (row[g], g))
            found += same[best] & (row[best] <= thresholds)
        if absent == "removed" or not (same & kept).any():
            gone += 1
            alarms += others.min() <= thresholds
    rates = result.open_set(thresholds, absent=absent)
    assert (rates.num_present, rates.num_absent) == (present, gone) and gone and 0 < present < len(distances)
    np.testing.assert_allclose(rates.detection_identification_rate, found / present)
    np.testing.assert_allclose(rates.false_alarm_rate, alarms / gone)
    assert (np.diff(rates.false_alarm_rate) >= 0).all()


def test_open_set_without_a_limit_is_rank_one():
    distances, labels = crowd(decimals=0)
    result = calibrate(distances, **labels)
    rates = result.open_set(np.inf)
    assert rates.detection_identification_rate[0] == pytest.approx(evaluate_distances(distances, **labels).rank1)
    assert rates.false_alarm_rate[0] == 1
    assert result.open_set(-1.0).false_alarm_rate[0] == 0


def test_open_set_at_the_threshold_itself_and_along_the_bins():
    distances, labels = crowd()
    result = calibrate(distances, **labels)
    one, curve = result.open_set(), result.open_set(torch.from_numpy(result.bin_edges))
    assert one.thresholds.tolist() == [result.threshold] and len(curve.thresholds) == 51


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"false_accept_rate": 1.0}, r"false_accept_rate=1.0: expected a share in \[0, 1\), such as 0.01 for 1 %"),
        (
            {"false_accept_rate": 1e-4},
            "needs at least 10,000 pairs of different people to be measured, got 1,162. Ask for 1/1162 ",
        ),
        ({"same_camera": "maybe"}, "same_camera='maybe': expected one of exclude, keep"),
        ({"bins": 0}, "bins=0"),
        ({"distmat": np.full((30, 50), np.inf)}, "NaN or infinity for query 0"),
        ({"distmat": np.zeros(30)}, r"got shape \(30,\), expected \(Q, G\)"),
        ({"distmat": np.zeros((30, 51))}, r"gallery_pids: got shape \(50,\), expected \(51,\)"),
        ({"distmat": [np.zeros((20, 50))]}, "got 20 rows in all, expected 30"),
        ({"query_pids": np.full(30, 99)}, "no identity is in both query and gallery"),
        ({"gallery_pids": np.full(50, -1)}, "no identity is in both query and gallery"),
        ({"query_camids": np.zeros(30, int), "gallery_camids": np.zeros(50, int)}, "never in another camera"),
        ({"query_pids": np.ones(30, int), "gallery_pids": np.ones(50, int)}, "no pair of different people"),
    ],
)
def test_errors(changes, message):
    distances, labels = crowd()
    with pytest.raises(ValueError, match=message):
        calibrate(**{"distmat": distances, **labels, **changes})


def test_open_set_errors():
    result = pairs([1, 3, 5], [2, 4, 6], false_accept_rate=0)
    with pytest.raises(ValueError, match="all 1 queries have a match in the gallery"):
        result.open_set(absent="given")
    with pytest.raises(ValueError, match="absent='gone': expected one of removed, given"):
        result.open_set(absent="gone")
    with pytest.raises(ValueError, match="thresholds: got shape"):
        result.open_set([np.nan])
