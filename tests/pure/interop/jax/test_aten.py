"""Every operation that `pure/interop/jax/aten` lowers to JAX, compared with torch.

Values, shapes, dtypes and gradients are compared. The cases are in `aten_cases.py` and `aten_layer_cases.py`,
sorted by the file of `pure/interop/jax/aten` that they test: activation, arithmetic, comparison, creation,
decomposition, indexing with places, loss, norm, order, piecewise, product, reduction, scatter, shape,
special, unary. All cases of one file are compiled as one program. (`table` collects them, `result` describes
the results.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from pure.interop.jax import lower
from pure.interop.jax.aten.table import TABLE, Out
from tests.pure.interop.jax.aten_cases import CASES, NAN, Case
from tests.pure.interop.jax.aten_layer_cases import EXTRA

TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 2e-3, "bfloat16": 1.6e-2}
"""Largest relative difference; of half precision a unit in the last place, which torch may round otherwise."""

UNINITIALISED = {
    "empty.memory_format",
    "empty_like.default",
    "new_empty.default",
    "new_empty_strided.default",
}
"""Operations whose numbers torch leaves open."""

OURS = {"intro2llm.jax_function.default", "intro2llm.threefry2x32.default"}
"""Operations of this project: functions that cross, and test_hashing.py."""

SIGNED = {"_linalg_eigh.default"}
"""Operations with results whose sign each library chooses; a test of their own is below."""

EITHER_ZERO = ("xlogy", "special_xlog1py", "softshrink", "gelu")
"""Operations whose 0 may be -0. torch's gelu of -100 is 0 with AVX2, and -0 with AVX512 or in float64."""

SINGLE = (
    "view.dtype",  # of 64 bits another shape
    "hardsigmoid.default", "hardsigmoid_backward.default",  # torch's constant 1/6 has 32 bits
    "log_sigmoid_backward.default", "_cdist_backward.default",  # an argument was computed in 32 bits
    "digamma.default",  # to 1e-11 only
)  # fmt: skip
"""Operations that are compared in float32 alone."""


def test_every_operation_has_a_case() -> None:
    tested = {case.op for table in (CASES, EXTRA) for cases in table.values() for case in cases}
    assert TABLE.keys() - tested == UNINITIALISED | OURS | SIGNED


@pytest.mark.filterwarnings("ignore:.*degrees of freedom is <= 0:UserWarning")  # of torch 2.15
@pytest.mark.parametrize("kind", CASES)
def test_operations_equal_torch(kind: str) -> None:
    check_cases(CASES[kind])


@pytest.mark.parametrize("kind", EXTRA)
def test_rarer_operations_equal_torch(kind: str) -> None:
    check_cases(EXTRA[kind])


def test_float64_and_int64_equal_torch() -> None:
    """The first case of every operation, in 64 bits, without gradients."""
    first: dict[str, Case] = {}
    for cases in (*CASES.values(), *EXTRA.values()):
        for case in cases:
            first.setdefault(case.op, case)
    wide = {torch.float32: torch.float64, torch.int32: torch.int64}
    with jax.enable_x64(True):
        check_cases(tuple(convert_case(case, wide) for op, case in first.items() if op not in SINGLE))


def test_index_out_of_range_gives_no_number_that_could_be_right() -> None:
    """NaN where it was read or written; the lowest integer of an integer dtype."""
    table, numbers, both = np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(3), ((2, 2), (3, 2))
    read, written = (Out(shape, table.dtype) for shape in both)
    scalar = Out((), table.dtype)

    def program(wrong: Any) -> dict[str, Any]:
        index, row = jnp.stack([wrong, jnp.ones_like(wrong)]), jnp.ones((1, 2))
        one, far, nll = index[:1, None], jnp.where(wrong < 0, -4, 3), TABLE["nll_loss_forward.default"]
        return {
            "embedding": TABLE["embedding.default"](read, jnp.asarray(table), index),
            "index_select": TABLE["index_select.default"](read, jnp.asarray(table), 0, index),
            "gather": TABLE["gather.default"](Out((2,), numbers.dtype), jnp.asarray(numbers), 0, index),
            "scatter": TABLE["scatter.src"](written, jnp.asarray(table), 0, one, row),
            "scatter_add": TABLE["scatter_add.default"](written, jnp.asarray(table), 0, one, row),
            "index_add": TABLE["index_add.default"](written, jnp.asarray(table), 0, index[:1], row),
            "index_copy": TABLE["index_copy.default"](written, jnp.asarray(table), 0, index[:1], row),
            "index": TABLE["index.Tensor"](read, jnp.asarray(table), [jnp.where(index == 1, 1, far)]),
            "index_put": TABLE["index_put.default"](written, jnp.asarray(table), [index], row),
            "nll": nll((scalar, scalar), jnp.asarray(table[:2]), index, None, 1, -100)[0],
        }

    compiled = jax.jit(program)
    for wrong in (3, -1, -4, 2**31 - 1):
        got = compiled(jnp.asarray(wrong))
        assert got.pop("gather").tolist() == [-(2**31), 1]
        for name in ("embedding", "index_select"):
            assert np.isnan(got[name][0]).all()
            assert got[name][1].tolist() == [2, 3]
        silent = [name for name, values in got.items() if name != "index_put" and not np.isnan(values).any()]
        assert silent == []
        assert np.isnan(got["index_put"]).any() == (wrong != -1)


@pytest.mark.parametrize(
    ("op", "args", "kwargs", "error", "text"),
    [
        ("add.Tensor", (jnp.arange(3), 2**40), {}, OverflowError, "x64=True"),
        ("remainder.Scalar", (jnp.arange(3), 0), {}, ZeroDivisionError, "constant 0"),
        ("floor_divide.default", (jnp.arange(3), 0), {}, ZeroDivisionError, "constant 0"),
        ("embedding.default", (jnp.ones((3, 2)), jnp.arange(3), -1, True), {}, NotImplementedError, "scale_grad"),
        ("index_put.default", (jnp.ones(3), [jnp.ones(3, bool)], jnp.ones(2)), {}, NotImplementedError, "where"),
        ("as_strided.default", (jnp.ones(3), [2, 2], [1, 1]), {}, NotImplementedError, "slices"),
        ("searchsorted.Tensor", (jnp.ones((2, 2)), jnp.ones(3)), {}, NotImplementedError, "one axis"),
        ("convolution.default", (None, None, None, [1], [0], [1], True, [0], 1), {}, NotImplementedError, "False"),
    ],
)  # fmt: skip
def test_refused_with_the_fix(op: str, args: tuple, kwargs: dict, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        TABLE[op](Out((3,), jnp.asarray(0).dtype), *args, **kwargs)


def test_eigenvectors_equal_torch_except_for_their_sign() -> None:
    """A function of a symmetric matrix, by its eigenvectors: value and gradient."""
    numbers = torch.tensor(np.random.default_rng(0).normal(size=(2, 4, 4)), dtype=torch.float32)

    def take_root(x: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(x + x.mT + 9 * torch.eye(4))
        return (vectors * values.sqrt().unsqueeze(-2)) @ vectors.mT

    def weigh(x: Tensor) -> Tensor:
        return (take_root(x).flatten() * torch.arange(32).cos()).sum()

    array = jnp.asarray(numbers.numpy())
    torch.testing.assert_close(torch.tensor(np.asarray(lower(take_root, numbers)(array))), take_root(numbers))
    slope = jax.grad(lower(weigh, numbers))(array)
    torch.testing.assert_close(torch.tensor(np.asarray(slope)), torch.func.grad(weigh)(numbers))


def convert_case(case: Case, dtypes: Mapping) -> Case:
    """The case with its tensors in other dtypes."""
    change = lambda x: x.to(dtypes.get(x.dtype, x.dtype)) if isinstance(x, Tensor) else x  # noqa: E731
    args = tuple([change(x) for x in a] if isinstance(a, list) else change(a) for a in case.args)
    return case._replace(args=args, grad=False)


def check_cases(cases: tuple[Case, ...]) -> None:
    """Compiles all cases as one program, and names every one that differs."""
    expected = [run_in_torch(case) for case in cases]
    given = [[to_numpy(x) for x in tensors(case.args)] for case in cases]
    float_cotangents = [[to_numpy(g) for g in e[2]] for e in expected]

    def program(given: list, float_cotangents: list) -> list:
        return [run_in_jax(*row) for row in zip(cases, expected, given, float_cotangents, strict=True)]

    wrong = []
    for case, want, got in zip(cases, expected, jax.jit(program)(given, float_cotangents), strict=True):
        wrong += [f"{case}: {text}" for text in describe_differences(case, want, got)]
    assert not wrong, "\n".join(wrong)


def run_in_torch(case: Case) -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:
    """Results, gradients of the float arguments, and the cotangents that they were computed with."""
    leaves = [x.clone().requires_grad_(i in graded(case)) for i, x in enumerate(tensors(case.args))]
    result = overload(case)(*replace_tensors(case.args, leaves), **case.kwargs)
    results = list(result) if isinstance(result, tuple | list) else [result]
    outputs = [x for x in results if x is not None and x.requires_grad]
    if not outputs:
        return results, [], []
    wanted = [x for x in leaves if x.requires_grad]
    pulled = torch.autograd.grad(outputs, wanted, [cotangent(x) for x in outputs], allow_unused=True)
    floats = [x for x in results if x.is_floating_point()]
    float_cotangents = [cotangent(x) if x.requires_grad else torch.zeros_like(x) for x in floats]
    return [x.detach() for x in results], list(pulled), float_cotangents


def run_in_jax(case: Case, expected: tuple, given: list, float_cotangents: list) -> tuple[list, list]:
    """The entry's results and its gradients."""
    outs = tuple(None if x is None else Out(tuple(x.shape), to_numpy(x).dtype) for x in expected[0])
    returns = overload(case)._schema.returns
    several = len(returns) > 1 or str(returns[0].type) == "List[Tensor]"
    floats = graded(case)

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
            got = None if x is None else (x.shape, x.dtype)
            assert got == out, f"{case}: expected {out}, got {got}"
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
    """Texts of what differs beyond the tolerance. At an argument that is NaN a gradient may be NaN."""
    wrong = [describe_difference(case, w, g) for w, g in zip(want[0], got[0], strict=True) if w is not None]
    floats = [tensors(case.args)[i] for i in graded(case)]
    for x, w, g in zip(floats, want[1], got[1], strict=False):
        zero = torch.zeros_like(x) if w is None else w + 0.0
        nan = x.isnan() & torch.tensor(np.isnan(np.asarray(g, np.float32)))
        text = describe_difference(case, torch.where(nan, NAN, zero), np.asarray(g) + 0)
        wrong.append(text and f"gradient: {text}")
    return [text for text in wrong if text]


def describe_difference(case: Case, want: Tensor, got: Any) -> str:
    """Describes a difference beyond the tolerance; empty if there is none. NaN equals NaN, 0 is not -0."""
    a, b = to_numpy(want), np.asarray(got)
    if not want.is_floating_point():
        same = a == b
    else:
        bound = TOLERANCE[str(want.dtype)[6:]] * case.loose
        a, b = a.astype(np.float64), b.astype(np.float64)
        scale = np.abs(a[np.isfinite(a)]).max(initial=0)
        same = np.isclose(b, a, rtol=bound, atol=bound * scale / 4, equal_nan=True)
        if case.op.split(".")[0] not in EITHER_ZERO:
            same &= (np.signbit(a) == np.signbit(b)) | (a != 0) | (b != 0)
    where = np.argwhere(~same)[:4].tolist()
    return "" if np.all(same) else f"expected {a[~same][:4]}, got {b[~same][:4]} at {where}"


def graded(case: Case) -> list[int]:
    """Positions, among the tensors, of those that get a gradient."""
    floats = [i for i, x in enumerate(tensors(case.args)) if x.is_floating_point()]
    return floats[:1] if case.grad == "first" else floats * bool(case.grad)


def overload(case: Case) -> Any:
    """torch's function."""
    packet, _, which = case.op.partition(".")
    return getattr(getattr(torch.ops.aten, packet), which)


def tensors(args: Any) -> list[Tensor]:
    """The tensors among arguments and their lists."""
    flat = [x for arg in args for x in (arg if isinstance(arg, list) else [arg])]
    return [x for x in flat if isinstance(x, Tensor)]


def replace_tensors(args: Any, values: list) -> list:
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


def name_of(value: Any) -> Any:
    """A dtype, device or layout by its name, as a lowered program has it."""
    kinds = torch.dtype, torch.device, torch.layout, torch.memory_format
    return str(value).removeprefix("torch.") if isinstance(value, kinds) else value
