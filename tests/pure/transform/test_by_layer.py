"""`update_by_layer` equals an update of the whole tree; the parts of all layers have the same structure."""

from __future__ import annotations

import torch
from torch import Tensor

from pure import random, tree
from pure.transform.by_layer import leaf_norms, plan_parts, update_at_once, update_by_layer
from pure.transform.jit import jit
from pure.transform.memory import peak
from pure.types import Tree


def make_params(layers: int = 3) -> Tree:
    blocks = [
        {"q": random.normal(random.key(i), (2, 2)), "norm": {"scale": torch.ones(2) * i}}
        for i in range(layers)
    ]
    return {
        "embedding": random.normal(random.key(9), (4, 2)),
        "layers": blocks,
        "norm": {"scale": torch.ones(2)},
    }


def make_state(layers: int = 3) -> Tree:
    """Params, and an optimizer state with a count and a momentum."""
    return {
        "params": make_params(layers),
        "opt": ({"count": torch.tensor(3)}, {"mu": tree.zeros_like(make_params(layers))}),
    }


def update(state: Tree, grads: Tree, rate: Tensor) -> Tree:
    """Gradient descent with momentum."""
    mu = tree.map(lambda m, g: 0.9 * m + g, state["opt"][1]["mu"], grads)
    new = tree.map(lambda p, m: p - rate * m, state["params"], mu)
    return {"params": new, "opt": ({"count": state["opt"][0]["count"] + 1}, {"mu": mu})}


def test_parts_give_every_layer_the_same_structure_and_every_gradient_once() -> None:
    grads = make_params(5)
    parts = plan_parts(tree.structure(make_state(5)), tree.structure(grads))
    assert len(parts) == 6  # one for each layer, and one for all other leaves
    paths = tree.paths(grads)
    layers = [part for part in parts if all(paths[i].startswith("layers/") for i in part.grads)]
    assert len(layers) == 5
    assert len({part.own_spec for part in layers}) == 1
    assert len({part.grads_spec for part in layers}) == 1
    assert sorted(i for part in parts for i in part.grads) == list(range(len(tree.leaves(grads))))
    assert all(len(part.shared) == 1 for part in parts)


def test_update_by_layer_equals_update_at_once() -> None:
    grads, rate = make_params(), torch.tensor(0.1)
    expected = update(make_state(), grads, rate)
    for update_fn in (update_by_layer(update), update_at_once(update)):
        torch.testing.assert_close(update_fn(make_state(), grads, rate), expected, rtol=0, atol=0)
        for donate in (False, True):
            compiled = jit(update_fn, regions=True, donate=donate, backend="aot_eager")
            torch.testing.assert_close(compiled(make_state(), grads, rate), expected)


def test_an_eager_update_holds_the_intermediate_values_of_one_layer_only() -> None:
    def update_by_mean(state: Tree, grads: Tree, rate: Tensor) -> Tree:
        return update(state, tree.map(lambda g: g / 2, grads), rate)

    state, grads, rate = make_state(50), make_params(50), torch.tensor(0.1)
    new_state = 2 * tree.nbytes(grads)
    at_once = peak(update_at_once(update_by_mean), state, grads, rate)
    by_layer = peak(update_by_layer(update_by_mean), state, grads, rate)
    assert by_layer < 1.1 * new_state < 1.4 * new_state < at_once


def test_leaf_norms_equal_the_norm_of_each_leaf_in_order() -> None:
    grads = make_params(12)
    expected = torch.stack([x.norm() for x in tree.leaves(grads)])
    torch.testing.assert_close(leaf_norms(grads), expected)
    stacked = torch.func.vmap(leaf_norms)(tree.map(lambda x: torch.stack([x, 2 * x]), grads))
    torch.testing.assert_close(stacked, torch.stack([expected, 2 * expected]))
    from_bfloat16 = leaf_norms(tree.map(lambda x: x.bfloat16(), grads))
    assert from_bfloat16.dtype == torch.float32
    torch.testing.assert_close(from_bfloat16, expected, rtol=2e-2, atol=1e-6)


def test_leaf_norms_are_not_finite_exactly_where_a_leaf_is_not() -> None:
    for bad in (torch.inf, -torch.inf, torch.nan):
        grads = {"a": torch.ones(3), "b": torch.tensor([1.0, bad]), "c": torch.zeros(0)}
        assert leaf_norms(grads).isfinite().tolist() == [True, False, True]


def test_parts_do_not_confuse_a_parameter_named_count_with_the_optimizers_count() -> None:
    grads = {"count": torch.ones(2), "layers": [{"w": torch.ones(3)} for _ in range(2)]}
    state = {"params": grads, "opt": ({"count": torch.zeros((), dtype=torch.int32), "mu": grads},)}
    parts = plan_parts(tree.structure(state), tree.structure(grads))
    paths = tree.paths(state)
    assert [paths[i] for i in parts[0].shared] == ["opt/0/count"]
    assert [paths[i] for i in parts[0].own] == ["opt/0/mu/count", "params/count"]
