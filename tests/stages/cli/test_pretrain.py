"""`intro2llm pretrain`: interrupted runs resume to the same bits, and bad input is refused in one line."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipes import tokenizer as tokenizers
from pure.config import preset
from stages.checkpoint import checkpoint, state_file
from stages.cli.main import main
from stages.run import compiler, log
from tests.stages.children import limit_files, slow_saves, start_process, wait_for
from tests.stages.small import final_weights, flags, last_state, rows, same_run, write_config, write_text


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was never interrupted, and its text. Shared: tests do not write into it."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["pretrain", *flags(folder)]) == 0
    return folder


@pytest.fixture
def text_only(complete: Path, tmp_path: Path) -> Path:
    """A folder with the same text and config as `complete`, and no run."""
    shutil.copytree(complete / "text", tmp_path / "text")
    shutil.copy(complete / "small.json", tmp_path)
    return tmp_path


@pytest.fixture
def complete_copy(complete: Path, tmp_path: Path) -> Path:
    """A copy of the complete run and its text."""
    shutil.copytree(complete, tmp_path, dirs_exist_ok=True)
    return tmp_path


def assert_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, code: int = 2
) -> None:
    """Asserts that pretrain exits with `code` and one line on stderr that `message` matches."""
    capsys.readouterr()
    assert main(["pretrain", *arguments]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("intro2llm pretrain: ")
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in lines[0]


def test_a_run_writes_metrics_checkpoints_and_a_final_model(complete: Path) -> None:
    run = complete / "run"
    assert [row["step"] for row in rows(run)] == list(range(1, 13))
    assert [row["step"] for row in rows(run) if "val_bpb" in row] == [4, 8, 12]
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[5])
    assert {"loss", "grad_norm", "learning_rate", "tokens", "tok_per_sec", "tflops"} <= set(line)
    assert line["tokens"] == 4 * 16
    assert rows(run)[-1]["loss"] < rows(run)[0]["loss"]
    assert {"config.json", "metrics.jsonl", "checkpoints", "final_model", "tokenizer.json"} <= set(
        os.listdir(run)
    )


def test_a_complete_run_is_left_as_it_is_when_run_again(
    complete_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (
        (complete_copy / "run" / "metrics.jsonl").read_bytes(),
        last_state(complete_copy / "run"),
        final_weights(complete_copy / "run"),
    )
    assert main(["pretrain", *flags(complete_copy)]) == 0
    assert "already done: 12 steps" in capsys.readouterr().out
    assert before == (
        (complete_copy / "run" / "metrics.jsonl").read_bytes(),
        last_state(complete_copy / "run"),
        final_weights(complete_copy / "run"),
    )


def test_the_same_command_in_another_folder_gives_the_same_bits(text_only: Path, complete: Path) -> None:
    assert main(["pretrain", *flags(text_only)]) == 0
    assert same_run(text_only / "run", complete / "run")


def test_the_tiny_config_trains_for_num_epochs(
    text_only: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command of the project that came before this one; eager, as compiling takes a minute."""
    monkeypatch.chdir(text_only)
    monkeypatch.setattr(compiler, "missing_tool", lambda: "no C++ compiler was found (g++)")
    shutil.copytree("text", "data/pretrain")
    arguments = "--config tiny_config --data_path data/pretrain --output_dir outputs/pretrain --batch_size 32"
    assert main(["pretrain", *arguments.split(), "--num_epochs", "3"]) == 0
    fields = json.loads(Path("outputs/pretrain/config.json").read_text())
    assert fields["model"]["hidden_size"] == preset("tiny_config").hidden_size
    assert fields["options"]["num_epochs"] == 3
    last = rows(Path("outputs/pretrain"))[-1]["step"]
    assert f"final model: outputs/pretrain/final_model (step {last})" in capsys.readouterr().out


@pytest.mark.parametrize("step", [1, 6])
def test_a_run_killed_at_a_step_resumes_to_the_same_bits(step: int, text_only: Path, complete: Path) -> None:
    log_file = text_only / "run" / "metrics.jsonl"
    process = start_process(flags(text_only))
    wait_for(lambda: log_file.exists() and log_file.read_bytes().count(b"\n") >= step, process)
    process.kill()
    process.join()
    assert main(["pretrain", *flags(text_only)]) == 0
    assert same_run(text_only / "run", complete / "run")


def test_a_run_killed_during_saves_resumes_to_the_same_bits(text_only: Path, complete: Path) -> None:
    """Each process is killed in the middle of a save: of its first, then of the next, ..."""
    for step in (3, 6, 9):
        process = start_process(flags(text_only), partial(slow_saves, 0.5, step))
        partial_file = text_only / "run" / "checkpoints" / f"step-{step:08d}.tmp" / "state.msgpack"
        wait_for(partial_file.exists, process)
        process.kill()
        process.join()
        assert partial_file.exists()
    assert main(["pretrain", *flags(text_only)]) == 0
    assert same_run(text_only / "run", complete / "run")


def test_sigterm_saves_and_exits_with_143_even_if_sent_twice(text_only: Path, complete: Path) -> None:
    process = start_process(flags(text_only, save_every=0), partial(slow_saves, 0.5))
    log_file, checkpoints = text_only / "run" / "metrics.jsonl", text_only / "run" / "checkpoints"
    wait_for(lambda: log_file.exists() and log_file.read_bytes().count(b"\n") >= 1, process)
    process.terminate()
    wait_for(
        lambda: checkpoints.exists() and any(name.endswith(".tmp") for name in os.listdir(checkpoints)),
        process,
    )
    process.terminate()
    process.join()
    assert process.exitcode == 143
    saved = checkpoint.latest(text_only / "run")
    assert saved is not None
    assert len(rows(text_only / "run")) == checkpoint.step_of(saved)
    assert not (text_only / "run" / "final_model").exists()
    assert main(["pretrain", *flags(text_only, save_every=0)]) == 0
    assert (last_state(text_only / "run"), rows(text_only / "run")) == (
        last_state(complete / "run"),
        rows(complete / "run"),
    )


def test_early_stopping_makes_the_best_weights_final(
    text_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that ruins the model: the first validation stays the best."""
    arguments = flags(
        text_only, learning_rate=30.0, eval_every=1, patience=3, max_steps=40, warmup=4, save_every=0
    )
    assert main(["pretrain", *arguments]) == 0
    message = capsys.readouterr().out
    values = {row["step"]: row["val_loss"] for row in rows(text_only / "run")}
    best = min(values, key=lambda step: values[step])
    assert max(values) == best + 3
    assert (
        f"(step {best}, the best; validation stopped improving, and the run ended at {best + 3})" in message
    )
    from stages.models import language_model

    best_folder = checkpoint.best(text_only / "run")
    assert best_folder is not None
    assert checkpoint.step_of(best_folder) == best
    assert language_model.load(text_only / "run").params is not None


def test_model_path_gives_the_starting_weights_and_tokenizer(complete_copy: Path) -> None:
    arguments = flags(
        complete_copy,
        config=None,
        model_path=complete_copy / "run",
        output_dir=complete_copy / "more",
        learning_rate=1e-9,
    )
    assert main(["pretrain", *arguments]) == 0
    assert (complete_copy / "more" / "tokenizer.json").read_bytes() == (
        complete_copy / "run" / "tokenizer.json"
    ).read_bytes()
    before, after = (rows(complete_copy / name)[-1]["val_loss"] for name in ("run", "more"))
    assert after == pytest.approx(before, rel=1e-4)


def test_a_missing_compiler_is_reported_and_the_run_is_eager(
    text_only: Path, complete: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiler, "missing_tool", lambda: "no C++ compiler was found (g++)")
    assert main(["pretrain", *flags(text_only, compile=True)]) == 0
    assert "no C++ compiler was found" in capsys.readouterr().out
    assert same_run(text_only / "run", complete / "run")


def test_tensorboard_gets_every_step(text_only: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(["pretrain", *flags(text_only, max_steps=3, tensorboard=True)]) == 0
    events = EventAccumulator(str(text_only / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


def test_wandb_gets_every_step_and_the_configuration(
    text_only: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def writer(folder: Path, config: Any, *, project: str) -> log.Writer:
        seen.append((project, config["options"]["batch_size"]))
        return log.Writer(lambda step, values: seen.append(step), lambda: None, lambda: seen.append("closed"))

    monkeypatch.setattr(log, "wandb", writer)
    assert main(["pretrain", *flags(text_only, max_steps=3, wandb="mine")]) == 0
    assert seen == [("mine", 4), 1, 2, 3, "closed"]


def test_a_run_measures_its_noise_scale_and_resumes_the_estimate(text_only: Path) -> None:
    measured = flags(text_only, max_steps=4, save_every=2, noise_scale=True)
    assert main(["pretrain", *measured]) == 0
    lines = [json.loads(line) for line in (text_only / "run" / "metrics.jsonl").read_text().splitlines()]
    names = {"noise_scale", "noise_scale/low", "noise_scale/high"}
    assert all(names <= set(line) for line in lines if "loss" in line)
    before = last_state(text_only / "run")
    shutil.rmtree(text_only / "run" / "checkpoints" / "step-00000004")
    shutil.rmtree(text_only / "run" / "final_model")
    assert main(["pretrain", *measured]) == 0
    assert last_state(text_only / "run") == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"config": "configs/tiny_config.py"},
            "Python files are not run as configuration; type --config tiny_config$",
        ),
        ({"data_path": "nowhere/at/all.txt"}, "there is no file or folder nowhere/at/all.txt"),
        ({"max_length": 100}, "--max_length 100 exceeds the model's max_position_embeddings 64"),
        ({"gradient_accumulation": 3}, "--gradient_accumulation 3 does not divide --batch_size 4"),
        ({"tokenizer_path": "none.json"}, "there is no none.json"),
        ({"model_path": "none"}, "none/config.json is missing"),
        ({"held_out": 0.9}, "--held_out: expected a share"),
    ],
)
def test_bad_flags_are_refused_in_one_line(
    changes: dict[str, Any], message: str, text_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, flags(text_only, **changes), message)
    assert not (text_only / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 3}, "hidden_size 16 is not divisible by num_attention_heads 3"),
        ({"hidden_sise": 8}, "unknown field 'hidden_sise'; did you mean 'hidden_size'"),
        ({"vocab_size": 100}, r"vocab_size is 100, but the alphabet \(256\)"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(
    fields: dict[str, Any], message: str, text_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(text_only / "small.json", **fields)
    assert_refused(capsys, flags(text_only), message)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"", "there is no text in it"),
        ("a.txt", b"\0\1\2" * 99, "a binary file, with a zero byte"),
        ("a.txt", b"caf\xe9" * 99, "0xe9 at offset 3 is not utf-8; convert it first"),
        ("a.jsonl", b'{"body": "x"}\n', "a.jsonl:1: expected a text in 'text'"),
        (
            "a.txt",
            b"short",
            "the training split has . tokens, but one row of --max_length 16 takes 17; give more text",
        ),
    ],
)
def test_bad_text_is_refused_in_one_line(
    name: str, data: bytes, message: str, text_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(text_only / "text")
    (text_only / "text").mkdir()
    (text_only / "text" / name).write_bytes(data)
    assert_refused(capsys, flags(text_only), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"learning_rate": 0.5},
            r"--learning_rate was 0\.01, is 0\.5\. Set these back to resume it, or choose",
        ),
        ({"seed": 3, "batch_size": 2}, "--batch_size was 4, is 2; --seed was 0, is 3"),
        ({"max_steps": 24}, "--max_steps was 12, is 24"),
        ({"resume": False}, "holds checkpoints of an earlier run"),
        ({"held_out": 0.2}, r"data was made from other inputs: --held_out was 0\.05, is 0\.2"),
    ],
)
def test_resuming_with_other_flags_is_refused_by_name(
    changes: dict[str, Any], message: str, complete_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(capsys, flags(complete_copy, **changes), message)
    assert main(["pretrain", *flags(complete_copy)]) == 0  # the run itself is intact


def test_resuming_with_other_text_another_tokenizer_or_model_is_refused_by_name(
    complete_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(complete_copy / "other", documents=3)
    assert_refused(
        capsys,
        flags(complete_copy, data_path=complete_copy / "other"),
        r"--data_path was .*text \(6 files.*other \(3 files",
    )
    tokenizer_file = tokenizers.save(tokenizers.train(["low"], 262), complete_copy / "given.json")
    assert_refused(
        capsys,
        flags(complete_copy, tokenizer_path=tokenizer_file),
        "--tokenizer_path was one trained here, of 280 ids, is .*given",
    )
    write_config(complete_copy / "small.json", hidden_size=32)
    assert_refused(capsys, flags(complete_copy), "--config: hidden_size was 16, is 32")


def test_a_checkpoint_of_another_model_is_refused_by_name(
    complete_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even if the run's config.json was edited to agree with the new shape."""
    write_config(complete_copy / "small.json", intermediate_size=40)
    path = complete_copy / "run" / "config.json"
    path.write_text(path.read_text().replace('"intermediate_size": 24', '"intermediate_size": 40'))
    assert_refused(capsys, flags(complete_copy), "saved by another run: .*intermediate_size was 24, is 40")


def test_a_damaged_checkpoint_is_skipped_and_reported(
    complete_copy: Path, complete: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = checkpoint.latest(complete_copy / "run")
    assert newest is not None
    data = bytearray((newest / "state.msgpack").read_bytes())
    data[len(data) // 2] ^= 4
    (newest / "state.msgpack").write_bytes(data)
    assert main(["pretrain", *flags(complete_copy)]) == 0
    assert "skipped a damaged checkpoint" in capsys.readouterr().out
    assert same_run(complete_copy / "run", complete / "run")


def test_an_output_folder_that_holds_no_run_is_refused_and_unchanged(
    text_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text_only / "run").mkdir()
    (text_only / "run" / "config.json").write_text('{"model_type": "llama"}')
    assert_refused(capsys, flags(text_only), r"config\.json: expected the config\.json of a run")
    assert (text_only / "run" / "config.json").read_text() == '{"model_type": "llama"}'


def test_a_file_as_output_dir_is_refused_in_one_line(
    text_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text_only / "file").write_text("")
    assert_refused(
        capsys,
        flags(text_only, output_dir=text_only / "file"),
        "cannot write into .*file.*; choose another --output_dir",
    )
    assert_refused(
        capsys,
        flags(text_only, output_dir=text_only / "file" / "run"),
        "cannot write into .*; choose another --output_dir",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_dir_without_write_permission_is_refused_in_one_line(
    text_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (text_only / "closed").mkdir(mode=0o500)
    assert_refused(
        capsys,
        flags(text_only, output_dir=text_only / "closed" / "run"),
        "Permission denied; choose another",
        code=1,
    )


def test_a_full_disk_at_a_save_is_reported_in_one_line_and_the_run_resumes(
    text_only: Path, complete: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saves: list[int] = []
    original = state_file.write

    def write(path: Path, state: Any) -> Any:
        saves.append(int(state.step))
        if len(saves) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(state_file, "write", write)
        message = r"could not save .*step-000000\d\d: No space left on device; make room there"
        assert_refused(capsys, flags(text_only), message, code=1)
    assert main(["pretrain", *flags(text_only)]) == 0
    assert same_run(text_only / "run", complete / "run")


def test_a_full_disk_while_data_is_written_does_not_spoil_the_next_run(
    text_only: Path, complete: Path
) -> None:
    """No file of the first process may grow beyond 4 KB; the second process has no limit."""
    process = start_process(flags(text_only), partial(limit_files, 4096))
    process.join()
    assert process.exitcode == 1
    assert main(["pretrain", *flags(text_only)]) == 0
    assert same_run(text_only / "run", complete / "run")


def test_the_last_state_equals_a_fold_of_step_over_the_data(complete: Path) -> None:
    """A run is `reduce(step, batches, init(key))`, all of it rebuilt from config.json and the cached data."""
    import functools

    from pure.serial.serial import to_bytes
    from stages.run import build_pretrain, config_file
    from stages.run.data import corpus
    from stages.run.options.pretrain import PretrainOptions

    options = config_file.read_options(complete / "run", PretrainOptions)
    experiment = build_pretrain.build(options, corpus.reopen(complete / "run"))
    state = functools.reduce(experiment.stage.step, experiment.pipe, experiment.stage.init(experiment.key))
    assert to_bytes(state) == last_state(complete / "run")
    assert torch.is_tensor(state.step)
