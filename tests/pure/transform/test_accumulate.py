"""`accumulate` adds sums and counts over the parts of a batch, so that every token has the same weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.loss.cross_entropy import cross_entropy
from pure.nn.transformer import transformer
from pure.parallel.group import Group, run_within
from pure.transform.accumulate import Accumulated, _sum_micro_batches, accumulate, row_count, split
from pure.transform.ghost import per_sample_norms
from pure.transform.per_sample import per_sample_grad
from pure.types import Tree

PARAMS = {"w": torch.tensor([0.5, -1.0])}
BATCH = {"x": random.normal(random.key(0), (8, 2)), "mask": torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 1])}


def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
    """Sum of squares over unmasked rows, their number, and a metric."""
    error = ((batch["x"] @ params["w"]).square() * batch["mask"]).sum()
    return error, batch["mask"].sum(), {"x": (batch["x"].sum(), torch.tensor(float(len(batch["x"]))))}


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_accumulated_parts_equal_the_whole_batch(parts: int) -> None:
    result = accumulate(loss, parts)(PARAMS, BATCH, random.key(0))
    expected = 2 * (BATCH["x"] * (BATCH["mask"] * (BATCH["x"] @ PARAMS["w"]))[:, None]).sum(0)
    torch.testing.assert_close(result.grads["w"], expected, rtol=1e-6, atol=1e-6)
    assert result.count == 5
    torch.testing.assert_close(result.metrics["x"][0], BATCH["x"].sum(), rtol=1e-6, atol=1e-6)
    assert result.metrics["x"][1] == 8


def test_accumulation_differs_from_the_mean_of_the_means_of_parts() -> None:
    """The halves have 1 and 4 unmasked examples, so the mean of their means is not the mean of all 5."""
    halves = [accumulate(loss)(PARAMS, part, random.key(0)) for part in split(BATCH, 2)]
    mean_of_means = sum(half.sum / half.count for half in halves) / 2
    whole = accumulate(loss, 2)(PARAMS, BATCH, random.key(0))
    assert abs(mean_of_means - whole.sum / whole.count) > 1e-2


def test_gradients_are_divided_by_the_loss_scale() -> None:
    unscaled = accumulate(loss, 2)(PARAMS, BATCH, random.key(0))
    scaled = accumulate(loss, 2)(PARAMS, BATCH, random.key(0), torch.tensor(1024.0))
    torch.testing.assert_close(scaled.grads, unscaled.grads, rtol=1e-6, atol=1e-6)
    assert scaled.sum == unscaled.sum


def test_a_metric_is_a_sum_with_its_count_or_a_sum_alone() -> None:
    def loss_with_metrics(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        total, count, _ = loss(params, batch, key)
        return total, count, {"mean": (total.detach(), count), "sum": count}

    for parts in (1, 8):
        metrics = accumulate(loss_with_metrics, parts)(PARAMS, BATCH, random.key(0)).metrics
        assert metrics["sum"] == metrics["mean"][1] == BATCH["mask"].sum()


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_process_adds_its_rows_of_every_micro_batch(rank: int) -> None:
    """Of twelve rows in two parts, the first of three processes has 0, 1, 6, 7, the second 2, 3, 8, 9, ...

    Row i is 2^i, so that a sum tells which rows are in it.
    """

    def add_rows(batch: Tree) -> Accumulated:
        return Accumulated(batch["x"].sum(), torch.tensor(len(batch["x"])), {}, ())

    batch = {"x": 2 ** torch.arange(12)}
    sums = run_within(_sum_micro_batches, Group(rank, 3, None), add_rows, 2, batch)
    own = (2 * rank, 2 * rank + 1, 2 * rank + 6, 2 * rank + 7)
    assert sums[:2] == (sum(2**row for row in own), 4)


def test_row_count_refuses_leaves_of_different_lengths_and_empty_batches() -> None:
    assert row_count("f", BATCH) == 8
    for batch in ({}, {"x": torch.zeros(0, 3)}, {"x": torch.zeros(())}):
        with pytest.raises(ValueError, match="f: the batch has no rows"):
            row_count("f", batch)
    with pytest.raises(ValueError, match=r"same number of rows, got x \[2, 9\], y \[3\]"):
        row_count("f", {"x": torch.zeros(2, 9), "y": torch.zeros(3)})


def test_a_number_of_parts_that_does_not_divide_the_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        accumulate(loss, 0)
    with pytest.raises(ValueError, match="8 rows do not divide into 3 parts"):
        accumulate(loss, 3)(PARAMS, BATCH, random.key(0))


@pytest.mark.parametrize("parts", [2, 8])
def test_dropout_masks_do_not_depend_on_the_number_of_parts(parts: int) -> None:
    """They depend on the row of an example in the whole batch. Gradients agree to 1e-6 of the largest one."""
    sizes = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "hidden_dropout": 0.2,
        "attention_dropout": 0.1,
    }
    model = transformer(ModelConfig(**sizes, **heads))
    params, tokens = model.init(random.key(0)), random.randint(random.key(1), (8, 12), 0, 31).long()

    def loss_with_dropout(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        keys = torch.func.vmap(random.fold_in, (None, 0))(key, batch["batch_position"])
        logits = model.forward(params, batch["tokens"], key=keys)
        return (*cross_entropy(logits[:, :-1], batch["tokens"][:, 1:]), {})

    batch = {"tokens": tokens, "batch_position": torch.arange(8)}
    whole, in_parts = (accumulate(loss_with_dropout, n)(params, batch, random.key(5)) for n in (1, parts))
    torch.testing.assert_close(in_parts.sum, whole.sum, rtol=1e-6, atol=0)
    assert accumulate(loss_with_dropout)(params, batch, random.key(6)).sum != whole.sum
    largest = max(g.abs().max() for g in tree.leaves(whole.grads))
    leaf_pairs = zip(tree.leaves(in_parts.grads), tree.leaves(whole.grads), strict=True)
    for path, (a, b) in zip(tree.paths(whole.grads), leaf_pairs, strict=True):
        assert (a - b).abs().max() <= 1e-6 * largest, path


@pytest.mark.parametrize("returns", [
    lambda losses: losses.sum(),
    lambda losses: losses,
    lambda losses: (losses.sum(), torch.ones(())),
    lambda losses: (losses, torch.ones(()), {}),
])  # fmt: skip
def test_a_loss_that_returns_something_else_is_refused(returns: Callable) -> None:
    def loss(params: Tensor, batch: Tree, key: Tensor | None) -> Any:
        return returns(params * batch["x"])

    batch = {"x": torch.ones(3, 2)}
    for call in (accumulate(loss), per_sample_grad(loss), per_sample_norms(loss)):
        with pytest.raises(TypeError, match=r"loss: expected \(sum \[\], count \[\], metrics\), got"):
            call(torch.ones(2), batch, None)
