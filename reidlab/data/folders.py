"""Images in folders: Market-1501's naming, or one folder per person."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reidlab.data.listing import (
    IMAGE_SUFFIX,
    PART_FOLDERS,
    existing,
    folder_name,
    is_image_name,
    list_folder,
    list_images,
)
from reidlab.data.records import PARTS, FolderSource, Record, Splits, leads_out, read_part, refuse_shared, relative_name
from reidlab.errors import DataError, a_few

JUNK = -1
"""Market-1501's identity number for boxes that hold no usable person."""
_MARKET_COUNTS = (12936, 3368)  # training images and queries as published
MARKET_BASES = ("", "Market-1501-v15.09.15", "market1501")
_MARKET_NAME = re.compile(rf"(-1|\d{{1,6}})_c(\d{{1,3}})(?:s\d+)?_[\w.]*{IMAGE_SUFFIX}", re.ASCII | re.IGNORECASE)
_MARKET_PATTERN = "identity_cCAMERAsSEQUENCE_frame_box.jpg, such as 0001_c1s1_000001_00.jpg"
# In a folder of one person: a camera that is called one anywhere in the name, else a number of one or two digits, but
# not 05_1.png, which may be frame 5 of camera 1, nor CUHK03's 1_001_2_06.png, whose camera is 2.
_CAMERA = re.compile(r"(?:^|[_. -])(?:c|cam(?:era)?[_-]?)(\d{1,3})(?:s\d+)?(?=[_. -])", re.ASCII | re.IGNORECASE)
_PLAIN_CAMERA = re.compile(r"(?!0\d_\d[_.]|\d_\d{3,5}_[12]_\d\d\.)(\d{1,2})_", re.ASCII)
_NUMBER_FIRST = re.compile(r"(?:(?:p|id|pid|person)[_-]?)?(-1|\d{1,6})(?=[_. -])", re.ASCII | re.IGNORECASE)
_PERSON_FOLDER = re.compile(r"-1|\d{1,9}", re.ASCII)
_FOLDER_PATTERN = (
    "identity/camera_anything.png such as 7/2_0031.png or 7/cam2_0031.png, or Market-1501's 0007_c2s1_000031_00.jpg"
)


@dataclass(frozen=True, init=False, repr=False)
class _Folders(Splits):
    """Images in folders; those of identity -1 are in no part and counted in `junk`."""

    junk: int = field(default=0)

    def __init__(self, name: str, parts: Sequence[Sequence[Record]]) -> None:
        kept = _without_junk(parts)
        super().__init__(name, "as given", "as given", *kept)
        object.__setattr__(self, "junk", sum(map(len, parts)) - sum(map(len, kept)))

    def __repr__(self) -> str:
        counts = f"{len(self.train)} train, {len(self.query)} query, {len(self.gallery)} gallery"
        return f"{type(self).__name__}({self.name!r}: {counts} images, {self.junk} junk left out)"


def _without_junk(parts: Sequence[Sequence[Record]]) -> list[list[Record]]:
    return [[record for record in records if record.pid != JUNK] for records in parts]


@dataclass(frozen=True, init=False, repr=False)
class Market1501(_Folders):
    """Images named as in Market-1501, in `bounding_box_train/`, `query/` and `bounding_box_test/`.

    Identity -1 is junk: such images are left out of every part and counted in `junk`. Identity 0, Market-1501's
    distractors, stays in the gallery, and is never searched for. Without `bounding_box_train/`, `train` is empty. Known
    system files (`Thumbs.db`, `.DS_Store`, `._0001_c1s1.jpg`, `.ipynb_checkpoints/`) are ignored; any other name that
    does not parse, and any folder inside, is an error.

    Args:
        root: the folder that holds the three, or the one above it.

    Raises:
        FileNotFoundError: `query/` or `bounding_box_test/` is missing.
        DataError: a name does not parse, a part holds no images or holds folders, a link points nowhere, identity 0
            is to be trained on or searched for, or the same people are in training and in test.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("query/0001_c1s1_000001_00.png", "bounding_box_test/0001_c2s1_000001_00.png",
        ...              "bounding_box_test/-1_c2s1_000001_00.png"):
        ...     (root / name).parent.mkdir(exist_ok=True)
        ...     Image.new("RGB", (64, 128)).save(root / name)
        >>> data = Market1501(root)
        >>> data.gallery, data.junk
        ([Record(image='bounding_box_test/0001_c2s1_000001_00.png', pid=1, camid=2)], 1)

    Source: Zheng et al., Scalable person re-identification: a benchmark, ICCV 2015.

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        root = existing(root)
        bases = [root / base for base in MARKET_BASES]
        base = next((base for base in bases if all((base / part).is_dir() for part in PART_FOLDERS[1:])), None)
        if base is None:
            missing = [part for part in PART_FOLDERS[1:] if not (root / part).is_dir()]
            raise FileNotFoundError(
                f"{root}: missing {' and '.join(f'{part}/' for part in missing)}; expected Market-1501's folders "
                f"{', '.join(f'{part}/' for part in PART_FOLDERS)}; pictures in another order: FolderDataset(root)"
            )
        list_folder(base)  # else a bounding_box_train/ that is a link to nowhere would be no data to train on
        source, parts = FolderSource(base), []
        for part in PART_FOLDERS:
            there = (base / part).is_dir()
            parts.append(read_part(source, part, _MARKET_NAME, _MARKET_PATTERN) if there else [])
            if there and all(record.pid == JUNK for record in parts[-1]):
                raise DataError(f"{base / part}: holds no images of people; expected names like {_MARKET_PATTERN}")
        kept = _without_junk(parts)
        _check_people(base, PART_FOLDERS, kept)
        # A result must never carry the name of a data set that it was not measured on.
        whole = (len(kept[0]), len(kept[1])) == _MARKET_COUNTS
        super().__init__("Market1501" if whole else f"{folder_name(base)} (Market-1501 naming)", parts)


@dataclass(frozen=True, init=False, repr=False)
class FolderDataset(_Folders):
    """Your own images: one folder per person, or one flat folder with Market-1501's names.

    An image is `identity/camera_anything.png`, such as `7/2_0031.png`, or, flat, `0007_c2s1_000031_00.jpg`. In the
    folder of a person the camera is the number called c, cam or camera wherever it stands (`7/C2_0031.jpg`,
    `7/street_cam2.png`), else the first number, of at most two digits (not in `7/05_1.png`: 05 may be a frame). A
    number in front of a named camera must be the folder's (`7/0007_cam2_0031.png`), since it may be a person's or a
    frame's. Identity -1 is junk, left out and counted in `junk`; 0000 in Market-1501's names stands for distractors,
    who are in the gallery and never searched for, while a folder `0/` is a person as any other. Folders inside the
    folder of a person are an error.

    The first of these that applies decides which image plays which part:

    1. `query` and `gallery` (and `train`) are given: lists of names relative to `root`, with slashes or backslashes.
    2. `root` holds the folders `query/` and `gallery/` (and `train/`), each filled as described above.
    3. Otherwise nothing is for training, and everybody seen by two or more cameras is searched for: the first image by
       name of each of a person's cameras is a query if more of that camera remain for the gallery; if no camera has
       more, the first image of the first camera is. All others are the gallery; people whom only one camera saw are in
       it as distractors.

    Args:
        root: the folder.
        train: names to train on; only together with `query` and `gallery`.
        query: names to search with.
        gallery: names to search in.

    Raises:
        ValueError: only one of `query` and `gallery` is given.
        FileNotFoundError: there is no such folder, or only one of `query/` and `gallery/` is there.
        DataError: a name does not parse, is not there, leads out of `root`, contradicts its folder or is in two parts;
            images lie where they would not be read; the same people are in training and in test; or nobody was seen
            by two cameras.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for name in ("7/1_a.png", "7/1_b.png", "7/2_a.png"):
        ...     (root / name).parent.mkdir(exist_ok=True)
        ...     Image.new("RGB", (64, 128)).save(root / name)
        >>> data = FolderDataset(root)
        >>> [record.image for record in data.query], [record.image for record in data.gallery]
        (['7/1_a.png'], ['7/1_b.png', '7/2_a.png'])

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        train: Iterable[str | os.PathLike[str]] | None = None,
        query: Iterable[str | os.PathLike[str]] | None = None,
        gallery: Iterable[str | os.PathLike[str]] | None = None,
    ) -> None:
        if (query is None) != (gallery is None) or (train is not None and query is None):
            raise ValueError("got one list of names, expected query and gallery (train may come with them) or none")
        root = existing(root)
        source = FolderSource(root)
        folders = [part for part in PARTS if (root / part).is_dir()]
        if query is not None:
            parts = [_listed(source, part, names) for part, names in zip(PARTS, (train, query, gallery), strict=True)]
        elif {"query", "gallery"} & set(folders):
            if not {"query", "gallery"} <= set(folders):
                lacks = "gallery/" if "query" in folders else "query/"
                raise FileNotFoundError(
                    f"{root}: missing {lacks}; expected query/ and gallery/ (and train/), or neither"
                )
            files, beside = list_folder(root)
            unread = [*filter(is_image_name, files), *filter(_PERSON_FOLDER.fullmatch, beside)]
            if unread:
                raise DataError(
                    f"{root}: {a_few(unread)} would not be read beside query/ and gallery/; move what belongs to a "
                    "part into its folder, and the rest away"
                )
            parts = [_scan(source, part) if part in folders else [] for part in PARTS]
        else:
            records = _scan(source, "")
            _check_cameras(root, records)
            parts = [[], *query_and_gallery(root, records)]
        kept = _without_junk(parts)
        _check_parts(root, kept)
        if "train" in folders and query is None and not kept[0]:
            raise DataError(f"{root / 'train'}: holds no images of people; expected {_FOLDER_PATTERN}")
        super().__init__(folder_name(root), parts)


def _listed(source: FolderSource, part: str, names: Iterable[str | os.PathLike[str]] | None) -> list[Record]:
    records = []
    for given in names or ():
        name = relative_name(given)
        if leads_out(name):
            raise DataError(f"{part} list: {name} leads out of {source.root}; give names relative to that folder")
        records.append(_record(source, posixpath.normpath(name)))
    lost = [record.image for record in records if not (source.root / record.image).is_file()]
    if lost:
        raise DataError(f"{part} list: names {len(lost)} images that are not in {source.root}: {a_few(lost)}")
    return records


def _scan(source: FolderSource, below: str) -> list[Record]:
    """Read the images in `below` and in the folders of persons there, in the order of their names."""
    folder = source.root / below
    prefix = f"{below}/" if below else ""
    files, people = list_folder(folder)
    names = [prefix + name for name in files]
    bad = [name for name in people if not _PERSON_FOLDER.fullmatch(name)]
    if bad:
        raise DataError(
            f"{folder}: {len(bad)} folders are not named by an identity number: {a_few(bad)}; expected "
            f"{_FOLDER_PATTERN}; number the people and rename the folders"
        )
    known: dict[int, str] = {}
    for person in people:
        if known.setdefault(int(person), person) != person:
            raise DataError(f"{folder}: {known[int(person)]}/ and {person}/ are one identity number; merge or renumber")
        names += [f"{prefix}{person}/{name}" for name in list_images(folder / person)]
    records, faults = [], []
    for name in names:
        try:
            records.append(_record(source, name))
        except DataError as error:
            faults.append(str(error))
    if faults:
        more = f"; so are {len(faults) - 1} more names in {folder}" if len(faults) > 1 else ""
        above = f"; if {folder.name}/ is the folder of one person, give the folder above it"
        raise DataError(faults[0] + more + (above if not people and _PERSON_FOLDER.fullmatch(folder.name) else ""))
    return records


def _check_cameras(root: Path, records: Sequence[Record]) -> None:
    """Refuse a folder without images, or with images from one camera alone."""
    if not records:
        raise DataError(f"{root}: holds no images; expected {_FOLDER_PATTERN}")
    if len({record.camid for record in records if record.pid != JUNK}) == 1:
        raise DataError(
            f"{root}: all images are from camera {records[0].camid}, and scores count images of the same person from "
            f"another camera; expected {_FOLDER_PATTERN}. If there is one camera, put the images to search with into "
            'query/ and the others into gallery/, and evaluate with same_camera="keep" (--same-camera keep)'
        )


def _record(source: FolderSource, name: str) -> Record:
    """Read identity and camera off a relative name."""
    *folders, file_name = name.split("/")
    person = int(folders[-1]) if folders and _PERSON_FOLDER.fullmatch(folders[-1]) else None
    flat = _MARKET_NAME.fullmatch(file_name)
    if person is None and flat:
        return Record(name, int(flat[1]), int(flat[2]), source)
    cameras = {int(number) for number in _CAMERA.findall(file_name)}
    plain, first = _PLAIN_CAMERA.match(file_name), _NUMBER_FIRST.match(file_name)
    nested = len(folders) > 1 and _PERSON_FOLDER.fullmatch(folders[-2])  # whose folder is it?
    if not is_image_name(file_name):
        raise DataError(
            f"{source.root / name}: is not named as an image that can be read (.jpg, .png, .bmp, .webp, .tif); "
            "convert it, or move it away"
        )
    if person is None or nested or not (cameras or plain):
        raise DataError(f"{source.root / name}: the name does not tell identity and camera; expected {_FOLDER_PATTERN}")
    if len(cameras) > 1:
        raise DataError(
            f"{source.root / name}: the name tells {len(cameras)} cameras, {' and '.join(map(str, sorted(cameras)))}; "
            f"expected one: {_FOLDER_PATTERN}"
        )
    if cameras and first and int(first[1]) != person:
        raise DataError(
            f"{source.root / name}: the folder says identity {folders[-1]}, the name begins with {first[1]}: another "
            "person, or the number of a frame? move the file to its person's folder, or put the camera first, such "
            f"as {folders[-1]}/cam2_0031.png"
        )
    return Record(name, person, cameras.pop() if cameras else int(plain[1]), source)


def _is_distractor(record: Record) -> bool:
    """Return whether an image is one of Market-1501's 0000; the folder 0/ of a person is not."""
    *folders, name = record.image.split("/")
    flat = not (folders and _PERSON_FOLDER.fullmatch(folders[-1]))
    return record.pid == 0 and _MARKET_NAME.fullmatch(name) is not None and (flat or name.startswith("0000_"))


def query_and_gallery(where: str | Path, records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Choose queries among the images of some people, as `FolderDataset` documents; the rest is the gallery.

    Raises:
        DataError: nobody was seen by two cameras; the message begins with `where`.

    Example:
        >>> shots = [Record(f"7/{camid}_{i}.png", 7, camid, None) for camid in (1, 2) for i in (0, 1)]
        >>> query, gallery = query_and_gallery("one person", shots)
        >>> [record.image for record in query], len(gallery)
        (['7/1_0.png', '7/2_0.png'], 2)
    """
    people: dict[int, dict[int, list[Record]]] = {}
    for record in records:
        if record.pid != JUNK and not _is_distractor(record):
            people.setdefault(record.pid, {}).setdefault(record.camid, []).append(record)
    queries = []
    for cameras in people.values():
        if len(cameras) < 2:
            continue
        firsts = [shots[0] for _, shots in sorted(cameras.items()) if len(shots) > 1]
        queries += firsts or [cameras[min(cameras)][0]]
    if not queries:
        seen = f"{len(people)} people, {len({record.camid for record in records})} cameras"
        raise DataError(
            f"{where}: nobody was seen by two cameras ({seen}), so no search has a right answer; "
            f"expected {_FOLDER_PATTERN}, with the same identity under two cameras"
        )
    chosen = set(map(id, queries))
    return queries, [record for record in records if id(record) not in chosen]


def _check_parts(root: Path, parts: Sequence[Sequence[Record]]) -> None:
    seen: dict[str, str] = {}
    for part, records in zip(PARTS, parts, strict=True):
        for record in records:
            if record.image in seen:
                raise DataError(f"{root}: {record.image} is in {seen[record.image]} and in {part}; once is enough")
            seen[record.image] = part
    for part, records in zip(PARTS[1:], parts[1:], strict=True):
        if not records:
            raise DataError(f"{root}: {part} holds no images; expected {_FOLDER_PATTERN}")
    _check_people(root, PARTS, parts)
    plain = [r for part in parts for r in part if not _CAMERA.search(r.image.rpartition("/")[2])]
    if len({r.pid for r in plain}) > 1 and all(r.pid == r.camid for r in plain):
        raise DataError(
            f"{root}: {plain[0].image} and all other names begin with the identity's number where the camera's is "
            f"expected; call the camera one, such as {plain[0].pid}/{plain[0].pid}_cam2_0031.png"
        )


def _check_people(root: Path, names: Sequence[str], parts: Sequence[Sequence[Record]]) -> None:
    """Refuse distractors where people are expected, and people who are in training and in test."""
    distractors = [[record.image for record in part if _is_distractor(record)] for part in parts]
    for name, found in zip(names[:2], distractors[:2], strict=True):
        if found:
            raise DataError(
                f"{root}: {name} holds {len(found)} images of identity 0, which in such names is no person but "
                f"Market-1501's distractors: {a_few(found)}; move them to {names[2]}, or number people from 1"
            )
    person = [r.image for part in parts for r in part if r.pid == 0 and not _is_distractor(r)]
    if distractors[-1] and person:
        raise DataError(
            f"{root}: identity 0 is a person ({person[0]}) and the distractors of Market-1501's names "
            f"({distractors[-1][0]}): searches for that person would count them as right; number people from 1"
        )
    refuse_shared(root, *parts)
