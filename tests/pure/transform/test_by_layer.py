"""Layer by layer equals all at once, and every layer's part has the same structure."""

from __future__ import annotations

import torch
from torch import Tensor

from pure import random, tree
from pure.transform.by_layer import leaf_norms, plan, update_at_once, update_by_layer
from pure.transform.jit import jit
from pure.types import Tree


def params(layers: int = 3) -> Tree:
    one = [
        {"q": random.normal(random.key(i), (2, 2)), "norm": {"scale": torch.ones(2) * i}}
        for i in range(layers)
    ]
    return {
        "embedding": random.normal(random.key(9), (4, 2)),
        "layers": one,
        "norm": {"scale": torch.ones(2)},
    }


def moving(layers: int = 3) -> Tree:
    return {
        "params": params(layers),
        "opt": ({"count": torch.tensor(3)}, {"mu": tree.zeros_like(params(layers))}),
    }


def update(state: Tree, grads: Tree, rate: Tensor) -> Tree:
    mu = tree.map(lambda m, g: 0.9 * m + g, state["opt"][1]["mu"], grads)
    new = tree.map(lambda p, m: p - rate * m, state["params"], mu)
    return {"params": new, "opt": ({"count": state["opt"][0]["count"] + 1}, {"mu": mu})}


def test_every_layer_has_the_same_part() -> None:
    grads = params(5)
    parts = plan(tree.structure(moving(5)), tree.structure(grads))
    assert len(parts) == 6
    layers = [part for part in parts if tree.unflatten(part.grads_spec, list(part.grads))["layers"]]
    assert len(layers) == 5
    assert len({part.own_spec for part in layers}) == len({part.grads_spec for part in layers}) == 1
    assert sorted(i for part in parts for i in part.grads) == list(range(len(tree.leaves(grads))))
    assert all(len(part.shared) == 1 for part in parts)


def test_by_layer_equals_all_at_once() -> None:
    grads, rate = params(), torch.tensor(0.1)
    expected = update(moving(), grads, rate)
    for made in (update_by_layer(update), update_at_once(update)):
        torch.testing.assert_close(made(moving(), grads, rate), expected)
        for donate in (False, True):
            compiled = jit(made, regions=True, donate=donate, backend="aot_eager")
            torch.testing.assert_close(compiled(moving(), grads, rate), expected)


def test_norms_keep_the_order_of_leaves() -> None:
    grads = params(12)
    expected = torch.stack([x.norm() for x in tree.leaves(grads)])
    torch.testing.assert_close(leaf_norms(grads), expected)
    several = torch.func.vmap(leaf_norms)(tree.map(lambda x: torch.stack([x, 2 * x]), grads))
    torch.testing.assert_close(several, torch.stack([expected, 2 * expected]))
    wide = leaf_norms(tree.map(lambda x: x.bfloat16(), grads))
    assert wide.dtype == torch.float32
    torch.testing.assert_close(wide, expected, rtol=2e-2, atol=1e-6)


def test_norms_tell_which_leaf_is_not_finite() -> None:
    for bad in (torch.inf, -torch.inf, torch.nan):
        grads = {"a": torch.ones(3), "b": torch.tensor([1.0, bad]), "c": torch.zeros(0)}
        assert leaf_norms(grads).isfinite().tolist() == [True, False, True]


def test_a_parameter_may_bear_the_name_of_an_optimizers_count() -> None:
    grads = {"count": torch.ones(2), "layers": [{"w": torch.ones(3)} for _ in range(2)]}
    state = {"params": grads, "opt": ({"count": torch.zeros((), dtype=torch.int32), "mu": grads},)}
    parts = plan(tree.structure(state), tree.structure(grads))
    paths = tree.paths(state)
    assert [paths[i] for i in parts[0].shared] == ["opt/0/count"]
    assert [paths[i] for i in parts[0].own] == ["opt/0/mu/count", "params/count"]
