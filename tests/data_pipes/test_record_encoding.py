"""`data_pipes.record_encoding`: streams of records in batches; each encoder is tested beside its pipe."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipes import record_encoding
from data_pipes.chat.chat import chat_template, encode_chats
from data_pipes.chat.messages import Context, Conversation, Message
from data_pipes.record_encoding import encode_batch, encode_conversations, encode_records
from data_pipes.types import BadRow
from tests.data_pipes.chats import talk, tokenizer

TOKENIZER = tokenizer()
TEMPLATE = chat_template(
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}"
    "{% if m.content == 'no' %}{{ raise_exception('not\nthis') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def conversations(count: int) -> list[Conversation]:
    """Conversations with tools; the template refuses numbers 4, 14, ..."""
    tools = Context(tools=({"name": "add", "parameters": {"type": "object"}},))
    turns = [talk(f"question {i}", "no" if i % 10 == 4 else f"answer {i}") for i in range(count)]
    return [Conversation(messages, f"row {i}", tools) for i, messages in enumerate(turns)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stream_is_encoded_in_batches_and_refused_records_are_named(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_encoding, "BATCH", 6)
    bad: list[BadRow] = []
    records = conversations(25)
    found = encode_records(
        iter(records), encode_conversations, TEMPLATE, TOKENIZER, on_bad=bad.append, workers=workers
    )
    assert bad == [BadRow(f"row {i}", "the chat template failed: not this") for i in (4, 14, 24)]
    kept = [record for i, record in enumerate(records) if i % 10 != 4]
    expected = encode_chats(
        TEMPLATE, TOKENIZER, [r.messages for r in kept], contexts=[r.context for r in kept]
    )
    assert len(found) == len(expected) == 22
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tokens.dtype == theirs.tokens.dtype
        assert np.array_equal(ours.tokens, theirs.tokens)
        assert np.array_equal(ours.trained, theirs.trained)


def test_a_batch_returns_its_refusals_in_one_line() -> None:
    found, refused = encode_batch(
        conversations(5), encode=encode_conversations, template=TEMPLATE, tokenizer=TOKENIZER
    )
    assert len(found) == 4
    assert refused == [(4, "the chat template failed: not this")]


def test_an_error_of_the_tokenizer_is_raised() -> None:
    record = Conversation((Message("user", "a"), Message("assistant", "\ud800")), "n")
    with pytest.raises(ValueError, match="surrogate"):
        encode_records([record], encode_conversations, TEMPLATE, TOKENIZER, on_bad=lambda bad: None)
