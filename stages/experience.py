"""Experience of PPO: the advantage and the return of every token that a round of answers sampled.

The mathematics is in `pure/loss/ppo.py`.

Shape letters: B rows, M new tokens.

Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation", 2016.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from pure.loss.importance import importance_metrics, importance_weights
from pure.loss.log_probability import LogProbs
from pure.loss.ppo import gae
from pure.loss.whiten import whiten
from pure.parallel.agreement import by_rows
from pure.parallel.layers import gather_for_model
from pure.transform.frozen import frozen
from pure.transform.precision import cast_params
from pure.types import Tree
from stages.rollout import Rollouts


class Values(Protocol):
    """Value of each completion token: (params, rollouts) -> [B, M]."""

    def __call__(self, params: Tree, rollouts: Rollouts, /) -> Tensor: ...


class Experience(Protocol):
    """Advantages and returns: (params, rollouts, total [B], coefficient []) -> (batch, metrics)."""

    def __call__(
        self, params: Tree, rollouts: Rollouts, total: Tensor, coefficient: Tensor, /
    ) -> tuple[Tree, dict[str, Tensor]]: ...


def experience(
    params: Tree,
    rollouts: Rollouts,
    total: Tensor,
    coefficient: Tensor,
    *,
    logps_fn: LogProbs,
    values_fn: Values,
    gamma: float,
    lam: float,
    reference: Tree | None,
    compute: torch.dtype,
    offline: bool,
    mask_truncated: bool,
    importance_cap: float | None = None,
) -> tuple[Tree, dict[str, Tensor]]:
    """Compute the advantage and the return of every token of a round of answers, before any update.

    Args:
        params: {"policy", "value"}.
        rollouts: B rows.
        total: [B] float, the weighted sums of the rewards; NaN for an unscored answer.
        coefficient: [] β.
        logps_fn: (params, rollouts) -> LogProbabilities.
        values_fn: (params, rollouts) -> [B, M].
        gamma, lam, reference, compute, mask_truncated, importance_cap: see `ppo`.
        offline: whether the answers are ready-made: the behaviour policy's log-probabilities are then the
            rollouts' own, unless importance weights compare these with the policy's.

    Returns:
        (a batch of rows: the fields of Rollouts, old_logps, old_values, advantages and returns [B, M], and
        token_weights [B, M] if there is an importance_cap; metrics).
    """
    params = cast_params(gather_for_model(params), compute)
    policy, value = params["policy"], params["value"]
    if mask_truncated:
        total = torch.where(rollouts.ended, total, torch.nan)
    scored = total.isfinite()
    mask = rollouts.mask & scored[:, None]
    own = offline and importance_cap is None
    old = rollouts.logps if own else by_rows(frozen(logps_fn))(policy, rollouts).logps
    old_values = torch.where(mask, by_rows(frozen(values_fn))(value, rollouts), 0.0)
    distance = torch.zeros_like(old)
    if reference is not None:
        distance = old - by_rows(frozen(logps_fn))(reference, rollouts).logps
    last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
    per_token = torch.where(last, total[:, None], 0.0) - coefficient * torch.where(mask, distance, 0.0)
    advantages, returns = gae(per_token, old_values, mask, gamma=gamma, lam=lam)
    tokens = mask.sum().clamp(min=1)
    unexplained = _variance(returns - old_values, mask) / _variance(returns, mask).clamp(min=1e-8)
    difference = (old - rollouts.logps).abs().sum()
    metrics = {
        "kl": torch.where(mask, distance, 0.0).sum() / scored.sum().clamp(min=1),
        "kl_coefficient": coefficient.clone(),
        "values/mean": old_values.sum() / tokens,
        "values/explained_variance": 1 - unexplained,
        "sampling/sampling_logp_difference/mean": difference / rollouts.mask.sum().clamp(min=1),
    }
    batch = {
        **rollouts._replace(mask=mask)._asdict(),
        "old_logps": old,
        "old_values": old_values,
        "advantages": whiten(advantages, mask),
        "returns": returns,
    }
    if importance_cap is not None:
        weights = importance_weights(old, rollouts.logps, mask, cap=importance_cap)
        batch["token_weights"] = weights
        for name, (x, count) in importance_metrics(weights, mask, cap=importance_cap).items():
            metrics[name] = x / count.clamp(min=1)
    return batch, {name: x.float() for name, x in metrics.items()}


def _variance(x: Tensor, mask: Tensor) -> Tensor:
    """Variance over the masked tokens: x [B, M], mask [B, M] -> []."""
    tokens = mask.sum().clamp(min=1)
    mean = torch.where(mask, x, 0.0).sum() / tokens
    return torch.where(mask, x - mean, 0.0).square().sum() / tokens
