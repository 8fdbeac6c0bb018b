"""`pure.tree`: operations on trees, in the leaf order of JAX and with the structures of optree."""

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
    """Its fields are not in alphabetical order, and must stay in theirs."""

    z: Any
    a: Any


def example() -> Any:
    """Every kind of node: dict, list, tuple, NamedTuple, None, and an empty one of each."""
    return {
        "b": [torch.tensor([1.0, 2.0]), None, (torch.tensor(3), {})],
        "a": Pair(torch.tensor([[4.0]]), {"y": torch.tensor(5.0), "x": torch.tensor([True])}),
        "c": (),
    }


def compile_eager(function: Any) -> Any:
    return torch.compile(function, backend="eager", fullgraph=True)


def test_leaves_and_paths_have_the_order_of_jax() -> None:
    nested = example()
    ours, theirs = tree.leaves(nested), jax.tree.leaves(nested)
    assert [id(x) for x in ours] == [id(x) for x in theirs]
    assert tree.paths(nested) == ["a/z", "a/a/x", "a/a/y", "b/0", "b/2/0"]


def test_unflatten_undoes_flatten() -> None:
    nested = example()
    values, spec = tree.flatten(nested)
    restored = tree.unflatten(spec, values)
    assert optree.tree_structure(restored) == optree.tree_structure(nested)
    assert isinstance(restored["a"], Pair)
    assert [id(x) for x in tree.leaves(restored)] == [id(x) for x in values]
    assert tree.structure(restored) == spec


def test_compiled_flatten_and_paths_have_the_same_order() -> None:
    nested = example()
    seen_paths: list[list[str]] = []

    def double_leaves(t: Any) -> tuple[Any, list]:
        values, spec = tree.flatten(t)
        seen_paths.append(tree.paths(t))
        return tree.unflatten(spec, [x + x for x in values]), tree.leaves(t)

    result, values = compile_eager(double_leaves)(nested)
    expected, _ = double_leaves(nested)
    assert seen_paths[0] == seen_paths[1] == tree.paths(nested)
    assert optree.tree_structure(result) == optree.tree_structure(expected)
    for a, b in zip(
        [*tree.leaves(result), *values], [*tree.leaves(expected), *tree.leaves(nested)], strict=True
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_map_takes_several_trees_and_refuses_different_structures() -> None:
    added = tree.map(torch.add, {"x": torch.tensor(1), "y": [None]}, {"x": torch.tensor(2), "y": [None]})
    assert added == {"x": torch.tensor(3), "y": [None]}
    with pytest.raises(ValueError, match="y"):
        tree.map(torch.add, {"x": torch.tensor(1)}, {"y": torch.tensor(2)})


def test_map_with_path_passes_the_path_of_each_leaf() -> None:
    named = tree.map_with_path(lambda path, x, y: (path, x + y), {"a": [1, 2]}, {"a": [10, 20]})
    assert named == {"a": [("a/0", 11), ("a/1", 22)]}


@pytest.mark.parametrize("path", ["a/z", "a/a/x", "b/0", "b/2/0"])
def test_get_returns_the_leaf_at_a_path(path: str) -> None:
    nested = example()
    assert tree.get(nested, path) is dict(zip(tree.paths(nested), tree.leaves(nested), strict=True))[path]


def test_get_returns_subtrees_and_its_error_lists_the_keys() -> None:
    nested = example()
    assert tree.get(nested, "") is nested
    assert tree.get(nested, "b/2") is nested["b"][2]
    with pytest.raises(KeyError, match=r"tree.get: no 'q' in 'a/q'; the children here are z, a"):
        tree.get(nested, "a/q")
    with pytest.raises(KeyError, match="the children here are none"):
        tree.get(nested, "b/0/0")


def test_combine_undoes_partition() -> None:
    nested = example()
    selected, rest = tree.partition(lambda path, x: path.startswith("a"), nested)
    assert tree.paths(selected) == ["a/z", "a/a/x", "a/a/y"]
    assert tree.paths(rest) == ["b/0", "b/2/0"]
    restored = tree.combine(selected, rest)
    assert [id(x) for x in tree.leaves(restored)] == [id(x) for x in tree.leaves(nested)]
    assert tree.select(selected, nested)["b"] == [None, None, (None, {})]
    with pytest.raises(ValueError, match="both trees have a leaf at the same path"):
        tree.combine(nested, selected)


def test_unstack_undoes_stack() -> None:
    trees = [{"x": torch.full((2,), float(i)), "y": [torch.tensor(i)]} for i in range(3)]
    stacked = tree.stack(trees)
    assert stacked["x"].shape == (3, 2)
    assert stacked["y"][0].tolist() == [0, 1, 2]
    restored = tree.unstack(stacked)
    assert [t["y"][0].item() for t in restored] == [0, 1, 2]
    assert restored[1]["x"].data_ptr() == stacked["x"][1].data_ptr()
    with pytest.raises(ValueError, match=r"must share the length of their first axis, got \[2, 3\]"):
        tree.unstack({"x": torch.zeros(2), "y": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"got \[\]"):
        tree.unstack({})


def test_cast_changes_floats_and_not_integers() -> None:
    cast = tree.cast({"w": torch.ones(2), "key": torch.tensor([1, 2], dtype=torch.uint32)}, torch.bfloat16)
    assert (cast["w"].dtype, cast["key"].dtype) == (torch.bfloat16, torch.uint32)


def test_clone_copies_memory_and_detach_shares_it() -> None:
    nested = {"w": torch.ones(2, requires_grad=True)}
    with_graph = tree.map(lambda x: x * 2, nested)
    assert tree.clone(with_graph)["w"].data_ptr() != with_graph["w"].data_ptr()
    detached = tree.detach(with_graph)["w"]
    assert detached.data_ptr() == with_graph["w"].data_ptr()
    assert not detached.requires_grad


def test_zeros_like_norm_and_where() -> None:
    nested = {"a": torch.tensor([3.0]), "b": [torch.tensor([[4.0]], dtype=torch.bfloat16)]}
    assert [x.dtype for x in tree.leaves(tree.zeros_like(nested))] == [torch.float32, torch.bfloat16]
    assert [x.dtype for x in tree.leaves(tree.zeros_like(nested, torch.float32))] == [torch.float32] * 2
    assert tree.norm(nested).item() == 5.0
    assert tree.norm(nested).dtype == torch.float32
    selected = torch.func.vmap(tree.where, (0, None, None))(
        torch.tensor([True, False]), nested, tree.zeros_like(nested)
    )
    assert selected["a"].tolist() == [[3.0], [0.0]]


def test_count_and_nbytes_agree_for_tensors_and_their_specs() -> None:
    specs = {
        "w": ParamSpec(shape=(2, 3)),
        "b": ParamSpec(shape=(2,), dtype=torch.bfloat16),
        "s": ParamSpec(shape=()),
    }
    tensors = tree.map(lambda spec: torch.zeros(spec.shape, dtype=spec.dtype), specs)
    assert tree.count(specs) == tree.count(tensors) == 9
    assert tree.nbytes(specs) == tree.nbytes(tensors) == 32


def test_namedtuple_ordered_dict_and_defaultdict_have_the_leaf_order_of_jax() -> None:
    Point = namedtuple("Point", "x y")
    assert tree.paths({"p": Point(1, [2])}) == ["p/x", "p/y/0"]
    for kind in (OrderedDict, partial(defaultdict, int)):
        nested = kind(b=torch.tensor(1), a=torch.tensor(2))
        numbers_by_path = {
            path: x.item() for path, x in zip(tree.paths(nested), tree.leaves(nested), strict=True)
        }
        assert numbers_by_path == {"a": 2, "b": 1}
        numbers = [x.item() for x in tree.leaves(nested)]
        assert numbers == [x.item() for x in jax.tree.leaves(dict_of_arrays(nested))]
        assert [x.item() for x in compile_eager(tree.leaves)(nested)] == numbers


def dict_of_arrays(nested: dict) -> Any:
    """The same dict, of numpy arrays."""
    arrays = {k: x.numpy() for k, x in nested.items()}
    return defaultdict(int, arrays) if isinstance(nested, defaultdict) else type(nested)(arrays)


def test_inner_products_are_those_of_the_flattened_trees() -> None:
    a = {"x": torch.arange(6.0).view(2, 3), "y": [torch.tensor(2.0)]}
    b = {"x": torch.ones(2, 3), "y": [torch.tensor(-4.0)]}
    assert tree.inner(a, b) == 15 - 8
    assert tree.leaf_inner(a, b).tolist() == [15, -8]
    assert tree.inner(a, a).sqrt() == tree.norm(a)
    assert tree.inner(tree.cast(a, torch.bfloat16), b).dtype == torch.float32
    assert (
        tree.inner(a, b, torch.float64).dtype
        == tree.inner(tree.cast(a, torch.float64), b).dtype
        == torch.float64
    )
