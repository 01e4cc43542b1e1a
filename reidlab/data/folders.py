"""Real images in folders: Market-1501's naming, or one folder per person."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reidlab.data.names import a_few
from reidlab.data.records import FolderSource, Record, Splits, relative_name
from reidlab.errors import DataError

JUNK = -1
"""Market-1501's identity number for boxes that hold no usable person."""
MARKET_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
_MARKET_COUNTS = (12936, 3368)  # training images and queries as published
_MARKET_BASES = ("", "Market-1501-v15.09.15", "market1501")
_MARKET_NAME = re.compile(r"(-1|\d{1,6})_c(\d{1,2})(?:s\d+)?_[\w.]*\.(?:jpe?g|png|bmp)", re.ASCII | re.IGNORECASE)
_MARKET_PATTERN = "identity_cCAMERAsSEQUENCE_frame_box.jpg, such as 0001_c1s1_000001_00.jpg"
_CAMERA_NAME = re.compile(r"(?:c|cam)?(\d{1,3})_[^/]*\.(?:jpe?g|png|bmp)", re.ASCII | re.IGNORECASE)
_PERSON_FOLDER = re.compile(r"-1|\d{1,9}", re.ASCII)
_FOLDER_PATTERN = "identity/camera_anything.png such as 7/2_0031.png, or Market-1501's 0007_c2s1_000031_00.jpg"
_SYSTEM_FILES = {"thumbs.db", "desktop.ini"}  # Market-1501's own archive holds the first


@dataclass(frozen=True, init=False, repr=False)
class Market1501(Splits):
    """Images named as in Market-1501, in `bounding_box_train/`, `query/` and `bounding_box_test/`.

    Identity -1 is junk: such images are left out of every part and counted in `junk`. Identity 0,
    Market-1501's distractors, stays in the gallery: nobody is searched for under that number, so they are
    wrong answers, as they should be. Without `bounding_box_train/` there is nothing to train on, and
    `train` is empty. Hidden files, `Thumbs.db` and `desktop.ini` are passed over; any other name that
    does not parse is an error.

    Args:
        root: the folder that holds the three, or the one above it. Records hold names relative to it, so a
            moved folder loads as before.

    Raises:
        FileNotFoundError: `query/` or `bounding_box_test/` is missing.
        DataError: a name does not parse, or a part holds no images.

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

    junk: int = field(default=0)

    def __init__(self, root: str | os.PathLike[str]) -> None:
        root = _existing(root)
        bases = [root / base for base in _MARKET_BASES]
        base = next((base for base in bases if all((base / part).is_dir() for part in MARKET_FOLDERS[1:])), None)
        if base is None:
            missing = [part for part in MARKET_FOLDERS[1:] if not (root / part).is_dir()]
            raise FileNotFoundError(
                f"{root}: missing {' and '.join(f'{part}/' for part in missing)}; expected Market-1501's folders "
                f"{', '.join(f'{part}/' for part in MARKET_FOLDERS)}; pictures in another order: FolderDataset(root)"
            )
        source, parts, junk = FolderSource(base), [], 0
        for part in MARKET_FOLDERS:
            records = list(_market_records(source, part)) if (base / part).is_dir() else []
            parts.append([record for record in records if record.pid != JUNK])
            junk += len(records) - len(parts[-1])
            if not parts[-1] and (base / part).is_dir():
                raise DataError(f"{base / part}: holds no images of people; expected names like {_MARKET_PATTERN}")
        super().__init__(_market_name(base, parts), "as given", "as given", *parts)
        object.__setattr__(self, "junk", junk)

    def __repr__(self) -> str:
        return _repr(self)


def _market_name(base: Path, parts: Sequence[Sequence[Record]]) -> str:
    """Name the data; a result must never carry the name of a data set that it was not measured on."""
    if (len(parts[0]), len(parts[1])) == _MARKET_COUNTS:
        return "Market1501"
    return f"{base.resolve().name} (Market-1501 naming)"


def _market_records(source: FolderSource, part: str) -> Iterator[Record]:
    bad = []
    for name in _file_names(source.root / part):
        match = _MARKET_NAME.fullmatch(name)
        if match:
            yield Record(f"{part}/{name}", int(match[1]), int(match[2]), source)
        else:
            bad.append(name)
    if bad:
        raise DataError(_bad_names(source.root / part, bad, _MARKET_PATTERN))


@dataclass(frozen=True, init=False, repr=False)
class FolderDataset(Splits):
    """Pictures of your own: one folder per person, or one flat folder with Market-1501's names.

    A picture is `identity/camera_anything.png`, such as `7/2_0031.png` (also `7/c2_0031.jpg`), or, flat,
    `0007_c2s1_000031_00.jpg`. Identity -1 is junk, left out and counted in `junk`. Which picture plays
    which part is settled by the first of these that applies:

    1. `query` and `gallery` (and `train`) are given: lists of names relative to `root`; forward slashes and
       backslashes both work, so a list made on Windows loads on Linux.
    2. `root` holds the folders `query/` and `gallery/` (and `train/`), each filled as described above.
    3. Otherwise nothing is for training, and everybody seen by two or more cameras is searched for: the
       first picture by name of each of a person's cameras is a query if more of that camera remain for the
       gallery; if no camera has more, the first picture of the first camera is. All others are the
       gallery; people whom only one camera saw are in it as distractors.

    Args:
        root: the folder. Records hold names relative to it, so a moved folder loads as before.
        train: names to train on; only together with `query` and `gallery`.
        query: names to search with.
        gallery: names to search in.

    Raises:
        ValueError: only one of `query` and `gallery` is given.
        FileNotFoundError: there is no such folder, or only one of `query/` and `gallery/` is there.
        DataError: a name does not parse, is not there, leads out of `root` or is in two parts; or nobody
            was seen by two cameras.

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

    junk: int = field(default=0)

    def __init__(
        self,
        root: str | os.PathLike[str],
        train: Iterable[str | os.PathLike[str]] | None = None,
        query: Iterable[str | os.PathLike[str]] | None = None,
        gallery: Iterable[str | os.PathLike[str]] | None = None,
    ) -> None:
        if (query is None) != (gallery is None) or (train is not None and query is None):
            raise ValueError("got one list of names, expected query and gallery (train may come with them) or none")
        root = _existing(root)
        source = FolderSource(root)
        folders = [part for part in ("train", "query", "gallery") if (root / part).is_dir()]
        if query is not None:
            parts = [_listed(source, part, names) for part, names in zip(_PARTS, (train, query, gallery), strict=True)]
        elif {"query", "gallery"} & set(folders):
            if not {"query", "gallery"} <= set(folders):
                lacks = "gallery/" if "query" in folders else "query/"
                raise FileNotFoundError(
                    f"{root}: missing {lacks}; expected query/ and gallery/ (and train/), or neither"
                )
            parts = [_scan(source, part) if part in folders else [] for part in _PARTS]
        else:
            parts = [[], *query_and_gallery(root, _scan(source, ""))]
        kept = [[record for record in records if record.pid != JUNK] for records in parts]
        _check_parts(root, kept)
        super().__init__(root.resolve().name, "as given", "as given", *kept)
        object.__setattr__(self, "junk", sum(map(len, parts)) - sum(map(len, kept)))

    def __repr__(self) -> str:
        return _repr(self)


_PARTS = ("train", "query", "gallery")


def _listed(source: FolderSource, part: str, names: Iterable[str | os.PathLike[str]] | None) -> list[Record]:
    records = []
    for given in names or ():
        name = relative_name(given)
        if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/"):
            raise DataError(f"{part} list: {name} leads out of {source.root}; give names relative to that folder")
        records.append(_record(source, name))
    lost = [record.image for record in records if not (source.root / record.image).is_file()]
    if lost:
        raise DataError(f"{part} list: names {len(lost)} images that are not in {source.root}: {a_few(lost)}")
    return records


def _scan(source: FolderSource, below: str) -> list[Record]:
    """Read the pictures in `below` and in the folders of persons there, in the order of their names."""
    folder = source.root / below
    prefix = f"{below}/" if below else ""
    names = [prefix + name for name in _file_names(folder)]
    people = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    bad = [name for name in people if not _PERSON_FOLDER.fullmatch(name)]
    if bad:
        raise DataError(
            f"{folder}: {len(bad)} folders are not named by an identity number: {a_few(bad)}; expected "
            f"{_FOLDER_PATTERN}; number the people and rename the folders"
        )
    for person in people:
        names += [f"{prefix}{person}/{name}" for name in _file_names(folder / person)]
    return [_record(source, name) for name in names]


def _record(source: FolderSource, name: str) -> Record:
    """Read identity and camera off a relative name."""
    *folders, file_name = name.split("/")
    match = _CAMERA_NAME.fullmatch(file_name)
    if match and folders and _PERSON_FOLDER.fullmatch(folders[-1]):
        return Record(name, int(folders[-1]), int(match[1]), source)
    match = _MARKET_NAME.fullmatch(file_name)
    if match:
        return Record(name, int(match[1]), int(match[2]), source)
    raise DataError(f"{source.root / name}: the name does not tell identity and camera; expected {_FOLDER_PATTERN}")


def query_and_gallery(where: str | Path, records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Choose queries among the images of some people, as `FolderDataset` documents; the rest is the gallery.

    Args:
        where: what the images are, for messages.
        records: images of people; nobody who was seen by one camera only becomes a query.

    Raises:
        DataError: nobody was seen by two cameras.

    Example:
        >>> shots = [Record(f"7/{camid}_{i}.png", 7, camid, None) for camid in (1, 2) for i in (0, 1)]
        >>> query, gallery = query_and_gallery("one person", shots)
        >>> [record.image for record in query], len(gallery)
        (['7/1_0.png', '7/2_0.png'], 2)
    """
    people: dict[int, dict[int, list[Record]]] = {}
    for record in records:
        people.setdefault(record.pid, {}).setdefault(record.camid, []).append(record)
    queries = []
    for pid, cameras in people.items():
        if len(cameras) < 2 or pid == JUNK:
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
    for part, records in zip(_PARTS, parts, strict=True):
        for record in records:
            if record.image in seen:
                raise DataError(f"{root}: {record.image} is in {seen[record.image]} and in {part}; once is enough")
            seen[record.image] = part
    for part, records in zip(_PARTS[1:], parts[1:], strict=True):
        if not records:
            raise DataError(f"{root}: {part} holds no images; expected {_FOLDER_PATTERN}")


def _existing(root: str | os.PathLike[str]) -> Path:
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: {'is a file, not a folder' if root.exists() else 'no such folder'}")
    return root


def _file_names(folder: Path) -> list[str]:
    names = (entry.name for entry in os.scandir(folder) if entry.is_file())
    return sorted(name for name in names if not name.startswith(".") and name.lower() not in _SYSTEM_FILES)


def _bad_names(folder: Path, bad: Sequence[str], pattern: str) -> str:
    return f"{folder}: {len(bad)} names do not parse: {a_few(bad)}; expected {pattern}; rename or remove them"


def _repr(data: Splits) -> str:
    counts = f"{len(data.train)} train, {len(data.query)} query, {len(data.gallery)} gallery"
    return f"{type(data).__name__}({data.name!r}: {counts} images, {data.junk} junk left out)"
