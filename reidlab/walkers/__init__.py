"""Walkers: procedural pedestrians in CUHK03's own file formats, with the truth beside them; streets to train on."""

from reidlab.walkers.streets import Streets
from reidlab.walkers.truth import read_truth
from reidlab.walkers.world import World

__all__ = ["StreetAugmentation", "StreetCrops", "Streets", "World", "read_truth"]


def __getattr__(name: str) -> object:
    # These need torch, which takes seconds to load; drawing does not.
    if name == "StreetAugmentation":
        from reidlab.walkers.street_augmentation import StreetAugmentation

        return StreetAugmentation
    if name == "StreetCrops":
        from reidlab.walkers.street_crops import StreetCrops

        return StreetCrops
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
