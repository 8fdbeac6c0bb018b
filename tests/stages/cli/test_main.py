"""`intro2llm` itself: help, version, exit codes, and one-line errors instead of tracebacks."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from dataclasses import is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from stages.cli.main import explain, main
from stages.cli.subcommands import SUBCOMMANDS, resolve


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_subcommand(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert [name for name in SUBCOMMANDS if f"\n  {name} " not in shown] == []


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_every_subcommand_has_a_dataclass_of_flags_and_a_function(name: str) -> None:
    assert is_dataclass(resolve(SUBCOMMANDS[name].options))
    assert callable(resolve(SUBCOMMANDS[name].run))


def test_an_unknown_subcommand_is_named_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrian", "--seed", "1"]) == 2
    assert "did you mean 'pretrain'?" in capsys.readouterr().err


def test_help_answers_in_under_0_7_seconds() -> None:
    """The installed command, as a user types it; the best of three, as other tests run at the same time."""

    def help_seconds() -> float:
        start = time.perf_counter()
        answer = subprocess.run(
            [Path(sys.executable).with_name("intro2llm"), "--help"], check=True, capture_output=True
        )
        assert b"usage: intro2llm" in answer.stdout
        return time.perf_counter() - start

    assert min(help_seconds() for _ in range(3)) < 0.7


def run_failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a subcommand that raises `error`."""

    def raise_error(options: Any) -> int:
        raise error

    monkeypatch.setattr("stages.cli.tokenizer.run", raise_error)
    return main(["tokenizer"])


class InductorError(RuntimeError):
    """Named like the error that torch's compiler raises."""


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("--seed: too\n  large"), 2, "--seed: too large"),
        (FileNotFoundError(2, "No such file or directory", "a.txt"), 2, "a.txt: No such file or directory"),
        (
            OSError(28, "No space left on device"),
            1,
            "No space left on device; check the disk of --output_dir, and",
        ),
        (
            OSError(28, "cannot write a.txt: No space left on device"),
            1,
            "cannot write a.txt: No space left on device",
        ),
        (PermissionError(13, "Permission denied", "b"), 1, "b: Permission denied"),
        (ImportError("wandb is not installed; pip install it"), 1, "wandb is not installed; pip install it"),
        (FloatingPointError("logits were NaN"), 1, "logits were NaN"),
        (MemoryError(), 1, "out of memory; split the batch by --gradient_accumulation"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            1,
            "out of memory; split the batch",
        ),
        (
            InductorError("CppCompileError: C++ compile error\nmuch more"),
            1,
            "could not be compiled (CppCompileError:",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_that_the_user_can_fix_are_one_line(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_failing(error, monkeypatch) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("intro2llm tokenizer: ")
    assert message in line


def test_the_message_of_an_interruption_depends_on_the_saved_files(tmp_path: Path) -> None:
    explanation = lambda name, *folder: explain(KeyboardInterrupt(), name, *folder)[1]  # noqa: E731
    assert explanation("generate", tmp_path) == explanation("sft") == "interrupted"
    assert (
        explanation("sft", tmp_path)
        == f"interrupted before the first checkpoint in {tmp_path}; the same command starts again"
    )
    assert explanation("evaluate", tmp_path) == "interrupted; the same command starts again"
    (tmp_path / "checkpoints" / "step-00000002").mkdir(parents=True)
    (tmp_path / "samples.jsonl").touch()
    assert explanation("sft", tmp_path) == "interrupted; the same command resumes from the newest checkpoint"
    assert explanation("demo", tmp_path) == explanation("sft", tmp_path)
    assert explanation("evaluate", tmp_path) == "interrupted; the same command keeps the saved answers"


def test_the_versions_are_printed_without_importing_torch() -> None:
    code = (
        "import sys; from stages.cli.main import main; main(['--version']); assert 'torch' not in sys.modules"
    )
    printed = subprocess.check_output([sys.executable, "-c", code], text=True)
    expected = (
        f"intro2llm {version('intro2llm')}, torch {version('torch')}, Python {platform.python_version()}\n"
    )
    assert printed == expected


@pytest.mark.parametrize(
    "error", [IndexError("list index out of range"), RuntimeError("shape mismatch"), TypeError()]
)
def test_an_unexpected_error_shows_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(error)):
        run_failing(error, monkeypatch)


def test_the_environment_variable_shows_the_traceback_of_any_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTRO2LLM_TRACEBACK", "1")
    with pytest.raises(ValueError, match="mine"):
        run_failing(ValueError("mine"), monkeypatch)


def test_a_closed_pipe_is_no_error() -> None:
    """As in `intro2llm pretrain --help | head -1`, with the reader gone before anything is written."""
    code = "import sys, time; time.sleep(0.5); from stages.cli.main import main; sys.exit(main(['pretrain', '--help']))"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    stderr = child.stderr.read().decode()
    child.stderr.close()
    child.wait()
    assert "Traceback" not in stderr
    assert stderr.count("\n") <= 1
