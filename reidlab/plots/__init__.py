"""Every figure of the lessons. Each function returns the figure and one sentence that says what it shows."""

from reidlab.plots.curves import cmc, history
from reidlab.plots.normalisation import distance_scales, nearest_neighbours
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
from reidlab.plots.triplets import chosen_triplets, lines, margin_shapes, runs, seed_spread, triplet_zones

__all__ = [
    "before_after",
    "chosen_triplets",
    "cmc",
    "distance_histograms",
    "distance_scales",
    "filled_cells",
    "history",
    "image_grid",
    "image_sizes",
    "intervals",
    "lines",
    "margin_shapes",
    "nearest_neighbours",
    "neighbour_map",
    "precision_recall",
    "ranked_gallery",
    "ranked_strips",
    "reference_tree",
    "rule_strips",
    "runs",
    "score_curves",
    "seed_spread",
    "triplet_zones",
]
