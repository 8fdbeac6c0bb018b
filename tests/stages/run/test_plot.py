"""The figure is plotted from the log; a missing library is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from stages.run import log, plot


def write_log(folder: Path, count: int) -> None:
    writer = log.json_lines(folder / "metrics.jsonl")
    for step in range(1, count + 1):
        more = {"val_loss": 3.0} if step % 2 == 0 else {"tok_per_sec": 10.0}
        writer.write(step, {"loss": 4.0 / step, "learning_rate": 0.1, "grad_norm": float("nan"), **more})
    writer.close()


@pytest.mark.parametrize("count", [0, 1, 6])
def test_plot_curves_writes_a_png(count: int, tmp_path: Path) -> None:
    write_log(tmp_path, count)
    assert plot.plot_curves(tmp_path) == str(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("count", "marker"), [(0, ""), (1, "o"), (2, "")])
def test_a_curve_of_one_point_has_a_marker(count: int, marker: str) -> None:
    axis = Figure().subplots()
    plot.draw_curve(axis, [(step, 1.0) for step in range(count)])
    assert [line.get_marker() for line in axis.lines] == [marker] * min(count, 1)


def test_the_stages_of_a_demo_of_one_step_are_drawn(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "sft"):
        folder.mkdir(exist_ok=True)
        write_log(folder, 1)
    assert plot.plot_demo_stages(tmp_path, ["sft"]) == str(tmp_path / "ladder.png")
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_it_prints_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert plot.plot_curves(tmp_path) == "not drawn; pip install 'intro2llm[plot]' brings matplotlib"
