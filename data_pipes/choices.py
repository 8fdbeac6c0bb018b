"""Multiple-choice questions: one schema, and readers of the layouts that they come in.

MMLU, ARC and HellaSwag ask in the same way and write it down in three. Here each row becomes a question, its
choices, and the place of the right one; a row that cannot be read is named with its place, and never vanishes
silently.

Hendrycks et al., "Measuring Massive Multitask Language Understanding", 2021 (MMLU); Clark et al., "Think you
have Solved Question Answering? Try ARC", 2018; Zellers et al., "HellaSwag: Can a Machine Really Finish Your
Sentence?", 2019.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from data_pipes.types import BadRow, OnBad, Row, stop

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The names of the choices, in their order."""

Record = TypeVar("Record")


class Question(NamedTuple):
    """One question with one right choice.

    Fields:
        question: what is asked.
        choices: two to 26 texts; the first is called A.
        answer: index of the right one, from 0.
        subject: what it is about ("college_physics"), "" if the set has none.
        name: where it came from ("test/anatomy_test.csv:17").
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    subject: str
    name: str


class Questions(NamedTuple):
    """A set to be examined with.

    Fields:
        test: what is asked, in the order of the files.
        dev: subject -> questions whose answers are shown as examples.
        place: where the examples of a subject come from, in words ("mmlu/dev/{subject}_dev.csv").
    """

    test: list[Question]
    dev: dict[str, list[Question]]
    place: str


class UnreadableError(ValueError):
    """A row that cannot be read: what was expected, what came, and what to do."""


def questions(rows: Iterable[Row], *, subject: str = "", on_bad: OnBad = stop) -> Iterator[Question]:
    """Reads rows of any of the usual layouts, which their columns tell.

    Args:
        rows: with the columns `endings`, `label` (an index, or its digits), and `activity_label`, `ctx_a`,
            `ctx_b` or only `ctx` (HellaSwag); `question`, `choices` = {"text": [...], "label": [...]},
            `answerKey` (ARC); or `question`, `choices` = [...] or the columns `A`, `B`, ..., and `answer`,
            which is an index from 0 (a number), a letter, or the full text of a choice (MMLU, and most
            others).
        subject: of the rows that have no column `subject`.
        on_bad: gets each row of which one of these is missing or of another type (true is no number), whose
            question is empty, that has fewer than two choices or more than 26, or whose answer is none of
            them or could be two.

    Returns:
        An iterator over Questions. Texts are left as they are, except HellaSwag's (see `hellaswag_text`).

    Edge cases: choices may be equal or empty, as some of the public sets' are. A letter always means a column
    where
        the choices are the columns A, B, ...; in a list, where it is also the text of another choice (blood
        types), it is refused.

    Example:
        >>> row = Row({"question": "1 + 1?", "choices": ["1", "2"], "answer": "B"}, "a:1")
        >>> next(questions([row], subject="sums"))
        Question(question='1 + 1?', choices=('1', '2'), answer=1, subject='sums', name='a:1')
    """
    return each(rows, partial(_question, subject=subject), on_bad)


def few_shot(found: Questions, subject: str, count: int) -> list[Question]:
    """Takes the examples that a question of some subject is asked after: the first `count` of its dev
    questions.

    Args:
        found: a set.
        subject: of the question.
        count: how many, >= 0.

    Returns:
        `count` Questions, in their order.

    Raises:
        ValueError: if there are fewer; with the subject, how many there are, and where they come from. Or if
            count is negative.

    Example:
        >>> few_shot(Questions([], {}, "dev/{subject}_dev.csv"), "anatomy", 0)
        []
    """
    if count < 0:
        raise ValueError(f"few_shot: count must be 0 or more, got {count}")
    examples = found.dev.get(subject, [])
    if len(examples) < count:
        place = found.place.replace("{subject}", subject)
        raise ValueError(
            f"few_shot: expected {count} examples of the subject {subject!r}, got {len(examples)} from {place}; "
            f"ask for at most {len(examples)}, or add some there"
        )
    return examples[:count]


def by_subject(found: Iterable[Question]) -> dict[str, list[Question]]:
    """Sorts questions by their subject; subjects and questions stay in the order in which they come."""
    sorted_out: dict[str, list[Question]] = {}
    for question in found:
        sorted_out.setdefault(question.subject, []).append(question)
    return sorted_out


def hellaswag_text(text: str) -> str:
    """Cleans a text of HellaSwag of what is left of WikiHow's pages, as lm-evaluation-harness does, to the
    letter.

    Half of HellaSwag was cut out of WikiHow, whose headings stand in it as "[header]", "[title]", "[step]".

    Args:
        text: a context or an ending.

    Returns:
        The text, (1) without white space at its ends, (2) with ". " for each " [title]", (3) without anything
        in square brackets, up to the first that closes, on one line, (4) with one space for each two, once,
        from the left.

    Example:
        >>> hellaswag_text(" How to knit [title] Buy wool. [step] Go to a shop.")
        'How to knit.  Buy wool. Go to a shop.'

    Source: `preprocess` in lm_eval/tasks/hellaswag/utils.py, lm-evaluation-harness 0.4.13.
    """
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def each(rows: Iterable[Row], read: Callable[[Mapping, str], Record], on_bad: OnBad) -> Iterator[Record]:
    """Reads row by row.

    Args:
        rows: with their places.
        read: (values, place) -> a record; raises UnreadableError for a bad row.
        on_bad: gets each bad row.

    Returns:
        An iterator over the records of good rows.
    """
    for row in rows:
        try:
            yield read(row.values, row.name)
        except UnreadableError as error:
            on_bad(BadRow(row.name, str(error)))


def text_of(value: Any, what: str) -> str:
    """Returns the value if it is a text.

    Raises:
        UnreadableError: if not, `what` being the name of its column.
    """
    if not isinstance(value, str):
        raise UnreadableError(f"expected a text in {what}, got a {type(value).__name__}")
    if re.search("[\ud800-\udfff]", value):
        raise UnreadableError(f"{what} has half a surrogate pair, which is no text")
    return value


def _question(row: Mapping[str, Any], name: str, *, subject: str) -> Question:
    """One row of any layout."""
    if _has(row, "endings"):
        text, choices, answer = _hellaswag(row)
    elif isinstance(row.get("choices"), Mapping):
        text, choices, answer = _arc(row)
    elif _has(row, "question", "answer") and (_has(row, "choices") or _columns(row)):
        text, choices, answer = _listed(row)
    else:
        raise UnreadableError(
            "expected the columns question, choices (or A, B, ...) and answer; question, choices with text and label, "
            "and answerKey; or ctx (or ctx_a, ctx_b), endings and label; got "
            f"{', '.join(map(str, row)) or '(none)'}"
        )
    if not text.strip():
        raise UnreadableError("the question is empty; drop the row")
    own = row.get("subject")
    return Question(text, choices, answer, subject if own is None else text_of(own, "subject"), name)


def _hellaswag(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], int]:
    """ctx_a, ctx_b, activity_label (or ctx alone), endings, label."""
    if _has(row, "ctx_a", "ctx_b"):
        text = text_of(row["ctx_a"], "ctx_a") + " " + text_of(row["ctx_b"], "ctx_b").capitalize()
    else:
        text = text_of(row.get("ctx"), "ctx (or ctx_a and ctx_b)")
    label = row.get("activity_label")
    if label is not None:
        text = text_of(label, "activity_label") + ": " + text
    choices = tuple(hellaswag_text(ending) for ending in _texts(row["endings"], "endings"))
    place = row.get("label")
    if place == "":
        raise UnreadableError(
            "label is empty, as in HellaSwag's test part, which has none; take the validation part"
        )
    place = int(place) if isinstance(place, str) and re.fullmatch("[0-9]{1,9}", place) else place
    return hellaswag_text(text), choices, _index(place, choices, "label")


def _arc(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], int]:
    """question, choices {"text", "label"}, answerKey."""
    choices = _texts(row["choices"].get("text"), "choices['text']")
    labels = _texts(row["choices"].get("label"), "choices['label']")
    if len(labels) != len(choices):
        raise UnreadableError(
            f"expected a label for each choice, got {len(choices)} choices and {len(labels)} labels"
        )
    key = text_of(row.get("answerKey"), "answerKey").strip()
    if labels.count(key) != 1:
        raise UnreadableError(f"answerKey must be one of the labels {', '.join(labels)}, got {key!r}")
    return text_of(row.get("question"), "question"), choices, labels.index(key)


def _listed(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...], int]:
    """question, choices (a list) or A, B, ..., and answer."""
    listed = row.get("choices")
    choices = (
        _texts([row[letter] for letter in _columns(row)], "A, B, ...") if listed is None else _texts(listed)
    )
    answer = row["answer"]
    if isinstance(answer, str):
        place = _named(text_of(answer, "answer").strip(), choices, columns=listed is None)
    else:
        place = _index(answer, choices, "answer")
    return text_of(row["question"], "question"), choices, place


def _has(row: Mapping[str, Any], *columns: str) -> bool:
    """True if all of these hold something."""
    return all(row.get(column) is not None for column in columns)


def _columns(row: Mapping[str, Any]) -> list[str]:
    """The columns A, B, ..., up to the first that is not there or holds nothing."""
    end = next((i for i, letter in enumerate(LETTERS) if row.get(letter) is None), len(LETTERS))
    return list(LETTERS[:end])


def _texts(found: Any, what: str = "choices") -> tuple[str, ...]:
    """Two to 26 texts."""
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise UnreadableError(f"expected a list of texts in {what}, got a {type(found).__name__}")
    if not 2 <= len(found) <= len(LETTERS):
        raise UnreadableError(f"expected 2 to {len(LETTERS)} texts in {what}, got {len(found)}")
    return tuple(text_of(text, what) for text in found)


def _index(place: Any, choices: Sequence[str], what: str) -> int:
    """An index from 0."""
    if isinstance(place, bool) or not isinstance(place, int):
        kind = repr(place) if isinstance(place, str) else f"a {type(place).__name__}"
        raise UnreadableError(f"expected in {what} the index of a choice, an integer from 0, got {kind}")
    if not 0 <= place < len(choices):
        raise UnreadableError(
            f"{what} must be 0 to {len(choices) - 1}, as there are {len(choices)} choices, got {place}; the first is 0"
        )
    return place


def _named(answer: str, choices: Sequence[str], *, columns: bool) -> int:
    """A letter, or the full text of a choice."""
    letters = LETTERS[: len(choices)]
    said = {i for i, choice in enumerate(choices) if choice.strip() == answer}
    if len(answer) == 1 and answer in letters:
        said = {letters.index(answer)} | (set() if columns else said)
    if len(said) == 1:
        return said.pop()
    if said:
        which = " and ".join(letters[i] for i in sorted(said))
        raise UnreadableError(
            f"answer {answer!r} could be the choices {which}; give the index of the right one"
        )
    raise UnreadableError(
        f"answer must be a letter from A to {letters[-1]}, the text of a choice, or its index (a number), got "
        f"{answer!r}"
    )
