"""Influence of training rows on a query's loss: TracIn, Gauss-Newton, and through the optimizer's own step.

The loss of a stage is a sum over rows, so each row has a gradient of its own. A row whose gradient points
where a query's gradient points lowers the query's loss when it is trained on.

Shape letters: R training rows, Q queries, B rows of a step's batch, K rows of a ranking.

Koh and Liang, "Understanding Black-box Predictions via Influence Functions", 2017; Pruthi et al., "Estimating
Training Data Influence by Tracing Gradient Descent", 2020; Grosse et al., "Studying Large Language Model
Generalization with Influence Functions", 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.plural import count_noun
from pure.transform.accumulate import Loss, number_rows
from pure.transform.curvature import Product, cg
from pure.transform.grad import grad
from pure.transform.modes import has_values, second_derivatives
from pure.transform.per_sample import per_sample_grad
from pure.transform.per_sample_rows import rows_from
from pure.transform.remat import remat
from pure.types import GradientTransformation, Tree
from stages.online import offline_step
from stages.stage import Stage
from stages.state import TrainState
from stages.weights import check_weights_read, weights_or_ones

QueryLoss = Callable[[Tree], Tensor]
"""Loss of interest after training: params -> [] float, such as the loss of validation rows."""


class Ranking(NamedTuple):
    """Rows of each query in the order of their influence.

    Fields:
        helpful: [K, Q] int64, indices of the rows with the largest influence, the largest first.
        harmful: [K, Q] int64, indices of the rows with the smallest influence, the smallest first.
    """

    helpful: Tensor
    harmful: Tensor


def influence(
    loss: Loss,
    params: Tree,
    *,
    product: Product | None = None,
    key: Tensor | None = None,
    chunk: int | None = 128,
) -> Callable[[Tree, Tree], Tensor]:
    """Builds a function that computes the influence of each training row on each query.

        I[r, q] = g_rᵀ P g_q,     g = ∂ sum(loss of one row) / ∂params

    Positive means helpful: training on row r lowers the loss of query q. The matrix P says how parameters
    move for a gradient:

    - the identity (TracIn): one step of gradient descent with learning rate 1 lowers the loss of q by I;
    - `inverse_product(gauss_newton_product(...), damping=...)` (influence functions): in a minimum of the
      loss summed over the training rows, leaving out row r raises the loss of q by I;
    - `preconditioner(optimizer, opt_state, params)`: the step of that optimizer.

    Args:
        loss: (params, batch, key) -> (sum, count, metrics), such as `stages.stage.loss_of(stage)`.
        params: the trained params, `state.params`; for LoRA the adapters.
        product: v -> P v, symmetric, on trees like params; None: the identity. It is applied to queries only.
        key: [2] uint32 for dropout; None: no dropout.
        chunk: rows whose gradients are in memory at a time, C times the params; None: all. With 1,
            torch.func is not used, see `per_sample_grad`: for large models.

    Returns:
        (rows, queries) -> [R, Q] float: batches of the stage, such as {"tokens", "labels"} for SFT,
        preference pairs for DPO, `stages.stage.examples_of(...)` for GRPO, where a row is a completion at its
        fixed advantage. Over several checkpoints (TracIn), add the results, each times its learning rate.

    Edge cases: rows with "weights" have gradients times their weights.

    Raises:
        ValueError: if a batch has no rows, or the loss mixes rows (see `per_sample_grad`).

    Example:
        The loss w x has the gradient x.

        >>> def loss(w, batch, key):
        ...     return (w * batch["x"]).sum(), torch.tensor(1.0), {}
        >>> scores = influence(loss, torch.tensor(3.0))
        >>> scores({"x": torch.tensor([1.0, 2.0, -1.0])}, {"x": torch.tensor([1.0, 10.0])})
        tensor([[  1.,  10.],
                [  2.,  20.],
                [ -1., -10.]])

    Source: Pruthi et al. 2020, equation 1 (TracIn); Koh and Liang 2017, equation 2, with the sign turned.
    """
    return partial(_influence, per_sample_grad(loss, chunk=chunk), params, product, key, chunk)


def query_directions(
    loss: Loss,
    params: Tree,
    *,
    product: Product | None = None,
    key: Tensor | None = None,
    chunk: int | None = 128,
) -> Callable[[Tree], Tree]:
    """Builds a function that computes P g_q of each query: the directions that rows are compared with.

    `influence` is the inner product of these with the rows' gradients; `stages.run.sketches.score_queries`
    that with their sketches on disk.

    Args:
        loss, params, product, key, chunk: as in `influence`.

    Returns:
        queries -> a tree like params, each leaf with a leading axis [Q].
    """
    return partial(_query_directions, per_sample_grad(loss, chunk=chunk), params, product, key)


def inverse_product(
    product: Product, *, damping: float | Tensor, steps: int = 100, tol: float = 1e-3
) -> Product:
    """Builds v ↦ (A + damping I)⁻¹ v from v ↦ A v, by conjugate gradients.

    Args:
        product: v -> A v, symmetric, such as `gauss_newton_product(outputs, loss, params)` over all training
            rows. The Hessian of a network is seldom positive definite, even after training.
        damping: added to the diagonal, > 0 unless A is positive definite; in units of A, a sum over rows.
            Directions of less curvature than it are damped.
        steps: most products for one v.
        tol: largest residual, relative to v.

    Returns:
        v -> x, trees like params.

    Raises:
        ValueError: on a call, if A + damping I is not positive definite, or the residual is above tol after
            all steps (where numbers can be read; else x is NaN if it is not positive definite).

    Example:
        >>> inverse_product(lambda v: 3 * v, damping=1.0)(torch.tensor([8.0]))
        tensor([2.])
    """
    return partial(_inverse_product, product, damping, steps, tol)


def preconditioner(
    optimizer: GradientTransformation, opt_state: Tree, params: Tree, *, at: Tree | None = None
) -> Product:
    """Builds v ↦ P v, P the derivative of the params after an update with respect to minus the gradient.

        P = - (∂ update / ∂ gradient)ᵀ  at the given gradient

    At gradient 0 Adam's moments are as good as frozen, and P is diagonal: learning_rate (1 - b1) /
    (1 - b1ᵗ) / (√nu_hat + eps), with nu_hat the state's own. Weight decay and momentum move the
    params whatever the gradient is, so they cancel.

    Args:
        optimizer: any GradientTransformation.
        opt_state: its state, such as `state.opt_state`.
        params: the params.
        at: gradient, like params; None: 0. Optimizers that normalise the gradient (Muon, global clipping by a
            norm) have no derivative at 0; give them the mean gradient of a batch.

    Returns:
        v -> P v. For a step on a mean loss, divide by the step's count (tokens, pairs or rows).

    Example:
        >>> from pure import optim
        >>> params = torch.tensor([1.0, 2.0])
        >>> descent = optim.sgd(0.1)
        >>> preconditioner(descent, descent.init(params), params)(torch.tensor([1.0, 3.0]))
        tensor([0.1000, 0.3000])

    Source: Xia et al., "LESS: Selecting Influential Data for Targeted Instruction Tuning", 2024, section 4.1,
    with the query's gradient preconditioned in place of the rows'.
    """
    return partial(_precondition, optimizer, opt_state, params, at)


def through_step(stage: Stage, state: TrainState) -> Callable[[Tree, QueryLoss], Tensor]:
    """Builds a function that differentiates a loss after the next optimizer step by the weights of its rows.

        out[b] = ∂ query_loss(step(state, batch with weights w).params) / ∂w_b

    Nothing is approximated: clipping, momentum, Adam's division and the mean over the batch are all in the
    step. Negative means helpful (more weight lowers the loss), unlike `influence`: it is a derivative.

    Args:
        stage: any stage; of an online one the update is differentiated, with given completions.
        state: before the step.

    Returns:
        (batch, query_loss) -> [B] float. At the batch's "weights", or 1. `query_loss` takes params and gives
        a scalar, such as `lambda p: loss_of(stage)(p, rows, None)[0]`, a sum over query rows. The batch of an
        online stage has the fields of Rollouts and "rewards" (`stages.online.offline_step`).

    Edge cases: with a mean over tokens, a row of more tokens has more influence. The derivatives times
    the weights add up to 0: twice the weights give the same mean, and the same step.

    Raises:
        ValueError: if the step was skipped (loss or gradient not finite), the query loss is no scalar, a loss
            does not read "weights", or torch has no second derivative of an operation (fused attention).

    Example:
        Mean of (p - x)² over rows 1 and 3 at p = 0, one step of gradient descent to p = 1, query loss p. More
        weight on the 1 moves p down.

        >>> from pure import optim, random
        >>> from stages.stage import stage
        >>> def loss(params, batch, key):
        ...     w = batch["weights"]
        ...     return (w * (params - batch["x"]).square()).sum(), w.sum(), {}
        >>> fit = stage(loss, optim.sgd(0.25))
        >>> state = fit.init(random.key(0), torch.tensor(0.0))
        >>> through_step(fit, state)({"x": torch.tensor([1.0, 3.0])}, lambda p: p)
        tensor([-0.2500,  0.2500])

    Source: Ren et al., "Learning to Reweight Examples for Robust Deep Learning", 2018, equation 5, for SGD.
    """
    return partial(_through_step, stage, state)


def through_steps(stage: Stage, state: TrainState) -> Callable[[Sequence[Tree], QueryLoss], list[Tensor]]:
    """Builds `through_step` for several steps: each row's influence on a loss at the end of them.

    Args:
        stage, state: as in `through_step`.

    Returns:
        (batches, query_loss) -> for each batch [B] float. Each step is computed again in the backward pass,
        so that only states are in memory: params and optimizer state, times the number of steps.

    Raises:
        ValueError: as `through_step`, or for no batches.
    """
    return partial(_through_steps, stage, state)


def rank_rows(scores: Tensor, count: int) -> Ranking:
    """Ranks the rows of each query.

    Args:
        scores: [R, Q], of `influence`; of `through_step` give `-scores[:, None]`.
        count: K, in [1, R].

    Returns:
        Ranking(helpful [K, Q], harmful [K, Q]).

    Raises:
        ValueError: if count is out of range, or a score is NaN.

    Example:
        >>> rank_rows(torch.tensor([[0.0], [2.0], [-1.0]]), 1)
        Ranking(helpful=tensor([[1]]), harmful=tensor([[2]]))
    """
    if not 1 <= count <= len(scores):
        raise ValueError(f"rank_rows: expected count in [1, {len(scores)}] (the rows), got {count}")
    if has_values(scores) and scores.isnan().any():
        raise ValueError("rank_rows: a score is NaN; check the params and the damping")
    return Ranking(scores.topk(count, 0).indices, scores.topk(count, 0, largest=False).indices)


def _influence(
    gradients: Callable[..., Tree],
    params: Tree,
    product: Product | None,
    key: Tensor | None,
    chunk: int | None,
    rows: Tree,
    queries: Tree,
) -> Tensor:
    """Inner products, chunk by chunk of the rows, which are numbered over all chunks."""
    rows = number_rows("influence", rows)
    count = len(rows["batch_position"])
    size = chunk or count
    parts = [rows_from(rows, start, size) for start in range(0, count, size)]
    directions = tree.leaves(_query_directions(gradients, params, product, key, queries))
    return torch.cat([_inner(gradients(params, part, key), directions) for part in parts])


def _inner(rows: Tree, directions: list[Tensor]) -> Tensor:
    """Inner products [R, Q] of gradients [R, ...] and directions [Q, ...], leaf by leaf."""
    leaves, dtype = tree.leaves(rows), tree.shared_dtype(rows)
    a, b = ([x.reshape(len(x), -1).to(dtype) for x in side] for side in (leaves, directions))
    return torch.stack([x @ y.T for x, y in zip(a, b, strict=True)]).sum(0)


def _query_directions(
    gradients: Callable[..., Tree], params: Tree, product: Product | None, key: Tensor | None, queries: Tree
) -> Tree:
    """The product with the gradient of each query."""
    grads = gradients(params, queries, key)
    if product is None:
        return grads
    return tree.stack([product(g) for g in tree.unstack(grads)])


def _inverse_product(product: Product, damping: float | Tensor, steps: int, tol: float, v: Tree) -> Tree:
    """Solves, and checks the solution."""
    solved = cg(product, v, damping=damping, steps=steps, tol=tol)
    if has_values(solved.residual):
        if solved.indefinite:
            raise ValueError(
                f"influence: the matrix plus damping {damping} is not positive definite (found after "
                f"{count_noun(int(solved.steps), 'product')}); take a Gauss-Newton product, or more damping"
            )
        if not solved.residual <= 2 * tol:
            raise ValueError(
                f"influence: conjugate gradients left a residual of {solved.residual:.2g} after {steps} "
                f"steps, above tol={tol}; give more steps, more damping or a larger tol"
            )
    return solved.x


def _precondition(
    optimizer: GradientTransformation, opt_state: Tree, params: Tree, at: Tree | None, v: Tree
) -> Tree:
    """Minus the transposed derivative of the update, along v."""
    values, spec = tree.flatten(tree.zeros_like(params) if at is None else at)

    def along(gradient: list[Tensor]) -> Tensor:
        updates, _ = optimizer.update(tree.unflatten(spec, gradient), opt_state, params)
        return -tree.inner(updates, v)

    product = tree.unflatten(spec, grad(along)(values))
    if has_values(product) and not all(x.isfinite().all() for x in tree.leaves(product)):
        raise ValueError(
            "preconditioner: the update has no finite derivative at this gradient; give at=, the mean "
            "gradient of a batch"
        )
    return product


def _through_step(stage: Stage, state: TrainState, batch: Tree, query_loss: QueryLoss) -> Tensor:
    """One step of `_through_steps`, whose activations are kept."""
    return _differentiate(stage, state, [batch], query_loss, _take_step)[0]


def _through_steps(
    stage: Stage, state: TrainState, batches: Sequence[Tree], query_loss: QueryLoss
) -> list[Tensor]:
    """Several steps, each rematerialised."""
    if not len(batches):
        raise ValueError("through_steps: expected at least one batch, got none")
    return _differentiate(
        stage, state, batches, query_loss, lambda s, *rest: remat(partial(_take_step, s))(*rest)
    )


def _differentiate(
    stage: Stage, state: TrainState, batches: Sequence[Tree], query_loss: QueryLoss, take: Callable
) -> list[Tensor]:
    """The gradient of the query loss with respect to the weights of all batches."""

    def after(weights: list[Tensor]) -> tuple[Tensor, Tensor]:
        last, skipped = state, []
        for batch, w in zip(batches, weights, strict=True):
            last = take(stage, last, {**batch, "weights": w})
            skipped.append(last.metrics["nonfinite_leaf"])
        value = query_loss(last.params)
        if not isinstance(value, Tensor) or value.ndim:
            got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"through_step: the query loss must be a scalar [], got {got}; take its sum [0]")
        return value, torch.stack(skipped)

    with second_derivatives("through_step"):
        given = [weights_or_ones("through_step", batch, state.params) for batch in batches]
        grads, skipped = grad(after, has_aux=True)(given)
    if has_values(skipped) and (skipped >= 0).any():
        raise ValueError(
            "through_step: a step was skipped, as its loss or gradient is not finite (metric nonfinite_leaf "
            f"{skipped.max():g}), so that no row had an influence"
        )
    # 0 throughout: one row, or weights that are not read.
    for batch, w, g in zip(batches, given, grads, strict=True):
        if stage.loss is not None and stage.parts is None and has_values(g) and not g.any():
            check_weights_read("through_step", stage.loss, state.params, {**batch, "weights": w})
    return grads


def _take_step(stage: Stage, state: TrainState, batch: Tree) -> TrainState:
    """A step on a batch; of an online stage the update with the batch's completions."""
    if stage.parts is None:
        return stage.step(state, batch)
    return offline_step(state, batch, parts=stage.parts)
