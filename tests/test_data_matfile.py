from __future__ import annotations

import time
import weakref
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from data_files import SIZES, cells, picture, protocol_of, write_mat, write_protocol
from hypothesis import given
from hypothesis import strategies as st

from reidlab.data.matfile import write_cuhk03_mat
from reidlab.data.names import PAIR_SIZES, image_name, parse_image_name
from reidlab.data.protocolfile import read_new_protocol, write_new_protocol
from reidlab.errors import DataError

IMAGE = np.full((6, 4, 3), 9, np.uint8)


# --- names -------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5), st.integers(1, 1500), st.integers(0, 9))
def test_names_and_numbers_turn_into_each_other(pair: int, identity: int, index: int) -> None:
    view = 1 if index < 5 else 2
    assert parse_image_name(image_name(pair, identity, view, index + 1)) == (pair, identity, view, index + 1)


BAD_NAMES = ["1_001_1_06.png", "1_001_2_05.png", "1_001_3_01.png", "1_001_1_00.png", "1_001_1_11.png"]  # numbers
BAD_NAMES += ["1_000_1_01.png", "1_001_01.png", "0001_c1s1_000001_00.jpg", "1_001_1_01", "1_001_1_01.png "]
BAD_NAMES += ["1_001_1_01.gif", "", "1_٠٠١_1_01.png"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_does_not_parse_is_named(name: str) -> None:
    with pytest.raises(DataError, match=r"1_001_1_02\.png") as error:
        parse_image_name(name)
    assert repr(name) in str(error.value)


@pytest.mark.parametrize(
    "numbers", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 1, 0), (1, 1, 2, 11), (1, 1, 2, 5), (1, 1, 1, 6)]
)
def test_numbers_out_of_range_make_no_name(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="got"):
        image_name(*numbers)


# --- the images, MATLAB 7.3 --------------------------------------------------------------------------------------


def test_structure_is_cuhk03s(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "cuhk-03.mat")
    start = path.read_bytes()[:520]
    assert start.startswith(b"MATLAB 7.3 MAT-file, Platform: ") and start[124:128] == b"\x00\x02IM"
    assert start[512:] == b"\x89HDF\r\n\x1a\n"
    with pytest.raises(NotImplementedError, match=r"HDF reader for matlab v7\.3"):
        scipy.io.loadmat(path)
    with h5py.File(path) as file:
        assert set(file) == {"#refs#", "detected", "labeled", "testsets"}
        assert file.userblock_size == 512
        for box in ("labeled", "detected"):
            assert file[box].shape == (1, len(SIZES))
            assert file[box].attrs["MATLAB_class"] == b"cell"
            for pair, reference in enumerate(file[box][0], 1):
                table = file[reference]
                assert table.name.startswith("/#refs#/")
                assert table.shape == (10, SIZES[pair - 1])
                assert table.attrs["MATLAB_class"] == b"cell"
                for (index, identity), cell in np.ndenumerate(table[()]):
                    _check_cell(file[cell], box, pair, identity + 1, index)
        first = file[file["testsets"][0, 0]]
        assert file["testsets"].shape == (1, 2)
        assert first.dtype == np.float64
        assert first[()].tolist() == [[1, 2], [2, 1]]  # (2, n): a row of pairs, a row of identities
        assert first.attrs["MATLAB_class"] == b"double"


def _check_cell(dataset: h5py.Dataset, box: str, pair: int, identity: int, index: int) -> None:
    if (pair, identity, index) in set(cells(box)):
        assert dataset.attrs["MATLAB_class"] == b"uint8"
        assert dataset.chunks is None
        assert dataset.compression is None
        np.testing.assert_array_equal(dataset[()].T, picture(box, pair, identity, index))
    else:
        assert dataset.dtype == np.uint64
        assert dataset[()].tolist() == [0, 0]
        assert dataset.attrs["MATLAB_empty"] == 1


def test_same_input_gives_same_bytes_at_another_time(tmp_path: Path) -> None:
    first = write_mat(tmp_path / "a.mat").read_bytes()
    protocol = write_protocol(tmp_path, "labeled").read_bytes()
    time.sleep(1.05)  # HDF5 and scipy stamp seconds
    assert write_mat(tmp_path / "b.mat").read_bytes() == first
    assert write_protocol(tmp_path, "labeled").read_bytes() == protocol


def test_images_are_not_kept_in_memory(tmp_path: Path) -> None:
    alive: list[weakref.ref] = []

    def stream():
        for index in range(10):
            image = IMAGE.copy()
            alive.append(weakref.ref(image))
            assert sum(ref() is not None for ref in alive) <= 2
            yield "labeled", 1, 1, index, image

    write_cuhk03_mat(tmp_path / "a.mat", [1], stream(), [])
    assert len(alive) == 10


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_broken_off_write_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = write_mat(tmp_path / "cuhk-03.mat")
    before = path.read_bytes()

    def stream():
        yield "labeled", 1, 1, 0, IMAGE
        raise error

    with pytest.raises(error):
        write_cuhk03_mat(path, [1], stream(), [])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits are a matter of Unix")
    large = np.full((1000, 1000, 3), 9, np.uint8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"a\.mat: cannot be written \(File too large\); make room"):
            write_cuhk03_mat(tmp_path / "a.mat", [1], [("labeled", 1, 1, 0, large)], [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (("drawn", 1, 1, 0, IMAGE), "box"),
        (("labeled", 2, 1, 0, IMAGE), "pair from 1 to 1"),
        (("labeled", 1, 2, 0, IMAGE), "identity from 1 to 1"),
        (("labeled", 1, 1, 10, IMAGE), "index from 0 to 9"),
        (("labeled", 1, 1, 0, IMAGE.astype(np.uint16)), "uint16"),
        (("labeled", 1, 1, 0, IMAGE[..., 0]), r"\(6, 4\)"),
        (("labeled", 1, 1, 0, IMAGE[:0]), "without pixels"),
        (("labeled", 1, 1, 0, IMAGE.tolist()), "list"),
    ],
)
def test_a_wrong_image_is_refused(tmp_path: Path, cell: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_cuhk03_mat(tmp_path / "a.mat", [1], [cell], [])
    with pytest.raises(ValueError, match="came twice"):
        write_cuhk03_mat(tmp_path / "a.mat", [1], [("labeled", 1, 1, 0, IMAGE)] * 2, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("testset", [[[1, 3]], [[2, 1]], [[0, 1]], [[1.0, 1.0]], [1, 1], [[1, 1, 1]]])
def test_a_wrong_test_set_is_refused(tmp_path: Path, testset: list) -> None:
    with pytest.raises(ValueError, match=r"testsets\[0\]"):
        write_cuhk03_mat(tmp_path / "a.mat", [2], [], [np.array(testset)])


# --- the protocol, MATLAB 5 --------------------------------------------------------------------------------------


def test_protocol_survives_writing_and_reading(tmp_path: Path) -> None:
    expected = protocol_of("detected")
    got = read_new_protocol(write_protocol(tmp_path, "detected"))
    assert got.names == expected.pop("names")
    for key, values in expected.items():
        assert getattr(got, key).tolist() == values
        assert getattr(got, key).dtype == np.int64


def test_real_protocol_files_have_the_published_counts(real_data: Path) -> None:
    published = {"labeled": (14096, 7368, 1400, 5328), "detected": (14097, 7365, 1400, 5332)}
    first = np.concatenate([[0], np.cumsum(PAIR_SIZES)])
    for box, counts in published.items():
        got = read_new_protocol(real_data / "cuhk03_protocol" / f"cuhk03_new_protocol_config_{box}.mat")
        assert (len(got.names), len(got.train_idx), len(got.query_idx), len(got.gallery_idx)) == counts
        assert len(set(got.labels[got.train_idx - 1])) == 767
        assert len(set(got.labels[got.query_idx - 1])) == len(set(got.labels[got.gallery_idx - 1])) == 700
        parsed = np.array([parse_image_name(name) for name in got.names])
        np.testing.assert_array_equal(first[parsed[:, 0] - 1] + parsed[:, 1], got.labels)
        np.testing.assert_array_equal(parsed[:, 2], got.camids)


def test_real_protocol_files_and_ours_are_of_one_kind(real_data: Path, tmp_path: Path) -> None:
    real = real_data / "cuhk03_protocol" / "cuhk03_new_protocol_config_labeled.mat"
    got = read_new_protocol(real)
    ours = write_new_protocol(tmp_path / "a.mat", *vars(got).values())
    expected, written = scipy.io.loadmat(real), scipy.io.loadmat(ours)
    for key in ("filelist", "labels", "camId", "train_idx", "query_idx", "gallery_idx"):
        assert written[key].dtype == expected[key].dtype
        assert written[key].shape == expected[key].shape
        assert (written[key] == expected[key]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_idx": [0]}, "expected 1 to"),
        ({"labels": [1]}, "expected one each"),
        ({"labels": [70000] * len(protocol_of("labeled")["names"])}, "70000"),
    ],
)
def test_numbers_that_do_not_fit_are_not_written(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_protocol(tmp_path, "labeled", **changes)
    assert list(tmp_path.iterdir()) == []


def _with(key: str, place: int, value: object) -> dict[str, list]:
    """Return the protocol's list `key` with one entry changed."""
    values = list(protocol_of("labeled")[key])
    values[place] = value
    return {key: values}


PROTOCOL = protocol_of("labeled")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (_with("names", 0, "1_001_01.png"), r"1 names are not of the form .*'1_001_01\.png'"),
        (_with("names", 0, PROTOCOL["names"][1]), r"names 1 images more than once: 1_001_1_02\.png"),
        (_with("camids", 0, 2), r"camId says 2 for 1_001_1_01\.png, whose name says view 1"),
        (_with("labels", 0, 9), "identity 1 of pair 1 has two labels, 9 and 1"),
        ({"labels": [min(label, 6) for label in PROTOCOL["labels"]]}, "several people have the same label: 6"),
        (_with("gallery_idx", 0, 999), "gallery_idx goes from .* to 999, expected 1 to"),
        (_with("query_idx", 0, PROTOCOL["query_idx"][1]), "query_idx holds 1 positions more than once"),
        (_with("query_idx", 0, PROTOCOL["gallery_idx"][0]), "1 images are in query_idx and in gallery_idx"),
        (_with("gallery_idx", 0, PROTOCOL["train_idx"][0]), "1 images are in train_idx and in gallery_idx"),
        ({"train_idx": PROTOCOL["train_idx"][:-1], "gallery_idx": PROTOCOL["train_idx"][-1:]}, "1 identities are in"),
        ({"train_idx": []}, "train_idx is empty"),
        (
            {
                key: [n for n in PROTOCOL[key] if PROTOCOL["camids"][n - 1] == 1]
                for key in ("train_idx", "query_idx", "gallery_idx")
            },
            "a view is missing: all queries and gallery images are of view 1",
        ),
    ],
)
def test_a_protocol_that_contradicts_itself_is_refused(tmp_path: Path, changes: dict, message: str) -> None:
    path = write_protocol(tmp_path, "labeled", **changes)
    with pytest.raises(DataError, match=message) as error:
        read_new_protocol(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{"filelist": [1.0]}, {"labels": [1.5]}, {"labels": "text"}])
def test_a_protocol_of_other_types_is_refused(tmp_path: Path, content: dict) -> None:
    whole = {key: [1.0] for key in ("labels", "camId", "train_idx", "query_idx", "gallery_idx")}
    whole["filelist"] = np.array([["1_001_1_01.png"]], object)
    scipy.io.savemat(tmp_path / "a.mat", {**whole, **content})
    with pytest.raises(DataError, match="expected"):
        read_new_protocol(tmp_path / "a.mat")
    scipy.io.savemat(tmp_path / "a.mat", content)
    with pytest.raises(DataError, match=r"lacks .*train_idx, query_idx, gallery_idx"):
        read_new_protocol(tmp_path / "a.mat")
