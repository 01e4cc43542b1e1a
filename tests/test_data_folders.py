from __future__ import annotations

from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from data_files import write_images
from PIL import Image

from reidlab.data import FolderDataset, Market1501, check
from reidlab.errors import DataError

MARKET = [
    "bounding_box_train/0002_c1s1_000451_03.jpg",
    "bounding_box_train/0002_c3s1_000551_00.jpg",
    "query/0001_c1s1_001051_00.jpg",
    "query/0001_c2s1_001051_00.jpg",
    "bounding_box_test/-1_c1s1_000401_03.jpg",
    "bounding_box_test/0000_c1s1_000151_01.jpg",
    "bounding_box_test/0001_c6s4_001051_01.jpg",
]


def _images(records) -> list[str]:
    return [record.image for record in records]


# --- Market-1501 -------------------------------------------------------------------------------------------------


def test_market1501(tmp_path: Path) -> None:
    data = Market1501(write_images(tmp_path, MARKET))
    assert _images(data.train) == MARKET[:2]
    assert _images(data.query) == MARKET[2:4]
    assert _images(data.gallery) == MARKET[5:]  # -1 is junk, 0 a distractor
    assert [(r.pid, r.camid) for r in data.gallery] == [(0, 1), (1, 6)]
    assert data.junk == 1
    assert (data.box, data.protocol) == ("as given", "as given")
    assert data.name == f"{tmp_path.name} (Market-1501 naming)"  # its counts are not Market-1501's
    assert "1 junk left out" in repr(data)
    assert data.query[0].load().shape == (16, 8, 3)


def test_market1501_from_the_folder_above_and_after_a_move(tmp_path: Path) -> None:
    write_images(tmp_path / "a" / "Market-1501-v15.09.15", MARKET)
    before = Market1501(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert Market1501(tmp_path / "b").gallery == before.gallery
    Market1501(tmp_path / "b").gallery[0].load()


@pytest.mark.parametrize(
    "name", ["0001_1_1.jpg", "readme.txt", "0001_c1s1_001051_00.gif", "-2_c1s1_1_0.jpg", "a_c1s1_1_0.jpg"]
)
def test_a_name_that_does_not_parse(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, MARKET)
    (tmp_path / "query" / name).write_text("")
    with pytest.raises(
        DataError, match=r"1 names do not parse: .*; expected .* 0001_c1s1_000001_00\.jpg; rename"
    ) as error:
        Market1501(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'query'}: ")
    assert name in str(error.value)


def test_market1501_folders_are_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing query/ and bounding_box_test/; expected"):
        Market1501(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Market1501(tmp_path / "nowhere")
    write_images(tmp_path, MARKET[2:])
    (tmp_path / "bounding_box_train").mkdir()
    with pytest.raises(DataError, match="bounding_box_train: holds no images of people"):
        Market1501(tmp_path)


def test_the_real_sample(real_data: Path) -> None:
    data = Market1501(real_data / "pku_reid")
    assert len({record.pid for record in (*data.query, *data.gallery)}) == 37
    assert len(data.query) + len(data.gallery) == 592
    assert (len(data.train), data.junk) == (0, 0)
    assert {record.camid for record in data.gallery} == {1, 2}
    assert data.query[0].load().shape == (128, 48, 3)


# --- one folder per person ---------------------------------------------------------------------------------------


def test_queries_by_rule(tmp_path: Path) -> None:
    write_images(tmp_path, ["7/1_a.png", "7/1_b.png", "7/2_a.png", "7/2_b.png"])  # both cameras can spare one
    write_images(tmp_path, ["8/c1_a.png", "8/c3_a.png", "8/c3_b.png"])  # only camera 3 can
    write_images(tmp_path, ["9/cam1_a.png", "9/cam2_a.png"])  # none can: the first camera's
    write_images(tmp_path, ["10/1_a.png", "10/1_b.png"])  # one camera: a distractor
    data = FolderDataset(tmp_path)
    assert _images(data.query) == ["7/1_a.png", "7/2_a.png", "8/c3_a.png", "9/cam1_a.png"]
    rest = ["7/1_b.png", "7/2_b.png", "8/c1_a.png", "8/c3_b.png", "9/cam2_a.png", "10/1_a.png", "10/1_b.png"]
    assert sorted(_images(data.gallery)) == sorted(rest)
    assert data.train == []
    for query in data.query:
        assert any(r.pid == query.pid and r.camid != query.camid for r in data.gallery)


def test_folders_of_parts(tmp_path: Path) -> None:
    write_images(
        tmp_path, ["train/1/1_a.png", "query/2/1_a.png", "gallery/0002_c2s1_000001_00.jpg", "gallery/-1/2_a.png"]
    )
    data = FolderDataset(tmp_path)
    assert _images(data.train) == ["train/1/1_a.png"]
    assert _images(data.query) == ["query/2/1_a.png"]
    assert _images(data.gallery) == ["gallery/0002_c2s1_000001_00.jpg"]
    assert data.junk == 1
    (tmp_path / "gallery").rename(tmp_path / "3")
    with pytest.raises(FileNotFoundError, match="missing gallery/"):
        FolderDataset(tmp_path)


def test_lists_from_windows(tmp_path: Path) -> None:
    write_images(tmp_path, ["7/1_a.png", "7/2_a.png", "8/1_a.png"])
    data = FolderDataset(tmp_path, query=["7\\1_a.png"], gallery=[PureWindowsPath("7/2_a.png")], train=["8/1_a.png"])
    assert [_images(part) for part in (data.train, data.query, data.gallery)] == [
        ["8/1_a.png"], ["7/1_a.png"], ["7/2_a.png"]
    ]  # fmt: skip
    np.testing.assert_array_equal(data.query[0].load(), np.asarray(Image.open(tmp_path / "7" / "1_a.png")))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["7\\2_x.png"], r"gallery list: names 1 images that are not in .*: 7/2_x\.png"),
        (["..\\7\\2_a.png"], "leads out of"),
        (["C:\\data\\7\\2_a.png"], "leads out of"),
        (["/data/7/2_a.png"], "leads out of"),
        (["7/1_a.png"], r"7/1_a\.png is in query and in gallery"),
        (["7/2_a.png", "7\\2_a.png"], r"7/2_a\.png is in gallery and in gallery"),
        ([], "gallery holds no images"),
        (["7/a.png"], "does not tell identity and camera"),
    ],
)
def test_lists_with_faults(tmp_path: Path, names: list[str], message: str) -> None:
    write_images(tmp_path, ["7/1_a.png", "7/2_a.png"])
    with pytest.raises(ValueError, match="expected query and gallery"):
        FolderDataset(tmp_path, query=["7/1_a.png"])
    with pytest.raises(DataError, match=message):
        FolderDataset(tmp_path, query=["7/1_a.png"], gallery=names)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("7/left.png", r"7/left\.png: the name does not tell identity and camera; expected .*7/2_0031\.png"),
        ("alice/1_a.png", "1 folders are not named by an identity number: alice; .* number the people"),
        ("picture.png", r"picture\.png: the name does not tell"),
        ("7/1_a.txt", r"7/1_a\.txt: is not named as an image that can be read .* or move it away"),
        ("7/1_a.heic", "is not named as an image that can be read"),
    ],
)
def test_a_name_that_tells_nothing(tmp_path: Path, name: str, message: str) -> None:
    write_images(tmp_path, ["7/1_a.png", "7/2_a.png"])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(DataError, match=message):
        FolderDataset(tmp_path)


def test_one_camera_is_not_enough(tmp_path: Path) -> None:
    write_images(tmp_path, ["7/1_a.png", "7/1_b.png", "8/1_a.png"])
    with pytest.raises(DataError, match=r"all images are from camera 1, .*into\s+query/ .*--same-camera keep"):
        FolderDataset(tmp_path)


def test_faults_of_all_names_are_counted_and_a_persons_own_folder_is_recognised(tmp_path: Path) -> None:
    write_images(tmp_path, ["7/1_a.png", "7/left.png", "8/2_a.png", "8/right.png", "8/notes.png"])
    with pytest.raises(DataError, match=r"left\.png: the name does not tell .*; so are 2 more names in "):
        FolderDataset(tmp_path)
    with pytest.raises(DataError, match=r"if 7/ is the folder of one person, give the folder above it"):
        FolderDataset(tmp_path / "7")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no images; expected"):
        FolderDataset(tmp_path / "empty")


def test_the_check_counts_people_and_cameras_and_says_what_cannot_be_scored(tmp_path: Path) -> None:
    write_images(tmp_path, ["query/7/1_a.png", "gallery/7/1_b.png", "gallery/8/1_a.png"])
    report = check(tmp_path, data_format="folder")
    assert report.ok and "3 images of 2 identities from 1 cameras" in str(report)
    assert "no query has an image of its person from another camera" in str(report)
    assert "--same-camera keep" in str(report)
    write_images(tmp_path, ["gallery/7/2_b.png"])
    assert "no query" not in str(check(tmp_path, data_format="folder"))
    with pytest.raises(FileNotFoundError, match=r"absent: no such folder; give the folder"):
        check(tmp_path / "absent", data_format="folder")
