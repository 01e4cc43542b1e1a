"""What the laptop preset reaches on Walkers `small`, and in how many CPU seconds: three seeds of training.

    python benchmarks/baseline_walkers_small.py [--data FOLDER] [--box labeled] [--seeds 0 1 2] [--set NAME=VALUE]

Prints a table and, with the preset's own settings, writes results/baseline_walkers_small_BOX.json.
CPU seconds are those of the whole process while it trains, all threads added up.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import numpy as np

from reidlab.data import CUHK03
from reidlab.evaluation import evaluate_model
from reidlab.files import write_json
from reidlab.results import circumstances, score_record
from reidlab.training import TrainConfig, parse_settings, train
from reidlab.walkers import World

RESULTS = Path(__file__).resolve().parents[1] / "results"


def run(data: CUHK03, config: TrainConfig) -> dict:
    cpu = time.process_time()
    trained = train(config, data)
    cpu = time.process_time() - cpu
    result = evaluate_model(trained.model, data)
    print(f"seed {config.seed}: {cpu:.0f} CPU s, {trained.seconds:.0f} s; {result}", flush=True)
    return score_record(result, data, seeds=[config.seed], seconds=trained.seconds, cpu_seconds=cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder of the world; a temporary one if not given")
    parser.add_argument("--box", default="labeled")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="over the preset; not recorded")
    options = parser.parse_args()
    settings = parse_settings(options.set)
    recipe = {"precision": "float32", **settings}
    with tempfile.TemporaryDirectory() as temporary:
        root = World.preset("small").write(options.data or Path(temporary) / "walkers-small")
        data = CUHK03(root, box=options.box, protocol="new")
        runs = [run(data, TrainConfig.preset("laptop", seed=seed, **recipe)) for seed in options.seeds]
    rank1, mean_ap = [r["rank1"] for r in runs], [r["mean_ap"] for r in runs]
    print(f"rank-1 {np.mean(rank1):.1%} ± {np.std(rank1, ddof=1):.1%}, mAP {np.mean(mean_ap):.1%}")
    if not settings and len(runs) > 1:
        config = dataclasses.asdict(TrainConfig.preset("laptop", precision="float32"))
        record = {key: runs[0][key] for key in ("dataset", "box", "protocol", "rule", "metric", "ap_formula")}
        record |= {"rank1": rank1, "mean_ap": mean_ap, "seeds": options.seeds, "config": config}
        record |= {"cpu_seconds": [r["cpu_seconds"] for r in runs], "seconds": [r["seconds"] for r in runs]}
        path = write_json(RESULTS / f"baseline_walkers_small_{options.box}.json", record | circumstances())
        print(f"written to results/{path.name}")


if __name__ == "__main__":
    main()
