"""Where the files of CUHK03 lie: the layouts in use, and one message when something is missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reidlab.data.listing import PART_FOLDERS, existing, folder_name
from reidlab.data.names import BOXES
from reidlab.data.protocolfile import PROTOCOL_SOURCE
from reidlab.files import read_json

MAT_NAME = "cuhk-03.mat"
MAT_SOURCE = "from its authors on request, www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html"
_BASES = ("", "cuhk03", "cuhk03-np", "CUHK03-NP")
_BOX_FOLDERS = {"labeled": ("labeled", "labelled", "label"), "detected": ("detected", "detect")}


def protocol_name(box: str) -> str:
    """Return the file name of a box type's new protocol.

    Example:
        >>> protocol_name("labeled")
        'cuhk03_new_protocol_config_labeled.mat'
    """
    return f"cuhk03_new_protocol_config_{box}.mat"


@dataclass(frozen=True)
class Layout:
    """What was found under a data folder for one box type; None where nothing was.

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """

    root: Path
    """The folder that was searched."""
    mat: Path | None
    """`cuhk-03.mat`."""
    protocol: Path | None
    """The new-protocol file of the box type."""
    extracted: Path | None
    """The folder that holds `images_labeled/` or `images_detected/`."""
    np_folder: Path | None
    """The CUHK03-NP folder of the box type."""
    world: str | None
    """What the embedded world is called, if a `world.json` says that this is one."""


def mat_places(root: Path) -> list[Path]:
    """List where `cuhk-03.mat` may lie: as the public code bases have it, or directly in the folder."""
    return [root / base / inner / MAT_NAME for base in _BASES[:2] for inner in ("cuhk03_release", "")]


def protocol_places(root: Path, box: str) -> list[Path]:
    """List where a new-protocol file may lie."""
    return [root / base / inner / protocol_name(box) for base in _BASES[:2] for inner in ("", "cuhk03_release")]


def find_layout(root: str | os.PathLike[str], box: str) -> Layout:
    """Find the files of CUHK03 of a box type in a folder or the one above it; nothing is opened.

    Raises:
        FileNotFoundError: there is no such folder.

    Example:
        >>> import tempfile
        >>> find_layout(tempfile.mkdtemp(), "labeled").mat is None
        True

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    root = existing(root)
    bases = [root / base for base in _BASES]
    # The box type of a CUHK03-NP folder is the name of the folder around its three parts.
    inner = [base / name for base in bases for name in _BOX_FOLDERS[box]]
    inner += [base / name.capitalize() for base in bases for name in _BOX_FOLDERS[box]]
    return Layout(
        root=root,
        mat=_first(mat_places(root), Path.is_file),
        protocol=_first(protocol_places(root, box), Path.is_file),
        extracted=_first(bases, lambda base: (base / f"images_{box}").is_dir()),
        np_folder=_first([*inner, *bases], lambda folder: all((folder / n).is_dir() for n in PART_FOLDERS)),
        world=_world_name(_first([base / "world.json" for base in bases], Path.is_file)),
    )


def _first(places: list[Path], holds: Callable[[Path], bool]) -> Path | None:
    return next((place for place in places if holds(place)), None)


def _world_name(card: Path | None) -> str | None:
    """Worlds of different size or seed are different data sets, so their name says both."""
    if card is None:
        return None
    try:
        about = read_json(card)
        return f"Walkers ({int(about['num_identities'])} people, seed {int(about['seed'])})"
    except (OSError, ValueError, KeyError, TypeError):
        return "Walkers (size unknown)"


def box_of_folder(folder: Path) -> str | None:
    """Read the box type off a folder's name such as `labeled` or `cuhk03_np_detected`; None if it names none or both.

    Example:
        >>> box_of_folder(Path("cuhk03-np/detected")), box_of_folder(Path("cuhk03-np"))
        ('detected', None)
    """
    for name in (folder_name(folder), folder.resolve().name):  # as it is called, then as a link's target is
        said = [box for box in BOXES if any(word in name.lower() for word in _BOX_FOLDERS[box])]
        if said:
            return said[0] if len(said) == 1 else None
    return None


def missing_error(layout: Layout, box: str, protocol: str) -> FileNotFoundError:
    """Make the one error for missing files: which, where they were looked for, where they come from."""
    root, lacks = layout.root, []
    images = layout.mat or (layout.extracted if protocol == "new" else None)
    if not images:
        lacks.append(f"{MAT_NAME} ({looked_in(root, mat_places(root))}; to be had {MAT_SOURCE})")
    if protocol == "new" and not layout.protocol:
        where = looked_in(root, protocol_places(root, box))
        lacks.append(f"{protocol_name(box)} ({where}; to be had from {PROTOCOL_SOURCE})")
    instead = f"images_{box}/ with the protocol file, or a CUHK03-NP folder ({', '.join(PART_FOLDERS)})"
    hint = f"; instead of {MAT_NAME} also {instead} will do" if protocol == "new" and not images else ""
    if protocol == "classic" and (layout.extracted or layout.np_folder):
        hint = f"; the test sets of the classic protocol are in {MAT_NAME} only, so image folders will not do"
    return FileNotFoundError(f"{root}: missing {' and '.join(lacks)}{hint}")


def looked_in(root: Path, places: list[Path]) -> str:
    """Say in which folders below `root` a file was looked for.

    Example:
        >>> looked_in(Path("d"), mat_places(Path("d")))
        'looked in cuhk03_release/, ./, cuhk03/cuhk03_release/, cuhk03/'
    """
    return "looked in " + ", ".join(f"{place.parent.relative_to(root).as_posix()}/" for place in places)
