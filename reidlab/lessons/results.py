"""Results leave a lesson as data: one JSON file a run, with all that is needed to read the numbers again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from reidlab.files import read_json, write_json
from reidlab.lessons.contents import notebooks_folder
from reidlab.progress import say
from reidlab.results import MUST_AGREE, circumstances, plain

FOLDER_VARIABLE = "REIDLAB_RESULTS_DIR"


def write(lesson: str, **values: Any) -> None:
    """Record a lesson's results where the runner collects them, and print them in one line.

    Under `reidlab lessons run` the file `results/<lesson>.json` is written; in an interactive session nothing is.
    Date, hardware, versions and command are added.

    Args:
        lesson: the lesson's file stem, such as "00_start_here".
        values: what was found. Scores (`rank1`, `rank5`, `mean_ap`, ..., in [0, 1], not percent) must come with
            `dataset`, `box`, `protocol`, `rule`, `metric`, `ap_formula` and `seeds`: a score alone says nothing.

    Raises:
        ValueError: a value is NaN or infinite, cannot be written as JSON, is a score outside [0, 1], or is a
            score whose circumstances are not given.

    Example:
        >>> write("01_cuhk03_preparation", identities=1467, images=14096)
        01_cuhk03_preparation: identities 1467, images 14096

    Taught in: notebooks/00_start_here.ipynb
    """
    content = {key: plain(key, value) for key, value in values.items()}
    names = (key for key in content if key.startswith("mean_ap") or (key[:4] == "rank" and key[4:].isdigit()))
    scores = [key for key in names if isinstance(content[key], (int, float))]
    for key in scores:
        if not 0 <= content[key] <= 1:
            raise ValueError(f"{key} is {content[key]}, expected a share in [0, 1], not percent")
    missing = [key for key in (*MUST_AGREE, "seeds") if key not in content]
    if scores and missing:
        raise ValueError(f"got {', '.join(scores)} without {', '.join(missing)}; give these too")
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        write_json(Path(folder) / f"{lesson}.json", {"lesson": lesson, **content, **circumstances()})
    texts = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in content.items()}
    shown = (f"{key} {text}" for key, text in texts.items() if not isinstance(text, (dict, list)))
    say(f"{lesson}: {', '.join(shown)}")


def recorded(name: str) -> dict[str, Any]:
    """Read a record that the repository keeps, such as a comparison that takes too long for a lesson.

    Args:
        name: the file's stem in `results/`.

    Raises:
        FileNotFoundError: there is no such record; the message lists what there is.
        DataError: it is not JSON.

    Example:
        >>> recorded("baseline_walkers_small_labeled")["seeds"]
        [0, 1, 2]

    Taught in: notebooks/01_cuhk03_preparation.ipynb
    """
    path = notebooks_folder().parent / "results" / f"{name}.json"
    if not path.is_file():
        there = ", ".join(sorted(other.stem for other in path.parent.glob("*.json"))) or "nothing"
        raise FileNotFoundError(f"{path}: no such record; results/ holds {there}")
    return read_json(path)
