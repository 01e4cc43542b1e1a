"""What the processes of test_training_distributed.py do: train together, a run for each of `CONFIGS`."""

from __future__ import annotations

import dataclasses
import functools
import signal
import sys
import time
from pathlib import Path

import torch
from conftest import Colours

from reidlab.data.records import Record, Splits
from reidlab.distributed import Processes, process_group
from reidlab.models.backbones import SmallBackbone
from reidlab.training import RunFolder, TrainConfig, Training, train
from reidlab.training.dry_run import dry_run
from reidlab.walkers import StreetAugmentation

BASE = {"identities_per_batch": 4, "images_per_identity": 2, "iterations": 6, "log_every": 3, "save_every": 3}
BASE |= {"augmentation": "crop", "learning_rate": 1e-4}
CONFIGS: dict[str, TrainConfig] = {
    "crop": TrainConfig().replace(**BASE, margin=2.0, evaluate_every=3),
    "zoom, sgd": TrainConfig().replace(
        **BASE | {"augmentation": "zoom", "margin": 2.0, "optimizer": "sgd", "ema_decay": 0.5, "max_grad_norm": 1.0}
    ),
    "parts": TrainConfig().replace(**BASE, margin=2.0, microbatch_size=2),
    "float16": TrainConfig().replace(**BASE, margin=2.0, precision="float16", microbatch_size=2),
    "pull and push": TrainConfig().replace(**BASE, cross_entropy=False, metric_loss="pull_push_all"),
}


def people() -> Splits:
    records = [[Record(f"{p}_{i}", p, 1 + i % 2, Colours()) for i in range(4)] for p in range(10, 22)]
    train_part, rest = records[:6], records[6:]
    query = [person[0] for person in rest]
    gallery = [record for person in rest for record in person[1:]]
    return Splits("colours", "as given", "halves", [r for person in train_part for r in person], query, gallery)


def one(name: str, folder: Path, processes: Processes, **changes: object) -> dict[str, object]:
    """Train, and return what two ways of training can be compared by."""
    config = CONFIGS[name].replace(**changes)
    result = train(config, people(), run=RunFolder(folder, writes=processes.is_first), processes=processes)
    return {"history": result.history, "evaluations": result.evaluations, "weights": result.model.state_dict()}


def interrupted(folder: Path, processes: Processes) -> dict[str, object]:
    """Interrupt one process only, after the third iteration; go on together."""

    def end(row: dict[str, float]) -> None:
        if row["iteration"] == 3 and "people" not in row:
            signal.raise_signal(signal.SIGINT)

    config, data = CONFIGS["crop"], people()
    try:
        train(config, data, report=end, run=RunFolder(folder, writes=processes.is_first), processes=processes)
        stopped = False
    except KeyboardInterrupt:
        stopped = True
    processes.gather_objects(None)  # the first has written last.pt
    run = RunFolder(folder, resume=True, writes=processes.is_first)
    result = train(config, data, run=run, processes=processes)
    return {"stopped": stopped, "history": result.history, "weights": result.model.state_dict()}


def drawn(processes: Processes) -> dict[str, torch.Tensor]:
    """What each augmentation makes of the same grey images."""
    grey = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = {}
    for augmentation in ("light", "crop", "own"):
        own = StreetAugmentation(64, 32) if augmentation == "own" else None
        setting = {} if own else {"augmentation": augmentation}
        config = TrainConfig(identities_per_batch=2, images_per_identity=2, **setting)
        inputs = Training(config, people(), processes=processes, augment=own).inputs
        kept = inputs.dataset.store.height, inputs.dataset.store.width
        found[augmentation] = inputs._changed(torch.nn.functional.interpolate(grey.float(), kept).byte())
    return found


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
    with process_group("cpu", timeout_seconds=60) as processes:
        found = {name: one(name, folder / name, processes) for name in CONFIGS}
        torch.compile = functools.partial(torch.compile, backend="eager")  # the others need a compiler, and a minute
        found["compiled"] = one("parts", folder / "compiled", processes, compile=True)
        found["dry run"] = dry_run(CONFIGS["parts"], people(), processes=processes).table["steps"]
        found["drawn"] = drawn(processes)
        found["interrupted"] = interrupted(folder / "interrupted", processes)
    torch.save(found, folder / f"{processes.rank}.pt")
