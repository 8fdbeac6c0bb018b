"""`source.path`: `documents` and `rows` read any file, folder, saved data set or hub name."""

import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from data_pipes.source import hub
from data_pipes.source.path import documents, rows, suffix
from data_pipes.types import BadRow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One file of each kind, three of them with something bad."""
    (tmp_path / "a.txt").write_text("text a")
    (tmp_path / "b.md").write_bytes(b"bad \xff")
    (tmp_path / "c.jsonl").write_text('{"text": "c1"}\n{"words": "c2"}\n{"text": "c3"}\n')
    (tmp_path / "d.json").write_text(json.dumps([{"text": "d1"}, 7]))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["e1", "e2"]}), tmp_path / "e.parquet")
    return tmp_path


def test_a_folder_of_every_file_kind_is_read(folder: Path) -> None:
    bad: list[BadRow] = []
    found = list(documents(folder, on_bad=bad.append))
    assert [document.text for document in found] == ["text a", "c1", "c3", "d1", "e1", "e2"]
    assert [Path(document.name).name for document in found] == [
        "a.txt",
        "c.jsonl:1",
        "c.jsonl:3",
        "d.json[0]",
        "e.parquet:1",
        "e.parquet:2",
    ]
    assert [Path(row.name).name for row in bad] == ["b.md", "c.jsonl:2", "d.json[1]"]


def test_the_first_bad_row_raises_by_default(folder: Path) -> None:
    stream = documents(folder)
    assert next(stream).text == "text a"
    with pytest.raises(ValueError, match=r"b\.md: byte 0xff at offset 4"):
        next(stream)


def test_a_single_file_is_read_with_separator_or_field(folder: Path) -> None:
    assert [d.text for d in documents(folder / "a.txt", separator=" ")] == ["text", "a"]
    bad: list[BadRow] = []
    assert [d.text for d in documents(folder / "c.jsonl", field="words", on_bad=bad.append)] == ["c2"]
    assert len(bad) == 2


def test_rows_are_read_from_files_and_folders_of_rows(folder: Path) -> None:
    assert [row.values for row in rows(folder / "e.parquet")] == [{"text": "e1"}, {"text": "e2"}]
    with pytest.raises(ValueError, match=r"a\.txt is not a file of rows; its name must end in \.jsonl"):
        rows(folder / "a.txt")
    assert len(list(rows(folder, on_bad=lambda bad: None))) == 6


def test_a_single_file_is_read_whole_as_train_and_test_and_has_no_other_split(
    folder: Path, tmp_path: Path
) -> None:
    """`datasets` calls a single file "train"; the evaluation commands ask for "test"."""
    file, saved = folder / "c.jsonl", tmp_path / "saved"
    assert len(list(rows(file, split="test"))) == len(list(rows(file))) == 3
    datasets.Dataset.from_dict({"text": ["x"]}).save_to_disk(str(saved))
    for read in (rows, documents):
        with pytest.raises(ValueError, match=r"c\.jsonl has no split 'validation', it is one file"):
            read(file, split="validation")
        for path in (file, saved):
            with pytest.raises(ValueError, match="has no subset 'x', it is one data set; leave --subset out"):
                read(path, subset="x")


def test_saved_data_sets_are_recognised(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(tmp_path / "set")
    assert [d.text for d in documents(tmp_path / "set")] == ["a", "b"]
    assert [row.values["text"] for row in rows(tmp_path / "set")] == ["a", "b"]


@pytest.mark.parametrize("name", ["wikitext", "owner/name", "owner/name-1.5"])
def test_a_data_set_name_is_loaded_from_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "explain_unreachable", lambda name: None)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, subset, split, streaming: [{"text": f"{name} {split}"}]
    )
    assert [d.text for d in documents(name, split="test")] == [f"{name} test"]
    assert [row.values["text"] for row in rows(name)] == [f"{name} train"]


@pytest.mark.parametrize(
    "name", ["corpus.txt", "data/train.jsonl", "./data", "a/b/c", "data/x.json.gz", "corpus.csv"]
)
def test_a_name_that_looks_like_a_path_is_never_looked_up_on_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        documents(name)


def test_an_empty_path_is_refused() -> None:
    for read in (documents, rows):
        with pytest.raises(ValueError, match="the path is empty"):
            read("")


@pytest.mark.parametrize(
    ("name", "expected"), [("a.jsonl", ".jsonl"), ("x/A.JSONL.GZ", ".jsonl"), ("a", ""), ("a.gz", "")]
)
def test_suffix_ignores_case_and_compression(name: str, expected: str) -> None:
    assert suffix(name) == expected


def test_archives_in_a_folder_are_reported(folder: Path) -> None:
    (folder / "f.tar.gz").write_bytes(b"")
    (folder / "dummy_data.zip").write_bytes(b"")
    bad: list[BadRow] = []
    list(rows(folder, on_bad=bad.append))
    assert [Path(row.name).name for row in bad if "archive" in row.reason] == ["f.tar.gz"]
    bad.clear()
    list(documents(folder, on_bad=bad.append))
    assert [Path(row.name).name for row in bad if "archive" in row.reason] == ["dummy_data.zip", "f.tar.gz"]


def test_unsupported_tables_in_a_folder_are_reported(folder: Path) -> None:
    for name in ("g.xlsx", "g.pkl", "README.db"):
        (folder / name).write_bytes(b"")
    bad: list[BadRow] = []
    list(rows(folder, on_bad=bad.append))
    assert [Path(row.name).name for row in bad if "a table of this kind" in row.reason] == ["g.pkl", "g.xlsx"]
