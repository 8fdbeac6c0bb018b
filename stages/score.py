"""Scores: rewards of completions, from functions of their text or from a reward model.

Shape letters: B rows, K reward functions, P prompt tokens, M new tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from data_pipes.answers.reward_function import Completions, Gather, compute_rewards
from pure.types import Tree
from stages.online import Score
from stages.reward import answer_scores
from stages.rollout import Rollouts

Reward = Callable[..., Any]
"""A user's function, of one of two forms:

- (prompt, completion, row) -> float, or None where it does not apply; `row` is the prompt's row of data.
- (prompts, completions, **columns) -> list, for a whole batch, as in TRL.

Either may be a coroutine; see `data_pipes.answers.reward_function`.
"""


def text_score(
    functions: Mapping[str, Reward],
    *,
    decode: Callable[[Sequence[int]], str],
    prompts: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    on_bad: Callable[[str], Any] | None = None,
    gather: Gather | None = None,
) -> Score:
    """Build a score from functions of text.

    Args:
        functions: name -> function, see `Reward`; called once per completion, in order, or once for all.
        decode: ids -> text, control tokens left out.
        prompts: text of each prompt for the functions; `Rollouts.row` indexes it.
        rows: the data row that each prompt came from, indexed likewise.
        on_bad: called with a message that names the function and the text, if the function raises or its
            result is not a finite float32; the reward is then NaN. None raises a ValueError instead.
        gather: runs coroutines, such as `stages.run.rewards.coroutines.gather()`.

    Returns:
        Rollouts -> rewards [B, K] float32, in the order of the functions; NaN where a reward is
        missing; the other rewards of that completion still count.

    Raises:
        ValueError: raised by the returned score, without on_bad; names the function, the row and the text.
    """
    return partial(
        _text_score,
        functions=dict(functions),
        decode=decode,
        prompts=prompts,
        rows=rows,
        on_bad=on_bad or _stop,
        gather=gather,
    )


def model_score(params: Tree, score: Callable[..., Tensor]) -> Score:
    """Build a score from a reward model.

    Args:
        params: the scalar model's params, frozen.
        score: the scalar model's forward pass, `pure.nn.scalar.scalar_model(model).score`.

    Returns:
        Rollouts -> rewards [B, 1] float32.
    """
    return partial(_model_score, params=params, score=score)


def decode_completions(rollouts: Rollouts, decode: Callable[[Sequence[int]], str]) -> list[str]:
    """Decode the completions, B texts."""
    return [decode(ids) for ids in completion_ids(rollouts)]


def completion_ids(rollouts: Rollouts) -> list[list[int]]:
    """Return the tokens of each completion, B lists."""
    prompt_width = rollouts.tokens.shape[1] - rollouts.mask.shape[1]
    lengths = rollouts.mask.sum(1).tolist()
    rows = rollouts.tokens[:, prompt_width:].tolist()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def _text_score(
    rollouts: Rollouts,
    *,
    functions: Mapping[str, Reward],
    decode: Callable[[Sequence[int]], str],
    prompts: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    on_bad: Callable[[str], Any],
    gather: Gather | None,
) -> Tensor:
    """Compute the functions' rewards [B, K]."""
    indices, ids = rollouts.row.tolist(), completion_ids(rollouts)
    completions = Completions(
        [prompts[i] for i in indices], [decode(x) for x in ids], ids, [rows[i] for i in indices]
    )
    columns = []
    for name, function in functions.items():
        columns.append(compute_rewards(name, function, completions, on_bad=on_bad, gather=gather))
    return torch.tensor(columns, dtype=torch.float32, device=rollouts.tokens.device).T.contiguous()


def _stop(text: str) -> NoReturn:
    """Raises for a bad reward: the default on_bad."""
    raise ValueError(f"{text}; fix the function, or leave such rewards out (on_bad, or --on_bad_reward skip)")


def _model_score(rollouts: Rollouts, *, params: Tree, score: Callable[..., Tensor]) -> Tensor:
    """Compute the reward model's rewards [B, 1].

    Steps:
        1. Shift each row left by its padding, since the reward model was trained on rows without padding
           before the prompt.
        2. Label the tokens of the completion, and score.
    """
    # 1. Shift.
    batch, total = rollouts.tokens.shape
    source = torch.arange(total, device=rollouts.tokens.device) + rollouts.starts[:, None]
    inside, source = source < total, source.clamp(max=total - 1)
    tokens = torch.where(inside, rollouts.tokens.gather(1, source), 0)
    # 2. Label and score.
    prompt_width = total - rollouts.mask.shape[1]
    is_completion = torch.cat([rollouts.mask.new_zeros(batch, prompt_width), rollouts.mask], 1)
    is_label = inside & is_completion.gather(1, source)
    labels = torch.where(is_label[:, 1:], tokens[:, 1:], -100)
    return answer_scores(params, tokens[:, :-1], labels, score=score).float()[:, None]
