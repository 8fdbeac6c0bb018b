"""`data_pipes.choices`: rows of every layout are read into `Question`; a row that cannot be read is named."""

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

EXPECTED = Question("1 + 1?", ("1", "2", "3", "4"), 1, "sums", "a:1")
LISTED = {"question": "1 + 1?", "choices": ["1", "2", "3", "4"]}
LETTERED = {"question": "1 + 1?", "A": "1", "B": "2", "C": "3", "D": "4"}
ARC = {"question": "1 + 1?", "choices": {"text": ["1", "2", "3", "4"], "label": ["A", "B", "C", "D"]}}
HELLASWAG = {
    "ctx_a": "A man sits.",
    "ctx_b": "he Reads",
    "activity_label": "Reading",
    "endings": ["a.", "b."],
}


def read(values: dict[str, Any]) -> Question:
    (found,) = read_questions([Row(values, "a:1")], subject="sums")
    return found


@pytest.mark.parametrize(
    "values",
    [
        LISTED | {"answer": 1},
        LISTED | {"answer": "B"},
        LISTED | {"answer": " B "},
        LISTED | {"answer": "2"},
        LISTED | {"choices": ("1", "2", "3", "4"), "answer": 1},
        LISTED | {"answer": 1, "subject": None, "A": "another"},
        LETTERED | {"answer": "B"},
        LETTERED | {"answer": 1},
        LETTERED | {"answer": "2", "E": None},
        ARC | {"answerKey": "B"},
        ARC | {"choices": {"text": ["1", "2", "3", "4"], "label": ["1", "2", "3", "4"]}, "answerKey": "2"},
        {"ctx": "1 + 1?", "endings": ["1", "2", "3", "4"], "label": "1"},
        {"ctx": "1 + 1?", "endings": ["1", "2", "3", "4"], "label": 1, "question": None},
    ],
)
def test_a_question_is_read_from_every_layout(values: dict[str, Any]) -> None:
    assert read(values) == EXPECTED


def test_the_subject_of_a_row_takes_precedence() -> None:
    assert read(LISTED | {"answer": 1, "subject": "anatomy"}).subject == "anatomy"


def test_texts_keep_white_space_and_may_be_equal_or_empty() -> None:
    found = read({"question": " What?\n", "choices": [" a ", "", ""], "answer": 0})
    assert found[:3] == (" What?\n", (" a ", "", ""), 0)
    assert read(LETTERED | {"A": "", "answer": "A"}).choices[0] == ""


def test_a_letter_names_a_column_even_if_it_is_also_a_choice() -> None:
    """Blood types, where the second choice is "A"; in a list of choices the letter "B" is ambiguous."""
    assert read({"question": "Which?", "A": "0", "B": "A", "C": "B", "D": "AB", "answer": "B"}).answer == 1
    as_list = {"question": "Which?", "choices": ["0", "A", "B", "AB"]}
    assert read(as_list | {"answer": "AB"}).answer == 3
    with pytest.raises(ValueError, match="'B' could be the choices B and C; give the index"):
        read(as_list | {"answer": "B"})


def test_hellaswag_questions_are_composed_as_in_lm_eval() -> None:
    """The activity label, ctx_a, and ctx_b capitalised."""
    found = read(HELLASWAG | {"label": "1", "ctx": "skipped"})
    assert found[:3] == ("Reading: A man sits. He reads", ("a.", "b."), 1)
    found = read(HELLASWAG | {"endings": ["[step] Go.  ", "x [title] y"], "ctx_b": "", "label": 0})
    assert found[:2] == ("Reading: A man sits.", (" Go.", "x. y"))
    assert read({"ctx": "a [x] b", "endings": ["c", "d"], "label": 0}).question == "a b"


def reference_text(text: str) -> str:
    """The four steps of lm-eval's `preprocess`."""
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
def test_hellaswag_text_equals_lm_eval(text: str) -> None:
    assert hellaswag_text(text) == reference_text(text)


EXPECTED_COLUMNS = "expected the columns question, choices"
BAD = {
    "no columns": ({}, rf"{EXPECTED_COLUMNS} .*; got \(none\)"),
    "other columns": ({"text": "x", "label": 1}, f"{EXPECTED_COLUMNS} .*; got text, label"),
    "no answer": (LISTED, EXPECTED_COLUMNS),
    "an empty answer column": (LISTED | {"answer": None}, EXPECTED_COLUMNS),
    "no choices": ({"question": "x", "answer": 0}, EXPECTED_COLUMNS),
    "no question": ({"choices": ["a", "b"], "answer": 0}, EXPECTED_COLUMNS),
    "an empty question": (LISTED | {"question": " \n", "answer": 0}, "the question is empty; drop the row"),
    "a question that is no text": (LISTED | {"question": 7, "answer": 0}, "expected a string in question, got int"),
    "a choice that is no text": (LISTED | {"choices": ["1", 2], "answer": 0}, "expected a string in choices, got int"),
    "choices that are a text": (LISTED | {"choices": "12", "answer": 0}, "a list of strings in choices, got str"),
    "one choice": (LISTED | {"choices": ["1"], "answer": 0}, "expected 2 to 26 strings in choices, got 1"),
    "no choice": (LISTED | {"choices": [], "answer": 0}, "expected 2 to 26 strings in choices, got 0"),
    "27 choices": (LISTED | {"choices": ["x"] * 27, "answer": 0}, "expected 2 to 26 strings in choices, got 27"),
    "one column": ({"question": "x", "A": "1", "answer": "A"}, r"expected 2 to 26 strings in A, B, \.\.\., got 1"),
    "a gap in the columns": ({"question": "x", "A": "1", "C": "1", "answer": "A"}, r"A, B, \.\.\., got 1"),
    "an index too large": (LISTED | {"answer": 4}, "answer must be 0 to 3, as there are 4 choices, got 4; the first"),
    "an index too small": (LISTED | {"answer": -1}, "answer must be 0 to 3, as there are 4 choices, got -1"),
    "true": (LISTED | {"answer": True}, "the index of a choice in answer, an integer from 0, got bool"),
    "a fraction": (LISTED | {"answer": 1.0}, "an integer from 0, got float"),
    "a letter too far": (LETTERED | {"answer": "E"}, "a letter from A to D, the text of a choice, .* got 'E'"),
    "a small letter": (LETTERED | {"answer": "b"}, "a letter from A to D, .* got 'b'"),
    "an empty letter": (LETTERED | {"answer": ""}, "a letter from A to D, .* got ''"),
    "another text": (LISTED | {"answer": "5"}, r"or its index \(a number\), got '5'"),
    "two such texts": (LISTED | {"choices": ["x", "x"], "answer": "x"}, "'x' could be the choices A and B"),
    "a lone surrogate": (LISTED | {"question": "\ud800", "answer": 0}, "question has a lone surrogate"),
    "a subject that is no text": (LISTED | {"answer": 0, "subject": 3}, "expected a string in subject, got int"),
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
    "HellaSwag's test part": (HELLASWAG | {"label": ""}, "label is empty, as in HellaSwag's test split"),
    "HellaSwag, no label": (HELLASWAG, "expected the index of a choice in label.* got NoneType"),
    "HellaSwag, a word": (HELLASWAG | {"label": "one"}, "expected the index of a choice in label.* got 'one'"),
    "HellaSwag, too large": (HELLASWAG | {"label": "2"}, "label must be 0 to 1, as there are 2 choices, got 2"),
    "HellaSwag, no context": ({"endings": ["a", "b"], "label": 0}, r"string in ctx \(or ctx_a and ctx_b\), got None"),
    "HellaSwag, an empty one": ({"ctx": "[x]", "endings": ["a", "b"], "label": 0}, "the question is empty"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "words"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named_and_the_others_are_read(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="^a:2: .*" + words):
        list(read_questions([Row(values, "a:2")]))
    bad: list[BadRow] = []
    good = Row(LISTED | {"answer": 1}, "a:1")
    assert list(read_questions([good, Row(values, "a:2"), good], subject="sums", on_bad=bad.append)) == [
        EXPECTED,
        EXPECTED,
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
def test_an_arbitrary_row_is_a_question_or_reported(values: dict[str, Any]) -> None:
    bad: list[BadRow] = []
    found = list(read_questions([Row(values, "a:1")], on_bad=bad.append))
    assert len(found) + len(bad) == 1
    for question in found:
        assert question.question.strip()
        assert 2 <= len(question.choices) <= 26
        assert type(question.answer) is int
        assert 0 <= question.answer < len(question.choices)


@given(st.lists(st.text("abc ", min_size=3), min_size=2, max_size=26, unique_by=str.strip), st.data())
def test_the_answer_may_be_an_index_a_letter_or_a_text(choices: list[str], data: st.DataObject) -> None:
    right = data.draw(st.integers(0, len(choices) - 1))
    rows = [
        Row({"question": "?", "choices": choices, "answer": answer}, "a:1")
        for answer in (right, LETTERS[right], choices[right])
    ]
    assert [question.answer for question in read_questions(rows)] == [right] * 3


def test_few_shot_examples_are_the_first_of_their_subject() -> None:
    dev = [EXPECTED._replace(name=f"dev:{i}", subject="ab"[i % 2]) for i in range(5)]
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


def test_subjects_are_grouped_in_order_of_appearance() -> None:
    questions = [EXPECTED._replace(subject=subject) for subject in ("b", "a", "b")]
    assert group_by_subject(questions) == {"b": [questions[0], questions[2]], "a": [questions[1]]}
    assert list(group_by_subject(questions)) == ["b", "a"]
