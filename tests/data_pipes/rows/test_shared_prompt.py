"""Answers and their prompt, wherever it is written."""

from __future__ import annotations

from typing import Any

import pytest

from data_pipes.chat.messages import Message
from data_pipes.rows.shared_prompt import drop_prompt, separate_prompt
from data_pipes.rows.turns import RowError

U, A, B, S = (
    Message(*x) for x in (("user", "Hi"), ("assistant", "Hello"), ("assistant", "No"), ("system", "Brief."))
)
MORE = Message("user", "And?")


def turns(*messages: Message) -> list[dict[str, Any]]:
    return [{"role": m.role, "content": m.content} for m in messages]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "expected"),
    [
        ((U,), "Hello", "No", (U,)),
        ((U,), turns(U, A), turns(U, B), (U,)),
        ((S, U), turns(U, A), turns(U, B), (S, U)),
        ((U,), turns(S, U, A), turns(S, U, B), (S, U)),
        ((S, U), turns(S, U, A), turns(S, U, B), (S, U)),
        ((MORE,), turns(U, A, MORE, A), turns(U, A, MORE, B), (U, A, MORE)),
        ((U,), turns(U, A, MORE, A), turns(U, A, MORE, B), (U, A, MORE)),
        (None, turns(U, A, MORE, A), turns(U, A, MORE, B), (U, A, MORE)),
        ((U,), "Hi\nHello", "Hi\n\nNo", (U,)),
        ((U,), "Human: Hi\n\nAssistant: Hello", "Human: Hi\n\nAssistant: No", (U,)),
    ],
)
def test_the_prompt_comes_once(prompt: Any, chosen: Any, rejected: Any, expected: Any) -> None:
    assert separate_prompt(prompt, chosen, rejected) == (expected, (A,), (B,))


@pytest.mark.parametrize(
    ("chosen", "rejected"), [("Hi there", "Hi you"), ("Hi\nHello", "No"), ("Hi", "Hi\nx"), ("His", "Hit")]
)
def test_an_answer_that_begins_like_the_prompt_stays_whole(chosen: str, rejected: str) -> None:
    found = separate_prompt((U,), chosen, rejected)
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
def test_a_text_is_taken_off_where_it_cannot_be_meant(
    prompt: str, chosen: str, rejected: str, expected: list[str]
) -> None:
    asked = (Message("user", prompt),)
    assert [side[0].content for side in separate_prompt(asked, chosen, rejected)[1:]] == expected
    said = [turns(Message("assistant", text)) for text in (chosen, rejected)]
    assert [side[0].content for side in separate_prompt(asked, *said)[1:]] == [chosen, rejected]


@pytest.mark.parametrize("prompt", ["What is one and one?", "Go on: once upon a time"])
def test_answers_that_may_restate_the_prompt_are_refused(prompt: str) -> None:
    with pytest.raises(RowError, match="may repeat or continue it"):
        separate_prompt((Message("user", prompt),), f"{prompt} It is 2.", f"{prompt} It is 3.")


def test_another_prompt_is_refused() -> None:
    for prompt in ((MORE,), (Message("system", "Long."), U)):
        with pytest.raises(RowError):
            separate_prompt(prompt, turns(S, U, A), turns(S, U, B))
    with pytest.raises(RowError, match="begin with other turns than the prompt"):
        separate_prompt((), turns(U, A), turns(U, B))


def test_after() -> None:
    assert drop_prompt((S, U), (S, U, A)) == drop_prompt((S, U), (U, A)) == drop_prompt((), (A,)) == (A,)
    assert drop_prompt((U,), (MORE, A)) == (MORE, A)
