"""Small files in CUHK03's formats, made for the tests of reidlab.data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from reidlab.data.matfile import write_cuhk03_mat
from reidlab.data.names import name_of_cell, parse_image_name
from reidlab.data.protocolfile import write_new_protocol

SIZES = (4, 2, 1)
"""Identities per camera pair: seven people, of whom the first three train and the others test."""
NUM_TRAIN = 3
TESTSETS = [np.array([[1, 2], [2, 1]]), np.array([[1, 4], [3, 1]])]
# In every second identity one image of each view is missing; detected boxes lack one more.
MISSING = {"labeled": (3, 8), "detected": (3, 4, 8)}


def cells(box: str) -> Iterator[tuple[int, int, int]]:
    """Go over the cells that hold an image, as (pair, identity, index), the last counted from 0."""
    for pair, size in enumerate(SIZES, 1):
        for identity in range(1, size + 1):
            for index in range(10):
                if identity % 2 == 1 or index not in MISSING[box]:
                    yield pair, identity, index


def picture(box: str, pair: int, identity: int, index: int) -> np.ndarray:
    """Make noise that is this cell's alone, higher than wide, in a size of its own."""
    rng = np.random.default_rng([box == "labeled", pair, identity, index])
    return rng.integers(1, 256, (20 + index, 9 + identity, 3), dtype=np.uint8)


def names_of(box: str) -> list[str]:
    return [name_of_cell(*cell) for cell in cells(box)]


def protocol_of(box: str) -> dict[str, list]:
    """Return the arguments of write_new_protocol: the first image of each view is the query."""
    names = names_of(box)
    parsed = [parse_image_name(name) for name in names]
    first = np.concatenate([[0], np.cumsum(SIZES)])
    labels = [int(first[pair - 1]) + identity for pair, identity, _, _ in parsed]
    parts: dict[str, list[int]] = {"train_idx": [], "query_idx": [], "gallery_idx": []}
    for position, (label, (_, _, _, image)) in enumerate(zip(labels, parsed, strict=True), 1):
        test = "query_idx" if image in (1, 6) else "gallery_idx"
        parts["train_idx" if label <= NUM_TRAIN else test].append(position)
    return {"names": names, "labels": labels, "camids": [view for _, _, view, _ in parsed], **parts}


def write_protocol(root: Path, box: str, **changes: list) -> Path:
    path = root / f"cuhk03_new_protocol_config_{box}.mat"
    return write_new_protocol(path, **{**protocol_of(box), **changes})


def write_mat(path: Path) -> Path:
    images = ((box, *cell, picture(box, *cell)) for box in ("labeled", "detected") for cell in cells(box))
    return write_cuhk03_mat(path, SIZES, images, TESTSETS)


def write_images(root: Path, names: list[str]) -> Path:
    """Write small images under these names, each of another colour."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16), (number, 0, 0)).save(root / name)
    return root


def make_root(root: Path) -> Path:
    """Write a whole data folder in the layout of the public code bases."""
    write_mat(root / "cuhk03_release" / "cuhk-03.mat")
    for box in ("labeled", "detected"):
        write_protocol(root, box)
    return root
