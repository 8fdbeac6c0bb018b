"""`find_spans`: the trained text of a rendered conversation; `template_checks`: templates that drop content."""

from __future__ import annotations

import re

import pytest

from data_pipes.chat.assistant_spans import Chat, common_prefix_length, find_spans
from data_pipes.chat.chat import chat_template
from data_pipes.chat.messages import PLAIN, Context, Message

CONTROLS = re.compile(r"<[a-z]+>|</think>")
UNMARKED = ("{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% for c in m.tool_calls or [] %}<call>"
       "{{ c.function.name }}{% endfor %}<end>\n{% endfor %}"
       "{% if add_generation_prompt %}<assistant>{% endif %}")  # fmt: skip
MARKED = ("{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>"
          "{% endgeneration %}{% else %}{{ m.content }}<end>{% endif %}{% endfor %}"
          "{% if add_generation_prompt %}<assistant>{% endif %}")  # fmt: skip
CALL = (("tool_calls", [{"function": {"name": "add"}}]),)


def talk(*contents: str | None) -> list[Message]:
    return [Message(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]


def trained_texts(
    source: str, messages: list[Message], context: Context = PLAIN, **more: object
) -> list[str]:
    found = find_spans(chat_template(source), Chat(messages, context, **more), CONTROLS)  # type: ignore[arg-type]
    return [span.text for span in found if span.trained]


@pytest.mark.parametrize("content", ["", " ", "b", "end", "assistant", "b\n"])
def test_a_turn_ends_with_its_last_control_token(content: str) -> None:
    assert trained_texts(UNMARKED, talk("a", content)) == [f"{content}<end>"]
    assert trained_texts(MARKED, talk("a", content)) == [f"{content}<end>"]


def test_a_tool_call_is_trained_with_and_without_content() -> None:
    for content in ("b", "", None):
        messages = [Message("user", "a"), Message("assistant", content, CALL)]
        assert trained_texts(UNMARKED, messages) == [f"{content or ''}<call>add<end>"]
    for content in ("b", None):  # also where the template fails at a turn without content
        with pytest.raises(ValueError, match="`tool_calls` of turn 2"):
            trained_texts(MARKED, [Message("user", "a"), Message("assistant", content, CALL)])


@pytest.mark.parametrize("source", [UNMARKED, MARKED])
def test_a_turn_with_trained_false_is_not_trained(source: str) -> None:
    messages = talk("a", "b", "c", "d", "e", "f")
    messages[3] = messages[3]._replace(trained=False)
    assert trained_texts(source, messages) == ["b<end>", "f<end>"]


def test_a_generation_block_that_two_turns_share_is_refused() -> None:
    messages = talk("a", "b", "c", "d")
    messages[1] = messages[1]._replace(trained=False)
    source = "{% generation %}{% for m in messages %}{{ m.content }}{% endfor %}{% endgeneration %}"
    with pytest.raises(ValueError, match=r"1 {% generation %} block for 2 turns"):
        trained_texts(source, messages)


def test_a_generation_block_in_a_comment_is_ignored() -> None:
    assert trained_texts("{# {% generation %} #}" + UNMARKED, talk("a", "b")) == ["b<end>"]


def test_nested_generation_blocks_are_all_trained() -> None:
    source = (
        "{% generation %}a{% generation %}b{% endgeneration %}c{% endgeneration %}{{ messages[0].content }}"
    )
    assert trained_texts(source, talk("d")) == ["a", "b", "c"]


@pytest.mark.parametrize("source", [UNMARKED, MARKED])
def test_text_before_a_completion_is_not_trained(source: str) -> None:
    messages = talk("a", "b", "c", "de")
    assert trained_texts(source, messages, prompt=messages[:3], first=3) == ["de<end>"]
    prefilled = [*messages[:3], Message("assistant", "d")]
    assert trained_texts(source, messages, prompt=prefilled, first=3) == ["e<end>"]


def test_a_conversation_that_begins_with_the_assistant_is_trained() -> None:
    assert trained_texts(UNMARKED, talk("a", "b")[1:]) == ["b<end>"]
    assert trained_texts("<bos>" + UNMARKED, talk("a", "b")[1:]) == ["b<end>"]


@pytest.mark.parametrize(
    ("source", "messages", "context", "message"),
    [
        (UNMARKED.replace("m.content or ''", "m.content[:1]"), talk("a", "bc"), PLAIN, "content of turn 2"),
        (
            UNMARKED.replace("m.content or ''", "'' if m.role == 'user' else m.content"),
            talk("why", "b"),
            PLAIN,
            "drops turn 1",
        ),
        (MARKED.replace("{% else %}{{ m.content }}", "{% else %}"), talk("why", "b"), PLAIN, "drops turn 1"),
        (UNMARKED, talk("a", "b"), Context(({"name": "add"},)), "does not render `tools`"),
        (
            UNMARKED,
            [*talk("a"), Message("assistant", "b", (("thinking", "c"),))],
            PLAIN,
            "reasoning of turn 2",
        ),
        (
            UNMARKED.replace("{% for m", "{{ messages | length }}{% for m"),
            talk("a", "b", "c", "d"),
            PLAIN,
            "up to turn 2",
        ),
        (
            "{% for m in messages %}{{ m.content }}<end>{% endfor %}",
            talk("a", "b")[1:],
            PLAIN,
            "begins with the ass",
        ),
    ],
)
def test_a_template_that_drops_content_is_refused(
    source: str, messages: list[Message], context: Context, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        trained_texts(source, messages, context)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("form", ["m.content | tojson", "m.content | upper", "m.content | replace('a', 'b')"])
def test_a_user_turn_that_the_template_rewrites_is_accepted(form: str) -> None:
    source = UNMARKED.replace("m.content or ''", f"({form}) if m.role == 'user' else m.content")
    assert trained_texts(source, talk('say "a"\n', "b")) == ["b<end>"]


def test_common_prefix_length() -> None:
    for a, b, length in [
        ("", "a", 0),
        ("abc", "abd", 2),
        ("ab", "abc", 2),
        ("x" * 1000 + "a", "x" * 1000 + "b", 1000),
    ]:
        assert common_prefix_length(a, b) == common_prefix_length(b, a) == length


OPENS_THOUGHTS = (
    "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n<think>\n{% endif %}"
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("<think>\nhm\n</think>\n\nb", "hm\n</think>\n\nb<end>"), ("b", "b<end>"), ("<t> b", "<t> b<end>")],
)
def test_a_trained_span_begins_after_the_header_and_what_the_prompt_opens(
    content: str, expected: str
) -> None:
    assert trained_texts(
        OPENS_THOUGHTS.replace("<{{ m.role }}>", "<begin>{{ m.role }}").replace(
            "<assistant>", "<begin>assistant"
        ),
        talk("a", content),
    ) == [expected]


def test_the_next_header_is_trained_as_the_end_of_a_turn() -> None:
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    source += "{{ '<assistant>' if add_generation_prompt }}"
    assert trained_texts(source, talk("a", "b", "c", "d")) == ["b<user>", "d<user>"]
    assert trained_texts(source, [*talk("a", "b"), Message("tool", "c"), Message("assistant", "d")]) == [
        "b<tool>",
        "d<user>",
    ]
    assert trained_texts("{% for m in messages %}{{ m.content }} {% endfor %}", talk("a", "b")) == ["b "]
