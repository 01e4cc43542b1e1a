"""Networks that turn an image of a person into a feature."""

from reidlab.models.baseline import Baseline
from reidlab.models.mgn import MGN
from reidlab.models.relation import RelationNet
from reidlab.models.relative_distance import RelativeDistanceNet
from reidlab.models.rganet import RGANet

Model = Baseline | RGANet | RelationNet | MGN | RelativeDistanceNet
MODELS: dict[str, type[Model]] = {
    "baseline": Baseline,
    "rga": RGANet,
    "relation": RelationNet,
    "mgn": MGN,
    "relative_distance": RelativeDistanceNet,
}
"""By the name that training settings and checkpoints use."""

__all__ = ["MGN", "MODELS", "Baseline", "Model", "RGANet", "RelationNet", "RelativeDistanceNet"]
