"""Parquet files, Arrow files and folders written by a data set's `save_to_disk`, as rows.

A value that Python cannot hold (a text that is not UTF-8, a date after the year 9999, an unknown time zone)
makes its row a bad one, named by file, row and column; the rows around it are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipes.source.text import Location, name_errors
from data_pipes.types import BadRow, OnBad, Row, stop

if TYPE_CHECKING:
    import pyarrow

_ROWS_PER_BATCH = 1024
_MAGIC = b"ARROW1"


def parquet_rows(path: Location, *, on_bad: OnBad = stop) -> Iterator[Row]:
    """Streams a Parquet file, a thousand rows at a time.

    Args:
        path: the file.
        on_bad: gets each row with a value that cannot be read, the first row of each row group that cannot be
            read (reading continues with the next group), and the file if it is not Parquet or has two columns
            with the same name.

    Returns:
        An iterator over rows, named "file:row" from row 1. Columns of JSON (Arrow's type, which `datasets`
        writes for values of mixed types) are decoded.
    """
    import pyarrow.parquet

    with name_errors(path), open(path, "rb") as handle:
        file, error = _try(lambda: pyarrow.parquet.ParquetFile(handle))
        schema = None
        if error is None:
            schema, error = _try(lambda: file.schema_arrow)
        if error is not None:
            on_bad(
                BadRow(f"{path}:1", f"cannot be read as Parquet ({_one_line(error)}); copy the file again")
            )
        elif not _has_bad_schema(schema, path, on_bad):
            first = 0
            for group in range(file.num_row_groups):
                batches = _batches(partial(file.iter_batches, _ROWS_PER_BATCH, row_groups=[group]))
                yield from _rows(batches, path, first, "Parquet", on_bad)
                first += file.metadata.row_group(group).num_rows


def arrow_rows(path: Location, *, on_bad: OnBad = stop) -> Iterator[Row]:
    """Streams an Arrow file, in the IPC format of streams (as `datasets` writes) or of files (Feather 2).

    Args:
        path: the file.
        on_bad: gets each row with a value that cannot be read, the place after which the file cannot be read,
            and a file that is not Arrow or has two columns with the same name.

    Returns:
        Rows, named and decoded as by `parquet_rows`.
    """
    import pyarrow
    import pyarrow.ipc

    with name_errors(path), open(path, "rb") as handle:
        is_file = handle.read(len(_MAGIC)) == _MAGIC
        handle.seek(0)
        reader, error = _try(
            lambda: pyarrow.ipc.open_file(handle) if is_file else pyarrow.ipc.open_stream(handle)
        )
        if error is not None:
            on_bad(BadRow(f"{path}:1", f"cannot be read as Arrow ({_one_line(error)}); copy the file again"))
        elif not _has_bad_schema(reader.schema, path, on_bad):
            batches = reader
            if is_file:
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            yield from _rows(_batches(lambda: map(_validate, batches)), path, 0, "Arrow", on_bad)


def saved_rows(folder: Location, *, split: str = "train", on_bad: OnBad = stop) -> Iterator[Row]:
    """Streams the rows of a folder that `save_to_disk` of a Dataset or a DatasetDict wrote.

    Args:
        folder: contains state.json or dataset_dict.json.
        split: the split to read of a DatasetDict; ignored for a Dataset.
        on_bad: as in `arrow_rows`.

    Returns:
        Rows, named "file:row" from row 1 of each file. Columns that the data set's format hides are left out,
        as `load_from_disk` does.

    Raises:
        ValueError: if there is no such split, or a description cannot be read.
        FileNotFoundError: if a file of rows is missing.
    """
    top = Path(folder)
    if (top / "dataset_dict.json").is_file():
        splits = _read_description(top / "dataset_dict.json", "splits")["splits"]
        if split not in splits:
            raise ValueError(f"source: {top} has no split {split!r}; it has {', '.join(map(str, splits))}")
        top = top / split
    state = top / "state.json"
    description = _read_description(state, "_data_files")
    items = description["_data_files"]
    names = [item.get("filename") if isinstance(item, dict) else None for item in items]
    shown = None if description.get("_output_all_columns") else description.get("_format_columns")
    if description.get("_indices_data_files") or not all(isinstance(name, str) for name in names):
        raise ValueError(f"source: {state} lists no files of rows; load the data set, and save it again")
    files = [top / str(name) for name in names]
    if missing := [file for file in files if not file.is_file()]:
        raise FileNotFoundError(
            f"source: {missing[0]}, a file that {state} lists, is missing; copy the folder again"
        )
    rows = (row for file in files for row in arrow_rows(file, on_bad=on_bad))
    if shown is None:
        return rows
    return (Row({name: x for name, x in row.values.items() if name in shown}, row.name) for row in rows)


def is_saved(path: Location) -> bool:
    """Returns True for a folder that a data set's `save_to_disk` wrote."""
    return any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _read_description(path: Path, field: str) -> dict[str, Any]:
    """Reads a JSON file that `save_to_disk` wrote, with a list under `field`."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"source: {path} cannot be read ({_one_line(error)}); save the data set again"
        ) from None
    if not isinstance(description, dict) or not isinstance(description.get(field), list):
        raise ValueError(f"source: {path} has no list {field!r}; save the data set again with save_to_disk")
    return description


def _batches(
    open_batches: Callable[[], Iterable[pyarrow.RecordBatch]],
) -> Iterator[pyarrow.RecordBatch | Exception]:
    """Yields batches; if reading fails, the last item is the error."""
    batches, error = _try(lambda: iter(open_batches()))
    while error is None:
        batch, error = _try(lambda: next(batches, None))
        if batch is None and error is None:
            return
        if error is None:
            yield batch
    yield error


def _rows(
    batches: Iterator[pyarrow.RecordBatch | Exception], path: Location, number: int, kind: str, on_bad: OnBad
) -> Iterator[Row]:
    """Yields the rows of batches, from row `number` + 1 on."""
    for batch in batches:
        if isinstance(batch, Exception):
            reason = f"cannot be read as {kind} from here on ({_one_line(batch)}); copy the file again"
            on_bad(BadRow(f"{path}:{number + 1}", reason))
            return
        values, error = _try(partial(_decode_rows, batch))
        if error is None:
            yield from (Row(row, f"{path}:{number + i}") for i, row in enumerate(values, 1))
        else:
            yield from _read_one_by_one(batch, path, number, on_bad)
        number += batch.num_rows


def _read_one_by_one(batch: pyarrow.RecordBatch, path: Location, number: int, on_bad: OnBad) -> Iterator[Row]:
    """Yields the good rows of a batch in which a value cannot be read."""
    for i in range(batch.num_rows):
        row: dict[str, Any] = {}
        bad = ""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            row[name], error = _try(partial(_read_value, column, i))
            if error is not None and not bad:
                bad = (
                    f"the column {name} ({column.type}) has a value that cannot be read ({_one_line(error)})"
                )
        if bad:
            on_bad(BadRow(f"{path}:{number + i + 1}", bad))
        else:
            yield Row(row, f"{path}:{number + i + 1}")


def _read_value(column: pyarrow.Array, i: int) -> Any:
    """Reads one value of a column, JSON decoded."""
    value, decode = column[i].as_py(maps_as_pydicts="strict"), _decoder(column.type)
    return value if decode is None else decode(value)


def _validate(batch: pyarrow.RecordBatch) -> pyarrow.RecordBatch:
    """Checks that a batch's offsets stay inside its buffers, as Arrow does not check memory maps."""
    for column in batch.columns:
        if _try(partial(column.validate, full=True))[1] is not None:
            # Invalid UTF-8 makes only its own row bad, so the texts are checked here as bytes.
            column.view(_texts_as_bytes(column.type)).validate(full=True)
    return batch


def _texts_as_bytes(kind: pyarrow.DataType) -> pyarrow.DataType:
    """Returns the same type with every string type replaced by a binary type."""
    import pyarrow

    plain = {pyarrow.string(): pyarrow.binary(), pyarrow.large_string(): pyarrow.large_binary()}
    if pyarrow.types.is_struct(kind):
        return pyarrow.struct([field.with_type(_texts_as_bytes(field.type)) for field in kind])
    if pyarrow.types.is_list(kind):
        return pyarrow.list_(kind.value_field.with_type(_texts_as_bytes(kind.value_type)))
    return plain.get(kind, kind)


def _decode_rows(batch: pyarrow.RecordBatch) -> list[dict[str, Any]]:
    """Converts a batch to rows, JSON decoded."""
    rows = batch.to_pylist(maps_as_pydicts="strict")
    for field in batch.schema:
        if (decode := _decoder(field.type)) is not None:
            rows = [{**row, field.name: decode(row[field.name])} for row in rows]
    return rows


def _decoder(kind: pyarrow.DataType) -> Callable[[Any], Any] | None:
    """Returns the function that decodes JSON inside values of a type, or None if there is none."""
    import pyarrow

    if isinstance(kind, pyarrow.JsonType):
        return lambda value: None if value is None else json.loads(value)
    if pyarrow.types.is_struct(kind):
        inner = {field.name: decode for field in kind if (decode := _decoder(field.type)) is not None}
        return partial(_decode_fields, decoders=inner) if inner else None
    lists = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    if any(getattr(pyarrow.types, name)(kind) for name in lists):
        decode_item = _decoder(kind.value_type)
        return None if decode_item is None else partial(_decode_items, decode_item=decode_item)
    return None


def _decode_items(value: list | None, *, decode_item: Callable[[Any], Any]) -> list | None:
    """Decodes the items of a list that hold JSON."""
    if not value:
        return value
    return [decode_item(item) for item in value]


def _decode_fields(
    value: dict[str, Any] | None, *, decoders: Mapping[str, Callable[[Any], Any]]
) -> dict[str, Any] | None:
    """Decodes the fields of a struct that hold JSON."""
    if not value:
        return value
    return {name: decoders[name](x) if name in decoders else x for name, x in value.items()}


def _has_bad_schema(schema: pyarrow.Schema, path: Location, on_bad: OnBad) -> bool:
    """Reports a file with two columns of the same name, or with a column without a name."""
    names, error = _try(lambda: list(schema.names))
    if error is not None:
        on_bad(BadRow(str(path), f"has a column without a name ({_one_line(error)})"))
        return True
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        on_bad(BadRow(str(path), f"has two columns {repeated[0]!r}; rename one"))
    return bool(repeated)


def _try(read: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Returns (value, None) or (None, error), whatever the library raises on a file that it cannot read."""
    try:
        return read(), None
    except Exception as error:  # OverflowError, UnicodeDecodeError, KeyError of time zones, ArrowException
        return None, error


def _one_line(error: Any) -> str:
    """Formats an error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
