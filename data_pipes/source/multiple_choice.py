"""Read multiple-choice sets: MMLU's folder of CSV files, the Hub's layout, files of rows, a data set's name.

MMLU's folder, as its authors publish it, has no header lines, and a row is question, A, B, C, D, letter:

    dev/anatomy_dev.csv  test/anatomy_test.csv  val/anatomy_val.csv

In the Hub's layout the folder "all" has all subjects together:

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

PARTS: Mapping[str, tuple[str, ...]] = {
    **WORDS,
    "validation": ("validation", "valid", "val"),
    "dev": ("dev",),
}
"""Part -> words in names of files and folders that mean it; "dev" are the examples here, not validation."""

SPLITS = tuple(word for words in PARTS.values() for word in words)
"""All words of PARTS."""

ALL = "all"
"""The folder that repeats the rows of all other folders."""

COLUMNS = ("question", *LETTERS[:4], "answer")
"""A row of MMLU's CSV files."""


def multiple_choice(
    path: Location,
    *,
    split: str = "test",
    dev: str | None = "dev",
    dev_path: Location | None = None,
    subset: str | None = None,
    on_bad: OnBad = stop,
) -> Questions:
    """Reads a multiple-choice set, of any of the usual layouts.

    Args:
        path: MMLU's folder; a folder in the Hub's layout; a file (.csv as MMLU's or with a header, .jsonl,
            .json, .parquet, ...; .gz may follow) or a folder of such; a folder written by a data set's
            `save_to_disk`; the name of a data set on the Hugging Face hub; or "embedded".
        split: the part with the questions. In a folder: the files with a word of it in their names or their
            folders' ("test.jsonl", "test-00000-of-00001.parquet", "anatomy_test.csv", "test/a.jsonl"), or all
            files if no name has a word of PARTS. A single file is read whatever its name.
        dev: the part with the examples; None, or a missing one, gives none.
        dev_path: a file or folder that examples come from instead, read as `path` is; of a folder, its part
            `dev`.
        subset: one subject (a folder, the beginning of a CSV file's name, a subject of the quiz), or the
            configuration of a data set.
        on_bad: gets each bad row (see `data_pipes.choices.read_questions`), and each line of a CSV file that
            has not six columns or cannot be read as CSV.

    Returns:
        Questions; all of the set is in memory. Without a column `subject` the subject is the beginning of
        a CSV file's name, or the folder below `path`.

    Raises:
        FileNotFoundError: if there is nothing at the path, or no file of this part or subset.
        ValueError: on a bad row, under `stop`; if there is no question at all; for a file of two parts, of
            none beside files that have one, or in two formats; or for another part of "embedded".
    """
    if str(path) == EMBEDDED:
        return _select_quiz(split, subset)
    test = list(_read_part(path, split, subset, on_bad))
    if not test:
        raise ValueError(
            f"multiple_choice: {path} has no question in the part {split!r}; check the path and split="
        )
    if dev_path is not None:
        examples, source = list(_read_part(dev_path, dev or "dev", None, on_bad)), str(dev_path)
    elif dev is None or Path(path).is_file():
        examples, source = [], "nowhere (dev_path= names a file with examples)"
    else:
        examples, source = _read_examples(path, dev, subset, on_bad)
    return Questions(test, group_by_subject(examples), source)


def csv_rows(path: Location, *, on_bad: OnBad = stop) -> Iterator[Row]:
    """Reads a CSV file of MMLU: no header, six columns, quoted as in RFC 4180; blank lines hold no row.

    Args:
        path: the file, read whole; .gz is unpacked.
        on_bad: gets each row with another number of columns, and each place where the file cannot be read as
            CSV or is not UTF-8.

    Returns:
        Rows with the columns question, A, B, C, D, answer, named "file:line" by the line on which they begin.
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
                    "text with commas must stand in quotes",
                )
            )


def write_csv(folder: Location, questions: Questions) -> None:
    """Writes a set as MMLU's folder of CSV files, which other tools read as well.

    Args:
        folder: created if needed; files of the same subjects are replaced.
        questions: of four choices each, with subjects that can be names of files.

    Raises:
        ValueError: if a question has another number of choices, or a subject is empty or has other signs than
            letters, digits, "_", "-", "." and spaces.
    """
    parts = {"test": group_by_subject(questions.test), "dev": questions.dev}
    for subject, asked in ((subject, asked) for part in parts.values() for subject, asked in part.items()):
        if re.fullmatch(r"\w[\w .-]*", subject) is None:
            raise ValueError(
                f"write_csv: the subject {subject!r} cannot be a file's name; give it one of letters"
            )
        for question in asked:
            if len(question.choices) != 4:
                raise ValueError(
                    f"write_csv: MMLU's layout has 4 choices, got {len(question.choices)} in "
                    f"{question.name}; write JSONL instead, with the columns question, choices, answer and "
                    "subject"
                )
    for part, subjects in parts.items():
        (Path(folder) / part).mkdir(parents=True, exist_ok=True)
        for subject, asked in subjects.items():
            with open(
                Path(folder) / part / f"{subject}_{part}.csv", "w", encoding="utf-8", newline=""
            ) as file:
                lines = (
                    (question.question, *question.choices, LETTERS[question.answer]) for question in asked
                )
                csv.writer(file).writerows(lines)


def _select_quiz(split: str, subset: str | None) -> Questions:
    """Returns the embedded quiz, or one subject of it."""
    if split != "test":
        raise ValueError(
            f"multiple_choice: the part of {EMBEDDED!r} must be 'test', got {split!r}; leave split= out"
        )
    found = quiz(key=0)
    if subset is None:
        return found
    if subset not in found.dev:
        raise ValueError(f"multiple_choice: subset must be one of {', '.join(found.dev)}, got {subset!r}")
    test = [question for question in found.test if question.subject == subset]
    return found._replace(test=test, dev={subset: found.dev[subset]})


def _read_examples(path: Location, dev: str, subset: str | None, on_bad: OnBad) -> tuple[list[Question], str]:
    """Reads the questions of the part `dev`, if it exists, and describes its place."""
    if _is_folder(path):
        found = _select_files(Path(path), dev, subset)
        mmlu = any(suffix(file) == ".csv" for file in files(path))
        place = f"{Path(path) / dev}/{{subject}}_{dev}.csv" if mmlu else f"the part {dev!r} of {path}"
        return [question for file in found for question in _read_file(file, Path(path), on_bad)], place
    try:
        records = rows(path, subset=subset, split=dev, on_bad=on_bad)
    except ValueError as error:
        return [], f"the part {dev!r} of {path} ({error})"
    return list(read_questions(records, on_bad=on_bad)), f"the part {dev!r} of {path}"


def _read_part(path: Location, split: str, subset: str | None, on_bad: OnBad) -> Iterator[Question]:
    """Reads one part, which must exist."""
    if Path(path).is_file():
        asked = list(_read_file(Path(path), Path(path).parent, on_bad))
        kept = [question for question in asked if subset in (None, question.subject)]
        if asked and not kept:
            subjects = sorted({question.subject for question in asked})
            raise ValueError(
                f"multiple_choice: {path} has no subset {subset!r}; it has {', '.join(subjects[:5])}"
            )
        yield from kept
    elif _is_folder(path):
        found = _select_files(Path(path), split, subset)
        if not found:
            names = sorted({file.name for file in files(path)})
            raise FileNotFoundError(
                f"multiple_choice: {path} has no file of the part {split!r}"
                f"{'' if subset is None else f' of {subset!r}'}, such as "
                f"test/{subset or 'anatomy'}_test.csv, all/test-00000-of-00001.parquet or test.jsonl; it "
                f"has {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}; pass split= or subset="
            )
        for file in found:
            yield from _read_file(file, Path(path), on_bad)
    else:
        yield from read_questions(rows(path, subset=subset, split=split, on_bad=on_bad), on_bad=on_bad)


def _is_folder(path: Location) -> bool:
    """True for a folder of files, but not for one that `save_to_disk` wrote."""
    return bool(str(path)) and Path(path).is_dir() and not is_saved(path)


def _select_files(top: Path, split: str, subset: str | None) -> list[Path]:
    """Selects the files of one part of a folder, sorted; those of "all" if there are any."""
    readable = refuse_two_formats([file for file in files(top) if is_rows(file)])
    parts = _parts(top, readable)
    wanted = next((name for name, words in PARTS.items() if split.lower() in words), split)
    found = [file for file in readable if parts.get(file, "test") == wanted]
    if subset is not None:
        return [file for file in found if subset in (_stem(file), *file.relative_to(top).parts[:-1])]
    every = [file for file in found if file.relative_to(top).parts[0] == ALL]
    return every or found


def _parts(top: Path, readable: list[Path]) -> dict[Path, str]:
    """Finds the part of each file, by its name and its folders' names; empty if none has one.

    Raises:
        ValueError: for a file of two parts, or of none beside files that have one.
    """
    found = {file: find_splits(file.relative_to(top).as_posix(), PARTS) for file in readable}
    if twice := [file for file, names in found.items() if len(names) > 1]:
        raise ValueError(
            f"multiple_choice: the name of {twice[0]} has words of the parts {' and '.join(found[twice[0]])}"
        )
    if not any(found.values()):
        return {}
    if stray := [file for file, names in found.items() if not names]:
        raise ValueError(
            f"multiple_choice: {stray[0]} belongs to no part, and other names in the folder say one; move or "
            "rename it, or name one file"
        )
    return {file: names[0] for file, names in found.items()}


def _read_file(file: Path, top: Path, on_bad: OnBad) -> Iterator[Question]:
    """Reads the questions of one file; rows without a subject get that of its name or its folder."""
    if suffix(file) == ".csv" and not _has_header(file):
        return read_questions(csv_rows(file, on_bad=on_bad), subject=_stem(file), on_bad=on_bad)
    folders = [name for name in file.relative_to(top).parts[:-1] if name not in (ALL, "data", *SPLITS)]
    return read_questions(rows(file, on_bad=on_bad), subject=folders[0] if folders else "", on_bad=on_bad)


def _has_header(file: Path) -> bool:
    """True if the first line of a CSV file names columns, which MMLU's files do not."""
    cells = next(
        csv.reader(io.StringIO(next(lines(file, lambda bad: None), b"").decode("utf-8", "replace"))), []
    )
    return {"question", "answer"} <= {cell.strip().lower() for cell in cells}


def _without_suffix(file: Path) -> str:
    """A file's name without the suffix of its format."""
    return re.sub(r"(?i)\.\w+(\.(gz|bz2|xz|zst))?$", "", file.name)


def _stem(file: Path) -> str:
    """A file's name without its part: anatomy_test.csv -> anatomy."""
    return re.sub(rf"[-_.]({'|'.join(SPLITS)})$", "", _without_suffix(file))
