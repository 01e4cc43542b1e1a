from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from data_files import (
    MISSING,
    NUM_TRAIN,
    SIZES,
    TESTSETS,
    cells,
    make_root,
    names_of,
    picture,
    protocol_of,
    write_mat,
    write_protocol,
)
from PIL import Image

import reidlab.data.matsource as matsource
from reidlab.data import CUHK03, export_png
from reidlab.data.matfile import write_cuhk03_mat
from reidlab.data.matsource import MatSource
from reidlab.data.names import name_of_cell, parse_image_name
from reidlab.errors import DataError

BOTH = pytest.mark.parametrize("box", ["labeled", "detected"])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("cuhk03"))


def _expected(name: str, box: str) -> np.ndarray:
    pair, identity, _, image = parse_image_name(name)
    return picture(box, pair, identity, image - 1)


# --- what is read ------------------------------------------------------------------------------------------------


@BOTH
def test_new_protocol(root: Path, box: str) -> None:
    data = CUHK03(root, box=box)
    protocol = protocol_of(box)
    assert (data.name, data.box, data.protocol) == ("CUHK03", box, "new")
    for part in ("train", "query", "gallery"):
        records = getattr(data, part)
        positions = [n - 1 for n in protocol[f"{part}_idx"]]
        assert [r.image for r in records] == [f"{box}/{protocol['names'][n]}" for n in positions]
        assert [r.pid for r in records] == [protocol["labels"][n] for n in positions]
        assert [r.camid for r in records] == [protocol["camids"][n] for n in positions]
        for record in records:
            image = record.load()
            assert image.flags.c_contiguous
            np.testing.assert_array_equal(image, _expected(record.image, box))


@BOTH
@pytest.mark.parametrize("split", [0, 1])
def test_classic_protocol(root: Path, box: str, split: int) -> None:
    data = CUHK03(root, box=box, protocol="classic", split=split)
    test = {tuple(pair) for pair in TESTSETS[split].tolist()}
    names = {True: [], False: []}
    for pair, identity, index in cells(box):
        names[(pair, identity) in test].append(f"{box}/{name_of_cell(pair, identity, index)}")
    assert [r.image for r in data.train] == names[False]
    assert [r.image for r in data.query] == [r.image for r in data.gallery] == names[True]
    assert data.protocol == f"classic (split {split})"
    np.testing.assert_array_equal(data.query[0].load(), _expected(names[True][0], box))


def test_identity_numbers_are_the_same_under_both_protocols(root: Path) -> None:
    new, classic = CUHK03(root, box="labeled"), CUHK03(root, box="labeled", protocol="classic")
    numbers = {r.image: r.pid for r in (*new.train, *new.query, *new.gallery)}
    assert numbers == {r.image: r.pid for r in (*classic.train, *classic.query)}
    assert {r.pid for r in new.train} == set(range(1, NUM_TRAIN + 1))


def test_the_embedded_world_does_not_pass_for_cuhk03(tmp_path: Path) -> None:
    make_root(tmp_path)
    (tmp_path / "world.json").write_text("{}")
    assert CUHK03(tmp_path, box="labeled").name == "Walkers (size unknown)"
    (tmp_path / "world.json").write_text('{"num_identities": 7, "seed": 3}')
    assert CUHK03(tmp_path, box="labeled").name == "Walkers (7 people, seed 3)"


def test_opening_does_not_visit_the_images(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visits = []
    follow = matsource._follow
    monkeypatch.setattr(matsource, "_follow", lambda *args: visits.append(1) or follow(*args))
    CUHK03(root, box="labeled")
    assert len(visits) <= 3 * len(SIZES)  # a pair's table, its addresses, its shared empty cell


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_real_files_may_be_compressed_and_have_their_own_empty_cells(tmp_path: Path, compression: str | None) -> None:
    """MATLAB compresses on request, and writes an assigned [] as an object of its own."""
    reference = h5py.ref_dtype
    with h5py.File(tmp_path / "cuhk-03.mat", "w") as file:
        refs, tables = file.create_group("#refs#"), {}
        for box in ("labeled", "detected"):
            table = refs.create_dataset(f"{box}_1", (10, 1), reference)
            for index in range(10):
                cell = refs.create_dataset(f"{box}_{index}_e", data=np.zeros(2, np.uint64))
                cell.attrs["MATLAB_empty"] = np.int32(1)
                if index in (0, 5):
                    pixels = picture(box, 1, 1, index).T
                    cell = refs.create_dataset(f"{box}_{index}", data=pixels, compression=compression)
                table[index, 0] = cell.ref
            tables[box] = table.ref
            file.create_dataset(box, data=np.array([[table.ref]], object), dtype=reference)
        tests = refs.create_dataset("tests", data=np.array([[1.0], [1.0]]))
        file.create_dataset("testsets", data=np.array([[tests.ref]], object), dtype=reference)
    data = CUHK03(tmp_path, box="detected", protocol="classic")
    assert [r.image for r in data.query] == ["detected/1_001_1_01.png", "detected/1_001_2_06.png"]
    np.testing.assert_array_equal(data.query[1].load(), picture("detected", 1, 1, 5))


# --- where it is found -------------------------------------------------------------------------------------------


def test_only_the_protocol_file_of_the_box_is_needed(tmp_path: Path) -> None:
    write_mat(tmp_path / "cuhk-03.mat")
    write_protocol(tmp_path, "detected")
    assert CUHK03(tmp_path, box="detected").query
    assert CUHK03(tmp_path, box="labeled", protocol="classic").query
    with pytest.raises(FileNotFoundError, match=r"missing cuhk03_new_protocol_config_labeled\.mat") as error:
        CUHK03(tmp_path, box="labeled")
    assert "missing cuhk-03.mat" not in str(error.value)


@BOTH
def test_an_extracted_folder(root: Path, tmp_path: Path, box: str) -> None:
    export_png(root, tmp_path, box=box)
    write_protocol(tmp_path, box)
    ours, expected = CUHK03(tmp_path, box=box), CUHK03(root, box=box)
    for part in ("train", "query", "gallery"):
        got, known = getattr(ours, part), getattr(expected, part)
        assert [(r.pid, r.camid) for r in got] == [(r.pid, r.camid) for r in known]
        assert got[0].image == known[0].image.replace(box, f"images_{box}")
        np.testing.assert_array_equal(got[0].load(), known[0].load())


def _np_folder(folder: Path, box: str, suffix: str = "png") -> Path:
    """Write CUHK03-NP: identity, camera, position in the protocol's list."""
    protocol = protocol_of(box)
    parts = {"bounding_box_train": "train_idx", "query": "query_idx", "bounding_box_test": "gallery_idx"}
    for part, key in parts.items():
        (folder / part).mkdir(parents=True)
        for n in protocol[key]:
            name = f"{protocol['labels'][n - 1]:04d}_c{protocol['camids'][n - 1]}_{n}.{suffix}"
            Image.fromarray(_expected(protocol["names"][n - 1], box)).save(folder / part / name)
    return folder


@pytest.mark.parametrize("below", ["labeled", "cuhk03-np/labeled", "Labeled", "."])
def test_a_cuhk03_np_folder(root: Path, tmp_path: Path, below: str) -> None:
    _np_folder(tmp_path / below, "labeled")
    (tmp_path / below / "query" / "Thumbs.db").write_text("")
    ours, expected = CUHK03(tmp_path, box="labeled"), CUHK03(root, box="labeled")
    assert ours.protocol == "new"
    for part in ("train", "query", "gallery"):
        got, known = getattr(ours, part), getattr(expected, part)
        assert sorted((r.pid, r.camid) for r in got) == sorted((r.pid, r.camid) for r in known)
    first = protocol_of("labeled")["query_idx"][0]
    assert ours.query[0].image == f"query/0004_c1_{first}.png"
    np.testing.assert_array_equal(ours.query[0].load(), expected.query[0].load())


def test_a_cuhk03_np_folder_of_the_other_box_is_refused(tmp_path: Path) -> None:
    folder = _np_folder(tmp_path / "detected", "detected")
    with pytest.raises(DataError, match="got box='labeled', but the folder's name says detected"):
        CUHK03(folder, box="labeled")
    assert CUHK03(folder, box="detected").query
    with pytest.raises(FileNotFoundError, match="test sets of the classic protocol are in"):
        CUHK03(folder, box="detected", protocol="classic")


@pytest.mark.parametrize(
    "name", ["0001_c3_1.png", "0001_c1s1_000001_00.gif", "notes.txt", "0000_c1_1.png", "1_c1_1.png"]
)
def test_a_name_that_is_not_cuhk03_nps(tmp_path: Path, name: str) -> None:
    folder = _np_folder(tmp_path / "labeled", "labeled")
    (folder / "query" / name).write_text("")
    with pytest.raises(DataError, match=r"1 names do not parse: .*; expected .*0001_c1_1\.png") as error:
        CUHK03(tmp_path, box="labeled")
    assert name in str(error.value)


def test_a_moved_folder_loads_as_before(tmp_path: Path) -> None:
    make_root(tmp_path / "here")
    before = CUHK03(tmp_path / "here", box="labeled")
    pixels = before.query[0].load()
    (tmp_path / "there").mkdir()
    (tmp_path / "here").rename(tmp_path / "there" / "cuhk03")
    after = CUHK03(tmp_path / "there", box="labeled")  # the folder above will do
    assert (after.train, after.query, after.gallery) == (before.train, before.query, before.gallery)
    np.testing.assert_array_equal(after.query[0].load(), pixels)


# --- processes ---------------------------------------------------------------------------------------------------


def _sum_of(record) -> int:
    return int(record.load().sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_records_work_in_other_processes(root: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    records = CUHK03(root, box="labeled").train
    here = [_sum_of(record) for record in records]  # opens the file before the fork
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_sum_of, records, chunksize=3) == here
    assert [_sum_of(record) for record in records] == here


def test_records_survive_pickling(root: Path) -> None:
    data = CUHK03(root, box="labeled")
    data.query[0].load()
    copy = pickle.loads(pickle.dumps(data))
    assert copy == data
    assert copy.query[0].source is copy.train[0].source  # one open file, not one per record
    np.testing.assert_array_equal(copy.query[0].load(), data.query[0].load())


# --- bad input ---------------------------------------------------------------------------------------------------


def test_box_has_no_default(root: Path) -> None:
    with pytest.raises(TypeError, match="box"):
        CUHK03(root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"box": "both"}, "box='both': expected one of labeled, detected"),
        ({"box": "labeled", "protocol": "old"}, "protocol='old': expected one of new, classic"),
        ({"box": "labeled", "split": 1}, "one split only"),
        ({"box": "labeled", "protocol": "classic", "split": -1}, "split=-1"),
        ({"box": "labeled", "protocol": "classic", "split": 1.0}, r"split=1\.0"),
        ({"box": "labeled", "protocol": "classic", "split": 2}, "holds 2 test sets: 0 to 1"),
    ],
)
def test_arguments(root: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CUHK03(root, **arguments)


def test_missing_files_are_listed_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as error:
        CUHK03(tmp_path, box="labeled")
    text = str(error.value)
    assert text.startswith(f"{tmp_path}: missing cuhk-03.mat (looked in cuhk03_release/, ./, cuhk03/cuhk03_release/,")
    assert "and cuhk03_new_protocol_config_labeled.mat (looked in ./," in text and "github.com/zhunzhong07" in text
    assert "\n" not in text and "config_detected" not in text
    with pytest.raises(FileNotFoundError, match="no such folder"):
        CUHK03(tmp_path / "nowhere", box="labeled")


def test_a_protocol_that_names_images_that_are_not_there(tmp_path: Path) -> None:
    make_root(tmp_path)
    missing = name_of_cell(1, 2, MISSING["labeled"][0])  # an empty cell
    names = protocol_of("labeled")["names"]
    position = names.index(name_of_cell(1, 2, 0))
    write_protocol(tmp_path, "labeled", names=[*names[:position], missing, *names[position + 1 :]])
    with pytest.raises(DataError, match=rf"names 1 of {len(names)} images that are not in .*: {missing}"):
        CUHK03(tmp_path, box="labeled")
    write_cuhk03_mat(tmp_path / "cuhk03_release" / "cuhk-03.mat", [4, 1], [], [])
    # Everybody's cells are empty, and the last two people and the third pair do not exist at all.
    with pytest.raises(DataError, match=r"names (\d+) of \1 images that are not in .*\.\.\. \(\d+ in all\)"):
        CUHK03(tmp_path, box="labeled")


def test_an_extracted_folder_that_lacks_images(root: Path, tmp_path: Path) -> None:
    export_png(root, tmp_path, box="labeled")
    write_protocol(tmp_path, "labeled")
    lost = names_of("labeled")[:2]
    for name in lost:
        (tmp_path / "images_labeled" / name).unlink()
    with pytest.raises(DataError, match=f"names 2 of .*: {', '.join(lost)}"):
        CUHK03(tmp_path, box="labeled")


def test_a_cell_that_is_not_there(root: Path) -> None:
    source = MatSource(root / "cuhk03_release" / "cuhk-03.mat")
    with pytest.raises(DataError, match=r"image labeled/1_002_1_04\.png is an empty cell"):
        source.load("labeled/1_002_1_04.png")
    with pytest.raises(DataError, match="no identity 9 in pair 1; its pairs hold 4, 2, 1 identities"):
        source.load("labeled/1_009_1_04.png")
    with pytest.raises(DataError, match="got the box type 'drawn', expected one of labeled, detected"):
        source.load("drawn/1_001_1_01.png")
    with pytest.raises(DataError, match="expected pair_identity_view_image"):
        source.load("labeled/../../etc/passwd")


def test_a_test_set_of_people_who_are_not_there(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "cuhk-03.mat")
    with h5py.File(path, "r+") as file:
        file[file["testsets"][0, 1]][...] = [[1, 4], [3, 1]]  # a row of pairs, a row of identities
    with pytest.raises(DataError, match=r"set 1 names \(pair, identity\) that are not there: \(4, 1\)"):
        CUHK03(tmp_path, box="labeled", protocol="classic", split=1)


@pytest.mark.parametrize("name", ["../../1_001_1_01.png", "..\\1_001_1_01.png", "/1_001_1_01.png"])
def test_a_protocol_cannot_lead_out_of_the_data(tmp_path: Path, name: str) -> None:
    root = make_root(tmp_path)
    path = root / "cuhk03_new_protocol_config_labeled.mat"
    content = {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}
    content["filelist"][0, 0] = np.array([name])
    scipy.io.savemat(path, content)
    with pytest.raises(DataError, match=r"labeled\.mat: 1 names are not of the form"):
        CUHK03(root, box="labeled")
