"""One operator of torch, `intro2llm::jax_function`, that computes a JAX function of arrays.

torch's operators take tensors, numbers and text, no Python functions. So each function gets a number, and the
operator looks it up. Tracers see one opaque node with that number and the form of the results; the lowering
to JAX finds the function by `crossed`.

`apply(number, *tensors)` is the differentiable call. Its backward pass, its forward mode and its `vmap` are
the same operator again, with the numbers of `jax.vjp`, `jax.jvp` and `jax.vmap` of the function, so that they
nest in any order. The backward pass computes the function once more, as rematerialisation does.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import jax
import torch
from jax import numpy as jnp
from torch import Tensor

from pure.interop.jax.arrays import numpy_from_tensor
from pure.interop.jax.leaf_checks import SHARED_DTYPES, TORCH_DTYPES
from pure.transform.graph_node import graph_node

NUMBERS: Iterator[int] = itertools.count()
FUNCTIONS: WeakValueDictionary[int, Any] = WeakValueDictionary()
"""Number -> what graphs and compilers call by it: a Crossing, or a function of trees (functions.py)."""

CONCRETE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
"""What JAX raises where a traced value is needed as a number."""


@dataclass(frozen=True, eq=False)
class Crossing:
    """A JAX function of a list of arrays, under the number by which the operator finds it.

    Args:
        number: unique in this process.
        name: of the user's function, for errors.
        function: list of arrays -> list of arrays.
        run: the same, compiled.
        derived: a transform -> its Crossing; a signature of the inputs -> the form of the results.
    """

    number: int
    name: str
    function: Callable[[list], list]
    run: Callable[[list], list]
    derived: dict = field(default_factory=dict)


def cross(function: Callable[[list], list], name: str) -> Crossing:
    """Gives a JAX function of a list of arrays its number. It is forgotten when the result is."""
    crossing = Crossing(next(NUMBERS), name, function, jax.jit(function))
    FUNCTIONS[crossing.number] = crossing
    return crossing


def find(number: int) -> Crossing:
    """Returns the crossing of a number.

    Raises:
        RuntimeError: if it was forgotten.
    """
    crossing = FUNCTIONS.get(number)
    if crossing is None:
        raise RuntimeError(
            f"jax_fn_in_torch: the JAX function number {number} of this graph is gone; keep the function "
            "that jax_fn_in_torch returned as long as a graph that calls it"
        )
    return crossing


def crossed(number: int) -> Callable[[list], list]:
    """Returns the JAX function of a node `intro2llm.jax_function(number, tensors, form)` in a traced graph.

    Returns:
        list of arrays (in the order of the node's tensors) -> list of arrays (the node's results). Traceable
        by JAX.

    Raises:
        RuntimeError: if it was forgotten.
    """
    return find(number).function


def result_form(crossing: Crossing, signature: tuple) -> str:
    """Returns shapes and dtypes of the results, as text: "float32 2 3,int32".

    It is an argument of the operator so that caches of compiled graphs tell functions with the same number
    apart.

    Args:
        crossing: the function.
        signature: shape and torch dtype of each input.

    Raises:
        TypeError: for a result of a dtype that torch has not, and as `explain_errors`.
    """
    key = (signature, jax.dtypes.canonicalize_dtype("int64"))
    if key not in crossing.derived:
        inputs = [jax.ShapeDtypeStruct(shape, SHARED_DTYPES[dtype]) for shape, dtype in signature]
        with explain_errors(crossing.name):
            results = jax.eval_shape(crossing.function, inputs)
        for x in results:
            if x.dtype not in TORCH_DTYPES:
                raise TypeError(
                    f"jax_fn_in_torch: {crossing.name} returns {x.dtype}, which torch has not; cast it (of a "
                    "typed key return jax.random.key_data)"
                )
        crossing.derived[key] = ",".join(" ".join([str(x.dtype), *map(str, x.shape)]) for x in results)
    return crossing.derived[key]


@contextmanager
def explain_errors(name: str) -> Iterator[None]:
    """Rewords the errors that JAX raises while it traces the function `name`.

    Raises:
        TypeError: if the function needs a value, or uses one that an earlier call stored.
    """
    try:
        yield
    except jax.errors.UnexpectedTracerError as error:
        raise TypeError(
            f"jax_fn_in_torch: {name} has a side effect: it uses a value that an earlier call stored "
            "outside; pass and return such values"
        ) from error
    except CONCRETE as error:
        raise TypeError(
            f"jax_fn_in_torch: {name} needs the numbers of an argument while it is traced, for a branch, a "
            "shape or NumPy; write jnp.where, jax.lax.cond or jax.numpy, or pass a Python number"
        ) from error


def _compute(number: int, inputs: list[Tensor], form: str) -> list[Tensor]:
    """Computes the results: the operator's body. Waits for them, so nothing reads the inputs afterwards."""
    del form
    crossing = find(number)
    devices = {x.device for x in inputs}
    if len(devices) > 1:
        raise ValueError(
            f"jax_fn_in_torch: {crossing.name} got tensors on {', '.join(sorted(map(str, devices)))}; move "
            "them to one device"
        )
    if any(x.layout is not torch.strided for x in inputs):
        raise ValueError(f"jax_fn_in_torch: {crossing.name} got a sparse tensor; write x.to_dense()")
    on_cpu = not devices or next(iter(devices)).type == "cpu"
    arguments = [_array(x.detach(), on_cpu) for x in inputs]
    device = jax.local_devices(backend="cpu")[0] if on_cpu else None
    with jax.default_device(device), explain_errors(crossing.name):
        results = crossing.run(arguments)
    return _own_tensors(results, [x.data_ptr() for x in inputs])


def _array(x: Tensor, on_cpu: bool) -> Any:
    """Views a tensor as what JAX takes fastest: a NumPy array on the CPU."""
    x = x.resolve_conj().resolve_neg()
    return numpy_from_tensor(x) if on_cpu else jax.dlpack.from_dlpack(x.contiguous())


def _own_tensors(results: list, used: list[int]) -> list[Tensor]:
    """Views results as tensors; copies one that is an argument (their addresses: `used`) or another
    result."""
    addresses, tensors = set(used), []
    for x in results:
        tensor = torch.from_dlpack(x)
        if tensor.data_ptr() in addresses:
            tensor = tensor.clone()
        addresses |= {tensor.data_ptr()} - {0}
        tensors.append(tensor)
    return tensors


def _empty_results(number: int, inputs: list[Tensor], form: str) -> list[Tensor]:
    """Makes tensors of the results' shapes, for tracers."""
    del number
    device = inputs[0].device if inputs else None
    forms = [part.split() for part in form.split(",") if part]
    return [torch.empty([int(n) for n in f[1:]], dtype=getattr(torch, f[0]), device=device) for f in forms]


torch.library.define("intro2llm::jax_function", "(int number, Tensor[] inputs, str form) -> Tensor[]")
torch.library.impl("intro2llm::jax_function", "CompositeExplicitAutograd", _compute)
torch.library.register_fake("intro2llm::jax_function", _empty_results)


class _Apply(torch.autograd.Function):
    """Computes the operator, and differentiates it by operators. (torch requires a class.)"""

    @staticmethod
    def forward(number: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        signature = tuple((tuple(int(n) for n in x.shape), x.dtype) for x in inputs)
        form = result_form(find(number), signature)
        return tuple(torch.ops.intro2llm.jax_function(number, list(inputs), form))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.crossing = find(inputs[0])
        ctx.differentiable = tuple(_has_gradient(x) for x in output)
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])
        ctx.mark_non_differentiable(*(x for x in output if not _has_gradient(x)))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple:
        inputs = ctx.saved_tensors
        wanted = tuple(i for i, x in enumerate(inputs) if ctx.needs_input_grad[i + 1] and _has_gradient(x))
        vjp = _derive(ctx.crossing, "vjp", wanted, len(inputs))
        given = [c for c, use in zip(cotangents, ctx.differentiable, strict=True) if use]
        results = apply(vjp.number, *inputs, *given)
        grads = dict(zip(wanted, results, strict=True))
        return (None, *(grads.get(i) for i in range(len(inputs))))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> tuple:
        inputs = ctx.saved_tensors
        wanted = tuple(i for i, t in enumerate(tangents) if t is not None)
        jvp = _derive(ctx.crossing, "jvp", wanted, len(inputs))
        given = [t for t in tangents if t is not None]
        results = iter(apply(jvp.number, *inputs, *given))
        return tuple(next(results) if use else None for use in ctx.differentiable)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, number: int, *inputs: Tensor) -> tuple:
        batched = _derive(find(number), "vmap", in_dims[1:], info.batch_size)
        results = apply(batched.number, *inputs)
        return results, (0,) * len(results)


@graph_node
def apply(number: int, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Computes a crossing's results, [] or more tensors, differentiable in every order and mode."""
    return _Apply.apply(number, *inputs)


def _has_gradient(x: Tensor) -> bool:
    """Tells floating-point and complex tensors from others."""
    return x.is_floating_point() or x.is_complex()


def _derive(crossing: Crossing, kind: str, static: tuple, count: int) -> Crossing:
    """Returns the crossing of a transform of a function, the same one each time."""
    key = (kind, static, count)
    if key not in crossing.derived:
        transform = {"vjp": _vjp, "jvp": _jvp, "vmap": _vmap}[kind]
        crossing.derived[key] = cross(transform(crossing.function, static, count), crossing.name)
    return crossing.derived[key]


def _vjp(function: Callable[[list], list], wanted: tuple[int, ...], count: int) -> Callable[[list], list]:
    """Builds inputs + cotangents of the float results -> gradients of the wanted inputs.

    torch's gradient of a complex input is the conjugate of JAX's.
    """

    def pull(values: list) -> list:
        partial_function, some = _restrict(function, wanted, values[:count])
        cotangents = [jnp.conj(c) for c in values[count:]]
        return [jnp.conj(g) for g in jax.vjp(partial_function, some)[1](cotangents)[0]]

    return pull


def _jvp(function: Callable[[list], list], wanted: tuple[int, ...], count: int) -> Callable[[list], list]:
    """Builds inputs + tangents of the wanted inputs -> tangents of the float results."""

    def push(values: list) -> list:
        partial_function, some = _restrict(function, wanted, values[:count])
        return jax.jvp(partial_function, (some,), (values[count:],))[1]

    return push


def _vmap(
    function: Callable[[list], list], axes: tuple[int | None, ...], size: int
) -> Callable[[list], list]:
    """Builds the function of inputs with batch axes; the results' are first."""
    return lambda values: jax.vmap(function, in_axes=(list(axes),), axis_size=size)(values)


def _restrict(function: Callable, wanted: tuple[int, ...], inputs: list) -> tuple[Callable, list]:
    """Returns the function of the wanted inputs alone that gives its float results, and these inputs."""

    def restricted(some: list) -> list:
        chosen = dict(zip(wanted, some, strict=True))
        results = function([chosen.get(i, x) for i, x in enumerate(inputs)])
        return [y for y in results if jnp.issubdtype(y.dtype, jnp.inexact)]

    return restricted, [inputs[i] for i in wanted]
