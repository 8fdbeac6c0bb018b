"""The text of a run: documents from where the flags say, filtered if asked for, and a note of what was left
out.

RUN/data/bad_rows.jsonl       rows and files that could not be read
RUN/data/dropped.txt          what the filters dropped
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from data_pipes import filter as filters
from data_pipes.duplicates import exact_duplicates, near_duplicates
from data_pipes.embedded import python_library
from data_pipes.files import writing
from data_pipes.source import path as source
from data_pipes.types import BadRow, Document
from stages.run.options.pretrain import PretrainOptions

BAD = Path("data") / "bad_rows.jsonl"
DROPPED = Path("data") / "dropped.txt"


def documents(options: PretrainOptions, folder: Path | None = None) -> Iterator[Document]:
    """Reads all documents.

    Args:
        options: data_path, and how it is read and filtered.
        folder: of the run, where what was left out is written down; None writes nothing.

    Returns:
        An iterator, in a fixed order.

    Raises:
        ValueError: for a row that cannot be read (unless --on_bad skip), in the words of the command line.
        FileNotFoundError: if there is nothing at the path.
    """
    if options.data_path == "embedded":
        found = python_library.documents("all")
    else:
        found = source.documents(
            options.data_path,
            field=options.field,
            encoding=options.encoding,
            subset=options.subset,
            split=options.split,
            on_bad=on_bad_row(options.on_bad, folder and folder / BAD),
        )
    return _filtered(found, folder) if options.filter else found


def on_bad_row(mode: str, path: Path | None) -> Callable[[BadRow], None]:
    """Makes what `--on_bad` stands for.

    Args:
        mode: "stop" refuses the first bad row in the words of the command line; "skip" notes it and goes on.
        path: file that the notes are added to, one line a row; None notes nothing.

    Returns:
        BadRow -> None, for readers of rows.
    """
    return partial(_on_bad, mode=mode, path=path)


def refuse(bad: BadRow, way_out: str = "") -> NoReturn:
    """Stops at a bad row in the words of the command line.

    Args:
        bad: where it is, and what is wrong with it.
        way_out: what else can be done.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{bad.name}: {_by_flags(bad.reason)}{way_out}")


def forget(folder: Path) -> None:
    """Removes the notes of what was left out, before all is read again."""
    for name in (BAD, DROPPED):
        (folder / name).unlink(missing_ok=True)


def bad_rows(folder: Path) -> list[dict[str, str]]:
    """What was noted of rows and files that could not be read: name and reason of each."""
    path = folder / BAD
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def left_out(folder: Path) -> str:
    """Says what was left out and why, for a message that nothing is left; "" if nothing was."""
    told = ""
    if noted := bad_rows(folder):
        reasons = Counter(_by_flags(row["reason"]) for row in noted).most_common(2)
        counted = "; ".join(f"{reason} ({count:,} times)" for reason, count in reasons)
        told += f"; {len(noted):,} rows or files could not be read, see {folder / BAD}: {counted}"
    dropped = folder / DROPPED
    if dropped.exists() and (table := dropped.read_text(encoding="utf-8").strip()) != filters.table(
        filters.report([])
    ):
        rules = [line.split(",")[0] for line in table.splitlines()]
        told += f"; --filter dropped by {', '.join(rules)}, see {dropped}"
    return told


def _by_flags(reason: str) -> str:
    """A reason, with flags for the arguments that it names."""
    reason = reason.replace("pass field= the column", "name by --field the column")
    return reason.replace("pass encoding=", "name its --encoding")


def _filtered(found: Iterable[Document], folder: Path | None) -> Iterator[Document]:
    """Drops what the default filters name; writes down what and why."""
    drops: list[Any] = []
    rules = (
        filters.length(50),
        filters.binary(),
        filters.repetition(),
        exact_duplicates(),
        near_duplicates(),
    )
    yield from filters.keep(found, rules, on_drop=drops.append)
    if folder is not None:
        table = filters.table(filters.report(drops))
        with writing(folder / DROPPED):
            (folder / DROPPED).write_text(table + "\n", encoding="utf-8")


def _on_bad(bad: BadRow, *, mode: str, path: Path | None) -> None:
    """One bad row."""
    if mode == "stop":
        refuse(bad, "; or pass over such rows with --on_bad skip")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(bad._asdict()) + "\n")
