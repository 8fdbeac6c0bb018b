"""Operations on shapes: views, joins, slices and their backward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from pure.interop.jax.aten.result import Entry, Out, axes_of, compute_wide, pull_back, to_dtype


def _reshape(out: Out, x: Any, shape: Sequence[int]) -> Any:
    """Reshapes to the traced shape."""
    del shape
    return jnp.reshape(x, out.shape)


def _view_dtype(out: Out, x: Any, dtype: Any) -> Any:
    """Reads the bits of x as another dtype; the last axis grows or shrinks by the ratio of the widths."""
    del dtype
    old, new = np.dtype(x.dtype).itemsize, np.dtype(out.dtype).itemsize
    if new > old:
        x = jnp.reshape(x, (*out.shape, new // old))
    return jnp.reshape(lax.bitcast_convert_type(x, out.dtype), out.shape)


def _expand(out: Out, x: Any, shape: Sequence[int], *, implicit: bool = False) -> Any:
    """Broadcasts to the traced shape."""
    del shape, implicit
    return jnp.broadcast_to(x, out.shape)


def _as_strided(
    out: Out, x: Any, size: Sequence[int], stride: Sequence[int], offset: int | None = None
) -> Any:
    """Keeps x, the one case in which strides mean something here: the same shape, in x's own order.

    Args:
        out: the traced result.
        x: array.
        size, stride, offset: as in torch.

    Returns:
        x.

    Raises:
        NotImplementedError: for any other size or offset, or strides of another layout than row by row.
    """
    own = [int(np.prod(size[i + 1 :])) for i in range(len(size))]
    alike = all(s == o or n == 1 for s, o, n in zip(stride, own, size, strict=True))
    if tuple(size) != tuple(x.shape) or not alike or offset:
        raise NotImplementedError(
            f"as_strided: expected a view of the same shape, row by row, got shape {tuple(x.shape)} as "
            f"{tuple(size)} with strides {tuple(stride)}; write view, expand or slices instead"
        )
    return x.astype(out.dtype)


def _squeeze_dims(out: Out, x: Any, dim: Any = None) -> Any:
    """Drops axes of length 1: the traced shape says which."""
    del dim
    return jnp.reshape(x, out.shape)


def _slice_axis(out: Out, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    """Takes a slice of one axis."""
    del out
    first, last, step = slice(start, end, step).indices(x.shape[dim])
    return lax.slice_in_dim(x, first, max(first, last), step, dim)


def _split(out: Sequence[Out], x: Any, size: Any, dim: int = 0) -> tuple:
    """Cuts one axis into pieces; the traced shapes say where."""
    del size
    lengths = [piece.shape[dim] for piece in out]
    ends = np.cumsum(lengths)
    return tuple(
        lax.slice_in_dim(x, int(end - n), int(end), 1, dim) for n, end in zip(lengths, ends, strict=True)
    )


def _unbind(out: Sequence[Out], x: Any, dim: int = 0) -> tuple:
    """Takes an axis apart."""
    return tuple(lax.index_in_dim(x, i, dim, keepdims=False) for i in range(len(out)))


def _cat(out: Out, arrays: Sequence[Any], dim: int = 0) -> Any:
    """Joins arrays along an axis; empty arrays of one axis count for nothing, as in torch."""
    parts = [x.astype(out.dtype) for x in arrays if x.shape != (0,)]
    return jnp.concatenate(parts, dim) if parts else jnp.zeros(out.shape, out.dtype)


def _stack(out: Out, arrays: Sequence[Any], dim: int = 0) -> Any:
    """Joins arrays along a new axis."""
    return jnp.stack([x.astype(out.dtype) for x in arrays], dim)


def _pad(out: Out, x: Any, widths: Sequence[int], value: Any = 0) -> Any:
    """Pads with a constant: pairs of widths from the last axis backwards; a negative width cuts."""
    pairs = [(widths[i], widths[i + 1], 0) for i in range(0, len(widths), 2)]
    every = [(0, 0, 0)] * (x.ndim - len(pairs)) + pairs[::-1]
    return lax.pad(x, to_dtype(value, out.dtype), every)


def _slice_backward(out: Out, g: Any, shape: Sequence[int], dim: int, start: int, end: int, step: int) -> Any:
    """Puts the gradient of a slice into zeros.

    Args:
        out: the traced result.
        g: the gradient of the slice.
        shape: the shape of what was sliced.
        dim, start, end, step: the slice.

    Returns:
        The gradient of what was sliced.
    """
    first, _, step = slice(start, end, step).indices(shape[dim])
    count = g.shape[dim]
    used = first + max(0, (count - 1) * step + 1) if count else first
    widths = [(0, 0, 0)] * len(shape)
    widths[dim] = (first, shape[dim] - used, step - 1)
    return lax.pad(g, np.zeros((), out.dtype), widths)


def _select_backward(out: Out, g: Any, shape: Sequence[int], dim: int, index: int) -> Any:
    """Puts the gradient of one index into zeros."""
    index = index % shape[dim]
    return _slice_backward(out, jnp.expand_dims(g, dim), shape, dim, index, index + 1, 1)


def _slice_scatter(
    out: Out, x: Any, source: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    """Replaces a slice of one axis.

    Args:
        out: the traced result.
        x: array.
        source: what stands in the slice afterwards.
        dim, start, end, step: the slice.

    Returns:
        x with the slice replaced.
    """
    where: list[Any] = [slice(None)] * x.ndim
    where[dim] = slice(*slice(start, end, step).indices(x.shape[dim]))
    return x.at[tuple(where)].set(source.astype(out.dtype))


def _select_scatter(out: Out, x: Any, source: Any, dim: int, index: int) -> Any:
    """Replaces what stands at one index of an axis."""
    where: list[Any] = [slice(None)] * x.ndim
    where[dim] = index
    return x.at[tuple(where)].set(source.astype(out.dtype))


def _roll(out: Out, x: Any, shifts: Sequence[int], dims: Sequence[int] = ()) -> Any:
    """Shifts cyclically along axes; without axes, as one axis."""
    del out
    return jnp.roll(x, tuple(shifts), axes_of(dims, x.ndim)) if dims else jnp.roll(x, shifts[0])


def _diagonal(x: Any, offset: int = 0, first: int = 0, second: int = 1) -> Any:
    """The diagonal of two axes, as the last axis."""
    return jnp.diagonal(x, offset, first, second)


def _diagonal_backward(out: Out, g: Any, shape: Sequence[int], offset: int, first: int, second: int) -> Any:
    """Puts the gradient of a diagonal into zeros."""
    zeros = jnp.zeros(tuple(shape), out.dtype)
    return pull_back(_diagonal)(out, g, zeros, offset, first, second)


def _diag_embed(out: Out, x: Any, offset: int = 0, first: int = -2, second: int = -1) -> Any:
    """Puts the last axis on the diagonal of two new axes."""
    size = x.shape[-1] + abs(offset)
    steps = np.arange(x.shape[-1])
    rows, columns = steps + max(0, -offset), steps + max(0, offset)
    square = jnp.zeros((*x.shape[:-1], size, size), out.dtype).at[..., rows, columns].set(x)
    return jnp.moveaxis(square, (-2, -1), (first, second))


def _unfold(x: Any, dim: int, size: int, step: int) -> Any:
    """Windows of an axis; the positions in a window are the last axis."""
    axis = dim % x.ndim
    starts = np.arange(0, x.shape[axis] - size + 1, step)
    windows = jnp.take(x, starts[:, None] + np.arange(size), axis, unique_indices=False)
    return jnp.moveaxis(windows, axis + 1, -1)


def _unfold_backward(out: Out, g: Any, shape: Sequence[int], dim: int, size: int, step: int) -> Any:
    """Adds the gradients of windows up."""
    return pull_back(_unfold)(out, g, jnp.zeros(tuple(shape), out.dtype), dim, size, step)


def _reflect(x: Any, widths: Sequence[int]) -> Any:
    """Pads the last axis with its mirror image."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(widths[0], widths[1])], mode="reflect")


def _identity(out: Out, x: Any, *args: Any, **kwargs: Any) -> Any:
    """x; arrays of jax are never written, so a copy is the array."""
    del out, args, kwargs
    return x


def _detach(out: Out, x: Any) -> Any:
    """x, whose gradient stops."""
    del out
    return lax.stop_gradient(x)


def _triangle(function: Any) -> Any:
    """Builds the entry of tril or triu."""
    return lambda out, x, diagonal=0: function(x, diagonal)


SHAPE: Mapping[str, Entry] = MappingProxyType({
    "view.default": _reshape,
    "_unsafe_view.default": _reshape,
    "reshape.default": _reshape,
    "view.dtype": _view_dtype,
    "expand.default": _expand,
    "as_strided.default": _as_strided,
    "t.default": lambda out, x: x.T,
    "transpose.int": lambda out, x, a, b: jnp.swapaxes(x, a, b) if x.ndim else x,
    "permute.default": lambda out, x, dims: jnp.transpose(x, axes_of(dims, x.ndim) if dims else ()),
    "unsqueeze.default": lambda out, x, dim: jnp.expand_dims(x, dim),
    "squeeze.default": _squeeze_dims,
    "squeeze.dim": _squeeze_dims,
    "squeeze.dims": _squeeze_dims,
    "select.int": lambda out, x, dim, index: lax.index_in_dim(x, index, dim, keepdims=False),
    "slice.Tensor": _slice_axis,
    "split.Tensor": _split,
    "unsafe_split.Tensor": _split,
    "split_with_sizes.default": _split,
    "unbind.int": _unbind,
    "cat.default": _cat,
    "stack.default": _stack,
    "flip.default": lambda out, x, dims: jnp.flip(x, axes_of(dims, x.ndim) if dims else ()),
    "repeat.default": lambda out, x, repeats: jnp.tile(x, repeats),
    "constant_pad_nd.default": _pad,
    "tril.default": _triangle(jnp.tril),
    "triu.default": _triangle(jnp.triu),
    "roll.default": _roll,
    "rot90.default": lambda out, x, k=1, dims=(0, 1): jnp.rot90(x, k, tuple(dims)),
    "diagonal.default": compute_wide(_diagonal),
    "diagonal_backward.default": _diagonal_backward,
    "diag_embed.default": _diag_embed,
    "trace.default": lambda out, x: jnp.trace(x, dtype=out.dtype),
    "unfold.default": compute_wide(_unfold),
    "unfold_backward.default": _unfold_backward,
    "reflection_pad1d.default": compute_wide(_reflect),
    "reflection_pad1d_backward.default": pull_back(_reflect),
    "clone.default": _identity,
    "alias.default": _identity,
    "contiguous.default": _identity,
    "lift_fresh_copy.default": _identity,
    "detach.default": _detach,
    "slice_backward.default": _slice_backward,
    "select_backward.default": _select_backward,
    "slice_scatter.default": _slice_scatter,
    "select_scatter.default": _select_scatter,
})  # fmt: skip
"""Operation -> entry."""
