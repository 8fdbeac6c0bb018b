"""Arguments for every operation that `pure/interop/jax/aten` lowers to JAX; `test_aten.py` runs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

NAN, INF = float("nan"), float("inf")
NO_DERIVATIVE = (
    "floor_divide",
    "copy",
    "silu_backward",
    "log_sigmoid_backward",
    "softplus_backward",
    "gelu_backward",
    "hardswish_backward",
    "hardsigmoid_backward",
    "mish_backward",
    "softshrink_backward",
    "hardshrink_backward",
    "hardtanh_backward",
    "glu_backward",
    "elu_backward",
    "soft_margin_loss_backward",
    "binary_cross_entropy_backward",
    *(("aminmax",) if torch.__version__.startswith("2.11.") else ()),
)
"""Operations for which torch's autograd has no derivative, though JAX has one: gradients are not compared."""


class Case(NamedTuple):
    """One call of one overload."""

    op: str
    args: tuple
    kwargs: dict
    grad: bool | str = True  # of every float argument, or of the "first"
    loose: float = 1.0  # factor on the tolerance

    def __str__(self) -> str:
        return f"{self.op}({', '.join(map(describe, self.args))}, {self.kwargs})"


def describe(x: Any) -> str:
    """Describe a tensor by dtype and shape, a list by its items, and anything else by its repr."""
    if isinstance(x, list):
        return f"[{', '.join(map(describe, x))}]"
    return f"{str(x.dtype)[6:]}{list(x.shape)}" if isinstance(x, Tensor) else repr(x)


def floats(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Tensor:
    """Random float32 numbers in [low, high)."""
    numbers = np.random.default_rng(seed).uniform(low, high, shape)
    return torch.tensor(numbers, dtype=torch.float32)


def ints(*values: Any, dtype: torch.dtype = torch.int32) -> Tensor:
    """Integers, from several values, or from one value or nested list."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=dtype)


def bools(*values: Any) -> Tensor:
    """Booleans, from several values, or from one value or nested list."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.bool)


def case(op: str, *args: Any, grad: bool | str = True, loose: float = 1.0, **kwargs: Any) -> Case:
    """Make a case; `grad` is ignored where torch has no derivative."""
    return Case(op, args, kwargs, op.split(".")[0] not in NO_DERIVATIVE and grad, loose)


def each_op(ops: str, *args: Any, **kwargs: Any) -> list[Case]:
    """Cases with the same arguments for several overloads, whose names are separated by spaces."""
    return [case(op, *args, **kwargs) for op in ops.split()]


def in_dtypes(cases: list[Case], *dtypes: torch.dtype) -> list[Case]:
    """Repeat the cases with their float32 tensors converted to each of `dtypes`."""
    converted = []
    for original in cases:
        for dtype in dtypes:
            args = tuple(convert(arg, dtype) for arg in original.args)
            converted.append(original._replace(args=args))
    return converted


def convert(x: Any, dtype: torch.dtype) -> Any:
    """Convert a float32 tensor, or those in a list; return anything else as it is."""
    if isinstance(x, list):
        return [convert(item, dtype) for item in x]
    return x.to(dtype) if isinstance(x, Tensor) and x.dtype == torch.float32 else x


HALF = (torch.bfloat16, torch.float16)
SPECIAL = torch.tensor([NAN, INF, -INF, -0.0, 0.0, 1, -1, 0.5, -0.5, 1.5, 2.5, -2.5, 1e30, 3.7, -0.3])
COLUMN = SPECIAL[:, None]
EXTREMES = ints([-(2**31), -7, -3, -1, 0, 1, 2, 7, 2**31 - 1])
DIVISORS = ints([-5, -2, -1, 1, 2, 3, 2**31 - 1])[:, None]
X, Y, ROW, SCALAR, EMPTY = floats(3, 4), floats(3, 4, seed=1), floats(4, seed=2), floats(seed=3), floats(0, 4)
CUBE, POSITIVE = floats(2, 3, 4), floats(3, 4, low=0.1)
INTS, SMALL, FLAGS = (
    ints([[1, -2, 3], [4, 5, -6]]),
    ints([3, 0, 5, 0, -1]),
    bools([[True, False, True], [False, False, True]]),
)
BYTES = ints([0, 1, 200, 255], dtype=torch.uint8)


def arithmetic() -> Iterator[Case]:
    """Arrays of equal and of broadcast shapes, 0-d arrays, numbers, integers, special values."""
    both = "add.Tensor sub.Tensor rsub.Tensor mul.Tensor div.Tensor maximum.default minimum.default"
    plain = each_op(both, X, Y)
    yield from [
        *plain,
        *in_dtypes(plain, *HALF),
        *each_op(both, X, ROW),
        *each_op(both, SCALAR, X),
        *each_op(both, EMPTY, ROW),
    ]
    # Without NaN and -0.0, as either operand may count as the larger of two equal ones.
    real = SPECIAL[[1, 2, 4, 5, 6, 7, 8, 9, 11]]
    yield from each_op("maximum.default minimum.default", real[:, None], real)
    yield from each_op("maximum.default minimum.default", torch.tensor([[NAN], [1.0]]), real, grad=False)
    yield from [
        *each_op(" ".join(both.split()[:5]), COLUMN, SPECIAL),
        *each_op(both, X[:2, :3], INTS),
        *each_op(both, ints(3, 4), SCALAR),
    ]
    yield from each_op(
        "add.Tensor sub.Tensor rsub.Tensor mul.Tensor maximum.default minimum.default",
        EXTREMES[:, None],
        EXTREMES,
    )
    yield from each_op("add.Tensor mul.Tensor maximum.default minimum.default", FLAGS, FLAGS[0])
    scaled = each_op("add.Tensor sub.Tensor rsub.Tensor", X, Y, alpha=0.3)
    yield from [*scaled, *in_dtypes(scaled, *HALF), *each_op("add.Tensor sub.Tensor", INTS, INTS, alpha=3)]
    numbers = [
        c
        for n in (0.1, 3, -1)
        for c in each_op("add.Scalar sub.Scalar rsub.Scalar mul.Scalar div.Scalar", X, n)
    ]
    yield from [
        *numbers,
        *in_dtypes(numbers, *HALF),
        *each_op("add.Scalar sub.Scalar rsub.Scalar mul.Scalar div.Scalar", INTS, 2),
    ]
    yield from each_op("add.Scalar mul.Scalar div.Scalar", INTS, 0.5)
    for mode in ("trunc", "floor", None):
        yield from each_op("div.Tensor_mode", COLUMN, SPECIAL, rounding_mode=mode)
        yield from each_op("div.Tensor_mode", EXTREMES[1:], DIVISORS, rounding_mode=mode)
        yield from in_dtypes(each_op("div.Tensor_mode", X, Y, rounding_mode=mode), torch.float32, *HALF)
        yield from [
            *each_op("div.Scalar_mode", X, 0.1, rounding_mode=mode),
            *each_op("div.Scalar_mode", INTS, -4, rounding_mode=mode),
        ]
    rest = "floor_divide.default remainder.Tensor fmod.Tensor"
    yield from [
        *in_dtypes(each_op(rest, X, Y), torch.float32, *HALF),
        *each_op(rest, COLUMN, SPECIAL),
        *each_op(rest, EXTREMES[1:], DIVISORS),
    ]
    yield from [*each_op(rest, floats(4) * 10, ints(3, -3, 4, 7)), *each_op(rest, EMPTY, ROW)]
    yield from [
        c for n in (0.3, -2, 5) for c in each_op("floor_divide.Scalar remainder.Scalar fmod.Scalar", X, n)
    ]
    yield from [
        c for n in (3, -2) for c in each_op("floor_divide.Scalar remainder.Scalar fmod.Scalar", EXTREMES, n)
    ]
    yield from [
        *each_op("remainder.Scalar_Tensor", 5.5, Y, grad=False),
        *each_op("remainder.Scalar_Tensor", -7, DIVISORS),
    ]
    for n in (-2, -1, 0, 1, 2, 3, 5, 0.5, -0.5, 2.5):
        yield from [
            *each_op("pow.Tensor_Scalar", SPECIAL, n, grad=n != -0.5),
            *in_dtypes(each_op("pow.Tensor_Scalar", POSITIVE, n), *HALF),
        ]
    yield from [
        *each_op("pow.Tensor_Tensor", POSITIVE, Y),
        *each_op("pow.Tensor_Tensor", COLUMN, SPECIAL),
        *each_op("pow.Scalar", 2.5, X),
    ]
    yield from [
        *each_op("pow.Scalar", 0.0, SPECIAL, grad=False),
        *each_op("pow.Scalar", 2, ints(0, 1, 5, 30)),
        *each_op("pow.Tensor_Scalar", INTS, 3),
    ]
    yield from [
        *each_op("pow.Tensor_Tensor", INTS, ints(0, 2, 3)),
        *each_op("pow.Tensor_Tensor", POSITIVE, ints(2)),
    ]
    shifts = "bitwise_left_shift.Tensor bitwise_right_shift.Tensor __lshift__.Tensor __rshift__.Tensor"
    by_number = "bitwise_left_shift.Tensor_Scalar bitwise_right_shift.Tensor_Scalar "
    by_number += "__lshift__.Scalar __rshift__.Scalar"
    yield from each_op(shifts, EXTREMES[:, None], ints(0, 1, 31, 32, 33, -1))
    yield from [c for n in (0, 5, 31, 32) for c in each_op(by_number, EXTREMES, n)]
    yield from each_op(shifts, BYTES, ints(1, 7, 8, 0, dtype=torch.uint8))


def unary() -> Iterator[Case]:
    """Special values, numbers in the domain of the function, half precision, integers."""
    names = (
        "abs neg sign sgn reciprocal square exp exp2 expm1 log log2 log10 log1p sqrt rsqrt sin cos tan tanh "
        "erf erfinv sigmoid floor ceil trunc round isnan isinf isfinite"
    )
    ops = [f"{op}.default" for op in names.split()]
    moderate = SPECIAL[[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14]]  # sin(1e30) differs between libraries
    for op in ops:
        yield case(op, moderate, grad=op != "rsqrt.default")  # whose gradient at -0.0 has another sign
        yield from in_dtypes([case(op, floats(3, 4, low=0.05, high=0.95))], torch.float32, *HALF)
        yield from [case(op, SCALAR.abs()), case(op, EMPTY), case(op, ints(1, 2, 3))]
    yield from each_op("abs.default neg.default sign.default bitwise_not.default", EXTREMES)
    yield from each_op("logical_not.default", SPECIAL, grad=False) + each_op("logical_not.default", INTS)
    yield from each_op("bitwise_not.default logical_not.default", FLAGS)
    halves = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 0.125, 12.345, -3.675])
    for decimals in (0, 2, -1):
        yield case("round.decimals", halves * 10, decimals=decimals)
    yield case("round.default", halves)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int32, torch.bool, torch.uint8):
        yield case("_to_copy.default", floats(3, 4, low=0.0), dtype=dtype)
        yield case("_to_copy.default", ints(0, 1, 200), dtype=dtype)
    yield case("_to_copy.default", X)


def comparison() -> Iterator[Case]:
    """Comparison, logic, `where`, `masked_fill` and `clamp`."""
    names = ["eq", "ne", "lt", "le", "gt", "ge"]
    for x, y in ((X, X.roll(1, 0)), (COLUMN, SPECIAL), (INTS, INTS[0]), (X[:2, :3], INTS), (FLAGS, FLAGS[0])):
        yield from each_op(" ".join(f"{n}.Tensor" for n in names), x, y)
    near = torch.tensor([0.1, 0.2]).bfloat16()
    for x, y in (
        (SPECIAL, 0.5),
        (SPECIAL, 1),
        (INTS, 3),
        (INTS, 2.5),
        (FLAGS, True),
        (near, 0.1),
        (EMPTY, 0),
    ):
        yield from each_op(" ".join(f"{n}.Scalar" for n in names), x, y)
    yield from each_op(" ".join(f"{n}.Tensor" for n in names), near, torch.tensor(0.1))
    logic = "logical_and.default logical_or.default logical_xor.default"
    yield from [
        *each_op(logic, FLAGS, FLAGS[0]),
        *each_op(logic, SPECIAL, SPECIAL.flip(0), grad=False),
        *each_op(logic, INTS, INTS[0]),
    ]
    bits = "bitwise_and.Tensor bitwise_or.Tensor bitwise_xor.Tensor"
    yield from [*each_op(bits, EXTREMES[:, None], EXTREMES), *each_op(bits, FLAGS, FLAGS[0])]
    yield from each_op("bitwise_and.Scalar bitwise_or.Scalar bitwise_xor.Scalar", EXTREMES, 12)
    yield from in_dtypes(each_op("where.self", FLAGS[0, :, None].expand(3, 4), X, Y), torch.float32, *HALF)
    yield from [
        *each_op("where.self", FLAGS, SCALAR, INTS),
        *each_op("where.ScalarOther", FLAGS, floats(2, 3), 2),
    ]
    yield from [
        *each_op("where.ScalarSelf", FLAGS, 2, floats(2, 3)),
        *each_op("where.Scalar", FLAGS, 1.5, 2),
        *each_op("where.Scalar", FLAGS, 1, 2),
    ]
    yield from [
        *each_op("masked_fill.Scalar", floats(2, 3), FLAGS, -INF),
        *each_op("masked_fill.Scalar", INTS, FLAGS[0], 7),
    ]
    yield case("masked_fill.Tensor", floats(2, 3), FLAGS, SCALAR)
    ties = torch.tensor([-2.0, -1, 0, 1, 2, NAN, -0.0])
    for low, high in ((-1, 1), (-1.0, None), (None, 1), (1, -1)):
        yield from in_dtypes([case("clamp.default", ties, low, high)], torch.float32, *HALF)
    yield from [case("clamp.default", EXTREMES, -3, 5), case("clamp.default", INTS, 0.5, None)]
    yield from [
        case("clamp.Tensor", ties, floats(7, seed=4), floats(7, seed=5)),
        case("clamp.Tensor", ties, None, torch.zeros(7)),
    ]
    yield from [
        *each_op("clamp_min.default clamp_max.default", ties, 0),
        *each_op("clamp_min.Tensor clamp_max.Tensor", ties, ROW[:1]),
    ]


def activation() -> Iterator[Case]:
    """Activations and their backward operations: at 0, at large numbers, and in half precision."""
    x = torch.tensor([-100.0, -20, -3, -1, -0.3, 0.0, 0.5, 1, 3, 20, 21, 100, NAN])
    g = torch.cos(torch.arange(13.0))
    for op in ("relu", "silu", "softplus", "log_sigmoid_forward"):
        yield from in_dtypes([case(f"{op}.default", x), case(f"{op}.default", X)], torch.float32, *HALF)
    for approximate in ("none", "tanh"):
        yield from in_dtypes([case("gelu.default", x, approximate=approximate)], torch.float32, *HALF)
        yield case("gelu_backward.default", g, x, approximate=approximate)
    yield from [case("softplus.default", x, 2.0, 5.0), case("softplus_backward.default", g, x, 2.0, 5.0)]
    yield from in_dtypes(
        [case("silu_backward.default", g, x), case("threshold_backward.default", g, x, 0)],
        torch.float32,
        *HALF,
    )
    yield case("log_sigmoid_backward.default", g, x, torch.exp(-x.abs()))
    y = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    yield from in_dtypes(
        each_op("sigmoid_backward.default tanh_backward.default", g[:5], y), torch.float32, *HALF
    )
    masked = torch.tensor([[1.0, -INF, 2.0], [-INF, -INF, -INF], [1e4, -1e4, 0.0]])
    for op in ("_softmax.default", "_log_softmax.default"):
        yield from [
            *[case(op, CUBE, d, False, loose=4) for d in (-1, 0, 1)],
            *in_dtypes([case(op, CUBE, -1, False, grad=False)], *HALF),
            case(op, SCALAR, 0, False),
        ]
        yield from [
            case(op, masked[[0, 2]], -1, False),
            case(op, masked, -1, False, grad=False),
            case(op, EMPTY, 1, False),
        ]
    for op in ("_softmax_backward_data.default", "_log_softmax_backward_data.default"):
        y = torch.log_softmax(CUBE, 1) if "log" in op else torch.softmax(CUBE, 1)
        yield from [case(op, floats(2, 3, 4, seed=5), y, d, torch.float32) for d in (1, -1)]


def shape() -> Iterator[Case]:
    """Views, joins and slices: of 0-d and empty arrays, with negative axes and steps."""
    for op in ("view.default", "_unsafe_view.default", "reshape.default"):
        yield from [
            case(op, CUBE, [6, -1]),
            case(op, EMPTY, [2, 0]),
            case(op, SCALAR, [1, 1]),
            case(op, floats(1), []),
        ]
    for x, dtype in (
        (X, torch.int32),
        (floats(4, 2), torch.int16),
        (ints([[1, 2], [3, 4]], dtype=torch.int16), torch.int32),
        (ints(5, -6), torch.uint32),
        (BYTES, torch.float32),
        (floats(2, 4), torch.bfloat16),
    ):
        yield case("view.dtype", x, dtype, grad=False)
    yield from [
        case("expand.default", floats(1, 4), [3, -1]),
        case("expand.default", SCALAR, [2, 2]),
        case("expand.default", ROW, [2, 3, -1]),
    ]
    yield from [case("as_strided.default", X, [3, 4], [4, 1]), case("as_strided.default", SCALAR, [], [])]
    yield from [case("t.default", X), case("t.default", ROW), case("t.default", SCALAR)]
    yield from [case("transpose.int", CUBE, 0, -1), case("transpose.int", SCALAR, 0, -1)]
    yield from [
        case("permute.default", CUBE, [2, 0, 1]),
        case("permute.default", CUBE, [-1, -3, -2]),
        case("permute.default", SCALAR, []),
    ]
    yield from [case("unsqueeze.default", X, d) for d in (0, 2, -1, -3)]
    ones = floats(1, 3, 1)
    yield from [
        case("squeeze.default", ones),
        case("squeeze.dim", ones, -1),
        case("squeeze.dim", ones, 1),
        case("squeeze.dim", SCALAR, 0),
    ]
    yield from [case("squeeze.dims", ones, [0, -1]), case("squeeze.dims", ones, [1])]
    yield from [case("select.int", CUBE, 1, -1), case("select.int", CUBE, -1, 2)]
    bounds = ((1, 3, 1), (0, 9223372036854775807, 2), (-2, -1, 1), (3, 1, 1), (None, None, 3), (-9, 9, 1))
    for start, end, step in bounds:
        yield case("slice.Tensor", CUBE, -1, start, end, step)
        length = len(range(*slice(start, end, step).indices(4)))
        yield case("slice_scatter.default", CUBE, floats(2, 3, length, seed=7), -1, start, end, step)
    for start, end, step in bounds[:4]:
        length = len(range(*slice(start, end, step).indices(4)))
        yield case("slice_backward.default", floats(2, 3, length), [2, 3, 4], -1, start, end, step)
    yield from [
        case(op, floats(5, 2), 2, d) for op in ("split.Tensor", "unsafe_split.Tensor") for d in (0, -1)
    ]
    yield from [
        case("split_with_sizes.default", floats(2, 5), [2, 0, 3], -1),
        case("unbind.int", CUBE, -2),
        case("unbind.int", CUBE),
    ]
    yield from [
        case("cat.default", [X, floats(2, 4)]),
        case("cat.default", [X, floats(0), Y], -1),
        case("cat.default", [INTS, floats(2, 1)], 1),
    ]
    yield from [case("stack.default", [X, Y], d) for d in (0, -1, 1)]
    yield from [
        case("flip.default", CUBE, [0, -1]),
        case("flip.default", SCALAR, []),
        case("repeat.default", X, [2, 1, 3]),
        case("repeat.default", X, [0, 1]),
    ]
    yield from [
        case("constant_pad_nd.default", X, [1, 2]),
        case("constant_pad_nd.default", X, [-1, 0, 2, -1], 3.0),
        case("constant_pad_nd.default", INTS, [0, 1], 7),
    ]
    for op in ("tril.default", "triu.default"):
        for x in (X, CUBE):
            yield from [case(op, x, k) for k in (0, 1, -2)]
    yield from each_op(
        "clone.default alias.default contiguous.default detach.default lift_fresh_copy.default", X
    )
    yield from [case("select_backward.default", floats(2, 4), [2, 3, 4], 1, n) for n in (0, -1)]
    yield from [case("select_scatter.default", CUBE, floats(2, 4, seed=6), 1, n) for n in (0, -1)]


def creation() -> Iterator[Case]:
    """Operations that make arrays."""
    yield from [
        case("arange.default", 5),
        case("arange.default", 3.5),
        case("arange.default", 0),
        case("arange.start", -2, 3),
    ]
    yield from [
        case("arange.start", 1, 4, dtype=torch.float32),
        case("arange.start_step", 5, -4, -3),
        case("arange.start_step", 0.0, 1.0, 0.3),
    ]
    yield from [case("linspace.default", -1, 2, n) for n in (0, 1, 2, 7)] + [
        case("linspace.default", 0.1, 1, 5, dtype=torch.bfloat16)
    ]
    yield from [case("scalar_tensor.default", n) for n in (2, 1.5, True, INF)] + [
        case("scalar_tensor.default", 2, dtype=torch.int32)
    ]
    yield from [
        case("full.default", [2, 3], 1.5),
        case("full.default", [], 7),
        case("full.default", [0], True),
    ]
    yield from [case("full_like.default", X, 2), case("full_like.default", INTS, 0.9, dtype=torch.float32)]
    yield from [
        case("new_full.default", X, [2], 3),
        case("fill.Scalar", X, 0.1),
        case("fill.Tensor", X, SCALAR),
        case("fill.Scalar", INTS, 2),
    ]
    yield from each_op("zeros.default ones.default", [2, 3]) + each_op(
        "zeros.default ones.default", [], dtype=torch.int32
    )
    yield from each_op("zeros_like.default ones_like.default", X) + each_op(
        "zeros_like.default ones_like.default", X, dtype=torch.bool
    )
    yield from each_op("new_zeros.default new_ones.default", X, [2, 0])
    yield from [
        case("copy.default", X, ROW),
        case("copy.default", INTS, floats(2, 3, low=0.0)),
        case("copy.default", X[:2, :3], INTS),
    ]


def reduction() -> Iterator[Case]:
    """Over all axes, some or none, kept or not; of ties, NaN, infinity, and empty arrays."""
    sums = ["sum", "mean", "prod", "amax", "amin"]
    named = {"sum": "sum.dim_IntList", "mean": "mean.dim", "amax": "amax.default", "amin": "amin.default"}
    for op in (f"{n}.default" for n in sums):
        yield from [*in_dtypes([case(op, CUBE)], torch.float32, *HALF), case(op, SCALAR)]
        yield case(op, SPECIAL[1:7], grad=op != "prod.default")
    for op in named.values():
        yield from in_dtypes(
            [case(op, CUBE, d, k) for d, k in (([-1], False), ([0, 2], True), ([1], True))],
            torch.float32,
            *HALF,
        )
        yield from [
            case(op, SCALAR, [0]),
            case(op, EMPTY, [1]),
            case(op, COLUMN * torch.ones(2), [0], grad=False),
        ]
    yield from [
        case("sum.dim_IntList", EMPTY, [0]),
        case("mean.dim", EMPTY, [0]),
        case("sum.dim_IntList", CUBE, []),
        case("sum.dim_IntList", CUBE, None),
    ]
    yield from [
        case("sum.default", INTS),
        case("sum.default", FLAGS),
        case("sum.dim_IntList", INTS, [1]),
        case("sum.default", INTS, dtype=torch.float32),
    ]
    yield from [case("prod.dim_int", CUBE, 1, k) for k in (True, False)] + [
        case("prod.default", torch.tensor([2.0, 0.0, 3.0])),
        case("prod.default", torch.tensor([0.0, 0.0, 3.0])),
    ]
    yield from [
        case("prod.default", INTS),
        case("nansum.default", COLUMN[:1] * SPECIAL),
        case("nansum.default", SPECIAL[[0, 5, 6]]),
        case("nansum.default", CUBE, [0], True),
    ]
    ties = torch.tensor([[1.0, 3, 3], [2, 2, 2], [NAN, 1, NAN], [-INF, -INF, -INF]])
    yield from [case(op, ties, 1, k) for op in ("max.dim", "min.dim") for k in (True, False)]
    yield from [case(op, ties[:2]) for op in ("max.default", "min.default")] + [
        case(op, ties, grad=False) for op in ("max.default", "min.default")
    ]
    yield from [case(op, ties, [1], grad=False) for op in ("amax.default", "amin.default")] + [
        case(op, INTS) for op in ("max.default", "min.default")
    ]
    yield from [case(op, SCALAR, 0) for op in ("max.dim", "min.dim")] + [
        case(op, INTS, 0) for op in ("max.dim", "min.dim")
    ]
    for op in ("argmax.default", "argmin.default"):
        yield from [
            case(op, ties),
            case(op, ties, 1),
            case(op, ties, 0, True),
            case(op, ties, None, True),
            case(op, INTS, -1),
            case(op, SCALAR),
        ]
    for op in ("all", "any"):
        yield from [
            case(f"{op}.default", FLAGS),
            case(f"{op}.dim", FLAGS, 1, True),
            case(f"{op}.dims", FLAGS, [0, 1]),
            case(f"{op}.dims", FLAGS, None, True),
        ]
        yield from [
            case(f"{op}.default", SPECIAL, grad=False),
            case(f"{op}.dim", INTS, 0),
            case(f"{op}.default", EMPTY, grad=False),
            case(f"{op}.default", BYTES),
        ]
    rows = torch.tensor([[3.0, -4, 0], [0, 0, 0], [1, 1, 1]])
    for order in (2, 1, 0, INF, -INF, 3, 0.5):
        yield from [case("linalg_vector_norm.default", x, order, [-1], True) for x in (rows[[0, 2]], X)] + [
            case("linalg_vector_norm.default", X, order)
        ]
    yield from [case("linalg_vector_norm.default", rows, order, [1]) for order in (2, 1, INF)]
    yield from [
        *in_dtypes([case("linalg_vector_norm.default", X, 2, [1])], *HALF),
        case("linalg_vector_norm.default", X.half(), 2, [1], dtype=torch.float32),
    ]
    for op in ("var.correction", "std.correction"):
        yield from [case(op, CUBE, [-1], correction=n, keepdim=True, grad=n < 4) for n in (0, 1, 4, 5)] + [
            case(op, CUBE),
            case(op, rows, [1], correction=0),
        ]
        yield from in_dtypes([case(op, CUBE, [0, 2])], *HALF)
    masked = torch.tensor([[1.0, -INF, 2.0], [-INF, -INF, -INF], [1e4, -1e4, 0.0], [INF, 0, 1], [NAN, 0, 1]])
    yield from [case("logsumexp.default", masked, [1]), case("logsumexp.default", SCALAR, [0])]
    yield from in_dtypes(
        [case("logsumexp.default", CUBE, d, k) for d, k in (([0, -1], True), ([1], False))],
        torch.float32,
        *HALF,
    )


def order() -> Iterator[Case]:
    """Sorting in both directions, of ties and NaN; `topk`; cumulative sums and products."""
    ties = torch.tensor([[2.0, NAN, 1, 2, -0.0, 0, INF], [1, 1, 1, 1, 1, 1, 1]])
    for down in (False, True):
        yield from [
            case("sort.stable", ties, stable=True, dim=1, descending=down),
            case("sort.default", X, 0, down),
        ]
        yield from [
            case("argsort.default", X, -1, down),
            case("sort.stable", INTS, stable=True, dim=-1, descending=down),
            case("sort.default", SCALAR, 0, down),
        ]
        yield from [case("topk.default", X, 2, d, down) for d in (0, -1)] + [
            case("topk.default", INTS, 3, 1, down),
            case("topk.default", X, 0),
        ]
    yield from in_dtypes([case("cumsum.default", CUBE, d) for d in (0, -1)], torch.float32, *HALF)
    yield from [
        case("cumsum.default", INTS, 1),
        case("cumsum.default", FLAGS, 0),
        case("cumsum.default", SCALAR, 0),
        case("cumsum.default", EMPTY, 0),
    ]
    yield from [
        case("cumprod.default", X, 1),
        case("cumprod.default", torch.tensor([2.0, 0, 3, 0, 4]), 0),
        case("cumprod.default", INTS, 0),
    ]


def product() -> Iterator[Case]:
    """Products of matrices, of batches of matrices, and of vectors."""
    a, c, stack = floats(3, 4), floats(4, 5, seed=1), floats(2, 4, 5, seed=2)
    plain = [
        case("mm.default", a, c),
        case("bmm.default", floats(2, 3, 4), stack),
        case("mv.default", a, ROW),
        case("dot.default", ROW, floats(4, seed=9)),
    ]
    plain += [
        case("matmul.default", floats(2, 3, 4), c),
        case("linear.default", floats(2, 3, 4), floats(5, 4)),
        case("linear.default", a, floats(5, 4), floats(5)),
    ]
    plain += [
        case("addmm.default", floats(5), a, c),
        case("addmm.default", floats(3, 5), a, c, beta=0.5, alpha=2),
        case("addmv.default", floats(3), a, ROW),
    ]
    plain += [case("baddbmm.default", floats(2, 3, 5), floats(2, 3, 4), stack, beta=2, alpha=-1)]
    yield from [*plain, *in_dtypes(plain, torch.bfloat16)]
    yield from [
        case("mm.default", floats(0, 4), c),
        case("mm.default", floats(3, 0), floats(0, 5)),
        case("mm.default", INTS, INTS.T.contiguous()),
    ]
    yield case("addmm.default", floats(3, 5) * NAN, a, c, beta=0)


def indexing() -> Iterator[Case]:
    """Indices that repeat, that are negative where torch allows it, and boolean masks."""
    long, table = ints([[0, 2], [2, 1]], dtype=torch.int64), floats(3, 4)
    yield from [
        *in_dtypes([case("embedding.default", table, long)], torch.float32, *HALF),
        case("embedding.default", table, long.int()),
        case("embedding.default", table, long, 1),
    ]
    for padding, scaled in ((-1, False), (2, False), (-1, True)):
        yield case(
            "embedding_dense_backward.default", floats(2, 2, 4), long, 3, padding, scaled, grad=not scaled
        )
    yield from [
        case("gather.default", CUBE, d, ints([[[0, 1], [1, 1]]], dtype=torch.int64)) for d in (0, 1, -1)
    ]
    yield from [
        case("gather.default", SCALAR, 0, ints(0, dtype=torch.int64)),
        case("gather.default", X, 1, torch.zeros(3, 0, dtype=torch.int64)),
    ]
    yield from [case("index_select.default", CUBE, d, ints(1, 0, 1)) for d in (0, 1, -1)] + [
        case("index_select.default", ROW, 0, ints(2, dtype=torch.int64))
    ]
    one, two = ints(1, -1, 0, dtype=torch.int64), ints(0, 2, -3, dtype=torch.int64)
    yield from [
        case("index.Tensor", CUBE, x)
        for x in ([one], [None, two], [one, two], [one[:, None], two[:2]], [None, None, two])
    ]
    yield from [
        case("index.Tensor", CUBE, [one, None, two]),
        case("index.Tensor", CUBE, [None, one[:, None], two]),
    ]
    for add in (False, True):
        yield from [
            case("index_put.default", CUBE, x, v, add)
            for x, v in (
                ([one[1:]], floats(3, 4)),
                ([None, two[:2]], floats(2, 2, 4)),
                ([one, two], floats(3, 4)),
            )
        ]
        yield case("index_put.default", floats(2, 3), [FLAGS], SCALAR, add)
    yield case("index_put.default", X, [ints(1, 1, 1, dtype=torch.int64)], floats(3, 4, seed=8), True)
    places = ints([[0, 2, 1], [1, 0, 2]], dtype=torch.int64)
    yield from [case("scatter.src", floats(3, 4), d, places, floats(2, 3, seed=1)) for d in (0, -1)] + [
        case("scatter.value", floats(3, 4), 1, places, 2.5)
    ]
    yield from [
        case("scatter_add.default", floats(3, 4), d, places * 0 + 1, floats(2, 3, seed=1)) for d in (0, 1)
    ] + [case("scatter_add.default", INTS, 1, places, INTS)]
    yield from [
        case("scatter.value", SCALAR, 0, ints(0, dtype=torch.int64), 2),
        case("scatter_add.default", SCALAR, 0, ints(0, dtype=torch.int64), SCALAR),
    ]


CASES: Mapping[str, tuple[Case, ...]] = {
    make.__name__: tuple(make())
    for make in (
        arithmetic,
        unary,
        comparison,
        activation,
        shape,
        creation,
        reduction,
        order,
        product,
        indexing,
    )
}
"""Name of a file in `pure/interop/jax/aten` -> the cases of its operations."""
