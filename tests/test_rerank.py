"""Re-ranking against the definition written out, against torchreid, and against what must not matter."""

import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reidlab.distances import l2_normalize
from reidlab.evaluation import evaluate_distances, rerank
from reidlab.evaluation.rerank import k_reciprocal_blocks, k_reciprocal_distances


def people(num_queries=20, num_gallery=60, identities=12, dimensions=16, seed=0):
    """Unit features in clusters, one an identity."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(identities, dimensions, generator=generator)
    pids = torch.randint(identities, (num_queries + num_gallery,), generator=generator)
    noise = torch.randn(len(pids), dimensions, generator=generator)
    features = l2_normalize(centres[pids] + 0.7 * noise)
    return features[:num_queries], features[num_queries:]


def quiet(query, gallery, *args, **kwargs):
    return k_reciprocal_distances(query, gallery, *args, report=None, **kwargs)


def by_definition(query, gallery, k1, k2, lambda_value):
    """The paper's equations over Python lists and sets; among equal distances the lower index is nearer."""
    items = [[float(v) for v in row] for row in [*query.tolist(), *gallery.tolist()]]
    everyone = range(len(items))
    squares = [[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in items] for x in items]
    distance = [[square / max(row) for square in row] for row in squares]
    nearest = [sorted(everyone, key=lambda j, i=i: (j != i, squares[i][j], j)) for i in everyone]

    def reciprocal(i, k):
        return {j for j in nearest[i][: k + 1] if i in nearest[j][: k + 1]}

    weights = []
    for i in everyone:
        members = reciprocal(i, k1)
        joined = set(members)
        for candidate in members:
            smaller = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(smaller & members) > 2 / 3 * len(smaller):
                joined |= smaller
        raw = {j: math.exp(-distance[i][j]) for j in joined}
        weights.append([raw.get(j, 0.0) / sum(raw.values()) for j in everyone])
    averaged = [[sum(weights[n][j] for n in nearest[i][:k2]) / k2 for j in everyone] for i in everyone]
    result = []
    for i in range(len(query)):
        row = []
        for g in range(len(query), len(items)):
            smaller, larger = (sum(map(f, averaged[i], averaged[g])) for f in (min, max))
            row.append((1 - lambda_value) * (1 - smaller / larger) + lambda_value * distance[i][g])
        result.append(row)
    return torch.tensor(result)


def test_five_points_by_hand():
    """0 and 1 have each other as nearest; 3 has 1, 7 has 3, 12 has 7, none of them mutually."""
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0], [12.0]])
    of_query, of_gallery = math.exp(-1 / 12**2), math.exp(-1 / 11**2)  # each over the square of its own farthest
    shared = of_query / (1 + of_query) + of_gallery / (1 + of_gallery)
    expected = torch.tensor([[1 - shared / (2 - shared), 1, 1, 1]])
    torch.testing.assert_close(quiet(points[:1], points[1:], k1=1, k2=1, lambda_value=0.0), expected)
    plain = torch.tensor([[1.0, 9.0, 49.0, 144.0]]) / 144
    torch.testing.assert_close(
        quiet(points[:1], points[1:], k1=1, k2=1, lambda_value=0.25), 0.75 * expected + 0.25 * plain
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_is_the_definition(data):
    """Small whole numbers: distances are exact, many are equal, many points are copies."""
    total = data.draw(st.integers(2, 14))
    numbers = st.lists(st.integers(-2, 2), min_size=2, max_size=2)
    items = torch.tensor(data.draw(st.lists(numbers, min_size=total, max_size=total)), dtype=torch.float32)
    if (items == items[0]).all():
        items[0, 0] += 1
    num_queries = data.draw(st.integers(1, total - 1))
    k1, k2 = data.draw(st.integers(1, total - 1)), data.draw(st.integers(1, total))
    lambda_value = data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    query, gallery = items[:num_queries], items[num_queries:]
    got = quiet(query, gallery, k1, k2, lambda_value, chunk_size=data.draw(st.integers(1, total + 1)))
    torch.testing.assert_close(got, by_definition(query, gallery, k1, k2, lambda_value), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("k1", "k2"), [(20, 6), (5, 3), (7, 1), (1, 2), (79, 30)])
def test_is_the_definition_for_clusters(k1, k2):
    query, gallery = people()
    torch.testing.assert_close(
        quiet(query, gallery, k1, k2), by_definition(query, gallery, k1, k2, 0.3), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), [(20, 6, 0.3), (10, 3, 0.0), (5, 1, 0.5), (3, 2, 0.3)])
def test_is_torchreid(k1, k2, lambda_value):
    reference = pytest.importorskip("torchreid.reid.utils.rerank", reason="torchreid 0.2.5 is not installed")
    query, gallery = people(60, 240, 40, 64)
    pairs = (query, gallery), (query, query), (gallery, gallery)
    expected = reference.re_ranking(
        *(torch.cdist(x.double(), y.double()).numpy() for x, y in pairs), k1, k2, lambda_value
    )
    got = quiet(query, gallery, k1, k2, lambda_value)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5, rtol=0)


def test_order_of_gallery_and_queries_does_not_matter():
    query, gallery = people()
    rows, columns = torch.randperm(len(query)), torch.randperm(len(gallery))
    expected = quiet(query, gallery, k1=8)[rows][:, columns]
    torch.testing.assert_close(quiet(query[rows], gallery[columns], k1=8), expected, atol=1e-6, rtol=0)


def test_scale_and_place_of_the_features_do_not_matter():
    query, gallery = (10 * features.double() for features in people())
    expected = quiet(query, gallery)
    torch.testing.assert_close(quiet(query * 3, gallery * 3), expected)
    torch.testing.assert_close(quiet(query + 1e4, gallery + 1e4), expected)
    blocks = k_reciprocal_blocks(query + 1e4, gallery + 1e4, report=None)
    torch.testing.assert_close(torch.cat(list(blocks)), expected)


@pytest.mark.parametrize("chunk_size", [1, 7, 33, 79, 80, 1000])
def test_chunks_and_blocks_give_the_matrix(chunk_size):
    query, gallery = people()
    whole = quiet(query, gallery)
    torch.testing.assert_close(quiet(query, gallery, chunk_size=chunk_size), whole, atol=1e-6, rtol=0)
    blocks = list(k_reciprocal_blocks(query, gallery, chunk_size=chunk_size, report=None))
    assert {len(block) for block in blocks[:-1]} <= {chunk_size}
    torch.testing.assert_close(torch.cat(blocks), whole, atol=1e-6, rtol=0)


def test_minima_in_small_portions(monkeypatch):
    query, gallery = people()
    whole = quiet(query, gallery)
    monkeypatch.setattr(rerank, "MINIMA_AT_ONCE", 10)  # fewer than one row has
    assert torch.equal(quiet(query, gallery), whole)


def test_copies_of_one_image_are_in_order():
    """Fifty copies and one other: the lowest indices are the neighbours, whatever the size of the chunk."""
    copies = torch.zeros(50, 3)
    other = torch.ones(1, 3)
    got = [quiet(other, copies, k1=3, k2=2, chunk_size=size) for size in (1, 10, 51)]
    assert torch.equal(got[0], got[1]) and torch.equal(got[0], got[2])
    torch.testing.assert_close(got[0], by_definition(other, copies, 3, 2, 0.3))


def test_blocks_feed_the_evaluation():
    query, gallery = people()
    labels = {"query_pids": torch.arange(20) % 5, "gallery_pids": torch.arange(60) % 5}
    cameras = {"query_camids": [1] * 20, "gallery_camids": [2] * 60}
    whole = evaluate_distances(quiet(query, gallery), **labels, **cameras)
    blocks = k_reciprocal_blocks(query, gallery, chunk_size=6, report=None)
    assert evaluate_distances(blocks, **labels, **cameras).mean_ap == pytest.approx(whole.mean_ap)


def test_types_and_gradients():
    query, gallery = people()
    expected = quiet(query, gallery)
    got = quiet(query.double(), gallery.double())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert not quiet(query.clone().requires_grad_(), gallery).requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(quiet(query, gallery), expected)
    half = quiet(query.half(), gallery.half())
    torch.testing.assert_close(half, quiet(query.half().float(), gallery.half().float()))


def test_memory_is_reported_once_and_first(monkeypatch, capsys):
    query, gallery = people()
    events = []
    monkeypatch.setattr(rerank, "_nearest", lambda *args, real=rerank._nearest: events.append("work") or real(*args))
    k_reciprocal_distances(query, gallery, report=events.append)
    assert len(events) == 2 and events[1] == "work"
    assert "20 queries and 60 gallery images" in events[0] and "MiB" in events[0]
    blocks = k_reciprocal_blocks(query, gallery, report=events.append)
    assert len(events) == 3 and "MiB" in events[2]  # before the first block is asked for
    next(blocks)
    assert events[3:] == ["work"]
    quiet(query, gallery)
    assert events[4:] == ["work"] and capsys.readouterr().out == ""
    k_reciprocal_distances(query, gallery)
    assert capsys.readouterr().out.count("MiB") == 2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read as Linux shows it")
def test_memory_is_about_what_was_reported():
    """In a process of its own; what was loaded and computed once before does not count."""
    code = """if True:
        import pathlib, re, torch
        from reidlab.evaluation import k_reciprocal_distances
        generator = torch.Generator().manual_seed(0)
        items = torch.randn(400, 64, generator=generator).repeat(10, 1)
        items += torch.randn(items.shape, generator=generator)
        def kilobytes(name):
            return int(re.search(name + r":\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
        k_reciprocal_distances(items[:10], items[10:50], report=None)
        before = kilobytes("VmRSS")
        k_reciprocal_distances(items[:1500], items[1500:])
        print((kilobytes("VmHWM") - before) / 1024)
    """
    lines = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    reported, measured = float(re.search(r"about ([\d,]+) MiB", lines[0])[1]), float(lines[1])
    assert measured / 2 <= reported <= 2 * measured


@pytest.mark.parametrize("function", [k_reciprocal_distances, k_reciprocal_blocks])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k1": 80}, r"k1=80: expected 1 … 79, less than the 80 items .* the item itself included"),
        ({"k1": 0}, "k1=0: expected 1 … 79"),
        ({"k2": 81}, "k2=81: expected 1 … 80"),
        ({"k2": 0}, "k2=0"),
        ({"lambda_value": 1.5}, r"lambda_value=1.5: expected 0 \(Jaccard distance\) … 1"),
        ({"lambda_value": float("nan")}, "lambda_value=nan"),
        ({"chunk_size": 0}, "chunk_size=0: expected at least 1 row"),
        ({"gallery_features": torch.zeros(60, 3)}, "x has 16 dimensions and y has 3"),
        ({"gallery_features": torch.zeros(0, 16)}, "got 20 queries and 0 gallery images"),
        ({"query_features": torch.zeros(16)}, r"query_features: got shape \(16,\)"),
        (
            {"gallery_features": torch.full((60, 16), float("nan"))},
            "gallery_features: NaN or infinity in 60 of 60 rows",
        ),
    ],
)
def test_errors_come_at_once(function, changes, message):
    query, gallery = people()
    arguments = {"query_features": query, "gallery_features": gallery, "report": pytest.fail, **changes}
    with pytest.raises(ValueError, match=message):
        function(**arguments)


def test_features_that_are_all_the_same():
    same = torch.randn(16, generator=torch.Generator().manual_seed(0)).expand(80, 16)
    with pytest.raises(ValueError, match="all 80 features are the same"):
        quiet(same[:20], same[20:])
