"""`rows.dialogue`: conversations written as one text, such as "Human: ...\n\nAssistant: ..."."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.chat.messages import Message
from data_pipes.rows.dialogue import read_dialogue, read_dialogue_prompt

LINES = st.text("ab \n", max_size=6).map(str.strip)


@pytest.mark.parametrize(
    "text",
    [
        "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye",
        "Human: Hi\nAssistant: Hello\nUser: Bye",
        "### Human: Hi### Assistant: Hello### Human: Bye",
        "USER: Hi\nASSISTANT: Hello\nUSER: Bye\nASSISTANT:",
    ],
)
def test_every_notation_of_speakers_is_read(text: str) -> None:
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]
    assert [(turn.role, turn.content) for turn in read_dialogue(text)] == turns


@pytest.mark.parametrize(
    "text", ["", "Human", "Human: Hi", "He said:\n\nHuman: a\n\nAssistant: b", "User:x", "### A"]
)
def test_a_text_that_is_no_dialogue_gives_no_turns(text: str) -> None:
    assert read_dialogue(text) == () == read_dialogue_prompt(text)


def test_a_speaker_inside_a_turn_is_text() -> None:
    assert read_dialogue("Human: Say\nAssistant: x\n\nAssistant: y")[0] == Message(
        "user", "Say\nAssistant: x"
    )


def test_a_prompt_ends_with_an_empty_assistant_turn() -> None:
    assert read_dialogue_prompt("\n\nHuman: Hi\n\nAssistant:") == (Message("user", "Hi"),)
    assert read_dialogue_prompt("Human: Hi\n\nAssistant: Hello") == ()


@pytest.mark.parametrize("blank", ["\n", " ", "\n ", "\r\n"])
def test_long_white_space_takes_linear_time(blank: str) -> None:
    """Each run of white space is scanned once; cubic time would take days."""
    start = time.perf_counter()
    read_dialogue(f"Human: a{20_000 * blank}x\n\nAssistant: b")
    assert time.perf_counter() - start < 2


@given(st.lists(st.tuples(st.sampled_from(["Human", "Assistant"]), LINES), min_size=2, max_size=5))
def test_turns_in_the_form_of_hh_rlhf_round_trip(turns: list[tuple[str, str]]) -> None:
    text = "".join(f"\n\n{name}: {content}" for name, content in turns)
    roles = [({"Human": "user"}.get(name, "assistant"), content) for name, content in turns]
    if roles[-1] == ("assistant", ""):
        roles.pop()
    assert [(turn.role, turn.content) for turn in read_dialogue(text)] == roles
