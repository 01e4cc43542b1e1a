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


@pytest.mark.parametrize("camids", [None, np.tile([1, 1, 2, 2, 3, 3], 9)])
def test_same_seed_and_epoch_same_batches(camids):
    pids = np.repeat(np.arange(9), 6)
    first, second = PKBatchSampler(pids, 3, 2, 4, camids), PKBatchSampler(pids.tolist(), 3, 2, 4, camids)
    assert list(first) == list(second)
    second.set_epoch(1)
    assert list(first) != list(second)
    assert list(first) != list(PKBatchSampler(pids, 3, 2, 5, camids))


def test_images_are_grouped_by_identity():
    pids = np.random.default_rng(0).integers(3, 90, 400) * 7
    indices = PKBatchSampler(pids, 2, 2).indices
    assert list(indices) == sorted(set(pids.tolist())) and {type(pid) for pid in indices} == {int}
    assert all(np.array_equal(rows, np.flatnonzero(pids == pid)) for pid, rows in indices.items())


def test_coverage_counts_the_short_identities():
    sampler = PKBatchSampler([0, 1, 1, 1, 1, 2, 2, 2, 2], num_identities=3, images_per_identity=4)
    coverage = sampler.coverage(epochs=3)
    assert (coverage.batches, coverage.draws, coverage.short_identities) == (3, 36, 1)
    assert coverage.repeats_in_batch == 9  # identity 0: one image, drawn 4 times in each of 3 batches
    assert coverage.images_seen == coverage.images == 9


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="num_identities=1: expected a whole number of at least 2"):
        PKBatchSampler([1, 2], 1, 4)
    with pytest.raises(ValueError, match="images_per_identity=1"):
        PKBatchSampler([1, 2], 2, 1)
    with pytest.raises(ValueError, match="has 2 identities; lower P"):
        PKBatchSampler([1, 2], 3, 2)
    with pytest.raises(ValueError, match="P=2, but the training set has 0 identities"):
        PKBatchSampler([], 2, 2)
    for camids in ([1, 2, 1], [1, 2, 1, 2, 1], []):
        with pytest.raises(ValueError, match=f"got {len(camids)} camids and 4 pids"):
            PKBatchSampler([1, 1, 2, 2], 2, 2, camids=camids)


def cameras_of(pids, camids, batch):
    """The cameras of each identity of a batch."""
    return {pid: [int(camids[i]) for i in batch if pids[i] == pid] for pid in {int(pids[i]) for i in batch}}


# cameras of each image of an identity, then K
spread_cases = st.tuples(
    st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=9), min_size=2, max_size=6),
    st.integers(2, 6),
    st.integers(0, 99),
)


@given(spread_cases)
def test_images_of_an_identity_are_spread_over_its_cameras(case):
    cameras, k, seed = case
    pids = np.repeat(np.arange(len(cameras)) * 3, [len(row) for row in cameras])
    camids = np.concatenate(cameras)
    sampler = PKBatchSampler(pids, 2, k, seed, camids)
    for batch in sampler:
        assert len(batch) == 2 * k
        for pid, drawn in cameras_of(pids, camids, batch).items():
            own, there = [i for i in batch if pids[i] == pid], Counter(camids[pids == pid].tolist())
            if sum(there.values()) < k:  # all of them, and some again
                assert set(own) == set(np.flatnonzero(pids == pid).tolist())
                continue
            assert len(set(own)) == len(drawn) == k
            if k <= len(there):
                assert len(set(drawn)) == k
                continue
            often = Counter(drawn)
            assert set(often) == set(there)
            # no camera is drawn from again while another one with fewer draws has images left
            assert all(often[a] - often[b] <= 1 or often[b] == there[b] for a in there for b in there)


def test_every_image_has_its_turn_when_spread():
    pids, camids = np.repeat([0, 1], 8), np.tile([1, 1, 1, 1, 2, 2, 3, 4], 2)
    sampler = PKBatchSampler(pids, 2, 4, seed=1, camids=camids)
    seen = Counter()
    for epoch in range(200):
        sampler.set_epoch(epoch)
        seen.update(i for batch in sampler for i in batch)
    # one image of each camera: those of camera 1 come in a quarter of the epochs, that of camera 4 in all
    assert set(seen) == set(range(16)) and seen[7] == seen[15] == 200
    assert all(25 < seen[i] < 75 for i in range(4)) and all(70 < seen[i] < 130 for i in (4, 5))


def test_without_cameras_batches_are_what_they_always_were():
    """Batches of the version before cameras could be given, so that recorded runs can be made again."""
    sampler = PKBatchSampler([7, 7, 7, 8, 8, 9, 9, 9, 9, 3], 2, 3, seed=5)
    assert list(sampler) == [[8, 6, 7, 1, 2, 0], [4, 3, 3, 9, 9, 9]]
    sampler.set_epoch(1)
    assert list(sampler) == [[4, 3, 4, 9, 9, 9], [6, 8, 7, 1, 0, 2]]
