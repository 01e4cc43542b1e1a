"""Several processes on torch.distributed: their process group, and collectives with one line for a lost process."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from reidlab.errors import ProcessError
from reidlab.signals import end_with_parent

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The place of this process among those that work together; with the defaults it works alone.

    The methods are collectives: each process calls them, in the same order, or the others wait.

    Args:
        rank: number of this process, in [0, size).
        size: number of processes. Above 1, the methods work inside `process_group`.

    Raises:
        ValueError: a rank that is not below the size, or a collective of several processes outside `process_group`.
        ProcessError: from a collective, when another process ended or no longer answers.

    Example:
        >>> Processes().is_first, Processes().gather(torch.ones(2, 3)).shape
        (True, torch.Size([2, 3]))

    Taught in: notebooks/06_training.ipynb
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"got rank {self.rank} of {self.size} processes, expected 0 to {self.size - 1}")

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and prints."""
        return self.rank == 0

    def gather(self, tensor: Tensor) -> Tensor:
        """Concatenate the rows of all processes, in order of rank; without gradient.

        Args:
            tensor: (N, …) in main memory; N may differ between processes and may be 0, the other sizes may not.

        Returns:
            (sum of N, …), the same in every process; a process alone gets `tensor` itself.
        """
        return tensor if self.size == 1 else torch.cat(self.gather_objects(tensor.detach()))

    def gather_batch(self, tensor: Tensor) -> Tensor:
        """Concatenate the processes' equal parts of a batch, in order of rank; with gradient for one loss of them all.

        Every process computes the same loss of the whole batch, and backpropagates into its own rows only, with `size`
        times their gradient: `DistributedDataParallel` then takes the mean of the processes' gradients, and
        1/size · Σ size · (share of a process) is the gradient of the loss. A weight that the loss uses directly, not
        through the rows, has the same gradient in every process, which is the mean, too.

        Args:
            tensor: (B, …), of one shape and dtype in all processes, on the device of the process group.

        Returns:
            (size · B, …), the same in every process; a process alone gets `tensor` itself.
        """
        return tensor if self.size == 1 else _GatherBatch.apply(tensor, self)

    def gather_objects(self, thing: T) -> list[T]:
        """Return what each process gave, in order of rank; anything small that can be pickled."""
        if self.size == 1:
            return [thing]
        things: list[Any] = [None] * self.size
        with self.collective("gathering values"):
            dist.all_gather_object(things, thing)
        return things

    def broadcast(self, thing: T) -> T:
        """Return what the first process gave, which can be pickled; that of the others is ignored."""
        things = [thing]
        if self.size > 1:
            with self.collective("waiting for the first process"):
                dist.broadcast_object_list(things, src=0)
        return things[0]

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place.

        Args:
            tensors: of floating-point dtypes, of the same shapes in the same order in every process.
        """
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])  # one call instead of hundreds
        with self.collective("averaging buffers"):
            dist.all_reduce(flat)
        for tensor, mean in zip(tensors, (flat / self.size).split([t.numel() for t in tensors]), strict=True):
            tensor.detach().copy_(mean.reshape(tensor.shape))

    @contextmanager
    def collective(self, what: str) -> Iterator[None]:
        """Raise `ProcessError` in one line for what torch.distributed raises inside; other errors pass.

        Args:
            what: what the processes do together, for the message.
        """
        if self.size > 1 and not dist.is_initialized():
            raise ValueError(
                f"{self.size} processes have not joined a process group: use Processes inside "
                "`with process_group() as processes:`"
            )
        try:
            yield
        except RuntimeError as error:
            # gloo raises a plain RuntimeError for a closed connection and a timeout, with a place in its source
            if self.size == 1 or not (isinstance(error, dist.DistError) or "gloo/" in str(error)):
                raise
            raise ProcessError(
                f"process {self.rank} of {self.size} (counted from 0) lost another one while {what} "
                f"({_reason(error)}); what that one printed says why. The last checkpoint is usable: "
                "start all processes again and resume"
            ) from None


class _GatherBatch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, processes: Processes) -> Tensor:
        start = processes.rank * len(tensor)
        ctx.rows, ctx.size = slice(start, start + len(tensor)), processes.size
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(processes.size)]
        with processes.collective("gathering a batch"):
            dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.size * gradient[ctx.rows], None


@contextmanager
def process_group(device: str = "cpu", timeout_seconds: float = 1800.0) -> Iterator[Processes]:
    """Join the process group of the processes that torchrun started; alone, where it started none.

    Args:
        device: what the tensors of the collectives are on: "cpu", or "cuda" for one GPU a process. With "cuda" the
            process's own GPU, see `local_device`, is the current one inside; `gather` uses main memory all the same.
        timeout_seconds: how long a process waits for another one that is there and does not answer, > 0. Nothing that
            one process does alone, such as writing a report, may take longer. One that ended is noticed at once.

    Yields:
        `Processes`, taken from RANK and WORLD_SIZE in the environment; `Processes(0, 1)` without them.

    Raises:
        ValueError: an environment that does not fit together, another device, or a process group within another one.
        ProcessError: the processes did not find each other.

    Example:
        >>> with process_group() as processes:
        ...     processes
        Processes(rank=0, size=1)
    """
    processes = _from_environment()
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun started this process, and ends it unless it is killed itself
        end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM), os.getppid())
    if processes.size == 1:
        yield processes
        return
    place = torch.device(local_device(device))
    if place.type not in ("cpu", "cuda"):
        raise ValueError(f"device={device}: several processes can use cpu or cuda")
    if not timeout_seconds > 0:
        raise ValueError(f"timeout_seconds={timeout_seconds}: expected more than 0")
    if dist.is_initialized():
        raise ValueError("this process is in a process group already; use one `process_group` around everything")
    backend = "gloo" if place.type == "cpu" else "cpu:gloo,cuda:nccl"
    with torch.cuda.device(place) if place.type == "cuda" else nullcontext():
        try:
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
        except (RuntimeError, ValueError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise ProcessError(
                f"process {processes.rank} of {processes.size} (counted from 0) did not find the others at {address} "
                f"({_reason(error)}); check the address, that the port is free, and that all were started; with "
                "several network cards set GLOO_SOCKET_IFNAME"
            ) from None
        try:
            yield processes
        finally:
            dist.destroy_process_group()


def local_device(device: str) -> str:
    """Name the device of this process: with several processes "cuda" becomes this one's own GPU.

    Args:
        device: "cpu", "cuda", "cuda:1" …

    Returns:
        "cuda:LOCAL_RANK" for "cuda" among several processes, otherwise `device`.

    Raises:
        ValueError: among several processes: a GPU that is not this one's own, or more processes than GPUs.

    Example:
        >>> local_device("cpu")
        'cpu'
    """
    if torch.device(device).type != "cuda" or _from_environment().size == 1:
        return device
    local, there = _environment_number("LOCAL_RANK"), torch.cuda.device_count()
    if device not in ("cuda", f"cuda:{local}"):
        raise ValueError(f"device={device}: several processes would share it; use cuda, and each takes its own GPU")
    if local >= there:
        most = f"start at most --nproc-per-node={there}" if there else "use device cpu"
        raise ValueError(f"device=cuda for process {local} of this machine, which shows {there} GPUs; {most}")
    return f"cuda:{local}"


def _from_environment() -> Processes:
    if not {"RANK", "WORLD_SIZE"} & os.environ.keys():
        return Processes()
    rank, size = _environment_number("RANK"), _environment_number("WORLD_SIZE")
    if not 0 <= rank < size:
        raise ValueError(f"RANK={rank} and WORLD_SIZE={size} in the environment: expected 0 <= RANK < WORLD_SIZE")
    if size > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            _environment_text(name)
    return Processes(rank, size)


def _environment_text(name: str) -> str:
    if not os.environ.get(name):
        there = [f"{other}={os.environ[other]}" for other in ("RANK", "WORLD_SIZE") if other in os.environ]
        raise ValueError(
            f"{name} is not set in the environment, but {' and '.join(there)}: start several processes with `torchrun "
            "--nproc-per-node=N -m reidlab train …`, or unset RANK and WORLD_SIZE to work alone"
        )
    return os.environ[name]


def _environment_number(name: str) -> int:
    text = _environment_text(name)
    if not text.isdecimal():
        raise ValueError(f"{name}={text} in the environment: expected a whole number, 0 or more")
    return int(text)


def _reason(error: Exception) -> str:
    """Return the first sentence of torch's message, without the place in its source."""
    text = re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip().split("\n")[0])
    return text.split(". ")[0][:160].rstrip(".")
