"""Scores: what answers are worth, by functions of their text or by a reward model.

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
"""What users write: (prompt, completion, row) -> float, or None where it does not apply; `row` is the row of
data that the prompt came from. Or a whole batch, (prompts, completions, **columns) -> list, as in TRL. Either
may be a coroutine; see `data_pipes.answers.reward_function`."""


def text_score(
    functions: Mapping[str, Reward],
    *,
    decode: Callable[[Sequence[int]], str],
    prompts: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    on_bad: Callable[[str], Any] | None = None,
    gather: Gather | None = None,
) -> Score:
    """Makes a score of functions of text.

    Args:
        functions: name -> function, see `Reward`; called once for each answer, in order, or once for all.
        decode: ids -> text, control tokens left out.
        prompts: text of each prompt, as the functions shall see it; found by the rollouts' row.
        rows: the data each prompt came from.
        on_bad: is told of a function that raised or gave no number that is finite in float32, in a sentence
            with the function and the text; that reward is then NaN. None raises it as an error.
        gather: runs coroutines, such as `stages.run.rewards.coroutines.gather()`.

    Returns:
        Rollouts -> rewards [B, K] float32, in the order of the functions; NaN where one is missing: the
        others count.

    Raises:
        ValueError: (by the result, without on_bad) naming the function, the row and the text.
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


def model_score(params: Tree, score: Callable) -> Score:
    """Makes a score of a reward model.

    Args:
        params: the scalar model's, frozen.
        score: `pure.nn.scalar.scalar_model(model).score`.

    Returns:
        Rollouts -> rewards [B, 1] float32.
    """
    return partial(_model_score, params=params, score=score)


def completions(rollouts: Rollouts, decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The completions as texts, B of them."""
    return [decode(ids) for ids in completion_ids(rollouts)]


def completion_ids(rollouts: Rollouts) -> list[list[int]]:
    """The tokens of each completion, B lists."""
    width = rollouts.tokens.shape[1] - rollouts.mask.shape[1]
    lengths = rollouts.mask.sum(1).tolist()
    rows = rollouts.tokens[:, width:].tolist()
    return [row[:length] for row, length in zip(rows, lengths, strict=True)]


def _text_score(
    rollouts: Rollouts,
    *,
    functions: Mapping[str, Reward],
    decode: Any,
    prompts: Sequence[str],
    rows: Sequence,
    on_bad: Callable,
    gather: Gather | None,
) -> Tensor:
    """[B, K]."""
    numbers, ids = rollouts.row.tolist(), completion_ids(rollouts)
    answers = Completions(
        [prompts[i] for i in numbers], [decode(x) for x in ids], ids, [rows[i] for i in numbers]
    )
    columns = [
        compute_rewards(name, f, answers, on_bad=on_bad, gather=gather) for name, f in functions.items()
    ]
    return torch.tensor(columns, dtype=torch.float32, device=rollouts.tokens.device).T.contiguous()


def _stop(text: str) -> NoReturn:
    """The default on_bad."""
    raise ValueError(f"{text}; fix the function, or leave such rewards out (on_bad, or --on_bad_reward skip)")


def _model_score(rollouts: Rollouts, *, params: Tree, score: Callable) -> Tensor:
    """[B, 1]: the rows are laid out as the reward model was trained on them, prompt first, without padding
    before."""
    batch, total = rollouts.tokens.shape
    place = torch.arange(total, device=rollouts.tokens.device) + rollouts.starts[:, None]
    tokens = torch.where(place < total, rollouts.tokens.gather(1, place.clamp(max=total - 1)), 0)
    width = total - rollouts.mask.shape[1]
    written = torch.cat([rollouts.mask.new_zeros(batch, width), rollouts.mask], 1)
    real = (place < total) & written.gather(1, place.clamp(max=total - 1))
    labels = torch.where(real[:, 1:], tokens[:, 1:], -100)
    return answer_scores(params, tokens[:, :-1], labels, score=score)[:, None]
