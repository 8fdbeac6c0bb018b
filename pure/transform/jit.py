"""Compilation of pure functions: as a whole or by regions, with or without donated storage.

A model's layers are the same code on different weights. Compiled as a whole, a step of 24 layers takes four
times as long to compile as one of 6; by regions (a layer, the loss, the update of a layer) each is compiled
once and used for all layers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pure import tree
from pure.parallel.rows import is_cut, local
from pure.transform.trace import trace_and_compile
from pure.types import Tree

Function = TypeVar("Function", bound=Callable)

_COMPILE: ContextVar[Callable[[Region], Callable] | None] = ContextVar("compile_region", default=None)


@dataclass(frozen=True, eq=False)
class Region:
    """A function that `jit(..., regions=True)` compiles separately; elsewhere it is the plain function.

    Two regions are never equal: compiled code is stored by the region's identity.
    """

    function: Callable
    donate: bool = False

    def __call__(self, *args: Any) -> Any:
        compiler = _COMPILE.get() if regional() else None
        return (compiler(self) if compiler else self.function)(*args)


def region(function: Callable, *, donate: bool = False) -> Region:
    """Marks a function as a unit of compilation.

    Args:
        function: pure, of positional trees of tensors.
        donate: let a donating `jit` write into the first argument, if the caller no longer uses it. The
            function must return (new, rest), where `new` is like the first argument, and is never
            differentiated while it runs compiled.

    Returns:
        An equal callable.
    """
    return Region(function, donate)


def regional() -> bool:
    """Reports if a `jit(..., regions=True)` is running, which compiles regions."""
    return not _inside_transform() and _COMPILE.get() is not None


def outside(function: Callable, *args: Any, **options: Any) -> Any:
    """Calls a function as if no `jit(..., regions=True)` were running.

    For a part of a step that is compiled differently, or whose shapes change too often: rollouts inside a
    step of reinforcement learning.

    Args:
        function: any callable.
        args, options: its arguments.

    Returns:
        Its result.

    Example:
        >>> outside(max, 1, 2)
        2
    """
    if not regional():
        return function(*args, **options)
    token = _COMPILE.set(None)
    try:
        return function(*args, **options)
    finally:
        _COMPILE.reset(token)


def jit(
    function: Function,
    *,
    donate: bool = False,
    regions: bool = False,
    backend: str | Callable = "inductor",
    checked: bool = True,
) -> Function:
    """Compiles a pure function.

    Args:
        function: pure; (state, *rest) -> state when `donate`.
        donate: write each new leaf into the storage of the old state's leaf (a process's rows of it, in a
            sharded stage) and return the old state: nothing is allocated twice and addresses do not change.
            The old values are overwritten; clone them first if they are needed.
        regions: compile every `region` inside separately, instead of the whole as one graph.
        backend: "inductor", or "aot_eager", which traces and differentiates without generating code.
        checked: compare the arguments of each call with those of the first (3 µs per tensor, too slow for
            small steps), and compile again if they differ. Set it to False only if structure, shapes, types
            and aliasing of the arguments never change.

    Returns:
        A function with the same arguments and, within rounding, the same results.

    Raises:
        ValueError: for regions that are not checked; on the call, when donating a state in which two leaves
            share storage, or for a state that is cut into rows and not compiled by regions.
    """
    options: dict[str, Any] = {"backend": backend, "fullgraph": True, "dynamic": False}
    if not checked:
        options["options"] = {"guard_filter_fn": _no_guard}
    if regions and not checked:
        raise ValueError("jit: checked=False is for whole functions; with regions=True leave checked=True")
    if regions:
        return cast(Function, _by_region(function, donate, options))
    compiled: Callable = _compile(partial(_write_back, function) if donate else function, options)
    if checked:
        compiled = partial(_refuse_rows, compiled)
    return cast(Function, partial(_donate, compiled, checked) if donate else compiled)


def _refuse_rows(compiled: Callable, *args: Any) -> Any:
    """Calls a function that is compiled as a whole, unless a leaf is cut into rows."""
    if is_cut(args):
        raise ValueError(
            "jit: the arguments are cut into rows over processes (stages.sharded), which torch.compile "
            "cannot trace as a whole; write jit(..., regions=True)"
        )
    return compiled(*args)


def _no_guard(entries: Any) -> list[bool]:
    """Disables all of torch's guards."""
    return [False for _ in entries]


def _by_region(function: Callable, donate: bool, options: dict) -> Callable:
    """Returns a function that runs eagerly, with every region inside compiled once."""
    compiled: dict[Region, Callable] = {}

    def compiler(unit: Region) -> Callable:
        if unit not in compiled:
            if donate and unit.donate:
                write = trace_and_compile(partial(_write_back_region, unit.function), options["backend"])
                compiled[unit] = partial(_run_donating, write)
            elif unit.donate:
                compiled[unit] = trace_and_compile(unit.function, options["backend"])
            else:
                compiled[unit] = _compile(unit.function, options)
        return compiled[unit]

    def run(*args: Any) -> Any:
        token = _COMPILE.set(compiler)
        try:
            return _write_back(function, *args) if donate else function(*args)
        finally:
            _COMPILE.reset(token)

    return partial(_donate, run, True) if donate else run


def _compile(function: Callable, options: dict[str, Any]) -> Callable:
    """Compiles a function with its own code object: Dynamo stops after eight variants of one code object."""

    def call(*args: Any) -> Any:
        return function(*args)

    code = call.__code__.replace(co_name=f"compiled_{id(function)}")
    return torch.compile(FunctionType(code, call.__globals__, closure=call.__closure__), **options)


def _donate(function: Callable, checked: bool, state: Tree, *rest: Any) -> Tree:
    """Runs, and returns the old state, which now holds the new values (of its rows, if it is cut)."""
    values = tree.leaves(local(state))
    if checked:
        _refuse_shared(state, values)
    _write_swapped(values, function(state, *rest))
    return state


def _refuse_shared(state: Tree, values: list[Tensor]) -> None:
    """Refuses aliased storage, for which the results would be silently wrong."""
    seen: dict[int, int] = {}
    for i, x in enumerate(values):
        if x.numel() and seen.setdefault(x.untyped_storage().data_ptr(), i) != i:
            names = tree.paths(state)
            first, second = names[seen[x.untyped_storage().data_ptr()]], names[i]
            raise ValueError(
                f"jit(donate=True): {first} and {second} share storage, so writing one would change the "
                "other; clone one of them (pure.tree.clone copies a whole tree)"
            )


def _run_donating(function: Callable, first: Tree, *rest: Any) -> tuple[Tree, Tree]:
    """Runs a donating region, then its remaining writes."""
    swapped, other = function(first, *rest)
    _write_swapped(tree.leaves(first), swapped)
    return first, other


def _write_back_region(function: Callable, first: Tree, *rest: Any) -> tuple[list[Tensor | None], Tree]:
    """`_write_back` for a region, which returns (new, rest)."""
    new, other = function(first, *rest)
    return _copy(first, new), other


def _write_back(function: Callable, state: Tree, *rest: Any) -> list[Tensor | None]:
    """Computes the new state, and copies each leaf into the old one's storage."""
    return _copy(state, function(state, *rest))


def _copy(state: Tree, new: Tree) -> list[Tensor | None]:
    """Copies leaf by leaf, except leaves that swap storage: these are returned, for `_write_swapped`.

    (A compiler may drop the clone that a swap needs: Inductor makes a <- b, b <- a of two copied clones.)
    """
    old_leaves, new_leaves = tree.leaves(local(state)), tree.leaves(local(new))
    swapping = _find_swapping(old_leaves, new_leaves)
    with torch.no_grad():
        for i, (old, x) in enumerate(zip(old_leaves, new_leaves, strict=True)):
            if old is not x and i not in swapping:
                old.copy_(x)
    if not swapping:
        return []
    return [x if i in swapping else None for i, x in enumerate(new_leaves)]


def _find_swapping(old: list[Tensor], new: list[Tensor]) -> set[int]:
    """Indices of leaves whose new value is another old leaf or a view of one, and of those old leaves."""
    bases = [_base_of(x) for x in old]
    changed = [(i, _base_of(x)) for i, x in enumerate(new) if x is not old[i]]
    if not torch.compiler.is_compiling():  # few are views of an old leaf, and comparing all pairs takes long
        known = {id(base) for base in bases}
        changed = [(i, base) for i, base in changed if id(base) in known]
    pairs = [(i, j) for i, base in changed for j, other in enumerate(bases) if base is other]
    return {i for pair in pairs for i in pair}


def _base_of(x: Tensor) -> Tensor:
    """The base of a view, or x itself."""
    return x if x._base is None else x._base


def _write_swapped(old: list[Tensor], swapped: list[Tensor | None]) -> None:
    """Clones all leaves that swap storage, then writes them."""
    clones = [(y, x.clone()) for y, x in zip(old, swapped, strict=False) if x is not None]
    with torch.no_grad():
        for y, x in clones:
            y.copy_(x)


def _inside_transform() -> bool:
    """Reports a compiler, a tracer or a functorch transform, in which a region is inlined."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or get_proxy_mode() is not None
    )
