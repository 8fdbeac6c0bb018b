"""`TokenizerSpec`: comparison, representation and validation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from data_pipes.tokenizer import (
    AddedToken,
    TokenizerSpec,
    from_spec,
    special_id,
    special_tokens,
    vocabulary_size,
)
from data_pipes.tokenizer.step import NFC

SPEC = TokenizerSpec(
    kind="character",
    vocab=("<unk>", "a", "b", "ab"),
    merges=(("a", "b"),),
    pattern="gpt2",
    added_tokens=(AddedToken("<unk>", 0), AddedToken("<|end|>", 4), AddedToken("word", 5, special=False)),
)


def test_a_spec_is_hashable_and_comparable() -> None:
    assert replace(SPEC) == SPEC
    assert {SPEC: 1}[replace(SPEC)] == 1
    assert replace(SPEC, normalizer=NFC) != SPEC


def test_the_repr_of_a_tokenizer_omits_its_vocabulary() -> None:
    shown = repr(from_spec(SPEC))
    assert shown.startswith("Tokenizer(4 tokens, 1 merges, TokenizerSpec(kind='character', pattern='gpt2'")
    assert "'ab'" not in shown


def test_special_tokens_and_vocabulary_size() -> None:
    tokenizer = from_spec(SPEC)
    assert special_tokens(tokenizer) == {"<unk>": 0, "<|end|>": 4}
    assert special_id(tokenizer, "<|end|>") == 4
    assert vocabulary_size(tokenizer) == 6
    assert vocabulary_size(from_spec(replace(SPEC, added_tokens=()))) == 4
    with pytest.raises(KeyError, match=r"no special token 'word'; this tokenizer has <unk>, <\|end\|>"):
        special_id(tokenizer, "word")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "unigram"}, "kind must be one of byte_level, character, got 'unigram'"),
        ({"pattern": "gpt9"}, "no split pattern named 'gpt9'"),
        ({"vocab": ("a", "b", "ab", "a")}, "the token 'a' has two ids, 0 and 3"),
        ({"vocab": ("a", "b", "ab", "")}, "must be a non-empty string, got ''"),
        ({"vocab": ("a", "b", "ab", 7)}, "must be a non-empty string, got 7"),
        ({"vocab": ("a", "b", "ab", "\ud800")}, "holds half of a surrogate pair"),
        ({"vocab": (), "merges": (), "added_tokens": ()}, "the vocabulary is empty"),
        ({"vocab": ("a", "b", "x", "y")}, "merge 0 ('a', 'b') needs the token 'ab', which is not in vocab"),
        ({"merges": (("a", "b", "c"),)}, "merge 0 must be a pair of tokens"),
        ({"merges": (("a", 1),)}, "merge 0 must be a pair of tokens"),
        ({"added_tokens": (AddedToken("a", 2),)}, "added token 'a' must have id 1, its id in vocab; got 2"),
        ({"added_tokens": (AddedToken("<s>", 9),)}, "must have id 4, the next free one; got 9"),
        ({"added_tokens": (AddedToken("<s>", True),)}, "must have id 4, the next free one; got True"),
        ({"added_tokens": (AddedToken("ab", 3), AddedToken("a", 1))}, "must ascend in id, got 1 after 3"),
        ({"added_tokens": (AddedToken("<s>", 4), AddedToken("<s>", 5))}, "is given twice"),
        ({"added_tokens": (AddedToken("", 4),)}, "must be a non-empty string"),
        ({"fuse_unk": True}, "fuse_unk=True needs an unk_token"),
        ({"unk_token": "<u>"}, "unk_token '<u>' is not in the vocabulary"),
        ({"prefix_space": True}, "prefix_space is for byte-level tokenizers"),
        ({"continuing_subword_prefix": "é"}, "must be ASCII"),
        ({"prefix": (6,)}, "prefix, suffix and pair hold ids, 0 ... 5; got 6"),
        ({"suffix": (-1,)}, "prefix, suffix and pair hold ids, 0 ... 5; got -1"),
    ],
)
def test_a_contradictory_spec_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        replace(SPEC, **change)
    assert message in str(error.value)
