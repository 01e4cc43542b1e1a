"""What each lever of the shipped weights is worth: one short training per lever, everything else the same.

    python benchmarks/street_levers.py LEVER ... [--data build/streets-3000] [--real FOLDER] [--iterations 800]
    python benchmarks/street_levers.py --list

Each run trains as the shipped weights were, changed by one lever, on the same 3000 people and is measured on the
held-out strangers and, if --real is given, on a folder of real people in Market-1501 naming (all images of one camera
search all of the other). Rows go into results/street_levers.json and the table beside it, in place of older ones of
the same lever. One seed each: compare base with base-seed1 to see what is noise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from real_people import between_cameras
from torch import nn

from reidlab.data import Market1501
from reidlab.data.records import Splits
from reidlab.evaluation import evaluate_model, extract_features
from reidlab.files import write_json
from reidlab.models import backbones
from reidlab.results import circumstances
from reidlab.training import train
from reidlab.walkers.pretraining import street_config
from reidlab.walkers.street_augmentation import StreetAugmentation
from reidlab.walkers.street_crops import StreetCrops
from reidlab.walkers.streets import Streets

RECORD = Path(__file__).resolve().parents[1] / "results" / "street_levers.json"
PEOPLE, HEIGHT, WIDTH = 3000, 128, 64


def without_instance_norm() -> None:
    backbones.InstanceBatchNorm = nn.BatchNorm2d  # looked up when the network is built


def fewer(data: Splits, people: int) -> Splits:
    """The first people only; who is measured stays the same."""
    kept = [record for record in data.train if record.pid <= people]
    return Splits(data.name, data.box, f"{data.protocol}, {people} people to train on", kept, data.query, data.gallery)


# name: (what it says in the table, settings, strengths of the augmentation, patch, people)
LEVERS: dict[str, tuple[str, dict[str, Any], dict[str, float], Callable[[], None] | None, int]] = {
    "base": ("the recipe", {}, {}, None, 0),
    "base-seed1": ("the recipe, another seed", {"seed": 1}, {}, None, 0),
    "no-colour": ("no colour changes, no grey", {}, {"colour": 0.0, "grey": 0.0}, None, 0),
    "colour-1.6": ("colour changes 1.6 times as strong", {}, {"colour": 1.6}, None, 0),
    "no-blur": ("no low resolution, softening, sharpening", {}, {"blur": 0.0}, None, 0),
    "no-geometry": ("no shifts, stretches, turns; mirror images stay", {}, {"geometry": 1e-6}, None, 0),
    "no-shade": ("no shadows", {}, {"shade": 0.0}, None, 0),
    "no-erasing": ("no random erasing", {}, {"erasing": 0.0}, None, 0),
    "no-stripes": ("one global feature, no stripes", {"num_stripes": 0}, {}, None, 0),
    "stripes-8": ("eight stripes in place of four", {"num_stripes": 8}, {}, None, 0),
    "no-instance-norm": ("batch norm in place of IBN", {}, {}, without_instance_norm, 0),
    "no-average": ("last weights, not their moving average", {"ema_decay": 0.0}, {}, None, 0),
    "no-spread": ("K images from any cameras", {"distinct_cameras": False}, {}, None, 0),
    "margin": ("hard margin 0.3 in place of the soft one", {"margin": 0.3}, {}, None, 0),
    "rate-x2": ("learning rate 4e-3", {"learning_rate": 4e-3}, {}, None, 0),
    "people-360": ("360 people (9 sites, 36 cameras)", {}, {}, None, 360),
    "people-1000": ("1000 people (25 sites, 100 cameras)", {}, {}, None, 1000),
}


def run(name: str, data: Splits, real: Path | None, iterations: int) -> list[dict[str, Any]]:
    """Train with one lever and measure; the recipe itself also without flip augmentation at test time."""
    what, settings, strengths, patch, people = LEVERS[name]
    if patch:
        patch()
    config = street_config(iterations=iterations, **settings)
    augment = StreetAugmentation(HEIGHT, WIDTH, **strengths)
    trained = train(config, fewer(data, people) if people else data, augment=augment)
    row: dict[str, Any] = {"lever": name, "what": what, "settings": settings, "strengths": strengths, "people": people}
    row |= {"iterations": iterations, "seconds": trained.seconds}
    command = f"python benchmarks/street_levers.py {name} --iterations {iterations}{' --real FOLDER' if real else ''}"
    about = {"circumstances": circumstances() | {"command": command}}
    rows = [row | measure(trained.model, data, real) | about]
    if name == "base":
        trained.model.flip = False
        row |= {"lever": "no-flip", "what": "no flip augmentation at test time", "settings": {"flip": False}}
        rows.append(row | measure(trained.model, data, real) | about)
    return rows


def measure(model: nn.Module, data: Splits, real: Path | None) -> dict[str, dict[str, float]]:
    """Rank-1 and mAP on the held-out strangers, and on real people if there are any."""
    own = evaluate_model(model, data)
    scores = {"held_out": own}
    if real:
        images = Market1501(real)
        found = extract_features(model, [*images.query, *images.gallery])
        scores |= {f"real_{q}_to_{g}": between_cameras(found, q, g) for q, g in ((1, 2), (2, 1))}
    return {name: {"rank1": score.rank1, "mean_ap": score.mean_ap} for name, score in scores.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """One line a lever, rank-1 / mAP in percent."""
    lines = []
    for row in rows:
        pairs = [row.get(key) for key in ("held_out", "real_1_to_2", "real_2_to_1")]
        cells = [f"{100 * p['rank1']:5.1f} / {100 * p['mean_ap']:4.1f}" if p else " " * 12 for p in pairs]
        lines.append(f"{row['lever']:<17} {row['iterations']:>6}  {'   '.join(cells)}   {row['what']}")
    head = f"{'lever':<17} {'its':>6}  {'held out':<12}   {'real 1 → 2':<12}   {'real 2 → 1':<12}"
    return "\n".join([head, *lines])


INTRODUCTION = f"""# Levers of the shipped weights

Each row: the recipe changed in one way, trained for the iterations given on the same {PEOPLE} drawn strangers,
one seed, one thread. Rank-1 / mAP in percent, cosine distance, market rule, AP by the step formula, flip
augmentation at test time. Held out: 120 strangers at three sites of their own, first shot of each camera
against all other shots. Real: the sample of PKU-Reid (37 people, 592 images), all images of one camera against
all of the other. What another seed changes can be read off `base` and `base-seed1`. Made by `python
benchmarks/street_levers.py`; hardware, versions and dates are in `street_levers.json`.

The shipped weights were trained 7.5 times as long on twice as many people; their scores on the same images are in their
card. At 800 batches a network is far from trained, and what makes the task harder (erasing, blur, more people) costs
more than it may in a long run; that it would pay in the end was assumed, not measured.

| lever | | iterations | held out | real, 1 → 2 | real, 2 → 1 |
|---|---|---|---|---|---|
"""


def markdown(rows: list[dict[str, Any]]) -> str:
    """The page for results/street_levers.md."""
    lines = []
    for row in rows:
        pairs = [row.get(key) for key in ("held_out", "real_1_to_2", "real_2_to_1")]
        cells = [f"{100 * p['rank1']:.1f} / {100 * p['mean_ap']:.1f}" if p else "" for p in pairs]
        lines.append(f"| {row['lever']} | {row['what']} | {row['iterations']} | {' | '.join(cells)} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("levers", nargs="*", metavar="LEVER")
    parser.add_argument("--data", type=Path, default=Path("build/streets-3000"))
    parser.add_argument("--real", type=Path)
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--list", action="store_true", help="print the levers and the record")
    options = parser.parse_args()
    unknown = sorted(set(options.levers) - set(LEVERS))
    if unknown:
        parser.error(f"unknown lever {', '.join(unknown)}; the levers are {', '.join(LEVERS)}")
    if len([name for name in options.levers if LEVERS[name][3]]) and len(options.levers) > 1:
        parser.error("a lever that changes the network's code runs alone")
    data = StreetCrops(Streets(PEOPLE, seed=0).write(options.data)) if options.levers else None
    for name in options.levers:
        new = run(name, data, options.real, options.iterations)
        rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"] if RECORD.is_file() else []
        done = {(row["lever"], row["iterations"]) for row in new}
        rows = [row for row in rows if (row["lever"], row["iterations"]) not in done]
        write_json(RECORD, {"data": f"Walkers streets, {PEOPLE} people", "rows": [*rows, *new]})
        RECORD.with_suffix(".md").write_text(markdown([*rows, *new]), encoding="utf-8")
        print(table(new), flush=True)
    if options.list:
        print(f"levers: {', '.join(LEVERS)}")
        if RECORD.is_file():
            print(table(json.loads(RECORD.read_text(encoding="utf-8"))["rows"]))


if __name__ == "__main__":
    main()
