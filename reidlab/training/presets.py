"""Settings from outside: presets.toml, where each value of a paper's preset has its source, and NAME=VALUE texts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reidlab.checks import name_and_value

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FILE: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

RECIPE_EPOCHS: dict[str, tuple[int, int]] = {
    name: (preset["epochs"], preset["batches_per_epoch"]) for name, preset in _FILE.items() if "epochs" in preset
}
"""The papers' epochs, and how many batches of 64 one has on CUHK03's labeled images; see `an_epoch` in the file."""


def _value(entry: Any, epochs: int = 0, batches: int = 0) -> Any:
    """Return a setting as `TrainConfig` takes it: whole epochs become iterations, and those in a list shares."""
    if not isinstance(entry, dict):
        return entry
    if "epochs" not in entry:
        return tuple(entry["value"]) if isinstance(entry["value"], list) else entry["value"]
    if entry["as"] == "iterations":
        return entry["epochs"] * batches
    shares = entry["epochs"]
    return tuple(share / epochs for share in shares) if isinstance(shares, list) else shares / epochs


PRESETS: dict[str, dict[str, Any]] = {
    name: {key: _value(entry, *RECIPE_EPOCHS.get(name, ())) for key, entry in preset["settings"].items()}
    for name, preset in _FILE.items()
}
"""Named settings, of `TrainConfig` or of its model's constructor; what is not named has the default there."""

SOURCES: dict[str, dict[str, str]] = {
    name: {key: entry["source"] for key, entry in _FILE[name]["settings"].items()} for name in RECIPE_EPOCHS
}
"""For each setting of the papers' presets: where its value is from, and what is different here."""


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE texts from a command line: numbers, true, false, none, words, and several with commas.

    Raises:
        ValueError: no "=".

    Example:
        >>> parse_settings(["iterations=20", "margin=none", "backbone=resnet50", "num_stripes=6,4", "milestones=0.5,"])
        {'iterations': 20, 'margin': None, 'backbone': 'resnet50', 'num_stripes': (6, 4), 'milestones': (0.5,)}
    """
    values: dict[str, Any] = {}
    for text in texts:
        name, value = name_and_value(text)
        several = "," in value or value in ("", "()")
        values[name] = (
            tuple(_literal(one) for one in value.split(",") if one.strip("() ")) if several else _literal(value)
        )
    return values


def _literal(text: str) -> Any:
    words = {"none": None, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
