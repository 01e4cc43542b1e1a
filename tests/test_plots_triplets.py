import numpy as np
import pytest
import torch

from reidlab import plots

POINTS = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 0.5], [0.0, 2.2], [3.0, 3.0]])
PIDS = torch.tensor([1, 1, 2, 2, 2])


def test_zones_are_told_for_every_negative():
    figure, text = plots.triplet_zones(POINTS, PIDS, anchor=0, positive=1, margin=0.5)
    assert text.endswith("distance 2.00 and margin 0.5: 2 is hard, 3 is semi-hard, 4 is easy.")
    assert len(figure.axes[0].patches) == 2
    with pytest.raises(ValueError, match="two different images of one person"):
        plots.triplet_zones(POINTS, PIDS, anchor=0, positive=2, margin=0.5)
    with pytest.raises(ValueError, match=r"points: got shape \(5, 2\) for 2 pids"):
        plots.triplet_zones(POINTS, [1, 1], anchor=0, positive=1, margin=0.5)


def test_chosen_triplets_draws_a_panel_for_each_mining():
    choices = {
        "one": np.array([[0, 1, 2]]),
        "all": np.array([[0, 1, 2], [0, 1, 3], [2, 3, 0]]),
        "none": np.empty((0, 3)),
    }
    figure, text = plots.chosen_triplets(POINTS, PIDS, choices, anchor=0)
    assert "one: pulls 1, pushes 2; all: pulls 1, pushes 2, 3; none: pulls nobody, pushes nobody" in text
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == list(choices)
    with pytest.raises(ValueError, match="choices is empty"):
        plots.chosen_triplets(POINTS, PIDS, {}, anchor=0)


def test_lines_and_runs_tell_where_curves_end():
    assert "a: 3 at 1, 30 at 10" in plots.lines({"a": ([1, 10], [3, 30])}, "x", "y", log=True)[1]
    rows = [{"iteration": i, "loss": 1 / i, "mean_distance": i} for i in (1, 4)]
    figure, text = plots.runs({"good": rows, "bad": rows[:1]}, ["loss", "mean_distance"], {"margin": 0.3}, log=["loss"])
    assert "good ends at 0.25, 4; bad ends at 1, 1" in text
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]
