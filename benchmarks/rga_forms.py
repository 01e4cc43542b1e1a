"""Relation-aware attention in forms between the published code and the package's module, for the scripts beside this.

Each form takes a `RelationAwareAttention`, copies its numbers, and computes the same with one thing more done for speed
than the form before it:

    published        three convolutions θ, φ, g; M × M relations, stacked both ways; every step makes a new tensor
    factored first   W [Gᵀ; G] = (W_in φᵀ) θ + (W_out θᵀ) φ by plain matrix products
    one projection   θ, φ and g from one convolution with one batch norm
    no copies        ReLU in place, nothing joined for the squeezing convolution, gates not spread over the map
    reidlab          the module itself: derivative by hand, what is cheap to compute is computed again, channels-last

Also here: what a run of a network keeps for its backward pass, and what it has to do, counted from shapes alone.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from reidlab.models.rga import RelationAttention, RelationAwareAttention

TOLERANCE = 1e-4
SPLIT = re.compile(r"\b(project|project_norm)\.\d\.")  # names of what "published" has three of
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "convolution", "convolution_backward")
NO_WORK = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach")


class Published(nn.Module):
    """One half as the published code computes it: the score of each node, before the sigmoid.

    Args:
        half: whose numbers to copy.
    """

    projections = 3
    spread_gate = True
    relu = staticmethod(torch.relu)

    def __init__(self, half: RelationAttention):
        super().__init__()
        count, width = self.projections, half.project.weight.shape[0] // self.projections
        self.project = nn.ModuleList(_pointwise(half.project.weight.shape[1], width) for _ in range(count))
        self.project_norm = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(count))
        for name in ("relate", "squeeze", "score"):
            channels_out, channels_in = getattr(half, name).weight.shape[:2]
            setattr(self, name, _pointwise(channels_in, channels_out))
            setattr(self, f"{name}_norm", nn.BatchNorm2d(channels_out))
        source = half.state_dict()
        for name, tensor in self.state_dict().items():
            parts = source[SPLIT.sub(r"\1.", name)]
            if SPLIT.search(name) and parts.ndim:  # batch norm's counters have no parts
                parts = parts.chunk(count)[int(re.search(r"\d", name)[0])]
            tensor.copy_(parts.reshape(tensor.shape))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, h, w), whose nodes are the h · w places, to (B, 1, h, w)."""
        theta, phi, g = self.projected(x)
        relations = self.relu(self.relate_norm(self.related(theta.flatten(2), phi.flatten(2), x.shape[2:])))
        squeezed = self.relu(self.squeeze_norm(self.squeezed(relations, g.mean(1, keepdim=True))))
        return self.score_norm(self.score(squeezed))

    def projected(self, x: Tensor) -> tuple[Tensor, ...]:
        """θ, φ and g, (B, F/8, h, w) each."""
        both = zip(self.project, self.project_norm, strict=True)
        return tuple(self.relu(norm(project(x))) for project, norm in both)

    def related(self, theta: Tensor, phi: Tensor, shape: torch.Size) -> Tensor:
        """Convolved relations (B, M/8, h, w)."""
        relations = theta.transpose(1, 2) @ phi  # (B, M, M)
        to_all, from_all = relations.transpose(1, 2).unflatten(2, shape), relations.unflatten(2, shape)
        return self.relate(torch.cat([to_all, from_all], dim=1))

    def squeezed(self, relations: Tensor, g: Tensor) -> Tensor:
        """What the squeezing convolution makes of the relations and the mean of g."""
        return self.squeeze(torch.cat([g, relations], dim=1))


class FactoredFirst(Published):
    """The same without the M × M relations."""

    def related(self, theta: Tensor, phi: Tensor, shape: torch.Size) -> Tensor:
        """Convolved relations (B, M/8, h, w)."""
        w_in, w_out = self.relate.weight.flatten(1).chunk(2, dim=1)  # (M/8, M) each
        return ((w_in @ phi.mT) @ theta + (w_out @ theta.mT) @ phi).unflatten(2, shape)


class OneProjection(FactoredFirst):
    """The same with one convolution in place of three."""

    projections = 1

    def projected(self, x: Tensor) -> tuple[Tensor, ...]:
        """θ, φ and g, parts of one tensor."""
        (found,) = super().projected(x)
        return found.chunk(3, dim=1)


class NoCopies(OneProjection):
    """The same without tensors that hold again what others hold."""

    spread_gate = False
    relu = staticmethod(torch.relu_)

    def squeezed(self, relations: Tensor, g: Tensor) -> Tensor:
        """The sum of two convolutions, of the relations and of g, is the convolution of both joined."""
        weight = self.squeeze.weight
        return F.conv2d(relations, weight[:, 1:]) + g * weight[:, 0]


class Attention(nn.Module):
    """A whole module in one of the forms.

    Args:
        module: whose numbers to copy.
        form: `Published` or one of those after it.
    """

    def __init__(self, module: RelationAwareAttention, form: type[Published]):
        super().__init__()
        self.spatial, self.channel = form(module.spatial), form(module.channel)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the places of (B, C, H, W), then the channels."""
        score = self.spatial(x)
        x = torch.sigmoid(score.expand_as(x) if self.spatial.spread_gate else score) * x
        nodes = x.flatten(2).transpose(1, 2).unsqueeze(3)  # (B, H * W, C, 1)
        return torch.sigmoid(self.channel(nodes).transpose(1, 2)) * x


FORMS: dict[str, Callable[[RelationAwareAttention], nn.Module]] = {
    "published": lambda module: Attention(module, Published),
    "factored first": lambda module: Attention(module, FactoredFirst),
    "one projection": lambda module: Attention(module, OneProjection),
    "no copies": lambda module: Attention(module, NoCopies),
    "reidlab": lambda module: module,
}


def explicit(module: RelationAwareAttention) -> RelationAwareAttention:
    """Return the package's own module with method="explicit" and the same numbers; for the usual reduction, 8."""
    found = RelationAwareAttention(module.channels, module.height, module.width, method="explicit")
    found.load_state_dict(module.state_dict())
    return found


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return gradients by the names of `RelationAwareAttention`; three convolutions' one behind the other."""
    found: dict[str, list[Tensor]] = {}
    for name, parameter in module.named_parameters():
        gradient = parameter.grad.flatten(1) if parameter.ndim > 1 else parameter.grad
        found.setdefault(SPLIT.sub(r"\1.", name), []).append(gradient)
    return {name: torch.cat(parts) for name, parts in found.items()}


def check_same(module: RelationAwareAttention, x: Tensor, tolerance: float = TOLERANCE) -> float:
    """Run every form forward and backward, in training mode, and compare results and gradients with the module's own.

    Args:
        module: of torch's default type, as the forms are.
        x: (B, C, H, W).
        tolerance: for the length of the difference by that of the tensor. Gradients that nearly vanish, as that of a
            weight which batch norm makes free, are compared with a hundredth of the longest instead.

    Returns:
        The largest difference found.

    Raises:
        ValueError: a form differs by more.
    """
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    found = {}
    for name, form in {**FORMS, "explicit": explicit}.items():
        made, leaf = form(module), x.detach().clone().requires_grad_()
        made.zero_grad()
        value = made.train()(leaf)
        value.backward(direction)
        found[name] = {"the result": value.detach(), "the input": leaf.grad, **gradients(made)}
    own, largest = found["reidlab"], 0.0
    floor = max(float(tensor.norm()) for name, tensor in own.items() if name != "the result") / 100
    for form, tensors in found.items():
        for name, tensor in own.items():
            difference = float((tensors[name] - tensor).norm()) / max(float(tensor.norm()), floor)
            if not difference <= tolerance:
                raise ValueError(f"{form!r} differs from the package in {name} by {difference:.1e}, over {tolerance}")
            largest = max(largest, difference)
    return largest


@contextmanager
def shapes_only() -> Iterator[None]:
    """Make tensors that have a shape and no numbers: networks made and run here take no memory and hardly any time."""
    with FakeTensorMode():
        yield


def saved_bytes(network: nn.Module, run: Callable[[], Any]) -> int:
    """Count what a forward pass keeps for the backward pass, each storage once, without parameters and buffers.

    Args:
        network: whose parameters and buffers do not count.
        run: the forward pass; it can be one with `shapes_only`.
    """
    own = {_storage(tensor) for tensor in itertools.chain(network.parameters(), network.buffers())}
    kept: dict[int, Tensor] = {}  # holding the tensors, so that no storage is given away and met again

    def pack(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = run()
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del outputs  # not before: it holds the graph
    return total


class Work(NamedTuple):
    """What a step has to do.

    Args:
        multiply_adds: of convolutions and matrix products.
        pass_bytes: read and written by everything else.
    """

    multiply_adds: int
    pass_bytes: int


def count_work(run: Callable[[], Any]) -> Work:
    """Count the work of `run`, forward and backward, as it goes; best with `shapes_only`."""
    with FlopCounterMode(display=False) as products, _Passes() as passes:
        run()
    return Work(products.get_total_flops() // 2, passes.total)


class _Passes(TorchDispatchMode):
    """Adds up the bytes that operations other than products read and write; views cost nothing."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in (*PRODUCTS, *NO_WORK):
            return result
        read, written = list(_tensors((args, kwargs))), list(_tensors(result))
        known = {_storage(tensor) for tensor in read}
        is_view = not func._schema.is_mutable and all(_storage(tensor) in known for tensor in written)
        if written and not is_view:
            self.total += sum(map(_bytes, read + written))
        return result


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def _bytes(tensor: Tensor) -> int:
    """Of its different elements; an expanded dimension holds the same ones again."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(size for size, stride in sizes if stride)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # its address is 0 for all that have only a shape


def _pointwise(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 1, bias=False)
