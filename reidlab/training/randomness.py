"""Global random generators: seeding them, and keeping their state for a run that is resumed."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators, which torchvision's transforms draw from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  third-party transforms draw from it
    torch.manual_seed(seed)


def random_state(*generators: torch.Generator) -> dict[str, Any]:
    """Return the state of torch's, numpy's and Python's global generators and of some others, as plain values."""
    kind, keys, place, has_gauss, gauss = np.random.get_state()  # noqa: NPY002  third-party transforms draw from it
    version, numbers, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), torch.from_numpy(keys.astype(np.int64)), int(place), int(has_gauss), float(gauss)],
        "python": [version, list(numbers), next_gauss],
        "others": [generator.get_state() for generator in generators],
    }


def restore_random(state: dict[str, Any], *generators: torch.Generator) -> None:
    """Bring back what `random_state` returned, into the same generators in the same order."""
    torch.set_rng_state(state["torch"])
    for number, own in enumerate(state["cuda"][: torch.cuda.device_count()]):  # there may be fewer GPUs than before
        torch.cuda.set_rng_state(own, number)
    kind, keys, place, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, gauss))  # noqa: NPY002
    version, numbers, next_gauss = state["python"]
    random.setstate((version, tuple(numbers), next_gauss))
    for generator, own in zip(generators, state["others"], strict=True):
        generator.set_state(own)
