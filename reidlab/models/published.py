"""Checkpoints of the authors of RGA and of the relation network, read into the networks of this package."""

from __future__ import annotations

import math
import os
import pickletools
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reidlab.errors import DataError
from reidlab.models.backbones import ResNet50Backbone, read_state_dict
from reidlab.models.relation import RelationNet
from reidlab.models.rganet import RGANet
from reidlab.models.tensors import BATCH_COUNTER, plain_state, refuse_lost, state_differences

PUBLISHED = ("rga", "rrid")
"""Names of the published networks: relation-aware global attention, and the relation network."""

_RGA_LAYERS = {
    "project": ("theta_{half}.0", "phi_{half}.0", "gx_{half}.0"),
    "project_norm": ("theta_{half}.1", "phi_{half}.1", "gx_{half}.1"),
    "relate": ("gg_{half}.0",),
    "relate_norm": ("gg_{half}.1",),
    "squeeze": ("W_{half}.0",),
    "squeeze_norm": ("W_{half}.1",),
    "score": ("W_{half}.3",),
    "score_norm": ("W_{half}.4",),
}
_RRID_LAYERS = {
    "one_vs_rest.local": "local_{n}_conv_list",
    "one_vs_rest.rest": "rest_{n}_conv_list",
    "one_vs_rest.relation": "relation_{n}_conv_list",
    "global_pooling.largest": "global_{n}_max_conv_list",
    "global_pooling.contrast": "global_{n}_rest_conv_list",
    "global_pooling.relation": "global_{n}_pooling_conv_list",
}
_RRID_HEADS = {
    "relational/part": "fc_local_rest",
    "local/part": "fc_local",
    "rest/part": "fc_rest",
    "relational/global": "fc_global",
    "largest/global": "fc_global_max",
    "contrast/global": "fc_global_rest",
}
_HARMLESS = re.compile(r"collections\.OrderedDict|torch\.Size|torch\._utils\._rebuild_\w+|torch\.(cuda\.)?\w+Storage")


class PublishedReport(NamedTuple):
    """What `load_published` did.

    Args:
        name: of the published network.
        num_loaded: tensors of the file, all of which are now in the model.
        num_skipped: batch norm's batch counters in the file, which change nothing and were left out.
    """

    name: str
    num_loaded: int
    num_skipped: int


class _Origin(NamedTuple):
    """Published tensors, all of one shape, that make one of ours when they are put behind each other."""

    names: tuple[str, ...]
    shape: tuple[int, ...]


def load_published(
    name: str,
    source: str | os.PathLike[str] | Mapping[str, Any],
    height: int | None = None,
    width: int | None = None,
) -> tuple[RGANet | RelationNet, PublishedReport]:
    """Read a checkpoint in the authors' format, all of it or nothing.

    Every tensor of the file must be known, and every tensor of the network must be in the file; batch norm's
    batch counters may be there or not. Nothing that a file may carry besides tensors is executed.

    Args:
        name: "rga" (Zhang et al. 2020) or "rrid" (Park and Ham 2020), both on ResNet-50.
        source: a file, or its content: a state dict, by itself or under "state_dict", "model" and the like, the names
            with or without "module." and "_orig_mod." before them (`reidlab.models.tensors.plain_state`).
        height, width: of the images, in pixels, both or neither. For "rga" the file tells the number of places of
            the maps, but not their form: without a size, images are taken to be twice as high as wide (256×128 in
            the authors' files). For "rrid" any size has the same weights; without a size, 384×128.

    Returns:
        A model in evaluation mode with float32 weights, on the device of the tensors (the CPU for a file), and a
        report. Stages, halves, reduction and the number of identities of "rga" are those of the file; so is the
        number of identities of "rrid", whose parts are 6, 4 and 2.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another name, something else than a path or dict, or a size that the file was not made for.
        DataError: not such a checkpoint; the message counts the tensors that are missing, unknown or of another
            shape. For a pickle of a whole model, it says how to export the tensors where the file was made.

    Example:
        >>> with torch.device("meta"):  # shapes without numbers
        ...     shapes = published_shapes(RGANet(num_classes=767))
        >>> file = {f"module.{name}": torch.rand(shape) for name, shape in shapes.items()}
        >>> model, report = load_published("rga", {"state_dict": file, "epoch": 600})
        >>> report
        PublishedReport(name='rga', num_loaded=510, num_skipped=0)
        >>> model.height, model.width, model.classifier.out_features
        (256, 128, 767)

    Source: names and shapes as in the code that Zhang et al., "Relation-aware global attention for person
    re-identification", CVPR 2020, and Park, Ham, "Relation network for person re-identification", AAAI 2020, made
    public.
    Taught in: notebooks/04_rga_attention.ipynb
    """
    if name not in PUBLISHED:
        raise ValueError(f"name={name!r}: expected one of {', '.join(PUBLISHED)}")
    if (height is None) != (width is None):
        raise ValueError(f"got height={height}, width={width}: pass both, or neither")
    where, state = _read(source)
    with torch.device("meta"):  # only the shapes are needed: no time for random weights, no draw from a generator
        model = (_empty_rga if name == "rga" else _empty_rrid)(where, state, height, width)
    shapes = published_shapes(model)
    counters = {key for key in state if key.endswith(BATCH_COUNTER)}
    counted = {key.replace("running_var", BATCH_COUNTER) for key in shapes if key.endswith("running_var")}
    own = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    own |= {key: torch.empty((), dtype=torch.int64, device="meta") for key in counted}
    differences = state_differences(state, own)
    if differences:
        raise DataError(f"{where}: not the tensors of {_described(name, model)}: {differences}; nothing was loaded")
    refuse_lost(state, where)
    _fill(model, state)
    model.to(memory_format=torch.channels_last).eval()
    return model, PublishedReport(name, len(state) - len(counters), len(counters))


def published_shapes(model: RGANet | RelationNet) -> dict[str, torch.Size]:
    """Return the tensors of such a network by their published names, without batch norm's batch counters.

    Args:
        model: on a ResNet-50.

    Raises:
        ValueError: on another backbone, with which nothing was published.

    Example:
        >>> with torch.device("meta"):
        ...     shapes = published_shapes(RelationNet(num_classes=751))
        >>> len(shapes), shapes["relation_6_conv_list.0.0.weight"]
        (625, torch.Size([256, 512, 1, 1]))
    """
    if model.arguments["backbone"] != "resnet50":
        raise ValueError(f"backbone={model.arguments['backbone']!r}: only networks on 'resnet50' were published")
    return {name: torch.Size(origin.shape) for origin in _origins(model).values() for name in origin.names}


def _origins(model: RGANet | RelationNet) -> dict[str, _Origin]:
    """Where each tensor of a network comes from."""
    find: Callable[[Any, str, torch.Size], _Origin] = _rga_origin if isinstance(model, RGANet) else _rrid_origin
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(BATCH_COUNTER)}
    return {name: find(model, name, tensor.shape) for name, tensor in tensors.items()}


def _rga_origin(model: RGANet, name: str, shape: torch.Size) -> _Origin:
    for ours, theirs in {"neck.": "feat_bn.", "classifier.": "cls.", "backbone.base.": "backbone."}.items():
        if name.startswith(ours):
            return _Origin((theirs + name.removeprefix(ours),), shape)
    stage, half, layer, kind = name.removeprefix("backbone.attention.").split(".")
    names = tuple(f"backbone.rga_att{stage}.{place.format(half=half)}.{kind}" for place in _RGA_LAYERS[layer])
    rows = shape[0] // len(names)
    return _Origin(names, (rows, shape[1], 1, 1) if len(shape) > 1 else (rows,))


def _rrid_origin(model: RelationNet, name: str, shape: torch.Size) -> _Origin:
    block, rest = name.split(".", 1)
    if block == "backbone":
        return _Origin((f"base.{rest}",), shape)
    if block == "classify":
        return _Origin(tuple(f"{_rrid_head(head)}.{rest}" for head in model.classified), shape[1:])
    n, layer, kind = rest.split(".", 2)
    number = int(n) if block == "one_vs_rest" else 1
    place = _RRID_LAYERS[f"{block}.{layer}"].format(n=n)
    if kind.startswith("norm."):
        return _Origin(
            tuple(f"{place}.{i}.1.{kind.removeprefix('norm.')}" for i in range(number)), (shape[0] // number,)
        )
    names = tuple(f"{place}.{i}.0.{kind}" for i in range(number))
    return _Origin(names, (*shape[1:], 1, 1) if kind == "weight" else shape[1:])


def _rrid_head(classified: str) -> str:
    """The published name of a classifier, of "relational/part6.1" for instance."""
    kind, n, _, part = re.fullmatch(r"(\w+/[a-z]+)(\d+)(\.(\d+))?", classified).groups()
    return f"{_RRID_HEADS[kind]}_{n}_list.{0 if part is None else int(part) - 1}"


def _fill(model: RGANet | RelationNet, state: dict[str, Tensor]) -> None:
    """Put a checked file into a model that has shapes only."""
    own = model.state_dict()
    device = next(iter(state.values())).device
    filled = {name: torch.zeros_like(own[name], device=device) for name in own if name.endswith(BATCH_COUNTER)}
    for name, origin in _origins(model).items():
        # `cat` copies a single tensor, too: the model shares no memory with the source
        values = torch.cat([state[key].detach().flatten() for key in origin.names])
        filled[name] = values.float().view(own[name].shape)
    model.load_state_dict(filled, assign=True)


def _empty_rga(where: str, state: dict[str, Tensor], height: int | None, width: int | None) -> RGANet:
    """The network that the names and shapes of a file speak of."""
    attention = re.compile(r"backbone\.rga_att([1-4])\.([a-zA-Z]+)_(spatial|channel)\.(.+)")
    found = {name: match.groups() for name in state if (match := attention.fullmatch(name))}
    if not found:
        raise _foreign(where, state, "of RGA", "backbone.rga_att1.theta_spatial.0.weight")
    areas, reductions = Counter[int](), Counter[int]()  # every tensor votes, so that a single odd one is found out
    for name, (stage, layer, half, place) in found.items():
        if place != "0.weight" or state[name].ndim != 4 or not state[name].numel() or layer == "W":
            continue
        rows, columns = state[name].shape[:2]
        if layer != "gg":
            reductions[columns // rows] += 1
        if (layer == "gg") == (half == "spatial"):  # these read places; the others read channels
            places = columns // 2 if layer == "gg" else columns
            areas[places * ResNet50Backbone.stage_strides[int(stage) - 1] ** 2] += 1
    height, width = _image_size(where, areas, height, width)
    return RGANet(
        _num_classes(state, ["cls.weight"]),
        spatial=any(half == "spatial" for _, _, half, _ in found.values()),
        channel=any(half == "channel" for _, _, half, _ in found.values()),
        stages=sorted({int(stage) for stage, _, _, _ in found.values()}),
        reduction=max(1, _most(reductions, 8)),
        height=height,
        width=width,
    )


def _empty_rrid(where: str, state: dict[str, Tensor], height: int | None, width: int | None) -> RelationNet:
    if not any(re.match(r"local_\d+_conv_list\.", name) for name in state):
        raise _foreign(where, state, "of the relation network", "local_6_conv_list.0.0.weight")
    heads = [name for name in state if re.fullmatch(r"fc_\w+_list\.\d+\.weight", name)]
    return RelationNet(
        _num_classes(state, heads), num_stripes=(6, 4, 2), contrast="released", height=height, width=width
    )


def _num_classes(state: dict[str, Tensor], heads: Iterable[str]) -> int:
    """The outputs of most classifiers; 1 if the file has none, which is found out later."""
    return max(1, _most(Counter(len(state[name]) for name in heads if name in state and state[name].ndim == 2), 1))


def _most(votes: Counter[int], otherwise: int) -> int:
    return votes.most_common(1)[0][0] if votes else otherwise


def _image_size(where: str, areas: Counter[int], height: int | None, width: int | None) -> tuple[int, int]:
    """Height and width of images of so many pixels: those given, or twice as high as wide."""
    usual = 256 * 128 if height is None or width is None else height * width
    area = _most(Counter({area: votes for area, votes in areas.items() if area % 256 == 0}), usual)
    cells = area // 256  # of the last map, each 16×16 pixels
    forms = [
        (cells // n * 16, n * 16) for n in range(1, math.isqrt(cells) + 1) if cells % n == 0 and cells <= 4 * n * n
    ]
    fits = " or ".join(f"{rows}×{columns}" for rows, columns in forms) or "no common form"
    if height is not None and width is not None:
        if height * width != area:
            raise ValueError(
                f"got height={height}, width={width}, but {where} was made for images of {area} pixels ({fits}); "
                "pass the size of the training"
            )
        return height, width
    for rows, columns in forms:
        if rows == 2 * columns:
            return rows, columns
    raise DataError(
        f"{where}: made for images of {area} pixels ({fits}), which are not twice as high as wide; "
        "pass height= and width= of the training"
    )


def _described(name: str, model: RGANet | RelationNet) -> str:
    if name == "rrid":
        return f"the relation network with {model.arguments['num_classes']} identities"
    arguments = model.arguments
    halves = " and ".join(half for half in ("spatial", "channel") if arguments[half])
    stages = ", ".join(map(str, arguments["stages"]))
    return (
        f"RGA with {halves} attention after stages {stages}, reduction {arguments['reduction']}, "
        f"{model.height}×{model.width} images and {arguments['num_classes']} identities"
    )


def _foreign(where: str, state: dict[str, Tensor], what: str, example: str) -> DataError:
    first = f", first {sorted(state)[:3]}" if state else ""
    return DataError(
        f"{where}: not a checkpoint {what}: got {len(state)} tensors{first}, expected names such as {example!r}"
    )


def _read(source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """Return what to call the source in messages, and its tensors by name without "module."."""
    if isinstance(source, Mapping):
        return "the state dict", plain_state(source, "the state dict")
    if isinstance(source, (str, os.PathLike)):
        return str(source), _read_file(Path(source))
    raise ValueError(f"source: got {type(source).__name__}, expected a path or a state dict; see model.state_dict()")


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        return read_state_dict(path)
    except DataError:
        if not (calls := _calls(path)):
            raise
    raise DataError(
        f"{path}: holds Python objects, first {calls[0]}, and not tensors alone. Reading them would run code that the "
        "file names, so it was not read. Where it was made, in the folder of its code and with its version of torch "
        "(0.4.1 will do), export the tensors:\n"
        "    import torch\n"
        f"    model = torch.load({path.name!r}, map_location='cpu')\n"
        "    torch.save(model.state_dict(), 'state_dict.pth')\n"
        "and pass state_dict.pth; if the file holds a dict and no model, save its 'state_dict' in the same way"
    )


def _calls(path: Path) -> list[str]:
    """What unpickling a file would call, apart from what makes tensors. Nothing is unpickled here."""
    found: list[str] = []
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                entry = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                _collect(archive.open(entry), found)
        else:
            with path.open("rb") as file:
                for _ in range(4):  # before torch 1.6: magic number, version, system, and then the object
                    _collect(file, found)
    except Exception:  # a damaged file breaks off anywhere; what was found until then counts
        pass
    return [name for name in found if not _HARMLESS.fullmatch(name)]


def _collect(file: Any, found: list[str]) -> None:
    """Append the names that one pickle imports."""
    texts: list[str] = []
    for position, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if position == 0 and opcode.name != "PROTO":
            raise ValueError("no pickle")
        if opcode.name == "GLOBAL":
            found.append(argument.replace(" ", "."))
        elif opcode.name == "STACK_GLOBAL":
            found.append(".".join(texts[-2:]))
        elif isinstance(argument, str):
            texts.append(argument)
