"""Walkers: procedural pedestrians in CUHK03's own file formats, with the truth beside them."""

from reidlab.synth.truth import read_truth
from reidlab.synth.world import World

__all__ = ["World", "read_truth"]
