"""The pictures of the README: drawn from the numbers beside them, which the examples compute again."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest

from tests.rules.source import ROOT

FOLDER = ROOT / "docs" / "pictures"


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        return import_module("pictures")


def test_the_pictures_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert max(sizes.values()) < 60_000
    assert sum(sizes.values()) < 300_000


@pytest.mark.parametrize("name", ["demo", "research"])
def test_a_picture_is_drawn_from_its_numbers(pictures: ModuleType, name: str) -> None:
    drawn = getattr(pictures, f"draw_{name}")(pictures.read_numbers(name))
    kept = (FOLDER / f"{name}.svg").read_text(encoding="utf8")
    if f"Matplotlib v{matplotlib.__version__}," not in kept:
        pytest.skip("drawn with another version of matplotlib, whose characters differ")
    assert drawn == kept


def test_the_first_steps_of_the_optimizers_are_those_of_the_picture(pictures: ModuleType) -> None:
    kept = pictures.read_numbers("research")["optimizers"]
    for name, curve in pictures.compare_optimizers(3).items():
        for part, values in curve.items():
            assert kept[name][part][:3] == pytest.approx(values, rel=2e-3), (name, part)


def test_the_influence_of_rows_is_that_of_the_picture(pictures: ModuleType) -> None:
    kept, found = pictures.read_numbers("research")["influence"], pictures.estimate_influence(40)
    assert found["noise"] == kept["noise"]
    assert found["correlation"] == pytest.approx(kept["correlation"], abs=0.02)
    for name in ("truth", "estimate"):
        for kept_row, row in zip(kept[name], found[name], strict=True):
            assert row == pytest.approx(kept_row, abs=0.05), name


def test_a_demo_is_read_and_drawn(pictures: ModuleType, tmp_path: Path) -> None:
    """Bits per byte: the loss in bits a token, times tokens a byte, which a uniform guess tells."""
    (tmp_path / "final_model").mkdir()
    (tmp_path / "final_model" / "config.json").write_text('{"vocab_size": 4096}')
    held_out = {"guess": 3.0, "gzip": 2.0, "xz": 1.5, "model": 1.25}
    (tmp_path / "results.json").write_text(json.dumps(held_out))
    lines = [json.dumps({"step": step, "loss": 2.0 + (step > 10)}) for step in range(1, 16)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    result = {"before": 0.25, "after": 0.75, "low": 0.4, "high": 0.6}
    (tmp_path / "ladder.json").write_text(json.dumps({"sft": result, "ppo": result}))

    numbers = pictures.read_demo(tmp_path)
    assert numbers["curve"] == [[10, pytest.approx(0.7213)], [15, pytest.approx(1.082, abs=1e-3)]]
    assert numbers["held_out"] == held_out
    assert numbers["stages"]["ppo"] == {"measure": "mean reward, held-out prompts", **result}
    drawn = pictures.draw_demo(numbers)
    assert "model, held out: 1.250" in drawn
    assert "0.25 \u2192 0.75" in drawn
