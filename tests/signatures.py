"""Checks types and shapes whenever a function of `pure` is called, under pytest only.

Types come from the annotations. Shapes come from where a reader looks for them, the docstring: a parameter
`x: Tensor` with the line "x: [B, T, D] float32, ..." under Args becomes jaxtyping's `Float32[Tensor, "B T
D"]`, and so does the result if Returns begins with a shape. A letter stands for one length throughout a call,
so a docstring that lies fails.

Not jaxtyping's own import hook: it would check in every call, and a compiled step would then trace beartype's
generated code. The wrapper here is a branch on `is_compiling()`, a constant to Dynamo, so `fullgraph=True`
holds. It keeps the function's globals, by which doctest recognises that a function belongs to its module.
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
SHAPE = r"\[([^\]]*)\](?! or \[) ?(\w*)"

# An int is a fine float, and what does not fit is a TypeError, as Python itself would say.
CONF = beartype.BeartypeConf(is_pep484_tower=True, violation_type=TypeError)


def checked(function: types.FunctionType) -> types.FunctionType:
    """Makes a function check its arguments and what it returns, except where it is being compiled."""
    described = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    described.__module__, described.__qualname__ = function.__module__, function.__qualname__
    described.__kwdefaults__ = function.__kwdefaults__
    described.__annotations__ = function.__annotations__ | shapes(function)
    check = jaxtyping.jaxtyped(described, typechecker=beartype.beartype(conf=CONF))
    is_compiling = torch.compiler.is_compiling

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if is_compiling() else check(*args, **kwargs)

    # A code object of its own: Dynamo counts recompilations by code object, and one for all would soon be too
    # often.
    code = wrapper.__code__.replace(
        co_name=function.__name__, co_firstlineno=function.__code__.co_firstlineno
    )
    wrapped = types.FunctionType(code, function.__globals__, closure=wrapper.__closure__)
    return functools.update_wrapper(wrapped, function)  # type: ignore[return-value]


def shapes(function: Callable) -> dict[str, Any]:
    """Annotations with the shapes which the docstring gives to parameters, and a result, annotated as
    tensors."""
    text = inspect.getdoc(function)
    lines = re.findall(rf"^(\w+(?:, \w+)*): {SHAPE}", section(text, "Args") or "", re.MULTILINE)
    found = {name: (dims, dtype) for names, dims, dtype in lines for name in names.split(", ")}
    if first := re.match(SHAPE, (section(text, "Returns") or "").strip()):
        found["return"] = (first[1], first[2])
    kinds = {"Tensor": lambda shaped: shaped, "Tensor | None": lambda shaped: shaped | None}
    typed = {name: kinds[kind] for name, kind in function.__annotations__.items() if kind in kinds}
    return {name: typed[name](annotation(*found[name])) for name in found if name in typed}


def annotation(dims: str, dtype: str) -> Any:
    """Turns "B, T, D" and "float32" into jaxtyping's type; a length that is a formula ("H/2") is not
    checked."""
    parts = [part.strip() for part in dims.split(",") if part.strip()]
    lengths = [part if re.fullmatch(r"\.\.\.|[A-Za-z]\w*|\d+", part) else "_" for part in parts]
    return DTYPES.get(dtype, jaxtyping.Shaped)[Tensor, " ".join(lengths)]


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a module and puts `checked` around every function that is defined in it."""

    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        for name, value in list(vars(module).items()):
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                setattr(module, name, checked(value))


class Finder(importlib.abc.MetaPathFinder):
    """Finds what Python would find, and has the modules of `pure` loaded by Loader."""

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
    """Checks every module of `pure` that is imported from now on."""
    sys.meta_path.insert(0, Finder())
