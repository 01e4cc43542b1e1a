"""One step of training: from a batch of images to gradients, whole or in parts, in one process or in several."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from reidlab.models import Model
from reidlab.ranks import Ranks
from reidlab.training.config import TrainConfig
from reidlab.training.own_parts import check_outputs, check_terms

PRECISIONS: dict[str, torch.dtype | None] = {
    "float32": None,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
Forward = Callable[..., dict[str, Tensor]]
Loss = Callable[[dict[str, Tensor], Tensor], Tensor | dict[str, Tensor]]


class Step:
    """Changes the weights by one batch.

    Whole and in one process, a batch goes through the network once. Otherwise the loss is detached from the network:
    features and class scores of all parts and all processes are put together, the loss and its gradient by them are
    computed once for the whole batch, and each part is then backpropagated with its own share of that gradient. So
    triplets are mined among all images of the batch, whatever the memory of one card, and the gradient is that of
    the whole loss; only batch norm sees its part of the batch alone.

    Args:
        model: in training mode.
        optimizer: of its weights.
        config: `precision`, which is not "auto" any more, `microbatch_size`, `max_grad_norm`, `compile` are read.
        ranks: the processes that share the batch.
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
        ranks: Ranks = Ranks(),
        loss: Loss | None = None,
    ):
        self.model, self.optimizer, self.config, self.ranks, self.own_loss = model, optimizer, config, ranks, loss
        device = next(model.parameters()).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=config.precision == "float16")
        self.forward: Forward = torch.compile(model) if config.compile else model
        self.precision = PRECISIONS[config.precision]

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
        whole = self.ranks.size == 1 and not 0 < self.config.microbatch_size < len(images)
        terms, features, labels = (self._whole if whole else self._in_parts)(images, labels, iteration, generator)
        if self.config.max_grad_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {name: value.detach() for name, value in terms.items()}, features, labels

    def _compute(self, images: Tensor) -> dict[str, Tensor]:
        outputs = self.forward(images, self.precision) if self.precision else self.forward(images)
        check_outputs(outputs, len(images))
        return outputs

    def _terms(
        self, outputs: dict[str, Tensor], labels: Tensor, iteration: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Compute the loss and backpropagate it to `outputs`, or through them to the weights."""
        check_finite({"features": outputs["features"].detach().float().square().sum(1) * 4}, iteration)
        terms = self.own_loss(outputs, labels) if self.own_loss else self.model.loss(outputs, labels, generator)
        terms = check_terms(terms)
        total = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(total.detach()):  # one check for all: each waits for the GPU
            check_finite(terms, iteration)
        self.scaler.scale(total).backward()
        return terms

    def _whole(self, images: Tensor, labels: Tensor, iteration: int, generator: torch.Generator):
        outputs = self._compute(images)
        return self._terms(outputs, labels, iteration, generator), outputs["features"].detach(), labels

    def _in_parts(self, images: Tensor, labels: Tensor, iteration: int, generator: torch.Generator):
        parts = images.split(self.config.microbatch_size or len(images))
        before = [buffer.clone() for buffer in self.model.buffers()]
        graphs = []
        for part in parts:  # the graph of a part is kept only if it is the only one
            with torch.set_grad_enabled(len(parts) == 1):
                graphs.append(self._compute(part))
        own = {name: torch.cat([graph[name].detach() for graph in graphs]) for name in graphs[0]}
        outputs = {name: self.ranks.gather(value).requires_grad_() for name, value in own.items()}
        labels = self.ranks.gather(labels)
        terms = self._terms(outputs, labels, iteration, generator)
        start = self.ranks.rank * len(images)
        after: list[list[Tensor]] = []
        for part in parts:
            if len(parts) > 1:
                self._restore(before)
                graphs = [self._compute(part)]
            rows = slice(start, start := start + len(part))
            led = [
                (graphs[0][name], value.grad[rows])
                for name, value in outputs.items()
                if value.grad is not None and graphs[0][name].requires_grad
            ]
            torch.autograd.backward([output for output, _ in led], [grad for _, grad in led])
            after.append([buffer.clone() for buffer in self.model.buffers()])
        self._restore([_mean(values) for values in zip(*after, strict=True)])
        self._share()
        return terms, outputs["features"].detach(), labels

    def _restore(self, buffers: list[Tensor]) -> None:
        with torch.no_grad():
            for buffer, value in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(value)

    def _share(self) -> None:
        """Add up the gradients of all processes, and average what batch norm has seen."""
        if self.ranks.size > 1:
            self.ranks.sum_([p.grad for p in self.model.parameters() if p.grad is not None])
            self.ranks.mean_([buffer for buffer in self.model.buffers() if buffer.is_floating_point()])


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
