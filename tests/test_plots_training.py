import numpy as np
import pytest
import torch

from reidlab import plots
from reidlab.models import MGN, RelationNet
from reidlab.models.relation import group_terms

pytestmark = pytest.mark.usefixtures("close_figures")

EVALUATION = {"people": "held-out", "identities": 9, "chance_mean_ap": 0.1}


def rows(number=3, **more):
    return [{"iteration": 5 * i, "triplet": 1 / i, "learning_rate": 0.1 * i, **more} for i in range(1, number + 1)]


def drawn(axes):
    return np.concatenate([line.get_ydata() for line in axes.lines]).tolist()


def terms_of(model):
    """The loss of a network that has seen one batch, as a row has it."""
    torch.manual_seed(0)
    outputs = model.train()(torch.randn(4, 3, model.height, model.width))
    terms = model.loss(outputs, torch.tensor([0, 0, 1, 1]))
    return {name: float(value.detach()) for name, value in terms.items()}, terms


def test_sixty_terms_are_added_up_in_the_groups_of_the_network():
    row, terms = terms_of(RelationNet(2, "small"))
    expected = {name: float(value.detach()) for name, value in group_terms(terms).items()}
    assert plots.grouped_losses({"kind": "train", "iteration": 5, **row}) == pytest.approx(expected, rel=1e-5)
    figure, text = plots.training_curves([{"iteration": 5, **row}])
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == [f"{n} (sum of {k})" for n, k in zip(expected, (15, 12, 12, 12, 9), strict=True)]
    assert f"triplet (sum of 15) from {expected['triplet']:.3g} to" in text


def test_terms_of_other_networks_of_parts_are_added_up_by_what_stands_before_the_stroke():
    row, _ = terms_of(MGN(2, "small"))
    sums = plots.grouped_losses(row)
    for kind in ("triplet", "cross_entropy"):
        assert sums.pop(kind) == pytest.approx(sum(value for name, value in row.items() if name.startswith(kind)))
    assert sums == {}


def test_what_is_no_loss_is_not_taken_for_one():
    more = {"kind": "train", "active_anchors": 0.5, "mean_distance": 2.0, "images_per_second": 100.0, "seconds": 3.0}
    assert plots.grouped_losses({**rows(1, **more)[0], "memory_mb": None}) == {"triplet": 1.0}


def test_training_curves_draw_the_rows_and_tell_their_ends():
    history = rows(3)
    history[1]["mean_distance"] = 0.25  # a column that only one row has
    figure, text = plots.training_curves([*history, {"kind": "evaluation", "iteration": 99, "mean_ap": 0.9}])
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()] == [
        "triplet",
        "learning rate",
        "mean distance in the batch",
    ]
    assert drawn(figure.axes[0]) == [1, 1 / 2, 1 / 3] and drawn(figure.axes[2]) == [0.25]
    assert "iterations 5 to 15. triplet from 1 to 0.333; learning rate from 0.1 to 0.3, highest at 15;" in text
    assert figure.axes[0].get_ylim()[0] == 0


def test_training_curves_draw_the_columns_asked_for():
    history = [{**row, "memory_mb": None if row["iteration"] < 10 else 1003.7} for row in rows(3)]
    figure, text = plots.training_curves(history, ["memory_mb", "triplet"])
    assert drawn(figure.axes[0]) == [1003.7, 1003.7] and len(figure.axes) == 2
    assert "most memory so far (MB) from 1,004 to 1,004; triplet" in text
    below, _ = plots.training_curves([{"iteration": 1, "pull_push": -0.5}])
    assert below.axes[0].get_ylim()[0] < -0.5
    with pytest.raises(ValueError, match="no row has banana; the columns are triplet, learning_rate"):
        plots.training_curves(history, ["banana"])
    with pytest.raises(ValueError, match="no row has images_per_second"):
        plots.training_curves(history, ["images_per_second"])
    for nothing in ([], [{**EVALUATION, "iteration": 0}]):
        with pytest.raises(ValueError, match="no rows of a training run"):
            plots.training_curves(nothing)


def test_evaluation_curve_tells_the_highest_and_draws_chance():
    scores = [(0, 0.2, 0.1), (5, 0.6, 0.5), (10, 0.5, 0.4)]
    looks = [{**EVALUATION, "iteration": i, "rank1": r, "mean_ap": m} for i, r, m in scores]
    figure, text = plots.evaluation_curve([*rows(), *looks])
    assert text == (
        "Figure: scores on 9 held-out people. rank-1 0.200 at 0, highest 0.600 at 5, 0.500 at 10; "
        "mAP 0.100 at 0, highest 0.500 at 5, 0.400 at 10 (chance 0.100)."
    )
    rank1, mean_ap, chance = figure.axes[0].lines
    assert list(rank1.get_ydata()) == [0.2, 0.6, 0.5] and list(mean_ap.get_ydata()) == [0.1, 0.5, 0.4]
    assert list(chance.get_ydata()) == [0.1, 0.1, 0.1]
    assert len({line.get_linestyle() for line in figure.axes[0].lines}) == 3  # distinct without colour
    assert plots.evaluation_curve([{"kind": "evaluation", **one} for one in looks])[1] == text


def test_evaluation_curve_keeps_people_apart_and_asks_for_rows():
    looks = [{**EVALUATION, "iteration": 0, "rank1": 0.5, "mean_ap": 0.25, "people": p} for p in ("held-out", "seen")]
    figure, text = plots.evaluation_curve(looks)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["9 held-out people", "9 seen people"]
    assert "(chance 0.100); on 9 seen people. rank-1 0.500 at 0;" in text
    with pytest.raises(ValueError, match="set evaluate_every"):
        plots.evaluation_curve(rows())


def test_average_precisions_are_counted_as_by_hand():
    values = np.array([0, 0.05, 0.1, 0.15, 0.25, 0.96, 1.0, 1.0, np.nan])
    figure, text = plots.average_precisions({"last": values, "best": values[4:]})
    assert text.endswith(
        "last: median 0.20; of 8, 2 at 1 and 4 below 0.2. best: median 0.98; of 4, 2 at 1 and 0 below 0.2."
    )
    bars = [[bar.get_height() for bar in container] for container in figure.axes[0].containers]
    assert bars == [[2, 2, 1, 0, 0, 0, 0, 0, 0, 3], [0, 0, 1, 0, 0, 0, 0, 0, 0, 3]]
    assert len({container[0].get_hatch() for container in figure.axes[0].containers}) == 2
    for wrong in ({}, {"a": [np.nan]}, {"a": [1.5]}):
        with pytest.raises(ValueError, match="expected at least one each, all in"):
            plots.average_precisions(wrong)


def test_gate_maps_share_one_scale_in_a_row_and_tell_it():
    images = [np.zeros((8, 4, 3), np.uint8)] * 2
    gates = {"stage 1": np.array([[[0.2, 0.3]], [[0.4, 0.9]]]), "stage 2": np.array([[[0.5]], [[0.6]]])}
    figure, text = plots.gate_maps(images, gates, ["person 1", "person 2"])
    assert text.endswith("stage 1: 0.20 to 0.90; stage 2: 0.50 to 0.60.")
    pictures = [axes.images[0] for axes in figure.axes]
    assert [image.get_clim() for image in pictures[2:]] == [(0.2, 0.9)] * 2 + [(0.5, 0.6)] * 2
    assert [axes.get_title(loc="center") for axes in figure.axes[:2]] == ["person 1", "person 2"]
    for wrong in (([], gates, None), (images, {}, None), (images[:1], gates, None), (images, gates, ["one"])):
        with pytest.raises(ValueError, match="one of each for every picture"):
            plots.gate_maps(*wrong)


def test_schedules_tells_peak_place_and_end_of_each_run():
    rates = {"warm": [0.25, 0.5, 1.0, 1.0, 0.1], "falling": [0.4, 0.2]}
    figure, text = plots.schedules(rates)
    assert text.endswith("warm: 1 from 40%, at the end 0.1; falling: 0.4 from 0%, at the end 0.2.")
    drawn = [axes.lines[0].get_xydata() for axes in figure.axes]
    assert drawn[0].tolist() == [[0, 0.25], [0.2, 0.5], [0.4, 1], [0.6, 1], [0.8, 0.1]]
    assert drawn[1].tolist() == [[0, 0.4], [0.5, 0.2]]
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    assert plots.schedules({"again": rates["warm"] * 2})[1].count("from 20%") == 1  # the first place of the peak
