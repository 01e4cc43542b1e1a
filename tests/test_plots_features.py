import numpy as np
import pytest
import torch

from reidlab import plots
from reidlab.distances import pairwise

pytestmark = pytest.mark.usefixtures("close_figures")

POINTS = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 0.5], [0.0, 2.2], [3.0, 3.0]])
PIDS = torch.tensor([1, 1, 2, 2, 2])


def panels(lengths):
    return {f"length {s:g}": (np.array([2.0, 1.0]), np.array([[2.0 * s, 1.2 * s], [1.8, 0.2]])) for s in lengths}


def test_nearest_neighbours_names_every_choice_and_marks_the_changes():
    figure, text = plots.nearest_neighbours(panels([0.3, 0.9, 2.0]), "ab", ["cosine", "euclidean", "dot"])
    assert "cosine: a, a, a; euclidean: b, a, b; dot: b, a, a." in text  # d(q, a) = 1.54, 0.22, 2.44; d(q, b) = 0.82
    assert text.endswith("It changes at length 0.9, length 2.")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["length 0.3", "▶ length 0.9", "▶ length 2"]
    figure.canvas.draw()  # some faults of a layout show only now
    widths = [axes.spines["top"].get_visible() for axes in figure.axes]
    assert widths == [False, True, True]


def test_nearest_neighbours_chooses_as_the_package_does():
    generator = np.random.default_rng(0)
    query, points = generator.normal(size=2), generator.normal(size=(9, 2))
    names = [str(number) for number in range(9)]
    for metric in ("cosine", "euclidean"):
        expected = int(pairwise(torch.tensor(query[None]), torch.tensor(points), metric).argmin())
        _, text = plots.nearest_neighbours({"one": (query, points)}, names, [metric])
        assert f"{metric}: {expected}." in text and text.endswith("It never changes.")


def test_nearest_neighbours_refuses_what_it_cannot_draw():
    with pytest.raises(ValueError, match=r"measures \['cosines'\]"):
        plots.nearest_neighbours(panels([1]), "ab", ["cosines"])
    with pytest.raises(ValueError, match=r"length 1: got \(2,\) and \(2, 2\), expected \(2,\) and \(3, 2\)"):
        plots.nearest_neighbours(panels([1]), "abc")
    with pytest.raises(ValueError, match="length 0: a point lies at the origin"):
        plots.nearest_neighbours(panels([0]), "ab")


def test_distance_scales_tells_the_order_whatever_the_scale():
    generator = np.random.default_rng(0)
    same, other = generator.normal(1, 0.3, 40).round(1), generator.normal(2, 0.5, 50).round(1)
    slow = np.mean([(s < o) + 0.5 * (s == o) for s in same for o in other])
    assert (same[:, None] == other).any()  # ties are counted as one half, and there are some
    figure, text = plots.distance_scales({"as is": (same, other), "shrunk": (same / 8, other / 8)}, "distance")
    assert text.count(f"the same person nearer in {100 * slow:.2f} % of comparisons") == 2
    figure.canvas.draw()
    first, second = (axes.get_xlim() for axes in figure.axes)
    assert np.allclose(np.array(first) / 8, second)


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
