"""A torch function inside a JAX program: a callback to Python, with its derivatives.

JAX must know the results' shapes before it runs the function; a run on fake tensors finds them, and finds
what a callback cannot do: write into arguments, draw global random numbers, branch on numbers.

The backward pass is again such a function (torch's vector-Jacobian product), so derivatives of any order
exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch
from jax import numpy as jnp
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils._python_dispatch import TorchDispatchMode

from pure import tree
from pure.interop.jax.arrays import numpy_from_tensor, tensor_from_numpy
from pure.interop.jax.leaf_checks import (
    SHARED_DTYPES,
    TORCH_DTYPES,
    check_array,
    check_width,
    is_typed_key,
)
from pure.interop.jax.trace_modes import last_line, mute
from pure.transform.modes import may_be_differentiated
from pure.types import Tree

NEEDS_NUMBERS = (DataDependentOutputException, DynamicOutputShapeException, GuardOnDataDependentSymNode)
"""What a fake tensor raises where its numbers are needed."""

Flat = Callable[..., tuple[Tensor, ...]]
"""A torch function of tensors alone."""


def call_torch(fn: Callable, /, *args: Tree, **kwargs: Tree) -> Tree:
    """Computes a torch function on trees of JAX arrays.

    Args:
        fn: trees of tensors -> tree of tensors.
        args, kwargs: trees of arrays, with constants among their leaves.

    Returns:
        Tree of arrays, of the structure of fn's result; Python numbers among its leaves stay.

    Raises:
        TypeError, ValueError: as `torch_fn_in_jax` says.

    Steps:
        1. Separate the arrays from constants.
        2. Run on fake tensors: shapes, dtypes and structure of the result.
        3. Call back.
    """
    name = getattr(fn, "__name__", type(fn).__name__)
    # 1. Arrays and constants.
    leaves, spec = tree.flatten((args, kwargs))
    paths = [*tree.paths(args), *tree.paths(kwargs)]
    holes = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array | np.ndarray | np.generic)]
    for i in holes:
        _check_argument(f"torch_fn_in_jax: {name}: argument {paths[i]!r}", leaves[i])
    results: list = []

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        full = list(leaves)
        for i, x in zip(holes, tensors, strict=True):
            full[i] = x
        given, keywords = tree.unflatten(spec, full)
        values, structure = tree.flatten(fn(*given, **keywords))
        if not results:
            results.append((structure, [... if isinstance(x, Tensor) else x for x in values]))
        return tuple(x for x in values if isinstance(x, Tensor))

    # 2. Shapes.
    arrays = [jnp.asarray(leaves[i]) for i in holes]
    forms = _infer_forms(name, flat, arrays, [paths[i] for i in holes])
    structure, parts = results[0]
    # 3. Call.
    outputs = iter(_differentiable(name, flat, forms)(*arrays))
    return tree.unflatten(structure, [next(outputs) if x is ... else x for x in parts])


def _check_argument(place: str, x: Any) -> None:
    """Refuses an array that torch cannot have."""
    if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
        check_array(place, x)
    if is_typed_key(x):
        raise TypeError(f"{place} is a typed key; pass jax.random.key_data(key)")
    if x.dtype not in TORCH_DTYPES:
        raise TypeError(f"{place} is {x.dtype}, which torch has not; cast it first, e.g. x.astype('float32')")
    check_width(place, x.dtype, "x.astype('{}')")


class _PureOnly(TorchDispatchMode):
    """Refuses operations that a callback must not do. (torch takes a mode as a class.)"""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise TypeError(
                f"torch_fn_in_jax: {self.name} draws from torch's global generator ({func}), which JAX "
                "cannot replay; pass a key and draw by pure.random"
            )
        for i, argument in enumerate(func._schema.arguments):
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(value, Tensor) and not isinstance(value, FakeTensor):
                raise TypeError(
                    f"torch_fn_in_jax: {self.name} has a side effect: it writes ({func}) into a tensor from "
                    "outside; pass and return it"
                )
        return func(*args, **kwargs)


def _infer_forms(name: str, flat: Flat, arrays: Sequence[Any], paths: list[str]) -> list:
    """Returns shape and dtype of each result, by a run on fake tensors."""
    with mute(), torch.enable_grad(), FakeTensorMode(allow_non_fake_inputs=True), _PureOnly(name):
        fakes = [torch.empty(x.shape, dtype=TORCH_DTYPES[x.dtype]) for x in arrays]
        versions = [x._version for x in fakes]
        try:
            results = flat(*fakes)
        except NEEDS_NUMBERS as error:
            raise TypeError(_describe_reading(name)) from error
        except RuntimeError as error:
            if ".numpy()" in str(error):
                raise TypeError(_describe_reading(name)) from error
            if type(error) is not RuntimeError:
                raise
            raise RuntimeError(f"torch_fn_in_jax: {last_line(error)}: {error}") from error
    for path, x, version in zip(paths, fakes, versions, strict=True):
        if x._version != version:
            raise TypeError(
                f"torch_fn_in_jax: {name} writes into its argument {path!r}, an array that JAX takes for "
                "constant; write x.clone() first"
            )
    forms = []
    for x in results:
        place = f"torch_fn_in_jax: {name}: a result"
        if x.dtype not in SHARED_DTYPES:
            raise TypeError(f"{place} is {x.dtype}, which JAX has not; cast it, e.g. x.float()")
        check_width(place, SHARED_DTYPES[x.dtype], "x.to(torch.{})")
        forms.append(jax.ShapeDtypeStruct(tuple(x.shape), SHARED_DTYPES[x.dtype]))
    return forms


def _describe_reading(name: str) -> str:
    """The message for a function that reads a number out of an argument."""
    return (
        f"torch_fn_in_jax: {name} needs the numbers of an argument for a branch or a shape, and JAX must "
        "know the shapes first; write torch.where, or pass a Python number"
    )


def _differentiable(name: str, flat: Flat, forms: list) -> Callable[..., list]:
    """Builds the JAX function: a callback whose derivative is again such a function."""
    inexact = [jnp.issubdtype(f.dtype, jnp.inexact) for f in forms]

    @jax.custom_vjp
    def call(*arrays: Any) -> list:
        return jax.pure_callback(
            lambda *given: _compute(name, flat, forms, given), forms, *arrays, vmap_method="sequential"
        )

    def forward(*arrays: Any) -> tuple[list, tuple]:
        return call(*arrays), arrays

    def backward(arrays: tuple, cotangents: list) -> tuple:
        wanted = [i for i, x in enumerate(arrays) if jnp.issubdtype(x.dtype, jnp.inexact)]
        given = [jnp.conj(c) for c, use in zip(cotangents, inexact, strict=True) if use]
        pull = _differentiable(
            name,
            _vjp(flat, wanted, len(arrays)),
            [jax.ShapeDtypeStruct(arrays[i].shape, arrays[i].dtype) for i in wanted],
        )
        grads = dict(zip(wanted, (jnp.conj(g) for g in pull(*arrays, *given)), strict=True))
        return tuple(
            grads[i] if i in grads else np.zeros(x.shape, jax.dtypes.float0) for i, x in enumerate(arrays)
        )

    call.defvjp(forward, backward)
    return call


def _compute(name: str, flat: Flat, forms: list, arrays: Sequence[Any]) -> list[np.ndarray]:
    """Computes the results on the host, on copies."""
    tensors = [tensor_from_numpy(np.asarray(x).copy(order="C")) for x in arrays]
    with torch.inference_mode(False), torch.enable_grad():  # whatever the thread that JAX calls from has set
        results = [x.detach().resolve_conj().resolve_neg().cpu() for x in flat(*tensors)]
    copies = [numpy_from_tensor(x.clone(memory_format=torch.contiguous_format)) for x in results]
    got = [(x.shape, x.dtype) for x in copies]
    expected = [(f.shape, f.dtype) for f in forms]
    if got != expected:
        raise TypeError(
            f"torch_fn_in_jax: {name} returned {got} where its run on fake tensors gave {expected}; its "
            "results' shapes must not depend on numbers"
        )
    return copies


def _vjp(flat: Flat, wanted: list[int], count: int) -> Flat:
    """Builds inputs + cotangents of the float results -> gradients of the wanted inputs."""

    def pull(*values: Tensor) -> tuple[Tensor, ...]:
        inputs, cotangents = values[:count], values[count:]

        def restricted(*some: Tensor) -> tuple[Tensor, ...]:
            chosen = dict(zip(wanted, some, strict=True))
            results = flat(*(chosen.get(i, x) for i, x in enumerate(inputs)))
            return tuple(y for y in results if y.is_floating_point() or y.is_complex())

        some = [inputs[i] for i in wanted]
        if may_be_differentiated(list(values)):
            return torch.func.vjp(restricted, *some)[1](cotangents)
        some = [x.detach().requires_grad_() for x in some]
        pairs = [(y, c) for y, c in zip(restricted(*some), cotangents, strict=True) if y.requires_grad]
        if not pairs:
            return tuple(torch.zeros_like(x) for x in some)
        outputs, given = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, some, given, allow_unused=True, materialize_grads=True)

    return pull
