"""Writing files whole or not at all, and by one process at a time; reading and writing JSON."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reidlab.errors import DataError

_log = logging.getLogger(__name__)
_LOCK = ".lock"


class Lock:
    """A lock that one process at a time can have, and that ends with it, however it ends.

    The system holds it (flock, or LockFile on Windows) while an empty file `path` is open, so a killed process leaves a
    file and no lock. Processes made by fork keep it until they end, too.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / ".lock"
        >>> first, second = Lock(file), Lock(file)
        >>> first.take(), second.take(), first.release(), second.take()
        (True, False, None, True)
        >>> second.release()
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, None

    def take(self) -> bool:
        """Return whether this process has the lock now; OSError where a folder cannot be written or has no locks."""
        while True:
            file = self.path.open("ab")
            try:
                _lock(file.fileno())
                there = os.path.samestat(os.fstat(file.fileno()), self.path.stat())
            except FileNotFoundError:  # removed by the process that had it, just now
                there = False
            except OSError as error:
                file.close()
                if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                    return False
                self.path.unlink(missing_ok=True)
                raise
            if there:
                self._file = file
                return True
            file.close()

    def release(self) -> None:
        """Give the lock back, if this process has it, and remove its file."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._file.close()
        self._file = None
        if os.name != "posix":  # Windows does not remove a file that is open
            with contextlib.suppress(OSError):
                self.path.unlink()


def _lock(handle: int) -> None:
    if os.name == "posix":
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)


@contextmanager
def alone(path: Path, doing: str) -> Iterator[None]:
    """Hold the lock `path`, a file in the folder that it is for; where a file system has no locks, log a warning.

    Args:
        path: the file of the lock.
        doing: what only one process can do there, as in "training into this folder".

    Raises:
        FileExistsError: another process has it.
        OSError: the folder cannot be written.
    """
    lock, patience = Lock(path), time.monotonic() + 2  # workers of a killed process need a moment to end
    check_writable(path)
    try:
        while not (taken := lock.take()) and time.monotonic() <= patience:
            time.sleep(0.1)
    except OSError as error:
        taken = True
        _log.warning("%s: no lock (%s); make sure that no other process is %s", path.parent, error.strerror, doing)
    if not taken:
        raise FileExistsError(f"{path.parent}: another process is {doing}; wait until it ends, or use another folder")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def unfinished(path: Path, folder: bool = False) -> Iterator[Path]:
    """Yield a new, empty file or folder beside `path` to write into; what is left of it at the end is removed.

    Its name keeps the suffix, by which some writers choose the format. A lock shows `sweep` that it is in use.
    """
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex[:8]}.partial{path.suffix}")
    lock = Lock(temporary.with_name(temporary.name + _LOCK))
    with contextlib.suppress(OSError):  # a file system without locks: `sweep` goes by the age
        lock.take()
    try:
        temporary.mkdir() if folder else temporary.open("xb").close()
        yield temporary
    finally:
        _remove(temporary)
        lock.release()


def sweep(folder: Path, name: str | None = None, age: float = 3600.0) -> None:
    """Remove what killed processes left unfinished in a folder; what a living one writes stays.

    Args:
        folder: where to look.
        name: of the file or folder that was being written; None for any.
        age: seconds without a change after which a file without a lock counts as left: some network folders have no
            locks.
    """
    stem, suffix = Path(name or "").stem, Path(name or "").suffix
    for rest in {folder / entry.name.removesuffix(_LOCK) for entry in folder.iterdir()}:
        if not re.fullmatch(rf"\.{re.escape(stem) or '.*'}-[\w-]+\.partial{re.escape(suffix)}.*", rest.name):
            continue
        lock = Lock(rest.with_name(rest.name + _LOCK))
        with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
            if rest.exists() and lock.path.exists():
                dead = lock.take()
            else:
                there = rest if rest.exists() else lock.path
                dead = time.time() - there.stat().st_mtime > age and (there is rest or lock.take())
            if dead:
                _remove(rest)
            lock.release()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block ends without error.

    A reader sees the old file or the whole new one. On any exception, Ctrl-C included, the temporary file is removed
    and `path` stays as it was; what a killed process left is removed by the next one that writes the same file. The
    folder is made if it is missing, and the temporary path keeps the suffix.

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
    sweep(path.parent, path.name)
    try:
        with unfinished(path) as temporary:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, f"{path}: not written, the disk is full; free space and run again") from None
        raise


def check_writable(path: str | os.PathLike[str]) -> None:
    """Make the folder of a file to be written, and fail now rather than after hours if it cannot be.

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
    """Return the content of a JSON file; with `parts`, an object that holds an object under each of these names.

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
        content = json.loads(text, parse_constant=_finite, parse_float=_finite)
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


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"holds {number[:40]}")
    return float(number)
