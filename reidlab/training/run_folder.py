"""The folder of a run: everything it was, did and found, in files that are whole or not there."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reidlab import __version__
from reidlab.data.records import Splits
from reidlab.errors import DataError
from reidlab.files import alone, atomic_path, check_writable, parse_json, read_json, sweep, write_json
from reidlab.results import circumstances, plain
from reidlab.training.checkpoint import read_checkpoint, write_checkpoint
from reidlab.training.config import TrainConfig, flat_settings

logger = logging.getLogger(__name__)
CHANGEABLE = ("log_every", "save_every")
"""Settings that may differ when a run is resumed: they change nothing that is learned."""


@dataclass(frozen=True)
class RunFiles:
    """The texts in a run folder.

    Args:
        name: of the folder.
        config: config.json.
        rows: rows of metrics.jsonl about the losses.
        evaluations: its rows about scores.
        scores: scores.json, or None.
        missing: sentences about what is absent or cannot be read.
    """

    name: str
    config: dict[str, Any]
    rows: list[dict[str, Any]] = field(repr=False)
    evaluations: list[dict[str, Any]] = field(repr=False)
    scores: dict[str, Any] | None
    missing: list[str]


def read_run(run: str | os.PathLike[str]) -> RunFiles:
    """Read the texts of a run folder; only config.json has to be there.

    Raises:
        FileNotFoundError: no such folder, or no config.json in it.
        DataError: a damaged config.json.
    """
    folder, missing = Path(run), []
    if not folder.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder; train with run= (or `reidlab train --out`) to make one")
    path = folder / "config.json"
    try:
        config = read_json(path, ("config", "data"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; is {folder} a run folder?") from None
    number, nothing = (int, float), type(None)
    kinds = {
        "preset": (str, nothing),
        "versions": (dict, nothing),
        "iterations": number,
        "held_out": (*number, nothing),
    }
    values = {"iterations": 0, **config["config"], **config}
    if wrong := [name for name, kind in kinds.items() if not isinstance(values.get(name), kind)]:
        raise DataError(f"{path}: {', '.join(wrong)} are of another type; write or copy it again")

    metrics: list[dict[str, Any]] = []
    try:
        metrics = read_metrics(folder / "metrics.jsonl")
    except DataError as error:
        missing.append(str(error))
    rows, evaluations = ([row for row in metrics if row["kind"] == kind] for kind in ("train", "evaluation"))
    if not rows:
        missing.append("There are no rows about the loss: the first comes after log_every iterations.")
    scores = None
    try:
        names = read_json(folder / "scores.json", ())
        scores = read_json(folder / "scores.json", tuple(names))
    except FileNotFoundError:
        missing.append("There is no scores.json: the run has not ended, or was stopped before its evaluation.")
    except DataError as error:
        missing.append(str(error))
    wanted = config["config"].get("iterations", 0)
    done = rows[-1]["iteration"] if rows else 0
    if done < wanted:
        missing.append(f"The run is at iteration {done:g} of {wanted:g}.")
    if not evaluations and config["config"].get("evaluate_every"):
        missing.append("There are no scores during training, though evaluate_every is set.")
    return RunFiles(folder.resolve().name, config, rows, evaluations, scores, missing)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl, in order of iteration; no rows if there is no file.

    A last line that a kill or a power cut left half-written is left out. Of an iteration that was written twice, the
    second row counts.

    Raises:
        DataError: another line is not a row as `RunFolder.add` writes them.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    rows = {}
    for number, line in enumerate(lines, start=1):
        where = f"{path}: line {number}"
        try:
            row = parse_json(line, where)
            if (
                not isinstance(row, dict)
                or not isinstance(row.get("kind"), str)
                or type(row.get("iteration")) is not int
            ):
                raise DataError(f'{where}: not a row, expected an object with a "kind" and a whole "iteration"')
            words = {name for name, value in row.items() if not isinstance(value, (int, float, type(None)))}
            if words := sorted(words - {"kind", "people"}):
                raise DataError(f"{where}: {', '.join(map(repr, words))} are not numbers")
        except DataError as error:
            if number < len(lines):
                raise DataError(f"{error}; the file was changed by hand, take the line out") from None
        else:
            rows[row["kind"], row["iteration"]] = row
    return sorted(rows.values(), key=lambda row: row["iteration"])


class RunFolder:
    """`runs/NAME/`: config.json, metrics.jsonl, TensorBoard's events, last.pt, best.pt.

    Args:
        path: the folder; made if it is missing. Of several processes, all must see it to resume a run.
        resume: resume the run in it; False begins a new one, and refuses a folder that holds one.
        preset: name of the settings that the run began from, for the record.
        writes: False for all but one of several processes: they read, and write nothing.

    Raises:
        FileExistsError: the folder holds a run, and `resume` is False; from `begin` also if another process trains
            into the folder.
        FileNotFoundError: `resume`, and there is no run to resume.
        OSError: the folder cannot be made or written.

    Example:
        >>> import tempfile
        >>> folder = RunFolder(Path(tempfile.mkdtemp()) / "first")
        >>> folder.add({"kind": "train", "iteration": 25, "triplet": 0.3})
        >>> folder.rows()
        [{'kind': 'train', 'iteration': 25, 'triplet': 0.3}]

    Taught in: notebooks/06_training.ipynb
    """

    def __init__(
        self, path: str | os.PathLike[str], resume: bool = False, preset: str | None = None, writes: bool = True
    ):
        self.path, self.resume, self.preset, self.writes = Path(path), resume, preset, writes
        self.config, self.metrics = self.path / "config.json", self.path / "metrics.jsonl"
        self.last, self.best = self.path / "last.pt", self.path / "best.pt"
        self._events: Any = None
        self._own: dict[str, Any] = {}
        self._unwritten: list[str] = []
        self._held = contextlib.ExitStack()
        if resume and not self.config.exists():
            raise FileNotFoundError(f"{self.path}: holds no run to resume; leave out resume to begin one")
        self._refuse_begun()
        if writes:
            check_writable(self.config)

    def _refuse_begun(self) -> None:
        begun = [file.name for file in (self.config, self.metrics, self.last, self.best) if file.exists()]
        if begun and not self.resume and self.writes:
            raise FileExistsError(
                f"{self.path}: holds a run already ({', '.join(begun)}); resume it, or choose another name"
            )

    def begin(self, config: TrainConfig, data: Splits, facts: dict[str, Any]) -> None:
        """Write config.json, or check that a resumed run had the same settings and data.

        Of the processes that write, one at a time can be between `begin` and `close`.

        Args:
            config: the settings.
            data: the data set.
            facts: of the data (`data`) and of the machine, as they will be written.

        Raises:
            FileExistsError: another process trains into the folder, or began a run in it meanwhile.
            ValueError: other settings, other data or another number of processes than the run began with.
            DataError: a config.json that cannot be read.
        """
        own = {"config": plain("config", dataclasses.asdict(config)), **plain("facts", facts)}
        self._own = own
        if self.writes:
            self._held.enter_context(alone(self.path / ".lock", "training into this folder"))
            self._refuse_begun()
            sweep(self.path, age=0)
        if self.resume:
            self._compare(own)
        if self.resume or not self.writes:
            return
        head = {"reidlab": __version__, "preset": self.preset, **circumstances()}
        write_json(self.config, head | own)

    def _compare(self, own: dict[str, Any]) -> None:
        try:
            there = read_json(self.config, parts=("config", "data"))
            before, data = there["config"], there["data"]
        except DataError as error:
            raise DataError(f"{error}, or begin the run again in another folder") from None
        before, now = flat_settings(before), flat_settings(own["config"])
        changed = [f"{name}={now.get(name)!r} (it began with {before.get(name)!r})" for name in _different(before, now)]
        if changed:
            raise ValueError(f"{self.path}: got other settings, {'; '.join(changed)}; begin a new run with them")
        for name in ("augment", "loss", "own_model"):
            if there.get(name) != own.get(name):
                before, now = there.get(name), own.get(name)
                raise ValueError(
                    f"{self.path}: was begun with {name.removeprefix('own_')}={before}, got {now}; give the same one"
                )
        moved = [
            f"{name} {data.get(name)} became {value}" for name, value in own["data"].items() if data.get(name) != value
        ]
        if moved:
            raise ValueError(
                f"{self.path}: the data has changed since the run began: {'; '.join(moved)}; bring back the old data, "
                "or begin a new run"
            )
        if there.get("processes") != own["processes"]:
            raise ValueError(
                f"{self.path}: was begun by {there.get('processes')} processes, got {own['processes']}; start as many, "
                "so that it ends in the same numbers"
            )

    def add(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl, and its numbers to TensorBoard's events where tensorboard is installed.

        Neither ends the run if it fails: what metrics.jsonl lacks is written with the next row, TensorBoard's events
        end.
        """
        row = plain("row", row)
        self._unwritten.append(json.dumps(row, allow_nan=False) + "\n")
        self._write_rows()
        if self._events is False:
            return
        try:
            if self._events is None:
                from torch.utils.tensorboard import SummaryWriter

                self._events = SummaryWriter(str(self.path), purge_step=row["iteration"] if self.resume else None)
            group = row.get("people", row["kind"])
            for name, value in row.items():
                if isinstance(value, (int, float)) and name != "iteration":
                    self._events.add_scalar(f"{group}/{name}", value, row["iteration"])
        except Exception as error:  # a broken installation raises anything; the numbers are in metrics.jsonl
            self._without_events(error)

    def _write_rows(self) -> None:
        """Append the rows that wait, whole: a part of them that a full disk took is taken back."""
        content = "".join(self._unwritten).encode()
        try:
            with self.metrics.open("ab", buffering=0) as file:
                end = file.tell()
                if file.write(content) < len(content):
                    file.truncate(end)
                    raise OSError(errno.ENOSPC, "the disk is full")
        except OSError as error:
            if len(self._unwritten) == 1:
                reason = error.strerror or error
                logger.warning(
                    "%s: not written (%s); make room there, rows are kept and tried again", self.metrics, reason
                )
        else:
            self._unwritten.clear()

    def _without_events(self, error: Exception) -> None:
        self._events = False
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("tensorboard")
        level, what = (logging.INFO, "is not installed") if missing else (logging.WARNING, f"failed ({_line(error)})")
        logger.log(level, "tensorboard %s: no more events are written, metrics.jsonl has the same numbers", what)

    def rows(self) -> list[dict[str, Any]]:
        """Read metrics.jsonl, as `read_metrics` does."""
        return read_metrics(self.metrics)

    def cut(self, iteration: int) -> None:
        """Forget rows after an iteration: the run goes on from there and writes them again."""
        kept = [row for row in self.rows() if row["iteration"] <= iteration]
        with atomic_path(self.metrics) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def save(self, file: Path, content: dict[str, Any]) -> None:
        """Write last.pt or best.pt, atomically: a full disk or a kill leaves the one before.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        write_checkpoint(file, content)

    def progress(self) -> dict[str, Any] | None:
        """Return what the run needs to go on, from last.pt; None if it was stopped before it wrote one.

        Raises:
            DataError: a last.pt that is damaged, or that cannot be resumed.
        """
        if not self.last.exists():
            return None
        content = read_checkpoint(self.last)
        if "progress" not in content:
            raise DataError(f"{self.last}: holds a model, and no run to resume; begin a new run")
        config, data = (plain(name, content.get(name, {})) for name in ("config", "data"))
        strange = _different(flat_settings(config), flat_settings(self._own["config"]))
        strange += [name for name in ("dataset", "box", "protocol") if data.get(name) != self._own["data"][name]]
        if strange:
            raise DataError(f"{self.last}: is of another run ({', '.join(strange)} differ); bring back this run's own")
        return content["progress"] | {"state_dict": content["state_dict"]}

    def close(self) -> None:
        """Write out what metrics.jsonl and TensorBoard's events still wait for, and let other processes in."""
        if self._unwritten:
            self._write_rows()
        if self._unwritten:
            logger.warning("%s: the last %d rows are missing", self.metrics, len(self._unwritten))
        try:
            if self._events:
                self._events.close()
        except Exception as error:
            self._without_events(error)
        finally:
            self._held.close()


def _different(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Name the settings that differ, but for those that may."""
    names = sorted(one.keys() | other.keys())
    return [name for name in names if one.get(name) != other.get(name) and name not in CHANGEABLE]


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
