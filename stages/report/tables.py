"""Tables of a page as HTML: runs, flags, gains, answers. All text is escaped, as models wrote some of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from pure.plural import count_noun
from stages.report.completions import Answer, Selection, clip_text, total_reward
from stages.report.gains import Gain, Pair


class Cell(NamedTuple):
    """A cell of a table.

    Fields:
        text: unescaped.
        kind: its class in the page's style; "number" is also sorted as one.
        value: what a number is sorted by; NaN if it is missing.
    """

    text: str
    kind: str = ""
    value: float = math.nan


def make_number(value: float) -> Cell:
    """Make the cell of a number; a missing one is a dash, and sorted last.

    Example:
        >>> make_number(0.25).text, make_number(1234567.0).text, make_number(float("nan")).text
        ('0.25', '1.235e+06', '–')
    """
    return Cell("–" if math.isnan(value) else f"{value:.4g}", "number", value)


def make_table(heads: Sequence[str], rows: Iterable[Sequence[Cell]], *, sortable: bool = False) -> str:
    """Make a table.

    Args:
        heads: headings of the columns.
        rows: as many cells as headings.
        sortable: a click on a heading sorts the rows.

    Returns:
        HTML.

    Example:
        >>> make_table(["name"], [[Cell("<b>")]])
        '<table><thead><tr><th>name</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    mark = "<th><button>{}</button></th>" if sortable else "<th>{}</th>"
    head = "".join(mark.format(escape(text)) for text in heads)
    body = "".join(f"<tr>{''.join(map(_make_cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def make_flag_table(flags: Sequence[Mapping[str, Any]], labels: Sequence[str], names: Sequence[str]) -> str:
    """Make a table of flags with a column for each run; "" without a name.

    Args:
        flags: of each run.
        labels: of the runs.
        names: flags that are shown; one that a run does not have is empty there.

    Returns:
        HTML.
    """
    if not names:
        return ""
    rows = [
        [Cell(f"--{name}", "name"), *(Cell(format_value(run[name]) if name in run else "") for run in flags)]
        for name in names
    ]
    return make_table(["flag", *labels], rows)


def format_value(value: Any) -> str:
    """Format a flag's value: a text as it is, anything else as JSON.

    Example:
        >>> format_value("adamw"), format_value(None), format_value([1, 2])
        ('adamw', 'null', '[1, 2]')
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def differing_flags(flags: Sequence[Mapping[str, Any]]) -> list[str]:
    """List the flags in which runs differ; one that some run does not have differs.

    Example:
        >>> differing_flags([{"seed": 0, "beta": 0.1}, {"seed": 1, "beta": 0.1}])
        ['seed']
    """
    names = dict.fromkeys(name for run in flags for name in run)
    missing = object()
    return [name for name in names if any(run.get(name, missing) != flags[0].get(name) for run in flags)]


def make_gain_table(gains: Sequence[Gain]) -> str:
    """Make the table of figures before and after, with a drawing of the interval of each difference."""
    widest = max((abs(bound) for gain in gains for bound in (gain.low, gain.high)), default=0.0) or 1.0
    rows = []
    for gain in gains:
        change = gain.after - gain.before
        text = f"{change:+.4g}  ({gain.low:+.4g} to {gain.high:+.4g})"
        numbers = [make_number(gain.before), make_number(gain.after), Cell(text, "number", change)]
        count = Cell(f"{gain.count:,}", "number", gain.count) if gain.count else Cell("")
        cells = "".join(map(_make_cell, [Cell(gain.name, "name"), *numbers, count]))
        rows.append(f"<tr>{cells}<td>{_draw_interval(gain, widest)}</td></tr>")
    heads = ("", "before", "after", "change (95% interval)", "questions", f"−{widest:.2g} … {widest:.2g}")
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def make_completion_table(selection: Selection) -> str:
    """Make the sortable table of completions with a column for each reward."""
    names = list(dict.fromkeys(name for _, answer in selection.rows for name in answer.rewards))
    total = ["total reward"] if len(names) > 1 else []
    rows = [_make_completion_row(step, answer, names) for step, answer in selection.rows]
    return make_table(["step", *total, *names, "prompt", "completion"], rows, sortable=True)


def make_timeline(timeline: Sequence[tuple[int, Answer]]) -> str:
    """Make the table of one prompt's completion over the steps, with its rewards if it has any."""
    scored = any(answer.rewards for _, answer in timeline)
    rows = [
        [
            Cell(f"{step:,}", "number", step),
            *([make_number(total_reward(answer))] if scored else []),
            _make_text(answer.completion),
        ]
        for step, answer in timeline
    ]
    return make_table(["step", *(["reward"] if scored else []), "completion"], rows)


def make_pair_table(pairs: Sequence[Pair]) -> str:
    """Make the sortable table of answers before and after a stage."""
    rows = [
        [
            _make_text(pair.question),
            _make_text(pair.before),
            make_number(pair.score_before),
            _make_text(pair.after),
            make_number(pair.score_after),
        ]
        for pair in pairs
    ]
    return make_table(["question", "before", "score", "after", "score"], rows, sortable=True)


def _make_completion_row(step: int, answer: Answer, names: Sequence[str]) -> list[Cell]:
    """One row of the completions."""
    rewards = [make_number(answer.rewards.get(name, math.nan)) for name in names]
    total = [make_number(total_reward(answer))] if len(names) > 1 else []
    texts = [_make_text(answer.prompt), _make_text(answer.completion)]
    return [Cell(f"{step:,}", "number", step), *total, *rewards, *texts]


def _make_text(text: str) -> Cell:
    """A cell of a text that a model read or wrote; control characters are shown as escapes.

    A text without a visible character is described, as a blank cell says nothing.
    """
    if not text.strip():
        return Cell(f"({count_noun(len(text), 'blank character')})" if text else "(empty)", "text soft")
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in clip_text(text))
    return Cell(shown, "text")


def _make_cell(cell: Cell) -> str:
    """The HTML of a cell."""
    kind = f' class="{cell.kind}"' if cell.kind else ""
    if cell.kind == "number":
        kind += f' data-value="{"" if math.isnan(cell.value) else repr(cell.value)}"'
    return f"<td{kind}>{escape(cell.text)}</td>"


def _draw_interval(gain: Gain, widest: float) -> str:
    """An interval as a line, with a mark at the change, between -widest and widest."""
    low, middle, high = (75 + 70 * x / widest for x in (gain.low, gain.after - gain.before, gain.high))
    return (
        '<svg class="interval" viewBox="0 0 150 14"><line x1="75" x2="75" y1="0" y2="14"/>'
        f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="7" y2="7"/>'
        f'<rect x="{middle - 2:.1f}" y="2" width="4" height="10"/></svg>'
    )
