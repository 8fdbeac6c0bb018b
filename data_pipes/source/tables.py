"""Read JSONL, JSON and data sets of the Hugging Face hub as rows, and turn rows into documents."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipes.source import hub
from data_pipes.source.lines import lines
from data_pipes.source.splits import WORDS
from data_pipes.source.text import DAMAGED, HOW_TO_CONVERT, Location, name_errors, open_binary
from data_pipes.types import BadRow, Document, OnBad, Row, stop

ROW_FIELDS = ("data", "rows", "examples", "instances")
"""Fields of a JSON object that may hold its list of rows."""

_BLOCK = 1 << 20


def as_documents(rows: Iterable[Row], field: str = "text", *, on_bad: OnBad = stop) -> Iterator[Document]:
    """Takes one column of rows as the text of documents.

    Args:
        rows: read once.
        field: the column.
        on_bad: gets each row without this column, or whose value in it is not a text.

    Returns:
        One document for every good row, with the row's name; an empty text is allowed.

    Example:
        >>> list(as_documents([Row({"body": "Hello"}, "a:1")], field="body"))
        [Document(text='Hello', name='a:1')]
    """
    for row in rows:
        text = row.values.get(field)
        if not isinstance(text, str):
            got = f"the columns {', '.join(row.values) or '(none)'}"
            if field in row.values:
                got = f"a {type(text).__name__}"
            reason = f"expected a text in {field!r}, got {got}; pass field= the column to read"
            on_bad(BadRow(row.name, reason))
        elif (place := _find_surrogate(text)) is not None:
            reason = f"character {place} of {field!r} is a lone surrogate; fix the encoding"
            on_bad(BadRow(row.name, reason))
        else:
            yield Document(text, row.name)


def jsonl_rows(path: Location, *, on_bad: OnBad = stop) -> Iterator[Row]:
    """Streams a file of JSON objects, one per line; blank lines are skipped.

    Args:
        path: the file; .gz is unpacked.
        on_bad: gets each line that is not a JSON object in UTF-8, or is longer than 64 MiB.

    Returns:
        An iterator over rows, named "file:line" from line 1.
    """
    for number, line in enumerate(lines(path, on_bad), 1):
        if line.strip():
            values = _parse_object(line)
            if isinstance(values, dict):
                yield Row(values, f"{path}:{number}")
            else:
                on_bad(BadRow(f"{path}:{number}", f"expected one JSON object on the line, got {values}"))


def json_rows(path: Location, *, split: str = "train", on_bad: OnBad = stop) -> Iterator[Row]:
    """Reads a JSON file that holds one list of objects, or one object with such a list in a field.

    The field is one of ROW_FIELDS or the name of a split.

    Args:
        path: the file, read whole if it has one of these forms, otherwise streamed as JSON lines.
        split: the field to read, if an object has lists for several splits.
        on_bad: gets each item that is not an object, or the file if it is not JSON.

    Returns:
        An iterator over rows, named "file[item]" from item 0.

    Raises:
        ValueError: if an object has lists for several splits, but none for `split`.
    """
    value = _read_json(path)
    if value is None:
        yield from jsonl_rows(path, on_bad=on_bad)
    elif isinstance(value, list):
        yield from _object_rows(value, str(path), on_bad)
    elif isinstance(value, str):
        on_bad(BadRow(str(path), f"expected a JSON list of objects, got {value}"))
    elif (name := _find_list(value, split, path)) is not None:
        yield from _object_rows(value[name], f"{path}.{name}", on_bad)
    else:
        keys = ", ".join(value)[:80]
        reason = (
            f"expected a JSON list of objects, or one object per line, got an object with the keys {keys}"
        )
        on_bad(BadRow(str(path), reason))


def dataset_rows(
    name: str, *, subset: str | None = None, split: str = "train", streaming: bool = True
) -> Iterator[Row]:
    """Streams a data set of the `datasets` library: a name on the hub.

    Args:
        name: "owner/name", or a folder that the library loads.
        subset: the configuration, if there are several.
        split: "train", "validation", "train[:1%]" (the last needs streaming=False), ...
        streaming: False downloads all of it first.

    Returns:
        Rows named "name/split:row", from row 1.

    Raises:
        ValueError: if it cannot be loaded, with the library's reason. Code of the data set is never run.
    """
    import datasets

    local = Path(name).exists()
    missing = "" if local else f"there is no file or folder {name!r}; "
    if not local and (why := hub.explain_unreachable(name)):
        raise ValueError(f"source: {missing}the hub cannot be searched for it: {why}")
    try:
        dataset = datasets.load_dataset(name, subset, split=split, streaming=streaming)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"source: {missing}cannot load the data set {name!r} (subset {subset!r}, split {split!r}): "
            f"{reason}"
        ) from error
    return (Row(dict(values), f"{name}/{split}:{number}") for number, values in enumerate(dataset, 1))


def _read_json(path: Location) -> Any:
    """Reads a JSON file that is not in JSON lines.

    Returns:
        The list or the object of the file; None if it is JSON lines; a text that describes the problem if it
        cannot be read.
    """
    try:
        with name_errors(path), open_binary(path) as file:
            head = file.read(_BLOCK).lstrip(b"\xef\xbb\xbf \t\r\n")
    except DAMAGED as error:
        return f"a compressed file that is damaged ({error}); copy it again"
    if not head.startswith((b"[", b"{")):
        return None
    if head.startswith(b"{"):
        first_line = _parse_object(head.split(b"\n")[0])
        if isinstance(first_line, dict):  # JSON lines, unless it is the only line and holds a list of rows
            is_one_line = b"\n" not in head.strip() and len(head) < _BLOCK
            return first_line if is_one_line and _find_list(first_line, "train") else None
    try:
        with name_errors(path), open_binary(path) as file:
            return json.loads(file.read().decode("utf-8-sig"), object_pairs_hook=_refuse_repeated_keys)
    except (ValueError, RecursionError, *DAMAGED) as error:
        is_json_lines = head.startswith(b"{") and b"\n{" in head
        return None if is_json_lines else str(error)


def _find_list(value: dict[str, Any], split: str, path: Location | None = None) -> str | None:
    """Finds the field of an object that holds its rows; None if there is none."""
    split_names = (*WORDS, *itertools.chain(*WORDS.values()))
    lists = [name for name, field in value.items() if _is_list_of_objects(field)]
    if split in lists and split in split_names:
        return split
    if path is not None and (others := [name for name in lists if name in WORDS]):
        raise ValueError(f"source: {path} has no split {split!r}; it has {', '.join(others)}; pass --split")
    return next((name for name in lists if name in (*ROW_FIELDS, *WORDS)), None)


def _is_list_of_objects(value: Any) -> bool:
    """True for a list of one JSON object or more."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _object_rows(items: list[Any], name: str, on_bad: OnBad) -> Iterator[Row]:
    """Yields the objects of a list as rows."""
    for number, values in enumerate(items):
        if isinstance(values, dict):
            yield Row(values, f"{name}[{number}]")
        else:
            on_bad(BadRow(f"{name}[{number}]", f"expected a JSON object, got a {type(values).__name__}"))


def _parse_object(line: bytes) -> dict[str, Any] | str:
    """Parses the object on a line, or returns a description of what the line has instead."""
    try:
        values = json.loads(line.decode().rstrip(), object_pairs_hook=_refuse_repeated_keys)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} (byte {error.start} of the line)"
        return f"{byte}, which is not UTF-8; {HOW_TO_CONVERT}"
    except json.JSONDecodeError as error:  # its line is that of this text, not of the file
        return f"text that is not JSON ({error.msg}, column {error.colno})"
    except (ValueError, RecursionError) as error:
        return f"text that is not JSON ({error})"
    return values if isinstance(values, dict) else f"a {type(values).__name__}"


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object; refuses a repeated key, of which `json` would silently keep the last value."""
    names = [name for name, _ in pairs]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"the key {repeated[0]!r} appears twice in an object")
    return dict(pairs)


def _find_surrogate(text: str) -> int | None:
    """Returns the index of the first character that UTF-8 cannot encode, or None."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
