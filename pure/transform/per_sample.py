"""Per-sample gradients: the gradient of each example, of which the batch's gradient is the sum.

Differential privacy clips them; gradient noise scale, influence functions and data selection compare them.

Shape letters: B batch, C examples at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from pure import tree
from pure.plural import count_noun
from pure.transform.accumulate import Loss, number_rows
from pure.transform.arguments import require
from pure.transform.memory import RowBytes, fit_rows, measure_rows
from pure.transform.modes import has_values
from pure.transform.per_sample_rows import (
    Check,
    RowLoss,
    Where,
    first_call_check,
    gradients_of_one,
    gradients_of_several,
    row_gradient,
    rows_from,
)
from pure.types import Tree

PlanChunk = Callable[[Tree, dict[str, Tensor], Tensor], int]
"""(params, batch, key) -> C."""


def per_sample_grad(
    loss: Loss,
    *,
    chunk: int | None = None,
    where: Where | None = None,
    memory: int | None = None,
    value: bool = False,
) -> Callable[..., Any]:
    """Returns a function that computes the gradient of each example.

        G[b] = ∂ sum(loss of example b) / ∂params,     Σ_b G[b] = the gradient of the batch's sum

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics), as in
            `pure.transform.accumulate.accumulate`; it gets each example as a batch of one.
        chunk: C, examples at a time, >= 1; None computes all at once. Activations are in memory for C
            examples. With 1, torch.func is not used, so that `remat` still saves memory,
            `jit(..., regions=True)` still compiles by layer, and modules with in-place operations work.
        where: (path, leaf) -> bool, such as `lambda path, x: "norm" in path`: the leaves that are
            differentiated. The others are constants, and cost no memory. None differentiates all.
        memory: bytes that the call may allocate, result included; C is the largest that stays below. The
            first two rows of the first batch of a shape are computed once more for it, and their peak
            counted.
        value: return the loss of each example too, without a second forward pass.

    Returns:
        (params, batch, key) -> grads: a tree like the params, each leaf with a leading [B] axis: B times the
        memory of the params; `None` for leaves that `where` leaves out, as in `tree.partition`. With `value`,
        (values [B], grads). The batch is a dict of tensors [B, ...]; "batch_position" (each example's
        index) is added where it is missing, so that dropout masks are those of the whole batch.

    Edge cases: a last chunk may be shorter; `None` in params or batch passes unchanged.

    Raises:
        ValueError: if chunk or memory < 1, or both are given (at once); if the batch has no rows, or its
            leaves differ in their number of rows; if `where` matches no leaf; if one row takes more than
            `memory`, or a shape is new inside a compiler or transform, where nothing can be measured; if the
            loss of two examples is not the sum of their losses (checked in the first call on values of two
            rows or more, with the first two).
        RuntimeError: if torch.func.vmap cannot run the loss, as with in-place operations of a module.

    Example:
        The loss is w x; its gradient for each example is x.

        >>> def loss(w, batch, key):
        ...     return (w * batch["x"]).sum(), torch.tensor(1.0), {}
        >>> batch = {"x": torch.tensor([1.0, 2.0])}
        >>> per_sample_grad(loss)(torch.tensor(3.0), batch, torch.tensor([0, 0]))
        tensor([1., 2.])
        >>> per_sample_grad(loss, value=True)(torch.tensor(3.0), batch, torch.tensor([0, 0]))
        (tensor([3., 6.]), tensor([1., 2.]))

    Source: the vmap of a gradient, as in Subramani et al., "Enabling Fast Differentially Private SGD via
    Just-in-Time Compilation and Vectorization", 2021.
    """
    function = _values_and_grads if value else _grads
    return _over_chunks(RowLoss("per_sample_grad", loss, where), function, chunk, memory, given="loss")


def per_sample_map(
    loss: Loss,
    function: Callable[[Tree], Tree],
    *,
    chunk: int | None = None,
    where: Where | None = None,
    memory: int | None = None,
) -> Callable[..., Tree]:
    """Returns a function that reduces the gradients of C examples at a time: norms, products, projections.

        out[i:i+C] = function(G[i:i+C]),  i = 0, C, 2C ...

    The gradients of all examples are never in memory together, as `function` is called after each chunk.

    Args:
        loss: as in `per_sample_grad`.
        function: grads with a leading [C] axis -> a tree of tensors with the same leading axis.
        chunk, where, memory: as in `per_sample_grad`.

    Returns:
        (params, batch, key) -> the results of all examples, [B, ...].

    Raises:
        ValueError: as `per_sample_grad`.
        RuntimeError: as `per_sample_grad`.

    Example:
        Gradients 1 and 2, and their squared norms.

        >>> def loss(w, batch, key):
        ...     return (w * batch["x"]).sum(), torch.tensor(1.0), {}
        >>> squares = per_sample_map(loss, lambda grads: grads.square(), chunk=1)
        >>> squares(torch.tensor(3.0), {"x": torch.tensor([1.0, 2.0])}, torch.tensor([0, 0]))
        tensor([1., 4.])
    """
    reduced = lambda values, grads: function(grads)  # noqa: E731
    return _over_chunks(
        RowLoss("per_sample_map", loss, where), reduced, chunk, memory, given="loss, function"
    )


def per_sample_fold(
    loss: Loss, function: Callable[..., Any], *, where: Where | None = None, value: bool = False
) -> Callable[..., Any]:
    """Returns a function that folds `function` over the examples' gradients, one in memory at a time.

    All gradients take B times the memory of the params. Most results are small (norms, the sum after
    clipping, products with a direction) and need one gradient at a time.

        carry ← function(carry, G[b]),  b = 0 ... B - 1

    Args:
        loss: as in `per_sample_grad`.
        function: (carry, grads like the params) -> carry; carry is anything. With `value`, (carry, value [],
            grads) -> carry.
        where, value: as in `per_sample_grad`.

    Returns:
        (params, batch, key, start) -> carry, with carry = start before the first example.

    Raises:
        ValueError: on the call, as `per_sample_grad`.

    Example:
        Gradients 1, 2 and 9, each clipped to 3 at most, have the sum 6.

        >>> def loss(w, batch, key):
        ...     return (w * batch["x"]).sum(), torch.tensor(1.0), {}
        >>> clipped = per_sample_fold(loss, lambda total, g: total + g.clamp(max=3.0))
        >>> batch = {"x": torch.tensor([1.0, 2.0, 9.0])}
        >>> clipped(torch.tensor(1.0), batch, torch.tensor([0, 0]), torch.tensor(0.0))
        tensor(6.)

    Source: Abadi et al., "Deep Learning with Differential Privacy", 2016, algorithm 1, a fold that clips and
    adds.
    """
    step = function if value else lambda carry, value, grads: function(carry, grads)
    rows = RowLoss("per_sample_fold", loss, where)
    folded = partial(_per_sample_fold, rows, step, first_call_check(rows))
    return require("per_sample_fold(loss, function)", "params, batch, key, start", folded)


def _per_sample_fold(
    rows: RowLoss,
    function: Callable,
    check: Check,
    params: Tree,
    batch: dict[str, Tensor],
    key: Tensor,
    start: Any,
) -> Any:
    """Folds over the examples in order."""
    batch, carry = number_rows(rows.caller, batch), start
    check(params, batch, key)
    for i in range(len(batch["batch_position"])):
        carry = function(carry, *row_gradient(rows, params, rows_from(batch, i, 1), key))
    return carry


def _over_chunks(
    rows: RowLoss, function: Callable, chunk: int | None, memory: int | None, *, given: str
) -> Callable:
    """Checks the choices, and binds `_per_sample_map`; `given` names the caller's arguments in an error."""
    for name, number, unit in (("chunk", chunk, "example"), ("memory", memory, "byte")):
        if number is not None and number < 1:
            raise ValueError(f"{rows.caller}: {name} must be at least 1 {unit}, got {number}")
    if chunk is not None and memory is not None:
        raise ValueError(f"{rows.caller}: chunk={chunk} and memory={memory} are two choices of C; give one")
    plan: PlanChunk = lambda params, batch, key: chunk or len(batch["batch_position"])  # noqa: E731
    if memory is not None:
        plan = _plan_by_memory(rows, function, memory)
    mapped = partial(_per_sample_map, rows, function, plan, first_call_check(rows))
    return require(f"{rows.caller}({given})", "params, batch, key", mapped)


def _per_sample_map(
    rows: RowLoss,
    function: Callable,
    plan: PlanChunk,
    check: Check,
    params: Tree,
    batch: dict[str, Tensor],
    key: Tensor,
) -> Tree:
    """Applies the function to the values and gradients of each chunk.

    Steps:
        1. Number the rows; check the loss, once; choose C.
        2. Split the batch into chunks; C = 1 is a plain gradient, C > 1 is one under vmap.
        3. Copy each chunk's result into the whole, which is allocated once.
    """
    # 1. Rows.
    batch = number_rows(rows.caller, batch)
    count = len(batch["batch_position"])
    check(params, batch, key)
    size = plan(params, batch, key)
    # 2. Chunks.
    compute = gradients_of_one if size == 1 else gradients_of_several
    if size >= count:
        whole = function(*compute(rows, params, batch, key))
        _check_axis(rows.caller, whole, count)
        return whole
    # 3. Result.
    out: Tree = None
    for i in range(0, count, size):
        part = function(*compute(rows, params, rows_from(batch, i, size), key))
        _check_axis(rows.caller, part, min(size, count - i))
        if out is None:
            out = tree.map(lambda x: x.new_empty((count, *x.shape[1:])), part)
        tree.map(Tensor.copy_, rows_from(out, i, size), part)
        del part
    return out


def _plan_by_memory(rows: RowLoss, function: Callable, memory: int) -> PlanChunk:
    """Makes a function that chooses C by `memory`; it measures a row once for each shape of the rows."""
    measured: dict[tuple, RowBytes] = {}

    def plan(params: Tree, batch: dict[str, Tensor], key: Tensor) -> int:
        shapes = tuple((tuple(x.shape[1:]), x.dtype) for x in tree.leaves(batch))
        count = len(batch["batch_position"])

        def compute(size: int) -> Tree:
            return function(*gradients_of_several(rows, params, rows_from(batch, 0, size), key))

        if shapes not in measured:
            if not has_values((params, batch, key)):
                raise ValueError(
                    f"{rows.caller}: memory={memory} needs a measured row, which compilers and transforms do "
                    "not allow; call it once on values before, with rows of this shape, or give chunk="
                )
            measured[shapes] = measure_rows(compute, count)
        numbering = tree.nbytes(batch["batch_position"])
        return _fitting_chunk(rows.caller, measured[shapes], count, memory, numbering)

    return plan


def _fitting_chunk(caller: str, needs: RowBytes, rows: int, memory: int, used: int) -> int:
    """Chooses C, or says what one row takes."""
    if size := fit_rows(needs, rows, memory - used):
        return size
    results = needs.result * rows
    raise ValueError(
        f"{caller}: memory={memory} is too little: one row takes {needs.first} bytes, and the results of "
        f"{count_noun(rows, 'row')} {results}; give at least {needs.first + results + used}, fewer rows, a "
        "part of the params (where=), or use per_sample_fold"
    )


def _check_axis(caller: str, results: Tree, rows: int) -> None:
    """Refuses results without one entry for each row."""
    for path, x in zip(tree.paths(results), tree.leaves(results), strict=True):
        if not x.ndim or len(x) != rows:
            raise ValueError(
                f"{caller}: function must return one result for each of {count_noun(rows, 'row')}, got "
                f"{list(x.shape)}{' at ' + repr(path) if path else ''}; reduce the axes from 1 on"
            )


def _values_and_grads(values: Tensor, grads: Tree) -> tuple[Tensor, Tree]:
    """Returns both."""
    return values, grads


def _grads(values: Tensor, grads: Tree) -> Tree:
    """Returns the gradients."""
    return grads
