"""Compilation keeps meaning; donation writes in place and refuses what would go wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.transform.grad import value_and_grad
from pure.transform.jit import Region, jit, region, regional

BOTH = pytest.mark.parametrize("regions", [False, True], ids=["whole", "regions"])


class State(NamedTuple):
    """A small training state."""

    step: Tensor
    params: Any
    old: Any


def layer(w: Tensor, x: Tensor) -> Tensor:
    return x + (x @ w).tanh()


UNIT = region(layer)


def update(moving: Any, grads: Any) -> tuple[Any, tuple]:
    return tree.map(lambda p, g: p - 0.1 * g, moving, grads), ()


UPDATE = region(update, donate=True)


def step(state: State, x: Tensor) -> State:
    """Three layers, one region each; then the update, a donating region."""

    def loss(params: Any) -> Tensor:
        y = x
        for w in params:
            y = UNIT(w, y)
        return y.square().mean()

    _, grads = value_and_grad(loss)(state.params)
    return State(state.step + 1, UPDATE(state.params, grads)[0], state.old)


def start() -> State:
    drawn = [random.normal(random.key(i), (8, 8)) / 8 for i in range(3)]
    return State(torch.tensor(0), drawn, {"kept": torch.ones(2), "empty": torch.ones(0)})


X = random.normal(random.key(9), (4, 8))


@BOTH
def test_compiled_equals_eager(regions: bool) -> None:
    compiled = jit(step, regions=regions, backend="aot_eager")
    state, expected = start(), start()
    for _ in range(3):
        state, expected = compiled(state, X), step(expected, X)
    assert state.step == 3
    for a, b in zip(tree.leaves(state), tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@BOTH
def test_without_donation_nothing_is_written(regions: bool) -> None:
    state = start()
    before = tree.clone(state)
    jit(step, regions=regions, backend="aot_eager")(state, X)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(state), tree.leaves(before), strict=True))


@pytest.mark.parametrize(
    ("regions", "backend"), [(False, "aot_eager"), (True, "aot_eager"), (True, "inductor")]
)
def test_donated_writes_the_same_bits_into_the_old_storage(regions: bool, backend: str) -> None:
    plain, donating = (jit(step, regions=regions, donate=d, backend=backend) for d in (False, True))
    state, given = start(), start()
    places = [x.data_ptr() for x in tree.leaves(given)]
    for _ in range(3):
        state, returned = plain(state, X), donating(given, X)
        assert returned is given
    assert [x.data_ptr() for x in tree.leaves(given)] == places
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(state), tree.leaves(given), strict=True))


def swap(s: dict) -> dict:
    return {"a": s["b"], "b": s["a"], "c": s["c"] + s["a"]}


def rotate(s: dict) -> dict:
    return {"a": s["b"], "b": s["c"], "c": s["a"]}


def turn(s: dict) -> dict:
    """A leaf becomes a view of itself, another a view of a leaf that is overwritten."""
    return {"a": s["a"].T, "b": s["c"].T, "c": s["c"] * 2}


def spread(s: dict) -> dict:
    """One leaf goes to all; two new leaves are one tensor."""
    twice = s["a"] + 1
    return {"a": s["b"], "b": twice, "c": twice}


TRADES = [
    (function, regions, "aot_eager") for function in (swap, rotate, turn, spread) for regions in (False, True)
]


@pytest.mark.parametrize(("function", "regions", "backend"), [*TRADES, (swap, False, "inductor")])
def test_leaves_may_trade_places(function: Callable, regions: bool, backend: str) -> None:
    """Inductor drops the clone that a swap needs, so trades are made outside the graph. (Here leaves are
    views.)"""
    state = {name: torch.arange(18.0).add(i)[:9].view(3, 3) for i, name in enumerate("abc")}
    expected = tree.clone(function(tree.clone(state)))
    donating = jit(function, donate=True, regions=regions, backend=backend)
    assert tree.structure(donating(state)) == tree.structure(expected)
    assert all(torch.equal(state[name], expected[name]) for name in "abc")
    again = tree.clone(function(tree.clone(state)))
    donating(state)
    assert all(torch.equal(state[name], again[name]) for name in "abc")


def test_regions_may_trade_places_too() -> None:
    unit = region(lambda s, x: ({"a": s["b"] * 1, "b": s["a"]}, x + s["a"]), donate=True)

    def function(s: Any) -> Any:
        new, y = unit(s["s"], s["y"])
        return {"s": new, "y": y}

    state = {"s": {"a": torch.zeros(2), "b": torch.ones(2)}, "y": torch.full((2,), 5.0)}
    jit(function, donate=True, regions=True, backend="aot_eager")(state)
    assert [x.tolist() for x in tree.leaves(state)] == [[1, 1], [0, 0], [5, 5]]


@BOTH
def test_aliases_are_refused_by_name(regions: bool) -> None:
    base = torch.zeros(4)
    donating = jit(lambda s: tree.map(lambda x: x + 1, s), donate=True, regions=regions, backend="aot_eager")
    for second in (base, base[2:], base.view(2, 2)):
        state = {"params": {"w": base}, "ema": {"w": second}}
        with pytest.raises(ValueError, match=r"ema/w and params/w share storage, .* clone one of them"):
            donating(state)
        assert torch.equal(base, torch.zeros(4))
    empty = torch.zeros(0)
    donating({"a": empty, "b": empty, "c": base})
    assert torch.equal(base, torch.ones(4))


def test_regions_are_plain_functions_elsewhere() -> None:
    unit = region(layer)
    assert isinstance(unit, Region)
    assert unit != region(layer)
    w = torch.eye(8)
    assert torch.equal(unit(w, X), layer(w, X))
    torch.testing.assert_close(torch.func.vmap(unit, (None, 0))(w, X), layer(w, X))
    assert not regional()


def test_a_region_is_compiled_once_for_all_layers() -> None:
    """The compiler is called for each kind of graph, not for each layer."""
    graphs: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(len(inputs))
        return graph.forward

    unit, inside = region(layer), []

    def deep(ws: list[Tensor], x: Tensor) -> Tensor:
        inside.append(regional())
        for w in ws:
            x = unit(w, x)
        return x

    ws = [torch.eye(8) * i for i in range(5)]
    compiled = jit(deep, regions=True, backend=counting)  # type: ignore[arg-type]
    for _ in range(2):
        torch.testing.assert_close(compiled(ws, X), deep(ws, X))
    assert len(graphs) == 1
    assert inside == [True, False, True, False]


def test_functions_of_the_same_code_do_not_share_dynamos_cache() -> None:
    """More variants of one closure than torch compiles for one code object."""

    def make(n: int) -> Callable[[Tensor], Tensor]:
        return lambda x: x + n

    for n in range(12):
        assert jit(partial(make(n)), backend="aot_eager")(torch.tensor(1)) == 1 + n
