"""Draw curves with Bokeh, as JSON documents that its library in the page renders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np

from stages.report.curves import Curve, shorten

COLOURS = ("#4c8bf5", "#f28e2b", "#3fa35b", "#e15759", "#b07aa1", "#3aa6a6", "#b8941f", "#a0755b")
DASHES = ("solid", "dashed", "dotted")
MOST_RUNS = len(COLOURS) * len(DASHES)
"""Runs in one page; each has a colour and a dash of its own."""
MOST_FIGURES = 80
"""Figures in one page; the metrics after these are named, and not drawn."""
MOST_POINTS = 40_000
"""Points of all curves in one page, about, so that it stays below 1.5 MB."""
FEWEST_BUCKETS, MOST_BUCKETS = 40, 400
"""Bounds on the buckets of a curve; see `stages.report.curves.shorten`."""
TEXT = "#7c828b"
"""Colour of text and axes, readable on white and on black."""
MARKED = 60
"""A curve with at most so many points has a marker at each."""


class Drawing(NamedTuple):
    """A metric's figure.

    Fields:
        name: of the metric.
        linear: document with a linear axis.
        log: document with a logarithmic axis; None if a value is not positive.
        shortened: the largest number of logged values of a curve that was shortened; 0 if none was.
        points: points of that curve that are drawn.
    """

    name: str
    linear: Mapping[str, Any]
    log: Mapping[str, Any] | None
    shortened: int
    points: int


def choose_buckets(curves: int) -> int:
    """Return the buckets of each curve, so that all together have about MOST_POINTS points.

    Example:
        >>> choose_buckets(10), choose_buckets(100), choose_buckets(10_000)
        (400, 200, 40)
    """
    return min(MOST_BUCKETS, max(FEWEST_BUCKETS, MOST_POINTS // (2 * max(curves, 1))))


def draw_metric(name: str, curves: Mapping[int, Curve], labels: Sequence[str], buckets: int) -> Drawing:
    """Draw a metric of one or more runs in one figure.

    Args:
        name: of the metric.
        curves: number of the run, which chooses its colour -> its curve.
        labels: of all runs, shown when the pointer is over a point.
        buckets: as in `stages.report.curves.shorten`.

    Returns:
        Drawing.
    """
    short = {run: shorten(curve, buckets) for run, curve in curves.items()}
    positive = all((curve.values[~np.isnan(curve.values)] > 0).all() for curve in short.values())
    cut = [curve for curve in short.values() if len(curve.values) < curve.logged]
    longest = max(cut, key=lambda curve: curve.logged, default=None)
    return Drawing(
        name=name,
        linear=_make_document(short, labels, "linear"),
        log=_make_document(short, labels, "log") if positive else None,
        shortened=longest.logged if longest else 0,
        points=len(longest.values) if longest else 0,
    )


def read_library() -> str:
    """Return Bokeh's own library for browsers, without widgets and tables."""
    folder = resources.files("bokeh") / "server" / "static" / "js"
    return (folder / "bokeh.min.js").read_text(encoding="utf-8")


def _make_document(
    curves: Mapping[int, Curve], labels: Sequence[str], scale: Literal["linear", "log"]
) -> Mapping[str, Any]:
    """The JSON document of one figure."""
    from bokeh.core.json_encoder import serialize_json
    from bokeh.embed import json_item
    from bokeh.models import HoverTool
    from bokeh.plotting import figure

    plot = figure(
        height=230,
        sizing_mode="stretch_width",
        y_axis_type=scale,
        tools="pan,box_zoom,wheel_zoom,reset",
        active_drag=None,  # so that a finger scrolls the page
        toolbar_location="above",
        background_fill_alpha=0,
        border_fill_alpha=0,
        outline_line_alpha=0,
        min_border=2,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.x_range.range_padding = 0.02  # type: ignore[attr-defined]
    hovered: list[Any] = []
    for run, curve in curves.items():
        colour, dash = COLOURS[run % len(COLOURS)], DASHES[run // len(COLOURS)]
        x, y = curve.steps.astype(np.float64), curve.values.astype(np.float32)
        line = plot.line(x=x, y=y, name=labels[run], color=colour, line_dash=dash, line_width=1.6)
        hovered.append(line)
        if len(x) <= MARKED:
            points = plot.scatter(x=x, y=y, name=labels[run], color=colour, size=4)
            hovered[-1] = points if len(x) == 1 else line  # a line of one point is not found
    rows = [("run", "$name")] if len(labels) > 1 else []
    rows += [("step", "@x{0,0}"), ("value", "@y{%.6g}")]
    plot.add_tools(
        HoverTool(
            tooltips=rows,
            formatters={"@y": "printf"},
            renderers=hovered,
            mode="vline",
            line_policy="nearest",
        )
    )
    _style_axes(plot)
    return json.loads(serialize_json(json_item(plot)))


def _style_axes(plot: Any) -> None:
    """Gives axes and grid colours that are readable on white and on black."""
    from bokeh.models import BasicTickFormatter

    for axis in plot.axis:
        axis.axis_line_color = axis.major_tick_line_color = TEXT
        axis.minor_tick_line_color = None
        axis.major_label_text_color = TEXT
        axis.major_label_text_font_size = "11px"
    plot.xaxis.formatter = BasicTickFormatter(use_scientific=False)  # type: ignore[attr-defined]
    plot.grid.grid_line_color = TEXT
    plot.grid.grid_line_alpha = 0.22
