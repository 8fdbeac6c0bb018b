"""Compare a completion with the reference answer: GSM8K's numbers, and whole texts.

A score is comparable with a published one only if both use the same rules. So the modes "strict" and
"flexible" are those of lm-evaluation-harness's task gsm8k, with its peculiarities; the mode "number", for
rewards, has none of these.

Cobbe et al., "Training Verifiers to Solve Math Word Problems", 2021 (GSM8K: the answer is after "####").
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from data_pipes.answers import latex
from data_pipes.choices import UnreadableError, parse_rows, require_text
from data_pipes.types import OnBad, Row, stop

MODES = ("strict", "flexible", "number", "text")

QUESTION_COLUMNS = ("question", "problem", "prompt")
ANSWER_COLUMNS = ("answer", "solution", "completion")

_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_NUMBER = re.compile(
    r"((?<![\w.)])-\$?|\$-)?"  # a minus (neither an operator nor a hyphen), before or after a dollar sign
    r"((?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![\w)])\.[0-9]+)"  # 1,234.50 or .5
    r"(/[0-9]+)?"
)


class QuestionAnswer(NamedTuple):
    """A question, its reference answer (in GSM8K a solution that ends in "#### 72"), and its row's name."""

    question: str
    answer: str
    name: str


def read_question_answers(rows: Iterable[Row], *, on_bad: OnBad = stop) -> Iterator[QuestionAnswer]:
    """Reads rows of questions with free-form answers.

    Args:
        rows: with a column `question`, `problem` or `prompt`, and one of `answer`, `solution` or
            `completion`. If a row has several, the first that is not null is used. The values are strings; an
            answer may also be a number.
        on_bad: gets each row without these columns, or with an empty one.

    Returns:
        An iterator over QuestionAnswers; texts are unchanged.

    Example:
        >>> row = Row({"problem": "1 + 1?", "solution": "It is 2.", "answer": 2}, "a:1")
        >>> next(read_question_answers([row]))
        QuestionAnswer(question='1 + 1?', answer='2', name='a:1')
    """
    return parse_rows(rows, _read_row, on_bad)


def exact_match(
    output: str,
    answer: str,
    *,
    mode: str = "strict",
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
) -> bool:
    """Returns True if a completion gives the reference answer.

    Args:
        output: the completion, cut before a next question.
        answer: the reference; for GSM8K the solution or only its number.
        mode: "strict": the first number after "#### " in the output (a minus, digits, dots and commas) equals
            the reference, both by `normalise_answer`. "flexible": the same for the last number anywhere in
            the output, with dollar signs. "number": both have the same value by `extract_number`. "text":
            the stripped texts are equal.
        ignore_case: (only for "text") compare in lower case.
        ignore_punctuation: (only for "text") compare without the 32 ASCII punctuation characters.

    Returns:
        True if they match; False if there is no number to compare.

    Edge cases: "flexible" takes any two or more characters of digits, "$", "." and "," for a number, so an
        output that ends in "..." does not match, and the last number of "5-3" is -3. "number" has neither
        peculiarity.

    Raises:
        ValueError: for an unknown mode, or if ignore_case or ignore_punctuation is set with another mode than
            "text".

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
        match = _STRICT.search(output)
        numbers = [match[1] if match else None]
    else:
        numbers = [None, *_FLEXIBLE.findall(output)]
    number = numbers[-1]
    return number is not None and normalise_answer(number) == normalise_answer(answer)


def normalise_answer(answer: str) -> str:
    """Normalises an answer of GSM8K for comparison.

    Args:
        answer: a solution, or only its number.

    Returns:
        The answer (1) without commas and dollar signs, (2) without everything up to the last "#### ", (3)
        without a dot at its end (or before a final line end), (4) in lower case.

    Example:
        >>> normalise_answer("She pays 2 * $617. #### $1,234.")
        '1234'

    Source: regexes_to_ignore and ignore_case in lm-evaluation-harness's gsm8k.yaml, in their order.
    """
    number = answer.replace(",", "").replace("$", "").rpartition("#### ")[2]
    return re.sub(r"\.$", "", number).lower()


def extract_number(text: str) -> str | None:
    """Extracts the number that a text gives as its answer.

    Args:
        text: a solution.

    Returns:
        The first number after the last "####"; if there is none, the last number in the last \\boxed{...};
        without one, the last number in the text; None if there is none. Numbers in LaTeX are read
        (`data_pipes.answers.latex`). A minus is kept, and "/" in a fraction. Commas between thousands, dollar
        and percent signs are dropped. A minus right after a letter, a digit, a dot or a closing parenthesis
        is read as an operator or a hyphen.

    Edge cases: "1 1/2" is read as 1/2, "1e5" as 5, "1,00,000" as 000, and the digits in a word ("x2") as a
    number.

    Example:
        >>> texts = ("5-3 = 2.", "-$1,234.50 #### ", "It is 50%", "#### 1/2 of 9", "none")
        >>> [extract_number(text) for text in texts]
        ['2', '-1234.50', '50', '1/2', None]
        >>> extract_number("so \\\\boxed{1{,}234} in 2 steps")
        '1234'
    """
    text = text.replace("\N{MINUS SIGN}", "-")
    _, separator, answer = latex.rewrite_numbers(text).rpartition("####")
    match = _NUMBER.search(answer) if separator else None
    if match is None:
        boxed = latex.extract_boxed(text)
        matches = list(_NUMBER.finditer(latex.rewrite_numbers(text if boxed is None else boxed)))
        match = matches[-1] if matches else None
    if match is None:
        return None
    minus, number, denominator = match.groups()
    return ("-" if minus else "") + number.replace(",", "") + (denominator or "")


def _read_row(row: Mapping[str, Any], name: str) -> QuestionAnswer:
    """The question and answer of one row."""
    question = next((column for column in QUESTION_COLUMNS if row.get(column) is not None), None)
    answer = next((column for column in ANSWER_COLUMNS if row.get(column) is not None), None)
    if question is None or answer is None:
        raise UnreadableError(
            f"expected a column {', '.join(QUESTION_COLUMNS[:-1])} or {QUESTION_COLUMNS[-1]}, and one "
            f"{', '.join(ANSWER_COLUMNS[:-1])} or {ANSWER_COLUMNS[-1]}; got "
            f"{', '.join(map(str, row)) or '(none)'}"
        )
    reference = row[answer]
    if isinstance(reference, int | float) and not isinstance(reference, bool):
        reference = str(reference)
    texts = require_text(row[question], question), require_text(reference, answer)
    for text, column in zip(texts, (question, answer), strict=True):
        if not text.strip():
            raise UnreadableError(f"{column} is empty; drop the row")
    return QuestionAnswer(*texts, name)


def _normalise_text(text: str, ignore_case: bool, ignore_punctuation: bool) -> str:
    """A text, normalised for comparison in mode "text"."""
    text = text.strip()
    text = text.lower() if ignore_case else text
    return text.translate(str.maketrans("", "", string.punctuation)) if ignore_punctuation else text


def _number_value(number: str | None) -> Fraction | str | None:
    """The value of a number; one without a value (1/0, or thousands of digits) equals only itself."""
    try:
        return Fraction(number or "")
    except (ValueError, ZeroDivisionError):
        return number
