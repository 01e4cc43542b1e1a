"""What the parts of a recipe or of a network are worth on Walkers `small`: one left out or changed at a time.

    python benchmarks/network_variants.py attention|relation|ingredients [VARIANT ...] [--data FOLDER] [--seeds 0 1 2]
        [--iterations 250] [--into FILE]

Every run trains the small backbone from random weights with the preset "laptop" (16 people × 4 images a batch, 250
batches) and one change. "attention" works on 128×64 images and searches with the feature before and the one after the
batch-norm neck; "relation", with MGN beside it, on 192×64 images and with mirror images; "ingredients" is the baseline
of the preset itself, also begun from the backbone of the shipped weights, read whole or by a loop that gives up too
early. Rows go into results/FAMILY_variants.json, in place of older ones of the same variant and seed; a table is
printed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reidlab.data import CUHK03
from reidlab.data.dataset import class_labels
from reidlab.evaluation import evaluate_model
from reidlab.files import write_json
from reidlab.models import Baseline, RGANet
from reidlab.models.relation import TERM_GROUPS
from reidlab.models.tensors import BATCH_COUNTER
from reidlab.results import circumstances
from reidlab.training import TrainConfig, train
from reidlab.walkers import World

RESULTS = Path(__file__).resolve().parents[1] / "results"
RGA: dict[str, Any] = {"model": "rga"}
HALF: dict[str, Any] = {**RGA, "gate_init": "half"}
RELATION: dict[str, Any] = {"model": "relation"}


def without(*groups: str) -> dict[str, Any]:
    return {**RELATION, "terms": tuple(group for group in TERM_GROUPS if group not in groups)}


VARIANTS: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "attention": {
        "none": ("no attention", {**RGA, "spatial": False, "channel": False}),
        "spatial": ("RGA-S, gates start at random", {**RGA, "channel": False}),
        "channel": ("RGA-C, gates start at random", {**RGA, "spatial": False}),
        "both": ("RGA-SC, gates start at random: as published", RGA),
        "spatial-half": ("RGA-S, gates start at 1/2", {**HALF, "channel": False}),
        "channel-half": ("RGA-C, gates start at 1/2", {**HALF, "spatial": False}),
        "both-half": ("RGA-SC, gates start at 1/2", HALF),
    },
    "relation": {
        "full": ("relation network as published", RELATION),
        "plain": ("no one-vs-rest, global maximum", {**RELATION, "one_vs_rest": False, "pooling": "max"}),
        "no-one-vs-rest": ("no one-vs-rest", {**RELATION, "one_vs_rest": False}),
        "average": ("global average instead of GCP", {**RELATION, "pooling": "average"}),
        "maximum": ("global maximum instead of GCP", {**RELATION, "pooling": "max"}),
        "paper-contrast": ("GCP with the contrast of the paper's text", {**RELATION, "contrast": "paper"}),
        "no-triplet": ("without the 15 triplet losses", without("triplet")),
        "no-relational": ("without the 12 relational classifiers", without("relational")),
        "no-local-rest": ("without the 24 local and rest classifiers", without("local", "rest")),
        "no-global": ("without the 9 global classifiers", without("global")),
        "mgn": ("MGN", {"model": "mgn"}),
    },
    "ingredients": {
        "laptop": ("all of them: the preset laptop", {}),
        "no-neck": ("no batch-norm neck", {"neck": False}),
        "no-smoothing": ("no label smoothing", {"label_smoothing": 0.0}),
        "no-erasing": ("no random erasing", {"erasing": 0.0}),
        "no-warmup": ("no warm-up", {"warmup": 0.0}),
        "no-triplet": ("no triplet loss", {"metric_loss": None}),
        "8x8": ("8 people × 8 images a batch", {"identities_per_batch": 8, "images_per_identity": 8}),
        "32x2": ("32 people × 2 images a batch", {"identities_per_batch": 32, "images_per_identity": 2}),
        "8x4": ("8 people × 4 images: half the batch", {"identities_per_batch": 8}),
        "shipped": ("begun from the shipped backbone, all tensors", {}),
        "shipped-stopped": ("the same, a loop that stops at each counter", {}),
    },
}


def first_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a loop around each stage copies if the first batch counter ends it: the fault of lesson 06."""
    copied, ended = {}, set()
    for name, tensor in state.items():
        stage = ".".join(name.split(".")[:2]) if name.startswith("stages") else "stem"
        if name.endswith(BATCH_COUNTER):
            ended.add(stage)
        elif stage not in ended:
            copied[name] = tensor
    return copied


def begun(name: str, config: TrainConfig, data: CUHK03) -> tuple[Baseline | None, int | None]:
    """Return the network of a variant that begins with shipped weights, and how many tensors it took over."""
    if not name.startswith("shipped"):
        return None, None
    torch.manual_seed(config.seed)
    model, state = Baseline(len(class_labels(data.train))), Baseline.pretrained().backbone.state_dict()
    copied = state if name == "shipped" else first_tensors(state)
    model.backbone.load_state_dict(model.backbone.state_dict() | copied)
    return model, sum(not key.endswith(BATCH_COUNTER) for key in copied)


def run(family: str, name: str, seed: int, iterations: int, data: CUHK03) -> dict[str, Any]:
    what, settings = VARIANTS[family][name]
    config = TrainConfig.preset("laptop", seed=seed, iterations=iterations, **settings)
    model, loaded = begun(name, config, data)
    trained = train(config, data, model=model)
    scores = {}
    attends = isinstance(trained.model, RGANet)
    for where, feature in (
        {"features": "before_bn", "embedding": "after_bn"}.items() if attends else [("embedding", "")]
    ):
        trained.model.retrieval_feature = feature
        result = evaluate_model(trained.model, data)
        scores[where] = {"rank1": result.rank1, "mean_ap": result.mean_ap}
    about = {key: result.scores()[key] for key in ("rule", "metric", "ap_formula")}
    about |= {"dataset": data.name, "box": data.box, "protocol": data.protocol}
    row = {"variant": name, "what": what, "seed": seed, "iterations": iterations, "settings": settings}
    row |= {"config": dataclasses.asdict(trained.config), "scores": scores, "history": trained.history[-1:]}
    row |= {} if loaded is None else {"tensors_loaded": loaded}
    row |= {"parameters": sum(p.numel() for p in trained.model.parameters()), "seconds": trained.seconds} | about
    command = f"python benchmarks/network_variants.py {family} {name} --seeds {seed} --iterations {iterations}"
    return row | {"circumstances": circumstances() | {"command": command}}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and spread over the seeds, in percent, in the order of the rows."""
    lines = []
    for name, where in dict.fromkeys((row["variant"], where) for row in rows for where in row["scores"]):
        own = [row for row in rows if row["variant"] == name]
        cells = []
        for score in ("rank1", "mean_ap"):
            values = [100 * row["scores"][where][score] for row in own]
            spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
            cells.append(f"{np.mean(values):5.1f} ± {spread:3.1f}")
        lines.append(f"{own[0]['what']:<44} {where:<10} {len(own)}  {'   '.join(cells)}")
    return "\n".join([f"{'':<44} {'search by':<10} n  rank-1        mAP", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=VARIANTS)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="all of the family if none is named")
    parser.add_argument("--data", type=Path, default=Path("data/walkers-small"), help="the folder of the world")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=250)
    parser.add_argument("--into", type=Path, help="the record; results/FAMILY_variants.json if not given")
    options = parser.parse_args()
    there = VARIANTS[options.family]
    if unknown := [name for name in options.variants if name not in there]:
        parser.error(f"unknown variant {', '.join(unknown)}; there are {', '.join(there)}")
    record = options.into or RESULTS / f"{options.family}_variants.json"
    data = CUHK03(World.preset("small").write(options.data), box="labeled", protocol="new")
    for seed in options.seeds:
        for name in options.variants or there:
            row = run(options.family, name, seed, options.iterations, data)
            rows = json.loads(record.read_text())["rows"] if record.exists() else []
            rows = [old for old in rows if (old["variant"], old["seed"]) != (name, seed)] + [row]
            order = {key: number for number, key in enumerate(there)}
            write_json(record, {"rows": sorted(rows, key=lambda row: (order[row["variant"]], row["seed"]))})
            print(f"seed {seed}, {name}, {row['seconds']:.0f} s: {row['scores']}", flush=True)
    print(table(json.loads(record.read_text())["rows"]))


if __name__ == "__main__":
    main()
