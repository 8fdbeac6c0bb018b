"""Log-likelihoods: how probable a model finds given words, of which perplexity and multiple choice are made.

Two ways lead to the same numbers. A *window* is read whole: the plain forward pass. *Requests*, endings
behind contexts, share most of what they read: all questions of a subject begin with the same examples, all
endings of a question with the question. There each shared beginning is read once into the cache of keys and
values, and read on from there.

Shape letters: B rows, P tokens that a group's contexts share, Q tokens of a context behind them, E tokens of
an ending, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pure import tree
from pure.types import Model, Tree
from stages.evaluate.request import Request, fit
from stages.evaluate.sharing import Batch, Group, batches, groups

TOKENS = 2048
"""Tokens read at a time: enough to fill the products of a small model, few enough for the memory of a
laptop."""

PLACES = 1024
"""Places whose logits are held at a time."""


class Window(NamedTuple):
    """Tokens to read, and how many of them, counted from the end, are to be scored; at least one before
    them."""

    tokens: tuple[int, ...]
    scored: int


class Likelihood(NamedTuple):
    """What the model thought.

    Fields:
        logp: nats, at most 0, summed over the tokens.
        greedy: whether each token was the likeliest in its place.
        dropped: tokens of the context that were cut off on the left, as the model's own context is shorter.
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
    """Scores endings behind their contexts, and reads what contexts share once.

        logp = Σ_i log p(ending_i | context, ending_<i)

    Args:
        model: gives `decode` and `cache`, or, without sharing, `hidden` and `logits`.
        params: the model's.
        requests: in any order.
        max_length: tokens that the model may see at once; None takes max_position_embeddings. A longer
            request loses tokens on its left.
        tokens: to read at a time, about.
        share: False reads each request whole, for models without a cache of keys and values.

    Returns:
        One Likelihood a request, in their order. They differ from those read whole in rounding only.

    Steps:
        1. Cut to what the model can see.
        2. Without sharing, read each whole.
        3. Group the distinct contexts by what they share, read that once, then the contexts of a batch behind
           it, which gives the first token of each ending, then the endings of several tokens.

    Raises:
        ValueError: if a request has an empty part, or an ending is longer than max_length.
    """
    most = model.config.max_position_embeddings if max_length is None else max_length
    # 1. Cut.
    fitted = [fit(request, most, number) for number, request in enumerate(requests)]
    dropped = [len(old.context) - len(new.context) for old, new in zip(requests, fitted, strict=True)]
    # 2. Whole.
    if not share:
        whole = [Window(request.context + request.ending, len(request.ending)) for request in fitted]
        found = log_probabilities_of(model, params, whole, tokens=tokens)
    # 3. Shared.
    else:
        scores: dict[Request, Likelihood] = {}
        with torch.no_grad():
            for group in groups([request.context for request in fitted]):
                scores |= _read_group(model, params, group, fitted, most, tokens)
        found = [scores[request] for request in fitted]
    return [score._replace(dropped=n) for score, n in zip(_finite(found), dropped, strict=True)]


def log_probabilities_of(
    model: Model, params: Tree, windows: Sequence[Window], *, tokens: int = TOKENS
) -> list[Likelihood]:
    """Scores windows, each read whole; short ones side by side.

    Args:
        model: gives `hidden` and `logits`.
        params: the model's.
        windows: in any order.
        tokens: to read at a time, about.

    Returns:
        One Likelihood a window, in their order.

    Raises:
        ValueError: if a window has nothing to score, or nothing before it.
    """
    for number, window in enumerate(windows):
        if not 1 <= window.scored < len(window.tokens):
            raise ValueError(
                f"log_probabilities_of: window {number} scores {window.scored} of {len(window.tokens)} tokens; "
                "expected at least one, and one more before it"
            )
    order = sorted(range(len(windows)), key=lambda i: -len(windows[i].tokens))
    found: dict[int, Likelihood] = {}
    with torch.no_grad():
        while order:
            count = max(1, tokens // len(windows[order[0]].tokens))
            chosen, order = order[:count], order[count:]
            scores = _read_windows(model, params, [windows[i] for i in chosen])
            found |= dict(zip(chosen, scores, strict=True))
    return _finite([found[i] for i in range(len(windows))])


def _finite(found: list[Likelihood]) -> list[Likelihood]:
    """Refuses NaN, which would be taken for an answer."""
    for number, likelihood in enumerate(found):
        if math.isnan(likelihood.logp):
            raise FloatingPointError(
                f"the log-likelihood of request {number} is NaN: the params hold numbers that are not finite, or "
                "overflow in this dtype; try float32, or an older checkpoint"
            )
    return found


def _read_windows(model: Model, params: Tree, windows: list[Window]) -> list[Likelihood]:
    """One batch of windows: hidden states of all places, logits of those that count."""
    device = tree.leaves(params)[0].device
    rows = _padded([window.tokens[:-1] for window in windows], device)
    hidden = model.hidden(params, rows)
    at = [(row, len(w.tokens) - 1 - w.scored + i) for row, w in enumerate(windows) for i in range(w.scored)]
    words = [word for w in windows for word in w.tokens[-w.scored :]]
    places = torch.tensor(at, device=device)
    states = hidden[places[:, 0], places[:, 1]]
    parts = [
        _judge(model.logits(params, x), y)
        for x, y in zip(states.split(PLACES), torch.tensor(words, device=device).split(PLACES), strict=True)
    ]
    logps, best = (torch.cat(part) for part in zip(*parts, strict=True))
    return _added(logps, best, [w.scored for w in windows])


def _read_group(
    model: Model, params: Tree, group: Group, requests: Sequence[Request], most: int, tokens: int
) -> dict[Request, Likelihood]:
    """The requests whose contexts are in the group: what they share is read into a cache of one row, from
    which each batch starts."""
    wanted: dict[tuple[int, ...], list[tuple[int, ...]]] = {context: [] for context in group.contexts}
    for request in dict.fromkeys(requests):
        if request.context in wanted:
            wanted[request.context].append(request.ending)
    device = tree.leaves(params)[0].device
    dtype = next(x.dtype for x in tree.leaves(params) if x.is_floating_point())
    start = model.cache(1, group.shared, dtype, device)
    if group.shared:
        _, start = model.decode(
            params, torch.tensor([group.contexts[0][: group.shared]], device=device), start, last=True
        )
    found: dict[Request, Likelihood] = {}
    for batch in batches(group, wanted, most, tokens):
        found |= _read_batch(model, params, batch, start, dtype)
    return found


def _read_batch(
    model: Model, params: Tree, batch: Batch, start: Tree, dtype: torch.dtype
) -> dict[Request, Likelihood]:
    """Contexts of one group, Q tokens each behind the P shared ones, and then their endings.

    Rows are padded on the right: what was read of the padding lies behind each row's true length, to which
    the cache is then set, and is overwritten before it is seen.
    """
    device = start.length.device
    rows = _padded([context[batch.shared :] for context in batch.contexts], device)
    sizes = torch.tensor([len(context) - batch.shared for context in batch.contexts], device=device)
    room = model.cache(len(rows), batch.places, dtype, "meta")
    cache = tree.map(_widened, start, room)
    states, cache = model.decode(params, rows, cache, last=sizes - 1)
    cache = cache._replace(length=sizes + batch.shared)
    first = states[:, 0].float().log_softmax(-1)
    best = first.argmax(-1).tolist()
    logps = first[batch.row_of, [ending[0] for ending in batch.endings]].tolist()
    found = {}
    for row, ending, logp in zip(batch.row_of, batch.endings, logps, strict=True):
        found[Request(batch.contexts[row], ending)] = Likelihood(logp, ending[0] == best[row])
    longer = [
        (row, ending) for row, ending in zip(batch.row_of, batch.endings, strict=True) if len(ending) > 1
    ]
    for part in _pieces(longer):
        chosen = torch.tensor([row for row, _ in part], device=device)
        tails = _padded([ending[:-1] for _, ending in part], device)
        logits, _ = model.decode(params, tails, tree.map(lambda x, at=chosen: x[at], cache))
        rest = [
            _judge(logits[i, : len(e) - 1], torch.tensor(e[1:], device=device))
            for i, (_, e) in enumerate(part)
        ]
        for (row, ending), (more, right) in zip(part, rest, strict=True):
            key = Request(batch.contexts[row], ending)
            found[key] = Likelihood(
                found[key].logp + float(more.double().sum()), found[key].greedy and bool(right.all())
            )
    return found


def _pieces(longer: list[tuple[int, tuple[int, ...]]]) -> list[list[tuple[int, tuple[int, ...]]]]:
    """Endings of like length together, so many that their logits can be held."""
    order, pieces = sorted(longer, key=lambda pair: -len(pair[1])), []
    while order:
        count = max(1, PLACES // len(order[0][1]))
        pieces.append(order[:count])
        order = order[count:]
    return pieces


def _widened(part: Tensor, room: Tensor) -> Tensor:
    """A leaf of a cache of one row, for as many rows and places as `room` has."""
    missing = [
        0 if axis == 0 else wanted - has
        for axis, (wanted, has) in enumerate(zip(room.shape, part.shape, strict=True))
    ]
    rows = part.expand(room.shape[0], *part.shape[1:])
    return F.pad(rows, [n for side in reversed(missing) for n in (0, side)]) if any(missing) else rows.clone()


def _judge(logits: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [n, V] and words [n] -> (log-probabilities [n] float32, whether each was the likeliest [n])."""
    wide = logits.float()
    logps = wide.gather(1, words[:, None])[:, 0] - wide.logsumexp(-1)
    return logps, wide.argmax(-1) == words


def _added(logps: Tensor, best: Tensor, sizes: list[int]) -> list[Likelihood]:
    """Sums over consecutive runs of places, in float64."""
    parts = zip(logps.double().cpu().split(sizes), best.cpu().split(sizes), strict=True)
    return [Likelihood(float(part.sum()), bool(right.all())) for part, right in parts]


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Rows of any length, with 0 behind their ends: [B, longest] int64."""
    filled = [torch.tensor(row, dtype=torch.int64) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(filled, batch_first=True).to(device)
