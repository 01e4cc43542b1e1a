import numpy as np
import pytest

from reidlab import plots
from reidlab.models import RelationNet

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
