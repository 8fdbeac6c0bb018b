"""`--backend jax`: the loss curve of torch, one run with both backends, and nothing traced twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pure.interop.jax import torch_jit
from stages.checkpoint import checkpoint
from stages.cli.main import main
from stages.run.jax_step import kept_programs
from tests.stages import small_stages
from tests.stages.small import flags, rows, same_run, write_config

pytestmark = pytest.mark.usefixtures("quick_xla")


def train(folder: Path, backend: str, run: str = "run") -> None:
    arguments = flags(folder, backend=backend, keep_last=9, max_steps=9, output_dir=folder / run)
    write_config(folder / "small.json", num_hidden_layers=1)
    assert main(["pretrain", *arguments]) == 0


def interrupt(run: Path, after: int) -> None:
    """A kill leaves an older checkpoint, and a log that is ahead of it."""
    shutil.rmtree(run / "final_model")
    for path in checkpoint.list_saved(run):
        if checkpoint.step_of(path) > after:
            shutil.rmtree(path)


def test_a_run_goes_on_with_the_other_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch to step 3, JAX to 6, torch to 9; and JAX alone, killed and resumed from a saved program."""
    train(tmp_path, "torch", "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "mixed")
    interrupt(tmp_path / "mixed", 3)
    train(tmp_path, "jax", "mixed")
    shutil.copytree(tmp_path / "mixed", tmp_path / "again")
    interrupt(tmp_path / "mixed", 6)
    train(tmp_path, "torch", "mixed")
    for row, expected in zip(rows(tmp_path / "mixed"), rows(tmp_path / "whole"), strict=True):
        for name in ("loss", *(["val_loss"] if "val_loss" in expected else [])):
            assert row[name] == pytest.approx(expected[name], rel=1e-6)
    shutil.copytree(tmp_path / "again", tmp_path / "killed")
    interrupt(tmp_path / "killed", 6)
    monkeypatch.setattr(torch_jit, "trace_covered", None)  # nothing is traced: the program is read
    train(tmp_path, "jax", "killed")
    assert same_run(tmp_path / "killed", tmp_path / "again")
    assert main(["replay", str(tmp_path / "killed"), "--step", "9"]) == 0


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer, and rows for each stage."""
    folder = tmp_path_factory.mktemp("small")
    small_stages.write_model(folder, num_hidden_layers=1)
    small_stages.write_rows(folder)
    return folder


def run_two_steps(folder: Path, name: str, backend: str) -> list[dict]:
    """Two steps of a subcommand: the rows of its log."""
    output = folder / f"{name}-{backend}"
    changes = {"max_steps": 2, "eval_every": 0, "backend": backend, "output_dir": output}
    assert small_stages.run(folder, name, **changes) == 0
    return rows(output)


def test_an_online_stage_updates_in_jax(small_folder: Path) -> None:
    logs = [run_two_steps(small_folder, "grpo", backend) for backend in ("torch", "jax")]
    for expected, row in zip(*logs, strict=True):
        assert row["reward"] == expected["reward"]
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-6, abs=1e-6)
        assert row["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("name", [name for name in small_stages.NAMES if name != "grpo"])
def test_every_stage_hands_its_step_to_jax(
    name: str, small_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch computes the step that JAX would; that each step lowers is a law (`tests/laws`)."""
    calls = []

    def compute_in_torch(function: Callable, *, programs: Any) -> Callable:
        def step(*arguments: Any) -> Any:
            calls.append(programs.read("none"))
            return function(*arguments)

        return step

    monkeypatch.setattr(torch_jit, "jit_torch", compute_in_torch)
    found = run_two_steps(small_folder, name, "jax")
    assert len(calls) == 2
    assert found == run_two_steps(small_folder, name, "torch")
    assert len(calls) == 2


def test_without_jax_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = flags(tmp_path, backend="jax")
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "pure.interop.jax", raising=False)
    assert main(["pretrain", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'intro2llm[jax]'" in line
    assert not (tmp_path / "run").exists()


def test_a_gpu_of_torch_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", *flags(tmp_path, backend="jax", device="cuda")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--device cpu" in line


def test_programs_belong_to_one_fingerprint(tmp_path: Path) -> None:
    one, other = (kept_programs(tmp_path / "programs", {"rate": rate}) for rate in ("0.1", "0.2"))
    one.write("name", b"data")
    assert (one.read("name"), other.read("name"), one.read("other")) == (b"data", None, None)
    assert kept_programs(tmp_path / "programs", {"rate": "0.1"}).read("name") == b"data"
    (tmp_path / "file").write_text("")
    blocked = kept_programs(tmp_path / "file", {"rate": "0.1"})
    blocked.write("name", b"data")  # a folder that cannot be made: the run goes on
    assert blocked.read("name") is None


def test_sums_of_many_rows_are_right() -> None:
    """jaxlib 0.10.2 computes them wrongly on a CPU, by up to a hundredth, without the flag that a run sets."""
    program = """
from stages.run import jax_step
jax_step._avoid_wrong_reductions()
import jax, jax.numpy as jnp, numpy as np
x = jnp.ones((40000, 3)) * jnp.arange(40000)[:, None]
y = np.asarray(jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(x))
np.testing.assert_allclose(y, 3 * np.arange(40000.0) ** 2, rtol=1e-6)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
