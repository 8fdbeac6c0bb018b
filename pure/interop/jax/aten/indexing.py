"""Reading and writing at indices.

An index out of range raises in torch; compiled code cannot. Here it never gives a number that could be taken
for a right one: what is read, or written, is NaN (of an integer dtype: its lowest number; of bool: True).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from pure.interop.jax.aten.places import index_grid, is_batched, poison, to_unsigned
from pure.interop.jax.aten.result import Entry, Out


def _embedding(
    out: Out, weight: Any, index: Any, padding: int = -1, scaled: bool = False, sparse: bool = False
) -> Any:
    """Reads rows of a matrix.

    Args:
        out: the traced result, [..., D].
        weight: [V, D].
        index: rows, [...].
        padding: a row without a gradient, or -1.
        scaled: the gradient divided by how often a row is read; refused.
        sparse: not used.

    Returns:
        [..., D].

    Raises:
        NotImplementedError: for `scaled`.
    """
    del out, sparse
    if scaled:
        raise NotImplementedError(
            "embedding: expected scale_grad_by_freq=False, got True; scale the gradient"
        )
    rows = weight.at[to_unsigned(index)].get(mode="fill")
    if padding < 0:
        return rows
    return jnp.where((index == padding)[..., None], lax.stop_gradient(rows), rows)


def _embedding_backward(out: Out, g: Any, index: Any, count: int, padding: int, scaled: bool) -> Any:
    """Adds the gradients of rows up; the row `padding` (-1: none) gets none.

    Args:
        out: the traced result, [count, D].
        g: gradients, [..., D].
        index: rows, [...].
        count: rows of the matrix.
        padding: a row without a gradient, or -1.
        scaled: divides by how often a row was read.

    Returns:
        The gradient of the matrix.
    """
    rows, flat = jnp.reshape(index, -1), jnp.reshape(g, (-1, g.shape[-1]))
    if scaled:
        often = jnp.zeros(count, out.dtype).at[rows].add(1)
        flat = flat / often[rows][:, None]
    if padding >= 0:
        flat = jnp.where((rows == padding)[:, None], 0, flat)
    return jnp.zeros(out.shape, out.dtype).at[rows].add(flat)


def _gather(out: Out, x: Any, dim: int, index: Any, *, sparse_grad: bool = False) -> Any:
    """Reads along an axis at indices of the same number of axes."""
    del sparse_grad
    if not x.ndim:
        return jnp.broadcast_to(x, out.shape)
    if is_batched(x, dim, index):
        beyond = jnp.where(index < 0, x.shape[dim], index)  # a negative index would count from the end
        return jnp.take_along_axis(x, beyond, dim, mode="fill")
    return x.at[index_grid(to_unsigned(index), dim)].get(mode="fill")


def _index_select(out: Out, x: Any, dim: int, index: Any) -> Any:
    """Reads whole slices along an axis."""
    del out
    if not x.ndim:
        return x
    where: list[Any] = [slice(None)] * x.ndim
    where[dim] = to_unsigned(jnp.reshape(index, -1))
    return x.at[tuple(where)].get(mode="fill")


def _index(out: Out, x: Any, indices: Sequence[Any]) -> Any:
    """Reads at index arrays, one an axis; None keeps an axis. Negative indices count from the end."""
    return jnp.reshape(x.at[_places(x, indices)].get(mode="fill"), out.shape)


def _index_put(out: Out, x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """Writes at index arrays, or adds. Written twice without adding, a place keeps one of the values.

    Args:
        out: the traced result.
        x: array.
        indices: one an axis, None keeps the axis; or a mask, with one value for all its places.
        values: what is written; broadcast.
        accumulate: adds.

    Returns:
        x with the values. With any index out of range, all that is written is NaN.

    Raises:
        NotImplementedError: for a mask and several values, whose number is not known when compiling.
    """
    values = values.astype(out.dtype)
    masks = [i for i in indices if i is not None and i.dtype == bool]
    if masks:
        if len(indices) > 1 or values.size != 1:
            raise NotImplementedError(
                "index_put: expected one mask and one value, got several; write torch.where(mask, values, x)"
            )
        mask = jnp.reshape(masks[0], masks[0].shape + (1,) * (x.ndim - masks[0].ndim))
        value = jnp.reshape(values, ())
        return jnp.where(mask, x + value if accumulate else value, x)
    places, bad = _clip_places(x, indices)
    values = poison(values, jnp.any(bad))
    return x.at[places].add(values) if accumulate else x.at[places].set(values)


def _take(out: Out, x: Any, index: Any) -> Any:
    """Reads x, seen as one axis, at indices; negative ones count from the end."""
    del out
    return jnp.reshape(x, -1).at[index].get(mode="fill")


def _put(out: Out, x: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    """Writes into x, seen as one axis, at indices, or adds."""
    flat, places = jnp.reshape(x, -1), jnp.reshape(index, -1)
    values = jnp.reshape(source.astype(out.dtype), -1)
    return jnp.reshape(_index_put(out, flat, [places], values, accumulate), out.shape)


def _places(x: Any, indices: Sequence[Any]) -> tuple:
    """The key of an index of jax for torch's list of arrays and None."""
    del x
    return tuple(slice(None) if i is None else i for i in indices)


def _clip_places(x: Any, indices: Sequence[Any]) -> tuple[tuple, Any]:
    """Index arrays within range, and where they were not."""
    bad: Any = np.zeros((), bool)
    places: list[Any] = []
    for axis, i in enumerate(indices):
        if i is None:
            places.append(slice(None))
            continue
        wrong = (i < -x.shape[axis]) | (i >= x.shape[axis])
        bad = bad | wrong
        places.append(jnp.where(wrong, 0, i))
    return tuple(places), bad


INDEXING: Mapping[str, Entry] = MappingProxyType({
    "embedding.default": _embedding,
    "embedding_dense_backward.default": _embedding_backward,
    "gather.default": _gather,
    "index_select.default": _index_select,
    "index.Tensor": _index,
    "index_put.default": _index_put,
    "take.default": _take,
    "put.default": _put,
})  # fmt: skip
"""Operation -> entry."""
