"""`train`: merges equal those of the plain `bpe.learn_merges` and Hugging Face's trainer."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as HuggingFaceTokenizer

from data_pipes.tokenizer import Tokenizer, bpe, byte_level, special_tokens, train, trainer, vocabulary_size
from data_pipes.tokenizer.spec import token_ids
from data_pipes.tokenizer.split import PATTERNS
from data_pipes.tokenizer.trainer import SPECIAL_TOKENS, count_words, learn_merges
from tests.data_pipes.tokenizer.samples import SAMPLES

WORDS = st.dictionaries(st.text("abc", min_size=1, max_size=12), st.integers(1, 9), min_size=1, max_size=12)


@given(words=WORDS, size=st.integers(3, 40), min_frequency=st.integers(1, 3))
def test_merges_equal_plain_bpe(words: dict[str, int], size: int, min_frequency: int) -> None:
    """With an alphabet of three letters pairs often tie, and their occurrences often overlap."""
    fast = learn_merges(
        words, "abc", size, kind="character", min_frequency=min_frequency, forbidden=["ab", "ccc"]
    )
    assert fast == bpe.learn_merges(words, "abc", size, min_frequency=min_frequency, forbidden=["ab", "ccc"])


@given(
    words=st.dictionaries(
        st.text("aé🙂 \0", min_size=1, max_size=6), st.integers(1, 9), min_size=1, max_size=6
    )
)
def test_merges_of_bytes_equal_plain_bpe(words: dict[str, int]) -> None:
    first = ["<|end|>", *byte_level.ALPHABET]
    fast = learn_merges(words, first, 280, kind="byte_level", min_frequency=1, forbidden=["<|end|>"])
    assert fast == byte_level.learn_merges(words, 280, special_tokens=["<|end|>"], min_frequency=1)


@pytest.mark.parametrize("pattern", ["qwen2", "gpt2"])
def test_merges_of_a_real_corpus_equal_plain_bpe(library: list[str], pattern: str) -> None:
    texts = [library[-1], *SAMPLES]
    expected = byte_level.learn_merges(count_words(texts, pattern), 600, special_tokens=SPECIAL_TOKENS)
    fast = train(texts, 600, pattern=pattern).spec
    assert (list(fast.vocab), list(fast.merges)) == expected


@pytest.mark.parametrize("pattern", ["qwen2", "llama3"])
def test_vocabulary_equals_hugging_faces(library: list[str], pattern: str) -> None:
    """All tokens and their ids."""
    peer = HuggingFaceTokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PATTERNS[pattern].unicode), "isolated")
    peer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    texts = [*library, *SAMPLES[:-1]]
    peer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=2000,
            min_frequency=2,
            special_tokens=[*SPECIAL_TOKENS],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    ours = train(texts, 2000, pattern=pattern).spec
    assert len({a + b for a, b in ours.merges}) == len(ours.merges)
    assert token_ids(ours) == peer.get_vocab()


def test_the_order_of_texts_does_not_matter(library: list[str], trained_tokenizer: Tokenizer) -> None:
    texts = [*library, *SAMPLES]
    random.Random(0).shuffle(texts)
    assert train(iter(texts), 1500).spec == trained_tokenizer.spec


def test_the_default_splits_digits_and_reserves_chat_tokens(trained_tokenizer: Tokenizer) -> None:
    assert special_tokens(trained_tokenizer) == {
        "<|endoftext|>": 0,
        "<|im_start|>": 1,
        "<|im_end|>": 2,
        "<|pad|>": 3,
    }
    assert len(trained_tokenizer.encode("2024")) == 4
    assert vocabulary_size(trained_tokenizer) == 1500 == len(trained_tokenizer.spec.vocab)


def test_a_character_tokenizer_is_trained() -> None:
    tokenizer = train(
        ["low lower lowest"] * 2, 14, kind="character", special_tokens=["<|end|>"], pattern="gpt2"
    )
    assert tokenizer.spec.vocab[:9] == ("<|end|>", " ", "e", "l", "o", "r", "s", "t", "w")
    assert tokenizer.decode(tokenizer.encode("slow tower")) == "slow tower"
    with pytest.raises(
        ValueError, match="no token for the character 'x'; train on text that has it, or on bytes"
    ):
        tokenizer.encode("x")


def test_nfc_training_normalises_texts() -> None:
    composed, decomposed = train(["\u00e9 " * 9], 262, nfc=True), train(["e\u0301 " * 9], 262, nfc=True)
    assert composed.spec == decomposed.spec
    assert composed.decode(composed.encode("e\u0301")) == "\u00e9"


def test_special_tokens_are_never_learned_from_text() -> None:
    tokenizer = train(["abab abab"] * 9, 270, special_tokens=["abab", "<|end|>"])
    assert ("ab", "ab") not in tokenizer.spec.merges
    assert 0 not in tokenizer.encode("abab abab")


def test_a_corpus_with_too_few_pairs_gives_a_smaller_vocabulary() -> None:
    assert vocabulary_size(train(["ab ab"], 10_000, special_tokens=[])) == 256 + 1
    assert vocabulary_size(train(["a"], 10_000, special_tokens=[])) == 256


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"texts": []}, ValueError, "there is no text to train on"),
        ({"texts": ["", ""]}, ValueError, "there is no text to train on"),
        ({"texts": "abc"}, TypeError, "write [text] instead of text"),
        ({"texts": b"abc"}, TypeError, "write [text] instead of text"),
        ({"texts": ["a", b"b"]}, TypeError, "texts must hold strings, got bytes at 1; decode it first"),
        ({"texts": ["a", None]}, TypeError, "got NoneType at 1"),
        (
            {"texts": ["a", "bc \ud800"]},
            ValueError,
            "train: text has '\\ud800' at 3, half of a surrogate pair",
        ),
        ({"vocab_size": 259}, ValueError, "the alphabet (256) and the special tokens (4) need 260"),
        (
            {"kind": "character", "vocab_size": 6},
            ValueError,
            "the alphabet (4) and the special tokens (4) need 8",
        ),
        ({"kind": "bytes"}, ValueError, "kind must be one of byte_level, character, got 'bytes'"),
        ({"pattern": "gpt5"}, ValueError, "no split pattern named 'gpt5'"),
        ({"min_frequency": 0}, ValueError, "min_frequency must be at least 1"),
        ({"special_tokens": ["<s>", "<s>"]}, ValueError, "special_tokens must be different strings"),
        ({"special_tokens": "<s>"}, ValueError, "special_tokens must be different strings"),
        ({"special_tokens": ["!"]}, ValueError, "the special token '!' is a character of the alphabet"),
        ({"special_tokens": [""]}, ValueError, "must be a non-empty string"),
    ],
)
def test_bad_input_is_refused(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        train(**{"texts": ["ab c"], "vocab_size": 300, **arguments})
    assert message in str(raised.value)


@pytest.mark.parametrize("kind", ["byte_level", "character"])
def test_the_number_of_workers_changes_nothing(
    kind: str, library: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the order in which words are found."""
    monkeypatch.setattr(trainer, "BATCH_CHARACTERS", 1 << 14)
    texts = [*library[-1].splitlines(keepends=True), *SAMPLES]
    counts = [list(count_words(texts, "qwen2", nfc=True, workers=n).items()) for n in (1, 2, 3)]
    assert counts[0] == counts[1] == counts[2]
    specs = [train(texts, 2000, kind=kind, workers=n).spec for n in (1, 2, None)]
    assert specs[0] == specs[1] == specs[2]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_text_in_a_later_batch_is_refused_by_its_number(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "BATCH_CHARACTERS", 4)
    with pytest.raises(TypeError, match="texts must hold strings, got int at 9; decode it first"):
        train([*["low"] * 9, 7], 300, workers=workers)  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"surrogate.*\(text 5\)"):
        train([*["low"] * 5, "\ud800", "low"], 300, workers=workers)
