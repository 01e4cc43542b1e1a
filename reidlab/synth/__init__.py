"""Walkers: procedural pedestrians in CUHK03's own file formats, with the truth beside them."""

from reidlab.synth.streets import Streets
from reidlab.synth.truth import read_truth
from reidlab.synth.world import World

__all__ = ["Streets", "World", "read_truth"]
