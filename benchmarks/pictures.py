"""Draw the pictures of the README, `docs/pictures/{demo,research}.svg`, from the numbers beside them.

python benchmarks/pictures.py                     draws both again
python benchmarks/pictures.py --demo runs/demo    reads the numbers of a finished demo first
python benchmarks/pictures.py --research          computes those of the research tools first (25 CPU seconds)
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stages.cli import ladder
from stages.run.log import read_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "pictures"
MEAN_OF = 10
"""Steps of pretraining that one point of the demo's curve is the mean of."""

SMOOTHED = 9
"""Steps over which the curves of the optimizers are averaged when they are drawn."""

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd")


def main() -> None:
    """Read or compute what was asked for, and draw both pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, help="folder of a finished demo")
    parser.add_argument("--research", action="store_true", help="run examples 21 and 23")
    arguments = parser.parse_args()
    if arguments.demo:
        write_numbers("demo", read_demo(arguments.demo))
    if arguments.research:
        write_numbers(
            "research", {"optimizers": compare_optimizers(100), "influence": estimate_influence(40)}
        )
    for name, draw in (("demo", draw_demo), ("research", draw_research)):
        path = FOLDER / f"{name}.svg"
        if not path.with_suffix(".json").exists():
            print(f"not drawn: {path.relative_to(ROOT)}; --{name} makes its numbers")
            continue
        path.write_text(draw(read_numbers(name)), encoding="utf8")
        print(f"drawn: {path.relative_to(ROOT)}, {path.stat().st_size / 1000:.0f} kB")


def read_demo(folder: Path) -> dict[str, Any]:
    """Read a demo's curve and results.

    Args:
        folder: of a finished `intro2llm demo`.

    Returns:
        {"curve": [step, bits per byte] of the training loss, each a mean of MEAN_OF steps; "held_out": bits per
        byte of the model, gzip, xz and guessing; "stages": results of the later stages by name}. A token of the
        training text is taken to have as many bytes as one of the held-out text.
    """
    held_out = json.loads((folder / "results.json").read_text(encoding="utf8"))
    vocabulary = json.loads((folder / "final_model" / "config.json").read_text(encoding="utf8"))["vocab_size"]
    tokens_a_byte = held_out["guess"] / math.log2(vocabulary)
    losses = [float(row["loss"]) for row in read_lines(folder / "metrics.jsonl") if "loss" in row]
    curve = [
        [start + len(part), _rounded(sum(part) / len(part) / math.log(2) * tokens_a_byte)]
        for start in range(0, len(losses), MEAN_OF)
        if (part := losses[start : start + MEAN_OF])
    ]
    stages = json.loads((folder / "ladder.json").read_text(encoding="utf8"))
    measures = {stage.name: stage.measure for stage in ladder.demo_stages(folder, seed=0, compile=False)}
    return {
        "curve": curve,
        "held_out": {name: _rounded(value) for name, value in held_out.items()},
        "stages": {
            name: {"measure": measures[name], **{key: _rounded(value) for key, value in result.items()}}
            for name, result in stages.items()
        },
    }


def compare_optimizers(steps: int) -> dict[str, dict[str, list[float]]]:
    """Train with the five optimizers of example 23.

    Returns:
        Optimizer -> {"mean", "low", "high"}: of the four seeds' training losses at each step, nats a token.
    """
    example, kept = _load_example("23_compare_optimizers"), []
    example.draw_losses = lambda path, curves: kept.append(curves)
    example.main(steps)
    return {
        name: {"mean": _list(curve.mean(0)), "low": _list(curve.amin(0)), "high": _list(curve.amax(0))}
        for name, curve in kept[0].items()
    }


def estimate_influence(steps: int) -> dict[str, Any]:
    """Compute the influence of rows as example 21 does: the derivative through all optimizer steps.

    Returns:
        {"truth", "estimate": [rows x groups] change of the loss, nats; "noise": numbers of the random rows;
        "correlation": Spearman's}.
    """
    example, kept = _load_example("21_influence"), []

    def keep(estimates: Mapping[str, Tensor], truth: Tensor, found: Mapping[str, float], path: str) -> str:
        kept.append((estimates, truth, found))
        return ""

    example.plot_estimates = keep
    with tempfile.TemporaryDirectory() as folder:
        example.main(steps, str(Path(folder) / "unused.png"))
    estimates, truth, found = kept[0]
    name = "through all optimizer steps"
    return {
        "truth": [_list(row) for row in truth],
        "estimate": [_list(row) for row in estimates[name]],
        "noise": list(example.NOISE),
        "correlation": _rounded(found[name]),
    }


def draw_demo(numbers: Mapping[str, Any]) -> str:
    """Draw the demo: bits per byte over the steps, and each later stage's measure before and after, as SVG."""
    figure = _new_figure()
    left, right = figure.subplots(1, 2)
    _draw_bits(left, numbers["curve"], numbers["held_out"])
    stages = list(numbers["stages"].items())
    for row, (_, result) in enumerate(stages):
        low, high = (result["before"] + result[bound] for bound in ("low", "high"))
        right.barh(row, result["after"], color=COLOURS[0], height=0.55)
        right.barh(row, result["before"], color="#b0b0b0", height=0.55)
        right.plot([low, high], [row, row], color="black", linewidth=2)
        right.text(1.04, row, f"{result['before']:.2f} \u2192 {result['after']:.2f}", va="center")
    labels = [f"{name.upper()}\n{result['measure'].split(',')[0]}" for name, result in stages]
    right.set_yticks(range(len(stages)), labels)
    right.invert_yaxis()
    right.set(title="before and after; 95% interval of the gain", xlim=(0, 1.35), xticks=[0, 0.5, 1])
    return _svg(figure)


def _draw_bits(axes: Axes, curve: Sequence[Sequence[float]], held_out: Mapping[str, float]) -> None:
    """Draw the training curve, and the held-out figures of the model and of two compressors as levels."""
    steps = [step for step, _ in curve]
    axes.plot(steps, [bits for _, bits in curve], color=COLOURS[0], label="training text")
    for name, style in (("gzip", ":"), ("xz", "--")):
        label = f"{name}, held out: {held_out[name]:.3f}"
        axes.axhline(held_out[name], color="grey", linestyle=style, label=label)
    label = f"model, held out: {held_out['model']:.3f}"
    axes.plot(steps[-1:], [held_out["model"]], "o", color=COLOURS[3], label=label)
    axes.set(title="pretraining", xlabel="step of 4,096 tokens", ylabel="bits per byte", ylim=(1.0, 4.2))
    axes.legend(frameon=False)


def draw_research(numbers: Mapping[str, Any]) -> str:
    """Draw five optimizers over four seeds, and estimated against true influence, as SVG."""
    figure = _new_figure()
    left, right = figure.subplots(1, 2)
    for colour, (name, curve) in zip(COLOURS, numbers["optimizers"].items(), strict=True):
        low, mean, high = (_smoothed(curve[part]) for part in ("low", "mean", "high"))
        steps = range(SMOOTHED, SMOOTHED + len(mean))
        left.fill_between(steps, low, high, color=colour, alpha=0.25, linewidth=0)
        left.plot(steps, mean, color=colour, label=name)
    left.set(title="five optimizers, range of 4 seeds", xlabel="step", ylabel="training loss, nats a token")
    left.legend(frameon=False)
    _draw_influence(right, numbers["influence"])
    return _svg(figure)


def _draw_influence(axes: Axes, numbers: Mapping[str, Any]) -> None:
    """Draw the estimate of each row's influence against training again without it."""
    noise = set(numbers["noise"])
    for is_noise, marker, label in ((False, "o", "row"), (True, "x", "row of random tokens")):
        chosen = [row for row in range(len(numbers["truth"])) if (row in noise) == is_noise]
        x, y = ([value for row in chosen for value in numbers[name][row]] for name in ("truth", "estimate"))
        axes.scatter(x, y, s=14 if marker == "o" else 36, marker=marker, color=COLOURS[is_noise], label=label)
    axes.axhline(0, color="lightgrey", zorder=0)
    axes.axvline(0, color="lightgrey", zorder=0)
    axes.set(
        title=f"influence of a row, rank correlation {numbers['correlation']:.2f}",
        xlabel="trained again without it: rise of the loss, nats",
        ylabel="derivative through the run",
    )
    axes.legend(frameon=False)


def write_numbers(name: str, numbers: Mapping[str, Any]) -> None:
    """Write the numbers of a picture."""
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(numbers) + "\n", encoding="utf8")
    print(f"written: {path.relative_to(ROOT)}")


def read_numbers(name: str) -> dict[str, Any]:
    """Read the numbers of a picture."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf8"))


def _new_figure() -> Figure:
    """An empty figure of the width of the README."""
    from matplotlib.figure import Figure

    return Figure(figsize=(10, 3.6), layout="constrained")


def _svg(figure: Figure) -> str:
    """The figure as SVG, with text as text, coordinates in hundredths, the same characters each time."""
    import io

    import matplotlib

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    settings = {"svg.hashsalt": "intro2llm", "svg.fonttype": "none", "path.simplify_threshold": 0.3}
    with matplotlib.rc_context(settings), io.StringIO() as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
        text = re.sub(r'\b(?:d|x|y)="[^"]*"', _round_coordinates, file.getvalue(), flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _round_coordinates(attribute: re.Match[str]) -> str:
    """An attribute with its decimal numbers rounded."""
    return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}", attribute[0])


def _smoothed(values: list[float]) -> list[float]:
    """Means of SMOOTHED neighbouring values."""
    return [sum(values[i : i + SMOOTHED]) / SMOOTHED for i in range(len(values) - SMOOTHED + 1)]


def _load_example(name: str) -> ModuleType:
    """An example as a module, whose functions may be replaced."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _list(values: Tensor) -> list[float]:
    """Rounded numbers of a vector."""
    return [_rounded(value) for value in values.tolist()]


def _rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()
