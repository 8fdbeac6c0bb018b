"""Open any path or name as a source, with the reader for its format.

Everything streams, so that memory is bounded for any corpus. A document's name says where it is stored (file,
line). A record that cannot be read is reported: by default the first one raises an error with its file and
line; with `on_bad=bad.append` it is appended to a list instead, and the stream continues.
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
from data_pipes.source.text import ARCHIVE_REASON, COMPRESSED, Location, files, is_archive, text_documents
from data_pipes.types import BadRow, Document, OnBad, Row, stop

ROW_SUFFIXES = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".arrow", ".feather")
"""Suffixes of files of rows; one of COMPRESSED may follow."""

OTHER_TABLES = (".xlsx", ".xls", ".ods", ".orc", ".avro", ".pkl", ".pickle", ".npz", ".npy", ".sqlite", ".db")
"""Suffixes of tables that are not supported."""

OTHER_TABLE_REASON = "a table of this kind is not read; save it as JSONL, CSV or Parquet, and remove it"

COMPANIONS = re.compile(
    r"(README|LICEN[CS]E|CITATION|NOTICE|CHANGELOG)(\.\w+)?"
    r"|(config|dataset_infos?|dataset_dict|state)\.json|dummy_data\.zip"
    r"|.*\.(png|jpe?g|gif|webp|svg|bmp|ico|pdf|lock|sha256|md5|yaml|yml|toml)",
    re.IGNORECASE,
)
"""Names of files without rows that are usual next to files of rows."""

IMAGES = re.compile(r".*\.(png|jpe?g|gif|webp|svg|bmp|ico|pdf)", re.IGNORECASE)
"""Names in COMPANIONS of files that hold no text either."""


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
        path: a file, whatever split is in its name; a folder (files sorted by path, without hidden ones); a
            folder written by a data set's `save_to_disk`; or the name of a data set on the Hugging Face hub.
            Files with a suffix of ROW_SUFFIXES hold rows, all others text; .gz, .bz2, .xz or .zst may follow.
            In a folder of rows, a README, a licence, images and the like (COMPANIONS) are left out; if the
            folder also has other text files, only the images are.
        field: the column of rows that holds the text.
        separator: string between documents in text files ("<|endoftext|>", a blank line); None makes each
            file one document.
        encoding: encoding of text files.
        subset: the configuration of a data set that has several; in a folder, a configuration in README.md
            or a subfolder.
        split: split of a data set, or of a folder in one of the hub's layouts (`data_pipes.source.splits`);
            text files are split only if each of their names has the word of a split.
        on_bad: called for each bad record; `stop` raises.

    Returns:
        An iterator over documents, in a fixed order.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder is empty.
        ValueError: on a bad record, if on_bad is `stop`; if the path is empty, or neither a file nor a
            folder; or for an unknown split or subset.
    """
    _refuse_parts(path, split, subset)
    if is_saved(path):
        return as_documents(saved_rows(path, split=split, on_bad=on_bad), field, on_bad=on_bad)
    if _is_dataset(path):
        return as_documents(dataset_rows(str(path), subset=subset, split=split), field, on_bad=on_bad)
    paths = files(path)
    if not Path(path).is_file():
        paths = _select_corpus(Path(path), paths, split, subset)
    return _local_documents(paths, field, separator, encoding, split, on_bad)


def rows(
    path: Location, *, subset: str | None = None, split: str = "train", on_bad: OnBad = stop
) -> Iterator[Row]:
    """Opens any source of rows, as `documents` does, for stages that need more than one column.

    An archive or a table of an unsupported format in a folder of rows is reported as a bad record.

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
    paths = files(path)
    if Path(path).is_file():
        if suffix(path) not in ROW_SUFFIXES:
            raise ValueError(
                f"rows: {path} is not a file of rows; its name must end in {', '.join(ROW_SUFFIXES)}"
            )
    else:
        with_rows = [file for file in paths if is_rows(file)]
        if not with_rows:
            raise ValueError(
                f"rows: {path} has no file of rows, whose name would end in {', '.join(ROW_SUFFIXES)}"
            )
        unread = [file for file in paths if _why_unread(file) and not COMPANIONS.fullmatch(file.name)]
        paths = [*unread, *select_split(Path(path), refuse_two_formats(with_rows), split, subset)]
    return (row for file in paths for row in file_rows(file, split=split, on_bad=on_bad))


def is_rows(file: Path) -> bool:
    """Returns True if the name of a file in a folder says that it holds rows."""
    return suffix(file) in ROW_SUFFIXES and COMPANIONS.fullmatch(file.name) is None


def refuse_two_formats(paths: list[Path]) -> list[Path]:
    """Returns the files, unless two of them differ only in their suffixes (the same rows in two formats).

    Raises:
        ValueError: if two do; the message names them.
    """
    seen: dict[Path, Path] = {}
    for file in paths:
        uncompressed = file.with_suffix("") if file.name.lower().endswith(COMPRESSED) else file
        other = seen.setdefault(uncompressed.with_suffix(""), file)
        if other != file:
            raise ValueError(
                f"source: {other} and {file} would both be read; pass the path of one, or remove one"
            )
    return paths


def file_rows(path: Path, *, split: str = "train", on_bad: OnBad = stop) -> Iterator[Row]:
    """Streams the rows of one file, with the reader for its suffix.

    Args:
        path: the file; its suffix is one of ROW_SUFFIXES.
        split: split of a JSON file that holds several.
        on_bad: called for each bad record.

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
    """Returns the suffix that says the format of a file, in lower case, before one of COMPRESSED.

    Example:
        >>> suffix("rows.JSONL.gz")
        '.jsonl'
    """
    name = Path(str(path).lower())
    return Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


def _is_dataset(path: Location) -> bool:
    """True for a path that does not exist and could be a name on the hub."""
    if not str(path):
        raise ValueError('source: the path is empty; name a file, a folder ("." is this one) or a data set')
    return is_name(str(path)) and not Path(path).exists()


def _why_unread(path: Path) -> str:
    """Reason why a file that may hold rows is not read; "" for all other files."""
    if is_archive(path):
        return ARCHIVE_REASON
    return OTHER_TABLE_REASON if suffix(path) in OTHER_TABLES else ""


def _refuse_parts(path: Location, split: str, subset: str | None) -> None:
    """Refuses a subset of a file or a saved data set, and a split of a file that is not .json."""
    is_file = bool(str(path)) and Path(path).is_file()
    if subset is not None and (is_file or is_saved(path)):
        raise ValueError(f"source: {path} has no subset {subset!r}, it is one data set; leave --subset out")
    if is_file and split not in WHOLE and suffix(path) != ".json":
        raise ValueError(f"source: {path} has no split {split!r}, it is one file; leave --split out")


def _select_corpus(top: Path, paths: list[Path], split: str, subset: str | None) -> list[Path]:
    """Selects a folder's files: those of the split (rows, and texts if all name a split), and all others."""
    in_splits = [file for file in paths if is_rows(file)]
    texts = [file for file in paths if suffix(file) == ".txt" and not COMPANIONS.fullmatch(file.name)]
    if all_name_splits(top, texts):
        in_splits += texts
    others = [file for file in paths if file not in in_splits]
    if not in_splits:
        return others
    has_texts = any(COMPANIONS.fullmatch(file.name) is None for file in others)
    left_out = IMAGES if has_texts else COMPANIONS
    others = [file for file in others if left_out.fullmatch(file.name) is None]
    selected = select_split(top, refuse_two_formats(in_splits), split, subset)
    return sorted([*selected, *others], key=lambda file: file.relative_to(top).as_posix())


def _local_documents(
    paths: list[Path], field: str, separator: str | None, encoding: str, split: str, on_bad: OnBad
) -> Iterator[Document]:
    """Streams the documents of each file, with the reader for its suffix."""
    for file in paths:
        if is_rows(file) or (suffix(file) in ROW_SUFFIXES and len(paths) == 1):
            yield from as_documents(file_rows(file, split=split, on_bad=on_bad), field, on_bad=on_bad)
        else:
            yield from text_documents(file, separator=separator, encoding=encoding, on_bad=on_bad)
