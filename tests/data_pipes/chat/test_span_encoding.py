"""Spans become the ids of the whole text, cut where the spans are."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.chat.assistant_spans import Span
from data_pipes.chat.span_encoding import encode_spans
from data_pipes.chat.template import CLOSE, OPEN
from data_pipes.tokenizer.trainer import train

WORDS = train(["the cat sat on the mat\n\n and  the dog"] * 3, 300, special_tokens=["<a>", "<b>"])
CONTROLS = re.compile("<a>|<b>")
texts = st.lists(st.sampled_from(["<a>", "<b>", "the", " cat", "\n", "\n\n", " ", "", "é"]), max_size=4).map(
    "".join
)
rows = st.lists(st.tuples(texts, st.booleans()).map(lambda pair: Span(*pair)), max_size=5)


@given(rows)
def test_the_text_is_kept_and_marked(spans: list[Span]) -> None:
    ids, marks = encode_spans(WORDS, [(spans, [])], CONTROLS)[0]
    assert ids.dtype == np.int64
    assert marks.dtype == bool
    for trained in (False, True):
        assert WORDS.decode(ids[marks == trained]) == "".join(
            span.text for span in spans if span.trained == trained
        )


@given(rows)
def test_ids_are_those_of_the_whole_text_up_to_the_first_cut_inside_a_token(spans: list[Span]) -> None:
    text = "".join(span.text for span in spans)
    whole = WORDS.encode(text, special="all")
    ids, marks = encode_spans(WORDS, [(spans, [])], CONTROLS)[0]
    places = np.flatnonzero(np.diff(marks)) + 1
    if all(ids[:place].tolist() == whole[:place] for place in places):
        return
    first = next(place for place in places if ids[:place].tolist() != whole[:place])
    assert WORDS.encode(WORDS.decode(ids[:first]), special="all") == ids[:first].tolist()


def test_a_token_on_both_sides_is_split_as_generation_sees_it() -> None:
    spans = [Span("<a>the\n", False), Span("\ncat<b>", True), Span("\n", False)]
    ids, marks = encode_spans(WORDS, [(spans, [])], CONTROLS)[0]
    assert ids[~marks].tolist() == WORDS.encode("<a>the\n", special="all") + WORDS.encode("\n")
    assert ids[marks].tolist() == WORDS.encode("\ncat<b>", special="all")


def test_placeholders_are_plain_text() -> None:
    spans = [Span(f"<a>the{OPEN}0{CLOSE}", False), Span(f"{OPEN}1{CLOSE} cat<b>", True)]
    ids, marks = encode_spans(WORDS, [(spans, ["<b>", "<a>"])], CONTROLS)[0]
    assert WORDS.decode(ids) == "<a>the<b><a> cat<b>"
    assert WORDS.decode(ids[marks]) == "<a> cat<b>"
    assert [int((ids == WORDS.encode(token, special="all")[0]).sum()) for token in ("<a>", "<b>")] == [1, 1]


def test_nothing_is_no_token() -> None:
    assert encode_spans(WORDS, [], CONTROLS) == []
    assert [len(part) for part in encode_spans(WORDS, [([], [])], CONTROLS)[0]] == [0, 0]
