"""Search against a plain loop, with every kind of image."""

import numpy as np
import pytest
import torch
from PIL import Image

from reidlab import CUHK03, Baseline, search
from reidlab.data.records import Record
from reidlab.errors import DataError
from reidlab.evaluation.search import embed_images
from reidlab.models.pixels import RawPixels

RANDOM = np.random.default_rng(0)
IMAGES = list(RANDOM.integers(0, 255, (9, 40, 20, 3), np.uint8))


def test_it_finds_what_a_loop_over_cosines_finds():
    query, gallery = torch.randn(300, 8), torch.randn(50, 8)
    hits = search(None, query, gallery, k=5)
    assert hits.indices.shape == hits.distances.shape == hits.scores.shape == (300, 5)
    for row in (0, 255, 256, 299):
        cosines = [float(torch.nn.functional.cosine_similarity(query[row], other, dim=0)) for other in gallery]
        best = sorted(range(50), key=lambda place: -cosines[place])[:5]
        assert hits.indices[row].tolist() == best
        assert hits.scores[row].tolist() == pytest.approx([cosines[place] for place in best], abs=1e-6)


def test_of_equal_ones_the_earlier_comes_first():
    gallery = torch.eye(3)[[1, 0, 0, 2, 0]]
    assert search(None, torch.eye(3)[:1], gallery, k=3).indices.tolist() == [[1, 2, 4]]


def test_paths_arrays_and_records_are_the_same_images(tmp_path):
    for number, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(9)]
    records = [
        Record("any", 1, 1, type("One", (), {"load": lambda self, name, image=image: image})()) for image in IMAGES
    ]
    mixture = [paths[0], str(paths[1]), *IMAGES[2:5], *records[5:]]
    expected = embed_images(RawPixels(), IMAGES)
    assert torch.equal(embed_images(RawPixels(), mixture), expected)
    assert torch.equal(search(RawPixels(), mixture, paths, k=1).indices[:, 0], torch.arange(9))
    assert torch.equal(
        search(RawPixels(), expected, paths, k=9).indices, search(RawPixels(), paths, paths, k=9).indices
    )


def test_the_shipped_model_finds_walkers_in_other_cameras(tiny_world):
    data = CUHK03(tiny_world, box="labeled", protocol="new")
    hits = search(Baseline.pretrained(), data.query, data.gallery, k=1)
    found = [data.gallery[place].pid for place in hits.indices[:, 0].tolist()]
    assert np.mean([pid == record.pid for pid, record in zip(found, data.query, strict=True)]) > 0.5


@pytest.mark.parametrize("k", [0, 10, True, 2.0])
def test_k_out_of_its_range_is_refused(k):
    with pytest.raises(ValueError, match=f"k={k}: expected a whole number from 1 to 9, the images in the gallery"):
        search(RawPixels(), IMAGES, IMAGES, k=k)


def test_what_is_no_image_is_named(tmp_path):
    with pytest.raises(ValueError, match="image 1: got int, expected a record, a path, or a uint8 array"):
        search(RawPixels(), [IMAGES[0], 3], IMAGES)
    with pytest.raises(DataError, match=r"image 1: got float64 \(4, 4, 3\), expected a uint8 array"):
        search(RawPixels(), [IMAGES[0], np.zeros((4, 4, 3))], IMAGES)
    with pytest.raises(ValueError, match=r"got one path, 'a\.png'; expected a list"):
        search(RawPixels(), "a.png", IMAGES)
    with pytest.raises(FileNotFoundError, match=r"absent\.png: no such image"):
        search(RawPixels(), [tmp_path / "absent.png"], IMAGES)
    with pytest.raises(ValueError, match="records is empty"):
        search(RawPixels(), [], IMAGES)
    with pytest.raises(ValueError, match="8"):
        search(None, torch.ones(1, 8), torch.ones(2, 9), k=1)
