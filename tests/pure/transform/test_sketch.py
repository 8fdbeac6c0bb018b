"""`count_sketch` is linear, preserves inner products within the theory's error, and never changes."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.random.threefry import key_words, threefry2x32
from pure.transform.memory import peak
from pure.transform.per_sample import per_sample_grad
from pure.transform.sketch import count_sketch, projected

KEY = random.key(7)


def as_int32(x: int) -> Tensor:
    return torch.tensor(x - (1 << 32) if x >= 1 << 31 else x, dtype=torch.int32)


def place(path: str, size: int, i: int, dim: int) -> tuple[int, int]:
    """Compute bucket and sign of element i of a leaf, from the docstring."""
    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    high, low = (as_int32(int.from_bytes(digest[j : j + 4], "little")) for j in (0, 4))
    leaf_key = threefry2x32(*key_words(KEY), high, low)
    word, shift = (
        threefry2x32(*leaf_key, 0, as_int32(counter))[0].item()
        for counter in (i // 32, -(-size // 32) + i // dim)
    )
    return (i + (shift & 0x7FFFFFFF)) % dim, -1 if (word >> i % 32) & 1 else 1


@pytest.mark.parametrize("dim", [1, 6, 100, 200_000])
def test_each_element_has_the_bucket_and_sign_of_its_hash(dim: int) -> None:
    """Also beyond the part of a leaf that is added at once."""
    size, chosen = 300_000, [0, 31, 32, 99, 131_072, 131_071, 299_999]
    rows = torch.zeros(len(chosen), size)
    rows[range(len(chosen)), chosen] = 1.0
    sketches = count_sketch({"a": rows.unflatten(1, (3, -1)), "b": rows[:, :0]}, KEY, dim)
    expected = torch.zeros(len(chosen), dim)
    for row, i in enumerate(chosen):
        bucket, sign = place("a", size, i, dim)
        expected[row, bucket] = sign
    assert torch.equal(sketches, expected)


def test_inner_products_are_preserved_within_the_theorys_error() -> None:
    """Over 8,000 keys: mean ⟨a, b⟩ within 4 standard errors, and at most the variance of the docstring."""
    rows = {"x": random.normal(random.key(0), (2, 5, 9)).double(), "y": [torch.ones(2, 30).double()]}
    flat = torch.cat([x.flatten(1) for x in tree.leaves(rows)], 1)
    a, b = flat
    for dim in (1, 16):
        found = torch.func.vmap(lambda key, dim=dim: count_sketch(rows, key, dim))(random.split(KEY, 8_000))
        products = (found[:, 0] * found[:, 1]).sum(1)
        bound = (a.square().sum() * b.square().sum() + (a @ b).square()) / dim
        assert (products.mean() - a @ b).abs() < 4 * (bound / 8_000).sqrt()
        assert 0.5 * bound < products.var() < 1.05 * bound


def test_sketches_of_parts_of_a_tree_add_up_to_that_of_the_whole() -> None:
    """A leaf's hash depends on its path alone, so projections of other subtrees remain comparable."""
    rows = {name: random.normal(random.key(i), (3, 70)) for i, name in enumerate("abc")}
    whole = count_sketch(rows, KEY, 16)
    parts = tree.partition(lambda path, x: path == "b", rows)
    assert torch.allclose(sum(count_sketch(part, KEY, 16) for part in parts), whole, atol=1e-5)
    assert not torch.equal(count_sketch({"a": rows["a"]}, KEY, 16), count_sketch({"b": rows["a"]}, KEY, 16))
    assert torch.equal(count_sketch(tree.map(lambda x: 4 * x, rows), KEY, 16), 4 * whole)


def test_projections_on_disk_remain_valid() -> None:
    """The numbers of a published version: a change here makes every cached projection worthless."""
    rows = {"a": torch.arange(1.0, 7.0).reshape(2, 3), "b": [torch.ones(2, 70)]}
    expected = [[-6.0, 1.0, 4.0, -2.0, -3.0], [-3.0, 4.0, 4.0, -2.0, 0.0]]
    assert count_sketch(rows, random.key(0), 5).tolist() == expected


def regression(params: Any, batch: dict[str, Tensor], key: Tensor) -> tuple[Tensor, Tensor, dict]:
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return error.square().sum(), torch.tensor(1.0), {}


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_projected_equals_the_sketch_of_the_gradients(chunk: int | None) -> None:
    params = {"w": random.normal(random.key(0), (40,)), "b": torch.tensor(0.5)}
    batch = {"x": random.normal(random.key(1), (5, 40)), "y": torch.arange(5.0)}
    where = lambda path, x: path == "w"  # noqa: E731
    for part in (None, where):
        compute = projected(regression, KEY, 8, chunk=chunk, where=part)
        expected = count_sketch(per_sample_grad(regression, where=part)(params, batch, KEY), KEY, 8)
        for _ in range(2):  # the second call finds the hashes of the first
            torch.testing.assert_close(compute(params, batch, KEY), expected)
    stacked = tree.stack([params, tree.map(lambda x: 2 * x, params)])
    compute = projected(regression, KEY, 8, chunk=chunk)
    both = torch.func.vmap(compute, (0, None, None))(stacked, batch, KEY)
    torch.testing.assert_close(both[0], compute(params, batch, KEY))
    assert (
        compute(tree.cast(params, torch.float64), tree.cast(batch, torch.float64), KEY).dtype == torch.float64
    )


def test_bad_projections_are_refused() -> None:
    with pytest.raises(ValueError, match="projected: dim must be at least 1, got 0"):
        projected(regression, KEY, 0)
    with pytest.raises(ValueError, match="count_sketch: dim must be at least 1, got -1"):
        count_sketch({"a": torch.ones(2, 3)}, KEY, -1)
    with pytest.raises(ValueError, match="count_sketch: the tree has no leaf"):
        count_sketch({}, KEY, 4)


def test_projections_take_the_memory_of_one_gradient_whatever_the_rows() -> None:
    params = {"w": torch.ones(200, 500), "b": torch.tensor(0.5)}
    x = random.normal(random.key(1), (6, 200, 500))
    batch = {"x": x, "y": torch.arange(6.0)}

    def elementwise(params: Any, batch: dict[str, Tensor], key: Tensor) -> tuple[Tensor, Tensor, dict]:
        return (batch["x"] * params["w"]).sum() - batch["y"].sum() * params["b"], torch.tensor(1.0), {}

    compute = projected(elementwise, KEY, 64, chunk=1)
    few, many = (peak(compute, params, {k: v[:n] for k, v in batch.items()}, KEY) for n in (2, 6))
    assert many - few < 5_000  # bytes: four more sketches
    assert many < 12 * tree.nbytes(params) < peak(per_sample_grad(elementwise), params, batch, KEY)
