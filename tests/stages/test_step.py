"""`stages.step`: steps and updates by hand, and what is kept where none is taken. Its laws: `test_stages.py`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import optim, random, tree
from pure.transform.accumulate import accumulate
from pure.transform.gradient import Gradient
from pure.types import GradientTransformation, Tree
from stages.stage import fold_in_name, stage
from stages.step import update

RATE, MOMENTUM, ROWS = 0.1, 0.9, 3
PARAMS = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}


def squared_error(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
    """Loss (a · x + b - y)² of each row; a metric that is a mean, and one that is a sum."""
    error = batch["x"] @ params["a"] + params["b"] - batch["y"]
    rows = torch.tensor(len(error))
    return error.square().sum(), rows, {"error": (error.abs().sum(), rows), "rows": rows}


def mean_by_loop(values: list[float], rows: list[list[float]]) -> tuple[list[float], dict[str, float]]:
    """Gradient of the mean loss with respect to (a_0, a_1, b), and the metrics; rows are (x_0, x_1, y)."""
    gradient, loss, distance = [0.0, 0.0, 0.0], 0.0, 0.0
    for *x, y in rows:
        error = values[0] * x[0] + values[1] * x[1] + values[2] - y
        gradient = [g + 2 * error * factor for g, factor in zip(gradient, [*x, 1.0], strict=True)]
        loss, distance = loss + error**2, distance + abs(error)
    mean = [g / len(rows) for g in gradient]
    metrics = {"loss": loss / len(rows), "grad_norm": math.hypot(*mean), "nonfinite_leaf": -1.0}
    return mean, {**metrics, "error": distance / len(rows), "rows": float(len(rows))}


def test_steps_equal_a_loop_in_float64() -> None:
    """Three rows: 1/3 is not rounded to float32, which would be an error of 1e-8."""
    fit = stage(squared_error, optim.sgd(RATE, momentum=MOMENTUM), metrics=("error", "rows"))
    state = fit.init(random.key(5), tree.map(Tensor.double, PARAMS))
    values, velocity = [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]
    for number in range(3):
        table = random.normal(random.key(number), (ROWS, 3)).double()
        state = fit.step(state, {"x": table[:, :2], "y": table[:, 2]})
        gradient, metrics = mean_by_loop(values, table.tolist())
        velocity = [g + MOMENTUM * v for g, v in zip(gradient, velocity, strict=True)]
        values = [p - RATE * v for p, v in zip(values, velocity, strict=True)]
        found = [*state.params["a"].tolist(), state.params["b"].item()]
        assert found == pytest.approx(values, rel=1e-12)
        assert {name: x.item() for name, x in state.metrics.items()} == pytest.approx(metrics, rel=1e-6)
    assert {x.dtype for x in state.metrics.values()} == {torch.float32}
    assert state.step == 3
    assert torch.equal(state.key, random.key(5))


def weighted(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
    """A loss whose gradient, sum and count can each be spoiled alone, as the batch says."""
    total = params["a"].sum() * batch["a"].sum() + params["b"] * batch["b"].sum()
    return total + batch["sum"].sum(), batch["count"].sum(), {}


def good_batch(**spoiled: float) -> Tree:
    names = {"a": 1.0, "b": 1.0, "sum": 0.0, "count": 1.0}
    return {name: torch.tensor([value, 0.0]) for name, value in (names | spoiled).items()}


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({"a": math.inf}, 0),
        ({"b": math.nan}, 1),
        ({"a": math.nan, "b": math.nan}, 0),
        ({"sum": -math.inf}, 2),
        ({"count": 0.0}, 3),
        ({"count": math.nan}, 3),
    ],
)
def test_a_step_that_is_not_taken_says_why_and_keeps_all_but_its_number(
    spoiled: dict[str, float], reason: int
) -> None:
    fit = stage(weighted, optim.adam(RATE), ema=0.5)
    first = fit.step(fit.init(random.key(0), PARAMS), good_batch())
    state = fit.step(first, good_batch(**spoiled))
    assert state.metrics["nonfinite_leaf"] == reason
    assert state.step == 2
    for before, after in zip(tree.leaves(first[2:5]), tree.leaves(state[2:5]), strict=True):
        assert torch.equal(before, after)
    taken = fit.step(first, good_batch())
    assert taken.metrics["nonfinite_leaf"] == -1
    for before, after in zip(tree.leaves(first[2:5]), tree.leaves(taken[2:5]), strict=True):
        assert not torch.equal(before, after)


def test_the_memory_of_a_gradient_and_the_loss_scale_follow_the_step() -> None:
    """The memory is kept where no step is taken; the loss scale is halved if a gradient is not finite."""

    def compute(loss: Any, params: Tree, batch: Tree, key: Any, memory: Tree, scale: Any) -> Any:
        return accumulate(loss)(params, batch, key, scale), {"calls": memory["calls"] + 1}

    counted = Gradient(lambda params: {"calls": torch.tensor(0)}, compute)
    fit = stage(weighted, optim.sgd(RATE), gradient=counted, ema=0.5, loss_scale=8.0)
    state = fit.init(random.key(0), PARAMS)
    numbers = []
    for batch in (good_batch(), good_batch(b=math.inf), good_batch(count=0.0), good_batch()):
        state = fit.step(state, batch)
        extra = state.extra
        numbers.append((extra["gradient"]["calls"], extra["loss_scale"].scale, extra["ema_count"]))
    assert numbers == [(1, 8, 1), (1, 4, 1), (1, 4, 1), (2, 4, 2)]


def test_each_step_draws_from_the_root_key_and_its_number_and_rows_are_numbered() -> None:
    def drawn(params: Tree, batch: Tree, key: Tensor) -> tuple[Tensor, Tensor, dict]:
        metrics = {"drawn": random.uniform(key, ()), "numbers": (batch["batch_position"] * batch["x"]).sum()}
        return (params * batch["x"]).sum(), torch.tensor(1.0), metrics

    fit = stage(drawn, optim.sgd(RATE), metrics=("drawn", "numbers"))
    state = fit.init(random.key(7), torch.tensor(1.0))
    for number in range(3):
        state = fit.step(state, {"x": torch.tensor([1.0, 10.0, 100.0])})
        key = fold_in_name(random.fold_in(random.key(7), number), "loss")
        assert state.metrics["drawn"] == random.uniform(key, ())
        assert state.metrics["numbers"] == 1 * 10 + 2 * 100


def test_batches_and_metrics_of_another_kind_are_refused() -> None:
    fit = stage(squared_error, optim.sgd(RATE), metrics=("error",))
    state = fit.init(random.key(0), PARAMS)
    with pytest.raises(TypeError, match=r"stage: the batch: leaf 'x/0' is a builtins\.float"):
        fit.step(state, {"x": [1.0], "y": torch.zeros(1)})
    with pytest.raises(ValueError, match="stage: the batch has no rows"):
        fit.step(state, {"x": torch.zeros(0, 2), "y": torch.zeros(0)})
    with pytest.raises(ValueError, match=r"reported the metrics \['error', 'rows'\], and \['error'\] were"):
        fit.step(state, {"x": torch.zeros(1, 2), "y": torch.zeros(1)})


def half_the_gradient(
    grads: Tree, state: Tree, params: Tree | None = None, **extra: Tensor
) -> tuple[Tree, Tree]:
    """An optimizer's update: minus half the gradient and `value`, in float32; it counts itself."""
    return tree.map(lambda g: -(0.5 * g.float() + extra["value"]), grads), state + 1


HALF = GradientTransformation(lambda params: torch.tensor(0), half_the_gradient)
EXTRA = {"finite": torch.tensor(True), "value": torch.tensor(0.25), "grad_norm": torch.tensor(1.0)}


def first_tree(dtype: torch.dtype, **extra: Tree) -> Tree:
    params = {"a": torch.tensor([1.0, 2.0], dtype=dtype), "b": torch.tensor(3.0)}
    return {"params": params, "opt_state": torch.tensor(0), "extra": extra}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_update_is_scaled_added_and_changes_no_argument(dtype: torch.dtype) -> None:
    """a: 1 - (0.5 · 4 · 0.5 + 0.25) = -0.25, and 2 - (0.5 · 6 · 0.5 + 0.25) = 0.25; b: 3 - 0.75 = 2.25."""
    trained, scale = first_tree(dtype, other=torch.tensor(9.0)), torch.tensor(0.5)
    grads = {"a": torch.tensor([4.0, 6.0], dtype=dtype), "b": torch.tensor(2.0)}
    kept = tree.clone((trained, grads, scale, EXTRA))
    new = update(trained, grads, scale, EXTRA, optimizer=HALF, ema=None)
    expected = {"a": torch.tensor([-0.25, 0.25], dtype=dtype), "b": torch.tensor(2.25)}
    torch.testing.assert_close(new["params"], expected, rtol=0, atol=0)
    assert new["opt_state"] == 1
    assert new["extra"] == {"other": 9}
    torch.testing.assert_close((trained, grads, scale, EXTRA), kept, rtol=0, atol=0)


@pytest.mark.parametrize(("count", "decay"), [(0, 0.1), (5, 0.4), (90, 0.5)])
def test_an_average_follows_the_new_params_by_its_warmed_up_decay(count: int, decay: float) -> None:
    """The decay is the smaller of 0.5 and (1 + count) / (10 + count)."""
    average = {"a": torch.tensor([8.0, 16.0]), "b": torch.tensor(32.0)}
    trained = first_tree(torch.float32, ema=average, ema_count=torch.tensor(count), other=torch.tensor(9.0))
    grads = {"a": torch.tensor([4.0, 6.0]), "b": torch.tensor(2.0)}
    after = update(trained, grads, torch.tensor(0.5), EXTRA, optimizer=HALF, ema=0.5)["extra"]
    pairs = ((8.0, -0.25), (16.0, 0.25), (32.0, 2.25))
    expected = [decay * old + (1 - decay) * new for old, new in pairs]
    assert [*after["ema"]["a"].tolist(), after["ema"]["b"].item()] == pytest.approx(expected, rel=1e-6)
    assert (after["ema_count"], after["other"]) == (count + 1, 9)


def test_an_average_keeps_its_dtype() -> None:
    """8 + (-0.25 - 8) / 2 and 16 + (0.25 - 16) / 2 are exact in bfloat16."""
    average = {"a": torch.tensor([8.0, 16.0], dtype=torch.bfloat16), "b": torch.tensor(32.0)}
    trained = first_tree(torch.bfloat16, ema=average, ema_count=torch.tensor(90))
    grads = {"a": torch.tensor([4.0, 6.0], dtype=torch.bfloat16), "b": torch.tensor(2.0)}
    after = update(trained, grads, torch.tensor(0.5), EXTRA, optimizer=HALF, ema=0.5)["extra"]["ema"]
    torch.testing.assert_close(after["a"], torch.tensor([3.875, 8.125]).bfloat16(), rtol=0, atol=0)


def test_an_update_that_is_not_finite_is_not_kept() -> None:
    average = {"a": torch.tensor([8.0, 16.0]), "b": torch.tensor(32.0)}
    trained = first_tree(torch.float32, ema=average, ema_count=torch.tensor(4))
    grads = {"a": torch.tensor([math.nan, 6.0]), "b": torch.tensor(2.0)}
    extra = EXTRA | {"finite": torch.tensor(False)}
    new = update(trained, grads, torch.tensor(0.5), extra, optimizer=HALF, ema=0.5)
    torch.testing.assert_close(new, trained, rtol=0, atol=0)
