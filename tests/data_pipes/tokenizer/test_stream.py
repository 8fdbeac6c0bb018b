"""`tokenizer.stream`: text is decoded id by id, as in a chat."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.tokenizer import AddedToken, Tokenizer, TokenizerSpec, from_spec, stream
from data_pipes.tokenizer.step import step

BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
LLAMA = from_spec(
    TokenizerSpec(
        kind="character", vocab=("<unk>", "▁", "a", "▁a", *BYTES), merges=(("▁", "a"),), pattern=r"[\s\S]+",
        added_tokens=(AddedToken("<s>", 260),), byte_fallback=True,
        decoder=(step("Replace", pattern=("String", "▁"), content=" "), step("ByteFallback"), step("Fuse"),
                 step("Strip", content=" ", start=1, stop=0)),
    )
)  # fmt: skip
METASPACE = from_spec(
    TokenizerSpec(
        kind="character", vocab=("▁", "a", "▁a"), merges=(), pattern=r"[\s\S]+",
        decoder=(step("Metaspace", replacement="▁", prepend_scheme="always", split=True),),
    )
)  # fmt: skip


def stream_texts(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    """The text that each id adds, and the rest at the end."""
    state, feed, finish = stream(tokenizer, **options)
    texts = []
    for i in ids:
        state, text = feed(state, i)
        texts.append(text)
    return [*texts, finish(state)]


def test_an_incomplete_character_is_held_back(trained_tokenizer: Tokenizer) -> None:
    ids = trained_tokenizer.encode("a\U0001f9ffb")
    texts = stream_texts(trained_tokenizer, ids)
    assert "".join(texts) == "a\U0001f9ffb"
    assert "�" not in "".join(texts)
    assert [text for text in texts if text] == ["a", "\U0001f9ff", "b"]
    assert stream_texts(trained_tokenizer, ids[:3]) == ["a", "", "", "�"]


def test_the_leading_space_of_a_metaspace_text_is_dropped() -> None:
    assert stream_texts(METASPACE, [2, 2, 0, 1]) == ["a", " a", " ", "a", ""]
    assert stream_texts(LLAMA, [3, 3]) == ["a", " a", ""]


def test_fallback_bytes_are_decoded_when_their_run_ends() -> None:
    first = 4 + 0xC3
    assert stream_texts(LLAMA, [first, 4 + 0xA9, 2]) == ["", "", "éa", ""]
    assert stream_texts(LLAMA, [first, 2]) == ["", "�a", ""]


def test_special_tokens_are_skipped_on_request() -> None:
    assert stream_texts(LLAMA, [260, 3], skip_special=True) == ["", "a", ""]
    assert stream_texts(LLAMA, [260, 3]) == ["<s>", " a", ""]


@pytest.mark.parametrize("tokenizer", [LLAMA, METASPACE], ids=["byte fallback", "Metaspace"])
@given(ids=st.lists(st.integers(0, 300)))
def test_the_joined_stream_equals_decode(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(stream_texts(tokenizer, ids)) == tokenizer.decode(ids)


@given(ids=st.lists(st.integers(0, 1600)))
def test_the_joined_stream_of_a_byte_level_tokenizer_equals_decode(
    trained_tokenizer: Tokenizer, ids: list[int]
) -> None:
    assert "".join(stream_texts(trained_tokenizer, ids)) == trained_tokenizer.decode(ids)
    assert "".join(stream_texts(trained_tokenizer, ids, skip_special=True)) == trained_tokenizer.decode(
        ids, skip_special=True
    )


def test_a_stream_of_a_large_vocabulary_is_made_quickly() -> None:
    """A chat makes a stream for every answer, so the special ids must not be searched for each token."""
    vocab = tuple(f"t{i}" for i in range(40_000))
    special = tuple(AddedToken(f"<|{i}|>", len(vocab) + i) for i in range(256))
    large = from_spec(
        TokenizerSpec(
            kind="character", vocab=vocab, merges=(), pattern="gpt2", unk_token="t0", added_tokens=special
        )
    )
    start = time.perf_counter()
    large_stream = stream(large, skip_special=True)
    assert time.perf_counter() - start < 1
    assert large_stream.step(large_stream.init, len(vocab))[1] == ""
    assert large_stream.step(large_stream.init, 7)[1] == "t7"
