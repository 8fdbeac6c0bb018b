"""All attention backends agree: values and gradients against a naive float64 oracle."""

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
from tests.pure.nn.oracle import CASES, Case, Problem, attention, problem

WAYS: dict[str, Callable] = {
    "naive": naive,
    "flash": flash,
    "flash in tiles of 16": partial(flash, tile=16),
    "flash in tiles of 1": partial(flash, tile=1),
    "sdpa": sdpa,
}
GRADED = {name: way for name, way in WAYS.items() if name != "flash in tiles of 1"}


@lru_cache
def answer(case: Case) -> tuple[Problem, Tensor, tuple[Tensor, ...]]:
    """A problem, and the oracle's value and gradients."""
    given = problem(case)
    y = attention(given.q, given.k, given.v, **given.extras)
    return given, y.detach(), torch.autograd.grad(y, (given.q, given.k, given.v), given.up.double())


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
@pytest.mark.parametrize("name", WAYS)
def test_equals_the_oracle(name: str, case: Case) -> None:
    if case.dropped and name == "sdpa":
        pytest.skip("refuses a dropout mask, see test_sdpa")
    given, y, grads = answer(case)
    ours = WAYS[name](given.q, given.k, given.v, **given.extras)
    assert_close(ours, y)
    for a, b in zip(torch.autograd.grad(ours, (given.q, given.k, given.v), given.up), grads, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("case", [CASES[5], CASES[7]], ids=lambda c: "-".join(map(str, c)))
def test_flex_equals_the_oracle_where_it_runs(case: Case) -> None:
    given, y, _ = answer(case)
    with torch.no_grad():
        assert_close(torch.compile(flex, backend="aot_eager")(given.q, given.k, given.v, **given.extras), y)


@pytest.mark.parametrize("name", GRADED)
def test_float64_is_computed_in_float64(name: str) -> None:
    given, y, _ = answer(CASES[2])
    exact = GRADED[name](given.q.double(), given.k.double(), given.v.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", GRADED)
def test_bfloat16_is_within_twice_the_distance_of_sdpa(name: str) -> None:
    given = problem(Case(67, 67, 4, 2, 8, packed=True))
    q, k, v, up = (x.detach().bfloat16().requires_grad_() for x in given[:4])
    exact = attention(q, k, v, **given.extras)
    expected = (exact, *torch.autograd.grad(exact, (q, k, v), up.double()))

    def errors(way: Callable) -> list[Tensor]:
        y = way(q, k, v, **given.extras)
        assert y.dtype == torch.bfloat16
        found = (y, *torch.autograd.grad(y, (q, k, v), up))
        return [
            (a.double() - b.double()).square().mean().sqrt() for a, b in zip(found, expected, strict=True)
        ]

    assert all(ours <= 2 * theirs for ours, theirs in zip(errors(GRADED[name]), errors(sdpa), strict=True))


PACKED = Case(37, 37, 4, 2, 8, packed=True)


def value(way: Callable, q: Tensor, k: Tensor, v: Tensor, up: Tensor, segment_ids: Tensor) -> Tensor:
    return (way(q, k, v, segment_ids=segment_ids) * up).sum()


def gradient(way: Callable) -> Callable:
    return torch.func.grad(partial(value, way), (0, 1, 2))


@pytest.mark.parametrize("name", [name for name in GRADED if name != "sdpa"])
def test_works_under_vmap_of_a_gradient(name: str) -> None:
    """Over everything, and over the queries alone, as when only some of a model is stacked."""
    given = [problem(PACKED, seed) for seed in range(3)]
    stacked = [torch.stack([p[i].detach() for p in given]) for i in range(4)]
    segments = torch.stack([p.extras["segment_ids"] for p in given])
    many = torch.func.vmap(gradient(GRADED[name]))(*stacked, segments)
    queries = torch.func.vmap(gradient(GRADED[name]), (0, None, None, None, None))
    some = queries(stacked[0], *(x[0] for x in stacked[1:]), segments[0])
    for i, each in enumerate(given):
        q, k, v, up = (x.detach() for x in each[:4])
        k0, v0, up0 = (x.detach() for x in given[0][1:4])
        for a, b in zip(many, gradient(naive)(q, k, v, up, segments[i]), strict=True):
            assert_close(a[i], b)
        for a, b in zip(some, gradient(naive)(q, k0, v0, up0, segments[0]), strict=True):
            assert_close(a[i], b)


@pytest.mark.parametrize("name", GRADED)
def test_works_compiled(name: str) -> None:
    """Compiled with the gradient inside, outside, and under vmap."""
    q, k, v, up = (x.detach() for x in problem(PACKED)[:4])
    segments = problem(PACKED).extras["segment_ids"]
    way, expected = GRADED[name], gradient(naive)(q, k, v, up, segments)
    compiled = partial(torch.compile, backend="aot_eager", fullgraph=True)
    inside = compiled(gradient(way))(q, k, v, up, segments)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    outside = torch.autograd.grad(compiled(partial(value, way))(*leaves, up, segments), leaves)
    for a, b, c in zip(inside, outside, expected, strict=True):
        assert_close(a, c)
        assert_close(b, c)
    if name != "sdpa":
        under = compiled(torch.func.vmap(gradient(way)))(
            *(torch.stack([x, x]) for x in (q, k, v, up, segments))
        )
        for a, b in zip(under, expected, strict=True):
            assert_close(a[1], b)


@pytest.mark.parametrize("name", ["naive", "flash in tiles of 16"])
def test_has_second_derivatives(name: str) -> None:
    given = problem(Case(21, 21, 2, 1, 4))
    q, k, v = (x.detach().double() for x in given[:3])

    def twice(way: Callable) -> Any:
        def once(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            grads = torch.func.grad(lambda *x: way(*x).square().sum(), (0, 1, 2))(q, k, v)
            return sum(g.square().sum() for g in grads)

        return torch.func.grad(once, (0, 1, 2))(q, k, v)

    for a, b in zip(twice(GRADED[name]), twice(attention), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_names() -> None:
    one = torch.ones(1, 2, 1, 1)
    assert {name: choose(name, one, one) for name in BACKENDS} == dict(BACKENDS)
    assert choose("auto", one, one) in (naive, flash, sdpa)
    with pytest.raises(ValueError, match="expected one of auto, naive, flash, sdpa, flex, got 'xformers'"):
        choose("xformers", one, one)
