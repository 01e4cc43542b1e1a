"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reidlab.errors import DataError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block ends without error.

    A reader sees the old file or the whole new one. On any exception, Ctrl-C included, the temporary
    file is removed and `path` stays as it was. The temporary name keeps the suffix, since some writers
    choose the format by it.

    Args:
        path: the file to write; its folder is made if it is missing.

    Yields:
        The temporary path, in the same folder, so that the rename is atomic.

    Raises:
        OSError: the folder is read-only, or the disk is full.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("whole")
        >>> target.read_text(), len(list(target.parent.iterdir()))
        ('whole', 1)
    """
    path = Path(path)
    check_writable(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=f".partial{path.suffix}", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(usual_mode(0o666))  # mkstemp makes files only their owner can read
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, f"{path}: not written, the disk is full; free space and run again") from None
        raise


def usual_mode(mode: int) -> int:
    """Return the permissions that a new file (0o666) or folder (0o777) gets from this process.

    Example:
        >>> usual_mode(0o666) & 0o400 == 0o400
        True
    """
    umask = os.umask(0)
    os.umask(umask)
    return mode & ~umask


def check_writable(path: str | os.PathLike[str]) -> None:
    """Make the folder of a file to be written, and find out now rather than after hours that it cannot be.

    Args:
        path: the file.

    Raises:
        OSError: `path` is a folder, or its own folder cannot be made or written; the message names it.

    Example:
        >>> check_writable(Path(__file__).parent)
        Traceback (most recent call last):
        IsADirectoryError: [Errno 21] ...: is a folder, expected a file name
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{path}: is a folder, expected a file name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "not allowed to write there")
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(error.errno, f"{path}: cannot be written ({reason}); choose another folder") from None


def write_json(path: str | os.PathLike[str], content: Any) -> Path:
    """Write `content` as indented JSON, atomically; not-a-number and infinity are refused.

    Example:
        >>> import tempfile
        >>> write_json(Path(tempfile.mkdtemp()) / "a.json", {"rank1": 0.5}).read_text()
        '{\\n  "rank1": 0.5\\n}\\n'
    """
    path = Path(path)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def read_json(path: str | os.PathLike[str], parts: Sequence[str] | None = None) -> Any:
    """Read a JSON file, as strictly as `write_json` writes.

    Args:
        path: the file.
        parts: if given, the file must hold an object, and under each of these names another one.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is not JSON in UTF-8, is nested too deeply, or holds not-a-number, infinity or half a character.

    Example:
        >>> import tempfile
        >>> read_json(write_json(Path(tempfile.mkdtemp()) / "a.json", {"rank1": 0.5}))
        {'rank1': 0.5}
    """
    path = Path(path)
    content = parse_json(path.read_bytes(), os.fspath(path))
    if parts is not None and not (
        isinstance(content, dict) and all(isinstance(content.get(part), dict) for part in parts)
    ):
        raise DataError(f"{path}: got JSON without {' and '.join(parts) or 'names'}; write or copy it again")
    return content


def parse_json(data: bytes | str, where: str) -> Any:
    """Parse JSON; `where` names the file in the message.

    Raises:
        DataError: as `read_json` does.

    Example:
        >>> parse_json(b"[1, NaN]", "scores.json")
        Traceback (most recent call last):
        reidlab.errors.DataError: scores.json: damaged, or not JSON (holds NaN); write or copy it again
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        content = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if r"\ud" in text or r"\uD" in text:
            json.dumps(content, ensure_ascii=False).encode()  # an escape may name half of a character
    except RecursionError:
        problem = "nested too deeply"
    except UnicodeDecodeError as error:
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff") or 0 in data[:2]
        problem = "UTF-16, expected UTF-8" if wide else f"no UTF-8 at byte {error.start}"
    except ValueError as error:
        problem = str(error)
    else:
        return content
    raise DataError(f"{where}: damaged, or not JSON ({problem}); write or copy it again")


def _refuse(constant: str) -> float:
    raise ValueError(f"holds {constant}")


def _finite(number: str) -> float:
    return float(number) if math.isfinite(float(number)) else _refuse(number[:40])
