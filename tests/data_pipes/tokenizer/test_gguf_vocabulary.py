"""`from_gguf`: the tokenizer inside a GGUF file.

tests/stages/models/test_gguf.py compares its ids with transformers.
"""

from __future__ import annotations

from typing import Any

import pytest

from data_pipes.tokenizer.gguf_vocabulary import from_gguf
from data_pipes.tokenizer.spec import vocabulary_size
from data_pipes.tokenizer.step import NFC

FIELDS: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.tokens": ["a", "b", "ab", "<end>"],
    "tokenizer.ggml.token_type": [1, 1, 1, 3], "tokenizer.ggml.merges": ["a b"],
}  # fmt: skip


def test_tokens_types_merges_and_prefix_are_read() -> None:
    tokenizer = from_gguf(FIELDS | {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 3})
    assert tokenizer.encode("abab<end>", special="all") == [2, 2, 3]
    assert tokenizer.encode("ab", template=True) == [3, 2]
    assert tokenizer.spec.normalizer == NFC
    assert tokenizer.spec.pattern == "qwen2"


def test_padding_rows_of_the_embedding_are_no_tokens() -> None:
    """llama.cpp finds no unused token in a text, and decodes it to nothing."""
    padding = {
        "tokens": ["a", "b", "ab", "[PAD3]", "<end>", "[PAD5]", "[PAD6]"],
        "token_type": [1, 1, 1, 5, 3, 5, 5],
    }
    tokenizer = from_gguf(FIELDS | {f"tokenizer.ggml.{name}": value for name, value in padding.items()})
    assert vocabulary_size(tokenizer) == 5
    assert tokenizer.decode([2, 5, 6]) == "ab"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "t5"}, "tokenizer.ggml.model 't5' is not supported, only 'gpt2'"),
        ({"model": "llama"}, "tokenizer.ggml.scores is missing or empty"),
        ({"pre": "deepseek"}, "tokenizer.ggml.pre 'deepseek' is not supported; expected gpt-2, smollm"),
        ({"tokens": []}, "tokenizer.ggml.tokens is missing or empty"),
        ({"merges": ["a b c"]}, "expected two tokens, got .a b c."),
        ({"token_type": [1]}, "expected 4 types, one per token, got 1"),
        ({"add_bos_token": True}, "there is no tokenizer.ggml.bos_token_id"),
    ],
)
def test_unsupported_fields_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_gguf(FIELDS | {f"tokenizer.ggml.{name}": value for name, value in changes.items()})
