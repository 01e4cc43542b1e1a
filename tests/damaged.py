"""Hundreds of damaged files, read in a process of their own, since such files used to end it."""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from data_files import names_of, write_mat, write_protocol

from reidlab.data.matsource import MatSource
from reidlab.data.protocolfile import read_new_protocol
from reidlab.errors import DataError


def one_line(path: Path, read: Callable[[], object]) -> str | None:
    """Return the message of the DataError that names `path` in one line; None if there was no error."""
    try:
        read()
    except DataError as error:
        assert str(path) in str(error) and "\n" not in str(error) and str(error).isprintable()
        return str(error)
    return None


def damage(content: bytes, rng: random.Random, start: int) -> bytes:
    """Change 1 to 8 bytes, more often near `start`, or cut the end off."""
    if rng.random() < 0.1:
        return content[: rng.randrange(len(content))]
    changed = bytearray(content)
    near = rng.random() < 0.5
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(start, min(len(content), start + 400)) if near else rng.randrange(len(content))
        changed[place] = rng.choice((rng.randrange(256), 0, 1, 14, 255, changed[place] ^ 1 << rng.randrange(8)))
    return bytes(changed)


def read_damaged_files(folder: Path) -> None:
    """Damage protocols and images again and again and read them; what is read is what was written, or an error."""
    rng = random.Random(13)
    path = write_protocol(folder, "labeled")
    expected = vars(read_new_protocol(path))
    plain = io.BytesIO()
    scipy.io.savemat(plain, {key: value for key, value in scipy.io.loadmat(path).items() if key[0] != "_"})
    refused = 0
    for content in (path.read_bytes(), plain.getvalue()):
        for _ in range(250):
            path.write_bytes(damage(content, rng, 120))
            got = []
            refused += one_line(path, lambda got=got: got.append(vars(read_new_protocol(path)))) is not None
            assert not got or all(np.array_equal(got[0][key], expected[key]) for key in expected)
    images, name = write_mat(folder / "cuhk-03.mat"), f"labeled/{names_of('labeled')[0]}"
    content = images.read_bytes()
    for _ in range(80):
        images.unlink()  # HDF5 knows files by their inode
        images.write_bytes(damage(content, rng, 512))
        source = MatSource(images)
        reads = (lambda: source.present("labeled"), lambda: source.empty("labeled"), source.testsets)  # noqa: B023
        refused += sum(one_line(images, read) is not None for read in (*reads, lambda: source.load(name)))  # noqa: B023
        source.close()
    assert refused > 400


if __name__ == "__main__":
    read_damaged_files(Path(sys.argv[1]))
