"""Every figure of the lessons. Each function returns the figure and one sentence that says what it shows."""

from reidlab.plots.curves import cmc, history
from reidlab.plots.pictures import image_grid, ranked_gallery
from reidlab.plots.preparation import filled_cells, image_sizes, reference_tree

__all__ = ["cmc", "filled_cells", "history", "image_grid", "image_sizes", "ranked_gallery", "reference_tree"]
