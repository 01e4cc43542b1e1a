"""Look at every file of a CUHK03 folder and say what is wrong with it and what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from reidlab.data.cuhk03 import CUHK03, PUBLISHED_COUNTS, PUBLISHED_IDENTITIES
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
from reidlab.data.matheader import H5_ERRORS, describe_problem, first_line
from reidlab.data.matsource import EMPTY, MatSource, describe_cell
from reidlab.data.names import BOXES, PAIR_SIZES, a_few, name_of_cell
from reidlab.data.protocolfile import PROTOCOL_SOURCE, NewProtocol, read_new_protocol
from reidlab.data.records import FolderSource
from reidlab.errors import DataError
from reidlab.progress import progress

Status = Literal["ok", "absent", "damaged", "wrong"]
_PUBLISHED_PAIRS = "/".join(map(str, PAIR_SIZES))
_PARTS = ("train", "query", "gallery")


@dataclass(frozen=True)
class Finding:
    """What was found out about one file or folder.

    Args:
        file: its path relative to the data folder.
        status: "ok", "absent", "damaged" (cut short, not what its name says, broken inside) or "wrong"
            (sound in itself, but contradicts another file or the published counts).
        text: what it holds, or what is wrong.
        remedy: what to do; empty if nothing.
    """

    file: str
    status: Status
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status:<8} {self.file}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Report:
    """All findings about a data folder, and its counts beside the published ones.

    Args:
        root: the folder.
        name: "CUHK03", or "Walkers" for the embedded world.
        findings: one per file.
        counts: rows of (what, here, published).
        loads: the calls of `CUHK03` that will work, for example `box="labeled"`.

    Example:
        >>> import tempfile
        >>> report = check(tempfile.mkdtemp())
        >>> report.ok, {finding.status for finding in report.findings}
        (False, {'absent'})

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """

    root: Path
    name: str
    findings: Sequence[Finding]
    counts: Sequence[tuple[str, str, str]] = field(default=())
    loads: Sequence[str] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether no file is damaged or wrong, and at least one box type loads under the new protocol."""
        sound = all(finding.status in ("ok", "absent") for finding in self.findings)
        return sound and any("classic" not in call for call in self.loads)

    def __str__(self) -> str:
        lines = [f"{self.name} in {self.root}", *map(str, self.findings)]
        if self.counts:
            rows = [("", "here", "CUHK03 as published"), *self.counts]
            widths = [max(len(row[i]) for row in rows) for i in range(3)]
            lines.append("")
            lines += [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]
        lines.append("")
        if self.name != "CUHK03" and self.ok:
            lines.append("This is the embedded world: its files are sound, its counts are its own.")
        calls = ", ".join(f"CUHK03(root, {call})" for call in self.loads)
        lines.append(f"Loads: {calls}" if calls else "Nothing here can be loaded yet.")
        return "\n".join(lines)


def check(root: str | os.PathLike[str], expect: Literal["cuhk03", "any"] | None = None) -> Report:
    """Look at every file of a CUHK03 folder; nothing is changed.

    Every image is read once, so the full data set takes as long as the disk needs for two gigabytes.

    Args:
        root: the folder, laid out in any way that `CUHK03` reads.
        expect: "cuhk03" holds the counts against the published ones; "any" accepts whatever counts are
            consistent. By default "any" where a `world.json` says that this is the embedded world.

    Returns:
        A report; print it, or look at `report.ok` and `report.findings`.

    Raises:
        ValueError: `expect` is none of its choices.
        FileNotFoundError: there is no such folder. (A missing file is a finding.)

    Example:
        >>> import tempfile
        >>> print(check(tempfile.mkdtemp()).findings[0])
        absent   cuhk-03.mat: looked in cuhk03_release/, ...

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    if expect not in (None, "cuhk03", "any"):
        raise ValueError(f'got expect={expect!r}, expected "cuhk03", "any" or None')
    inspection = _Inspection(find_layout(root, "labeled"))
    strict = expect == "cuhk03" or (expect is None and inspection.layout.world is None)
    inspection.look_at_mat(strict)
    for box in BOXES:
        inspection.look_at_box(box, strict)
    inspection.look_at_strangers()
    name = inspection.layout.world or "CUHK03"
    return Report(inspection.root, name, inspection.findings, inspection.counts, sorted(inspection.loads))


class _Inspection:
    """The state of one check: what was found so far."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.root = layout.root
        self.findings: list[Finding] = []
        self.counts: list[tuple[str, str, str]] = []
        self.loads: list[str] = []
        self.held: dict[str, set[str]] = {}  # box -> names of the images in the .mat

    def add(self, path: Path, status: Status, text: str, remedy: str = "") -> None:
        """Note a finding; texts that begin with the full path lose it, since the line names the file."""
        text = text.removeprefix(f"{path}: ")
        self.findings.append(Finding(path.relative_to(self.root).as_posix(), status, text, remedy))

    def look_at_mat(self, strict: bool) -> None:
        path = self.layout.mat
        if path is None:
            where = looked_in(self.root, mat_places(self.root))
            folders = any(find_layout(self.root, box).extracted or _np_folder(self.root, box) for box in BOXES)
            remedy = "not needed for the image folders that are here" if folders else f"get it {MAT_SOURCE}"
            self.findings.append(Finding(MAT_NAME, "absent", where, remedy))
            return
        source = MatSource(path)
        try:
            faults = self._faults(source, strict)
        except DataError as error:
            self.add(path, "damaged", str(error))
            return
        except PermissionError as error:
            self.add(path, "damaged", f"cannot be read ({error.strerror})", "give yourself the right to read it")
            return
        finally:
            source.close()
        images = sum(map(len, self.held.values()))
        if faults:
            self.held.clear()
            self.add(path, faults[0], faults[1], faults[2])
        else:
            self.add(path, "ok", f"MATLAB 7.3, {images:,} images")
            self.loads += [f'box="{box}", protocol="classic"' for box in BOXES]

    def _faults(self, source: MatSource, strict: bool) -> tuple[Status, str, str] | None:
        """Visit every cell; return the first fault that stands for all, or None."""
        sizes = {box: source.sizes(box) for box in BOXES}
        for box in BOXES:
            faults, names = _visit(source, box)
            if faults:
                text = f"{len(faults)} of {len(faults) + len(names):,} images of /{box} are bad: {a_few(faults)}"
                return "damaged", text, "copy or download it again"
            self.held[box] = names
        testsets = source.testsets()
        here = "/".join(map(str, sizes["labeled"]))
        self.counts.append(("identities per camera pair", here, _PUBLISHED_PAIRS))
        self.counts.append(("identities", str(sum(sizes["labeled"])), str(sum(PAIR_SIZES))))
        set_sizes = "/".join(map(str, sorted({len(pairs) for pairs in testsets}))) or "0"
        self.counts.append(("classic test sets x identities", f"{len(testsets)} x {set_sizes}", "20 x 100"))
        if sizes["labeled"] != sizes["detected"]:
            here = " and ".join(f"{box} {'/'.join(map(str, sizes[box]))}" for box in BOXES)
            return "wrong", f"the two box types have different people: {here}", "copy or download it again"
        missing = [n for n, pairs in enumerate(testsets) if not _people_exist(pairs, sizes["labeled"])]
        if missing:
            return "damaged", f"test sets {a_few(missing)} name people who are not there", "copy or download it again"
        if strict and (tuple(sizes["labeled"]) != PAIR_SIZES or len(testsets) != 20):
            text = f"identities per pair {here}, {len(testsets)} test sets; CUHK03 has {_PUBLISHED_PAIRS} and 20"
            return "wrong", text, "this is not the whole CUHK03; copy or download it again"
        return None

    def look_at_box(self, box: str, strict: bool) -> None:
        layout = find_layout(self.root, box)
        protocol = self._look_at_protocol(layout, box, strict)
        if layout.extracted:
            self._look_at_folder(layout, box, protocol)
        np_folder = _np_folder(self.root, box)
        if np_folder:
            self._look_at_np(np_folder, box, strict)

    def _look_at_protocol(self, layout: Layout, box: str, strict: bool) -> NewProtocol | None:
        path = layout.protocol
        if path is None:
            where = looked_in(self.root, protocol_places(self.root, box))
            remedy = f"get it from {PROTOCOL_SOURCE}, if you want {box} boxes"
            if _np_folder(self.root, box):
                remedy = "not needed for the CUHK03-NP folder that is here"
            self.findings.append(Finding(protocol_name(box), "absent", where, remedy))
            return None
        try:
            protocol = read_new_protocol(path)
        except (DataError, PermissionError) as error:
            self.add(path, "damaged", first_line(error) if isinstance(error, OSError) else str(error))
            return None
        here = tuple(len(getattr(protocol, f"{part}_idx")) for part in _PARTS)
        people = _identities(protocol)
        self._count(box, here, people)
        absent = [n for n in protocol.names if n not in self.held[box]] if box in self.held else []
        if absent:
            text = f"names {len(absent)} of {len(protocol.names)} images that are not in {MAT_NAME}: {a_few(absent)}"
            self.add(path, "wrong", text, "the two files do not belong together, or one is incomplete")
        elif strict and (here, people) != (PUBLISHED_COUNTS[box], PUBLISHED_IDENTITIES):
            text = f"{_slashed(here)} images and {_slashed(people)} identities, published are "
            text += f"{_slashed(PUBLISHED_COUNTS[box])} and {_slashed(PUBLISHED_IDENTITIES)}"
            self.add(path, "wrong", text, f"get it from {PROTOCOL_SOURCE}")
        else:
            self.add(path, "ok", f"MATLAB 5, {len(protocol.names):,} images, {_slashed(here)} for train/query/gallery")
            if box in self.held:
                self.loads.append(f'box="{box}"')
        return protocol

    def _count(self, box: str, here: tuple[int, ...], people: tuple[int, ...]) -> None:
        rows = zip(_PARTS, here, PUBLISHED_COUNTS[box], strict=True)
        self.counts += [(f"{box}: {part} images", str(got), str(known)) for part, got, known in rows]
        rows = zip(("train", "test"), people, PUBLISHED_IDENTITIES, strict=True)
        self.counts += [(f"{box}: {part} identities", str(got), str(known)) for part, got, known in rows]

    def _look_at_folder(self, layout: Layout, box: str, protocol: NewProtocol | None) -> None:
        folder = layout.extracted / f"images_{box}"
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
        faults = _unreadable(FolderSource(folder), names, f"looking at {folder.name}")
        absent = sorted(set(protocol.names) - set(names)) if protocol else []
        if faults:
            text = f"{len(faults)} of {len(names):,} images cannot be read: {a_few(faults)}"
            self.add(folder, "damaged", text, "delete these and export or copy them again")
        elif absent:
            self.add(folder, "wrong", f"lacks {len(absent)} images: {a_few(absent)}", "export or copy them again")
        else:
            self.add(folder, "ok", f"{len(names):,} images")
            call = f'box="{box}"'
            if protocol and call not in self.loads:
                self.loads.append(call)

    def _look_at_np(self, folder: Path, box: str, strict: bool) -> None:
        try:
            data = CUHK03(folder, box=box)
        except (DataError, FileNotFoundError) as error:
            self.add(folder, "damaged", str(error))
            return
        here = tuple(len(getattr(data, part)) for part in _PARTS)
        people = (len({r.pid for r in data.train}), len({r.pid for r in (*data.query, *data.gallery)}))
        self._count(box, here, people)
        names = [record.image for part in _PARTS for record in getattr(data, part)]
        faults = _unreadable(FolderSource(folder), names, f"looking at {folder.name}")
        if faults:
            text = f"{len(faults)} of {len(names):,} images cannot be read: {a_few(faults)}"
            self.add(folder, "damaged", text, "copy them again")
        elif strict and (here, people) != (PUBLISHED_COUNTS[box], PUBLISHED_IDENTITIES):
            text = f"CUHK03-NP with {_slashed(here)} images, published are {_slashed(PUBLISHED_COUNTS[box])}"
            self.add(folder, "wrong", text, "copy it again, and completely")
        else:
            self.add(folder, "ok", f"CUHK03-NP, {_slashed(here)} images for train/query/gallery")
            self.loads.append(f'box="{box}"')

    def look_at_strangers(self) -> None:
        """Say what `.mat` files under other names are: a renamed file is the commonest reason for a missing one."""
        known = {MAT_NAME, *map(protocol_name, BOXES)}
        if all(finding.status != "absent" for finding in self.findings):
            return
        for folder in {place.parent for place in mat_places(self.root)}:
            for path in sorted(folder.glob("*.mat")):
                if path.name in known:
                    continue
                kinds = {"7.3": MAT_NAME, "5": "cuhk03_new_protocol_config_<box>.mat"}
                may_be = [name for version, name in kinds.items() if describe_problem(path, version) is None]
                text = f"an unknown name, but the format of {may_be[0]}" if may_be else "an unknown .mat file"
                self.add(path, "ok", text, "rename it if that is what it is" if may_be else "not used")


def _np_folder(root: Path, box: str) -> Path | None:
    """A CUHK03-NP folder of this box type by its name; an unnamed one counts as labeled."""
    folder = find_layout(root, box).np_folder
    said = box_of_folder(folder) if folder else None
    return folder if said == box or (folder and said is None and box == "labeled") else None


def _visit(source: MatSource, box: str) -> tuple[list[str], set[str]]:
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


def _unreadable(source: FolderSource, names: Sequence[str], title: str) -> list[str]:
    def problem(name: str) -> str | None:
        try:
            source.load(name)
        except (DataError, OSError) as error:
            return str(error).removeprefix(f"{source.root / name}: ")
        return None

    with ThreadPoolExecutor(2) as pool:  # decoding runs outside Python's lock
        found = list(progress(pool.map(problem, names), title, total=len(names), unit="image"))
    return [f"{name} {text}" for name, text in zip(names, found, strict=True) if text]


def _people_exist(pairs: np.ndarray, sizes: Sequence[int]) -> bool:
    return all(1 <= pair <= len(sizes) and 1 <= identity <= sizes[pair - 1] for pair, identity in pairs.tolist())


def _identities(protocol: NewProtocol) -> tuple[int, int]:
    test = np.concatenate([protocol.query_idx, protocol.gallery_idx]) - 1
    return len(set(protocol.labels[protocol.train_idx - 1].tolist())), len(set(protocol.labels[test].tolist()))


def _slashed(numbers: Sequence[int]) -> str:
    return "/".join(map(str, numbers))
