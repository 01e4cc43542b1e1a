import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reidlab.losses import triplet_loss


def loop(features, pids, margin):
    """Batch-hard triplet loss as one would write it with pencil and paper."""
    terms = []
    for a in range(len(pids)):
        positives = [math.dist(features[a], features[p]) for p in range(len(pids)) if pids[p] == pids[a] and p != a]
        negatives = [math.dist(features[a], features[n]) for n in range(len(pids)) if pids[n] != pids[a]]
        if positives and negatives:
            gap = max(positives) - min(negatives)
            terms.append(math.log1p(math.exp(gap)) if margin is None else max(0.0, gap + margin))
    return sum(terms) / len(terms) if terms else 0.0


@given(
    st.integers(0, 10_000), st.lists(st.integers(0, 3), min_size=1, max_size=9), st.sampled_from([0.0, 0.3, 1.2, None])
)
def test_equals_the_loop_for_any_mix_of_labels(seed, pids, margin):
    features = torch.randn(len(pids), 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = loop(features.tolist(), pids, margin)
    assert triplet_loss(features, torch.tensor(pids), margin).item() == pytest.approx(expected, abs=1e-9)


def test_six_points_by_hand():
    # one dimension, three people of two images; anchors' (farthest positive, nearest negative):
    # 0:(2,1) 2:(2,1) 1:(5,1) 6:(5,1) 5:(4,1) 9:(4,3)  ->  gaps + 1: 2, 2, 5, 5, 4, 2
    features = torch.tensor([[0.0], [2.0], [1.0], [6.0], [5.0], [9.0]])
    assert triplet_loss(features, torch.tensor([1, 1, 2, 2, 3, 3]), margin=1.0).item() == pytest.approx(20 / 6)


def test_order_of_the_batch_does_not_matter():
    generator = torch.Generator().manual_seed(3)
    features, pids = torch.randn(12, 4, generator=generator), torch.arange(12) % 4
    order = torch.randperm(12, generator=generator)
    assert triplet_loss(features[order], pids[order]).item() == pytest.approx(triplet_loss(features, pids).item())


def test_gradient_is_right():
    features = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: triplet_loss(f, torch.tensor([0, 0, 1, 1, 2, 2]), None), features)


@pytest.mark.parametrize("pids", [[1, 1, 1], [1, 2, 3]])
def test_without_a_valid_triplet_the_loss_is_zero_and_has_a_graph(pids):
    features = torch.randn(3, 4, requires_grad=True)
    loss = triplet_loss(features, torch.tensor(pids))
    loss.backward()
    assert loss.item() == 0 and torch.equal(features.grad, torch.zeros(3, 4))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="expected one pid a row"):
        triplet_loss(torch.ones(3, 2), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"margin=-0\.1"):
        triplet_loss(torch.ones(3, 2), torch.tensor([1, 2, 3]), margin=-0.1)
