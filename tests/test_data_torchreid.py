"""Our files are CUHK03's: another code base's own loader reads them and finds the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from data_files import make_root
from PIL import Image

from reidlab.data import CUHK03

cuhk03 = pytest.importorskip(
    "torchreid.reid.data.datasets.image.cuhk03",
    reason="torchreid==0.2.5 does not import; beside itself it wants opencv-python, gdown, tensorboard, imageio",
)


@pytest.fixture(scope="module", params=["noise", "walkers"])
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `cuhk03/`, as torchreid wants it; torchreid unpacks its images beside ours."""
    parent = tmp_path_factory.mktemp(request.param)
    if request.param == "noise":
        make_root(parent / "cuhk03")
    else:
        # A copy, since the world is that of all tests.
        shutil.copytree(request.getfixturevalue("tiny_world"), parent / "cuhk03")
    return parent


def _name(path: str) -> str:
    return Path(path).name


@pytest.mark.parametrize("box", ["labeled", "detected"])
def test_new_protocol_is_the_same(folders: Path, box: str) -> None:
    theirs = cuhk03.CUHK03(root=str(folders), cuhk03_labeled=box == "labeled", verbose=False)
    ours = CUHK03(folders, box=box)
    for part in ("train", "query", "gallery"):
        got, expected = getattr(ours, part), getattr(theirs, part)
        assert [_name(r.image) for r in got] == [_name(item[0]) for item in expected]
        assert [r.camid - 1 for r in got] == [item[2] for item in expected]  # theirs count from 0
        if part != "train":
            assert [r.pid for r in got] == [item[1] for item in expected]
    # Training identities are renumbered by torchreid, so only who is the same as whom can agree.
    pairs = {(r.pid, item[1]) for r, item in zip(ours.train, theirs.train, strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == theirs.num_train_pids


@pytest.mark.parametrize("split", [0, 1])
def test_classic_protocol_is_the_same(folders: Path, split: int) -> None:
    theirs = cuhk03.CUHK03(
        root=str(folders), split_id=split, cuhk03_labeled=True, cuhk03_classic_split=True, verbose=False
    )
    ours = CUHK03(folders, box="labeled", protocol="classic", split=split)
    for part in ("train", "query", "gallery"):
        got, expected = getattr(ours, part), getattr(theirs, part)
        assert [_name(r.image) for r in got] == [_name(item[0]) for item in expected]
        pairs = {(r.pid, item[1]) for r, item in zip(got, expected, strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize("box", ["labeled", "detected"])
def test_pixels_are_the_same(folders: Path, box: str) -> None:
    theirs = cuhk03.CUHK03(root=str(folders), cuhk03_labeled=box == "labeled", verbose=False)
    ours = CUHK03(folders, box=box)
    for part in ("train", "query", "gallery"):
        for record, item in zip(getattr(ours, part), getattr(theirs, part), strict=True):
            np.testing.assert_array_equal(record.load(), np.asarray(Image.open(item[0])))
