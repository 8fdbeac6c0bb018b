"""Accumulation adds sums and counts, and weighs every token alike."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.loss.cross_entropy import cross_entropy
from pure.nn.transformer import transformer
from pure.transform.accumulate import accumulate, row_count, split
from pure.types import Tree

PARAMS = {"w": torch.tensor([0.5, -1.0])}
BATCH = {"x": random.normal(random.key(0), (8, 2)), "mask": torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 1])}


def loss(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
    error = ((batch["x"] @ params["w"]).square() * batch["mask"]).sum()
    return error, batch["mask"].sum(), {"x": (batch["x"].sum(), torch.tensor(float(len(batch["x"]))))}


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_parts_add_up_to_the_whole(parts: int) -> None:
    found = accumulate(loss, parts)(PARAMS, BATCH, random.key(0))
    expected = 2 * (BATCH["x"] * (BATCH["mask"] * (BATCH["x"] @ PARAMS["w"]))[:, None]).sum(0)
    torch.testing.assert_close(found.grads["w"], expected, rtol=1e-6, atol=1e-6)
    assert found.count == 5
    torch.testing.assert_close(found.metrics["x"][0], BATCH["x"].sum(), rtol=1e-6, atol=1e-6)
    assert found.metrics["x"][1] == 8


def test_averaging_averages_would_be_wrong() -> None:
    """The halves hold 1 and 4 examples that count: the mean of their means is another number."""
    halves = [accumulate(loss)(PARAMS, piece, random.key(0)) for piece in split(BATCH, 2)]
    wrong = sum(h.sum / h.count for h in halves) / 2
    whole = accumulate(loss, 2)(PARAMS, BATCH, random.key(0))
    assert abs(wrong - whole.sum / whole.count) > 1e-2


def test_a_scale_is_undone() -> None:
    plain = accumulate(loss, 2)(PARAMS, BATCH, random.key(0))
    scaled = accumulate(loss, 2)(PARAMS, BATCH, random.key(0), torch.tensor(1024.0))
    torch.testing.assert_close(scaled.grads, plain.grads, rtol=1e-6, atol=1e-6)
    assert scaled.sum == plain.sum


def test_metrics_are_sums_and_counts_or_sums_alone() -> None:
    def counting(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        total, count, _ = loss(params, batch, key)
        return total, count, {"mean": (total.detach(), count), "sum": count}

    for parts in (1, 8):
        found = accumulate(counting, parts)(PARAMS, BATCH, random.key(0)).metrics
        assert found["sum"] == found["mean"][1] == BATCH["mask"].sum()


def test_rows_are_counted_where_all_leaves_have_as_many() -> None:
    assert row_count("f", BATCH) == 8
    for batch in ({}, {"x": torch.zeros(0, 3)}, {"x": torch.zeros(())}):
        with pytest.raises(ValueError, match="f: the batch has no rows"):
            row_count("f", batch)
    with pytest.raises(ValueError, match=r"same number of rows, got x \[2, 9\], y \[3\]"):
        row_count("f", {"x": torch.zeros(2, 9), "y": torch.zeros(3)})


def test_parts_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        accumulate(loss, 0)
    with pytest.raises(ValueError, match="8 rows do not divide into 3 parts"):
        accumulate(loss, 3)(PARAMS, BATCH, random.key(0))


@pytest.mark.parametrize("parts", [2, 8])
def test_dropout_does_not_see_the_cut(parts: int) -> None:
    """1e-6 of the largest gradient, with the masks of each example drawn from its row."""
    sizes = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "hidden_dropout": 0.2,
        "attention_dropout": 0.1,
    }
    model = transformer(ModelConfig(**sizes, **heads))
    params, tokens = model.init(random.key(0)), random.randint(random.key(1), (8, 12), 0, 31).long()

    def dropped(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        keys = torch.func.vmap(random.fold_in, (None, 0))(key, batch["batch_position"])
        logits = model.forward(params, batch["tokens"], key=keys)
        return (*cross_entropy(logits[:, :-1], batch["tokens"][:, 1:]), {})

    batch = {"tokens": tokens, "batch_position": torch.arange(8)}
    whole, cut = (accumulate(dropped, n)(params, batch, random.key(5)) for n in (1, parts))
    torch.testing.assert_close(cut.sum, whole.sum, rtol=1e-6, atol=0)
    assert accumulate(dropped)(params, batch, random.key(6)).sum != whole.sum
    largest = max(g.abs().max() for g in tree.leaves(whole.grads))
    for path, a, b in zip(
        tree.paths(cut.grads), tree.leaves(cut.grads), tree.leaves(whole.grads), strict=True
    ):
        assert (a - b).abs().max() <= 1e-6 * largest, path
