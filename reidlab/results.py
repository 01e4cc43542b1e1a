"""Scores on disk: always with the data, the rule and the circumstances that give them a meaning."""

from __future__ import annotations

import datetime
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidlab.files import write_json

if TYPE_CHECKING:
    from reidlab.data.records import Splits
    from reidlab.evaluation import Evaluation

COMMAND_VARIABLE = "REIDLAB_COMMAND"
MUST_AGREE = ("dataset", "box", "protocol", "rule", "metric", "ap_formula")
MINIMUM = {
    "torch": "2.6",
    "torchvision": "0.21",
    "numpy": "1.26",
    "scipy": "1.11",
    "h5py": "3.10",
    "matplotlib": "3.8",
    "pillow": "10",
    "pandas": "2.2",
}
ASSUMED = {"same_camera": "exclude"}  # also must agree; records from before it was written down meant this


def score_record(
    result: Evaluation, data: Splits, seeds: Sequence[int], seconds: float | None = None, **more: Any
) -> dict[str, Any]:
    """Return scores with everything needed to read them later, for a JSON file.

    Args:
        result: the evaluation.
        data: what it was made on.
        seeds: of training; empty if nothing was trained.
        seconds: how long it took.
        more: further facts, such as `model="small"`.

    Taught in: notebooks/00_start_here.ipynb
    """
    about = {"dataset": data.name, "box": data.box, "protocol": data.protocol}
    timing = {"seeds": list(seeds), "seconds": seconds}
    return plain("record", {**about, **result.scores(), **timing, **more, **circumstances()})


def write_scores(
    path: str | os.PathLike[str], result: Evaluation, data: Splits, seeds: Sequence[int], **more: Any
) -> Path:
    """Write `score_record` as JSON, atomically."""
    return write_json(path, score_record(result, data, seeds, **more))


def check_comparable(records: Sequence[dict[str, Any]]) -> None:
    """Refuse to compare scores that mean different things.

    Raises:
        ValueError: the records differ in one of `MUST_AGREE` or in the treatment of the query's own camera.

    Example:
        >>> base = dict(dataset="CUHK03", box="labeled", rule="market", metric="cosine", ap_formula="step")
        >>> check_comparable([{**base, "protocol": "new"}, {**base, "protocol": "classic (split 0)"}])
        Traceback (most recent call last):
        ValueError: these scores cannot be compared: protocol is 'classic (split 0)' in one and 'new' in another

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    for key in (*MUST_AGREE, *ASSUMED):
        values = sorted({str(record.get(key, ASSUMED.get(key))) for record in records})
        if len(values) > 1:
            raise ValueError(
                f"these scores cannot be compared: {key} is {values[0]!r} in one and {values[1]!r} in another"
            )


def circumstances() -> dict[str, Any]:
    """Return what every record carries besides its numbers: date, hardware, versions, command.

    Example:
        >>> sorted(circumstances())
        ['command', 'date', 'hardware', 'threads', 'versions']
    """
    torch = sys.modules.get("torch")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "hardware": hardware(),
        # Threads of torch's sums, which decide how they are rounded; None where torch was not used.
        "threads": torch.get_num_threads() if torch else None,
        "versions": {"python": sys.version.split()[0], **{package: installed(package) for package in MINIMUM}},
        "command": os.environ.get(COMMAND_VARIABLE) or _command(),
    }


def installed(package: str) -> str | None:
    """Return the installed version of a package without importing it, or None where it is absent.

    Example:
        >>> installed("numpy") is not None, installed("no-such-package")
        (True, None)
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def hardware() -> str:
    """Describe this computer in a few words: processor cores, and the GPU if torch is loaded and finds one.

    Example:
        >>> "core" in hardware()
        True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    text = f"{platform.machine()}, {cores} processor core{'s' if cores != 1 else ''}"
    torch = sys.modules.get("torch")  # loading torch takes seconds; whoever has results to write has loaded it
    if torch is not None and torch.cuda.is_available():
        text += f", {torch.cuda.get_device_name(0)}"
    return text


def _command() -> str:
    """The command line of this process, if it is the `reidlab` command or a script."""
    program = Path(sys.argv[0])
    if program.name in ("reidlab", "__main__.py") and "reidlab" in program.as_posix():
        return shlex.join(["reidlab", *sys.argv[1:]])
    if program.suffix == ".py" and "ipykernel" not in program.name:
        return shlex.join(["python", f"{program.parent.name}/{program.name}", *sys.argv[1:]])
    return "interactive session"


def plain(key: str, value: Any) -> Any:
    """Convert numpy and torch numbers, arrays, tuples and paths to JSON's types; `key` names the value in messages.

    Raises:
        ValueError: the value is not finite, or of a type that JSON has no form for.

    Example:
        >>> import numpy as np
        >>> plain("cmc", np.array([0.5, 0.75])), plain("seeds", (0, 1))
        ([0.5, 0.75], [0, 1])
    """
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{key} is {value}; only finite numbers are recorded: find out where it comes from")
        return float(value)
    if isinstance(value, Mapping):
        return {str(inner): plain(f"{key}[{inner!r}]", item) for inner, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(f"{key}[{index}]", item) for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        return plain(key, value.tolist())
    raise ValueError(f"{key} is a {type(value).__name__}, which JSON has no form for; record its numbers instead")
