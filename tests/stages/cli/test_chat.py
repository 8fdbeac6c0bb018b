"""A conversation at the command line: deterministic, turn by turn, shown while it is written, and never too
long."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_pipes.chat.messages import Message
from stages.cli import chat
from stages.cli.chat import ChatOptions, answer_fn, fit_to_context, run_session
from stages.cli.main import main
from stages.models import language_model
from tests.outside import written
from tests.outside.special_tokens import CHATML
from tests.stages.small_stages import write_model


def run(model: Path, *flags: str) -> int:
    return main(["chat", "--model_path", str(model), "--max_new_tokens", "5", "--device", "cpu", *flags])


def test_turns_from_flags_and_the_same_seed_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    said = []
    for seed in ("0", "0", "1"):
        assert run(model, "--prompt", "Hi", "--prompt", "And?", "--system", "Be brief.", "--seed", seed) == 0
        shown = capsys.readouterr()
        assert shown.err == f"loading {model}\n"
        said.append(shown.out)
    assert said[0] == said[1] != said[2]
    assert said[0].startswith("> Hi\n")
    assert "> And?\n" in said[0]


def test_an_empty_line_does_not_end_the_session_and_the_end_of_the_input_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n\nAnd?\n"))
    assert run(write_model(tmp_path)) == 0
    assert capsys.readouterr().out.count("> ") == 4


def _typing(monkeypatch: pytest.MonkeyPatch, *lines: Any) -> None:
    """A keyboard: texts, and errors that keys raise."""
    keys = iter(lines)

    def typed(prompt: str) -> str:
        found = next(keys)
        if isinstance(found, type):
            raise found
        return found

    monkeypatch.setattr("builtins.input", typed)


def test_ctrl_c_stops_an_answer_and_keeps_the_part_that_was_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str | None]] = []

    def answer(said: Sequence[Message], show: Callable[[str], object]) -> str:
        asked.append([message.content for message in said])
        if said[-1].content == "first":
            show("half an ")
            raise KeyboardInterrupt
        if said[-1].content == "second":
            raise KeyboardInterrupt
        show("whole")
        return "whole"

    _typing(monkeypatch, "first", "second", "third", KeyboardInterrupt, "never")
    said = run_session(answer, ChatOptions(model_path="", system="s"))
    assert [message.content for message in said] == ["s", "first", "half an", "third", "whole"]
    assert asked[-1] == ["s", "first", "half an", "third"]
    assert capsys.readouterr().err.count("stopped; Ctrl-C again or Ctrl-D ends the session") == 2


def test_a_turn_that_is_too_long_does_not_end_the_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = language_model.load(write_model(tmp_path))
    options = ChatOptions(model_path="", max_new_tokens=5)
    _typing(monkeypatch, "word " * 200, "Hi", EOFError)
    said = run_session(answer_fn(base, options), options)
    assert [message.role for message in said] == ["user", "assistant"]
    assert "shorten it; this turn is skipped" in capsys.readouterr().err
    with pytest.raises(ValueError, match="room for 123"):
        run_session(answer_fn(base, options), ChatOptions(model_path="", prompt=("word " * 200,)))
    with pytest.raises(ValueError, match="--max_new_tokens 128 leaves no room"):
        answer_fn(base, ChatOptions(model_path="", max_new_tokens=128))


def test_whole_oldest_exchanges_are_forgotten_and_the_system_stays() -> None:
    roles = ("system", "user", "assistant", "tool", "assistant", "user", "assistant", "user")
    said = [Message(role, content) for role, content in zip(roles, "sac7bcde", strict=True)]

    def encode(messages: Sequence[Message]) -> list[int]:
        return [ord((message.content or "?")[0]) for message in messages]

    left = {room: "".join(map(chr, fit_to_context(said, encode, room)[0])) for room in (8, 7, 4, 3, 2)}
    assert left == {8: "sac7bcde", 7: "scde", 4: "scde", 3: "se", 2: "se"}
    assert fit_to_context(said, encode, 3)[1] == 6
    with pytest.raises(ValueError, match=r"the system's message and the last turn have 2 tokens.*room for 1"):
        fit_to_context(said, encode, 1)


def test_forgotten_messages_are_reported(tmp_path: Path) -> None:
    base = language_model.load(write_model(tmp_path))
    said: list[str] = []
    answer = answer_fn(base, ChatOptions(model_path="", max_new_tokens=5, temperature=0.0), say=said.append)
    long = [Message(("user", "assistant")[i % 2], "word " * 8) for i in range(19)]
    answer(long, lambda piece: None)
    assert len(said) == 1
    assert "the oldest" in said[0]


def test_pieces_are_the_text_and_never_half_a_character(tmp_path: Path) -> None:
    """Bytes at random: the pieces, joined, are the decoded whole, and only the last may end in half a
    character."""
    options = ChatOptions(model_path="", max_new_tokens=60, temperature=1.0, top_p=None)
    folder = written.model(
        tmp_path,
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        chat_template=CHATML,
        eos_token="<|endoftext|>",
    )
    base = language_model.load(folder)
    pieces: list[str] = []
    text = answer_fn(base, options)([Message("user", "Hi")], pieces.append)
    assert "".join(pieces).strip() == text
    assert len(pieces) > 5
    assert not {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} & {piece.strip() for piece in pieces}


def test_the_keyboard_edits_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    _typing(monkeypatch, "a", "  ", EOFError)
    assert list(chat._user_turns(ChatOptions(model_path=""))) == ["a"]
    import sys

    assert "readline" in sys.modules
