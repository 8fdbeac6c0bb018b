"""`source.arrow`: rows of Parquet, Arrow and saved data sets; an unreadable value loses one row."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from data_pipes.source.arrow import arrow_rows, is_saved, parquet_rows, saved_rows
from data_pipes.source.path import rows
from data_pipes.types import BadRow, Row


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def write_numbered_rows(path: Path, count: int) -> Path:
    pyarrow.parquet.write_table(
        pyarrow.table({"text": [f"t{i}" for i in range(count)], "n": range(count)}), path
    )
    return path


def write(values: pyarrow.Table, path: Path) -> Path:
    """Write Parquet, an Arrow stream or an Arrow file, by the suffix of `path`."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(values, path, row_group_size=3)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(values, str(path), compression="uncompressed")
    else:
        with pyarrow.ipc.new_stream(path, values.schema) as writer:
            writer.write_table(values)
    return path


def read(path: Path, **options: Any) -> list[Row]:
    return list((parquet_rows if path.suffix == ".parquet" else arrow_rows)(path, **options))


FILE_NAMES = ("a.parquet", "a.arrow", "a.feather")


@pytest.mark.parametrize("name", FILE_NAMES)
def test_rows_are_read_and_named_by_number(tmp_path: Path, name: str) -> None:
    values = pyarrow.table({"text": [f"t{i}" for i in range(2500)], "n": range(2500)})
    found = read(write(values, tmp_path / name))
    assert len(found) == 2500
    assert found[2000] == Row({"text": "t2000", "n": 2000}, f"{tmp_path / name}:2001")


def unreadable_middle(bad: Any, good: Any, kind: pyarrow.DataType) -> pyarrow.Array:
    """Three values of type `kind`; Python cannot represent the middle one."""
    return pyarrow.array([good, bad, good], pyarrow.int64()).cast(pyarrow.int64()).view(kind)


TEXTS = pyarrow.array([b"a", b"\xff\xfe", b"c"], pyarrow.binary())
UNREADABLE = {
    "invalid UTF-8": pyarrow.StringArray.from_buffers(3, *TEXTS.buffers()[1:]),
    "a far timestamp": unreadable_middle(1 << 62, 0, pyarrow.timestamp("us")),
    "a far timestamp in seconds": unreadable_middle(1 << 50, 0, pyarrow.timestamp("s")),
    "a far date": pyarrow.array([0, 1 << 30, 0], pyarrow.int32()).view(pyarrow.date32()),
    "a far duration": unreadable_middle(1 << 62, 0, pyarrow.duration("s")),
    "inside a list": pyarrow.ListArray.from_arrays(
        [0, 1, 2, 3], unreadable_middle(1 << 62, 0, pyarrow.timestamp("us"))
    ),
    "inside a struct": pyarrow.StructArray.from_arrays(
        [unreadable_middle(1 << 62, 0, pyarrow.timestamp("us"))], ["x"]
    ),
}


@pytest.mark.parametrize("name", FILE_NAMES)
@pytest.mark.parametrize("values", UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_value_loses_only_its_row(tmp_path: Path, values: pyarrow.Array, name: str) -> None:
    path = write(pyarrow.table({"n": [1, 2, 3], "when": values}), tmp_path / name)
    with pytest.raises(
        ValueError, match=rf"{name}:2: the column when \(.*\) has a value that cannot be read"
    ):
        read(path)
    bad: list[BadRow] = []
    assert [(row.values["n"], row.name) for row in read(path, on_bad=bad.append)] == [
        (1, f"{path}:1"),
        (3, f"{path}:3"),
    ]
    assert [row.name for row in bad] == [f"{path}:2"]


def test_an_unknown_time_zone_loses_only_rows_with_a_time(tmp_path: Path) -> None:
    times = pyarrow.array([None, 5], pyarrow.timestamp("us", tz="Mars/Olympus"))
    path = write(pyarrow.table({"n": [1, 2], "when": times}), tmp_path / "a.parquet")
    bad: list[BadRow] = []
    assert [row.values for row in read(path, on_bad=bad.append)] == [{"n": 1, "when": None}]
    assert [row.name for row in bad] == [f"{path}:2"]
    assert "Mars/Olympus" in bad[0].reason


@pytest.mark.parametrize(
    "value", [datetime.time(1, 2), datetime.date(2020, 1, 2), datetime.timedelta(seconds=3), b"x"]
)
def test_times_and_bytes_are_read_as_python_values(tmp_path: Path, value: Any) -> None:
    assert read(write(pyarrow.table({"x": [value]}), tmp_path / "a.parquet"))[0].values == {"x": value}


def test_nanoseconds_are_kept(tmp_path: Path) -> None:
    times = pyarrow.array([123456789], pyarrow.timestamp("ns"))
    (row,) = read(write(pyarrow.table({"x": times}), tmp_path / "a.parquet"))
    assert row.values["x"].nanosecond == 789


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-20], lambda data: b"PAR1" + bytes(100), lambda data: b""]
)
def test_a_damaged_parquet_file_is_named(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_numbered_rows(tmp_path / "a.parquet", 10)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.parquet:1: cannot be read as Parquet"):
        read(path)


def test_a_damaged_row_group_loses_only_its_rows(tmp_path: Path) -> None:
    values = pyarrow.table({"n": list(range(9))})
    pyarrow.parquet.write_table(values, tmp_path / "a.parquet", row_group_size=3, compression="gzip")
    file = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet")
    column = file.metadata.row_group(1).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    # Overwrite the second of three row groups with zeros.
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    (tmp_path / "a.parquet").write_bytes(data)
    bad: list[BadRow] = []
    found = read(tmp_path / "a.parquet", on_bad=bad.append)
    assert [(row.values["n"], row.name[-2:]) for row in found] == [
        (n, f":{n + 1}") for n in (0, 1, 2, 6, 7, 8)
    ]
    assert [row.name for row in bad] == [f"{tmp_path / 'a.parquet'}:4"]


def test_randomly_changed_bytes_raise_nothing(tmp_path: Path) -> None:
    """Every row is read or reported to `on_bad`."""
    values = pyarrow.table({"prompt": ["a", "b"], "turns": [[{"role": "user"}], None], "when": [1, 2]})
    rng = random.Random(0)
    for name in FILE_NAMES:
        original = write(values, tmp_path / name).read_bytes()
        for _ in range(60):
            data = bytearray(original)
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            (tmp_path / name).write_bytes(data)
            bad: list[BadRow] = []
            found = read(tmp_path / name, on_bad=bad.append)
            assert all(isinstance(row.values, dict) for row in found)
            assert all("\n" not in row.reason for row in bad)


@pytest.mark.parametrize("name", FILE_NAMES[:2])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    duplicate_names = pyarrow.Table.from_arrays([pyarrow.array([1]), pyarrow.array([2])], names=["n", "n"])
    with pytest.raises(ValueError, match=r"has two columns 'n'; rename one"):
        read(write(duplicate_names, tmp_path / name))


@pytest.mark.parametrize("cut", [0, 3, 200])
def test_a_truncated_arrow_file_is_named(tmp_path: Path, cut: int) -> None:
    path = write(pyarrow.table({"n": list(range(100))}), tmp_path / "a.arrow")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"a\.arrow:1: cannot be read as Arrow"):
        read(path)


def test_a_saved_data_set_is_read_by_split(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_dict({"text": ["a", "b"], "n": [1, 2]})
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([1])}).save_to_disk(tmp_path / "both")
    assert [is_saved(tmp_path / name) for name in ("one", "both", ".")] == [True, True, False]
    assert list(saved_rows(tmp_path / "one"))[1].values == {"text": "b", "n": 2}
    file = tmp_path / "both" / "test" / "data-00000-of-00001.arrow"
    assert list(rows(tmp_path / "both", split="test")) == [Row({"text": "b", "n": 2}, f"{file}:1")]
    with pytest.raises(ValueError, match=r"both has no split 'dev'; it has train, test"):
        saved_rows(tmp_path / "both", split="dev")
    file.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"data-00000-of-00001\.arrow, a file that .*state\.json lists, is missing"
    ):
        saved_rows(tmp_path / "both", split="test")


def test_a_saved_data_set_has_only_the_columns_of_its_format(tmp_path: Path) -> None:
    found = datasets.Dataset.from_dict({"text": ["a"], "n": [1]}).with_format("python", columns=["text"])
    found.save_to_disk(tmp_path / "one")
    assert [row.values for row in saved_rows(tmp_path / "one")] == list(
        datasets.load_from_disk(tmp_path / "one")
    )


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"_data_files": [{}]}', '{"_data_files": [3]}', "[" * 9999]
)
def test_a_damaged_state_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ValueError, match=r"state\.json"):
        list(saved_rows(tmp_path))
