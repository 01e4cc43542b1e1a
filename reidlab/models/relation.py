"""The relation network: parts of a person, each described together with the rest."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reidlab.checks import check_choice, check_switch, check_whole
from reidlab.losses import triplet_loss
from reidlab.models.backbones import new_backbone, part_image_size
from reidlab.models.base import ReIDModel, autocast
from reidlab.models.parts import (
    CONTRASTS,
    GlobalContrastivePooling,
    GlobalFeatures,
    OneVsRest,
    PartFeatures,
    PartLayer,
    check_loss_settings,
    check_stripes,
    class_scores,
    cross_entropies,
    stripe_maxima,
)

__all__ = ["GlobalContrastivePooling", "GlobalFeatures", "OneVsRest", "PartFeatures", "RelationNet", "group_terms"]

TERM_GROUPS = ("triplet", "relational", "local", "rest", "global")
"""Groups of the terms of the loss, see `RelationNet`."""
POOLINGS = ("contrastive", "average", "max")
"""How the global features are made, see `RelationNet`."""


class RelationNet(ReIDModel):
    """Parts in relation to the rest, and globals in relation to what they stand out from, at several scales.

    The map is cut into n stripes for each n of `num_stripes`. Each stripe's largest values go through `OneVsRest`,
    all n together through `GlobalContrastivePooling`. With 6, 4 and 2 that makes 12 features of parts and 3
    global ones, each of `out_channels` numbers, one behind the other in this order: the parts of 6, of 4, of 2,
    then the globals of 6, 4, 2.

    Each of these 15 features has a triplet loss. Each of them, and each of the vectors it was made of, has a
    classifier: 12 relational parts, 12 local parts, 12 rests, and 9 for the globals: relational, largest,
    contrast. The classifiers' weights are stacked in `classify`, row by row in the order of `classified`.

    Args:
        num_classes: identities to distinguish in training.
        backbone: "resnet50" (384×128 images) or "small" (192×64).
        weights: ImageNet weights for "resnet50": a path, "torchvision" or None.
        num_stripes: numbers of stripes; each divides the rows of the map, which has a 16th of the image's.
        out_channels: numbers of each feature.
        margin: of the triplet losses, which work on features as they are, not with unit norm; None for the soft
            margin.
        contrast: "released" or "paper", see `GlobalContrastivePooling`.
        pooling: "contrastive"; or, to see what it is good for, "average" or "max" of the whole map with one
            layer: no relation, and no terms for largest and contrast.
        one_vs_rest: False leaves each part by itself: no relation, and no terms for local and rest.
        terms: groups of the loss to train with, of `TERM_GROUPS`.
        height, width: of the images, in pixels; None for the backbone's usual size.
        flip: search with the mean of the features of an image and of its mirror image; takes twice as long.

    Raises:
        ValueError: an unknown choice, stripes that do not divide the map, or no loss left.

    Example:
        >>> model = RelationNet(num_classes=5, backbone="small")
        >>> outputs = model(torch.zeros(4, 3, 192, 64))
        >>> {name: tuple(tensor.shape) for name, tensor in outputs.items()}
        {'features': (4, 3840), 'logits': (4, 45, 5)}
        >>> terms = model.loss(outputs, torch.tensor([0, 0, 1, 1]))
        >>> len(terms), list(group_terms(terms))
        (60, ['triplet', 'relational', 'local', 'rest', 'global'])

    Source: Park, Ham, "Relation network for person re-identification", AAAI 2020; margin, the factor 2 of the
    cross-entropies, the order of the features and the search with mirror images are those of the authors' code.
    Taught in: notebooks/05_relation_network.ipynb
    """

    name = "relation"
    backbone_prefixes = ("backbone.",)
    normalise_mean = True

    def __init__(
        self,
        num_classes: int,
        backbone: str = "resnet50",
        weights: str | os.PathLike[str] | None = None,
        num_stripes: Sequence[int] = (6, 4, 2),
        out_channels: int = 256,
        margin: float | None = 1.2,
        contrast: str = "released",
        pooling: str = "contrastive",
        one_vs_rest: bool = True,
        terms: Sequence[str] = TERM_GROUPS,
        height: int | None = None,
        width: int | None = None,
        flip: bool = True,
    ):
        super().__init__()
        for name, values, usual in (("num_stripes", num_stripes, (6, 4, 2)), ("terms", terms, TERM_GROUPS)):
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise ValueError(f"{name}={values!r}: expected a tuple, such as {usual}")
        num_stripes, terms = tuple(num_stripes), tuple(terms)
        check_whole(1, num_classes=num_classes, out_channels=out_channels)
        _check_choices(contrast, pooling, num_stripes, terms)
        check_loss_settings(margin)
        check_switch(one_vs_rest=one_vs_rest, flip=flip)
        if pooling != "contrastive":
            self.refuse_unread(f"pooling={pooling!r}", "contrast")
        self.height, self.width = part_image_size(backbone, height, width)
        self.backbone = new_backbone(backbone, weights)
        check_stripes(self.height // 16, num_stripes)
        self.arguments |= {"num_stripes": num_stripes, "terms": terms, "height": self.height, "width": self.width}
        self.num_stripes, self.margin, self.pooling, self.terms, self.flip = num_stripes, margin, pooling, terms, flip
        channels = self.backbone.channels
        of_parts: dict[str, nn.Module] = {}
        of_whole: dict[str, nn.Module] = {}
        for n in num_stripes:
            of_parts[str(n)] = (OneVsRest if one_vs_rest else PartLayer)(channels, out_channels, n)
            if pooling == "contrastive":
                of_whole[str(n)] = GlobalContrastivePooling(channels, out_channels, n, contrast)
            else:
                of_whole[str(n)] = PartLayer(channels, out_channels, 1)
        self.one_vs_rest, self.global_pooling = nn.ModuleDict(of_parts), nn.ModuleDict(of_whole)
        self.feature_names = _feature_names(num_stripes)
        self.classified = _classified(num_stripes, one_vs_rest, pooling == "contrastive", terms)
        if not self.classified and "triplet" not in terms:
            raise ValueError(f"terms={terms} with one_vs_rest={one_vs_rest} leaves no loss; add 'triplet'")
        self.classify = class_scores(out_channels, num_classes, len(self.classified)) if self.classified else None

    def forward(self, images: Tensor, precision: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return `features` (B, 15 * out_channels) and `logits` (B, 45, num_classes).

        They are in the order of `feature_names` and `classified`; without logits where `terms` names no classifier.

        Raises:
            ValueError: images of another size, or one image in training mode.
        """
        found = self._related(images, precision)
        features = torch.cat([found["relational/part"], found["relational/global"]], dim=1)  # (B, 15, out)
        outputs = {"features": features.flatten(1)}
        if self.classify is not None:
            kinds = dict.fromkeys(name.rstrip("0123456789.") for name in self.classified)  # in their order
            outputs["logits"] = self.classify(torch.cat([found[kind] for kind in kinds], dim=1))
        return outputs

    def describe(self, images: Tensor) -> Tensor:
        """Return `features` (B, 15 * out_channels) of `forward` without the classifiers' work."""
        found = self._related(images, None)
        return torch.cat([found["relational/part"], found["relational/global"]], dim=1).flatten(1)

    def _related(self, images: Tensor, precision: torch.dtype | None) -> dict[str, Tensor]:
        """Return the features of each kind, (B, 12, out) of parts and (B, 3, out) of the whole."""
        self.check_images(images)
        with autocast(images, precision):
            maps = self.backbone(images)
        maps = maps.to(next(self.one_vs_rest.parameters()).dtype)
        rows = F.max_pool2d(maps, (1, maps.shape[3]))  # (B, C, H, 1), from which stripes of every height are made
        found: dict[str, list[Tensor]] = {}
        for n in self.num_stripes:
            stripes = stripe_maxima(rows, n)  # (B, C, n)
            of_parts = self.one_vs_rest[str(n)]
            if isinstance(of_parts, PartLayer):
                found.setdefault("relational/part", []).append(of_parts(stripes.transpose(1, 2)))
            else:
                for kind, value in of_parts(stripes)._asdict().items():
                    found.setdefault(f"{kind}/part", []).append(value)
            of_whole = self.global_pooling[str(n)]
            if isinstance(of_whole, PartLayer):
                pooled = maps.mean(dim=(2, 3)) if self.pooling == "average" else stripes.amax(2)  # (B, C)
                found.setdefault("relational/global", []).append(of_whole(pooled[:, None]))
            else:
                for kind, value in of_whole(stripes)._asdict().items():
                    found.setdefault(f"{kind}/global", []).append(value[:, None])
        return {kind: torch.cat(values, dim=1) for kind, values in found.items()}

    def loss(
        self, outputs: dict[str, Tensor], pids: Tensor, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the terms of the loss by name; training minimises their sum.

        Names are group and feature: "triplet/part6.1" for the top one of six parts, "triplet/global6",
        "relational/part6.1", "local/part6.1", "rest/part6.1", "relational/global6", "largest/global6",
        "contrast/global6". Each cross-entropy holds the factor 2 of the published loss, so that the plain sum
        is that loss: 15 triplet losses + 2 · 45 cross-entropies.
        """
        terms = {}
        if "triplet" in self.terms:
            features = outputs["features"].unflatten(1, (len(self.feature_names), -1))  # (B, 15, out)
            for name, feature in zip(self.feature_names, features.unbind(1), strict=True):
                terms[f"triplet/{name}"] = triplet_loss(feature, pids, self.margin)
        if self.classify is not None:
            entropies = 2 * cross_entropies(outputs["logits"], pids)  # (45,)
            terms |= dict(zip(self.classified, entropies.unbind(), strict=True))
        return terms


def group_terms(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add up the terms of `RelationNet.loss` by group, for logs and plots.

    Args:
        terms: scalars by name.

    Returns:
        Sums by the groups of `TERM_GROUPS` that occur: "relational" holds the relational parts, "global" all
        cross-entropies of globals.

    Example:
        >>> group_terms({"local/part2.1": torch.tensor(1.0), "local/part2.2": torch.tensor(2.0)})
        {'local': tensor(3.)}

    Taught in: notebooks/05_relation_network.ipynb
    """
    groups: dict[str, list[Tensor]] = {}
    for name, value in terms.items():
        groups.setdefault(_group(name), []).append(value)
    return {group: torch.stack(groups[group]).sum() for group in TERM_GROUPS if group in groups}


def _group(name: str) -> str:
    kind, _, where = name.partition("/")
    return "global" if kind != "triplet" and where.startswith("global") else kind


def _feature_names(num_stripes: tuple[int, ...]) -> list[str]:
    parts = [f"part{n}.{i}" for n in num_stripes for i in range(1, n + 1)]
    return parts + [f"global{n}" for n in num_stripes]


def _classified(
    num_stripes: tuple[int, ...], one_vs_rest: bool, contrastive: bool, terms: tuple[str, ...]
) -> list[str]:
    """Return the names of the cross-entropies, kind by kind."""
    names = _feature_names(num_stripes)
    stripes, wholes = names[: sum(num_stripes)], names[sum(num_stripes) :]
    names = [f"{kind}/{part}" for kind in PartFeatures._fields[: 3 if one_vs_rest else 1] for part in stripes]
    names += [f"{kind}/{whole}" for kind in GlobalFeatures._fields[: 3 if contrastive else 1] for whole in wholes]
    return [name for name in names if _group(name) in terms]


def _check_choices(contrast: str, pooling: str, num_stripes: tuple[int, ...], terms: tuple[str, ...]) -> None:
    check_choice("contrast", contrast, CONTRASTS)
    check_choice("pooling", pooling, POOLINGS)
    if not num_stripes or len(set(num_stripes)) != len(num_stripes):
        raise ValueError(f"num_stripes={num_stripes}: expected at least one number of stripes, each of them once")
    unknown = sorted(set(map(str, terms)) - set(TERM_GROUPS))
    if unknown or not terms or len(set(terms)) != len(terms):
        raise ValueError(f"terms={terms}: expected some of {', '.join(TERM_GROUPS)}, each of them once")
