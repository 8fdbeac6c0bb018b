"""A stage takes a Gradient, keeps its memory, and reports its metrics."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from pure import optim, random, tree
from pure.nn.transformer import transformer
from pure.transform.accumulate import Accumulated, Loss, accumulate
from pure.transform.gradient import Gradient, accumulation
from pure.types import Tree
from stages.dpo import dpo
from stages.grpo import grpo
from stages.kto import kto
from stages.population import population
from stages.ppo import ppo
from stages.pretrain import pretrain
from stages.reward import reward
from stages.sft import sft
from stages.stage import stage
from tests.laws.test_stages import (
    ROLLOUT_OPTIONS,
    answers,
    pair_batch,
    regression,
    regression_batch,
    rollout_batch,
    same_bits,
    small,
    text_batch,
)


def counted() -> Gradient:
    """The batch's gradient; it remembers the last one, counts its calls, and reports the number."""

    def compute(
        loss: Loss, params: Tree, batch: Tree, key: Tensor | None, memory: Tree, scale: Tensor | None
    ) -> tuple[Accumulated, Tree]:
        result = accumulate(loss)(params, batch, key, scale)
        calls = memory["calls"] + 1
        metrics = {**result.metrics, "calls": calls.float()}
        return result._replace(metrics=metrics), {"calls": calls, "last": result.grads}

    init = lambda params: {"calls": torch.zeros((), dtype=torch.int32), "last": tree.zeros_like(params)}  # noqa: E731
    return Gradient(init, compute, ("calls",))


def own(**options: object) -> object:
    init = lambda key: {"w": random.normal(key, (3,))}  # noqa: E731
    return stage(regression, optim.adam(0.1), init=init, metrics=("error",), **options)


def test_a_gradient_is_that_of_the_stage_and_keeps_its_memory() -> None:
    plain, made = own(), own(gradient=counted())
    state, expected = made.init(random.key(0)), plain.init(random.key(0))
    assert state.metrics["calls"].isnan()
    for number in range(3):
        state = made.step(state, regression_batch(number))
        expected = plain.step(expected, regression_batch(number))
    assert same_bits(state.params, expected.params)
    assert state.extra["gradient"]["calls"] == state.metrics["calls"] == 3
    assert "gradient" not in expected.extra


def test_a_skipped_step_keeps_the_memory() -> None:
    made = own(gradient=counted(), ema=0.9)
    before = made.step(made.init(random.key(0)), regression_batch(0))
    bad = {**regression_batch(1), "y": torch.full((8,), torch.inf)}
    after = made.step(before, bad)
    assert same_bits(after.extra, before.extra)
    assert after.metrics["calls"] == 2


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (pretrain, text_batch),
        (sft, text_batch),
        (reward, pair_batch),
        (partial(dpo, variant="orpo"), pair_batch),
        (partial(kto, reference={}), answers),
        (partial(grpo, iterations=2, **ROLLOUT_OPTIONS | {"reference": None}), rollout_batch),
        (partial(ppo, epochs=2, **ROLLOUT_OPTIONS | {"reference": None}), rollout_batch),
    ],
)
def test_every_stage_passes_it_on(make: partial, batch: object) -> None:
    model = transformer(small(num_hidden_layers=1))
    if isinstance(make, partial) and "reference" in make.keywords and make.func is kto:
        make = partial(kto, reference=model.init(random.key(1)))
    made = make(model, optim.sgd(0.1), gradient=counted())
    after = made.step(made.init(random.key(0)), batch(0))
    updates = 2 if make in (grpo, ppo) or getattr(make, "func", None) in (grpo, ppo) else 1
    assert after.extra["gradient"]["calls"] == after.metrics["calls"] == updates
    assert tree.paths(after.extra["gradient"]["last"]) == tree.paths(after.params)


def test_a_population_has_a_memory_for_each_member() -> None:
    many = population(own(gradient=counted()), 3)
    after = many.step(many.init(random.key(0)), regression_batch(0))
    assert after.extra["gradient"]["calls"].tolist() == [1, 1, 1]


def test_accumulation_is_the_gradient_of_a_stage_that_is_given_none() -> None:
    for parts in (1, 4):
        given, named = own(gradient=accumulation(parts)), own(accumulation=parts)
        state = named.init(random.key(0))
        assert same_bits(given.step(state, regression_batch(0)), named.step(state, regression_batch(0)))


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="gradient= takes the place of accumulation=2; give the number"):
        own(gradient=counted(), accumulation=2)
    with pytest.raises(ValueError, match="parts must be at least 1, got 0"):
        accumulation(0)
    silent = counted()._replace(metrics=("calls", "more"))
    made = own(gradient=silent)
    with pytest.raises(ValueError, match=r"gradient.compute did not report the metrics \['more'\]"):
        made.step(made.init(random.key(0)), regression_batch(0))
    undeclared = own(gradient=counted()._replace(metrics=()))
    with pytest.raises(ValueError, match=r"the loss reported the metrics \['calls', 'error'\]"):
        undeclared.step(undeclared.init(random.key(0)), regression_batch(0))
