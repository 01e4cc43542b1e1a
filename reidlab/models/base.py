"""What all models share: images in, features to search with out, and the arguments that make them again."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reidlab.checks import check_whole
from reidlab.data.transforms import IMAGENET_MEAN, IMAGENET_STD, test_transform, to_image_tensor

T = TypeVar("T")
MODELS: dict[str, type[ReIDModel]] = {}
"""Models by the name that settings and checkpoints use. A class that sets `name` is here as soon as it is defined."""


RENAMED = {
    "stripes": "num_stripes",
    "parts": "num_stripes",
    "start": "gate_init",
    "search": "retrieval_feature, 'before_bn' or 'after_bn'",
    "attention": "spatial and channel, True or False each",
}
"""Earlier names of constructors' arguments, and today's."""


def refuse_renamed(names: Collection[str], renamed: Mapping[str, str] = RENAMED) -> None:
    """Refuse earlier names of settings.

    Raises:
        ValueError: the message says today's name.

    Example:
        >>> refuse_renamed(["stripes"])
        Traceback (most recent call last):
        ValueError: stripes has another name now: num_stripes
    """
    for name in sorted(set(names) & renamed.keys()):
        raise ValueError(f"{name} has another name now: {renamed[name]}")


def without_memory(make: Callable[[], T]) -> T:
    """Make a network on torch's device without memory, or on the CPU if its constructor reads values of tensors.

    Example:
        >>> without_memory(lambda: nn.Linear(10**6, 10**6)).weight.device
        device(type='meta')
    """
    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError):
        with torch.random.fork_rng([]):
            return make()


class ReIDModel(nn.Module):
    """The base of all models. A new one is a subclass with `name`, `height` and `width`, `forward` and `loss`.

    `forward(images, precision=None)` maps normalised images (B, 3, height, width) to tensors by name, one row per
    image; `features` (B, D) must be among them. The backbone computes in `precision` (inside `with autocast(images,
    precision)`), everything after it in the type of the weights. In training mode batch norm needs two images.

    Attributes:
        name: what settings and checkpoints call the class. A class without a name of its own cannot be saved.
        backbone_prefixes: how the names of those weights begin that ImageNet weights fill; training can give them a
            learning rate of their own.
        normalise_mean: how `embed` scales features, see there.
        height, width: of the images, in pixels.
        mean, std: of each colour channel, for pixels from 0 to 1.
        flip: whether `embed` averages the features of an image and of its mirror image.
        arguments: what the constructor was called with, defaults included, without `weights`:
            `type(model)(**model.arguments)` is the same network, with weights of its own.
        recipe: how weights that were read from a file were made.

    Example:
        >>> class Histogram(ReIDModel):
        ...     height, width = 64, 32
        ...     def __init__(self, bins=8):
        ...         super().__init__()
        ...         self.bins = bins
        ...     def forward(self, images, precision=None):
        ...         return {"features": torch.stack([image.histc(self.bins) for image in images])}
        >>> model = Histogram().eval()
        >>> model.arguments, model.embed(torch.rand(2, 3, 64, 32)).shape
        ({'bins': 8}, torch.Size([2, 8]))
    """

    name: ClassVar[str] = ""
    backbone_prefixes: ClassVar[tuple[str, ...]] = ()
    normalise_mean: ClassVar[bool] = False
    height: int
    width: int
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    flip: bool = False
    arguments: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.__dict__.setdefault("arguments", {})  # a class without a constructor of its own has none
        self.recipe: dict[str, Any] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if name := cls.__dict__.get("name"):
            known = MODELS.setdefault(name, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(f"{cls.__name__}: name={name!r} is that of {known.__name__}; choose another one")
            MODELS[name] = cls  # a class that is defined again, in a notebook cell for instance, replaces itself
        if init := cls.__dict__.get("__init__"):
            cls.__init__ = _keeping_arguments(init)

    def loss(
        self, outputs: dict[str, Tensor], pids: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the terms of the loss by name; training minimises their sum.

        Args:
            outputs: what `forward` returned.
            pids: (B,) identities, numbered from 0 in training.
            generator: for losses that sample triplets at random, on the CPU; None for torch's global generator.

        Raises:
            ValueError: the model has no loss.
        """
        raise ValueError(f"{type(self).__name__} has no loss and cannot be trained; it can embed, search and evaluate")

    def describe(self, images: Tensor) -> Tensor:
        """Return the features (B, D) that `embed` uses, of the images as they are, without their mirror images."""
        return self(images)["features"]

    def embed(self, images: Tensor) -> Tensor:
        """Return features (B, D) to search with.

        With `flip`, the mean over an image and its mirror image, which takes twice as long. The features of both are
        scaled to unit norm before the mean; with `normalise_mean`, features are instead averaged as they are and
        then always scaled to unit norm, so that a part with large values counts more than one with small values.

        Args:
            images: (B, 3, height, width), normalised as `preprocess` does it.

        Raises:
            ValueError: the model is in training mode, where an image's feature depends on its batch.
        """
        if self.training:
            raise ValueError("the model is in training mode: call model.eval() before embed()")
        features = self.describe(images)
        if self.flip:
            mirrored = self.describe(images.flip(3))
            if not self.normalise_mean:
                features, mirrored = F.normalize(features), F.normalize(mirrored)
            features = (features + mirrored) / 2
        return F.normalize(features) if self.normalise_mean else features

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Turn one uint8 (H, W, 3) RGB image into the (3, height, width) tensor this model was made for.

        Example:
            >>> from reidlab.models import Baseline
            >>> Baseline(num_classes=2).preprocess(np.zeros((200, 80, 3), np.uint8)).shape
            torch.Size([3, 128, 64])
        """
        return test_transform(self.height, self.width, self.mean, self.std)(to_image_tensor(image))

    def refuse_unread(self, because: str, *names: str) -> None:
        """Refuse arguments of the constructor that would change nothing; to be called in the constructor.

        Args:
            because: the choice that leaves them without effect, for the message.
            names: the arguments; those at their defaults are let through.

        Raises:
            ValueError: the first that is not at its default.
        """
        defaults = inspect.signature(type(self)).parameters
        for name in names:
            if name in defaults and self.arguments.get(name, defaults[name].default) != defaults[name].default:
                raise ValueError(f"{name}={self.arguments[name]!r} is not read with {because}; leave it out")

    def check_images(self, images: Tensor) -> None:
        """Refuse images of another size than the model was made for.

        Raises:
            ValueError: another size.
        """
        if images.ndim != 4 or images.shape[1:] != (3, self.height, self.width):
            raise ValueError(
                f"images: got shape {tuple(images.shape)}, expected (B, 3, {self.height}, {self.width}); "
                "model.preprocess brings an image to that size, or make a model with height= and width="
            )

    def __len__(self) -> int:
        """1, so that `model or other` works for a compiled model: torch's wrapper passes the question on to len()."""
        return 1


def autocast(images: Tensor, precision: torch.dtype | None) -> AbstractContextManager[Any]:
    """Compute what follows in `precision` on the device of the images; None leaves the precision alone."""
    return torch.autocast(images.device.type, precision) if precision else nullcontext()


def _keeping_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor store its arguments; where one constructor calls another, those of the first."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def constructor(self: ReIDModel, *args: Any, **kwargs: Any) -> None:
        if "arguments" not in self.__dict__:
            refuse_renamed(kwargs.keys() - signature.parameters.keys())
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            _, *names = signature.parameters  # the first one is self
            self.arguments = {name: bound.arguments[name] for name in names if name != "weights"}
            if names and signature.parameters[names[-1]].kind is inspect.Parameter.VAR_KEYWORD:
                self.arguments |= self.arguments.pop(names[-1])
        init(self, *args, **kwargs)

    return constructor


class WrappedModel(ReIDModel):
    """A foreign network as a `ReIDModel`, see `wrap`; the network itself is `model.network`."""

    def __init__(
        self, module: nn.Module, height: int, width: int, mean: Sequence[float], std: Sequence[float], flip: bool
    ):
        super().__init__()
        self.network, self.height, self.width = module, height, width
        self.mean, self.std, self.flip = tuple(mean), tuple(std), flip

    def forward(self, images: Tensor, precision: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return the network's output as `features` (B, D), in the type of the images.

        Raises:
            ValueError: images of another size, or an output that is not (B, D).
        """
        self.check_images(images)
        with autocast(images, precision):
            features = self.network(images)
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(images):
            got = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(
                f"{type(self.network).__name__}: got {got} for {len(images)} images, expected a tensor (B, D) with one "
                "feature per image; wrap a module that pools its maps and returns that tensor alone"
            )
        return {"features": features.to(images.dtype)}


def wrap(
    module: nn.Module,
    height: int = 256,
    width: int = 128,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    flip: bool = False,
) -> WrappedModel:
    """Make a model of this package out of any network, of torchreid or timm for instance, to evaluate and search with.

    Args:
        module: maps normalised images (B, 3, height, width) to features (B, D) in evaluation mode. It is not copied,
            and is put into evaluation mode.
        height, width: of the images that it was trained with, in pixels.
        mean, std: of each colour channel, in RGB order, for pixels from 0 to 1; the usual ones of ImageNet if not
            given.
        flip: average the unit-norm features of an image and of its mirror image.

    Returns:
        A model in evaluation mode with `preprocess` and `embed`, for `evaluate_model` and `extract_features`. It has
        no loss and is not saved as a checkpoint: save `module.state_dict()`, and wrap the network again.

    Raises:
        ValueError: not a module, a size below 1, or a mean or std that is not for pixels from 0 to 1. An output that
            is not (B, D) is refused by `embed`.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> model = wrap(network, height=64, width=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), flip=True)
        >>> model.embed(model.preprocess(np.zeros((200, 80, 3), np.uint8))[None]).shape
        torch.Size([1, 8])
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"module: got {type(module).__name__}, expected a torch.nn.Module")
    check_whole(1, height=height, width=width)
    for name, values, low in (("mean", mean, 0.0), ("std", std, 1e-6)):
        if len(values) != 3 or not all(low <= value <= 1 for value in values):
            raise ValueError(f"{name}={values}: expected three values from {low:g} to 1; divide those for 0–255 by 255")
    return WrappedModel(module, height, width, mean, std, flip).eval()
