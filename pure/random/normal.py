"""Normal and truncated normal samples, by the inverse distribution function, as in jax.random."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pure.random.erf_inv import erf, erf_inv
from pure.random.threefry import device_of, draw_elementwise
from pure.random.uniform import as_tensor, bits_to_unit, draw_transformed, scale_to_bounds


def normal(
    key: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32, *, offset: int | Tensor = 0
) -> Tensor:
    """Draws samples of the normal distribution with mean 0 and standard deviation 1.

        √2 erf_inv(u),   u uniform in (-1, 1)

    Args:
        key: [2] uint32.
        shape: shape of the result.
        dtype: float32, float16, bfloat16 or float64.
        offset: flat index of the first number in a larger draw.

    Returns:
        [...] of `shape` and `dtype`; in float32 one of 2²³ values, the largest ±5.4.

    Raises:
        ValueError: if dtype is not one of those listed.

    Example:
        The uniform number is 0.4887 (see `uniform`), just below the median.

        >>> from pure import random
        >>> round(normal(random.key(42), ()).item(), 5)
        -0.0283
    """
    lowest = torch.finfo(dtype).eps / 2 - 1

    def quantile(x0: Tensor, x1: Tensor) -> Tensor:
        return _sqrt_two(dtype, device_of(key)) * erf_inv(2 * bits_to_unit(x0, x1, dtype) + lowest)

    return draw_elementwise(quantile, key, shape, offset)


def truncated_normal(
    key: Tensor,
    lower: float | Tensor,
    upper: float | Tensor,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float32,
    *,
    offset: int | Tensor = 0,
) -> Tensor:
    """Draws samples of the standard normal distribution truncated to (lower, upper).

        √2 erf_inv(u),   u uniform between erf(lower/√2) and erf(upper/√2);   clipped into the open interval

    Args:
        key: [2] uint32.
        lower, upper: numbers or tensors that broadcast to `shape`, in standard deviations.
        shape: shape of the result; None takes the broadcast shape of the bounds.
        dtype: float32, float16, bfloat16 or float64.
        offset: flat index of the first number in a larger draw.

    Returns:
        [...] of `shape` and `dtype`.

    Edge cases: in float32 few values of u lie beyond ±5, and none beyond ±5.5.

    Raises:
        ValueError: if dtype is not one of those listed, or the bounds do not broadcast to `shape`.

    Example:
        >>> from pure import random
        >>> x = truncated_normal(random.key(42), -1.0, 1.0, (1000,))
        >>> x.min().item() > -1, x.max().item() < 1
        (True, True)
    """
    low, high = as_tensor(lower, dtype, device_of(key)), as_tensor(upper, dtype, device_of(key))
    shape = torch.broadcast_shapes(low.shape, high.shape) if shape is None else shape
    return draw_transformed(_truncated_quantile, key, shape, dtype, low, high, offset=offset)


def _truncated_quantile(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The quantile of u in [0, 1) of the normal distribution on (low, high)."""
    sqrt_two = _sqrt_two(u.dtype, u.device)
    infinity = torch.full((), math.inf, dtype=u.dtype, device=u.device)
    # XLA divides by a constant through its reciprocal, except in bfloat16.
    scaled = [x / sqrt_two if u.dtype == torch.bfloat16 else x * (1 / sqrt_two) for x in (low, high)]
    x = sqrt_two * erf_inv(scale_to_bounds(u, *map(erf, scaled)))
    return torch.minimum(torch.maximum(x, torch.nextafter(low, infinity)), torch.nextafter(high, -infinity))


def _sqrt_two(dtype: torch.dtype, device: torch.device) -> Tensor:
    """√2 rounded to the dtype (torch would round a Python number to float32 for float16)."""
    return torch.full((), math.sqrt(2), dtype=dtype, device=device)
