"""The table of operations: for each ATen overload, a function of jax that computes it.

The graph that an entry serves is functional (no operation writes into its arguments) and has torch's shapes
and dtypes on every node; `entry(out, *args, **kwargs)` returns exactly these. Arguments are those of the
graph: arrays of jax for nodes, numbers, lists of them, and the names of dtypes and devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pure.interop.jax.aten.activation import ACTIVATION
from pure.interop.jax.aten.arithmetic import ARITHMETIC
from pure.interop.jax.aten.comparison import COMPARISON
from pure.interop.jax.aten.creation import CREATION
from pure.interop.jax.aten.crossing import CROSSING
from pure.interop.jax.aten.decomposition import DECOMPOSITION
from pure.interop.jax.aten.indexing import INDEXING
from pure.interop.jax.aten.loss import LOSS
from pure.interop.jax.aten.norm import NORM
from pure.interop.jax.aten.order import ORDER
from pure.interop.jax.aten.piecewise import PIECEWISE
from pure.interop.jax.aten.product import PRODUCT
from pure.interop.jax.aten.reduction import REDUCTION
from pure.interop.jax.aten.result import Entry, Out
from pure.interop.jax.aten.scatter import SCATTER
from pure.interop.jax.aten.shape import SHAPE
from pure.interop.jax.aten.special import SPECIAL
from pure.interop.jax.aten.threefry import THREEFRY
from pure.interop.jax.aten.unary import UNARY

__all__ = ["TABLE", "Entry", "Out"]

TABLE: Mapping[str, Entry] = MappingProxyType({
    **ARITHMETIC,
    **UNARY,
    **COMPARISON,
    **ACTIVATION,
    **SHAPE,
    **CREATION,
    **REDUCTION,
    **ORDER,
    **PRODUCT,
    **DECOMPOSITION,
    **INDEXING,
    **SCATTER,
    **SPECIAL,
    **PIECEWISE,
    **NORM,
    **LOSS,
    **CROSSING,
    **THREEFRY,
})  # fmt: skip
"""Name of an overload without its namespace, as "mul.Tensor" -> entry."""
