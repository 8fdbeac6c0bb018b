"""Read the lines of a file, compressed or not."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from data_pipes.source.text import DAMAGED, PIECE, Location, name_errors, open_binary
from data_pipes.types import BadRow, OnBad


def lines(path: Location, on_bad: OnBad) -> Iterator[bytes]:
    """Streams the lines of a file.

    Args:
        path: the file; it is decompressed by `open_binary`.
        on_bad: called for each line of more than 64 MiB, which is yielded as an empty line, and for a damaged
            compressed file, where reading stops.

    Returns:
        An iterator over lines with their line ends; a byte order mark is dropped.
    """
    number = 0
    try:
        with name_errors(path), open_binary(path) as file:
            while line := file.readline(PIECE):
                number += 1
                if len(line) == PIECE and not line.endswith(b"\n"):
                    reason = "the line is longer than 64 MiB; write one record per line"
                    on_bad(BadRow(f"{path}:{number}", reason))
                    while line and not line.endswith(b"\n"):
                        line = file.readline(PIECE)
                    line = b"\n"
                yield line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
    except DAMAGED as error:
        on_bad(BadRow(f"{path}:{number + 1}", f"the compressed file is damaged ({error}); copy it again"))
