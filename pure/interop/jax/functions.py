"""Functions across the border: a JAX function as a part of torch, a torch function as a part of JAX.

Arguments and results are trees of tensors on one side and of arrays on the other, of the same structure. A
leaf that is no tensor or array (a Python number, text) is a constant: another value is compiled anew. Dtypes
are those of `to_jax`: 64 bits are refused while JAX would narrow them.

A function that crossed twice is the original: `torch_fn_in_jax(jax_fn_in_torch(f))` is f, and so the other
way, also of a function that was lowered. A graph of torch shows a call of a JAX function as one node, which
`lower` turns back into the function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import index
from typing import Any

import jax
import numpy as np
import optree
import torch
from jax import numpy as jnp
from torch import Tensor

from pure import tree
from pure.interop.jax import opaque
from pure.interop.jax.callback import call_torch
from pure.interop.jax.leaf_checks import NAMES, SHARED_DTYPES, check_width
from pure.transform.graph_node import constant
from pure.types import Tree


@dataclass(frozen=True, eq=False)
class JaxFunction:
    """A JAX function of trees that torch calls.

    Its only field is the function, so that a run's fingerprint sees nothing else. Attributes: `number`, by
    which `_plan` finds it; `plans`, form of the arguments -> the Crossing that computes it; and `result_n`,
    the structure of the results of crossing n (Dynamo guards attributes one by one).

    Args:
        function: trees of arrays -> tree of arrays.
    """

    function: Callable

    def __post_init__(self) -> None:
        object.__setattr__(self, "number", next(opaque.NUMBERS))
        object.__setattr__(self, "plans", {})
        opaque.FUNCTIONS[self.number] = self  # type: ignore[attr-defined]

    def __reduce__(self) -> tuple:
        return JaxFunction, (self.function,)  # a copy has its own number


def jax_fn_in_torch(fn: Callable) -> Callable:
    """Returns a torch function that computes a JAX function.

    It works under autograd and `torch.func`'s grad, vjp, jvp and vmap in any order, under make_fx (as one
    opaque node) and under `torch.compile(fullgraph=True)`. JAX compiles the function for each form of the
    arguments.

    Args:
        fn: pure JAX function of trees of arrays, also with keywords. It may use jit, vmap or custom
            derivatives.

    Returns:
        The function of trees of tensors. Graphs that call it work as long as it lives.

    Edge cases: the backward pass computes `fn` once more. Results share no memory with arguments. Tensors on
        the CPU are computed on JAX's CPU, tensors on a CUDA GPU on that GPU.

    Raises:
        TypeError: if fn is not callable; at the call, for an argument or a result of a dtype that the other
            library has not, and for a function that needs an argument's numbers while JAX traces it.
        ValueError: at the call, for 64 bits that JAX would narrow.

    Example:
        >>> square = jax_fn_in_torch(lambda x: jnp.sum(x**2))
        >>> torch.func.grad(square)(torch.tensor([1.0, 2.0]))
        tensor([2., 4.])
    """
    if not callable(fn):
        raise TypeError(f"jax_fn_in_torch: expected a JAX function, got {type(fn).__name__}")
    original = find_torch_function(fn)
    return partial(_call_jax, JaxFunction(fn)) if original is None else original


def torch_fn_in_jax(fn: Callable) -> Callable:
    """Returns a JAX function that computes a torch function, by a callback to Python.

    It works under jit, grad (of any order), vmap, scan and remat. Each call leaves JAX, and under vmap each
    element is a call; where speed matters, `lower` makes a JAX function of the same operations instead.

    Args:
        fn: pure torch function of trees of tensors, also with keywords. Its results' shapes depend on its
            arguments' shapes alone. A fake run finds them, so `fn` also runs once with fake tensors for each
            form.

    Returns:
        The function of trees of arrays.

    Edge cases: forward mode (`jax.jvp`) is refused by JAX. Tensors arrive as copies on the CPU.

    Raises:
        TypeError: if fn is not callable; at the call, for a leaf that the other library has not, and for a
            function that writes into its arguments or into other tensors, draws from torch's global
            generator, or whose branches or shapes need an argument's numbers.
        ValueError: at the call, for a result of 64 bits that JAX would narrow.

    Example:
        >>> square = torch_fn_in_jax(lambda x: x.square().sum())
        >>> jax.jit(jax.grad(square))(jnp.array([1.0, 2.0])).tolist()
        [2.0, 4.0]
    """
    if not callable(fn):
        raise TypeError(f"torch_fn_in_jax: expected a torch function, got {type(fn).__name__}")
    original = find_jax_function(fn)
    return partial(call_torch, fn) if original is None else original


def find_jax_function(fn: Any) -> Callable | None:
    """Returns the JAX function that `jax_fn_in_torch` made this torch function of; None for any other."""
    return fn.args[0].function if isinstance(fn, partial) and fn.func is _call_jax else None


def find_torch_function(fn: Any) -> Callable | None:
    """Returns the torch function that `torch_fn_in_jax` or `lower` made this JAX function of; None for any
    other.

    What `lower` makes has the attribute `lowered_from`: itself and the torch function. (Both libraries copy a
    function's attributes to its transforms, so an attribute alone would take `jax.grad(f)` for f.)
    """
    if isinstance(fn, partial) and fn.func is call_torch:
        return fn.args[0]
    own, original = getattr(fn, "lowered_from", (None, None))
    return original if own is fn else None


def _call_jax(owner: Any, /, *args: Tree, **kwargs: Tree) -> Tree:
    """Computes the function on tensors. Dynamo traces this, so forms are plain constants."""
    leaves, spec = tree.flatten((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, Tensor)]
    constants = tuple(... if isinstance(x, Tensor) else x for x in leaves)
    signature = tuple((tuple(index(n) for n in x.shape), str(x.dtype)) for x in tensors)
    number = _plan(owner.number, spec, constants, signature)
    results = opaque.apply(number, *tensors)
    return tree.unflatten(getattr(owner, f"result_{number}"), list(results))


@constant
def _plan(number: int, spec: Any, constants: tuple, signature: tuple) -> int:
    """Returns the number of the crossing for this form of the arguments; runs in Python even under Dynamo."""
    owner = opaque.FUNCTIONS[number]
    if not isinstance(spec, optree.PyTreeSpec):  # from a compiler: a tree of numbers
        spec = optree.tree_structure(spec)
    typed_constants = tuple((type(x), x) for x in constants)
    try:
        key = (spec, typed_constants, signature, jax.dtypes.canonicalize_dtype("int64"))
        if key in owner.plans:
            return owner.plans[key].number
    except TypeError as error:
        raise TypeError(_describe_constant(spec, constants)) from error
    name = getattr(owner.function, "__name__", type(owner.function).__name__)
    dtypes = _check_dtypes(name, spec, constants, signature)
    structures: list = []
    crossing = opaque.cross(_flatten_function(owner.function, name, spec, constants, structures), name)
    opaque.result_form(
        crossing, tuple((shape, dtype) for (shape, _), dtype in zip(signature, dtypes, strict=True))
    )
    result = structures[-1]
    indices = optree.tree_unflatten(result, range(result.num_leaves))
    object.__setattr__(owner, f"result_{crossing.number}", indices)
    owner.plans[key] = crossing
    return crossing.number


def _flatten_function(
    function: Callable, name: str, spec: Any, constants: tuple, structures: list
) -> Callable[[list], list]:
    """Builds the function of a list of arrays; it appends the structure of its result to `structures`."""

    def flat(values: list) -> list:
        rest = iter(values)
        leaves = [next(rest) if x is ... else x for x in constants]
        args, kwargs = optree.tree_unflatten(spec, leaves)
        results, structure = optree.tree_flatten(function(*args, **kwargs))
        structures.append(structure)
        for x in results:
            if not isinstance(x, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
                raise TypeError(
                    f"jax_fn_in_torch: {name} returns a {type(x).__name__}; expected arrays in nested dict, "
                    "list, tuple and NamedTuple"
                )
        return [x if isinstance(x, jax.Array) else jnp.asarray(x) for x in results]

    return flat


def _check_dtypes(name: str, spec: Any, constants: tuple, signature: tuple) -> list[torch.dtype]:
    """Returns the tensors' dtypes; refuses those that JAX has not."""
    paths = [p for p, x in zip(_argument_paths(spec), constants, strict=True) if x is ...]
    dtypes = []
    for path, (_, text) in zip(paths, signature, strict=True):
        place = f"jax_fn_in_torch: {name}: argument {path!r}"
        if text.removeprefix("torch.") not in NAMES:
            raise TypeError(f"{place} is {text}, which JAX has not; cast it first, e.g. x.to(torch.float32)")
        dtypes.append(getattr(torch, text.removeprefix("torch.")))
        check_width(place, SHARED_DTYPES[dtypes[-1]], "x.to(torch.{})")
    return dtypes


def _describe_constant(spec: Any, constants: tuple) -> str:
    """Words the error about an argument that is neither a tensor nor a constant."""
    for path, x in zip(_argument_paths(spec), constants, strict=True):
        if getattr(type(x), "__hash__", None) is None or isinstance(x, jax.Array):
            return (
                f"jax_fn_in_torch: argument {path!r} is a {type(x).__name__}; expected tensors and constants "
                "(convert arrays with to_torch)"
            )
    return "jax_fn_in_torch: an argument is neither a tensor nor a hashable constant"


def _argument_paths(spec: Any) -> list[str]:
    """Names the leaves of (args, kwargs): "0/w/a" for the first argument's, "mask" for a keyword's."""
    args, kwargs = optree.tree_unflatten(spec, range(spec.num_leaves))
    return [*tree.paths(args), *tree.paths(kwargs)]
