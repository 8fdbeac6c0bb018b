"""Answers are scored as in lm-evaluation-harness; numbers are extracted from texts."""

from __future__ import annotations

import re
import string
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipes.answers.match import (
    QuestionAnswer,
    exact_match,
    extract_number,
    normalise_answer,
    read_question_answers,
)
from data_pipes.types import BadRow, Row

IGNORED = (",", "\\$", "(?s).*#### ", "\\.$")
"""regexes_to_ignore of lm-eval's gsm8k.yaml."""

FILTERS = {
    "strict": ("#### (\\-?[0-9\\.\\,]+)", 0),
    "flexible": ("(-?[$0-9.,]{2,})|(-?[0-9]+)", -1),
}
"""regex_pattern and group_select of its two filters."""


def naive(text: str) -> str:
    """The metric's cleaning, as the task's file lists it."""
    for pattern in IGNORED:
        text = re.sub(pattern, "", text)
    return text.lower()


def naive_match(output: str, answer: str, mode: str) -> bool:
    """A filter, then the metric."""
    pattern, which = FILTERS[mode]
    found: list[Any] = re.findall(pattern, output)
    said = found[which] if found else "[invalid]"
    if isinstance(said, tuple):
        said = next(group for group in said if group)
    return naive(said.strip()) == naive(answer)


PIECES = [
    "#### ",
    "####",
    "#",
    " ",
    "-",
    "$",
    ",",
    ".",
    "..",
    "1",
    "23",
    "1,234",
    "\n",
    "A",
    "3/4",
    "%",
    "[",
    "\u2212",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@settings(max_examples=500)
@given(TEXTS, TEXTS, st.sampled_from(sorted(FILTERS)))
def test_verdicts_are_lm_evals(output: str, answer: str, mode: str) -> None:
    assert normalise_answer(answer) == naive(answer)
    assert exact_match(output, answer, mode=mode) == naive_match(output, answer, mode)
    # Right answers, which two random texts seldom are.
    said = re.findall(FILTERS[mode][0], output)
    if said:
        own = said[FILTERS[mode][1]]
        own = own if isinstance(own, str) else "".join(own)
        assert exact_match(output, f"So {answer} #### {own}", mode=mode)


GOLD = "She sold 48/2 = 24 clips. 48+24 = 72 in all.\n#### 72"


@pytest.mark.parametrize(
    ("output", "strict", "flexible", "number"),
    [
        ("48 + 24 = 72.\n#### 72", True, True, True),
        ("#### 72.", True, True, True),
        ("#### 72\nQuestion: 1 + 1?\n#### 2", True, False, False),
        ("####72", False, True, True),
        ("#### $72", False, True, True),
        ("The answer is 72", False, True, True),
        ("The answer is $72.", False, True, True),
        ("The answer is 72.0", False, False, True),
        ("The answer is 72%", False, True, True),
        ("72 ...", False, False, True),
        ("100-72", False, False, True),
        ("The answer is -72", False, False, False),
        ("none", False, False, False),
        ("", False, False, False),
    ],
)
def test_by_hand(output: str, strict: bool, flexible: bool, number: bool) -> None:
    modes = ("strict", "flexible", "number")
    assert [exact_match(output, GOLD, mode=mode) for mode in modes] == [strict, flexible, number]
    assert [exact_match(output, "72", mode=mode) for mode in modes] == [strict, flexible, number]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 72", "72"),
        ("####72", "72"),
        ("1 #### 2 #### 3 and 4", "3"),
        ("5 #### none", "5"),
        ("a 1 b 2.", "2"),
        ("-3", "-3"),
        ("(-3)", "-3"),
        ("= -3", "-3"),
        ("\u22123", "-3"),
        ("-$3", "-3"),
        ("$-3", "-3"),
        ("$ 3", "3"),
        ("5-3", "3"),
        ("pages 3-5", "5"),
        ("x-5", "5"),
        (")-5", "5"),
        ("3 - 5", "5"),
        ("1,234.50", "1234.50"),
        ("$1,234,567.", "1234567"),
        ("1, 2, 3", "3"),
        ("(1,2)", "2"),
        ("1,2345", "2345"),
        ("1/2", "1/2"),
        ("-1/2", "-1/2"),
        ("10/5 = 2", "2"),
        ("3/14/2024", "2024"),
        ("50%", "50"),
        ("50 %", "50"),
        ("12.5%.", "12.5"),
        (".5", ".5"),
        ("1.2.3", "3"),
        ("3:30", "30"),
        ("007", "007"),
        ("5kg", "5"),
        ("", None),
        ("none", None),
        ("#### ", None),
        ("...", None),
        ("$,.-", None),
        ("\u0663", None),
    ],
)
def test_numbers(text: str, number: str | None) -> None:
    assert extract_number(text) == number


@given(st.integers(), st.sampled_from(["{}", "${}", "so {} .", "It is 7: {}.", "#### {} of 12", "{} %"]))
def test_any_integer_with_commas_is_found(value: int, form: str) -> None:
    assert extract_number(form.format(f"{value:,}")) == str(value)


@given(TEXTS)
def test_a_number_is_a_number_and_is_its_own_number(text: str) -> None:
    found = extract_number(text)
    if found is not None:
        assert re.fullmatch(r"-?([0-9]+(\.[0-9]+)?|\.[0-9]+)(/[0-9]+)?", found)
        assert extract_number(found) == found


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1,234.50", "1234.5", True),
        ("1/2", "0.5", True),
        ("1/2", "2/4", True),
        ("50%", "50", True),
        ("50%", "0.5", False),
        ("1/0", "1/0", True),
        ("1/0", "2/0", False),
        ("007", "7", True),
        ("x", "x", False),
        ("9" * 5000, "9" * 5000, True),
        ("9" * 5000, "9" * 5001, False),
        ("1", "x", False),
    ],
)
def test_numbers_are_compared_by_value(one: str, other: str, same: bool) -> None:
    assert exact_match(one, other, mode="number") == same
    assert exact_match(other, one, mode="number") == same


def naive_text(text: str, case: bool, punctuation: bool) -> str:
    """lm-eval's exact_match, after the ends are stripped."""
    text = text.strip().lower() if case else text.strip()
    return "".join(c for c in text if c not in string.punctuation) if punctuation else text


WORDS = st.lists(
    st.sampled_from(["Paris", "paris", ".", "!", " ", "\n", "-", "É", "é", "\u2019"]), max_size=4
).map("".join)


@given(WORDS, WORDS, st.booleans(), st.booleans())
def test_whole_texts(output: str, answer: str, case: bool, punctuation: bool) -> None:
    found = exact_match(output, answer, mode="text", ignore_case=case, ignore_punctuation=punctuation)
    assert found == (naive_text(output, case, punctuation) == naive_text(answer, case, punctuation))


def test_whole_texts_by_hand() -> None:
    assert exact_match("\n Paris ", "Paris", mode="text")
    assert not exact_match("paris", "Paris", mode="text")
    assert exact_match("paris", "Paris", mode="text", ignore_case=True)
    assert exact_match("Par.is!", "Paris", mode="text", ignore_punctuation=True)
    assert not exact_match(
        "Paris .", "Paris", mode="text", ignore_punctuation=True
    )  # a space is left, as in lm-eval
    assert exact_match("", " ", mode="text")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "loose"}, "mode must be one of strict, flexible, number, text, got 'loose'"),
        ({"ignore_case": True}, "need mode='text', got 'strict'; drop them"),
        ({"mode": "number", "ignore_punctuation": True}, "need mode='text', got 'number'"),
    ],
)
def test_invalid_arguments_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        exact_match("1", "1", **options)


@pytest.mark.parametrize("piece", ["11,", "1,111,", "1", "-", "$", "#### ", "#", "1.", "1/", "a", ","])
def test_a_long_output_takes_no_time(piece: str) -> None:
    """A model that repeats itself: lm-eval's own pattern for "#### " takes minutes for such a text."""
    text, start = piece * 30_000, time.perf_counter()
    for mode in ("strict", "flexible", "number"):
        exact_match(text, text, mode=mode)
    assert time.perf_counter() - start < 5


ADDED = QuestionAnswer("1 + 1?", "2", "a:1")


@pytest.mark.parametrize(
    "values",
    [
        {"question": "1 + 1?", "answer": "2"},
        {"prompt": "1 + 1?", "completion": "2"},
        {"problem": "1 + 1?", "solution": "2"},
        {"prompt": "1 + 1?", "answer": "2", "family": "sum"},
        {"problem": "1 + 1?", "solution": "It is 2.", "answer": "2"},
        {"question": None, "prompt": "1 + 1?", "answer": None, "completion": "2"},
        {"question": "1 + 1?", "answer": 2},
    ],
)
def test_columns(values: dict[str, Any]) -> None:
    assert list(read_question_answers([Row(values, "a:1")])) == [ADDED]


def test_a_decimal_answer_and_texts_left_as_they_are() -> None:
    (found,) = read_question_answers([Row({"question": " Half?\n", "answer": 0.5}, "a:1")])
    assert found == QuestionAnswer(" Half?\n", "0.5", "a:1")


BAD = {
    "nothing": (
        {},
        r"a column question, problem or prompt, and one answer, solution or completion; got \(none\)",
    ),
    "no answer": ({"question": "x"}, "and one answer, solution or completion; got question"),
    "no question": ({"answer": "x", "id": 3}, "a column question, problem or prompt, .*; got answer, id"),
    "no text": ({"question": ["x"], "answer": "2"}, "expected a string in question, got list"),
    "a truth value": ({"question": "x", "answer": True}, "expected a string in answer, got bool"),
    "an empty question": ({"prompt": " ", "answer": "2"}, "prompt is empty; drop the row"),
    "an empty answer": ({"prompt": "x", "solution": "\n"}, "solution is empty; drop the row"),
    "half a pair": ({"prompt": "x", "solution": "\udfff"}, "solution has a lone surrogate"),
}


@pytest.mark.parametrize(("values", "words"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named_and_the_others_are_read(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="^a:2: .*" + words):
        list(read_question_answers([Row(values, "a:2")]))
    bad: list[BadRow] = []
    good = Row({"question": "1 + 1?", "answer": "2"}, "a:1")
    assert list(read_question_answers([good, Row(values, "a:2"), good], on_bad=bad.append)) == [ADDED, ADDED]
    assert [row.name for row in bad] == ["a:2"]
