"""What relation-aware attention costs in a training step, from the published form to the package's, step by step.

    python benchmarks/rga_step.py [--rounds 5] [--threads N] [--batch 8] [--image 256 128] [--compile] [--into FILE]

A training step is forward, loss (cross-entropy and batch-hard triplet) and backward, without the optimiser. Networks
are ResNet-50 RGA-SC in the forms of `rga_forms.py`, beside the same network without attention, each in one memory order
or both; they share their numbers, and take turns within each round, each round beginning with another one. Then the
single modules of the four stages. The fastest round counts, since what else runs on the machine only adds; the median
stands beside it.

What each form should gain is computed before anything is measured: its multiply-adds, and the bytes that all other
operations read and write, are counted from shapes. A byte is taken for the work of 8 multiply-adds (a core that does 32
of them a cycle, and gets 4 bytes a cycle from memory). Prediction and measurement meet in one number: the seconds of
the network without attention, by which predicted ratios become seconds.

--compile adds two networks through `torch.compile`, which needs a C++ compiler. --smoke runs everything in seconds,
with the small backbone and small images; its times mean nothing. Takes under four minutes on two free cores, and about
6 GB. Prints tables and writes results/rga_step.json.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rga_forms import FORMS, Work, check_same, count_work, explicit, saved_bytes, shapes_only
from torch import Tensor, nn

from reidlab.files import write_json
from reidlab.models import RGANet
from reidlab.models.rga import RelationAwareAttention
from reidlab.results import circumstances

RESULTS = Path(__file__).resolve().parents[1] / "results"
PEOPLE = 767
BYTE = 8  # multiply-adds that take as long as to read or write one byte
CHANNELS_LAST = ", channels-last"
NETWORKS = ("plain", f"plain{CHANNELS_LAST}", *FORMS, f"reidlab{CHANNELS_LAST}")
LADDER = (*FORMS, f"reidlab{CHANNELS_LAST}")
MODULES: dict[str, Callable[[RelationAwareAttention], nn.Module]] = {
    "published": FORMS["published"],
    "explicit": explicit,
    "reidlab": lambda module: module,
    f"reidlab{CHANNELS_LAST}": copy.deepcopy,
}


def form_of(name: str) -> str:
    return name.removesuffix(CHANNELS_LAST)


def ordered(name: str, value: Any) -> Any:
    """In the memory order that the name says."""
    return value.to(memory_format=torch.channels_last) if name.endswith(CHANNELS_LAST) else value


# --- networks ----------------------------------------------------------------------------------------------------


def network(attended: RGANet, form: str) -> RGANet:
    """Return the same network in another form; what comes before and after the modules is shared."""
    if form == "reidlab":
        return attended
    modules = attended.backbone.attention.items() if form != "plain" else ()
    found = copy.copy(attended)  # a copy of its dict of modules, too, or the original would change with it
    found._modules = dict(attended._modules)
    found.backbone = copy.copy(attended.backbone)
    found.backbone._modules = dict(attended.backbone._modules)
    found.backbone.attention = nn.ModuleDict({stage: FORMS[form](module) for stage, module in modules})
    return found


def new_network(arguments: argparse.Namespace) -> RGANet:
    height, width = arguments.image
    return RGANet(PEOPLE, arguments.backbone, height=height, width=width).train()


def networks(arguments: argparse.Namespace) -> dict[str, RGANet]:
    torch.manual_seed(0)
    attended = new_network(arguments)
    last = ordered(CHANNELS_LAST, copy.deepcopy(attended))
    return {name: network(last if name.endswith(CHANNELS_LAST) else attended, form_of(name)) for name in NETWORKS}


def loss_of(net: nn.Module, images: Tensor, labels: Tensor, own: RGANet) -> Tensor:
    return sum(own.loss(net(images), labels).values())


def step(net: nn.Module, images: Tensor, labels: Tensor, own: RGANet) -> float:
    """Seconds of one training step; `own` is the network whose loss it is, for a compiled `net`."""
    net.zero_grad()
    start = time.perf_counter()
    loss_of(net, images, labels, own).backward()
    return time.perf_counter() - start


def predicted(arguments: argparse.Namespace) -> dict[str, Work]:
    """Count the work of each network from its shapes; the losses, which all have, are left out."""
    found = {}
    with shapes_only():
        attended = new_network(arguments)
        images = torch.zeros(arguments.batch, 3, *arguments.image)
        for name in NETWORKS:
            net, given = network(attended, form_of(name)), ordered(name, images)
            net.zero_grad()
            found[name] = count_work(lambda net=net, given=given: net(given)["logits"].sum().backward())
    return found


def ratios_of(work: dict[str, Work]) -> dict[str, dict[str, float]]:
    """Predicted seconds by those of the plain network: from products and passes, and from products alone."""
    plain = work["plain"]
    return {
        name: {
            "with_passes": _sum(one) / _sum(plain),
            "products_alone": one.multiply_adds / plain.multiply_adds,
        }
        for name, one in work.items()
    }


def _sum(work: Work) -> int:
    return work.multiply_adds + BYTE * work.pass_bytes


def measure_networks(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    nets: dict[str, nn.Module] = {**networks(arguments)}
    own = nets["reidlab"]
    if arguments.compile:
        for form in ("plain", "reidlab"):
            nets[f"{form}, compiled{CHANNELS_LAST}"] = torch.compile(nets[form + CHANNELS_LAST])
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(arguments.batch, 3, *arguments.image, generator=generator)
    labels = torch.arange(arguments.batch) // max(1, min(4, arguments.batch // 2))
    inputs = {name: ordered(name, images) for name in nets}
    kept = {n: saved_bytes(net, lambda n=n, net=net: loss_of(net, inputs[n], labels, own)) for n, net in nets.items()}
    seconds = in_turn({n: lambda n=n, net=net: step(net, inputs[n], labels, own) for n, net in nets.items()}, arguments)
    return {name: spread(seconds[name]) | {"saved_bytes": kept[name]} for name in nets}


def in_turn(steps: dict[str, Callable[[], float]], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Call all in each round, and each once before the first; every round begins with another one."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for round_ in range(arguments.rounds + 1):
        first = round_ % len(names)
        for name in names[first:] + names[:first]:
            taken = steps[name]()
            if round_:  # the first one warms up
                seconds[name].append(taken)
    return seconds


def spread(seconds: list[float]) -> dict[str, float]:
    return {"seconds_min": min(seconds), "seconds_median": float(np.median(seconds))}


def compare_networks(measured: dict[str, dict[str, Any]], work: dict[str, Work]) -> list[dict[str, Any]]:
    """Rows with the ratio to the network without attention, to the one in the same memory order where both exist."""
    plain, ratios = measured["plain"], ratios_of(work)
    rows = []
    for name, values in measured.items():
        counted = name.replace(", compiled", "")  # which changes nothing that is counted here
        same = measured[f"plain{CHANNELS_LAST}" if name.endswith(CHANNELS_LAST) else "plain"]
        row = {"name": name, **values, "saved_ratio": values["saved_bytes"] / plain["saved_bytes"]}
        for key in ("min", "median"):
            row[f"ratio_{key}"] = values[f"seconds_{key}"] / plain[f"seconds_{key}"]
            row[f"ratio_{key}_same_order"] = values[f"seconds_{key}"] / same[f"seconds_{key}"]
        row |= work[counted]._asdict()
        row |= {f"predicted_ratio_{key}": value for key, value in ratios[counted].items()}
        rows.append(row | {"predicted_seconds": ratios[counted]["with_passes"] * plain["seconds_min"]})
    return rows


def gains(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds that each form of the ladder spares beside the one before it, predicted and measured."""
    by_name = {row["name"]: row for row in rows}
    found = []
    for before, after in itertools.pairwise(LADDER):
        one, other = by_name[before], by_name[after]
        found.append(
            {
                "form": after,
                "predicted_gain": one["predicted_seconds"] - other["predicted_seconds"],
                "measured_gain": one["seconds_min"] - other["seconds_min"],
                "saved_bytes_gain": one["saved_bytes"] - other["saved_bytes"],
            }
        )
    return found


# --- single modules ----------------------------------------------------------------------------------------------


def stages(arguments: argparse.Namespace) -> list[tuple[int, int, int]]:
    """Channels, height and width of the map after each stage."""
    with shapes_only():
        base = new_network(arguments).backbone.base
    (height, width), sizes = arguments.image, zip(base.stage_channels, base.stage_strides, strict=True)
    return [(channels, height // stride, width // stride) for channels, stride in sizes]


def measure_module(size: tuple[int, int, int], batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    module = RelationAwareAttention(*size).train()
    generator = torch.Generator().manual_seed(0)
    x, direction = torch.randn(2, batch, *size, generator=generator).unbind()
    forms = {name: ordered(name, form(module)).train() for name, form in MODULES.items()}
    leaves = {name: ordered(name, x.clone()).requires_grad_() for name in forms}
    directions = {name: ordered(name, direction) for name in forms}
    kept = {name: saved_bytes(form, lambda n=name, f=form: f(leaves[n])) for name, form in forms.items()}

    def one(name: str) -> float:
        leaves[name].grad = None
        forms[name].zero_grad()
        start = time.perf_counter()
        forms[name](leaves[name]).backward(directions[name])
        return time.perf_counter() - start

    seconds = in_turn({name: lambda n=name: one(n) for name in forms}, arguments)
    rows = {name: spread(seconds[name]) | {"saved_bytes": kept[name]} for name in forms}
    faster = {n: rows["explicit"]["seconds_min"] / rows[n]["seconds_min"] for n in forms if form_of(n) == "reidlab"}
    less = rows["explicit"]["saved_bytes"] / rows["reidlab"]["saved_bytes"]
    size_and_batch = {"channels": size[0], "height": size[1], "width": size[2], "batch": batch}
    return {**size_and_batch, "forms": rows, "times_faster_than_explicit": faster, "times_less_saved": less}


# --- output ------------------------------------------------------------------------------------------------------


def print_networks(rows: list[dict[str, Any]], steps: list[dict[str, Any]]) -> None:
    print(f"\n{'network':<31} predicted  measured  same order  seconds (median)   saved MB  by plain")
    for row in rows:
        print(
            f"{row['name']:<31} {row['predicted_ratio_with_passes']:8.2f} ×{row['ratio_min']:8.2f} ×"
            f"{row['ratio_min_same_order']:10.2f} ×{row['seconds_min']:8.2f} ({row['seconds_median']:6.2f})"
            f"{row['saved_bytes'] / 1e6:11.0f}{row['saved_ratio']:8.2f} ×"
        )
    print(f"\n{'seconds spared by':<31} predicted  measured")
    for row in steps:
        print(f"{row['form']:<31} {row['predicted_gain']:9.2f} {row['measured_gain']:9.2f}")


def print_module(row: dict[str, Any]) -> None:
    shown = ", ".join(f"{name} {1000 * values['seconds_min']:.1f}" for name, values in row["forms"].items())
    faster = ", ".join(f"{value:.1f}" for value in row["times_faster_than_explicit"].values())
    size = f"{row['channels']}×{row['height']}×{row['width']}"
    less = row["times_less_saved"]
    print(f"{size:>12}, batch {row['batch']}: {shown} ms; {faster} × faster than explicit, 1/{less:.1f} saved")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=8, help="images for the networks")
    parser.add_argument("--image", type=int, nargs=2, default=(256, 128), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--compile", action="store_true", help="also through torch.compile")
    parser.add_argument("--smoke", action="store_true", help="two rounds with 4 images of 64×32")
    parser.add_argument("--into", type=Path, default=RESULTS / "rga_step.json")
    arguments = parser.parse_args()
    arguments.image = tuple(arguments.image)
    arguments.backbone = "small" if arguments.smoke else "resnet50"
    if arguments.smoke:
        arguments.image, arguments.batch, arguments.rounds = (64, 32), 4, 2
    return arguments


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    sizes = stages(arguments)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    # in double precision: in single, a few rectified numbers fall on the other side of 0 in another form
    torch.set_default_dtype(torch.float64)
    differences = [check_same(RelationAwareAttention(*s), torch.randn(2, *s, generator=generator)) for s in sizes]
    torch.set_default_dtype(torch.float32)
    print(f"results and gradients of all forms differ by {max(differences):.1e} at most\n")
    work = predicted(arguments)
    for name, ratio in ratios_of(work).items():
        print(
            f"predicted for {name:<22} {work[name].multiply_adds / 1e9:6.1f} G multiply-adds, passes over "
            f"{work[name].pass_bytes / 1e9:5.1f} GB: {ratio['with_passes']:.2f} × plain "
            f"({ratio['products_alone']:.2f} × by products alone)"
        )
    rows = compare_networks(measure_networks(arguments), work)
    steps = gains(rows)
    print_networks(rows, steps)
    print()
    modules = []
    for size in sizes:
        for batch in (4, 8):
            modules.append(measure_module(size, batch, arguments))
            print_module(modules[-1])
    setting = {"batch": arguments.batch, "image": list(arguments.image), "rounds": arguments.rounds}
    setting |= {"threads_used": arguments.threads, "backbone": arguments.backbone, "multiply_adds_for_a_byte": BYTE}
    found = {"largest_difference": max(differences), "networks": rows, "gains": steps, "modules": modules}
    write_json(arguments.into, setting | found | circumstances())


if __name__ == "__main__":
    main()
