"""Networks that turn an image of a person into a feature."""

from reidlab.models.baseline import Baseline
from reidlab.models.relative_distance import RelativeDistanceNet

Model = Baseline | RelativeDistanceNet
MODELS: dict[str, type[Model]] = {"baseline": Baseline, "relative_distance": RelativeDistanceNet}
"""By the name that training settings and checkpoints use."""

__all__ = ["MODELS", "Baseline", "Model", "RelativeDistanceNet"]
