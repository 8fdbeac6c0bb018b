"""Proximal policy optimization: a policy and a value function learn together from the policy's own answers.

The mathematics is in `pure/loss/ppo.py`, the sampling in `stages/rollout.py`, the value function in
`pure/nn/scalar.py`.

Shape letters: B rows (N prompts, G samples of each), M new tokens, K reward functions.

Schulman et al., "Proximal Policy Optimization Algorithms", 2017; Stiennon et al., "Learning to summarize from
human feedback", 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from zlib import crc32

import torch
from torch import Tensor

from pure import random, tree
from pure.foreign import check_model
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper
from pure.loss.importance import IMPORTANCE_METRICS
from pure.loss.kl import adaptive_coefficient
from pure.loss.log_probability import LogProbabilities, LogProbs
from pure.loss.policy_metrics import policy_metrics
from pure.loss.ppo import ppo_policy_loss, ppo_value_loss
from pure.nn.scalar import ScalarModel, scalar_model
from pure.transform.precision import cast_params
from pure.types import GradientTransformation, Model, Tree
from stages.experience import Experience, Values, experience
from stages.online import Online, Rollout, Score, online, reward_metrics, weighted_sum
from stages.rollout import Rollouts, choose_rollout, completion_states, policy_log_probabilities
from stages.stage import Stage, fold_in_name, stage
from stages.state import TrainState
from stages.weights import row_weights, sum_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from stages.stage import StageOptions

ORDER_KEY = crc32(b"minibatches")
"""Number that is folded into the step's key, for the key that shuffles the minibatches."""

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
"""Metrics of a round, all answers of one step: the KL divergence from the reference (nats per answer) and its
weight; the mean value, and the share of the returns' variance that the values explain; the mean absolute
difference between the log-probabilities of sampler and trainer."""


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
    rollout: Rollout | None = None,
    importance_cap: float | None = None,
    compute: torch.dtype = torch.float32,
    compile: bool | Stepper = False,
    **options: Unpack[StageOptions],
) -> Stage:
    """Build the stage that samples answers, scores them and updates policy and value function in each step.

        reward_t = score at the answer's last token - β (logp_t - reference_t)
        loss = policy loss + value_weight · value loss - entropy_weight · entropy

    Args:
        model: the policy's; the value function is another copy of it with a scalar head.
        optimizer: a GradientTransformation; it is called epochs · minibatches times per step.
        score: Rollouts -> rewards [B, K] float32, or None for ready-made groups, as in `stages.grpo.grpo`.
        sampling: sampling settings of the answers; the loss uses their temperature.
        rewards, weights: names of the K rewards, and their weights in the sum.
        samples: G, answers per prompt.
        reference: params of the frozen policy; None penalises no divergence.
        beta: β >= 0, initial weight of the KL divergence.
        target_kl: KL divergence, nats per answer, towards which β is adapted; None keeps β.
        horizon: number of answers over which β changes by at most a fifth; see
            `pure.loss.kl.adaptive_coefficient`.
        gamma, lam: see `pure.loss.ppo.gae`.
        clip, clip_value: clip ranges of the ratio and of the value, see `pure.loss.ppo`.
        value_weight, entropy_weight: weights in the loss above.
        epochs: number of times that a round's answers are used.
        minibatches: number of parts of each epoch, shuffled in every epoch; must divide B.
        mask_truncated: leave answers that were cut off at M tokens out of the losses of policy and value
            function; their rewards are still reported.
        rollout: another sampler of the same policy, as in `stages.grpo.grpo`, whose randomness must come from
            each row's key (`stages.rollout.completion_keys`); None samples with `stages.rollout.rollout`.
        importance_cap: largest importance weight between trainer and sampler, > 0: the policy loss of each
            token is multiplied by `pure.loss.importance.importance_weights`; the value loss is not. None: no
            weights.
        compute: dtype of the forward and backward pass; params keep theirs.
        compile: as in `pure.generation.generate.generate`, for sampling.
        options: of `stages.stage.stage`; `accumulation` counts answers.

    Returns:
        Stage(init, step, loss, parts); params are {"policy": the model's, "value": the scalar model's}, and
        `init(key, params)` takes either that or a policy alone, of which the value function then starts as a
        copy. The weight β is in `extra["kl_coefficient"]`.

    Edge cases: the dropout of the model and of adapters is never applied, so that the ratio is 1 before the
    first update. An update from answers without any reward is skipped, which `nonfinite_leaf` reports.

    Raises:
        ValueError: for counts below 1.
    """
    check_model("ppo", model)
    if min(epochs, minibatches, samples) < 1:
        raise ValueError(
            f"ppo: epochs, minibatches and samples must be at least 1, got {epochs, minibatches, samples}"
        )
    critic = scalar_model(model)
    logps_fn = policy_log_probabilities(model, temperature=sampling.temperature)
    values_fn = partial(completion_states, critic.score)
    loss = partial(
        answers_loss,
        logps_fn=logps_fn,
        values_fn=values_fn,
        clip=clip,
        clip_value=clip_value,
        value_weight=value_weight,
        entropy_weight=entropy_weight,
    )
    new_params = partial(_new_params, model=model, critic=critic)
    inner = stage(loss, optimizer, init=new_params, metrics=METRICS, compute=compute, **options)
    rollout_fn = choose_rollout(
        rollout, model, sampling, samples=samples, dtype=compute, compile=compile, cap=importance_cap
    )
    experience_fn = partial(
        experience,
        logps_fn=logps_fn,
        values_fn=values_fn,
        gamma=gamma,
        lam=lam,
        reference=cast_params(reference, compute),
        compute=compute,
        offline=score is None,
        mask_truncated=mask_truncated,
        importance_cap=importance_cap,
    )
    update_fn = partial(
        update,
        inner=inner,
        experience_fn=experience_fn,
        kl_controller=_kl_controller(target_kl, horizon),
        samples=samples,
        names=rewards,
        weights=weights,
        epochs=epochs,
        minibatches=minibatches,
    )
    round_metrics = ROUND_METRICS if importance_cap is None else ROUND_METRICS + IMPORTANCE_METRICS
    init = partial(_init, inner=inner, critic=critic, beta=beta, round_metrics=round_metrics)
    examples_fn = partial(examples, experience_fn=experience_fn, weights=weights)
    parts = Online(init, rollout_fn, score, update_fn, examples_fn, samples)
    return online(parts, rewards, loss=inner.loss)


def update(
    state: TrainState,
    rollouts: Rollouts,
    rewards: Tensor,
    answer_weights: Tensor | None = None,
    *,
    inner: Stage,
    experience_fn: Experience,
    kl_controller: Callable[..., Tensor] | None,
    samples: int,
    names: tuple[str, ...],
    weights: tuple[float, ...] | None,
    epochs: int,
    minibatches: int,
) -> TrainState:
    """Update policy and value function from answers and their rewards: a pure function of tensors.

    Args:
        state: the current state; it is not modified.
        rollouts: B rows.
        rewards: [B, K] float, NaN where one is missing: the others are summed; an answer without any is
            left out.
        answer_weights: [B] float, weights of the answers in the loss; None: 1. Advantages are computed
            without them.
        inner: the stage that takes one optimizer step on rows.
        experience_fn: `experience`, bound.
        kl_controller: (β, KL divergence, steps=) -> the next β, or None.
        samples: G, for the metrics of groups.
        names, weights: names and weights of the K rewards.
        epochs, minibatches: see `ppo`.

    Returns:
        The next state, `step` one higher.

    Steps:
        1. One reward per row; advantage and return of each token.
        2. Epochs of minibatches, in an order that the step's key determines.
        3. The weight of the KL divergence.
        4. Metrics.
    """
    # 1. Advantages and returns.
    total = weighted_sum(rewards, weights)
    coefficient = state.extra["kl_coefficient"]
    batch, round_metrics = experience_fn(state.params, rollouts, total, coefficient)
    if answer_weights is not None:
        batch["weights"] = answer_weights
    # 2. Epochs.
    rows = len(total)
    key = random.fold_in(random.fold_in(state.key, state.step), ORDER_KEY)
    new, skipped = state, []
    for epoch in range(epochs):
        order = random.permutation(random.fold_in(key, epoch), rows).long()
        for i, chosen in enumerate(order.chunk(minibatches) if minibatches > 1 else [None]):
            minibatch = batch if chosen is None else tree.map(lambda x, chosen=chosen: x[chosen], batch)
            minibatch_key = random.fold_in(state.key, epoch * minibatches + i)
            new = inner.step(new._replace(step=state.step, key=minibatch_key), minibatch)
            skipped.append(new.metrics["nonfinite_leaf"])
    # 3. Weight.
    if kl_controller is not None:
        adapted = kl_controller(coefficient, round_metrics["kl"], steps=rows)
        new = new._replace(extra={**new.extra, "kl_coefficient": adapted})
    # 4. Metrics.
    groups = total.unflatten(0, (-1, samples))
    metrics = new.metrics | round_metrics | reward_metrics(rollouts, rewards, groups, names)
    metrics["nonfinite_leaf"] = torch.stack(skipped).amax()
    # Not `_replace`: torch 2.11 cannot return what that makes from a step that is compiled as one graph.
    return TrainState(new.step, state.key, new.params, new.opt_state, new.extra, metrics)


def examples(
    state: TrainState,
    rollouts: Rollouts,
    rewards: Tensor,
    *,
    experience_fn: Experience,
    weights: tuple[float, ...] | None,
) -> Tree:
    """Make the batch of `answers_loss`, one row a completion.

    Args:
        state, rollouts, rewards, experience_fn, weights: as in `update`.

    Returns:
        dict of tensors [B, ...].
    """
    total = weighted_sum(rewards, weights)
    return experience_fn(state.params, rollouts, total, state.extra["kl_coefficient"])[0]


def answers_loss(
    params: Tree,
    batch: Tree,
    key: Tensor | None,
    *,
    logps_fn: LogProbs,
    values_fn: Values,
    clip: float,
    clip_value: float | None,
    value_weight: float,
    entropy_weight: float,
) -> tuple[Tensor, Tensor, dict]:
    """Sum the losses of policy and value function over tokens.

    Args:
        params: {"policy", "value"}.
        batch: the batch from `experience`, with batch_position [B]; optional: weights [B].
        key: not used, as there is no dropout: the ratio to the behaviour policy is 1 before the first update.
        logps_fn, values_fn: see `experience`.
        clip, clip_value, value_weight, entropy_weight: see `ppo`.

    Returns:
        (sum [], count [] tokens, metrics).
    """
    del key
    rollouts = Rollouts(*(batch[name] for name in Rollouts._fields))
    current = logps_fn(params["policy"], rollouts)
    values = values_fn(params["value"], rollouts)

    def sums(current: LogProbabilities, values: Tensor, batch: Tree) -> tuple[Tensor, Tensor, dict]:
        mask, old, advantages = batch["mask"], batch["old_logps"], batch["advantages"]
        weights = batch.get("token_weights")
        policy, tokens = ppo_policy_loss(
            current.logps, old, advantages, mask, clip=clip, token_weights=weights
        )
        value, _ = ppo_value_loss(values, batch["old_values"], batch["returns"], mask, clip=clip_value)
        entropy = torch.where(mask, current.entropy, 0.0).sum()
        loss = policy + value_weight * value - entropy_weight * entropy
        parts = {"policy_loss": policy, "value_loss": value, "entropy": entropy}
        clipped = policy_metrics(current.logps, old, advantages, mask, clip_low=clip, clip_high=clip)
        return loss, tokens, {**{name: (x.detach(), tokens) for name, x in parts.items()}, **clipped}

    return sum_rows(sums, row_weights(batch), current, values, batch)


def _kl_controller(target: float | None, horizon: float) -> Callable[..., Tensor] | None:
    """The function that adapts β to a target; None keeps β."""
    return None if target is None else partial(adaptive_coefficient, target=target, horizon=horizon)


def _new_params(key: Tensor, *, model: Model, critic: ScalarModel) -> Tree:
    """Initial params of policy and value function."""
    policy = model.init(key)
    return {"policy": policy, "value": critic.init(key, policy)}


def _init(
    key: Tensor,
    params: Tree | None = None,
    *,
    inner: Stage,
    critic: ScalarModel,
    beta: float,
    round_metrics: tuple[str, ...],
) -> TrainState:
    """The initial state; the value function starts from a copy of the policy if only that is given."""
    if params is not None and set(params) != {"policy", "value"}:
        params = {"policy": params, "value": critic.init(fold_in_name(key, "init"), params)}
    state = inner.init(key, params)
    extra = {**state.extra, "kl_coefficient": torch.tensor(float(beta), device=key.device)}
    metrics = {name: torch.full((), torch.nan, device=key.device) for name in round_metrics}
    return state._replace(extra=extra, metrics=state.metrics | metrics)
