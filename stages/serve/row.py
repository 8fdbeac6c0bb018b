"""Rows: what is asked of the engine, and what it answers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Row(NamedTuple):
    """One completion to sample. A request has several with n > 1 or several prompts.

    Token i is sampled with the number uniform(fold_in(key, i)), as in `pure.generation.generate`.

    Fields:
        prompt: ids, at least one.
        key: [2] uint32, the row's own.
        max_new_tokens: >= 1; prompt and completion fit into the context.
        temperature: >= 0; 0 is greedy.
        top_p: in [0, 1]; 1 keeps all tokens.
        top_k: >= 1 likeliest tokens to sample from; 0 keeps all.
        min_p: in [0, 1]; 0 keeps all.
        stop: texts that end the completion and are no part of it.
        stop_ids: ids that end the completion and are no part of its text.
        alternatives: number of likeliest tokens to report with each token's log-probability, >= 0; None
            reports no log-probabilities.
    """

    prompt: tuple[int, ...]
    key: Tensor
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()
    alternatives: int | None = None


class Job(NamedTuple):
    """A row and the request that it belongs to.

    Fields:
        ticket: number of the request.
        position: index of the row in the request.
        row: what is asked.
    """

    ticket: int
    position: int
    row: Row


class Token(NamedTuple):
    """A sampled token.

    Fields:
        id: its id.
        logprob: nats, of the model's own distribution: at temperature 1, before truncation; 0 unless the row
            asks for log-probabilities.
        top: (id, logprob) of the likeliest tokens, the likeliest first.
        start: number of characters of the completion before it.
    """

    id: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    start: int = 0


class Piece(NamedTuple):
    """The next part of a completion.

    Fields:
        text: characters that no later token changes, often "".
        tokens: tokens whose characters are in `text` or in earlier pieces; () without log-probabilities.
        sampled: tokens sampled so far, stop token included.
        finish: "stop" or "length" in the last piece, None before.
        error: one line if the row failed; then it is the last piece.
    """

    text: str = ""
    tokens: tuple[Token, ...] = ()
    sampled: int = 0
    finish: str | None = None
    error: str | None = None
