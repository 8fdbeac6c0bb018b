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

LISTS = ("data", "rows", "examples", "instances")
"""Names under which a JSON object holds its rows."""

_BLOCK = 1 << 20


def as_documents(records: Iterable[Row], field: str = "text", *, on_bad: OnBad = stop) -> Iterator[Document]:
    """Takes one column of rows as the text of documents.

    Args:
        records: rows, read once.
        field: the column.
        on_bad: gets each row that has no such column, or something else than text in it.

    Returns:
        One document for every good row, with its name; an empty text is a text.

    Example:
        >>> list(as_documents([Row({"body": "Hello"}, "a:1")], field="body"))
        [Document(text='Hello', name='a:1')]
    """
    for row in records:
        text = row.values.get(field)
        if not isinstance(text, str):
            got = f"the columns {', '.join(row.values) or '(none)'}"
            if field in row.values:
                got = f"a {type(text).__name__}"
            reason = f"expected a text in {field!r}, got {got}; pass field= the column to read"
            on_bad(BadRow(row.name, reason))
        elif (place := _find_surrogate(text)) is not None:
            reason = f"character {place} of {field!r} is half a surrogate pair, which is no text"
            on_bad(BadRow(row.name, reason))
        else:
            yield Document(text, row.name)


def jsonl_rows(path: Location, *, on_bad: OnBad = stop) -> Iterator[Row]:
    """Streams a file of JSON objects, one a line; blank lines are skipped.

    Args:
        path: the file; .gz is unpacked.
        on_bad: gets each line that is no JSON object in UTF-8, or is longer than 64 MiB.

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
    """Reads a JSON file of one list of objects, or of one object with such a list in one of its fields.

    The field is one of LISTS or the name of a split.

    Args:
        path: the file, read at once if it has this form; any other .json is read as JSON lines.
        split: of an object with lists under names of splits.
        on_bad: gets each item that is no object, or the file if it is no JSON.

    Returns:
        An iterator over rows, named "file[item]" from item 0.

    Raises:
        ValueError: for an object with lists under the names of splits, none of which is `split`.
    """
    value = _read_json(path)
    if value is None:
        yield from jsonl_rows(path, on_bad=on_bad)
    elif isinstance(value, list):
        yield from _items(value, str(path), on_bad)
    elif isinstance(value, str):
        on_bad(BadRow(str(path), f"expected a JSON list of objects, got {value}"))
    elif (name := _find_list(value, split, path)) is not None:
        yield from _items(value[name], f"{path}.{name}", on_bad)
    else:
        keys = ", ".join(value)[:80]
        reason = f"expected a JSON list of objects, or an object a line, got one with {keys}"
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
    missing = "" if local else f"there is no file or folder {name!r}; taken for a data set's name, "
    if not local and (why := hub.explain_unreachable(name)):
        raise ValueError(f"source: {missing}it cannot be looked up, as {why}")
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
    """Reads a JSON file that is a list, or one object over several lines or with a list of rows.

    Returns None for JSON lines, and a text with the reason if it is none of these.
    """
    try:
        with name_errors(path), open_binary(path) as file:
            begin = file.read(_BLOCK).lstrip(b"\xef\xbb\xbf \t\r\n")
    except DAMAGED as error:
        return f"a packed file that is damaged ({error}); copy it again"
    if not begin.startswith((b"[", b"{")):
        return None
    if begin.startswith(b"{") and isinstance(line := _parse_object(begin.split(b"\n")[0]), dict):
        is_one_line = b"\n" not in begin.strip() and len(begin) < _BLOCK
        return line if is_one_line and _find_list(line, "train") else None
    try:
        with name_errors(path), open_binary(path) as file:
            return json.loads(file.read().decode("utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, RecursionError, *DAMAGED) as error:
        several = begin.startswith(b"{") and b"\n{" in begin
        return None if several else str(error)


def _find_list(value: dict[str, Any], split: str, path: Location | None = None) -> str | None:
    """The name of the field of an object that holds its rows."""
    lists = [name for name, field in value.items() if _is_list_of_objects(field)]
    if split in lists and split in (*WORDS, *itertools.chain(*WORDS.values())):
        return split
    if path is not None and (others := [name for name in lists if name in WORDS]):
        raise ValueError(f"source: {path} has no split {split!r}; it has {', '.join(others)}; pass --split")
    return next((name for name in lists if name in (*LISTS, *WORDS)), None)


def _is_list_of_objects(value: Any) -> bool:
    """True for a list of one JSON object or more."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _items(items: list[Any], name: str, on_bad: OnBad) -> Iterator[Row]:
    """The objects of a list."""
    for number, values in enumerate(items):
        if isinstance(values, dict):
            yield Row(values, f"{name}[{number}]")
        else:
            on_bad(BadRow(f"{name}[{number}]", f"expected a JSON object, got a {type(values).__name__}"))


def _parse_object(line: bytes) -> dict[str, Any] | str:
    """Parses the object on a line, or returns a description of what the line has instead."""
    try:
        values = json.loads(line.decode(), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x} (byte {error.start} of the line)"
        return f"{byte}, which is not UTF-8; {HOW_TO_CONVERT}"
    except (ValueError, RecursionError) as error:
        return f"text that is no JSON ({error})"
    return values if isinstance(values, dict) else f"a {type(values).__name__}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes an object without repeated keys, of which JSON would keep only the last value."""
    names = [name for name, _ in pairs]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"the key {repeated[0]!r} stands twice in an object")
    return dict(pairs)


def _find_surrogate(text: str) -> int | None:
    """The place of the first character that UTF-8 cannot encode, or None."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
