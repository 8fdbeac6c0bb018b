"""Build the scorer of a run: all its rewards, and the recorder that logs completions with their rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_pipes.record_encoding import EncodedPrompt
from data_pipes.tokenizer.spec import Tokenizer
from stages.rollout import Rollouts
from stages.run.data import completions_log
from stages.run.data.completions_log import Recorder
from stages.run.options.tuning import RewardFlags
from stages.run.rewards import functions, identity


class Scorer(NamedTuple):
    """Rewards of a run.

    Fields:
        names: names of the K rewards, for metrics.
        weights: weights of the K rewards in their sum; None weighs each with 1.
        score: Rollouts -> rewards [B, K].
        recorder: logs completions with their rewards.
        digests: digests of the rewards, for the run's fingerprint.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...] | None
    score: Callable[[Rollouts], Tensor]
    recorder: Recorder
    digests: Mapping[str, str]


def scorer(
    flags: RewardFlags,
    prompts: Sequence[EncodedPrompt],
    *,
    tokenizer: Tokenizer,
    device: torch.device,
    folder: Path,
    table_every: int,
    samples: int,
    say: Callable[[str], Any],
) -> Scorer:
    """Builds the scorer of the rewards that --reward names.

    Args:
        flags: names and weights of the rewards, and what is done about one that fails.
        prompts: all prompts; `Rollouts.row` indexes them.
        tokenizer: the policy's tokenizer.
        device: device of the reward models.
        folder, table_every, samples: see `stages.run.data.completions_log.recorder`.
        say: prints a message to the user.

    Returns:
        Scorer.

    Raises:
        ValueError, FileNotFoundError: as `stages.run.rewards.functions.build_score`.
    """
    names, weights = functions.reward_names(flags.reward), flags.reward_weights or None
    texts, rows = [prompt.text for prompt in prompts], [prompt.row for prompt in prompts]
    score = functions.build_score(
        flags.reward,
        tokenizer=tokenizer,
        prompts=texts,
        rows=rows,
        device=device,
        on_bad=say if flags.on_bad_reward == "skip" else None,
    )
    recorder = completions_log.recorder(
        folder,
        names=names,
        prompts=texts,
        tokenizer=tokenizer,
        weights=weights,
        say=say,
        table_every=table_every,
        samples=samples,
    )
    return Scorer(names, weights, score, recorder, identity.digest_rewards(flags.reward, rows))
