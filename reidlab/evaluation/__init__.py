"""Ranked lists and the scores read off them; re-ranking; thresholds."""

from reidlab.evaluation.calibration import Calibration, calibrate
from reidlab.evaluation.chance import ChanceLevelWarning
from reidlab.evaluation.ranking import evaluate, evaluate_distances
from reidlab.evaluation.rerank import k_reciprocal_blocks, k_reciprocal_distances
from reidlab.evaluation.rules import RULES, matches_and_junk
from reidlab.evaluation.scores import Evaluation

__all__ = [
    "RULES",
    "Calibration",
    "ChanceLevelWarning",
    "Evaluation",
    "calibrate",
    "evaluate",
    "evaluate_distances",
    "k_reciprocal_blocks",
    "k_reciprocal_distances",
    "matches_and_junk",
]
