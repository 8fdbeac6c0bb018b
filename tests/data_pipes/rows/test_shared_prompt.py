"""`rows.shared_prompt`: the prompt is separated from both answers, which may repeat it."""

from __future__ import annotations

from typing import Any

import pytest

from data_pipes.chat.messages import Message
from data_pipes.rows.shared_prompt import drop_prompt, separate_prompt
from data_pipes.rows.turns import RowError

ASK, HELLO, NO = Message("user", "Hi"), Message("assistant", "Hello"), Message("assistant", "No")
SYSTEM = Message("system", "Brief.")
FOLLOW_UP = Message("user", "And?")


def turns(*messages: Message) -> list[dict[str, Any]]:
    return [{"role": m.role, "content": m.content} for m in messages]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "expected"),
    [
        ((ASK,), "Hello", "No", (ASK,)),
        ((ASK,), turns(ASK, HELLO), turns(ASK, NO), (ASK,)),
        ((SYSTEM, ASK), turns(ASK, HELLO), turns(ASK, NO), (SYSTEM, ASK)),
        ((ASK,), turns(SYSTEM, ASK, HELLO), turns(SYSTEM, ASK, NO), (SYSTEM, ASK)),
        ((SYSTEM, ASK), turns(SYSTEM, ASK, HELLO), turns(SYSTEM, ASK, NO), (SYSTEM, ASK)),
        (
            (FOLLOW_UP,),
            turns(ASK, HELLO, FOLLOW_UP, HELLO),
            turns(ASK, HELLO, FOLLOW_UP, NO),
            (ASK, HELLO, FOLLOW_UP),
        ),
        (
            (ASK,),
            turns(ASK, HELLO, FOLLOW_UP, HELLO),
            turns(ASK, HELLO, FOLLOW_UP, NO),
            (ASK, HELLO, FOLLOW_UP),
        ),
        (
            None,
            turns(ASK, HELLO, FOLLOW_UP, HELLO),
            turns(ASK, HELLO, FOLLOW_UP, NO),
            (ASK, HELLO, FOLLOW_UP),
        ),
        ((ASK,), "Hi\nHello", "Hi\n\nNo", (ASK,)),
        ((ASK,), "Human: Hi\n\nAssistant: Hello", "Human: Hi\n\nAssistant: No", (ASK,)),
    ],
)
def test_the_prompt_is_separated_from_both_answers(
    prompt: Any, chosen: Any, rejected: Any, expected: Any
) -> None:
    assert separate_prompt(prompt, chosen, rejected) == (expected, (HELLO,), (NO,))


@pytest.mark.parametrize(
    ("chosen", "rejected"), [("Hi there", "Hi you"), ("Hi\nHello", "No"), ("Hi", "Hi\nx"), ("His", "Hit")]
)
def test_an_answer_that_begins_like_the_prompt_stays_whole(chosen: str, rejected: str) -> None:
    found = separate_prompt((ASK,), chosen, rejected)
    assert [side[0].content for side in found] == ["Hi", chosen, rejected]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "expected"),
    [
        ("Add one and one:", "Add one and one: 2", "Add one and one: 3", ["2", "3"]),
        ("Add one and one", "Add one and one\n2", "Add one and one\n\n3", ["2", "3"]),
        ("Add one and one", "Add one and one 2", "3", ["Add one and one 2", "3"]),
        ("Add one and one", "Add one and ones", "Add one and one.", ["Add one and ones", "Add one and one."]),
    ],
)
def test_a_repeated_prompt_is_removed_from_texts_but_not_from_turns(
    prompt: str, chosen: str, rejected: str, expected: list[str]
) -> None:
    question = (Message("user", prompt),)
    assert [side[0].content for side in separate_prompt(question, chosen, rejected)[1:]] == expected
    as_turns = [turns(Message("assistant", text)) for text in (chosen, rejected)]
    assert [side[0].content for side in separate_prompt(question, *as_turns)[1:]] == [chosen, rejected]


@pytest.mark.parametrize("prompt", ["What is one and one?", "Go on: once upon a time"])
def test_answers_that_may_restate_the_prompt_are_refused(prompt: str) -> None:
    with pytest.raises(RowError, match="may repeat or continue it"):
        separate_prompt((Message("user", prompt),), f"{prompt} It is 2.", f"{prompt} It is 3.")


def test_a_prompt_that_the_answers_contradict_is_refused() -> None:
    for prompt in ((FOLLOW_UP,), (Message("system", "Long."), ASK)):
        with pytest.raises(RowError):
            separate_prompt(prompt, turns(SYSTEM, ASK, HELLO), turns(SYSTEM, ASK, NO))
    with pytest.raises(RowError, match="begin with other turns than the prompt"):
        separate_prompt((), turns(ASK, HELLO), turns(ASK, NO))


def test_drop_prompt_keeps_what_follows_the_prompt() -> None:
    assert (
        drop_prompt((SYSTEM, ASK), (SYSTEM, ASK, HELLO))
        == drop_prompt((SYSTEM, ASK), (ASK, HELLO))
        == drop_prompt((), (HELLO,))
        == (HELLO,)
    )
    assert drop_prompt((ASK,), (FOLLOW_UP, HELLO)) == (FOLLOW_UP, HELLO)
