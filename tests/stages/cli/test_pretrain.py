"""From text to a model in one command: interrupted anywhere it gives the same bits, and bad input is one
line."""

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
    """The folder of a run that was never interrupted, and of its text."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["pretrain", *flags(folder)]) == 0
    return folder


@pytest.fixture
def place(complete: Path, tmp_path: Path) -> Path:
    """A folder with the same text, and no run."""
    shutil.copytree(complete / "text", tmp_path / "text")
    shutil.copy(complete / "small.json", tmp_path)
    return tmp_path


@pytest.fixture
def done(complete: Path, tmp_path: Path) -> Path:
    """A copy of the complete run and its text."""
    shutil.copytree(complete, tmp_path, dirs_exist_ok=True)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, code: int = 2) -> None:
    """One line on stderr, no traceback, and the exit code."""
    capsys.readouterr()
    assert main(["pretrain", *arguments]) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("intro2llm pretrain: ")
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in lines[0]


def test_the_files_of_a_run(complete: Path) -> None:
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


def test_run_again_it_is_done(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (
        (done / "run" / "metrics.jsonl").read_bytes(),
        last_state(done / "run"),
        final_weights(done / "run"),
    )
    assert main(["pretrain", *flags(done)]) == 0
    assert "all 12 steps are already done" in capsys.readouterr().out
    assert before == (
        (done / "run" / "metrics.jsonl").read_bytes(),
        last_state(done / "run"),
        final_weights(done / "run"),
    )


def test_the_same_command_elsewhere_gives_the_same_bits(place: Path, complete: Path) -> None:
    assert main(["pretrain", *flags(place)]) == 0
    assert same_run(place / "run", complete / "run")


def test_the_older_projects_command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All its flags as they were; eager here, as the tiny model takes a minute to compile."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(compiler, "missing_tool", lambda: "no C++ compiler was found (g++)")
    shutil.copytree("text", "data/pretrain")
    words = "--config tiny_config --data_path data/pretrain --output_dir outputs/pretrain --batch_size 32"
    assert main(["pretrain", *words.split(), "--num_epochs", "3"]) == 0
    fields = json.loads(Path("outputs/pretrain/config.json").read_text())
    assert fields["model"]["hidden_size"] == preset("tiny_config").hidden_size
    assert fields["options"]["num_epochs"] == 3
    last = rows(Path("outputs/pretrain"))[-1]["step"]
    assert f"final model: outputs/pretrain/final_model (step {last})" in capsys.readouterr().out


@pytest.mark.parametrize("step", [1, 6])
def test_killed_at_a_step_it_resumes_to_the_same_bits(step: int, place: Path, complete: Path) -> None:
    log_file = place / "run" / "metrics.jsonl"
    process = start_process(flags(place))
    wait_for(lambda: log_file.exists() and log_file.read_bytes().count(b"\n") >= step, process)
    process.kill()
    process.join()
    assert main(["pretrain", *flags(place)]) == 0
    assert same_run(place / "run", complete / "run")


def test_killed_inside_saves_it_resumes_to_the_same_bits(place: Path, complete: Path) -> None:
    """Each process is killed in the middle of a save: of its first, then of the next, ..."""
    for step in (3, 6, 9):
        process = start_process(flags(place), partial(slow_saves, 0.5, step))
        inside = place / "run" / "checkpoints" / f"step-{step:08d}.tmp" / "state.msgpack"
        wait_for(inside.exists, process)
        process.kill()
        process.join()
        assert inside.exists()
    assert main(["pretrain", *flags(place)]) == 0
    assert same_run(place / "run", complete / "run")


def test_sigterm_saves_and_ends_with_143_and_a_second_one_is_safe(place: Path, complete: Path) -> None:
    process = start_process(flags(place, save_every=0), partial(slow_saves, 0.5))
    log_file, saving = place / "run" / "metrics.jsonl", place / "run" / "checkpoints"
    wait_for(lambda: log_file.exists() and log_file.read_bytes().count(b"\n") >= 1, process)
    process.terminate()
    wait_for(lambda: saving.exists() and any(name.endswith(".tmp") for name in os.listdir(saving)), process)
    process.terminate()
    process.join()
    assert process.exitcode == 143
    saved = checkpoint.latest(place / "run")
    assert saved is not None
    assert len(rows(place / "run")) == checkpoint.step_of(saved)
    assert not (place / "run" / "final_model").exists()
    assert main(["pretrain", *flags(place, save_every=0)]) == 0
    assert (last_state(place / "run"), rows(place / "run")) == (
        last_state(complete / "run"),
        rows(complete / "run"),
    )


def test_stopped_early_the_best_weights_are_the_final_ones(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that ruins the model: the first validation stays the best."""
    arguments = flags(
        place, learning_rate=30.0, eval_every=1, patience=3, max_steps=40, warmup=4, save_every=0
    )
    assert main(["pretrain", *arguments]) == 0
    message = capsys.readouterr().out
    values = {row["step"]: row["val_loss"] for row in rows(place / "run")}
    best = min(values, key=lambda step: values[step])
    assert max(values) == best + 3
    assert (
        f"(step {best}, the best; validation stopped improving, and the run ended at {best + 3})" in message
    )
    from stages.models import language_model

    loaded = checkpoint.best(place / "run")
    assert loaded is not None
    assert checkpoint.step_of(loaded) == best
    assert language_model.load(place / "run").params is not None


def test_from_a_model_it_starts_with_its_weights_and_tokenizer(done: Path) -> None:
    arguments = flags(
        done, config=None, model_path=done / "run", output_dir=done / "more", learning_rate=1e-9
    )
    assert main(["pretrain", *arguments]) == 0
    assert (done / "more" / "tokenizer.json").read_bytes() == (done / "run" / "tokenizer.json").read_bytes()
    before, after = (rows(done / name)[-1]["val_loss"] for name in ("run", "more"))
    assert after == pytest.approx(before, rel=1e-4)


def test_without_a_compiler_it_says_so_and_runs_eagerly(
    place: Path, complete: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiler, "missing_tool", lambda: "no C++ compiler was found (g++)")
    assert main(["pretrain", *flags(place, compile=True)]) == 0
    assert "no C++ compiler was found" in capsys.readouterr().out
    assert same_run(place / "run", complete / "run")


def test_tensorboard_gets_every_step(place: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert main(["pretrain", *flags(place, max_steps=3, tensorboard=True)]) == 0
    events = EventAccumulator(str(place / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


def test_wandb_gets_every_step_and_the_configuration(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def writer(folder: Path, config: Any, *, project: str) -> log.Writer:
        seen.append((project, config["options"]["batch_size"]))
        return log.Writer(lambda step, values: seen.append(step), lambda: None, lambda: seen.append("closed"))

    monkeypatch.setattr(log, "wandb", writer)
    assert main(["pretrain", *flags(place, max_steps=3, wandb="mine")]) == 0
    assert seen == [("mine", 4), 1, 2, 3, "closed"]


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
def test_bad_flags_are_one_line(
    changes: dict[str, Any], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, flags(place, **changes), message)
    assert not (place / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_attention_heads": 3}, "hidden_size 16 is not divisible by num_attention_heads 3"),
        ({"hidden_sise": 8}, "unknown field 'hidden_sise'; did you mean 'hidden_size'"),
        ({"vocab_size": 100}, r"vocab_size is 100, but the alphabet \(256\)"),
    ],
)
def test_a_bad_configuration_is_one_line(
    fields: dict[str, Any], message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(place / "small.json", **fields)
    refused(capsys, flags(place), message)


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
def test_bad_text_is_one_line(
    name: str, data: bytes, message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(place / "text")
    (place / "text").mkdir()
    (place / "text" / name).write_bytes(data)
    refused(capsys, flags(place), message)


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
    changes: dict[str, Any], message: str, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, flags(done, **changes), message)
    assert main(["pretrain", *flags(done)]) == 0  # and nothing is spoiled


def test_resuming_with_other_text_another_tokenizer_or_model_is_refused_by_name(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text(done / "other", documents=3)
    refused(
        capsys, flags(done, data_path=done / "other"), r"--data_path was .*text \(6 files.*other \(3 files"
    )
    given = tokenizers.save(tokenizers.train(["low"], 262), done / "given.json")
    refused(
        capsys,
        flags(done, tokenizer_path=given),
        "--tokenizer_path was one trained here, of 280 ids, is .*given",
    )
    write_config(done / "small.json", hidden_size=32)
    refused(capsys, flags(done), "--config: hidden_size was 16, is 32")


def test_a_checkpoint_of_another_model_is_refused_by_name(
    done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even if config.json was changed by hand to agree."""
    write_config(done / "small.json", intermediate_size=40)
    path = done / "run" / "config.json"
    path.write_text(path.read_text().replace('"intermediate_size": 24', '"intermediate_size": 40'))
    refused(capsys, flags(done), "saved by another run: .*intermediate_size was 24, is 40")


def test_a_damaged_checkpoint_is_skipped_and_reported(
    done: Path, complete: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = checkpoint.latest(done / "run")
    assert newest is not None
    data = bytearray((newest / "state.msgpack").read_bytes())
    data[len(data) // 2] ^= 4
    (newest / "state.msgpack").write_bytes(data)
    assert main(["pretrain", *flags(done)]) == 0
    assert "skipped a damaged checkpoint" in capsys.readouterr().out
    assert same_run(done / "run", complete / "run")


def test_a_folder_that_is_not_a_runs_is_left_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "run").mkdir()
    (place / "run" / "config.json").write_text('{"model_type": "llama"}')
    refused(capsys, flags(place), r"config\.json: expected the config\.json of a run")
    assert (place / "run" / "config.json").read_text() == '{"model_type": "llama"}'


def test_an_unwritable_folder_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "file").write_text("")
    refused(
        capsys,
        flags(place, output_dir=place / "file"),
        "cannot write into .*file.*; choose another --output_dir",
    )
    refused(
        capsys,
        flags(place, output_dir=place / "file" / "run"),
        "cannot write into .*; choose another --output_dir",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "closed").mkdir(mode=0o500)
    refused(
        capsys, flags(place, output_dir=place / "closed" / "run"), "Permission denied; choose another", code=1
    )


def test_a_full_disk_is_one_line_and_loses_nothing(
    place: Path, complete: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saves: list[int] = []
    written = state_file.write

    def write(path: Path, state: Any) -> Any:
        saves.append(int(state.step))
        if len(saves) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(state_file, "write", write)
        message = r"could not save .*step-000000\d\d: No space left on device; make room there"
        refused(capsys, flags(place), message, code=1)
    assert main(["pretrain", *flags(place)]) == 0
    assert same_run(place / "run", complete / "run")


def test_a_disk_that_fills_while_text_is_written_is_no_harm(place: Path, complete: Path) -> None:
    """As the system does it: no file of the process may grow beyond 4 KB. Then, with room, all is as it
    should be."""
    process = start_process(flags(place), partial(limit_files, 4096))
    process.join()
    assert process.exitcode == 1
    assert main(["pretrain", *flags(place)]) == 0
    assert same_run(place / "run", complete / "run")


def test_the_state_is_the_fold_over_the_pipe_of_config_json(complete: Path) -> None:
    """From config.json and the data alone, by the definition of a run."""
    import functools

    from pure.serial.serial import to_bytes
    from stages.run import build_pretrain, config_file
    from stages.run.data import corpus
    from stages.run.options.pretrain import PretrainOptions

    options = config_file.read(complete / "run", PretrainOptions)
    made = build_pretrain.build(options, corpus.reopen(complete / "run"))
    state = functools.reduce(made.stage.step, made.pipe, made.stage.init(made.key))
    assert to_bytes(state) == last_state(complete / "run")
    assert torch.is_tensor(state.step)
