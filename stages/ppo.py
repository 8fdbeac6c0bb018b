"""Proximal policy optimization: a policy and a value function learn together from the policy's own answers.

The mathematics is in `pure/loss/ppo.py`, the drawing in `stages/rollout.py`, the value function in
`pure/nn/scalar.py`.

Shape letters: B rows (N prompts, G samples of each), M new tokens, K reward functions.

Schulman et al., "Proximal Policy Optimization Algorithms", 2017; Stiennon et al., "Learning to summarize from
human feedback", 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from pure import random, tree
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper
from pure.loss.grpo import policy_metrics
from pure.loss.kl import adaptive_coefficient
from pure.loss.log_probability import linear_log_probabilities
from pure.loss.ppo import gae, ppo_policy_loss, ppo_value_loss, whiten
from pure.nn.scalar import ScalarModel, scalar_model
from pure.transform.jit import region
from pure.types import GradientTransformation, Model, Tree
from stages.online import Online, Score, online, reward_metrics, weighted_sum
from stages.rollout import Rollouts, completion_log_probabilities, completion_states, rollout
from stages.stage import Stage, named, stage
from stages.state import TrainState

ORDER_KEY = crc32(b"minibatches")
"""What the key of the minibatches' order is folded from."""

METRICS = (
    "policy_loss", "value_loss", "entropy", "approx_kl", "clip_ratio/low_mean", "clip_ratio/high_mean",
    "clip_ratio/region_mean",
)  # fmt: skip
ROUND_METRICS = (
    "kl",
    "kl_coefficient",
    "values/mean",
    "values/explained_variance",
    "sampling/sampling_logp_difference/mean",
)
"""Metrics of a round of answers: the divergence from the reference (nats an answer), its weight, what the
value function said on average and which share of the returns' variance it foresaw, the gap between sampling
and training."""


def ppo(
    model: Model,
    optimizer: GradientTransformation,
    *,
    score: Score | None,
    sampling: Sampling,
    rewards: tuple[str, ...] = ("reward",),
    weights: tuple[float, ...] | None = None,
    samples: int = 1,
    reference: Tree | None = None,
    beta: float = 0.05,
    target_kl: float | None = None,
    horizon: float = 10_000,
    gamma: float = 1.0,
    lam: float = 0.95,
    clip: float = 0.2,
    clip_value: float | None = 0.2,
    value_weight: float = 0.1,
    entropy_weight: float = 0.0,
    epochs: int = 2,
    minibatches: int = 1,
    mask_truncated: bool = False,
    compute: torch.dtype = torch.float32,
    compile: bool | Stepper = False,
    **options: Any,
) -> Stage:
    """Makes the stage that draws, scores and learns in each step.

        reward_t = score at the answer's last token - β (logp_t - reference_t)
        loss = policy loss + value_weight · value loss - entropy_weight · entropy

    Args:
        model: the policy's; the value function is another copy of it with a scalar head.
        optimizer: optax's pair; it is called epochs · minibatches times a step.
        score: Rollouts -> rewards [B, K], or None for ready-made groups, as in `stages.grpo.grpo`.
        sampling: of the answers; the loss reads its temperature.
        rewards, weights: names of the K rewards, and what each counts in their sum.
        samples: G, answers a prompt.
        reference: params of the frozen policy; None penalises no distance.
        beta: β >= 0, weight of the distance, to begin with.
        target_kl: divergence, nats an answer, that β is steered to; None keeps β.
        horizon: answers over which β changes by a fifth at most; see `pure.loss.kl.adaptive_coefficient`.
        gamma, lam: see `pure.loss.ppo.gae`.
        clip, clip_value: how far ratio and value may move in one round.
        value_weight, entropy_weight: see above.
        epochs: times that a round's answers are used.
        minibatches: parts into which they are cut, each time anew; must divide B.
        mask_truncated: whether answers that were cut off at M tokens are not learned from, neither by the
            policy nor by the value function; their rewards are still reported.
        compute: dtype of the products; params stay as they are.
        compile: as in `pure.generation.generate.generate`, for the drawing.
        options: `accumulation`, `ema`, `loss_scale` of `stages.stage.stage`.

    Returns:
        Stage(init, step, loss, parts); params are {"policy": the model's, "value": the scalar model's}, and `init(key,
        params)` takes either that or a policy alone, of which the value function then begins as a copy. The
        weight β is in `extra["kl_coefficient"]`.

    Edge cases: a dropout of the model or of adapters is not used, so that the ratio is 1 before the first
    update. An update from answers of which none could be judged is skipped, and `nonfinite_leaf` says so.

    Raises:
        ValueError: for counts below 1.
    """
    if min(epochs, minibatches, samples) < 1:
        raise ValueError(
            f"ppo: epochs, minibatches and samples must be at least 1, got {epochs, minibatches, samples}"
        )
    head = region(
        partial(linear_log_probabilities, logits=model.logits, temperature=sampling.temperature, entropy=True)
    )
    look = partial(completion_log_probabilities, model=model, head=head)
    critic = scalar_model(model)
    values = partial(completion_states, critic.score)
    loss = partial(
        answers_loss,
        look=look,
        values=values,
        clip=clip,
        clip_value=clip_value,
        value_weight=value_weight,
        entropy_weight=entropy_weight,
    )
    draw_params = partial(_draw, model=model, critic=critic)
    inner = stage(loss, optimizer, init=draw_params, metrics=METRICS, compute=compute, **options)
    draw = partial(
        rollout,
        model,
        samples=samples,
        sampling=sampling,
        dtype=compute,
        compile=compile,
    )
    judge = partial(
        experience,
        look=look,
        values=values,
        gamma=gamma,
        lam=lam,
        compute=compute,
        given=score is None,
        reference=None if reference is None else tree.cast(reference, compute),
    )
    steer = None if target_kl is None else partial(adaptive_coefficient, target=target_kl, horizon=horizon)
    learn = partial(
        update,
        inner=inner,
        judge=judge,
        steer=steer,
        samples=samples,
        names=rewards,
        weights=weights,
        epochs=epochs,
        minibatches=minibatches,
        mask_truncated=mask_truncated,
    )
    return online(
        Online(partial(_init, inner=inner, critic=critic, beta=beta), draw, score, learn),
        rewards,
        loss=inner.loss,
    )


def update(
    state: TrainState,
    rollouts: Rollouts,
    rewards: Tensor,
    *,
    inner: Stage,
    judge: Callable,
    steer: Callable | None,
    samples: int,
    names: tuple[str, ...],
    weights: tuple[float, ...] | None,
    epochs: int,
    minibatches: int,
    mask_truncated: bool,
) -> TrainState:
    """Learns from answers and their rewards: pure, and without a look at text.

    Args:
        state: unchanged by this.
        rollouts: B rows.
        rewards: [B, K] float, NaN where one is missing: the others count; an answer without any teaches
            nothing.
        inner: the stage that takes one optimizer step on rows.
        judge: `experience`, bound.
        steer: changes β, or None.
        samples: G, for the metrics of groups.
        names, weights: of the K rewards.
        epochs, minibatches, mask_truncated: see `ppo`.

    Returns:
        The next state, `step` one higher.

    Steps:
        1. One reward a row; what each token was worth.
        2. Epochs of minibatches, in an order that the step's key decides.
        3. The weight of the divergence.
        4. Metrics.
    """
    # 1. Worth.
    total = weighted_sum(rewards, weights)
    coefficient = state.extra["kl_coefficient"]
    worth = torch.where(rollouts.ended, total, torch.nan) if mask_truncated else total
    batch, round_metrics = judge(state.params, rollouts, worth, coefficient)
    # 2. Epochs.
    rows = len(total)
    key = random.fold_in(random.fold_in(state.key, state.step), ORDER_KEY)
    new, skipped = state, []
    for epoch in range(epochs):
        order = random.permutation(random.fold_in(key, epoch), rows).long()
        for i, chosen in enumerate(order.chunk(minibatches) if minibatches > 1 else [None]):
            part = batch if chosen is None else tree.map(lambda x, chosen=chosen: x[chosen], batch)
            own = random.fold_in(state.key, epoch * minibatches + i)
            new = inner.step(new._replace(step=state.step, key=own), part)
            skipped.append(new.metrics["nonfinite_leaf"])
    # 3. Weight.
    if steer is not None:
        moved = steer(coefficient, round_metrics["kl"], steps=rows)
        new = new._replace(extra={**new.extra, "kl_coefficient": moved})
    # 4. Metrics.
    found = {
        "nonfinite_leaf": torch.stack(skipped).amax(),
        **round_metrics,
        **reward_metrics(rollouts, rewards, total.unflatten(0, (-1, samples)), names),
    }
    return TrainState(new.step, state.key, new.params, new.opt_state, new.extra, new.metrics | found)


def experience(
    params: Tree,
    rollouts: Rollouts,
    total: Tensor,
    coefficient: Tensor,
    *,
    look: Callable,
    values: Callable,
    gamma: float,
    lam: float,
    reference: Tree | None,
    compute: torch.dtype,
    given: bool,
) -> tuple[Tree, dict[str, Tensor]]:
    """Judges every token of a round of answers, before anything is learned from it.

    Args:
        params: {"policy", "value"}.
        rollouts: B rows.
        total: [B] float, the rewards; NaN where an answer could not be judged.
        coefficient: [] β.
        look: (params, rollouts) -> LogProbabilities.
        values: (params, rollouts) -> [B, M].
        gamma, lam, reference, compute: see `ppo`.
        given: whether the answers are ready-made, so that only the rollouts' own log-probabilities tell who
            drew them.

    Returns:
        (a batch of rows: the fields of Rollouts, old_logps, old_values, advantages and returns [B, M];
        metrics).
    """
    policy, value = (tree.cast(params[name], compute) for name in ("policy", "value"))
    judged = total.isfinite()
    mask = rollouts.mask & judged[:, None]
    with torch.no_grad():
        old = rollouts.logps if given else look(policy, rollouts).logps
        old_values = torch.where(mask, values(value, rollouts), 0.0)
        distance = torch.zeros_like(old) if reference is None else old - look(reference, rollouts).logps
        last = mask & (mask.cumsum(1) == mask.sum(1, keepdim=True))
        per_token = torch.where(last, total[:, None], 0.0) - coefficient * torch.where(mask, distance, 0.0)
        advantages, returns = gae(per_token, old_values, mask, gamma=gamma, lam=lam)
    tokens = mask.sum().clamp(min=1)
    unforeseen = _variance(returns - old_values, mask) / _variance(returns, mask).clamp(min=1e-8)
    metrics = {
        "kl": torch.where(mask, distance, 0.0).sum() / judged.sum().clamp(min=1),
        "kl_coefficient": coefficient.clone(),
        "values/mean": old_values.sum() / tokens,
        "values/explained_variance": 1 - unforeseen,
        "sampling/sampling_logp_difference/mean": (old - rollouts.logps).abs().sum()
        / rollouts.mask.sum().clamp(min=1),
    }
    batch = {
        **rollouts._replace(mask=mask)._asdict(),
        "old_logps": old,
        "old_values": old_values,
        "advantages": whiten(advantages, mask),
        "returns": returns,
    }
    return batch, metrics


def answers_loss(
    params: Tree,
    batch: Tree,
    key: Tensor,
    *,
    look: Callable,
    values: Callable,
    clip: float,
    clip_value: float | None,
    value_weight: float,
    entropy_weight: float,
) -> tuple[Tensor, Tensor, dict]:
    """Sums the losses of policy and value function over tokens.

    Args:
        params: {"policy", "value"}.
        batch: what `experience` gave, batch_position [B].
        key: not used: nothing is dropped out, so that the ratio to the policy that drew is 1 before the first
            update.
        look, values: see `experience`.
        clip, clip_value, value_weight, entropy_weight: see `ppo`.

    Returns:
        (sum [], count [] tokens, metrics).
    """
    del key
    rollouts = Rollouts(*(batch[name] for name in Rollouts._fields))
    mask, old, advantages = rollouts.mask, batch["old_logps"], batch["advantages"]
    found = look(params["policy"], rollouts)
    policy, tokens = ppo_policy_loss(found.logps, old, advantages, mask, clip=clip)
    guess = values(params["value"], rollouts)
    value, _ = ppo_value_loss(guess, batch["old_values"], batch["returns"], mask, clip=clip_value)
    entropy = torch.where(mask, found.entropy, 0.0).sum()
    loss = policy + value_weight * value - entropy_weight * entropy
    sums = {"policy_loss": policy, "value_loss": value, "entropy": entropy}
    clipped = policy_metrics(found.logps, old, advantages, mask, clip_low=clip, clip_high=clip)
    return loss, tokens, {**{name: (x.detach(), tokens) for name, x in sums.items()}, **clipped}


def _draw(key: Tensor, *, model: Model, critic: ScalarModel) -> Tree:
    """New params of both."""
    policy = model.init(key)
    return {"policy": policy, "value": critic.init(key, policy)}


def _init(
    key: Tensor, params: Tree | None = None, *, inner: Stage, critic: ScalarModel, beta: float
) -> TrainState:
    """The first state; a policy alone is copied for the value function."""
    if params is not None and set(params) != {"policy", "value"}:
        params = {"policy": params, "value": critic.init(named(key, "init"), params)}
    state = inner.init(key, params)
    extra = {**state.extra, "kl_coefficient": torch.tensor(float(beta), device=key.device)}
    more = {name: torch.full((), torch.nan, device=key.device) for name in ROUND_METRICS}
    return state._replace(extra=extra, metrics=state.metrics | more)


def _variance(x: Tensor, mask: Tensor) -> Tensor:
    """[] of what counts."""
    tokens = mask.sum().clamp(min=1)
    mean = torch.where(mask, x, 0.0).sum() / tokens
    return torch.where(mask, x - mean, 0.0).square().sum() / tokens
