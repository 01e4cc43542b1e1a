"""Several processes that train one model: what they tell each other, and what happens when one is lost."""

from __future__ import annotations

import math
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from reidlab.errors import RankError
from reidlab.signals import end_with_parent

T = TypeVar("T")

BUCKET = 2**24
"""Numbers that `sum_` sends in one call: large enough to be quick, small enough not to double a model's memory."""
START = "torchrun --nproc-per-node=N -m reidlab train …"


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that work together; with the defaults it works alone.

    Every method but `is_first` is a meeting: each process calls it, in the same order, or the others wait.

    Args:
        rank: number of this process, in [0, size).
        size: number of processes. Above 1, the methods work inside `joined`.

    Raises:
        ValueError: a rank that is not below the size, or a meeting of several processes outside `joined`.
        RankError: from a meeting that another process did not come to, because it ended or no longer answers.

    Example:
        >>> Ranks().is_first, Ranks().gather(torch.ones(2, 3)).shape
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
        """Whether this process is the one that writes files and talks."""
        return self.rank == 0

    def gather(self, tensor: Tensor) -> Tensor:
        """Put the rows of all processes under each other, in order of rank; without gradient.

        Args:
            tensor: (N, …), of one dtype and on one kind of device everywhere; N may differ between processes and
                may be 0, the other sizes may not.

        Returns:
            (sum of N, …), the same in every process; a process alone gets `tensor` itself.

        Raises:
            ValueError: no dimension to put rows along, or rows of different sizes.
        """
        if self.size == 1:
            return tensor
        if tensor.ndim == 0:
            raise ValueError("got a tensor without dimensions, expected rows; use tensor[None]")
        own = torch.tensor([len(tensor), math.prod(tensor.shape[1:]), tensor.element_size()])
        found = [torch.empty_like(own) for _ in range(self.size)]
        self._meet(lambda: dist.all_gather(found, own), "gathering tensors")
        rows, *kinds = torch.stack(found, dim=1).tolist()  # (3, size)
        if any(len(set(kind)) > 1 for kind in kinds):
            raise ValueError(
                f"the {self.size} processes gave rows of {kinds[0]} numbers of {kinds[1]} bytes each; "
                "expected the same everywhere"
            )
        padded = tensor.new_zeros(max(rows), *tensor.shape[1:])
        padded[: len(tensor)] = tensor.detach()
        parts = [torch.empty_like(padded) for _ in rows]
        self._meet(lambda: dist.all_gather(parts, padded), "gathering tensors")
        return torch.cat([part[:count] for part, count in zip(parts, rows, strict=True)])

    def gather_objects(self, thing: T) -> list[T]:
        """Hand one plain thing of each process to all of them.

        Args:
            thing: small, and something that can be pickled: numbers, words, lists, dictionaries.

        Returns:
            What each process gave, in order of rank.
        """
        if self.size == 1:
            return [thing]
        things: list[Any] = [None] * self.size
        self._meet(lambda: dist.all_gather_object(things, thing), "gathering values")
        return things

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in place.

        Args:
            tensors: of the same shapes and dtypes, in the same order, in every process. They travel in a few large
                parcels, since a model has hundreds of small ones.
        """
        for parcel in _parcels(tensors) if self.size > 1 else []:
            flat = torch.cat([tensor.detach().reshape(-1) for tensor in parcel])  # (numbers of the parcel,)
            self._meet(lambda flat=flat: dist.all_reduce(flat), "adding tensors")
            parts = flat.split([tensor.numel() for tensor in parcel])
            for tensor, part in zip(parcel, parts, strict=True):
                tensor.detach().copy_(part.reshape(tensor.shape))

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes, in place.

        Args:
            tensors: as for `sum_`, of floating-point dtypes.

        Raises:
            ValueError: whole numbers, which have no exact mean.
        """
        whole = {str(tensor.dtype) for tensor in tensors if not tensor.is_floating_point()}
        if whole:
            raise ValueError(f"got tensors of {', '.join(sorted(whole))}, expected floating-point ones; use sum_")
        self.sum_(tensors)
        if self.size > 1:
            for tensor in tensors:
                tensor.detach().div_(self.size)

    def check_alive(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            self._meet(lambda: dist.all_reduce(torch.zeros(1)), "waiting for each other")

    def _meet(self, meeting: Callable[[], Any], what: str) -> None:
        if not dist.is_initialized():
            raise ValueError(f"{self.size} processes have not joined: use Ranks inside `with joined() as ranks:`")
        try:
            meeting()
        except RuntimeError as error:  # torch's type for a closed connection, a timeout and a failed NCCL call
            raise RankError(
                f"process {self.rank} of {self.size} (counted from 0) lost another one while {what} "
                f"({_reason(error)}); what that one printed says why. The last checkpoint is usable: "
                "start all processes again and resume"
            ) from None


@contextmanager
def joined(device: str = "cpu", timeout_seconds: float = 1800.0) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone, where it started none.

    Args:
        device: what the tensors of the meetings are on: "cpu", or "cuda" for one GPU a process. With "cuda" the
            process's own GPU, see `local_device`, is the current one inside, and tensors in main memory can be
            gathered, too.
        timeout_seconds: how long a process waits for another one that is there and does not answer, > 0. Nothing that
            one process does alone, such as writing a report, may take longer. One that ended is noticed at once.

    Yields:
        `Ranks`, taken from RANK and WORLD_SIZE in the environment; `Ranks(0, 1)` without them.

    Raises:
        ValueError: an environment that does not fit together, another device, or processes that have joined already.
        RankError: the processes did not find each other.

    Example:
        >>> with joined() as ranks:
        ...     ranks
        Ranks(rank=0, size=1)
    """
    ranks = _ranks_of(os.environ)
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun started this process, and ends it unless it is killed itself
        end_with_parent(lambda: os.kill(os.getpid(), signal.SIGTERM), os.getppid())
    if ranks.size == 1:
        yield ranks
        return
    place = torch.device(local_device(device))
    if place.type not in ("cpu", "cuda"):
        raise ValueError(f"device={device}: several processes can use cpu or cuda")
    if not timeout_seconds > 0:
        raise ValueError(f"timeout_seconds={timeout_seconds}: expected more than 0")
    if dist.is_initialized():
        raise ValueError("this process has joined others already; use one `joined` around everything")
    with torch.cuda.device(place) if place.type == "cuda" else nullcontext():
        _join(ranks, "gloo" if place.type == "cpu" else "cpu:gloo,cuda:nccl", timeout_seconds)
        try:
            yield ranks
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
    if torch.device(device).type != "cuda" or _ranks_of(os.environ).size == 1:
        return device
    local, there = _number(os.environ, "LOCAL_RANK"), torch.cuda.device_count()
    if device not in ("cuda", f"cuda:{local}"):
        raise ValueError(f"device={device}: several processes would share it; use cuda, and each takes its own GPU")
    if local >= there:
        most = f"start at most --nproc-per-node={there}" if there else "use device cpu"
        raise ValueError(f"device=cuda for process {local} of this machine, which shows {there} GPUs; {most}")
    return f"cuda:{local}"


def _ranks_of(environment: os._Environ[str] | dict[str, str]) -> Ranks:
    if not {"RANK", "WORLD_SIZE"} & environment.keys():
        return Ranks()
    rank, size = (_number(environment, name) for name in ("RANK", "WORLD_SIZE"))
    if not 0 <= rank < size:
        raise ValueError(f"RANK={rank} and WORLD_SIZE={size} in the environment: expected 0 <= RANK < WORLD_SIZE")
    if size > 1:
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            _look_up(environment, name)
    return Ranks(rank, size)


def _look_up(environment: os._Environ[str] | dict[str, str], name: str) -> str:
    if not environment.get(name):
        there = [f"{other}={environment[other]}" for other in ("RANK", "WORLD_SIZE") if other in environment]
        raise ValueError(
            f"{name} is not set in the environment, but {' and '.join(there)}: start several processes with "
            f"`{START}`, or unset RANK and WORLD_SIZE to work alone"
        )
    return environment[name]


def _number(environment: os._Environ[str] | dict[str, str], name: str) -> int:
    text = _look_up(environment, name)
    if not text.isdecimal():
        raise ValueError(f"{name}={text} in the environment: expected a whole number, 0 or more")
    return int(text)


def _join(ranks: Ranks, backend: str, timeout_seconds: float) -> None:
    try:
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    except (RuntimeError, ValueError) as error:
        raise RankError(
            f"process {ranks.rank} of {ranks.size} (counted from 0) did not find the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({_reason(error)}); check the address, that the "
            "port is free, and that all were started; with several network cards set GLOO_SOCKET_IFNAME"
        ) from None


def _parcels(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield lists of tensors of one dtype and device, of about `BUCKET` numbers or one tensor each."""
    kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for alike in kinds.values():
        parcel, numbers = [], 0
        for tensor in alike:
            if parcel and numbers + tensor.numel() > BUCKET:
                yield parcel
                parcel, numbers = [], 0
            parcel.append(tensor)
            numbers += tensor.numel()
        yield parcel


def _reason(error: Exception) -> str:
    """Return the first sentence of torch's message, without the place in its source."""
    text = re.sub(r"^\[[^\]]*\]\s*", "", str(error).strip().split("\n")[0])
    return text.split(". ")[0][:160].rstrip(".")
