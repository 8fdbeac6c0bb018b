"""Group relative policy optimization: draw a group of answers to each prompt, and learn from which were
better.

The mathematics is in `pure/loss/grpo.py`, the drawing in `stages/rollout.py`.

Shape letters: N prompts, G samples of each, B = N G rows, P prompt tokens, M new tokens, K reward functions.

Shao et al., "DeepSeekMath", 2024, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import random, tree
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper
from pure.loss.advantages import group_advantages, leave_one_out
from pure.loss.grpo import clips, grpo_loss, policy_metrics
from pure.loss.kl import kl as divergence
from pure.loss.log_probability import linear_log_probabilities
from pure.transform.jit import region
from pure.types import GradientTransformation, Model, Tree
from stages.online import Online, Score, online, reward_metrics, weighted_sum
from stages.rollout import Rollouts, completion_log_probabilities, rollout, without_truncated
from stages.stage import Stage, stage
from stages.state import TrainState

METRICS = (
    "kl", "kl/log_ratio", "entropy", "approx_kl", "clip_ratio/low_mean", "clip_ratio/high_mean",
    "clip_ratio/region_mean", "sampling/sampling_logp_difference/mean",
)  # fmt: skip
SCALES = ("group", "batch", "none", "leave_one_out")


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
    compute: torch.dtype = torch.float32,
    chunk: int | None = None,
    compile: bool | Stepper = False,
    **options: Any,
) -> Stage:
    """Makes the stage that draws, scores and learns in each step.

    Args:
        model: the policy's; it must also be able to decode.
        optimizer: optax's pair; it is called `iterations` times a step.
        score: Rollouts -> rewards [B, K], NaN where one is missing (`stages.score`, or a reward model);
            or None for batches that are ready-made groups: the fields of Rollouts, and "rewards" [B, K].
        sampling: of the answers; the loss reads its temperature and, as the length that dr_grpo divides by,
            max_new_tokens.
        rewards: names of the K rewards, for the metrics.
        weights: of the K rewards in their sum; None weighs each with 1.
        samples: G, answers a prompt.
        reference: params of the frozen policy; needed where beta is not 0.
        beta: weight of the divergence from the reference, >= 0.
        kl, variant, clip_low, clip_high, dual_clip: see `pure.loss.grpo.grpo_loss`.
        scale: what advantages are divided by: "group", "batch" or "none", or "leave_one_out" (RLOO's).
        iterations: updates from the same answers; beyond the first the ratio is no longer 1, and clipping
            matters.
        mask_truncated: whether answers that were cut off at M tokens are left out of the loss; their rewards
            still count in their group's mean and deviation, as in TRL (Yu et al. 2025, section 3.4, drops
            them likewise).
        compute: dtype of the products, for drawing as for learning; params stay as they are.
        chunk: rows whose logits are held at a time; None holds all.
        compile: as in `pure.generation.generate.generate`, for the drawing.
        options: `accumulation` (of groups), `ema`, `loss_scale` of `stages.stage.stage`.

    Returns:
        Stage(init, step, loss, parts) for batches of prompts, {"prompts" [N, P], "lengths" [N], "row" [N]}. Its
        `parts` are rollout, score and update; update is pure and obeys every law of a stage.

    Edge cases: a dropout of the model or of adapters is not used, so that the ratio is 1 on fresh answers.
    Groups of equal rewards have advantage 0 and, with beta 0, a gradient of exactly 0; Adam's momentum and a
    weight decay still move the params then. With beta above 0 they are pulled towards the reference like all
    others, as in TRL, and so are answers that could not be judged beside others that could. A round in which
    no answer could be judged is skipped, and `nonfinite_leaf` says so; so it does if one of several
    iterations was.

    Raises:
        ValueError: for arguments that contradict each other.
    """
    if scale not in SCALES or iterations < 1 or samples < 1 or (beta and reference is None):
        raise ValueError(
            f"grpo: scale must be one of {', '.join(SCALES)}, iterations and samples at least 1, and beta > 0 needs a "
            f"reference; got {scale!r}, {iterations}, {samples}, and beta {beta} with reference "
            f"{None if reference is None else 'params'}"
        )
    measure = partial(
        linear_log_probabilities,
        logits=model.logits,
        temperature=sampling.temperature,
        entropy=True,
        chunk=chunk,
    )
    look = partial(completion_log_probabilities, model=model, head=region(measure))
    group = partial(
        group_loss,
        variant=variant,
        clip_low=clip_low,
        clip_high=clip_high,
        beta=beta,
        kl=kl,
        max_length=sampling.max_new_tokens,
        dual_clip=dual_clip,
    )
    loss = partial(groups_loss, look=look, group=group)
    inner = stage(loss, optimizer, init=model.init, metrics=METRICS, compute=compute, **options)
    draw = partial(
        rollout,
        model,
        samples=samples,
        sampling=sampling,
        dtype=compute,
        compile=compile,
    )
    learn = partial(
        update,
        inner=inner,
        look=look,
        samples=samples,
        names=rewards,
        weights=weights,
        scale=scale,
        reference=None if reference is None else tree.cast(reference, compute),
        iterations=iterations,
        compute=compute,
        given=score is None,
        mask_truncated=mask_truncated,
    )
    return online(Online(inner.init, draw, score, learn), rewards, loss=inner.loss)


def update(
    state: TrainState,
    rollouts: Rollouts,
    rewards: Tensor,
    *,
    inner: Stage,
    look: Callable,
    reference: Tree | None,
    samples: int,
    names: tuple[str, ...],
    weights: tuple[float, ...] | None,
    scale: str,
    iterations: int,
    compute: torch.dtype,
    given: bool,
    mask_truncated: bool,
) -> TrainState:
    """Learns from answers and their rewards: pure, and without a look at text.

    Args:
        state: unchanged by this.
        rollouts: B = N G rows.
        rewards: [B, K] float, NaN where one is missing: the others count; an answer without any teaches
            nothing.
        inner: the stage that takes one optimizer step on groups.
        look: (params, rollouts) -> LogProbabilities.
        reference: the frozen policy's params, or None.
        samples: G.
        names, weights: of the K rewards.
        scale, iterations, compute: see `grpo`.
        given: whether the answers are ready-made, so that only the rollouts' own log-probabilities tell who
            drew them.
        mask_truncated: see `grpo`.

    Returns:
        The next state, `step` one higher.

    Steps:
        1. One reward a row, and advantages within each group.
        2. Log-probabilities under the reference, and, if the answers are used more than once, under the
           policy that drew them.
        3. As many optimizer steps as wanted.
        4. Metrics of the rewards beside those of the loss.
    """
    # 1. Advantages.
    groups = weighted_sum(rewards, weights).unflatten(0, (-1, samples))
    advantages = leave_one_out(groups) if scale == "leave_one_out" else group_advantages(groups, scale=scale)
    learned = without_truncated(rollouts) if mask_truncated else rollouts
    # 2. Log-probabilities.
    beside: dict[str, Tensor] = {
        "advantages": advantages.flatten(),
        "judged": (groups.isfinite().flatten() & learned.mask.any(1)).any().expand(len(rewards)),
    }
    with torch.no_grad():
        if reference is not None:
            beside["reference_logps"] = look(reference, learned).logps
        if given or iterations > 1:
            old = learned.logps if given else look(tree.cast(state.params, compute), learned).logps
            beside["old_logps"] = old
    batch = tree.map(lambda x: x.unflatten(0, (-1, samples)), {**learned._asdict(), **beside})
    # 3. Optimizer steps.
    new, skipped = state, []
    for i in range(iterations):
        key = state.key if i == 0 else random.fold_in(state.key, i)
        new = inner.step(new._replace(step=state.step, key=key), batch)
        skipped.append(new.metrics["nonfinite_leaf"])
    # 4. Metrics.
    metrics = new.metrics | reward_metrics(rollouts, rewards, groups, names)
    metrics["nonfinite_leaf"] = torch.stack(skipped).amax()
    return TrainState(new.step, state.key, new.params, new.opt_state, new.extra, metrics)


def groups_loss(params: Tree, batch: Tree, key: Tensor, *, look: Callable, group: Callable) -> tuple:
    """Sums the loss of all groups: one forward pass over all answers, then `group_loss`, vmapped.

    Args:
        params: the policy's.
        batch: the fields of Rollouts [N, G, ...], advantages [N, G], batch_position [N]; reference_logps and old_logps
            [N, G, M] by choice (without the latter the policy is the one that drew); judged [N, G] by choice,
            False everywhere if no answer of the round could be judged: then nothing counts, and the step is
            skipped.
        key: not used: nothing is dropped out, so that the ratio to the policy that drew is 1 before the first
            update.
        look, group: bound by `grpo`.

    Returns:
        (sum [], count [], metrics).
    """
    del key
    rollouts = Rollouts(*(batch[name].flatten(0, 1) for name in Rollouts._fields))
    size = batch["mask"].shape[1]
    found = tree.map(lambda x: x.unflatten(0, (-1, size)), look(params, rollouts))
    old = batch.get("old_logps", found.logps.detach())
    given = {"reference": batch["reference_logps"]} if "reference_logps" in batch else {}
    rows = {
        "found": found,
        "old": old,
        "sampled": batch["logps"],
        "advantages": batch["advantages"],
        "mask": batch["mask"],
        **given,
    }
    values, spec = tree.flatten(rows)
    results = torch.func.vmap(lambda *values: group(**tree.unflatten(spec, list(values))))(*values)
    total, count, metrics = tree.map(lambda x: x.sum(0), results)
    return total, count * batch["judged"].any() if "judged" in batch else count, metrics


def group_loss(
    found: Any,
    old: Tensor,
    sampled: Tensor,
    advantages: Tensor,
    mask: Tensor,
    reference: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, dict]:
    """The loss of one group of answers to one prompt.

    Args:
        found: LogProbabilities(logps, entropy) [G, M] under the policy that is trained.
        old: [G, M] nats, under the policy that drew them.
        sampled: [G, M] nats, as the sampler said while drawing; only for a metric.
        advantages: [G].
        mask: [G, M] bool.
        reference: [G, M] nats, under the frozen policy, or None.
        options: of `pure.loss.grpo.grpo_loss`.

    Returns:
        (sum [], count [], metrics {name: (sum [], tokens [])}).
    """
    total, count = grpo_loss(found.logps, old, reference, advantages, mask, **options)
    low, high = clips(options["variant"], options["clip_low"], options["clip_high"])
    tokens = mask.sum().float()
    now = found.logps.detach()
    far = torch.zeros_like(old) if reference is None else divergence(now, reference, options["kl"])
    ratio = torch.zeros_like(old) if reference is None else now - reference
    sums = {
        "kl": torch.where(mask, far, 0.0).sum(),
        "kl/log_ratio": torch.where(mask, ratio, 0.0).sum(),  # k1: one token cannot blow it up, as it can k3
        "entropy": found.entropy.detach().sum(),
        "sampling/sampling_logp_difference/mean": torch.where(mask, (old - sampled).abs(), 0.0).sum(),
    }
    clipped = policy_metrics(found.logps, old, advantages, mask, clip_low=low, clip_high=high)
    return total, count, {**clipped, **{name: (x, tokens) for name, x in sums.items()}}
