"""Any path or name as a source: looks at what is there, and reads it with the reader that fits.

Everything streams: memory stays flat however large the corpus. Every document knows where it came from. A
record that cannot be read never vanishes silently: by default the first one stops the stream and is named
with its file and line; with `on_bad=bad.append` it goes to your list instead, and the stream goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_pipes.source.arrow import arrow_rows, is_saved, parquet_rows, saved_rows
from data_pipes.source.delimited import delimited_rows
from data_pipes.source.hub import is_name
from data_pipes.source.splits import WHOLE, in_split, of_split
from data_pipes.source.tables import as_documents, dataset_rows, json_rows, jsonl_rows
from data_pipes.source.text import ARCHIVE, PACKED, Location, files, is_archive, text_documents
from data_pipes.types import BadRow, Document, OnBad, Row, stop

ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".arrow", ".feather")
"""Ends of the names of files of rows; one of PACKED may follow."""

OTHER_TABLES = (".xlsx", ".xls", ".ods", ".orc", ".avro", ".pkl", ".pickle", ".npz", ".npy", ".sqlite", ".db")
"""Ends of the names of tables that are not read."""

OTHER_TABLE = "a table of this kind is not read; save it as JSONL, CSV or Parquet, and take it away"

COMPANIONS = re.compile(
    r"(README|LICEN[CS]E|CITATION|NOTICE|CHANGELOG)(\.\w+)?|(config|dataset_infos?|dataset_dict|state)\.json|dummy_data\.zip"
    r"|.*\.(png|jpe?g|gif|webp|svg|bmp|ico|pdf|lock|sha256|md5|yaml|yml|toml)",
    re.IGNORECASE,
)
"""Names of what lies beside rows and is none."""

IMAGES = re.compile(r".*\.(png|jpe?g|gif|webp|svg|bmp|ico|pdf)", re.IGNORECASE)
"""Those of them that are no text either."""


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
        path: a file, read whatever its name says of a split; a folder (files sorted by path, hidden ones left
            out); a folder written by a data set's `save_to_disk`; or the name of a data set on the Hugging
            Face hub. Files that end as in ROW_SUFFIXES hold rows, all others text; .gz, .bz2, .xz or .zst may
            follow. Where a folder has rows and nothing else but a README, a licence, images and the like
            (COMPANIONS), these are left out; if it has other texts too, it is a corpus, of which only images
            beside rows are left out.
        field: the column of rows that holds the text.
        separator: cuts text files into documents ("<|endoftext|>", a blank line); None makes each file one.
        encoding: of text files.
        subset: the configuration of a data set that has several; in a folder one of README.md, or a folder.
        split: of a data set, or of a folder in one of the hub's layouts (`data_pipes.source.splits`); text
            files have splits if the names of all of them say one.
        on_bad: gets each bad record; `stop` raises.

    Returns:
        An iterator over documents, in a fixed order.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder is empty.
        ValueError: on a bad record, under `stop`; if the path is empty, or neither a file nor a folder; or
            for a split or a subset that is not there.
    """
    _refuse_parts(path, split, subset)
    if is_saved(path):
        return as_documents(saved_rows(path, split=split, on_bad=on_bad), field, on_bad=on_bad)
    if _is_dataset(path):
        return as_documents(dataset_rows(str(path), subset=subset, split=split), field, on_bad=on_bad)
    found = files(path)
    if not Path(path).is_file():
        found = _of_corpus(Path(path), found, split, subset)
    return _local_documents(found, field, separator, encoding, split, on_bad)


def rows(
    path: Location, *, subset: str | None = None, split: str = "train", on_bad: OnBad = stop
) -> Iterator[Row]:
    """Opens any source of rows: as `documents`, for stages that need more than one column.

    An archive or a table of another kind beside files of rows is a bad record: what is in it is not read.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder is empty.
        ValueError: if a file does not hold rows, for a split or a subset that is not there, or on a bad
            record under `stop`.
    """
    _refuse_parts(path, split, subset)
    if is_saved(path):
        return saved_rows(path, split=split, on_bad=on_bad)
    if _is_dataset(path):
        return dataset_rows(str(path), subset=subset, split=split)
    found = files(path)
    if Path(path).is_file():
        if suffix(path) not in ROW_SUFFIXES:
            raise ValueError(
                f"rows: {path} is no file of rows; its name must end in {', '.join(ROW_SUFFIXES)}"
            )
    else:
        held = [file for file in found if is_rows(file)]
        if not held:
            raise ValueError(
                f"rows: {path} has no file of rows, whose name would end in {', '.join(ROW_SUFFIXES)}"
            )
        unread = [file for file in found if _unread(file) and not COMPANIONS.fullmatch(file.name)]
        found = [*unread, *of_split(Path(path), each_once(held), split, subset)]
    return (row for file in found for row in file_rows(file, split=split, on_bad=on_bad))


def is_rows(file: Path) -> bool:
    """Tells whether a file in a folder holds rows, by its name."""
    return suffix(file) in ROW_SUFFIXES and COMPANIONS.fullmatch(file.name) is None


def each_once(found: list[Path]) -> list[Path]:
    """Returns the files, if no two of them are the same rows in two formats, as far as names tell.

    Raises:
        ValueError: naming two that are.
    """
    seen: dict[Path, Path] = {}
    for file in found:
        name = (
            file.name.removesuffix(Path(file.name).suffix)
            if file.name.lower().endswith(PACKED)
            else file.name
        )
        other = seen.setdefault(file.with_name(Path(name).stem), file)
        if other != file:
            raise ValueError(
                f"source: {other} and {file} would be read both; name one of them, or take one away"
            )
    return found


def file_rows(path: Path, *, split: str = "train", on_bad: OnBad = stop) -> Iterator[Row]:
    """Streams the rows of one file, by its suffix.

    Args:
        path: ends as in ROW_SUFFIXES.
        split: of a JSON file that holds several.
        on_bad: gets each bad record.

    Returns:
        An iterator over rows.
    """
    end = suffix(path)
    if reason := _unread(path):
        on_bad(BadRow(str(path), reason))
        return iter(())
    if end == ".json":
        return json_rows(path, split=split, on_bad=on_bad)
    if end in (".csv", ".tsv"):
        return delimited_rows(path, delimiter="," if end == ".csv" else "\t", on_bad=on_bad)
    readers = {".parquet": parquet_rows, ".arrow": arrow_rows, ".feather": arrow_rows}
    return readers.get(end, jsonl_rows)(path, on_bad=on_bad)


def suffix(path: Location) -> str:
    """Returns the end of a name that says what is in the file, .gz and the like set aside.

    Example:
        >>> suffix("rows.JSONL.gz")
        '.jsonl'
    """
    name = Path(str(path).lower())
    return Path(name.stem).suffix if name.suffix in PACKED else name.suffix


def _is_dataset(path: Location) -> bool:
    """True for what looks like a name on the hub and is not here."""
    if not str(path):
        raise ValueError('source: the path is empty; name a file, a folder ("." is this one) or a data set')
    return is_name(str(path)) and not Path(path).exists()


def _unread(path: Path) -> str:
    """Why a file that may hold rows is not read; "" for others."""
    if is_archive(path):
        return ARCHIVE
    return OTHER_TABLE if suffix(path) in OTHER_TABLES else ""


def _refuse_parts(path: Location, split: str, subset: str | None) -> None:
    """One file has no subsets, and no splits but those that stand in a .json; a saved data set has no
    subsets."""
    alone = bool(str(path)) and Path(path).is_file()
    if subset is not None and (alone or is_saved(path)):
        raise ValueError(f"source: {path} has no subset {subset!r}, it is one data set; leave --subset out")
    if alone and split not in WHOLE and suffix(path) != ".json":
        raise ValueError(f"source: {path} has no split {split!r}, it is one file; leave --split out")


def _of_corpus(top: Path, found: list[Path], split: str, subset: str | None) -> list[Path]:
    """The files of a folder that are of a split, or of none: rows and texts by their names, all others
    always."""
    held = [file for file in found if is_rows(file)]
    texts = [file for file in found if suffix(file) == ".txt" and not COMPANIONS.fullmatch(file.name)]
    if in_split(top, texts):
        held += texts
    others = [file for file in found if file not in held]
    if not held:
        return others
    left_out = IMAGES if any(COMPANIONS.fullmatch(file.name) is None for file in others) else COMPANIONS
    others = [file for file in others if left_out.fullmatch(file.name) is None]
    return sorted(
        [*of_split(top, each_once(held), split, subset), *others], key=lambda p: p.relative_to(top).as_posix()
    )


def _local_documents(
    found: list[Path], field: str, separator: str | None, encoding: str, split: str, on_bad: OnBad
) -> Iterator[Document]:
    """Reads file by file, each as its suffix says."""
    for file in found:
        if is_rows(file) or (suffix(file) in ROW_SUFFIXES and len(found) == 1):
            yield from as_documents(file_rows(file, split=split, on_bad=on_bad), field, on_bad=on_bad)
        else:
            yield from text_documents(file, separator=separator, encoding=encoding, on_bad=on_bad)
