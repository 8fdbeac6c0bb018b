"""Plot the metrics of a run, and of the demo's stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stages.run.log import read_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = (
    ("loss", "nats a token"),
    ("learning_rate", "per update"),
    ("grad_norm", "norm of the gradient"),
    ("tok_per_sec", "tokens a second"),
)
"""(metric, unit) of each plot of a run."""


def draw_curve(axis: Axes, points: Sequence[tuple[int, float]]) -> None:
    """Draws a line through points, or a dot where there is only one: a line of one point is invisible.

    Args:
        axis: of matplotlib.
        points: (step, value); may be empty.
    """
    axis.plot(*zip(*points, strict=True), marker="o" if len(points) == 1 else "", linewidth=1)


def plot_curves(folder: Path) -> str:
    """Draws loss, learning rate, gradient norm and speed over the steps.

    Returns:
        The path of `curves.png`, or a sentence that says what to install for it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    rows = list(read_lines(folder / "metrics.jsonl"))
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axis, (name, unit) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        points = [(row["step"], float(row[name])) for row in rows if name in row]
        draw_curve(axis, points)
        axis.set(title=name, ylabel=unit, xlabel="step")
        axis.grid(alpha=0.3)
        if name == "loss":
            validations = [(row["step"], float(row["val_loss"])) for row in rows if "val_loss" in row]
            if validations:
                axis.plot(*zip(*validations, strict=True), "o", label="held out")
                axis.legend()
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    return str(path)


STAGE_METRICS = (
    ("sft", "loss"),
    ("dpo", "rewards/accuracies"),
    ("dpo", "rewards/margins"),
    ("grpo", "reward"),
    ("ppo", "reward"),
    ("grpo", "kl"),
)
"""(stage, metric) of each plot of the demo, after the loss of pretraining."""


def plot_demo_stages(folder: Path, names: Sequence[str]) -> str:
    """Draws the loss of pretraining, and the metrics of each later stage of the demo.

    Args:
        folder: of the pretrained run, with a folder for each stage.
        names: of the stages after pretraining.

    Returns:
        The path of `ladder.png`, or a sentence that says what to install for it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
    shown = [
        ("pretrain", "loss", folder),
        *((stage, name, folder / stage) for stage, name in STAGE_METRICS if stage in names),
    ]
    figure = Figure(figsize=(12, 6), layout="constrained")
    axes = figure.subplots(2, 4).flat
    for axis, (stage, name, stage_folder) in zip(axes, shown, strict=False):
        rows = list(read_lines(stage_folder / "metrics.jsonl"))
        points = [(row["step"], float(row[name])) for row in rows if name in row]
        draw_curve(axis, points)
        axis.set(title=f"{stage}: {name}", xlabel="step")
        axis.grid(alpha=0.3)
    for axis in list(figure.axes)[len(shown) :]:
        axis.set_visible(False)
    path = folder / "ladder.png"
    figure.savefig(path, dpi=110)
    return str(path)
