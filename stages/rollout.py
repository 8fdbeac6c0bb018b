"""Rollouts: what a policy writes when it is asked, laid out so that the same tokens can be trained on.

Shape letters: N prompts, G samples of each, B = N G rows, P prompt tokens, M new tokens at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import random, tree
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper
from pure.loss.cross_entropy import IGNORE
from pure.loss.log_probability import LogProbabilities
from pure.types import Model, Tree


class Rollouts(NamedTuple):
    """Completions beside their prompts. Rows of one prompt stand together: row n G + g is sample g of prompt
    n.

    Fields:
        tokens: [B, P + M] int64: the prompt, padded on the left, then the completion, padded on the right; so
            that every completion begins at place P, and follows its prompt directly.
        starts: [B] int64, where the prompt begins: its padding before it.
        mask: [B, M] bool, True on the completion's tokens, the stop token among them.
        logps: [B, M] float32, nats, of each token as the sampler saw it, at the temperature; 0 where masked.
        ended: [B] bool, whether the policy ended it; False: it was cut off at M tokens.
        row: [B] int64, the prompt's row in the data set, by which its text is found.
    """

    tokens: Tensor
    starts: Tensor
    mask: Tensor
    logps: Tensor
    ended: Tensor
    row: Tensor


def rollout(
    model: Model,
    params: Tree,
    batch: Tree,
    key: Tensor,
    *,
    samples: int,
    sampling: Sampling,
    dtype: torch.dtype | None = None,
    compile: bool | Stepper = False,
) -> Rollouts:
    """Draws `samples` completions of every prompt: a function of (params, prompts, key) and nothing else.

    Each row draws with a key of its own, from the prompt's number and the sample's, so that what it writes
    does not depend on how the batch was put together (up to rounding, where the shapes differ). The number of
    rows stays the same to the end, so that one shape is compiled and every bit can be drawn again.

    Args:
        model: gives `decode`, `cache` and `config`.
        params: the policy's.
        batch: "prompts" [N, P] int64, padded on the right; "lengths" [N]; "row" [N], from
            `data_pipes.prompts`.
        key: [2] uint32, of this step.
        samples: G >= 1.
        sampling: of each completion. Losses compare log-probabilities at its temperature; they do not see its
            truncation.
        dtype: to draw in; None takes that of the params.
        compile: as in `pure.generation.generate.generate`.

    Returns:
        Rollouts.

    Raises:
        ValueError: as `generate`, for a prompt that is too long.
    """
    prompts, lengths, row = (
        batch[name].repeat_interleave(samples, 0) for name in ("prompts", "lengths", "row")
    )
    number = torch.arange(samples, device=key.device).repeat(len(batch["row"]))
    fold = torch.func.vmap(random.fold_in)
    keys = fold(torch.func.vmap(random.fold_in, (None, 0))(key, row), number)
    written = generate(
        model,
        params if dtype is None else tree.cast(params, dtype),
        prompts,
        sampling,
        lengths=lengths,
        key=keys,
        shape=prompts.shape,
        compact=False,
        compile=compile,
    )
    completions = (written.tokens, written.lengths, written.logprobs)
    return arrange(prompts, lengths, *completions, row, sampling.stop_tokens)


def arrange(
    prompts: Tensor,
    lengths: Tensor,
    completions: Tensor,
    written: Tensor,
    logps: Tensor,
    row: Tensor,
    stop_tokens: tuple[int, ...],
) -> Rollouts:
    """Puts prompts and completions side by side; also for completions that were drawn elsewhere.

    Args:
        prompts: [B, P] integers, padded on the right.
        lengths: [B] integers, the prompts' tokens.
        completions: [B, M] integers, padded on the right.
        written: [B] integers, the completions' tokens.
        logps: [B, M] float, nats, of whoever drew them.
        row: [B] integers, the prompts' rows in the data set.
        stop_tokens: ids that end a completion.

    Returns:
        Rollouts.

    Example:
        >>> rows = torch.tensor([[5, 6, 0], [7, 8, 9]]), torch.tensor([2, 3])
        >>> drawn = torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1]), torch.zeros(2, 2), torch.tensor([0, 1])
        >>> found = arrange(*rows, *drawn, stop_tokens=(2,))
        >>> found.tokens.tolist(), found.starts.tolist(), found.ended.tolist()
        ([[0, 5, 6, 1, 2], [7, 8, 9, 3, 0]], [1, 0], [True, False])
    """
    width = prompts.shape[1]
    starts = width - lengths
    place = torch.arange(width, device=prompts.device) - starts[:, None]
    left = torch.where(place >= 0, prompts.gather(1, place.clamp(min=0)), 0)
    mask = torch.arange(completions.shape[1], device=prompts.device) < written[:, None]
    stops = torch.tensor(stop_tokens, dtype=completions.dtype, device=prompts.device)
    last = completions.gather(1, (written - 1).clamp(min=0)[:, None])
    ended = (last == stops).any(1) & (written > 0)
    tokens = torch.cat([left, torch.where(mask, completions, 0)], 1)
    return Rollouts(tokens, starts, mask, torch.where(mask, logps, 0.0), ended, row)


def without_truncated(rollouts: Rollouts) -> Rollouts:
    """Masks all tokens of the completions that were cut off, so that no loss sees them.

    Returns:
        Rollouts, `mask` and `logps` of those rows False and 0.
    """
    mask = rollouts.mask & rollouts.ended[:, None]
    return rollouts._replace(mask=mask, logps=torch.where(mask, rollouts.logps, 0.0))


def where_to_look(rollouts: Rollouts) -> dict[str, Tensor]:
    """Positions and segments of the padded rows, for a forward pass that sees what the sampler saw.

    Returns:
        {"positions": [B, P + M], counted from each prompt's first token; "segment_ids": [B, P + M], 0 on the
        padding before it}.
    """
    place = torch.arange(rollouts.tokens.shape[1], device=rollouts.tokens.device) - rollouts.starts[:, None]
    return {"positions": place.clamp(min=0), "segment_ids": (place >= 0).long()}


def completion_states(hidden: Callable[..., Tensor], params: Tree, rollouts: Rollouts) -> Tensor:
    """The states from which each completion's token was drawn: those one place before it. Nothing is dropped
    out.

    Args:
        hidden: (params, tokens, positions=, segment_ids=) -> [B, P + M, ...], such as `model.hidden`.
        params: whatever `hidden` takes.
        rollouts: B rows.

    Returns:
        [B, M, ...].
    """
    before = rollouts.tokens.shape[1] - rollouts.mask.shape[1] - 1
    states = hidden(params, rollouts.tokens, **where_to_look(rollouts))
    return states[:, before:-1]


def completion_log_probabilities(
    params: Tree, rollouts: Rollouts, *, model: Model, head: Any
) -> LogProbabilities:
    """Computes the log-probabilities of the completions by the forward function that training differentiates.

    Sampling, reference and learner all see the whole model, without dropout: the ratio of the learner to the
    policy that drew is then exactly 1 before the first update, as the papers' clipping presupposes.

    Args:
        params: the policy's, or the reference's.
        rollouts: B rows.
        model: gives `hidden`.
        head: (params, hidden, labels) -> LogProbabilities, at the temperature at which they were drawn.

    Returns:
        LogProbabilities(logps [B, M], entropy [B, M]), 0 where masked.
    """
    states = completion_states(model.hidden, params, rollouts)
    return head(params, states, labels_of(rollouts))


def labels_of(rollouts: Rollouts) -> Tensor:
    """The completions' tokens, [B, M]; -100 where masked."""
    width = rollouts.tokens.shape[1] - rollouts.mask.shape[1]
    return torch.where(rollouts.mask, rollouts.tokens[:, width:], IGNORE)
