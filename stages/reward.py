"""Reward model: trained on pairs of answers to give each answer a score.

The mathematics is in `pure/loss/reward.py`, the model in `pure/nn/scalar.py`.

Shape letters: B pairs, T tokens.

Stiennon et al., "Learning to summarize from human feedback", 2020; Ouyang et al., "Training language models
to follow instructions with human feedback", 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from pure import random
from pure.foreign import check_model
from pure.loss.reward import bradley_terry
from pure.nn.scalar import scalar_model
from pure.types import GradientTransformation, Model, Tree
from stages.stage import Stage, stage
from stages.weights import counted_rows

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from stages.stage import StageOptions

METRICS = ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")


def reward(
    model: Model,
    optimizer: GradientTransformation,
    *,
    margin: float = 0.0,
    center: float = 0.0,
    disable_dropout: bool = True,
    compute: torch.dtype = torch.float32,
    **options: Unpack[StageOptions],
) -> Stage:
    """Build the stage that trains a reward model on preference pairs.

    Args:
        model: the language model; a scalar head replaces its own.
        optimizer: a GradientTransformation.
        margin, center: see `pure.loss.reward.bradley_terry`.
        disable_dropout: train without the dropout of model and adapters, as TRL does.
        compute: dtype of the forward and backward pass; params keep theirs.
        options: of `stages.stage.stage`.

    Returns:
        Stage(init, step) for batches {"chosen_tokens", "chosen_labels", "rejected_tokens", "rejected_labels"}
        [B, T], whose params are those of `scalar_model(model)`: start from
        `scalar_model(model).init(key, params)`. Metrics have TRL's names.
    """
    check_model("reward", model)
    scored = scalar_model(model)
    loss = partial(pair_loss, score=scored.score, margin=margin, center=center, dropout=not disable_dropout)
    return stage(loss, optimizer, init=scored.init, metrics=METRICS, compute=compute, **options)


def pair_loss(
    params: Tree,
    batch: Tree,
    key: Tensor | None,
    *,
    score: Callable[..., Tensor],
    margin: float,
    center: float,
    dropout: bool,
) -> tuple[Tensor, Tensor, dict]:
    """Return the sum of the negative log-likelihoods of all comparisons, nats.

    Args:
        params: the scalar model's.
        batch: chosen_tokens, chosen_labels, rejected_tokens, rejected_labels [B, T], batch_position [B];
            optional: weights [B].
        key: [2]; dropout folds in each pair's batch_position and side. None disables dropout, for validation.
        score, margin, center, dropout: bound by `reward`.

    Returns:
        (sum [], count [] pairs, metrics).
    """
    tokens = torch.cat([batch["chosen_tokens"], batch["rejected_tokens"]])
    labels = torch.cat([batch["chosen_labels"], batch["rejected_labels"]])
    keys = side_keys(key, batch["batch_position"]) if dropout else None
    chosen, rejected = answer_scores(params, tokens, labels, score=score, key=keys).chunk(2)
    real = (batch["chosen_labels"] >= 0).any(1) & (batch["rejected_labels"] >= 0).any(1)
    counted = counted_rows(batch, real)
    losses = bradley_terry(chosen, rejected, margin=margin, center=center)
    count = counted.sum()
    values = (chosen > rejected, chosen - rejected, chosen, rejected)
    metrics = {name: ((x.detach() * counted).sum(), count) for name, x in zip(METRICS, values, strict=True)}
    return (losses * counted).sum(), count, metrics


def answer_scores(
    params: Tree, tokens: Tensor, labels: Tensor, *, score: Callable[..., Tensor], key: Tensor | None = None
) -> Tensor:
    """Score answers: the model's output at the last token of each.

    As rows are shifted by one, the last token of an answer may be only among the labels. It is appended
    first, as the score is read at that token: a stop token distinguishes a complete answer from a cut one.

    Args:
        params: the scalar model's.
        tokens: [B, T] integers, prompt and answer, padded on the right.
        labels: [B, T] integers, the next token where that belongs to the answer, else -100.
        score: (params, tokens, key=...) -> [B, T].
        key: [B, 2] for dropout, or None.

    Returns:
        [B] float.

    Edge cases: a row without an answer is scored at its second position.
    """
    positions = torch.arange(tokens.shape[1] + 1, device=tokens.device)
    last = torch.where(labels >= 0, positions[1:], 1).amax(1, keepdim=True)
    last_token = labels.gather(1, last - 1).clamp(min=0)
    full = torch.where(positions == last, last_token, F.pad(tokens, (0, 1)))
    return score(params, full, key=key).gather(1, last)[:, 0]


def side_keys(key: Tensor | None, batch_position: Tensor) -> Tensor | None:
    """Return keys for both answers of every pair: key [2], batch_position [B] -> [2 B, 2]; None -> None."""
    if key is None:
        return None
    fold = torch.func.vmap(random.fold_in, (None, 0))
    return torch.cat([fold(random.fold_in(key, side), batch_position) for side in (0, 1)])
