"""The end of a run: scores.json, and report.html, one page about everything in the run folder."""

from __future__ import annotations

import base64
import copy
import dataclasses
import io
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import torch

from reidlab.data.records import Splits, fingerprint
from reidlab.distances import pairwise
from reidlab.distributed import Processes
from reidlab.evaluation import Evaluation, Features, evaluate_features, extract_features
from reidlab.files import atomic_path, write_json
from reidlab.models import Model
from reidlab.progress import duration_text, size_text
from reidlab.results import score_record
from reidlab.training.checkpoint import load_checkpoint
from reidlab.training.config import TrainConfig, flat_settings
from reidlab.training.presets import SOURCES
from reidlab.training.run_folder import RunFiles, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)
CHECKPOINTS = ("last", "best")
"""Where the run ended, and where the held-out identities were retrieved best; only the first is always there."""
LEVEL = 0.95
"""Confidence level of the intervals."""
QUERIES, RESULTS = 4, 8
"""Worst queries on the page, as many best ones, and gallery images of each."""


@dataclass(frozen=True)
class Scored:
    """A checkpoint, evaluated on query and gallery by the market rule and the cosine distance."""

    model: Model = field(repr=False)
    meta: dict[str, Any] = field(repr=False)
    """Everything else in the checkpoint."""
    query: Features = field(repr=False)
    gallery: Features = field(repr=False)
    result: Evaluation
    intervals: dict[str, tuple[float, float]]
    """Of rank1 and mean_ap, over the identities of the queries."""
    seconds: float


def finish_run(
    run: str | os.PathLike[str],
    data: Splits,
    device: str = "cpu",
    workers: int = 0,
    processes: Processes = Processes(),
    model: Model | None = None,
) -> dict[str, Any]:
    """Evaluate a run on query and gallery; write scores.json and report.html.

    A page that cannot be made, as without matplotlib, is one warning: the scores are written before it.

    Args:
        run: the run folder, with config.json and last.pt, and best.pt if there is one.
        data: the data set that it was trained on, with query and gallery.
        device, workers, processes: as for `extract_features`. Only the first of several processes reads and writes the
            run folder; the others need not see it.
        model: takes the weights, as for `load_checkpoint`, where the run's model is of a class without a name.

    Returns:
        The content of scores.json: a `score_record` under "last", and under "best" if there is a best.pt.

    Raises:
        FileNotFoundError: no such folder, or no config.json or last.pt in it.
        DataError: a damaged file.
        ValueError: no query has a true match in the gallery.

    Example:
        >>> finish_run("runs/none", Splits("none", "as given", "none", [], [], []))
        Traceback (most recent call last):
        FileNotFoundError: runs/none: no such run folder; train with run= (or `reidlab train --out`) to make one

    Taught in: notebooks/06_training.ipynb
    """
    folder = Path(run)
    found: Any = None
    if processes.is_first:
        try:
            names = CHECKPOINTS if (folder / "best.pt").is_file() else CHECKPOINTS[:1]
            found = (
                read_run(folder),
                {name: load_checkpoint(folder / f"{name}.pt", copy.deepcopy(model)) for name in names},
            )
        except (OSError, ValueError) as error:
            found = error
    found = processes.broadcast(found)
    if isinstance(found, Exception):  # in every process, so that none waits for the others
        raise found
    files, checkpoints = found

    scored: dict[str, Scored] = {}
    for name, (model, meta) in checkpoints.items():
        scored[name] = _evaluate(model, meta, data, device, workers, processes, scored.get("last"))
    scores = {
        name: score_record(
            one.result,
            data,
            [one.meta["config"].get("seed", files.config["config"].get("seed"))],
            one.seconds,
            model=f"{files.name}/{name}.pt",
            preset=files.config.get("preset"),
            iteration=one.meta.get("iteration"),
            intervals={"level": LEVEL, "over": "identities", **one.intervals},
            trained_by=files.config.get("command"),
        )
        for name, one in scored.items()
    }
    if processes.is_first:
        write_json(folder / "scores.json", scores)
        try:
            _write_page(folder, read_run(folder), scored, data, device)
        except Exception as error:  # anything: a side matter must not hide that the scores are written
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            logger.warning("%s: not written (%s); the scores are in scores.json", folder / "report.html", reason)
            logger.info("why report.html was not written", exc_info=True)
    return scores


def write_report(run: str | os.PathLike[str], data: Splits, device: str = "cpu", workers: int = 0) -> Path:
    """Write report.html, a page that needs no other file, about a run that may not have ended.

    It shows curves, scores, ranked lists, attention maps, times, memory, settings with their sources, versions and
    the command, and says at the top what is missing. scores.json is left alone: `finish_run` writes it.

    Args:
        run: the run folder; it must hold config.json.
        data: the data set that it was trained on, with query and gallery.
        device, workers: as for `extract_features`.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: no such folder, or no config.json in it.
        DataError: a damaged config.json.
    """
    folder = Path(run)
    files = read_run(folder)
    scored: dict[str, Scored] = {}
    for name in CHECKPOINTS if (folder / "best.pt").is_file() else CHECKPOINTS[:1]:
        try:
            model, meta = load_checkpoint(folder / f"{name}.pt")
            scored[name] = _evaluate(model, meta, data, device, workers, Processes(), scored.get("last"))
        except (FileNotFoundError, ValueError) as error:
            files.missing.append(f"{name}.pt was not evaluated: {' '.join(str(error).split())}")
    return _write_page(folder, files, scored, data, device)


def _evaluate(
    model: Model,
    meta: dict[str, Any],
    data: Splits,
    device: str,
    workers: int,
    processes: Processes,
    same: Scored | None,
) -> Scored:
    """Evaluate a model; one with the same weights as `same` has its scores."""
    start = time.perf_counter()
    if same:
        one, other = model.state_dict(), same.model.state_dict()
        if one.keys() == other.keys() and all(torch.equal(one[name], other[name].cpu()) for name in one):
            return dataclasses.replace(same, meta=meta)
    query, gallery = (
        extract_features(model, records, device=device, workers=workers, processes=processes)
        for records in (data.query, data.gallery)
    )
    result = evaluate_features(query, gallery)
    intervals = {score: result.interval(score, LEVEL, over="identities") for score in ("rank1", "mean_ap")}
    return Scored(model, meta, query, gallery, result, intervals, time.perf_counter() - start)


def _write_page(folder: Path, files: RunFiles, scored: Mapping[str, Scored], data: Splits, device: str) -> Path:
    """Fill in report.html.j2, which holds the text of the page and says which figures it shows."""
    from reidlab import plots  # here, since matplotlib may be missing or broken, which must not end a run

    rows, trained, shown = files.rows, files.config["data"], "best" if "best" in scored else "last"
    results = {name: one.result for name, one in scored.items()}
    written = {name: (files.scores or {}).get(name, {}).get("mean_ap") for name in results}
    changed = {k: v for k, v in written.items() if isinstance(v, float) and abs(v - results[k].mean_ap) > 1e-3}
    same_weights = len(results) == 2 and results["best"] is results["last"]
    if same_weights:
        results.pop("last")
    there = {"dataset": data.name, "box": data.box, "protocol": data.protocol}
    moved = [f"{name} {trained[name]}" for name in there if trained.get(name, there[name]) != there[name]]
    terms = {name: value for name, value in rows[-1].items() if "/" in name and name in rows[0]} if rows else {}
    kinds = {name.partition("/")[0] for name in terms}
    levels = {k: float(np.mean([rows[0][name] for name in terms if name.startswith(f"{k}/")])) for k in kinds}

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent="{:.1%}".format, median=np.median, duration=duration_text, size=size_text)
    text = environment.get_template("report.html.j2").render(
        files=files,
        data=data,
        scored=scored,
        results=results,
        precisions={name: result.average_precision for name, result in results.items()},
        same_weights=same_weights,
        changed=changed,
        moved=moved,
        fingerprint=fingerprint(data.train) if scored and not moved and "fingerprint" in trained else None,
        level=LEVEL,
        shown=shown,
        **(_ranked_lists(scored[shown], data, device) if scored else {"lists": [], "gates": None, "channels": {}}),
        terms=terms if len(rows) > 1 and min(levels.values(), default=0) > 0 else {},
        levels=levels,
        setting_rows=_setting_rows(files.config),
        plots=plots,
        embed=_embed,
    )
    with atomic_path(folder / "report.html") as temporary:
        temporary.write_text(text.strip() + "\n", encoding="utf-8")
    return folder / "report.html"


def _ranked_lists(shown: Scored, data: Splits, device: str) -> dict[str, Any]:
    """Rank the gallery for the worst and best queries, and compute the attention maps of these."""
    from reidlab import plots

    result, lists, gates, channels = shown.result, [], None, {}
    worst, best = extremes(result.average_precision, result.query_pids)
    for kind, queries in (("Worst", worst), ("Best", best)):
        if queries:
            distances = pairwise(shown.query.features[queries], shown.gallery.features, result.metric).numpy()
            records = [data.query[query] for query in queries]
            drawn = plots.ranked_gallery(records, data.gallery, distances, range(len(queries)), RESULTS, False)
            lists.append((kind, result.average_precision[queries], result.first_hit[queries], drawn))
    if hasattr(shown.model, "attention_maps") and lists:
        records = [data.query[query] for query in (*worst, *best)]
        images = [record.load() for record in records]
        maps = shown.model.attention_maps(torch.stack([shown.model.preprocess(image) for image in images]).to(device))
        spatial = {f"stage {n}": m.spatial.float().cpu().numpy() for n, m in maps.items() if m.spatial is not None}
        channels = {n: m.channel.aminmax() for n, m in maps.items() if m.channel is not None}
        gates = plots.gate_maps(images, spatial, [f"person {record.pid}" for record in records]) if spatial else None
    return {"lists": lists, "gates": gates, "channels": channels}


def _embed(drawn: tuple[Figure, str], photographs: bool = False) -> dict[str, Any]:
    """Turn a figure and its description into the attributes of an `<img>`, the image itself included; close it."""
    import matplotlib.pyplot as plt

    figure, description = drawn
    kind, options = ("jpeg", {"pil_kwargs": {"quality": 82}}) if photographs else ("png", {})
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, dpi=130, format=kind, **options)
        width = round(figure.get_size_inches()[0] * 90)
    finally:
        plt.close(figure)
    content = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"width": width, "alt": description, "src": f"data:image/{kind};base64,{content}"}


def extremes(average_precision: np.ndarray, pids: np.ndarray) -> tuple[list[int], list[int]]:
    """Return the worst and the best queries, at most `QUERIES` of each, no identity twice; of equal ones, the first.

    Example:
        >>> extremes(np.array([0.5, 0.1, 0.2, 1.0]), np.array([1, 2, 2, 3]))
        ([1, 0], [3])
    """
    valid = np.flatnonzero(np.isfinite(average_precision))
    half = (len(set(pids[valid].tolist())) + 1) // 2
    taken: set[int] = set()
    lists: list[list[int]] = []
    for sign in (1, -1):
        own: list[int] = []
        for index in valid[np.argsort(sign * average_precision[valid], kind="stable")].tolist():
            if len(own) < min(QUERIES, half) and int(pids[index]) not in taken:
                own.append(index)
                taken.add(int(pids[index]))
        lists.append(own)
    return lists[0], lists[1]


def _setting_rows(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """List the settings of config.json: name, value as `--set` takes it, and where the value is from."""
    settings, name = flat_settings(config["config"]), config.get("preset")
    try:
        defaults = flat_settings(dataclasses.asdict(TrainConfig(settings.get("model", "baseline"))))
        preset = flat_settings(dataclasses.asdict(TrainConfig.preset(name))) if name else {}
    except ValueError:  # of another version
        defaults, preset = {}, {}
    sources, own = SOURCES.get(name, {}), config.get("own_model")
    unread = {"model", *config["config"].get("model_args", {})} if own else set()
    rows = []
    for key, value in settings.items():
        if key in unread:
            source = f"not read by model {own}"
        elif key in preset and preset[key] != value:
            source = f"changed; the preset {name} has {_as_set(preset[key])}"
        elif key in sources:
            source = sources[key]
        elif key in preset and preset[key] != defaults.get(key):
            source = f"preset {name}"
        else:
            source = "default" if value == defaults.get(key) else "given"
        rows.append((key, _as_set(value), source))
    return rows


def _as_set(value: Any) -> str:
    """Write a value as `--set NAME=VALUE` takes it.

    Example:
        >>> _as_set((6, 4, 2)), _as_set(True), _as_set(None), _as_set("cosine"), _as_set((1 / 3,))
        ('6,4,2', 'true', 'none', 'cosine', '0.333333')
    """
    if isinstance(value, tuple):
        return ",".join(map(_as_set, value)) or "()"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
