"""Networks that turn an image of a person into a feature. A new model is one file and one import here."""

from reidlab.models.base import MODELS, ReIDModel, wrap
from reidlab.models.baseline import Baseline
from reidlab.models.mgn import MGN
from reidlab.models.relation import RelationNet
from reidlab.models.relative_distance import RelativeDistanceNet
from reidlab.models.rganet import RGANet

Model = ReIDModel

__all__ = ["MGN", "MODELS", "Baseline", "Model", "RGANet", "ReIDModel", "RelationNet", "RelativeDistanceNet", "wrap"]
