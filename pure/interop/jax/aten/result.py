"""Result of a traced operation, and conversions to its dtype.

A lowered program takes every dtype from torch's trace: jax's own rules of type promotion are never used. Half
precision is computed in float32 and rounded once, as torch's kernels do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Entry = Callable[..., Any]
"""`entry(out, *args, **kwargs) -> array`, or a tuple of them if `out` is a tuple."""

NUMBERS = (bool, int, float)
"""Python types of a number in a traced graph."""


class Out(NamedTuple):
    """Shape and dtype of one traced result."""

    shape: tuple[int, ...]
    dtype: Any  # np.dtype of jax, canonical: with x64 off, torch's int64 is int32


def to_dtype(x: Any, dtype: Any) -> Any:
    """Converts an array or a Python number to a dtype.

    Args:
        x: an array, or a number of the traced graph.
        dtype: a dtype of jax.

    Returns:
        The array in `dtype`; a 0-d numpy array for a number, which jax inlines.

    Raises:
        OverflowError: if a whole number does not fit the dtype, as 2**40 in int32.

    Edge cases: a float too large for the dtype is infinite, as in torch. float to integer truncates; beyond
    the range it gives the nearest integer of the dtype, and 0 for NaN (torch leaves both undefined).

    Example:
        >>> to_dtype(2, jnp.float32)
        array(2., dtype=float32)
    """
    if not isinstance(x, NUMBERS):
        return x.astype(dtype)
    kind = np.dtype(dtype)
    if kind.kind in "iu" and not np.iinfo(kind).min <= x <= np.iinfo(kind).max:
        raise OverflowError(f"expected a number that fits {kind.name}, got {x}; lower with x64=True")
    with np.errstate(over="ignore"):
        return np.asarray(x, kind)


def is_float(dtype: Any) -> bool:
    """Tells whether a dtype is a real floating-point type, bfloat16 included."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


def is_integer(dtype: Any) -> bool:
    """Tells whether a dtype is an integer type; bool is not."""
    return bool(jnp.issubdtype(dtype, jnp.integer))


def compute_dtype(dtype: Any) -> Any:
    """Returns the dtype that torch's kernels compute in: float32 for half precision, else the same.

    Example:
        >>> compute_dtype(np.dtype(jnp.bfloat16)).name, compute_dtype(np.dtype("int32")).name
        ('float32', 'int32')
    """
    half = is_float(dtype) and np.dtype(dtype).itemsize < 4
    return np.dtype("float32") if half else np.dtype(dtype)


def promote_operands(*operands: Any) -> Any:
    """Returns the dtype in which torch compares operands: its rules of type promotion.

    Arrays with axes decide; a 0-d array or a number changes the result only if it is of a higher kind (bool,
    integer, float).

    Example:
        >>> promote_operands(jnp.zeros(2, "float16"), jnp.zeros((), "float32"), 0.5).name
        'float16'
    """
    arrays = [x for x in operands if not isinstance(x, NUMBERS)]
    integer = jax.dtypes.canonicalize_dtype("int64")
    defaults = {bool: np.dtype("bool"), int: integer, float: np.dtype("float32")}
    numbers = [defaults[type(x)] for x in operands if isinstance(x, NUMBERS)]
    result = None
    for group in ([x.dtype for x in arrays if x.ndim], [x.dtype for x in arrays if not x.ndim], numbers):
        if group:
            highest = jnp.result_type(*group)
            result = highest if result is None or _rank(highest) > _rank(result) else result
    return result


def _rank(dtype: Any) -> int:
    """Rank of a dtype's kind: bool, integer, float, complex."""
    kinds = (jnp.bool_, jnp.integer, jnp.floating, jnp.complexfloating)
    return next(rank for rank, kind in enumerate(kinds) if jnp.issubdtype(dtype, kind))


def pointwise(function: Callable) -> Entry:
    """Builds the entry of an elementwise operation, whose operands torch converts to the result's dtype.

    Args:
        function: of arrays of one dtype; keyword arguments are handed on.

    Returns:
        The entry; half precision is computed in float32.
    """

    def apply_pointwise(out: Out, *args: Any, **kwargs: Any) -> Any:
        dtype = compute_dtype(out.dtype)
        return function(*(to_dtype(x, dtype) for x in args), **kwargs).astype(out.dtype)

    return apply_pointwise


def pull_back(function: Callable) -> Entry:
    """Builds the entry of a backward operation: the gradient of `function` to its first argument.

    Args:
        function: (x, *args) -> array, in the dtype of x.

    Returns:
        The entry of (out, g, x, *args); half precision is computed in float32.
    """

    def apply_backward(out: Out, g: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        dtype = compute_dtype(out.dtype)
        result, pull = jax.vjp(lambda v: function(v, *args, **kwargs), x.astype(dtype))
        return pull(jnp.broadcast_to(g.astype(dtype), result.shape))[0].astype(out.dtype)

    return apply_backward


def compute_wide(function: Callable) -> Entry:
    """Builds the entry of an operation whose first argument decides the dtype; half precision in float32.

    Args:
        function: (x, *args) -> array, in the dtype of x.

    Returns:
        The entry of (out, x, *args).
    """

    def apply_wide(out: Out, x: Any, *args: Any, **kwargs: Any) -> Any:
        return function(x.astype(compute_dtype(out.dtype)), *args, **kwargs).astype(out.dtype)

    return apply_wide


def axes_of(dim: Any, ndim: int) -> tuple[int, ...]:
    """Returns the axes that torch's `dim` means, not negative; None and an empty list mean every axis.

    Example:
        >>> axes_of([-1, 0], 3), axes_of(None, 2)
        ((2, 0), (0, 1))
    """
    if dim is None or (isinstance(dim, (list, tuple)) and not len(dim)):
        return tuple(range(ndim))
    given = dim if isinstance(dim, (list, tuple)) else [dim]
    return tuple(d % ndim for d in given) if ndim else ()
