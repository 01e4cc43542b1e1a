"""Pictures as people have them: turned, linked, in the wrong folder, with another name, unusable."""

import io
import os
import signal
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from data_files import write_images
from PIL import Image
from typer.testing import CliRunner

from reidlab.cli import app
from reidlab.data import CUHK03, FolderDataset, Market1501, check
from reidlab.data.records import FolderSource, Record
from reidlab.data.store import PixelStore
from reidlab.data.workers import named_errors
from reidlab.errors import DataError, WorkerError
from reidlab.evaluation import extract_features
from reidlab.models.pixels import RawPixels

FOLDER = ["7/1_a.png", "7/1_b.png", "7/2_a.png"]
MARKET = ["query/0001_c1s1_000001_00.png", "bounding_box_test/0001_c2s1_000001_00.png"]
NP = ["labeled/bounding_box_train/0005_c1_1.png", "labeled/query/0001_c1_1.png"]
NP += ["labeled/bounding_box_test/0001_c2_1.png"]
LAYOUTS = {
    "folder": (FolderDataset, FOLDER, "7"),
    "parts": (FolderDataset, ["query/7/1_a.png", "gallery/7/2_a.png"], "gallery/7"),
    "market1501": (Market1501, MARKET, "query"),
    "cuhk03-np": (lambda root: CUHK03(root, box="labeled"), NP, "labeled/query"),
}
layouts = pytest.mark.parametrize(("opener", "names", "inside"), LAYOUTS.values(), ids=LAYOUTS)


def everything(data) -> list[Record]:
    return [*data.train, *data.query, *data.gallery]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# --- orientation -------------------------------------------------------------------------------------------------

FORMATS = {
    "jpg": {"quality": 100, "subsampling": 0},
    "png": {},
    "webp": {"lossless": True},
    "tif": {"compression": "tiff_lzw"},
    "mpo": {"format": "MPO", "quality": 100, "subsampling": 0, "save_all": True},
}
STORED = [None, Image.FLIP_LEFT_RIGHT, Image.ROTATE_180, Image.FLIP_TOP_BOTTOM]
STORED += [Image.TRANSPOSE, Image.ROTATE_90, Image.TRANSVERSE, Image.ROTATE_270]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_turned_picture_is_read_upright(tmp_path, suffix):
    upright = np.zeros((80, 40, 3), np.uint8)
    upright[:40, :, 0], upright[40:, :, 2], upright[:, :8, 1] = 250, 250, 200
    for tag, turn in enumerate(STORED, 1):
        exif, image = Image.Exif(), Image.fromarray(upright)
        exif[0x0112] = tag
        image = image if turn is None else image.transpose(turn)
        more = {"append_images": [image.resize((20, 20))]} if suffix == "mpo" else {}
        image.save(tmp_path / f"x.{suffix}", exif=exif, **FORMATS[suffix], **more)
        record = Record(f"x.{suffix}", 1, 1, FolderSource(tmp_path))
        assert record.load().shape == upright.shape
        assert np.abs(record.load().astype(int) - upright).max() < 12
        kept = PixelStore([record], 80, 40).images([0])[0].permute(1, 2, 0).numpy()  # what a training reads
        np.testing.assert_array_equal(kept, record.load())


# --- what lies in folders ----------------------------------------------------------------------------------------


@layouts
def test_a_folder_inside_is_named(tmp_path, opener, names, inside):
    write_images(tmp_path, [*names, f"{inside}/night/{Path(names[-1]).name}"])
    with pytest.raises(DataError, match="holds 1 folders: night; images in them would not be read"):
        opener(tmp_path)


@layouts
def test_known_system_files_alone_are_passed_over(tmp_path, opener, names, inside):
    write_images(tmp_path, names)
    for name in ("Thumbs.db", "._0001_c1s1.jpg", ".DS_Store", "desktop.ini", ".gitkeep"):
        (tmp_path / inside / name).write_text("")
    write_images(tmp_path / inside, [".ipynb_checkpoints/1_a-checkpoint.png", "__MACOSX/1_a.png"])
    assert len(everything(opener(tmp_path))) == len(names)
    (tmp_path / inside / ".1_c.png").write_text("")  # hidden, but no known one
    with pytest.raises(DataError, match=r"\.1_c\.png"):
        opener(tmp_path)


@layouts
def test_linked_pictures_and_folders_are_read(tmp_path, opener, names, inside):
    store = write_images(tmp_path / "store", names)
    for name in names:
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        link = tmp_path / "a" / name
        link.symlink_to(os.path.relpath(store / name, link.parent))
    (tmp_path / "b").mkdir()
    for folder in {name.split("/")[0] for name in names}:
        (tmp_path / "b" / folder).symlink_to(store / folder)
    for root in (tmp_path / "a", tmp_path / "b"):
        assert [record.load()[0, 0, 0] for record in everything(opener(root))] == [
            record.load()[0, 0, 0] for record in everything(opener(store))
        ]
        assert check(root, expect="any").ok
    (tmp_path / "a" / inside / "0001_c1_9.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=r"links that point nowhere, .*0001_c1_9\.png"):
        opener(tmp_path / "a")


def test_the_box_type_is_that_of_the_name_that_was_given(tmp_path):
    write_images(tmp_path / "store", NP)
    (tmp_path / "detected").symlink_to(tmp_path / "store" / "labeled")
    with pytest.raises(DataError, match="the folder's name says detected"):
        CUHK03(tmp_path / "detected", box="labeled")


@pytest.mark.parametrize("name", ["x.png", "8/1_a.png"])
def test_pictures_beside_query_and_gallery_are_named(tmp_path, name):
    write_images(tmp_path, ["query/7/1_a.png", "gallery/7/2_a.png", "train_all/7/1_a.png", name])
    with pytest.raises(DataError, match=f"{name.split('/')[0]} would not be read beside"):
        FolderDataset(tmp_path)


# --- who, and under which camera ---------------------------------------------------------------------------------

READ = ["{p}/{c}_{k}.png", "{p:03d}/{p:03d}_c{c}_{k:04d}.jpg", "{p:02d}/{p:02d}_cam{c}_{k}.png"]
READ += ["{p}/cam{c}-{k:04d}.png", "{p}/C{c}_{k}.PNG", "{p}/p{p}_cam{c}.{k}.jpg"]
READ += ["{p:04d}_c{c}_f{k:07d}.jpg", "{p}/{p:04d}_C{c}S1_{k:06d}_00.JPG"]
READ += ["{p}/frame{k}_cam{c}.png", "{p}/camera_{c}_{k}.webp", "{p:04d}_c{c:03d}_{k:08d}_0.jpg"]
REFUSED = ["{p}/{k:03d}_cam{c}.jpg", "{p}/{k:03d}_{c}.png", "{p}/0{k}_{c}.png"]
REFUSED += ["{p}/{p}_{c}_{k}.png", "{p}/c{c}_cam{k}.png"]
REFUSED += ["{p}/1_{p:03d}_{c}_0{k}.png"]  # CUHK03's: camera pair, identity, view, image
REFUSED += ["{p:04d}/{p:04d}_000_{c:02d}_0303morning_{k:04d}_0.jpg", "{p:04d}{k:03d}.png", "{p}/{p:03d}_{c}_{k}.png"]


@pytest.mark.parametrize("pattern", READ + REFUSED)
def test_the_camera_is_read_or_the_name_refused(tmp_path, pattern):
    shots = {
        f"{part}/{pattern.format(p=p, c=c, k=k)}": (p, c)
        for p in (11, 12)
        for c in (1, 2)
        for part, k in (("query", 5), ("query", 6), ("gallery", 8), ("gallery", 9))
    }
    write_images(tmp_path, list(shots))
    if pattern in READ:
        assert {r.image: (r.pid, r.camid) for r in everything(FolderDataset(tmp_path))} == shots
    else:
        with pytest.raises(DataError, match=r"(query|gallery)/.*(expected|such as)"):
            FolderDataset(tmp_path)


@pytest.mark.parametrize("name", ["7/0008_c1s1_000001_00.png", "7/8_cam1.png", "7/-1_c1_a.png", "7/p8_cam1_a.png"])
def test_a_name_that_contradicts_its_folder(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}: the folder says identity 7, the name begins with "):
        FolderDataset(write_images(tmp_path, [*FOLDER, name]))


def test_listed_names_are_one_name_however_they_are_written(tmp_path):
    write_images(tmp_path, [*FOLDER, "7/2/1_a.png"])
    with pytest.raises(DataError, match=r"7/1_a\.png is in query and in gallery"):
        FolderDataset(tmp_path, query=["7/1_a.png"], gallery=["./7//1_a.png", "7/2_a.png"])
    with pytest.raises(DataError, match=r"7/2/1_a\.png: the name does not tell"):  # person 7 or 2?
        FolderDataset(tmp_path, query=["7/1_a.png"], gallery=["7/2/1_a.png", "7/2_a.png"])


def test_two_folders_of_one_number(tmp_path):
    with pytest.raises(DataError, match="007/ and 7/ are one identity number"):
        FolderDataset(write_images(tmp_path, ["7/1_a.png", "007/2_a.png"]))


def test_distractors_of_markets_names_are_never_searched_for(tmp_path):
    names = [f"{p}_c{c}s1_{k:06d}_00.png" for p in ("0000", "0001") for c, k in ((1, 1), (1, 2), (2, 3))]
    data = FolderDataset(write_images(tmp_path / "flat", [*names, "-1_c1s1_000004_00.png"]))
    assert ({r.pid for r in data.query}, sum(r.pid == 0 for r in data.gallery), data.junk) == ({1}, 3, 1)
    own = FolderDataset(write_images(tmp_path / "own", ["0/1_a.png", "0/1_b.png", "0/2_a.png"]))  # numbered from zero
    assert [r.pid for r in own.query] == [0]
    for part in ("query", "bounding_box_train"):
        root = write_images(tmp_path / part, [*MARKET, f"{part}/0000_c1s1_000009_00.png"])
        with pytest.raises(DataError, match=f"{part} holds 1 images of identity 0"):
            Market1501(root)


@pytest.mark.parametrize("layout", ["folder", "market1501", "cuhk03-np"])
def test_the_same_people_in_training_and_test(tmp_path, layout):
    parts = (
        ("train", "query", "gallery") if layout == "folder" else ("bounding_box_train", "query", "bounding_box_test")
    )
    names = [f"labeled/{part}/{p:04d}_c{c}_{n}.png" for n, part in enumerate(parts) for p in (1, 2) for c in (1, 2)]
    opener = {"folder": FolderDataset, "market1501": Market1501, "cuhk03-np": LAYOUTS["cuhk03-np"][0]}[layout]
    with pytest.raises(DataError, match="2 identities are in training and in test: 1, 2"):
        opener(write_images(tmp_path, names) / "labeled")


# --- pictures that cannot be used --------------------------------------------------------------------------------


def png(width: int, height: int, depth: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    rows = (b"\0" + bytes(width * 3 * depth // 8)) * height if width < 100 else b""
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def saved(mode: str, suffix: str, **how) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((40, 80), 90).convert(mode).save(file, suffix, **how)
    return file.getvalue()


BAD = {
    "alpha": (saved("RGBA", "PNG"), "mode RGBA, expected 8-bit RGB"),
    "palette": (saved("P", "PNG"), "mode P"),
    "cmyk": (saved("CMYK", "JPEG"), "mode CMYK"),
    "grey": (saved("L", "JPEG"), "mode L"),
    "transparent colour": (saved("RGB", "PNG", transparency=(0, 0, 0)), "transparent colour"),
    "16 bits": (png(40, 80, 16), "16 bits per channel"),
    "frames": (saved("RGB", "WEBP", save_all=True, append_images=[Image.new("RGB", (40, 80))]), "2 frames"),
    "empty": (b"", "0 bytes"),
    "page": (b"<html>", "none of JPEG"),
    "program": (saved("RGB", "EPS"), "none of JPEG"),
    "cut short": (saved("RGB", "PNG")[:4000], "truncated"),
    "orientation unknown": (saved("RGB", "PNG", exif=b"rubbish"), "cannot be read as an image"),
    "large": (png(9500, 9500, 8), "more than 89,478,485 pixels"),
    "bomb": (png(60000, 60000, 8), "more than 89,478,485 pixels"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
@pytest.mark.filterwarnings("ignore:Image size")
def test_a_picture_that_cannot_be_used(tmp_path, content, message):
    write_images(tmp_path, FOLDER)
    (tmp_path / "7" / "1_b.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"7/1_b\.png: .*{message}"):
        FolderSource(tmp_path).load("7/1_b.png")
    checked = run("check", tmp_path)
    lines = [line for line in checked.output.splitlines() if "1_b.png" in line]
    assert checked.exit_code == 1 and len(lines) == 1 and message in lines[0]


def test_workers_and_this_process_end_an_evaluation_in_the_same_line(tmp_path):
    write_images(tmp_path, FOLDER)
    (tmp_path / "7" / "1_b.png").write_bytes(saved("RGBA", "PNG"))
    ends = [run("evaluate", tmp_path, "--format", "folder", "--device", "cpu", "--workers", n) for n in (0, 2)]
    assert [end.exit_code for end in ends] == [1, 1]
    assert ends[0].stderr == ends[1].stderr and ends[0].stderr.count("\n") == 1 and "7/1_b.png" in ends[0].stderr


class Killer:
    def load(self, name):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_lost_worker_is_one_line_in_an_evaluation_as_well():
    with pytest.raises(WorkerError, match="a process that reads images was lost"):
        extract_features(RawPixels(), [Record("a", 1, 1, Killer())], workers=1)


def test_a_message_of_a_worker_is_whole_whatever_is_in_it():
    trace = (
        'Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File "a"\n'
    )
    error = DataError(f"{trace}reidlab.errors.DataError: Error: 1.png: got DataError: cut short\n")

    def batches():
        yield 1
        raise error

    with pytest.raises(DataError, match=r"^Error: 1\.png: got DataError: cut short$"):
        list(named_errors(batches()))


# --- check, and data to train on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["folder", "parts", "market1501"])
def test_check_knows_the_layout(tmp_path, layout):
    opener, names, inside = LAYOUTS[layout]
    report = check(write_images(tmp_path, names))
    assert report.ok and f"Loads: {opener.__name__}(root)" in str(report)
    (tmp_path / inside / "left.txt").write_text("")
    report = check(tmp_path)
    assert not report.ok and "left.txt" in str(report)
    with pytest.raises(ValueError, match="data_format='webdataset'"):
        check(tmp_path, data_format="webdataset")


def test_check_counts_a_picture_under_two_identities(tmp_path):
    write_images(tmp_path, [*FOLDER, "8/1_a.png"])
    (tmp_path / "8" / "1_a.png").write_bytes((tmp_path / "7" / "1_b.png").read_bytes())
    assert "1 of them are the same picture under another identity: 8/1_a.png = 7/1_b.png" in str(check(tmp_path))


@pytest.mark.parametrize(("layout", "part"), [("parts", "train/"), ("market1501", "bounding_box_train/")])
def test_nothing_to_train_on_is_said_before_anything_else(tmp_path, layout, part):
    write_images(tmp_path, LAYOUTS[layout][1])
    kind = "folder" if layout == "parts" else layout
    for more in ([], ["--dry-run"]):
        end = run("train", tmp_path, "--format", kind, "--out", tmp_path / "run", *more)
        assert end.exit_code == 1 and end.stdout == "" and end.stderr.count("\n") == 1
        assert f"nothing to train on: {part}" in end.stderr and not (tmp_path / "run").exists()


def test_training_without_images_to_train_on(tmp_path):
    from reidlab.training import TrainConfig, train

    with pytest.raises(ValueError, match="is empty: nothing to train on"):
        train(TrainConfig.preset("smoke"), Market1501(write_images(tmp_path, MARKET)))


def test_a_person_0_beside_distractors_is_refused(tmp_path):
    for name in ("0/1_a.png", "0/2_a.png", "1/1_a.png", "1/2_a.png", "0000_c3s1_000001_00.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 80)).save(tmp_path / name)
    with pytest.raises(DataError, match=r"identity 0 is a person \(0/1_a.png\) and the distractors"):
        FolderDataset(tmp_path)
    (tmp_path / "0000_c3s1_000001_00.png").unlink()
    assert {record.pid for record in FolderDataset(tmp_path).query} == {0, 1}
