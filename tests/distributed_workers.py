"""What the processes of test_distributed.py do, each with its place in the environment."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import reidlab.distributed
from reidlab.distributed import Processes, process_group
from reidlab.errors import ProcessError

if TYPE_CHECKING:  # most jobs need neither images nor networks, and importing those takes seconds
    from reidlab.data.records import Splits
    from reidlab.evaluation import Evaluation
    from reidlab.features import Features

SIZES = (1, 2, 7)
"""Queries to embed: fewer than two processes, as many, and not a multiple."""


def block(rank: int, rows: int, *rest: int) -> torch.Tensor:
    """Rows that no other rank has."""
    return torch.randn(rows, *rest, generator=torch.Generator().manual_seed(rank))


def gradients(rank: int) -> list[torch.Tensor]:
    """Tensors as a model has them: weights that need a gradient, in two layouts and dtypes, and a counter."""
    return [
        torch.nn.Parameter(block(rank, 4, 3, 2, 2).to(memory_format=torch.channels_last)),
        block(rank + 10, 5).double(),
        torch.nn.Parameter(block(rank + 20, 3)),
        block(rank + 30, 2, 4).t(),
        torch.tensor(7 + rank),
        torch.tensor(0.5 * rank),
    ]


def failure(attempt: Any) -> str:
    """What an attempt that must fail says."""
    try:
        attempt()
    except ValueError as error:
        return str(error)
    return "no error"


def meet(processes: Processes) -> dict[str, Any]:
    """Every kind of meeting, also with parcels so small that there are several, and an evaluation."""
    found: dict[str, Any] = {"processes": (processes.rank, processes.size, processes.is_first)}
    found["uneven"] = processes.gather(block(processes.rank, 1 + 2 * processes.rank, 3))
    found["none in the first"] = processes.gather(block(processes.rank, processes.rank, 2, 2))
    found["labels"] = processes.gather(torch.arange(processes.rank + 1))
    found["learned"] = processes.gather(torch.ones(1, 1, requires_grad=True) * 2)
    found["objects"] = processes.gather_objects({"rank": processes.rank, "name": "n" * processes.rank})
    for bucket in (2**24, 7):
        reidlab.distributed.BUCKET = bucket
        summed, averaged = gradients(processes.rank), gradients(processes.rank)[:4]
        layout = [tensor.stride() for tensor in summed]
        processes.sum_(summed)
        processes.mean_(averaged)
        assert [tensor.stride() for tensor in summed] == layout
        found[f"sum {bucket}"] = [tensor.detach() for tensor in summed]
        found[f"mean {bucket}"] = [tensor.detach() for tensor in averaged]
    processes.sum_([])
    found["no rows"] = failure(lambda: processes.gather(torch.tensor(1.0)))
    found["other rows"] = failure(lambda: processes.gather(torch.ones(2, 3 + processes.rank)))
    found["whole numbers"] = failure(lambda: processes.mean_([torch.tensor(1)]))
    found["twice"] = failure(lambda: process_group().__enter__())
    time.sleep(0.5 * processes.rank)
    found["came at"] = time.time()
    processes.check_alive()
    found["met at"] = time.time()
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
    from reidlab.features import evaluate_model, extract_features
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


def lost(processes: Processes) -> dict[str, Any]:
    """The last process is killed between two meetings."""
    for meeting in range(100):
        processes.gather(torch.ones(3))
        if meeting == 2 and processes.rank == processes.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
    return {}


def broken(processes: Processes) -> dict[str, Any]:
    """The last process meets bad data while the others wait for it."""
    if processes.rank == processes.size - 1:
        raise ValueError("picture 7 is broken")
    processes.check_alive()
    return {}


def stuck(processes: Processes) -> dict[str, Any]:
    """The last process is there, and does not answer."""
    if processes.rank == processes.size - 1:
        time.sleep(60)
    processes.check_alive()
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
