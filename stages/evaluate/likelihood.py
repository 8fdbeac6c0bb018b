"""Log-likelihoods of tokens, from which perplexity and multiple choice are computed.

Two algorithms give the same numbers. A *window* is scored in one forward pass. *Requests*, which are
continuations of contexts, share long prefixes: the few-shot examples of a subject, and the question itself.
Each shared prefix is read once into the key-value cache, and the rest is decoded from that cache.

Shape letters: B rows, P tokens that a group's contexts share, Q tokens of a context after them, C tokens of a
continuation, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pure import tree
from pure.parallel.vocabulary import gather_logits
from pure.types import Model, Tree
from stages.evaluate.request import Request, truncate_left
from stages.evaluate.sharing import Batch, Group, Ids, cut_batches, group_contexts

TOKENS = 2048
"""Tokens read at a time: enough to fill a small model's matrix products, few enough for a laptop's memory."""

POSITIONS = 1024
"""Number of positions whose logits are in memory at a time."""


class Window(NamedTuple):
    """Tokens of one sequence, of which the last `scored` are scored; at least one comes before those."""

    tokens: tuple[int, ...]
    scored: int


class Likelihood(NamedTuple):
    """Log-likelihood of a window or a continuation.

    Fields:
        logp: nats, at most 0, summed over the scored tokens.
        greedy: whether each scored token was the most probable at its position.
        dropped: number of context tokens dropped on the left, to fit the model's context length.
    """

    logp: float
    greedy: bool
    dropped: int = 0


def log_likelihoods(
    model: Model,
    params: Tree,
    requests: Sequence[Request],
    *,
    max_length: int | None = None,
    tokens: int = TOKENS,
    share: bool = True,
) -> list[Likelihood]:
    """Score continuations of their contexts; tokens that contexts share are read once.

        logp = Σ_i log p(continuation_i | context, continuation_<i)

    Args:
        model: needs `decode` and `cache`; without sharing, `hidden` and `logits`.
        params: the model's parameters.
        requests: the requests, in any order.
        max_length: context length in tokens; None takes max_position_embeddings. A longer request loses
            tokens on its left.
        tokens: number of tokens per forward pass, approximately.
        share: False scores each request as a window, for models without a key-value cache.

    Returns:
        One Likelihood per request, in their order. With and without sharing they differ in rounding only.

    Steps:
        1. Truncate requests to the context length.
        2. Without sharing, score each as a window.
        3. Group the distinct contexts by their shared prefix and read that once. Then read the rest of a
           batch of contexts, which scores the first token of each continuation; then read the continuations
           of more than one token.

    Raises:
        ValueError: if a request has an empty part, or a continuation is longer than max_length.
    """
    longest = model.config.max_position_embeddings if max_length is None else max_length
    # 1. Truncate.
    fitted = [truncate_left(request, longest, number) for number, request in enumerate(requests)]
    dropped = [len(old.context) - len(new.context) for old, new in zip(requests, fitted, strict=True)]
    # 2. Windows.
    if not share:
        windows = [Window(context + continuation, len(continuation)) for context, continuation in fitted]
        scores = window_log_likelihoods(model, params, windows, tokens=tokens)
    # 3. Shared.
    else:
        by_request: dict[Request, Likelihood] = {}
        with torch.no_grad():
            for group in group_contexts([request.context for request in fitted]):
                by_request |= _read_group(model, params, group, fitted, longest, tokens)
        scores = _refuse_nan([by_request[request] for request in fitted])
    return [score._replace(dropped=count) for score, count in zip(scores, dropped, strict=True)]


def window_log_likelihoods(
    model: Model, params: Tree, windows: Sequence[Window], *, tokens: int = TOKENS
) -> list[Likelihood]:
    """Score windows, short ones in one batch.

    Args:
        model: gives `hidden` and `logits`.
        params: the model's parameters.
        windows: the windows, in any order.
        tokens: number of tokens per forward pass, approximately.

    Returns:
        One Likelihood per window, in their order.

    Raises:
        ValueError: if a window has no token to score, or none before the scored ones.
    """
    for number, window in enumerate(windows):
        if not 1 <= window.scored < len(window.tokens):
            raise ValueError(
                f"window_log_likelihoods: window {number} scores {window.scored} of {len(window.tokens)} "
                f"tokens; expected at least one, and one more before it"
            )
    order = sorted(range(len(windows)), key=lambda i: -len(windows[i].tokens))
    scores: dict[int, Likelihood] = {}
    with torch.no_grad():
        while order:
            count = max(1, tokens // len(windows[order[0]].tokens))
            batch, order = order[:count], order[count:]
            likelihoods = _read_windows(model, params, [windows[i] for i in batch])
            scores |= dict(zip(batch, likelihoods, strict=True))
    return _refuse_nan([scores[i] for i in range(len(windows))])


def _refuse_nan(likelihoods: list[Likelihood]) -> list[Likelihood]:
    """Raise if a log-likelihood is NaN, which comparisons would silently take for a number."""
    for number, likelihood in enumerate(likelihoods):
        if math.isnan(likelihood.logp):
            raise FloatingPointError(
                f"the log-likelihood of request {number} is NaN: the params hold numbers that are not "
                f"finite, or overflow in this dtype; try float32, or an older checkpoint"
            )
    return likelihoods


def _read_windows(model: Model, params: Tree, windows: list[Window]) -> list[Likelihood]:
    """Score a batch of windows in one forward pass, with logits of the scored positions only.

    Most tokens of a window are context, whose logits, V numbers a position, are never computed.

        logp = Σ_i log p(token_i | tokens before it),     i the last `scored` tokens of the window

    Args:
        model, params: the model, which gives `hidden` and `logits`, and its parameters.
        windows: B windows, each with at least one scored token, and one before it.

    Returns:
        One Likelihood(logp, greedy) per window, in their order.

    Steps:
        1. Hidden states [B, T, D] of all tokens but a window's last, padded by `_pad` on the params' device
            (that of the first of `tree.leaves(params)`).
        2. Ids of all n scored tokens, and the positions (row, index) that predict them, one before each.
        3. Select the hidden states [n, D], and split them and the ids into parts of at most POSITIONS.
        4. Score each part x: `gather_logits(model.logits(params, x))`, then `_score_tokens`; join the
            parts, [n].
        5. By window, sum the log-probabilities in float64, and test if all tokens are the most probable.

    Edge cases: windows may differ in length and in the number of scored tokens; padding changes nothing.

    Example:
        Equal logits give each of 9 tokens the probability 1/9; two tokens are scored.

        >>> from types import SimpleNamespace
        >>> hidden_fn = lambda params, ids: torch.zeros(*ids.shape, 1)  # D = 1
        >>> model = SimpleNamespace(hidden=hidden_fn, logits=lambda params, hidden: hidden.expand(-1, 9))
        >>> [score] = _read_windows(model, torch.zeros(1), [Window((3, 1, 2), 2)])
        >>> round(math.exp(-score.logp), 3)
        81.0

    Source: lm-evaluation-harness scores the same tokens, with logits of all positions.
    """
    # 1. Hidden states [B, T, D].
    device = tree.leaves(params)[0].device
    hidden = model.hidden(params, _pad([window.tokens[:-1] for window in windows], device))
    # 2. Positions and ids [n].
    positions: list[tuple[int, int]] = []
    targets: list[int] = []
    for row, (ids, scored) in enumerate(windows):
        positions += [(row, len(ids) - 1 - scored + i) for i in range(scored)]
        targets += ids[-scored:]
    # 3. Parts of at most POSITIONS.
    index = torch.tensor(positions, device=device)
    states = hidden[index[:, 0], index[:, 1]].split(POSITIONS)
    target_ids = torch.tensor(targets, device=device).split(POSITIONS)
    # 4. Scores [n].
    logits = (gather_logits(model.logits(params, x)) for x in states)
    parts = [_score_tokens(x, y) for x, y in zip(logits, target_ids, strict=True)]
    logps, greedy = (torch.cat(part) for part in zip(*parts, strict=True))
    # 5. Sums by window.
    sizes = [window.scored for window in windows]
    by_window = zip(logps.double().cpu().split(sizes), greedy.cpu().split(sizes), strict=True)
    return [Likelihood(float(logp.sum()), bool(is_best.all())) for logp, is_best in by_window]


def _read_group(
    model: Model, params: Tree, group: Group, requests: Sequence[Request], longest: int, tokens: int
) -> dict[Request, Likelihood]:
    """Score the requests of a group of contexts; each batch starts from the cache of their shared tokens."""
    continuations: dict[Ids, list[Ids]] = {context: [] for context in group.contexts}
    for request in dict.fromkeys(requests):
        if request.context in continuations:
            continuations[request.context].append(request.continuation)
    device = tree.leaves(params)[0].device
    dtype = next(x.dtype for x in tree.leaves(params) if x.is_floating_point())
    start = model.cache(1, group.shared, dtype, device)
    if group.shared:
        shared = torch.tensor([group.contexts[0][: group.shared]], device=device)
        _, start = model.decode(params, shared, start, last=True)
    scores: dict[Request, Likelihood] = {}
    for batch in cut_batches(group, continuations, longest, tokens):
        scores |= _read_batch(model, params, batch, start, dtype)
    return scores


def _read_batch(
    model: Model, params: Tree, batch: Batch, start: Tree, dtype: torch.dtype
) -> dict[Request, Likelihood]:
    """Read contexts of one group, Q tokens each after the P shared ones, and then their continuations.

    Rows are padded on the right. Afterwards the cache's length is set to each row's own, so that the
    continuation overwrites the padding's entries before any query attends to them.
    """
    device = start.length.device
    rows = _pad([context[batch.shared :] for context in batch.contexts], device)
    sizes = torch.tensor([len(context) - batch.shared for context in batch.contexts], device=device)
    empty = model.cache(len(rows), batch.length, dtype, "meta")  # shapes only
    states, cache = model.decode(params, rows, tree.map(_expand_cache, start, empty), last=sizes - 1)
    cache = cache._replace(length=sizes + batch.shared)
    first = states[:, 0].float().log_softmax(-1)
    best = first.argmax(-1).tolist()
    requests = [
        Request(batch.contexts[row], text)
        for row, text in zip(batch.row_of, batch.continuations, strict=True)
    ]
    logps = first[batch.row_of, [request.continuation[0] for request in requests]].tolist()
    scores = {}
    for row, request, logp in zip(batch.row_of, requests, logps, strict=True):
        scores[request] = Likelihood(logp, request.continuation[0] == best[row])
    longer = [pair for pair in zip(batch.row_of, requests, strict=True) if len(pair[1].continuation) > 1]
    for part in _cut_by_positions(longer):
        cache_rows = torch.tensor([row for row, _ in part], device=device)
        tails = _pad([request.continuation[:-1] for _, request in part], device)
        part_cache = tree.map(lambda x, rows=cache_rows: x[rows], cache)
        logits, _ = model.decode(params, tails, part_cache)
        for i, (_, request) in enumerate(part):
            targets = torch.tensor(request.continuation[1:], device=device)
            tail_logps, greedy = _score_tokens(logits[i, : len(targets)], targets)
            old = scores[request]
            logp = old.logp + float(tail_logps.double().sum())
            scores[request] = Likelihood(logp, old.greedy and bool(greedy.all()))
    return scores


def _cut_by_positions(pairs: list[tuple[int, Request]]) -> list[list[tuple[int, Request]]]:
    """Cut (row, request) pairs into parts of similar length whose logits fit into POSITIONS."""
    remaining, parts = sorted(pairs, key=lambda pair: -len(pair[1].continuation)), []
    while remaining:
        count = max(1, POSITIONS // len(remaining[0][1].continuation))
        parts.append(remaining[:count])
        remaining = remaining[count:]
    return parts


def _expand_cache(leaf: Tensor, empty: Tensor) -> Tensor:
    """Repeat a leaf of a cache of one row over the rows of `empty`, and zero-pad it to its shape."""
    rows = leaf.expand(empty.shape[0], *leaf.shape[1:])
    missing = [size - current for size, current in zip(empty.shape[1:], leaf.shape[1:], strict=True)]
    if not any(missing):
        return rows.clone()
    # F.pad takes (before, after) pairs, the last axis first.
    return F.pad(rows, [n for count in reversed(missing) for n in (0, count)])


def _score_tokens(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [n, V] and targets [n] -> (log-probabilities [n] float32, whether each is the largest [n])."""
    logits = logits.float()
    logps = logits.gather(1, targets[:, None])[:, 0] - logits.logsumexp(-1)
    return logps, logits.argmax(-1) == targets


def _pad(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Pad rows on the right with 0: [B, longest] int64."""
    tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True).to(device)
