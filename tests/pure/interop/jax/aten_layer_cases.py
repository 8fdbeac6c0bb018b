"""Arguments for operations of layers, losses and special functions, and for rarer ones of other files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from tests.pure.interop.jax.aten_cases import (
    CUBE,
    EMPTY,
    FLAGS,
    HALF,
    INF,
    INTS,
    NAN,
    ROW,
    SCALAR,
    SPECIAL,
    Case,
    X,
    Y,
    case,
    each_op,
    floats,
    in_dtypes,
    ints,
)

LABELS = ints(0, 2, 3, dtype=torch.int64)
ONES = torch.ones(3, 4)
KINKS = torch.tensor([-100.0, -3, -1, -0.5, 0.0, 0.5, 1, 3, 6, 100])
PULL = torch.cos(torch.arange(10.0))


def piecewise() -> Iterator[Case]:
    """At the kinks, far out, in half precision."""
    plain = "elu celu leaky_relu hardtanh hardswish hardsigmoid mish softshrink hardshrink"
    ops = " ".join(f"{op}.default" for op in plain.split())
    yield from [*each_op(ops, KINKS), *in_dtypes(each_op(ops, X, grad=False), *HALF)]
    yield from [case("elu.default", KINKS, 0.7, 1.1, 2.0), case("celu.default", KINKS, 0.5)]
    yield from [case("leaky_relu.default", KINKS, 0.2), case("hardtanh.default", KINKS, 0, 6)]
    yield from [case("glu.default", X, d) for d in (-1, 1)]
    yield case("threshold.default", KINKS, 0.5, 7.0)
    yield from each_op(
        "hardswish_backward.default hardsigmoid_backward.default mish_backward.default", PULL, KINKS
    )
    yield from each_op("softshrink_backward.default hardshrink_backward.default", PULL, KINKS, 0.5)
    yield from [
        case("hardtanh_backward.default", PULL, KINKS, -1, 1),
        case("glu_backward.default", floats(3, 2), X, 1),
    ]
    yield from [case("leaky_relu_backward.default", PULL, KINKS, 0.2, again) for again in (False, True)]
    yield case("elu_backward.default", PULL, 0.7, 1.1, 2.0, False, KINKS)
    yield case("elu_backward.default", PULL, 0.7, 1.1, 2.0, True, KINKS.clamp(min=-0.7))


def loss() -> Iterator[Case]:
    """Every reduction; targets that are ignored; weights."""
    near = X + 0.9 * torch.sign(Y)
    chances = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])
    wanted = torch.tensor([0.0, 1.0, 0.3, 1.0, 1.0])
    for n in (0, 1, 2):
        plain = "mse_loss.default soft_margin_loss.default"
        yield from [
            *each_op(plain, X, Y, n, grad="first"),
            *in_dtypes(each_op(plain, X, Y, n, grad=False), *HALF),
        ]
        yield from [
            case("smooth_l1_loss.default", X, x, n, beta)
            for x, beta in ((Y, 0.9), (near, 0.9), (X, 0.9), (Y, 0.0))
        ]
        yield from [case("huber_loss.default", X, x, n, 0.9) for x in (Y, near, X)]
        g = floats(3, 4, seed=5) if n == 0 else SCALAR
        yield from each_op("mse_loss_backward.default soft_margin_loss_backward.default", g, X, Y, n)
        yield from each_op(
            "smooth_l1_loss_backward.default huber_loss_backward.default", g, X, near, n, 0.9, grad=False
        )
        yield case("binary_cross_entropy.default", chances[1:4], wanted[1:4], None, n, loose=4)
        yield case("binary_cross_entropy.default", chances, wanted, floats(5), n, grad=False)
        yield case(
            "binary_cross_entropy_backward.default",
            floats(5, seed=5) if n == 0 else SCALAR,
            chances,
            wanted,
            floats(5),
            n,
        )
        yield case("binary_cross_entropy_with_logits.default", X, Y.sigmoid(), None, None, n)
        yield case(
            "binary_cross_entropy_with_logits.default",
            X * 30,
            Y.sigmoid(),
            ROW,
            floats(4, low=0.5),
            n,
            grad="first",
        )
        for weight in (None, floats(4, low=0.1)):
            for target in (LABELS, ints(0, -100, 3, dtype=torch.int64)):
                yield case("nll_loss_forward.default", X, target, weight, n, -100, grad="first")
                g = floats(3, seed=6) if n == 0 else SCALAR
                total = (
                    torch.ones(3)[: len(target)].sum() if weight is None else weight[target.clamp(0)].sum()
                )
                total = total - (target < 0).sum() * (1.0 if weight is None else weight[0])
                yield case("nll_loss_backward.default", g, X, target, weight, n, -100, total, grad="first")
        middle = torch.ones(2, 4, 1, dtype=torch.int64)
        yield case("nll_loss2d_forward.default", CUBE[..., None], middle, None, n, -100)
        g = floats(2, 4, 1) if n == 0 else SCALAR
        yield case(
            "nll_loss2d_backward.default",
            g,
            CUBE[..., None],
            middle,
            None,
            n,
            -100,
            torch.tensor(8.0),
            grad="first",
        )
    yield case("nll_loss_forward.default", ROW, ints(2, dtype=torch.int64), None, 1, -100)
    yield case("nll_loss_forward.default", X, torch.full((3,), -100), None, 1, -100, grad=False)


def norm() -> Iterator[Case]:
    """With and without weight and bias; statistics; backward."""
    weight, bias = floats(4, low=0.5), floats(4, seed=3)
    for w, b in ((None, None), (weight, bias), (weight, None)):
        yield from in_dtypes(
            [case("native_layer_norm.default", CUBE, [4], w, b, 1e-5, loose=4)], torch.float32
        )
        yield from in_dtypes([case("native_layer_norm.default", CUBE, [4], w, b, 1e-5, grad=False)], *HALF)
        mean, rate = statistics(CUBE, (2,))
        mask = [True, w is not None, b is not None]
        args = (floats(2, 3, 4, seed=6), CUBE, [4], mean, rate, w, b, mask)
        yield case("native_layer_norm_backward.default", *args, grad=False, loose=4)
        x = floats(2, 4, 3)
        yield case("native_group_norm.default", x, w, b, 2, 4, 3, 2, 1e-5, loose=4)
        mean, rate = (v.reshape(2, 2) for v in statistics(x.reshape(2, 2, 6), (2,)))
        args = (floats(2, 4, 3, seed=6), x, mean, rate, w, 2, 4, 3, 2, mask)
        yield case("native_group_norm_backward.default", *args, grad=False, loose=4)
        yield case("_native_batch_norm_legit.no_stats", x, w, b, True, 0.1, 1e-5, loose=8)
        mean, rate = (v.reshape(4) for v in statistics(x, (0, 2)))
        args = (floats(2, 4, 3, seed=6), x, w, None, None, mean, rate, True, 1e-5, mask)
        yield case("native_batch_norm_backward.default", *args, grad=False, loose=8)
    yield case("native_layer_norm.default", CUBE, [3, 4], floats(3, 4), floats(3, 4, seed=2), 1e-3, loose=4)


def statistics(x: torch.Tensor, axes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and 1 / deviation, axes kept."""
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return mean, (variance + 1e-5).rsqrt()


def special() -> Iterator[Case]:
    """Within and at the ends of the domains; the origin; infinities."""
    inner = floats(3, 4, low=-0.9, high=0.9)
    for op in [
        "acos",
        "asin",
        "atan",
        "sinh",
        "cosh",
        "asinh",
        "atanh",
        "deg2rad",
        "rad2deg",
        "erfc",
        "sinc",
        "signbit",
        "i0",
    ]:
        yield from [
            case(f"{op}.default", inner),
            case(f"{op}.default", EMPTY),
            case(f"{op}.default", ints(0, 1)),
        ]
        yield from in_dtypes([case(f"{op}.default", inner, grad=False)], *HALF)
    yield case("frac.default", inner * 5)
    ends = torch.tensor([-1.0, 0.0, 1.0])
    yield from each_op("acos.default asin.default atanh.default", ends, grad=False)
    yield from each_op(
        "frac.default signbit.default atan.default erfc.default sinh.default",
        SPECIAL[[0, 1, 2, 3, 4, 9, 10, 13]],
        grad=False,
    )
    yield from each_op("acosh.default", floats(3, 4, low=1.1, high=5.0), loose=4)
    positive = floats(3, 4, low=0.2, high=9.0)
    yield from each_op("lgamma.default digamma.default", positive, loose=20)
    yield from [case("polygamma.default", n, positive, loose=20, grad=False) for n in (0, 1, 2)]
    yield from each_op("special_i1.default", X, loose=4)
    yield from [
        case("special_entr.default", torch.tensor([0.0, 0.3, 1, 2])),
        case("special_entr.default", SPECIAL, grad=False),
    ]
    yield from [
        case("special_log_ndtr.default", floats(3, 4, low=-6.0, high=3.0), loose=20),
        case("special_ndtri.default", floats(4, low=0.1, high=0.9), loose=20),
    ]
    chances = torch.tensor([0.05, 0.1, 0.3, 0.9, 0.99])
    yield from [
        case("logit.default", chances),
        case("logit.default", torch.tensor([0.0, 0.05, 0.3, 0.99, 1.0]), 0.1),
    ]
    yield from [case("logit_backward.default", floats(5), chances, eps, grad=False) for eps in (None, 0.1)]
    yield from [
        case("nan_to_num.default", SPECIAL),
        case("nan_to_num.default", SPECIAL, 1.0, 2.0, -3.0),
        case("nan_to_num.default", INTS),
    ]
    finite = torch.tensor([0.0, -0.0, 1, -1, 2.5, INF, -INF])
    for op in (
        "atan2.default",
        "xlogy.Tensor",
        "special_xlog1py.default",
        "copysign.Tensor",
        "heaviside.default",
        "logaddexp.default",
        "logaddexp2.default",
    ):
        yield case(op, finite[:, None], finite, grad=False)
        yield case(op, X, Y.abs() + 0.1, grad=op != "heaviside.default")
    yield from [
        case("hypot.default", X, Y),
        case("atan2.default", X, torch.zeros(4)),
        case("atan2.default", torch.zeros(3), torch.tensor([0.0, 1, -1])),
    ]
    yield from [
        case("xlogy.Scalar_Self", 2, ROW.abs()),
        case("xlogy.Scalar_Other", X, 3),
        case("copysign.Scalar", X, -2),
        case("xlogy.Tensor", torch.zeros(4), ROW.abs()),
    ]


def arithmetic() -> Iterator[Case]:
    """Interpolation and sums of products."""
    yield from [
        *each_op(
            "fmax.default fmin.default", SPECIAL[[0, 1, 2, 4, 5]][:, None], SPECIAL[[0, 1, 5, 6]], grad=False
        ),
        *each_op("fmax.default fmin.default", X, Y),
    ]
    for value in (1, -0.5):
        yield from in_dtypes(
            each_op("addcmul.default addcdiv.default", X, Y, ROW, value=value), torch.float32
        )
        yield from in_dtypes(
            each_op("addcmul.default addcdiv.default", X, Y, Y, value=value, grad=False), *HALF
        )
    yield case("addcmul.default", INTS, INTS, INTS[0], value=2)
    yield from [case("lerp.Scalar", X, Y, w) for w in (0.3, 0.5, 0.9)] + [
        case("lerp.Tensor", X, Y, floats(3, 4, seed=4))
    ]


def reduction() -> Iterator[Case]:
    """Pairs of reductions."""
    yield from [
        case(op, CUBE, d, correction=n, keepdim=k)
        for op in ("var_mean.correction", "std_mean.correction")
        for d, n, k in (([1], 1, False), (None, 0, True))
    ]
    yield from [case("aminmax.default", x) for x in (X, INTS)] + [
        case("aminmax.default", X, dim=1, keepdim=True),
        case("norm.Scalar", X),
    ]
    yield from [case("norm.ScalarOpt_dim", X, p, [1], True) for p in (None, 1, 3)]
    yield from [
        case("count_nonzero.default", x, *rest) for x, rest in ((INTS, ()), (FLAGS, (1,)), (SPECIAL, ()))
    ] + [case("count_nonzero.dim_IntList", INTS, [0, 1])]


def order() -> Iterator[Case]:
    """Medians, k-th, extremes so far, places in sorted edges."""
    odd = torch.tensor([[3.0, 1, 2, 5, 4], [NAN, 1, 2, 3, NAN]])
    yield from [
        case("median.dim", x, d, k)
        for x, d, k in ((odd, 1, False), (X, 0, True), (INTS, 1, False), (SCALAR, 0, False))
    ]
    yield from [
        case("median.default", X),
        case("median.default", odd, grad=False),
        case("kthvalue.default", X, 2, 0, True),
        case("kthvalue.default", odd[:1], 4),
    ]
    ties = torch.tensor([[1.0, 1, 3, 2, 3, INF], [2, NAN, 1, NAN, 5, 0]])
    yield from [
        case(op, x, d)
        for op in ("cummax.default", "cummin.default")
        for x, d in ((X, 0), (ties, 1), (INTS, -1))
    ]
    yield from [case("logcumsumexp.default", X, d, loose=4) for d in (0, -1)]
    edges = torch.tensor([-1.0, 0, 0, 2])
    for right in (False, True):
        yield from [
            case("searchsorted.Tensor", edges, X, right=right, grad=False),
            case("bucketize.Tensor", X, edges, right=right, out_int32=True, grad=False),
        ]
    yield from [
        case("searchsorted.Tensor", edges, torch.zeros(2), right=True, grad=False),
        case("bucketize.Tensor", ints(-2, 0, 2), ints(-2, 0, 3)),
    ]
    yield from [case("isin.Tensor_Tensor", INTS, ints(1, -6), invert=n) for n in (False, True)]


def shape() -> Iterator[Case]:
    """Diagonals, windows, shifts."""
    yield from [
        case("roll.default", CUBE, [1], [0]),
        case("roll.default", CUBE, [2, -1], [-1, 1]),
        case("roll.default", CUBE, [3]),
        case("rot90.default", CUBE, 3, [0, -1]),
    ]
    for offset, first, second in ((0, 0, 1), (1, -1, 0), (-1, 1, 2)):
        yield case("diagonal.default", CUBE, offset, first, second)
        yield case(
            "diagonal_backward.default",
            torch.diagonal(CUBE, offset, first, second).clone(),
            [2, 3, 4],
            offset,
            first,
            second,
        )
    yield from [case("diag_embed.default", X, *rest) for rest in ((), (1,), (-2, 0, 2))] + [
        case("trace.default", X),
        case("trace.default", INTS),
    ]
    yield from [case("unfold.default", CUBE, d, 2, s) for d, s in ((-1, 1), (1, 2), (2, 3))]
    yield from [
        case("unfold_backward.default", floats(2, 3, 3, 2), [2, 3, 4], 2, 2, 1),
        case("unfold_backward.default", floats(2, 1, 4, 2), [2, 3, 4], 1, 2, 2),
    ]
    yield from [
        case("reflection_pad1d.default", X, [2, 1]),
        case("reflection_pad1d_backward.default", floats(3, 7), X, [2, 1]),
    ]


def creation() -> Iterator[Case]:
    """Identities and triangles."""
    yield from [case("eye.default", 3), case("eye.m", 2, 3, dtype=torch.int32)]
    yield from [
        case(op, 3, 4, n) for op in ("tril_indices.default", "triu_indices.default") for n in (0, -1, 2)
    ]


def product() -> Iterator[Case]:
    """Convolutions, distances, cross products."""
    x, w = floats(2, 4, 7), floats(6, 2, 3, seed=1)
    options = ([2], [1], [1], False, [0], 2)
    yield from [case("convolution.default", x, w, bias, *options, loose=4) for bias in (None, floats(6))]
    yield case(
        "convolution.default",
        floats(1, 2, 5, 4),
        floats(3, 2, 2, 2),
        None,
        [1, 1],
        [0, 1],
        [2, 1],
        False,
        [0, 0],
        1,
        loose=4,
    )
    yield case(
        "convolution_backward.default",
        floats(2, 6, 4),
        x,
        w,
        [6],
        *options,
        [True, True, True],
        loose=4,
        grad=False,
    )
    yield case(
        "convolution_backward.default",
        floats(2, 6, 4),
        x,
        w,
        None,
        *options,
        [True, False, False],
        loose=4,
        grad=False,
    )
    yield from [
        case("linalg_cross.default", INTS.float(), floats(2, 3)),
        case("linalg_cross.default", floats(3, 4), floats(3, 4, seed=3), dim=0),
    ]
    for p in (2.0, 1.0, 3.0):
        yield case("_cdist_forward.default", X, floats(5, 4, seed=2), p, None, loose=4)
        yield case(
            "_cdist_backward.default",
            floats(3, 5),
            X,
            floats(5, 4, seed=2),
            p,
            torch.cdist(X, floats(5, 4, seed=2), p),
            loose=8,
            grad=False,
        )


def activation() -> Iterator[Case]:
    """Softmax of rows that are masked everywhere."""
    rows = torch.tensor([[1.0, -INF, 2.0], [-INF, -INF, -INF]])
    yield from [
        case("_safe_softmax.default", rows, -1, grad=False),
        case("_safe_softmax.default", X, 0, loose=4),
    ]


def indexing() -> Iterator[Case]:
    """Slices added, replaced, filled; combinations at indices."""
    where, source = ints(2, 0, 2, dtype=torch.int64), floats(2, 3, 3, seed=2)
    for add in (1, 0.5):
        yield from in_dtypes([case("index_add.default", CUBE, 2, where, source, alpha=add)], torch.float32)
    yield from [
        case("index_add.default", INTS, 0, ints(1, 1), INTS),
        case("index_copy.default", CUBE, -1, where[:2], source[..., :2]),
    ]
    yield from [
        case("index_fill.int_Scalar", CUBE, 1, where[:2], 2.5),
        case("index_fill.int_Tensor", CUBE, -1, where, SCALAR),
    ]
    yield from [
        case("take.default", X, ints([[0, -1], [5, 5]], dtype=torch.int64)),
        case("put.default", X, ints(0, -1, dtype=torch.int64), floats(2)),
    ]
    yield case("put.default", X, ints(0, 0, 3, dtype=torch.int64), floats(3), True)
    places = ints([[0, 2, 0], [1, 1, 1]], dtype=torch.int64)
    far, near = floats(3, 4) * 0.1, torch.tensor([[1.0, 3, 1], [-5, -5, -4]])
    for reduce in ("sum", "mean", "amax", "amin", "prod"):
        for own in (True, False):
            yield case(
                "scatter_reduce.two", far, 1, places, near, reduce, include_self=own, grad=reduce != "prod"
            )
    yield from [
        case("scatter_reduce.two", INTS, 0, places % 2, INTS * 3, reduce) for reduce in ("amax", "sum")
    ]


def decomposition() -> Iterator[Case]:
    square = floats(4, 4) + torch.diag(torch.tensor([0.0, 8.0, 16.0, 24.0]))
    yield case("linalg_qr.default", floats(5, 3), "reduced", loose=8)
    for x in (square, torch.stack([square, 2 * square.flip(0, 1)])):
        yield case("linalg_qr.default", x, "complete", loose=8)


EXTRA: Mapping[str, tuple[Case, ...]] = {
    make.__name__: tuple(make())
    for make in (
        piecewise,
        loss,
        norm,
        special,
        arithmetic,
        reduction,
        order,
        shape,
        creation,
        product,
        decomposition,
        activation,
        indexing,
    )
}
"""File of `pure/interop/jax/aten` -> further cases."""
