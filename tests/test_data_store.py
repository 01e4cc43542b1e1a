import errno
import multiprocessing
import os
import pickle
import shutil
import signal
from collections import namedtuple

import numpy as np
import pytest
import torch
from data_files import make_root
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from reidlab.data import CUHK03, PixelStore
from reidlab.data import store as store_module
from reidlab.data.dataset import ReIDDataset
from reidlab.data.records import Record
from reidlab.errors import DataError

forked = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")


class Noise:
    """Pictures of different sizes that follow from name and seed; notes what was read."""

    def __init__(self, seed=0):
        self.seed, self.read = seed, []

    def load(self, name):
        self.read.append(name)
        if name == "broken":
            raise DataError(f"{name}: cannot be read as an image; copy the file again")
        if name == "grey":
            return np.zeros((20, 10), np.uint8)
        rng = np.random.default_rng([self.seed, int(name)])
        return rng.integers(0, 256, (rng.integers(30, 90), rng.integers(15, 40), 3), np.uint8)


def records(number=7, source=None):
    source = source or Noise()
    return [Record(str(index), index // 2, 1, source) for index in range(number)]


def expected(records, height=32, width=16):
    resize = v2.Resize((height, width), antialias=True)
    return torch.stack([resize(torch.from_numpy(record.load().transpose(2, 0, 1).copy())) for record in records])


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_images_are_those_of_the_dataset_with_a_cache():
    train = records()
    dataset = ReIDDataset(train, torch.nn.Identity(), cache_size=(64, 32))
    store = PixelStore(train, 64, 32)
    wanted = [5, 0, 5, len(train) - 1]
    images = store.images(wanted)
    assert images.dtype == torch.uint8 and torch.equal(images, torch.stack([dataset[i][0] for i in wanted]))
    assert torch.equal(images, expected([train[i] for i in wanted], 64, 32))
    assert store.filled == 3 and store.nbytes == len(train) * 3 * 64 * 32


@pytest.mark.parametrize("place", ["memory", "file"])
def test_each_image_is_read_once_and_only_when_asked_for(tmp_path, place):
    source = Noise()
    store = PixelStore(records(source=source), 32, 16, tmp_path / "pixels" if place == "file" else None)
    source.read.clear()  # a file is recognised by a few images
    assert (len(store), store.filled) == (7, 0)
    first = store.images([3, 1, 3])
    assert sorted(source.read) == ["1", "3"] and store.filled == 2
    assert torch.equal(first, expected([store.records[i] for i in (3, 1, 3)]))
    source.read.clear()
    first.zero_()  # a copy, so the store stays as it is
    assert torch.equal(store.images(np.array([1])), expected(store.records[1:2]))
    assert store.images([]).shape == (0, 3, 32, 16) and source.read == ["1"]  # by expected()


class Batches(Dataset):
    def __init__(self, store):
        self.store = store

    def __len__(self):
        return -(-len(self.store) // 3)

    def __getitem__(self, index):
        return self.store.images(range(len(self.store))[3 * index : 3 * index + 3])


@forked
def test_workers_made_by_fork_fill_one_store(tmp_path):
    train = CUHK03(make_root(tmp_path), box="labeled").train
    store = PixelStore(train, 32, 16)
    store.images([0])  # the .mat is open when the workers are made
    loader = DataLoader(Batches(store), batch_size=None, num_workers=2, multiprocessing_context="fork")
    read = torch.cat(list(loader))
    assert store.filled == len(train)
    assert torch.equal(read, expected(train, 32, 16))
    nowhere = [Record("9", record.pid, 1, None) for record in train]  # reading again would fail
    store.records = nowhere
    assert torch.equal(store.images(range(len(train))), read)
    assert torch.equal(torch.cat(list(loader)), read)


def test_pickled_a_store_in_memory_is_empty_and_one_in_a_file_is_not(tmp_path):
    for file, there in ((None, 0), (tmp_path / "pixels", 2)):
        store = PixelStore(records(), 32, 16, file)
        store.images([2, 4])
        other = pickle.loads(pickle.dumps(store))
        assert other.filled == there
        other.images([5])
        assert store.filled == (2 if file is None else 3)
        assert torch.equal(other.images([4, 5]), store.images([4, 5]))


def test_a_file_outlives_its_process_and_a_moved_folder(tmp_path):
    before = PixelStore(records(), 32, 16, tmp_path / "a" / "pixels").images(range(5))
    (tmp_path / "a").rename(tmp_path / "b")
    source = Noise()
    store = PixelStore(records(source=source), 32, 16, tmp_path / "b" / "pixels")
    source.read.clear()
    assert store.filled == 5 and torch.equal(store.images(range(5)), before) and source.read == []
    store.images([6, 0])
    assert source.read == ["6"]
    assert names(tmp_path / "b") == ["pixels"]


class Deadly(Noise):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def load(self, name):
        return _die() if name == self.name else super().load(name)


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def _killed(file, moment):
    if moment == "make":
        os.link = _die
    store = PixelStore(records(source=Deadly({"recognise": "0", "read": "3"}.get(moment))), 32, 16, file)
    store.images([1])
    store_module._mark = _die  # pixels are written, their mark is not
    store.images([3])


@forked
@pytest.mark.parametrize(("moment", "kept"), [("recognise", 0), ("make", 0), ("read", 1), ("mark", 1)])
def test_a_killed_process_leaves_whole_images_and_gaps(tmp_path, moment, kept):
    file = tmp_path / "pixels"
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(file, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = PixelStore(records(), 32, 16, file)
    assert store.filled == kept
    assert torch.equal(store.images(range(7)), expected(records()))
    assert store.filled == 7


def test_an_image_damaged_on_disk_is_read_again(tmp_path):
    file = tmp_path / "pixels"
    PixelStore(records(), 32, 16, file).images(range(7))
    content = bytearray(file.read_bytes())
    content[-3 * 32 * 16 * 2 + 100] ^= 1  # one bit of image 5
    content[-3 * 32 * 16 :] = bytes(3 * 32 * 16)  # image 6 never reached the disk, its mark did
    file.write_bytes(content)
    source = Noise()
    store = PixelStore(records(source=source), 32, 16, file)
    source.read.clear()
    assert torch.equal(store.images(range(7)), expected(records()))
    assert source.read == ["5", "6"] and store.filled == 7


def _fill(file, indices, barrier, results):
    barrier.wait()
    store = PixelStore(records(40), 32, 16, file)
    images = store.images(indices)
    barrier.wait()
    results.put((store.filled, os.fstat(os.open(file, os.O_RDONLY)).st_ino, images.sum(dtype=torch.int64).item()))


@forked
def test_processes_that_make_and_fill_one_file_at_once(tmp_path):
    file, context = tmp_path / "pixels", multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.SimpleQueue()
    orders = [list(range(40)), list(range(39, -1, -1)), list(range(0, 40, 2)) + list(range(1, 40, 2))]
    processes = [context.Process(target=_fill, args=(file, order, barrier, results)) for order in orders]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join()
    total = expected(records(40)).sum(dtype=torch.int64).item()
    assert found == [(40, file.stat().st_ino, total)] * 3  # one file, and everybody sees all of it
    assert torch.equal(PixelStore(records(40), 32, 16, file).images(range(40)), expected(records(40)))
    assert names(tmp_path) == ["pixels"]


def test_systems_without_links_and_reserving(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "not supported")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    store = PixelStore(records(500), 64, 32, tmp_path / "pixels")  # more than a piece of the zeros that are written
    assert (tmp_path / "pixels").stat().st_size > 2 << 20
    assert torch.equal(store.images([499, 0]), expected([store.records[499], store.records[0]], 64, 32))
    assert names(tmp_path) == ["pixels"]


@pytest.mark.parametrize(
    ("others", "size", "message"),
    [
        (records(), (32, 8), r"holds 7 images of 32×16, expected 7 images of 32×8; choose another name"),
        (records(6), (32, 16), r"holds 7 images of 32×16, expected 6 images of 32×16"),
        (records()[::-1], (32, 16), r"holds 7 images of 32×16 of other records, expected"),
        ([Record(r.image, r.pid + 1, 1, r.source) for r in records()], (32, 16), "of other records"),
        (records(source=Noise(seed=1)), (32, 16), "of other records"),  # another data set, the same names
    ],
)
def test_a_store_of_something_else_is_refused(tmp_path, others, size, message):
    file = tmp_path / "pixels"
    PixelStore(records(), 32, 16, file).images(range(7))
    before = file.read_bytes()
    with pytest.raises(DataError, match=message):
        PixelStore(others, *size, file)
    assert file.read_bytes() == before
    os.truncate(file, 10_000)
    with pytest.raises(DataError, match=r"pixels: got 10000 bytes, expected \d+; delete the file"):
        PixelStore(records(), 32, 16, file)


@pytest.mark.parametrize(
    "content", [b"", b"\x89HDF\r\n", b"[1, 2]".ljust(9000), b'{"format": "reidlab pixels 1"}', b"null"]
)
def test_other_files_are_refused(tmp_path, content):
    file = tmp_path / "pixels"
    file.write_bytes(content)
    with pytest.raises(DataError, match="pixels: not a store of images of this package and version; choose another"):
        PixelStore(records(), 32, 16, file)
    assert file.read_bytes() == content


def test_a_full_disk_is_noticed_at_the_beginning(tmp_path, monkeypatch):
    usage = namedtuple("Usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 5000, 5000))
        with pytest.raises(OSError, match=r"pixels: needs 19\.7 MB, free are 0\.0 MB; free space, choose") as caught:
            PixelStore(records(200), 256, 128, tmp_path / "pixels")
        assert caught.value.errno == errno.ENOSPC

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module, "_reserve", full)
    with pytest.raises(OSError, match=r"pixels: needs 19\.7 MB, the disk is full; free space"):
        PixelStore(records(200), 256, 128, tmp_path / "pixels")
    assert names(tmp_path) == []


def test_places_that_cannot_hold_it(tmp_path, monkeypatch):
    with pytest.raises(IsADirectoryError, match="is a folder, expected a file name"):
        PixelStore(records(), 32, 16, tmp_path)

    def no_memory(*_):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(store_module.mmap, "mmap", no_memory)
    with pytest.raises(OSError, match=r"19\.7 MB of memory for 200 images: Cannot allocate memory; keep them in a"):
        PixelStore(records(200), 256, 128)


@pytest.mark.parametrize(("name", "message"), [("broken", "broken: cannot be read"), ("grey", r"grey: .* \(20, 10\)")])
def test_a_picture_that_cannot_be_read_is_named_and_not_kept(name, message):
    some = records()
    some[3] = Record(name, 1, 1, some[0].source)
    store = PixelStore(some, 32, 16)
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            store.images([1, 3, 5])
    assert store.filled == 1
    assert torch.equal(store.images([1, 5]), expected([some[1], some[5]]))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="records is empty"):
        PixelStore([], 32, 16)
    with pytest.raises(ValueError, match="width=0: expected a whole number of at least 1"):
        PixelStore(records(), 32, 0)
    for wrong in ([7], [-1, 2]):
        with pytest.raises(ValueError, match="expected 0 to 6"):
            PixelStore(records(), 32, 16).images(wrong)
