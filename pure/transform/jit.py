"""Compilation that keeps functions pure: whole, or region by region, with or without donated storage.

A model's layers are the same code on different numbers. Compiled whole, a step of 24 layers takes four times as long
to compile as one of 6; compiled by regions (a layer, the loss, the update of a layer) each is compiled once and serves
all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.types import Tree

_COMPILE: ContextVar[Callable[[Region], Callable] | None] = ContextVar("compile_region", default=None)


@dataclass(frozen=True, eq=False)
class Region:
    """A function that `jit(..., regions=True)` compiles by itself; anywhere else it is the plain function.

    Two regions are never equal: its identity names the compiled code that belongs to it.
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
        donate: whether a donating `jit` may write into the first argument, for a caller that uses it for the last time.
            The function must return (new, rest), where `new` is like the first argument.

    Returns:
        A callable with the same meaning.
    """
    return Region(function, donate)


def regional() -> bool:
    """Says whether a `jit(..., regions=True)` is running, so that it pays to cut work into regions."""
    return not _inside_transform() and _COMPILE.get() is not None


def jit(function: Callable, *, donate: bool = False, regions: bool = False, backend: str = "inductor") -> Callable:
    """Compiles a pure function.

    Args:
        function: pure; (state, *rest) -> state when `donate`.
        donate: write each new leaf into the storage of the old state's leaf and return the old state: nothing is
            allocated twice and addresses stay put. The old numbers are gone; keep a clone if they are wanted.
        regions: compile every `region` inside by itself, instead of the whole as one graph.
        backend: "inductor", or "aot_eager", which traces and differentiates without generating code.

    Returns:
        A function with the same arguments and, within rounding, the same results.

    Raises:
        ValueError: when donating a state in which two leaves share storage (on the call).
    """
    options: dict[str, Any] = {"backend": backend, "fullgraph": True, "dynamic": False}
    if regions:
        return _by_region(function, donate, options)
    compiled = _compile(partial(_write_back, function) if donate else function, options)
    return partial(_donate, compiled) if donate else compiled


def _by_region(function: Callable, donate: bool, options: dict) -> Callable:
    """Runs the function eagerly, with every region inside it compiled once."""
    compiled: dict[Region, Callable] = {}

    def compiler(unit: Region) -> Callable:
        if unit not in compiled:
            target = partial(_write_first, unit.function) if donate and unit.donate else unit.function
            compiled[unit] = _compile(target, options)
        return compiled[unit]

    def run(*args: Any) -> Any:
        token = _COMPILE.set(compiler)
        try:
            return _write_back(function, *args) if donate else function(*args)
        finally:
            _COMPILE.reset(token)

    return partial(_donate, run) if donate else run


def _compile(function: Callable, options: dict[str, Any]) -> Callable:
    """Compiles a function under a code object of its own: Dynamo stops after eight variants of one code object."""

    def call(*args: Any) -> Any:
        return function(*args)

    code = call.__code__.replace(co_name=f"compiled_{id(function)}")
    return torch.compile(FunctionType(code, call.__globals__, closure=call.__closure__), **options)


def _donate(function: Callable, state: Tree, *rest: Any) -> Tree:
    """Refuses aliased storage, which would be silently wrong, then runs."""
    seen: dict[int, int] = {}
    values = tree.leaves(state)
    for i, x in enumerate(values):
        if x.numel() and seen.setdefault(x.untyped_storage().data_ptr(), i) != i:
            names = tree.paths(state)
            first, second = names[seen[x.untyped_storage().data_ptr()]], names[i]
            raise ValueError(
                f"jit(donate=True): {first} and {second} share storage, so writing one would change the other; "
                "clone one of them (pure.tree.clone copies a whole tree)"
            )
    function(state, *rest)
    return state


def _write_first(function: Callable, first: Tree, *rest: Any) -> tuple[Tree, Tree]:
    """`_write_back` for a region, which returns (new, rest)."""
    new, other = function(first, *rest)
    return _copy(first, new), other


def _write_back(function: Callable, state: Tree, *rest: Any) -> Tree:
    """Computes the new state, then copies each leaf into the old one's storage."""
    return _copy(state, function(state, *rest))


def _copy(state: Tree, new: Tree) -> Tree:
    """Copies leaf by leaf, after cloning those that another copy would overwrite before they are read."""
    old_leaves, new_leaves = tree.leaves(state), tree.leaves(new)
    fresh = [x.clone() if _is_another(x, i, old_leaves) else x for i, x in enumerate(new_leaves)]
    with torch.no_grad():
        for old, x in zip(old_leaves, fresh, strict=True):
            if old is not x:
                old.copy_(x)
    return state


def _is_another(x: Tensor, i: int, old: list[Tensor]) -> bool:
    """Whether a new leaf is, or is a view of, an old leaf elsewhere, which will be overwritten before it is read."""
    return any(x is y or x._base is y for j, y in enumerate(old) if j != i)


def _inside_transform() -> bool:
    """Under a compiler or a functorch transform a region is inlined."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
