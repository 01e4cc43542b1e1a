"""Labels and features as people have them: they work, or the argument is named."""

import numpy as np
import pytest
import torch

from reidlab.checks import check_between, check_whole
from reidlab.data import PKBatchSampler
from reidlab.distances import cosine_distance, near_one
from reidlab.evaluation import calibrate, evaluate, evaluate_distances, k_reciprocal_distances
from reidlab.losses import (
    MININGS,
    generate_triplets,
    pull_push_loss,
    relative_distance_loss,
    triplet_loss,
    triplet_statistics,
)

GENERATOR = torch.Generator().manual_seed(0)
CENTRES = torch.randn(20, 8, generator=GENERATOR)
Q_PIDS, G_PIDS = torch.arange(60) % 20, torch.arange(200) % 20
QUERY = CENTRES[Q_PIDS] + 0.3 * torch.randn(60, 8, generator=GENERATOR)
GALLERY = CENTRES[G_PIDS] + 0.3 * torch.randn(200, 8, generator=GENERATOR)
LABELS = {"query_pids": Q_PIDS, "gallery_pids": G_PIDS, "query_camids": [1] * 60, "gallery_camids": [2] * 200}


@pytest.mark.parametrize("bad", [0, -1, True, 2.0, "2", None, np.nan])
def test_numbers_out_of_range_are_refused_by_name(bad):
    check_whole(1, size=3, width=np.uint8(1))
    check_between(0, 1, flip=0, erasing=np.float32(1))
    with pytest.raises(ValueError, match=r"size=.*: expected a whole number of at least 1"):
        check_whole(1, width=3, size=bad)
    if bad not in (0, True):
        with pytest.raises(ValueError, match=r"erasing=.*: expected a number from 0 to 1"):
            check_between(0, 1, flip=0.5, erasing=bad)


RIGHT = {
    "list": lambda v: v.tolist(),
    "floats that are whole": lambda v: v.double(),
    "int32 tensor": lambda v: v.int(),
    "uint8 tensor": lambda v: v.to(torch.uint8),
    "half": lambda v: v.half(),
    "every second of a tensor": lambda v: v.repeat_interleave(2)[::2],
    **{kind: lambda v, kind=kind: v.numpy().astype(kind) for kind in ("i1", "u2", ">i4", "<i8", ">f8", "u8", "O")},
    "negative strides": lambda v: v.numpy()[::-1].copy()[::-1],
    "read only": lambda v: np.frombuffer(v.numpy().tobytes(), dtype=np.int64),
}
WRONG = {
    "texts": lambda v: [str(n) for n in v.tolist()],
    "cameras as texts": lambda v: np.array([f"c{n}" for n in v.tolist()]),
    "infinite": lambda v: [np.inf, *v.tolist()[1:]],
    "not a number": lambda v: [np.nan, *v.tolist()[1:]],
    "huge": lambda v: [1e300, *v.tolist()[1:]],
    "beyond int64": lambda v: [2**70, *v.tolist()[1:]],
    "complex": lambda v: v.numpy().astype(complex),
    "boolean": lambda v: v > 3,
    "fractions": lambda v: v + 0.5,
    "rounded to bfloat16": lambda v: (v + 300).bfloat16(),
    "rounded to half": lambda v: (v + 5000).half(),
    "rounded to float32": lambda v: (v + 2**25).float(),
    "masked": lambda v: np.ma.masked_less(v.numpy(), 3),
    "objects": lambda v: [None, *v.tolist()[1:]],
    "two in a row": lambda v: torch.stack([v, v]),
    "one short": lambda v: v[1:],
    "ragged": lambda v: [[1, 2], *v.tolist()[1:]],
}


@pytest.mark.parametrize("kind", RIGHT)
@pytest.mark.parametrize("name", ["query_pids", "gallery_camids"])
def test_labels_of_any_kind_of_whole_number_give_the_same_score(name, kind):
    given = LABELS | {name: RIGHT[kind](torch.as_tensor(LABELS[name]))}
    assert evaluate(QUERY, GALLERY, **given).mean_ap == evaluate(QUERY, GALLERY, **LABELS).mean_ap


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", LABELS)
def test_other_labels_are_refused_by_name(name, kind):
    given = LABELS | {name: WRONG[kind](torch.as_tensor(LABELS[name]))}
    distances = torch.cdist(QUERY, GALLERY)
    for score in (lambda: evaluate(QUERY, GALLERY, **given), lambda: evaluate_distances(distances, **given),
                  lambda: calibrate(distances, **given)):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            score()


FEATURES = {
    "numpy": lambda x: x.numpy(),
    "float64": lambda x: x.numpy().astype("f8"),
    "big-endian": lambda x: x.numpy().astype(">f4"),
    "negative strides": lambda x: x.numpy()[::-1].copy()[::-1],
    "read only": lambda x: np.frombuffer(x.numpy().tobytes(), np.float32).reshape(x.shape),
    "lists": lambda x: x.tolist(),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_features_from_numpy_work_as_tensors_do(kind):
    query, gallery = FEATURES[kind](QUERY), FEATURES[kind](GALLERY)
    for metric in ("cosine", "euclidean"):
        expected = evaluate(QUERY, GALLERY, metric=metric, **LABELS).mean_ap
        assert evaluate(query, gallery, metric=metric, **LABELS).mean_ap == pytest.approx(expected, abs=1e-6)
    expected = k_reciprocal_distances(QUERY, GALLERY, 3, 2, report=None)
    torch.testing.assert_close(k_reciprocal_distances(query, gallery, 3, 2, report=None), expected, atol=1e-5, rtol=0)
    pids = Q_PIDS.numpy()
    assert float(triplet_loss(FEATURES[kind](QUERY), pids)) == pytest.approx(float(triplet_loss(QUERY, Q_PIDS)))
    if kind != "lists":  # a list of distances is a list of blocks
        distances = torch.cdist(QUERY, GALLERY)
        expected = calibrate(distances, **LABELS).threshold
        assert calibrate(FEATURES[kind](distances), **LABELS).threshold == pytest.approx(expected)


@pytest.mark.parametrize("bad", [np.array([["a", "b"]] * 60), QUERY.numpy().astype(complex), QUERY > 0, QUERY[0]])
def test_other_features_are_refused_by_name(bad):
    with pytest.raises(ValueError, match="query_features"):
        evaluate(bad, GALLERY, **LABELS)
    with pytest.raises(ValueError, match="query_features"):
        k_reciprocal_distances(bad, GALLERY, 3, 2, report=None)
    with pytest.raises(ValueError, match="features"):
        triplet_loss(bad, Q_PIDS)


LOSSES = {
    **{m: lambda x, p, m=m: triplet_loss(x, p, mining=m, generator=torch.Generator().manual_seed(0)) for m in MININGS},
    "pull and push": lambda x, p: pull_push_loss(torch.nn.functional.normalize(x), p),
    "relative": lambda x, p: relative_distance_loss(
        torch.nn.functional.normalize(x), generate_triplets(p, torch.Generator().manual_seed(0))
    ),
    "statistics": lambda x, p: triplet_statistics(x, p).mean_distance,
    "sampler": lambda x, p: PKBatchSampler(p, 3, 2).indices[5][0],
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_take_any_whole_numbers_and_refuse_the_rest(name):
    expected = float(LOSSES[name](QUERY, Q_PIDS))
    for kind, change in RIGHT.items():
        assert float(LOSSES[name](QUERY, change(Q_PIDS))) == pytest.approx(expected), kind
    for kind in set(WRONG) - {"two in a row", "one short"}:
        with pytest.raises(ValueError, match="pids"):
            LOSSES[name](QUERY, WRONG[kind](Q_PIDS))


FAR = {
    "× 1e-22": lambda x: x * 1e-22,
    "× 1e-30": lambda x: x * 1e-30,
    "subnormal": lambda x: x.double() * 1e-310,
    "× 1e25": lambda x: x * 1e25,
    "× 1e300": lambda x: x.double() * 1e300,
    "+ 1000": lambda x: x + 1000,
    "+ 1e6": lambda x: x.double() + 1e6,
    "tiny and far": lambda x: x.double() * 1e-12 + 1e-6,
}


@pytest.mark.parametrize("metric", ["euclidean", "squared"])
@pytest.mark.parametrize("far", FAR)
def test_euclidean_scores_do_not_depend_on_scale_and_origin(far, metric):
    right = evaluate(QUERY, GALLERY, metric=metric, **LABELS)
    found = evaluate(FAR[far](QUERY), FAR[far](GALLERY), metric=metric, **LABELS)
    assert found.mean_ap == pytest.approx(right.mean_ap, abs=1e-3)


@pytest.mark.parametrize("far", FAR)
def test_reranking_stays_in_its_range_and_does_not_depend_on_scale_and_origin(far):
    right = k_reciprocal_distances(QUERY, GALLERY, report=None)
    found = k_reciprocal_distances(FAR[far](QUERY), FAR[far](GALLERY), report=None)
    assert found.min() >= 0 and found.max() <= 1 and (found - right).abs().median() < 1e-3


def test_two_far_clusters_are_computed_in_more_digits():
    far = torch.where(torch.arange(8) < 4, 1000.0, -1000.0)
    side_q, side_g = (torch.where(pids % 2 == 0, 1.0, -1.0)[:, None] for pids in (Q_PIDS, G_PIDS))
    query, gallery = QUERY.double() + side_q * far, GALLERY.double() + side_g * far
    right = evaluate(query, gallery, metric="euclidean", **LABELS)
    found = evaluate(query.float(), gallery.float(), metric="euclidean", **LABELS)
    assert found.mean_ap == pytest.approx(right.mean_ap, abs=2e-3)


def test_ordinary_features_are_left_as_they_are():
    x, y = near_one(QUERY, GALLERY)
    assert torch.equal(x, QUERY) and torch.equal(y, GALLERY)


def test_one_row_that_drowns_the_others_is_computed_longer_or_refused_by_name():
    right = evaluate(QUERY, GALLERY, metric="euclidean", **LABELS).average_precision[1:]
    for size, kept in ((1e4, True), (1e9, False)):
        query = QUERY.clone()
        query[0] *= size
        if kept:
            found = evaluate(query, GALLERY, metric="euclidean", **LABELS).average_precision[1:]
            np.testing.assert_allclose(found, right, atol=1e-6)
        else:
            with pytest.raises(ValueError, match="query_features: row 0"):
                evaluate(query, GALLERY, metric="euclidean", **LABELS)


def test_cosine_of_numbers_that_cannot_be_squared_is_refused_by_name():
    for factor in (1e-30, 1e25):
        with pytest.raises(ValueError, match="row"):
            cosine_distance(QUERY * factor, GALLERY * factor)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mining", MININGS)
def test_without_a_triplet_the_loss_is_zero_with_a_graph(mining, kind):
    features = (torch.ones(32, 64) * 100).to(kind).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    loss = triplet_loss(features, torch.arange(32), mining=mining, generator=generator)
    loss.backward()
    assert float(loss.detach()) == 0 and torch.equal(features.grad, torch.zeros_like(features))
