"""Meta-gradients in float64: reverse mode equals forward mode and finite differences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import optim, random, tree
from pure.nn.transformer import transformer
from pure.transform.grad import grad
from pure.transform.jit import jit
from pure.types import Tree
from stages.dpo import dpo
from stages.grpo import grpo
from stages.stage import Stage, loss_of, stage
from stages.unroll import unroll
from tests.laws.test_stages import ROWS, pair_batch, regression, regression_batch, small
from tests.stages.test_online import make_stage as online_stage

MODEL = transformer(small(num_hidden_layers=1))
KEY = random.key(0)
INITIAL, REFERENCE = (tree.cast(MODEL.init(random.key(seed)), torch.float64) for seed in (0, 77))
BATCHES = [tree.map(lambda x: x[:3], pair_batch(i)) for i in range(2)]


def make(rate: Any, beta: Any) -> Stage:
    """Adam with an eps that keeps its first step from being a sign, where differences are no derivative."""
    return dpo(MODEL, optim.adamw(rate, eps=0.01, weight_decay=0.1), reference=REFERENCE, beta=beta)


VALIDATION = {"batch_position": torch.arange(ROWS), **pair_batch(9)}
START = make(0.02, 0.3).init(KEY, INITIAL)
LOSS = loss_of(make(0.02, 0.3))
NUMBERS = {"rate": torch.tensor(0.02, dtype=torch.float64), "beta": torch.tensor(0.3, dtype=torch.float64)}
WEIGHTS = torch.tensor([[1.0, 0.5, 2.0], [0.0, 1.0, 1.5]], dtype=torch.float64)


def objective(inputs: Tree, *, remat: bool = True) -> Tensor:
    """Validation loss after two steps, as a function of numbers, weights of rows and initial params."""
    start = START._replace(params=inputs["params"])
    batches = [{**batch, "weights": w} for batch, w in zip(BATCHES, inputs["weights"], strict=True)]
    end = unroll(make, 2, remat=remat)(start, batches, inputs["numbers"])
    return LOSS(end.params, VALIDATION, None)[0]


POINT = {"numbers": NUMBERS, "params": INITIAL, "weights": WEIGHTS}
GRADIENT = grad(objective)(POINT)


def direction_of(name: str) -> Tree:
    """One number's direction, or a random one of the params or weights."""
    zeros = tree.zeros_like(POINT)
    if name in ("params", "weights"):
        return {**zeros, name: tree.map(lambda x: random.normal(KEY, x.shape).double(), POINT[name])}
    return {**zeros, "numbers": {**zeros["numbers"], name: torch.ones((), dtype=torch.float64)}}


def test_the_gradient_is_the_same_with_and_without_recomputation_and_by_autograd_and_func() -> None:
    values, spec = tree.flatten(POINT)
    leaves = [x.clone().requires_grad_() for x in values]
    others = (
        tree.leaves(grad(partial(objective, remat=False))(POINT)),
        torch.autograd.grad(objective(tree.unflatten(spec, leaves)), leaves),
        torch.func.grad(lambda leaves: objective(tree.unflatten(spec, leaves)))(values),
    )
    for other in others:
        for x, y in zip(tree.leaves(GRADIENT), other, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["rate", "beta", "weights", "params"])
def test_reverse_mode_equals_forward_mode_and_finite_differences(name: str) -> None:
    values, spec = tree.flatten(POINT)
    tangents = tree.leaves(direction_of(name))
    expected = sum((g * t).sum() for g, t in zip(tree.leaves(GRADIENT), tangents, strict=True))
    along = lambda leaves: objective(tree.unflatten(spec, leaves))  # noqa: E731
    forward = torch.func.jvp(along, (values,), (tangents,))[1]
    torch.testing.assert_close(forward, expected, rtol=1e-9, atol=0)

    def at(distance: float) -> Tensor:
        with torch.no_grad():
            moved = [x + distance * t for x, t in zip(values, tangents, strict=True)]
            return objective(tree.unflatten(spec, moved))

    h = 2e-6
    slope = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=0)


def quadratic(params: Tensor, batch: Tree, key: Any) -> tuple[Tensor, Tensor, dict]:
    return params.square().sum(), torch.tensor(1.0), {}


def test_a_detached_state_truncates_the_meta_gradient() -> None:
    """p after n steps is p (1 - 2 rate)^n; from a detached state only the last step counts."""
    made = lambda rate: stage(quadratic, optim.sgd(rate))  # noqa: E731
    start, batch = made(0.25).init(KEY, torch.tensor(1.0)), {"x": torch.ones(1)}
    one, two = unroll(made, 1), unroll(made, 2)

    def truncated(rate: Tensor) -> Tensor:
        middle = tree.detach(two(start, [batch] * 2, {"rate": rate}))
        return one(middle, [batch], {"rate": rate}).params

    rate = torch.tensor(0.25)
    torch.testing.assert_close(grad(truncated)(rate), torch.tensor(-2 * 0.25))
    torch.testing.assert_close(torch.func.grad(truncated)(rate), torch.tensor(-2 * 0.25))
    torch.testing.assert_close(torch.func.jvp(truncated, (rate,), (torch.ones(()),))[1], torch.tensor(-0.5))
    whole = grad(lambda rate: unroll(made, 3)(start, [batch] * 3, {"rate": rate}).params)(rate)
    torch.testing.assert_close(whole, torch.tensor(-6 * 0.25))


def test_an_unrolled_stage_equals_its_steps_and_counts_them() -> None:
    made = make(0.02, 0.3)
    by_hand = made.step(made.step(START, BATCHES[0]), BATCHES[1])
    unrolled = unroll(made, 2)(START, BATCHES[:2])
    assert int(unrolled.step) == 2
    for x, y in zip(tree.leaves(unrolled), tree.leaves(by_hand), strict=True):
        assert torch.equal(x, y)


def hidden(rate: Tensor) -> Tensor:
    made = stage(regression, optim.sgd(rate))
    start = made.init(KEY, {"w": torch.ones(3)})
    return unroll(made, 1)(start, [regression_batch(0)]).params["w"].sum()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: unroll(make, 0), "steps must be at least 1, got 0"),
        (lambda: unroll(make, 3)(START, BATCHES, NUMBERS), "expected 3 batches, one for each step, got 2"),
        (lambda: unroll(make(0.1, 0.1), 2)(START, BATCHES, NUMBERS), "the values rate, beta are arguments"),
        (lambda: unroll(online_stage(grpo), 1), "a step that samples has no derivative"),
        (
            lambda: unroll(stage(quadratic, optim.sgd(0.1))._replace(step=jit(print, donate=True)), 1),
            "donate",
        ),
        (lambda: grad(hidden)(torch.tensor(0.1)), "is differentiated but bound in the stage"),
        (lambda: torch.func.grad(hidden)(torch.tensor(0.1)), "is differentiated but bound in the stage"),
    ],
)
def test_what_would_be_wrong_in_silence_is_refused(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
