"""torchreid 0.2.5, the evaluator most papers were scored with, finds the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_reference import labels

from reidlab.evaluation import evaluate, evaluate_distances

rank = pytest.importorskip(
    "torchreid.reid.metrics.rank",
    reason="torchreid==0.2.5 does not import; beside itself it wants opencv-python, gdown, tensorboard, imageio",
)


def case(seed: int, num_queries: int = 60, num_gallery: int = 700, people: int = 30, distractors: int = 10):
    rng = np.random.default_rng(seed)
    query_pids, gallery_pids = rng.integers(0, people, num_queries), rng.integers(0, people + distractors, num_gallery)
    centres = rng.standard_normal((people + distractors, 8))
    query, gallery = (centres[pids] + rng.standard_normal((len(pids), 8)) for pids in (query_pids, gallery_pids))
    cameras = rng.integers(1, 4, num_queries), rng.integers(1, 4, num_gallery)
    return torch.from_numpy(query), torch.from_numpy(gallery), (query_pids, gallery_pids, *cameras)


@pytest.mark.parametrize("seed", range(3))
def test_market(seed):
    query, gallery, values = case(seed)
    distmat = torch.cdist(query, gallery)
    curve, mean_ap = rank.evaluate_rank(distmat.numpy(), *values, max_rank=600, use_cython=False)
    for result in (
        evaluate_distances(distmat, **labels(*values)),
        evaluate(query, gallery, metric="euclidean", **labels(*values)),
    ):
        assert result.mean_ap == pytest.approx(mean_ap, abs=1e-6) and 0.1 < mean_ap < 0.9
        assert result.cmc[:600] == pytest.approx(curve, abs=1e-6)


def test_cuhk03_where_every_draw_ends_the_same():
    """All images of one identity as far from the query: whichever is drawn, the curve is the same, and exact."""
    _, _, values = case(0)
    query_pids, gallery_pids = values[:2]
    to_identity = np.random.default_rng(1).random((len(query_pids), gallery_pids.max() + 1))
    for q, pid in enumerate(query_pids):
        to_identity[q, pid] /= 1 + q % 20  # so that many come early
    distmat = to_identity[:, gallery_pids]
    curve, mean_ap = rank.evaluate_rank(distmat, *values, max_rank=30, use_metric_cuhk03=True, use_cython=False)
    result = evaluate_distances(distmat, rule="cuhk03_torchreid", **labels(*values))
    assert result.cmc[:30] == pytest.approx(curve, abs=1e-6) and 0.2 < result.rank1 < 0.9
    assert result.mean_ap == pytest.approx(mean_ap, abs=1e-6)


def test_cuhk03_by_the_mean_of_many_draws():
    query, gallery, values = case(2, num_queries=30, num_gallery=300)
    distmat = torch.cdist(query, gallery).numpy()
    np.random.seed(0)  # noqa: NPY002 torchreid draws from the global generator
    curves, mean_aps = zip(
        *(rank.evaluate_rank(distmat, *values, 20, use_metric_cuhk03=True, use_cython=False) for _ in range(20)),
        strict=True,
    )
    result = evaluate_distances(distmat, rule="cuhk03_torchreid", repeats=1000, **labels(*values))
    assert result.cmc[:20] == pytest.approx(np.mean(curves, axis=0), abs=0.02)
    assert result.mean_ap == pytest.approx(np.mean(mean_aps), abs=1e-6)
