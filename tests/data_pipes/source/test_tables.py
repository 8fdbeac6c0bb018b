"""Rows of JSONL, JSON and data sets."""

import gzip
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipes.source import hub
from data_pipes.source import lines as source
from data_pipes.source.tables import as_documents, dataset_rows, json_rows, jsonl_rows
from data_pipes.types import BadRow, Document, Row


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_jsonl(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "one"}\r\n\n  \n{"text": "\xc3\xa9", "n": 2}')
    assert list(jsonl_rows(path)) == [
        Row({"text": "one"}, f"{path}:1"),
        Row({"text": "é", "n": 2}, f"{path}:4"),
    ]


def test_an_object_that_holds_the_rows(tmp_path: Path) -> None:
    rows = [{"n": 1}, {"n": 2}]
    for text in (
        json.dumps({"data": rows}),
        json.dumps({"version": 2, "data": rows}, indent=1),
        json.dumps({"train": rows}),
    ):
        assert [row.values for row in json_rows(put(tmp_path / "a.json", text.encode()))] == rows
    both = put(tmp_path / "a.json", json.dumps({"train": rows, "test": rows[:1]}, indent=1).encode())
    assert [row.name for row in json_rows(both, split="test")] == [f"{both}.test[0]"]
    with pytest.raises(ValueError, match="has no split 'validation'; it has train, test"):
        list(json_rows(both, split="validation"))
    for values in ({"messages": [{"role": "user"}]}, {"data": "x"}, {"data": []}):
        assert [row.values for row in json_rows(put(tmp_path / "a.json", json.dumps(values).encode()))] == [
            values
        ]
    lines = put(tmp_path / "a.json", b'{"data": [{"n": 1}]}\n{"data": [{"n": 2}]}\n')
    assert len(list(json_rows(lines))) == 2
    with pytest.raises(ValueError, match="or one object per line, got an object with the keys n"):
        list(json_rows(put(tmp_path / "a.json", b'{\n"n": 1\n}')))


def test_packed_jsonl(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl.gz", gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    assert [row.values["a"] for row in jsonl_rows(path)] == [1, 2]


BAD_LINES = {
    b'{"text": ': r"text that is not JSON",
    b"[1, 2]": r"got a list",
    b"7": r"got a int",
    b"null": r"got a NoneType",
    b'{"text": "\xff"}': r"byte 0xff \(byte 10 of the line\), which is not UTF-8; .*iconv",
    b"[" * 100_000: r"text that is not JSON",
    b'{"n": ' + b"9" * 5000 + b"}": r"text that is not JSON",
    b"\x00\x01": r"text that is not JSON",
    b'{"a": {"b": 1, "b": 2}}': r"the key 'b' appears twice in an object",
}


@pytest.mark.parametrize(("line", "words"), BAD_LINES.items(), ids=range(len(BAD_LINES)))
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path: Path, line: bytes, words: str) -> None:
    path = put(tmp_path / "a.jsonl", b'{"n": 1}\n' + line + b'\n{"n": 3}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:2: expected one JSON object on the line, .*" + words):
        list(jsonl_rows(path))
    bad: list[BadRow] = []
    assert [row.values["n"] for row in jsonl_rows(path, on_bad=bad.append)] == [1, 3]
    assert [row.name for row in bad] == [f"{path}:2"]


FRAGMENTS = st.sampled_from(
    [
        b'{"text": "a"}',
        b"{",
        b"}",
        b'"',
        b"\\ud800",
        b"\n",
        b"\r",
        b",",
        b"[",
        b"\xff",
        b"\x00",
        b"1e999",
        b" ",
    ]
)


@settings(max_examples=300)
@given(
    data=st.binary(max_size=60) | st.lists(FRAGMENTS, max_size=12).map(b"".join),
    kind=st.sampled_from(["json", "jsonl"]),
)
def test_whatever_the_bytes_only_rows_and_bad_rows_come_out(data: bytes, kind: str) -> None:
    """Every line that is not blank is a document or a bad row, and nothing is raised."""
    bad: list[BadRow] = []
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / f"a.{kind}", data)
        read = {"json": json_rows, "jsonl": jsonl_rows}[kind]
        found = list(as_documents(read(path, on_bad=bad.append), on_bad=bad.append))
    for document in found:
        document.text.encode()
    if kind == "jsonl":
        lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        assert len(found) + len(bad) == sum(bool(line.strip()) for line in lines)


def test_a_line_without_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "PIECE", 16)
    path = put(tmp_path / "a.jsonl", b'{"n": 1}\n{"n": "' + 100 * b"x" + b'"}\n{"n": 12345678}\n')
    bad: list[BadRow] = []
    assert [row.name for row in jsonl_rows(path, on_bad=bad.append)] == [f"{path}:1", f"{path}:3"]
    assert [row.name for row in bad] == [f"{path}:2"]


def test_a_packed_file_that_is_cut_off_is_named(tmp_path: Path) -> None:
    lines = b"".join(json.dumps({"n": hash(str(i))}).encode() + b"\n" for i in range(1000))
    path = put(tmp_path / "a.jsonl.gz", gzip.compress(lines)[:-100])
    bad: list[BadRow] = []
    count = len(list(jsonl_rows(path, on_bad=bad.append)))
    assert 0 < count < 1000
    assert bad[-1].name.startswith(f"{path}:")
    assert "the compressed file is damaged" in bad[-1].reason


def test_json_lists_and_json_lines(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", b'\n [{"n": 1}, 2, {"n": 3}]')
    bad: list[BadRow] = []
    assert list(json_rows(path, on_bad=bad.append)) == [
        Row({"n": 1}, f"{path}[0]"),
        Row({"n": 3}, f"{path}[2]"),
    ]
    assert bad == [BadRow(f"{path}[1]", "expected a JSON object, got a int")]
    assert [row.values for row in json_rows(put(tmp_path / "b.json", b'{"n": 1}\n{"n": 2}'))] == [
        {"n": 1},
        {"n": 2},
    ]
    with pytest.raises(ValueError, match=r"c\.json: expected a JSON list of objects"):
        list(json_rows(put(tmp_path / "c.json", b"[{]")))


def test_a_folder_that_the_library_knows(tmp_path: Path) -> None:
    """A folder is read as `load_dataset` reads it, as if it were on the hub."""
    put(tmp_path / "train.jsonl", b'{"text": "a"}\n{"text": "b"}\n')
    put(tmp_path / "test.jsonl", b'{"text": "c"}\n')
    assert [row.values for row in dataset_rows(str(tmp_path))] == [{"text": "a"}, {"text": "b"}]
    assert [row.values for row in dataset_rows(str(tmp_path), split="test")] == [{"text": "c"}]


def test_rows_streamed_by_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub itself is not asked in a test."""
    asked: list[Any] = []

    def load(*args: Any, **options: Any) -> Iterator[dict]:
        asked.append((args, options))
        return iter([{"text": "a"}])

    monkeypatch.setattr(hub, "explain_unreachable", lambda name: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(dataset_rows("owner/name", subset="en")) == [Row({"text": "a"}, "owner/name/train:1")]
    assert asked == [(("owner/name", "en"), {"split": "train", "streaming": True})]


def test_errors_of_datasets_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load)
    for why, words in (
        (None, "cannot load .*: no network"),
        ("the hub is far", "searched for it: the hub is far"),
    ):
        monkeypatch.setattr(hub, "explain_unreachable", lambda name, why=why: why)
        with pytest.raises(ValueError, match=f"there is no file or folder 'owner/name'; .*{words}"):
            dataset_rows("owner/name")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"body": "x"}, r"a:1: expected a text in 'text', got the columns body; pass field="),
        ({}, r"got the columns \(none\)"),
        ({"text": None}, r"got a NoneType"),
        ({"text": 3}, r"got a int"),
        ({"text": "ab\ud800"}, r"character 2 of 'text' is a lone surrogate"),
    ],
)
def test_a_row_without_text_is_named(values: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(as_documents([Row(values, "a:1")]))
    bad: list[BadRow] = []
    good = Row({"text": ""}, "a:2")
    assert list(as_documents([Row(values, "a:1"), good], on_bad=bad.append)) == [Document("", "a:2")]
    assert [row.name for row in bad] == ["a:1"]
