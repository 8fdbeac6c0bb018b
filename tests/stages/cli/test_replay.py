"""A step of a past run is computed again and compared: equal bits are found, and so is everything else."""

from __future__ import annotations

import json
import shutil
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

from pure.transform.jit import jit
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
def run(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / "copy"))  # in another place than config.json says


def replay(run: Path, step: int) -> int:
    return main(["replay", str(run), "--step", str(step)])


@pytest.mark.parametrize(("step", "begin"), [(1, 1), (3, 1), (11, 10), (12, 10)])
def test_equal_bits_are_found(step: int, begin: int, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert replay(run, step) == 0
    shown = capsys.readouterr().out
    assert f"computing steps {begin} to {step} again" in shown
    assert shown.endswith(f"step {step}: equal, bit for bit\n")


@pytest.mark.slow
def test_equal_bits_of_a_compiled_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By regions and donated, as always; the quick backend, as Inductor takes a minute (the benchmark uses
    that)."""
    quick = partial(jit, backend="aot_eager")
    monkeypatch.setattr(loop, "jit", quick)
    monkeypatch.setattr(import_module("pure.transform.jit"), "jit", quick)
    arguments = flags(
        tmp_path, compile=True, max_steps=5, config=write_config(tmp_path / "one.json", num_hidden_layers=1)
    )
    assert main(["pretrain", *arguments]) == 0
    assert replay(tmp_path / "run", 5) == 0
    assert "step 5: equal, bit for bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("logged", "flag", "message"),
    [
        ({}, True, "it was not compiled up to here, config.json has --compile."),
        ({"compile_seconds": 9.0}, False, "it was compiled up to here, config.json has --no_compile."),
    ],
)
def test_a_compilation_on_the_way_is_named(
    logged: dict,
    flag: bool,
    message: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        import_module("stages.run.compiler"), "missing_tool", lambda: "no compiler"
    )  # replays eagerly
    config = json.loads((run / "config.json").read_text())
    config["options"]["compile"] = flag
    (run / "config.json").write_text(json.dumps(config))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[0].update(logged)
    lines[2]["loss"] += 1.0
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert replay(run, 3) == 1
    assert message in capsys.readouterr().out


def test_a_log_that_was_changed_is_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[10]["loss"] *= 1 + 2**-20
    del lines[1]["grad_norm"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    capsys.readouterr()
    assert replay(run, 11) == 1
    shown = capsys.readouterr().out
    assert f"loss: {lines[10]['loss']!r} in the log, " in shown
    assert "step 11: 1 differences; was it another machine, torch or thread count" in shown
    assert replay(run, 2) == 1
    assert "grad_norm: nothing in the log, " in capsys.readouterr().out


def test_a_checkpoint_that_is_not_of_these_steps_is_found(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sound checkpoint of step 12 that another computation left: one leaf differs."""
    import torch

    from stages.checkpoint import checkpoint
    from stages.checkpoint.fingerprint import fingerprint
    from stages.run import build_pretrain, config_file
    from stages.run.data import corpus
    from stages.run.options.pretrain import PretrainOptions

    data = corpus.reopen(run)
    made = build_pretrain.build(config_file.read(run, PretrainOptions), data)
    state = checkpoint.load(run, made.stage.init(made.key)).state
    with torch.no_grad():
        state.params["norm"]["scale"][0] += 1e-3
    checkpoint.save(run, state, fingerprint=fingerprint(made.stage, made.pipe, data.tokenizer))
    assert replay(run, 12) == 1
    shown = capsys.readouterr().out
    assert "params/norm/scale: bits differ from the checkpoint's" in shown
    assert "step 12: 1 differences" in shown


def change(run: Path, name: str, value: object) -> None:
    path = run / "config.json"
    fields = json.loads(path.read_text())
    fields["options"][name] = value
    path.write_text(json.dumps(fields))


def test_another_seed_or_rate_is_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(run, "seed", 1)
    assert replay(run, 2) == 1  # from the start: nothing but the numbers can tell
    assert "loss: " in capsys.readouterr().out
    assert replay(run, 11) == 2  # from a checkpoint, which knows what it is of
    assert "was saved by another run: pipe.key was" in capsys.readouterr().err
    change(run, "seed", 0)
    change(run, "learning_rate", 0.02)
    assert replay(run, 11) == 2
    assert "saved by another run: " in capsys.readouterr().err


@pytest.mark.parametrize("step", [0, 13, -1])
def test_a_step_that_is_not_there_is_named(step: int, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(run, step) == 2
    assert f"metrics.jsonl has no step {step}; it has steps 1 to 12" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(tmp_path, 1) == 2
    assert "has no step 1; it has none" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    assert replay(tmp_path, 1) == 2
    assert "expected the config.json of a run" in capsys.readouterr().err
