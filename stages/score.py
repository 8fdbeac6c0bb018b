"""Scores: what answers are worth, by functions of their text or by a reward model.

Shape letters: B rows, K reward functions, P prompt tokens, M new tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from pure.types import Tree
from stages.reward import answer_scores
from stages.rollout import Rollouts

Reward = Callable[[str, str, Mapping[str, Any]], float]
"""(prompt, completion, row) -> reward: what users write. `row` is the row of data that the prompt came from."""

SHOWN = 200
"""Characters of a text that a message quotes."""


def text_score(
    functions: Mapping[str, Reward],
    *,
    decode: Callable[[Sequence[int]], str],
    prompts: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    on_bad: Callable[[str], Any] | None = None,
) -> Callable[[Rollouts], Tensor]:
    """Makes a score of functions of text.

    Args:
        functions: name -> (prompt, completion, row) -> float; called once for each answer, in order.
        decode: ids -> text, control tokens left out.
        prompts: text of each prompt, as the functions shall see it; found by the rollouts' index.
        rows: the data each prompt came from.
        on_bad: is told of a function that raised or gave no finite number, in a sentence with the function, the row and
            the text; that answer is then left out. None raises it as an error.

    Returns:
        Rollouts -> rewards [B, K] float32, in the order of the functions.

    Raises:
        ValueError: (by the result, without on_bad) naming the function, the row and the text.
    """
    return partial(
        _text_score, functions=dict(functions), decode=decode, prompts=prompts, rows=rows, on_bad=on_bad or _stop
    )


def model_score(params: Tree, score: Callable) -> Callable[[Rollouts], Tensor]:
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
    width = rollouts.tokens.shape[1] - rollouts.mask.shape[1]
    lengths = rollouts.mask.sum(1).tolist()
    rows = rollouts.tokens[:, width:].tolist()
    return [decode(row[:length]) for row, length in zip(rows, lengths, strict=True)]


def _text_score(
    rollouts: Rollouts, *, functions: Mapping[str, Reward], decode: Any, prompts: Sequence[str], rows: Sequence,
    on_bad: Callable,
) -> Tensor:  # fmt: skip
    """[B, K]."""
    found = [
        [_judge(name, function, prompts[i], text, rows[i], on_bad) for name, function in functions.items()]
        for i, text in zip(rollouts.index.tolist(), completions(rollouts, decode), strict=True)
    ]
    return torch.tensor(found, dtype=torch.float32, device=rollouts.tokens.device)


def _judge(name: str, function: Reward, prompt: str, completion: str, row: Mapping, on_bad: Callable) -> float:
    """One reward, or NaN after on_bad was told."""
    try:
        value = float(function(prompt, completion, row))
        what = f"gave {value}" if not math.isfinite(value) else ""
    except Exception as error:
        value, what = math.nan, f"raised {type(error).__name__}: {error}"
    if what:
        on_bad(f"the reward {name!r} {what}, for the prompt {prompt[-SHOWN:]!r} and the answer {completion[:SHOWN]!r}")
    return value if math.isfinite(value) else math.nan


def _stop(text: str) -> NoReturn:
    """The default on_bad."""
    raise ValueError(f"{text}; mend the function, or pass over such answers (on_bad, or --on_bad_reward skip)")


def _model_score(rollouts: Rollouts, *, params: Tree, score: Callable) -> Tensor:
    """[B, 1]: the rows are laid out as the reward model was trained on them, prompt first, without padding before."""
    batch, total = rollouts.tokens.shape
    place = torch.arange(total, device=rollouts.tokens.device) + rollouts.starts[:, None]
    tokens = torch.where(place < total, rollouts.tokens.gather(1, place.clamp(max=total - 1)), 0)
    width = total - rollouts.mask.shape[1]
    written = torch.cat([rollouts.mask.new_zeros(batch, width), rollouts.mask], 1)
    real = (place < total) & written.gather(1, place.clamp(max=total - 1))
    labels = torch.where(real[:, 1:], tokens[:, 1:], -100)
    return answer_scores(params, tokens[:, :-1], labels, score=score)[:, None]
