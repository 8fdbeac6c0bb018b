"""`tokenizer.byte_level`: bytes written as GPT-2's characters, and plain byte-level BPE."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from tokenizers import pre_tokenizers

from data_pipes.tokenizer import Tokenizer, bpe, byte_level
from data_pipes.tokenizer.spec import token_ids
from data_pipes.tokenizer.split import PATTERNS, splitter
from tests.data_pipes.tokenizer.samples import SAMPLES, texts


def test_the_alphabet_equals_gpt2s() -> None:
    assert sorted(byte_level.ALPHABET) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert byte_level.CHARACTERS[ord(" ")] == "Ġ"
    assert byte_level.CHARACTERS[ord("\n")] == "Ċ"
    assert byte_level.CHARACTERS[ord("A")] == "A"
    assert byte_level.ALPHABET[0] == "!"  # id 0 of GPT-2's vocabulary
    assert byte_level.ALPHABET[188] == "Ā"  # the byte 0, its id 188


@given(text=texts())
def test_text_to_characters_and_back_is_the_identity(text: str) -> None:
    written = byte_level.to_characters(text)
    assert len(written) == len(text.encode())
    assert byte_level.to_bytes(written).decode() == text
    assert byte_level.decode(written) == text


def test_decode_undoes_encode(trained_tokenizer: Tokenizer) -> None:
    spec = trained_tokenizer.spec
    cutter, ranks, ids = splitter(spec.pattern), bpe.rank_merges(spec.merges), token_ids(spec)
    for text in SAMPLES:
        row = byte_level.encode(text[:200], cutter, ranks, ids)
        assert byte_level.decode([spec.vocab[i] for i in row]) == text[:200]


def test_encode_merges_each_word_by_itself() -> None:
    """Words are "aa", " a", " aé", "\\n" and "a"; the pair (a, Ġ), which is the first to merge, is in none."""
    ranks = bpe.rank_merges([("a", "Ġ"), ("Ġ", "a"), ("a", "a"), ("Ã", "©"), ("Ċ", "a")])
    vocab = [*byte_level.ALPHABET, "aĠ", "Ġa", "aa", "Ã©", "Ċa"]
    ids = {token: 1000 - i for i, token in enumerate(vocab)}
    row = byte_level.encode("aa a aé\na", splitter("gpt2"), ranks, ids)
    assert row == [ids[token] for token in ("aa", "Ġa", "Ġa", "Ã©", "Ċ", "a")]
    assert byte_level.encode("", splitter("gpt2"), ranks, ids) == []
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        byte_level.encode("a \udc80", splitter("gpt2"), ranks, ids)


def encode_by_loop(text: str, merges: list[tuple[str, str]], ids: dict[str, int]) -> list[int]:
    """The ids of a text: in each word, merge after merge is applied from left to right."""
    row = []
    for word in regex.findall(PATTERNS["gpt2"].unicode, text):
        tokens = [byte_level.CHARACTERS[byte] for byte in word.encode()]
        for left, right in merges:
            place = 0
            while place < len(tokens) - 1:
                if (tokens[place], tokens[place + 1]) == (left, right):
                    tokens[place : place + 2] = [left + right]
                place += 1
        row += [ids[token] for token in tokens]
    return row


@pytest.mark.parametrize("text", SAMPLES)
def test_encode_equals_a_loop_over_words_and_merges(text: str) -> None:
    counts = {"the": 5, " then": 9, "aaa": 3, "é": 4, "界": 3, "12": 2}
    vocab, merges = byte_level.learn_merges(counts, 300)
    ids = {token: i for i, token in enumerate(vocab)}
    row = byte_level.encode(text, splitter("gpt2"), bpe.rank_merges(merges), ids)
    assert row == encode_by_loop(text, merges, ids)
    assert byte_level.decode([vocab[i] for i in row]) == text


def test_merges_are_learned_on_bytes() -> None:
    vocab, merges = byte_level.learn_merges({" é": 3, "é": 1}, 259, special_tokens=["<|end|>"])
    assert merges == [("Ã", "©"), ("Ġ", "Ã©")]
    assert vocab[0] == "<|end|>"
    assert vocab[1:257] == list(byte_level.ALPHABET)


def test_invalid_utf8_is_replaced_ignored_or_refused() -> None:
    tokens = ["Ã", "©t", "Ã"]  # the last byte begins a character
    assert byte_level.decode(tokens) == "ét�"
    assert byte_level.decode(tokens, "ignore") == "ét"
    with pytest.raises(UnicodeDecodeError, match="unexpected end of data"):
        byte_level.decode(tokens, "strict")


def test_a_lone_surrogate_is_refused_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"'\\udc80' at 2, half of a surrogate pair"):
        byte_level.to_characters("ab\udc80")
