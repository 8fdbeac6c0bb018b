"""Modes of torch under which a function is traced, and clear errors in place of the tracer's.

JAX has no scope in which gradients are off: there, every result is detached instead.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    log,
)
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_DRAW = "draw from a key with pure.random, as jax.random does"
_NAIVE = 'build the model with backend="naive"'
FIXES: Mapping[str, str] = MappingProxyType({
    "flex_attention": _NAIVE, "_scaled_dot_product": _NAIVE, "_flash_attention": _NAIVE,
    "rand": _DRAW, "normal": _DRAW, "bernoulli": _DRAW, "multinomial": _DRAW, "native_dropout": _DRAW,
    "uniform": _DRAW, "exponential": _DRAW,
})  # fmt: skip
"""Start of an operation's name -> what to do where it has no entry."""

Lines = dict[tuple, str]
"""(name of an operation, its numbers) -> "path:line, function", and (name,) -> the first line of any."""

_NEEDS_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException)
_READS = re.compile(r"get value out of a tracing tensor|\.item\(\)|\.numpy\(\)|data-dependent", re.IGNORECASE)
_PACKAGES = ("torch", "optree", "jaxtyping", "beartype")
_APPLY = getattr(getattr(torch.autograd.Function.apply, "__func__", None), "__code__", None)
_CONSTANTS = torch.nn.Module._call_impl.__code__.co_consts
_HOOKED = next((x for x in _CONSTANTS if getattr(x, "co_name", "") == "inner"), None)
_EXACT = ("pure.", "torch._functorch.")
_LIBRARIES = (torch.__file__.rpartition("/")[0], sysconfig.get_path("stdlib"))


class Uncovered(NotImplementedError):
    """An operation without an entry in the table, the line that it comes from, and what to do."""


class _Detach(TorchFunctionMode):
    """Detaches what is computed while gradients are off."""

    def __init__(self) -> None:
        super().__init__()
        self.off = False

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if func is torch._C._set_grad_enabled:
            self.off = not args[0]
        if func is torch.Tensor.detach_:
            raise ValueError(
                f"lower: {_source_line(sys._getframe())} calls detach_(), which a trace does not keep; write "
                "x = x.detach()"
            )
        result = func(*args, **(kwargs or {}))
        if (
            (self.off or torch.is_inference_mode_enabled())
            and isinstance(result, Tensor)
            and result.is_floating_point()
        ):
            return result.detach()
        return result


class _Watch(TorchDispatchMode):
    """Refuses writes to tensors from outside; records lines of operations, and foreign backward passes."""

    def __init__(self, lines: Lines | None, foreign: set[str] | None) -> None:
        super().__init__()
        self.lines, self.foreign = lines, foreign
        self.supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if isinstance(func, torch._ops.HigherOrderOperator):
            raise Uncovered(describe_uncovered(func.name(), _source_line(sys._getframe())))
        if isinstance((kwargs or {}).get("generator"), torch.Generator):
            raise Uncovered(describe_uncovered(_functional_name(func), _source_line(sys._getframe())))
        if func._schema.is_mutable:
            _refuse_written(func, args, sys._getframe())
        if self.foreign is not None:
            self.foreign |= _foreign_functions(sys._getframe())
        if self.lines is not None:
            name, where = _functional_name(func), None
            for key in ((name, *(x for x in args if isinstance(x, int | float))), (name,)):
                if key not in self.lines:
                    where = where or _source_line(sys._getframe())
                    self.lines[key] = where
        return func(*args, **(kwargs or {}))


def describe_uncovered(name: str, line: str) -> str:
    """The message for an operation without an entry.

    Args:
        name: of the operation.
        line: that it comes from.

    Example:
        >>> describe_uncovered("rand.default", "model.py:3, f")
        'lower: rand.default of model.py:3, f has no entry in the table of operations; draw from a key with
        pure.random, as jax.random does'
    """
    fix = next((fix for start, fix in FIXES.items() if name.startswith(start)), "")
    fix = fix or "write an entry for it (pure/interop/jax/aten/table.py), or use other operations"
    return f"lower: {name} of {line} has no entry in the table of operations; {fix}"


@contextmanager
def watch(lines: Lines | None, foreign: set[str] | None = None) -> Iterator[None]:
    """Traces what is inside: refuses writes to bound tensors, and detaches results of `torch.no_grad`.

    Args:
        lines: if given, receives the line of each operation, at some cost; those of a backward pass are the
            lines of the forward operations that they differentiate.
        foreign: if given, receives the names of what is inside and has a backward pass that JAX's derivative
            would not take: torch.autograd.Functions, and modules with backward hooks.
    """
    with ExitStack() as stack:
        if lines is not None:
            stack.enter_context(torch.autograd.set_detect_anomaly(True, check_nan=False))
        if foreign is not None and _APPLY is None:  # since torch 2.15 apply is no Python, and has no frame
            stack.enter_context(_watch_calls(foreign))
        stack.enter_context(_Detach())
        stack.enter_context(_Watch(lines, foreign))
        yield


@contextmanager
def _watch_calls(foreign: set[str]) -> Iterator[None]:
    """Adds the names of the autograd.Functions that this thread calls, besides our own."""
    before = sys.getprofile()

    @torch.compiler.disable  # where flex_attention compiles what it is called with, that is not this function
    def note(frame: Any, event: str, called: Any) -> None:
        if event == "c_call" and getattr(called, "__name__", "") == "apply":
            function = getattr(called, "__self__", None)
            if isinstance(function, type) and issubclass(function, torch.autograd.Function):
                foreign.update(_name_foreign(function))

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


@contextmanager
def explain() -> Iterator[None]:
    """Replaces the tracer's errors about the numbers of a tensor, and names the line of the others.

    Raises:
        ValueError: where what is inside needs the numbers of a tensor; the message names its line.
        RuntimeError: for another error of torch, such as shapes that do not fit; so does its message.
    """
    try:
        with mute():
            yield
    except _NEEDS_NUMBERS as error:
        raise ValueError(_describe_reading(error)) from error
    except UnsupportedFakeTensorException as error:
        raise ValueError(f"lower: {error} ({last_line(error)})") from error
    except RuntimeError as error:
        if not _READS.search(str(error)):
            if type(error) is not RuntimeError:
                raise
            raise RuntimeError(f"lower: {last_line(error)}: {error}") from error
        raise ValueError(_describe_reading(error)) from error


@contextmanager
def mute() -> Iterator[None]:
    """Keeps torch from logging an error of a run on fake tensors, which is raised as well."""

    def keep_record(record: Any) -> bool:
        return not str(record.msg).startswith("failed while attempting to run meta")

    log.addFilter(keep_record)
    try:
        yield
    finally:
        log.removeFilter(keep_record)


def last_line(error: BaseException) -> str:
    """Names the innermost line outside of torch and Python's library that raised an error."""
    return _outside(traceback.extract_tb(error.__traceback__))


def _describe_reading(error: BaseException) -> str:
    """The message for a function that reads a number out of a tensor."""
    return (
        f"lower: {last_line(error)} needs the numbers of a tensor (.item(), .numpy(), bool(), int(), a "
        "branch or a shape that depends on them), and tracing knows only shapes; use torch.where, masks and "
        "fixed shapes, or pass what is constant as a Python number"
    )


def _refuse_written(func: Any, args: tuple, frame: Any) -> None:
    """Refuses an operation that writes into a tensor that was not made by the traced function."""
    for x, argument in zip(args, func._schema.arguments, strict=False):
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and isinstance(x, Tensor) and not isinstance(x, FunctionalTensor):
            raise ValueError(
                f"lower: {_source_line(frame)} writes into a tensor from outside the function, and a lowered "
                "function has no side effects; pass the tensor as an argument and return its new value"
            )


def _foreign_functions(frame: Any) -> set[str]:
    """Names the autograd.Functions and the modules with backward hooks among the callers.

    Our own autograd.Functions compute the derivative of their forward passes, and are left out.
    """
    found = set()
    while frame is not None:
        if frame.f_code is _APPLY:
            found |= _name_foreign(frame.f_locals["cls"])
        elif frame.f_code is _HOOKED:
            module = frame.f_locals["self"]
            if module._backward_hooks or module._backward_pre_hooks:
                found.add(f"a backward hook of {type(module).__qualname__}")
        frame = frame.f_back
    return found


def _name_foreign(function: type) -> set[str]:
    """The name of an autograd.Function; none of our own."""
    own = function.__module__.startswith(_EXACT)
    return set() if own else {f"the torch.autograd.Function {function.__qualname__}"}


def _functional_name(func: Any) -> str:
    """aten.add_.Tensor -> "add.Tensor", its name after functionalization."""
    name, _, overload = str(func).removeprefix("aten.").rpartition(".")
    return f"{name if name.startswith('__') else name.rstrip('_')}.{overload}"


def _source_line(frame: Any) -> str:
    """Names the line that the frame's operation comes from: of a backward one, what it differentiates."""
    node = torch._C._current_autograd_node()
    metadata: Any = {} if node is None else node.metadata
    frames = metadata.get("traceback_")
    if not frames:
        return _outside(traceback.extract_stack(frame))
    lines = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', "".join(frames))
    outside = [line for line in lines if _is_outside(line[0])]
    path, number, function = outside[-1] if outside else ("?", "0", "?")
    return f"{_short(path)}:{number}, {function} (backward)"


def _outside(frames: list) -> str:
    """The innermost frame outside of the libraries."""
    outside = [x for x in frames if _is_outside(x.filename)]
    if not outside:
        return "the function"
    innermost = outside[-1]
    return f"{_short(innermost.filename)}:{innermost.lineno}, {innermost.name}"


def _is_outside(path: str) -> bool:
    """Reports a file of neither torch, nor Python's library, nor this package."""
    if "site-packages" in path:
        return not any(f"site-packages/{name}/" in path for name in _PACKAGES)
    return not path.startswith((*_LIBRARIES, __file__.rpartition("/")[0], "<"))


def _short(path: str) -> str:
    """The end of a path: at most three folders, none of them above site-packages."""
    return "/".join(path.rpartition("site-packages/")[2].split("/")[-4:])
