"""What a check of data found, and the reading of every image for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reidlab.data.records import Record
from reidlab.errors import DataError, a_few
from reidlab.progress import progress

Status = Literal["ok", "absent", "damaged", "wrong"]


@dataclass(frozen=True)
class Finding:
    """What was found about one file or folder.

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
        name: "CUHK03", "Walkers" for the embedded world, or the name of other data.
        findings: one per file.
        counts: rows of (what, here, published).
        loads: the arguments of `loader` that will work, for example `box="labeled"`.
        loader: the class that reads it, "CUHK03", "Market1501" or "FolderDataset".

    Example:
        >>> import tempfile
        >>> from reidlab.data import check
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
    loader: str = "CUHK03"

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
        if self.loader == "CUHK03" != self.name and self.ok:
            lines.append("This is the embedded world: its files are sound, its counts are its own.")
        calls = ", ".join(f"{self.loader}(root{call and f', {call}'})" for call in self.loads)
        lines.append(f"Loads: {calls}" if calls else "Nothing here can be loaded yet.")
        return "\n".join(lines)


def read_images(records: Sequence[Record], title: str) -> tuple[str, str]:
    """Read every image once.

    Returns:
        Which images cannot be read and why; and a note on images of the same pixels under two identities, junk and
        distractors left out. Each is empty if there are none.
    """

    def read(record: Record) -> tuple[str, bytes]:
        try:
            image = record.load()
        except (DataError, OSError) as error:
            return str(error).removeprefix(f"{record.source.root / record.image}: "), b""
        return "", hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest()

    with ThreadPoolExecutor(2) as pool:  # decoding runs outside Python's lock
        found = list(progress(pool.map(read, records), title, total=len(records), unit="image"))
    faults, twins = [], []
    first: dict[bytes, Record] = {}
    for record, (text, digest) in zip(records, found, strict=True):
        if text:
            faults.append(f"{record.image} {text}")
        elif record.pid > 0:
            other = first.setdefault(digest, record)
            if other.pid != record.pid:
                twins.append(f"{record.image} = {other.image}")
    fault = f"{len(faults)} of {len(records):,} images cannot be read: {a_few(faults)}" if faults else ""
    note = f"; {len(twins)} of them are the same picture under another identity: {a_few(twins)}" if twins else ""
    return fault, note
