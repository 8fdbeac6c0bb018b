"""Exponential and Laplace samples, by the inverse distribution function, as in jax.random."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pure.random.threefry import device_of, draw_elementwise
from pure.random.uniform import as_tensor, bits_to_unit, draw_transformed, scale_to_bounds


def exponential(
    key: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32, *, offset: int | Tensor = 0
) -> Tensor:
    """Draws samples of the exponential distribution with mean 1.

        -ln(1 - u),   u uniform in [0, 1)

    Args:
        key: [2] uint32.
        shape: shape of the result.
        dtype: float32, float16, bfloat16 or float64.
        offset: flat index of the first number in a larger draw.

    Returns:
        [...] of `shape` and `dtype`, at least 0; in float32 one of 2²³ values, the largest 15.9.

    Raises:
        ValueError: if dtype is not one of those listed.

    Example:
        The uniform number is 0.4887 (see `uniform`): -ln 0.5113 = 0.6708.

        >>> from pure import random
        >>> round(exponential(random.key(42)).item(), 4)
        0.6708
    """

    def quantile(x0: Tensor, x1: Tensor) -> Tensor:
        return -(-bits_to_unit(x0, x1, dtype)).log1p()

    return draw_elementwise(quantile, key, shape, offset)


def laplace(
    key: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32, *, offset: int | Tensor = 0
) -> Tensor:
    """Draws samples of the Laplace distribution with mean 0 and scale 1: two exponentials back to back.

        sign(u) ln(1 - |u|),   u uniform in (-1, 1)

    The sign is opposite to that of the quantile of u, as in JAX; the distribution is symmetric.

    Args:
        key: [2] uint32.
        shape: shape of the result.
        dtype: float32, float16, bfloat16 or float64.
        offset: flat index of the first number in a larger draw.

    Returns:
        [...] of `shape` and `dtype`; its variance is 2.

    Raises:
        ValueError: if dtype is not one of those listed.

    Example:
        The uniform number is 0.4887 (see `uniform`), so u = -0.02258 and -ln 0.97742 = 0.0228.

        >>> from pure import random
        >>> round(laplace(random.key(42)).item(), 4)
        0.0228
    """
    device = device_of(key)
    low = as_tensor(torch.finfo(dtype).eps / 2 - 1, dtype, device)
    return draw_transformed(
        _laplace_quantile, key, shape, dtype, low, as_tensor(1.0, dtype, device), offset=offset
    )


def _laplace_quantile(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Transforms u in [0, 1) to a Laplace sample."""
    u = scale_to_bounds(u, low, high)
    return u.sign() * (-u.abs()).log1p()
