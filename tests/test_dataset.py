import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from reidlab.data.dataset import ReIDDataset, class_labels, stack_batch
from reidlab.data.records import FolderSource, Record
from reidlab.data.transforms import test_transform as plain_transform
from reidlab.data.transforms import to_image_tensor, train_transform
from reidlab.errors import DataError


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (50, 20, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def records(folder):
    return [Record("a.png", 9, 1, FolderSource(folder)), Record("b.png", 4, 2, FolderSource(folder))]


def test_items_labels_and_batches(folder):
    data = ReIDDataset(records(folder), plain_transform(32, 16), labels=class_labels(records(folder)))
    images, labels, camids = next(iter(DataLoader(data, batch_size=2, collate_fn=stack_batch)))
    assert images.shape == (2, 3, 32, 16) and images.dtype == torch.float32
    assert labels.tolist() == [1, 0] and camids.tolist() == [1, 2]


def test_the_cache_changes_when_images_are_read_and_nothing_else(folder):
    plain, cached = (ReIDDataset(records(folder), plain_transform(32, 16), cache_size=c) for c in (None, (32, 16)))
    first = cached[0][0]
    assert torch.allclose(first, plain[0][0], atol=0.02)  # rounded to uint8 once
    (folder / "a.png").unlink()
    assert torch.equal(cached[0][0], first)
    with pytest.raises(FileNotFoundError, match=r"a\.png: no such image"):
        plain[0]


def test_records_survive_pickling_and_a_moved_folder(folder, tmp_path_factory):
    record = pickle.loads(pickle.dumps(records(folder)[0]))
    moved = tmp_path_factory.mktemp("moved") / "data"
    before = record.load()
    folder.rename(moved)
    assert np.array_equal(Record(record.image, record.pid, record.camid, FolderSource(moved)).load(), before)


def test_names_that_lead_out_are_refused(folder):
    with pytest.raises(DataError, match="leads out of the data folder"):
        FolderSource(folder).load("../secret.png")


def test_training_transform_draws_from_the_seed_alone():
    image = to_image_tensor(np.random.default_rng(0).integers(0, 255, (160, 60, 3), dtype=np.uint8))
    transform = train_transform(128, 64)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(transform(image))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_erasing_fills_with_the_mean_colour_and_can_be_switched_off():
    image = torch.full((3, 128, 64), 255, dtype=torch.uint8)
    torch.manual_seed(0)
    always, never = train_transform(128, 64, erasing=1.0, jitter=0.0), train_transform(128, 64, 0.0, 0.0)
    pad_free = slice(8, -8)
    assert (always(image)[:, pad_free, pad_free] == 0).any()
    assert not (never(image)[:, pad_free, pad_free] == 0).any()
