"""What steers the drawing of tokens: randomness, temperature and truncation, each with one value per row.

Shape letters: B rows, R padded rows, M new tokens at most, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import random
from pure.generation import sample
from pure.generation.sampling import Sampling


class Controls(NamedTuple):
    """What steers each row.

    Fields:
        uniforms: [R, M] float32 in [0, 1), the randomness of each new token; 0 in greedy rows.
        temperature: [R] float32; what was given below 1e-6 is 0.
        top_k: an int, [R] int64 or None.
        top_p, min_p, repetition_penalty: [R] float32 or None.
        vocabulary: an int: ids from it on are never drawn; None leaves all.
    """

    uniforms: Tensor
    temperature: Tensor
    top_k: int | Tensor | None = None
    top_p: Tensor | None = None
    min_p: Tensor | None = None
    repetition_penalty: Tensor | None = None
    vocabulary: int | None = None


LIMITS: Mapping[str, tuple[Callable[[Tensor], Tensor], str]] = MappingProxyType(
    {
        "temperature": (lambda x: (x >= 0) & (x < torch.inf), "at least 0; 0 takes the likeliest token"),
        "top_k": (lambda x: x >= 1, "at least 1; None keeps all words"),
        "top_p": (lambda x: (x > 0) & (x <= 1), "in (0, 1]; None keeps all words"),
        "min_p": (lambda x: (x >= 0) & (x <= 1), "in [0, 1]; None keeps all words"),
        "repetition_penalty": (lambda x: (x > 0) & (x < torch.inf), "above 0; None or 1 changes nothing"),
    }
)
"""What each number must fulfil, and how that is said."""


def controls(key: Tensor, count: int, sampling: Sampling, *, rows: int) -> Controls:
    """Checks the sampling parameters, draws the randomness of all rows and steps, and pads both to R rows.

    Args:
        key: [2] or [B, 2] uint32, for the whole batch or one per row.
        count: B, rows.
        sampling: its numbers are one number, [B] or None; stop_tokens are not read here.
        rows: R >= B; the rows after B are copies of the first, and nobody reads them.

    Returns:
        Controls. A top_k given as int stays one, for which a partial sort is enough.

    Raises:
        ValueError: if a number is out of range, or neither a number nor [B]; or top_k or vocabulary is no
            integer.

    Example:
        >>> controls(random.key(0), 2, Sampling(max_new_tokens=3, temperature=0.5, top_k=2), rows=4).temperature
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    vocabulary = sampling.vocabulary
    if vocabulary is not None and (type(vocabulary) is not int or vocabulary < 1):
        raise ValueError(
            f"generate: vocabulary must be a number of ids, at least 1, or None; got {vocabulary!r}"
        )
    numbers = {name: x for name in LIMITS if (x := getattr(sampling, name)) is not None}
    given = {name: torch.as_tensor(x, device=key.device) for name, x in numbers.items()}
    for name, x in given.items():
        holds, text = LIMITS[name]
        if x.shape not in ((), (count,)):
            raise ValueError(
                f"generate: {name} must be one number or [B] = [{count}], got shape {list(x.shape)}"
            )
        if name == "top_k" and x.is_floating_point():
            raise ValueError(f"generate: top_k counts words and must be an integer, got {numbers[name]}")
        if not bool(holds(x).all()):
            raise ValueError(f"generate: {name} must be {text}; got {x[~holds(x)].flatten()[0]}")
    per_row: dict[str, Any] = {
        name: extend(x.expand(count), rows).to(torch.int64 if name == "top_k" else torch.float32)
        for name, x in given.items()
    }
    if isinstance(numbers.get("top_k"), int):
        per_row["top_k"] = numbers["top_k"]
    drawn = extend(uniforms(key, count, sampling.max_new_tokens), rows)
    heat = per_row["temperature"]
    per_row["temperature"] = torch.where(heat < sample.COLDEST, 0.0, heat)
    return Controls(
        torch.where(per_row["temperature"][:, None] == 0, 0.0, drawn), **per_row, vocabulary=vocabulary
    )


def uniforms(key: Tensor, count: int, new: int) -> Tensor:
    """Draws one number for each row and place, all at once: uniform(fold_in(fold_in(key, row), place)).

    A number of its own for each token, whatever was drawn elsewhere, is what makes a row independent of its
    neighbours and of when they end.

    Args:
        key: [2] or [B, 2] uint32, for the whole batch, or each in the place of fold_in(key, row).
        count: B, rows.
        new: M, places.

    Returns:
        [B, M] float32 in [0, 1).

    Raises:
        ValueError: if there are neither one key nor B.
    """
    if key.shape not in ((2,), (count, 2)):
        raise ValueError(
            f"generate: key must be [2], or [B, 2] = [{count}, 2] for one per row, got {list(key.shape)}"
        )
    vmap, device = torch.func.vmap, key.device

    def draw(row_key: Tensor, place: Tensor) -> Tensor:
        return random.uniform(random.fold_in(row_key, place))

    keys = vmap(random.fold_in, (None, 0))(key, torch.arange(count, device=device)) if key.ndim == 1 else key
    return vmap(vmap(draw, (None, 0)), (0, None))(keys, torch.arange(new, device=device))


def extend(x: Tensor, rows: int) -> Tensor:
    """Lengthens x [B, ...] to [R, ...] with copies of its first row."""
    return torch.cat([x, x[:1].expand(rows - len(x), *x.shape[1:])])


def choose(logits: Tensor, uniform: Tensor, controls: Controls, seen: Tensor | None) -> tuple[Tensor, Tensor]:
    """Draws a token from each row of logits, and says how likely the model itself found it.

    A truncation changes what is drawn, not what is learned from it: losses compare the model with itself, so
    the log-probability is the model's own, at the temperature.

    Args:
        logits: [B, V] float.
        uniform: [B] float32 in [0, 1).
        controls: temperature, top_k, top_p, min_p, repetition_penalty, vocabulary; None leaves a step out.
        seen: [B, V] bool, or None without a penalty.

    Returns:
        (ids [B] int64, log-probabilities [B] float32, nats).

    Steps:
        1. The log-probability's logits: divided by the temperature, where it is not 0.
        2. The draw's: vocabulary, penalty, temperature, top-k, top-p, min-p, in this order.
        3. Draw, and look up.
    """
    # 1. The model's own.
    heat = controls.temperature
    own = logits.float() / torch.where(heat == 0, 1.0, heat)[:, None]
    # 2. What may be drawn.
    free = logits.float()
    if controls.vocabulary is not None:
        known = torch.arange(free.shape[-1], device=free.device) < controls.vocabulary
        free = torch.where(known, free, -torch.inf)
    if controls.repetition_penalty is not None and seen is not None:
        free = sample.repetition_penalty(free, seen, controls.repetition_penalty)
    free = sample.temperature(free, heat)
    for function, value in (
        (sample.top_k, controls.top_k),
        (sample.top_p, controls.top_p),
        (sample.min_p, controls.min_p),
    ):
        free = free if value is None else function(free, value)
    # 3. Draw.
    ids = sample.sample(free, uniform)
    return ids, sample.log_probability(own, ids)
