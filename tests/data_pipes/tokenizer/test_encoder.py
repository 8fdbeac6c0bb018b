"""`Tokenizer`: encode, encode_batch and decode, against the plain version in `bpe` and `byte_level`."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.tokenizer import (
    AddedToken,
    Tokenizer,
    TokenizerSpec,
    add_special_tokens,
    bpe,
    byte_level,
    from_spec,
    train,
)
from data_pipes.tokenizer import encoder as encoder_module
from data_pipes.tokenizer.spec import token_ids
from data_pipes.tokenizer.split import splitter
from tests.data_pipes.tokenizer.samples import SAMPLES, texts

TOKENIZERS = {
    "qwen2": train([*SAMPLES, "the cat sat on the mat " * 9], 400),
    "gpt2": train([*SAMPLES, "the cat sat on the mat " * 9], 400, pattern="gpt2", special_tokens=[]),
    "llama3": from_spec(replace(train(SAMPLES, 400, pattern="llama3").spec, ignore_merges=True)),
    "own": train(SAMPLES, 400, pattern=r"\w+"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=texts())
def test_decode_undoes_encode(name: str, text: str) -> None:
    """For any text, with special tokens in it read as text or as tokens."""
    tokenizer = TOKENIZERS[name]
    for special in ("none", "all"):
        assert tokenizer.decode(tokenizer.encode(text, special=special)) == text


@given(batch=st.lists(texts(), max_size=6))
def test_ids_equal_those_of_plain_byte_level_bpe(batch: list[str]) -> None:
    tokenizer = TOKENIZERS["qwen2"]
    spec = tokenizer.spec
    cutter, ranks, ids = splitter(spec.pattern), bpe.rank_merges(spec.merges), token_ids(spec)
    expected = [byte_level.encode(text, cutter, ranks, ids) for text in batch]
    assert [row.tolist() for row in tokenizer.encode_batch(batch)] == expected
    assert [tokenizer.encode(text) for text in batch] == expected


@pytest.mark.parametrize("min_batch", [0, 1 << 30])
@pytest.mark.parametrize("words_per_round", [0, 50, 1 << 30])
def test_batch_and_cache_sizes_change_no_id(
    trained_tokenizer: Tokenizer,
    library: list[str],
    monkeypatch: pytest.MonkeyPatch,
    min_batch: int,
    words_per_round: int,
) -> None:
    batch = [library[-1][:3000], *SAMPLES]
    expected = [trained_tokenizer.encode(text) for text in batch]
    monkeypatch.setattr(encoder_module, "MIN_BATCH", min_batch)
    monkeypatch.setattr(encoder_module, "WORDS_PER_ROUND", words_per_round)
    monkeypatch.setattr(encoder_module, "MAX_CACHED_WORDS", 100)
    assert [row.tolist() for row in trained_tokenizer.encode_batch(batch)] == expected


def test_a_long_text_is_encoded_like_its_words(trained_tokenizer: Tokenizer, library: list[str]) -> None:
    text = "".join(library)
    row = trained_tokenizer.encode_batch([text])[0]
    spec = trained_tokenizer.spec
    cutter, ranks, ids = splitter(spec.pattern), bpe.rank_merges(spec.merges), token_ids(spec)
    words = cutter.unicode.findall(text)
    ids_of_words = {
        word: [ids[t] for t in bpe.apply_merges(byte_level.to_characters(word), ranks)] for word in set(words)
    }
    assert row.tolist() == [i for word in words for i in ids_of_words[word]]
    assert trained_tokenizer.decode(row) == text


def test_arrays_are_int32_writable_and_may_be_empty(trained_tokenizer: Tokenizer) -> None:
    rows = trained_tokenizer.encode_batch(["abc", "", "x"])
    assert [row.dtype for row in rows] == [np.int32] * 3
    assert len(rows[1]) == 0
    assert torch.from_numpy(rows[0]).dtype == torch.int32  # warns, so fails, if it is not writable
    assert trained_tokenizer.encode_batch([]) == []
    assert trained_tokenizer.encode("") == []


def test_a_tokenizer_is_picklable(trained_tokenizer: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(trained_tokenizer))
    assert copy.spec == trained_tokenizer.spec
    assert [copy.encode(text) for text in SAMPLES] == [trained_tokenizer.encode(text) for text in SAMPLES]


def test_special_tokens_are_text_unless_allowed(trained_tokenizer: Tokenizer) -> None:
    text = "<|im_start|>user\nhi<|im_end|>"
    plain = trained_tokenizer.encode(text)
    assert min(plain) > 3
    assert trained_tokenizer.encode(text, special="none") == plain
    assert trained_tokenizer.encode(text, special="all") == [1, *trained_tokenizer.encode("user\nhi"), 2]
    assert trained_tokenizer.encode(text, special=["<|im_end|>"]) == [
        *trained_tokenizer.encode("<|im_start|>user\nhi"),
        2,
    ]
    assert [row.tolist() for row in trained_tokenizer.encode_batch([text], special="all")] == [
        trained_tokenizer.encode(text, special="all")
    ]
    with pytest.raises(ValueError, match=r"special token '<\|im_start\|>' at 0; .* \(text 1\)"):
        trained_tokenizer.encode_batch(["fine", text], special="error")


def test_decode_accepts_lists_arrays_and_tensors(trained_tokenizer: Tokenizer) -> None:
    ids = trained_tokenizer.encode("déjà vu 🙂")
    for row in (
        ids,
        tuple(ids),
        iter(ids),
        np.array(ids),
        torch.tensor(ids),
        [np.int32(i) for i in ids],
        [torch.tensor(i) for i in ids],
    ):
        assert trained_tokenizer.decode(row) == "déjà vu 🙂"
    assert trained_tokenizer.decode([]) == ""
    assert trained_tokenizer.decode([1, *ids, 2], skip_special=True) == "déjà vu 🙂"
    assert trained_tokenizer.decode([1, *ids, 2]) == "<|im_start|>déjà vu 🙂<|im_end|>"


def test_an_incomplete_character_is_replaced_or_refused(trained_tokenizer: Tokenizer) -> None:
    incomplete = trained_tokenizer.encode("\U0001f9ff")[:-1]
    assert trained_tokenizer.decode(incomplete) == "�"
    assert trained_tokenizer.decode(incomplete, errors="ignore") == ""
    with pytest.raises(UnicodeDecodeError):
        trained_tokenizer.decode(incomplete, errors="strict")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([5, -1], "decode: -1 (at 1) is not an id; ids are integers >= 0"),
        ([1 << 70], "(at 0) is not an id"),
        ([1.5], "ids must be one row of integers, got 1.5 at 0"),
        ([None], "ids must be one row of integers, got None at 0"),
        ([[1, 2]], "ids must be one row of integers, got [1, 2] at 0"),
        (np.array([[1, 2]]), "decode rows one by one"),
        (["a"], "ids must be one row of integers, got 'a' at 0"),
    ],
)
def test_invalid_ids_are_refused(trained_tokenizer: Tokenizer, ids: list, message: str) -> None:
    with pytest.raises(ValueError) as error:
        trained_tokenizer.decode(ids)
    assert message in str(error.value)


def test_an_id_without_a_token_decodes_to_nothing(trained_tokenizer: Tokenizer) -> None:
    """Such ids exist where an embedding is padded to extended rows than tokens."""
    ids = trained_tokenizer.encode("déjà")
    assert trained_tokenizer.decode([1500, *ids[:3], 151_935, *ids[3:], 4095]) == "déjà"
    assert trained_tokenizer.decode([1500]) == ""


def test_an_input_that_is_no_text_is_refused(trained_tokenizer: Tokenizer) -> None:
    with pytest.raises(TypeError, match="several strings, got one; use encode"):
        trained_tokenizer.encode_batch("abc")
    with pytest.raises(TypeError, match=r"text must be a string, got bytes; decode it first \(text 1\)"):
        trained_tokenizer.encode_batch(["a", b"b"])
    with pytest.raises(ValueError, match=r"'\\ud83d' at 1, half of a surrogate pair .* \(text 0\)"):
        trained_tokenizer.encode("a\ud83d")


def test_a_byte_without_a_token_is_refused() -> None:
    tokenizer = from_spec(TokenizerSpec(kind="byte_level", vocab=("a", "b"), merges=(), pattern="gpt2"))
    assert tokenizer.encode("ab") == [0, 1]
    with pytest.raises(ValueError, match=r"no token for the byte 0x63; .* \(text 0\)"):
        tokenizer.encode("abc")


def test_ignore_merges_prefers_a_whole_word_token() -> None:
    spec = {
        "kind": "byte_level",
        "vocab": ("a", "b", "c", "ab", "abc"),
        "merges": (("a", "b"),),
        "pattern": "gpt2",
    }
    assert from_spec(TokenizerSpec(**spec)).encode("abc") == [3, 2]
    assert from_spec(TokenizerSpec(**spec, ignore_merges=True)).encode("abc") == [4]


def test_a_template_adds_prefix_and_suffix_ids() -> None:
    added = (AddedToken("<s>", 1), AddedToken("</s>", 2))
    spec = TokenizerSpec(
        kind="character",
        vocab=("a",),
        merges=(),
        pattern="gpt2",
        added_tokens=added,
        prefix=(1,),
        suffix=(2, 2),
    )
    tokenizer = from_spec(spec)
    assert tokenizer.encode("aa", template=True) == [1, 0, 0, 2, 2]
    assert tokenizer.encode("aa") == [0, 0]
    assert [row.tolist() for row in tokenizer.encode_batch(["", "a"], template=True)] == [
        [1, 2, 2],
        [1, 0, 2, 2],
    ]


def test_added_special_tokens_get_the_next_ids(trained_tokenizer: Tokenizer) -> None:
    extended = add_special_tokens(trained_tokenizer, ["<|tool|>", "<|think|>"])
    assert extended.encode("a<|think|>", special="all") == [*trained_tokenizer.encode("a"), 1501]
    assert [extended.encode(text) for text in SAMPLES] == [trained_tokenizer.encode(text) for text in SAMPLES]
    for tokens in (["<|pad|>"], ["<|x|>", "<|x|>"], ["a"]):
        with pytest.raises(ValueError, match=r"must have id|is given twice"):
            add_special_tokens(trained_tokenizer, tokens)
