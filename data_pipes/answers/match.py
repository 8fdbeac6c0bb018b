"""Answers that are compared with the right one: GSM8K's numbers, and whole texts.

What counts as the same is part of a benchmark: a figure can be set beside a published one only if both were
judged alike. So the verdicts "strict" and "flexible" are those of lm-evaluation-harness's task gsm8k, its
oddities included; beside them stands a reading of numbers that has none of these, for rewards.

Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021 (GSM8K: the answer stands after "####").
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from data_pipes.answers import latex
from data_pipes.choices import UnreadableError, each, text_of
from data_pipes.types import OnBad, Row, stop

MODES = ("strict", "flexible", "number", "text")

QUESTION_COLUMNS = ("question", "problem", "prompt")
ANSWER_COLUMNS = ("answer", "solution", "completion")

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_NUMBER = re.compile(
    r"((?<![\w.)])-\$?|\$-)?"  # a minus that is no operator and no hyphen, before or after a dollar sign
    r"((?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![\w)])\.[0-9]+)"  # 1,234.50 or .5
    r"(/[0-9]+)?"
)


class QuestionAnswer(NamedTuple):
    """A question, the right answer (of GSM8K a whole solution that ends in "#### 72"), and where they came
    from."""

    question: str
    answer: str
    name: str


def read_question_answers(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[QuestionAnswer]:
    """Reads rows of questions that are answered in words or numbers.

    Args:
        rows: with a column `question`, `problem` or `prompt`, and one `answer`, `solution` or `completion`;
            of several the first of these that holds something. All are texts; an answer may be a number.
        on_bad: gets each row that has not, or has an empty one.

    Returns:
        An iterator over QuestionAnswers; texts are left as they are.

    Example:
        >>> next(read_question_answers([Row({"problem": "1 + 1?", "solution": "It is 2.", "answer": 2}, "a:1")]))
        QuestionAnswer(question='1 + 1?', answer='2', name='a:1')
    """
    return each(rows, _read_row, on_bad)


def exact_match(
    output: str,
    answer: str,
    *,
    mode: str = "strict",
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
) -> bool:
    """Tells whether a model's output gives the right answer.

    Args:
        output: what the model wrote, cut where it went on to the next question.
        answer: the right answer; of GSM8K the whole solution or only its number.
        mode: "strict": the first number after "#### " in the output, a minus, digits, dots and commas, is the
            answer (both as `normalise_answer` makes them). "flexible": the same with the last number in the output,
            wherever it stands, dollar signs allowed. "number": both have the same value as `extract_number`
            reads them. "text": the whole texts are the same, white space at the ends aside.
        ignore_case: (only for "text") compares in small letters.
        ignore_punctuation: (only for "text") compares without the 32 signs of ASCII's punctuation.

    Returns:
        The verdict; False if there is no number to compare.

    Edge cases: "flexible" takes for a number what has two characters among digits, "$", "." and ",", so that
    an output
        ending in "..." is wrong; and "5-3" ends in -3. "number" has neither oddity.

    Raises:
        ValueError: for an unknown mode, or an option with a mode that has no use for it.

    Example:
        >>> gold = "She has 70 + 2 = 72 clips. #### 72"
        >>> [exact_match("70 + 2 = 72", gold, mode=mode) for mode in ("strict", "flexible", "number")]
        [False, True, True]
        >>> exact_match(" Paris.", "paris", mode="text", ignore_case=True, ignore_punctuation=True)
        True

    Source: lm_eval/tasks/gsm8k/gsm8k.yaml (version 3.0: the filters strict-match and flexible-extract, the
    metric's regexes_to_ignore and ignore_case) and `exact_match_hf_evaluate` in lm_eval/api/metrics.py,
    lm-evaluation-harness 0.4.13. Differs: where there is no number, lm-eval compares with the text
    "[invalid]".
    """
    if mode not in MODES:
        raise ValueError(f"exact_match: mode must be one of {', '.join(MODES)}, got {mode!r}")
    if mode != "text" and (ignore_case or ignore_punctuation):
        raise ValueError(
            f"exact_match: ignore_case and ignore_punctuation need mode='text', got {mode!r}; drop them"
        )
    if mode == "text":
        texts = [_normalise_text(text, ignore_case, ignore_punctuation) for text in (output, answer)]
        return texts[0] == texts[1]
    if mode == "number":
        numbers = [extract_number(text) for text in (output, answer)]
        return None not in numbers and _number_value(numbers[0]) == _number_value(numbers[1])
    if mode == "strict":
        found = [match[1] for match in [_STRICT.search(output)] if match]
    else:
        found = [match[0] for match in _FLEXIBLE.finditer(output)]
    return bool(found) and normalise_answer(found[-1]) == normalise_answer(answer)


def normalise_answer(answer: str) -> str:
    """Reduces an answer of GSM8K to what is compared.

    Args:
        answer: a whole solution, or only its number.

    Returns:
        The answer (1) without commas and dollar signs, (2) without all up to the last "#### ", (3) without a
        dot at its end (or before a line end there), (4) in small letters.

    Example:
        >>> normalise_answer("She pays 2 * $617. #### $1,234.")
        '1234'

    Source: regexes_to_ignore and ignore_case in lm-evaluation-harness's gsm8k.yaml, in their order.
    """
    said = answer.replace(",", "").replace("$", "").rpartition("#### ")[2]
    return re.sub(r"\.$", "", said).lower()


def extract_number(text: str) -> str | None:
    """Finds the number that a text gives for its answer.

    Args:
        text: a solution.

    Returns:
        The first number after the last "####"; if there is none, the last number in the last \\boxed{...};
        without one, the last number in the text; None if there is none. LaTeX's numbers are read
        (`data_pipes.answers.latex`). A minus stays; so does "/" in a fraction. Commas between thousands,
        dollar and percent signs are dropped. A minus right after a letter, a digit, a dot or a bracket is an
        operator or a hyphen.

    Edge cases: "1 1/2" is read as 1/2, "1e5" as 5, "1,00,000" as 000, and digits of a word ("x2") are a
    number.

    Example:
        >>> [extract_number(text) for text in ("5-3 = 2.", "-$1,234.50 #### ", "It is 50%", "#### 1/2 of 9", "none")]
        ['2', '-1234.50', '50', '1/2', None]
        >>> extract_number("so \\\\boxed{1{,}234} in 2 steps")
        '1234'
    """
    text = text.replace("\N{MINUS SIGN}", "-")
    _, mark, said = latex.rewrite_numbers(text).rpartition("####")
    found = _NUMBER.search(said) if mark else None
    for last in (
        []
        if found
        else _NUMBER.finditer(
            latex.rewrite_numbers(text if (box := latex.extract_boxed(text)) is None else box)
        )
    ):
        found = last
    if found is None:
        return None
    minus, number, below = found.groups()
    return ("-" if minus else "") + number.replace(",", "") + (below or "")


def _read_row(row: Mapping[str, Any], name: str) -> QuestionAnswer:
    """One row."""
    columns = [
        next((c for c in names if row.get(c) is not None), "") for names in (QUESTION_COLUMNS, ANSWER_COLUMNS)
    ]
    if "" in columns:
        raise UnreadableError(
            f"expected a column {', '.join(QUESTION_COLUMNS[:-1])} or {QUESTION_COLUMNS[-1]}, and one "
            f"{', '.join(ANSWER_COLUMNS[:-1])} or {ANSWER_COLUMNS[-1]}; got {', '.join(map(str, row)) or '(none)'}"
        )
    asked, said = (row[column] for column in columns)
    if isinstance(said, int | float) and not isinstance(said, bool):
        said = str(said)
    texts = text_of(asked, columns[0]), text_of(said, columns[1])
    for text, column in zip(texts, columns, strict=True):
        if not text.strip():
            raise UnreadableError(f"{column} is empty; drop the row")
    return QuestionAnswer(*texts, name)


def _normalise_text(text: str, ignore_case: bool, ignore_punctuation: bool) -> str:
    """A whole text as it is compared."""
    text = text.strip()
    text = text.lower() if ignore_case else text
    return text.translate(str.maketrans("", "", string.punctuation)) if ignore_punctuation else text


def _number_value(number: str | None) -> Fraction | str | None:
    """The value of a number; one that has none (1/0, or thousands of digits) is the same only as itself."""
    try:
        return Fraction(number or "")
    except (ValueError, ZeroDivisionError):
        return number
