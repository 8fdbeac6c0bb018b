"""`from_tiktoken`: a file of tiktoken's ranks gives tiktoken's ids."""

from __future__ import annotations

import base64
import sysconfig
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given

from data_pipes.tokenizer import (
    Tokenizer,
    byte_level,
    from_json,
    from_tiktoken,
    load_tiktoken,
    to_json,
    train,
)
from data_pipes.tokenizer.split import PATTERNS
from tests.data_pipes.tokenizer.samples import SAMPLES, texts

LIBRARY = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_text(encoding="utf-8")
TOKENS = [
    byte_level.to_bytes(token) for token in train([*SAMPLES, LIBRARY], 900, special_tokens=[]).spec.vocab
]
SPECIAL = {"<|endoftext|>": 901, "<|im_start|>": 905}
FILE = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(TOKENS))
OURS = from_tiktoken(FILE, pattern="llama3", special_tokens=SPECIAL)
PEER = tiktoken.Encoding(
    "test",
    pat_str=PATTERNS["llama3"].unicode,
    mergeable_ranks={token: rank for rank, token in enumerate(TOKENS)},
    special_tokens=SPECIAL,
)


def assert_same_ids(text: str) -> None:
    assert OURS.encode(text) == PEER.encode(text, disallowed_special=())
    assert OURS.encode(text, special="all") == PEER.encode(text, allowed_special="all")


def test_ids_equal_tiktokens() -> None:
    for text in [*SAMPLES, LIBRARY]:
        assert_same_ids(text)


@given(text=texts(unicode_3_2=True))
def test_ids_equal_tiktokens_on_any_text(text: str) -> None:
    assert_same_ids(text)


def test_a_tiktoken_tokenizer_round_trips_through_tokenizer_json() -> None:
    copy: Tokenizer = from_json(to_json(OURS))
    assert copy.spec == OURS.spec
    assert [token.id for token in copy.spec.added_tokens] == [900, 901, 902, 903, 904, 905]


def test_a_file_of_ranks_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "ranks.tiktoken"
    file.write_text(FILE)
    assert load_tiktoken(file, pattern="llama3", special_tokens=SPECIAL).spec == OURS.spec
    with pytest.raises(FileNotFoundError, match="there is no"):
        load_tiktoken(tmp_path / "none", pattern="llama3", special_tokens={})


@pytest.mark.parametrize(
    ("text", "special", "message"),
    [
        ("YQ==", {}, "line 1 must be 'base64 rank', got 'YQ=='"),
        ("YQ== 0\nY*== 1", {}, "line 2 must be 'base64 rank'"),
        ("YQ== zero", {}, "line 1 must be 'base64 rank'"),
        ("YQ== 0\nYg== 2", {}, "ranks must be 0 ... 1 without a gap; 1 is missing"),
        ("YQ== 0\nYQ== 1", {}, "the token 'a' has two ids, 0 and 1"),
        ("YQ== 0", {"<s>": 0}, "special tokens need ids of their own from 1 on"),
        ("YQ== 0", {"<s>": 1, "</s>": 1}, "special tokens need ids of their own from 1 on"),
        ("YQ== 0", {"<s>": 1 << 40}, "special tokens need ids of their own from 1 on"),
        ("", {}, "the vocabulary is empty"),
    ],
)
def test_a_bad_file_is_refused(text: str, special: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        from_tiktoken(text, pattern="gpt2", special_tokens=special)
    assert message in str(error.value)
