"""Audits: one batch through every variant of a loss, compared by values and by directions of gradients.

Two training runs with different losses differ in everything that follows the first step; the gradients of one
batch differ by the losses alone. (`stages/branch.py` compares runs.)

Shape letters: L losses, B completions, M new tokens, V vocabulary.

Tang and Munos, "On a few pitfalls in KL divergence gradient estimation for RL", 2025.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import optim, tree
from pure.generation.sampling import Sampling
from pure.loss.check import upcast
from pure.loss.grpo import CLIPS
from pure.loss.kl import ESTIMATORS, exact_kl, kl
from pure.loss.log_probability import LogProbs
from pure.transform.accumulate import Loss, divisor, number_rows
from pure.transform.frozen import frozen
from pure.transform.grad import value_and_grad
from pure.types import Model, Tree
from stages.grpo import grpo
from stages.rollout import Rollouts, completion_states, policy_log_probabilities
from stages.stage import examples_of, loss_of
from stages.state import TrainState
from stages.weights import row_weights

EXACT = "kl exact"
"""Name of the divergence over the full vocabulary among the losses of `audit_grpo`."""


class Audit(NamedTuple):
    """Losses of one batch, side by side.

    Fields:
        names: of the L losses.
        values: [L] mean loss, sum over count; of a divergence in nats a token.
        norms: [L] norm of the gradient of the mean loss.
        cosines: [L, L] between the gradients; NaN where one of them is 0.
    """

    names: tuple[str, ...]
    values: Tensor
    norms: Tensor
    cosines: Tensor


def audit_losses(losses: Mapping[str, Loss], params: Tree, batch: Tree, key: Tensor | None = None) -> Audit:
    """Compute the value of each loss on one batch, and the cosine between every two gradients.

    Args:
        losses: name -> loss, of equal params and batches.
        params: where they are differentiated.
        batch: dict of tensors [B, ...].
        key: [2] for losses that draw; None disables dropout.

    Returns:
        Audit. The gradients of all losses, L times the memory of the params, are held at a time.

    Raises:
        ValueError: for no losses, or a batch without rows.

    Example:
        >>> def loss(sign, params, batch, key):
        ...     return (sign * params * batch["x"]).sum(), torch.tensor(2.0), {}
        >>> losses = {"up": partial(loss, 1.0), "down": partial(loss, -1.0)}
        >>> audit = audit_losses(losses, torch.tensor(3.0), {"x": torch.ones(2)})
        >>> audit.values.tolist(), audit.cosines[0].tolist()
        ([3.0, -3.0], [1.0, -1.0])
    """
    if not losses:
        raise ValueError("audit_losses: expected at least one loss, got none")
    batch = number_rows("audit_losses", batch)
    results = [_mean_and_gradient(loss, params, batch, key) for loss in losses.values()]
    gradients = [gradient for _, gradient in results]
    products = torch.stack(
        [torch.stack([tree.inner(a, b, torch.float64) for b in gradients]) for a in gradients]
    )
    norms = products.diagonal().sqrt()
    cosines = products / (norms[:, None] * norms)
    return Audit(tuple(losses), torch.stack([value for value, _ in results]), norms, cosines)


def audit_grpo(
    model: Model,
    params: Tree,
    rollouts: Rollouts,
    rewards: Tensor,
    *,
    sampling: Sampling,
    samples: int,
    reference: Tree | None = None,
    variants: Sequence[str] = tuple(CLIPS),
    scale: str = "group",
    **options: Any,
) -> Audit:
    """Compare all variants of GRPO and, with a reference, all estimators of the KL divergence, on one batch.

    Args:
        model: the policy's.
        params: the policy's now. On rollouts of these very params the ratio is 1, and variants differ in how
            they weigh tokens only; after some updates they differ in clipping too.
        rollouts: B completions, groups together.
        rewards: [B, K] float.
        sampling, samples: as the completions were sampled: temperature, longest completion, group size.
        reference: params of the frozen policy; None leaves the divergences out.
        variants: of `pure.loss.grpo.grpo_loss`.
        scale: of the advantages, see `stages.grpo.grpo`.
        options: of `stages.grpo.grpo`, such as clip_low and clip_high.

    Returns:
        Audit, of the variants, then "kl k1", "kl k2", ..., and "kl exact", the divergence over the whole
        vocabulary at each position of the sampled completions, whose gradient the estimators approximate.

    Raises:
        ValueError: as `stages.grpo.grpo`.
    """
    names = tuple(f"reward {k}" for k in range(rewards.shape[1]))
    build = partial(
        grpo,
        model,
        optim.sgd(0.0),
        score=None,
        sampling=sampling,
        samples=samples,
        rewards=names,
        reference=reference,
        scale=scale,
        **options,
    )
    stages = {variant: build(variant=variant) for variant in variants}
    losses = {name: loss_of(stage) for name, stage in stages.items()}
    if reference is not None:
        losses |= divergences(model, reference, temperature=sampling.temperature)
    first = next(iter(stages.values()))
    state = TrainState(torch.zeros(()), torch.zeros(2), params, (), {}, {})
    rows = examples_of(first, state, rollouts, rewards)
    return audit_losses(losses, params, tree.map(lambda x: x[:, 0].unflatten(0, (-1, samples)), rows))


def divergences(model: Model, reference: Tree, *, temperature: float | Tensor = 1.0) -> dict[str, Loss]:
    """Build the divergence of a policy from its reference as losses: every estimator, and the exact one.

    Args:
        model: the policy's.
        reference: params of the frozen policy.
        temperature: at which the completions were sampled.

    Returns:
        {"kl k1", "kl k2", ..., "kl exact"}: losses of the batches of `stages.grpo.grpo`; sum over tokens in
        nats, count tokens. The exact one holds the log-probabilities [B, M, V] of both models.
    """
    logps_fn = policy_log_probabilities(model, temperature=temperature)
    losses: dict[str, Loss] = {
        f"kl {name}": partial(estimated_divergence, logps_fn=logps_fn, estimator=name) for name in ESTIMATORS
    }
    exact = partial(exact_divergence, model=model, reference=reference, temperature=temperature)
    return {**losses, EXACT: exact}


def estimated_divergence(
    params: Tree, batch: Tree, key: Tensor | None, *, logps_fn: LogProbs, estimator: str
) -> tuple[Tensor, Tensor, dict]:
    """Sum an estimate of the divergence from the reference over the completions' tokens.

    Args:
        params: the policy's.
        batch: as `stages.grpo.batch_loss`, with reference_logps.
        key: not used.
        logps_fn, estimator: bound by `divergences`.

    Returns:
        (sum [] nats, count [] tokens, {}).
    """
    del key
    rollouts = _rollouts_of(batch)
    estimates = kl(logps_fn(params, rollouts).logps, batch["reference_logps"].flatten(0, 1), estimator)
    return _sum_tokens(estimates, rollouts, batch)


def exact_divergence(
    params: Tree,
    batch: Tree,
    key: Tensor | None,
    *,
    model: Model,
    reference: Tree,
    temperature: float | Tensor,
) -> tuple[Tensor, Tensor, dict]:
    """Sum the divergence of the next token, over the whole vocabulary, over the completions' positions.

    Args:
        params: the policy's.
        batch: as `stages.grpo.batch_loss`.
        key: not used.
        model, reference, temperature: bound by `divergences`.

    Returns:
        (sum [] nats, count [] tokens, {}).
    """
    del key
    rollouts = _rollouts_of(batch)

    def logits_fn(params: Tree) -> Tensor:
        return upcast(model.logits(params, completion_states(model.hidden, params, rollouts))) / temperature

    return _sum_tokens(exact_kl(logits_fn(params), frozen(logits_fn)(reference)), rollouts, batch)


def _mean_and_gradient(loss: Loss, params: Tree, batch: Tree, key: Tensor | None) -> tuple[Tensor, Tree]:
    """Mean loss and its gradient."""

    def summed(params: Tree) -> tuple[Tensor, Tensor]:
        total, count, _ = loss(params, batch, key)
        return total, count

    (total, count), gradient = value_and_grad(summed, has_aux=True)(params)
    scale = 1.0 / divisor(count)
    return total * scale, tree.map(lambda g: g * scale.to(g.dtype), gradient)


def _rollouts_of(batch: Tree) -> Rollouts:
    """The completions [B, ...] of a batch in groups [N, G, ...]."""
    return Rollouts(*(batch[name].flatten(0, 1) for name in Rollouts._fields))


def _sum_tokens(values: Tensor, rollouts: Rollouts, batch: Tree) -> tuple[Tensor, Tensor, dict]:
    """Sum and number of the completions' tokens [B, M], by the weights of the groups."""
    counted = rollouts.mask.to(values.dtype)
    weights = row_weights(batch)
    if weights is not None:
        counted = counted * weights.repeat_interleave(len(values) // len(weights))[:, None]
    return torch.where(rollouts.mask, values, 0.0).mul(counted).sum(), counted.sum(), {}
