"""Build the scorer of a run: all its rewards, and the recorder that logs completions with their rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from data_pipes.tokenizer.spec import Tokenizer
from stages.rollout import Rollouts
from stages.run.data import completions_log
from stages.run.data.completions_log import Recorder
from stages.run.rewards import functions, identity


class Scorer(NamedTuple):
    """Rewards of a run.

    Fields:
        names: names of the K rewards, for metrics.
        weights: weights of the K rewards in their sum; None weighs each with 1.
        score: Rollouts -> rewards [B, K].
        recorder: `score` with a memory, and the function that logs the remembered completions.
        digests: digests of the rewards, for the run's fingerprint.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...] | None
    score: Callable[[Rollouts], Tensor]
    recorder: Recorder
    digests: Mapping[str, str]


def scorer(
    rewards: Sequence[str],
    *,
    weights: tuple[float, ...],
    on_bad: Literal["stop", "skip"],
    prompts: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    device: torch.device,
    folder: Path,
    table_every: int,
    samples: int,
    say: Callable[[str], Any],
) -> Scorer:
    """Builds the scorer of the rewards that --reward names.

    Args:
        rewards: as in `stages.run.rewards.functions.build_score`.
        weights: weights of the rewards in their sum; () weighs each with 1.
        on_bad: "stop" at a reward function that fails, or "skip" that reward.
        prompts, rows: text and row of each prompt; `Rollouts.row` indexes them.
        tokenizer: the policy's tokenizer.
        device: device of the reward models.
        folder, table_every, samples: see `stages.run.data.completions_log.recorder`.
        say: prints a message to the user.

    Returns:
        Scorer.

    Raises:
        ValueError, FileNotFoundError: as `stages.run.rewards.functions.build_score`.
    """
    names = functions.reward_names(rewards)
    score = functions.build_score(
        rewards,
        tokenizer=tokenizer,
        prompts=prompts,
        rows=rows,
        device=device,
        on_bad=say if on_bad == "skip" else None,
    )
    recorder = completions_log.recorder(
        score,
        folder,
        names=names,
        prompts=prompts,
        tokenizer=tokenizer,
        weights=weights or None,
        say=say,
        table_every=table_every,
        samples=samples,
    )
    return Scorer(names, weights or None, score, recorder, identity.digest_rewards(rewards, rows))
