"""A tile: rows of different requests that take each step together, at a fixed shape.

Matrix products of equal shape round alike, those of other shapes may not. So S depends on a row's own length
only, and a row that outgrows its tile moves to that of the next length. R is one of a few numbers whose
results were found to be equal bit for bit on this machine (`stages.serve.shapes`).
Then nothing of what a row computes depends on the other rows.

Shape letters: R slots, S positions of the cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.generation import sample
from pure.generation.controls import Controls, sample_tokens
from pure.generation.slots import Slots
from pure.types import Tree
from stages.serve.row import Job, Token
from stages.serve.text import TextState

MOST_ALTERNATIVES = 20
"""Largest number of likeliest tokens that are reported."""


class Active(NamedTuple):
    """A row that is being sampled.

    Fields:
        job: the row and its request.
        uniforms: a number in [0, 1) for each token.
        cached: positions of the cache that are filled: all tokens but the last.
        last: the last token, the input of the next step.
        sampled: number of tokens sampled so far.
        text: state of the completion's text.
    """

    job: Job
    uniforms: tuple[float, ...]
    cached: int
    last: int
    sampled: int
    text: TextState


class Tile(NamedTuple):
    """Slots with their rows. The engine owns the storage of `slots`, which a step overwrites.

    Fields:
        length: S.
        slots: the state on the device.
        rows: R rows, None for a free slot.
        controls: sampling settings of the rows, from `make_row_controls`.
    """

    length: int
    slots: Slots
    rows: tuple[Active | None, ...]
    controls: Controls


class Sampled(NamedTuple):
    """The next token of a row.

    Fields:
        token: id and log-probabilities.
        valid: False if the logits were NaN; the token then means nothing.
    """

    token: Token
    valid: bool


def make_row_controls(
    rows: Sequence[Active | None], vocabulary: int | None, device: torch.device | str
) -> Controls:
    """Collect the sampling settings of all slots.

    A setting that no row uses is None and is skipped, which saves sorting the vocabulary. A row that does not
    use a setting of another row has the value that leaves its logits unchanged bit for bit.

    Args:
        rows: R rows, None for a free slot.
        vocabulary: ids at or above it are never sampled; None allows all.
        device: of the tensors.

    Returns:
        Controls; `uniforms` is empty, as each step has its own.
    """
    settings = [None if active is None else active.job.row for active in rows]

    def column(name: str, neutral: float, dtype: torch.dtype = torch.float32) -> Tensor | None:
        values = [neutral if row is None else getattr(row, name) for row in settings]
        if all(value == neutral for value in values):
            return None
        return torch.tensor(values, dtype=dtype, device=device)

    temperature = [1.0 if row is None else row.temperature for row in settings]
    temperature = [x if x >= sample.MIN_TEMPERATURE else 0.0 for x in temperature]
    top_k = column("top_k", 0, torch.int64)
    if top_k is not None:
        top_k = torch.where(top_k == 0, torch.iinfo(torch.int64).max, top_k)
    return Controls(
        torch.zeros(len(rows), 0, device=device),
        torch.tensor(temperature, device=device),
        top_k=top_k,
        top_p=column("top_p", 1.0),
        min_p=column("min_p", 0.0),
        vocabulary=vocabulary,
    )


def step_tile(
    tile: Tile, params: Tree, decode: Callable[[Slots, Tree], Slots]
) -> tuple[Tile, list[Sampled | None]]:
    """Sample the next token of every row.

    Args:
        tile: its rows have room for one more position.
        params: the model's.
        decode: `pure.generation.slots.decode_slots`, eager or compiled.

    Returns:
        (tile, a Sampled for each row, None for a free slot). The rows of the tile are unchanged: the caller
        adds the tokens to them.
    """
    device = tile.slots.last.device
    last = [0 if active is None else active.last for active in tile.rows]
    cached = [0 if active is None else active.cached for active in tile.rows]
    uniform = [0.0 if active is None else active.uniforms[active.sampled] for active in tile.rows]
    cache = tile.slots.cache._replace(length=torch.tensor(cached, device=device))
    slots = decode(Slots(cache, torch.tensor(last, device=device), tile.slots.logits), params)
    logits = slots.logits
    ids, logprob = sample_tokens(logits, torch.tensor(uniform, device=device), tile.controls, None)
    tokens = _describe_tokens(logits, ids, tile)
    valid = (~logprob.isnan()).tolist()
    sampled = [
        None if active is None else Sampled(token, ok)
        for active, token, ok in zip(tile.rows, tokens, valid, strict=True)
    ]
    return tile._replace(slots=slots), sampled


def place_row(tile: Tile, cache: Tree, active: Active, vocabulary: int | None) -> Tile:
    """Put a row into a free slot.

    Args:
        tile: has a free slot, whose storage is overwritten.
        cache: the row's, with the tile's number of positions.
        active: the row.
        vocabulary: as in `make_row_controls`.

    Returns:
        The tile with the row.
    """
    slot = tile.rows.index(None)
    tree.map(lambda x, row: x[slot].copy_(row[0]), tile.slots.cache, cache)
    return with_rows(tile, (*tile.rows[:slot], active, *tile.rows[slot + 1 :]), vocabulary)


def move_rows(old: Tile, new: Tile, vocabulary: int | None) -> Tile:
    """Move all rows to a tile of the same length with another number of slots.

    Args:
        old: the tile.
        new: a tile without rows, with at least as many slots as `old` has rows; its storage is overwritten.
        vocabulary: as in `make_row_controls`.

    Returns:
        The new tile with the rows.
    """
    taken = [slot for slot, active in enumerate(old.rows) if active is not None]
    index = torch.tensor(taken, dtype=torch.int64, device=old.slots.last.device)
    tree.map(lambda x, y: y[: len(taken)].copy_(x[index]), old.slots.cache, new.slots.cache)
    rows = [old.rows[slot] for slot in taken]
    return with_rows(new, [*rows, *[None] * (len(new.rows) - len(rows))], vocabulary)


def take_cache(tile: Tile, slot: int) -> Tree:
    """Copy the cache of one slot, as a cache of one row."""
    return tree.map(lambda x: x[slot : slot + 1].clone(), tile.slots.cache)


def with_rows(tile: Tile, rows: Sequence[Active | None], vocabulary: int | None) -> Tile:
    """Return the tile with other rows in its slots, and their sampling settings."""
    controls = make_row_controls(rows, vocabulary, tile.slots.last.device)
    return tile._replace(rows=tuple(rows), controls=controls)


def _describe_tokens(logits: Tensor, ids: Tensor, tile: Tile) -> list[Token]:
    """Return the sampled tokens, with log-probabilities if a row of the tile asks for them."""
    chosen = ids.tolist()
    wanted = [None if active is None else active.job.row.alternatives for active in tile.rows]
    if all(number is None for number in wanted):
        return [Token(id) for id in chosen]
    everything = logits.float().log_softmax(-1)
    logprobs = everything.gather(1, ids[:, None])[:, 0].tolist()
    inside = everything[:, : tile.controls.vocabulary]
    top = inside.topk(min(MOST_ALTERNATIVES, inside.shape[1]), -1)
    pairs = zip(chosen, logprobs, top.indices.tolist(), top.values.tolist(), strict=True)
    tokens = []
    for number, (id, logprob, top_ids, top_logprobs) in zip(wanted, pairs, strict=True):
        likeliest = tuple(zip(top_ids, top_logprobs, strict=True))[: number or 0]
        tokens.append(Token(id, logprob, likeliest))
    return tokens
