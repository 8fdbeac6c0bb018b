"""Every operation that `pure/interop/jax/aten` lowers to JAX, compared with torch.

Values, shapes, dtypes and gradients are compared. The cases are in `aten_cases.py`, sorted by the file of
`pure/interop/jax/aten` that they test: activation, arithmetic, comparison, creation, indexing, order, product,
reduction, shape, unary; result and table are shared. All cases of one file are compiled as one program.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from pure.interop.jax.aten.table import TABLE, Out
from tests.pure.interop.jax.aten_cases import CASES, NAN, Case

TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
"""Largest relative difference; in half precision one unit in the last place: torch may round differently."""

FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""Compiler options with which XLA compiles a thousand small operations six times as fast."""


@pytest.mark.parametrize("kind", CASES)
def test_operations_equal_torch(kind: str) -> None:
    check_cases(CASES[kind])


def check_cases(cases: tuple[Case, ...]) -> None:
    """Compile all cases as one program and run it; fail with a list of the cases that differ."""
    expected = [run_in_torch(case) for case in cases]
    given = [[to_numpy(x) for x in tensors(case.args)] for case in cases]
    float_cotangents = [[to_numpy(g) for g in e[2]] for e in expected]

    def program(given: list, float_cotangents: list) -> list:
        return [run_in_jax(*row) for row in zip(cases, expected, given, float_cotangents, strict=True)]

    compiled = jax.jit(program).lower(given, float_cotangents).compile(compiler_options=FAST)
    wrong = []
    for case, want, got in zip(cases, expected, compiled(given, float_cotangents), strict=True):
        wrong += [f"{case}: {text}" for text in describe_differences(case, want, got)]
    assert not wrong, "\n".join(wrong)


def run_in_torch(case: Case) -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:
    """Return torch's results, gradients of the float arguments, and the cotangents used for them."""
    leaves = [x.clone().requires_grad_(case.grad and x.is_floating_point()) for x in tensors(case.args)]
    result = overload(case)(*replace_tensors(case.args, leaves), **case.kwargs)
    results = list(result) if isinstance(result, tuple | list) else [result]
    outputs = [x for x in results if x.requires_grad]
    if not outputs:
        return results, [], []
    inputs = [x for x in leaves if x.requires_grad]
    grads = torch.autograd.grad(outputs, inputs, [cotangent(x) for x in outputs], allow_unused=True)
    floats = [x for x in results if x.is_floating_point()]
    float_cotangents = [cotangent(x) if x.requires_grad else torch.zeros_like(x) for x in floats]
    return [x.detach() for x in results], list(grads), float_cotangents


def run_in_jax(case: Case, expected: tuple, given: list, float_cotangents: list) -> tuple[list, list]:
    """Return the results of the table's entry and its gradients for these cotangents."""
    outs = tuple(Out(tuple(x.shape), jax.dtypes.canonicalize_dtype(to_numpy(x).dtype)) for x in expected[0])
    returns = overload(case)._schema.returns
    several = len(returns) > 1 or str(returns[0].type) == "List[Tensor]"
    floats = [i for i, x in enumerate(tensors(case.args)) if case.grad and x.is_floating_point()]

    def run(*values: Any) -> list:
        arrays = [jnp.asarray(x) for x in given]
        for i, x in zip(floats, values, strict=True):
            arrays[i] = x
        args = [name_of(v) for v in replace_tensors(case.args, arrays)]
        result = TABLE[case.op](
            outs if several else outs[0], *args, **{k: name_of(v) for k, v in case.kwargs.items()}
        )
        results = list(result) if several else [result]
        for x, out in zip(results, outs, strict=True):
            assert (x.shape, x.dtype) == out, f"{case}: expected {out}, got {x.shape} {x.dtype}"
        return results

    if not float_cotangents:
        return run(*(given[i] for i in floats)), []
    results, pull = jax.vjp(run, *(jnp.asarray(given[i]) for i in floats))
    rest = iter(float_cotangents)
    cotangents = [
        next(rest) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape, jax.dtypes.float0)
        for x in results
    ]
    return results, list(pull(cotangents))


def describe_differences(case: Case, want: tuple, got: tuple) -> list[str]:
    """Describe all differences beyond the tolerance. Where an argument is NaN, its gradient may be NaN."""
    wrong = [describe_difference(case, w, g) for w, g in zip(want[0], got[0], strict=True)]
    floats = [x for x in tensors(case.args) if x.is_floating_point()]
    for x, w, g in zip(floats, want[1], got[1], strict=False):
        zero = torch.zeros_like(x) if w is None else w + 0.0
        nan = x.isnan() & torch.tensor(np.isnan(np.asarray(g, np.float32)))
        text = describe_difference(case, torch.where(nan, NAN, zero), np.asarray(g) + 0)
        wrong.append(text and f"gradient: {text}")
    return [text for text in wrong if text]


def describe_difference(case: Case, want: Tensor, got: Any) -> str:
    """Describe a difference beyond the tolerance, or return "". NaN equals NaN; 0 does not equal -0."""
    a, b = to_numpy(want), np.asarray(got)
    if not want.is_floating_point():
        same = a == b
    else:
        bound = TOLERANCE[str(want.dtype)[6:]] * case.loose
        a, b = a.astype(np.float64), b.astype(np.float64)
        scale = np.abs(a[np.isfinite(a)]).max(initial=0)
        same = np.isclose(b, a, rtol=bound, atol=bound * scale / 4, equal_nan=True)
        same &= (np.signbit(a) == np.signbit(b)) | (a != 0) | (b != 0)
    where = np.argwhere(~same)[:4].tolist()
    return "" if np.all(same) else f"expected {a[~same][:4]}, got {b[~same][:4]} at {where}"


def overload(case: Case) -> Any:
    """Return torch's operation."""
    packet, _, overload_name = case.op.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload_name)


def tensors(args: Any) -> list[Tensor]:
    """Return the tensors among the arguments and in their lists."""
    flat = [x for arg in args for x in (arg if isinstance(arg, list) else [arg])]
    return [x for x in flat if isinstance(x, Tensor)]


def replace_tensors(args: Any, values: list) -> list:
    """Replace the tensors among the arguments and in their lists by `values`, in order."""
    rest = iter(values)
    change = lambda x: next(rest) if isinstance(x, Tensor) else x  # noqa: E731
    return [[change(x) for x in arg] if isinstance(arg, list) else change(arg) for arg in args]


def cotangent(x: Tensor) -> Tensor:
    """Return fixed numbers of the shape and dtype of x, all different."""
    return torch.cos(torch.arange(x.numel(), dtype=torch.float64) + 0.5).reshape(x.shape).to(x.dtype)


def to_numpy(x: Tensor) -> np.ndarray:
    """Convert a tensor to numpy, 64-bit numbers to 32 bits unless JAX has x64 enabled."""
    bits = x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()
    return bits.astype(jax.dtypes.canonicalize_dtype(bits.dtype))


def name_of(value: Any) -> Any:
    """Replace a dtype, device or layout by its name, as in a lowered program."""
    kinds = torch.dtype, torch.device, torch.layout, torch.memory_format
    return str(value).removeprefix("torch.") if isinstance(value, kinds) else value
