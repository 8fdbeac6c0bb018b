"""`pure.nn.backend`: values and gradients of every attention backend compared with a float64 oracle."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pure.nn.backend import BACKENDS, choose
from pure.nn.flash import flash
from pure.nn.flex import flex
from pure.nn.naive import naive
from pure.nn.sdpa import sdpa
from tests.pure.nn.oracle import CASES, Case, Problem, attention, make_problem

BACKENDS_TESTED: dict[str, Callable] = {
    "naive": naive,
    "flash": flash,
    "flash in tiles of 16": partial(flash, tile=16),
    "flash in tiles of 1": partial(flash, tile=1),
    "sdpa": sdpa,
}
DIFFERENTIABLE = {name: backend for name, backend in BACKENDS_TESTED.items() if name != "flash in tiles of 1"}


@lru_cache
def solve(case: Case) -> tuple[Problem, Tensor, tuple[Tensor, ...]]:
    """Return a problem, and the oracle's output and gradients."""
    given = make_problem(case)
    y = attention(given.q, given.k, given.v, **given.extras)
    return given, y.detach(), torch.autograd.grad(y, (given.q, given.k, given.v), given.cotangent.double())


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
@pytest.mark.parametrize("name", BACKENDS_TESTED)
def test_a_backend_equals_the_oracle(name: str, case: Case) -> None:
    if case.dropped and name == "sdpa":
        pytest.skip("refuses a dropout mask, see test_sdpa")
    given, y, grads = solve(case)
    ours = BACKENDS_TESTED[name](given.q, given.k, given.v, **given.extras)
    assert_close(ours, y)
    for a, b in zip(
        torch.autograd.grad(ours, (given.q, given.k, given.v), given.cotangent), grads, strict=True
    ):
        assert_close(a, b)


@pytest.mark.parametrize("case", [CASES[5], CASES[7]], ids=lambda c: "-".join(map(str, c)))
def test_compiled_flex_attention_without_gradients_equals_the_oracle(case: Case) -> None:
    given, y, _ = solve(case)
    with torch.no_grad():
        assert_close(torch.compile(flex, backend="aot_eager")(given.q, given.k, given.v, **given.extras), y)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_float64_is_computed_in_float64(name: str) -> None:
    given, y, _ = solve(CASES[2])
    exact = DIFFERENTIABLE[name](given.q.double(), given.k.double(), given.v.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_bfloat16_errors_are_at_most_twice_those_of_sdpa(name: str) -> None:
    given = make_problem(Case(67, 67, 4, 2, 8, packed=True))
    q, k, v, cotangent = (x.detach().bfloat16().requires_grad_() for x in given[:4])
    exact = attention(q, k, v, **given.extras)
    expected = (exact, *torch.autograd.grad(exact, (q, k, v), cotangent.double()))

    def errors(backend: Callable) -> list[Tensor]:
        y = backend(q, k, v, **given.extras)
        assert y.dtype == torch.bfloat16
        found = (y, *torch.autograd.grad(y, (q, k, v), cotangent))
        return [
            (a.double() - b.double()).square().mean().sqrt() for a, b in zip(found, expected, strict=True)
        ]

    assert all(
        ours <= 2 * theirs for ours, theirs in zip(errors(DIFFERENTIABLE[name]), errors(sdpa), strict=True)
    )


PACKED = Case(37, 37, 4, 2, 8, packed=True)


def weighted_sum(
    backend: Callable, q: Tensor, k: Tensor, v: Tensor, cotangent: Tensor, segment_ids: Tensor
) -> Tensor:
    return (backend(q, k, v, segment_ids=segment_ids) * cotangent).sum()


def gradient(backend: Callable) -> Callable:
    return torch.func.grad(partial(weighted_sum, backend), (0, 1, 2))


@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if name != "sdpa"])
def test_vmap_of_the_gradient_equals_a_loop(name: str) -> None:
    """Over all arguments, and over the queries alone, as when only a part of the params is stacked."""
    given = [make_problem(PACKED, seed) for seed in range(3)]
    stacked = [torch.stack([p[i].detach() for p in given]) for i in range(4)]
    segments = torch.stack([p.extras["segment_ids"] for p in given])
    all_mapped = torch.func.vmap(gradient(DIFFERENTIABLE[name]))(*stacked, segments)
    map_queries = torch.func.vmap(gradient(DIFFERENTIABLE[name]), (0, None, None, None, None))
    queries_mapped = map_queries(stacked[0], *(x[0] for x in stacked[1:]), segments[0])
    first_k, first_v, first_cotangent = (x.detach() for x in given[0][1:4])
    for i, each in enumerate(given):
        q, k, v, cotangent = (x.detach() for x in each[:4])
        expected = gradient(naive)(q, k, v, cotangent, segments[i])
        for a, b in zip(all_mapped, expected, strict=True):
            assert_close(a[i], b)
        expected = gradient(naive)(q, first_k, first_v, first_cotangent, segments[0])
        for a, b in zip(queries_mapped, expected, strict=True):
            assert_close(a[i], b)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_compiled_gradients_equal_the_naive_ones(name: str) -> None:
    """With the gradient inside of the compiled function, outside of it, and under vmap."""
    q, k, v, cotangent = (x.detach() for x in make_problem(PACKED)[:4])
    segments = make_problem(PACKED).extras["segment_ids"]
    backend, expected = DIFFERENTIABLE[name], gradient(naive)(q, k, v, cotangent, segments)
    compiled = partial(torch.compile, backend="aot_eager", fullgraph=True)
    inside = compiled(gradient(backend))(q, k, v, cotangent, segments)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    outside = torch.autograd.grad(
        compiled(partial(weighted_sum, backend))(*leaves, cotangent, segments), leaves
    )
    for a, b, c in zip(inside, outside, expected, strict=True):
        assert_close(a, c)
        assert_close(b, c)
    if name != "sdpa":
        mapped = compiled(torch.func.vmap(gradient(backend)))(
            *(torch.stack([x, x]) for x in (q, k, v, cotangent, segments))
        )
        for a, b in zip(mapped, expected, strict=True):
            assert_close(a[1], b)


@pytest.mark.parametrize("name", ["naive", "flash in tiles of 16"])
def test_second_derivatives_equal_those_of_the_oracle(name: str) -> None:
    given = make_problem(Case(21, 21, 2, 1, 4))
    q, k, v = (x.detach().double() for x in given[:3])

    def second_derivatives(backend: Callable) -> Any:
        def gradient_norm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            grads = torch.func.grad(lambda *x: backend(*x).square().sum(), (0, 1, 2))(q, k, v)
            return sum(g.square().sum() for g in grads)

        return torch.func.grad(gradient_norm, (0, 1, 2))(q, k, v)

    for a, b in zip(second_derivatives(DIFFERENTIABLE[name]), second_derivatives(attention), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_choose_returns_backends_by_name_and_refuses_others() -> None:
    one = torch.ones(1, 2, 1, 1)
    assert {name: choose(name, one, one) for name in BACKENDS} == dict(BACKENDS)
    assert choose("auto", one, one) in (naive, flash, sdpa)
    with pytest.raises(ValueError, match="expected one of auto, naive, flash, sdpa, flex, got 'xformers'"):
        choose("xformers", one, one)
