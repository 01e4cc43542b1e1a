"""What a report says about a run, section by section."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from reidlab import plots
from reidlab.data.records import Splits, fingerprint
from reidlab.distances import pairwise
from reidlab.report import page as html
from reidlab.report.finish import LEVEL, Judged, RunFiles
from reidlab.training.config import READS, TrainConfig

QUERIES, RESULTS = 4, 8
"""Queries in each of the two galleries, and gallery images of each query."""


def report_text(files: RunFiles, judged: Mapping[str, Judged], data: Splits, device: str = "cpu") -> str:
    """Make the page of a run.

    Args:
        files: what the run folder says.
        judged: its checkpoints, evaluated on `data`; the galleries are those of the best one if there is one.
        data: query and gallery.
        device: where the model is.

    Returns:
        HTML that needs no other file.
    """
    shown = judged.get("best") or judged.get("last")
    chosen = _extremes(shown.result.average_precision, shown.result.query_pids) if shown else ([], [])
    sections = [
        ("", [html.note("Not all is there", files.missing)] if files.missing else []),
        ("Scores", _scores(files, judged, data)),
        ("How to read them", [html.bullets(_cautions(files, judged, data))] if judged else []),
        ("Training", _curves(files)),
        ("Ranked lists", _galleries(shown, data, chosen) if shown else []),
        ("Attention", _attention(shown, data, [*chosen[0], *chosen[1]], device) if shown else []),
        ("Time and memory", _time(files, judged)),
        ("Settings", _settings(files.config)),
        ("How it was made", _circumstances(files.config)),
    ]
    trained, settings = files.config["data"], files.config["config"]
    what = f"model {settings.get('model')}, preset {files.config.get('preset') or 'none'}, seed {settings.get('seed')}"
    title = trained.get("title") or f"{trained.get('dataset')}, {trained.get('box')}, {trained.get('protocol')}"
    return html.page(f"Run {files.name}: {title}", f"{what}, begun {_date(files.config.get('date'))}", sections)


def _date(text: Any) -> str:
    return f"{text[:16].replace('T', ' ')} UTC" if isinstance(text, str) and text else "at an unknown time"


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _scores(files: RunFiles, judged: Mapping[str, Judged], data: Splits) -> list[str]:
    if not judged:
        return [html.paragraph("There are none: no checkpoint was evaluated.")]
    first = next(iter(judged.values())).result
    rows = [_score_row(one) for one in judged.values()]
    chance = first.chance
    rows.append(["random order", _percent(chance["rank1"]), "", "", _percent(chance["mean_ap"]), "", ""])
    caption = (
        f"{data.title}; {first.rule} rule, {first.metric} distance, the query's own camera "
        f"{'left out' if first.same_camera == 'exclude' else 'kept'}. {first.num_queries} queries, "
        f"{first.num_valid_queries} of them with a match, in a gallery of {len(data.gallery)} images. AP formula: step "
        f"(trapezoid in its own column). In brackets: {LEVEL:.0%} intervals over the people among the queries."
    )
    head = ("checkpoint", "rank-1", "rank-5", "rank-10", "mAP", "mAP (trapezoid)", "mINP")
    pieces = [html.table(head, rows, caption, numbers=range(1, 7))]
    if differing := _differing(files, judged):
        pieces.append(html.note("scores.json says something else", differing))
    results = {name: one.result for name, one in judged.items()}
    if len(results) == 2 and judged["best"].result is judged["last"].result:
        pieces.append(html.paragraph("best.pt and last.pt hold the same weights."))
        results.pop("last")
    spread = plots.average_precisions({name: result.average_precision for name, result in results.items()})
    return [*pieces, html.beside(html.picture(plots.cmc(results)), html.picture(spread))]


def _score_row(judged: Judged) -> list[str]:
    result, intervals = judged.result, judged.intervals
    ranks = [_percent(result.rank(k)) if k <= len(result.cmc) else "–" for k in (5, 10)]
    bounds = {
        name: f" ({100 * low:.1f}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{100 * high:.1f})"
        for name, (low, high) in intervals.items()
    }
    return [
        f"{judged.name}.pt",
        _percent(result.rank1) + bounds["rank1"],
        *ranks,
        _percent(result.mean_ap) + bounds["mean_ap"],
        _percent(result.mean_ap_trapezoid),
        _percent(result.mean_inp),
    ]


def _differing(files: RunFiles, judged: Mapping[str, Judged]) -> list[str]:
    """Say where scores.json does not belong to the checkpoints, after more training or by another data set."""
    texts = []
    for name, one in judged.items():
        written = ((files.scores or {}).get(name) or {}).get("mean_ap")
        if isinstance(written, (int, float)) and abs(written - one.result.mean_ap) > 1e-3:
            now = f"{_percent(one.result.mean_ap)} when this page was made"
            texts.append(f"{name}.pt: mAP {_percent(written)} there, {now}; the checkpoint or the data changed.")
    return texts


def _cautions(files: RunFiles, judged: Mapping[str, Judged], data: Splits) -> list[str]:
    settings, trained = files.config["config"], files.config["data"]
    people = len(set(next(iter(judged.values())).result.query_pids.tolist()))
    texts = [
        f"This is one run with one seed ({settings.get('seed')}). Another seed gives other scores with the same "
        "settings; compare recipes by the mean and the spread of three seeds or more.",
        f"The intervals say what other queries of the same kind might have given, {people} people with all of theirs. "
        "They know nothing of other seeds, other galleries or other cameras.",
        "Compare only with scores of the same data set, box type, protocol, rule and AP formula, without re-ranking.",
        _chosen_on(files, judged),
    ]
    there = {"dataset": data.name, "box": data.box, "protocol": data.protocol}
    if other := [f"{name} {trained[name]}" for name in there if name in trained and trained[name] != there[name]]:
        texts.append(
            f"Trained on {', '.join(other)}, scored on {data.title}: across data sets, scores are usually lower."
        )
    elif "fingerprint" in trained and trained["fingerprint"] != fingerprint(data.train):
        texts.append(
            "The data is called as that of the run, and has other training images: fingerprint "
            f"{fingerprint(data.train)}, in config.json {trained['fingerprint']}. Some people may have been trained on."
        )
    for name, one in judged.items():
        if one.result.at_chance:
            texts.append(f"{name}.pt cannot be told from a random order: look for a fault before training longer.")
    return texts


def _chosen_on(files: RunFiles, judged: Mapping[str, Judged]) -> str:
    """Say which people chose the checkpoint, if any did."""
    if "best" not in judged:
        seen = any(row.get("people") == "seen" for row in files.evaluations)
        curve = " The scores on the way are of people it was trained on: they show faults, not success." if seen else ""
        return "last.pt is as far as the run has come; nothing was chosen, by these scores or by others." + curve
    row, at = judged["best"].meta.get("held_out") or {}, judged["best"].meta.get("iteration")
    many = f"{row['identities']} " if "identities" in row else ""
    where = f" at iteration {at}" if at is not None else ""
    return (
        f"best.pt was chosen{where} by its mAP on {many}people held out from the training identities, not by anybody "
        "in this table. Decide beforehand which of the two you report: taking the higher one is choosing by the test."
    )


def _curves(files: RunFiles) -> list[str]:
    pieces = []
    if files.rows:
        pieces.append(html.picture(plots.training_curves(files.rows)))
    if files.evaluations:
        pieces.append(html.picture(plots.evaluation_curve(files.evaluations)))
        pieces.append(html.paragraph("Other people than in the table of scores: the fewer, the easier the search."))
    elif not files.config["config"].get("evaluate_every"):
        pieces.append(html.paragraph("No scores were taken on the way: evaluate_every is 0."))
    if files.rows and (shares := _term_table(files.rows)):
        first = files.rows[0]["iteration"]
        pieces += [
            html.subheading("Every term"),
            html.paragraph(f"The last row's terms, as shares of the mean of their kind at iteration {first}."),
            html.picture(plots.loss_terms(*shares)),
        ]
    return pieces


def _term_table(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, float]] | None:
    """Return the last terms of networks of parts, and each kind's level in the first row."""
    names = [name for name in rows[-1] if "/" in name and name in rows[0]]
    kinds = {name.partition("/")[0] for name in names}
    levels = {kind: float(np.mean([rows[0][n] for n in names if n.startswith(f"{kind}/")])) for kind in kinds}
    if not names or min(levels.values()) <= 0 or len(rows) < 2:
        return None
    return {name: rows[-1][name] for name in names}, levels


def _extremes(average_precision: np.ndarray, pids: np.ndarray) -> tuple[list[int], list[int]]:
    """Return the worst and the best queries, one of a person, none in both; of equal ones, the first."""
    valid = np.flatnonzero(np.isfinite(average_precision))
    rising = valid[np.argsort(average_precision[valid], kind="stable")]
    falling = valid[np.argsort(-average_precision[valid], kind="stable")]
    taken: set[int] = set()
    lists: list[list[int]] = []
    half = (len(set(pids[valid].tolist())) + 1) // 2
    for order in (rising, falling):
        own: list[int] = []
        for index in order.tolist():
            if len(own) < min(QUERIES, half) and int(pids[index]) not in taken:
                own.append(index)
                taken.add(int(pids[index]))
        lists.append(own)
    return lists[0], lists[1]


def _galleries(shown: Judged, data: Splits, chosen: tuple[list[int], list[int]]) -> list[str]:
    which = (
        f"By {shown.name}.pt, one query a person; of queries with the same average precision, the first. The lists are "
        "those that are scored: images of the same person by the query's own camera are left out."
    )
    pieces = [html.paragraph(which)]
    for kind, rows in zip(("Worst", "Best"), chosen, strict=True):
        if not rows:
            continue
        distances = pairwise(shown.query.features[rows], shown.gallery.features, shown.result.metric)
        records = [data.query[row] for row in rows]
        lists = plots.ranked_gallery(records, data.gallery, distances.numpy(), range(len(rows)), RESULTS, False)
        values = ", ".join(f"{shown.result.average_precision[row]:.2f}" for row in rows)
        ranks = ", ".join(str(shown.result.first_hit[row]) for row in rows)
        pieces += [
            html.subheading(f"{kind} queries"),
            html.paragraph(f"Average precision {values}; first right image at rank {ranks}."),
            html.picture(lists, photographs=True),
        ]
    return pieces


def _attention(shown: Judged, data: Splits, rows: Sequence[int], device: str) -> list[str]:
    if not hasattr(shown.model, "attention_maps") or not rows:
        return []
    images = [data.query[row].load() for row in rows]
    batch = torch.stack([shown.model.preprocess(image) for image in images]).to(device)
    found = shown.model.attention_maps(batch)
    maps = {
        f"stage {stage}": one.spatial.float().cpu().numpy() for stage, one in found.items() if one.spatial is not None
    }
    pieces = []
    if maps:
        titles = [f"person {data.query[row].pid}" for row in rows]
        said = (
            "Spatial gates on the queries above, worst first; each stage has its own scale of colours. A gate says "
            "what passes, not why a match was found."
        )
        pieces += [html.paragraph(said), html.picture(plots.gate_maps(images, maps, titles), photographs=True)]
    channels = {stage: one.channel for stage, one in found.items() if one.channel is not None}
    if channels:
        ranges = "; ".join(f"stage {s}: {float(c.min()):.2f} to {float(c.max()):.2f}" for s, c in channels.items())
        pieces.append(html.paragraph(f"Channel gates, which have no places to be drawn at: {ranges}."))
    return pieces


def _time(files: RunFiles, judged: Mapping[str, Judged]) -> list[str]:
    rows, facts = files.rows, []
    for key, name in (("epochs", "epochs"), ("passes", "passes over the training images")):
        if isinstance(files.config.get(key), (int, float)):
            facts.append((f"planned {name}", f"{files.config[key]:.1f}"))
    if rows and "seconds" in rows[-1]:
        facts.append(("training", f"{_duration(rows[-1]['seconds'])}, {rows[-1]['iteration']:g} iterations"))
    speeds, memory = ([row[n] for row in rows if row.get(n) is not None] for n in ("images_per_second", "memory_mb"))
    if speeds:
        facts.append(("images per second", f"median {np.median(speeds):.0f}, lowest {min(speeds):.0f}"))
    if memory:
        facts.append(("memory, at most", f"{max(memory):,.0f} MB"))
    if files.evaluations:
        facts.append(("scores on the way", f"taken {len(files.evaluations)} times"))
    own = {id(one.result): one for one in judged.values()}.values()
    facts += [(f"evaluation of {one.name}.pt", _duration(one.seconds)) for one in own]
    pieces = [html.table((), facts)] if facts else []
    columns = [name for name, values in (("images_per_second", speeds), ("memory_mb", memory)) if len(values) > 1]
    return [*pieces, html.picture(plots.training_curves(rows, columns))] if columns else pieces


def _duration(seconds: float) -> str:
    """Write a time in the two units that fit.

    Example:
        >>> _duration(8.25), _duration(75), _duration(3 * 3600 + 125)
        ('8.2 s', '1 min 15 s', '3 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _settings(config: Mapping[str, Any]) -> list[str]:
    settings, name = config["config"], config.get("preset")
    defaults = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
    try:
        preset = dataclasses.asdict(TrainConfig.preset(name)) if name else {}
    except ValueError:  # of another version
        preset = {}
    sources = _sources(name)
    model = str(settings.get("model"))
    unread = {one for names in READS.values() for one in names} - set(READS.get(model, settings))
    rows = []
    for key, value in settings.items():
        value = tuple(value) if isinstance(value, list) else value  # as JSON has tuples
        if key in unread:
            source = f"not read by model {model}"
        elif key in preset and preset[key] != value:
            source = f"changed; the preset {name} has {_as_set(preset[key])}"
        elif key in sources:
            source = sources[key]
        else:
            source = f"preset {name}" if key in preset and preset[key] != defaults.get(key) else ""
            source = source or ("default" if value == defaults.get(key) else "given")
        rows.append((key, _as_set(value), source))
    rounded = "As --set takes them; numbers are rounded to six digits, config.json has them in full."
    return [html.table(("setting", "value", "where from"), rows, rounded)]


def _as_set(value: Any) -> str:
    """Write a value as the command line takes it.

    Example:
        >>> _as_set((6, 4, 2)), _as_set(True), _as_set(None), _as_set("cosine"), _as_set((1 / 3,))
        ('6,4,2', 'true', 'none', 'cosine', '0.333333')
    """
    if isinstance(value, tuple):
        return ",".join(map(_as_set, value)) or "()"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _sources(preset: str | None) -> dict[str, str]:
    """Where the values of a paper's preset are from."""
    try:
        from reidlab.training.presets import SOURCES
    except ImportError:
        return {}
    return dict(SOURCES.get(preset, {}))


def _circumstances(config: Mapping[str, Any]) -> list[str]:
    trained = config["data"]
    counts = f"{trained.get('train_images', '?')} images of {trained.get('train_identities', '?')} people"
    share = config["config"].get("held_out")
    counts += f", a share of {share:g} of these people held out" if share else ""
    parameters = config.get("parameters")
    facts = [
        ("data", f"{trained.get('title', '?')}; training part: {counts}"),
        ("fingerprint of the data", trained.get("fingerprint", "not recorded")),
        ("seed", config["config"].get("seed", "not recorded")),
        ("parameters", f"{parameters:,}" if isinstance(parameters, int) else "not recorded"),
        ("hardware", config.get("hardware", "not recorded")),
        ("device, processes, threads", ", ".join(str(config.get(k, "?")) for k in ("device", "ranks", "threads"))),
        ("date", _date(config.get("date"))),
        ("reidlab", config.get("reidlab", "not recorded")),
        ("versions", ", ".join(f"{name} {version}" for name, version in (config.get("versions") or {}).items())),
    ]
    command = config.get("command")
    told = [html.paragraph("The command:"), html.preformatted(command)] if command else []
    return [html.table((), facts), *told]
