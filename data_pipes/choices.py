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

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The names of the choices, in their order."""

Record = TypeVar("Record")


class Question(NamedTuple):
    """One question with one right choice.

    Fields:
        question: the question's text.
        choices: two to 26 texts; the first is called A.
        answer: index of the right one, from 0.
        subject: such as "college_physics", "" if the set has none.
        name: place of the row ("test/anatomy_test.csv:17").
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
        place: source of a subject's examples, for messages ("mmlu/dev/{subject}_dev.csv").
    """

    test: list[Question]
    dev: dict[str, list[Question]]
    place: str


class UnreadableError(ValueError):
    """A row cannot be read; the message says what was expected, what it has, and what to do."""


def read_questions(rows: Iterable[Row], *, subject: str = "", on_bad: OnBad = stop) -> Iterator[Question]:
    """Reads rows of any of the usual layouts, which are recognized by their columns.

    Args:
        rows: with the columns `endings`, `label` (an index, or its digits), and `activity_label`, `ctx_a`,
            `ctx_b` or only `ctx` (HellaSwag); `question`, `choices` = {"text": [...], "label": [...]},
            `answerKey` (ARC); or `question`, `choices` = [...] or the columns `A`, `B`, ..., and `answer`,
            which is an index from 0 (a number), a letter, or the full text of a choice (MMLU, and most
            others).
        subject: of the rows that have no column `subject`.
        on_bad: gets each row with a column that is missing or of another type (true is no number), an empty
            question, fewer than two choices or more than 26, or an answer that is none of them or could be
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
    return parse_rows(rows, partial(_question, subject=subject), on_bad)


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
        place = questions.place.replace("{subject}", subject)
        raise ValueError(
            f"few_shot: expected {count} examples of the subject {subject!r}, got {len(examples)} from "
            f"{place}; ask for at most {len(examples)}, or add some there"
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
        The text, (1) stripped, (2) with ". " for each " [title]", (3) without square brackets and their
        contents, up to the first closing one, on one line, (4) with one space for each two, once, from the
        left.

    Example:
        >>> hellaswag_text(" How to knit [title] Buy wool. [step] Go to a shop.")
        'How to knit.  Buy wool. Go to a shop.'

    Source: `preprocess` in lm_eval/tasks/hellaswag/utils.py, lm-evaluation-harness 0.4.13.
    """
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def parse_rows(
    rows: Iterable[Row], parse: Callable[[Mapping, str], Record], on_bad: OnBad
) -> Iterator[Record]:
    """Parses row by row.

    Args:
        rows: with their places.
        parse: (values, place) -> a record; raises UnreadableError for a bad row.
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
    """Returns the value if it is a text.

    Raises:
        UnreadableError: if not; the message names the column.
    """
    if not isinstance(value, str):
        raise UnreadableError(f"expected a text in {column}, got a {type(value).__name__}")
    if re.search("[\ud800-\udfff]", value):
        raise UnreadableError(f"{column} has half a surrogate pair, which is no text")
    return value


def _question(row: Mapping[str, Any], name: str, *, subject: str) -> Question:
    """One row of any layout."""
    if _has(row, "endings"):
        text, choices, answer = _hellaswag(row)
    elif isinstance(row.get("choices"), Mapping):
        text, choices, answer = _arc(row)
    elif _has(row, "question", "answer") and (_has(row, "choices") or _letter_columns(row)):
        text, choices, answer = _listed(row)
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


def _hellaswag(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], int]:
    """ctx_a, ctx_b, activity_label (or ctx alone), endings, label."""
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
            "label is empty, as in HellaSwag's test part, which has none; take the validation part"
        )
    if isinstance(index, str) and re.fullmatch("[0-9]{1,9}", index):
        index = int(index)
    return hellaswag_text(text), choices, _require_index(index, choices, "label")


def _arc(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], int]:
    """question, choices {"text", "label"}, answerKey."""
    choices = _require_texts(row["choices"].get("text"), "choices['text']")
    labels = _require_texts(row["choices"].get("label"), "choices['label']")
    if len(labels) != len(choices):
        raise UnreadableError(
            f"expected a label for each choice, got {len(choices)} choices and {len(labels)} labels"
        )
    key = require_text(row.get("answerKey"), "answerKey").strip()
    if labels.count(key) != 1:
        raise UnreadableError(f"answerKey must be one of the labels {', '.join(labels)}, got {key!r}")
    return require_text(row.get("question"), "question"), choices, labels.index(key)


def _listed(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], int]:
    """question, choices (a list) or A, B, ..., and answer."""
    has_columns = row.get("choices") is None
    if has_columns:
        choices = _require_texts([row[letter] for letter in _letter_columns(row)], "A, B, ...")
    else:
        choices = _require_texts(row["choices"], "choices")
    answer = row["answer"]
    if isinstance(answer, str):
        index = _find_answer(require_text(answer, "answer").strip(), choices, columns=has_columns)
    else:
        index = _require_index(answer, choices, "answer")
    return require_text(row["question"], "question"), choices, index


def _has(row: Mapping[str, Any], *columns: str) -> bool:
    """True if none of these columns is missing or null."""
    return all(row.get(column) is not None for column in columns)


def _letter_columns(row: Mapping[str, Any]) -> list[str]:
    """The columns A, B, ..., up to the first that is missing or null."""
    return list(takewhile(lambda letter: row.get(letter) is not None, LETTERS))


def _require_texts(value: Any, column: str) -> tuple[str, ...]:
    """Returns a column's value if it is two to 26 texts."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UnreadableError(f"expected a list of texts in {column}, got a {type(value).__name__}")
    if not 2 <= len(value) <= len(LETTERS):
        raise UnreadableError(f"expected 2 to {len(LETTERS)} texts in {column}, got {len(value)}")
    return tuple(require_text(text, column) for text in value)


def _require_index(index: Any, choices: Sequence[str], column: str) -> int:
    """Returns a column's value if it is the index of a choice, from 0."""
    if isinstance(index, bool) or not isinstance(index, int):
        kind = repr(index) if isinstance(index, str) else f"a {type(index).__name__}"
        raise UnreadableError(f"expected in {column} the index of a choice, an integer from 0, got {kind}")
    if not 0 <= index < len(choices):
        raise UnreadableError(
            f"{column} must be 0 to {len(choices) - 1}, as there are {len(choices)} choices, got {index}; "
            "the first is 0"
        )
    return index


def _find_answer(answer: str, choices: Sequence[str], *, columns: bool) -> int:
    """The index of an answer that is a letter, or the full text of a choice."""
    letters = LETTERS[: len(choices)]
    matches = {i for i, choice in enumerate(choices) if choice.strip() == answer}
    if len(answer) == 1 and answer in letters:
        matches = {letters.index(answer)} | (set() if columns else matches)
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
