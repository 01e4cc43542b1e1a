from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from data_files import make_root, names_of, protocol_of
from PIL import Image

from reidlab.data import CUHK03, check, export_png
from reidlab.data.matheader import describe_problem, open_mat73
from reidlab.errors import DataError

MAT = "cuhk03_release/cuhk-03.mat"
PROTOCOL = "cuhk03_new_protocol_config_labeled.mat"
PAGE = b"\n\n<!DOCTYPE html>\n<html lang='en'><head><title>a page that holds a file</title></head>" + b" " * 100


def _finding(root: Path, file: str, expect: str = "any"):
    found = [finding for finding in check(root, expect=expect).findings if finding.file == file]
    assert len(found) == 1
    return found[0]


# --- sound folders -----------------------------------------------------------------------------------------------


def test_a_sound_folder(tmp_path: Path) -> None:
    make_root(tmp_path)
    report = check(tmp_path, expect="any")
    assert report.ok
    assert [finding.status for finding in report.findings] == ["ok"] * 3
    assert str(report).splitlines()[1:4] == [str(finding) for finding in report.findings]
    labeled = protocol_of("labeled")
    rows = {what: (here, published) for what, here, published in report.counts}
    assert rows["identities per camera pair"] == ("4/2/1", "843/440/77/58/49")
    assert rows["identities"] == ("7", "1467")
    assert rows["classic test sets x identities"] == ("2 x 2", "20 x 100")
    assert rows["labeled: train images"] == (str(len(labeled["train_idx"])), "7368")
    assert rows["labeled: query images"] == (str(len(labeled["query_idx"])), "1400")
    assert rows["detected: gallery images"] == (str(len(protocol_of("detected")["gallery_idx"])), "5332")
    assert rows["labeled: train identities"] == ("3", "767")
    assert rows["labeled: test identities"] == ("4", "700")
    for call in report.loads:
        assert eval(f"CUHK03(root, {call})", {"CUHK03": CUHK03, "root": tmp_path}).query
    (tmp_path / PROTOCOL).unlink()
    report = check(tmp_path, expect="any")  # one protocol file is enough
    assert report.ok and 'box="detected"' in report.loads and 'box="labeled"' not in report.loads


def test_other_counts_are_wrong_unless_it_is_the_embedded_world(tmp_path: Path) -> None:
    make_root(tmp_path)
    report = check(tmp_path)
    assert not report.ok
    assert [finding.status for finding in report.findings] == ["wrong"] * 3
    assert "identities per pair 4/2/1, 2 test sets; CUHK03 has 843/440/77/58/49 and 20" in str(report)
    assert "published are 7368/1400/5328 and 767/700" in str(report)
    (tmp_path / "world.json").write_text("{}")
    report = check(tmp_path)
    assert report.ok
    assert str(report).startswith("Walkers (size unknown) in ")
    assert "its files are sound, its counts are its own" in str(report)
    assert not check(tmp_path, expect="cuhk03").ok


def test_the_real_protocol_files_are_right(real_data: Path) -> None:
    report = check(real_data / "cuhk03_protocol")
    assert [finding.status for finding in report.findings] == ["absent", "ok", "ok"]
    assert not report.ok
    assert {here == published for _, here, published in report.counts} == {True}
    assert len(report.counts) == 10


def test_an_empty_folder(tmp_path: Path) -> None:
    report = check(tmp_path)
    assert not report.ok
    assert [finding.status for finding in report.findings] == ["absent"] * 3
    assert "looked in cuhk03_release/, ./" in str(report)
    assert "Nothing here can be loaded yet." in str(report)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        check(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expect='all'"):
        check(tmp_path, expect="all")


def test_a_renamed_file_is_recognised(tmp_path: Path) -> None:
    make_root(tmp_path)
    (tmp_path / MAT).rename(tmp_path / "cuhk-03 (1).mat")
    (tmp_path / PROTOCOL).rename(tmp_path / "split.mat")
    text = str(check(tmp_path, expect="any"))
    assert "cuhk-03 (1).mat: an unknown name, but the format of cuhk-03.mat; rename it" in text
    assert "split.mat: an unknown name, but the format of cuhk03_new_protocol_config" in text


# --- damaged as a whole: the loader and the check say the same ----------------------------------------------------


def _truncate(path: Path, keep: float) -> str:
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: int(size * keep)])
    # A MATLAB 5 file tells the size of each variable only, cuhk-03.mat that of the whole file.
    whole = r"at least [\d,]+" if path.name == PROTOCOL else f"{size:,}"
    return rf"truncated: got {int(size * keep):,} of {whole} bytes; copy or download it again"


def _replace(content: bytes, message: str) -> Callable[[Path], str]:
    def damage(path: Path) -> str:
        path.write_bytes(content)
        return message

    return damage


def _swap(path: Path) -> str:
    other = path.parent / PROTOCOL if path.name == "cuhk-03.mat" else path.parent / MAT
    other = other if other.exists() else path.parent.parent / PROTOCOL
    path.write_bytes(other.read_bytes())
    return r"is a MATLAB (5|7\.3 \(HDF5\)) file, perhaps .* under a wrong name; expected"


DAMAGE = [
    pytest.param(lambda path: _truncate(path, 0.5), id="half"),
    pytest.param(lambda path: _truncate(path, 0.999), id="nearly all"),
    pytest.param(_replace(b"", r"is empty \(0 bytes\)"), id="empty"),
    pytest.param(_replace(PAGE, "is a web page saved as .mat .*download the file itself"), id="web page"),
    pytest.param(_replace(b"hello, this is a text\n" * 20, "is a text file that begins 'hello, this"), id="text"),
    pytest.param(_replace(b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"), id="git lfs"),
    pytest.param(_replace(b"PK\x03\x04" + bytes(300), "is a ZIP archive; unpack it"), id="zip"),
    pytest.param(_replace(gzip.compress(bytes(300)), "is a gzip archive"), id="gzip"),
    pytest.param(_replace(bytes(5000), "zero bytes, as a download that was broken off"), id="zeros"),
    pytest.param(_replace(b"\x80\x04" * 300, "is neither HDF5 nor a MATLAB 5 file"), id="other"),
    pytest.param(_swap, id="swapped"),
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", [MAT, PROTOCOL])
def test_a_damaged_file(tmp_path: Path, damage: Callable[[Path], str], file: str) -> None:
    make_root(tmp_path)
    message = damage(tmp_path / file)
    with pytest.raises(DataError, match=message) as error:
        CUHK03(tmp_path, box="labeled")
    assert str(error.value).startswith(f"{tmp_path / file}: ")
    assert "\n" not in str(error.value)
    finding = _finding(tmp_path, file)
    assert finding.status == "damaged"
    assert str(error.value) == f"{tmp_path / file}: {finding.text}"
    assert not check(tmp_path, expect="any").ok


@pytest.mark.parametrize("letters", [b"it is", b"abId", b"\xc3\xa4\xc3\xb6"])
def test_what_scipy_says_of_a_web_page_is_quoted(tmp_path: Path, letters: bytes) -> None:
    """What people search for: scipy reads two letters of the page as a version."""
    page = b"<!DOCTYPE html><html>".ljust(124) + letters + b" " * 60
    (tmp_path / "a.mat").write_bytes(page)
    with pytest.raises(ValueError, match="Unknown mat file type") as error:
        scipy.io.loadmat(tmp_path / "a.mat", appendmat=False)
    assert str(error.value) in describe_problem(tmp_path / "a.mat", "5")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("userblock", [0, 512, 2048])
def test_size_is_told_for_every_kind_of_superblock(tmp_path: Path, libver: str, userblock: int) -> None:
    path = tmp_path / "a.mat"
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        file["x"] = np.arange(1000)
    size = path.stat().st_size
    assert describe_problem(path, "7.3") is None
    path.write_bytes(path.read_bytes()[:-1])
    assert f"truncated: got {size - 1:,} of {size:,} bytes" in describe_problem(path, "7.3")
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(300))
    assert "truncated: got 300 bytes and no HDF5 part behind the header" in describe_problem(path, "7.3")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    assert "is a folder; expected a file" in describe_problem(tmp_path, "7.3")
    with pytest.raises(FileNotFoundError, match="no such file; expected the images"):
        open_mat73(tmp_path / "cuhk-03.mat")


# --- damaged inside ----------------------------------------------------------------------------------------------


def _set_cell(root: Path, content: dict | None) -> None:
    """Point labeled/1_001_1_01.png at another dataset, or at a group."""
    with h5py.File(root / MAT, "r+") as file:
        refs, table = file["#refs#"], file[file["labeled"][0, 0]]
        table[0, 0] = (refs.create_dataset("new", **content) if content else refs.create_group("new")).ref


GREY = {"data": np.ones((9, 20), np.uint8)}
DEEP = {"data": np.ones((3, 9, 20), np.uint16)}
HUGE = {"shape": (3, 10**6, 10**6), "dtype": np.uint8, "chunks": (3, 64, 64)}
ELSEWHERE = {"shape": (3, 9, 20), "dtype": np.uint8, "external": [("/etc/passwd", 0, 540)]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GREY, r"is grey or flat: got uint8 \(9, 20\), expected uint8 \(3, W, H\)"),
        (DEEP, r"is 16 bits deep: got uint16 \(3, 9, 20\)"),
        ({"data": "not a picture"}, "is no image: got object"),
        (HUGE, "is no image: got uint8"),
        (ELSEWHERE, "keeps its content in another file, which is not followed"),
        (None, "holds a reference to nowhere"),  # a group
    ],
)
def test_a_cell_that_holds_no_image(tmp_path: Path, content: dict | None, message: str) -> None:
    make_root(tmp_path)
    _set_cell(tmp_path, content)
    record = CUHK03(tmp_path, box="labeled").train[0]
    with pytest.raises(DataError, match=message) as error:
        record.load()
    assert str(error.value).startswith(f"{tmp_path / MAT}: image labeled/1_001_1_01.png ")
    with pytest.raises(DataError, match=message):
        CUHK03(tmp_path, box="labeled", protocol="classic")
    finding = _finding(tmp_path, MAT)
    assert finding.status == "damaged"
    assert f"1 of {len(names_of('labeled'))} images of /labeled are bad: 1_001_1_01.png" in finding.text


def test_an_image_of_zeros_is_a_hole_in_the_download(tmp_path: Path) -> None:
    make_root(tmp_path)
    _set_cell(tmp_path, {"data": np.zeros((3, 9, 20), np.uint8)})
    assert "1_001_1_01.png is all zeros" in _finding(tmp_path, MAT).text


def test_a_reference_to_nowhere(tmp_path: Path) -> None:
    make_root(tmp_path)
    path = tmp_path / MAT
    with h5py.File(path) as file:
        table = h5py.h5r.dereference(file["labeled"][0, 0], file.id)
        place = table.get_offset()
    for address in (0, 12345, 2**40):
        content = bytearray(path.read_bytes())
        content[place : place + 8] = address.to_bytes(8, "little")  # the first of the cells' references
        path.write_bytes(content)
        assert "1_001_1_01.png holds a reference to nowhere" in _finding(tmp_path, MAT).text
        with pytest.raises(DataError, match=r"reference to nowhere|names 1 of"):
            CUHK03(tmp_path, box="labeled").train[0].load()


@pytest.mark.parametrize("name", ["labeled", "testsets"])
def test_a_variable_is_missing(tmp_path: Path, name: str) -> None:
    make_root(tmp_path)
    with h5py.File(tmp_path / MAT, "r+") as file:
        del file[name]
        message = f"lacks the variable {name} (holds {', '.join(sorted(set(file) - {'#refs#'}))})"
    assert message in _finding(tmp_path, MAT).text
    with pytest.raises(DataError) as error:
        CUHK03(tmp_path, box="labeled", protocol="classic" if name == "testsets" else "new")
    assert message in str(error.value)


def test_variables_of_another_kind(tmp_path: Path) -> None:
    make_root(tmp_path)
    with h5py.File(tmp_path / MAT, "r+") as file:
        table = file["#refs#"].create_dataset("new", data=file[file["labeled"][0, 0]][()].T, dtype=h5py.ref_dtype)
        file["labeled"][0, 0] = table.ref
    with pytest.raises(DataError, match=r"pair 1: got a cell array of shape \(4, 10\), expected \(10, identities\)"):
        CUHK03(tmp_path, box="labeled")
    with h5py.File(tmp_path / MAT, "r+") as file:
        del file["labeled"]
        file["labeled"] = np.ones((1, 5))
    with pytest.raises(DataError, match="the variable labeled is no cell array"):
        CUHK03(tmp_path, box="labeled")
    with h5py.File(tmp_path / MAT, "r+") as file:
        del file["labeled"]
        file["labeled"] = h5py.ExternalLink("/etc/passwd", "/x")
    with pytest.raises(DataError, match="the variable labeled is a link that leads out of it"):
        CUHK03(tmp_path, box="labeled")


# --- folders of images -------------------------------------------------------------------------------------------


def test_an_extracted_folder_is_looked_at(tmp_path: Path) -> None:
    export_png(make_root(tmp_path), tmp_path)
    assert _finding(tmp_path, "images_labeled").text == f"{len(names_of('labeled'))} images"
    (tmp_path / MAT).unlink()
    assert check(tmp_path, expect="any").ok
    first, second = (tmp_path / "images_labeled" / name for name in names_of("labeled")[:2])
    first.write_bytes(first.read_bytes()[:100])
    Image.new("L", (9, 20)).save(second)
    finding = _finding(tmp_path, "images_labeled")
    assert finding.status == "damaged"
    assert f"2 of {len(names_of('labeled'))} images cannot be read: {first.name} cannot be read as" in finding.text
    assert f"{second.name} got an image of mode L, expected 8-bit RGB" in finding.text
    first.unlink(), second.unlink()
    finding = _finding(tmp_path, "images_labeled")
    assert (finding.status, finding.text) == ("wrong", f"lacks 2 images: {first.name}, {second.name}")


def test_a_cuhk03_np_folder_is_looked_at(tmp_path: Path) -> None:
    for part, name in (("bounding_box_train", "0001_c1_1"), ("query", "0002_c1_2"), ("bounding_box_test", "0002_c2_3")):
        (tmp_path / "labeled" / part).mkdir(parents=True)
        Image.new("RGB", (9, 20)).save(tmp_path / "labeled" / part / f"{name}.png")
    assert check(tmp_path, expect="any").ok
    assert _finding(tmp_path, "labeled", expect="cuhk03").status == "wrong"
    assert "not needed for the CUHK03-NP folder" in _finding(tmp_path, PROTOCOL).remedy
    (tmp_path / "labeled" / "query" / "readme.txt").write_text("")
    finding = _finding(tmp_path, "labeled")
    assert finding.status == "damaged"
    assert "readme.txt" in finding.text
