"""Read multiple-choice sets: MMLU's folder of CSV files, the hub's layout, files of rows, a data set's name.

The CSV files of MMLU's authors have no header, and a row is question, A, B, C, D, letter of the answer:

    dev/anatomy_dev.csv  test/anatomy_test.csv  val/anatomy_val.csv

In the hub's layout the folder "all" has the rows of all subjects:

    all/test-00000-of-00001.parquet  all/dev-00000-of-00001.parquet  anatomy/test-00000-of-00001.parquet
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipes.choices import LETTERS, Question, Questions, group_by_subject, read_questions
from data_pipes.embedded.quiz import quiz
from data_pipes.source.arrow import is_saved
from data_pipes.source.delimited import read_records
from data_pipes.source.lines import lines
from data_pipes.source.path import is_rows, refuse_two_formats, rows, suffix
from data_pipes.source.splits import WORDS, find_splits
from data_pipes.source.text import Location, files, text_documents
from data_pipes.types import BadRow, OnBad, Row, stop

EMBEDDED = "embedded"
"""The name of the quiz about Python's own library (`data_pipes/embedded/quiz.py`)."""

SPLITS: Mapping[str, tuple[str, ...]] = {
    **WORDS,
    "validation": ("validation", "valid", "val"),
    "dev": ("dev",),
}
"""Split -> words in names of files and folders that mean it. Here "dev" means few-shot examples, not
validation."""

SPLIT_WORDS = tuple(word for words in SPLITS.values() for word in words)
"""All words of SPLITS."""

ALL = "all"
"""The folder that repeats the rows of all other folders."""

COLUMNS = ("question", *LETTERS[:4], "answer")
"""Columns of MMLU's CSV files."""


def multiple_choice(
    path: Location,
    *,
    split: str = "test",
    dev: str | None = "dev",
    dev_path: Location | None = None,
    subset: str | None = None,
    on_bad: OnBad = stop,
) -> Questions:
    """Reads a multiple-choice set in any of the usual layouts.

    Args:
        path: MMLU's folder; a folder in the Hub's layout; a file (.csv as MMLU's or with a header, .jsonl,
            .json, .parquet, ...; .gz may follow) or a folder of such; a folder written by a data set's
            `save_to_disk`; the name of a data set on the Hugging Face hub; or "embedded".
        split: the split with the questions. In a folder, these are the files with a word of it in their
            names or their folders' names ("test.jsonl", "test-00000-of-00001.parquet", "anatomy_test.csv",
            "test/a.jsonl"), or all files if no name has a word of SPLITS. A single file is read whatever its
            name is.
        dev: the split with the few-shot examples; None, or a split that does not exist, gives no examples.
        dev_path: another file or folder with the examples, read like `path`; in a folder, its split `dev`.
        subset: one subject (a folder, the beginning of a CSV file's name, a subject of the quiz), or the
            configuration of a data set.
        on_bad: called for each bad row (see `data_pipes.choices.read_questions`), and for each line of a CSV
            file that does not have six columns or cannot be read as CSV.

    Returns:
        The Questions, all in memory. Without a column `subject` the subject is the beginning of a CSV file's
        name, or the folder below `path`.

    Raises:
        FileNotFoundError: if the path does not exist, or has no file of this split or subset.
        ValueError: on a bad row, if on_bad is `stop`; if there is no question at all; if a file's name has
            the words of two splits, or of none although other names have one; if the same rows are there in
            two formats; or if the split of "embedded" is not "test".
    """
    if str(path) == EMBEDDED:
        return _select_quiz(split, subset)
    test = list(_read_part(path, split, subset, on_bad))
    if not test:
        raise ValueError(
            f"multiple_choice: {path} has no question in the split {split!r}; check the path and split="
        )
    if dev_path is not None:
        examples, source = list(_read_part(dev_path, dev or "dev", None, on_bad)), str(dev_path)
    elif dev is None or Path(path).is_file():
        examples, source = [], "nowhere (dev_path= names a file with examples)"
    else:
        examples, source = _read_examples(path, dev, subset, on_bad)
    return Questions(test, group_by_subject(examples), source)


def csv_rows(path: Location, *, on_bad: OnBad = stop) -> Iterator[Row]:
    """Reads a CSV file of MMLU: no header, six columns, quoted as in RFC 4180; blank lines are skipped.

    Args:
        path: the file, read into memory; .gz is decompressed.
        on_bad: called for each row with another number of columns, and where the file is not valid CSV or
            UTF-8.

    Returns:
        Rows with the columns question, A, B, C, D, answer, named "file:line" after their first line.
    """
    text = "".join(document.text for document in text_documents(path, on_bad=on_bad))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    for cells, name in read_records(reader, path, on_bad, cell_limit=csv.field_size_limit()):
        if len(cells) == len(COLUMNS):
            yield Row(dict(zip(COLUMNS, cells, strict=True)), name)
        else:
            on_bad(
                BadRow(
                    name,
                    f"expected {len(COLUMNS)} columns (question, A, B, C, D, letter), got {len(cells)}; a "
                    "text with commas must be quoted",
                )
            )


def write_csv(folder: Location, questions: Questions) -> None:
    """Writes a set as MMLU's folder of CSV files, which other tools can read.

    Args:
        folder: created if needed; files of the same subjects are replaced.
        questions: questions with four choices each, whose subjects can be names of files.

    Raises:
        ValueError: if a question does not have four choices, or if a subject is empty or has characters other
            than letters, digits, "_", "-", "." and spaces.
    """
    splits = {"test": group_by_subject(questions.test), "dev": questions.dev}
    for subject, group in (item for subjects in splits.values() for item in subjects.items()):
        if re.fullmatch(r"\w[\w .-]*", subject) is None:
            raise ValueError(
                f"write_csv: the subject {subject!r} cannot be a file's name; use letters, digits and _"
            )
        for question in group:
            if len(question.choices) != 4:
                raise ValueError(
                    f"write_csv: MMLU's layout has 4 choices, got {len(question.choices)} in "
                    f"{question.name}; write JSONL instead, with the columns question, choices, answer and "
                    "subject"
                )
    for split, subjects in splits.items():
        (Path(folder) / split).mkdir(parents=True, exist_ok=True)
        for subject, group in subjects.items():
            with open(
                Path(folder) / split / f"{subject}_{split}.csv", "w", encoding="utf-8", newline=""
            ) as file:
                csv_lines = (
                    (question.question, *question.choices, LETTERS[question.answer]) for question in group
                )
                csv.writer(file).writerows(csv_lines)


def _select_quiz(split: str, subset: str | None) -> Questions:
    """Returns the embedded quiz, or one subject of it."""
    if split != "test":
        raise ValueError(
            f"multiple_choice: the split of {EMBEDDED!r} must be 'test', got {split!r}; leave split= out"
        )
    questions = quiz(key=0)
    if subset is None:
        return questions
    if subset not in questions.dev:
        raise ValueError(f"multiple_choice: subset must be one of {', '.join(questions.dev)}, got {subset!r}")
    test = [question for question in questions.test if question.subject == subset]
    return questions._replace(test=test, dev={subset: questions.dev[subset]})


def _read_examples(path: Location, dev: str, subset: str | None, on_bad: OnBad) -> tuple[list[Question], str]:
    """Reads the questions of the split `dev`, if it exists, and describes its source for messages."""
    if _is_folder(path):
        selected = _select_files(Path(path), dev, subset)
        is_mmlu = any(suffix(file) == ".csv" for file in files(path))
        source = f"{Path(path) / dev}/{{subject}}_{dev}.csv" if is_mmlu else f"the split {dev!r} of {path}"
        return [question for file in selected for question in _read_file(file, Path(path), on_bad)], source
    try:
        records = rows(path, subset=subset, split=dev, on_bad=on_bad)
    except ValueError as error:
        return [], f"the split {dev!r} of {path} ({error})"
    return list(read_questions(records, on_bad=on_bad)), f"the split {dev!r} of {path}"


def _read_part(path: Location, split: str, subset: str | None, on_bad: OnBad) -> Iterator[Question]:
    """Reads one split, which must exist."""
    if Path(path).is_file():
        questions = list(_read_file(Path(path), Path(path).parent, on_bad))
        kept = [question for question in questions if subset in (None, question.subject)]
        if questions and not kept:
            subjects = sorted({question.subject for question in questions})
            raise ValueError(
                f"multiple_choice: {path} has no subset {subset!r}; it has {', '.join(subjects[:5])}"
            )
        yield from kept
    elif _is_folder(path):
        selected = _select_files(Path(path), split, subset)
        if not selected:
            names = sorted({file.name for file in files(path)})
            raise FileNotFoundError(
                f"multiple_choice: {path} has no file of the split {split!r}"
                f"{'' if subset is None else f' of {subset!r}'}, such as "
                f"test/{subset or 'anatomy'}_test.csv, all/test-00000-of-00001.parquet or test.jsonl; it "
                f"has {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}; pass split= or subset="
            )
        for file in selected:
            yield from _read_file(file, Path(path), on_bad)
    else:
        yield from read_questions(rows(path, subset=subset, split=split, on_bad=on_bad), on_bad=on_bad)


def _is_folder(path: Location) -> bool:
    """True for a folder of files, but not for one that `save_to_disk` wrote."""
    return bool(str(path)) and Path(path).is_dir() and not is_saved(path)


def _select_files(top: Path, split: str, subset: str | None) -> list[Path]:
    """Selects the files of one split of a folder, sorted; only those in "all" if there are any."""
    readable = refuse_two_formats([file for file in files(top) if is_rows(file)])
    splits = _splits_of_files(top, readable)
    canonical = next((name for name, words in SPLITS.items() if split.lower() in words), split)
    selected = [file for file in readable if splits.get(file, "test") == canonical]
    if subset is not None:
        return [file for file in selected if subset in (_stem(file), *file.relative_to(top).parts[:-1])]
    of_all_subjects = [file for file in selected if file.relative_to(top).parts[0] == ALL]
    return of_all_subjects or selected


def _splits_of_files(top: Path, readable: list[Path]) -> dict[Path, str]:
    """Finds the split of each file by its name and its folders' names; {} if no name has a word of SPLITS.

    Raises:
        ValueError: if a file's name has words of two splits, or of none although other names have one.
    """
    splits = {file: find_splits(file.relative_to(top).as_posix(), SPLITS) for file in readable}
    if ambiguous := [file for file, names in splits.items() if len(names) > 1]:
        raise ValueError(
            f"multiple_choice: the name of {ambiguous[0]} has words of the splits "
            f"{' and '.join(splits[ambiguous[0]])}; rename it, or pass the path of one file"
        )
    if not any(splits.values()):
        return {}
    if stray := [file for file, names in splits.items() if not names]:
        raise ValueError(
            f"multiple_choice: {stray[0]} belongs to no split, but other files in the folder do; move or "
            "rename it, or pass the path of one file"
        )
    return {file: names[0] for file, names in splits.items()}


def _read_file(file: Path, top: Path, on_bad: OnBad) -> Iterator[Question]:
    """Reads the questions of one file; rows without a subject get that of the file's or folder's name."""
    if suffix(file) == ".csv" and not _has_header(file):
        return read_questions(csv_rows(file, on_bad=on_bad), subject=_stem(file), on_bad=on_bad)
    folders = [name for name in file.relative_to(top).parts[:-1] if name not in (ALL, "data", *SPLIT_WORDS)]
    return read_questions(rows(file, on_bad=on_bad), subject=folders[0] if folders else "", on_bad=on_bad)


def _has_header(file: Path) -> bool:
    """True if the first line of a CSV file names columns, which MMLU's files do not."""
    cells = next(
        csv.reader(io.StringIO(next(lines(file, lambda bad: None), b"").decode("utf-8", "replace"))), []
    )
    return {"question", "answer"} <= {cell.strip().lower() for cell in cells}


def _without_suffix(file: Path) -> str:
    """A file's name without the suffixes of format and compression."""
    return re.sub(r"(?i)\.\w+(\.(gz|bz2|xz|zst))?$", "", file.name)


def _stem(file: Path) -> str:
    """A file's name without suffixes and the word of its split: anatomy_test.csv -> anatomy."""
    return re.sub(rf"[-_.]({'|'.join(SPLIT_WORDS)})$", "", _without_suffix(file))
