import numpy as np
import pytest

from reidlab import plots

pytestmark = pytest.mark.usefixtures("close_figures")


def test_ranked_strips_tell_the_classic_worked_example():
    lists = {"A": [1, 0, 1, 0, 0, 1, 0, 0, 1, 1], "B": [0, 1, 0, 0, 1, 0, 1, 0, 0, 0]}
    figure, text = plots.ranked_strips(lists)
    assert "A: right at 1, 3, 6, 9, 10; AP 0.62" in text and "B: right at 2, 5, 7; AP 0.44" in text
    drawn = [[t.get_text() for t in axes.texts] for axes in figure.axes]
    assert drawn[1].count("✓") == 3 and drawn[1].count("✗") == 7  # distinct without colour
    assert [t for t in drawn[1] if "." in t] == ["0.50", "0.40", "0.43"]


def test_precision_recall_measures_both_areas():
    figure, text = plots.precision_recall({"late": [0, 1], "two": [0, 1, 0, 0, 1], "all": [1, 1]}, columns=2)
    assert "late: 0.5 and 0.25; two: 0.45 and 0.2875; all: 1 and 1" in text
    assert [axes.get_visible() for axes in figure.axes] == [True, True, True, False]
    line = figure.axes[1].lines[0]
    x, y = line.get_xdata(), line.get_ydata()
    assert sum((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2) == pytest.approx(0.2875)


def test_rule_strips_say_what_is_removed_and_what_is_drawn_by_lot():
    figure, text = plots.rule_strips(["a\nx", "b", "c"], [True, True, False], {"one": [0, 1, 1], "two": [1, 0.5, 0.5]})
    assert "one removes a; two removes nothing and draws lots among b, c." in text
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert "a\nx\n–" in texts and "b\n✓ in 50%" in texts and "c\n✗ in 50%" in texts
    for shares in ([0, 1], [0, 1, 1.5]):
        with pytest.raises(ValueError, match="one in \\[0, 1\\] each"):
            plots.rule_strips(["a", "b", "c"], [True] * 3, {"one": shares})


def test_intervals_draw_a_line_and_a_dot_a_score():
    figure, text = plots.intervals({"few": (90, 82, 96), "many": (90, 88, 92)}, "rank-1 [%]")
    assert "few: 90 (82 to 96); many: 90 (88 to 92)" in text
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[82, 96], [90], [88, 92], [90]]


def test_score_curves_share_one_scale():
    panels = {"rank-1": {"a": [50, 70, 60], "b": [1, 2, 3]}, "mAP": {"a": [40, 30, 20]}}
    figure, text = plots.score_curves([2, 6, 20], panels, "k1", "%", marked=20)
    assert "rank-1, a: 50 at 2, highest 70 at 6, 60 at 20" in text and "mAP, a: 40 at 2, highest 40 at 2" in text
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() and len(figure.axes[0].lines) == 3


def test_before_after_counts_winners_and_losers_and_skips_nan():
    figure, text = plots.before_after([0.5, 1, 0.2, np.nan], [0.7, 0.9, 0.2, np.nan], ("plain", "new"))
    assert "3 queries, plain against new: 1 up, 1 down, 1 unchanged; largest gain 0.20, largest loss 0.10" in text
    assert [len(line.get_xdata()) for line in figure.axes[0].lines[1:]] == [1, 1, 1]


def test_distance_histograms_draw_shares_so_that_few_and_many_pairs_compare():
    sites = {"here": ([0, 1, 2], [3, 1], [0, 400]), "there": ([0, 1, 2], [1, 1], [10, 10])}
    figure, text = plots.distance_histograms(sites, 0.75, "distance")
    assert "threshold 0.75. here: 4 pairs of one person, 400 of two people; there: 2 pairs" in text
    heights = [patch.get_data().values.tolist() for patch in figure.axes[0].patches]
    assert heights == [[0.75, 0.25], [0, 1]]
    assert all(axes.lines[-1].get_xdata()[0] == 0.75 for axes in figure.axes)


def test_neighbour_map_tells_which_neighbours_point_back():
    points = np.array([[0, 0], [1, 0], [1.2, 0], [-1.1, 0.1]])
    figure, text = plots.neighbour_map(points, list("qabp"), {0: [1, 3], 1: [2], 2: [1], 3: [0]})
    assert text == "Figure: 4 points; q points at a, p; of these p points back."
    widths = [note.arrow_patch.get_linewidth() for note in figure.axes[0].texts if hasattr(note, "arrow_patch")]
    assert sorted(widths) == [1.2, 1.2, 1.2, 2.4, 2.4]
    with pytest.raises(ValueError, match="expected \\(N, 2\\), N names"):
        plots.neighbour_map(points[:, :1], list("qabp"), {0: [1]})
