"""`data_pipes.ngram`: hashes of words and of word n-grams."""

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.ngram import hash_ngrams, hash_words, mix, split_words

WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=20)


@given(words=WORDS, n=st.integers(1, 6))
def test_hashes_are_equal_where_the_n_grams_are(words: list[str], n: int) -> None:
    hashes = hash_ngrams(hash_words(words), n).tolist()
    expected = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    assert len(hashes) == len(expected)
    assert [[a == b for b in hashes] for a in hashes] == [[a == b for b in expected] for a in expected]


def test_an_n_gram_has_the_hash_of_the_formula() -> None:
    hashes = hash_words(["a", "b", "c", "b"])
    sums = []
    for i in range(2):
        terms = (int(hashes[i + j]) * 0x100000001B3 ** (2 - j) for j in range(3))
        sums.append(sum(terms) % 2**64)
    assert hash_ngrams(hashes, 3).tolist() == mix(np.array(sums, np.uint64)).tolist()
    assert hash_ngrams(hashes, 5).shape == (0,)


def test_hashes_are_the_same_in_another_process() -> None:
    code = "from data_pipes.ngram import *; print(hash_ngrams(hash_words(['to', 'be']), 2)[0])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(out.stdout) == int(hash_ngrams(hash_words(["to", "be"]), 2)[0])


def test_text_is_split_into_words_and_punctuation() -> None:
    assert split_words("Don't stop, x_1+=2;\n") == ["Don", "'", "t", "stop", ",", "x_1", "+", "=", "2", ";"]
    assert split_words(" \n") == []


def test_a_lone_surrogate_is_hashed() -> None:
    assert len(hash_words(["\ud800"])) == 1


def test_mix_is_splitmix64() -> None:
    """The first three outputs of SplitMix64 from seed 0; `mix` itself adds the golden gamma once more."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    first = mix(np.arange(3, dtype=np.uint64) * golden)
    assert [f"{int(x):016x}" for x in first] == ["e220a8397b1dcdaf", "6e789e6aa1b965f4", "06c45d188009454f"]
