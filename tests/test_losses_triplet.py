import itertools
import logging
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlab.distances import euclidean_distance
from reidlab.losses import MININGS, choose_triplets, positives_and_negatives, triplet_loss

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


@settings(deadline=None)
@given(SEEDS, LABELS, MARGINS, st.sampled_from(METRICS))
def test_random_stays_between_the_easiest_and_the_hardest_choice(seed, pids, margin, metric):
    features = draw(seed, len(pids))
    generator = torch.Generator().manual_seed(seed)
    found = triplet_loss(features, torch.tensor(pids), margin, "random", metric, generator).item()
    choices = list(tables(features.tolist(), pids, metric))
    low = sum(term(min(p) - max(n), margin) for p, n in choices) / max(1, len(choices))
    high = sum(term(max(p) - min(n), margin) for p, n in choices) / max(1, len(choices))
    assert low - 1e-9 <= found <= high + 1e-9


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


def test_semi_hard_takes_the_farthest_negative_where_none_is_beyond():
    # 0 and 10 are one person, 1 and 4 two others: from 0 the farthest negative is 4, from 10 it is 1
    features, pids = torch.tensor([[0.0], [10.0], [1.0], [4.0]]), torch.tensor([1, 1, 2, 3])
    assert triplet_loss(features, pids, 0.5, "semi_hard").item() == pytest.approx(((10 - 4) + (10 - 9)) / 2 + 0.5)


@pytest.mark.parametrize("mining", SURE)
def test_order_of_the_batch_does_not_matter(mining):
    features, pids = draw(3, 12), torch.arange(12) % 5
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    shuffled = triplet_loss(features[order], pids[order], mining=mining)
    assert shuffled.item() == pytest.approx(triplet_loss(features, pids, mining=mining).item())


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


def test_with_a_triplet_there_is_no_warning(caplog):
    triplet_loss(SIX, PAIRS)
    assert not caplog.records


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


@settings(deadline=None)
@given(LABELS)
def test_positives_and_negatives(pids):
    positive, negative = positives_and_negatives(torch.tensor(pids))
    for i, j in itertools.product(range(len(pids)), repeat=2):
        assert positive[i, j] == (pids[i] == pids[j] and i != j) and negative[i, j] == (pids[i] != pids[j])


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
