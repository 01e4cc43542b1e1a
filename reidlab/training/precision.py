"""precision="auto": bfloat16 where a training step is clearly quicker in it, float32 elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time

import torch
from torch import nn

from reidlab.distributed import Processes
from reidlab.files import read_json
from reidlab.models.backbones import ResidualBlock
from reidlab.training.config import TrainConfig
from reidlab.training.run_folder import RunFolder
from reidlab.training.step import PRECISIONS

PRECISION_VARIABLE = "REIDLAB_PRECISION"
"""Environment variable with what precision="auto" shall be, in place of a measurement."""
GAIN = 1.2
"""How many times quicker than float32 bfloat16 must be before "auto" chooses it: a tie changes no numbers."""


def settle_precision(
    config: TrainConfig, device: str = "cpu", processes: Processes | None = None, run: RunFolder | None = None
) -> TrainConfig:
    """Replace precision="auto" by the one to train with, so that every record says it.

    A resumed run keeps the precision it began with. Otherwise it is what the environment variable REIDLAB_PRECISION
    says, or `quickest_precision` of the first process.

    Args:
        config: the settings; returned as they are if their precision is another word.
        device: to train on.
        processes: the processes that share each batch.
        run: the folder of the run.

    Raises:
        ValueError: REIDLAB_PRECISION is neither float32, bfloat16 nor float16.

    Example:
        >>> from reidlab.training import TrainConfig
        >>> settle_precision(TrainConfig(precision="auto")).precision in ("float32", "bfloat16")
        True

    Taught in: notebooks/06_training.ipynb
    """
    if config.precision != "auto":
        return config
    chosen = None
    if run is not None and run.resume:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # `RunFolder.begin` refuses such a file
            chosen = read_json(run.config)["config"]["precision"]
    if chosen not in PRECISIONS:
        chosen = os.environ.get(PRECISION_VARIABLE) or quickest_precision(device)
        if chosen not in PRECISIONS:
            raise ValueError(f"{PRECISION_VARIABLE}={chosen}: expected one of {', '.join(PRECISIONS)}")
        chosen = processes.broadcast(chosen) if processes else chosen
    return dataclasses.replace(config, precision=chosen)


@functools.cache
def quickest_precision(device: str = "cpu") -> str:
    """Return "bfloat16" if a training step is clearly quicker in it than in float32 on this device, or "float32".

    Measured once a process, in half a second: forward and backward pass of one residual block. Processors without
    bfloat16 instructions emulate them, ten times slower than float32; the names of instruction sets would not say
    what a library makes of them.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps".

    Example:
        >>> quickest_precision("cpu") in ("float32", "bfloat16")
        True
    """
    with torch.random.fork_rng():
        block = ResidualBlock(64, 64, 1, nn.BatchNorm2d).to(device, memory_format=torch.channels_last)
        images = torch.rand(8, 64, 32, 16).to(device, memory_format=torch.channels_last)
    try:
        full = min(_block_seconds(block, images, False) for _ in range(4))
        half = _block_seconds(block, images, True)  # the first one includes what is prepared once
        if half < 3 * full:
            half = min(_block_seconds(block, images, True) for _ in range(4))
    except (RuntimeError, TypeError):  # a device that has no bfloat16
        return "float32"
    return "bfloat16" if half * GAIN < full else "float32"


def _block_seconds(block: nn.Module, images: torch.Tensor, half: bool) -> float:
    start = time.perf_counter()
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        total = block(images).float().square().mean()
    total.backward()
    total.item()  # waits for a GPU
    return time.perf_counter() - start
