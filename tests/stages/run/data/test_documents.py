"""Text as the flags say, with a note of everything that is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_pipes.types import BadRow
from stages.run.data import documents
from stages.run.options.pretrain import PretrainOptions


def flags(path: Path, **changes: Any) -> PretrainOptions:
    return PretrainOptions(data_path=str(path), **changes)


def test_what_is_left_out_is_noted_only_where_there_is_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{"text": 2}\n')
    (tmp_path / "data").mkdir()
    options = flags(path, on_bad="skip", filter=True)
    assert list(documents.documents(options)) == []
    assert documents.left_out(tmp_path) == ""
    assert list(documents.documents(options, tmp_path)) == []
    (noted,) = documents.bad_rows(tmp_path)
    assert noted["name"] == f"{path}:2"
    told = documents.left_out(tmp_path)
    assert "1 rows or files could not be read" in told
    assert "--filter dropped by length: 1 documents" in told
    documents.forget(tmp_path)
    assert documents.left_out(tmp_path) == ""


def test_a_filter_that_kept_all_took_nothing(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("Every word of this text stands here just once, and it is long enough.\n")
    (tmp_path / "data").mkdir()
    assert len(list(documents.documents(flags(path, filter=True), tmp_path))) == 1
    assert documents.left_out(tmp_path) == ""


def test_a_bad_row_speaks_of_flags(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"body": "x"}\n')
    with pytest.raises(
        ValueError, match=r"rows\.jsonl:1: .* name by --field the column to read; or pass over"
    ):
        list(documents.documents(flags(path)))
    with pytest.raises(ValueError, match="here: name its --encoding"):
        documents.refuse(BadRow("here", "pass encoding="))
