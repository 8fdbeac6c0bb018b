"""`source.tables`: rows of JSONL files, JSON files and data sets, and their texts as documents."""

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
from data_pipes.source import lines as lines_module
from data_pipes.source.tables import as_documents, dataset_rows, json_rows, jsonl_rows
from data_pipes.types import BadRow, Document, Row


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def write_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_jsonl_rows_are_named_by_line(tmp_path: Path) -> None:
    path = write_file(
        tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "one"}\r\n\n  \n{"text": "\xc3\xa9", "n": 2}'
    )
    assert list(jsonl_rows(path)) == [
        Row({"text": "one"}, f"{path}:1"),
        Row({"text": "é", "n": 2}, f"{path}:4"),
    ]


def test_rows_are_found_inside_a_json_object(tmp_path: Path) -> None:
    rows = [{"n": 1}, {"n": 2}]
    for text in (
        json.dumps({"data": rows}),
        json.dumps({"version": 2, "data": rows}, indent=1),
        json.dumps({"train": rows}),
    ):
        assert [row.values for row in json_rows(write_file(tmp_path / "a.json", text.encode()))] == rows
    two_splits = write_file(
        tmp_path / "a.json", json.dumps({"train": rows, "test": rows[:1]}, indent=1).encode()
    )
    assert [row.name for row in json_rows(two_splits, split="test")] == [f"{two_splits}.test[0]"]
    with pytest.raises(ValueError, match="has no split 'validation'; it has train, test"):
        list(json_rows(two_splits, split="validation"))
    for values in ({"messages": [{"role": "user"}]}, {"data": "x"}, {"data": []}):
        assert [
            row.values for row in json_rows(write_file(tmp_path / "a.json", json.dumps(values).encode()))
        ] == [values]
    lines = write_file(tmp_path / "a.json", b'{"data": [{"n": 1}]}\n{"data": [{"n": 2}]}\n')
    assert len(list(json_rows(lines))) == 2
    with pytest.raises(ValueError, match="or one object per line, got an object with the keys n"):
        list(json_rows(write_file(tmp_path / "a.json", b'{\n"n": 1\n}')))


def test_compressed_jsonl_is_read(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.jsonl.gz", gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
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
    path = write_file(tmp_path / "a.jsonl", b'{"n": 1}\n' + line + b'\n{"n": 3}\n')
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
def test_arbitrary_bytes_give_documents_and_bad_rows_only(data: bytes, kind: str) -> None:
    """Nothing is raised; each line of JSONL that is not blank is a document or a bad row."""
    bad: list[BadRow] = []
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / f"a.{kind}", data)
        read = {"json": json_rows, "jsonl": jsonl_rows}[kind]
        found = list(as_documents(read(path, on_bad=bad.append), on_bad=bad.append))
    for document in found:
        document.text.encode()
    if kind == "jsonl":
        lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        assert len(found) + len(bad) == sum(bool(line.strip()) for line in lines)


def test_an_endless_line_is_skipped_without_reading_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "PIECE", 16)
    path = write_file(tmp_path / "a.jsonl", b'{"n": 1}\n{"n": "' + 100 * b"x" + b'"}\n{"n": 12345678}\n')
    bad: list[BadRow] = []
    assert [row.name for row in jsonl_rows(path, on_bad=bad.append)] == [f"{path}:1", f"{path}:3"]
    assert [row.name for row in bad] == [f"{path}:2"]


def test_a_truncated_compressed_file_is_named(tmp_path: Path) -> None:
    lines = b"".join(json.dumps({"n": hash(str(i))}).encode() + b"\n" for i in range(1000))
    path = write_file(tmp_path / "a.jsonl.gz", gzip.compress(lines)[:-100])
    bad: list[BadRow] = []
    count = len(list(jsonl_rows(path, on_bad=bad.append)))
    assert 0 < count < 1000
    assert bad[-1].name.startswith(f"{path}:")
    assert "the compressed file is damaged" in bad[-1].reason


def test_a_json_file_may_hold_a_list_or_lines(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.json", b'\n [{"n": 1}, 2, {"n": 3}]')
    bad: list[BadRow] = []
    assert list(json_rows(path, on_bad=bad.append)) == [
        Row({"n": 1}, f"{path}[0]"),
        Row({"n": 3}, f"{path}[2]"),
    ]
    assert bad == [BadRow(f"{path}[1]", "expected a JSON object, got a int")]
    assert [row.values for row in json_rows(write_file(tmp_path / "b.json", b'{"n": 1}\n{"n": 2}'))] == [
        {"n": 1},
        {"n": 2},
    ]
    with pytest.raises(ValueError, match=r"c\.json: expected a JSON list of objects"):
        list(json_rows(write_file(tmp_path / "c.json", b"[{]")))


def test_a_local_folder_is_read_as_by_load_dataset(tmp_path: Path) -> None:
    """`dataset_rows` passes the folder to `load_dataset`, which knows its splits."""
    write_file(tmp_path / "train.jsonl", b'{"text": "a"}\n{"text": "b"}\n')
    write_file(tmp_path / "test.jsonl", b'{"text": "c"}\n')
    assert [row.values for row in dataset_rows(str(tmp_path))] == [{"text": "a"}, {"text": "b"}]
    assert [row.values for row in dataset_rows(str(tmp_path), split="test")] == [{"text": "c"}]


def test_rows_of_the_hub_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load_dataset` is replaced, so that the test needs no network."""
    calls: list[Any] = []

    def load(*args: Any, **options: Any) -> Iterator[dict]:
        calls.append((args, options))
        return iter([{"text": "a"}])

    monkeypatch.setattr(hub, "explain_unreachable", lambda name: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(dataset_rows("owner/name", subset="en")) == [Row({"text": "a"}, "owner/name/train:1")]
    assert calls == [(("owner/name", "en"), {"split": "train", "streaming": True})]


def test_errors_of_datasets_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", load)
    for explanation, words in (
        (None, "cannot load .*: no network"),
        ("the hub is far", "searched for it: the hub is far"),
    ):
        monkeypatch.setattr(hub, "explain_unreachable", lambda name, text=explanation: text)
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


def test_an_error_in_a_line_names_the_line_of_the_file_only(tmp_path: Path) -> None:
    """It added "line 2 column 1", of the line's own text."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl:3: .*not JSON \(Expecting ',' delimiter, column 13\)"):
        list(jsonl_rows(path))
