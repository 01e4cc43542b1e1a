import numpy as np
import pytest

from reidlab import plots


def grey(value: int) -> np.ndarray:
    return np.full((16, 8, 3), value, np.uint8)


def test_augmented_rows_draws_each_picture_in_its_row():
    rows = {"as it is": [grey(10), grey(20)], "mirror": [grey(30), grey(40)]}
    figure, text = plots.augmented_rows(rows, "two pictures")
    assert text == "Figure: two pictures, 2 draws a row: as it is, mirror."
    assert [int(axes.images[0].get_array()[0, 0, 0]) for axes in figure.axes] == [10, 20, 30, 40]
    assert [axes.get_ylabel() for axes in figure.axes] == ["as it is", "", "mirror", ""]
    for wrong in ({}, {"a": []}, {"a": [grey(1)], "b": [grey(1)] * 2}):
        with pytest.raises(ValueError, match="the same number of pictures"):
            plots.augmented_rows(wrong, "x")


def test_schedules_tells_peak_place_and_end_of_each_run():
    rates = {"warm": [0.25, 0.5, 1.0, 1.0, 0.1], "falling": [0.4, 0.2]}
    figure, text = plots.schedules(rates)
    assert text.endswith("warm: 1 from 40%, at the end 0.1; falling: 0.4 from 0%, at the end 0.2.")
    drawn = [axes.lines[0].get_xydata() for axes in figure.axes]
    assert drawn[0].tolist() == [[0, 0.25], [0.2, 0.5], [0.4, 1], [0.6, 1], [0.8, 0.1]]
    assert drawn[1].tolist() == [[0, 0.4], [0.5, 0.2]]
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    assert plots.schedules({"again": rates["warm"] * 2})[1].count("from 20%") == 1  # the first place of the peak
    for wrong in ({}, {"a": []}, {"a": [0.1, 0.0]}):
        with pytest.raises(ValueError, match="all above 0"):
            plots.schedules(wrong)
