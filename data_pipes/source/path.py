"""Any path or name as a source: looks at what is there, and reads it with the reader that fits.

Everything streams: memory stays flat however large the corpus. Every document knows where it came from. A record that
cannot be read never vanishes silently: by default the first one stops the stream and is named with its file and line;
with `on_bad=bad.append` it goes to your list instead, and the stream goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_pipes.source.arrow import is_saved, parquet_rows, saved_rows
from data_pipes.source.hub import is_name
from data_pipes.source.tables import as_documents, dataset_rows, json_rows, jsonl_rows
from data_pipes.source.text import Location, files, text_documents
from data_pipes.types import Document, OnBad, Row, stop

ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet")


def documents(
    path: Location,
    *,
    field: str = "text",
    separator: str | None = None,
    encoding: str = "utf-8",
    subset: str | None = None,
    split: str = "train",
    on_bad: OnBad = stop,
) -> Iterator[Document]:
    """Opens any source as a stream of documents.

    Args:
        path: a file; a folder (all files in it, sorted by path, hidden ones left out); a folder written by a data set's
            `save_to_disk`; or the name of a data set on the Hugging Face hub. Files that end in .jsonl, .ndjson, .json
            or .parquet hold rows, all others text; .gz may follow.
        field: the column of rows that holds the text.
        separator: cuts text files into documents ("<|endoftext|>", a blank line); None makes each file one.
        encoding: of text files.
        subset: the configuration of a data set that has several.
        split: of a data set.
        on_bad: gets each bad record; `stop` raises.

    Returns:
        An iterator over documents, in a fixed order.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder is empty.
        ValueError: on a bad record, under `stop`; or if the path is empty, or neither a file nor a folder.
    """
    if is_saved(path):
        return as_documents(saved_rows(path, split=split, on_bad=on_bad), field, on_bad=on_bad)
    if _is_dataset(path):
        return as_documents(dataset_rows(str(path), subset=subset, split=split), field, on_bad=on_bad)
    return _local_documents(files(path), field, separator, encoding, on_bad)


def rows(path: Location, *, subset: str | None = None, split: str = "train", on_bad: OnBad = stop) -> Iterator[Row]:
    """Opens any source of rows: as `documents`, for stages that need more than one column.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder is empty.
        ValueError: if a file does not hold rows, or on a bad record under `stop`.
    """
    if is_saved(path):
        return saved_rows(path, split=split, on_bad=on_bad)
    if _is_dataset(path):
        return dataset_rows(str(path), subset=subset, split=split)
    found = files(path)
    if other := [file for file in found if suffix(file) not in ROW_SUFFIXES]:
        raise ValueError(f"rows: {other[0]} is no file of rows; its name must end in {', '.join(ROW_SUFFIXES)}")
    return (row for file in found for row in _file_rows(file, on_bad))


def suffix(path: Location) -> str:
    """Returns the end of a name that says what is in the file, .gz set aside.

    Example:
        >>> suffix("rows.JSONL.gz")
        '.jsonl'
    """
    return Path(str(path).lower().removesuffix(".gz")).suffix


def _is_dataset(path: Location) -> bool:
    """True for what looks like a name on the hub and is not here."""
    if not str(path):
        raise ValueError('source: the path is empty; name a file, a folder ("." is this one) or a data set')
    return is_name(str(path)) and not Path(path).exists()


def _local_documents(
    found: list[Path], field: str, separator: str | None, encoding: str, on_bad: OnBad
) -> Iterator[Document]:
    """Reads file by file, each as its suffix says."""
    for file in found:
        if suffix(file) in ROW_SUFFIXES:
            yield from as_documents(_file_rows(file, on_bad), field, on_bad=on_bad)
        else:
            yield from text_documents(file, separator=separator, encoding=encoding, on_bad=on_bad)


def _file_rows(path: Path, on_bad: OnBad) -> Iterator[Row]:
    """The rows of one file, by its suffix."""
    readers = {".parquet": parquet_rows, ".json": json_rows}
    return readers.get(suffix(path), jsonl_rows)(path, on_bad=on_bad)
