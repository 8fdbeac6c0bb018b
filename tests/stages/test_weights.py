"""Weights of rows: 0 leaves a row out, 2 counts it twice, in every loss and in the steps of online stages."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pure import optim, random, tree
from pure.nn.transformer import transformer
from pure.transform.grad import grad
from pure.types import Tree
from stages.grpo import grpo
from stages.kto import kto
from stages.ppo import ppo
from stages.pretrain import pretrain
from stages.rollout import Rollouts
from stages.sft import sft
from stages.stage import Stage, examples_of, loss_of
from stages.weights import row_weights, sum_rows
from tests.laws.test_stages import (
    BY_NAME,
    ROLLOUT_OPTIONS,
    answers,
    assert_close,
    rollout_batch,
    same_bits,
    small,
    text_batch,
)

KEY = random.key(5)
BUILT_IN = [name for name in BY_NAME if not name.startswith("own")]


def loss_batch(made: Stage, name: str) -> Tree:
    """A batch of the stage's loss, with each row's place: dropout stays that of the row."""
    batch = BY_NAME[name].batch(0)
    if made.parts is not None:
        rollouts = Rollouts(*(batch[field] for field in Rollouts._fields))
        batch = examples_of(made, made.init(random.key(0)), rollouts, batch["rewards"])
    rows = len(tree.leaves(batch)[0])
    if name == "kto":
        batch["divergence"] = torch.full((rows,), 0.1)
    return {"batch_position": torch.arange(rows), **batch}


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_weight_is_the_number_of_times_that_a_row_counts(name: str) -> None:
    made = BY_NAME[name].make()
    loss, batch = loss_of(made), loss_batch(made, name)
    params = made.init(random.key(0)).params
    counts = torch.arange(len(batch["batch_position"])) % 3
    chosen = torch.arange(len(counts)).repeat_interleave(counts)
    repeated = tree.map(lambda x: x[chosen], batch)
    weighted = {**batch, "weights": counts.float()}
    assert_close(loss(params, weighted, KEY), loss(params, repeated, KEY), rtol=1e-5)
    by_batch = [grad(lambda p, b=b: loss(p, b, KEY)[0])(params) for b in (weighted, repeated)]
    assert_close(*by_batch, rtol=1e-4)


@pytest.mark.parametrize("name", ["pretrain", "pretrain-lion-chunk-remat", "dpo", "grpo", "ppo"])
def test_derivatives_of_the_weights_are_the_losses_and_counts_of_the_rows(name: str) -> None:
    made = BY_NAME[name].make()
    loss, batch = loss_of(made), loss_batch(made, name)
    params, weights = made.init(random.key(0)).params, torch.ones(len(batch["batch_position"]))
    for part in (0, 1):
        found = grad(lambda w, part=part: loss(params, {**batch, "weights": w}, KEY)[part])(weights)
        rows = [tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(len(weights))]
        expected = torch.stack([loss(params, row, KEY)[part] for row in rows])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_step_takes_the_mean_by_weights() -> None:
    made = sft(transformer(small()), optim.sgd(0.5))
    state, batch = made.init(random.key(0)), text_batch(0)
    plain = made.step(state, batch)
    for weight in (0.01, 1.0, 7.0):  # the mean does not depend on the scale of the weights
        equal = made.step(state, {**batch, "weights": torch.full((8,), weight)})
        assert_close(equal.params, plain.params, rtol=1e-5)
        torch.testing.assert_close(equal.metrics["loss"], plain.metrics["loss"])
    first = made.step(state, {**batch, "weights": torch.tensor([1.0, 1.0, 1.0] + [0.0] * 5)})
    assert_close(first.params, made.step(state, tree.map(lambda x: x[:3], batch)).params, rtol=1e-5)
    nothing = made.step(state, {**batch, "weights": torch.zeros(8)})
    assert same_bits(nothing.params, state.params)


def test_accumulation_of_weighted_micro_batches_equals_the_whole_batch() -> None:
    batch = {**text_batch(0), "weights": torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0, 0.25, 1.0, 1.0])}
    one, four = (pretrain(transformer(small()), optim.sgd(0.5), accumulation=parts) for parts in (1, 4))
    assert_close(one.step(one.init(KEY), batch).params, four.step(four.init(KEY), batch).params, rtol=1e-5)


@pytest.mark.parametrize("make", [grpo, partial(ppo, epochs=1)])
def test_an_online_step_weights_its_completions(make: partial) -> None:
    made = make(transformer(small()), optim.sgd(0.5), **ROLLOUT_OPTIONS | {"reference": None})
    batch = rollout_batch(0)
    state, weights = made.init(random.key(0)), torch.arange(16) % 3 / 2
    whole = made.step(state, {**batch, "weights": weights})
    assert_close(
        made.step(state, {**batch, "weights": torch.ones(16)}).params, made.step(state, batch).params, 1e-5
    )
    rollouts = Rollouts(*(batch[field] for field in Rollouts._fields))
    rows = examples_of(made, state, rollouts, batch["rewards"])
    rows = {"batch_position": torch.arange(16), **rows, "weights": weights}

    def mean(params: Tree) -> torch.Tensor:
        total, count, _ = loss_of(made)(params, rows, None)
        return total / count

    expected = tree.map(lambda p, g: p - 0.5 * g, state.params, grad(mean)(state.params))
    assert_close(whole.params, expected, rtol=1e-5)


def test_kto_weights_its_answers_in_a_step() -> None:
    model = transformer(small())
    made = kto(model, optim.sgd(0.5), reference=model.init(random.key(1)))
    state, batch = made.init(random.key(0)), answers(0)
    equal = made.step(state, {**batch, "weights": torch.full((8,), 0.5)})
    assert_close(equal.params, made.step(state, batch).params, rtol=1e-5)


def test_other_weights_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"expected weights \[B\] with B = 2, one for each row, got \[1, 2\]"
    ):
        row_weights({"x": torch.zeros(2), "weights": torch.ones(1, 2)})
    with pytest.raises(TypeError, match=r"weights must be float, got torch.int64; convert them with .float"):
        row_weights({"x": torch.zeros(2), "weights": torch.tensor([0, 1])})


def test_sums_over_rows_keep_their_structure() -> None:
    both = lambda x: {"a": x.sum(), "b": (x.square().sum(), torch.ones(len(x)).sum())}  # noqa: E731
    x = torch.tensor([1.0, 2.0])
    assert sum_rows(both, None, x) == {"a": 3.0, "b": (5.0, 2.0)}
    assert sum_rows(both, torch.tensor([0.0, 2.0]), x) == {"a": 4.0, "b": (8.0, 2.0)}
