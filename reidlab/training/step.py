"""One step of training: from a batch of images to gradients, whole or in parts, in one process or in several."""

from __future__ import annotations

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from reidlab.distributed import Processes
from reidlab.models import Model
from reidlab.training.config import TrainConfig
from reidlab.training.own_parts import check_outputs, check_terms

PRECISIONS: dict[str, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
Loss = Callable[[dict[str, Tensor], Tensor], Tensor | dict[str, Tensor]]


class Step:
    """Changes the weights by one batch.

    The features, class scores and all other outputs of the processes are gathered, with their gradient, and the loss
    of the whole batch is computed. So triplets are mined among all images of the batch, and the gradient is that of
    the whole loss, also of weights that the loss uses directly; only batch norm sees each process's part alone, and
    its running means are averaged.

    With `microbatch_size`, the gradient by the outputs is computed first: a batch goes through the network in parts
    that keep nothing, then each part once more, to be backpropagated with its own rows of that gradient.

    Args:
        model: in training mode.
        optimizer: of its weights.
        config: `precision`, which is not "auto" any more, `microbatch_size`, `max_grad_norm`, `compile` are read.
        processes: those that share the batch.
        loss: in place of the model's own, see `train`.

    Source: gradient caching: Gao et al., "Scaling deep contrastive learning batch size under memory limited setup",
    2021.
    Taught in: notebooks/06_training.ipynb
    """

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        processes: Processes = Processes(),
        loss: Loss | None = None,
    ):
        self.model, self.optimizer, self.config = model, optimizer, config
        self.processes, self.own_loss = processes, loss
        device = next(model.parameters()).device.type
        # `gather_batch` multiplies gradients by the number of processes: inside the network they are as in one process
        scale = 2.0**16 / processes.size
        self.scaler = torch.amp.GradScaler(device, init_scale=scale, enabled=config.precision == "float16")
        self.precision = PRECISIONS[config.precision]
        self.local = _NetworkAndThen(torch.compile(model) if config.compile else model)
        self.run: nn.Module = self.local
        if processes.size > 1:
            with processes.collective("comparing their networks"):
                # Which weights the loss uses may change from step to step (a term that begins later), so the graph is
                # searched for unused ones in each step; with static_graph=True one that differs from the first would
                # leave gradients that are not averaged. Weights that are unused in all processes keep the gradient
                # None, as in one process. Buffers are averaged after each step, so broadcasting them changes nothing.
                self.run = DistributedDataParallel(self.local, find_unused_parameters=True)

    def __call__(
        self, images: Tensor, labels: Tensor, iteration: int, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Compute gradients and change the weights.

        Args:
            images: (B, 3, height, width), this process's part of the batch.
            labels: (B,) class numbers.
            iteration: counted from 1, for messages.
            generator: for triplets that are sampled at random.

        Returns:
            The terms of the loss by name, and features (N, D) and labels (N,) of the whole batch, without gradient.

        Raises:
            FloatingPointError: NaN or infinity in features or loss; the weights are as they were.
        """
        self.optimizer.zero_grad(set_to_none=True)
        labels = self.processes.gather_batch(labels)
        loss = functools.partial(self._loss, labels=labels, iteration=iteration, generator=generator)
        with self.processes.collective("averaging gradients"), warnings.catch_warnings():
            # a 1×1 convolution has the same layout under two kinds of strides, which DistributedDataParallel compares
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            if 0 < self.config.microbatch_size < len(images):
                terms, features = self._in_parts(images, loss)
            else:
                total, terms, features = self.run(images, self.precision, lambda outputs: loss(self._gathered(outputs)))
                total.backward()
            self.processes.average_([buffer for buffer in self.model.buffers() if buffer.is_floating_point()])
        if self.config.max_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return terms, features, labels

    def _gathered(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.processes.gather_batch(value) for name, value in outputs.items()}

    def _loss(
        self, outputs: dict[str, Tensor], labels: Tensor, iteration: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Return the loss of the whole batch, scaled for float16, and its terms and the features without gradient."""
        features = outputs["features"].detach()
        check_finite({"features": features.float().square().sum(1) * 4}, iteration)
        terms = self.own_loss(outputs, labels) if self.own_loss else self.model.loss(outputs, labels, generator)
        terms = check_terms(terms)
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total.detach()):  # one check for all: each waits for the GPU
            check_finite(terms, iteration)
        return self.scaler.scale(total), {name: value.detach() for name, value in terms.items()}, features

    def _in_parts(
        self, images: Tensor, loss: Callable[[dict[str, Tensor]], tuple[Tensor, dict[str, Tensor], Tensor]]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute gradients with the memory for one part of the batch; return terms and features."""
        parts = images.split(self.config.microbatch_size)
        before = [buffer.clone() for buffer in self.model.buffers()]
        with torch.no_grad():
            found = [self.local(part, self.precision, dict) for part in parts]
        own = {name: torch.cat([outputs[name] for outputs in found]) for name in found[0]}
        outputs = {name: value.requires_grad_() for name, value in self._gathered(own).items()}
        total, terms, features = loss(outputs)
        total.backward()

        # times the number of processes, since DistributedDataParallel takes the mean of their gradients
        size, first = self.processes.size, self.processes.rank * len(images)
        gradients = {name: size * value.grad[first:] for name, value in outputs.items() if value.grad is not None}

        def reached(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: outputs[name] for name in gradients if outputs[name].requires_grad}

        after: list[list[Tensor]] = []
        done = 0
        for part in parts:
            self._restore(before)
            rows = slice(done, done := done + len(part))
            # the processes' gradients are averaged once, with those of the last part
            with contextlib.nullcontext() if size == 1 or done == len(images) else self.run.no_sync():
                of_part = self.run(part, self.precision, reached)
                torch.autograd.backward(list(of_part.values()), [gradients[name][rows] for name in of_part])
            after.append([buffer.clone() for buffer in self.model.buffers()])
        self._restore([_mean(values) for values in zip(*after, strict=True)])
        return terms, features

    def _restore(self, buffers: list[Tensor]) -> None:
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(value)


class _NetworkAndThen(nn.Module):
    """The network, and what is computed from its outputs.

    DistributedDataParallel wraps both: it finds the weights that are used from what its module returns, and these are
    those that the loss depends on.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        # never used: where it finds no unused weight, DistributedDataParallel warns that searching is needless
        self.unused = nn.Parameter(next(network.parameters()).new_zeros(()))

    def forward(self, images: Tensor, precision: torch.dtype | None, then: Callable[[dict[str, Tensor]], Any]) -> Any:
        outputs = self.network(images, precision) if precision else self.network(images)
        check_outputs(outputs, len(images))
        return then(outputs)


def _mean(values: tuple[Tensor, ...]) -> Tensor:
    """Average what parts of a batch saw; counters, which are whole numbers, agree."""
    return torch.stack(values).mean(0) if values[0].is_floating_point() else values[0]


def check_finite(values: dict[str, Tensor], iteration: int) -> None:
    """Refuse NaN and infinity.

    Raises:
        FloatingPointError: the message names iteration and value, and says what to try.
    """
    for name, value in values.items():
        if not torch.isfinite(value.detach()).all():
            raise FloatingPointError(
                f"iteration {iteration}: NaN or infinity in {name}, or numbers too large to continue; "
                "lower learning_rate or lengthen the warm-up"
            )


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
