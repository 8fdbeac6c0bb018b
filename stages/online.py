"""Learning from one's own answers: a step in three parts, of which only the middle one may look at text.

`rollout` draws (deterministic in params, prompts and key), `score` judges (Python, outside torch), `update`
learns (pure, and obeys every law of a stage). `Stage.step` composes them; whoever wants a loop of their own
takes them apart.

Shape letters: B rows, K reward functions, N prompts, G samples of each, M new tokens.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol
from zlib import crc32

import torch
from torch import Tensor

from pure import random
from pure.loss.advantages import equal_rewards
from pure.transform.jit import outside
from pure.types import Tree
from stages.rollout import Rollouts
from stages.stage import Init, Loss, Stage
from stages.state import TrainState

ROLLOUT_KEY = crc32(b"rollout")
"""What the key of a step's rollouts is folded from."""

ALWAYS = (
    "reward", "reward_std", "frac_reward_zero_std", "frac_unjudged", "completions/mean_length",
    "completions/clipped_ratio",
)  # fmt: skip
"""Metrics of the rewards, under TRL's names where it has one: the share of groups whose rewards are all
equal, from which nothing can be learned; the share of answers without a reward; the share of answers that
were cut off."""


class Rollout(Protocol):
    """Sampled completions of a batch of prompts: (params, batch, key [2]) -> Rollouts."""

    def __call__(self, params: Tree, batch: Tree, key: Tensor, /) -> Rollouts: ...


class Score(Protocol):
    """Rewards of completions: Rollouts -> rewards [B, K] float32, NaN where a completion could not be scored."""

    def __call__(self, rollouts: Rollouts, /) -> Tensor: ...


class Update(Protocol):
    """Learning from completions and their rewards [B, K]: (state, rollouts, rewards) -> TrainState. Pure."""

    def __call__(self, state: TrainState, rollouts: Rollouts, rewards: Tensor, /) -> TrainState: ...


class Online(NamedTuple):
    """The three parts of a step, and the first state.

    Fields:
        init: (key, params=None) -> TrainState.
        rollout: (params, batch, key) -> Rollouts.
        score: Rollouts -> rewards [B, K]; None where batches come with their rewards.
        update: (state, rollouts, rewards) -> TrainState.
    """

    init: Init
    rollout: Rollout
    score: Score | None
    update: Update


def online(parts: Online, rewards: tuple[str, ...], *, loss: Loss | None = None) -> Stage:
    """Composes the parts to a stage; without a score, a stage for ready-made groups.

    Args:
        parts: see Online.
        rewards: names of the K rewards.
        loss: what the parts' update differentiates.

    Returns:
        Stage(init, step, loss, parts).
    """
    take = step if parts.score is not None else offline_step
    return Stage(partial(init, parts=parts, rewards=rewards), partial(take, parts=parts), loss, parts)


def init(key: Tensor, params: Tree | None = None, *, parts: Online, rewards: tuple[str, ...]) -> TrainState:
    """Makes the first state, with the metrics of the rewards beside those of the loss.

    Args:
        key: [2] uint32.
        params: to start from.
        parts, rewards: bound by `online`.
    """
    state = parts.init(key, params)
    names = (*ALWAYS, *(f"rewards/{name}/{what}" for name in rewards for what in ("mean", "missing")))
    return state._replace(
        metrics=state.metrics | {name: torch.full((), torch.nan, device=key.device) for name in names}
    )


def step(state: TrainState, batch: Tree, *, parts: Online) -> TrainState:
    """Draws, scores, learns.

    Args:
        state: unchanged by this.
        batch: prompts.
        parts: bound by `online`; the drawing and the scoring see no gradient and no `jit(..., regions=True)`.

    Returns:
        The next state, `step` one higher.
    """
    rollouts, rewards = draw_and_score(state, batch, parts=parts)
    return parts.update(state, rollouts, rewards)


def draw_and_score(state: TrainState, batch: Tree, *, parts: Online | None) -> tuple[Rollouts, Tensor]:
    """The first two parts of a step: what it would learn from; equal whenever it is asked for.

    Args:
        state: its params and key, and the number of its step.
        batch: prompts.
        parts: of the stage, `stage.parts`.

    Returns:
        (Rollouts, rewards [B, K]).

    Raises:
        ValueError: if the stage has no parts or no score.
    """
    if parts is None or parts.score is None:
        raise ValueError(
            "draw_and_score: expected the parts of a stage made by grpo or ppo with score=...; other stages have none"
        )
    key = random.fold_in(random.fold_in(state.key, state.step), ROLLOUT_KEY)
    with torch.no_grad():
        rollouts = outside(parts.rollout, policy_of(state.params), batch, key)
        return rollouts, outside(parts.score, rollouts)


def offline_step(state: TrainState, batch: Tree, *, parts: Online) -> TrainState:
    """Learns from ready-made groups: a batch with the fields of Rollouts and "rewards" [B, K].

    Args:
        state: unchanged by this.
        batch: see above.
        parts: bound by `online`.

    Returns:
        The next state.
    """
    return parts.update(state, Rollouts(*(batch[name] for name in Rollouts._fields)), batch["rewards"])


def policy_of(params: Tree) -> Tree:
    """The part of the params that writes: all, or {"policy"} beside a value function."""
    return params["policy"] if set(params) == {"policy", "value"} else params


def weighted_sum(rewards: Tensor, weights: tuple[float, ...] | None = None) -> Tensor:
    """Adds up the rewards of each answer; one that is missing counts nothing.

        sum_b = Σ_k weight_k reward_bk, over the k that are there

    It is taken in float64, reward by reward: answers with the same rewards come to the same bits wherever
    they stand in the batch, and 0.1 + 0.2 to those of 0.3 + 0.0. Only equal sums teach nothing.

    Args:
        rewards: [B, K] float, NaN where one is missing.
        weights: of the K rewards; None weighs each with 1.

    Returns:
        [B] float32; NaN where all are missing.

    Raises:
        ValueError: if there are not K weights.

    Example:
        >>> nan = float("nan")
        >>> weighted_sum(torch.tensor([[1.0, 2.0], [nan, 2.0], [nan, nan]]), (1.0, 0.5))
        tensor([2., 1., nan])

    Source: TRL's GRPOTrainer, "sum_then_normalize".
    """
    count = rewards.shape[1]
    if weights is not None and len(weights) != count:
        raise ValueError(f"weighted_sum: expected {count} weights, one for each reward, got {len(weights)}")
    there = rewards.isfinite()
    total = torch.zeros(rewards.shape[0], dtype=torch.float64, device=rewards.device)
    for i, weight in enumerate(weights or (1.0,) * count):
        total = total + torch.where(there[:, i], weight * rewards[:, i].double(), 0.0)
    return torch.where(there.any(1), total, torch.nan).float()


def reward_metrics(
    rollouts: Rollouts, rewards: Tensor, groups: Tensor, names: tuple[str, ...]
) -> dict[str, Tensor]:
    """Says how the answers did.

    Args:
        rollouts: B rows.
        rewards: [B, K] float, NaN where one is missing.
        groups: [N, G] float, the weighted sums.
        names: of the K rewards.

    Returns:
        {name: []}, see ALWAYS, "rewards/NAME/mean", and "rewards/NAME/missing", the share of answers without
        it. A group of equal rewards has a deviation of exactly 0, and so counts in `frac_reward_zero_std`.

    Edge cases: answers without a reward are left out of the means; if none has one, they are NaN.
    """
    judged = groups.isfinite()
    count = judged.sum(1, keepdim=True).clamp(min=1)
    values = torch.where(judged, groups.double(), 0.0)  # squares of 1e30 overflow float32
    mean = values.sum(1, keepdim=True) / count
    equal = equal_rewards(groups)
    centred = torch.where(judged & ~equal[:, None], values - mean, 0.0)
    spread = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    lengths = rollouts.mask.sum(1).float()
    return {
        "reward": groups.double().nanmean().float(),
        "reward_std": spread.mean().float(),
        "frac_reward_zero_std": equal.float().mean(),
        "frac_unjudged": (~judged).float().mean(),
        "completions/mean_length": lengths.mean(),
        "completions/clipped_ratio": 1 - rollouts.ended.float().mean(),
        **{f"rewards/{name}/mean": rewards[:, i].double().nanmean().float() for i, name in enumerate(names)},
        **{
            f"rewards/{name}/missing": (~rewards[:, i].isfinite()).float().mean()
            for i, name in enumerate(names)
        },
    }
