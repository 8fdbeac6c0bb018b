"""`tokenizer.tables`: lookup tables from characters and bytes to ids."""

from __future__ import annotations

import pytest

from data_pipes.tokenizer import TokenizerSpec
from data_pipes.tokenizer.tables import make_tables, symbol_ids

CHARACTERS = TokenizerSpec(kind="character", vocab=("?", "a", "é"), merges=(), pattern="gpt2", unk_token="?")


@pytest.mark.parametrize(("fuse", "ids"), [(False, [0, 0, 1, 0, 2]), (True, [0, 1, 0, 2])])
def test_unknown_characters_are_fused_on_request(fuse: bool, ids: list[int]) -> None:
    spec = TokenizerSpec(**{**CHARACTERS.__dict__, "fuse_unk": fuse})
    assert symbol_ids(make_tables(spec), "xyazé") == ids
    assert symbol_ids(make_tables(spec), "") == []


def test_tables_of_a_byte_level_tokenizer() -> None:
    spec = TokenizerSpec(
        kind="byte_level",
        vocab=("Ã", "©", "Ã©", "<pad>"),
        merges=(("Ã", "©"),),
        pattern="gpt2",
        ignore_merges=True,
    )
    tables = make_tables(spec)
    assert symbol_ids(tables, "é") == [0, 1]
    assert tables.contents == {0: b"\xc3", 1: b"\xa9", 2: "é".encode(), 3: b"<pad>"}
    assert tables.token_words == {"é": 2, "<pad>": 3}  # an incomplete character is no word
