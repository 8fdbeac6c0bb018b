"""Perplexity and bits per byte: how well a model predicts text that it was not trained on.

Each token is scored once, with as much context as the window allows; each document is scored on its own, so
that no token is predicted from another document.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from data_pipes.tokenizer.spec import Tokenizer
from data_pipes.types import Document
from pure.types import Model, Tree
from stages.evaluate.likelihood import TOKENS, Likelihood, Window, window_log_likelihoods
from stages.evaluate.request import encode_text
from stages.evaluate.task import Figure, Sample, Task, digest, ratio
from stages.models.text_prompt import default_prefix


def perplexity(
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
    """Build the task that measures the perplexity of texts.

        perplexity      = exp(Σ nll / Σ tokens)
        word_perplexity = exp(Σ nll / Σ words)          words are the pieces between white space
        byte_perplexity = exp(Σ nll / Σ bytes)
        bits_per_byte   = Σ nll / (Σ bytes · ln 2)      comparable between models with different tokenizers

    Args:
        model: gives `hidden` and `logits`.
        params: the model's.
        tokenizer: of the model.
        texts: documents; empty ones are skipped.
        max_length: L, tokens that the model reads at once; None takes max_position_embeddings.
        stride: S in 1 .. L, tokens that each window after the first scores: a smaller stride gives each token
            more context and takes longer. None takes L // 2; L is what lm-evaluation-harness does.
        prefix: id from which the first token of a document is predicted; None takes the model's bos token, or
            its eos token. If the tokenizer adds a bos to a text, that bos follows the prefix and is scored,
            as in lm-evaluation-harness.
        tokens: approximate number of tokens per forward pass.
        name: of the task in the results.

    Returns:
        Task with the four figures and their standard errors over documents; its samples are documents.

    Raises:
        ValueError: if stride or max_length is out of range, or there is no prefix.

    Example:
        A model of zero weights gives each of its 260 tokens the same probability:

        >>> import torch
        >>> from data_pipes import tokenizer as tokenizers
        >>> from pure import random, tree
        >>> from pure.config import ModelConfig
        >>> from pure.nn.transformer import transformer
        >>> from stages.evaluate.task import run_task
        >>> shape = ModelConfig(vocab_size=260, hidden_size=8, num_attention_heads=1, num_key_value_heads=1)
        >>> model = transformer(shape)
        >>> params = tree.map(torch.zeros_like, model.init(random.key(0)))
        >>> task = perplexity(model, params, tokenizers.train(["abc"], vocab_size=260), ["hello"], prefix=256)
        >>> round(run_task(task).figures["perplexity"].value, 3)
        260.0

    Source: Jelinek et al. 1977.
    """
    longest = model.config.max_position_embeddings
    length = longest if max_length is None else max_length
    if not 1 < length <= longest:
        raise ValueError(f"perplexity: max_length must be in 2 .. {longest}, the model's, got {length}")
    step = length // 2 if stride is None else stride
    if not 1 <= step <= length:
        raise ValueError(f"perplexity: stride must be in 1 .. {length} (max_length), got {step}")
    prefix_id = default_prefix(model) if prefix is None else prefix
    if prefix_id is None:
        raise ValueError(
            "perplexity: the model has neither a bos nor an eos token to predict the first token of a "
            "document from; pass an id as prefix= (--prefix)"
        )
    documents = [document for document in _name_documents(texts) if document.text]
    window_fn = partial(cut_windows, length=length, stride=step, prefix=prefix_id)
    return Task(
        name=name,
        ids=_number_duplicates([document.name for document in documents]),
        answer=partial(
            _score_documents,
            documents,
            encode=partial(encode_text, tokenizer, prefix=prefix_id),
            window_fn=window_fn,
            score_fn=partial(window_log_likelihoods, model, params, tokens=tokens),
        ),
        summary=summarize,
        about={"task": "perplexity", "max_length": length, "stride": step, "prefix": prefix_id},
        chunk=16,
        digests=[digest(document.text) for document in documents],
    )


def cut_windows(ids: Sequence[int], *, length: int, stride: int, prefix: int) -> list[Window]:
    """Cut one document into windows that score each token once.

    The first window scores the first L tokens, after the prefix. Each later window scores the next S tokens
    (the last window those that remain) and begins with tokens before them as context, so that it has L + 1.
    The model does not read a window's last token, so it reads at most L.

    Args:
        ids: tokens of the document.
        length: L, tokens that the model reads at once, >= 1.
        stride: S, tokens that a window after the first scores, in 1 .. L.
        prefix: id before the first token.

    Returns:
        Windows(tokens, scored), in order, tokens as a tuple; none for an empty document.

    Steps:
        1. Put the prefix before the ids; it is not scored.
        2. Repeat until all are scored: the next window scores L tokens if it is the first, else S, and at
            most those that remain.
        3. Its tokens end with them, and begin as early as the row and L + 1 allow.

    Edge cases: a document of at most L tokens is one window.

    Example:
        >>> [w.tokens[-w.scored:] for w in cut_windows([0, 1, 2, 3, 4, 5, 6], length=4, stride=2, prefix=9)]
        [(0, 1, 2, 3), (4, 5), (6,)]

    Source: Jelinek et al. 1977; with S = L the windows are those of lm-evaluation-harness.
    """
    # 1. Prefix.
    row = [prefix, *ids]
    windows: list[Window] = []
    done = 1
    # 2. Scored tokens.
    while done < len(row):
        count = min(len(row) - done, stride if windows else length)
        end = done + count
        # 3. Window.
        windows.append(Window(tuple(row[max(0, end - length - 1) : end]), count))
        done = end
    return windows


def summarize(samples: Sequence[Sample]) -> dict[str, Figure]:
    """Compute the four figures from the sums of each document.

    A perplexity of 20 means that the model was as uncertain as between 20 equally likely tokens. Bits per
    byte do not depend on the tokenizer.

        perplexity = exp(Σ nats / Σ tokens),     likewise per word and per byte
        bits_per_byte = Σ (nats / ln 2) / Σ bytes

    Args:
        samples: one for each document, with "nats", "tokens", "words" and "bytes".

    Returns:
        {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"}, in this order, each a Figure.
        Standard errors of perplexities by the delta method: that of the exponent times the perplexity.

    Steps:
        1. For each unit, the exponent and its error by `ratio` of nats and units.
        2. Its exponential; infinite from an exponent of 700 on, as `math.exp` raises above 709.
        3. Figure with the perplexity times the exponent's error, and the exponent's count.
        4. Bits per byte by `ratio` of nats / ln 2 and bytes.

    Edge cases: one document has no standard error: NaN.

    Example:
        8 tokens of ln 2 nats each, in 4 bytes: 2 bits a byte.

        >>> one = {"nats": 8 * math.log(2), "tokens": 8, "words": 1, "bytes": 4}
        >>> {name: round(figure.value, 6) for name, figure in summarize([one, one]).items()}
        {'perplexity': 2.0, 'word_perplexity': 256.0, 'byte_perplexity': 4.0, 'bits_per_byte': 2.0}

    Source: Jelinek et al. 1977.
    """
    figures = {}
    for name, unit in (("perplexity", "tokens"), ("word_perplexity", "words"), ("byte_perplexity", "bytes")):
        # 1. Exponent.
        exponent = ratio([s["nats"] for s in samples], [s[unit] for s in samples])
        # 2. Perplexity.
        value = math.exp(exponent.value) if exponent.value < 700 else math.inf  # math.exp raises above 709
        # 3. Figure.
        figures[name] = Figure(value, value * exponent.stderr, exponent.count)
    # 4. Bits per byte.
    bits = ratio([s["nats"] / math.log(2) for s in samples], [s["bytes"] for s in samples])
    return figures | {"bits_per_byte": bits}


def _score_documents(
    documents: Sequence[Document],
    indices: Sequence[int],
    *,
    encode: Callable[[str], list[int]],
    window_fn: Callable[[Sequence[int]], list[Window]],
    score_fn: Callable[[Sequence[Window]], list[Likelihood]],
) -> list[Sample]:
    """Score a chunk of documents: all their windows in one call of `score_fn`."""
    chosen = [documents[i] for i in indices]
    windows = [window_fn(encode(document.text)) for document in chosen]
    scores = iter(score_fn([window for part in windows for window in part]))
    return [
        _sample(document, part, [next(scores).logp for _ in part])
        for document, part in zip(chosen, windows, strict=True)
    ]


def _sample(document: Document, windows: Sequence[Window], logps: Sequence[float]) -> Sample:
    """Return the sample of a document."""
    counts: dict[str, Any] = {
        "nats": -math.fsum(logps),
        "tokens": sum(window.scored for window in windows),
        "windows": len(windows),
        "words": len(re.split(r"\s+", document.text)),
        "bytes": len(document.text.encode()),
    }
    score = counts["nats"] / math.log(2) / counts["bytes"]
    return {"prompt": document.text, "output": None, "score": score, **counts}


def _name_documents(texts: Iterable[str | Document]) -> list[Document]:
    """Give plain texts names: "text 0", "text 1", ..."""
    return [
        text if isinstance(text, Document) else Document(text, f"text {number}")
        for number, text in enumerate(texts)
    ]


def _number_duplicates(names: Sequence[str]) -> list[str]:
    """Append a number to each name that occurs again; the result has no name of `names` a second time."""
    used, seen = set(names), set[str]()
    distinct = []
    for name in names:
        new = name
        if name in seen:
            new = next(text for n in itertools.count(2) if (text := f"{name} ({n})") not in used)
            used.add(new)
        seen.add(name)
        distinct.append(new)
    return distinct
