"""Read CSV and TSV files as rows of strings.

Types are not guessed: "007" stays "007", "NA" is a string, and an empty cell is an empty string.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import Any

from data_pipes.source.lines import lines
from data_pipes.source.text import PIECE, Location
from data_pipes.types import BadRow, OnBad, Row, stop
from pure.plural import count_noun

_RAW = re.compile("[\udc80-\udcff]")
"""A byte that is not UTF-8, as decoded by `surrogateescape`."""


def delimited_rows(path: Location, *, delimiter: str = ",", on_bad: OnBad = stop) -> Iterator[Row]:
    """Streams a delimited file, quoted as in RFC 4180, whose first line names the columns.

    Args:
        path: the file; decompressed as `open_binary` does.
        delimiter: "," or a tab.
        on_bad: called with each row that is not valid CSV or UTF-8, or whose number of cells differs from the
            header's; and with a header that repeats a column name.

    Returns:
        Rows named "file:line" by the line on which they begin; blank lines are skipped.
    """
    text = (line.decode("utf-8", "surrogateescape") for line in lines(path, on_bad))
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    columns: list[str] = []
    for cells, name in read_records(reader, path, on_bad, cell_limit=PIECE):
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
            expected = f"{count_noun(len(columns), 'cell')} ({', '.join(columns)[:80]})"
            on_bad(
                BadRow(
                    name,
                    f"expected {expected}, got {len(cells)}; quote each cell that contains {delimiter!r}",
                )
            )
        else:
            yield Row(dict(zip(columns, cells, strict=True)), name)


def read_records(
    reader: Any, path: Location, on_bad: OnBad, *, cell_limit: int
) -> Iterator[tuple[list[str], str]]:
    """Reads the records of a `csv.reader`.

    Args:
        reader: the `csv.reader` of the file.
        path: the file, for the records' names.
        on_bad: called with each record that is not valid CSV.
        cell_limit: maximum characters of a cell.

    Returns:
        An iterator over (cells, name) of records that are not blank, named "file:line" by their first line.
    """
    while True:
        name = f"{path}:{reader.line_num + 1}"
        limit_before = csv.field_size_limit(cell_limit)
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"cannot be read as CSV ({error}); double each quote inside a quoted cell"
            on_bad(BadRow(name, reason))
            continue
        finally:
            csv.field_size_limit(limit_before)
        if cells:
            yield cells, name
