"""A real step of each paper's preset at its true sizes: does it run, how long does it take, how much memory.

    python benchmarks/preset_steps.py [PRESET ...] [--data FOLDER] [--precisions float32 bfloat16] [--microbatch 0]
        [--into FILE]

The presets are those of the papers (bnneck, rga_sc, relation, mgn) with random weights in place of ImageNet's: 64
images of 256×128 or 384×128 pixels, classifiers of 767 people, the preset's own augmentation, losses and optimizer.
Each row is a process of its own, which takes two steps, since the optimizer's moments are there from the second on. All
terms of the loss must be finite, and all weights that are trained must get a finite gradient.

Seconds of a core are what a step takes with one thread on a free machine; seconds of the clock are longer where others
work, too. Memory is the peak of the process's resident memory less that before the network was made (Linux). With
--microbatch 32 or 16 fewer images at a time go through the network, for machines with less memory; the row says so.

Images are those of the embedded world in the size of CUHK03, written to FOLDER if it is not there (a few minutes,
2 GB). About ten minutes on a free core. Rows go into results/preset_steps.json in place of older ones of the same
preset and precision; a table is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from reidlab.data import CUHK03
from reidlab.data.records import Splits
from reidlab.files import write_json
from reidlab.models import Baseline
from reidlab.results import circumstances
from reidlab.training import TrainConfig, Training
from reidlab.walkers import World

RESULTS = Path(__file__).resolve().parents[1] / "results"
PAPERS = ("bnneck", "rga_sc", "relation", "mgn")
GB = 10**9


def row_of(preset: str, precision: str, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, preset, "--precisions", precision, "--data", str(arguments.data)]
    command += ["--microbatch", str(arguments.microbatch), "--run"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    return {"preset": preset, "precision": precision, "microbatch_size": arguments.microbatch} | json.loads(
        done.stdout.splitlines()[-1]
    )


def run(config: TrainConfig, data: Splits) -> dict[str, Any]:
    """Take two steps, and see what they take."""
    small = Baseline(2)  # what is loaded at the first step is not the network's
    sum(small.loss(small(torch.rand(4, 3, 128, 64)), torch.tensor([0, 0, 1, 1])).values()).backward()
    del small
    before = status("VmRSS")
    training = Training(config, data)
    batches = training.inputs.after(0)
    seconds, worked, preparing, losses = [], [], [], []
    for iteration in (1, 2):
        start = time.perf_counter()
        images, labels = next(batches)
        ready, work = time.perf_counter(), time.process_time()
        terms, features, _ = training.step(images, labels, iteration, training.chance)
        seconds.append(time.perf_counter() - ready)
        worked.append(time.process_time() - work)
        preparing.append(ready - start)
        losses.append({name: float(value) for name, value in terms.items()})
        check(training, losses[-1], features)
        training.schedule.step()
    trained = [p for p in training.model.parameters() if p.requires_grad]
    return {
        "batch": len(labels),
        "height": training.model.height,
        "width": training.model.width,
        "identities": len(training.inputs.sampler.indices),
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "optimizer": config.optimizer,
        "image_shape": list(images.shape),
        "people_in_batch": len(labels.unique()),
        "seconds": seconds,
        "processor_seconds": worked,
        "batch_seconds": preparing,
        "loss": [sum(terms.values()) for terms in losses],
        "terms": len(losses[0]),
        "tensors_trained": len(trained),
        "peak_bytes": status("VmHWM") - before,
        "process_peak_bytes": status("VmHWM"),
    }


def check(training: Training, terms: dict[str, float], features: torch.Tensor) -> None:
    """Refuse what a number in a table would hide."""
    wrong = [f"the loss {name} is {value}" for name, value in terms.items() if not math.isfinite(value)]
    if not torch.isfinite(features).all():
        wrong.append("features are not finite")
    for name, parameter in training.model.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            wrong.append(f"{name} got no gradient")
        elif parameter.requires_grad and not torch.isfinite(parameter.grad).all():
            wrong.append(f"the gradient of {name} is not finite")
    if wrong:
        raise SystemExit(f"{len(wrong)} faults: {'; '.join(wrong[:5])}")


def status(name: str) -> int:
    """Bytes, from /proc: `resource.getrusage` would count what the parent had in memory when it started this one."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def print_row(row: dict[str, Any]) -> None:
    size = f"{row['batch']} × {row['height']}×{row['width']}" + (
        f", microbatches of {row['microbatch_size']}" if row["microbatch_size"] else ""
    )
    seconds = f"{row['seconds'][-1]:.0f} s, {row['processor_seconds'][-1]:.0f} s of a core"
    print(
        f"{row['preset']:<9} {row['precision']:<9} {size:<24} {seconds:<23} loss {row['loss'][0]:.3f} ({row['terms']} "
        f"terms), {row['peak_bytes'] / GB:.2f} GB",
        flush=True,
    )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("presets", nargs="*", help=f"of {', '.join(PAPERS)}; all if none is named")
    parser.add_argument("--data", type=Path, default=Path("data/walkers-full"), help="world of size full")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument(
        "--microbatch", type=int, default=0, help="images that go through the network at a time; 0 for all"
    )
    parser.add_argument("--run", action="store_true", help="one row, here, as JSON")
    parser.add_argument("--into", type=Path, default=RESULTS / "preset_steps.json")
    arguments = parser.parse_args()
    arguments.presets = arguments.presets or list(PAPERS)
    if unknown := sorted(set(arguments.presets) - set(PAPERS)):
        parser.error(f"{unknown[0]!r}: expected presets of {', '.join(PAPERS)}")
    return arguments


def main() -> None:
    arguments = read_arguments()
    data = CUHK03(World.preset("full").write(arguments.data), box="labeled")
    if arguments.run:
        changes = {"weights": None, "precision": arguments.precisions[0], "microbatch_size": arguments.microbatch}
        config = TrainConfig.preset(arguments.presets[0], **changes)
        print(json.dumps(run(config, data)))
        return
    there = json.loads(arguments.into.read_text(encoding="utf-8"))["rows"] if arguments.into.exists() else []
    for preset in arguments.presets:
        for precision in arguments.precisions:
            row = row_of(preset, precision, arguments) | {"date": circumstances()["date"]}
            print_row(row)
            there = [old for old in there if (old["preset"], old["precision"]) != (preset, precision)] + [row]
            write_json(arguments.into, {"rows": there, "data": data.title} | circumstances())


if __name__ == "__main__":
    main()
