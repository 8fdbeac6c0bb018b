"""`chat.rendering`: control tokens in messages are hidden and restored; the last turn can be left open."""

from __future__ import annotations

import pytest

from data_pipes.chat.chat import chat_template
from data_pipes.chat.messages import PLAIN, Context, Message
from data_pipes.chat.rendering import (
    control_hider,
    render_continuation,
    render_marked,
    restore_controls,
    split_placeholders,
)

ECHO = chat_template("{% for m in messages %}{{ m | tojson }}{% endfor %}{{ tools }}{{ x }}")


def test_control_tokens_are_hidden_in_every_field_of_a_row() -> None:
    message = Message("tool", "a<e>b", (("name", "<e>"), ("calls", [{"<e>": ("c<e>",)}]), ("n", 1)))
    hidden = control_hider(["<e>"])([message], Context(({"d": "<e>"},), (("x", "<e>"),)))
    text = render_marked(ECHO, hidden.messages, context=hidden.context)
    assert "<e>" not in text
    assert restore_controls(text, hidden.texts).count("<e>") == 6
    assert [part for plain, part in split_placeholders(text, hidden.texts) if plain] == ["<e>"] * 6


def test_reasoning_tags_of_the_assistant_are_not_hidden() -> None:
    hide = control_hider(["<think>", "</think>", "<e>"])
    messages = [Message(role, "<think>a</think><e>") for role in ("user", "assistant")]
    assert [len(hide([message], PLAIN).texts) for message in messages] == [3, 1]


def test_placeholders_survive_json_escapes() -> None:
    template = chat_template("{{ messages | tojson(ensure_ascii=true) }}")
    hidden = control_hider(["<e>"])([Message("user", "é<e>\ufdd0 \\<e>\\ufdd00\\ufdd1")], PLAIN)
    text = restore_controls(render_marked(template, hidden.messages), hidden.texts)
    assert text == '[{"role": "user", "content": "\\u00e9<e>\ufdd0 \\\\<e>\\ufdd00\\ufdd1"}]'


def test_none_is_dropped_and_reasoning_has_both_field_names() -> None:
    source = "{% for m in messages %}{{ m.content is defined }}{{ m.thinking }}{{ m.reasoning_content }}{% endfor %}"
    assert (
        render_marked(chat_template(source), [Message("assistant", None, (("reasoning", "a"), ("x", None)))])
        == "Falseaa"
    )


@pytest.mark.parametrize(
    ("source", "content", "expected"),
    [
        ("{{ messages[-1].content }}!", "a ", "a "),
        ("{{ messages[-1].content | trim }}!", " a ", "a"),
        ("{{ messages[-1].content }}!", "", ""),
        ("{{ messages[-1].content }}{{ messages[-1].content }}!", "a", "aa"),
        ("{% generation %}{{ messages[-1].content }}{% endgeneration %}", "a", "a"),
    ],
)
def test_a_continuation_ends_with_the_content_of_the_open_turn(
    source: str, content: str, expected: str
) -> None:
    assert render_continuation(chat_template(source), [Message("assistant", content)]) == expected


@pytest.mark.parametrize(
    ("source", "content"),
    [
        ("a", "b"),
        ("{{ messages[-1].content[:1] }}", "bc"),
        ("{{ messages[-1].content.split('c')[-1] }}", "bcd"),
        ("{{ messages[-1].content }}", None),
    ],
)
def test_a_turn_whose_content_is_not_rendered_cannot_be_continued(source: str, content: str | None) -> None:
    with pytest.raises(ValueError, match="continue"):
        render_continuation(chat_template(source), [Message("assistant", content)])
