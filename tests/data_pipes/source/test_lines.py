"""`source.lines`: lines of compressed files; damaged files and endless lines are reported."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest

from data_pipes.source.lines import lines
from data_pipes.source.path import documents, rows
from data_pipes.types import BadRow

DATA = b'{"text": "' + bytes(range(65, 90)) * 400 + b'"}\n'
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.Codec("zstd").compress(data, asbytes=True),
}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_compressed_files_are_read_as_lines_rows_and_documents(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](DATA) + COMPRESS[suffix](DATA))
    assert list(lines(path, pytest.fail)) == [DATA, DATA]
    assert [row.name for row in rows(path)] == [f"{path}:1", f"{path}:2"]
    (tmp_path / f"b.txt{suffix}").write_bytes(COMPRESS[suffix](b"packed"))
    assert [d.text for d in documents(tmp_path / f"b.txt{suffix}")] == ["packed"]
    (tmp_path / f"c.json{suffix}").write_bytes(COMPRESS[suffix](b'[{"text": "c"}]'))
    assert [d.text for d in documents(tmp_path / f"c.json{suffix}")] == ["c"]


@pytest.mark.parametrize("suffix", COMPRESS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.json", "a.csv"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_compressed_file_is_named(tmp_path: Path, suffix: str, name: str, damage: str) -> None:
    path = tmp_path / f"{name}{suffix}"
    data = COMPRESS[suffix](b'[{"text": 1}]' if name == "a.json" else DATA)
    path.write_bytes(data[: len(data) * 2 // 3] if damage == "cut" else data[:4] + b"\xff" * 8 + data[12:])
    bad: list[BadRow] = []
    list(documents(path, on_bad=bad.append))
    assert bad
    assert bad[0].name.startswith(str(path))


def test_an_endless_line_is_skipped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipes.source.lines.PIECE", 8)
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfab\n" + b"x" * 20 + b"\nc")
    bad: list[BadRow] = []
    assert list(lines(tmp_path / "a", bad.append)) == [b"ab\n", b"\n", b"c"]
    assert [row.name for row in bad] == [f"{tmp_path / 'a'}:2"]
