"""Answers and their prompt, wherever it is written."""

from __future__ import annotations

from typing import Any

import pytest

from data_pipes.messages import Message
from data_pipes.shared_prompt import after, separate
from data_pipes.turns import RowError

U, A, B, S = (Message(*x) for x in (("user", "Hi"), ("assistant", "Hello"), ("assistant", "No"), ("system", "Brief.")))
MORE = Message("user", "And?")


def turns(*messages: Message) -> list[dict[str, Any]]:
    return [{"role": m.role, "content": m.content} for m in messages]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "wanted"),
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
def test_the_prompt_comes_once(prompt: Any, chosen: Any, rejected: Any, wanted: Any) -> None:
    assert separate(prompt, chosen, rejected) == (wanted, (A,), (B,))


@pytest.mark.parametrize(
    ("chosen", "rejected"), [("Hi there", "Hi you"), ("Hi\nHello", "No"), ("Hi", "Hi\nx"), ("His", "Hit")]
)
def test_an_answer_that_begins_like_the_prompt_stays_whole(chosen: str, rejected: str) -> None:
    found = separate((U,), chosen, rejected)
    assert [side[0].content for side in found] == ["Hi", chosen, rejected]


def test_another_prompt_is_refused() -> None:
    for prompt in ((MORE,), (Message("system", "Long."), U)):
        with pytest.raises(RowError):
            separate(prompt, turns(S, U, A), turns(S, U, B))
    with pytest.raises(RowError, match="begin with other turns than the prompt"):
        separate((), turns(U, A), turns(U, B))


def test_after() -> None:
    assert after((S, U), (S, U, A)) == after((S, U), (U, A)) == after((), (A,)) == (A,)
    assert after((U,), (MORE, A)) == (MORE, A)
