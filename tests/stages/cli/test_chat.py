"""`intro2llm chat`: the same seed gives the same answers, text is streamed, and long chats are cut to fit."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from data_pipes.chat.messages import Message
from pure import random
from pure.generation.sampling import Sampling
from stages.cli import chat
from stages.cli.chat import Answer, answer_fn, fit_to_context, run_session
from stages.cli.main import main
from stages.models import language_model
from stages.models.chat_template import template_of
from stages.models.language_model import Pretrained
from tests.outside import written
from tests.outside.special_tokens import CHATML
from tests.stages.small_stages import write_model


def run_chat(model: Path, *flags: str) -> int:
    return main(["chat", "--model_path", str(model), "--max_new_tokens", "5", "--device", "cpu", *flags])


def test_turns_from_flags_are_answered_equally_for_the_same_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    said = []
    for seed in ("0", "0", "1"):
        flags = ["--prompt", "Hi", "--prompt", "And?", "--system", "Be brief.", "--seed", seed]
        assert run_chat(model, *flags) == 0
        shown = capsys.readouterr()
        assert shown.err == f"loading {model}\n"
        said.append(shown.out)
    assert said[0] == said[1] != said[2]
    assert said[0].startswith("> Hi\n")
    assert "> And?\n" in said[0]


def test_a_session_ends_at_the_end_of_input_but_not_at_an_empty_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n\nAnd?\n"))
    assert run_chat(write_model(tmp_path)) == 0
    assert capsys.readouterr().out.count("> ") == 4


def _answer_fn(base: Pretrained, sampling: Sampling, say: Callable[[str], object] = print) -> Answer:
    return answer_fn(base, template_of(None, base), sampling, key=random.key(0), say=say)


def _type_lines(monkeypatch: pytest.MonkeyPatch, *lines: Any) -> None:
    """Makes `input` return the given lines one by one; an exception class among them is raised."""
    remaining = iter(lines)

    def next_line(prompt: str) -> str:
        line = next(remaining)
        if isinstance(line, type):
            raise line
        return line

    monkeypatch.setattr("builtins.input", next_line)


def test_ctrl_c_stops_an_answer_and_keeps_the_text_shown_so_far(
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

    _type_lines(monkeypatch, "first", "second", "third", KeyboardInterrupt, "never")
    said = run_session(answer, system="s")
    assert [message.content for message in said] == ["s", "first", "half an", "third", "whole"]
    assert asked[-1] == ["s", "first", "half an", "third"]
    assert capsys.readouterr().err.count("stopped; Ctrl-C again or Ctrl-D ends the session") == 2


def test_a_turn_that_is_too_long_does_not_end_the_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = language_model.load(write_model(tmp_path))
    answer = _answer_fn(base, Sampling(5, temperature=0.7, top_p=0.95))
    _type_lines(monkeypatch, "word " * 200, "Hi", EOFError)
    said = run_session(answer)
    assert [message.role for message in said] == ["user", "assistant"]
    assert "shorten it; this turn is skipped" in capsys.readouterr().err
    with pytest.raises(ValueError, match="room for 123"):
        run_session(answer, prompts=["word " * 200])
    with pytest.raises(ValueError, match="--max_new_tokens 128 leaves no room"):
        _answer_fn(base, Sampling(128))


def test_the_oldest_exchanges_are_dropped_and_the_system_message_stays() -> None:
    roles = ("system", "user", "assistant", "tool", "assistant", "user", "assistant", "user")
    messages = [Message(role, content) for role, content in zip(roles, "sac7bcde", strict=True)]

    def encode(messages: Sequence[Message]) -> list[int]:
        """One token for each message: its letter."""
        return [ord((message.content or "?")[0]) for message in messages]

    kept = {room: "".join(map(chr, fit_to_context(messages, encode, room)[0])) for room in (8, 7, 4, 3, 2)}
    assert kept == {8: "sac7bcde", 7: "scde", 4: "scde", 3: "se", 2: "se"}
    assert fit_to_context(messages, encode, 3)[1] == 6
    with pytest.raises(ValueError, match=r"the system's message and the last turn have 2 tokens.*room for 1"):
        fit_to_context(messages, encode, 1)


def test_dropped_messages_are_reported(tmp_path: Path) -> None:
    base = language_model.load(write_model(tmp_path))
    notices: list[str] = []
    answer = _answer_fn(base, Sampling(5, temperature=0.0), say=notices.append)
    long = [Message(("user", "assistant")[i % 2], "word " * 8) for i in range(19)]
    answer(long, lambda piece: None)
    assert len(notices) == 1
    assert (
        "dropped, the oldest: of the context's 128 tokens 5 are kept for the answer; a smaller" in notices[0]
    )


@pytest.mark.parametrize(("given", "kept"), [((), 64), (("--max_new_tokens", "3"), 3)])
def test_an_answer_keeps_at_most_half_of_a_short_context(
    given: tuple[str, ...], kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved: list[int] = []

    def answer_nothing(base: Pretrained, template: Any, sampling: Sampling, **options: Any) -> Answer:
        reserved.append(sampling.max_new_tokens)
        return lambda messages, show: ""

    monkeypatch.setattr(chat, "answer_fn", answer_nothing)
    model = str(write_model(tmp_path))
    assert main(["chat", "--model_path", model, "--device", "cpu", "--prompt", "Hi", *given]) == 0
    assert reserved == [kept]


def test_streamed_pieces_join_to_the_text_and_split_no_character(tmp_path: Path) -> None:
    """The model writes random bytes; only the last piece may end within a character."""
    folder = written.model(
        tmp_path,
        ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
        chat_template=CHATML,
        eos_token="<|endoftext|>",
    )
    base = language_model.load(folder)
    pieces: list[str] = []
    text = _answer_fn(base, Sampling(60))([Message("user", "Hi")], pieces.append)
    assert "".join(pieces).strip() == text
    assert len(pieces) > 5
    assert not {"<|im_start|>", "<|im_end|>", "<|endoftext|>"} & {piece.strip() for piece in pieces}


def _sit_at_a_terminal(monkeypatch: pytest.MonkeyPatch, state: Path) -> None:
    monkeypatch.setattr("sys.stdin", type("Terminal", (io.StringIO,), {"isatty": lambda self: True})())
    monkeypatch.setenv("XDG_STATE_HOME", str(state))


def test_lines_typed_in_a_terminal_can_be_edited_and_come_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`input` has line editing once the module readline is imported."""
    readline = pytest.importorskip("readline")
    _sit_at_a_terminal(monkeypatch, tmp_path)
    for lines in (("a", "  ", "b"), ("c",)):
        readline.clear_history()
        _type_lines(monkeypatch, *lines, EOFError)
        assert list(chat._user_turns(())) == [line for line in lines if line.strip()]
    assert [readline.get_history_item(i) for i in (1, 2)] == ["a", "b"]
    assert (tmp_path / "intro2llm" / "chat_history").read_text() == "a\nb\nc\n"
    readline.clear_history()


def test_a_history_that_cannot_be_kept_is_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "intro2llm").write_text("a file in the place of the folder")
    _sit_at_a_terminal(monkeypatch, tmp_path)
    _type_lines(monkeypatch, "a", "b", EOFError)
    assert list(chat._user_turns(())) == ["a", "b"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the history is not kept: ")
