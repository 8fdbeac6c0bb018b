"""Every operation of the table against torch: values, shapes and dtypes, and gradients.

The cases stand in `aten_cases.py`, by the file of `pure/interop/jax/aten` that they test: arithmetic, unary,
comparison, activation, shape, creation, reduction, order, product, indexing, and what they share in result and
table. All cases of one file are compiled as one program.
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
"""Largest relative difference; of half precision a unit in the last place, which torch may round otherwise."""

FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
"""Options with which XLA compiles a thousand small operations six times as fast."""


@pytest.mark.parametrize("kind", CASES)
def test_operations_equal_torch(kind: str) -> None:
    check(CASES[kind])


def check(cases: tuple[Case, ...]) -> None:
    """Compiles all cases as one program, and names every one that differs."""
    expected = [torch_side(case) for case in cases]
    given = [[to_numpy(x) for x in tensors(case.args)] for case in cases]
    pulls = [[to_numpy(g) for g in e[2]] for e in expected]

    def program(given: list, pulls: list) -> list:
        return [jax_side(*row) for row in zip(cases, expected, given, pulls, strict=True)]

    compiled = jax.jit(program).lower(given, pulls).compile(compiler_options=FAST)
    wrong = []
    for case, want, got in zip(cases, expected, compiled(given, pulls), strict=True):
        wrong += [f"{case}: {text}" for text in differences(case, want, got)]
    assert not wrong, "\n".join(wrong)


def torch_side(case: Case) -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:
    """Results, gradients of the float arguments, and the cotangents that they were computed with."""
    leaves = [x.clone().requires_grad_(case.grad and x.is_floating_point()) for x in tensors(case.args)]
    result = overload(case)(*put(case.args, leaves), **case.kwargs)
    results = list(result) if isinstance(result, tuple | list) else [result]
    outputs = [x for x in results if x.requires_grad]
    if not outputs:
        return results, [], []
    wanted = [x for x in leaves if x.requires_grad]
    pulled = torch.autograd.grad(outputs, wanted, [cotangent(x) for x in outputs], allow_unused=True)
    floats = [x for x in results if x.is_floating_point()]
    pulls = [cotangent(x) if x.requires_grad else torch.zeros_like(x) for x in floats]
    return [x.detach() for x in results], list(pulled), pulls


def jax_side(case: Case, expected: tuple, given: list, pulls: list) -> tuple[list, list]:
    """The entry's results and its gradients."""
    outs = tuple(Out(tuple(x.shape), jax.dtypes.canonicalize_dtype(to_numpy(x).dtype)) for x in expected[0])
    returns = overload(case)._schema.returns
    several = len(returns) > 1 or str(returns[0].type) == "List[Tensor]"
    floats = [i for i, x in enumerate(tensors(case.args)) if case.grad and x.is_floating_point()]

    def run(*values: Any) -> list:
        arrays = [jnp.asarray(x) for x in given]
        for i, x in zip(floats, values, strict=True):
            arrays[i] = x
        args = [name(v) for v in put(case.args, arrays)]
        result = TABLE[case.op](
            outs if several else outs[0], *args, **{k: name(v) for k, v in case.kwargs.items()}
        )
        results = list(result) if several else [result]
        for x, out in zip(results, outs, strict=True):
            assert (x.shape, x.dtype) == out, f"{case}: expected {out}, got {x.shape} {x.dtype}"
        return results

    if not pulls:
        return run(*(given[i] for i in floats)), []
    results, pull = jax.vjp(run, *(jnp.asarray(given[i]) for i in floats))
    rest = iter(pulls)
    cotangents = [
        next(rest) if jnp.issubdtype(x.dtype, jnp.floating) else np.zeros(x.shape, jax.dtypes.float0)
        for x in results
    ]
    return results, list(pull(cotangents))


def differences(case: Case, want: tuple, got: tuple) -> list[str]:
    """Texts of what differs beyond the tolerance. At an argument that is NaN a gradient may be NaN."""
    wrong = [difference(case, w, g) for w, g in zip(want[0], got[0], strict=True)]
    floats = [x for x in tensors(case.args) if x.is_floating_point()]
    for x, w, g in zip(floats, want[1], got[1], strict=False):
        zero = torch.zeros_like(x) if w is None else w + 0.0
        nan = x.isnan() & torch.tensor(np.isnan(np.asarray(g, np.float32)))
        text = difference(case, torch.where(nan, NAN, zero), np.asarray(g) + 0)
        wrong.append(text and f"gradient: {text}")
    return [text for text in wrong if text]


def difference(case: Case, want: Tensor, got: Any) -> str:
    """Describes a difference beyond the tolerance; empty if there is none. NaN equals NaN, 0 is not -0."""
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
    """torch's function."""
    packet, _, which = case.op.partition(".")
    return getattr(getattr(torch.ops.aten, packet), which)


def tensors(args: Any) -> list[Tensor]:
    """The tensors among arguments and their lists."""
    flat = [x for arg in args for x in (arg if isinstance(arg, list) else [arg])]
    return [x for x in flat if isinstance(x, Tensor)]


def put(args: Any, values: list) -> list:
    """The arguments with other values in place of the tensors."""
    rest = iter(values)
    change = lambda x: next(rest) if isinstance(x, Tensor) else x  # noqa: E731
    return [[change(x) for x in arg] if isinstance(arg, list) else change(arg) for arg in args]


def cotangent(x: Tensor) -> Tensor:
    """Fixed numbers of the shape and dtype of x, all different."""
    return torch.cos(torch.arange(x.numel(), dtype=torch.float64) + 0.5).reshape(x.shape).to(x.dtype)


def to_numpy(x: Tensor) -> np.ndarray:
    """The numbers of a tensor; 64-bit ones narrow where jax has none."""
    bits = x.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if x.dtype == torch.bfloat16 else x.numpy()
    return bits.astype(jax.dtypes.canonicalize_dtype(bits.dtype))


def name(value: Any) -> Any:
    """A dtype, device or layout by its name, as a lowered program has it."""
    kinds = torch.dtype, torch.device, torch.layout, torch.memory_format
    return str(value).removeprefix("torch.") if isinstance(value, kinds) else value
