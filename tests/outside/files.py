"""Files of rows that `datasets`, pandas and pyarrow write, and folders in the layouts of the hub."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow
import pyarrow.feather
import pyarrow.parquet

from data_pipes.source.path import rows
from tests.outside.form import Form

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": '“é”, "x"\nand more', "answer": "007"}]


def _dataset(folder: Path) -> datasets.Dataset:
    datasets.disable_progress_bars()
    return datasets.Dataset.from_list(ROWS)


def _read(split: str = "train", subset: str | None = None, name: str = "") -> Callable[[Path], list[dict]]:
    return lambda folder: [row.values for row in rows(folder / name, split=split, subset=subset)]


def _writer(write: Callable[[Path], Any]) -> Callable[[Path], list[dict]]:
    """A form's `theirs`: write ROWS with `write`; reading must return them."""

    def theirs(folder: Path) -> list[dict]:
        write(folder)
        return ROWS

    return theirs


def _add_file(name: str) -> Callable[[Path], None]:
    """Write rows and, next to them, an archive of further rows."""

    def theirs(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        for path in (folder / "a.jsonl", folder / "in" / "a.jsonl"):
            path.parent.mkdir(exist_ok=True)
            path.write_text('{"text": "a"}\n')
        kind = {".zip": "zip", ".tar": "tar"}.get(Path(name).suffix, "gztar")
        Path(shutil.make_archive(str(folder / "made"), kind, folder / "in")).rename(folder / name)

    return theirs


def _layout(
    names: dict[str, str], split: str, subset: str | None = None, card: str = ""
) -> Callable[[Path], list[dict]]:
    """Write a folder in a layout of the hub, and return the rows that `datasets` loads from it."""

    def theirs(folder: Path) -> list[dict]:
        datasets.disable_progress_bars()
        for name, text in names.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("".join(json.dumps({"text": x}) + "\n" for x in text))
        if card:
            (folder / "README.md").write_text(f"---\n{card}\n---\n# A card\n")
        with tempfile.TemporaryDirectory() as cache:
            dataset = datasets.load_dataset(str(folder), subset, split=split, cache_dir=cache)
            return [dict(row) for row in dataset]

    return theirs


def _refused_layout(names: dict[str, str]) -> Callable[[Path], None]:
    """Write a folder that we refuse."""

    def theirs(folder: Path) -> None:
        for name, text in names.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("".join(json.dumps({"text": x}) + "\n" for x in text))

    return theirs


def _column(values: pyarrow.Array) -> Callable[[Path], None]:
    """Write a Parquet file with a column of values that Python cannot represent."""
    return lambda folder: pyarrow.parquet.write_table(
        pyarrow.table({"n": [1], "x": values}), folder / "a.parquet"
    )


def _far_value(kind: pyarrow.DataType) -> pyarrow.Array:
    return pyarrow.array([1 << 62], pyarrow.int64()).view(kind)


FRAME = pandas.DataFrame(ROWS)
BYTES = pyarrow.array([b"\xff"], pyarrow.binary())
CARD = """configs:
- config_name: en
  data_files:
  - split: train
    path: x/a*.jsonl
  - split: test
    path: x/b.jsonl"""

FILES = (
    *(
        Form(
            "file",
            f"Parquet ({compression})",
            "pandas",
            _writer(
                lambda folder, compression=compression: FRAME.to_parquet(
                    folder / "a.parquet", compression=compression
                )
            ),
            _read(),
        )
        for compression in ("snappy", "zstd", "gzip")
    ),
    Form(
        "file",
        "Parquet",
        "datasets",
        _writer(lambda folder: _dataset(folder).to_parquet(folder / "a.parquet")),
        _read(),
    ),
    Form(
        "file",
        "JSON lines",
        "datasets",
        _writer(lambda folder: _dataset(folder).to_json(folder / "a.jsonl")),
        _read(),
    ),
    Form(
        "file",
        "a JSON list",
        "datasets",
        _writer(lambda folder: _dataset(folder).to_json(folder / "a.json", lines=False)),
        _read(),
    ),
    Form(
        "file",
        "a JSON list over several lines",
        "pandas",
        _writer(lambda folder: FRAME.to_json(folder / "a.json", orient="records", indent=2)),
        _read(),
    ),
    *(
        Form(
            "file",
            f"JSON lines in {end}",
            "pandas",
            _writer(
                lambda folder, end=end: FRAME.to_json(folder / f"a.jsonl.{end}", orient="records", lines=True)
            ),
            _read(),
        )
        for end in ("gz", "bz2", "xz")
    ),
    Form(
        "file",
        "JSON lines in zst",
        "pyarrow",
        _writer(
            lambda folder: (folder / "a.jsonl.zst").write_bytes(
                pyarrow.Codec("zstd").compress(
                    FRAME.to_json(orient="records", lines=True).encode(), asbytes=True
                )
            )
        ),
        _read(),
    ),
    *(
        Form(
            "file",
            f"{name} next to rows",
            "Python",
            _add_file(name),
            _read(),
            refused=f"{name}: an archive is not read",
        )
        for name in ("more.zip", "more.tar", "data/more.tar.gz", "more.tgz")
    ),
    Form(
        "file", "CSV", "datasets", _writer(lambda folder: _dataset(folder).to_csv(folder / "a.csv")), _read()
    ),
    Form(
        "file",
        "TSV",
        "pandas",
        _writer(lambda folder: FRAME.to_csv(folder / "a.tsv", sep="\t", index=False)),
        _read(),
    ),
    Form(
        "file",
        "CSV in gz",
        "pandas",
        _writer(lambda folder: FRAME.to_csv(folder / "a.csv.gz", index=False)),
        _read(),
    ),
    Form(
        "file", "Feather", "pandas", _writer(lambda folder: FRAME.to_feather(folder / "a.feather")), _read()
    ),
    Form(
        "file",
        "a saved Dataset",
        "datasets",
        _writer(lambda folder: _dataset(folder).save_to_disk(folder / "a")),
        _read(name="a"),
    ),
    Form(
        "file",
        "a split of a saved DatasetDict",
        "datasets",
        _writer(
            lambda folder: datasets.DatasetDict(
                {"train": _dataset(folder).select([0]), "test": _dataset(folder)}
            ).save_to_disk(folder / "a")
        ),
        _read("test", name="a"),
    ),
    Form(
        "file",
        "a shard of a saved Dataset",
        "datasets",
        _writer(lambda folder: _dataset(folder).save_to_disk(folder / "a")),
        _read(name="a/data-00000-of-00001.arrow"),
    ),
    Form(
        "file",
        "an object with a list under data",
        "json",
        _writer(
            lambda folder: (folder / "a.json").write_text(
                json.dumps({"version": "1", "data": ROWS}, indent=1)
            )
        ),
        _read(),
    ),
    Form(
        "file",
        "an object with lists under splits",
        "json",
        _writer(lambda folder: (folder / "a.json").write_text(json.dumps({"train": ROWS[:1], "test": ROWS}))),
        _read("test"),
    ),
    Form(
        "file",
        "an object that is no table",
        "json",
        lambda folder: (folder / "a.json").write_text('{\n"a": {"0": 1}\n}'),
        _read(),
        "expected a JSON list of objects, or one object per line, got an object with the keys a",
    ),
    Form(
        "file",
        "two columns of one name",
        "pyarrow",
        lambda folder: pyarrow.parquet.write_table(
            pyarrow.Table.from_arrays([pyarrow.array([1])] * 2, names=["a", "a"]), folder / "a.parquet"
        ),
        _read(),
        "has two columns 'a'",
    ),
    *(
        Form(
            "file",
            f"a Parquet value that Python cannot hold: {name}",
            "pyarrow",
            _column(values),
            _read(),
            r"a\.parquet:1: the column x .* has a value that cannot be read",
        )
        for name, values in (
            ("a far timestamp", _far_value(pyarrow.timestamp("us"))),
            ("a far duration", _far_value(pyarrow.duration("ms"))),
            ("a far date", pyarrow.array([1 << 30], pyarrow.int32()).view(pyarrow.date32())),
            ("an unknown time zone", pyarrow.array([1], pyarrow.timestamp("us", tz="Mars/Olympus"))),
            ("bytes that are no UTF-8", pyarrow.StringArray.from_buffers(1, *BYTES.buffers()[1:])),
        )
    ),
)

FOLDERS = (
    *(
        Form(
            "folder",
            f"files, {split}",
            "datasets",
            _layout({"train.jsonl": "ab", "test.jsonl": "c", "dev.jsonl": "d"}, split),
            _read(split),
        )
        for split in ("train", "validation", "test")
    ),
    *(
        Form(
            "folder",
            f"shards, {split}",
            "datasets",
            _layout(
                {
                    "data/train_sft-00000-of-00002.jsonl": "a",
                    "data/train_sft-00001-of-00002.jsonl": "b",
                    "data/test_sft-00000-of-00001.jsonl": "c",
                },
                split,
            ),
            _read(split),
        )
        for split in ("train_sft", "test_sft")
    ),
    *(
        Form(
            "folder",
            f"folders, {split}",
            "datasets",
            _layout({"train/x.jsonl": "a", "train/y/z.jsonl": "b", "eval/x.jsonl": "c"}, split),
            _read(split),
        )
        for split in ("train", "test")
    ),
    Form(
        "folder",
        "names that say no split",
        "datasets",
        _layout({"b.jsonl": "b", "a.jsonl": "a"}, "train"),
        _read(),
    ),
    *(
        Form(
            "folder",
            f"a card with configurations, {split}",
            "datasets",
            _layout(
                {"x/a1.jsonl": "a", "x/a2.jsonl": "b", "x/b.jsonl": "c", "y.jsonl": "d"}, split, "en", CARD
            ),
            _read(split, "en"),
        )
        for split in ("train", "test")
    ),
    Form(
        "folder",
        "a README, a licence and an image as well",
        "datasets",
        _layout({"train.jsonl": "a"}, "train", card="license: mit"),
        lambda folder: (
            [(folder / name).write_bytes(b"\x89PNG\0") for name in ("LICENSE", "a.png")] and _read()(folder)
        ),
    ),
    Form(
        "folder",
        "an unknown split",
        "datasets",
        _refused_layout({"train.jsonl": "a", "test.jsonl": "b"}),
        _read("validation"),
        "has no split 'validation'; it has test, train",
    ),
    Form(
        "folder",
        "a file of no split next to one of a split",
        "datasets",
        _refused_layout({"train.jsonl": "a", "more.jsonl": "b"}),
        _read(),
        r"more\.jsonl belong to none of the splits train",
    ),
    Form(
        "folder",
        "a file of two splits",
        "datasets",
        _refused_layout({"test_train.jsonl": "a"}),
        _read(),
        "words of two splits",
    ),
    Form(
        "folder",
        "the same rows in two formats",
        "datasets",
        _refused_layout({"train.jsonl": "a", "train.jsonl.gz": ""}),
        _read(),
        "would both be read",
    ),
)

FORMS = (*FILES, *FOLDERS)
