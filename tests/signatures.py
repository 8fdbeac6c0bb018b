"""Checks types and shapes whenever a function of `pure` that documents shapes is called, under pytest only.

Types come from the annotations, and shapes from the docstring: a parameter `x: Tensor` with the line
"x: [B, T, D] float32, ..." under Args is checked as jaxtyping's `Float32[Tensor, "B T D"]`, and so is the
result if Returns begins with a shape. A letter means the same length throughout a call, so a docstring with a
wrong shape fails. Arguments of the same types, shapes and dtypes as in an earlier call that passed are not
checked again: a check takes longer than a step's smallest functions.

jaxtyping's own import hook is not used, because a compiled step would trace beartype's generated code. The
wrapper here branches on `is_compiling()`, which is a constant to Dynamo, so `fullgraph=True` works. It keeps
the function's globals, by which doctest recognises that a function belongs to its module.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import inspect
import re
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import beartype
import jaxtyping
import torch
from torch import Tensor

from tests.rules.docstrings import section

DTYPES: Mapping[str, Any] = {
    "bool": jaxtyping.Bool,
    "float": jaxtyping.Float,
    "float32": jaxtyping.Float32,
    "float64": jaxtyping.Float64,
    "int32": jaxtyping.Int32,
    "int64": jaxtyping.Int64,
    "integers": jaxtyping.Integer,
    "uint8": jaxtyping.UInt8,
    "uint32": jaxtyping.UInt32,
}
SHAPE_PATTERN = r"\[([^\]]*)\](?! or \[) ?(\w*)"

# An int passes as a float, and a violation raises TypeError, as in Python itself.
BEARTYPE_CONFIG = beartype.BeartypeConf(is_pep484_tower=True, violation_type=TypeError)


def add_checks(function: types.FunctionType) -> types.FunctionType:
    """Return the function with checks of its arguments and result, which are skipped during compilation."""
    with_shapes = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    with_shapes.__module__, with_shapes.__qualname__ = function.__module__, function.__qualname__
    with_shapes.__kwdefaults__ = function.__kwdefaults__
    with_shapes.__annotations__ = function.__annotations__ | shape_annotations(function)
    checked = jaxtyping.jaxtyped(with_shapes, typechecker=beartype.beartype(conf=BEARTYPE_CONFIG))
    is_compiling = torch.compiler.is_compiling
    passed: set[tuple] = set()

    def check(args: tuple, kwargs: dict[str, Any]) -> Any:
        kinds = tuple(map(kind_of, args)), tuple((name, kind_of(x)) for name, x in kwargs.items())
        if kinds in passed:
            return function(*args, **kwargs)
        result = checked(*args, **kwargs)
        passed.add(kinds)
        return result

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if is_compiling() else check(args, kwargs)

    # Each wrapper gets its own code object, because Dynamo limits recompilations per code object.
    code = wrapper.__code__.replace(
        co_name=function.__name__, co_firstlineno=function.__code__.co_firstlineno
    )
    wrapped = types.FunctionType(code, function.__globals__, closure=wrapper.__closure__)
    return functools.update_wrapper(wrapped, function)  # type: ignore[return-value]


def kind_of(value: Any) -> Any:
    """Return what a check reads of an argument: shape and dtype of a tensor, the type of anything else."""
    return (value.shape, value.dtype) if isinstance(value, Tensor) else type(value)


def shape_annotations(function: Callable) -> dict[str, Any]:
    """Return annotations with shapes for those parameters that are annotated as Tensor and whose shape the
    docstring gives, and for the result likewise."""
    text = inspect.getdoc(function)
    lines = re.findall(rf"^(\w+(?:, \w+)*): {SHAPE_PATTERN}", section(text, "Args") or "", re.MULTILINE)
    documented = {name: (dims, dtype) for names, dims, dtype in lines for name in names.split(", ")}
    if result := re.match(SHAPE_PATTERN, (section(text, "Returns") or "").strip()):
        documented["return"] = (result[1], result[2])
    shaped: dict[str, Any] = {}
    for name, (dims, dtype) in documented.items():
        annotated = function.__annotations__.get(name)
        if annotated == "Tensor":
            shaped[name] = jaxtyping_type(dims, dtype)
        elif annotated == "Tensor | None":
            shaped[name] = jaxtyping_type(dims, dtype) | None
    return shaped


def jaxtyping_type(dims: str, dtype: str) -> Any:
    """Turns "B, T, D" and "float32" into a jaxtyping type. A length that is a formula ("H/2") is not
    checked."""
    parts = [part.strip() for part in dims.split(",") if part.strip()]
    lengths = [part if re.fullmatch(r"\.\.\.|[A-Za-z]\w*|\d+", part) else "_" for part in parts]
    return DTYPES.get(dtype, jaxtyping.Shaped)[Tensor, " ".join(lengths)]


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a module and adds checks to every function in it whose docstring gives a shape."""

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        for name, value in list(vars(module).items()):
            if inspect.isfunction(value) and value.__module__ == module.__name__ and shape_annotations(value):
                setattr(module, name, add_checks(value))


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that Python would find, and gives those of `pure` to `Loader`."""

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = (
            importlib.machinery.PathFinder.find_spec(name, path, target) if name.startswith("pure.") else None
        )
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Add checks to every module of `pure` that is imported from now on."""
    sys.meta_path.insert(0, Finder())
