"""What the processes of test_distributed.py do, each with its place in the environment."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from reidlab.distributed import Processes, process_group
from reidlab.errors import ProcessError
from reidlab.models import ReIDModel
from reidlab.training import TrainConfig
from reidlab.training.optimizing import new_optimizer
from reidlab.training.step import Step

if TYPE_CHECKING:
    from reidlab.data.records import Splits
    from reidlab.evaluation import Evaluation, Features

SIZES = (1, 2, 7)
"""Queries to embed: fewer than two processes, as many, and not a multiple."""


def block(rank: int, rows: int, *rest: int) -> torch.Tensor:
    """Rows that no other rank has."""
    return torch.randn(rows, *rest, generator=torch.Generator().manual_seed(rank))


def buffers(rank: int) -> list[torch.Tensor]:
    """Tensors as a model has them: in two layouts and dtypes, and a number."""
    channels_last = block(rank, 4, 3, 2, 2).to(memory_format=torch.channels_last)
    return [channels_last, block(rank + 10, 5).double(), block(rank + 20, 2, 4).t(), torch.tensor(0.5 * rank)]


def meet(processes: Processes) -> dict[str, Any]:
    """Every kind of collective, and an evaluation."""
    rank = processes.rank
    found: dict[str, Any] = {"processes": (rank, processes.size, processes.is_first)}
    found["uneven"] = processes.gather(block(rank, 1 + 2 * rank, 3))
    found["none in the first"] = processes.gather(block(rank, rank, 2, 2))
    found["labels"] = processes.gather(torch.arange(rank + 1))
    found["learned"] = processes.gather(torch.ones(1, 1, requires_grad=True) * 2)
    rows = block(rank, 2, 3).t().requires_grad_()
    found["batch"] = processes.gather_batch(rows)
    (found["batch"] ** 3).sum().backward()
    found["gradient"] = rows.grad
    found["objects"] = processes.gather_objects({"rank": rank, "name": "n" * rank})
    found["of the first"] = processes.broadcast(f"thing {rank}")
    averaged = buffers(rank)
    layout = [tensor.stride() for tensor in averaged]
    processes.average_(averaged)
    processes.average_([])
    assert [tensor.stride() for tensor in averaged] == layout
    found["mean"] = averaged
    try:
        with process_group():
            pass
    except ValueError as error:
        found["twice"] = str(error)
    for count in SIZES:
        found[f"scores {count}"] = plain(*scores(processes, count))
    return found


def people(count: int) -> Splits:
    """A data set of `count` queries, and two images in the gallery for each."""
    from conftest import Colours

    from reidlab.data.records import Record, Splits

    records = [[Record(f"{p}_{i}", p, 1 + i % 2, Colours()) for i in range(3)] for p in range(count)]
    query, gallery = [person[0] for person in records], [r for person in records for r in person[1:]]
    return Splits("colours", "as given", "all", train=[], query=query, gallery=gallery)


def scores(processes: Processes, count: int) -> tuple[Features, Evaluation]:
    """Features of the queries of `people`, and the scores, of a network that is the same everywhere."""
    from reidlab.evaluation import evaluate_model, extract_features
    from reidlab.models import Baseline

    torch.manual_seed(0)
    model = Baseline(2)
    data = people(count)
    return extract_features(model, data.query, batch_size=2, processes=processes), evaluate_model(
        model, data, processes=processes
    )


def plain(found: Features, result: Evaluation) -> dict[str, Any]:
    """Tensors and numbers of a result of `scores`."""
    ids = {"pids": found.pids.tolist(), "camids": found.camids.tolist()}
    return {"features": found.features, **ids, "rank1": result.rank1, "mean_ap": result.mean_ap}


class Learned(ReIDModel):
    """Without batch norm, so that each process's part of a batch changes nothing; with weights of every kind.

    `margin` is used by the loss alone, `classifier` from the second step on, `idle` never; `fixed` is not trained.
    """

    height, width = 4, 2

    def __init__(self) -> None:
        super().__init__()
        self.fixed = nn.Linear(24, 24)
        self.layer, self.classifier, self.idle = nn.Linear(24, 5), nn.Linear(5, 4), nn.Linear(5, 5)
        self.margin = nn.Parameter(torch.tensor(0.7))
        self.steps = 0
        self.fixed.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = torch.tanh(self.layer(self.fixed(images.flatten(1))))
        return {"features": features, "logits": self.classifier(features), "unread": self.idle(features)}

    def loss(self, outputs: dict, pids: torch.Tensor, generator: object = None) -> dict[str, torch.Tensor]:
        """Pairs of the whole batch, a learned margin, a penalty on weights, and a term that begins later."""
        self.steps += 1
        distances = torch.cdist(outputs["features"], outputs["features"]) + torch.eye(len(pids))
        same = pids[:, None] == pids[None]
        terms = {"pull": distances[same].mean(), "push": F.softplus(self.margin - distances[~same]).mean()}
        terms["penalty"] = 0.1 * self.layer.weight.square().sum() + 0.01 * self.margin.square()
        if self.steps > 1:
            terms["cross_entropy"] = F.cross_entropy(outputs["logits"], pids)
        return terms


def steps(processes: Processes, chunks: Sequence[int] = (0, 2, 3)) -> dict[str, Any]:
    """Gradients and terms of three steps, the weights after them, with whole batches and with parts of them."""
    found: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(5)
    batch = torch.rand(8, 3, 4, 2, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    own = slice(processes.rank * 8 // processes.size, (processes.rank + 1) * 8 // processes.size)
    torch.set_default_dtype(torch.float64)
    for chunk in chunks:
        torch.manual_seed(processes.rank)  # the weights of the first process are those of all
        model = Learned().train()
        settings = {"precision": "float32", "optimizer": "adamw", "max_grad_norm": 0.9, "microbatch_size": chunk}
        config = TrainConfig(identities_per_batch=4, images_per_identity=2, **settings)
        step = Step(model, new_optimizer(model, config), config, processes)
        for number in range(3):
            terms, features, everyone = step(batch[own], labels[own], number, torch.Generator())
            assert everyone.tolist() == labels.tolist() and features.shape == (8, 5)
            grads = {name: p.grad if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
            found[f"{chunk}, {number}"] = {
                "gradients": grads,
                "terms": {name: float(value) for name, value in terms.items()},
            }
        found[f"{chunk}"] = model.state_dict()
    torch.set_default_dtype(torch.float32)
    return found


def lost(processes: Processes) -> dict[str, Any]:
    """The last process is killed between two collectives."""
    for number in range(100):
        processes.gather(torch.ones(3))
        if number == 2 and processes.rank == processes.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return {}


def training_alone(processes: Processes, leave: Callable[[], object]) -> dict[str, Any]:
    """Train, until the last process leaves while the others wait for its gradients."""
    model = Learned().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def loss(outputs: dict[str, torch.Tensor], pids: torch.Tensor) -> torch.Tensor:
        if model.steps == 2 and processes.rank == processes.size - 1:
            leave()
        model.steps += 1
        return outputs["features"].sum()

    step = Step(model, optimizer, TrainConfig(precision="float32"), processes, loss)
    for number in range(5):
        step(torch.rand(4, 3, 4, 2), torch.tensor([0, 0, 1, 1]), number, torch.Generator())
    return {}


def lost_in_training(processes: Processes) -> dict[str, Any]:
    return training_alone(processes, lambda: os.kill(os.getpid(), signal.SIGKILL))


def stuck_in_training(processes: Processes) -> dict[str, Any]:
    return training_alone(processes, lambda: time.sleep(60))


def broken(processes: Processes) -> dict[str, Any]:
    """The last process meets bad data while the others wait for it."""
    if processes.rank == processes.size - 1:
        raise ValueError("picture 7 is broken")
    processes.gather_objects(None)
    return {}


def stuck(processes: Processes) -> dict[str, Any]:
    """The last process is there, and does not answer."""
    if processes.rank == processes.size - 1:
        time.sleep(60)
    processes.gather_objects(None)
    return {}


def main(job: str, folder: str, timeout: str = "60") -> int:
    """Do a job and keep what it found; one line and exit code 1 for what may go wrong."""
    try:
        with process_group(timeout_seconds=float(timeout)) as processes:
            torch.save(globals()[job](processes), Path(folder) / f"{job}{processes.rank}.pt")
    except (ProcessError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
