import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from reidlab import plots
from reidlab.data.records import Record
from reidlab.evaluation import evaluate_distances


class Grey:
    def load(self, name):
        return np.full((40, 16, 3), 99, np.uint8)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


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
    with pytest.raises(ValueError, match="exactly one rule"):
        plots.cmc({})


def test_history_has_a_panel_a_term():
    figure, text = plots.history([{"iteration": i, "learning_rate": 0.1, "triplet": 1 / i} for i in (1, 2)])
    assert len(figure.axes) == 1 and "triplet from 1.00 to 0.50" in text
    with pytest.raises(ValueError, match="history is empty"):
        plots.history([])


def test_image_grid_needs_a_title_each():
    figure, text = plots.image_grid([Grey().load("")] * 5, "grey", ["a"] * 5, columns=3)
    assert text == "Figure: grey; 5 images in 2 rows." and sum(axes.get_visible() for axes in figure.axes) == 5
    with pytest.raises(ValueError, match="got 2 images and 1 titles"):
        plots.image_grid([Grey().load("")] * 2, "grey", ["a"])


def test_figures_leave_the_callers_style_alone():
    before = dict(plt.rcParams)
    plots.image_grid([Grey().load("")], "grey")
    assert dict(plt.rcParams) == before


def test_figures_of_the_mat_file_count_what_they_show():
    filled = np.ones((3, 10), bool)
    filled[1, 4:6] = False
    assert "28 of 30 cells hold an image and 2 are empty" in plots.filled_cells(filled)[1]
    sizes = {"labeled": np.array([[160, 60], [300, 100]])}
    assert "labeled: height 160–300, width 60–100, mean 230×80" in plots.image_sizes(sizes)[1]
    figure, text = plots.reference_tree([("/labeled", "(1, 5)", "a pair")], Grey().load(""))
    assert "/labeled (1, 5) → 40×16 pixels" in text and len(figure.axes[0].child_axes) == 1
