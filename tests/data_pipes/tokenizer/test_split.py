"""`tokenizer.split`: text is split into words by named patterns, as Hugging Face does."""

from __future__ import annotations

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from data_pipes.tokenizer.split import PATTERNS, chunker, split_chunks, split_words, splitter
from tests.data_pipes.tokenizer.samples import SAMPLES, texts

NAMES = tuple(PATTERNS)


def hugging_face_splitter(name: str) -> pre_tokenizers.PreTokenizer:
    """The same pattern as Hugging Face's pre-tokenizer, as in the model's tokenizer.json."""
    gpt2 = pre_tokenizers.Split(Regex(PATTERNS["gpt2"].unicode), "isolated")
    if name == "smollm2":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    return pre_tokenizers.Split(Regex(PATTERNS[name].unicode), "isolated")


def hugging_face_words(pre_tokenizer: pre_tokenizers.PreTokenizer, text: str) -> list[str]:
    return [word for word, _ in pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize("name", NAMES)
def test_words_equal_hugging_faces(name: str) -> None:
    for text in SAMPLES:
        assert split_words(splitter(name), text) == hugging_face_words(hugging_face_splitter(name), text)


@pytest.mark.parametrize("name", NAMES)
@given(text=texts(unicode_3_2=True))
def test_words_equal_hugging_faces_on_any_text(name: str, text: str) -> None:
    assert split_words(splitter(name), text) == hugging_face_words(hugging_face_splitter(name), text)


@pytest.mark.parametrize("name", NAMES)
@given(
    text=st.text(
        st.one_of(st.sampled_from(" \n\r\t'sLlRreE0"), st.characters(max_codepoint=127)), max_size=60
    )
)
def test_the_ascii_and_unicode_patterns_agree_on_ascii(name: str, text: str) -> None:
    cutter = splitter(name)
    assert cutter.ascii is not None
    assert cutter.ascii.findall(text) == cutter.unicode.findall(text)


@pytest.mark.parametrize("name", [*NAMES, r"\w+", "b*"])
@given(text=texts())
def test_words_joined_are_the_text(name: str, text: str) -> None:
    found = split_words(splitter(name), text)
    assert "".join(found) == text
    assert "" not in found


@pytest.mark.parametrize("name", NAMES)
@given(text=texts(), size=st.integers(1, 6))
def test_the_words_of_chunks_are_the_words_of_the_text(name: str, text: str, size: int) -> None:
    cutter = splitter(name)
    assert "".join(split_chunks(text, size)) == text
    assert [word for part in split_chunks(text, size) for word in split_words(cutter, part)] == split_words(
        cutter, text
    )


def test_chunks_begin_only_at_white_space_after_other_text() -> None:
    assert list(split_chunks("ab   cd ef\n gh", 2)) == ["ab", "   cd", " ef\n gh"]
    assert list(split_chunks(" " * 10, 2)) == [" " * 10]
    assert list(chunker(splitter(r"\w+"))("ab cd")) == ["ab cd"]


def test_digits_are_split_as_each_pattern_says() -> None:
    cuts = {name: split_words(splitter(name), "a 12345") for name in NAMES}
    assert cuts["gpt2"] == ["a", " 12345"]
    assert cuts["llama3"] == ["a", " ", "123", "45"]
    assert cuts["qwen2"] == ["a", " ", "1", "2", "3", "4", "5"]
    assert cuts["smollm2"] == ["a", " ", "1", "2", "3", "4", "5"]


def test_a_long_run_of_one_character_is_split_quickly() -> None:
    for character in " \n-a1'":
        text = character * 200_000
        assert all("".join(split_words(splitter(name), text)) == text for name in NAMES)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("gpt3", "no split pattern named 'gpt3'; use one of gpt2, llama3"),
        ("(a|b)", "has a capturing group; write (?:...)"),
        ("[", "is not a regular expression"),
        ("", "must be a string"),
        (None, "must be a string"),
    ],
)
def test_a_bad_pattern_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=regex.escape(message)):
        splitter(pattern)
