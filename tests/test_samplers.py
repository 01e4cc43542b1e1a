from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reidlab.data.samplers import PKBatchSampler


@given(st.lists(st.integers(1, 7), min_size=2, max_size=12), st.integers(2, 5), st.integers(0, 99))
def test_every_batch_is_p_times_k_and_every_identity_is_seen(sizes, k, seed):
    pids = np.repeat(np.arange(len(sizes)) * 3, sizes)
    sampler = PKBatchSampler(pids, num_identities=2, images_per_identity=k, seed=seed)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    for batch in batches:
        assert Counter(Counter(pids[batch].tolist()).values()) == {k: 2}
        for pid in set(pids[batch].tolist()):
            drawn = [i for i in batch if pids[i] == pid]
            assert len(set(drawn)) == min(k, (pids == pid).sum())  # repeats only where there are too few images
    assert {pids[i] for batch in batches for i in batch} == set(pids.tolist())


def test_same_seed_and_epoch_same_batches():
    pids = np.repeat(np.arange(9), 5)
    first, second = (PKBatchSampler(pids, 3, 2, seed=4) for _ in range(2))
    assert list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    assert list(first) != list(PKBatchSampler(pids, 3, 2, seed=5))


def test_coverage_counts_the_short_identities():
    sampler = PKBatchSampler([0, 1, 1, 1, 1, 2, 2, 2, 2], num_identities=3, images_per_identity=4)
    coverage = sampler.coverage(epochs=3)
    assert (coverage.batches, coverage.draws, coverage.short_identities) == (3, 36, 1)
    assert coverage.repeats_in_batch == 9  # identity 0: one image, drawn 4 times in each of 3 batches
    assert coverage.images_seen == coverage.images == 9


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="P=1, K=4"):
        PKBatchSampler([1, 2], 1, 4)
    with pytest.raises(ValueError, match="has 2 identities; lower P"):
        PKBatchSampler([1, 2], 3, 2)
