"""Ranked lists and the scores read off them."""

from reidlab.evaluation.ranking import Evaluation, evaluate, evaluate_distances

__all__ = ["Evaluation", "evaluate", "evaluate_distances"]
