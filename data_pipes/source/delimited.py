"""Read CSV and TSV files as rows of texts.

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
"""A byte that is not UTF-8, as decoded by `surrogateescape`."""


def delimited_rows(path: Location, *, delimiter: str = ",", on_bad: OnBad = stop) -> Iterator[Row]:
    """Streams a delimited file, quoted as in RFC 4180, whose first line names the columns.

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
    for cells, name in records(reader, path, on_bad, limit=PIECE):
        if any(map(_RAW.search, cells)):
            on_bad(
                BadRow(
                    name, "has bytes that are not UTF-8; convert it first: iconv -f LATIN1 -t UTF-8 old > new"
                )
            )
        elif not columns:
            columns = cells
            if repeated := [column for column in columns if columns.count(column) > 1]:
                on_bad(BadRow(name, f"has two columns {repeated[0]!r}; rename one"))
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


def records(reader: Any, path: Location, on_bad: OnBad, *, limit: int) -> Iterator[tuple[list[str], str]]:
    """Reads the records of a `csv.reader`.

    Args:
        reader: of the file.
        path: the file, for names.
        on_bad: gets each record that is no CSV.
        limit: characters of a cell.

    Returns:
        An iterator over (cells, name) of records that are not blank, named "file:line" by their first line.
    """
    while True:
        name = f"{path}:{reader.line_num + 1}"
        limit_before = csv.field_size_limit(limit)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"cannot be read as CSV ({error}); a quote inside a quoted text is written twice"
            on_bad(BadRow(name, reason))
            continue
        finally:
            csv.field_size_limit(limit_before)
        if cells:
            yield cells, name
