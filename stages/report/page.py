"""Compose the page of one or more runs: one HTML file that loads nothing.

Bokeh's library and the drawings are compressed, and the page's own script unpacks them. A content security
policy in the page allows these two scripts, by their hashes, and no connection: text of models in the page
can neither run nor load anything.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib import resources

from stages.report import draw, tables
from stages.report.completions import Selection, clip_text
from stages.report.curves import describe_gaps, group_metrics
from stages.report.record import Run


def make_page(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """Compose the page.

    Args:
        runs: one, or several that are drawn over each other.
        labels: of the runs, all different.

    Returns:
        HTML.

    Steps:
        1. Draw each metric of all runs in one figure.
        2. Compose the sections: runs, curves, gains, answers, flags.
        3. Add style, scripts and the policy that allows no others.

    Raises:
        ValueError: for more runs than there are colours and dashes.
    """
    if len(runs) > draw.MOST_RUNS:
        raise ValueError(f"expected at most {draw.MOST_RUNS} runs in one page, got {len(runs)}; give fewer")
    # 1. Drawings.
    names = list(dict.fromkeys(name for run in runs for name in run.curves))
    groups = group_metrics(names)
    shown = [name for members in groups.values() for name in members][: draw.MOST_FIGURES]
    buckets = draw.choose_buckets(sum(name in run.curves for run in runs for name in shown))
    drawings = [_draw_runs(name, runs, labels, buckets) for name in shown]
    # 2. Sections.
    parts = [
        f"<h1>{escape(', '.join(labels))}</h1>",
        _describe_runs(runs, labels),
        _compose_curves(groups, drawings, runs, labels, len(names) - len(shown)),
        *(
            _compose_texts(run, label if len(runs) > 1 else "")
            for run, label in zip(runs, labels, strict=True)
        ),
        _compose_flags(runs, labels),
    ]
    # 3. Scripts.
    library = draw.read_library() if drawings else ""
    own = _read_part("page.js")
    body = "".join(parts)
    if drawings:
        documents = json.dumps([{"linear": each.linear, "log": each.log} for each in drawings])
        body += _embed("library", library) + _embed("drawings", documents)
    policy = (
        f"default-src 'none'; script-src {_hash_of(own)} {_hash_of(library)}; "
        "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(', '.join(labels))}</title><style>{_read_part('page.css')}</style></head>"
        f"<body><main>{body}</main><script>{own}</script></body></html>\n"
    )


def _draw_runs(name: str, runs: Sequence[Run], labels: Sequence[str], buckets: int) -> draw.Drawing:
    """One metric of all runs that have it."""
    curves = {number: run.curves[name] for number, run in enumerate(runs) if name in run.curves}
    return draw.draw_metric(name, curves, labels, buckets)


def _describe_runs(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """The table of the runs: what each is, how it ended, seed and versions."""
    rows = [
        [
            tables.Cell(label, "name"),
            tables.Cell(run.stage or "unknown: no config.json"),
            tables.Cell(run.end),
            tables.Cell(str(run.flags.get("seed", ""))),
            tables.Cell(", ".join(f"{name} {value}" for name, value in run.versions.items())),
        ]
        for run, label in zip(runs, labels, strict=True)
    ]
    table = tables.make_table(["run", "stage", "end", "seed", "versions and machine"], rows)
    notes = [note for run in runs for note in (*run.notes, *_describe_skips(run))]
    return f'<div class="card wide">{table}</div>{_list_notes(notes)}'


def _describe_skips(run: Run) -> list[str]:
    """Sentences about skipped updates and values that are not finite."""
    gaps = [describe_gaps(name, curve) for name, curve in run.curves.items()]
    skips = f"{run.folder.name}: the updates of {run.skipped:,} of {run.steps:,} steps were skipped"
    return [*([skips] if run.skipped else []), *(f"{run.folder.name}: {gap}" for gap in gaps if gap)]


def _compose_curves(
    groups: dict[str, list[str]],
    drawings: Sequence[draw.Drawing],
    runs: Sequence[Run],
    labels: Sequence[str],
    left_out: int,
) -> str:
    """The curves, a heading for each group, below a bar with the legend and the switch of scale."""
    if not drawings:
        return '<h2>Curves</h2><p class="soft">No step is logged yet.</p>'
    number = {drawing.name: i for i, drawing in enumerate(drawings)}
    bar = '<label><input type="checkbox" id="log"> logarithmic scale</label>'
    if len(runs) > 1:
        bar += "".join(_draw_swatch(i, label) for i, label in enumerate(labels))
    parts = [f'<div class="bar">{bar}<span id="say" class="note"></span></div>']
    for heading, names in groups.items():
        cards = [_compose_card(number[name], drawings[number[name]]) for name in names if name in number]
        if cards:
            parts.append(f'<h2>{escape(heading)}</h2><div class="grid">{"".join(cards)}</div>')
    if left_out:
        parts.append(f'<p class="note">{left_out:,} more metrics are not drawn; metrics.jsonl has them.</p>')
    parts.append("<noscript><p>The curves need JavaScript; the page loads nothing.</p></noscript>")
    return "".join(parts)


def _compose_card(number: int, drawing: draw.Drawing) -> str:
    """A figure with its title; a shortened one says so."""
    note = ""
    if drawing.shortened:
        note = (
            f'<p class="soft">{drawing.points:,} of {drawing.shortened:,} values: the smallest and '
            "the largest of each of equal parts</p>"
        )
    return (
        f'<div class="card"><h3>{escape(drawing.name)}</h3>{note}<div class="figure" data-number="{number}">'
        '</div><span class="scale soft"></span></div>'
    )


def _draw_swatch(number: int, label: str) -> str:
    """A run's line in the legend."""
    colour, dash = draw.COLOURS[number % len(draw.COLOURS)], draw.DASHES[number // len(draw.COLOURS)]
    return (
        f'<span><span class="swatch" style="border-top-color: {colour}; border-top-style: {dash}"></span>'
        f"{escape(label)}</span>"
    )


def _compose_texts(run: Run, label: str) -> str:
    """Gains, answers and completions of one run."""
    title = f": {escape(label)}" if label else ""
    parts = []
    if run.gains:
        table = tables.make_gain_table(run.gains)
        parts.append(f'<h2>Before and after{title}</h2><div class="card wide">{table}</div>')
    if run.pairs:
        table = tables.make_pair_table(run.pairs)
        parts.append(
            f'<h2>Answers before and after{title}</h2><p class="soft">{len(run.pairs)} questions, those '
            f'whose score changed first.</p><div class="card wide scroll">{table}</div>'
        )
    chosen = run.completions
    if chosen.timelines:
        parts.append(f"<h2>Samples over the steps{title}</h2>")
    for timeline in chosen.timelines:
        prompt, table = escape(clip_text(timeline[0][1].prompt)), tables.make_timeline(timeline)
        parts.append(f'<p class="prompt">{prompt}</p><div class="card wide scroll">{table}</div>')
    if chosen.rows and not _is_in_timelines(chosen):
        table = tables.make_completion_table(chosen)
        parts.append(
            f'<h2>Completions and rewards{title}</h2><p class="soft">{len(chosen.rows):,} of '
            f"{chosen.completions:,} completions, of {len({step for step, _ in chosen.rows})} of "
            f"{chosen.steps:,} steps; of a step those with the highest and the lowest rewards.</p>"
            f'<div class="card wide scroll">{table}</div>'
        )
    return "".join(parts)


def _is_in_timelines(chosen: Selection) -> bool:
    """Checks if the timelines have all that is selected, as those of a stage without rewards do."""
    if any(answer.rewards for _, answer in chosen.rows):
        return False
    return len(chosen.rows) == sum(map(len, chosen.timelines))


def _compose_flags(runs: Sequence[Run], labels: Sequence[str]) -> str:
    """The flags in which several runs differ, and all flags of each."""
    flags = [run.flags for run in runs]
    models = [run.model for run in runs]
    parts = ["<h2>Flags</h2>"]
    if len(runs) > 1:
        differing = tables.make_flag_table(flags, labels, tables.differing_flags(flags))
        parts.append(
            "<p>In which the runs differ:</p>" if differing else "<p>The runs have the same flags.</p>"
        )
        parts.append(f'<div class="card wide">{differing}</div>' if differing else "")
    for title, fields in (("All flags", flags), ("Configuration of the model", models)):
        names = list(dict.fromkeys(name for run in fields for name in run))
        table = tables.make_flag_table(fields, labels, names)
        shown = " open" if len(runs) == 1 and title == "All flags" else ""
        if table:
            parts.append(
                f'<details{shown}><summary>{title}</summary><div class="card wide">{table}</div></details>'
            )
    return "".join(parts)


def _list_notes(notes: Sequence[str]) -> str:
    """Notes, a paragraph each."""
    return "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _embed(name: str, text: str) -> str:
    """Data in the page, compressed, which its script unpacks."""
    packed = gzip.compress(text.encode(), compresslevel=9, mtime=0)
    return f'<script type="text/plain" id="{name}">{base64.b64encode(packed).decode()}</script>'


def _hash_of(script: str) -> str:
    """The source expression that allows a script of exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _read_part(name: str) -> str:
    """A file of the page beside this module."""
    return resources.files("stages.report").joinpath(name).read_text(encoding="utf-8")
