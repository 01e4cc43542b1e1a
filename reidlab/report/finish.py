"""The end of a run: scores on query and gallery, and a page to read about it, from what the run folder holds."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from reidlab.data.records import Splits
from reidlab.errors import DataError
from reidlab.evaluation import Evaluation
from reidlab.features import Features, evaluate_features, extract_features
from reidlab.files import atomic_path, read_json, write_json
from reidlab.models import MODELS, Model
from reidlab.ranks import Ranks
from reidlab.results import score_record
from reidlab.training.checkpoint import load_checkpoint
from reidlab.training.runs import parse_row

T = TypeVar("T")
logger = logging.getLogger(__name__)
CHECKPOINTS = ("last", "best")
"""The two that a run can leave: where it ended, and where the people held out were found best."""
LEVEL = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class RunFiles:
    """What a run folder says, as far as it is there.

    Args:
        name: of the folder.
        config: config.json.
        rows: rows of metrics.jsonl about the loss, one an iteration.
        evaluations: its rows about scores on the way.
        scores: scores.json, or None.
        missing: sentences about what is not there or cannot be read.
    """

    name: str
    config: dict[str, Any]
    rows: list[dict[str, Any]] = field(repr=False)
    evaluations: list[dict[str, Any]] = field(repr=False)
    scores: dict[str, Any] | None
    missing: list[str]


@dataclass(frozen=True)
class Judged:
    """A checkpoint, evaluated on query and gallery.

    Args:
        name: "last" or "best".
        model: in evaluation mode, on the device of the evaluation.
        meta: what else the checkpoint says.
        query, gallery: its features.
        result: its scores, by the market rule and the cosine distance.
        intervals: of rank1 and mean_ap, over the people among the queries.
        seconds: what all of it took.
    """

    name: str
    model: Model = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    query: Features = field(repr=False)
    gallery: Features = field(repr=False)
    result: Evaluation
    intervals: dict[str, tuple[float, float]]
    seconds: float


def finish_run(
    run: str | os.PathLike[str], data: Splits, device: str = "cpu", workers: int = 0, ranks: Ranks = Ranks()
) -> dict[str, Any]:
    """Evaluate a run on query and gallery; write scores.json and report.html, both from one pass over the images.

    A page that cannot be made, as without matplotlib, is a warning: `write_report` raises, this does not.

    Args:
        run: the run folder, with config.json and last.pt, and best.pt if one was chosen.
        data: the data set that it was trained on, with query and gallery.
        device, workers, ranks: as for `extract_features`; of several processes, only the first one reads and writes
            files of the run, which the others may not see.

    Returns:
        What scores.json holds: a `score_record` under "last", and under "best" if there is one.

    Raises:
        FileNotFoundError: no such folder, or no config.json or last.pt in it.
        DataError: a file that is damaged.
        ValueError: no query has a right image in the gallery.

    Example:
        >>> finish_run("runs/none", Splits("none", "as given", "none", [], [], []))
        Traceback (most recent call last):
        FileNotFoundError: runs/none: no such run folder; train with run= (or `reidlab train --out`) to make one

    Taught in: notebooks/06_training.ipynb
    """
    folder = Path(run)
    files, chosen = _from_first(ranks, lambda: (read_run(folder), (folder / "best.pt").is_file()))
    judged = {"last": judge(folder, "last", data, device, workers, ranks)}
    if chosen:
        judged["best"] = judge(folder, "best", data, device, workers, ranks, judged["last"])
    scores = {name: _record(files, one, data) for name, one in judged.items()}
    if ranks.is_first:
        write_json(folder / "scores.json", scores)
        try:
            _write_page(folder, read_run(folder), judged, data, device)
        except Exception as error:  # scores.json is written; what is wrong with the page must not hide it
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            logger.warning("%s: not written (%s); the scores are in scores.json", folder / "report.html", reason)
            logger.info("why report.html was not written", exc_info=True)
    return scores


def write_report(run: str | os.PathLike[str], data: Splits, device: str = "cpu", workers: int = 0) -> Path:
    """Write report.html, a page about a run that needs no other file; also about one that is not finished.

    Curves, scores with their circumstances, ranked lists of the best and the worst queries, attention maps where the
    model has them, times and memory, settings with their sources, versions and command. What is not there yet is
    said at the top of the page. scores.json is left alone: `finish_run` writes it.

    Args:
        run: the run folder; it must hold config.json.
        data: the data set that it was trained on, with query and gallery.
        device, workers: as for `extract_features`.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: no such folder, or no config.json in it.
        DataError: config.json is damaged.
    """
    folder = Path(run)
    files = read_run(folder)
    judged: dict[str, Judged] = {}
    for name in CHECKPOINTS:
        if name == "last" or (folder / f"{name}.pt").is_file():
            try:
                judged[name] = judge(folder, name, data, device, workers, same=judged.get("last"))
            except (FileNotFoundError, ValueError) as error:  # the page says so instead of having scores
                files.missing.append(f"{name}.pt was not evaluated: {' '.join(str(error).split())}")
    return _write_page(folder, files, judged, data, device)


def read_run(run: str | os.PathLike[str]) -> RunFiles:
    """Read the texts of a run folder; only config.json has to be there.

    Raises:
        FileNotFoundError: no such folder, or no config.json in it.
        DataError: config.json is damaged.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise FileNotFoundError(f"{run}: no such run folder; train with run= (or `reidlab train --out`) to make one")
    missing: list[str] = []
    config = _json(folder / "config.json", ("config", "data"))
    number, nothing = (int, float), type(None)
    kinds = {
        "preset": (str, nothing),
        "versions": (dict, nothing),
        "iterations": number,
        "held_out": (*number, nothing),
    }
    values = {"iterations": 0, **config["config"], **config}
    wrong = [name for name, kind in kinds.items() if not isinstance(values.get(name), kind)]
    if wrong:
        raise DataError(f"{folder / 'config.json'}: {', '.join(wrong)} are of another type; write or copy it again")
    rows, evaluations = _metrics(folder / "metrics.jsonl", missing)
    scores = None
    if (folder / "scores.json").is_file():
        try:
            scores = _json(folder / "scores.json")
            scores = _json(folder / "scores.json", tuple(scores))
        except DataError as error:
            missing.append(str(error))
    else:
        missing.append("There is no scores.json: the run has not ended, or its end was cut short.")
    wanted = config["config"].get("iterations", 0)
    done = rows[-1]["iteration"] if rows else 0
    if done < wanted:
        missing.append(f"The run is at iteration {done:g} of {wanted:g}.")
    if not evaluations and config["config"].get("evaluate_every"):
        missing.append("There are no scores on the way, though evaluate_every asks for some.")
    return RunFiles(folder.resolve().name, config, rows, evaluations, scores, missing)


def _json(path: Path, parts: Sequence[str] = ()) -> dict[str, Any]:
    """Read an object from a JSON file, with these objects in it."""
    try:
        return read_json(path, parts)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; is {path.parent} a run folder?") from None


def _metrics(path: Path, missing: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Read both kinds of rows, in order; of an iteration that was repeated after an interruption, the last one."""
    lines = path.read_bytes().splitlines() if path.is_file() else []
    kept: dict[str, dict[int, dict[str, Any]]] = {"train": {}, "evaluation": {}}
    damaged = 0
    for line in lines:
        try:
            row = parse_row(line, str(path))
            kept[row["kind"]][row["iteration"]] = row
        except (DataError, KeyError):  # a line that a killed process left half-written
            damaged += 1
    if damaged:
        missing.append(f"metrics.jsonl: {damaged} of {len(lines)} lines cannot be read and are left out.")
    if not kept["train"]:
        missing.append("There are no rows about the loss: the first comes after log_every iterations.")
    rows, evaluations = ([own[i] for i in sorted(own)] for own in kept.values())
    return rows, evaluations


def judge(
    folder: Path,
    name: str,
    data: Splits,
    device: str = "cpu",
    workers: int = 0,
    ranks: Ranks = Ranks(),
    same: Judged | None = None,
) -> Judged:
    """Evaluate one checkpoint of a run; nothing is embedded again if its weights are those of `same`."""
    start = time.perf_counter()
    model, meta = _load(folder / f"{name}.pt", ranks)
    if same and _equal(model, same.model):
        return Judged(name, same.model, meta, same.query, same.gallery, same.result, same.intervals, same.seconds)
    parts = (data.query, data.gallery)
    query, gallery = (_embed(model, records, device, workers, ranks) for records in parts)
    result = evaluate_features(query, gallery)
    intervals = {score: result.interval(score, LEVEL, over="identities") for score in ("rank1", "mean_ap")}
    return Judged(name, model, meta, query, gallery, result, intervals, time.perf_counter() - start)


def _from_first(ranks: Ranks, read: Callable[[], T]) -> T:
    """Return what the first process reads in all of them, or raise its error in all of them."""
    found: Any = None
    if ranks.is_first:
        try:
            found = read()
        except (OSError, ValueError) as error:
            found = error
    found = ranks.gather_objects(found)[0]
    if isinstance(found, Exception):
        raise found
    return found


def _load(path: Path, ranks: Ranks) -> tuple[Model, dict[str, Any]]:
    """Read a checkpoint in the first process and hand it to the others, its weights as a sum with zeros."""
    read: list[Model] = []

    def of_first() -> dict[str, Any]:
        model, meta = load_checkpoint(path)
        read.append(model)
        return meta

    meta = _from_first(ranks, of_first)
    model = read[0] if read else MODELS[meta["kind"]](**meta["model"]).eval()
    weights = list(model.state_dict().values())
    if not read:
        for weight in weights:
            weight.zero_()
    ranks.sum_(weights)
    return model, meta


def _embed(model: Model, records: Any, device: str, workers: int, ranks: Ranks) -> Features:
    return extract_features(model, records, device=device, workers=workers, ranks=ranks)


def _equal(one: Model, other: Model) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name].cpu()) for name in mine)


def _record(files: RunFiles, judged: Judged, data: Splits) -> dict[str, Any]:
    seeds = [judged.meta["config"].get("seed", files.config["config"].get("seed"))]
    intervals = {"level": LEVEL, "over": "identities", **judged.intervals}
    return score_record(
        judged.result,
        data,
        seeds,
        judged.seconds,
        model=f"{files.name}/{judged.name}.pt",
        preset=files.config.get("preset"),
        iteration=judged.meta.get("iteration"),
        intervals=intervals,
        trained_by=files.config.get("command"),
    )


def _write_page(folder: Path, files: RunFiles, judged: dict[str, Judged], data: Splits, device: str) -> Path:
    from reidlab.report.parts import report_text

    path = folder / "report.html"
    text = report_text(files, judged, data, device)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
