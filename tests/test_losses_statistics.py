import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_losses_triplet import METRICS, PAIRS, SIX, draw, tables

from reidlab.losses import triplet_loss, triplet_statistics


def test_six_points_by_hand():
    # the positive, then the four negatives, of 0: 2 | 1 5 6 9, of 2: 2 | 1 3 4 7, of 1: 5 | 1 1 4 8,
    # of 6: 5 | 1 3 4 6, of 5: 4 | 1 3 4 5, of 9: 4 | 3 7 8 9
    found = triplet_statistics(SIX, PAIRS, margin=1.5)
    assert (found.num_anchors, found.num_triplets) == (6, 24)
    assert found.hard * 24 == pytest.approx(1 + 1 + 3 + 3 + 3 + 1)  # a tie, as of 5, is hard
    assert found.semi_hard * 24 == pytest.approx(0 + 1 + 0 + 1 + 1 + 0)
    assert found.easy * 24 == pytest.approx(3 + 2 + 1 + 0 + 0 + 3)
    assert found.active * 24 == pytest.approx(15)
    assert found.active_anchors == 1
    assert found.hardest_positive == pytest.approx((2 + 2 + 5 + 5 + 4 + 4) / 6)
    assert found.hardest_negative == pytest.approx((1 + 1 + 1 + 1 + 1 + 3) / 6)
    assert found.mean_distance == pytest.approx(63 / 15)  # of the 15 pairs


def test_a_triplet_that_just_keeps_the_margin_is_easy():
    found = triplet_statistics(SIX, PAIRS, margin=1.0)  # the three semi-hard ones keep exactly 1
    assert (found.semi_hard, found.easy) == (0, 0.5)


def test_soft_margin_counts_as_none():
    assert triplet_statistics(SIX, PAIRS, None) == triplet_statistics(SIX, PAIRS, 0)
    assert triplet_statistics(SIX, PAIRS, None).semi_hard == 0


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 3), min_size=2, max_size=9),
    st.sampled_from([0.0, 0.3, 1.2]),
    st.sampled_from(METRICS),
)
def test_counts_equal_the_loop_for_any_mix_of_labels(seed, pids, margin, metric):
    features, labels = draw(seed, len(pids)), torch.tensor(pids)
    found = triplet_statistics(features, labels, margin, metric)
    anchors = list(tables(features.tolist(), pids, metric))
    gaps = [p - n for positives, negatives in anchors for p in positives for n in negatives]
    assert (found.num_anchors, found.num_triplets) == (len(anchors), len(gaps))
    if not gaps:
        assert found.easy == found.semi_hard == found.hard == found.active_anchors == found.hardest_positive == 0
        return
    share = {
        "hard": sum(gap >= 0 for gap in gaps) / len(gaps),
        "semi_hard": sum(-margin < gap < 0 for gap in gaps) / len(gaps),
        "easy": sum(gap <= -margin and gap < 0 for gap in gaps) / len(gaps),
        "active_anchors": sum(max(p) - min(n) > -margin for p, n in anchors) / len(anchors),
        "hardest_positive": sum(max(p) for p, _ in anchors) / len(anchors),
        "hardest_negative": sum(min(n) for _, n in anchors) / len(anchors),
    }
    assert {name: getattr(found, name) for name in share} == pytest.approx(share, abs=1e-6)
    assert found.easy + found.semi_hard + found.hard == pytest.approx(1)
    assert (found.active_anchors > 0) == (triplet_loss(features, labels, margin, metric=metric).item() > 0)


def test_collapse_shows_in_the_mean_distance():
    collapsed = triplet_statistics(torch.ones(6, 4), PAIRS)
    assert collapsed.mean_distance == 0 and collapsed.active == 1
    assert triplet_statistics(torch.ones(1, 4), PAIRS[:1]).mean_distance == 0


def test_no_graph_is_kept_and_all_are_numbers():
    found = triplet_statistics(draw(0, 6).requires_grad_(), PAIRS)
    assert {type(value) for value in vars(found).values()} == {int, float}


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="expected one pid a row"):
        triplet_statistics(SIX, PAIRS[:5])
    with pytest.raises(ValueError, match=r"margin=-1"):
        triplet_statistics(SIX, PAIRS, -1)
    with pytest.raises(ValueError, match="metric='dot'"):
        triplet_statistics(SIX, PAIRS, metric="dot")
