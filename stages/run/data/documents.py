"""Read the documents of a run, filter them if --filter is set, and report what was left out.

RUN/data/bad_rows.jsonl       rows and files that could not be read
RUN/data/dropped.txt          documents that the filters dropped
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipes import filter as filters
from data_pipes.duplicates import exact_duplicates, near_duplicates
from data_pipes.embedded import python_library
from data_pipes.files import writing
from data_pipes.source import path as source
from data_pipes.types import Document, OnBad
from pure.plural import count_noun
from stages.run.data import bad_rows
from stages.run.options.groups import TextSourceFlags
from stages.run.options.pretrain import CorpusFlags

BAD = Path("data") / "bad_rows.jsonl"
DROPPED = Path("data") / "dropped.txt"


def read_documents(
    flags: CorpusFlags, folder: Path | None = None, *, workers: int | None = 1
) -> Iterator[Document]:
    """Reads all documents.

    Args:
        flags: data_path, and how it is read and filtered.
        folder: the run's folder, for the reports of what was left out; None writes no reports.
        workers: processes that filter, see `data_pipes.workers.map_in_order`; 1 reads nothing ahead.

    Returns:
        An iterator, in a fixed order.

    Raises:
        ValueError: for a row that cannot be read (unless --on_bad is skip); names the flags that may help.
        FileNotFoundError: if there is nothing at the path.
    """
    on_bad = bad_rows.handler(flags.on_bad, folder / BAD if folder else None)
    documents = read_text(flags.data_path, flags, on_bad)
    return _filter_documents(documents, folder, workers) if flags.filter else documents


def read_text(data_path: str, flags: TextSourceFlags, on_bad: OnBad) -> Iterator[Document]:
    """Reads the documents of a path, or those of Python's own source for "embedded".

    Args:
        data_path: a file, a folder, a data set's name, or "embedded".
        flags: how it is read.
        on_bad: called with each row that cannot be read.

    Raises:
        FileNotFoundError: if there is nothing at the path.
    """
    if data_path == "embedded":
        return python_library.documents("all")
    return source.documents(
        data_path,
        field=flags.field,
        encoding=flags.encoding,
        subset=flags.subset,
        split=flags.split,
        on_bad=on_bad,
    )


def delete_reports(folder: Path) -> None:
    """Deletes the reports that an earlier start of the run wrote."""
    for name in (BAD, DROPPED):
        (folder / name).unlink(missing_ok=True)


def summarize_reports(folder: Path) -> str:
    """Summarizes the reports for an error message; "" if nothing was left out."""
    summary = ""
    if rows := bad_rows.read(folder / BAD):
        reasons = Counter(bad_rows.name_flags(row.reason) for row in rows).most_common(2)
        counts = "; ".join(f"{reason} ({count_noun(count, 'time')})" for reason, count in reasons)
        number = count_noun(len(rows), "row or file", "rows or files")
        summary += f"; {number} could not be read, see {folder / BAD}: {counts}"
    dropped = folder / DROPPED
    table = dropped.read_text(encoding="utf-8").strip() if dropped.exists() else ""
    if table not in ("", filters.render_report(filters.report([]))):
        rules = [line.split(",")[0] for line in table.splitlines()]
        summary += f"; --filter dropped by {', '.join(rules)}, see {dropped}"
    return summary


def _filter_documents(
    documents: Iterable[Document], folder: Path | None, workers: int | None
) -> Iterator[Document]:
    """Applies the default filters, and reports what they dropped."""
    drops: list[Any] = []
    rules = (
        filters.length(50),
        filters.binary(),
        filters.repetition(),
        exact_duplicates(),
        near_duplicates(),
    )
    yield from filters.apply_filters(documents, rules, on_drop=drops.append, workers=workers)
    if folder is not None:
        table = filters.render_report(filters.report(drops))
        with writing(folder / DROPPED):
            (folder / DROPPED).write_text(table + "\n", encoding="utf-8")
