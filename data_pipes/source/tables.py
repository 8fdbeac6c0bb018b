"""JSONL, JSON and data sets of the Hugging Face hub as rows, and rows as documents."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipes.source import hub
from data_pipes.source.lines import lines
from data_pipes.source.splits import WORDS
from data_pipes.source.text import DAMAGED, HOW_TO_CONVERT, Location, naming, open_binary
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
            what = (
                f"a {type(text).__name__}"
                if field in row.values
                else f"the columns {', '.join(row.values) or '(none)'}"
            )
            on_bad(
                BadRow(row.name, f"expected a text in {field!r}, got {what}; pass field= the column to read")
            )
        elif (place := _surrogate(text)) is not None:
            on_bad(
                BadRow(row.name, f"character {place} of {field!r} is half a surrogate pair, which is no text")
            )
        else:
            yield Document(text, row.name)


def jsonl_rows(path: Location, *, on_bad: OnBad = stop) -> Iterator[Row]:
    """Streams a file of JSON objects, one a line; blank lines hold none. Rows are named "file:line", from
    line 1.

    Args:
        path: the file; .gz is unpacked.
        on_bad: gets each line that is no JSON object in UTF-8, or is longer than 64 MiB.

    Returns:
        An iterator over rows.
    """
    for number, line in enumerate(lines(path, on_bad), 1):
        if line.strip():
            values = _object(line)
            if isinstance(values, dict):
                yield Row(values, f"{path}:{number}")
            else:
                on_bad(BadRow(f"{path}:{number}", f"expected one JSON object on the line, got {values}"))


def json_rows(path: Location, *, split: str = "train", on_bad: OnBad = stop) -> Iterator[Row]:
    """Reads a JSON file that is one list of objects, or one object with such a list under "data", "rows" or a
    split.

    Args:
        path: the file, read whole if it is one of these; any other .json is taken for JSON lines.
        split: of an object with lists under names of splits.
        on_bad: gets each item that is no object, or the file if it is no JSON.

    Returns:
        An iterator over rows, named "file[item]" from item 0.

    Raises:
        ValueError: for an object with lists under the names of splits, none of which is asked for.
    """
    whole = _whole(path)
    if whole is None:
        yield from jsonl_rows(path, on_bad=on_bad)
    elif isinstance(whole, list):
        yield from _items(whole, str(path), on_bad)
    elif isinstance(whole, str):
        on_bad(BadRow(str(path), f"expected a JSON list of objects, got {whole}"))
    else:
        name = _list_of(whole, split, path)
        if name is None:
            keys = ", ".join(whole)[:80]
            on_bad(
                BadRow(
                    str(path), f"expected a JSON list of objects, or an object a line, got one with {keys}"
                )
            )
        else:
            yield from _items(whole[name], f"{path}.{name}", on_bad)


def dataset_rows(
    name: str, *, subset: str | None = None, split: str = "train", streaming: bool = True
) -> Iterator[Row]:
    """Streams a data set of the `datasets` library: a name on the hub.

    Args:
        name: "owner/name", or a folder that the library loads.
        subset: the configuration, where there are several.
        split: "train", "validation", "train[:1%]" (the last needs streaming=False), ...
        streaming: False downloads all of it first.

    Returns:
        Rows named "name/split:row", from row 1.

    Raises:
        ValueError: if it cannot be loaded, with the library's reason. Code that came with the data is never
            run.
    """
    import datasets

    local = Path(name).exists()
    missing = "" if local else f"there is no file or folder {name!r}; taken for a data set's name, "
    if not local and (why := hub.unreachable(name)):
        raise ValueError(f"source: {missing}it cannot be looked up, as {why}")
    try:
        found = datasets.load_dataset(name, subset, split=split, streaming=streaming)
    except Exception as error:
        what = f"cannot load the data set {name!r} (subset {subset!r}, split {split!r}): {' '.join(str(error).split())}"
        raise ValueError(f"source: {missing}{what}") from error
    return (Row(dict(values), f"{name}/{split}:{number}") for number, values in enumerate(found, 1))


def _whole(path: Location) -> Any:
    """What a JSON file is: a list, one object over several lines or with a list of rows; None for JSON lines;
    a text says why it is none of these."""
    try:
        with naming(path), open_binary(path) as file:
            begin = file.read(_BLOCK).lstrip(b"\xef\xbb\xbf \t\r\n")
    except DAMAGED as error:
        return f"a packed file that is damaged ({error}); copy it again"
    if not begin.startswith((b"[", b"{")):
        return None
    if begin.startswith(b"{") and isinstance(line := _object(begin.split(b"\n")[0]), dict):
        return (
            line if b"\n" not in begin.strip() and len(begin) < _BLOCK and _list_of(line, "train") else None
        )
    try:
        with naming(path), open_binary(path) as file:
            return json.loads(file.read().decode("utf-8-sig"), object_pairs_hook=_unique)
    except (ValueError, RecursionError, *DAMAGED) as error:
        several = begin.startswith(b"{") and b"\n{" in begin
        return None if several else str(error)


def _list_of(whole: dict[str, Any], split: str, path: Location | None = None) -> str | None:
    """The name in an object under which its rows are."""
    lists = [
        name for name, x in whole.items() if isinstance(x, list) and x and all(isinstance(i, dict) for i in x)
    ]
    if split in lists and split in (*WORDS, *itertools.chain(*WORDS.values())):
        return split
    if path is not None and (others := [name for name in lists if name in WORDS]):
        raise ValueError(f"source: {path} has no split {split!r}; it has {', '.join(others)}; pass --split")
    return next((name for name in lists if name in (*LISTS, *WORDS)), None)


def _items(items: list[Any], name: str, on_bad: OnBad) -> Iterator[Row]:
    """The objects of a list."""
    for number, values in enumerate(items):
        if isinstance(values, dict):
            yield Row(values, f"{name}[{number}]")
        else:
            on_bad(BadRow(f"{name}[{number}]", f"expected a JSON object, got a {type(values).__name__}"))


def _object(line: bytes) -> dict[str, Any] | str:
    """The object on a line, or what is there instead, in words."""
    try:
        values = json.loads(line.decode(), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        return f"byte 0x{line[error.start]:02x} (byte {error.start} of the line), which is not UTF-8; {HOW_TO_CONVERT}"
    except (ValueError, RecursionError) as error:
        return f"text that is no JSON ({error})"
    return values if isinstance(values, dict) else f"a {type(values).__name__}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, of which no key may stand twice: JSON would keep the last value, and drop the others."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice in an object"
        )
    return found


def _surrogate(text: str) -> int | None:
    """The place of the first character that UTF-8 cannot hold, or None."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
