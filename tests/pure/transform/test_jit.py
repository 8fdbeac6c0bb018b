"""`jit`: compiled equals eager, whole or by regions; donated arguments are overwritten, aliases refused."""

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

WHOLE_AND_BY_REGIONS = pytest.mark.parametrize("regions", [False, True], ids=["whole", "regions"])


class State(NamedTuple):
    """A small training state."""

    step: Tensor
    params: Any
    old: Any  # returned unchanged by a step


def residual_layer(w: Tensor, x: Tensor) -> Tensor:
    return x + (x @ w).tanh()


LAYER_REGION = region(residual_layer)


def update(params: Any, grads: Any) -> tuple[Any, tuple]:
    return tree.map(lambda p, g: p - 0.1 * g, params, grads), ()


UPDATE_REGION = region(update, donate=True)


def step(state: State, x: Tensor) -> State:
    """Three layers, one region each; then the update, a donating region."""

    def loss(params: Any) -> Tensor:
        y = x
        for w in params:
            y = LAYER_REGION(w, y)
        return y.square().mean()

    _, grads = value_and_grad(loss)(state.params)
    return State(state.step + 1, UPDATE_REGION(state.params, grads)[0], state.old)


def initial_state() -> State:
    weights = [random.normal(random.key(i), (8, 8)) / 8 for i in range(3)]
    return State(torch.tensor(0), weights, {"kept": torch.ones(2), "empty": torch.ones(0)})


X = random.normal(random.key(9), (4, 8))


@WHOLE_AND_BY_REGIONS
def test_a_compiled_step_equals_eager(regions: bool) -> None:
    compiled = jit(step, regions=regions, backend="aot_eager")
    state, expected = initial_state(), initial_state()
    for _ in range(3):
        state, expected = compiled(state, X), step(expected, X)
    assert state.step == 3
    for a, b in zip(tree.leaves(state), tree.leaves(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@WHOLE_AND_BY_REGIONS
def test_without_donation_no_argument_is_overwritten(regions: bool) -> None:
    state = initial_state()
    before = tree.clone(state)
    jit(step, regions=regions, backend="aot_eager")(state, X)
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(state), tree.leaves(before), strict=True))


@pytest.mark.parametrize(
    ("regions", "backend"), [(False, "aot_eager"), (True, "aot_eager"), (True, "inductor")]
)
def test_a_donating_step_writes_the_same_bits_into_the_old_storage(regions: bool, backend: str) -> None:
    copying = jit(step, regions=regions, donate=False, backend=backend)
    donating = jit(step, regions=regions, donate=True, backend=backend)
    state, donated = initial_state(), initial_state()
    addresses = [x.data_ptr() for x in tree.leaves(donated)]
    for _ in range(3):
        state, returned = copying(state, X), donating(donated, X)
        assert returned is donated
    assert [x.data_ptr() for x in tree.leaves(donated)] == addresses
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(state), tree.leaves(donated), strict=True))


def swap(s: dict) -> dict:
    """Exchange two leaves, and change the third."""
    return {"a": s["b"], "b": s["a"], "c": s["c"] + s["a"]}


def rotate(s: dict) -> dict:
    """Permute all three leaves."""
    return {"a": s["b"], "b": s["c"], "c": s["a"]}


def transpose_leaves(s: dict) -> dict:
    """Replace one leaf by a view of itself, and another by a view of a leaf that is overwritten."""
    return {"a": s["a"].T, "b": s["c"].T, "c": s["c"] * 2}


def share_result(s: dict) -> dict:
    """Compute two new leaves that are the same tensor."""
    shared = s["a"] + 1
    return {"a": s["b"], "b": shared, "c": shared}


EXCHANGES = [
    (function, regions, "aot_eager")
    for function in (swap, rotate, transpose_leaves, share_result)
    for regions in (False, True)
]


@pytest.mark.parametrize(("function", "regions", "backend"), [*EXCHANGES, (swap, False, "inductor")])
def test_donated_leaves_may_be_exchanged_or_aliased_in_the_result(
    function: Callable, regions: bool, backend: str
) -> None:
    """Inductor drops the clone that a swap needs, so leaves are exchanged outside the graph. (Here leaves are
    views.)"""
    state = {name: torch.arange(18.0).add(i)[:9].view(3, 3) for i, name in enumerate("abc")}
    expected = tree.clone(function(tree.clone(state)))
    donating = jit(function, donate=True, regions=regions, backend=backend)
    assert tree.structure(donating(state)) == tree.structure(expected)
    assert all(torch.equal(state[name], expected[name]) for name in "abc")
    expected = tree.clone(function(tree.clone(state)))
    donating(state)
    assert all(torch.equal(state[name], expected[name]) for name in "abc")


def test_a_donating_region_may_exchange_leaves() -> None:
    exchange = region(lambda s, x: ({"a": s["b"] * 1, "b": s["a"]}, x + s["a"]), donate=True)

    def function(s: Any) -> Any:
        new, y = exchange(s["s"], s["y"])
        return {"s": new, "y": y}

    state = {"s": {"a": torch.zeros(2), "b": torch.ones(2)}, "y": torch.full((2,), 5.0)}
    jit(function, donate=True, regions=True, backend="aot_eager")(state)
    assert [x.tolist() for x in tree.leaves(state)] == [[1, 1], [0, 0], [5, 5]]


@WHOLE_AND_BY_REGIONS
def test_donated_leaves_that_share_storage_are_refused_by_path(regions: bool) -> None:
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


def test_a_region_outside_jit_is_the_plain_function() -> None:
    layer_region = region(residual_layer)
    assert isinstance(layer_region, Region)
    assert layer_region != region(residual_layer)
    w = torch.eye(8)
    assert torch.equal(layer_region(w, X), residual_layer(w, X))
    torch.testing.assert_close(torch.func.vmap(layer_region, (None, 0))(w, X), residual_layer(w, X))
    assert not regional()


def test_a_region_is_compiled_once_for_all_layers() -> None:
    """The compiler is called once for five layers, as their graphs are alike."""
    graphs: list[int] = []

    def counting_backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        graphs.append(len(inputs))
        return graph.forward

    layer_region = region(residual_layer)
    inside_jit: list[bool] = []

    def apply_layers(ws: list[Tensor], x: Tensor) -> Tensor:
        inside_jit.append(regional())
        for w in ws:
            x = layer_region(w, x)
        return x

    ws = [torch.eye(8) * i for i in range(5)]
    compiled = jit(apply_layers, regions=True, backend=counting_backend)  # type: ignore[arg-type]
    for _ in range(2):
        torch.testing.assert_close(compiled(ws, X), apply_layers(ws, X))
    assert len(graphs) == 1
    assert inside_jit == [True, False, True, False]


def test_functions_with_the_same_code_object_do_not_share_dynamos_cache() -> None:
    """Twelve closures of one code object: more than torch compiles for each code object."""

    def make_adder(n: int) -> Callable[[Tensor], Tensor]:
        return lambda x: x + n

    for n in range(12):
        assert jit(partial(make_adder(n)), backend="aot_eager")(torch.tensor(1)) == 1 + n
