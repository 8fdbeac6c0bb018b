"""Layer by layer: the params of a loss are rows, and a layer is whole only while it is computed.

A layer is gathered before its forward pass, and given up after it: what autograd keeps of it are its rows,
from which it is gathered again in the backward pass. Its gradient becomes rows of the sum over processes as
soon as it is there. No collective overlaps with computing.

Shape letters: S rows of a leaf, n processes, P bytes of the params.

Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.parallel.dtensor import is_dtensor
from pure.parallel.group import Group, data_group
from pure.parallel.row_collectives import all_gather_rows, reduce_scatter_rows
from pure.parallel.rows import gather, group_of_rows, local
from pure.transform.by_layer import layer_name
from pure.transform.modes import is_forward_mode
from pure.transform.precision import cast_dtype, compute_dtype
from pure.types import Tree

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

LAYER = 1 << 62
"""Bytes of a bucket of a layer: all of it, as it is whole in memory anyway, and a collective has a cost."""

REFUSED = (
    "sharded(layers=True): a leaf of params is this process's rows, which only the layers of "
    "pure.nn.transformer, and adapters or heads of such a model, gather; this loss or model reads it itself: "
    "use layers=False"
)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a leaf in its place, in the params of a loss; whatever else than a layer reads it is refused.

    Fields:
        local: [rows of this process, ...], the leaf that is differentiated.
        size: S.
        dtype: that the rows are gathered in; their gradients are summed in that of `local`.
        group: the processes.
        memo: the whole leaf, once `gather_node` has gathered it.
    """

    local: Tensor
    size: int
    dtype: torch.dtype
    group: Group
    memo: list = field(default_factory=list)

    def is_floating_point(self) -> bool:
        """Checks the dtype, as of a tensor, for `tree.cast`."""
        return self.dtype.is_floating_point

    def to(self, dtype: torch.dtype) -> Rows:
        """Returns the same rows, to be gathered in another dtype."""
        return replace(self, dtype=dtype, memo=[])

    def with_rows(self, rows: Tensor) -> Rows:
        """Returns the same leaf with other rows, such as those that `remat` differentiates."""
        return replace(self, local=rows, memo=[])

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{REFUSED} (its {name})")

    @classmethod
    def __torch_function__(cls, function: Callable, *_: Any, **__: Any) -> Any:
        raise TypeError(f"{REFUSED} ({getattr(function, '__name__', function)})")


class Saved(NamedTuple):
    """A tensor that autograd saved, as a view of the whole `leaf` of a layer."""

    leaf: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Plan of a gathering.

    Fields:
        group: the processes.
        sizes: S of each leaf; None for leaves [], which all processes hold.
        dtypes: that the leaves are gathered, or summed, in.
        bucket: bytes that one collective takes, about; None: 32 MB.
    """

    group: Group
    sizes: tuple[int | None, ...]
    dtypes: tuple[torch.dtype, ...]
    bucket: int | None = None


def loss_on_rows(
    loss: Callable, like: Tree, params: Tree, batch: Tree, key: Tensor | None
) -> tuple[Tensor, Tensor, dict]:
    """Compute a loss whose params are this process's rows.

    Leaves outside all layers (embedding, norm, head) are gathered once, before the loss, in the dtype that it
    computes in; those of a layer are given to it as `Rows`.

    Args:
        loss: of whole params.
        like: the params as DTensors, for their shapes and processes.
        params: tree like it, of this process's rows; its gradient is that of the sum over all processes.
        batch, key: of the loss.

    Returns:
        The result of the loss, of this process's batch.

    Raises:
        ValueError: if the loss or its model reads a leaf of a layer itself.
    """
    group = group_of_rows(like)
    paths, wholes, (leaves, spec) = tree.paths(like), tree.leaves(like), tree.flatten(params)
    outside = [i for i, path in enumerate(paths) if not wholes[i].ndim or not layer_name(path)]
    for i, x in enumerate(leaves):
        if wholes[i].ndim and i not in outside:
            leaves[i] = Rows(x, wholes[i].shape[0], x.dtype, group)
    sizes = tuple(wholes[i].shape[0] if wholes[i].ndim else None for i in outside)
    compute = compute_dtype(loss)
    plan = Plan(group, sizes, tuple(cast_dtype(leaves[i].dtype, compute) for i in outside))
    for i, x in zip(outside, gather_with_gradient(plan, [leaves[i] for i in outside]), strict=True):
        leaves[i] = x
    try:
        return loss(tree.unflatten(spec, leaves), batch, key)
    except (TypeError, AttributeError, RuntimeError) as error:
        if "Rows" not in str(error) and REFUSED not in str(error):
            raise
        raise ValueError(str(error) if REFUSED in str(error) else f"{REFUSED} ({error})") from error


def gather_layers(layer: Callable, layers: Tree) -> Callable:
    """Return a layer function that gathers its params where they are rows; the same one where they are whole.

    Args:
        layer: (params of a layer, *rest) -> tree of tensors.
        layers: params of all layers.

    Returns:
        A function of the same arguments. Bytes received by a process for each layer: (n - 1)/n of its params
        in the forward pass, as much in the backward pass, and as much for its gradient.

    Source: Zhao et al. 2023, section 3 (full sharding).
    """
    if torch.compiler.is_compiling() or not _row_indices(tree.leaves(layers)):
        return layer
    newest: dict[int, list[Tensor]] = {}  # the layer that was gathered last in the backward pass

    def call(params: Tree, *rest: Any) -> Any:
        return _call_whole(layer, newest, params, *rest)

    return call


def gather_node(node: Tree) -> Tree:
    """Return a part of params with whole leaves, gathered once in a loss; the same tree if they are whole.

    Args:
        node: tree of tensors, DTensors (frozen) and Rows.

    Returns:
        A tree of tensors.
    """
    if torch.compiler.is_compiling():
        return node
    leaves, spec = tree.flatten(node)
    missing = [i for i in _row_indices(leaves) if not (isinstance(leaves[i], Rows) and leaves[i].memo)]
    for i, x in zip(missing, _gather_leaves([leaves[i] for i in missing]), strict=True):
        if isinstance(leaves[i], Rows) and torch.is_grad_enabled():  # else the gradient would be lost
            leaves[i].memo.append(x)
        leaves[i] = x
    return tree.unflatten(spec, [x.memo[0] if isinstance(x, Rows) else x for x in leaves])


def gather_for_model(params: Tree) -> Tree:
    """Return params for a function without gradient in the running step: whole, gathered once.

    Where the model gathers layer by layer (`Group.layers`), leaves of layers stay cut.
    """
    group = data_group()
    if group is None or not group.layers:
        return gather(params)
    leaves, spec = tree.flatten(params)
    outside = [i for i, path in enumerate(tree.paths(params)) if not layer_name(path)]
    for i, x in zip(outside, gather([leaves[i] for i in outside]), strict=True):
        leaves[i] = x
    return tree.unflatten(spec, leaves)


def gather_with_gradient(plan: Plan, rows: Sequence[Tensor]) -> list[Tensor]:
    """Return whole leaves, whose gradients are summed over processes and cut.

        whole = all rows of all processes;    ∂/∂ rows of r = Σ_q ∂_q / ∂whole  [rows of r]

    Args:
        plan: see Plan.
        rows: this process's rows of each leaf, or a leaf [].

    Returns:
        [S, ...] of each leaf, in the dtypes of the plan.

    Raises:
        RuntimeError: under vmap.
    """
    if not rows:
        return []
    if torch.is_grad_enabled() and any(x.requires_grad for x in rows):
        return list(_Gather.apply(plan, *rows))
    if torch._C._are_functorch_transforms_active():
        return list(_Gather.apply(plan, *rows))
    return _gather_plainly(plan, rows)


class _Gather(torch.autograd.Function):
    """Rows -> whole leaves; its derivative is `_Scatter`. (torch requires a class.)"""

    @staticmethod
    def forward(plan: Plan, *rows: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            y.view_as(y) if y is x else y for x, y in zip(rows, _gather_plainly(plan, rows), strict=True)
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.plan, *rows = inputs
        ctx.dtypes = tuple(x.dtype for x in rows)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        return (None, *_Scatter.apply(replace(ctx.plan, dtypes=ctx.dtypes), *cotangents))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> Any:
        raise _no_vmap()


class _Scatter(torch.autograd.Function):
    """whole -> this process's rows of their sums, in the plan's dtypes; derivative: `_Gather`."""

    @staticmethod
    def forward(plan: Plan, *wholes: Tensor) -> tuple[Tensor, ...]:
        sums = reduce_scatter_rows(plan.group, wholes, dtypes=plan.dtypes, bucket=plan.bucket)
        return tuple(y.view_as(y) if y is x else y for x, y in zip(wholes, sums, strict=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.plan = replace(inputs[0], dtypes=tuple(x.dtype for x in inputs[1:]))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        return (None, *_Gather.apply(ctx.plan, *cotangents))

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> Any:
        raise _no_vmap()


def _gather_plainly(plan: Plan, rows: Sequence[Tensor]) -> list[Tensor]:
    """Gathers rows; leaves [] pass."""
    cast = [x.to(dtype) for x, dtype in zip(rows, plan.dtypes, strict=True)]
    cut = [i for i, size in enumerate(plan.sizes) if size is not None]
    sizes = [size for size in plan.sizes if size is not None]
    wholes = all_gather_rows(plan.group, [cast[i] for i in cut], sizes, bucket=plan.bucket)
    for i, x in zip(cut, wholes, strict=True):
        cast[i] = x
    return cast


def _gather_leaves(leaves: Sequence[Rows | DTensor]) -> list[Tensor]:
    """Gathers Rows with a gradient, DTensors without."""
    gathered: dict[int, Tensor] = {}
    for with_gradient in (True, False):
        chosen = [i for i, x in enumerate(leaves) if isinstance(x, Rows) == with_gradient]
        if chosen:
            plan, own = _plan([leaves[i] for i in chosen])
            gathered |= dict(zip(chosen, gather_with_gradient(plan, own), strict=True))
    return [gathered[i] for i in range(len(leaves))]


def _plan(leaves: Sequence[Rows | DTensor]) -> tuple[Plan, list[Tensor]]:
    """The plan of leaves of one kind, and their rows."""
    first = leaves[0]
    group = first.group if isinstance(first, Rows) else group_of_rows(list(leaves))
    sizes = tuple(x.size if isinstance(x, Rows) else x.shape[0] for x in leaves)
    own = [x.local if isinstance(x, Rows) else local(x).detach() for x in leaves]
    return Plan(group, sizes, tuple(x.dtype for x in leaves), LAYER), own


def _row_indices(leaves: Sequence[Any]) -> list[int]:
    """Indices of the leaves that are rows."""
    return [i for i, x in enumerate(leaves) if isinstance(x, Rows) or is_dtensor(x)]


def _call_whole(layer: Callable, newest: dict[int, list[Tensor]], params: Tree, *rest: Any) -> Any:
    """Calls a layer with whole params, of which autograd saves the rows."""
    leaves, spec = tree.flatten(params)
    chosen = _row_indices(leaves)
    cut = [leaves[i] for i in chosen]
    wholes = _gather_leaves(cut)
    for i, x in zip(chosen, wholes, strict=True):
        leaves[i] = x
    params = tree.unflatten(spec, leaves)
    if not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active() or is_forward_mode():
        return layer(params, *rest)
    index = {x.untyped_storage().data_ptr(): i for i, x in enumerate(wholes) if x.numel()}
    facts = [(x.dtype, int(x.storage_offset())) for x in wholes]
    number = id(cut)

    def pack(x: Tensor) -> Tensor | Saved:
        i = index.get(x.untyped_storage().data_ptr()) if x.numel() else None
        if i is None or x.dtype != facts[i][0]:
            return x
        return Saved(i, tuple(x.shape), x.stride(), int(x.storage_offset()) - facts[i][1])

    def unpack(saved: Tensor | Saved) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        if number not in newest:
            newest.clear()
            with torch.no_grad():
                newest[number] = _gather_leaves(cut)
        x = newest[number][saved.leaf]
        return x.as_strided(saved.size, saved.stride, x.storage_offset() + saved.offset)

    del leaves, wholes
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return layer(params, *rest)


def _no_vmap() -> RuntimeError:
    """The error for vmap, whose members would each be gathered."""
    return RuntimeError(
        "sharded(layers=True): params in rows cannot be vmapped, as their collectives have no members; vmap "
        "the plain stage, or its loss"
    )
