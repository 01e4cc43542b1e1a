import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from reidlab import plots
from reidlab.data.records import Record
from reidlab.evaluation import evaluate_distances

pytestmark = pytest.mark.usefixtures("close_figures")


class Grey:
    def load(self, name):
        return np.full((40, 16, 3), 99, np.uint8)


def flat(value: int) -> np.ndarray:
    return np.full((16, 8, 3), value, np.uint8)


def records(pids, camids):
    return [Record(str(i), p, c, Grey()) for i, (p, c) in enumerate(zip(pids, camids, strict=True))]


def test_ranked_gallery_sorts_frames_and_counts():
    query, gallery = records([1], [1]), records([1, 1, 2, -1], [1, 2, 2, 2])
    figure, text = plots.ranked_gallery(query, gallery, np.array([[0.1, 0.4, 0.2, 0.3]]), rows=[0], results=4)
    assert "1 right (solid green, ✓), 1 wrong (dashed orange, ✗), 2 junk (dotted grey, –)" in text
    assert [axes.get_xlabel() for axes in figure.axes] == ["person 1", "0.100", "0.200", "0.300", "0.400"]
    assert [axes.get_title() for axes in figure.axes] == ["query", "–", "✗", "–", "✓"]
    lines = [axes.spines["left"].get_linestyle() for axes in figure.axes[1:]]
    assert lines[0] == lines[2] and len({str(line) for line in lines}) == 3  # distinct without colour


def test_ranked_gallery_can_leave_junk_out_and_refuses_a_wrong_matrix():
    query, gallery = records([1], [1]), records([1, 1], [1, 2])
    _, text = plots.ranked_gallery(query, gallery, np.array([[0.1, 0.4]]), rows=[0], results=3, show_junk=False)
    assert "1 right" in text and "0 junk" in text
    with pytest.raises(ValueError, match=r"got shape \(1, 3\), expected \(1, 2\)"):
        plots.ranked_gallery(query, gallery, np.zeros((1, 3)), rows=[0])


def test_cmc_draws_every_result_and_refuses_mixed_rules():
    names = {"query_pids": [1], "gallery_pids": [2, 1], "query_camids": [1], "gallery_camids": [2, 2]}
    result = evaluate_distances(torch.tensor([[0.1, 0.2]]), **names)
    figure, text = plots.cmc({"ours": result})
    assert "ours: 0.0% at rank 1, 100.0% at rank 10" in text
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.0, 1.0]
    many, _ = plots.cmc({str(number): result for number in range(8)})
    assert len(many.axes[0].lines) == 8


def test_history_has_a_panel_a_term():
    figure, text = plots.history([{"iteration": i, "learning_rate": 0.1, "triplet": 1 / i} for i in (1, 2)])
    assert len(figure.axes) == 1 and "triplet from 1.00 to 0.50" in text


def test_image_grid_draws_rows():
    figure, text = plots.image_grid([Grey().load("")] * 5, "grey", ["a"] * 5, columns=3)
    assert text == "Figure: grey; 5 images in 2 rows." and sum(axes.get_visible() for axes in figure.axes) == 5
    before = dict(plt.rcParams)
    plots.image_grid([flat(9)], "grey")
    assert dict(plt.rcParams) == before  # the caller's style is left alone


def test_figures_of_the_mat_file_count_what_they_show():
    filled = np.ones((3, 10), bool)
    filled[1, 4:6] = False
    assert "28 of 30 cells hold an image and 2 are empty" in plots.filled_cells(filled)[1]
    sizes = {"labeled": np.array([[160, 60], [300, 100]])}
    assert "labeled: height 160–300, width 60–100, mean 230×80" in plots.image_sizes(sizes)[1]
    figure, text = plots.reference_tree([("/labeled", "(1, 5)", "a pair")], Grey().load(""))
    assert "/labeled (1, 5) → 40×16 pixels" in text and len(figure.axes[0].child_axes) == 1


def test_augmented_rows_draws_each_picture_in_its_row():
    rows = {"as it is": [flat(10), flat(20)], "mirror": [flat(30), flat(40)]}
    figure, text = plots.augmented_rows(rows, "two pictures")
    assert text == "Figure: two pictures, 2 draws a row: as it is, mirror."
    assert [int(axes.images[0].get_array()[0, 0, 0]) for axes in figure.axes] == [10, 20, 30, 40]
    assert [axes.get_ylabel() for axes in figure.axes] == ["as it is", "", "mirror", ""]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.image_grid([flat(9)] * 2, "grey", ["a"]), "got 2 images and 1 titles"),
        (lambda: plots.ranked_strips({"none": [0, 0]}), "at least one right result"),
        (lambda: plots.precision_recall({}), "at least one right result"),
        (lambda: plots.cmc({}), "exactly one rule"),
        (lambda: plots.history([]), "history is empty"),
        (lambda: plots.relation_stacks(np.zeros((16, 16)), 4, 4), "at most 12 places"),
        (lambda: plots.attention_costs({"a": {"parameters": 1}, "b": {"seconds": 1}}), "expected the same ones"),
        (lambda: plots.attention_costs({}), "expected the same ones"),
        (lambda: plots.attention_costs({"a": {"parameters": 0}}), "above 0 only"),
        (lambda: plots.method_sizes([]), "rows is empty"),
        (lambda: plots.attention_pictures([], [], {}), "got 0 pictures"),
        (lambda: plots.attention_shares({}, "ratio"), "shares is empty"),
        (lambda: plots.nearest_neighbours({}, "ab"), "got 0 panels"),
        (lambda: plots.distance_scales({"one": ([0.1], [])}, "distance"), "of the same person and of different people"),
        (lambda: plots.intervals({"odd": (90, 91, 92)}, "rank-1"), "outside their intervals: \\['odd'\\]"),
        (lambda: plots.intervals({}, "rank-1"), "no scores"),
        (lambda: plots.score_curves([2, 6, 20], {"rank-1": {"a": [1, 2]}}, "k1", "%"), "3 values in each curve"),
        (lambda: plots.before_after([0.5], [0.5, 0.6], ("plain", "new")), "one of each for every query"),
        (lambda: plots.before_after([np.nan], [0.5], ("plain", "new")), "one of each"),
        (
            lambda: plots.distance_histograms({"here": ([0, 1], [3, 1], [0, 4])}, 1, "distance"),
            "one more edge than counts",
        ),
        (lambda: plots.margin_shapes([]), "margins is empty"),
        (lambda: plots.runs({"empty": []}, ["loss"]), r"histories of \[0\] rows"),
        (lambda: plots.lines({}, "x", "y"), "curves is empty"),
        (lambda: plots.seed_spread({"a": [0.5]}, "rank-1", live={"c": 0.5}), "a star needs its row"),
        (lambda: plots.augmented_rows({}, "x"), "the same number of pictures"),
        (lambda: plots.augmented_rows({"a": [flat(1)], "b": [flat(1)] * 2}, "x"), "the same number of pictures"),
        (lambda: plots.schedules({}), "all above 0"),
        (lambda: plots.schedules({"a": [0.1, 0.0]}), "all above 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
