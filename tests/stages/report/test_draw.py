"""A metric of several runs is one figure, with a logarithmic twin where all values are positive."""

from __future__ import annotations

import json

from stages.report import draw
from stages.report.curves import make_curve


def test_a_figure_has_a_line_of_each_run_and_says_what_was_shortened() -> None:
    curves = {
        0: make_curve(range(1, 2001), [1.0 + i for i in range(2000)]),
        2: make_curve([1, 2], [3.0, 4.0]),
    }
    drawing = draw.draw_metric("loss", curves, ["a", "b", "c"], buckets=50)
    text = json.dumps(drawing.linear)
    assert text.count('"name": "Line"') >= 2
    assert draw.COLOURS[0] in text
    assert draw.COLOURS[2] in text
    assert draw.COLOURS[1] not in text
    assert (drawing.shortened, drawing.points) == (2000, 100)
    assert "LinearScale" in text
    assert '"LogScale"' in json.dumps(drawing.log)


def test_values_that_are_not_positive_have_no_logarithmic_twin() -> None:
    for values in ([0.0, 1.0], [-1.0, float("nan")]):
        drawing = draw.draw_metric("kl", {0: make_curve([1, 2], values)}, ["a"], buckets=50)
        assert drawing.log is None
        assert (drawing.shortened, drawing.points) == (0, 0)
    nothing = draw.draw_metric("kl", {0: make_curve([1], [float("nan")])}, ["a"], buckets=50)
    assert "NaN" not in json.dumps(nothing.linear)
