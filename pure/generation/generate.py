"""Generation: prefill the cache with the prompts, then decode one token after the other.

One step on the device is in `pure/generation/stepper.py`; this is the host's loop around it, which pads,
stops and compacts.

Reproducibility: row b samples its i-th new token with the number uniform(fold_in(fold_in(key, b), i)), so
other rows influence it by rounding only: matrix products of equal shape round alike, those of other shapes
may differ in the last bits. The shape changes with the number of rows and tokens (padded to a few sizes, or
to `shape`), and with compaction, which continues with half the rows once half are finished. So with one
`shape` and `compact=False` a row's tokens are the same bit for bit in every batch; otherwise they are the
same within rounding, which changes a token only where the uniform falls between two tokens within the last
bits.

Shape letters: B rows, R padded rows, P prompt tokens, M new tokens at most, S positions of the cache, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure import tree
from pure.generation.controls import Controls, make_controls, pad_rows
from pure.generation.inputs import check_inputs, pad_prompts
from pure.generation.sampling import Sampling
from pure.generation.slots import lengthen_cache
from pure.generation.stepper import Generated, Progress, Stepper, stepper
from pure.types import Model, Tree

ROWS, TOKENS = 4, 16
"""Rows and tokens are padded to multiples of these, so that few shapes are ever compiled."""

CHECK_EVERY = 8
"""Steps between two checks for finished rows; each check waits for the device."""


def generate(
    model: Model,
    params: Tree,
    prompts: Sequence[Sequence[int]] | Tensor,
    sampling: Sampling,
    *,
    key: Tensor,
    stop: Callable[[Tensor, Tensor], Tensor] | None = None,
    pad: int | None = None,
    lengths: Tensor | None = None,
    shape: tuple[int, int] | None = None,
    compact: bool = True,
    compile: bool | Stepper = False,
) -> Generated:
    """Continue every prompt.

    All prompts but their last tokens are prefilled at once; then each step reads one token a row and samples
    the next from the model's distribution. Rows may have different lengths.

    Args:
        model: gives `decode`, `cache` and `config`.
        params: the model's; the cache has the dtype of the first floating-point one.
        prompts: lists of ids, or [B, P] integers padded on the right, with `lengths`. No prompt may be empty.
        sampling: length, temperature, truncation and stop tokens; some fields may be tensors [B].
        key: [2] or [B, 2] uint32, for the whole batch or one per row; each row and step has its own random
            number.
        stop: (tokens [B, M], lengths [B]) -> [B] bool, called after every step with all rows in the order of
            the prompts; True ends a row with the token just sampled. (`data_pipes.chat.stop` makes one from
            strings.)
        pad: id after a row's end; None: `pad_token_id` of the configuration, or 0.
        lengths: [B] integers, the prompts' true lengths; None if all are P long.
        shape: (rows, prompt tokens) to pad the prompts to, both at least as large as they are; None rounds up
            to multiples of 4 and 16, one row to one. Tokens are the same bit for bit only at the same shape.
        compact: continue with fewer rows once half are finished. False keeps the shape.
        compile: True compiles the step for this call; a `pure.generation.stepper.stepper` keeps its compiled
            code for the next call.

    Returns:
        Generated(tokens [B, M] int64, logprobs [B, M] float32 in nats, lengths [B] int64).

    Steps:
        1. Check, and pad the prompts.
        2. Draw the randomness of all rows and steps.
        3. Prefill the cache with the prompts, all but their last tokens.
        4. Decode, until every row is finished or M tokens long.
        5. Drop the padding, and check for NaN once.

    Edge cases: without prompts the result has no rows.

    Raises:
        ValueError: if a prompt is empty, has unknown ids, or is too long for max_position_embeddings with M
            more; or a number or an id is out of range.
        TypeError: if prompts, key or max_new_tokens are of another type.
        FloatingPointError: if logits were NaN; it names the first row and token.

    Example:
        >>> from pure import random
        >>> from pure.config import ModelConfig
        >>> from pure.nn.transformer import transformer
        >>> config = ModelConfig(vocab_size=8, hidden_size=8, num_attention_heads=2, num_key_value_heads=1)
        >>> model = transformer(config)
        >>> params = model.init(random.key(0))
        >>> generate(model, params, [[1], [2, 3]], Sampling(max_new_tokens=4), key=random.key(1)).lengths
        tensor([4, 4])
    """
    # 1. Prompts.
    device = tree.leaves(params)[0].device
    tokens, lengths = pad_prompts(prompts, lengths, device)
    new, config = sampling.max_new_tokens, model.config
    check_inputs(tokens, lengths, key, new, (*sampling.stop_tokens, *([] if pad is None else [pad])), config)
    if not len(tokens):
        return _empty(0, new, 0, device)
    rows, prefill_length, cache_length = _padded_shape(tokens, lengths, new, shape, config)
    # 2. Randomness and controls.
    if sampling.vocabulary is not None and sampling.vocabulary >= config.vocab_size:
        sampling = sampling._replace(vocabulary=None)
    controls = make_controls(key.to(device), len(tokens), sampling, rows=rows)
    with torch.no_grad():
        steps = compile if isinstance(compile, Stepper) else stepper(model, compile=compile)
        params = steps.prepare(params, rows=rows)
        # 3. Prefill.
        written = _empty(rows, new, (config.pad_token_id or 0) if pad is None else pad, device)
        progress = _prefill(steps, model, params, tokens, lengths, written, prefill_length, cache_length)
        if sampling.repetition_penalty is not None:
            progress = progress._replace(seen=pad_rows(_mark_seen(tokens, lengths, config.vocab_size), rows))
        # 4. Decode.
        ends = torch.tensor(list(sampling.stop_tokens), dtype=torch.int64, device=device)
        written = _decode(steps, progress, params, controls, ends, stop, len(tokens), compact)
    # 5. Finish.
    return _refuse_nan(tree.map(lambda x: x[: len(tokens)], written))


def _padded_shape(tokens: Tensor, lengths: Tensor, new: int, shape: Any, config: Any) -> tuple[int, int, int]:
    """Returns (rows R, tokens to prefill, positions of the cache S): rounded up, or from `shape`."""
    count, longest = len(tokens), int(lengths.max())
    least = count, longest
    rows = 1 if count == 1 else _round_up(count, ROWS)
    if shape is not None:
        rows, longest = shape
    if rows < least[0] or longest < least[1]:
        raise ValueError(
            f"generate: shape must be at least (rows, prompt tokens) = {least}, got {shape}; cut the prompts "
            "into batches, or give a larger shape"
        )
    most = config.max_position_embeddings
    return rows, min(_round_up(longest - 1, TOKENS), most), min(_round_up(longest - 1 + new, TOKENS), most)


def _round_up(x: int, multiple: int) -> int:
    """Round up to a multiple."""
    return -(-x // multiple) * multiple


def _empty(rows: int, new: int, pad: int, device: Any) -> Generated:
    """Return the result before the first step."""
    tokens = torch.full((rows, new), pad, dtype=torch.int64, device=device)
    return Generated(
        tokens, torch.zeros(rows, new, device=device), torch.zeros(rows, dtype=torch.int64, device=device)
    )


def _prefill(
    steps: Stepper,
    model: Model,
    params: Tree,
    tokens: Tensor,
    lengths: Tensor,
    written: Generated,
    prefill_length: int,
    cache_length: int,
) -> Progress:
    """Fill the cache with all prompt tokens but the last; padding is cached too, and overwritten before use.

    The cache has room for the prompts only, and is lengthened after the prefill.
    """
    rows, device = len(written.tokens), tokens.device
    last = tokens.gather(1, lengths[:, None] - 1)[:, 0]
    dtype = next(x.dtype for x in tree.leaves(params) if x.is_floating_point())
    cache = model.cache(rows, prefill_length, dtype, device)
    if prefill_length:
        padded = F.pad(tokens[:, :prefill_length], (0, max(0, prefill_length - tokens.shape[1])))
        cache = steps.prefill(cache, params, pad_rows(padded, rows))
    room = model.cache(rows, cache_length, dtype, "meta")
    cache = lengthen_cache(cache, room)._replace(length=pad_rows(lengths - 1, rows))
    done = torch.arange(rows, device=device) >= len(tokens)
    return Progress(
        cache, pad_rows(last, rows), written, done, torch.zeros((), dtype=torch.int64, device=device), None
    )


def _mark_seen(tokens: Tensor, lengths: Tensor, size: int) -> Tensor:
    """Mark the tokens of each prompt, [B, V] bool; padding counts as the first token."""
    inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    empty = torch.zeros(len(tokens), size, dtype=torch.bool, device=tokens.device)
    return empty.scatter(1, torch.where(inside, tokens, tokens[:, :1]), True)


def _decode(
    steps: Stepper,
    progress: Progress,
    params: Tree,
    controls: Controls,
    ends: Tensor,
    stop: Callable | None,
    count: int,
    compact: bool,
) -> Generated:
    """Step until all rows are done; `rows` maps the rows of `progress` to those of the prompts."""
    result, new = progress.written, progress.written.tokens.shape[1]
    rows = torch.arange(len(progress.done), device=ends.device)
    step = steps.bind(progress, params, controls, ends)
    for i in range(1, new + 1):
        progress = step(progress, params, controls, ends)
        if stop is not None:
            result = _collect(result, progress, rows)
            flags = stop(result.tokens[:count], result.lengths[:count])
            progress = progress._replace(
                done=progress.done | F.pad(flags, (0, len(result.tokens) - count))[rows]
            )
        if (stop is not None or len(ends)) and i % CHECK_EVERY == 0 and i < new:
            active = int((~progress.done).sum())
            if active == 0:
                break
            if compact and (size := _compact_size(len(rows), active)) < len(rows):
                result = _collect(result, progress, rows)
                chosen = progress.done.int().argsort(stable=True)[:size]
                progress, controls = _select_rows(progress, chosen), _select_rows(controls, chosen)
                rows = rows[chosen]
                step = steps.bind(progress, params, controls, ends)
    return _collect(result, progress, rows)


def _compact_size(rows: int, active: int) -> int:
    """Halve the number of rows as long as the unfinished ones fit."""
    half = _round_up(rows, 2 * ROWS) // 2
    return _compact_size(half, active) if active <= half < rows else rows


def _select_rows(rows: Tree, chosen: Tensor) -> Tree:
    """Copy some rows of every tensor that has rows."""
    return tree.map(lambda x: x[chosen] if isinstance(x, Tensor) and x.ndim else x, rows)


def _collect(result: Generated, progress: Progress, rows: Tensor) -> Generated:
    """Return the result with the tokens written so far in their rows; the arguments are unchanged."""
    return tree.map(lambda old, x: old.index_copy(0, rows, x), result, progress.written)


def _refuse_nan(written: Generated) -> Generated:
    """Refuse NaN, once at the end: a check in every step would wait for the device."""
    bad = written.logprobs.isnan()
    if bool(bad.any()):
        row = int(bad.any(1).int().argmax())
        first = int(bad[row].int().argmax())
        raise FloatingPointError(
            f"generate: the logits of prompt {row} were NaN from its new token {first} on: the "
            "params hold numbers that are not finite, or overflow in this dtype: try float32, or an older "
            "checkpoint"
        )
    return written
