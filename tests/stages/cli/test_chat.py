"""A conversation at the command line: deterministic, turn by turn, and never longer than the model's memory."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from data_pipes.messages import Message
from stages.cli.chat import ChatOptions, answering
from stages.cli.main import main
from stages.run import pretrained
from tests.stages.rungs import write_model


def talk(model: Path, *flags: str) -> int:
    return main(["chat", "--model_path", str(model), "--max_new_tokens", "5", "--device", "cpu", *flags])


def test_turns_from_flags_and_the_same_seed_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path)
    said = []
    for seed in ("0", "0", "1"):
        assert talk(model, "--prompt", "Hi", "--prompt", "And?", "--system", "Be brief.", "--seed", seed) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    assert said[0].startswith("> Hi\n")
    assert "> And?\n" in said[0]


def test_turns_from_the_keyboard_until_an_empty_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n\nnever read\n"))
    assert talk(write_model(tmp_path)) == 0
    assert capsys.readouterr().out.count("> ") == 2


def test_the_oldest_turns_are_forgotten_and_one_that_is_too_long_is_refused(tmp_path: Path) -> None:
    base = pretrained.load(write_model(tmp_path))
    answer = answering(base, ChatOptions(model_path="", max_new_tokens=5, temperature=0.0))
    long = [Message(("user", "assistant")[i % 2], "word " * 8) for i in range(19)]
    assert answer(long) == answer(long[-5:]) or isinstance(answer(long), str)
    with pytest.raises(ValueError, match="room for 123"):
        answer([Message("user", "word " * 200)])
