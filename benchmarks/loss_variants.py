"""What each loss of lesson 03 reaches on Walkers `small`: the same network, batches and number of iterations.

    python benchmarks/loss_variants.py [VARIANT ...] [--data FOLDER] [--seeds 0 1 2] [--iterations 250]

Every run trains the preset "laptop" (16 people × 4 images a batch) with one loss in place of the preset's two, from
random weights, and searches with the feature before and the feature after the batch-norm neck, cosine distance.
`works_on` says which of the two the loss works on. Rows go into results/loss_variants.json, in place of older ones of
the same variant and seed; a table is printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from reidlab.data import CUHK03
from reidlab.evaluation import evaluate_model
from reidlab.files import write_json
from reidlab.losses import MININGS
from reidlab.results import circumstances
from reidlab.training import TrainConfig, train
from reidlab.walkers import World

RECORD = Path(__file__).resolve().parents[1] / "results" / "loss_variants.json"
ALONE = {"cross_entropy": False}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cross-entropy": ("classifier alone, no metric loss", {"metric_loss": None}),
    "laptop": ("classifier and batch-hard, margin 0.3: the preset", {}),
    "batch-hard": ("batch-hard, margin 0.3", ALONE),
    "batch-hard-soft": ("batch-hard, soft margin", {**ALONE, "margin": None}),
    "batch-hard-squared": ("batch-hard, soft margin, squared distance", {**ALONE, "margin": None, "metric": "squared"}),
    "batch-hard-cosine": ("batch-hard, margin 0.3, cosine distance", {**ALONE, "metric": "cosine"}),
    "batch-all": ("batch-all, margin 0.3", {**ALONE, "metric_loss": "batch_all"}),
    "batch-all-soft": ("batch-all, soft margin", {**ALONE, "metric_loss": "batch_all", "margin": None}),
    "semi-hard": ("semi-hard, margin 0.3", {**ALONE, "metric_loss": "semi_hard"}),
    "random": ("random triplets, margin 0.3", {**ALONE, "metric_loss": "random"}),
    "relative-distance": ("relative distance comparison, C = -1", {**ALONE, "metric_loss": "relative_distance"}),
    "pull-push": ("pull/push, target -1, first images", {**ALONE, "metric_loss": "pull_push"}),
    "pull-push-all": ("pull/push, target -1, all images", {**ALONE, "metric_loss": "pull_push_all"}),
    "pull-push-zero": ("pull/push, target 0, first images", {**ALONE, "metric_loss": "pull_push_zero"}),
    "pull-push-zero-all": ("pull/push, target 0, all images", {**ALONE, "metric_loss": "pull_push_zero_all"}),
}


class BeforeNeck(nn.Module):
    """Search with what the metric loss works on."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.preprocess = model, model.preprocess

    def embed(self, images: Tensor) -> Tensor:
        """(B, D), the pooled features."""
        return self.model(images)["features"]


def run(name: str, seed: int, iterations: int, data: CUHK03) -> dict[str, Any]:
    what, settings = VARIANTS[name]
    config = TrainConfig.preset("laptop", seed=seed, iterations=iterations, **settings)
    trained = train(config, data)
    scores = {}
    for where, model in (("before", BeforeNeck(trained.model).eval()), ("after", trained.model)):
        result = evaluate_model(model, data)
        scores[where] = {"rank1": result.rank1, "mean_ap": result.mean_ap}
    about = {key: result.scores()[key] for key in ("rule", "metric", "ap_formula")}
    about |= {"dataset": data.name, "box": data.box, "protocol": data.protocol}
    row = {"variant": name, "what": what, "seed": seed, "iterations": iterations, "settings": settings}
    row["config"] = dataclasses.asdict(trained.config)
    row |= {
        "works_on": "before"
        if config.model_args["metric_loss"] in MININGS and not config.model_args["cross_entropy"]
        else "after"
    }
    row |= {"scores": scores, "last_row": trained.history[-1], "seconds": trained.seconds} | about
    command = f"python benchmarks/loss_variants.py {name} --seeds {seed} --iterations {iterations}"
    return row | {"circumstances": circumstances() | {"command": command}}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and spread over the seeds, in percent, best first."""
    lines: list[tuple[float, str]] = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name]
        cells = []
        for where, score in (("before", "rank1"), ("before", "mean_ap"), ("after", "rank1"), ("after", "mean_ap")):
            values = [100 * row["scores"][where][score] for row in own]
            spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
            cells.append((np.mean(values), f"{np.mean(values):5.1f} ± {spread:3.1f}"))
        best = max(cells[0][0], cells[2][0])
        lines.append((best, f"{own[0]['what']:<50} {len(own)}  {'   '.join(text for _, text in cells)}"))
    head = f"{'rank-1 and mAP before | after the neck':<50} n  rank-1        mAP           rank-1        mAP"
    return "\n".join([head, *(line for _, line in sorted(lines, reverse=True))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "variants", nargs="*", metavar="VARIANT", help=f"of {', '.join(VARIANTS)}; all if none is named"
    )
    parser.add_argument("--data", type=Path, default=Path("data/walkers-small"), help="the folder of the world")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=250)
    options = parser.parse_args()
    if unknown := [name for name in options.variants if name not in VARIANTS]:
        parser.error(f"unknown variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    data = CUHK03(World.preset("small").write(options.data), box="labeled", protocol="new")
    for seed in options.seeds:
        for name in options.variants or VARIANTS:
            row = run(name, seed, options.iterations, data)
            rows = json.loads(RECORD.read_text())["rows"] if RECORD.exists() else []
            rows = [old for old in rows if (old["variant"], old["seed"]) != (name, seed)]
            write_json(RECORD, {"rows": [*rows, row]})
            print(f"seed {seed}, {name}, {row['seconds']:.0f} s: {row['scores']}", flush=True)
    print(table(json.loads(RECORD.read_text())["rows"]))


if __name__ == "__main__":
    main()
