"""`source.delimited`: CSV and TSV files with a header; every cell is read as a string."""

from __future__ import annotations

import csv
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.source.delimited import delimited_rows
from data_pipes.source.path import documents, rows
from data_pipes.types import BadRow, Row


def write_file(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_cells_are_read_as_strings(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.csv", '\ufeffq,a\r\n007,NA\r\n\r\n"x, ""y""\nz",\r\n')
    assert list(rows(path)) == [
        Row({"q": "007", "a": "NA"}, f"{path}:2"),
        Row({"q": 'x, "y"\nz', "a": ""}, f"{path}:4"),
    ]
    path = write_file(tmp_path / "a.tsv", "q\ta\nx, y\t1.0\n")
    assert [row.values for row in rows(path)] == [{"q": "x, y", "a": "1.0"}]
    assert [d.text for d in documents(path, field="q")] == ["x, y"]


def test_long_cells_are_read_and_the_field_limit_is_restored(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    (row,) = delimited_rows(write_file(tmp_path / "a.csv", "text\n" + "x" * 200_000))
    assert len(row.values["text"]) == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"1", r"expected 2 cells \(q, a\), got 1"),
        (b"1,2,3", r"expected 2 cells \(q, a\), got 3; quote each cell that contains ','"),
        (b'"1"2,3', "cannot be read as CSV"),
        (b"caf\xe9,2", "has bytes that are not UTF-8; convert it first"),
    ],
)
def test_bad_lines_are_named_and_the_others_are_read(tmp_path: Path, line: bytes, words: str) -> None:
    path = write_file(tmp_path / "a.csv", b"q,a\n1,2\n" + line + b"\n3,4\n")
    with pytest.raises(ValueError, match=rf"a\.csv:3: {words}"):
        list(delimited_rows(path))
    bad: list[BadRow] = []
    assert [row.values["q"] for row in delimited_rows(path, on_bad=bad.append)] == ["1", "3"]
    assert [row.name for row in bad] == [f"{path}:3"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has two columns 'q'"):
        list(delimited_rows(write_file(tmp_path / "a.csv", "q,q\n1,2\n")))


@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf8", exclude_characters="\0")), min_size=2, max_size=2),
        max_size=5,
    )
)
def test_files_of_pythons_csv_writer_round_trip(cells: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["q", "a"], *cells])
        assert [list(row.values.values()) for row in delimited_rows(path)] == cells
