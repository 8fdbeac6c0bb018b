"""`source.multiple_choice`: question sets are read from every layout; errors name file and line."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.choices import Question, Questions, few_shot, group_by_subject
from data_pipes.source import hub
from data_pipes.source import multiple_choice as module
from data_pipes.source.multiple_choice import csv_rows, multiple_choice, write_csv
from data_pipes.types import BadRow


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def row(question: str, subject: str | None = None) -> dict[str, Any]:
    """A row in the hub's columns, without a column `subject` if that is None."""
    columns = {"question": question, "choices": ["a", "b", "c", "d"], "answer": 1}
    return columns if subject is None else {**columns, "subject": subject}


def write_parquet(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    return path


def write_jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    return write_text(path, "".join(json.dumps(values) + "\n" for values in rows))


def question_texts(loaded: Questions) -> list[str]:
    return [question.question for question in loaded.test]


@pytest.fixture
def mmlu(tmp_path: Path) -> Path:
    """MMLU's folder: two subjects, of which one has examples."""
    write_text(
        tmp_path / "test/anatomy_test.csv",
        't1,a,b,c,d,B\n"t2, with a ""quote""\nand a line","a,",b,c,d,D\r\n\n t3 ,,,,,A\n',
    )
    write_text(tmp_path / "test/astronomy_test.csv", "s1,a,b,c,d,C\n")
    write_text(tmp_path / "val/anatomy_val.csv", "v1,a,b,c,d,A\n")
    write_text(tmp_path / "dev/anatomy_dev.csv", "d1,a,b,c,d,A\nd2,a,b,c,d,B\n")
    write_text(tmp_path / "README.txt", "Hendrycks et al.")
    return tmp_path


def test_the_folder_of_mmlu_is_read(mmlu: Path) -> None:
    loaded = multiple_choice(mmlu)
    name = f"{mmlu}/test/anatomy_test.csv"
    assert loaded.test == [
        Question("t1", ("a", "b", "c", "d"), 1, "anatomy", f"{name}:1"),
        Question('t2, with a "quote"\nand a line', ("a,", "b", "c", "d"), 3, "anatomy", f"{name}:2"),
        Question(" t3 ", ("", "", "", ""), 0, "anatomy", f"{name}:5"),
        Question("s1", ("a", "b", "c", "d"), 2, "astronomy", f"{mmlu}/test/astronomy_test.csv:1"),
    ]
    assert [question.question for question in few_shot(loaded, "anatomy", 2)] == ["d1", "d2"]
    with pytest.raises(ValueError, match=r"subject 'astronomy', got 0 from .*/dev/astronomy_dev\.csv"):
        few_shot(loaded, "astronomy", 1)


@pytest.mark.parametrize("split", ["val", "validation"])
def test_a_split_and_a_subject_are_selected(mmlu: Path, split: str) -> None:
    assert question_texts(multiple_choice(mmlu, split=split)) == ["v1"]
    loaded = multiple_choice(mmlu, subset="anatomy", dev=split)
    assert question_texts(loaded)[0] == "t1"
    assert {question.subject for question in loaded.test} == {"anatomy"}
    assert [question.question for question in loaded.dev["anatomy"]] == ["v1"]
    assert multiple_choice(mmlu, dev=None).dev == {}


def test_a_missing_split_subject_or_path_is_refused(mmlu: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no file of the split 'train', such as .* it has README\.txt, anatomy_dev"
    ):
        multiple_choice(mmlu, split="train")
    with pytest.raises(FileNotFoundError, match=r"split 'test' of 'law', such as test/law_test\.csv"):
        multiple_choice(mmlu, subset="law")
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        multiple_choice(mmlu / "none.csv")
    with pytest.raises(ValueError, match="the path is empty"):
        multiple_choice("")


def test_a_single_csv_file_takes_its_examples_from_dev_path(mmlu: Path) -> None:
    loaded = multiple_choice(mmlu / "test/astronomy_test.csv")
    assert (question_texts(loaded), loaded.test[0].subject, loaded.dev) == (["s1"], "astronomy", {})
    with pytest.raises(ValueError, match=r"got 0 from nowhere \(dev_path= names a file with examples\)"):
        few_shot(loaded, "astronomy", 5)
    loaded = multiple_choice(mmlu / "test/anatomy_test.csv", dev_path=mmlu / "dev/anatomy_dev.csv")
    assert len(few_shot(loaded, "anatomy", 2)) == 2
    with pytest.raises(ValueError, match=r"got 2 from .*anatomy_dev\.csv; ask for at most 2"):
        few_shot(loaded, "anatomy", 3)
    assert list(multiple_choice(mmlu / "test/anatomy_test.csv", dev_path=mmlu).dev) == ["anatomy"]


BAD_CSV = {
    "five": (
        "x,a,b,c,A\n",
        r"expected 6 columns \(question, A, B, C, D, letter\), got 5; a text with commas",
    ),
    "seven": ("x,a,b,c,d,e,A\n", "expected 6 columns .*, got 7"),
    "letter": ("x,a,b,c,d,E\n", "answer must be a letter from A to D, .* got 'E'"),
    "empty": (" ,a,b,c,d,A\n", "the question is empty"),
    "quote": (
        '"x"y,a,b,c,d,A\n',
        r"cannot be read as CSV \(.*\); double each quote inside a quoted cell",
    ),
    "long": ("x" * 140_000 + ",a,b,c,d,A\n", r"cannot be read as CSV \(field larger than field limit"),
}


@pytest.mark.parametrize(("line", "message"), BAD_CSV.values(), ids=BAD_CSV)
def test_a_bad_line_is_named_and_the_others_are_read(tmp_path: Path, line: str, message: str) -> None:
    path = write_text(tmp_path / "x_test.csv", '"t1\n",a,b,c,d,A\n' + line + "t3,a,b,c,d,B\n")
    with pytest.raises(ValueError, match=r"x_test\.csv:3: " + message):
        multiple_choice(path)
    bad: list[BadRow] = []
    assert question_texts(multiple_choice(path, on_bad=bad.append)) == ["t1\n", "t3"]
    assert [bad_row.name for bad_row in bad] == [f"{path}:3"]


def test_a_quote_that_is_never_closed_is_reported_at_its_line(tmp_path: Path) -> None:
    path = write_text(tmp_path / "x_test.csv", 't1,a,b,c,d,A\n"t2,a,b,c,d,B\nt3,a,b,c,d,B\n')
    bad: list[BadRow] = []
    assert question_texts(multiple_choice(path, on_bad=bad.append)) == ["t1"]
    assert bad[0].name == f"{path}:2"
    assert "unexpected end of data" in bad[0].reason


def test_bytes_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"caf\xe9,a,b,c,d,A\n")
    with pytest.raises(ValueError, match=r"x\.csv: byte 0xe9 at offset 3 is not utf-8"):
        list(csv_rows(tmp_path / "x.csv"))


def test_a_gzip_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "law_test.csv.gz"
    path.write_bytes(gzip.compress("\ufefft1,a,b,c,d,A".encode()))
    loaded = multiple_choice(path)
    assert (question_texts(loaded), loaded.test[0].subject) == (["t1"], "law")


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.csv has no question in the split 'test'"):
        multiple_choice(write_text(tmp_path / "x.csv", "\n\n"))


def test_the_folder_layout_of_the_hub_is_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "all/test-00000-of-00002.parquet", row("a1", "anatomy"))
    write_parquet(tmp_path / "all/test-00001-of-00002.parquet", row("l1", "law"))
    write_parquet(tmp_path / "all/dev-00000-of-00001.parquet", row("d1", "law"))
    write_parquet(tmp_path / "law/test-00000-of-00001.parquet", row("l1", "law"))
    write_parquet(tmp_path / "law/dev-00000-of-00001.parquet", row("d1", "law"), row("d2", "law"))
    write_parquet(tmp_path / "auxiliary_train/train-00000-of-00001.parquet", row("x", "none"))
    loaded = multiple_choice(tmp_path)
    assert question_texts(loaded) == ["a1", "l1"]
    assert loaded.test[1].name == f"{tmp_path}/all/test-00001-of-00002.parquet:1"
    assert len(few_shot(loaded, "law", 1)) == 1
    with pytest.raises(ValueError, match=f"'anatomy', got 0 from the split 'dev' of {tmp_path}; ask"):
        few_shot(loaded, "anatomy", 1)
    loaded = multiple_choice(tmp_path, subset="law")
    assert (question_texts(loaded), len(loaded.dev["law"])) == (["l1"], 2)


def test_folder_names_are_the_subjects_of_their_rows(tmp_path: Path) -> None:
    for subject in ("law", "anatomy"):
        write_jsonl(tmp_path / subject / "test.jsonl", row(f"of {subject}"))
        write_jsonl(tmp_path / subject / "dev.jsonl", row(f"example of {subject}"))
    loaded = multiple_choice(tmp_path)
    assert [(question.question, question.subject) for question in loaded.test] == [
        ("of anatomy", "anatomy"),
        ("of law", "law"),
    ]
    assert few_shot(loaded, "law", 1)[0].question == "example of law"


@pytest.mark.parametrize("folder", [".", "data"])
def test_a_flat_folder_has_no_subject(tmp_path: Path, folder: str) -> None:
    write_jsonl(tmp_path / folder / "hellaswag_val.jsonl", {"ctx": "x", "endings": ["a", "b"], "label": "1"})
    write_jsonl(
        tmp_path / folder / "hellaswag_train.jsonl", {"ctx": "y", "endings": ["a", "b"], "label": "1"}
    )
    loaded = multiple_choice(tmp_path, split="validation", dev="train")
    assert (question_texts(loaded), loaded.test[0].subject) == (["x"], "")
    assert few_shot(loaded, "", 1)[0].question == "y"
    with pytest.raises(FileNotFoundError, match="no file of the split 'test'"):
        multiple_choice(tmp_path)


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (("test/q.jsonl", "dev/q.jsonl", "train/q.jsonl"), "test", "test/q.jsonl"),
        (("q_test_v2.jsonl", "q_train_v2.jsonl"), "test", "q_test_v2.jsonl"),
        (("eval.jsonl", "training.jsonl"), "test", "eval.jsonl"),
        (("eval.jsonl", "valid.jsonl", "dev.jsonl"), "validation", "valid.jsonl"),
        (
            ("auxiliary_train/arc_easy.jsonl", "test/law_test.jsonl"),
            "train",
            "auxiliary_train/arc_easy.jsonl",
        ),
        (("test.jsonl", "more.jsonl"), "test", "more.jsonl belongs to no split"),
        (
            ("a_test.jsonl", "test_train.jsonl"),
            "test",
            "test_train.jsonl has words of the splits train and test",
        ),
        (("test.jsonl", "test.json"), "test", "would both be read"),
    ],
)
def test_the_splits_of_a_folder_are_resolved_or_refused(
    tmp_path: Path, names: tuple[str, ...], split: str, expected: str
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(
            json.dumps({"question": name, "choices": ["a", "b"], "answer": 0}) + "\n"
        )
    if expected in names:
        assert [q.question for q in multiple_choice(tmp_path, split=split).test] == [expected]
    else:
        with pytest.raises(ValueError, match=expected):
            multiple_choice(tmp_path, split=split)


def test_all_files_of_a_folder_without_splits_are_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "one.jsonl", row("1"))
    write_parquet(tmp_path / "two.parquet", row("2"))
    write_text(tmp_path / "three.json", json.dumps([row("3")]))
    loaded = multiple_choice(tmp_path)
    assert question_texts(loaded) == ["1", "3", "2"]
    assert loaded.dev == {}
    with pytest.raises(FileNotFoundError, match="no file of the split 'dev'"):
        multiple_choice(tmp_path, split="dev")


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_a_single_file_of_rows_is_read(tmp_path: Path, write: Callable) -> None:
    path = write(
        tmp_path / f"x.{'jsonl' if write is write_jsonl else 'parquet'}", row("1", "law"), row("2", "law")
    )
    dev = write_jsonl(tmp_path / "examples.jsonl", row("3", "law"))
    loaded = multiple_choice(path, dev_path=dev)
    assert question_texts(loaded) == ["1", "2"]
    assert few_shot(loaded, "law", 1)[0].name == f"{dev}:1"
    with pytest.raises(ValueError, match=r"examples\.jsonl:1: expected the columns question"):
        multiple_choice(path, dev_path=write_jsonl(dev, {"text": "x"}))


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    dataset = datasets.Dataset.from_list([row("1", "law"), row("2", "law")])
    datasets.DatasetDict({"test": dataset, "dev": dataset.select([1])}).save_to_disk(tmp_path / "both")
    loaded = multiple_choice(tmp_path / "both")
    assert (question_texts(loaded), few_shot(loaded, "law", 1)[0].question) == (["1", "2"], "2")
    datasets.DatasetDict({"test": dataset}).save_to_disk(tmp_path / "one")
    loaded = multiple_choice(tmp_path / "one")
    with pytest.raises(ValueError, match=r"got 0 from the split 'dev' .* has no split 'dev'; it has test"):
        few_shot(loaded, "law", 1)
    with pytest.raises(ValueError, match=r"one has no split 'train'; it has test"):
        multiple_choice(tmp_path / "one", split="train")


def test_a_data_set_name_is_loaded_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(name: str, subset: str | None, split: str, streaming: bool) -> Iterator[dict]:
        return iter([row(f"{name} {subset} {split}", "law")])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "explain_unreachable", lambda name: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    loaded = multiple_choice("owner/name", subset="all")
    assert question_texts(loaded) == ["owner/name all test"]
    assert few_shot(loaded, "law", 1)[0].question == "owner/name all dev"
    assert multiple_choice("owner/name", dev=None).dev == {}


QUIZ = Questions(
    [Question(f"q{i}", ("a", "b", "c", "d"), i, "xy"[i % 2], f"quiz:{i}") for i in range(4)],
    {subject: [Question(f"d{subject}", ("a", "b", "c", "d"), 0, subject, "quiz")] for subject in "xy"},
    "the embedded quiz",
)


def test_the_embedded_quiz_is_read_by_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[Any] = []
    monkeypatch.setattr(module, "quiz", lambda *, key: keys.append(key) or QUIZ)
    assert multiple_choice("embedded") == QUIZ
    loaded = multiple_choice("embedded", subset="y")
    assert (question_texts(loaded), list(loaded.dev)) == (["q1", "q3"], ["y"])
    with pytest.raises(ValueError, match="subset must be one of x, y, got 'z'"):
        multiple_choice("embedded", subset="z")
    with pytest.raises(ValueError, match="split of 'embedded' must be 'test', got 'val'"):
        multiple_choice("embedded", split="val")
    assert set(keys) == {0}


TEXT = st.text(st.sampled_from("ab ,\"\n\r;'\t\u2028\u00e9"), max_size=8)
SUBJECTS = st.sampled_from(["law", "high_school_physics", "a b"])
QUESTIONS = st.builds(
    Question,
    TEXT.filter(str.strip),
    st.tuples(TEXT, TEXT, TEXT, TEXT),
    st.integers(0, 3),
    SUBJECTS,
    st.just(""),
)


@given(st.lists(QUESTIONS, min_size=1, max_size=5), st.lists(QUESTIONS, max_size=5))
def test_write_csv_round_trips(test: list[Question], dev: list[Question]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_csv(folder, Questions(test, group_by_subject(dev), ""))
        loaded = multiple_choice(folder)
    assert without_names(group_by_subject(loaded.test)) == group_by_subject(test)
    assert without_names(loaded.dev) == group_by_subject(dev)


def without_names(questions: Mapping[str, list[Question]]) -> dict[str, list[Question]]:
    return {subject: [q._replace(name="") for q in group] for subject, group in questions.items()}


def test_write_csv_refuses_other_than_four_choices_and_bad_subjects(tmp_path: Path) -> None:
    three_choices = Question("x", ("a", "b", "c"), 0, "law", "here:1")
    with pytest.raises(ValueError, match=r"has 4 choices, got 3 in here:1; write JSONL"):
        write_csv(tmp_path, Questions([three_choices], {}, ""))
    for subject in ("", "../x", "a/b", ".x"):
        with pytest.raises(ValueError, match="cannot be a file's name"):
            write_csv(tmp_path, Questions([], {subject: []}, ""))
    assert list(tmp_path.iterdir()) == []


def test_write_csv_writes_mmlus_layout(tmp_path: Path) -> None:
    write_csv(tmp_path / "new", QUIZ)
    assert (tmp_path / "new/test/x_test.csv").read_bytes() == b"q0,a,b,c,d,A\r\nq2,a,b,c,d,C\r\n"
    assert (tmp_path / "new/dev/y_dev.csv").read_bytes() == b"dy,a,b,c,d,A\r\n"


def test_a_subset_of_one_file_is_a_subject(tmp_path: Path) -> None:
    rows = [{"question": "Q", "choices": ["a", "b"], "answer": 0, "subject": name} for name in ("law", "art")]
    path = write_text(tmp_path / "q.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert [question.subject for question in multiple_choice(path, subset="law").test] == ["law"]
    with pytest.raises(ValueError, match="no subset 'tax'; it has art, law"):
        multiple_choice(path, subset="tax")
