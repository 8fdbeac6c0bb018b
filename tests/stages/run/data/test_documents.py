"""Documents selected by the flags, and the list of those that were dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stages.run.data import bad_rows, documents
from stages.run.options.pretrain import PretrainOptions


def flags(path: Path, **changes: Any) -> PretrainOptions:
    return PretrainOptions(data_path=str(path), **changes)


def test_dropped_documents_are_listed_only_with_an_output_folder(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "one"}\n{"text": 2}\n')
    (tmp_path / "data").mkdir()
    options = flags(path, on_bad="skip", filter=True)
    assert list(documents.read_documents(options)) == []
    assert documents.summarize_reports(tmp_path) == ""
    assert list(documents.read_documents(options, tmp_path)) == []
    (skipped,) = bad_rows.read(tmp_path / documents.BAD)
    assert skipped.name == f"{path}:2"
    summary = documents.summarize_reports(tmp_path)
    assert "1 row or file could not be read" in summary
    assert "--filter dropped by length: 1 document" in summary
    documents.delete_reports(tmp_path)
    assert documents.summarize_reports(tmp_path) == ""


def test_a_filter_that_keeps_every_document_reports_nothing(tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("Every word of this text stands here just once, and it is long enough.\n")
    (tmp_path / "data").mkdir()
    assert len(list(documents.read_documents(flags(path, filter=True), tmp_path))) == 1
    assert documents.summarize_reports(tmp_path) == ""


def test_a_bad_row_is_refused_and_the_flags_that_help_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"body": "x"}\n')
    with pytest.raises(
        ValueError, match=r"rows\.jsonl:1: .* name by --field the column to read; or skip such rows"
    ):
        list(documents.read_documents(flags(path)))
