"""What one step of a run takes: memory counted beforehand, and a few real steps on weights that are thrown away."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import itertools
import re
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from reidlab.progress import size_text
from reidlab.training.loop import Training
from reidlab.training.step import PRECISIONS

LEFT_OUT = "what single operations need for a moment, the loss, Python and its libraries"
"""What the estimate of a step's memory does not count."""
MOMENTS = {"sgd": 1, "adam": 2, "adamw": 2}
"""Numbers that each optimizer keeps for a weight."""
_SHORTAGE = re.compile("out of memory|not enough memory|can't allocate memory|cannot allocate memory", re.IGNORECASE)


@dataclass(frozen=True)
class StepMemory:
    """Bytes that one step of training takes in one process: an estimate from below.

    A step of the papers' presets on a CPU took 1.04 to 1.21 times as much: benchmarks/preset_steps.py.

    Args:
        weights: parameters and buffers, with the moving average of them if there is one.
        gradients: of the weights that are trained.
        optimizer: its moments.
        per_image: what the network keeps of one image for the backward pass.
        besides: what it keeps whatever the number of images.
        images: that go through the network at a time.

    Example:
        >>> StepMemory(weights=10, gradients=10, optimizer=20, per_image=5, besides=1, images=4).total
        61
    """

    weights: int
    gradients: int
    optimizer: int
    per_image: int
    besides: int
    images: int

    @property
    def total(self) -> int:
        """All parts together."""
        return self.weights + self.gradients + self.optimizer + self.besides + self.images * self.per_image

    def __str__(self) -> str:
        parts = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer}
        shown = "".join(f"{name} {size_text(number)}, " for name, number in parts.items())
        kept = size_text(self.besides + self.images * self.per_image)
        return (
            f"an estimate of {shown}kept for the backward pass {kept} ({size_text(self.per_image)} an image), without "
            f"{LEFT_OUT}"
        )


@dataclass(frozen=True)
class Trial:
    """What a few real steps on weights that were thrown away showed.

    Args:
        steps: how many were timed, after one that was not.
        seconds: median time of one, with its batch out of the store and its augmentation.
        reading: seconds to read one image for the first time, in one process; 0 where images are read each time, which
            `seconds` then includes.
        loss: sum of the last step's terms.
        terms: number of terms.
        peak: most bytes of a GPU that torch's tensors took; None on a CPU.
        fastest: time of the quickest step, which other work on the machine lengthens least.
    """

    steps: int
    seconds: float
    reading: float
    loss: float
    terms: int
    peak: int | None
    fastest: float = 0.0


def step_memory(training: Training) -> StepMemory:
    """Estimate what a step takes: count what 2 and 4 images leave behind, and draw the line to all of them.

    Args:
        training: forward passes go through its network, so batch norm sees black images: use one to throw away.

    Returns:
        A `StepMemory` for the images that go through the network at a time: the chunk, or this process's batch.
    """
    config, model = training.config, training.model
    precision = PRECISIONS[config.precision]
    two, four = (kept_bytes(model, (n, 3, model.height, model.width), precision) for n in (2, 4))
    gradients = count_bytes(p for p in model.parameters() if p.requires_grad)
    moments = MOMENTS[config.optimizer] if config.optimizer != "sgd" or config.momentum else 0
    rows = config.identities_per_batch * config.images_per_identity // training.ranks.size
    return StepMemory(
        weights=count_bytes(model.state_dict().values()) * (2 if training.average else 1),
        gradients=gradients,
        optimizer=moments * gradients,
        per_image=(four - two) // 2,
        besides=2 * two - four,
        images=min(config.chunk or rows, rows),
    )


def kept_bytes(network: nn.Module, shape: tuple[int, ...], precision: torch.dtype | None = None) -> int:
    """Count what a forward pass keeps for the backward pass, each storage once, without parameters and buffers.

    Args:
        network: takes images, and after them a precision if one is given.
        shape: (B, 3, H, W) of the images.
        precision: type that the network's backbone computes in; None for that of the weights.

    Example:
        >>> layers = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
        >>> kept_bytes(layers, (1, 3, 4, 4))  # the convolution its input, ReLU its output
        320
    """
    tensors = itertools.chain(network.parameters(), network.buffers())
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is given away and met again

    def pack(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage

    device = next(network.parameters()).device
    images = torch.zeros(shape, device=device).contiguous(memory_format=torch.channels_last)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda _: None):
        _ = network(images, precision) if precision else network(images)
    return sum(storage.nbytes() for storage in kept.values())


def try_steps(training: Training, memory: StepMemory, steps: int) -> Trial:
    """Take real steps. The second is the first that has the optimizer's moments beside it, so there are two or more.

    Args:
        training: its weights change: use one to throw away.
        memory: of a step.
        steps: to time, at least 1, after one that is not timed.

    Returns:
        A `Trial`.

    Raises:
        OSError: too little memory. On a CPU more than what is free is not even tried, since the system would end
            the process without a word (known on Linux alone).
        FloatingPointError: NaN or infinity in features or loss.
    """
    device = training.device
    there = _available() if device == "cpu" else None
    if there is not None and memory.total > there:
        need = f"a step with {memory.images} images at a time needs {size_text(memory.total)} of memory or more"
        raise OSError(errno.ENOMEM, f"{need}, free are {size_text(there)}; {_remedy(training, memory, there)}")
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    reading = _read_first(training, steps)
    batches, times = training.inputs.after(0), []
    try:
        for number in range(steps + 1):
            start = _now(device)
            terms, *_ = training.step(*next(batches), number + 1, training.chance)
            if training.average:
                training.average.update(training.model)
            training.schedule.step()
            times.append(_now(device) - start)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not _SHORTAGE.search(str(error)):
            raise
        said = str(error).split("\n")[0].split(". ")[0]
        text = f"the memory of {device} is not enough for a step with {memory.images} images at a time ({said})"
        raise OSError(errno.ENOMEM, f"{text}; {_remedy(training, memory)}") from None
    peak = torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None
    loss = sum(float(value) for value in terms.values())
    return Trial(steps, statistics.median(times[1:]), reading, loss, len(terms), peak, min(times[1:]))


def _read_first(training: Training, steps: int) -> float:
    """Read the images of the trial into the store, since most steps of a run find theirs there; seconds for one."""
    inputs = training.inputs
    inputs.own.start(0, 0)
    indices = sorted({index for batch in itertools.islice(inputs.own, steps + 1) for index in batch})
    if inputs.dataset.store is None:
        return 0.0
    start = time.perf_counter()
    inputs.dataset.store.images(indices)
    return (time.perf_counter() - start) / len(indices)


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _remedy(training: Training, memory: StepMemory, limit: float = float("inf")) -> str:
    """Propose the largest chunk of equal parts that is smaller than what was tried and would fit."""
    rows = training.config.identities_per_batch * training.config.images_per_identity // training.ranks.size
    for chunk in range(memory.images // 2, 3, -1):
        smaller = dataclasses.replace(memory, images=chunk)
        if rows % chunk == 0 and smaller.total < limit:
            need = f"{size_text(smaller.total)} or more"
            return f"set chunk={chunk}, so that {chunk} images go through the network at a time ({need})"
    return "no chunk is small enough: take smaller batches or another network, or share the batch among processes"


def _available() -> int | None:
    """Bytes of main memory that are free or can be freed, where the system says so."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    return None


def count_bytes(tensors: Iterable[Tensor]) -> int:
    """Add up the bytes of tensors.

    Example:
        >>> count_bytes([torch.zeros(2, 3), torch.zeros(5, dtype=torch.uint8)])
        29
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
