"""Gumbel noise, and categorical sampling with it (the Gumbel-max trick), as in jax.random.

Gumbel, "Statistical Theory of Extreme Values and Some Practical Applications", 1954; without replacement:
Kool, van Hoof, Welling, "Stochastic Beams and Where to Find Them", 2019.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pure.plural import count_noun
from pure.random.threefry import draw_elementwise
from pure.random.uniform import MANTISSA, bits_to_unit, check_mode, uniform


def gumbel(
    key: Tensor,
    shape: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
    mode: str = "low",
    *,
    offset: int | Tensor = 0,
) -> Tensor:
    """Draws samples of the standard Gumbel distribution.

    The argmax of logits plus Gumbel noise is distributed as softmax(logits).

        -ln(-ln u),   u uniform in (0, 1)

    Args:
        key: [2] uint32.
        shape: shape of the result.
        dtype: float32, float16, bfloat16 or float64.
        mode: "low", or "high" for twice the random bits: the largest float32 sample is then 32 instead of 16.
        offset: flat index of the first number in a larger draw; mode "low" only.

    Returns:
        [...] of `shape` and `dtype`.

    Raises:
        ValueError: if dtype or mode is not one of those listed, or an offset is given in mode "high".

    Example:
        The uniform number is 0.4887 (see `uniform`): -ln 0.4887 = 0.7160, and -ln 0.7160 = 0.3341.

        >>> from pure import random
        >>> round(gumbel(random.key(42)).item(), 4)
        0.3341
    """
    check_mode("gumbel", mode)
    tiny = torch.finfo(dtype).tiny
    if mode == "low":
        return draw_elementwise(
            lambda x0, x1: -(-bits_to_unit(x0, x1, dtype).clamp(min=tiny).log()).log(), key, shape, offset
        )
    if not isinstance(offset, int) or offset:
        raise ValueError('random.gumbel: mode "high" has no offset; leave it out, or use mode "low"')
    high, low = uniform(key, (2, *shape), dtype).unbind()
    u = torch.where(high >= 0.5, high, high + 2.0 ** -MANTISSA[dtype] * low + tiny)
    return -(-(-u).log1p()).log()


def categorical(
    key: Tensor,
    logits: Tensor,
    axis: int = -1,
    shape: Sequence[int] | None = None,
    replace: bool = True,
    mode: str = "low",
) -> Tensor:
    """Draws indices with the probabilities softmax(logits): the argmax of logits plus Gumbel noise.

    Args:
        key: [2] uint32.
        logits: [...] float, log-probabilities up to a constant; -inf is never drawn.
        axis: the axis of the categories.
        shape: shape of the result: any leading axes for several draws, then the logits' shape without `axis`.
        replace: draw with replacement; False draws distinct indices, those of the largest sums in
            descending order.
        mode: "low" or "high", as in `gumbel`.

    Returns:
        [...] int64, of `shape`.

    Raises:
        ValueError: if the logits are not floats, if `shape` does not end in the logits' shape without
            `axis`, or if more indices are drawn without replacement than there are categories.

    Example:
        >>> from pure import random
        >>> categorical(random.key(0), torch.tensor([-torch.inf, 0.0, -torch.inf]), shape=(3,)).tolist()
        [1, 1, 1]
    """
    if not logits.is_floating_point():
        raise ValueError(
            f"random.categorical: logits must be floats, got {logits.dtype}; convert them by logits.float()"
        )
    axis = axis % logits.dim()
    rows = (*logits.shape[:axis], *logits.shape[axis + 1 :])
    shape = rows if shape is None else tuple(shape)
    leading = shape[: len(shape) - len(rows)]
    if (*leading, *rows) != shape:
        raise ValueError(
            f"random.categorical: shape must end in {rows}, the logits without axis {axis}, got {shape}"
        )
    if replace:
        noise = gumbel(key, (*leading, *logits.shape), logits.dtype, mode)
        return (noise + logits).argmax(len(leading) + axis)
    draws, categories = math.prod(leading), logits.shape[axis]
    if draws > categories:
        raise ValueError(
            f"random.categorical: {count_noun(draws, 'draw')} without replacement from {categories}; draw at "
            f"most {categories}, or set replace=True"
        )
    order = (gumbel(key, logits.shape, logits.dtype, mode) + logits).argsort(
        dim=axis, descending=True, stable=True
    )
    return order.narrow(axis, 0, draws).movedim(axis, 0).reshape(shape)
