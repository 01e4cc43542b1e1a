"""What a run takes of the machine."""

from __future__ import annotations

import contextlib
import sys

import torch


def memory_mb(device: str) -> float | None:
    """Return the most memory that this process has used so far, in MB (10^6 bytes); None where nobody counts it.

    Args:
        device: of a GPU, what torch's tensors took of it; otherwise what the whole process took of main memory.

    Example:
        >>> memory_mb("cpu") is None or memory_mb("cpu") > 10
        True
    """
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 1e6
    with contextlib.suppress(ImportError):  # Windows has no such module
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, which macOS counts in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return None
