"""Influence against leave-one-out retraining, and against finite differences of the optimizer's own step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pure import optim, random, tree
from pure.adapt.lora import lora
from pure.nn.transformer import transformer
from pure.optim.adamw import ScaleByAdamState
from pure.transform.curvature import gauss_newton_product, hessian_product
from pure.transform.grad import grad
from pure.transform.krylov import ravel
from stages.dpo import dpo
from stages.grpo import grpo
from stages.influence import (
    influence,
    inverse_product,
    preconditioner,
    query_directions,
    rank_rows,
    through_step,
    through_steps,
)
from stages.online import offline_step
from stages.ppo import ppo
from stages.rollout import Rollouts
from stages.sft import sft
from stages.stage import Stage, examples_of, loss_of, stage
from stages.state import TrainState
from tests.laws.test_stages import ROLLOUT_OPTIONS, pair_batch, rollout_batch, small, text_batch

MODEL = transformer(small(num_hidden_layers=1))
PARAMS = tree.cast(MODEL.init(random.key(0)), torch.float64)
GIVEN = ROLLOUT_OPTIONS | {"score": None, "reference": None}


def spearman(found: Tensor, truth: Tensor) -> Tensor:
    """Rank correlation over the rows, averaged over the queries, of two tables [R, Q]."""
    ranks = [x.argsort(0).argsort(0).double() for x in (found, truth)]
    return torch.stack(
        [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(ranks[0].T, ranks[1].T, strict=True)]
    ).mean()


def classified(outputs: Callable[[Any, Tensor], Tensor], params: Any, batch: Any) -> Tensor:
    """Cross-entropy of each row, [B]."""
    return F.cross_entropy(outputs(params, batch["x"]), batch["y"], reduction="none")


def loss_from(outputs: Callable[[Any, Tensor], Tensor]) -> Callable[..., Any]:
    def loss(params: Any, batch: Any, key: Tensor | None) -> tuple[Tensor, Tensor, dict]:
        return classified(outputs, params, batch).sum(), torch.tensor(float(len(batch["y"]))), {}

    return loss


def points(rows: int, queries: int, inputs: int, classes: int, noise: float) -> tuple[Any, Any]:
    """Rows and queries whose classes are those of a random linear map, with noise."""
    x = random.normal(random.key(10), (rows + queries, inputs)).double()
    teacher = random.normal(random.key(11), (inputs, classes)).double()
    y = (x @ teacher + noise * random.normal(random.key(12), (rows + queries, classes)).double()).argmax(1)
    return {"x": x[:rows], "y": y[:rows]}, {"x": x[rows:], "y": y[rows:]}


def test_influence_on_a_convex_head_ranks_rows_as_leaving_them_out_does() -> None:
    penalty, like = 1.0, torch.zeros(3, 4, dtype=torch.float64)
    rows, queries = points(60, 8, 4, 3, noise=1.0)
    outputs = lambda p, x: x @ p.T  # noqa: E731

    def fit(weights: Tensor) -> Tensor:
        """The minimum of the penalised loss of weighted rows, by Newton's method."""

        def total(p: Tensor) -> Tensor:
            return weights @ classified(outputs, p.view(3, 4), rows) + penalty / 2 * p.square().sum()

        p = like.flatten()
        for _ in range(6):
            p = p - torch.linalg.solve(torch.func.hessian(total)(p), torch.func.grad(total)(p))
        return p.view(3, 4)

    weights = torch.cat([torch.ones(1, 60), 1 - torch.eye(60)]).double()
    losses = torch.func.vmap(lambda w: classified(outputs, fit(w), queries))(weights)
    truth, params = losses[1:] - losses[0], fit(weights[0])
    loss = loss_from(outputs)
    product = hessian_product(lambda p: loss(p, rows, None)[0], params)
    solve = inverse_product(product, damping=penalty, tol=1e-10)
    found = influence(loss, params, product=solve)(rows, queries)
    assert spearman(found, truth) >= 0.99
    torch.testing.assert_close(found, truth, rtol=0.3, atol=0.02)
    assert spearman(influence(loss, params)(rows, queries), truth) < 0.96


def test_gauss_newton_influence_on_a_network_ranks_rows_nearer_to_leaving_them_out_than_tracin() -> None:
    """448 parameters, trained again from the same start without each of 24 rows."""
    penalty = 0.1
    rows, queries = points(24, 16, 8, 6, noise=1.0)
    outputs = lambda p, x: (x @ p["w"].T).tanh() @ p["v"].T  # noqa: E731
    start = {
        "w": 0.4 * random.normal(random.key(5), (32, 8)).double(),
        "v": 0.3 * random.normal(random.key(6), (6, 32)).double(),
    }

    optimizer = optim.adam(2e-2)

    def train(weights: Tensor) -> tuple[Tensor, Tensor]:
        def total(p: Any) -> Tensor:
            return weights @ classified(outputs, p, rows) + penalty / 2 * ravel(p).square().sum()

        params, state = start, optimizer.init(start)
        for _ in range(250):
            updates, state = optimizer.update(grad(total)(params), state, params)
            params = tree.map(torch.add, params, updates)
        return params["v"], params["w"]

    weights = torch.cat([torch.ones(1, 24), 1 - torch.eye(24)]).double()
    trained = dict(zip(("v", "w"), torch.func.vmap(train)(weights), strict=True))
    losses = torch.func.vmap(lambda v, w: classified(outputs, {"v": v, "w": w}, queries))(*trained.values())
    truth, params = losses[1:] - losses[0], tree.map(lambda x: x[0], trained)
    product = gauss_newton_product(
        lambda p: outputs(p, rows["x"]), lambda z: F.cross_entropy(z, rows["y"], reduction="sum"), params
    )
    solve = inverse_product(product, damping=penalty)
    loss = loss_from(outputs)
    newton = spearman(influence(loss, params, product=solve)(rows, queries), truth)
    tracin = spearman(influence(loss, params)(rows, queries), truth)
    assert newton >= 0.7, newton
    assert tracin <= 0.55, tracin


def grpo_rows() -> tuple[Callable, Any]:
    made = grpo(MODEL, optim.sgd(0.1), **GIVEN)
    data, state = rollout_batch(0), made.init(random.key(0), PARAMS)
    rollouts = Rollouts(*(data[name] for name in Rollouts._fields))
    return loss_of(made), examples_of(made, state, rollouts, data["rewards"])


@pytest.mark.parametrize("name", ["sft", "dpo", "grpo"])
def test_influence_is_the_inner_product_of_the_gradients_of_rows(name: str) -> None:
    if name == "grpo":
        loss, rows = grpo_rows()
    elif name == "dpo":
        loss, rows = loss_of(dpo(MODEL, optim.sgd(0.1), reference=MODEL.init(random.key(7)))), pair_batch(0)
    else:
        loss, rows = loss_of(sft(MODEL, optim.sgd(0.1))), text_batch(0)
    queries = tree.map(lambda x: x[:2], rows)
    gradients = [
        ravel(grad(lambda p, b=b: loss(p, b, None)[0])(PARAMS))
        for i in range(len(tree.leaves(rows)[0]))
        for b in [{**tree.map(lambda x, i=i: x[i : i + 1], rows), "batch_position": torch.tensor([i])}]
    ]
    flat = torch.stack(gradients)
    for chunk in (3, None):
        found = influence(loss, PARAMS, chunk=chunk)(rows, queries)
        torch.testing.assert_close(found, flat @ flat[:2].T, rtol=1e-9, atol=1e-12)
    best = rank_rows(found, 2).helpful
    assert torch.equal(best[0], found.argmax(0))
    doubled = query_directions(loss, PARAMS, product=lambda v: tree.map(lambda x: 2 * x, v))(queries)
    torch.testing.assert_close(
        torch.stack([ravel(q) for q in tree.unstack(doubled)]), 2 * flat[:2], rtol=1e-9, atol=1e-12
    )


def test_dropout_of_a_row_does_not_depend_on_the_chunk() -> None:
    dropped = transformer(small(num_hidden_layers=1, hidden_dropout=0.5))
    loss = loss_of(sft(dropped, optim.sgd(0.1)))
    rows, key = text_batch(0), random.key(5)
    whole, parts = (influence(loss, PARAMS, key=key, chunk=chunk)(rows, rows) for chunk in (None, 1))
    torch.testing.assert_close(whole, parts, rtol=1e-9, atol=1e-12)


def advance(made: Stage, state: TrainState, batch: Any) -> TrainState:
    return made.step(state, batch) if made.parts is None else offline_step(state, batch, parts=made.parts)


def query_loss(params: Any, model: Any = MODEL) -> Tensor:
    params = params.get("policy", params)
    return loss_of(sft(model, optim.sgd(0.1)))(params, text_batch(1), None)[0]


ADAPTED = lora(MODEL, PARAMS, rank=2, targets=("q", "v"))
STEPS: dict[str, Callable[[], tuple[Stage, Any, Callable]]] = {
    "sft, clipped": lambda: (
        sft(MODEL, optim.chain(optim.clip_by_global_norm(0.1), optim.adamw(1e-2))),
        text_batch(0),
        query_loss,
    ),
    "LoRA": lambda: (sft(ADAPTED, optim.adamw(1e-2)), text_batch(0), partial(query_loss, model=ADAPTED)),
    "dpo": lambda: (
        dpo(MODEL, optim.adamw(1e-2), reference=tree.cast(MODEL.init(random.key(7)), torch.float64)),
        pair_batch(0),
        query_loss,
    ),
    "grpo": lambda: (grpo(MODEL, optim.adamw(1e-2), **GIVEN), rollout_batch(0), query_loss),
    "ppo": lambda: (ppo(MODEL, optim.adamw(1e-2), **GIVEN, epochs=1), rollout_batch(0), query_loss),
}


@pytest.mark.parametrize("name", STEPS)
def test_influence_through_a_step_is_the_finite_difference_of_that_step(name: str) -> None:
    made, batch, query = STEPS[name]()
    first = made.init(random.key(0))
    state = made.init(random.key(0), tree.cast(first.params, torch.float64))
    assert through_step(made, state)(batch, query).isfinite().all()  # LoRA: the gradient of a is 0 here
    for _ in range(2):
        state = advance(made, state, batch)
    found = through_step(made, state)(batch, query)
    direction = random.normal(random.key(3), found.shape).double()

    def moved(size: float) -> Tensor:
        return query(advance(made, state, {**batch, "weights": 1 + size * direction}).params)

    torch.testing.assert_close(found @ direction, (moved(1e-4) - moved(-1e-4)) / 2e-4, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.sum() / found.norm(), torch.zeros((), dtype=torch.float64))


def test_influence_through_several_steps_is_their_finite_difference() -> None:
    made, batches = sft(MODEL, optim.adamw(1e-2)), [text_batch(i) for i in range(3)]
    state = made.init(random.key(0), PARAMS)
    found = through_steps(made, state)(batches, query_loss)
    directions = [random.normal(random.key(i), x.shape).double() for i, x in enumerate(found)]

    def moved(size: float) -> Tensor:
        last = state
        for batch, direction in zip(batches, directions, strict=True):
            last = made.step(last, {**batch, "weights": 1 + size * direction})
        return query_loss(last.params)

    inner = sum((f @ d) for f, d in zip(found, directions, strict=True))
    torch.testing.assert_close(inner, (moved(1e-5) - moved(-1e-5)) / 2e-5, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        through_steps(made, state)(batches[:1], query_loss)[0],
        through_step(made, state)(batches[0], query_loss),
    )


def test_the_preconditioner_of_adam_divides_by_its_second_moment() -> None:
    optimizer = optim.adamw(0.1, b1=0.8, b2=0.9, eps=1e-6, weight_decay=0.3)
    params, v = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    state = optimizer.update(torch.tensor([0.1, 2.0, 0.0]).double(), optimizer.init(params), params)[1]
    (adam,) = tree.nodes(ScaleByAdamState, state)
    root = (0.9 * adam.nu / (1 - 0.9**2)).sqrt()  # of the next update, with gradient 0
    expected = 0.1 * (1 - 0.8) / (1 - 0.8**2) * v / (root + 1e-6)
    torch.testing.assert_close(preconditioner(optimizer, state, params)(v), expected)
    with pytest.raises(ValueError, match="preconditioner: the update has no finite derivative"):
        preconditioner(SQUARE_ROOT, (), params)(v)
    found = preconditioner(SQUARE_ROOT, (), params, at=torch.tensor([1.0, 4.0, 9.0]).double())(v)
    torch.testing.assert_close(found, v / torch.tensor([2.0, 4.0, 6.0]))


SQUARE_ROOT = optim.GradientTransformation(lambda p: (), lambda g, s, p: (-g.sqrt(), s))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="is not positive definite"):
        inverse_product(lambda v: -v, damping=0.5)(torch.ones(3))
    scales = torch.linspace(1, 9, 30).double()
    with pytest.raises(ValueError, match="left a residual of"):
        inverse_product(lambda v: scales * v, damping=0.1, steps=2)(torch.ones(30).double())
    with pytest.raises(ValueError, match="chunk must be at least 1 example, got 0"):
        influence(query_loss, PARAMS, chunk=0)
    with pytest.raises(ValueError, match=r"rank_rows: expected count in \[1, 4\]"):
        rank_rows(torch.zeros(4, 2), 5)
    with pytest.raises(ValueError, match="rank_rows: a score is NaN"):
        rank_rows(torch.full((4, 1), torch.nan), 1)
    made = sft(MODEL, optim.sgd(0.1))
    state = made.init(random.key(0), PARAMS)
    with pytest.raises(ValueError, match="through_steps: expected at least one batch"):
        through_steps(made, state)([], query_loss)
    with pytest.raises(ValueError, match=r"the query loss must be a scalar \[\], got \[2\]"):
        through_step(made, state)(text_batch(0), lambda p: torch.zeros(2))
    broken = state._replace(params=tree.map(lambda x: x * torch.nan, PARAMS))
    with pytest.raises(ValueError, match="through_step: a step was skipped"):
        through_step(made, broken)(text_batch(0), query_loss)


def test_a_loss_that_ignores_weights_is_refused_and_one_row_is_not() -> None:
    def own(params: Any, batch: Any, key: Tensor | None) -> tuple[Tensor, Tensor, dict]:
        del key
        return (params - batch["x"]).square().sum(), torch.tensor(float(len(batch["x"]))), {}

    def weighted(params: Any, batch: Any, key: Tensor | None) -> tuple[Tensor, Tensor, dict]:
        del key
        return (batch["weights"] * (params - batch["x"]).square()).sum(), batch["weights"].sum(), {}

    batch, start = {"x": torch.tensor([1.0, 3.0])}, torch.tensor(0.0)
    for loss, size in ((own, 2), (own, 1), (weighted, 1)):
        fit = stage(loss, optim.sgd(0.25))
        rows = {"x": batch["x"][:size]}
        effect = through_step(fit, fit.init(random.key(0), start))
        if loss is own:
            with pytest.raises(ValueError, match=r"does not read batch\[\"weights\"\] \[B\]"):
                effect(rows, lambda p: p)
        else:  # the weight of a row alone cancels
            assert effect(rows, lambda p: p).tolist() == [0.0]


def test_a_query_loss_of_three_results_is_refused() -> None:
    fit = sft(MODEL, optim.sgd(0.1))
    loss = loss_of(fit)
    with pytest.raises(ValueError, match=r"must be a scalar \[\], got tuple; take its sum"):
        through_step(fit, fit.init(random.key(0), PARAMS))(
            text_batch(0),
            lambda p: loss(p, text_batch(1), None),  # type: ignore[arg-type, return-value]
        )
