"""`encode_spans`: token ids of the joined text of spans, cut at changes of the trained flag."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.chat.assistant_spans import Span
from data_pipes.chat.span_encoding import encode_spans
from data_pipes.chat.template import CLOSE, OPEN
from data_pipes.tokenizer.trainer import train

TOKENIZER = train(["the cat sat on the mat\n\n and  the dog"] * 3, 300, special_tokens=["<a>", "<b>"])
CONTROLS = re.compile("<a>|<b>")
texts = st.lists(st.sampled_from(["<a>", "<b>", "the", " cat", "\n", "\n\n", " ", "", "é"]), max_size=4).map(
    "".join
)
rows = st.lists(st.tuples(texts, st.booleans()).map(lambda pair: Span(*pair)), max_size=5)


@given(rows)
def test_the_text_is_kept_and_the_trained_spans_marked(spans: list[Span]) -> None:
    ids, trained = encode_spans(TOKENIZER, [(spans, [])], CONTROLS)[0]
    assert ids.dtype == np.int64
    assert trained.dtype == bool
    for flag in (False, True):
        assert TOKENIZER.decode(ids[trained == flag]) == "".join(
            span.text for span in spans if span.trained == flag
        )


@given(rows)
def test_ids_equal_the_whole_texts_up_to_the_first_cut_inside_a_token(spans: list[Span]) -> None:
    text = "".join(span.text for span in spans)
    whole = TOKENIZER.encode(text, special="all")
    ids, trained = encode_spans(TOKENIZER, [(spans, [])], CONTROLS)[0]
    cuts = np.flatnonzero(np.diff(trained)) + 1
    if all(ids[:cut].tolist() == whole[:cut] for cut in cuts):
        return
    first = next(cut for cut in cuts if ids[:cut].tolist() != whole[:cut])
    assert TOKENIZER.encode(TOKENIZER.decode(ids[:first]), special="all") == ids[:first].tolist()


def test_a_token_across_a_cut_is_split_as_in_generation() -> None:
    spans = [Span("<a>the\n", False), Span("\ncat<b>", True), Span("\n", False)]
    ids, trained = encode_spans(TOKENIZER, [(spans, [])], CONTROLS)[0]
    assert ids[~trained].tolist() == TOKENIZER.encode("<a>the\n", special="all") + TOKENIZER.encode("\n")
    assert ids[trained].tolist() == TOKENIZER.encode("\ncat<b>", special="all")


def test_placeholders_are_encoded_as_plain_text() -> None:
    spans = [Span(f"<a>the{OPEN}0{CLOSE}", False), Span(f"{OPEN}1{CLOSE} cat<b>", True)]
    ids, trained = encode_spans(TOKENIZER, [(spans, ["<b>", "<a>"])], CONTROLS)[0]
    assert TOKENIZER.decode(ids) == "<a>the<b><a> cat<b>"
    assert TOKENIZER.decode(ids[trained]) == "<a> cat<b>"
    assert [int((ids == TOKENIZER.encode(token, special="all")[0]).sum()) for token in ("<a>", "<b>")] == [
        1,
        1,
    ]


def test_no_spans_give_no_tokens() -> None:
    assert encode_spans(TOKENIZER, [], CONTROLS) == []
    assert [len(part) for part in encode_spans(TOKENIZER, [([], [])], CONTROLS)[0]] == [0, 0]
