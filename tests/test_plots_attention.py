import numpy as np
import pytest

from reidlab import plots

RELATIONS = np.array([[2, 0, 1, 1], [4, 0, 2, 2], [6, 0, 3, 3], [0, 0, 0, 0]])


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
