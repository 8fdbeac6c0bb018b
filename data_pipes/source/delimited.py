"""CSV and TSV files as rows: every cell is the text that stands in it.

Types are not guessed: "007" stays "007", "NA" is a text, and an empty cell is an empty text.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import Any

from data_pipes.source.lines import lines
from data_pipes.source.text import PIECE, Location
from data_pipes.types import BadRow, OnBad, Row, stop

_RAW = re.compile("[\udc80-\udcff]")
"""A byte that is not UTF-8, as `surrogateescape` hands it on."""


def delimited_rows(path: Location, *, delimiter: str = ",", on_bad: OnBad = stop) -> Iterator[Row]:
    """Streams a file of cells between delimiters, quoted as in RFC 4180, whose first line names the columns.

    Args:
        path: the file; it is unpacked as `open_binary` does.
        delimiter: "," or a tab.
        on_bad: gets each row with another number of cells than there are columns, or that is no CSV or not
            UTF-8; and a file with two columns of one name.

    Returns:
        Rows named "file:line" by the line on which they begin; blank lines hold none.
    """
    text = (line.decode("utf-8", "surrogateescape") for line in lines(path, on_bad))
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    columns: list[str] = []
    for cells, name, error in _records(reader, path):
        if error:
            on_bad(
                BadRow(
                    name, f"cannot be read as CSV ({error}); a quote inside a quoted text is written twice"
                )
            )
        elif any(map(_RAW.search, cells)):
            on_bad(
                BadRow(
                    name, "has bytes that are not UTF-8; convert it first: iconv -f LATIN1 -t UTF-8 old > new"
                )
            )
        elif not columns:
            columns = cells
            if twice := [column for column in columns if columns.count(column) > 1]:
                on_bad(BadRow(name, f"has two columns {twice[0]!r}; rename one"))
                return
        elif len(cells) != len(columns):
            expected = f"{len(columns)} cells ({', '.join(columns)[:80]})"
            on_bad(
                BadRow(
                    name, f"expected {expected}, got {len(cells)}; a text with {delimiter!r} stands in quotes"
                )
            )
        else:
            yield Row(dict(zip(columns, cells, strict=True)), name)


def _records(reader: Any, path: Location) -> Iterator[tuple[list[str], str, str]]:
    """(cells, name, error) of each record that is not blank."""
    while True:
        name = f"{path}:{reader.line_num + 1}"
        limit = csv.field_size_limit(PIECE)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield [], name, str(error)
            continue
        finally:
            csv.field_size_limit(limit)
        if cells:
            yield cells, name, ""
