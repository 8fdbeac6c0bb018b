"""Online stages: a step that samples completions, scores them, and updates the policy from both.

`rollout` samples (deterministic in params, prompts and key), `score` computes rewards (Python, outside
torch), `update` trains on both (pure, like the step of any stage). `Stage.step` composes them; a custom loop
takes them from `stage.parts`.

Shape letters: B = N G rows, N prompts, G samples of each, K reward functions, M new tokens.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol
from zlib import crc32

import torch
from torch import Tensor

from pure import random
from pure.loss.advantages import equal_rewards
from pure.parallel.cut_models import record_cut_models
from pure.plural import count_noun
from pure.transform.accumulate import Loss
from pure.transform.jit import outside
from pure.types import Tree
from stages.cut_model import score_once
from stages.rollout import Rollouts
from stages.stage import Init, Stage
from stages.state import TrainState
from stages.weights import row_weights

ROLLOUT_KEY = crc32(b"rollout")
"""Number that is folded into the step's key, for the key of its rollouts."""

ONLINE_METRICS = (
    "reward", "reward_std", "frac_reward_zero_std", "frac_unjudged", "completions/mean_length",
    "completions/clipped_ratio",
)  # fmt: skip
"""Metrics of the rewards, under TRL's names where it has one: `frac_reward_zero_std` is the share of groups
whose rewards are all equal, so that their advantages are 0; `frac_unjudged` the share of unscored answers;
`clipped_ratio` the share of answers that were cut off."""


class Rollout(Protocol):
    """Sampled completions of a batch of prompts: (params, batch, key [2]) -> Rollouts.

    A completion must depend on its prompt, on its row and sample number, and on the key alone, not on the
    other prompts of the batch: on several processes each samples its own prompts, with the same key. All
    randomness therefore comes from `stages.rollout.completion_keys(key, row, samples)`. Numbers that are
    drawn from `key` itself, such as uniform(key, [B, M]), are the same ones for the prompts of every process:
    the completions are then not those of one process, and prompts of different processes share their draws.
    (A sampler elsewhere, whose draws cannot be given, makes each run a run of its own.)
    """

    def __call__(self, params: Tree, batch: Tree, key: Tensor, /) -> Rollouts: ...


class Score(Protocol):
    """Rewards of completions: Rollouts -> rewards [B, K] float32, NaN for unscored completions.

    The reward of a completion depends on its group (the G completions of a prompt) at most: on several
    processes each scores the completions of its own prompts. A mean over the batch is that of its own part.
    """

    def __call__(self, rollouts: Rollouts, /) -> Tensor: ...


class Update(Protocol):
    """Update from completions and their rewards [B, K]: (state, rollouts, rewards) -> TrainState. Pure.

    A fourth argument [B] weights the completions in the loss; it is given only where a batch has weights.
    """

    def __call__(
        self, state: TrainState, rollouts: Rollouts, rewards: Tensor, weights: Tensor | None = None, /
    ) -> TrainState: ...


class Examples(Protocol):
    """The batch that an update trains on, one row a completion: (state, rollouts, rewards) -> batch. Pure."""

    def __call__(self, state: TrainState, rollouts: Rollouts, rewards: Tensor, /) -> Tree: ...


class Online(NamedTuple):
    """The three parts of an online step, and the functions that make its initial state and its batches.

    Fields:
        init: (key, params=None) -> TrainState.
        rollout: (params, batch, key) -> Rollouts.
        score: Rollouts -> rewards [B, K]; None where batches come with their rewards.
        update: (state, rollouts, rewards) -> TrainState.
        examples: (state, rollouts, rewards) -> the batch of the stage's loss, one row a completion.
        samples: G, completions of each prompt, adjacent in the rollouts.
        rewards: names of the K rewards; () if they are not known, and K is not checked.
    """

    init: Init
    rollout: Rollout
    score: Score | None
    update: Update
    examples: Examples
    samples: int = 1
    rewards: tuple[str, ...] = ()


def online(parts: Online, rewards: tuple[str, ...], *, loss: Loss | None = None) -> Stage:
    """Compose the parts into a stage; without `score`, one that trains on ready-made groups.

    Args:
        parts: see Online.
        rewards: names of the K rewards.
        loss: the loss that the parts' `update` differentiates.

    Returns:
        Stage(init, step, loss, parts).
    """
    parts = parts._replace(rewards=rewards)
    step_fn = step if parts.score is not None else offline_step
    return Stage(partial(init, parts=parts, rewards=rewards), partial(step_fn, parts=parts), loss, parts)


def init(key: Tensor, params: Tree | None = None, *, parts: Online, rewards: tuple[str, ...]) -> TrainState:
    """Return the initial state, with the metrics of the rewards besides those of the loss.

    Args:
        key: [2] uint32.
        params: params to start from; None initialises new ones.
        parts, rewards: bound by `online`.
    """
    state = parts.init(key, params)
    per_reward = [f"rewards/{name}/{statistic}" for name in rewards for statistic in ("mean", "missing")]
    names = (*ONLINE_METRICS, *per_reward)
    return state._replace(
        metrics=state.metrics | {name: torch.full((), torch.nan, device=key.device) for name in names}
    )


def step(state: TrainState, batch: Tree, *, parts: Online) -> TrainState:
    """Sample, score, update.

    Args:
        state: the current state; it is not modified.
        batch: prompts; "weights" [N], if there are any, weight all completions of a prompt.
        parts: bound by `online`; rollout and score see no gradient and no `jit(..., regions=True)`.

    Returns:
        The next state, `step` one higher.
    """
    rollouts, rewards = generate_and_score(state, batch, parts=parts)
    return parts.update(state, rollouts, rewards, *completion_weights(batch, rollouts))


def generate_and_score(state: TrainState, batch: Tree, *, parts: Online | None) -> tuple[Rollouts, Tensor]:
    """Sample and score: the first two parts of a step, reproducible bit for bit.

    Args:
        state: the current state: its params, key and step are used.
        batch: prompts.
        parts: the stage's parts, `stage.parts`.

    Returns:
        (Rollouts, rewards [B, K]).

    Raises:
        ValueError: if the stage has no parts or no score; for rewards of another shape or dtype.
    """
    if parts is None or parts.score is None:
        raise ValueError(
            "generate_and_score: expected the parts of a stage made by grpo or ppo with score=...; other "
            "stages have none"
        )
    key = random.fold_in(random.fold_in(state.key, state.step), ROLLOUT_KEY)
    with torch.no_grad():
        with record_cut_models() as models:
            rollouts = outside(parts.rollout, policy_of(state.params), batch, key)
        score = partial(compute_checked_rewards, parts.score, parts.rewards)
        return rollouts, outside(score_once, score, models, rollouts)


def compute_checked_rewards(score: Score, names: tuple[str, ...], rollouts: Rollouts, /) -> Tensor:
    """Compute rewards, and check that they are what the update takes.

    Args:
        score: Rollouts -> rewards [B, K] float32.
        names: of the K rewards; () if K is not known.
        rollouts: of B completions.

    Returns:
        [B, K] float32, on the device of the rollouts.

    Raises:
        TypeError: if they are no tensor.
        ValueError: if they are not [B, K] float32.

    Example:
        >>> rows = torch.arange(2)
        >>> rollouts = Rollouts(rows, rows, rows, rows, rows, rows)
        >>> compute_checked_rewards(lambda rollouts: torch.zeros(2), ("length",), rollouts)
        Traceback (most recent call last):
        ValueError: score: expected rewards [2, 1] float32, one column for each of length, got [2] float32;
            return one row for each completion, such as rewards.float()[:, None]
    """
    rewards = score(rollouts)
    if not isinstance(rewards, Tensor):
        raise TypeError(
            f"score: expected rewards [B, K] float32, got {type(rewards).__name__}; write "
            "torch.tensor(rewards)"
        )
    rows, of_names = len(rollouts.row), f", one column for each of {', '.join(names)}" if names else ""
    fits = rewards.ndim == 2 and len(rewards) == rows and len(names) in (0, rewards.shape[1])
    if not fits or rewards.dtype != torch.float32:
        raise ValueError(
            f"score: expected rewards [{rows}, {len(names) or 'K'}] float32{of_names}, got "
            f"{list(rewards.shape)} {str(rewards.dtype)[6:]}; return one row for each completion, such as "
            "rewards.float()[:, None]"
        )
    return rewards.to(rollouts.tokens.device)


def offline_step(state: TrainState, batch: Tree, *, parts: Online) -> TrainState:
    """Update from ready-made groups: a batch with the fields of Rollouts and "rewards" [B, K].

    Args:
        state: the current state; it is not modified.
        batch: the fields of Rollouts, "rewards", and optionally "weights" [B].
        parts: bound by `online`.

    Returns:
        The next state.
    """
    rollouts = Rollouts(*(batch[name] for name in Rollouts._fields))
    return parts.update(state, rollouts, batch["rewards"], *completion_weights(batch, rollouts))


def completion_weights(batch: Tree, rollouts: Rollouts) -> tuple[Tensor, ...]:
    """Return the weights of the completions, the last argument of an update, or nothing without weights.

    Args:
        batch: prompts, or completions, with "weights" of its rows or without.
        rollouts: of B completions, all of a prompt together.

    Returns:
        (weights [B],), or ().
    """
    weights = row_weights(batch)
    if weights is None:
        return ()
    return (weights.repeat_interleave(len(rollouts.tokens) // len(weights)),)


def policy_of(params: Tree) -> Tree:
    """Return the policy's part of the params: all, or "policy" where there is a value function too."""
    return params["policy"] if set(params) == {"policy", "value"} else params


def weighted_sum(rewards: Tensor, weights: tuple[float, ...] | None = None) -> Tensor:
    """Add up the rewards of each answer; a missing one counts as 0.

        sum_b = Σ_k weight_k reward_bk, over the k that are not missing

    Computed in float64, one reward after the other: equal rewards give bit-equal sums at every position in
    the batch, and 0.1 + 0.2 equals 0.3 + 0.0. (Only equal sums have advantage 0.)

    Args:
        rewards: [B, K] float, NaN where one is missing.
        weights: weights of the K rewards; None weights each with 1.

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
        raise ValueError(
            f"weighted_sum: expected {count_noun(count, 'weight')}, one for each reward, got {len(weights)}"
        )
    present = rewards.isfinite()
    total = torch.zeros(rewards.shape[0], dtype=torch.float64, device=rewards.device)
    for i, weight in enumerate(weights or (1.0,) * count):
        total = total + torch.where(present[:, i], weight * rewards[:, i].double(), 0.0)
    return torch.where(present.any(1), total, torch.nan).float()


def reward_metrics(
    rollouts: Rollouts, rewards: Tensor, groups: Tensor, names: tuple[str, ...]
) -> dict[str, Tensor]:
    """Compute the metrics of a round's rewards.

    Args:
        rollouts: B rows.
        rewards: [B, K] float, NaN where one is missing.
        groups: [N, G] float, the weighted sums of the rewards.
        names: names of the K rewards.

    Returns:
        {name: []}, see ONLINE_METRICS, "rewards/NAME/mean", and "rewards/NAME/missing", the share of answers
        without it. A group of equal rewards has a standard deviation of exactly 0.

    Edge cases: answers without a reward are left out of the means; if none has one, they are NaN.
    """
    scored = groups.isfinite()
    count = scored.sum(1, keepdim=True).clamp(min=1)
    values = torch.where(scored, groups.double(), 0.0)  # squares of 1e30 overflow float32
    mean = values.sum(1, keepdim=True) / count
    equal = equal_rewards(groups)
    centred = torch.where(scored & ~equal[:, None], values - mean, 0.0)
    spread = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    lengths = rollouts.mask.sum(1).float()
    return {
        "reward": groups.double().nanmean().float(),
        "reward_std": spread.mean().float(),
        "frac_reward_zero_std": equal.float().mean(),
        "frac_unjudged": (~scored).float().mean(),
        "completions/mean_length": lengths.mean(),
        "completions/clipped_ratio": 1 - rollouts.ended.float().mean(),
        **{f"rewards/{name}/mean": rewards[:, i].double().nanmean().float() for i, name in enumerate(names)},
        **{
            f"rewards/{name}/missing": (~rewards[:, i].isfinite()).float().mean()
            for i, name in enumerate(names)
        },
    }
