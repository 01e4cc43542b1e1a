"""Scores on disk: always with the data, the rule and the circumstances that give them a meaning."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reidlab.data.records import Splits
from reidlab.evaluation import Evaluation
from reidlab.files import write_json
from reidlab.lessons.results import circumstances, plain

MUST_AGREE = ("dataset", "box", "protocol", "rule", "metric", "ap_formula")


def score_record(
    result: Evaluation, data: Splits, seeds: Sequence[int], seconds: float | None = None, **more: Any
) -> dict[str, Any]:
    """Collect scores with everything needed to read them later.

    Args:
        result: the evaluation.
        data: what it was made on.
        seeds: of training; empty if nothing was trained.
        seconds: how long it took.
        more: further facts, such as `model="small"`.

    Returns:
        A dict for a JSON file: dataset, box, protocol, rule, metric, ap_formula, rank1 …, seeds, seconds,
        date, hardware, versions, command.

    Taught in: notebooks/00_start_here.ipynb
    """
    record = {
        "dataset": data.name,
        "box": data.box,
        "protocol": data.protocol,
        **result.scores(),
        "seeds": list(seeds),
        "seconds": seconds,
        **more,
        **circumstances(),
    }
    return plain("record", record)


def write_scores(
    path: str | os.PathLike[str], result: Evaluation, data: Splits, seeds: Sequence[int], **more: Any
) -> Path:
    """Write `score_record` as JSON, atomically."""
    return write_json(path, score_record(result, data, seeds, **more))


def check_comparable(records: Sequence[dict[str, Any]]) -> None:
    """Refuse to compare scores that mean different things.

    Raises:
        ValueError: the records differ in data set, box, protocol, rule, metric or formula; the message says how.

    Example:
        >>> base = dict(dataset="CUHK03", box="labeled", rule="market", metric="cosine", ap_formula="step")
        >>> check_comparable([{**base, "protocol": "new"}, {**base, "protocol": "classic (split 0)"}])
        Traceback (most recent call last):
        ValueError: these scores cannot be compared: protocol is 'classic (split 0)' in one and 'new' in another

    Taught in: notebooks/00_start_here.ipynb
    """
    for key in MUST_AGREE:
        values = sorted({str(record.get(key)) for record in records})
        if len(values) > 1:
            raise ValueError(
                f"these scores cannot be compared: {key} is {values[0]!r} in one and {values[1]!r} in another"
            )
