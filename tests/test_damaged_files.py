"""Damaged and hostile files: one line that names the file, never a traceback, a crash or another answer."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from damaged import one_line
from data_files import names_of, protocol_of, write_mat, write_protocol

from reidlab.data.layout import find_layout
from reidlab.data.matheader import describe_problem
from reidlab.data.matsource import MatSource
from reidlab.data.protocolfile import read_mat5, read_new_protocol
from reidlab.files import read_json
from reidlab.training.run_folder import RunFolder, read_run
from reidlab.walkers.street_crops import StreetCrops
from reidlab.walkers.truth import read_truth

BOTH = ("<", ">")


def test_hundreds_of_damaged_files_end_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, Path(__file__).with_name("damaged.py"), tmp_path], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


# --- MATLAB 5, read as scipy reads it ----------------------------------------------------------------------------


def element(order: str, kind: int, data: bytes) -> bytes:
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(order: str, name: str, of_class: int, shape: tuple[int, ...], *content: bytes, flag: int = 0) -> bytes:
    parts = (
        element(order, 6, struct.pack(f"{order}II", of_class | flag, 0)),
        element(order, 5, struct.pack(f"{order}{len(shape)}i", *shape)),
        element(order, 1, name.encode()),
        *content,
    )
    return element(order, 14, b"".join(parts))


def file5(path: Path, *variables: bytes, order: str = "<") -> Path:
    header = b"MATLAB 5.0 MAT-file".ljust(124) + {"<": b"\x00\x01IM", ">": b"\x01\x00MI"}[order]
    path.write_bytes(header + b"".join(variables))
    return path


def packed(variable: bytes) -> bytes:
    content = zlib.compress(variable)
    return struct.pack("<II", 15, len(content)) + content


def text(order: str, value: str, kind: int = 17) -> bytes:
    codec = {16: "utf-8", 17: "utf-16-le" if order == "<" else "utf-16-be"}[kind]
    return matrix(order, "", 4, (1, len(value)), element(order, kind, value.encode(codec)))


@pytest.mark.parametrize("order", BOTH)
def test_files_of_either_byte_order_are_read_as_scipy_reads_them(tmp_path: Path, order: str) -> None:
    names = names_of("labeled")[:3]
    path = file5(
        tmp_path / "a.mat",
        matrix(order, "filelist", 1, (3, 1), *(text(order, name, 16 + (name == names[1])) for name in names)),
        matrix(order, "labels", 6, (3, 1), element(order, 4, struct.pack(f"{order}3H", 1, 2, 300))),
        matrix(order, "camId", 6, (1, 3), element(order, 9, struct.pack(f"{order}3d", 1, 2, -5))),
        matrix(order, "none", 6, (0, 0), element(order, 9, b"")),
        order=order,
    )
    got, expected = read_mat5(path, ["filelist", "labels", "camId", "none"]), scipy.io.loadmat(path)
    assert got["filelist"] == names == [cell.item() for cell in expected["filelist"].ravel()]
    for key in ("labels", "camId", "none"):
        assert got[key].tolist() == expected[key].ravel().tolist()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "bool"])
def test_every_type_of_numbers_is_read_as_scipy_wrote_it(tmp_path: Path, dtype: str, compress: bool) -> None:
    values = np.array([[0, 1, 100]]).astype(dtype)
    others = {"table": np.eye(3), "deep": {"a": [1j]}, "sparse": scipy.sparse.eye(3), "text": "never asked for"}
    scipy.io.savemat(tmp_path / "a.mat", {"values": values, **others}, do_compression=compress)
    got = read_mat5(tmp_path / "a.mat", ["values"])
    assert list(got) == ["values"] and got["values"].tolist() == values[0].astype(int).tolist()


ONE = element("<", 9, struct.pack("<d", 1))
HOSTILE = {
    "bomb": (packed(matrix("<", "labels", 6, (1 << 24, 1), element("<", 9, bytes(1 << 27)))), "more than 67,108,864"),
    "shape": (matrix("<", "labels", 6, (1 << 30, 1), ONE), "1073741824 numbers are stored as 8 bytes"),
    "negative": (matrix("<", "labels", 6, (-1, 1), ONE), "row or a column"),
    "table": (matrix("<", "labels", 6, (2, 2), ONE * 4), "row or a column"),
    "struct": (matrix("<", "labels", 2, (1, 1), ONE), "labels is a struct"),
    "sparse": (matrix("<", "labels", 5, (1, 1), ONE), "labels is a sparse array"),
    "class": (matrix("<", "labels", 99, (1, 1), ONE), "of class 99"),
    "complex": (matrix("<", "labels", 6, (1, 1), ONE, ONE, flag=0x800), "labels is complex"),
    "more": (matrix("<", "labels", 6, (1, 1), ONE, ONE), "off its given size"),
    "nested": (matrix("<", "labels", 1, (1, 1), matrix("<", "", 1, (0, 0))), "a cell is of class 1"),
    "cells": (matrix("<", "labels", 1, (1 << 30, 1)), "tag is cut short"),
    "twice": (matrix("<", "labels", 6, (1, 1), ONE) * 2, "comes twice"),
    "packed twice": (packed(element("<", 15, zlib.compress(bytes(9)))), "type 15"),
    "left over": (packed(matrix("<", "labels", 6, (1, 1), ONE) + bytes(8)), "left over"),
    "bare": (ONE, "element of type 9"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_variable_is_refused(tmp_path: Path, name: str) -> None:
    variable, message = HOSTILE[name]
    path = file5(tmp_path / "a.mat", variable)
    assert message in one_line(path, lambda: read_mat5(path, ["labels"]))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, 0.5, np.uint64(2**64 - 1)])
@pytest.mark.parametrize("key", ["labels", "camId", "query_idx"])
def test_numbers_that_are_not_whole_are_refused(tmp_path: Path, key: str, value: float) -> None:
    path = write_protocol(tmp_path, "labeled")
    content = {name: column for name, column in scipy.io.loadmat(path).items() if name[0] != "_"}
    content[key] = content[key].astype(type(value))
    content[key][0] = value
    scipy.io.savemat(path, content)
    assert f"{key} is" in one_line(path, lambda: read_new_protocol(path))


def test_a_protocol_as_other_programs_save_it_is_the_same(tmp_path: Path) -> None:
    expected = protocol_of("labeled")
    path = write_protocol(tmp_path, "labeled")
    content = {name: column.T for name, column in scipy.io.loadmat(path).items() if name[0] != "_"}
    scipy.io.savemat(path, {key: value if value.dtype == object else value * 1.0 for key, value in content.items()})
    got = read_new_protocol(path)
    assert (got.names, got.labels.tolist()) == (expected["names"], expected["labels"])


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_matlab_4_is_told(tmp_path: Path, version: str) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"labels": np.eye(3)}, format="4")
    assert "MATLAB 4" in describe_problem(tmp_path / "a.mat", version)


# --- cuhk-03.mat -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 1 << 40), (2, 1 << 24)])
def test_a_table_that_claims_to_be_huge_is_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = write_mat(tmp_path / "cuhk-03.mat")
    with h5py.File(path, "r+") as file:
        large = file.create_dataset("#refs#/large", shape=shape, dtype="f8", chunks=(2, 1 << 10))
        file["testsets"][0, 0] = large.ref
    assert "is of shape" in one_line(path, MatSource(path).testsets)


# --- JSON --------------------------------------------------------------------------------------------------------

BAD_JSON = {
    "empty": b"",
    "cut": b'{"dataset": "wal',
    "deep": b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "utf-16": '{"dataset": "walkers"}'.encode("utf-16"),
    "latin-1": b'{"dataset": "\xe9"}',
    "nan": b'{"dataset": NaN}',
    "infinity": b"[-Infinity]",
    "too large": b'{"seed": 1e999}',
    "too long": b"9" * 5000,
    "half a character": rb'{"dataset": "\ud800"}',
    "two": b"{} {}",
    "zeros": bytes(100),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json_is_one_line_wherever_it_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(BAD_JSON[name])
    assert "not JSON" in one_line(path, lambda: read_json(path))
    for file, read in ((f"{n}.json", read) for n, read in (("config", read_run), ("streets", StreetCrops))):
        (tmp_path / file).write_bytes(BAD_JSON[name])
        assert one_line(tmp_path, lambda read=read: read(tmp_path))
    (tmp_path / "world.json").write_bytes(BAD_JSON[name])
    assert find_layout(tmp_path, "labeled").world == "Walkers (size unknown)"
    with h5py.File(tmp_path / "walkers.h5", "w") as file:
        file["shots"], file["people"] = np.zeros(1, [("name", "S16")]), np.bytes_(BAD_JSON[name] or b" ")
    assert "people: damaged" in one_line(tmp_path / "walkers.h5", lambda: read_truth(tmp_path).people)


@pytest.mark.parametrize(
    "content", ['{"a": "\\ud83d\\ude00", "b": [0.5, -1e-300, true, null]}', "\ufeff[1]", "3", '"é"']
)
def test_good_json_is_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    assert read_json(tmp_path / "a.json") == json.loads(content.lstrip("\ufeff"))


@pytest.mark.parametrize("content", [b"[]", b"null", b'{"config": [], "data": {}}', b'{"config": {}}'])
def test_a_config_of_other_types_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    assert "config and data" in one_line(tmp_path / "config.json", lambda: read_run(tmp_path))


@pytest.mark.parametrize("name", ["iterations", "held_out", "preset", "versions"])
@pytest.mark.parametrize("value", ["many", [1], {"a": 1}])
def test_a_config_whose_values_are_of_other_types_is_one_line(tmp_path: Path, name: str, value: object) -> None:
    if (name, value) in (("preset", "many"), ("versions", {"a": 1})):
        return
    content = {"config": {}, "data": {}}
    (content if name in ("preset", "versions") else content["config"])[name] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert name in one_line(tmp_path / "config.json", lambda: read_run(tmp_path))


def test_scores_of_other_types_are_told_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"config": {}, "data": {}}')
    (tmp_path / "scores.json").write_bytes(b'{"last": [0.5]}')
    assert any("scores.json: got JSON without last" in text for text in read_run(tmp_path).missing)


GOOD_ROW = b'{"kind": "train", "iteration": 5, "loss": 1.0}\n'
BAD_ROWS = [*BAD_JSON.values(), b"[]", b"{}", b'{"kind": [], "iteration": 1}', b'{"kind": "train", "iteration": "5"}']
BAD_ROWS += [b'{"kind": "train", "iteration": 6, "loss": "low"}', b'{"kind": "train", "iteration": 6, "loss": []}']


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_named_in_the_middle_and_left_out_at_the_end(tmp_path: Path, row: bytes) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir(exist_ok=True)
    folder.metrics.write_bytes(GOOD_ROW + row + b"\n" + GOOD_ROW)
    assert "line 2" in one_line(folder.metrics, folder.rows)
    (folder.path / "config.json").write_bytes(b'{"config": {}, "data": {}}')
    files = read_run(folder.path)  # the report says it instead of showing curves
    assert files.rows == [] and any("metrics.jsonl: line 2" in text for text in files.missing)
    folder.metrics.write_bytes(GOOD_ROW + row)
    assert folder.rows() == read_run(folder.path).rows == [json.loads(GOOD_ROW)]
