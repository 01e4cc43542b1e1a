"""How long the batch-hard triplet loss takes, forward and backward, beside pytorch-metric-learning's.

    python benchmarks/batch_hard.py

Euclidean distance, margin 0.3, four images of each identity; there, `BatchHardMiner` and `TripletMarginLoss`. Both get
the same features, in turn, and must come to the same loss and gradient. Prints a table, and writes
results/batch_hard.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from reidlab.files import write_json
from reidlab.losses import triplet_loss
from reidlab.results import circumstances

RESULTS = Path(__file__).resolve().parents[1] / "results"
MARGIN = 0.3
ITEMS = (64, 256, 1024)
DIMENSIONS = (256, 2048)
SECONDS_EACH = 3.0
LEAST_ROUNDS = 15


def theirs() -> Callable[[Tensor, Tensor], Tensor]:
    """Return the loss of pytorch-metric-learning on features that are not normalised, as ours has them."""
    distance = LpDistance(normalize_embeddings=False)
    miner = BatchHardMiner(distance=distance)
    loss = TripletMarginLoss(MARGIN, distance=distance, reducer=MeanReducer())
    return lambda features, pids: loss(features, pids, miner(features, pids))


def step(loss: Callable[[Tensor, Tensor], Tensor], features: Tensor, pids: Tensor) -> tuple[float, float]:
    """Return milliseconds of the loss, and of its gradient."""
    features.grad = None
    start = time.perf_counter()
    value = loss(features, pids)
    middle = time.perf_counter()
    value.backward()
    return 1000 * (middle - start), 1000 * (time.perf_counter() - middle)


def check_same(losses: dict[str, Callable[[Tensor, Tensor], Tensor]], features: Tensor, pids: Tensor) -> None:
    found = []
    for loss in losses.values():
        features.grad = None
        value = loss(features, pids)
        value.backward()
        found.append((value.detach(), features.grad.clone()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def main() -> None:
    losses = {"reidlab": triplet_loss, "pytorch-metric-learning": theirs()}
    print(f"{torch.get_num_threads()} threads, medians in ms, forward + backward")
    rows = []
    for dimensions in DIMENSIONS:
        for items in ITEMS:
            features = torch.randn(items, dimensions, generator=torch.Generator().manual_seed(0)).requires_grad_()
            pids = torch.arange(items) // 4
            check_same(losses, features, pids)
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in losses}
            start = time.perf_counter()
            while len(times["reidlab"]) < LEAST_ROUNDS or time.perf_counter() - start < SECONDS_EACH:
                for name, loss in losses.items():  # in turn, so that a busy moment hits both
                    times[name].append(step(loss, features, pids))
            medians = {name: np.median(values, axis=0) for name, values in times.items()}
            whole = {name: float(np.median(np.sum(values, axis=1))) for name, values in times.items()}
            ratio = whole["reidlab"] / whole["pytorch-metric-learning"]
            shown = ", ".join(f"{name} {m[0]:.2f} + {m[1]:.2f}" for name, m in medians.items())
            print(f"{items:>5} items of {dimensions:>4}: {shown}, ratio {ratio:.2f}")
            rows.append({"items": items, "dimensions": dimensions, "milliseconds": whole, "ratio": ratio})
            rows[-1]["rounds"] = len(times["reidlab"])
    setting = {
        "loss": "batch-hard triplet, euclidean, margin 0.3, 4 images of each identity, forward + backward",
        "threads_used": torch.get_num_threads(),
        "pytorch_metric_learning": version("pytorch-metric-learning"),
    }
    write_json(RESULTS / "batch_hard.json", setting | {"rows": rows} | circumstances())


if __name__ == "__main__":
    main()
