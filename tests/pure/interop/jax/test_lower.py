"""Lowered functions: structures, shapes and dtypes of calls, 64 bits, differentiation, and one error each."""

from __future__ import annotations

import collections
from typing import NamedTuple

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pure import random
from pure.config import ModelConfig
from pure.interop.jax.arrays import to_jax
from pure.interop.jax.functions import jax_fn_in_torch, torch_fn_in_jax
from pure.interop.jax.lower import Uncovered, lower
from pure.interop.jax.narrow import narrow_array
from pure.nn.nf4 import dequantize, nf4_linear, quantize
from pure.nn.transformer import transformer
from pure.random.threefry import hash_counters


class Point(NamedTuple):
    x: object
    rest: object


def test_structures_are_kept_both_ways() -> None:
    def function(point: Point, *, scale: float = 1.0) -> dict:
        ordered = collections.OrderedDict(z=point.x * scale, a=None)
        return {"point": Point(ordered, [point.rest["b"], 3]), "shape": tuple(point.x.shape)}

    lowered = lower(function)
    point = Point(jnp.arange(3.0), {"b": np.ones((2, 2), np.float32), "a": None})
    result = lowered(point, scale=2.0)
    assert type(result["point"].x) is collections.OrderedDict
    assert result["point"].x["z"].tolist() == [0.0, 2.0, 4.0]
    assert result["shape"] == (3,)
    assert result["point"].rest[1] == 3
    assert isinstance(result["point"].rest[0], jax.Array)


def test_one_program_for_each_structure_shapes_dtypes_and_numbers() -> None:
    calls = []

    def function(x: Tensor, power: int) -> Tensor:
        calls.append((tuple(x.shape), x.dtype, power))
        return x**power

    lowered = lower(function, torch.ones(2), 2)
    assert calls == [((2,), torch.float32, 2)]
    for x, power in (
        (jnp.ones(2), 2),
        (jnp.ones(3), 2),
        (jnp.ones(2, jnp.bfloat16), 2),
        (jnp.ones(2), 3),
    ) * 2:
        assert lowered(x, power).shape == x.shape
    assert len(calls) == 4
    assert len({id(x) for x in calls}) == 4
    jitted = jax.jit(lowered, static_argnums=1)
    assert jitted(jnp.ones(3), 2).tolist() == [1.0, 1.0, 1.0]
    assert len(calls) == 4


@pytest.mark.parametrize(
    "example",
    [
        torch.ones(2, 3, dtype=torch.int64),
        np.ones((2, 3), np.int64),
        jax.ShapeDtypeStruct((2, 3), np.dtype("int64")),
    ],
)
def test_an_int32_array_stands_for_an_int64_example(example) -> None:
    seen = []

    def function(tokens: Tensor) -> Tensor:
        seen.append(tokens.dtype)
        return tokens * 2

    lowered = lower(function, example)
    assert lowered(jnp.ones((2, 3), jnp.int32)).dtype == jnp.int32
    assert lowered(jnp.ones((4, 3), jnp.int32)).shape == (4, 3)
    assert lowered(np.full((2, 3), 7)).tolist() == [[14] * 3] * 2
    assert seen == [torch.int64, torch.int64]


def test_float64_inside_has_the_precision_of_float32_unless_x64() -> None:
    def function(x: Tensor) -> Tensor:
        return (x.double() + 1e-9 - x.double()).sum()

    x = jnp.ones(3)
    assert lower(function)(x) == 0
    with jax.enable_x64(True):
        exact = lower(function, x64=True)(x)
        assert exact.dtype == jnp.float64
        assert abs(float(exact) - 3e-9) < 1e-14


def test_int64_where_it_is_needed_is_refused_by_line_and_right_with_x64() -> None:
    key = random.key(3)

    def shift(counter: Tensor) -> Tensor:
        return hash_counters(key, counter, 4)[0]

    def literal(x: Tensor) -> Tensor:
        return x.long() + 2**40

    def table(x: Tensor) -> Tensor:
        return torch.tensor([1, 2**40])[x]

    def bits(x: Tensor) -> Tensor:
        return x.view(torch.int64)

    def word(x: Tensor) -> Tensor:
        return (x.view(torch.uint32).to(torch.int64) % 7).int()

    x = jnp.array([1, 0], jnp.int32)
    counter = torch.tensor(2**33)
    cases = (
        (shift, jnp.array(7, jnp.int32), r"threefry.py:\d+, hash_counters: int64 .* shifted by 32"),
        (literal, x, r"test_lower.py:\d+, literal: a number lies beyond"),
        (table, x, r"a constant lies beyond the range of int32"),
        (bits, x, r"test_lower.py:\d+, bits: int64 .* reinterpreted"),
        (word, x, r"test_lower.py:\d+, word: uint32 numbers do not fit"),
    )
    for function, argument, message in cases:
        with pytest.raises(ValueError, match=rf"{message}.*x64=True"):
            lower(function, counter if function is shift else argument)(argument)
    with jax.enable_x64(True):
        for function, argument, _ in cases[1:]:
            expected = function(torch.from_numpy(np.asarray(argument).copy()))
            assert lower(function, x64=True)(argument).tolist() == expected.tolist()
        assert lower(shift, x64=True)(jnp.array(2**33)).tolist() == shift(counter).tolist()
    with pytest.raises(ValueError, match="needs JAX's 64-bit types"):
        lower(literal, x, x64=True)


def test_numbers_of_a_call_are_checked() -> None:
    lowered = lower(lambda x: x + 1, torch.ones(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="argument 0 has a number beyond the range of int32"):
        lowered(np.array([1, 2**31]))
    assert narrow_array(np.array([2**31 - 1, -(2**31)]), "x").dtype == np.int32
    assert narrow_array(np.array([0.1]), "x").dtype == np.float32
    with jax.enable_x64(True), pytest.raises(ValueError, match=r"argument 0 is int64, and .* without 64-bit"):
        lowered(jnp.array([1, 2]))


def test_derivatives_are_those_of_torch() -> None:
    """Detached parts and `no_grad` have none; gradients inside are differentiated again."""

    def loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            weight = x.exp()
        return (x * weight + x.detach() * x.square()).sum() + torch.func.grad(lambda y: (y**4).sum())(x)[0]

    x = torch.tensor([0.5, -1.5])
    lowered = lower(loss, x)
    expected = torch.func.grad(loss)(x)
    np.testing.assert_allclose(jax.jit(jax.grad(lowered))(to_jax(x)), expected, rtol=1e-6)
    hessian = torch.func.jacrev(torch.func.grad(lambda y: (y.exp() * y.sum()).sum().tanh()))
    inner = lower(torch.func.grad(lambda y: (y.exp() * y.sum()).sum().tanh()), x)
    np.testing.assert_allclose(jax.jacfwd(inner)(to_jax(x)), hessian(x), rtol=2e-5, atol=1e-6)


class Rounded(torch.autograd.Function):
    """Rounds; its backward pass takes the identity's."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad


class Reversed(torch.autograd.Function):
    """The identity, without an operation; its backward pass changes the sign."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return -grad


def round_sum(x: Tensor) -> Tensor:
    return Rounded.apply(x * 1.3).sum()


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_backward_pass_that_jax_does_not_see_is_refused() -> None:
    x = jnp.array([1.0, 2.0])
    assert jax.jit(lower(round_sum))(x) == 4
    np.testing.assert_allclose(jax.jit(lower(torch.func.grad(round_sum)))(x), [1.3, 1.3])
    np.testing.assert_allclose(jax.grad(torch_fn_in_jax(round_sum))(x), [1.3, 1.3])
    scaled = torch.nn.Linear(2, 1).requires_grad_(False)
    scaled.register_full_backward_hook(lambda module, given, grads: (given[0] * 10,))
    functions = {
        "the torch.autograd.Function Rounded": round_sum,
        "the torch.autograd.Function Reversed": lambda x: Reversed.apply(x).sum(),
        "the torch.autograd.Function CheckpointFunction": lambda x: checkpoint(
            lambda y: y.sin().sum(), x, use_reentrant=True
        ),
        "a backward hook of Linear": lambda x: scaled(x).sum(),
    }
    for name, function in functions.items():
        for transform in (jax.grad, jax.jacfwd, jax.hessian):
            with pytest.raises(Uncovered, match=rf"got {name}, whose backward pass.* torch_fn_in_jax"):
                jax.jit(transform(lower(function)))(x)


def test_what_is_computed_in_inference_mode_is_constant() -> None:
    def loss(x: Tensor) -> Tensor:
        with torch.inference_mode():
            weight = x.exp()
        return (x * weight).sum()

    x = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.grad(lower(loss))(x), jnp.exp(x), rtol=1e-6)
    with pytest.raises(ValueError, match=r"test_lower.py:\d+, <lambda> calls detach_.*x = x.detach\(\)"):
        lower(lambda x: x.exp().detach_(), x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x**x).sum(),
        lambda x: (x ** torch.zeros(3)).sum(),
        lambda x: (torch.zeros(3) ** x).sum(),
        lambda x: torch.nn.functional.binary_cross_entropy(x / 2, torch.tensor([0.0, 1.0, 1.0])),
        lambda x: torch.nn.functional.binary_cross_entropy(x / 2, torch.tensor([1.0, 0.5, 0.0])),
        lambda x: torch.nn.functional.binary_cross_entropy(torch.tensor([0.0, 0.5, 1.0]), x / 2),
    ],
)
def test_derivatives_at_the_edge_are_those_of_torch(function) -> None:
    x = torch.tensor([0.0, 1.0, 2.0])
    expected = torch.func.grad(function)(x)
    np.testing.assert_allclose(jax.grad(lower(function))(to_jax(x)), expected, rtol=1e-6)
    if expected.isfinite().all():
        np.testing.assert_allclose(jax.jacfwd(lower(function))(to_jax(x)), expected, rtol=1e-6)


def test_functions_that_cross_twice_leave_nothing_between() -> None:
    """A JAX function in torch, differentiated there, lowers to itself: no callback in the compiled code."""
    inner = jax_fn_in_torch(lambda x, scale: {"y": jnp.sin(x) * scale["s"]})

    def loss(x: Tensor) -> Tensor:
        return (inner(x, {"s": torch.tensor(2.0)})["y"] * x).sum()

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return loss(x), torch.func.grad(loss)(x)

    x = torch.tensor([0.5, -1.0, 2.0])
    lowered = lower(both, x)
    compiled = jax.jit(lowered).lower(to_jax(x)).compile()
    assert "callback" not in compiled.as_text()
    for got, expected in zip(compiled(to_jax(x)), both(x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: lowered(x)[0])(to_jax(x)), both(x)[1], rtol=1e-6)
    assert jax_fn_in_torch(lowered) is both


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_what_is_no_array_is_refused_by_path() -> None:
    lowered = lower(lambda batch: batch["x"])
    cases = (
        ({"x": torch.ones(2)}, "argument 0, leaf 'x' is a torch tensor.*to_jax"),
        ({"x": jax.random.key(0)}, r"typed key.*jax.random.key_data\(key\)"),
        ({"x": jnp.ones(2, jnp.int4)}, "do not share the dtype int4"),
        (flax.core.freeze({"x": 1}), "got FrozenDict; convert it"),
        ({"x": object()}, "leaf 'x': expected an array, a number or a string.*got object"),
    )
    for argument, message in cases:
        with pytest.raises(ValueError, match=message):
            lowered(argument)
    half = torch.ones(2, dtype=torch.complex32)
    with pytest.raises(ValueError, match="do not share the dtype complex32"):
        lower(lambda x: x, half)


def test_an_operation_without_an_entry_is_named_with_its_line() -> None:
    def forward(x: Tensor) -> Tensor:
        return torch.special.bessel_j1(x)

    def draw(x: Tensor) -> Tensor:
        return x + torch.rand(3)

    class Slope(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output) -> None:
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad: Tensor) -> Tensor:
            return grad * torch.special.bessel_j0(ctx.saved_tensors[0])

    def backward(x: Tensor) -> Tensor:
        return torch.func.grad(lambda y: Slope.apply(y).sum())(x)

    with pytest.raises(
        Uncovered, match=r"special_bessel_j1.default of .*test_lower.py:\d+, forward has no entry"
    ):
        lower(forward, jnp.ones(3))
    with pytest.raises(Uncovered, match=r"rand.default of .*test_lower.py:\d+, draw has .*with pure.random"):
        lower(draw, jnp.ones(3))
    generator = torch.Generator()
    with pytest.raises(Uncovered, match=r"rand.generator of .*<lambda> has .*with pure.random"):
        lower(lambda x: x + torch.rand(3, generator=generator), jnp.ones(3))
    with pytest.raises(ValueError, match=r"test_lower.py:\d+, <lambda> needs the numbers of a tensor"):
        lower(lambda x: torch.from_numpy(x.numpy()), jnp.ones(3))
    with pytest.raises(Uncovered, match=r"bessel_j0.default of .*test_lower.py:\d+, "):
        lower(backward, jnp.ones(3))


def test_four_bits_need_no_int64() -> None:
    """A matrix that is large enough not to be dequantised while tracing."""
    packed = quantize(random.normal(random.key(1), (512, 400)))
    x = random.normal(random.key(2), (3, 400))
    lowered = lower(lambda x: (nf4_linear(packed, x), dequantize(packed)), x)
    product, weight = jax.jit(lowered)(to_jax(x))
    assert np.array_equal(weight, dequantize(packed))
    # 400 terms are added in another order: the error is relative to the sum of their sizes.
    sizes = x.abs() @ dequantize(packed).abs().T
    assert (np.abs(product - nf4_linear(packed, x).numpy()) < 2e-7 * sizes.numpy()).all()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("backend", ["flex", "sdpa"])
def test_fused_attention_is_answered_by_name(backend: str) -> None:
    config = ModelConfig(
        vocab_size=7,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=8,
    )
    model = transformer(config, backend=backend)
    params, tokens = model.init(random.key(0)), torch.zeros(1, 8, dtype=torch.int64)
    if backend == "flex":
        with pytest.raises(Uncovered, match=r'flex_attention of .*pure/nn/flex.py:.*backend="naive"'):
            lower(model.forward, params, tokens)
        return
    lowered = lower(model.forward, params, tokens)
    np.testing.assert_allclose(
        lowered(to_jax(params), jnp.zeros((1, 8), jnp.int32)), model.forward(params, tokens), atol=1e-5
    )
