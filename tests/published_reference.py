"""The two published networks once more, for tests to compare with: plain functions of a state dict.

Names and shapes of the tensors are those of the published files. Each equation is written out: N × N relations, one
stacked vector for each node, loops over parts. Nothing here comes from `reidlab`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import resnet50

State = dict[str, Tensor]
COUNTER = "num_batches_tracked"
BLOCKS = {1: 3, 2: 4, 3: 6, 4: 3}
CHANNELS = {1: 256, 2: 512, 3: 1024, 4: 2048}
STRIDES = {1: 4, 2: 8, 3: 16, 4: 16}
PARTS = (6, 4, 2)


# --- what both share ---------------------------------------------------------------------------------------------


def norm(state: State, name: str, x: Tensor, training: bool = False) -> Tensor:
    """Batch norm: with the running statistics, or in training with those of the batch."""
    if isinstance(state, Settling):
        state.settle(name, x)
    mean, var = (None, None) if training else (state[f"{name}.running_mean"], state[f"{name}.running_var"])
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"], training, eps=1e-5)


def bottleneck(state: State, name: str, x: Tensor, stride: int) -> Tensor:
    y = F.relu(norm(state, f"{name}.bn1", F.conv2d(x, state[f"{name}.conv1.weight"])))
    y = F.relu(norm(state, f"{name}.bn2", F.conv2d(y, state[f"{name}.conv2.weight"], stride=stride, padding=1)))
    y = norm(state, f"{name}.bn3", F.conv2d(y, state[f"{name}.conv3.weight"]))
    if f"{name}.downsample.0.weight" in state:
        x = F.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
        x = norm(state, f"{name}.downsample.1", x)
    return F.relu(y + x)


def before_stages(state: State, name: str, images: Tensor) -> Tensor:
    x = F.conv2d(images, state[f"{name}.conv1.weight"], stride=2, padding=3)
    return F.max_pool2d(F.relu(norm(state, f"{name}.bn1", x)), 3, stride=2, padding=1)


def stage(state: State, name: str, number: int, x: Tensor) -> Tensor:
    """One stage of a ResNet-50 whose last stage keeps its resolution."""
    for block in range(BLOCKS[number]):
        stride = 2 if block == 0 and number in (2, 3) else 1
        x = bottleneck(state, f"{name}.layer{number}.{block}", x, stride)
    return x


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


# --- relation-aware global attention -----------------------------------------------------------------------------


def on_nodes(state: State, name: str, number: int, x: Tensor, training: bool, relu: bool = True) -> Tensor:
    """A 1×1 convolution without bias and its batch norm, on nodes (B, features, M)."""
    x = torch.einsum("ofij,bfm->bom", state[f"{name}.{number}.weight"], x)
    x = norm(state, f"{name}.{number + 1}", x, training)
    return F.relu(x) if relu else x


def rga_gates(state: State, name: str, half: str, nodes: Tensor, training: bool = False) -> Tensor:
    """Gates (B, M) of M nodes (B, features, M)."""
    theta = on_nodes(state, f"{name}.theta_{half}", 0, nodes, training)
    phi = on_nodes(state, f"{name}.phi_{half}", 0, nodes, training)
    g = on_nodes(state, f"{name}.gx_{half}", 0, nodes, training)
    relations = torch.einsum("bfi,bfj->bij", theta, phi)
    from_i, to_i = (
        relations.unbind(1),
        relations.unbind(2),
    )  # row i: how i relates to all; column i: how all relate to i
    stacked = [torch.cat([from_i[i], to_i[i]], dim=1) for i in range(nodes.shape[2])]
    joint = on_nodes(state, f"{name}.gg_{half}", 0, torch.stack(stacked, dim=2), training)
    y = torch.cat([g.mean(1, keepdim=True), joint], dim=1)
    y = on_nodes(state, f"{name}.W_{half}", 0, y, training)
    return torch.sigmoid(on_nodes(state, f"{name}.W_{half}", 3, y, training, relu=False)[:, 0])


def rga_module(state: State, name: str, x: Tensor, training: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """The map (B, C, H, W) after the halves that the state has, spatial first, and their gates."""
    gates = {}
    if f"{name}.gg_spatial.0.weight" in state:
        gate = rga_gates(state, name, "spatial", x.flatten(2), training)
        gates["spatial"] = gate.reshape(x.shape[0], *x.shape[2:])
        x = x * gates["spatial"][:, None]
    if f"{name}.gg_channel.0.weight" in state:
        gates["channel"] = rga_gates(state, name, "channel", x.flatten(2).transpose(1, 2), training)
        x = x * gates["channel"][:, :, None, None]
    return x, gates


def rga_network(state: State, images: Tensor) -> dict[str, Tensor]:
    """In evaluation: `features` (called feat_), `embedding` (feat), `logits`, and the gates by stage and half."""
    outputs = {}
    x = before_stages(state, "backbone", images)
    for number in BLOCKS:
        x = stage(state, "backbone", number, x)
        x, gates = rga_module(state, f"backbone.rga_att{number}", x)
        outputs |= {f"{half}{number}": gate for half, gate in gates.items()}
    outputs["features"] = x.mean((2, 3))
    outputs["embedding"] = norm(state, "feat_bn", outputs["features"])
    outputs["logits"] = linear(state, "cls", outputs["embedding"])
    return outputs


# --- relation network --------------------------------------------------------------------------------------------


def shorten(state: State, name: str, x: Tensor) -> Tensor:
    """A 1×1 convolution with bias, batch norm and ReLU on one vector per image (B, in)."""
    x = F.conv2d(x[:, :, None, None], state[f"{name}.0.weight"], state[f"{name}.0.bias"])
    return F.relu(norm(state, f"{name}.1", x))[:, :, 0, 0]


def rrid_network(state: State, images: Tensor) -> dict[str, Tensor]:
    """In evaluation: `features` (B, 3840), and the logits by the name of their classifier."""
    maps = before_stages(state, "base", images)
    for number in BLOCKS:
        maps = stage(state, "base", number, maps)
    outputs, locals_, globals_ = {}, [], []
    for n in PARTS:
        rows = maps.shape[2] // n
        parts = [maps[:, :, i * rows : (i + 1) * rows].amax((2, 3)) for i in range(n)]
        for i in range(n):
            others = sum(parts[j] for j in range(n) if j != i) / (n - 1)
            local = shorten(state, f"local_{n}_conv_list.{i}", parts[i])
            rest = shorten(state, f"rest_{n}_conv_list.{i}", others)
            both = local + shorten(state, f"relation_{n}_conv_list.{i}", torch.cat([local, rest], dim=1))
            for kind, feature in {"local": local, "rest": rest, "local_rest": both}.items():
                outputs[f"fc_{kind}_{n}_list.{i}"] = linear(state, f"fc_{kind}_{n}_list.{i}", feature)
            locals_.append(both)
        largest = maps.amax((2, 3))
        contrast = (sum(parts) - largest) / (n - 1)
        largest = shorten(state, f"global_{n}_max_conv_list.0", largest)
        contrast = shorten(state, f"global_{n}_rest_conv_list.0", contrast)
        both = largest + shorten(state, f"global_{n}_pooling_conv_list.0", torch.cat([largest, contrast], dim=1))
        for kind, feature in {"global": both, "global_max": largest, "global_rest": contrast}.items():
            outputs[f"fc_{kind}_{n}_list.0"] = linear(state, f"fc_{kind}_{n}_list.0", feature)
        globals_.append(both)
    outputs["features"] = torch.cat(locals_ + globals_, dim=1)
    return outputs


def rrid_embedding(state: State, images: Tensor) -> Tensor:
    """What is searched with: the mean of an image's and its mirror image's features, at length 1 as a whole."""
    features = rrid_network(state, images)["features"] + rrid_network(state, images.flip(3))["features"]
    return F.normalize(features / 2)


# --- state dicts with the published names and shapes, at random ----------------------------------------------------


class Random:
    """Collects tensors under their published names; no number is 0 or 1 by custom, so that no term can hide."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.state: State = {}

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def conv(self, name: str, *shape: int, scale: float = 1.4, bias: bool = False) -> None:
        inputs = shape[1] * shape[2] * shape[3]
        self.state[f"{name}.weight"] = scale * self.normal(*shape) / inputs**0.5
        if bias:
            self.state[f"{name}.bias"] = 0.3 * self.normal(shape[0])

    def norm(self, name: str, channels: int, scale: float = 1.0, shift: float = 0.0) -> None:
        self.state[f"{name}.weight"] = scale * self.uniform(0.5, 1.5, channels)
        self.state[f"{name}.bias"] = shift + 0.3 * self.normal(channels)
        self.state[f"{name}.running_mean"] = 0.3 * self.normal(channels)
        self.state[f"{name}.running_var"] = self.uniform(0.5, 1.5, channels)
        self.state[f"{name}.{COUNTER}"] = torch.tensor(7)

    def linear(self, name: str, inputs: int, outputs: int, bias: bool) -> None:
        self.state[f"{name}.weight"] = self.normal(outputs, inputs) / inputs**0.5
        if bias:
            self.state[f"{name}.bias"] = 0.3 * self.normal(outputs)

    def resnet50(self, name: str) -> None:
        with torch.device("meta"):
            layout = {key: tensor.shape for key, tensor in resnet50(weights=None).state_dict().items()}
        for key, shape in layout.items():
            if key.startswith("fc."):
                continue
            if len(shape) == 4:
                self.conv(f"{name}.{key.removesuffix('.weight')}", *shape)
            elif key.endswith("running_mean"):  # a residual that is small beside its shortcut keeps the scale
                scale = 0.25 if ".bn3." in key else 1.0
                self.norm(f"{name}.{key.removesuffix('.running_mean')}", shape[0], scale)

    def rga_half(self, name: str, half: str, nodes: int, features: int, reduction: int) -> None:
        short, relations = features // reduction, nodes // reduction
        squeezed = (1 + relations) // reduction
        for kind in ("gx", "theta", "phi"):
            self.conv(f"{name}.{kind}_{half}.0", short, features, 1, 1)
            self.norm(f"{name}.{kind}_{half}.1", short)
        self.conv(f"{name}.gg_{half}.0", relations, 2 * nodes, 1, 1)
        self.norm(f"{name}.gg_{half}.1", relations)
        self.conv(f"{name}.W_{half}.0", squeezed, 1 + relations, 1, 1)
        self.norm(f"{name}.W_{half}.1", squeezed, shift=1)
        self.conv(f"{name}.W_{half}.3", 1, squeezed, 1, 1)
        self.norm(f"{name}.W_{half}.4", 1, scale=0.5, shift=1)


class Settling(dict):
    """A state dict whose running statistics become, layer by layer, nearly those of the batch that passes.

    After training they are so, too. With statistics at random, some gates are 0 or 1 everywhere and hide what
    they were computed from.
    """

    def settle(self, name: str, x: Tensor) -> None:
        over = [dim for dim in range(x.ndim) if dim != 1]
        if x.numel() > x.shape[1]:
            var, mean = torch.var_mean(x, over, correction=0)
            self[f"{name}.running_mean"] = mean + var.sqrt() * self[f"{name}.running_mean"]
            self[f"{name}.running_var"] = (var + 0.001) * self[f"{name}.running_var"]


def pictures(height: int, width: int, count: int = 1, seed: int = 0) -> Tensor:
    """Images (count, 3, height, width) of large and small blocks, so that places differ."""
    generator = torch.Generator().manual_seed(seed)
    blocks = [torch.randn(count, 3, height // side, width // side, generator=generator) for side in (32, 8, 2)]
    return sum(F.interpolate(block, (height, width)) for block in blocks) / 3**0.5


def rga_module_state(
    name: str, channels: int, places: int, halves: str = "sc", reduction: int = 8, seed: int = 0
) -> State:
    """Tensors of one attention module."""
    random = Random(seed)
    if "s" in halves:
        random.rga_half(name, "spatial", places, channels, reduction)
    if "c" in halves:
        random.rga_half(name, "channel", channels, places, reduction)
    return random.state


def settled(state: State, network, images: Tensor) -> State:
    """Pass images through a network and let the running statistics follow."""
    settling = Settling(state)
    with torch.no_grad():
        network(settling, images)
    return dict(settling)


def rga_state(
    num_classes: int = 7,
    height: int = 256,
    width: int = 128,
    halves: str = "sc",
    stages: tuple[int, ...] = (1, 2, 3, 4),
    reduction: int = 8,
    seed: int = 0,
    settle: bool = True,
) -> State:
    """Tensors of the whole ResNet-50 with attention modules after some stages."""
    random = Random(seed)
    random.resnet50("backbone")
    for number in stages:
        places = (height // STRIDES[number]) * (width // STRIDES[number])
        name = f"backbone.rga_att{number}"
        random.state |= rga_module_state(name, CHANNELS[number], places, halves, reduction, seed + number)
    random.norm("feat_bn", 2048)
    random.linear("cls", 2048, num_classes, bias=False)
    return settled(random.state, rga_network, pictures(height, width, seed=seed)) if settle else random.state


def rrid_state(num_classes: int = 7, seed: int = 0) -> State:
    """Tensors of the whole relation network with 6, 4 and 2 parts."""
    random = Random(seed)
    random.resnet50("base")
    for n in PARTS:
        names = {f"{kind}_{n}_conv_list.{i}": 2048 for kind in ("local", "rest") for i in range(n)}
        names |= {f"global_{n}_{kind}_conv_list.0": 2048 for kind in ("max", "rest")}
        names |= {f"relation_{n}_conv_list.{i}": 512 for i in range(n)} | {f"global_{n}_pooling_conv_list.0": 512}
        for name, inputs in names.items():
            random.conv(f"{name}.0", 256, inputs, 1, 1, bias=True)
            random.norm(f"{name}.1", 256)
        heads = [f"fc_{kind}_{n}_list.{i}" for kind in ("local", "rest", "local_rest") for i in range(n)]
        for name in heads + [f"fc_{kind}_{n}_list.0" for kind in ("global", "global_max", "global_rest")]:
            random.linear(name, 256, num_classes, bias=True)
    return settled(random.state, rrid_network, pictures(192, 64, seed=seed))


def double(state: State) -> State:
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
