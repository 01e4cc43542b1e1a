"""Read every file of a data set, and report what is wrong with it and what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from reidlab.checks import check_choice
from reidlab.data.cuhk03 import CUHK03, PUBLISHED_COUNTS, PUBLISHED_IDENTITIES
from reidlab.data.findings import Finding, Report, Status, read_images
from reidlab.data.folders import MARKET_BASES, FolderDataset, Market1501
from reidlab.data.layout import (
    MAT_NAME,
    MAT_SOURCE,
    Layout,
    box_of_folder,
    find_layout,
    looked_in,
    mat_places,
    protocol_name,
    protocol_places,
)
from reidlab.data.listing import PART_FOLDERS, existing, is_image_name, list_folder, list_images
from reidlab.data.matheader import H5_ERRORS, describe_problem, first_line
from reidlab.data.matsource import EMPTY, MatSource, describe_cell
from reidlab.data.names import BOXES, PAIR_SIZES, name_of_cell
from reidlab.data.protocolfile import PROTOCOL_SOURCE, NewProtocol, read_new_protocol
from reidlab.data.records import PARTS, FolderSource, Record
from reidlab.errors import DataError, a_few
from reidlab.progress import progress

_LOADERS = {"market1501": Market1501, "folder": FolderDataset}
_AGAIN = "copy or download it again"


def check(
    root: str | os.PathLike[str],
    expect: Literal["cuhk03", "any"] | None = None,
    data_format: Literal["cuhk03", "market1501", "folder"] | None = None,
) -> Report:
    """Read every file of CUHK03, of Market-1501's layout or of a folder of images, each image once; nothing is changed.

    Args:
        root: the folder, laid out in any way that `CUHK03`, `Market1501` or `FolderDataset` reads.
        expect: "cuhk03" compares CUHK03's counts with the published ones; "any" accepts whatever counts are
            consistent. By default "any" where a `world.json` says that this is the embedded world.
        data_format: which of the three it is; by default what the names of files and folders say.

    Returns:
        A report to print, with `report.ok` and `report.findings`. A missing file is a finding.

    Raises:
        ValueError: `expect` or `data_format` is none of its choices.
        FileNotFoundError: there is no such folder.

    Example:
        >>> import tempfile
        >>> print(check(tempfile.mkdtemp()).findings[0])
        absent   cuhk-03.mat: looked in cuhk03_release/, ...

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    check_choice("expect", expect, ("cuhk03", "any", None))
    check_choice("data_format", data_format, ("cuhk03", *_LOADERS, None))
    if data_format in _LOADERS:
        return _check_images(existing(root), _LOADERS[data_format])
    layouts = {box: find_layout(root, box) for box in BOXES}
    root, world = layouts["labeled"].root, layouts["labeled"].world
    kind = data_format or _format_of(root, layouts.values())
    if kind in _LOADERS:
        return _check_images(root, _LOADERS[kind])
    inspection = _Inspection(root, layouts, strict=expect == "cuhk03" or (expect is None and world is None))
    inspection.check_mat()
    for box in BOXES:
        inspection.check_box(box)
    inspection.check_strangers()
    return Report(root, world or "CUHK03", inspection.findings, inspection.counts, sorted(inspection.loads))


def _format_of(root: Path, layouts: Collection[Layout]) -> str:
    if any(layout.mat or layout.protocol or layout.extracted or layout.world for layout in layouts):
        return "cuhk03"
    for folder in filter(None, (layout.np_folder for layout in layouts)):
        names = (name for part in PART_FOLDERS for name in list_folder(folder / part)[0])
        if box_of_folder(folder) or all(re.match(r"\d{4}_c[12]_\d+\.", name) for name in names):
            return "cuhk03"
    if any((root / base / part).is_dir() for base in MARKET_BASES for part in ("bounding_box_train", PART_FOLDERS[2])):
        return "market1501"
    if any(path for place in mat_places(root) for path in place.parent.glob("*.mat")):  # perhaps renamed
        return "cuhk03"
    files, folders = list_folder(root)
    people = any(name.lstrip("-").isdecimal() or name in ("query", "gallery") for name in folders)
    return "folder" if people or any(map(is_image_name, files)) else "cuhk03"


def _check_images(root: Path, loader: type[Market1501] | type[FolderDataset]) -> Report:
    try:
        data = loader(root)
    except (DataError, OSError) as error:
        finding = Finding(".", "wrong", str(error).removeprefix(f"{root}: "))
        return Report(root, loader.__name__, [finding], loader=loader.__name__)
    records = [record for part in PARTS for record in getattr(data, part)]
    fault, twins = read_images(records, f"looking at {data.name}")
    if fault:
        return Report(root, data.name, [Finding(".", "damaged", fault)], loader=loader.__name__)
    counts = _slashed([len(getattr(data, part)) for part in PARTS])
    people, cameras = ({getattr(record, name) for record in records} for name in ("pid", "camid"))
    text = f"{len(records):,} images of {len(people):,} identities from {len(cameras)} cameras, {counts} for "
    text += f"train/query/gallery, {data.junk} junk left out{twins}"
    seen = {(record.pid, record.camid) for record in data.gallery}
    if not any(q.pid == pid and q.camid != camid for q in data.query for pid, camid in seen):
        text += "; no query has an image of its person from another camera in the gallery, so scores need "
        text += 'same_camera="keep" (--same-camera keep)'
    return Report(root, data.name, [Finding(".", "ok", text)], loads=[""], loader=loader.__name__)


class _Inspection:
    """One check of files of CUHK03: what was found so far."""

    def __init__(self, root: Path, layouts: dict[str, Layout], strict: bool) -> None:
        self.root, self.layouts, self.strict = root, layouts, strict
        self.findings: list[Finding] = []
        self.counts: list[tuple[str, str, str]] = []
        self.loads: list[str] = []
        self.held: dict[str, set[str]] = {}  # box -> names of the images in the .mat
        self.np_folders: dict[str, Path | None] = {}
        for box, layout in layouts.items():
            said = box_of_folder(layout.np_folder) if layout.np_folder else None
            mine = said == box or (said is None and box == "labeled")  # an unnamed folder counts as labeled
            self.np_folders[box] = layout.np_folder if mine else None

    def add(self, path: Path, status: Status, text: str, remedy: str = "") -> None:
        """Note a finding; texts that begin with the full path lose it, since the line names the file."""
        text = text.removeprefix(f"{path}: ")
        self.findings.append(Finding(path.relative_to(self.root).as_posix(), status, text, remedy))

    def compare(self, box: str, images: tuple[int, ...], people: tuple[int, ...]) -> str:
        """Note the counts of a box type; return how they differ from the published ones where those are expected."""
        rows = zip(PARTS, images, PUBLISHED_COUNTS[box], strict=True)
        self.counts += [(f"{box}: {part} images", str(got), str(known)) for part, got, known in rows]
        rows = zip(("train", "test"), people, PUBLISHED_IDENTITIES, strict=True)
        self.counts += [(f"{box}: {part} identities", str(got), str(known)) for part, got, known in rows]
        if not self.strict or (images, people) == (PUBLISHED_COUNTS[box], PUBLISHED_IDENTITIES):
            return ""
        published = f"{_slashed(PUBLISHED_COUNTS[box])} and {_slashed(PUBLISHED_IDENTITIES)}"
        return f"{_slashed(images)} images and {_slashed(people)} identities, published are {published}"

    def check_mat(self) -> None:
        path = self.layouts["labeled"].mat
        if path is None:
            folders = any(self.layouts[box].extracted or self.np_folders[box] for box in BOXES)
            remedy = "not needed for the image folders that are here" if folders else f"get it {MAT_SOURCE}"
            where = looked_in(self.root, mat_places(self.root))
            self.findings.append(Finding(MAT_NAME, "absent", where, remedy))
            return
        source = MatSource(path)
        try:
            fault = self.fault_of_mat(source)
        except DataError as error:
            self.add(path, "damaged", str(error))
            return
        except PermissionError as error:
            self.add(path, "damaged", f"cannot be read ({error.strerror})", "give yourself the right to read it")
            return
        finally:
            source.close()
        if fault:
            self.held.clear()
            self.add(path, *fault)
        else:
            self.add(path, "ok", f"MATLAB 7.3, {sum(map(len, self.held.values())):,} images")
            self.loads += [f'box="{box}", protocol="classic"' for box in BOXES]

    def fault_of_mat(self, source: MatSource) -> tuple[Status, str, str] | None:
        """Read every cell; return the first fault, or None."""
        sizes = {box: source.sizes(box) for box in BOXES}
        for box in BOXES:
            faults, names = _read_cells(source, box)
            if faults:
                text = f"{len(faults)} of {len(faults) + len(names):,} images of /{box} are bad: {a_few(faults)}"
                return "damaged", text, _AGAIN
            self.held[box] = names
        testsets = source.testsets()
        here, published = _slashed(sizes["labeled"]), _slashed(PAIR_SIZES)
        self.counts.append(("identities per camera pair", here, published))
        self.counts.append(("identities", str(sum(sizes["labeled"])), str(sum(PAIR_SIZES))))
        set_sizes = _slashed(sorted({len(pairs) for pairs in testsets})) or "0"
        self.counts.append(("classic test sets x identities", f"{len(testsets)} x {set_sizes}", "20 x 100"))
        if sizes["labeled"] != sizes["detected"]:
            here = " and ".join(f"{box} {_slashed(sizes[box])}" for box in BOXES)
            return "wrong", f"the two box types have different people: {here}", _AGAIN
        people = {(pair, n) for pair, size in enumerate(sizes["labeled"], 1) for n in range(1, size + 1)}
        missing = [n for n, pairs in enumerate(testsets) if not people.issuperset(map(tuple, pairs.tolist()))]
        if missing:
            return "damaged", f"test sets {a_few(missing)} name people who are not there", _AGAIN
        if self.strict and (tuple(sizes["labeled"]) != PAIR_SIZES or len(testsets) != 20):
            text = f"identities per pair {here}, {len(testsets)} test sets; CUHK03 has {published} and 20"
            return "wrong", text, f"this is not the whole CUHK03; {_AGAIN}"
        return None

    def check_box(self, box: str) -> None:
        """Check the protocol file and the image folders of a box type."""
        protocol = self.check_protocol(box)
        if self.layouts[box].extracted:
            self.check_folder(self.layouts[box].extracted / f"images_{box}", box, protocol)
        if self.np_folders[box]:
            self.check_np(self.np_folders[box], box)

    def check_protocol(self, box: str) -> NewProtocol | None:
        path = self.layouts[box].protocol
        if path is None:
            where = looked_in(self.root, protocol_places(self.root, box))
            remedy = f"get it from {PROTOCOL_SOURCE}, if you want {box} boxes"
            if self.np_folders[box]:
                remedy = "not needed for the CUHK03-NP folder that is here"
            self.findings.append(Finding(protocol_name(box), "absent", where, remedy))
            return None
        try:
            protocol = read_new_protocol(path)
        except (DataError, PermissionError) as error:
            self.add(path, "damaged", first_line(error) if isinstance(error, OSError) else str(error))
            return None
        here = tuple(len(getattr(protocol, f"{part}_idx")) for part in PARTS)
        test = np.concatenate([protocol.query_idx, protocol.gallery_idx])
        people = tuple(len(set(protocol.labels[idx - 1].tolist())) for idx in (protocol.train_idx, test))
        difference = self.compare(box, here, people)
        absent = [n for n in protocol.names if n not in self.held[box]] if box in self.held else []
        if absent:
            text = f"names {len(absent)} of {len(protocol.names)} images that are not in {MAT_NAME}: {a_few(absent)}"
            self.add(path, "wrong", text, "the two files do not belong together, or one is incomplete")
        elif difference:
            self.add(path, "wrong", difference, f"get it from {PROTOCOL_SOURCE}")
        else:
            self.add(path, "ok", f"MATLAB 5, {len(protocol.names):,} images, {_slashed(here)} for train/query/gallery")
            if box in self.held:
                self.loads.append(f'box="{box}"')
        return protocol

    def check_folder(self, folder: Path, box: str, protocol: NewProtocol | None) -> None:
        try:
            names = list_images(folder)
        except DataError as error:
            self.add(folder, "wrong", str(error))
            return
        records = [Record(name, 0, 0, FolderSource(folder)) for name in names]
        fault, _ = read_images(records, f"looking at {folder.name}")
        absent = sorted(set(protocol.names) - set(names)) if protocol else []
        if fault:
            self.add(folder, "damaged", fault, "delete these and export or copy them again")
        elif absent:
            self.add(folder, "wrong", f"lacks {len(absent)} images: {a_few(absent)}", "export or copy them again")
        else:
            self.add(folder, "ok", f"{len(names):,} images")
            if protocol and f'box="{box}"' not in self.loads:
                self.loads.append(f'box="{box}"')

    def check_np(self, folder: Path, box: str) -> None:
        try:
            data = CUHK03(folder, box=box)
        except (DataError, FileNotFoundError) as error:
            self.add(folder, "damaged", str(error))
            return
        here = tuple(len(getattr(data, part)) for part in PARTS)
        people = (len({r.pid for r in data.train}), len({r.pid for r in (*data.query, *data.gallery)}))
        difference = self.compare(box, here, people)
        fault, twins = read_images([r for part in PARTS for r in getattr(data, part)], f"looking at {folder.name}")
        if fault:
            self.add(folder, "damaged", fault, "copy them again")
        elif difference:
            remedy = "copy it again, and completely; other data: --format market1501"
            self.add(folder, "wrong", f"CUHK03-NP with {difference}", remedy)
        else:
            self.add(folder, "ok", f"CUHK03-NP, {_slashed(here)} images for train/query/gallery{twins}")
            self.loads.append(f'box="{box}"')

    def check_strangers(self) -> None:
        """Say what `.mat` files under other names are: a renamed file is the commonest reason for a missing one."""
        if all(finding.status != "absent" for finding in self.findings):
            return
        for folder in {place.parent for place in mat_places(self.root)}:
            for path in sorted(folder.glob("*.mat")):
                if path.name in (MAT_NAME, *map(protocol_name, BOXES)):
                    continue
                kinds = {"7.3": MAT_NAME, "5": "cuhk03_new_protocol_config_<box>.mat"}
                may_be = [name for version, name in kinds.items() if describe_problem(path, version) is None]
                text = f"an unknown name, but the format of {may_be[0]}" if may_be else "an unknown .mat file"
                self.add(path, "ok", text, "rename it if that is what it is" if may_be else "not used")


def _read_cells(source: MatSource, box: str) -> tuple[list[str], set[str]]:
    """Read every image of a box type; return what is wrong, and the names of the good ones."""
    faults, names = [], set()
    cells = [
        (pair, identity + 1, index)
        for pair, size in enumerate(source.sizes(box), 1)
        for identity, index in np.ndindex(size, 10)
    ]
    for pair, identity, index in progress(cells, f"looking at /{box}", unit="cell"):
        name = name_of_cell(pair, identity, index)
        try:
            dataset = source.cell(box, pair, identity, index)
            problem = describe_cell(dataset)
            if problem is None:
                pixels = np.empty(dataset.shape, np.uint8)
                dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, pixels)
                problem = None if pixels.any() else "is all zeros, as in a download that was broken off"
        except H5_ERRORS as error:
            problem = first_line(error)
        if problem is None:
            names.add(name)
        elif problem != EMPTY:
            faults.append(f"{name} {problem}")
    return faults, names


def _slashed(numbers: Sequence[int]) -> str:
    return "/".join(map(str, numbers))
