"""What the four papers' presets should give on CUHK03, what others got, and what a run of ours would cost.

    python benchmarks/reproduction.py [--fill RUN …] [--into FOLDER]

Writes results/reproduction.json and the page results/reproduction.md. Nothing is trained here. The scores are quoted,
each with its source and with whether it was read there ("checked") or is from memory ("recalled"). The cost is an
estimate: work and memory of a training step are counted from shapes, and turned into hours by what others measured on
named cards. Takes a minute and no GPU.

Our own cells stay empty until somebody trains on real CUHK03. --fill RUN reads the run folder of such a training
(config.json, scores.json) and writes its scores into the table; runs of several seeds are averaged. A run on other
data, or scored by another rule, is refused.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rga_forms import count_work, saved_bytes
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from reidlab.files import write_json
from reidlab.models import MGN, Baseline, RelationNet, RGANet
from reidlab.results import circumstances
from reidlab.training.config import TrainConfig, flat_settings
from reidlab.training.presets import PRESETS, RECIPE_EPOCHS

RESULTS = Path(__file__).resolve().parents[1] / "results"
PEOPLE, IMAGES = 767, {"labeled": 7368, "detected": 7365}  # to train on, new protocol
NETWORKS = {"bnneck": Baseline, "rga_sc": RGANet, "relation": RelationNet, "mgn": MGN}
OURS = {"protocol": "new", "rule": "market", "metric": "cosine", "ap_formula": "step"}
FREE = ("seed", "precision", "compile", "microbatch_size", "batch_norm", "log_every", "evaluate_every", "save_every")
"""Settings that a run may have of its own without being another recipe; which ones it changed is kept."""

CHECKED, RECALLED = "checked", "recalled"
MARKET_RULE = "market (the query's own identity in its own camera removed)"
LUO = "github.com/michuanhaohao/reid-strong-baseline"
RGA = "github.com/microsoft/Relation-Aware-Global-Attention-Networks"
RRID = "github.com/cvlab-yonsei"


def score(box: str, rank1: float | None, mean_ap: float | None, status: str, source: str, **more: Any) -> dict:
    """One quoted score; numbers in percent, as they are printed there."""
    return {"box": box, "rank1": rank1, "mean_ap": mean_ap, "status": status, "source": source, **more}


REPORTED: dict[str, dict[str, Any]] = {
    "bnneck": {
        "paper": "Luo et al., CVPR Workshops 2019",
        "judged": {
            "protocol": "new",
            "rule": MARKET_RULE,
            "metric": "cosine, after the neck",
            "ap_formula": "step (recalled: the file with it was not at hand)",
        },
        "claims": [],
        "remark": "The paper has no CUHK03. The recipe is the one for Market-1501, which users found too short here.",
        "others": [
            score("not said", 58.0, 56.6, CHECKED, "github.com/mangye16/ReID-Survey, README: BNNeck"),
            score("detected", 61.6, 59.7, CHECKED, f"{LUO}, issue 187: a user, steps 40 and 70"),
            score("labeled", None, 55, CHECKED, f"{LUO}, issue 95: a user, 120 epochs"),
            score("detected", 68.2, 67.1, CHECKED, f"{LUO}, issue 187: the same user, steps 80 and 160"),
            score("labeled", 74.4, 72.7, CHECKED, f"{LUO}, issue 187: lr 4.5e-4, steps 45 and 180, 300 epochs"),
            score(
                "labeled", 75.9, 72.5, CHECKED, "github.com/huangzh13/ReID.template.pytorch, README: its own baseline"
            ),
            score(
                "detected", 71.2, 68.0, CHECKED, "github.com/huangzh13/ReID.template.pytorch, README: its own baseline"
            ),
        ],
    },
    "rga_sc": {
        "paper": "Zhang et al., CVPR 2020",
        "judged": {
            "protocol": "new",
            "rule": MARKET_RULE,
            "metric": "cosine, before the neck (the code prints both)",
            "ap_formula": "trapezoid (the code asks for scikit-learn 0.18.1); reruns by their version of scikit-learn",
        },
        "claims": [
            score("labeled", 81.1, 77.4, CHECKED, f"quoted in {RGA}, issue 9 (rank-1) and pull request 17 (both)"),
            score("detected", 79.6, 74.5, RECALLED, "the paper's table"),
        ],
        "remark": "Scores of 41–42 are what ImageNet weights that were not all loaded would explain.",
        "others": [
            score("labeled", 77.0, 74.8, CHECKED, f"{RGA}, issue 9: the script as it is; after the neck 75.9 / 74.0"),
            score("labeled", 79.6, 77.8, CHECKED, f"{RGA}, pull request 17: a user (beside the labeled scores)"),
            score("labeled", 41.6, 36.7, CHECKED, f"{RGA}, issue 9: another user, batch 32"),
            score("labeled", 41.7, 36.5, CHECKED, f"{RGA}, issue 13: the script's settings, 200 epochs; others agree"),
            score("not said", None, 40, CHECKED, f"{RGA}, issue 4: a user"),
        ],
    },
    "relation": {
        "paper": "Park and Ham, AAAI 2020",
        "judged": {
            "protocol": "new (recalled)",
            "rule": "not known: the released evaluator takes one random image of each person for the rank-1 of any "
            "CUHK03, and the market rule for the mAP",
            "metric": "squared Euclidean with unit norm, which ranks as cosine",
            "ap_formula": "scikit-learn's, version not said",
        },
        "claims": [
            score("labeled", 77.9, 75.6, RECALLED, "the paper's table"),
            score("detected", 74.4, 69.6, RECALLED, "the paper's table"),
        ],
        "remark": "No rerun on CUHK03 was found; the authors' splits for it were never released.",
        "others": [
            score(
                "Market-1501", 94.2, 86.6, CHECKED, f"{RRID}/RRID, issue 2: a user; another data set, below the paper"
            )
        ],
    },
    "mgn": {
        "paper": "Wang et al., ACM Multimedia 2018",
        "judged": {
            "protocol": "new",
            "rule": f"{MARKET_RULE} (recalled)",
            "metric": "not known; no code by the authors",
            "ap_formula": "not known",
        },
        "claims": [
            score("labeled", 68.0, 67.4, CHECKED, "copies of paperswithcode.com at hyper.ai and sotaverified.org"),
            score(
                "detected", 66.8, 66.0, RECALLED, "the paper's table; those copies have the mAP, and 68.0 for rank-1"
            ),
        ],
        "remark": "",
        "others": [
            score(
                "not said",
                None,
                None,
                CHECKED,
                "github.com/GNAYUOHZ/ReID-MGN, issue 6: much higher than the paper, no number; perhaps the metric",
            )
        ],
    },
}
"""Rank-1 and mAP in percent on CUHK03's new protocol, without re-ranking."""

IMAGENET_STEP = 12.149538816e9
"""Multiply-adds of a ResNet-50 training step for one 224×224 image, counted as those of the networks are."""
CARDS: dict[str, dict[str, float]] = {
    "A100": {"half": 2470, "float32": 938, "recipe": 13_000 * 120 / (1.25 * 3600)},
    "V100": {"half": 1200, "float32": 367, "recipe": 13_000 * 120 / (2.5 * 3600)},
}
"""Images a second that others measured while training a ResNet-50 on one card.

"half" and "float32": 224×224, NVIDIA/DeepLearningExamples, ResNet50 v1.5 for PyTorch, container 21.03, one A100 80 GB
(mixed precision, TF32) and one V100 16 GB (mixed precision, FP32). "recipe": NVIDIA's documentation of TAO's
ReIdentificationNet, which is the bnneck recipe at 256×128: 13,000 images, 120 epochs, about 1.25 hours on an A100 and
2.5 on a GV100; it does not say in which precision.
"""
MEMORY_FACTOR, MEMORY_FIXED = 1.3, 1e9
"""What was measured over what was counted (results/rga_sizes.json: 1.2 and 1.3), and CUDA's own needs."""


def shape_only(mode: FakeTensorMode, network: nn.Module) -> nn.Module:
    """Leave a network's shapes, take its numbers away; MGN, which copies its stages, cannot be built in that mode."""
    return network._apply(mode.from_tensor)


def count(preset: str) -> dict[str, float]:
    """Count multiply-adds, bytes read and written, and bytes kept for the backward pass, of an image in a step."""
    built = NETWORKS[preset](PEOPLE, "resnet50").train()
    batch = 8
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        network = shape_only(mode, built)
        images = torch.zeros(batch, 3, network.height, network.width)
        work = count_work(lambda: _sum(network(images).values()).backward())
        found: dict[str, float] = {
            "height": network.height,
            "width": network.width,
            "parameters": sum(p.numel() for p in network.parameters()),
            "multiply_adds": work.multiply_adds / batch,
            "pass_bytes": work.pass_bytes / batch,
        }
        for name, precision in (("float32", None), ("half", torch.bfloat16)):
            one = saved_bytes(network, lambda p=precision: network(images, p))
            two = saved_bytes(network, lambda p=precision: network(torch.cat([images, images]), p))
            found |= {f"kept_{name}": (two - one) / batch, f"kept_once_{name}": 2 * one - two}
    return found


def _sum(outputs: Iterable[Tensor]) -> Tensor:
    return sum(value.sum() for value in outputs)


def estimate(preset: str, counted: dict[str, float], reference: dict[str, float]) -> dict[str, Any]:
    """Turn counts into hours and memory.

    Args:
        counted: what `count` found.
        reference: the same of bnneck, which the "recipe" speeds of `CARDS` belong to.

    Returns:
        For each card and precision the fewest and the most hours to expect; memory in bytes for the whole batch.
    """
    settings = PRESETS[preset]
    batch = settings["identities_per_batch"] * settings["images_per_identity"]
    images = settings["iterations"] * batch
    heavier = max(counted[key] / reference[key] for key in ("multiply_adds", "pass_bytes"))
    hours, memory = {}, {}
    for card, speed in CARDS.items():
        for name in ("half", "float32"):
            quick = images / speed[name] * counted["multiply_adds"] / IMAGENET_STEP / 3600
            slow = images / speed["recipe"] * heavier / 3600
            hours[f"{card}, {name}"] = sorted([quick, max(quick, slow)])
    states = 4 * counted["parameters"] * (4 if settings["optimizer"] == "adam" else 3)  # weights, gradients, moments
    for name in ("half", "float32"):
        kept = batch * counted[f"kept_{name}"] + counted[f"kept_once_{name}"]
        memory[name] = MEMORY_FACTOR * (kept + states) + MEMORY_FIXED
    return {"never_run": True, "images": images, "hours": hours, "memory_bytes": memory, "counted": counted}


def recipe(preset: str) -> dict[str, Any]:
    """The famous line: epochs = iterations = passes."""
    epochs, length = RECIPE_EPOCHS[preset]
    drawn = PRESETS[preset]["iterations"] * PRESETS[preset]["identities_per_batch"] * 4
    return {
        "epochs": epochs,
        "iterations_per_epoch": length,
        "iterations": PRESETS[preset]["iterations"],
        "passes": drawn / IMAGES["labeled"],
    }


def command(preset: str, box: str) -> str:
    return f"reidlab train DATA_DIR --box {box} --preset {preset} --out runs/{preset}_{box} --device cuda --workers 4"


def empty(preset: str) -> dict[str, Any]:
    """Our cells, before anybody has run anything."""
    return {box: {"rank1": None, "mean_ap": None, "runs": [], "command": command(preset, box)} for box in IMAGES}


def run_of(folder: Path) -> tuple[str, str, dict[str, Any]]:
    """Read preset, box and scores of a run.

    Raises:
        ValueError: it was on other data than real CUHK03 under the new protocol, was scored by another rule, or is
            another recipe than its preset.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    record = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["last"]
    expected = {"dataset": "CUHK03", **OURS}
    wrong = [
        f"{key} {record.get(key)!r}, expected {value!r}" for key, value in expected.items() if record.get(key) != value
    ]
    preset = config["preset"]
    if wrong or preset not in NETWORKS:
        raise ValueError(f"{folder}: " + ("; ".join(wrong) or f"preset {preset!r}, expected {', '.join(NETWORKS)}"))
    wanted = flat_settings(dataclasses.asdict(TrainConfig.preset(preset)))
    changed = {key: value for key, value in flat_settings(config["config"]).items() if wanted.get(key) != value}
    if other := sorted(set(changed) - set(FREE)):
        raise ValueError(f"{folder}: differs from preset {preset!r} in {', '.join(other)}; that is another recipe")
    kept = ("rank1", "mean_ap", "mean_ap_trapezoid", "seconds", "date", "hardware", "versions")
    return (
        preset,
        record["box"],
        {key: record.get(key) for key in kept} | {"seed": config["config"]["seed"], "changed": changed},
    )


def fill(ours: dict[str, Any], box: str, run: dict[str, Any]) -> None:
    """Put a run into our cell, in place of one with the same seed, and average again."""
    cell = ours[box]
    cell["runs"] = sorted(
        [one for one in cell["runs"] if one["seed"] != run["seed"]] + [run], key=lambda one: one["seed"]
    )
    for key in ("rank1", "mean_ap"):
        cell[key] = statistics.mean(one[key] for one in cell["runs"])


# --- the page ------------------------------------------------------------------------------------------------------

INTRODUCTION = """# Reproducing the papers on CUHK03

**Nobody here has run these presets on real CUHK03.** The data could not be had where this was written, and there was no
GPU. Our own cells are empty until somebody runs the commands below; then
`python benchmarks/reproduction.py --fill runs/NAME` writes a run's scores into this page.

Rank-1 / mAP in percent on the new protocol (767 people to train on, 700 to search), without re-ranking. *c*: read in
the source named (checked). *r*: from memory of the paper (recalled): look it up before you quote it. Ours will be
market rule, cosine distance, AP by the step formula. The trapezoid formula gives 1.5 to 2.7 points less mAP on this
data (github.com/JDAI-CV/fast-reid, issue 18), so that a paper's mAP need not mean ours; a run of ours records both.
"""

ESTIMATES = """
## What a run costs: estimates, never run

Counted from shapes: multiply-adds of a training step, the bytes it reads and writes, and what it keeps for the backward
pass. Hours from … to: the low end takes the speed of NVIDIA's own ResNet-50 training on ImageNet on that card, by the
ratio of multiply-adds; the high end the time NVIDIA documents for its port of the bnneck recipe (precision not said),
by the ratio of multiply-adds or of bytes, whichever is larger (the V100's is that of a GV100). `half` is bfloat16 on
the A100 and float16 on the V100; `float32` on the A100 is what torch does by default, TF32 in convolutions. Reading
images and the evaluations in between come on top. Memory is for the whole batch of 64 on one card: counted bytes,
weights, gradients and the optimizer's moments, times 1.3, and 1 GB for CUDA; `microbatch_size` makes it smaller. The
speeds are from github.com/NVIDIA/DeepLearningExamples (ResNet50 v1.5 for PyTorch) and docs.nvidia.com/tao
(ReIdentificationNet).

Measure before you trust it: `--dry-run` times a few steps on your card.
"""


def pair(one: dict[str, Any]) -> str:
    """One quoted score as text; whole numbers are what the source calls about that."""
    numbers = [one[key] for key in ("rank1", "mean_ap")]
    texts = ["–" if n is None else f"about {n}" if isinstance(n, int) else f"{n:.1f}" for n in numbers]
    return f"{' / '.join(texts)} *{one['status'][0]}*"


def ours_text(cell: dict[str, Any]) -> str:
    if not cell["runs"]:
        return "empty"
    spread = [
        f"{100 * cell[key]:.1f}"
        + (f" ± {100 * statistics.stdev(run[key] for run in cell['runs']):.1f}" if len(cell["runs"]) > 1 else "")
        for key in ("rank1", "mean_ap")
    ]
    return f"{' / '.join(spread)} ({len(cell['runs'])} runs)"


def score_rows(record: dict[str, Any]) -> list[str]:
    rows = ["", "| preset | boxes | the paper | others got | ours |", "|---|---|---|---|---|"]
    for name, one in record["presets"].items():
        for box in IMAGES:
            claims = "; ".join(pair(claim) for claim in one["claims"] if claim["box"] == box) or "no CUHK03"
            boxes = (box, "not said") if box == "labeled" else (box,)
            others = "; ".join(
                pair(other) + (", box not said" if other["box"] == "not said" else "")
                for other in one["others"]
                if other["box"] in boxes and (other["rank1"] or other["mean_ap"])
            )
            rows.append(f"| `{name}` | {box} | {claims} | {others or 'none found'} | {ours_text(one['ours'][box])} |")
    return rows


def detail_rows(record: dict[str, Any]) -> list[str]:
    rows = ["", "## Where the numbers are from", ""]
    for name, one in record["presets"].items():
        judged = "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in one["judged"].items())
        length = one["recipe"]
        rows += [
            f"**`{name}`** ({one['paper']}): {length['epochs']} epochs of {length['iterations_per_epoch']} = "
            f"{length['iterations']:,} iterations = {length['passes']:.0f} passes. {judged}. {one['remark']}".rstrip(),
            "",
            *(f"- paper, {claim['box']}: {pair(claim)}, {claim['source']}" for claim in one["claims"]),
            *(f"- others, {other['box']}: {pair(other)}, {other['source']}" for other in one["others"]),
            "",
        ]
    return rows[:-1]


def cost_rows(record: dict[str, Any]) -> list[str]:
    cards = [f"{card}, {name}" for card in CARDS for name in ("half", "float32")]
    head = ["preset", "image", "G multiply-adds", *(f"{card}: hours" for card in cards), "GB half", "GB float32"]
    rows = ["", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, one in record["presets"].items():
        guess, counted = one["estimate"], one["estimate"]["counted"]
        hours = [" – ".join(f"{value:.1f}" for value in guess["hours"][card]) for card in cards]
        size = f"{counted['height']}×{counted['width']}"
        memory = [f"{guess['memory_bytes'][key] / 1e9:.0f}" for key in ("half", "float32")]
        work = f"{counted['multiply_adds'] / 1e9:.1f}"
        rows.append(f"| {' | '.join([f'`{name}`', size, work, *hours, *memory])} |")
    return rows


def command_rows(record: dict[str, Any]) -> list[str]:
    commands = [cell["command"] for one in record["presets"].values() for cell in one["ours"].values()]
    return ["", "## The commands", "", "```", *commands, "```", ""]


def markdown(record: dict[str, Any]) -> str:
    """The page for results/reproduction.md."""
    lines = [
        *score_rows(record),
        *detail_rows(record),
        ESTIMATES.rstrip("\n"),
        *cost_rows(record),
        *command_rows(record),
    ]
    return INTRODUCTION + "\n".join(lines)


def collect(old: dict[str, Any]) -> dict[str, Any]:
    """Return the whole record; our cells are taken over from an earlier one."""
    counted = {name: count(name) for name in NETWORKS}
    presets = {}
    for name in NETWORKS:
        ours = old.get("presets", {}).get(name, {}).get("ours") or empty(name)
        guess = estimate(name, counted[name], counted["bnneck"])
        presets[name] = {**REPORTED[name], "recipe": recipe(name), "ours": ours, "estimate": guess}
    return {
        "status": "Nobody here has run these presets on real CUHK03: our cells are empty, the costs are estimates.",
        "ours_are": {"dataset": "CUHK03", **OURS},
        "speeds": {
            "images_per_second": CARDS,
            "imagenet_step_multiply_adds": IMAGENET_STEP,
            "half, float32": "github.com/NVIDIA/DeepLearningExamples, ResNet50 v1.5 for PyTorch, README",
            "recipe": "docs.nvidia.com/tao, ReIdentificationNet: training times",
        },
        "presets": presets,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fill", nargs="*", type=Path, default=[], metavar="RUN")
    parser.add_argument("--into", type=Path, default=RESULTS)
    options = parser.parse_args()
    runs = [run_of(folder) for folder in options.fill]  # refused before anything is written
    path = options.into / "reproduction.json"
    record = collect(json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {})
    for preset, box, run in runs:
        fill(record["presets"][preset]["ours"], box, run)
    write_json(path, record | circumstances())
    path.with_suffix(".md").write_text(markdown(record), encoding="utf-8")
    print(markdown(record))


if __name__ == "__main__":
    main()
