"""Uniform and Bernoulli numbers, bit for bit those of jax.random.

Random bits are converted to a number in [0, 1); the other distributions transform that number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from pure.random.threefry import device_of, draw_elementwise

MANTISSA: Mapping[torch.dtype, int] = {
    torch.float32: 23,
    torch.float16: 10,
    torch.bfloat16: 7,
    torch.float64: 52,
}
"""Bits of the mantissa."""
SHIFT: Mapping[torch.dtype, int] = {torch.float32: 32 - 23, torch.float16: 16 - 10, torch.bfloat16: 8 - 7}
"""Random bits that are shifted out: JAX draws 32, 16 or 8, and keeps the highest as the mantissa."""


def uniform(
    key: Tensor,
    shape: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
    minval: float | Tensor = 0.0,
    maxval: float | Tensor = 1.0,
    *,
    offset: int | Tensor = 0,
) -> Tensor:
    """Draws uniform numbers in [minval, maxval).

        max(minval, u (maxval - minval) + minval),   u = (m random bits) 2⁻ᵐ, m the length of the mantissa

    Args:
        key: [2] uint32.
        shape: of the result.
        dtype: float32 (m = 23), float16 (10), bfloat16 (7) or float64 (52).
        minval, maxval: numbers, or tensors that broadcast to `shape`.
        offset: flat index of the first number in a larger draw.

    Returns:
        [...] of `shape` and `dtype`.

    Edge cases: where maxval <= minval the result is minval. Rounding may give maxval itself. Float16 between
    bounds is computed in float32 and rounded, as XLA does on most CPUs; with AVX512-FP16 XLA computes in
    float16, and the last bit may differ.

    Raises:
        ValueError: if dtype is none of these, or the bounds do not broadcast to `shape`.

    Example:
        The words are 2098992034 and 2919706841 (see `bits`); divided by 2³²:

        >>> from pure import random
        >>> [round(u, 4) for u in uniform(random.key(42), (2,)).tolist()]
        [0.4887, 0.6798]
    """
    if isinstance(minval, (int, float)) and isinstance(maxval, (int, float)) and (minval, maxval) == (0, 1):
        return draw_elementwise(partial(bits_to_unit, dtype=dtype), key, shape, offset)
    bounds = as_tensor(minval, dtype, device_of(key)), as_tensor(maxval, dtype, device_of(key))
    return draw_transformed(scale_to_bounds, key, shape, dtype, *bounds, offset=offset)


def bernoulli(
    key: Tensor, p: float | Tensor = 0.5, shape: Sequence[int] | None = None, mode: str = "low"
) -> Tensor:
    """Draws bools that are True with probability p: uniform(key, shape) < p.

    Args:
        key: [2] uint32.
        p: a float, or a float tensor that broadcasts to `shape` and gives the uniform numbers their dtype.
        shape: of the result; None is that of p.
        mode: "low"; or "high" for twice the bits, if 2⁻²³ is too coarse for a small p.

    Returns:
        [...] bool, of `shape`.

    Raises:
        ValueError: if p is not a float, does not broadcast to `shape`, or the mode is unknown.

    Example:
        >>> from pure import random
        >>> bernoulli(random.key(42), 0.5, (2,)).tolist()  # 0.489 and 0.680, see `uniform`
        [True, False]
    """
    check_mode("bernoulli", mode)
    if not (isinstance(p, float) or (isinstance(p, Tensor) and p.is_floating_point())):
        raise ValueError(
            f"random.bernoulli: p must be a float or a tensor of floats, got {p}; convert it by float(p) or "
            "p.float()"
        )
    p = as_tensor(p, p.dtype if isinstance(p, Tensor) else torch.float32, device_of(key))
    shape = tuple(p.shape if shape is None else shape)
    if mode == "low":
        return draw_transformed(torch.lt, key, shape, p.dtype, p)
    check_shape(shape, p)
    high, low = uniform(key, (2, *shape), p.dtype).unbind()
    # high + low · 2⁻ᵐ < p, without the rounding of that sum.
    return low * 2.0 ** -MANTISSA[p.dtype] < p - high


def rademacher(key: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.int32) -> Tensor:
    """Draws signs: -1 or 1 with equal probabilities, 2 bernoulli(key, 0.5) - 1.

    Args:
        key: [2] uint32.
        shape: shape of the result.
        dtype: any that holds -1: a signed integer, or a float.

    Returns:
        [...] of `shape` and `dtype`.

    Raises:
        ValueError: if dtype does not hold -1.

    Example:
        >>> from pure import random
        >>> rademacher(random.key(42), (2,)).tolist()  # True and False, see `bernoulli`
        [1, -1]
    """
    if not dtype.is_signed:
        raise ValueError(f"random.rademacher: dtype must hold -1, got {dtype}; use int32 or float32")
    return 2 * bernoulli(key, 0.5, shape).to(dtype) - 1


def bits_to_unit(x0: Tensor, x1: Tensor, dtype: torch.dtype) -> Tensor:
    """Converts random words to numbers in [0, 1): two int32 [...] -> [...] of `dtype`, multiples of 2⁻ᵐ.

    Raises:
        ValueError: if dtype is not a float of 16, 32 or 64 bits.
    """
    if dtype not in MANTISSA:
        raise ValueError(f"random: dtype must be torch.float32, float16, bfloat16 or float64, got {dtype}")
    if dtype == torch.float64:
        mantissa = (x0.long() << 20) & ((1 << 52) - 1) | (x1.long() >> 12) & ((1 << 20) - 1)
    else:
        mantissa = (x0 ^ x1) >> SHIFT[dtype] & ((1 << MANTISSA[dtype]) - 1)
    return mantissa.to(dtype) * 2.0 ** -MANTISSA[dtype]


def scale_to_bounds(u: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Scales u in [0, 1) to [low, high): max(low, u (high - low) + low).

    In float32, the product and the sum are rounded once together, as in the fused multiply-add of XLA: they
    are computed in float64, where the product of two float32 is exact.
    """
    if u.dtype == torch.float32:
        return torch.maximum(low, (u.double() * (high - low).double() + low.double()).float())
    return torch.maximum(low, u * (high - low) + low)


def draw_transformed(
    function: Callable[..., Tensor],
    key: Tensor,
    shape: Sequence[int],
    dtype: torch.dtype,
    *bounds: Tensor,
    offset: int | Tensor = 0,
) -> Tensor:
    """Draws uniform numbers u in [0, 1), and applies function(u, *bounds) elementwise.

    Args:
        function: (u [...], *bounds) -> [...].
        key: [2] uint32.
        shape: of the result.
        dtype: of u.
        *bounds: tensors that broadcast to `shape`. If all are 0-d, eager mode computes in blocks, which saves
            memory.
        offset: flat index of the first number in a larger draw.

    Returns:
        [...] of `shape`.
    """
    check_shape(shape, *bounds)
    if any(bound.dim() for bound in bounds):
        return function(draw_elementwise(partial(bits_to_unit, dtype=dtype), key, shape, offset), *bounds)
    return draw_elementwise(lambda x0, x1: function(bits_to_unit(x0, x1, dtype), *bounds), key, shape, offset)


def as_tensor(x: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Converts a number to a tensor without a copy from the host; converts a tensor's dtype and device."""
    return x.to(device, dtype) if isinstance(x, Tensor) else torch.full((), x, dtype=dtype, device=device)


def check_shape(shape: Sequence[int], *bounds: Tensor) -> None:
    """Refuses bounds that do not broadcast to the result's shape.

    Raises:
        ValueError: if they do not broadcast to it.
    """
    for bound in bounds:
        pairs = zip(reversed(bound.shape), reversed(tuple(shape)), strict=False)
        if bound.dim() > len(shape) or any(a not in (1, b) for a, b in pairs):
            raise ValueError(
                f"random: a parameter {list(bound.shape)} does not broadcast to shape {list(shape)}; "
                "shape must be that of the result, parameters included"
            )


def check_mode(name: str, mode: str) -> None:
    """Refuses an unknown mode.

    Raises:
        ValueError: if it is neither "low" nor "high".
    """
    if mode not in ("low", "high"):
        raise ValueError(f'random.{name}: mode must be "low" or "high" (twice the bits), got {mode!r}')
