"""Perplexity and bits per byte: how well a model predicts text that it has not seen.

Each token is scored once, with as much context as the window allows; each document begins anew, so that none
is predicted from its neighbour.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from data_pipes.tokenizer.spec import Tokenizer
from data_pipes.types import Document
from pure.types import Model, Tree
from stages.evaluate.likelihood import TOKENS, Window, log_probabilities_of
from stages.evaluate.request import beginning, encode_text
from stages.evaluate.task import Figure, Report, Sample, Task, digest, finish, ratio


def perplexity(
    model: Model, params: Tree, tokenizer: Tokenizer, texts: Iterable[str | Document], **options: Any
) -> Report:
    """Measures how surprised a model is by texts.

        perplexity      = exp(Σ nll / Σ tokens)
        word_perplexity = exp(Σ nll / Σ words)          words are the pieces between white space
        byte_perplexity = exp(Σ nll / Σ bytes)
        bits_per_byte   = Σ nll / (Σ bytes · ln 2)      the one that compares models with different tokenizers

    Args:
        model, params, tokenizer, texts, options: see `task`.

    Returns:
        Report: the four figures, their standard errors over documents, and one sample a document.

    Raises:
        ValueError: if there is no text, or stride or max_length is out of range.

    Example:
        A model that knows nothing gives each of its 260 words the same probability:

        >>> import torch
        >>> from data_pipes import tokenizer as tokenizers
        >>> from pure import random, tree
        >>> from pure.config import ModelConfig
        >>> from pure.nn.transformer import transformer
        >>> shape = ModelConfig(vocab_size=260, hidden_size=8, num_attention_heads=1, num_key_value_heads=1)
        >>> model = transformer(shape)
        >>> params = tree.map(torch.zeros_like, model.init(random.key(0)))
        >>> report = perplexity(model, params, tokenizers.train(["abc"], vocab_size=260), ["hello"], prefix=256)
        >>> round(report.figures["perplexity"].value, 3)
        260.0

    Source: Jelinek et al. 1977.
    """
    return finish(task(model, params, tokenizer, texts, **options))


def task(
    model: Model,
    params: Tree,
    tokenizer: Tokenizer,
    texts: Iterable[str | Document],
    *,
    max_length: int | None = None,
    stride: int | None = None,
    prefix: int | None = None,
    tokens: int = TOKENS,
    name: str = "perplexity",
) -> Task:
    """Prepares `perplexity` as a Task.

    Args:
        model: gives `hidden` and `logits`.
        params: the model's.
        tokenizer: that both were made with.
        texts: documents, each scored apart; empty ones are skipped.
        max_length: L, tokens the model sees at once; None takes max_position_embeddings.
        stride: S in 1 .. L, tokens that a window after the first one scores: the smaller, the more context
            each token has, and the longer it takes. None takes L // 2; L is what lm-evaluation-harness does.
        prefix: id that the first token of a document is predicted from; None takes the model's bos token, or
            its eos token. A bos that the tokenizer puts before a text comes after it and counts, as in
            lm-evaluation-harness.
        tokens: to read at a time, about.
        name: what results call it.

    Returns:
        Task, one item a document: it is cut into windows, and what they add up to is divided once, over all
            documents.

    Raises:
        ValueError: if stride or max_length is out of range, or there is nothing to predict first tokens from.
    """
    length = model.config.max_position_embeddings if max_length is None else max_length
    if not 1 < length <= model.config.max_position_embeddings:
        raise ValueError(
            f"perplexity: max_length must be in 2 .. {model.config.max_position_embeddings}, the model's, got {length}"
        )
    step = length // 2 if stride is None else stride
    if not 1 <= step <= length:
        raise ValueError(f"perplexity: stride must be in 1 .. {length} (max_length), got {step}")
    documents = [_named(text, number) for number, text in enumerate(texts)]
    documents = [document for document in documents if document.text]
    first = beginning(model) if prefix is None else prefix
    if first is None:
        raise ValueError(
            "perplexity: the model has neither a bos nor an eos token, from which the first token of a document could "
            "be predicted; pass prefix= an id (--prefix)"
        )
    reading = partial(
        _answer,
        model=model,
        params=params,
        tokenizer=tokenizer,
        documents=documents,
        length=length,
        stride=step,
        prefix=first,
        tokens=tokens,
    )
    about = {"task": "perplexity", "max_length": length, "stride": step, "prefix": first}
    names, items = _distinct([document.name for document in documents]), [digest(d.text) for d in documents]
    return Task(name, names, reading, summary, about, 16, items)


def windows(ids: Sequence[int], *, length: int, stride: int, prefix: int) -> list[Window]:
    """Cuts one document into windows that score each token once.

    The first window scores up to L tokens after the prefix; each later one S more, and sees the L tokens
    before its last; the last window scores what is left, with just as much before it.

    Args:
        ids: of the document.
        length: L.
        stride: S.
        prefix: id before the first token.

    Returns:
        Windows, in order; none for a document of nothing.

    Example:
        >>> [w.tokens[-w.scored:] for w in windows([0, 1, 2, 3, 4, 5, 6], length=4, stride=2, prefix=9)]
        [(0, 1, 2, 3), (4, 5), (6,)]
    """
    row = [prefix, *ids]
    found: list[Window] = []
    done = 1
    while done < len(row):
        count = min(len(row) - done, stride if found else length)
        end = done + count
        found.append(Window(tuple(row[max(0, end - length - 1) : end]), count))
        done = end
    return found


def summary(samples: Sequence[Sample]) -> dict[str, Figure]:
    """Divides what the documents add up to.

    Args:
        samples: with "nats", "tokens", "words" and "bytes".

    Returns:
        perplexity, word_perplexity, byte_perplexity, bits_per_byte; the standard error of an exponential is
        that of its exponent times its value.
    """
    found = {}
    for name, unit in (("perplexity", "tokens"), ("word_perplexity", "words"), ("byte_perplexity", "bytes")):
        mean = ratio([s["nats"] for s in samples], [s[unit] for s in samples])
        value = math.exp(mean.value) if mean.value < 700 else math.inf
        found[name] = Figure(value, value * mean.stderr, mean.count)
    bits = ratio([s["nats"] / math.log(2) for s in samples], [s["bytes"] for s in samples])
    return found | {"bits_per_byte": bits}


def _answer(
    numbers: Sequence[int],
    *,
    model: Model,
    params: Tree,
    tokenizer: Tokenizer,
    documents: Sequence[Document],
    length: int,
    stride: int,
    prefix: int,
    tokens: int,
) -> list[Sample]:
    """A chunk of documents: their windows side by side."""
    chosen = [documents[i] for i in numbers]
    cut = [
        windows(encode_text(tokenizer, d.text, prefix=prefix), length=length, stride=stride, prefix=prefix)
        for d in chosen
    ]
    scores = iter(log_probabilities_of(model, params, [w for part in cut for w in part], tokens=tokens))
    pairs = zip(chosen, cut, strict=True)
    return [_sample(document, part, [next(scores).logp for _ in part]) for document, part in pairs]


def _sample(document: Document, cut: Sequence[Window], logps: Sequence[float]) -> Sample:
    """What is kept of a document."""
    counts: dict[str, Any] = {
        "nats": -math.fsum(logps),
        "tokens": sum(w.scored for w in cut),
        "windows": len(cut),
        "words": len(re.split(r"\s+", document.text)),
        "bytes": len(document.text.encode()),
    }
    score = counts["nats"] / math.log(2) / counts["bytes"]
    return {"prompt": document.text, "output": None, "score": score, **counts}


def _named(text: str | Document, number: int) -> Document:
    """A text by its number, where it has no name."""
    return text if isinstance(text, Document) else Document(text, f"text {number}")


def _distinct(names: Sequence[str]) -> list[str]:
    """Names, those that come again with a number after."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
