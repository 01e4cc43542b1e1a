"""The relations of RGA explicit and factored, over image sizes: time, memory, and how large a batch may be.

    python benchmarks/rga_sizes.py [--rounds 3] [--threads N] [--batch 2] [--limit 8] [--check 3] [--into FILE]

Rows are one training step of the module after the first stage of ResNet-50 (256 channels, a map of a quarter of the
image's sides, spatial and channel half) by both methods in turn; the fastest round counts, and the largest map has a
third of the rounds. A module is measured in both memory orders and keeps its faster one.

The largest batch is an estimate for a training step of the whole ResNet-50 RGA-SC with Adam: what the forward pass
keeps for the backward pass at batch 2 and at batch 4 gives a straight line (counted from shapes, without running), to
which come parameters, gradients and the two moments of Adam. Nothing else is in it: neither what single operations need
for a moment, nor Python and its libraries. So it is checked: a process of its own takes two steps with the batch that
should fit into --check gigabytes of 10⁹ bytes, and the peak of its resident memory, less that before the network was
made, is divided by the estimate (Linux).

Takes under five minutes on two free cores, and about 6 GB for the largest explicit module. --smoke runs small sizes in
seconds. Prints tables and writes results/rga_sizes.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rga_forms import saved_bytes, shapes_only
from torch import nn

from reidlab.files import write_json
from reidlab.models import RGANet
from reidlab.models.rga import METHODS, RelationAwareAttention
from reidlab.results import circumstances

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIZES = ((128, 64), (192, 96), (256, 128), (384, 128), (384, 192), (512, 256))
SMOKE = ((64, 32), (128, 64))
CHANNELS, STRIDE = 256, 4
CHECKED = (256, 128)
LARGE = 6000  # places of a map, from which on a round takes long
PEOPLE = 767
GB = 10**9
ORDERS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


# --- one module --------------------------------------------------------------------------------------------------


def rows_of(image: tuple[int, int], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    height, width = image[0] // STRIDE, image[1] // STRIDE
    generator = torch.Generator().manual_seed(0)
    x, direction = torch.randn(2, arguments.batch, CHANNELS, height, width, generator=generator).unbind()
    modules = {method: RelationAwareAttention(CHANNELS, height, width, method=method) for method in METHODS}
    saved = {
        method: saved_bytes(module, lambda m=module: m(x.clone().requires_grad_()))
        for method, module in modules.items()
    }
    seconds: dict[str, dict[str, list[float]]] = {method: {order: [] for order in ORDERS} for method in METHODS}
    rounds = arguments.rounds if height * width < LARGE else max(1, arguments.rounds // 3)
    for _ in range(rounds + 1):  # in turn, so that a busy moment hits both; the first round warms up
        for method, module in modules.items():
            for order, form in ORDERS.items():
                given = [tensor.contiguous(memory_format=form) for tensor in (x, direction)]
                seconds[method][order].append(step(module, *given))
    rows = []
    for method in METHODS:
        fastest = {order: min(times[1:]) for order, times in seconds[method].items()}
        order = min(fastest, key=fastest.get)
        size = {"height": image[0], "width": image[1], "map_height": height, "map_width": width}
        size |= {
            "channels": CHANNELS,
            "batch": arguments.batch,
            "method": method,
            "memory_order": order,
            "rounds": rounds,
        }
        by_image = saved_by_image(image, method)
        found = {"seconds": fastest[order], "saved_bytes": saved[method], "saved_bytes_per_image": by_image}
        rows.append(size | found)
    return rows


def step(module: nn.Module, x: torch.Tensor, direction: torch.Tensor) -> float:
    x = x.detach().requires_grad_()
    module.zero_grad()
    start = time.perf_counter()
    module(x).backward(direction)
    return time.perf_counter() - start


def saved_by_image(image: tuple[int, int], method: str) -> int:
    """Bytes that one more image adds to what the module keeps."""
    height, width = image[0] // STRIDE, image[1] // STRIDE
    with shapes_only():
        module = RelationAwareAttention(CHANNELS, height, width, method=method)
        maps = {n: torch.zeros(n, CHANNELS, height, width, requires_grad=True) for n in (2, 4)}
        return line([saved_bytes(module, lambda n=n: module(maps[n])) for n in (2, 4)])[0]


def line(at_two_and_four: list[int]) -> tuple[int, int]:
    """Return slope and intercept of bytes over the batch."""
    two, four = at_two_and_four
    slope = (four - two) // 2
    return slope, two - 2 * slope


# --- the whole network -------------------------------------------------------------------------------------------


def new_network(image: tuple[int, int], method: str) -> RGANet:
    return RGANet(PEOPLE, "resnet50", method=method, height=image[0], width=image[1]).train()


def network_bytes(image: tuple[int, int], method: str) -> tuple[int, int]:
    """Estimate the bytes of a training step: those of each image, and those that are there without any."""
    with shapes_only():
        network = new_network(image, method)
        kept = [saved_bytes(network, lambda n=n: network(torch.zeros(n, 3, *image))) for n in (2, 4)]
        numbers = sum(parameter.numel() for parameter in network.parameters())
        buffers = sum(buffer.numel() for buffer in network.buffers())
    slope, rest = line(kept)
    return slope, rest + 4 * (4 * numbers + buffers)  # weights, gradients and two moments of Adam, 4 bytes each


def largest_batch(image: tuple[int, int], method: str, limit: int) -> dict[str, Any]:
    slope, rest = network_bytes(image, method)
    batch = max(0, (limit - rest) // slope)
    size = {"height": image[0], "width": image[1], "method": method, "batch": batch}
    return size | {"bytes_per_image": slope, "bytes_besides": rest}


def check(image: tuple[int, int], method: str, limit: int, threads: int) -> dict[str, Any]:
    """Run what should just fit below the limit, and see what it takes."""
    expected = largest_batch(image, method, limit)
    batch = max(2, expected["batch"])  # batch norm needs two
    estimate = expected["bytes_besides"] + batch * expected["bytes_per_image"]
    command = [sys.executable, __file__, "--run", method, *map(str, (*image, batch)), "--threads", str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    peak = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
    size = {"height": image[0], "width": image[1], "method": method, "batch": batch}
    return size | {"estimated_bytes": estimate, "peak_bytes": peak, "factor": peak / estimate}


def run(method: str, image: tuple[int, int], batch: int) -> dict[str, int]:
    """Take two training steps, as the second has Adam's moments from the beginning, and measure the peak."""
    small = RGANet(2, "small", height=64, width=32).train()  # what is loaded at the first step is not the network's
    train(small, torch.zeros(4, 3, 64, 32))
    del small
    before = status("VmRSS")
    torch.manual_seed(0)
    network = new_network(image, method).to(memory_format=torch.channels_last)
    train(network, torch.randn(batch, 3, *image).contiguous(memory_format=torch.channels_last))
    return {"peak_bytes": status("VmHWM") - before}


def train(network: RGANet, images: torch.Tensor) -> None:
    labels = torch.arange(len(images)) % 2
    optimizer = torch.optim.Adam(network.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        sum(network.loss(network(images), labels).values()).backward()
        optimizer.step()


def status(name: str) -> int:
    """Bytes, from /proc: `resource.getrusage` would count what the parent had in memory when it started this one."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


# --- output ------------------------------------------------------------------------------------------------------


def print_rows(rows: list[dict[str, Any]]) -> None:
    for explicit, factored in zip(rows[::2], rows[1::2], strict=True):
        faster, less = (explicit[key] / factored[key] for key in ("seconds", "saved_bytes"))
        shown = (f"{r['method']} {r['seconds']:.3f} s, {r['saved_bytes'] / 1e6:.0f} MB" for r in (explicit, factored))
        size = f"{explicit['height']}×{explicit['width']}"
        print(f"{size:>8}: {'; '.join(shown)}; {faster:.1f} × faster, 1/{less:.1f} saved")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=2, help="images for the modules")
    parser.add_argument("--limit", type=float, default=8, help="gigabytes for the largest batch")
    parser.add_argument("--check", type=float, default=3, help="gigabytes for the check; 0 for none")
    parser.add_argument("--smoke", action="store_true", help="two small sizes, two rounds, a check with 1 GB")
    parser.add_argument("--run", nargs=4, metavar=("METHOD", "HEIGHT", "WIDTH", "BATCH"), help="one check, here")
    parser.add_argument("--into", type=Path, default=RESULTS / "rga_sizes.json")
    arguments = parser.parse_args()
    arguments.sizes, arguments.checked = (SMOKE, SMOKE[0]) if arguments.smoke else (SIZES, CHECKED)
    if arguments.smoke:
        arguments.rounds, arguments.check = 2, 1.0
    return arguments


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.run:
        method, height, width, batch = arguments.run
        print(json.dumps(run(method, (int(height), int(width)), int(batch))))
        return
    methods = sorted(METHODS)  # explicit, factored
    checked = []
    if arguments.check:
        for method in methods:
            checked.append(check(arguments.checked, method, int(arguments.check * GB), arguments.threads))
            row = checked[-1]
            print(
                f"{row['height']}×{row['width']}, {row['method']}, batch {row['batch']}: "
                f"{row['peak_bytes'] / GB:.2f} GB, {row['factor']:.2f} × the estimate"
            )
    largest = [largest_batch(image, m, int(arguments.limit * GB)) for image in arguments.sizes for m in methods]
    for row in largest:
        size, each = f"{row['height']}×{row['width']}", row["bytes_per_image"] / 1e6
        print(f"{size:>8}, {row['method']}: {row['batch']} images in {arguments.limit:g} GB, {each:.0f} MB each")
    rows = []
    for image in arguments.sizes:
        rows += sorted(rows_of(image, arguments), key=lambda row: row["method"])
        print_rows(rows[-2:])
    setting = {"rounds": arguments.rounds, "threads_used": arguments.threads, "limit_bytes": int(arguments.limit * GB)}
    check_of = {"limit_bytes": int(arguments.check * GB), "rows": checked}
    write_json(arguments.into, {"rows": rows, "largest_batch": largest, "check": check_of} | setting | circumstances())


if __name__ == "__main__":
    main()
