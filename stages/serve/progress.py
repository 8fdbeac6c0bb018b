"""Progress of one row: from its prompt to its next token, and to the end of its completion."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pure.generation import sample
from pure.generation.controls import draw_uniforms
from stages.serve.machine import Machine
from stages.serve.row import Job, Piece, Row
from stages.serve.text import TextState, add_token, end_text
from stages.serve.tile import Active, Sampled

NOT_A_NUMBER = (
    "the logits are NaN: the params hold numbers that are not finite, or overflow in this dtype; try --dtype "
    "float32"
)


def draw_row_uniforms(rows: Sequence[Row]) -> list[tuple[float, ...]]:
    """Draw the numbers of rows: uniform(fold_in(key, i)) for a row's i-th token, 0 in greedy decoding."""
    keys = torch.stack([row.key for row in rows])
    numbers = draw_uniforms(keys, len(rows), max(row.max_new_tokens for row in rows)).tolist()
    drawn = []
    for row, uniforms in zip(rows, numbers, strict=True):
        greedy = row.temperature < sample.MIN_TEMPERATURE
        drawn.append((0.0,) * row.max_new_tokens if greedy else tuple(uniforms[: row.max_new_tokens]))
    return drawn


def start_rows(jobs: Sequence[Job], machine: Machine) -> list[Active]:
    """Return rows after their prefill, before their first step."""
    started = []
    for job, uniforms in zip(jobs, draw_row_uniforms([job.row for job in jobs]), strict=True):
        prompt, text = job.row.prompt, TextState(machine.stream.init)
        started.append(Active(job, uniforms, cached=len(prompt) - 1, last=prompt[-1], sampled=0, text=text))
    return started


def advance_row(active: Active, sampled: Sampled, machine: Machine) -> tuple[Active, Piece]:
    """Add a sampled token to a row.

    Args:
        active: the row.
        sampled: its next token.
        machine: gives the streaming decoder.

    Returns:
        (the row, what is sent to its request). The piece has `finish` or `error` if the row is done: at a
        stop token, a stop text, its last token, or NaN.
    """
    row, stream, token = active.job.row, machine.stream, sampled.token
    count = active.sampled + 1
    keep = row.alternatives is not None
    text = active.text
    if not sampled.valid:
        piece = Piece(error=NOT_A_NUMBER)
    elif token.id in row.stop_ids:
        text, piece = end_text(text, stream=stream, stop=row.stop)
        piece = piece._replace(finish="stop")
    else:
        text, piece = add_token(text, token, stream=stream, stop=row.stop, keep=keep)
        if piece.finish is None and count == row.max_new_tokens:
            text, rest = end_text(text, stream=stream, stop=row.stop)
            piece = join_pieces(piece, rest._replace(finish=rest.finish or "length"))
    active = Active(active.job, active.uniforms, active.cached + 1, token.id, count, text)
    return active, Piece(piece.text, piece.tokens, count, piece.finish, piece.error)


def join_pieces(first: Piece, second: Piece) -> Piece:
    """Join two consecutive pieces of a row.

    Example:
        >>> join_pieces(Piece("a", sampled=1), Piece("b", sampled=2, finish="stop"))
        Piece(text='ab', tokens=(), sampled=2, finish='stop', error=None)
    """
    return second._replace(text=first.text + second.text, tokens=first.tokens + second.tokens)
