"""Group relative policy optimization: sample a group of answers to each prompt and prefer the better ones.

The mathematics is in `pure/loss/grpo.py`, the sampling in `stages/rollout.py`.

Shape letters: N prompts, G samples of each, B = N G rows, P prompt tokens, M new tokens, K reward functions.

Shao et al., "DeepSeekMath", 2024, algorithm 1.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pure import random, tree
from pure.foreign import check_model
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper
from pure.loss.advantages import group_advantages, leave_one_out
from pure.loss.check import may_be_nonzero
from pure.loss.grpo import clip_bounds, grpo_loss
from pure.loss.importance import IMPORTANCE_METRICS, importance_metrics, importance_weights
from pure.loss.kl import kl as divergence
from pure.loss.log_probability import LogProbabilities, LogProbs
from pure.loss.policy_metrics import policy_metrics
from pure.parallel.agreement import by_rows
from pure.parallel.layers import gather_for_model
from pure.transform.frozen import frozen
from pure.transform.precision import cast_params
from pure.types import GradientTransformation, Model, Tree
from stages.online import Examples, Online, Rollout, Score, online, reward_metrics, weighted_sum
from stages.rollout import Rollouts, choose_rollout, mask_truncated_rows, policy_log_probabilities
from stages.stage import Stage, stage
from stages.state import TrainState
from stages.weights import row_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from stages.stage import StageOptions

METRICS = (
    "kl", "kl/log_ratio", "entropy", "approx_kl", "clip_ratio/low_mean", "clip_ratio/high_mean",
    "clip_ratio/region_mean", "sampling/sampling_logp_difference/mean",
)  # fmt: skip
SCALES = ("group", "batch", "none", "leave_one_out")


class GroupLoss(Protocol):
    """`group_loss` with its options bound: -> (sum [], count [], metrics)."""

    def __call__(
        self,
        policy: LogProbabilities,
        old: Tensor,
        sampled: Tensor,
        advantages: Tensor,
        mask: Tensor,
        reference: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, dict]: ...


def grpo(
    model: Model,
    optimizer: GradientTransformation,
    *,
    score: Score | None,
    sampling: Sampling,
    rewards: tuple[str, ...] = ("reward",),
    weights: tuple[float, ...] | None = None,
    samples: int = 8,
    reference: Tree | None = None,
    beta: float = 0.0,
    kl: str = "k3",
    variant: str = "dapo",
    clip_low: float | None = None,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    scale: str = "group",
    iterations: int = 1,
    mask_truncated: bool = False,
    rollout: Rollout | None = None,
    importance_cap: float | None = None,
    compute: torch.dtype = torch.float32,
    chunk: int | None = None,
    compile: bool | Stepper = False,
    **options: Unpack[StageOptions],
) -> Stage:
    """Build the stage that samples answers, scores them and updates the policy in each step.

    Args:
        model: the policy's; it must also be able to decode.
        optimizer: a GradientTransformation; it is called `iterations` times per step.
        score: Rollouts -> rewards [B, K] float32, NaN where one is missing (`stages.score`); or None for
            batches that are ready-made groups: the fields of Rollouts, and "rewards" [B, K].
        sampling: of the answers; the loss reads its temperature and, as the length that dr_grpo divides by,
            max_new_tokens.
        rewards: names of the K rewards, for the metrics.
        weights: of the K rewards in their sum; None weighs each with 1.
        samples: G, answers per prompt.
        reference: params of the frozen policy; needed where beta is not 0.
        beta: weight of the KL divergence from the reference, >= 0.
        kl, variant, clip_low, clip_high, dual_clip: see `pure.loss.grpo.grpo_loss`.
        scale: divisor of the advantages: "group", "batch" or "none", or "leave_one_out" (RLOO's).
        iterations: updates from the same answers; after the first the ratio is no longer 1, and clipping
            matters.
        mask_truncated: leave answers that were cut off at M tokens out of the loss; their rewards still count
            in their group's mean and deviation, as in TRL (overlong filtering, Yu et al. 2025, section 3.4).
        rollout: another sampler of the same policy, (params, batch, key) -> Rollouts of B rows, such as
            `stages.run.vllm_rollout.vllm_rollout`; None samples with `stages.rollout.rollout`. Its draws
            must come from each row's key (`completion_keys`; why: `stages.online.Rollout`).
        importance_cap: largest importance weight between trainer and sampler, > 0: the loss of each token is
            multiplied by `pure.loss.importance.importance_weights` (one weight per answer for gspo and rloo).
            The ratio stays that to the trainer's own log-probabilities before the update. None: no weights.
        compute: dtype of sampling and of the loss; params keep theirs.
        chunk: rows whose logits are computed at a time, to bound memory; None computes all at once.
        compile: as in `pure.generation.generate.generate`, for sampling.
        options: of `stages.stage.stage`; `accumulation` counts groups.

    Returns:
        Stage(init, step, loss, parts) for batches of prompts, {"prompts" [N, P], "lengths" [N], "row" [N]}.
        `parts` are rollout, score and update; update is pure: (state, rollouts, rewards) -> state.

    Edge cases: dropout of the model and of adapters is disabled, so that the ratio is 1 on fresh answers.
    Groups of equal rewards have advantage 0 and, with beta 0, a gradient of exactly 0; Adam's momentum and
    weight decay still move the params then. With beta above 0 the KL term counts for all answers, as in TRL:
    also for groups of equal rewards and for unscored answers, if another answer in the batch is scored. A
    step without any scored answer is skipped, as `nonfinite_leaf` reports; with several iterations it
    reports if any of them was skipped.

    Raises:
        ValueError: for arguments that contradict each other.
    """
    check_model("grpo", model)
    if scale not in SCALES:
        raise ValueError(f"grpo: scale must be one of {', '.join(SCALES)}, got {scale!r}")
    if iterations < 1 or samples < 1:
        raise ValueError(
            f"grpo: iterations and samples must be at least 1, got iterations={iterations}, samples={samples}"
        )
    if may_be_nonzero(beta) and reference is None:
        raise ValueError(f"grpo: beta {beta} needs a reference; give reference=params, or beta=0")
    logps_fn = policy_log_probabilities(model, temperature=sampling.temperature, chunk=chunk)
    group_loss_fn = partial(
        group_loss,
        importance_cap=importance_cap,
        variant=variant,
        clip_low=clip_low,
        clip_high=clip_high,
        beta=beta,
        kl=kl,
        max_length=sampling.max_new_tokens,
        dual_clip=dual_clip,
    )
    loss = partial(batch_loss, logps_fn=logps_fn, group_loss_fn=group_loss_fn)
    metrics = METRICS if importance_cap is None else METRICS + IMPORTANCE_METRICS
    inner = stage(loss, optimizer, init=model.init, metrics=metrics, compute=compute, **options)
    rollout_fn = choose_rollout(
        rollout, model, sampling, samples=samples, dtype=compute, compile=compile, cap=importance_cap
    )
    examples_fn = partial(
        examples,
        logps_fn=logps_fn,
        samples=samples,
        weights=weights,
        scale=scale,
        reference=cast_params(reference, compute),
        compute=compute,
        behaviour=_behaviour(score, iterations, importance_cap),
        mask_truncated=mask_truncated,
    )
    update_fn = partial(
        update,
        inner=inner,
        examples_fn=examples_fn,
        samples=samples,
        names=rewards,
        weights=weights,
        iterations=iterations,
    )
    parts = Online(inner.init, rollout_fn, score, update_fn, examples_fn, samples)
    return online(parts, rewards, loss=inner.loss)


def update(
    state: TrainState,
    rollouts: Rollouts,
    rewards: Tensor,
    answer_weights: Tensor | None = None,
    *,
    inner: Stage,
    examples_fn: Examples,
    samples: int,
    names: tuple[str, ...],
    weights: tuple[float, ...] | None,
    iterations: int,
) -> TrainState:
    """Update the policy from answers and their rewards: a pure function of ids and numbers, without text.

    Args:
        state: the policy's; it is not modified.
        rollouts: B = N G rows.
        rewards: [B, K] float, NaN where one is missing: the others count; without any the advantage is 0.
        answer_weights: [B] float, weights of the answers in the loss; None: 1. Advantages are computed
            without them.
        inner: the stage that takes one optimizer step on groups.
        examples_fn: `examples`, bound.
        samples: G.
        names, weights: of the K rewards.
        iterations: see `grpo`.

    Returns:
        The next state, `step` one higher.

    Steps:
        1. The batch, in groups.
        2. `iterations` optimizer steps.
        3. Metrics of the rewards next to those of the loss.
    """
    # 1. Batch.
    rows = examples_fn(state, rollouts, rewards)
    batch = tree.map(lambda x: x.flatten(0, 1).unflatten(0, (-1, samples)), rows)
    if answer_weights is not None:
        batch["weights"] = answer_weights.unflatten(0, (-1, samples))
    # 2. Optimizer steps.
    new, skipped = state, []
    for i in range(iterations):
        key = state.key if i == 0 else random.fold_in(state.key, i)
        new = inner.step(new._replace(step=state.step, key=key), batch)
        skipped.append(new.metrics["nonfinite_leaf"])
    # 3. Metrics.
    groups = weighted_sum(rewards, weights).unflatten(0, (-1, samples))
    metrics = new.metrics | reward_metrics(rollouts, rewards, groups, names)
    metrics["nonfinite_leaf"] = torch.stack(skipped).amax()
    # Not `_replace`: torch 2.11 cannot return what that makes from a step that is compiled as one graph.
    return TrainState(new.step, state.key, new.params, new.opt_state, new.extra, metrics)


def examples(
    state: TrainState,
    rollouts: Rollouts,
    rewards: Tensor,
    *,
    logps_fn: LogProbs,
    reference: Tree | None,
    samples: int,
    weights: tuple[float, ...] | None,
    scale: str,
    compute: torch.dtype,
    behaviour: str | None,
    mask_truncated: bool,
) -> Tree:
    """Make the batch of `batch_loss` with one completion a row, as a group of one.

    The sums of the loss over groups of one and over whole groups are equal, as the advantages are numbers of
    the batch. The gradient of a row is that of a completion, at fixed advantages.

    Args:
        state: the policy's.
        rollouts: B = N G rows.
        rewards: [B, K] float, NaN where one is missing.
        logps_fn: (params, rollouts) -> LogProbabilities.
        reference: the frozen policy's params, or None.
        samples: G.
        weights: of the K rewards.
        scale, compute, mask_truncated: see `grpo`.
        behaviour: source of the behaviour policy's log-probabilities: "rollouts" for ready-made answers,
            "params" computes them from the state's params, None takes those of the loss itself.

    Returns:
        dict of tensors [B, 1, ...].

    Steps:
        1. One reward per row, and advantages within each group.
        2. Log-probabilities under the reference and under the behaviour policy.
    """
    # 1. Advantages.
    groups = weighted_sum(rewards, weights).unflatten(0, (-1, samples))
    advantages = leave_one_out(groups) if scale == "leave_one_out" else group_advantages(groups, scale=scale)
    answers = mask_truncated_rows(rollouts) if mask_truncated else rollouts
    # 2. Log-probabilities.
    scored = groups.isfinite().flatten() & answers.mask.any(1)
    inputs = {"advantages": advantages.flatten(), "scored": scored.any().expand(len(rewards))}
    if reference is not None:
        inputs["reference_logps"] = by_rows(frozen(logps_fn), samples)(reference, answers).logps
    if behaviour == "rollouts":
        inputs["old_logps"] = answers.logps
    elif behaviour == "params":
        policy = cast_params(gather_for_model(state.params), compute)
        inputs["old_logps"] = by_rows(frozen(logps_fn), samples)(policy, answers).logps
    return tree.map(lambda x: x[:, None], {**answers._asdict(), **inputs})


def _behaviour(score: Score | None, iterations: int, importance_cap: float | None) -> str | None:
    """Choose the source of the behaviour policy's log-probabilities; see `examples`."""
    if score is None:
        return "rollouts" if importance_cap is None else "params"
    return "params" if iterations > 1 else None


def batch_loss(
    params: Tree, batch: Tree, key: Tensor | None, *, logps_fn: LogProbs, group_loss_fn: GroupLoss
) -> tuple[Tensor, Tensor, dict]:
    """Sum the loss of all groups: one forward pass of all answers, then `group_loss`, vmapped.

    Args:
        params: the policy's.
        batch: the fields of Rollouts [N, G, ...], advantages [N, G], batch_position [N]; optional:
            reference_logps and old_logps [N, G, M] (without the latter, the policy is the behaviour policy),
            weights [N] of the groups or [N, G] of the answers, and scored [N, G], False everywhere if no
            answer of the step has a reward: the count is then 0, and the step is skipped.
        key: not used: dropout is disabled, so that the ratio to the behaviour policy is 1 before the first
            update.
        logps_fn, group_loss_fn: bound by `grpo`.

    Returns:
        (sum [], count [], metrics).
    """
    del key
    rollouts = Rollouts(*(batch[name].flatten(0, 1) for name in Rollouts._fields))
    size = batch["mask"].shape[1]
    policy = tree.map(lambda x: x.unflatten(0, (-1, size)), logps_fn(params, rollouts))
    groups = {
        "policy": policy,
        "old": batch.get("old_logps", policy.logps.detach()),
        "sampled": batch["logps"],
        "advantages": batch["advantages"],
        "mask": batch["mask"],
    }
    if "reference_logps" in batch:
        groups["reference"] = batch["reference_logps"]
    weights = _answer_weights(batch)
    if weights is not None:  # the sums over groups of one are equal
        groups, weights = tree.map(lambda x: x.flatten(0, 1)[:, None], groups), weights.flatten()
    values, spec = tree.flatten(groups)
    results = torch.func.vmap(lambda *values: group_loss_fn(**tree.unflatten(spec, list(values))))(*values)
    total, count, metrics = tree.map(lambda x: (x if weights is None else x * weights).sum(0), results)
    if "scored" in batch:
        count = count * batch["scored"].any()
    return total, count, metrics


def _answer_weights(batch: Tree) -> Tensor | None:
    """The weights of the answers [N, G], from those of groups [N] or of answers; None without weights."""
    weights, shape = batch.get("weights"), batch["mask"].shape[:2]
    if weights is None or weights.shape == shape:
        return weights
    expanded = row_weights(batch)
    return None if expanded is None else expanded[:, None].expand(shape)


def group_loss(
    policy: LogProbabilities,
    old: Tensor,
    sampled: Tensor,
    advantages: Tensor,
    mask: Tensor,
    reference: Tensor | None = None,
    importance_cap: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, dict]:
    """Compute the loss of one group of answers to one prompt.

    Args:
        policy: LogProbabilities(logps, entropy) [G, M] under the policy that is trained.
        old: [G, M] nats, under the behaviour policy.
        sampled: [G, M] nats, as the sampler computed them; for a metric, and for importance weights.
        advantages: [G].
        mask: [G, M] bool.
        reference: [G, M] nats, under the frozen policy, or None.
        importance_cap: see `grpo`.
        options: of `pure.loss.grpo.grpo_loss`.

    Returns:
        (sum [], count [], metrics {name: (sum [], tokens [])}).
    """
    weights = importance = None
    if importance_cap is not None:
        level = "sequence" if options["variant"] in ("gspo", "rloo") else "token"
        weights = importance_weights(old, sampled, mask, cap=importance_cap, level=level)
        importance = importance_metrics(weights, mask, cap=importance_cap)
    losses = grpo_loss(policy.logps, old, reference, advantages, mask, token_weights=weights, **options)
    low, high = clip_bounds(options["variant"], options["clip_low"], options["clip_high"])
    tokens = mask.sum().float()
    logps = policy.logps.detach()
    kl = log_ratio = torch.zeros_like(old)
    if reference is not None:
        kl, log_ratio = divergence(logps, reference, options["kl"]), logps - reference
    sums = {
        "kl": torch.where(mask, kl, 0.0).sum(),
        "kl/log_ratio": torch.where(mask, log_ratio, 0.0).sum(),  # k1: unlike k3, no single token dominates
        "entropy": policy.entropy.detach().sum(),
        "sampling/sampling_logp_difference/mean": torch.where(mask, (old - sampled).abs(), 0.0).sum(),
    }
    clipped = policy_metrics(policy.logps, old, advantages, mask, clip_low=low, clip_high=high)
    metrics = {name: (x, tokens) for name, x in sums.items()}
    return losses.sum, losses.count, {**clipped, **metrics, **(importance or {})}
