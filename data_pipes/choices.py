"""Multiple-choice questions: one schema, and readers of the usual layouts.

MMLU, ARC and HellaSwag have the same kind of questions in three layouts. Each row becomes a question, its
choices, and the index of the right one; a row that cannot be read is reported with its place.

Hendrycks et al., "Measuring Massive Multitask Language Understanding", 2021 (MMLU); Clark et al., "Think you
have Solved Question Answering? Try ARC", 2018; Zellers et al., "HellaSwag: Can a Machine Really Finish Your
Sentence?", 2019.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import Any, NamedTuple, TypeVar

from data_pipes.types import BadRow, OnBad, Row, stop
from pure.plural import count_noun

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Letters that name the choices, in order."""

Record = TypeVar("Record")


class Question(NamedTuple):
    """One question with one right choice.

    Fields:
        question: the question's text.
        choices: two to 26 texts; the first is called A.
        answer: index of the right choice, from 0.
        subject: such as "college_physics", "" if the set has none.
        name: file and line or row number, for messages ("test/anatomy_test.csv:17").
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str
    name: str


class Questions(NamedTuple):
    """A set of questions with examples.

    Fields:
        test: the questions, in the order of the files.
        dev: subject -> questions that are shown with their answers as examples.
        dev_source: where the examples of a subject are, for messages ("mmlu/dev/{subject}_dev.csv").
    """

    test: list[Question]
    dev: dict[str, list[Question]]
    dev_source: str


class UnreadableError(ValueError):
    """A row that cannot be read; the message says what was expected, what the row has, and the fix."""


def read_questions(rows: Iterable[Row], *, subject: str = "", on_bad: OnBad = stop) -> Iterator[Question]:
    """Reads rows of any of the usual layouts, which are recognized by their columns.

    Args:
        rows: with the columns of one layout.
            HellaSwag: `ctx`, or `ctx_a` and `ctx_b`; optionally `activity_label`; `endings`; and `label`, an
            index as number or digits.
            ARC: `question`, `choices` = {"text": [...], "label": [...]}, and `answerKey`.
            MMLU and most others: `question`; `choices` = [...] or the columns `A`, `B`, ...; and `answer`, an
            index from 0 (a number), a letter, or the full text of a choice.
        subject: of the rows that have no column `subject`.
        on_bad: gets each row with a column that is missing or of another type (a bool is not an index), an
            empty question, fewer than two choices or more than 26, or an answer that matches no choice or
            two.

    Returns:
        An iterator over Questions. Texts are left as they are, except HellaSwag's (see `hellaswag_text`).

    Edge cases: choices may be equal or empty, as in some public sets. An answer that is a letter always names
    a column if the choices are the columns A, B, ...; in a list it is refused if it is also the text of
    another choice (blood types).

    Example:
        >>> row = Row({"question": "1 + 1?", "choices": ["1", "2"], "answer": "B"}, "a:1")
        >>> next(read_questions([row], subject="sums"))
        Question(question='1 + 1?', choices=('1', '2'), answer=1, subject='sums', name='a:1')
    """
    return parse_rows(rows, partial(_parse_question, subject=subject), on_bad)


def few_shot(questions: Questions, subject: str, count: int) -> list[Question]:
    """Returns the few-shot examples of a subject: its first `count` dev questions.

    Args:
        questions: a set.
        subject: of the question.
        count: number of examples, >= 0.

    Returns:
        `count` Questions, in their order.

    Raises:
        ValueError: if there are fewer, or count is negative.

    Example:
        >>> few_shot(Questions([], {}, "dev/{subject}_dev.csv"), "anatomy", 0)
        []
    """
    if count < 0:
        raise ValueError(f"few_shot: count must be 0 or more, got {count}")
    examples = questions.dev.get(subject, [])
    if len(examples) < count:
        source = questions.dev_source.replace("{subject}", subject)
        raise ValueError(
            f"few_shot: expected {count_noun(count, 'example')} of the subject {subject!r}, got "
            f"{len(examples)} from {source}; ask for at most {len(examples)}, or add some there"
        )
    return examples[:count]


def group_by_subject(questions: Iterable[Question]) -> dict[str, list[Question]]:
    """Groups questions by subject; subjects and questions keep their order."""
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.subject, []).append(question)
    return groups


def hellaswag_text(text: str) -> str:
    """Removes WikiHow's markup from a text of HellaSwag, exactly as lm-evaluation-harness does.

    Half of HellaSwag comes from WikiHow, whose headings are in it as "[header]", "[title]", "[step]".

    Args:
        text: a context or an ending.

    Returns:
        The text after four steps: (1) strip, (2) replace each " [title]" by ". ", (3) remove each pair of
        square brackets on one line with its contents, (4) replace each two spaces by one, in a single pass.

    Example:
        >>> hellaswag_text(" How to knit [title] Buy wool. [step] Go to a shop.")
        'How to knit.  Buy wool. Go to a shop.'

    Source: `preprocess` in lm_eval/tasks/hellaswag/utils.py, lm-evaluation-harness 0.4.13.
    """
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def parse_rows(
    rows: Iterable[Row], parse: Callable[[Mapping, str], Record], on_bad: OnBad
) -> Iterator[Record]:
    """Parses rows one at a time.

    Args:
        rows: with their names.
        parse: (values, name) -> a record; raises UnreadableError for a bad row.
        on_bad: gets each bad row.

    Returns:
        An iterator over the records of good rows.
    """
    for row in rows:
        try:
            yield parse(row.values, row.name)
        except UnreadableError as error:
            on_bad(BadRow(row.name, str(error)))


def require_text(value: Any, column: str) -> str:
    """Returns the value if it is a string of valid Unicode.

    Raises:
        UnreadableError: if not; the message names the column.
    """
    if not isinstance(value, str):
        raise UnreadableError(f"expected a string in {column}, got {type(value).__name__}")
    if re.search("[\ud800-\udfff]", value):
        raise UnreadableError(f"{column} has a lone surrogate, which is not valid Unicode; fix the encoding")
    return value


def _parse_question(row: Mapping[str, Any], name: str, *, subject: str) -> Question:
    """Parses a row of any layout."""
    if _has(row, "endings"):
        text, choices, answer = _parse_hellaswag(row)
    elif isinstance(row.get("choices"), Mapping):
        text, choices, answer = _parse_arc(row)
    elif _has(row, "question", "answer") and (_has(row, "choices") or _letter_columns(row)):
        text, choices, answer = _parse_mmlu(row)
    else:
        raise UnreadableError(
            "expected the columns question, choices (or A, B, ...) and answer; question, choices with text "
            "and label, and answerKey; or ctx (or ctx_a, ctx_b), endings and label; got "
            f"{', '.join(map(str, row)) or '(none)'}"
        )
    if not text.strip():
        raise UnreadableError("the question is empty; drop the row")
    if row.get("subject") is not None:
        subject = require_text(row["subject"], "subject")
    return Question(text, choices, answer, subject, name)


def _parse_hellaswag(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], int]:
    """Parses HellaSwag's columns (ctx or ctx_a and ctx_b, activity_label, endings, label).

    Returns:
        Question, choices and index of the right one, as the two functions below.
    """
    if _has(row, "ctx_a", "ctx_b"):
        text = require_text(row["ctx_a"], "ctx_a") + " " + require_text(row["ctx_b"], "ctx_b").capitalize()
    else:
        text = require_text(row.get("ctx"), "ctx (or ctx_a and ctx_b)")
    label = row.get("activity_label")
    if label is not None:
        text = require_text(label, "activity_label") + ": " + text
    choices = tuple(hellaswag_text(ending) for ending in _require_texts(row["endings"], "endings"))
    index = row.get("label")
    if index == "":
        raise UnreadableError(
            "label is empty, as in HellaSwag's test split, which has no labels; use the validation split"
        )
    if isinstance(index, str) and re.fullmatch("[0-9]{1,9}", index):
        index = int(index)
    return hellaswag_text(text), choices, _require_index(index, choices, "label")


def _parse_arc(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], int]:
    """Parses ARC's columns (question, choices {"text", "label"}, answerKey)."""
    choices = _require_texts(row["choices"].get("text"), "choices['text']")
    labels = _require_texts(row["choices"].get("label"), "choices['label']")
    if len(labels) != len(choices):
        raise UnreadableError(
            f"expected a label for each choice, got {count_noun(len(choices), 'choice')} and "
            f"{count_noun(len(labels), 'label')}"
        )
    key = require_text(row.get("answerKey"), "answerKey").strip()
    if labels.count(key) != 1:
        raise UnreadableError(f"answerKey must be one of the labels {', '.join(labels)}, got {key!r}")
    return require_text(row.get("question"), "question"), choices, labels.index(key)


def _parse_mmlu(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], int]:
    """Parses MMLU's columns (question, choices (a list) or A, B, ..., answer)."""
    has_columns = row.get("choices") is None
    if has_columns:
        choices = _require_texts([row[letter] for letter in _letter_columns(row)], "A, B, ...")
    else:
        choices = _require_texts(row["choices"], "choices")
    answer = row["answer"]
    if isinstance(answer, str):
        index = _find_answer(require_text(answer, "answer").strip(), choices, prefer_letter=has_columns)
    else:
        index = _require_index(answer, choices, "answer")
    return require_text(row["question"], "question"), choices, index


def _has(row: Mapping[str, Any], *columns: str) -> bool:
    """Checks that none of these columns is missing or null."""
    return all(row.get(column) is not None for column in columns)


def _letter_columns(row: Mapping[str, Any]) -> list[str]:
    """Lists the columns A, B, ..., up to the first that is missing or null."""
    return list(takewhile(lambda letter: row.get(letter) is not None, LETTERS))


def _require_texts(value: Any, column: str) -> tuple[str, ...]:
    """Returns a column's value if it is a list of 2 to 26 strings."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UnreadableError(f"expected a list of strings in {column}, got {type(value).__name__}")
    if not 2 <= len(value) <= len(LETTERS):
        raise UnreadableError(f"expected 2 to {len(LETTERS)} strings in {column}, got {len(value)}")
    return tuple(require_text(text, column) for text in value)


def _require_index(index: Any, choices: Sequence[str], column: str) -> int:
    """Returns a column's value if it is the index of a choice, from 0."""
    if isinstance(index, bool) or not isinstance(index, int):
        actual = repr(index) if isinstance(index, str) else type(index).__name__
        raise UnreadableError(f"expected the index of a choice in {column}, an integer from 0, got {actual}")
    if not 0 <= index < len(choices):
        raise UnreadableError(
            f"{column} must be 0 to {len(choices) - 1}, as there are {len(choices)} choices, got {index}; "
            "the first is 0"
        )
    return index


def _find_answer(answer: str, choices: Sequence[str], *, prefer_letter: bool) -> int:
    """Finds the index of an answer that is a letter, or the full text of a choice.

    An answer that is both is ambiguous, unless `prefer_letter`.
    """
    letters = LETTERS[: len(choices)]
    matches = {i for i, choice in enumerate(choices) if choice.strip() == answer}
    if len(answer) == 1 and answer in letters:
        if prefer_letter:
            return letters.index(answer)
        matches.add(letters.index(answer))
    if len(matches) == 1:
        return matches.pop()
    if matches:
        names = " and ".join(letters[i] for i in sorted(matches))
        raise UnreadableError(
            f"answer {answer!r} could be the choices {names}; give the index of the right one"
        )
    raise UnreadableError(
        f"answer must be a letter from A to {letters[-1]}, the text of a choice, or its index (a number), "
        f"got {answer!r}"
    )
