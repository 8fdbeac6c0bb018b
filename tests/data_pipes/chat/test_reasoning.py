"""`restore_opening_tag`: an answer that closes its thoughts gets the tag that the prompt ended with."""

from __future__ import annotations

import pytest

from data_pipes.chat.chat import chat_template
from data_pipes.chat.messages import PLAIN, Message
from data_pipes.chat.reasoning import restore_opening_tag

SOURCE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{{ '<assistant>' + prompt_end if add_generation_prompt }}"
)


@pytest.mark.parametrize(
    ("prompt_end", "content", "expected"),
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
def test_the_opening_tag_is_restored_when_the_prompt_ends_with_it(
    prompt_end: str, content: str | None, expected: str | None
) -> None:
    template = chat_template(SOURCE, variables=[("prompt_end", prompt_end)])
    chat = [
        Message("user", "a</think>"),
        Message("assistant", content),
        Message("user", "c"),
        Message("assistant", "d"),
    ]
    restored = restore_opening_tag(template, chat, 0, PLAIN)
    assert restored[1].content == expected
    assert [restored[0], *restored[2:]] == [chat[0], *chat[2:]]
    assert restore_opening_tag(template, chat, 2, PLAIN) == chat
