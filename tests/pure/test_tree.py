"""Operations on trees, against JAX's and optree's."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, namedtuple
from functools import partial
from typing import Any, NamedTuple

import jax
import optree
import pytest
import torch

from pure import tree
from pure.types import ParamSpec


class Pair(NamedTuple):
    z: Any
    a: Any


def example() -> Any:
    """Every kind of node: dict, list, tuple, NamedTuple, None, and an empty one of each."""
    return {
        "b": [torch.tensor([1.0, 2.0]), None, (torch.tensor(3), {})],
        "a": Pair(torch.tensor([[4.0]]), {"y": torch.tensor(5.0), "x": torch.tensor([True])}),
        "c": (),
    }


def compiled(function: Any) -> Any:
    return torch.compile(function, backend="eager", fullgraph=True)


def test_leaves_come_in_the_order_of_jax() -> None:
    given = example()
    ours, theirs = tree.leaves(given), jax.tree.leaves(given)
    assert [id(x) for x in ours] == [id(x) for x in theirs]
    assert tree.paths(given) == ["a/z", "a/a/x", "a/a/y", "b/0", "b/2/0"]


def test_flatten_and_back() -> None:
    given = example()
    values, spec = tree.flatten(given)
    again = tree.unflatten(spec, values)
    assert optree.tree_structure(again) == optree.tree_structure(given)
    assert isinstance(again["a"], Pair)
    assert [id(x) for x in tree.leaves(again)] == [id(x) for x in values]
    assert tree.structure(again) == spec


def test_a_compiler_sees_the_same_order() -> None:
    given = example()
    seen: list[list[str]] = []

    def doubled(t: Any) -> tuple[Any, list]:
        values, spec = tree.flatten(t)
        seen.append(tree.paths(t))
        return tree.unflatten(spec, [x + x for x in values]), tree.leaves(t)

    result, values = compiled(doubled)(given)
    plain, _ = doubled(given)
    assert seen[0] == seen[1] == tree.paths(given)
    assert optree.tree_structure(result) == optree.tree_structure(plain)
    for a, b in zip([*tree.leaves(result), *values], [*tree.leaves(plain), *tree.leaves(given)], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_map_takes_several_trees_and_refuses_other_structures() -> None:
    added = tree.map(torch.add, {"x": torch.tensor(1), "y": [None]}, {"x": torch.tensor(2), "y": [None]})
    assert added == {"x": torch.tensor(3), "y": [None]}
    with pytest.raises(ValueError, match="y"):
        tree.map(torch.add, {"x": torch.tensor(1)}, {"y": torch.tensor(2)})


def test_map_with_path_hands_over_the_names() -> None:
    named = tree.map_with_path(lambda path, x, y: (path, x + y), {"a": [1, 2]}, {"a": [10, 20]})
    assert named == {"a": [("a/0", 11), ("a/1", 22)]}


@pytest.mark.parametrize("path", ["a/z", "a/a/x", "b/0", "b/2/0"])
def test_get_undoes_paths(path: str) -> None:
    given = example()
    assert tree.get(given, path) is dict(zip(tree.paths(given), tree.leaves(given), strict=True))[path]


def test_get_returns_subtrees_and_its_error_lists_the_keys() -> None:
    given = example()
    assert tree.get(given, "") is given
    assert tree.get(given, "b/2") is given["b"][2]
    with pytest.raises(KeyError, match=r"tree.get: no 'q' in 'a/q'; the children here are z, a"):
        tree.get(given, "a/q")
    with pytest.raises(KeyError, match="the children here are none"):
        tree.get(given, "b/0/0")


def test_partition_and_combine() -> None:
    given = example()
    kept, rest = tree.partition(lambda path, x: path.startswith("a"), given)
    assert tree.paths(kept) == ["a/z", "a/a/x", "a/a/y"]
    assert tree.paths(rest) == ["b/0", "b/2/0"]
    again = tree.combine(kept, rest)
    assert [id(x) for x in tree.leaves(again)] == [id(x) for x in tree.leaves(given)]
    assert tree.select(kept, given)["b"] == [None, None, (None, {})]
    with pytest.raises(ValueError, match="both trees have a leaf at the same path"):
        tree.combine(given, kept)


def test_stack_and_unstack() -> None:
    trees = [{"x": torch.full((2,), float(i)), "y": [torch.tensor(i)]} for i in range(3)]
    stacked = tree.stack(trees)
    assert stacked["x"].shape == (3, 2)
    assert stacked["y"][0].tolist() == [0, 1, 2]
    again = tree.unstack(stacked)
    assert [t["y"][0].item() for t in again] == [0, 1, 2]
    assert again[1]["x"].data_ptr() == stacked["x"][1].data_ptr()
    with pytest.raises(ValueError, match=r"must share the length of their first axis, got \[2, 3\]"):
        tree.unstack({"x": torch.zeros(2), "y": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"got \[\]"):
        tree.unstack({})


def test_cast_leaves_integers_alone() -> None:
    cast = tree.cast({"w": torch.ones(2), "key": torch.tensor([1, 2], dtype=torch.uint32)}, torch.bfloat16)
    assert (cast["w"].dtype, cast["key"].dtype) == (torch.bfloat16, torch.uint32)


def test_clone_shares_nothing_and_detach_shares_all() -> None:
    given = {"w": torch.ones(2, requires_grad=True)}
    grown = tree.map(lambda x: x * 2, given)
    assert tree.clone(grown)["w"].data_ptr() != grown["w"].data_ptr()
    cut = tree.detach(grown)["w"]
    assert cut.data_ptr() == grown["w"].data_ptr()
    assert not cut.requires_grad


def test_zeros_where_norm() -> None:
    given = {"a": torch.tensor([3.0]), "b": [torch.tensor([[4.0]], dtype=torch.bfloat16)]}
    assert [x.dtype for x in tree.leaves(tree.zeros_like(given))] == [torch.float32, torch.bfloat16]
    assert [x.dtype for x in tree.leaves(tree.zeros_like(given, torch.float32))] == [torch.float32] * 2
    assert tree.norm(given).item() == 5.0
    assert tree.norm(given).dtype == torch.float32
    chosen = torch.func.vmap(tree.where, (0, None, None))(
        torch.tensor([True, False]), given, tree.zeros_like(given)
    )
    assert chosen["a"].tolist() == [[3.0], [0.0]]


def test_sizes_of_tensors_and_of_specifications() -> None:
    specs = {
        "w": ParamSpec(shape=(2, 3)),
        "b": ParamSpec(shape=(2,), dtype=torch.bfloat16),
        "s": ParamSpec(shape=()),
    }
    made = tree.map(lambda spec: torch.zeros(spec.shape, dtype=spec.dtype), specs)
    assert tree.count(specs) == tree.count(made) == 9
    assert tree.nbytes(specs) == tree.nbytes(made) == 32


def test_other_kinds_of_nodes_keep_the_order_of_jax() -> None:
    Point = namedtuple("Point", "x y")
    assert tree.paths({"p": Point(1, [2])}) == ["p/x", "p/y/0"]
    for kind in (OrderedDict, partial(defaultdict, int)):
        given = kind(b=torch.tensor(1), a=torch.tensor(2))
        names = {name: x.item() for name, x in zip(tree.paths(given), tree.leaves(given), strict=True)}
        assert names == {"a": 2, "b": 1}
        assert [x.item() for x in tree.leaves(given)] == [
            x.item() for x in jax.tree.leaves(dict_of_arrays(given))
        ]
        assert [x.item() for x in compiled(tree.leaves)(given)] == [x.item() for x in tree.leaves(given)]


def dict_of_arrays(given: dict) -> Any:
    """The same dict, of numpy arrays."""
    return (
        type(given)(int, {k: x.numpy() for k, x in given.items()})
        if isinstance(given, defaultdict)
        else type(given)((k, x.numpy()) for k, x in given.items())
    )
