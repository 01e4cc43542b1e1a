"""Those parts of the benchmarks that decide what is counted."""

import importlib

import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from reidlab.features import Features


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
