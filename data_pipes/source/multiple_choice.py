"""Multiple-choice sets from anywhere: MMLU's folder of CSV files, the Hub's layout, files of rows, a data
set's name.

MMLU's folder, as its authors give it, has no header lines, and a row is question, A, B, C, D, letter:

    dev/anatomy_dev.csv  test/anatomy_test.csv  val/anatomy_val.csv

The Hub's layout, of which the first folder holds all subjects together:

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
from data_pipes.source.lines import lines
from data_pipes.source.path import each_once, is_rows, rows, suffix
from data_pipes.source.splits import WORDS, named_splits
from data_pipes.source.text import Location, files, text_documents
from data_pipes.types import BadRow, OnBad, Row, stop

EMBEDDED = "embedded"
"""The name of the quiz about Python's own library (`data_pipes/embedded/quiz.py`)."""

PARTS: Mapping[str, tuple[str, ...]] = {
    **WORDS,
    "validation": ("validation", "valid", "val"),
    "dev": ("dev",),
}
"""Part -> words in names of files and folders that stand for it: examples (dev) are not validation here."""

SPLITS = tuple(word for words in PARTS.values() for word in words)
"""All of them."""

ALL = "all"
"""The folder that holds every subject, so that the others hold nothing else."""

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
        split: the part to be asked. In a folder it is the files with a word of it in their names or their
            folders' ("test.jsonl", "test-00000-of-00001.parquet", "anatomy_test.csv", "test/a.jsonl"), or all
            files if no name has a word of PARTS. A single file is taken as it is.
        dev: the part that examples come from; None, or one that is not there, gives none.
        dev_path: a file or folder that examples come from instead, read as `path` is; of a folder, its part
            `dev`.
        subset: one subject (a folder, the beginning of a CSV file's name, a subject of the quiz), or the
            configuration of a data set.
        on_bad: gets each bad row (see `data_pipes.choices.read_questions`), and each line of a CSV file that
            has not six columns or cannot be read as CSV.

    Returns:
        Questions; all of the set is in memory. Without a column `subject` the subject is what a CSV file's
        name begins with, or the folder below `path`.

    Raises:
        FileNotFoundError: if there is nothing at the path, or no file of this part or subset.
        ValueError: on a bad row, under `stop`; if there is no question at all; for a file of two parts, of
            none beside files that have one, or in two formats; or for another part of "embedded".
    """
    if str(path) == EMBEDDED:
        return _embedded(split, subset)
    test = list(_part(path, split, subset, on_bad))
    if not test:
        raise ValueError(
            f"multiple_choice: {path} has no question in the part {split!r}; check the path and split="
        )
    if dev_path is not None:
        examples, place = list(_part(dev_path, dev or "dev", None, on_bad)), str(dev_path)
    elif dev is None or Path(path).is_file():
        examples, place = [], "nowhere (dev_path= names a file with examples)"
    else:
        examples, place = _examples(path, dev, subset, on_bad)
    return Questions(test, group_by_subject(examples), place)


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
    while True:
        name = f"{path}:{reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            on_bad(
                BadRow(
                    name, f"cannot be read as CSV ({error}); a quote inside a quoted text is written twice"
                )
            )
            continue
        if len(cells) == len(COLUMNS):
            yield Row(dict(zip(COLUMNS, cells, strict=True)), name)
        elif cells:
            on_bad(
                BadRow(
                    name,
                    f"expected {len(COLUMNS)} columns (question, A, B, C, D, letter), got {len(cells)}; a "
                    "text with commas must stand in quotes",
                )
            )


def write_csv(folder: Location, found: Questions) -> None:
    """Writes a set as MMLU's folder of CSV files, which other tools read as well.

    Args:
        folder: made if it is not there; files of the same subjects are replaced.
        found: of four choices each, with subjects that can be names of files.

    Raises:
        ValueError: if a question has another number of choices, or a subject is empty or has other signs than
            letters, digits, "_", "-", "." and spaces.
    """
    parts = {"test": group_by_subject(found.test), "dev": found.dev}
    for subject, asked in ((subject, asked) for part in parts.values() for subject, asked in part.items()):
        if re.fullmatch(r"\w[\w .-]*", subject) is None:
            raise ValueError(
                f"write_csv: the subject {subject!r} can be no name of a file; give it one of letters"
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


def _embedded(split: str, subset: str | None) -> Questions:
    """The quiz, always the same one."""
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


def _examples(path: Location, dev: str, subset: str | None, on_bad: OnBad) -> tuple[list[Question], str]:
    """The questions of the part `dev`, if it is there, and where it is or would be."""
    if _is_folder(path):
        found = _chosen(Path(path), dev, subset)
        mmlu = any(suffix(file) == ".csv" for file in files(path))
        place = f"{Path(path) / dev}/{{subject}}_{dev}.csv" if mmlu else f"the part {dev!r} of {path}"
        return [question for file in found for question in _file(file, Path(path), on_bad)], place
    try:
        records = rows(path, subset=subset, split=dev, on_bad=on_bad)
    except ValueError as error:
        return [], f"the part {dev!r} of {path} ({error})"
    return list(read_questions(records, on_bad=on_bad)), f"the part {dev!r} of {path}"


def _part(path: Location, split: str, subset: str | None, on_bad: OnBad) -> Iterator[Question]:
    """One part, which must be there."""
    if Path(path).is_file():
        asked = list(_file(Path(path), Path(path).parent, on_bad))
        kept = [question for question in asked if subset in (None, question.subject)]
        if asked and not kept:
            subjects = sorted({question.subject for question in asked})
            raise ValueError(
                f"multiple_choice: {path} has no subset {subset!r}; it has {', '.join(subjects[:5])}"
            )
        yield from kept
    elif _is_folder(path):
        found = _chosen(Path(path), split, subset)
        if not found:
            names = sorted({file.name for file in files(path)})
            raise FileNotFoundError(
                f"multiple_choice: {path} has no file of the part {split!r}"
                f"{'' if subset is None else f' of {subset!r}'}, such as "
                f"test/{subset or 'anatomy'}_test.csv, all/test-00000-of-00001.parquet or test.jsonl; it "
                f"has {', '.join(names[:5])}{' and others' if len(names) > 5 else ''}; pass split= or subset="
            )
        for file in found:
            yield from _file(file, Path(path), on_bad)
    else:
        yield from read_questions(rows(path, subset=subset, split=split, on_bad=on_bad), on_bad=on_bad)


def _is_folder(path: Location) -> bool:
    """True for a folder of files, not for one that `save_to_disk` wrote."""
    return bool(str(path)) and Path(path).is_dir() and not is_saved(path)


def _chosen(top: Path, split: str, subset: str | None) -> list[Path]:
    """The files of one part of a folder, sorted; each subject once."""
    readable = each_once([file for file in files(top) if is_rows(file)])
    parts = _parts(top, readable)
    wanted = next((name for name, words in PARTS.items() if split.lower() in words), split)
    found = [file for file in readable if parts.get(file, "test") == wanted]
    if subset is not None:
        return [file for file in found if subset in (_stem(file), *file.relative_to(top).parts[:-1])]
    every = [file for file in found if file.relative_to(top).parts[0] == ALL]
    return every or found


def _parts(top: Path, readable: list[Path]) -> dict[Path, str]:
    """The part of each file, by its name and its folders' names; empty if none says one.

    Raises:
        ValueError: for a file of two parts, or of none beside files that have one.
    """
    found = {file: named_splits(file.relative_to(top).as_posix(), PARTS) for file in readable}
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


def _file(file: Path, top: Path, on_bad: OnBad) -> Iterator[Question]:
    """The questions of one file; the subject of rows that name none is that of its name or its folder."""
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


def _name(file: Path) -> str:
    """A file's name without what says how it is written."""
    return re.sub(r"(?i)\.\w+(\.(gz|bz2|xz|zst))?$", "", file.name)


def _stem(file: Path) -> str:
    """A file's name without the part at its end: anatomy_test.csv -> anatomy."""
    return re.sub(rf"[-_.]({'|'.join(SPLITS)})$", "", _name(file))
