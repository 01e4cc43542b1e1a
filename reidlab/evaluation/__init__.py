"""Features of records, ranked lists and their scores; re-ranking, thresholds and search."""

from reidlab.evaluation.calibration import Calibration, OpenSet, calibrate
from reidlab.evaluation.features import Features, evaluate_features, evaluate_model, extract_features
from reidlab.evaluation.ranking import evaluate, evaluate_distances
from reidlab.evaluation.rerank import k_reciprocal_blocks, k_reciprocal_distances
from reidlab.evaluation.rules import RULES, matches_and_junk
from reidlab.evaluation.scores import ChanceLevelWarning, Evaluation
from reidlab.evaluation.search import Hits, embed_images, search  # `search` is the function, as in `reidlab.search`

__all__ = [
    "RULES",
    "Calibration",
    "ChanceLevelWarning",
    "Evaluation",
    "Features",
    "Hits",
    "OpenSet",
    "calibrate",
    "embed_images",
    "evaluate",
    "evaluate_distances",
    "evaluate_features",
    "evaluate_model",
    "extract_features",
    "k_reciprocal_blocks",
    "k_reciprocal_distances",
    "matches_and_junk",
    "search",
]
