"""Every figure of the lessons. Each function returns the figure and one sentence that says what it shows."""

# ruff: noqa: F401 - what is imported here is the public list
from reidlab.plots.attention import (
    attention_costs,
    attention_pictures,
    attention_shares,
    gate_maps,
    method_sizes,
    relation_stacks,
)
from reidlab.plots.normalisation import distance_scales, nearest_neighbours
from reidlab.plots.parts import contrast_readings, loss_terms, stripe_bars, stripe_cuts
from reidlab.plots.pictures import augmented_rows, filled_cells, image_grid, image_sizes, ranked_gallery, reference_tree
from reidlab.plots.scores import (
    before_after,
    cmc,
    distance_histograms,
    intervals,
    neighbour_map,
    precision_recall,
    ranked_strips,
    rule_strips,
    score_curves,
)
from reidlab.plots.training import (
    average_precisions,
    evaluation_curve,
    grouped_losses,
    history,
    schedules,
    training_curves,
)
from reidlab.plots.triplets import chosen_triplets, lines, margin_shapes, runs, seed_spread, triplet_zones
