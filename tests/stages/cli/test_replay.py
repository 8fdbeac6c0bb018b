"""`intro2llm replay` computes a step of a past run again and reports whether its bits are equal."""

from __future__ import annotations

import json
import shutil
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch

from pure.transform.jit import jit
from stages.checkpoint import checkpoint
from stages.cli import replay as replay_module
from stages.cli.main import main
from stages.run import loop
from tests.stages.small import flags, write_config


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete run; checkpoints of steps 8 (the best), 9 and 12 are there."""
    folder = tmp_path_factory.mktemp("replay")
    assert main(["pretrain", *flags(folder)]) == 0
    return folder / "run"


@pytest.fixture
def run_copy(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "copy"))  # not where config.json says


def replay(run_copy: Path, step: int) -> int:
    return main(["replay", str(run_copy), "--step", str(step)])


@pytest.mark.parametrize(("step", "first"), [(1, 1), (3, 1), (11, 10), (12, 10)])
def test_replaying_a_step_reports_equal_bits(
    step: int, first: int, run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert replay(run_copy, step) == 0
    shown = capsys.readouterr().out
    assert f"computing steps {first} to {step} again" in shown
    assert shown.endswith(f"step {step}: equal, bit for bit\n")


@pytest.mark.slow
def test_replaying_a_compiled_run_reports_equal_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compiled by the backend aot_eager, as Inductor takes a minute; a benchmark replays with Inductor."""
    fast_jit = partial(jit, backend="aot_eager")
    monkeypatch.setattr(loop, "jit", fast_jit)
    monkeypatch.setattr(import_module("pure.transform.jit"), "jit", fast_jit)
    arguments = flags(
        tmp_path, compile=True, max_steps=5, config=write_config(tmp_path / "one.json", num_hidden_layers=1)
    )
    assert main(["pretrain", *arguments]) == 0
    assert replay(tmp_path / "run", 5) == 0
    assert "step 5: equal, bit for bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("logged", "compile_flag", "message"),
    [
        ({}, True, "it was not compiled up to here, config.json has --compile."),
        ({"compile_seconds": 9.0}, False, "it was compiled up to here, config.json has --no_compile."),
    ],
)
def test_a_difference_in_compilation_is_reported(
    logged: dict,
    compile_flag: bool,
    message: str,
    run_copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        import_module("stages.run.compiler"), "missing_tool", lambda: "no compiler"
    )  # replays eagerly
    config = json.loads((run_copy / "config.json").read_text())
    config["options"]["compile"] = compile_flag
    (run_copy / "config.json").write_text(json.dumps(config))
    lines = [json.loads(line) for line in (run_copy / "metrics.jsonl").read_text().splitlines()]
    lines[0].update(logged)
    lines[2]["loss"] += 1.0
    (run_copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert replay(run_copy, 3) == 1
    assert message in capsys.readouterr().out


def test_a_changed_log_is_reported(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_copy / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[10]["loss"] *= 1 + 2**-20
    del lines[1]["grad_norm"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert replay(run_copy, 11) == 1
    shown = capsys.readouterr().out
    assert f"loss: {lines[10]['loss']!r} in the log, " in shown
    assert "step 11: 1 difference; was it another machine, torch, number of threads or processes" in shown
    assert replay(run_copy, 2) == 1
    assert "grad_norm: nothing in the log, " in capsys.readouterr().out


def test_a_checkpoint_with_other_bits_is_reported(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoint of step 12 is valid, but one of its leaves was changed before it was saved."""
    from stages.checkpoint.fingerprint import fingerprint
    from stages.run import build_pretrain, config_file
    from stages.run.data import corpus
    from stages.run.options.pretrain import PretrainOptions

    data = corpus.reopen(run_copy)
    experiment = build_pretrain.build(config_file.read_options(run_copy, PretrainOptions), data)
    state = checkpoint.load(run_copy, experiment.stage.init(experiment.key)).state
    with torch.no_grad():
        state.params["norm"]["scale"][0] += 1e-3
    checkpoint.save(
        run_copy, state, fingerprint=fingerprint(experiment.stage, experiment.pipe, data.tokenizer)
    )
    assert replay(run_copy, 12) == 1
    shown = capsys.readouterr().out
    assert "params/norm/scale: bits differ from the checkpoint's" in shown
    assert "step 12: 1 difference;" in shown


def set_option(run_copy: Path, name: str, value: object) -> None:
    path = run_copy / "config.json"
    fields = json.loads(path.read_text())
    fields["options"][name] = value
    path.write_text(json.dumps(fields))


def test_a_changed_seed_or_learning_rate_is_reported(
    run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_option(run_copy, "seed", 1)
    assert replay(run_copy, 2) == 1  # from the start: only the loss differs
    assert "loss: " in capsys.readouterr().out
    assert replay(run_copy, 11) == 2  # from a checkpoint: its fingerprint differs
    assert "was saved by another run: pipe.key was" in capsys.readouterr().err
    set_option(run_copy, "seed", 0)
    set_option(run_copy, "learning_rate", 0.02)
    assert replay(run_copy, 11) == 2
    assert "saved by another run: " in capsys.readouterr().err


@pytest.mark.parametrize("step", [0, 13, -1])
def test_a_step_outside_the_log_is_refused(
    step: int, run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(run_copy, step) == 2
    assert f"metrics.jsonl has no step {step}; it has steps 1 to 12" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(tmp_path / "nowhere", 1) == 2
    assert "nowhere/config.json: expected the config.json of a run" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    assert replay(tmp_path, 1) == 2
    assert "expected the config.json of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float32, torch.int32, torch.bool, torch.float8_e4m3fn]
)
def test_states_of_any_dtype_are_compared(dtype: torch.dtype, tmp_path: Path) -> None:
    def state(last: float) -> dict:
        return {"w": torch.tensor([[0.0, last]]).to(dtype), "step": torch.tensor(3), "none": torch.zeros(0)}

    checkpoint.save(tmp_path, state(1.0), step=3)
    assert replay_module.compare_states(state(1.0), tmp_path, 3) == []
    assert replay_module.compare_states(state(0.0), tmp_path, 3) == ["w: bits differ from the checkpoint's"]


def test_nan_is_equal_to_itself_and_zero_is_not_minus_zero(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"w": torch.tensor([torch.nan, 0.0])}, step=3)
    assert replay_module.compare_states({"w": torch.tensor([torch.nan, 0.0])}, tmp_path, 3) == []
    assert replay_module.compare_states({"w": torch.tensor([torch.nan, -0.0])}, tmp_path, 3) != []
