"""CUHK03 under both protocols, from `cuhk-03.mat` itself or from the image folders people have."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reidlab.checks import check_choice, check_whole
from reidlab.data.layout import Layout, box_of_folder, find_layout, missing_error
from reidlab.data.listing import PART_FOLDERS, list_images
from reidlab.data.matsource import MatSource
from reidlab.data.names import BOXES, name_of_cell, parse_image_name
from reidlab.data.protocolfile import read_new_protocol
from reidlab.data.records import FolderSource, ImageSource, Record, Splits, read_part, refuse_shared
from reidlab.errors import DataError, a_few

PUBLISHED_COUNTS = {"labeled": (7368, 1400, 5328), "detected": (7365, 1400, 5332)}
"""Images to train on, queries, gallery images under the new protocol (Zhong et al., CVPR 2017)."""
PUBLISHED_IDENTITIES = (767, 700)
"""Identities to train on and to test with under the new protocol."""
_NP_NAME = re.compile(r"(?!0000)(\d{4})_c([12])(?:s\d+)?_\d+(?:_\d+)?\.(?:png|jpg|jpeg)", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, init=False, repr=False)
class CUHK03(Splits):
    """CUHK03, or anything written in its format: records to train on, queries, and the gallery.

    Reads, in this order of preference, what `root` (or `root/cuhk03`) holds:

    1. `cuhk-03.mat`, directly or in `cuhk03_release/`: images are read by reference, nothing is unpacked.
    2. `images_labeled/` or `images_detected/`, as the public code bases and `export_png` unpack them.
    3. CUHK03-NP: `bounding_box_train/`, `query/`, `bounding_box_test/` with names such as `0001_c1_1.png`. The box type
       is that of the folder around them, `labeled/` or `detected/`; if its name has neither, `box` is accepted unless
       the published counts contradict it.

    The new protocol with 1 and 2 also needs the protocol file of the chosen box type, and only that one. Names come
    from that file, so opening does not touch the images. The classic protocol needs 1, since its test sets are in
    `cuhk-03.mat`; as in the public code its query list and its gallery list are the same, all images of the test
    identities. Identity numbers are the new protocol's, 1 to 1467, under both protocols; the camera is the view.

    Args:
        root: the data folder. Records hold names relative to it, so a moved folder loads as before.
        box: "labeled" (drawn by hand) or "detected" (found by a detector); they are different images with
            different scores, so there is no default.
        protocol: "new" (767 identities to train, 700 to test) or "classic" (100 to test, 20 splits).
        split: which of the classic splits, from 0.

    Raises:
        ValueError: an argument is none of its choices.
        FileNotFoundError: files are missing; the message lists which, in which folders, and where they come from.
        DataError: a file is damaged or another than its name says, the protocol contradicts the images, or a folder of
            images holds further folders or links that point nowhere.

    Example:
        >>> import tempfile
        >>> from reidlab.data.matfile import write_cuhk03_mat
        >>> from reidlab.data.protocolfile import write_new_protocol
        >>> root = Path(tempfile.mkdtemp())
        >>> image = np.zeros((160, 60, 3), np.uint8)
        >>> cells = [("labeled", 1, i, k, image) for i in (1, 2) for k in (0, 1, 5)]
        >>> _ = write_cuhk03_mat(root / "cuhk-03.mat", [2], cells, [np.array([[1, 2]])])
        >>> names = [name_of_cell(1, i, k) for i in (1, 2) for k in (0, 1, 5)]
        >>> _ = write_new_protocol(root / "cuhk03_new_protocol_config_labeled.mat", names,
        ...                        [1, 1, 1, 2, 2, 2], [1, 1, 2, 1, 1, 2], [1, 2, 3], [4], [5, 6])
        >>> data = CUHK03(root, box="labeled")
        >>> print(data)
        CUHK03, labeled boxes, new protocol
        part      identities  images  cameras
        train              1       3        2
        query              1       1        1
        gallery            1       2        2
        >>> data.query[0], data.query[0].load().shape
        (Record(image='labeled/1_002_1_01.png', pid=2, camid=1), (160, 60, 3))

    Source: Li et al., DeepReID, CVPR 2014; Zhong et al., Re-ranking with k-reciprocal encoding, CVPR 2017.

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """

    def __init__(self, root: str | os.PathLike[str], *, box: str, protocol: str = "new", split: int = 0) -> None:
        check_choice("box", box, BOXES)
        check_choice("protocol", protocol, ("new", "classic"))
        check_whole(0, split=split)
        if protocol == "new" and split != 0:
            raise ValueError(f'got split={split} with protocol="new", which has one split only; leave split out')
        layout = find_layout(root, box)
        if protocol == "classic":
            if layout.mat is None:
                raise missing_error(layout, box, protocol)
            parts = _read_classic(MatSource(layout.mat), box, split)
        elif (layout.mat or layout.extracted) and layout.protocol:
            parts = _read_new(layout, box)
        elif layout.np_folder:
            parts = _read_np(layout.np_folder, box)
        else:
            raise missing_error(layout, box, protocol)
        # A result must never carry the name of a data set that it was not measured on.
        name = layout.world or "CUHK03"
        title = f"classic (split {split})" if protocol == "classic" else "new"
        train, query, gallery = parts
        super().__init__(name=name, box=box, protocol=title, train=train, query=query, gallery=gallery)

    def __repr__(self) -> str:
        return (
            f"{self.name}(box={self.box!r}, protocol={self.protocol!r}: {len(self.train)} train, "
            f"{len(self.query)} query, {len(self.gallery)} gallery images)"
        )


def _read_new(layout: Layout, box: str) -> list[list[Record]]:
    protocol = read_new_protocol(layout.protocol)
    if layout.mat:
        source: ImageSource = MatSource(layout.mat)
        folder, place, absent = box, layout.mat, []
        empty = source.empty(box)
        for name in protocol.names:
            pair, identity, _, image = parse_image_name(name)
            if pair > len(empty) or identity > len(empty[pair - 1]) or empty[pair - 1][identity - 1, image - 1]:
                absent.append(name)
    else:
        source, folder = FolderSource(layout.extracted), f"images_{box}"
        place = layout.extracted / folder
        there = set(list_images(place))
        absent = [name for name in protocol.names if name not in there]
    if absent:
        raise DataError(
            f"{layout.protocol}: names {len(absent)} of {len(protocol.names)} images that are not in {place}: "
            f"{a_few(absent)}; the two files do not belong together, or one is incomplete"
        )
    labels, camids = protocol.labels.tolist(), protocol.camids.tolist()
    return [
        [Record(f"{folder}/{protocol.names[i]}", labels[i], camids[i], source) for i in (positions - 1).tolist()]
        for positions in (protocol.train_idx, protocol.query_idx, protocol.gallery_idx)
    ]


def _read_classic(source: MatSource, box: str, split: int) -> list[list[Record]]:
    testsets = source.testsets()
    if split >= len(testsets):
        raise ValueError(
            f"got split={split}, but {source.path} holds {len(testsets)} test sets: 0 to {len(testsets) - 1}"
        )
    sizes = source.sizes(box)
    test = [tuple(row) for row in testsets[split].tolist()]
    wrong = [row for row in test if not (1 <= row[0] <= len(sizes) and 1 <= row[1] <= sizes[row[0] - 1])]
    if wrong or len(set(test)) != len(test):
        what = f"names (pair, identity) that are not there: {a_few(wrong)}" if wrong else "names somebody twice"
        raise DataError(f"{source.path}: /testsets, set {split} {what}; copy the file again")
    chosen, train, gallery = set(test), [], []
    first = 0  # identities of the pairs before this one: numbers run on through the pairs
    for pair, held in enumerate(source.present(box), 1):
        for identity, index in np.argwhere(held).tolist():
            name = f"{box}/{name_of_cell(pair, identity + 1, index)}"
            record = Record(name, first + identity + 1, parse_image_name(name)[2], source)
            (gallery if (pair, identity + 1) in chosen else train).append(record)
        first += len(held)
    return [train, gallery, gallery]


def _read_np(folder: Path, box: str) -> list[list[Record]]:
    said = box_of_folder(folder)
    if said not in (None, box):
        raise DataError(f"{folder}: got box={box!r}, but the folder's name says {said}; give the folder of {box} boxes")
    expected = "CUHK03-NP's identity_camera_number such as 0001_c1_1.png with camera 1 or 2"
    hint = f"{expected} (a folder with more cameras is read by Market1501(root))"
    source = FolderSource(folder)
    parts = [read_part(source, part, _NP_NAME, hint) for part in PART_FOLDERS]
    for part, records in zip(PART_FOLDERS, parts, strict=True):
        if not records:
            raise DataError(f"{folder / part}: holds no images; expected {expected}")
    counts = tuple(len(records) for records in parts)
    other = BOXES[1 - BOXES.index(box)]
    if counts == PUBLISHED_COUNTS[other]:
        raise DataError(f"{folder}: got box={box!r}, but {counts} images are what the {other} boxes have; use that box")
    refuse_shared(folder, *parts)
    views = {record.camid for records in parts[1:] for record in records}
    if len(views) < 2:
        raise DataError(f"{folder}: a view is missing: all test images are of camera {views.pop()}; copy it again")
    return parts
