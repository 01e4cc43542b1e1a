"""Networks that turn an image of a person into a feature."""

from reidlab.models.baseline import Baseline

__all__ = ["Baseline"]
