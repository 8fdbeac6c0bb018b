"""Answers that only close their thoughts begin with what the prompt opens."""

from __future__ import annotations

import pytest

from data_pipes.chat.chat import chat_template
from data_pipes.chat.messages import PLAIN, Message
from data_pipes.chat.reasoning import restore_opening_tag

SOURCE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{{ '<assistant>' + begin if add_generation_prompt }}"
)


@pytest.mark.parametrize(
    ("begin", "content", "expected"),
    [
        ("<think>\n", "hm</think>b", "<think>\nhm</think>b"),
        ("<think>", "hm</think>b", "<think>hm</think>b"),
        ("<think>\n", "<think>hm</think>b", "<think>hm</think>b"),
        ("<think>\n", "b", "b"),
        ("<think>\n", None, None),
        ("<think>\n\n</think>\n\n", "hm</think>b", "hm</think>b"),
        ("", "hm</think>b", "hm</think>b"),
    ],
)
def test_the_opening_is_put_back_where_the_prompt_has_it(
    begin: str, content: str | None, expected: str | None
) -> None:
    template = chat_template(SOURCE, variables=[("begin", begin)])
    chat = [
        Message("user", "a</think>"),
        Message("assistant", content),
        Message("user", "c"),
        Message("assistant", "d"),
    ]
    found = restore_opening_tag(template, chat, 0, PLAIN)
    assert found[1].content == expected
    assert [found[0], *found[2:]] == [chat[0], *chat[2:]]
    assert restore_opening_tag(template, chat, 2, PLAIN) == chat
