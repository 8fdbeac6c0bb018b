"""Each subcommand says what it is doing before torch is imported; only where a user waits."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from stages.cli.notice import say_waiting

NO_TORCH = """
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ImportError("torch is refused")

sys.meta_path.insert(0, Refusal())
from stages.cli.main import main
main(sys.argv[1:])
"""
"""A process in which torch cannot be imported, so that all that is printed comes before it."""


def test_a_line_is_printed_where_stderr_is_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say_waiting("loading a")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    say_waiting("loading b")
    assert capsys.readouterr() == ("", "loading b\n")


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("chat --model_path m", "loading m"),
        ("generate --model_path m --prompt a", "loading m"),
        ("preview --model_path m", "loading m"),
        ("export --model_path m --output_dir new", "loading m"),
        ("estimate --model_path m", "reading the configuration of m"),
        ("replay run --step 3", "reading run"),
        ("compare a b", "reading a and b"),
        ("demo --output_dir run", "the demo trains a small model in run"),
        ("evaluate --model_path m --task mmlu --output_dir run", "loading m"),
        ("tokenizer --data_path text --output_dir new", "training a tokenizer on text"),
        ("import --model_path m --output_dir new", "loading m"),
        ("merge --model_path m --output_dir new", "loading m"),
        ("card run", "reading run"),
        ("push run ada/model", "verifying run"),
        ("launch 2 pretrain", "starting 2 processes of pretrain"),
    ],
)
def test_a_subcommand_says_what_it_is_doing_before_torch_is_imported(
    command: str, line: str, tmp_path: Path
) -> None:
    ours, theirs = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", NO_TORCH, *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        timeout=60,
        check=False,
    )
    os.close(theirs)
    printed = os.read(ours, 4000).decode()
    os.close(ours)
    assert printed.startswith(f"{line}\r\n"), printed
