from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data_files import cells, make_root, names_of, picture
from PIL import Image

import reidlab.data.export as export
from reidlab.data import export_png
from reidlab.data.names import name_of_cell
from reidlab.errors import DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("cuhk03"))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


@pytest.mark.parametrize("jobs", [1, 2])
def test_standard_folders_with_the_same_pixels(root: Path, tmp_path: Path, jobs: int) -> None:
    assert export_png(root, tmp_path / "out", jobs=jobs) == tmp_path / "out"
    for box in ("labeled", "detected"):
        folder = tmp_path / "out" / f"images_{box}"
        assert sorted(path.name for path in folder.iterdir()) == sorted(names_of(box))
        for cell in cells(box):
            got = np.asarray(Image.open(folder / name_of_cell(*cell)))
            np.testing.assert_array_equal(got, picture(box, *cell))


def test_the_next_run_writes_only_what_is_missing(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _files(export_png(root, tmp_path))
    folder = tmp_path / "images_labeled"
    missing, cut, empty = (folder / name for name in names_of("labeled")[:3])
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:-3])  # as after a power cut
    empty.write_bytes(b"")
    (folder / f".{missing.name}.partial").write_bytes(b"half")  # as after kill -9
    written = []
    write = export._write_png
    monkeypatch.setattr(export, "_write_png", lambda path, image: written.append(path) or write(path, image))
    export_png(root, tmp_path)
    assert sorted(written) == [missing, cut, empty]
    assert _files(tmp_path) == expected


def test_a_killed_export_ends_in_the_same_files(root: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time, reidlab.data.export as e\n"
        "w = e._write_png\n"
        "def slow(path, image):\n"
        "    time.sleep(0.01); w(path, image)\n"
        "e._write_png = slow\n"
        "e.export_png(sys.argv[1], sys.argv[2])\n"
    )
    out = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", code, str(root), str(out)], cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + 20
    while len(list(out.glob("images_labeled/1*.png"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    child.wait()
    half = _files(out)
    whole = _files(export_png(root, tmp_path / "whole"))
    assert 5 <= len(half) < len(whole)
    assert _files(export_png(root, out)) == whole


def test_a_full_disk_is_one_line_and_the_next_run_continues(root: Path, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="file size limits are a matter of Unix")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(OSError, match=r"images_labeled: cannot be written \(File too large\); make room"):
            export_png(root, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.rglob("*.png"))
    assert not list(tmp_path.rglob(".*"))
    export_png(root, tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) == len(names_of("labeled")) + len(names_of("detected"))


def test_a_place_that_cannot_be_written(root: Path, tmp_path: Path) -> None:
    export_png(root, tmp_path, box="detected")
    assert [path.name for path in tmp_path.iterdir()] == ["images_detected"]  # one box type only
    (tmp_path / "images_labeled").write_text("a file of that name")
    with pytest.raises(OSError, match=r"images_labeled: cannot be made or written \(.*\); choose another folder"):
        export_png(root, tmp_path)


def test_a_link_that_leads_out_is_not_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "images_labeled").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link that leads out of"):
        export_png(root, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"box": "both"}, "box='both': expected"), ({"box": ()}, r"got box=\(\)"), ({"jobs": 0}, "jobs=0: expected")],
)
def test_arguments(root: Path, tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_png(root, tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_no_mat_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing cuhk-03\.mat \(looked in"):
        export_png(tmp_path, tmp_path / "out")
    assert not list(tmp_path.iterdir())
