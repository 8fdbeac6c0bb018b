"""Open any path or name as a source, with the reader for its format.

Everything streams, so that memory is bounded for any corpus. Every document has the name of its place. A
record that cannot be read is reported: by default the first one stops the stream and is named with its file
and line; with `on_bad=bad.append` it goes to a list instead, and the stream continues.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_pipes.source.arrow import arrow_rows, is_saved, parquet_rows, saved_rows
from data_pipes.source.delimited import delimited_rows
from data_pipes.source.hub import is_name
from data_pipes.source.splits import WHOLE, all_name_splits, select_split
from data_pipes.source.tables import as_documents, dataset_rows, json_rows, jsonl_rows
from data_pipes.source.text import ARCHIVE, PACKED, Location, files, is_archive, text_documents
from data_pipes.types import BadRow, Document, OnBad, Row, stop

ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".arrow", ".feather")
"""Suffixes of files of rows; one of PACKED may follow."""

OTHER_TABLES = (".xlsx", ".xls", ".ods", ".orc", ".avro", ".pkl", ".pickle", ".npz", ".npy", ".sqlite", ".db")
"""Suffixes of tables that are not read."""

OTHER_TABLE = "a table of this kind is not read; save it as JSONL, CSV or Parquet, and remove it"

COMPANIONS = re.compile(
    r"(README|LICEN[CS]E|CITATION|NOTICE|CHANGELOG)(\.\w+)?"
    r"|(config|dataset_infos?|dataset_dict|state)\.json|dummy_data\.zip"
    r"|.*\.(png|jpe?g|gif|webp|svg|bmp|ico|pdf|lock|sha256|md5|yaml|yml|toml)",
    re.IGNORECASE,
)
"""Names of files beside rows that hold no rows."""

IMAGES = re.compile(r".*\.(png|jpe?g|gif|webp|svg|bmp|ico|pdf)", re.IGNORECASE)
"""Those of COMPANIONS that hold no text either."""


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
        path: a file, whatever split its name says; a folder (files sorted by path, without hidden ones); a
            folder written by a data set's `save_to_disk`; or the name of a data set on the Hugging Face hub.
            Files with a suffix of ROW_SUFFIXES hold rows, all others text; .gz, .bz2, .xz or .zst may follow.
            In a folder of rows, a README, a licence, images and the like (COMPANIONS) are left out; in a
            folder that has other texts too, only images beside rows are left out.
        field: the column of rows that holds the text.
        separator: cuts text files into documents ("<|endoftext|>", a blank line); None makes each file one.
        encoding: of text files.
        subset: the configuration of a data set that has several; in a folder one of README.md, or a folder.
        split: of a data set, or of a folder in one of the hub's layouts (`data_pipes.source.splits`); text
            files have splits if all their names have one.
        on_bad: gets each bad record; `stop` raises.

    Returns:
        An iterator over documents, in a fixed order.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder is empty.
        ValueError: on a bad record, under `stop`; if the path is empty, or neither a file nor a folder; or
            for an unknown split or subset.
    """
    _refuse_parts(path, split, subset)
    if is_saved(path):
        return as_documents(saved_rows(path, split=split, on_bad=on_bad), field, on_bad=on_bad)
    if _is_dataset(path):
        return as_documents(dataset_rows(str(path), subset=subset, split=split), field, on_bad=on_bad)
    found = files(path)
    if not Path(path).is_file():
        found = _select_corpus(Path(path), found, split, subset)
    return _local_documents(found, field, separator, encoding, split, on_bad)


def rows(
    path: Location, *, subset: str | None = None, split: str = "train", on_bad: OnBad = stop
) -> Iterator[Row]:
    """Opens any source of rows: as `documents`, for stages that need more than one column.

    An archive or a table of another kind beside files of rows is a bad record, as it is not read.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder is empty.
        ValueError: if a file does not hold rows, for an unknown split or subset, or on a bad record under
            `stop`.
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
        with_rows = [file for file in found if is_rows(file)]
        if not with_rows:
            raise ValueError(
                f"rows: {path} has no file of rows, whose name would end in {', '.join(ROW_SUFFIXES)}"
            )
        unread = [file for file in found if _why_unread(file) and not COMPANIONS.fullmatch(file.name)]
        found = [*unread, *select_split(Path(path), refuse_two_formats(with_rows), split, subset)]
    return (row for file in found for row in file_rows(file, split=split, on_bad=on_bad))


def is_rows(file: Path) -> bool:
    """Returns True if a file in a folder holds rows, by its name."""
    return suffix(file) in ROW_SUFFIXES and COMPANIONS.fullmatch(file.name) is None


def refuse_two_formats(paths: list[Path]) -> list[Path]:
    """Returns the files, if no two of them have the same rows in two formats, to judge by their names.

    Raises:
        ValueError: naming two that have.
    """
    seen: dict[Path, Path] = {}
    for file in paths:
        unpacked = file.with_suffix("") if file.name.lower().endswith(PACKED) else file
        other = seen.setdefault(unpacked.with_suffix(""), file)
        if other != file:
            raise ValueError(
                f"source: {other} and {file} would both be read; pass the path of one, or remove one"
            )
    return paths


def file_rows(path: Path, *, split: str = "train", on_bad: OnBad = stop) -> Iterator[Row]:
    """Streams the rows of one file, by its suffix.

    Args:
        path: has a suffix of ROW_SUFFIXES.
        split: of a JSON file that holds several.
        on_bad: gets each bad record.

    Returns:
        An iterator over rows.
    """
    end = suffix(path)
    if reason := _why_unread(path):
        on_bad(BadRow(str(path), reason))
        return iter(())
    if end == ".json":
        return json_rows(path, split=split, on_bad=on_bad)
    if end in (".csv", ".tsv"):
        return delimited_rows(path, delimiter="," if end == ".csv" else "\t", on_bad=on_bad)
    readers = {".parquet": parquet_rows, ".arrow": arrow_rows, ".feather": arrow_rows}
    return readers.get(end, jsonl_rows)(path, on_bad=on_bad)


def suffix(path: Location) -> str:
    """Returns the suffix of a name that says the format, without .gz and the like.

    Example:
        >>> suffix("rows.JSONL.gz")
        '.jsonl'
    """
    name = Path(str(path).lower())
    return Path(name.stem).suffix if name.suffix in PACKED else name.suffix


def _is_dataset(path: Location) -> bool:
    """True for a path that does not exist and could be a name on the hub."""
    if not str(path):
        raise ValueError('source: the path is empty; name a file, a folder ("." is this one) or a data set')
    return is_name(str(path)) and not Path(path).exists()


def _why_unread(path: Path) -> str:
    """The reason why a file that may hold rows is not read; "" for others."""
    if is_archive(path):
        return ARCHIVE
    return OTHER_TABLE if suffix(path) in OTHER_TABLES else ""


def _refuse_parts(path: Location, split: str, subset: str | None) -> None:
    """Refuses the subset of a file or a saved data set, and the split of a file that is no .json."""
    is_file = bool(str(path)) and Path(path).is_file()
    if subset is not None and (is_file or is_saved(path)):
        raise ValueError(f"source: {path} has no subset {subset!r}, it is one data set; leave --subset out")
    if is_file and split not in WHOLE and suffix(path) != ".json":
        raise ValueError(f"source: {path} has no split {split!r}, it is one file; leave --split out")


def _select_corpus(top: Path, found: list[Path], split: str, subset: str | None) -> list[Path]:
    """Selects the files of a folder: rows, and texts if all have splits, of the split; all others."""
    in_splits = [file for file in found if is_rows(file)]
    texts = [file for file in found if suffix(file) == ".txt" and not COMPANIONS.fullmatch(file.name)]
    if all_name_splits(top, texts):
        in_splits += texts
    others = [file for file in found if file not in in_splits]
    if not in_splits:
        return others
    has_texts = any(COMPANIONS.fullmatch(file.name) is None for file in others)
    left_out = IMAGES if has_texts else COMPANIONS
    others = [file for file in others if left_out.fullmatch(file.name) is None]
    selected = select_split(top, refuse_two_formats(in_splits), split, subset)
    return sorted([*selected, *others], key=lambda file: file.relative_to(top).as_posix())


def _local_documents(
    found: list[Path], field: str, separator: str | None, encoding: str, split: str, on_bad: OnBad
) -> Iterator[Document]:
    """Reads file by file, each with the reader for its suffix."""
    for file in found:
        if is_rows(file) or (suffix(file) in ROW_SUFFIXES and len(found) == 1):
            yield from as_documents(file_rows(file, split=split, on_bad=on_bad), field, on_bad=on_bad)
        else:
            yield from text_documents(file, separator=separator, encoding=encoding, on_bad=on_bad)
