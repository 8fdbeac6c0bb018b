"""Rows of every layout become one schema of questions; what cannot be read is named."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.choices import (
    LETTERS,
    Question,
    Questions,
    few_shot,
    group_by_subject,
    hellaswag_text,
    read_questions,
)
from data_pipes.types import BadRow, Row

SUMS = Question("1 + 1?", ("1", "2", "3", "4"), 1, "sums", "a:1")
ASKED = {"question": "1 + 1?", "choices": ["1", "2", "3", "4"]}
COLUMNS = {"question": "1 + 1?", "A": "1", "B": "2", "C": "3", "D": "4"}
ARC = {"question": "1 + 1?", "choices": {"text": ["1", "2", "3", "4"], "label": ["A", "B", "C", "D"]}}
STORY = {"ctx_a": "A man sits.", "ctx_b": "he Reads", "activity_label": "Reading", "endings": ["a.", "b."]}


def read(values: dict[str, Any]) -> Question:
    (found,) = read_questions([Row(values, "a:1")], subject="sums")
    return found


@pytest.mark.parametrize(
    "values",
    [
        ASKED | {"answer": 1},
        ASKED | {"answer": "B"},
        ASKED | {"answer": " B "},
        ASKED | {"answer": "2"},
        ASKED | {"choices": ("1", "2", "3", "4"), "answer": 1},
        ASKED | {"answer": 1, "subject": None, "A": "another"},
        COLUMNS | {"answer": "B"},
        COLUMNS | {"answer": 1},
        COLUMNS | {"answer": "2", "E": None},
        ARC | {"answerKey": "B"},
        ARC | {"choices": {"text": ["1", "2", "3", "4"], "label": ["1", "2", "3", "4"]}, "answerKey": "2"},
        {"ctx": "1 + 1?", "endings": ["1", "2", "3", "4"], "label": "1"},
        {"ctx": "1 + 1?", "endings": ["1", "2", "3", "4"], "label": 1, "question": None},
    ],
)
def test_layouts(values: dict[str, Any]) -> None:
    assert read(values) == SUMS


def test_the_subject_of_a_row_takes_precedence() -> None:
    assert read(ASKED | {"answer": 1, "subject": "anatomy"}).subject == "anatomy"


def test_texts_are_left_as_they_are_and_may_be_equal_or_empty() -> None:
    found = read({"question": " What?\n", "choices": [" a ", "", ""], "answer": 0})
    assert found[:3] == (" What?\n", (" a ", "", ""), 0)
    assert read(COLUMNS | {"A": "", "answer": "A"}).choices[0] == ""


def test_a_letter_is_a_column_whatever_the_choices_say() -> None:
    """Blood types: the second choice is "A"."""
    assert read({"question": "Which?", "A": "0", "B": "A", "C": "B", "D": "AB", "answer": "B"}).answer == 1
    listed = {"question": "Which?", "choices": ["0", "A", "B", "AB"]}
    assert read(listed | {"answer": "AB"}).answer == 3
    with pytest.raises(ValueError, match="'B' could be the choices B and C; give the index"):
        read(listed | {"answer": "B"})


def test_hellaswag_is_written_as_lm_eval_writes_it() -> None:
    """The label, then ctx_a, then ctx_b, of which the first letter is made large and all others small."""
    found = read(STORY | {"label": "1", "ctx": "skipped"})
    assert found[:3] == ("Reading: A man sits. He reads", ("a.", "b."), 1)
    found = read(STORY | {"endings": ["[step] Go.  ", "x [title] y"], "ctx_b": "", "label": 0})
    assert found[:2] == ("Reading: A man sits.", (" Go.", "x. y"))
    assert read({"ctx": "a [x] b", "endings": ["c", "d"], "label": 0}).question == "a b"


def naive_text(text: str) -> str:
    """lm-eval's four steps, one by one."""
    text = text.strip()
    text = ". ".join(text.split(" [title]"))
    while found := re.search(r"\[([^\n]*?)\]", text):
        text = text[: found.start()] + "\0" + text[found.end() :]
    return text.replace("\0", "").replace("  ", " ")


@given(
    st.lists(st.sampled_from([" ", "  ", "[title]", " [title]", "[", "]", "[step]", "a", ".", "\n"])).map(
        "".join
    )
)
def test_hellaswags_cleaning(text: str) -> None:
    assert hellaswag_text(text) == naive_text(text)


KNOWN = "expected the columns question, choices"
BAD = {
    "no columns": ({}, rf"{KNOWN} .*; got \(none\)"),
    "other columns": ({"text": "x", "label": 1}, f"{KNOWN} .*; got text, label"),
    "no answer": (ASKED, KNOWN),
    "an empty answer column": (ASKED | {"answer": None}, KNOWN),
    "no choices": ({"question": "x", "answer": 0}, KNOWN),
    "no question": ({"choices": ["a", "b"], "answer": 0}, KNOWN),
    "an empty question": (ASKED | {"question": " \n", "answer": 0}, "the question is empty; drop the row"),
    "a question that is no text": (ASKED | {"question": 7, "answer": 0}, "expected a string in question, got int"),
    "a choice that is no text": (ASKED | {"choices": ["1", 2], "answer": 0}, "expected a string in choices, got int"),
    "choices that are a text": (ASKED | {"choices": "12", "answer": 0}, "a list of strings in choices, got str"),
    "one choice": (ASKED | {"choices": ["1"], "answer": 0}, "expected 2 to 26 strings in choices, got 1"),
    "no choice": (ASKED | {"choices": [], "answer": 0}, "expected 2 to 26 strings in choices, got 0"),
    "27 choices": (ASKED | {"choices": ["x"] * 27, "answer": 0}, "expected 2 to 26 strings in choices, got 27"),
    "one column": ({"question": "x", "A": "1", "answer": "A"}, r"expected 2 to 26 strings in A, B, \.\.\., got 1"),
    "a gap in the columns": ({"question": "x", "A": "1", "C": "1", "answer": "A"}, r"A, B, \.\.\., got 1"),
    "an index too large": (ASKED | {"answer": 4}, "answer must be 0 to 3, as there are 4 choices, got 4; the first"),
    "an index too small": (ASKED | {"answer": -1}, "answer must be 0 to 3, as there are 4 choices, got -1"),
    "true": (ASKED | {"answer": True}, "the index of a choice in answer, an integer from 0, got bool"),
    "a fraction": (ASKED | {"answer": 1.0}, "an integer from 0, got float"),
    "a letter too far": (COLUMNS | {"answer": "E"}, "a letter from A to D, the text of a choice, .* got 'E'"),
    "a small letter": (COLUMNS | {"answer": "b"}, "a letter from A to D, .* got 'b'"),
    "an empty letter": (COLUMNS | {"answer": ""}, "a letter from A to D, .* got ''"),
    "another text": (ASKED | {"answer": "5"}, r"or its index \(a number\), got '5'"),
    "two such texts": (ASKED | {"choices": ["x", "x"], "answer": "x"}, "'x' could be the choices A and B"),
    "half a pair": (ASKED | {"question": "\ud800", "answer": 0}, "question has a lone surrogate"),
    "a subject that is no text": (ASKED | {"answer": 0, "subject": 3}, "expected a string in subject, got int"),
    "ARC, another key": (ARC | {"answerKey": "E"}, "answerKey must be one of the labels A, B, C, D, got 'E'"),
    "ARC, no key": (ARC, "expected a string in answerKey, got NoneType"),
    "ARC, no question": ({"choices": ARC["choices"], "answerKey": "A"}, "expected a string in question, got NoneType"),
    "ARC, too few labels": (
        ARC | {"choices": {"text": ["1", "2", "3"], "label": ["A", "B"]}, "answerKey": "A"},
        "a label for each choice, got 3 choices and 2 labels",
    ),
    "ARC, a label twice": (
        ARC | {"choices": {"text": ["1", "2"], "label": ["A", "A"]}, "answerKey": "A"}, "one of the labels A, A, got"
    ),
    "ARC, no labels": (
        ARC | {"choices": {"text": ["1", "2"]}, "answerKey": "A"},
        r"a list of strings in choices\['label'\], got NoneType",
    ),
    "HellaSwag's test part": (STORY | {"label": ""}, "label is empty, as in HellaSwag's test split"),
    "HellaSwag, no label": (STORY, "expected the index of a choice in label.* got NoneType"),
    "HellaSwag, a word": (STORY | {"label": "one"}, "expected the index of a choice in label.* got 'one'"),
    "HellaSwag, too large": (STORY | {"label": "2"}, "label must be 0 to 1, as there are 2 choices, got 2"),
    "HellaSwag, no context": ({"endings": ["a", "b"], "label": 0}, r"string in ctx \(or ctx_a and ctx_b\), got None"),
    "HellaSwag, an empty one": ({"ctx": "[x]", "endings": ["a", "b"], "label": 0}, "the question is empty"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "words"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named_and_the_others_are_read(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="^a:2: .*" + words):
        list(read_questions([Row(values, "a:2")]))
    bad: list[BadRow] = []
    good = Row(ASKED | {"answer": 1}, "a:1")
    assert list(read_questions([good, Row(values, "a:2"), good], subject="sums", on_bad=bad.append)) == [
        SUMS,
        SUMS,
    ]
    assert [row.name for row in bad] == ["a:2"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats() | st.sampled_from(["", "A", "B", "E", "1", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "label"]), inner),
    max_leaves=8,
)  # fmt: skip
COLUMN_NAMES = (
    "question",
    "choices",
    "answer",
    "answerKey",
    "A",
    "B",
    "C",
    "ctx",
    "ctx_a",
    "ctx_b",
    "endings",
    "label",
    "activity_label",
    "subject",
)


@given(st.dictionaries(st.sampled_from(COLUMN_NAMES), ANYTHING))
def test_whatever_the_row_it_is_a_question_or_bad(values: dict[str, Any]) -> None:
    bad: list[BadRow] = []
    found = list(read_questions([Row(values, "a:1")], on_bad=bad.append))
    assert len(found) + len(bad) == 1
    for question in found:
        assert question.question.strip()
        assert 2 <= len(question.choices) <= 26
        assert type(question.answer) is int
        assert 0 <= question.answer < len(question.choices)


@given(st.lists(st.text("abc ", min_size=3), min_size=2, max_size=26, unique_by=str.strip), st.data())
def test_three_ways_to_say_the_answer(choices: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(choices) - 1))
    rows = [
        Row({"question": "?", "choices": choices, "answer": a}, "a:1")
        for a in (place, LETTERS[place], choices[place])
    ]
    assert [question.answer for question in read_questions(rows)] == [place] * 3


def test_examples_are_the_first_of_their_subject() -> None:
    dev = [SUMS._replace(name=f"dev:{i}", subject="ab"[i % 2]) for i in range(5)]
    found = Questions([], group_by_subject(dev), "mmlu/dev/{subject}_dev.csv")
    assert [question.name for question in few_shot(found, "a", 2)] == ["dev:0", "dev:2"]
    assert few_shot(found, "none", 0) == []
    with pytest.raises(
        ValueError, match=r"expected 3 examples of the subject 'b', got 2 from mmlu/dev/b_dev\.csv; ask"
    ):
        few_shot(found, "b", 3)
    with pytest.raises(ValueError, match=r"of the subject 'c', got 0 .* at most 0, or add some there"):
        few_shot(found, "c", 1)
    with pytest.raises(ValueError, match="0 or more, got -1"):
        few_shot(found, "a", -1)


def test_subjects_stay_in_the_order_in_which_they_come() -> None:
    asked = [SUMS._replace(subject=subject) for subject in ("b", "a", "b")]
    assert group_by_subject(asked) == {"b": [asked[0], asked[2]], "a": [asked[1]]}
    assert list(group_by_subject(asked)) == ["b", "a"]
