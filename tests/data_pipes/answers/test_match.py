"""`answers.match`: answers are scored as in lm-evaluation-harness, numbers are extracted from text."""

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


def reference_normalise(text: str) -> str:
    """Normalise as lm-eval's gsm8k task does."""
    for pattern in IGNORED:
        text = re.sub(pattern, "", text)
    return text.lower()


def reference_match(output: str, answer: str, mode: str) -> bool:
    """Apply lm-eval's filter, then its exact match."""
    pattern, group = FILTERS[mode]
    matches: list[Any] = re.findall(pattern, output)
    extracted = matches[group] if matches else "[invalid]"
    if isinstance(extracted, tuple):
        extracted = next(part for part in extracted if part)
    return reference_normalise(extracted.strip()) == reference_normalise(answer)


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
def test_scores_equal_lm_eval(output: str, answer: str, mode: str) -> None:
    assert normalise_answer(answer) == reference_normalise(answer)
    assert exact_match(output, answer, mode=mode) == reference_match(output, answer, mode)
    # Two random texts seldom agree, so also test an answer that is right by construction.
    pattern, group = FILTERS[mode]
    matches = re.findall(pattern, output)
    if matches:
        number = "".join(matches[group])  # a string, or a tuple of groups
        assert exact_match(output, f"So {answer} #### {number}", mode=mode)


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
def test_gsm8k_answers_are_scored_in_three_modes(
    output: str, strict: bool, flexible: bool, number: bool
) -> None:
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
def test_the_number_is_extracted_from_text(text: str, number: str | None) -> None:
    assert extract_number(text) == number


@given(st.integers(), st.sampled_from(["{}", "${}", "so {} .", "It is 7: {}.", "#### {} of 12", "{} %"]))
def test_an_integer_with_thousands_separators_is_extracted(value: int, form: str) -> None:
    assert extract_number(form.format(f"{value:,}")) == str(value)


@given(TEXTS)
def test_an_extracted_number_is_well_formed_and_extracts_to_itself(text: str) -> None:
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


def reference_text(text: str, case: bool, punctuation: bool) -> str:
    """Normalise as lm-eval's exact_match does, after stripping white space."""
    text = text.strip().lower() if case else text.strip()
    return "".join(c for c in text if c not in string.punctuation) if punctuation else text


WORDS = st.lists(
    st.sampled_from(["Paris", "paris", ".", "!", " ", "\n", "-", "É", "é", "\u2019"]), max_size=4
).map("".join)


@given(WORDS, WORDS, st.booleans(), st.booleans())
def test_text_mode_equals_lm_eval(output: str, answer: str, case: bool, punctuation: bool) -> None:

    matches = exact_match(output, answer, mode="text", ignore_case=case, ignore_punctuation=punctuation)
    assert matches == (reference_text(output, case, punctuation) == reference_text(answer, case, punctuation))


def test_text_mode_on_hand_written_cases() -> None:
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
def test_a_long_repetitive_output_is_scored_quickly(piece: str) -> None:
    """A model that repeats itself: lm-eval's own pattern for "#### " takes minutes for such a text."""
    text, start = piece * 30_000, time.perf_counter()
    for mode in ("strict", "flexible", "number"):
        exact_match(text, text, mode=mode)
    assert time.perf_counter() - start < 5


EXPECTED = QuestionAnswer("1 + 1?", "2", "a:1")


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
def test_question_and_answer_are_read_from_every_column_naming(values: dict[str, Any]) -> None:
    assert list(read_question_answers([Row(values, "a:1")])) == [EXPECTED]


def test_a_float_answer_is_read_and_white_space_is_kept() -> None:
    (found,) = read_question_answers([Row({"question": " Half?\n", "answer": 0.5}, "a:1")])
    assert found == QuestionAnswer(" Half?\n", "0.5", "a:1")


BAD = {
    "no columns": (
        {},
        r"a column question, problem or prompt, and one answer, solution or completion; got \(none\)",
    ),
    "no answer": ({"question": "x"}, "and one answer, solution or completion; got question"),
    "no question": ({"answer": "x", "id": 3}, "a column question, problem or prompt, .*; got answer, id"),
    "no text": ({"question": ["x"], "answer": "2"}, "expected a string in question, got list"),
    "a truth value": ({"question": "x", "answer": True}, "expected a string in answer, got bool"),
    "an empty question": ({"prompt": " ", "answer": "2"}, "prompt is empty; drop the row"),
    "an empty answer": ({"prompt": "x", "solution": "\n"}, "solution is empty; drop the row"),
    "a lone surrogate": ({"prompt": "x", "solution": "\udfff"}, "solution has a lone surrogate"),
}


@pytest.mark.parametrize(("values", "words"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named_and_the_others_are_read(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="^a:2: .*" + words):
        list(read_question_answers([Row(values, "a:2")]))
    bad: list[BadRow] = []
    good = Row({"question": "1 + 1?", "answer": "2"}, "a:1")
    assert list(read_question_answers([good, Row(values, "a:2"), good], on_bad=bad.append)) == [
        EXPECTED,
        EXPECTED,
    ]
    assert [row.name for row in bad] == ["a:2"]
