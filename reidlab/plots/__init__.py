"""Every figure of the lessons. Each function returns the figure and one sentence that says what it shows."""

from reidlab.plots.attention import (
    attention_costs,
    attention_pictures,
    attention_shares,
    method_sizes,
    relation_stacks,
)
from reidlab.plots.curves import cmc, history
from reidlab.plots.ingredients import augmented_rows, schedules
from reidlab.plots.normalisation import distance_scales, nearest_neighbours
from reidlab.plots.parts import contrast_readings, loss_terms, stripe_bars, stripe_cuts
from reidlab.plots.pictures import image_grid, ranked_gallery
from reidlab.plots.preparation import filled_cells, image_sizes, reference_tree
from reidlab.plots.scores import (
    before_after,
    distance_histograms,
    intervals,
    neighbour_map,
    precision_recall,
    ranked_strips,
    rule_strips,
    score_curves,
)
from reidlab.plots.training import average_precisions, evaluation_curve, gate_maps, grouped_losses, training_curves
from reidlab.plots.triplets import chosen_triplets, lines, margin_shapes, runs, seed_spread, triplet_zones

__all__ = [
    "attention_costs",
    "attention_pictures",
    "attention_shares",
    "augmented_rows",
    "average_precisions",
    "before_after",
    "chosen_triplets",
    "cmc",
    "contrast_readings",
    "distance_histograms",
    "distance_scales",
    "evaluation_curve",
    "filled_cells",
    "gate_maps",
    "grouped_losses",
    "history",
    "image_grid",
    "image_sizes",
    "intervals",
    "lines",
    "loss_terms",
    "margin_shapes",
    "method_sizes",
    "nearest_neighbours",
    "neighbour_map",
    "precision_recall",
    "ranked_gallery",
    "ranked_strips",
    "reference_tree",
    "relation_stacks",
    "rule_strips",
    "runs",
    "schedules",
    "score_curves",
    "seed_spread",
    "stripe_bars",
    "stripe_cuts",
    "training_curves",
    "triplet_zones",
]
