import numpy as np
import pytest

from reidlab import plots
from reidlab.models import RelationNet

pytestmark = pytest.mark.usefixtures("close_figures")

RELATIONS = np.array([[2, 0, 1, 1], [4, 0, 2, 2], [6, 0, 3, 3], [0, 0, 0, 0]])
IMAGE = np.full((96, 32, 3), 40, np.uint8)


def lines_across(axes) -> list[float]:
    return sorted({float(line.get_ydata()[0]) for line in axes.lines if line.get_linestyle() == "-"})


def test_stripe_cuts_draws_what_divides_and_says_what_does_not():
    figure, text = plots.stripe_cuts(IMAGE, [24, 16], [6, 4, 2])
    assert text.endswith("24 rows: 6 of 4, 4 of 6, 2 of 12; 16 rows: 6 do not fit, 4 of 4, 2 of 8.")
    assert [len(lines_across(axes)) for axes in figure.axes] == [5, 3, 1, 0, 3, 1]
    assert lines_across(figure.axes[1]) == [23.5, 47.5, 71.5]
    assert IMAGE.max() == 40, "the picture of the caller is left alone"
    for rows, parts in (([], [6]), ([24], []), ([0], [6])):
        with pytest.raises(ValueError, match="expected some of each"):
            plots.stripe_cuts(IMAGE, rows, parts)


def test_stripe_cuts_agrees_with_what_the_network_takes():
    for rows in (12, 16, 18, 24):
        text = plots.stripe_cuts(IMAGE, [rows], [6, 4, 2])[1]
        if "do not fit" in text:
            with pytest.raises(ValueError, match=f"a map of {rows} rows"):
                RelationNet(2, "small", height=16 * rows, width=64)
        else:
            assert RelationNet(2, "small", height=16 * rows, width=64).height == 16 * rows


def test_contrast_readings_tells_the_numbers_of_each_channel():
    figure, text = plots.contrast_readings([[4, 0], [1, 2.5], [1, 2.5]])
    assert "channel 1: parts 4, 1, 1; mean 2, largest 4, released contrast 1, paper contrast -2 |" in text
    assert "channel 2: parts 0, 2.5, 2.5; mean 1.66667, largest 2.5, released contrast 1.25," in text
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert drawn["released contrast"].tolist() == [1.0, 1.25]
    for wrong in ([1.0, 2.0], [[1.0, 2.0]]):
        with pytest.raises(ValueError, match="n at least 2"):
            plots.contrast_readings(wrong)


def test_stripe_bars_draws_a_bar_for_each_stripe_and_kind():
    values = {"alone": [0.1, 0.2, 0.3], "with the rest": [0.4, 0.5, 0.654]}
    figure, text = plots.stripe_bars([IMAGE, IMAGE[:48]], ["a", "b"], values, "cosine distance")
    assert text.endswith("top to bottom. alone: 0.10, 0.20, 0.30; with the rest: 0.40, 0.50, 0.65.")
    bars = figure.axes[2].patches
    assert [round(bar.get_width(), 3) for bar in bars] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.654]
    assert [bar.get_y() for bar in bars] == sorted(bar.get_y() for bar in bars[:3]) + sorted(
        bar.get_y() for bar in bars[3:]
    )
    assert lines_across(figure.axes[0]) == [31.5, 63.5]
    assert lines_across(figure.axes[1]) == [15.5, 31.5]
    for images, titles, wrong in (
        ([IMAGE], ["a"], {"x": [1.0], "y": [1.0, 2.0]}),
        ([IMAGE], [], values),
        ([], [], values),
        ([IMAGE], ["a"], {}),
    ):
        with pytest.raises(ValueError, match="one number a stripe"):
            plots.stripe_bars(images, titles, wrong, "distance")


def test_loss_terms_are_shares_of_their_own_start():
    terms = {"triplet/part2.1": 0.3, "triplet/global2": 0.9, "local/part2.1": 8.0}
    figure, text = plots.loss_terms(terms, {"triplet": 1.2, "local": 10.0})
    assert "3 terms as shares of their start. Means: triplet 0.50, local 0.80." in text
    assert text.endswith("Largest: local/part2.1 with 0.80.")
    axes = figure.axes[0]
    assert sorted(t.get_text() for t in axes.texts) == ["0.25", "0.75", "0.80"], "an empty place stays empty"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["part2.1", "global2"]
    for wrong, levels in ((terms, {"triplet": 1.2}), ({}, {}), ({"local": 1.0}, {"local": 1.0})):
        with pytest.raises(ValueError, match=r"names such as 'local/part6\.1'"):
            plots.loss_terms(wrong, levels)


def test_relation_stacks_draws_the_row_and_the_column_of_every_place():
    figure, text = plots.relation_stacks(RELATIONS, 2, 2)
    assert text.endswith("place 0: row 2, 0, 1, 1, column 2, 4, 6, 0.")
    maps = {axes.get_title(loc="left"): np.asarray(axes.images[0].get_array()) for axes in figure.axes}
    assert np.array_equal(maps["row 2"], [[6, 0], [3, 3]])
    assert np.array_equal(maps["column 2"], [[1, 2], [3, 0]])
    with pytest.raises(ValueError, match=r"got shape \(4, 4\), expected \(6, 6\)"):
        plots.relation_stacks(RELATIONS, 2, 3)


def test_attention_costs_names_the_cheapest_and_the_dearest():
    costs = {"SE": {"parameters": 1000, "seconds": 0.5}, "RGA": {"parameters": 50000, "seconds": 0.25}}
    figure, text = plots.attention_costs(costs)
    assert "parameters: from 1e+03 (SE) to 50,000 (RGA); seconds: from 0.25 (RGA) to 0.5 (SE)." in text
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"]


def test_method_sizes_compares_the_methods_at_the_largest_map():
    rows = [
        {"method": name, "map_height": side, "map_width": 4, "seconds": side * slow, "saved_bytes": side * slow * 2**20}
        for side in (16, 8)
        for name, slow in (("explicit", 2), ("factored", 1))
    ]
    figure, text = plots.method_sizes(rows)
    assert text.endswith("At 64 places: explicit 32 s, 32 MiB; factored 16 s, 16 MiB.")
    drawn = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert drawn == {"explicit": [[32, 16], [64, 32]], "factored": [[32, 8], [64, 16]]}
    assert "explicit" not in plots.method_sizes(rows[1:])[1]  # not measured at the largest map


def test_attention_pictures_tells_the_range_of_each_row():
    images, masks = [np.zeros((8, 4, 3), np.uint8)] * 2, [np.eye(8, 4) > 0] * 2
    gates = {"before": np.full((2, 4, 2), 0.5), "after": np.arange(16).reshape(2, 4, 2) / 16}
    figure, text = plots.attention_pictures(images, masks, gates)
    assert "2 pictures" in text and "before: 0.50 to 0.50; after: 0.00 to 0.94." in text
    assert len(figure.axes) == 8
    with pytest.raises(ValueError, match=r"got 2 pictures and \{'masks': 1, 'before': 2"):
        plots.attention_pictures(images, masks[:1], gates)


def test_attention_shares_draws_every_series_at_its_row():
    figure, text = plots.attention_shares({"head": {"before": 1.0, "after": 1.2}, "legs": {"after": 0.8}}, "ratio")
    assert text == "Figure: ratio. head: before 1.00, after 1.20; legs: after 0.80."
    drawn = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert drawn["after"] == [[1.2, 0], [0.8, 1]] and drawn["before"] == [[1.0, 0]]
