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
MARKED = from_spec(
    TokenizerSpec(
        kind="character", vocab=("▁", "a", "▁a"), merges=(), pattern=r"[\s\S]+",
        decoder=(step("Metaspace", replacement="▁", prepend_scheme="always", split=True),),
    )
)  # fmt: skip


def streamed(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    """The text after each id, and at the end."""
    state, feed, finish = stream(tokenizer, **options)
    texts = []
    for i in ids:
        state, text = feed(state, i)
        texts.append(text)
    return [*texts, finish(state)]


def test_half_a_character_is_never_shown(trained: Tokenizer) -> None:
    ids = trained.encode("a\U0001f9ffb")
    texts = streamed(trained, ids)
    assert "".join(texts) == "a\U0001f9ffb"
    assert "�" not in "".join(texts)
    assert [text for text in texts if text] == ["a", "\U0001f9ff", "b"]
    assert streamed(trained, ids[:3]) == ["a", "", "", "�"]


def test_the_first_space_of_a_marked_text_is_not_shown() -> None:
    assert streamed(MARKED, [2, 2, 0, 1]) == ["a", " a", " ", "a", ""]
    assert streamed(LLAMA, [3, 3]) == ["a", " a", ""]


def test_bytes_are_shown_when_their_run_ends() -> None:
    first = 4 + 0xC3
    assert streamed(LLAMA, [first, 4 + 0xA9, 2]) == ["", "", "éa", ""]
    assert streamed(LLAMA, [first, 2]) == ["", "�a", ""]


def test_special_tokens_are_left_out() -> None:
    assert streamed(LLAMA, [260, 3], skip_special=True) == ["", "a", ""]
    assert streamed(LLAMA, [260, 3]) == ["<s>", " a", ""]


@pytest.mark.parametrize("tokenizer", [LLAMA, MARKED], ids=["byte fallback", "Metaspace"])
@given(ids=st.lists(st.integers(0, 300)))
def test_texts_joined_are_the_whole(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


@given(ids=st.lists(st.integers(0, 1600)))
def test_texts_joined_are_the_whole_for_bytes(trained: Tokenizer, ids: list[int]) -> None:
    assert "".join(streamed(trained, ids)) == trained.decode(ids)
    assert "".join(streamed(trained, ids, skip_special=True)) == trained.decode(ids, skip_special=True)


def test_a_large_vocabulary_with_many_special_tokens_is_ready_at_once() -> None:
    """A stream is made for every answer of a chat; the hidden ids are found once, not for each token."""
    vocab = tuple(f"t{i}" for i in range(40_000))
    special = tuple(AddedToken(f"<|{i}|>", len(vocab) + i) for i in range(256))
    large = from_spec(
        TokenizerSpec(
            kind="character", vocab=vocab, merges=(), pattern="gpt2", unk_token="t0", added_tokens=special
        )
    )
    began = time.perf_counter()
    made = stream(large, skip_special=True)
    assert time.perf_counter() - began < 1
    assert made.step(made.init, len(vocab))[1] == ""
    assert made.step(made.init, 7)[1] == "t7"
