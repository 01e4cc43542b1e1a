import itertools
import logging
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlab.distances import euclidean_distance
from reidlab.losses import MININGS, choose_triplets, triplet_loss, triplet_statistics

METRICS = ("euclidean", "squared", "cosine")
SURE = tuple(mining for mining in MININGS if mining != "random")
SEEDS = st.integers(0, 10_000)
LABELS = st.lists(st.integers(0, 3), min_size=1, max_size=9)
MARGINS = st.sampled_from([0.0, 0.3, 1.2, None])


def draw(seed, rows, dims=5, dtype=torch.float64):
    return torch.randn(rows, dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def distance(u, v, metric):
    if metric == "cosine":
        return 1 - sum(a * b for a, b in zip(u, v, strict=True)) / (math.hypot(*u) * math.hypot(*v))
    return math.dist(u, v) ** (2 if metric == "squared" else 1)


def term(gap, margin):
    return math.log1p(math.exp(gap)) if margin is None else max(0.0, gap + margin)


def tables(features, pids, metric):
    """For every anchor that counts, the distances to its positives and to its negatives."""
    for a in range(len(pids)):
        to = [distance(features[a], other, metric) for other in features]
        positives = [to[p] for p in range(len(pids)) if pids[p] == pids[a] and p != a]
        negatives = [to[n] for n in range(len(pids)) if pids[n] != pids[a]]
        if positives and negatives:
            yield positives, negatives


def loop(features, pids, margin, mining, metric):
    """The losses as one would write them with pencil and paper."""
    terms = []
    for positives, negatives in tables(features, pids, metric):
        if mining == "batch_hard":
            terms.append(term(max(positives) - min(negatives), margin))
        for p in positives:
            if mining == "batch_all":
                terms += [term(p - n, margin) for n in negatives]
            if mining == "semi_hard":
                beyond = [n for n in negatives if n > p]
                terms.append(term(p - (min(beyond) if beyond else max(negatives)), margin))
    if mining == "batch_all":
        terms = [value for value in terms if value > 0]
    return sum(terms) / len(terms) if terms else 0.0


@settings(deadline=None)
@given(SEEDS, LABELS, MARGINS, st.sampled_from(SURE), st.sampled_from(METRICS))
def test_equals_the_loop_for_any_mix_of_labels(seed, pids, margin, mining, metric):
    features = draw(seed, len(pids))
    expected = loop(features.tolist(), pids, margin, mining, metric)
    found = triplet_loss(features, torch.tensor(pids), margin, mining, metric)
    assert found.item() == pytest.approx(expected, abs=1e-9)


def test_random_makes_every_choice_equally_often():
    features, pids = draw(0, 5), torch.tensor([1, 1, 1, 2, 2])
    options = [
        [p - n for p in positives for n in negatives]
        for positives, negatives in tables(features.tolist(), pids.tolist(), "euclidean")
    ]
    values = sorted(sum(term(gap, None) for gap in gaps) / 5 for gaps in itertools.product(*options))
    generator = torch.Generator().manual_seed(0)
    drawn = [triplet_loss(features, pids, None, "random", generator=generator).item() for _ in range(2000)]
    nearest = [min(range(len(values)), key=lambda i, value=value: abs(values[i] - value)) for value in drawn[:300]]
    assert all(abs(values[i] - value) < 1e-9 for i, value in zip(nearest, drawn, strict=False))
    assert sum(drawn) / 2000 == pytest.approx(sum(values) / len(values), rel=0.01)  # 4 of its standard errors
    # of the person at 0, 1, 2 and 4, only the image at 4 comes within 95 of the negative: 4, 3 or 2 - 96 + 95
    line, people = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]]), torch.tensor([1, 1, 1, 1, 2])
    seen = Counter(round(4 * triplet_loss(line, people, 95, "random", generator=generator).item()) for _ in range(600))
    assert set(seen) == {1, 2, 3} and min(seen.values()) > 150  # 200 each, give or take 12


def test_random_is_repeated_by_its_generator_and_refused_without():
    features, pids = draw(0, 12), torch.arange(12) % 4
    once, again, other = (
        triplet_loss(features, pids, None, "random", generator=torch.Generator().manual_seed(seed)).item()
        for seed in (0, 0, 1)
    )
    assert once == again != other
    state = torch.random.get_rng_state()
    triplet_loss(features, pids, None, "random", generator=torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.random.get_rng_state())  # the global generator is left alone
    with pytest.raises(ValueError, match=r"mining='random' .* pass generator="):
        triplet_loss(features, pids, mining="random")


SIX, PAIRS = torch.tensor([[0.0], [2.0], [1.0], [6.0], [5.0], [9.0]]), torch.tensor([1, 1, 2, 2, 3, 3])


@pytest.mark.parametrize(
    "mining, expected",
    [
        # (positive, nearest negative) of 0, 2, 1, 6, 5, 9: (2,1) (2,1) (5,1) (5,1) (4,1) (4,3): gaps 1 1 4 4 3 1
        ("batch_hard", (14 + 6 * 1.5) / 6),
        # terms > 0 of 0: 2.5; of 2: 2.5 .5; of 1: 5.5 5.5 2.5; of 6: .5 2.5 5.5 3.5; of 5: .5 2.5 1.5 4.5; of 9: 2.5
        ("batch_all", 42.5 / 15),
        # nearest beyond the positive: (2,5) (2,3) (5,8) (5,6) (4,5) (4,7)
        ("semi_hard", 3 * 0.5 / 6),
    ],
)
def test_six_points_by_hand(mining, expected):
    assert triplet_loss(SIX, PAIRS, margin=1.5, mining=mining).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "mining, expected",
    [
        # at 0, 2 | 1, 6 | 5, 9: the columns are anchor, positive, negative
        ("batch_hard", [(0, 1, 2), (1, 0, 2), (2, 3, 0), (3, 2, 4), (4, 5, 3), (5, 4, 3)]),
        ("semi_hard", [(0, 1, 4), (1, 0, 4), (2, 3, 5), (3, 2, 0), (4, 5, 0), (5, 4, 1)]),
        ("batch_all", [(a, a ^ 1, n) for a in range(6) for n in range(6) if n // 2 != a // 2]),
    ],
)
def test_chosen_triplets_of_six_points_by_hand(mining, expected):
    chosen = choose_triplets(euclidean_distance(SIX), PAIRS, mining)
    assert [tuple(row) for row in chosen.tolist()] == expected


@settings(deadline=None)
@given(SEEDS, LABELS, st.sampled_from(MININGS))
def test_chosen_triplets_are_valid_and_every_anchor_that_can_be_has_its_own(seed, pids, mining):
    distances = euclidean_distance(draw(seed, len(pids)))
    chosen = choose_triplets(distances, torch.tensor(pids), mining, torch.Generator().manual_seed(seed)).tolist()
    for a, p, n in chosen:
        assert a != p and pids[a] == pids[p] and pids[a] != pids[n]
    positives = {a: pids.count(pid) - 1 for a, pid in enumerate(pids) if 1 < pids.count(pid) < len(pids)}
    negatives = {a: len(pids) - 1 - count for a, count in positives.items()}
    times = {"batch_all": lambda a: positives[a] * negatives[a], "semi_hard": lambda a: positives[a]}.get(mining)
    assert Counter(a for a, _, _ in chosen) == {a: times(a) if times else 1 for a in positives}
    assert len({tuple(row) for row in chosen}) == len(chosen)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("margin", [0.3, None])
@pytest.mark.parametrize("mining", MININGS)
def test_gradient_is_right(mining, margin, metric):
    features, pids = draw(0, 7, 3).requires_grad_(), torch.tensor([0, 0, 0, 1, 1, 2, 3])

    def loss(features):
        return triplet_loss(features, pids, margin, mining, metric, torch.Generator().manual_seed(0))

    assert loss(features) > 0
    assert torch.autograd.gradcheck(loss, features)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("pids", [[1, 1, 1], [1, 2, 3], [4]])
def test_without_a_triplet_the_loss_is_zero_has_a_graph_and_warns(pids, mining, caplog):
    features = draw(0, len(pids)).requires_grad_()
    with caplog.at_level(logging.WARNING, "reidlab.losses"):
        loss = triplet_loss(features, torch.tensor(pids), mining=mining, generator=torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.item() == 0 and torch.equal(features.grad, torch.zeros_like(features))
    (record,) = caplog.records
    assert record.name == "reidlab.losses"
    assert f"{len(pids)} images of {len(set(pids))} identities" in record.getMessage()


@pytest.mark.parametrize("mining", MININGS)
def test_features_in_one_point_give_the_margin_or_ln_2_and_no_gradient_that_is_not_finite(mining):
    for margin, expected in ((0.3, 0.3), (None, math.log(2))):
        features = torch.ones(6, 4, requires_grad=True)
        loss = triplet_loss(features, PAIRS, margin, mining, generator=torch.Generator().manual_seed(0))
        loss.backward()
        assert loss.item() == pytest.approx(expected) and not features.grad.any()


@pytest.mark.parametrize("mining", SURE)
def test_half_precision_and_autocast_are_computed_in_float32(mining):
    features, pids = draw(0, 12, 64, torch.bfloat16), torch.arange(12) % 4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = triplet_loss(features, pids, mining=mining)
    assert found.dtype == torch.float32 and found == triplet_loss(features.float(), pids, mining=mining)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"distances: got shape \(2, 3\) for 2 pids"):
        choose_triplets(torch.ones(2, 3), torch.tensor([1, 2]))
    pids = torch.tensor([1, 1, 2])
    with pytest.raises(ValueError, match=r"got \(2,\) pids for features \(3, 2\), expected one pid a row"):
        triplet_loss(torch.ones(3, 2), torch.tensor([1, 2]))
    for margin in (-0.1, math.nan):
        with pytest.raises(ValueError, match=rf"margin={margin}: expected a number ≥ 0, or None"):
            triplet_loss(torch.ones(3, 2), pids, margin)
    with pytest.raises(ValueError, match="mining='hard': expected one of batch_hard, batch_all, semi_hard, random"):
        triplet_loss(torch.ones(3, 2), pids, mining="hard")
    with pytest.raises(ValueError, match="metric='dot': expected one of cosine, euclidean, squared"):
        triplet_loss(torch.ones(3, 2), pids, metric="dot")
    with pytest.raises(ValueError, match="NaN or infinity in 3 of 3 rows"):
        triplet_loss(torch.full((3, 2), torch.nan), pids)
    with pytest.raises(ValueError, match=r"expected \(N, D\)"):
        triplet_loss(torch.ones(3, 2, 1), pids)


def test_statistics_of_six_points_by_hand():
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


@settings(deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.integers(0, 3), min_size=2, max_size=9),
    st.sampled_from([0.0, 0.3, 1.2]),
    st.sampled_from(METRICS),
)
def test_statistics_equal_the_loop_for_any_mix_of_labels(seed, pids, margin, metric):
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


def test_statistics_at_the_margin_without_one_and_of_collapsed_features():
    exact = triplet_statistics(SIX, PAIRS, margin=1.0)  # the three semi-hard ones keep exactly 1
    assert (exact.semi_hard, exact.easy) == (0, 0.5)
    soft = triplet_statistics(SIX, PAIRS, None)
    assert soft == triplet_statistics(SIX, PAIRS, 0) and soft.semi_hard == 0
    collapsed = triplet_statistics(torch.ones(6, 4, requires_grad=True), PAIRS)
    assert collapsed.mean_distance == 0 and collapsed.active == 1
    assert {type(value) for value in vars(collapsed).values()} == {int, float}
    assert triplet_statistics(torch.ones(1, 4), PAIRS[:1]).mean_distance == 0


def published(metric):
    """Distance of pytorch-metric-learning that gives the same gaps; a similarity counts the other way round there."""
    distances = pytest.importorskip("pytorch_metric_learning.distances", reason="second reference for the losses")
    if metric == "cosine":
        return distances.CosineSimilarity()
    return distances.LpDistance(normalize_embeddings=False, power=2 if metric == "squared" else 1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("margin", [0.3, 1.2, None])
@pytest.mark.parametrize("mining", ["batch_hard", "batch_all"])
def test_agrees_with_pytorch_metric_learning(mining, margin, metric):
    like = published(metric)
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner
    from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer

    reducer = AvgNonZeroReducer() if mining == "batch_all" else MeanReducer()
    theirs = TripletMarginLoss(margin or 0, distance=like, smooth_loss=margin is None, reducer=reducer)
    for seed, pids in enumerate([[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 2, 2, 2, 3], [0] * 5 + [1]]):
        pids = torch.tensor(pids)
        ours, copy = draw(seed, len(pids)).requires_grad_(), draw(seed, len(pids)).requires_grad_()
        chosen = BatchHardMiner(distance=like)(copy, pids) if mining == "batch_hard" else None
        expected, found = theirs(copy, pids, chosen), triplet_loss(ours, pids, margin, mining, metric)
        expected.backward()
        found.backward()
        assert found.item() == pytest.approx(expected.item(), abs=1e-9)
        assert torch.allclose(ours.grad, copy.grad, atol=1e-7)
