"""Build the scorer of a run: all its rewards, and the recorder that writes down what they saw and
returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_pipes.tokenizer.spec import Tokenizer
from stages.rollout import Rollouts
from stages.run.data import completions_log
from stages.run.data.completions_log import Recorder
from stages.run.options import tuning as flags
from stages.run.rewards import functions, identity


class Scorer(NamedTuple):
    """Rewards of a run.

    Fields:
        names: of the K rewards, for metrics.
        weights: of the K rewards in their sum; None weighs each with 1.
        score: Rollouts -> rewards [B, K].
        recorder: a score that also keeps what it saw, and what writes it down.
        made_of: what the rewards are made of, for the run's fingerprint.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...] | None
    score: Callable[[Rollouts], Tensor]
    recorder: Recorder
    made_of: Mapping[str, str]


def scorer(
    options: flags.OnlineOptions,
    *,
    prompts: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Tokenizer,
    device: torch.device,
    say: Callable[[str], None],
) -> Scorer:
    """Builds the scorer of the rewards that the flags name.

    Args:
        options: the flags.
        prompts, rows: text and row of each prompt, by the rollouts' row.
        tokenizer: of the policy.
        device: of reward models.
        say: takes lines for the person who watches.

    Returns:
        Scorer.

    Raises:
        ValueError, FileNotFoundError: as `stages.run.rewards.functions.score_of`.
    """
    names, weights = functions.names(options.reward), options.reward_weights or None
    score = functions.score_of(
        options.reward,
        tokenizer=tokenizer,
        prompts=prompts,
        rows=rows,
        device=device,
        on_bad=say if options.on_bad_reward == "skip" else None,
    )
    recorder = completions_log.recorder(
        score,
        Path(options.output_dir),
        names=names,
        prompts=prompts,
        tokenizer=tokenizer,
        weights=weights,
        say=say,
        table_every=options.table_every,
        samples=flags.group_size(options),
    )
    return Scorer(names, weights, score, recorder, identity.identity(options.reward, rows))
