"""Those parts of the benchmarks that decide what is counted."""

import importlib

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from torch import nn

from reidlab.evaluation import Features
from reidlab.models import RGANet
from reidlab.models.rga import RelationAwareAttention


@pytest.fixture
def real_people(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("real_people")


def test_distractors_are_found_but_not_searched_for(real_people):
    """Market-1501's identity 0 is nobody: two images of it are not one person found."""
    pids, camids = np.array([0, 1, 2, 0, 0, 1, 2]), np.array([1, 1, 1, 1, 2, 2, 2])
    features = torch.eye(3)[pids]
    features[5] = torch.tensor([0, -0.1, 1.0])  # here person 1 looks like person 2
    result = real_people.between_cameras(Features(features, pids, camids), 1, 2)
    assert result.num_queries == result.num_valid_queries == 2
    assert result.rank1 == 0.5  # with 0 counted it would be 0.75
    other = real_people.between_cameras(Features(features, pids, camids), 2, 1)
    assert other.num_queries == 2 and other.rank1 == 0.5


@pytest.fixture
def rga_forms(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module("rga_forms")


def test_forms_of_rga_agree_and_others_are_refused(rga_forms, monkeypatch):
    torch.manual_seed(0)
    module, x = RelationAwareAttention(32, 8, 4), torch.randn(3, 32, 8, 4)
    assert rga_forms.check_same(module, x) < 1e-5

    class OneStacking(rga_forms.Published):
        def related(self, theta, phi, shape):
            relations = (theta.mT @ phi).unflatten(2, shape)
            return self.relate(torch.cat([relations, relations], dim=1))

    monkeypatch.setitem(rga_forms.FORMS, "one stacking", lambda module: rga_forms.Attention(module, OneStacking))
    with pytest.raises(ValueError, match="'one stacking' differs from the package in"):
        rga_forms.check_same(module, x)


def test_what_is_kept_counts_each_storage_once_and_no_parameter(rga_forms):
    """The layer keeps its input, ReLU its output, and the product both of its factors: one of them is ReLU's."""
    layer, x, y = nn.Linear(3, 5), torch.randn(2, 3, requires_grad=True), torch.randn(2, 5)
    assert rga_forms.saved_bytes(layer, lambda: layer(x).relu() * y) == 4 * (2 * 3 + 2 * 5 + 2 * 5)


@pytest.mark.parametrize("method", ["explicit", "factored"])
def test_kept_bytes_are_the_same_from_shapes_alone(rga_forms, method):
    def kept():
        network = RGANet(4, "small", method=method, height=64, width=32).train()
        return rga_forms.saved_bytes(network, lambda: network(torch.zeros(2, 3, 64, 32)))

    with rga_forms.shapes_only():
        from_shapes = kept()
    assert kept() == from_shapes > 0


def test_work_is_counted_from_shapes(rga_forms):
    """A product of 2 × 3 by 3 × 5 has 30 multiply-adds, its two gradients have 60; views cost nothing."""
    with rga_forms.shapes_only():
        x, weight = torch.randn(2, 3, requires_grad=True), torch.randn(3, 5, requires_grad=True)
        forward = rga_forms.count_work(lambda: (x @ weight).relu().flatten())
        both = rga_forms.count_work(lambda: (x @ weight).backward(torch.ones(2, 5)))
    assert forward == rga_forms.Work(30, 4 * (10 + 10))
    assert both.multiply_adds == 90
