"""Perplexity against a plain loop, and its windows."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.types import Document
from stages.evaluate.perplexity import cut_windows, perplexity
from stages.evaluate.task import run_task
from tests.stages.evaluate.small_model import small

TEXTS = ["def add(a, b): return a + b", "Question: what is it?", "x y z " * 40]


@given(st.integers(1, 40), st.integers(2, 12), st.data())
def test_each_token_is_scored_once_with_the_context_that_it_can_have(
    count: int, length: int, data: st.DataObject
) -> None:
    """After a prefix, in order, never more than L tokens to read, later ones with at least L - S + 1 before
    them."""
    stride = data.draw(st.integers(1, length))
    windows = cut_windows(range(100, 100 + count), length=length, stride=stride, prefix=9)
    assert [i for w in windows for i in w.tokens[-w.scored :]] == list(range(100, 100 + count))
    assert all(len(w.tokens) - 1 <= length for w in windows)
    assert all(len(w.tokens) - w.scored >= length - stride + 1 for w in windows[1:])
    assert windows[0].tokens[0] == 9


def test_without_anything_to_predict_first_tokens_from_it_refuses() -> None:
    model, params, tokenizer = small()[:3]
    bare = model._replace(config=dataclasses.replace(model.config, eos_token_id=None))
    with pytest.raises(ValueError, match="neither a bos nor an eos token"):
        perplexity(bare, params, tokenizer, TEXTS)
    assert run_task(perplexity(bare, params, tokenizer, TEXTS, prefix=1)).figures["perplexity"].value > 1


def test_figures_are_those_of_a_loop_over_whole_documents() -> None:
    """With a context that holds each document, no window is needed."""
    model, params, tokenizer = small(512)[:3]
    nats, tokens = 0.0, 0
    for text in TEXTS:
        row = [model.config.eos_token_id, *tokenizer.encode(text)]
        logps = model.forward(params, torch.tensor([row[:-1]]))[0].double().log_softmax(-1)
        nats -= sum(float(logps[i, word]) for i, word in enumerate(row[1:]))
        tokens += len(row) - 1
    found = run_task(perplexity(model, params, tokenizer, TEXTS)).figures
    assert found["perplexity"].value == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    nbytes = sum(len(text.encode()) for text in TEXTS)
    assert found["bits_per_byte"].value == pytest.approx(nats / nbytes / math.log(2), rel=1e-5)
    assert found["byte_perplexity"].value == pytest.approx(2 ** found["bits_per_byte"].value, rel=1e-6)
    assert next(iter(found)) == "perplexity"


def test_a_document_does_not_see_its_neighbour() -> None:
    model, params, tokenizer = small()[:3]
    alone = run_task(perplexity(model, params, tokenizer, [TEXTS[1]])).samples[0]
    among = run_task(perplexity(model, params, tokenizer, [TEXTS[0], TEXTS[1], TEXTS[0]])).samples
    assert among[1]["nats"] == pytest.approx(alone["nats"], rel=1e-6)
    assert [sample["id"] for sample in among] == ["text 0", "text 1", "text 2"]


def test_more_context_is_seen_with_a_smaller_stride() -> None:
    """A window of 8 with stride 1 gives each late token 8 tokens before it."""
    model, params, tokenizer = small()[:3]
    row = [model.config.eos_token_id, *tokenizer.encode(TEXTS[2])]
    nats = 0.0
    for place in range(1, len(row)):
        before = torch.tensor([row[max(0, place - 8) : place]])
        nats -= float(model.forward(params, before)[0, -1].double().log_softmax(0)[row[place]])
    task = perplexity(model, params, tokenizer, [TEXTS[2]], max_length=8, stride=1)
    sample = run_task(task).samples[0]
    assert sample["nats"] == pytest.approx(nats, rel=1e-5)
    assert sample["tokens"] == len(row) - 1


def test_empty_texts_and_values_out_of_range_are_named() -> None:
    model, params, tokenizer = small()[:3]
    documents = [Document("a b", "f.txt"), Document("c d", "f.txt"), Document("", "e")]
    report = run_task(perplexity(model, params, tokenizer, documents))
    assert [sample["id"] for sample in report.samples] == ["f.txt", "f.txt (2)"]
    with pytest.raises(ValueError, match="at least one question"):
        run_task(perplexity(model, params, tokenizer, [""]))
    with pytest.raises(ValueError, match=r"stride must be in 1 \.\. 8 \(max_length\), got 9"):
        perplexity(model, params, tokenizer, TEXTS, max_length=8, stride=9)
    with pytest.raises(ValueError, match=r"max_length must be in 2 \.\. 256"):
        perplexity(model, params, tokenizer, TEXTS, max_length=257)
