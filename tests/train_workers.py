"""What the processes of test_training_ranks.py do: train together, a run for each of `CONFIGS`."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from pathlib import Path

import torch
from conftest import Colours

from reidlab.data.records import Record, Splits
from reidlab.models.backbones import SmallBackbone
from reidlab.ranks import Ranks, joined
from reidlab.training import RunFolder, TrainConfig, train

BASE = {"identities_per_batch": 4, "images_per_identity": 2, "iterations": 6, "log_every": 3, "save_every": 3}
BASE |= {"augmentation": "crop", "learning_rate": 1e-4}
CONFIGS: dict[str, TrainConfig] = {
    "crop": TrainConfig().replace(**BASE, margin=2.0, evaluate_every=3),
    "zoom, sgd": TrainConfig().replace(
        **BASE | {"augmentation": "zoom", "margin": 2.0, "optimizer": "sgd", "ema_decay": 0.5}
    ),
    "pull and push": TrainConfig().replace(**BASE, cross_entropy=False, metric_loss="pull_push_all"),
}


def people() -> Splits:
    records = [[Record(f"{p}_{i}", p, 1 + i % 2, Colours()) for i in range(4)] for p in range(10, 22)]
    train_part, rest = records[:6], records[6:]
    query = [person[0] for person in rest]
    gallery = [record for person in rest for record in person[1:]]
    return Splits("colours", "as given", "halves", [r for person in train_part for r in person], query, gallery)


def one(name: str, folder: Path, ranks: Ranks, **changes: object) -> dict[str, object]:
    """Train, and return what two ways of training can be compared by."""
    config = CONFIGS[name].replace(**changes)
    result = train(config, people(), run=RunFolder(folder, writes=ranks.is_first), ranks=ranks)
    return {"history": result.history, "evaluations": result.evaluations, "weights": result.model.state_dict()}


def interrupted(folder: Path, ranks: Ranks) -> dict[str, object]:
    """Interrupt one process only, after the third iteration; go on together."""

    def end(row: dict[str, float]) -> None:
        if row["iteration"] == 3 and "people" not in row:
            signal.raise_signal(signal.SIGINT)

    config, data = CONFIGS["crop"], people()
    try:
        train(config, data, report=end, run=RunFolder(folder, writes=ranks.is_first), ranks=ranks)
        stopped = False
    except KeyboardInterrupt:
        stopped = True
    ranks.check_alive()  # the first has written last.pt
    run = RunFolder(folder, resume=True, writes=ranks.is_first)
    result = train(config, data, run=run, ranks=ranks)
    return {"stopped": stopped, "history": result.history, "weights": result.model.state_dict()}


def slowly(folder: Path, options: tuple[str, ...]) -> None:
    """Train, and wait after the sixth iteration if told to be slow; `told` gets each iteration, `history` the end."""
    told = folder.with_suffix(".told")
    config = TrainConfig(identities_per_batch=4, images_per_identity=2, iterations=12, log_every=1, save_every=4)

    def tell(row: dict[str, float]) -> None:
        with told.open("a") as file:
            file.write(f"{row['iteration']}\n")
        if row["iteration"] >= 6 and "slow" in options:
            time.sleep(60)

    SmallBackbone.height, SmallBackbone.width = 32, 16
    data = dataclasses.replace(people(), query=[], gallery=[])
    result = train(config, data, report=tell, run=RunFolder(folder, resume="resume" in options))
    folder.with_suffix(".history").write_text(str(result.history))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    SmallBackbone.height, SmallBackbone.width = 64, 32  # as the fixture half_size
    with joined("cpu", timeout_seconds=60) as ranks:
        found = {name: one(name, folder / name, ranks) for name in CONFIGS}
        found["interrupted"] = interrupted(folder / "interrupted", ranks)
    torch.save(found, folder / f"{ranks.rank}.pt")
