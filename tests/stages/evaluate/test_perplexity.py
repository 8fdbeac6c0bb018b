"""`perplexity` equals a plain loop over the tokens, with and without sliding windows."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_pipes.types import Document
from stages.evaluate.perplexity import cut_windows, perplexity, summarize
from stages.evaluate.task import run_task
from tests.stages.evaluate.small_model import small_model

TEXTS = ["def add(a, b): return a + b", "Question: what is it?", "x y z " * 40]


@given(st.integers(1, 40), st.integers(2, 12), st.data())
def test_windows_score_each_token_once_with_enough_context(
    count: int, length: int, data: st.DataObject
) -> None:
    """The first window begins with the prefix, a window reads at most `length` tokens, and in later windows
    at least length - stride + 1 tokens precede the scored ones."""
    stride = data.draw(st.integers(1, length))
    windows = cut_windows(range(100, 100 + count), length=length, stride=stride, prefix=9)
    assert [i for w in windows for i in w.tokens[-w.scored :]] == list(range(100, 100 + count))
    assert all(len(w.tokens) - 1 <= length for w in windows)
    assert all(len(w.tokens) - w.scored >= length - stride + 1 for w in windows[1:])
    assert windows[0].tokens[0] == 9


def test_a_model_without_bos_and_eos_needs_a_prefix() -> None:
    model, params, tokenizer = small_model()[:3]
    without_eos = model._replace(config=dataclasses.replace(model.config, eos_token_id=None))
    with pytest.raises(ValueError, match="neither a bos nor an eos token"):
        perplexity(without_eos, params, tokenizer, TEXTS)
    assert (
        run_task(perplexity(without_eos, params, tokenizer, TEXTS, prefix=1)).figures["perplexity"].value > 1
    )


def test_figures_equal_a_loop_over_whole_documents() -> None:
    """The context is as long as the documents, so that no windows are cut."""
    model, params, tokenizer = small_model(512)[:3]
    nats, tokens = 0.0, 0
    for text in TEXTS:
        row = [model.config.eos_token_id, *tokenizer.encode(text)]
        logps = model.forward(params, torch.tensor([row[:-1]]))[0].double().log_softmax(-1)
        nats -= sum(float(logps[i, token]) for i, token in enumerate(row[1:]))
        tokens += len(row) - 1
    found = run_task(perplexity(model, params, tokenizer, TEXTS)).figures
    assert found["perplexity"].value == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    nbytes = sum(len(text.encode()) for text in TEXTS)
    assert found["bits_per_byte"].value == pytest.approx(nats / nbytes / math.log(2), rel=1e-5)
    assert found["byte_perplexity"].value == pytest.approx(2 ** found["bits_per_byte"].value, rel=1e-6)
    assert next(iter(found)) == "perplexity"


def test_documents_are_scored_independently() -> None:
    model, params, tokenizer = small_model()[:3]
    alone = run_task(perplexity(model, params, tokenizer, [TEXTS[1]])).samples[0]
    together = run_task(perplexity(model, params, tokenizer, [TEXTS[0], TEXTS[1], TEXTS[0]])).samples
    assert together[1]["nats"] == pytest.approx(alone["nats"], rel=1e-6)
    assert [sample["id"] for sample in together] == ["text 0", "text 1", "text 2"]


def test_stride_1_scores_each_token_with_a_full_context() -> None:
    """With max_length 8 and stride 1, each token is predicted from the 8 tokens before it."""
    model, params, tokenizer = small_model()[:3]
    row = [model.config.eos_token_id, *tokenizer.encode(TEXTS[2])]
    nats = 0.0
    for position in range(1, len(row)):
        context = torch.tensor([row[max(0, position - 8) : position]])
        nats -= float(model.forward(params, context)[0, -1].double().log_softmax(0)[row[position]])
    task = perplexity(model, params, tokenizer, [TEXTS[2]], max_length=8, stride=1)
    sample = run_task(task).samples[0]
    assert sample["nats"] == pytest.approx(nats, rel=1e-5)
    assert sample["tokens"] == len(row) - 1


def test_figures_and_their_errors_from_three_documents() -> None:
    """The error of a ratio r = Σ a / Σ b is √(n / (n-1) Σ (a - r b)²) / Σ b; that of exp(r) is exp(r) times it."""
    rows = [(3.0, 2, 1, 5), (8.0, 3, 2, 9), (1.5, 1, 1, 2)]
    names = ("nats", "tokens", "words", "bytes")
    found = summarize([dict(zip(names, row, strict=True)) for row in rows])
    assert list(found) == ["perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"]
    for place, name in enumerate(list(found)[:3], 1):
        total = sum(row[place] for row in rows)
        r = 12.5 / total
        error = math.sqrt(3 / 2 * sum((row[0] - r * row[place]) ** 2 for row in rows)) / total
        assert found[name] == pytest.approx((math.exp(r), math.exp(r) * error, 3))
    bits = (12.5 / 16 / math.log(2), found["byte_perplexity"].stderr / math.exp(12.5 / 16) / math.log(2), 3)
    assert found["bits_per_byte"] == pytest.approx(bits)


@pytest.mark.parametrize(("nats", "is_finite"), [(699.9, True), (700.0, False), (710.0, False)])
def test_a_perplexity_is_infinite_from_700_nats_a_unit_on(nats: float, is_finite: bool) -> None:
    found = summarize([{"nats": nats, "tokens": 1, "words": 1, "bytes": 1}] * 2)
    assert [math.isfinite(figure.value) for figure in found.values()] == [is_finite] * 3 + [True]
    assert found["bits_per_byte"].value == pytest.approx(nats / math.log(2))


def test_empty_texts_are_skipped_and_values_out_of_range_refused() -> None:
    model, params, tokenizer = small_model()[:3]
    documents = [Document("a b", "f.txt"), Document("c d", "f.txt"), Document("", "e")]
    report = run_task(perplexity(model, params, tokenizer, documents))
    assert [sample["id"] for sample in report.samples] == ["f.txt", "f.txt (2)"]
    named = [Document("a b", name) for name in ("a", "a", "a (2)", "a", "a (2)")]
    ids = [sample["id"] for sample in run_task(perplexity(model, params, tokenizer, named)).samples]
    assert ids == ["a", "a (3)", "a (2)", "a (4)", "a (2) (2)"]
    with pytest.raises(ValueError, match="at least one question"):
        run_task(perplexity(model, params, tokenizer, [""]))
    with pytest.raises(ValueError, match=r"stride must be in 1 \.\. 8 \(max_length\), got 9"):
        perplexity(model, params, tokenizer, TEXTS, max_length=8, stride=9)
    with pytest.raises(ValueError, match=r"max_length must be in 2 \.\. 256"):
        perplexity(model, params, tokenizer, TEXTS, max_length=257)
