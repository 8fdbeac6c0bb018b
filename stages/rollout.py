"""Rollouts: completions sampled from a policy, laid out so that the same tokens can be trained on.

Shape letters: N prompts, G samples of each, B = N G rows, P prompt tokens, M new tokens at most.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pure import random, tree
from pure.generation.generate import generate
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper
from pure.loss.check import check_range
from pure.loss.cross_entropy import IGNORE
from pure.loss.log_probability import Head, LogProbabilities, LogProbs, linear_log_probabilities
from pure.plural import count_noun
from pure.transform.jit import region
from pure.types import Model, Tree

ALTERING = ("top_k", "top_p", "min_p", "repetition_penalty")
"""Fields of Sampling that change which tokens are sampled, but not the log-probabilities in the losses."""


_ARRANGE = "stages.rollout.arrange makes Rollouts of prompts and completions"


class Rollouts(NamedTuple):
    """Completions after their prompts. Rows of one prompt are adjacent: row n G + g is sample g of prompt n.

    M may differ from batch to batch, and from process to process (they are then padded: `pad_rollouts`).

    Fields:
        tokens: [B, P + M] int64: the prompt, padded on the left, then the completion, padded on the right; so
            that every completion starts at position P, directly after its prompt.
        starts: [B] int64, the prompt's first position, after its padding.
        mask: [B, M] bool, True on the completion's tokens, the stop token among them.
        logps: [B, M] float32, nats, of each token as the sampler computed it, at the temperature; 0 where
            masked.
        ended: [B] bool, True where the policy ended the completion, False where it was cut off at M tokens.
        row: [B] int64, the prompt's row in the data set, by which its text is looked up.
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
    """Sample G completions of every prompt, as a deterministic function of (params, prompts, key).

    Each completion has its own key, made from the prompt's row and the sample's number, so that its tokens
    do not depend on the rest of the batch (up to rounding, where the shapes differ). The number of rows stays
    the same to the end, so that one shape is compiled and every bit can be reproduced.

    Args:
        model: gives `decode`, `cache` and `config`.
        params: the policy's params.
        batch: "prompts" [N, P] int64, padded on the right; "lengths" [N]; "row" [N], from
            `data_pipes.prompts`.
        key: [2] uint32, the key of this step's rollouts.
        samples: G >= 1.
        sampling: sampling settings. Losses compare log-probabilities at its temperature, without its top_k
            and top_p.
        dtype: compute dtype; None takes that of the params.
        compile: as in `pure.generation.generate.generate`.

    Returns:
        Rollouts.

    Raises:
        ValueError: as `generate`, for a prompt that is too long.
    """
    prompts, lengths, row = repeat_prompts(batch, samples)
    generated = generate(
        model,
        params if dtype is None else tree.cast(params, dtype),
        prompts,
        sampling,
        lengths=lengths,
        key=completion_keys(key, row, samples),
        shape=(len(prompts), prompts.shape[1]),
        compact=False,
        compile=compile,
    )
    completions = (generated.tokens, generated.lengths, generated.logprobs)
    return arrange(prompts, lengths, *completions, row, sampling.stop_tokens)


def repeat_prompts(batch: Tree, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Repeat each prompt for its G completions.

    Args:
        batch: "prompts" [N, P], "lengths" [N] and "row" [N].
        samples: G.

    Returns:
        (prompts [B, P], lengths [B], row [B]); row n G + g is sample g of prompt n.
    """
    prompts, lengths, row = (
        batch[name].repeat_interleave(samples, 0) for name in ("prompts", "lengths", "row")
    )
    return prompts, lengths, row


def completion_keys(key: Tensor, row: Tensor, samples: int) -> Tensor:
    """Make the key of each completion, fold_in(fold_in(key, row), sample).

    Args:
        key: [2] uint32, the key of a step's rollouts.
        row: [B] integers, the prompts' rows in the data set, each repeated G times.
        samples: G.

    Returns:
        [B, 2] uint32.
    """
    sample_index = torch.arange(samples, device=key.device).repeat(len(row) // samples)
    row_keys = torch.func.vmap(random.fold_in, (None, 0))(key, row)
    return torch.func.vmap(random.fold_in)(row_keys, sample_index)


def choose_rollout(
    given: Callable[[Tree, Tree, Tensor], Rollouts] | None,
    model: Model,
    sampling: Sampling,
    *,
    samples: int,
    dtype: torch.dtype | None = None,
    compile: bool | Stepper = False,
    cap: float | None = None,
) -> Callable[[Tree, Tree, Tensor], Rollouts]:
    """Return the sampler of a stage: the given one, or `stages.rollout.rollout` with its options bound.

    Args:
        given: another sampler, or None.
        model, sampling, samples, dtype, compile: of `rollout`.
        cap: largest importance weight between trainer and sampler, or None for no weights.

    Returns:
        (params, batch, key) -> Rollouts.

    Raises:
        ValueError: if the cap is not above 0; or if another sampler truncates its distribution, and its
            log-probabilities are to be compared with those of the whole one.
    """
    check_range("importance_cap", "above 0", optional=True, importance_cap=cap)
    if given is None:
        return partial(rollout, model, samples=samples, sampling=sampling, dtype=dtype, compile=compile)
    altered = [name for name in ALTERING if getattr(sampling, name) is not None]
    if cap is not None and altered:
        raise ValueError(
            f"importance_cap {cap} compares the log-probabilities of a sampler elsewhere, those of its "
            "truncated distribution, with the trainer's, of the whole one; leave out "
            f"{', '.join(altered)}, or importance_cap"
        )
    return partial(sample_elsewhere, rollout=given, samples=samples)


def sample_elsewhere(
    params: Tree,
    batch: Tree,
    key: Tensor,
    *,
    rollout: Callable[[Tree, Tree, Tensor], Rollouts],
    samples: int,
) -> Rollouts:
    """Sample by another sampler, and check the fields of its completions.

    Args:
        params, batch, key: as in `rollout`.
        rollout: the other sampler.
        samples: G.

    Returns:
        Rollouts of B rows.

    Raises:
        TypeError, ValueError: as `check_rollouts`.
    """
    rollouts = rollout(params, batch, key)
    check_rollouts(rollouts, batch, samples)
    return rollouts


def check_rollouts(rollouts: Rollouts, batch: Tree, samples: int) -> None:
    """Check the fields of a sampler's completions.

    Args:
        rollouts: of a sampler.
        batch: the prompts that it was given: "prompts" [N, P], "row" [N].
        samples: G.

    Raises:
        TypeError: if they are no Rollouts of tensors.
        ValueError: for another number of completions, whose groups would be of several prompts; for fields of
            other shapes or dtypes. The message names the field.

    Example:
        >>> batch = {"prompts": torch.zeros(1, 2), "row": torch.zeros(1)}
        >>> row, mask = torch.tensor([0]), torch.ones(1, 1).bool()
        >>> rollouts = Rollouts(torch.zeros(1, 3).long(), row, mask, mask.float(), row, row)
        >>> check_rollouts(rollouts, batch, 1)
        Traceback (most recent call last):
        ValueError: rollout: expected ended [1] bool, got [1] int64; stages.rollout.arrange makes Rollouts of
            prompts and completions
    """
    if not isinstance(rollouts, Rollouts) or not all(isinstance(x, Tensor) for x in rollouts):
        raise TypeError(f"rollout: expected Rollouts of tensors, got {type(rollouts).__name__}; {_ARRANGE}")
    prompts, width = batch["prompts"].shape
    rows = samples * prompts
    if len(rollouts.row) != rows:
        raise ValueError(
            f"rollout: expected {count_noun(samples, 'completion')} of each of {prompts} prompts, "
            f"{rows} rows, got {len(rollouts.row)}; give the stage and its sampler the same samples"
        )
    new = rollouts.mask.numel() // rows
    expected = (
        ([rows, width + new], "int64"),
        ([rows], "int64"),
        ([rows, new], "bool"),
        ([rows, new], "float32"),
        ([rows], "bool"),
        ([rows], str(batch["row"].dtype)[6:]),
    )
    for name, x, (shape, dtype) in zip(Rollouts._fields, rollouts, expected, strict=True):
        if list(x.shape) != shape or str(x.dtype) != f"torch.{dtype}":
            raise ValueError(
                f"rollout: expected {name} {shape} {dtype}, got {list(x.shape)} {str(x.dtype)[6:]}; "
                f"{_ARRANGE}"
            )


def pad_rollouts(rollouts: Rollouts, width: int) -> Rollouts:
    """Pad completions on the right to a common width; masked tokens are part of no loss.

    Args:
        rollouts: B rows of M tokens at most.
        width: M of the result, at least that.

    Returns:
        Rollouts.

    Example:
        >>> one, rows = torch.ones(1, 1), torch.tensor([0])
        >>> rollouts = Rollouts(torch.ones(1, 3).long(), rows, one.bool(), one, rows == 0, rows)
        >>> pad_rollouts(rollouts, 2).tokens, pad_rollouts(rollouts, 2).mask
        (tensor([[1, 1, 1, 0]]), tensor([[ True, False]]))
    """
    more = width - rollouts.mask.shape[1]
    tokens, mask, logps = (F.pad(x, (0, more)) for x in (rollouts.tokens, rollouts.mask, rollouts.logps))
    return rollouts._replace(tokens=tokens, mask=mask, logps=logps)


def arrange(
    prompts: Tensor,
    lengths: Tensor,
    completions: Tensor,
    completion_lengths: Tensor,
    logps: Tensor,
    row: Tensor,
    stop_tokens: tuple[int, ...],
) -> Rollouts:
    """Lay out prompts and completions as Rollouts; the completions may be sampled elsewhere.

    Args:
        prompts: [B, P] integers, padded on the right.
        lengths: [B] integers, number of tokens of each prompt.
        completions: [B, M] integers, padded on the right.
        completion_lengths: [B] integers, number of tokens of each completion, its stop token included.
        logps: [B, M] float, nats, of the behaviour policy.
        row: [B] integers, the prompts' rows in the data set.
        stop_tokens: ids that end a completion.

    Returns:
        Rollouts.

    Example:
        >>> prompts, lengths = torch.tensor([[5, 6, 0], [7, 8, 9]]), torch.tensor([2, 3])
        >>> completions, completion_lengths = torch.tensor([[1, 2], [3, 0]]), torch.tensor([2, 1])
        >>> logps, row = torch.zeros(2, 2), torch.tensor([0, 1])
        >>> rollouts = arrange(prompts, lengths, completions, completion_lengths, logps, row, (2,))
        >>> rollouts.tokens.tolist(), rollouts.starts.tolist(), rollouts.ended.tolist()
        ([[0, 5, 6, 1, 2], [7, 8, 9, 3, 0]], [1, 0], [True, False])
    """
    width = prompts.shape[1]
    starts = width - lengths
    positions = torch.arange(width, device=prompts.device) - starts[:, None]
    left = torch.where(positions >= 0, prompts.gather(1, positions.clamp(min=0)), 0)
    mask = torch.arange(completions.shape[1], device=prompts.device) < completion_lengths[:, None]
    stops = torch.tensor(stop_tokens, dtype=completions.dtype, device=prompts.device)
    last = completions.gather(1, (completion_lengths - 1).clamp(min=0)[:, None])
    ended = (last == stops).any(1) & (completion_lengths > 0)
    tokens = torch.cat([left, torch.where(mask, completions, 0)], 1).long()
    return Rollouts(tokens, starts.long(), mask, torch.where(mask, logps, 0.0).float(), ended, row)


def mask_truncated_rows(rollouts: Rollouts) -> Rollouts:
    """Mask all tokens of the completions that were cut off, so that no loss sees them.

    Returns:
        Rollouts; in those rows `mask` is False and `logps` is 0.
    """
    mask = rollouts.mask & rollouts.ended[:, None]
    return rollouts._replace(mask=mask, logps=torch.where(mask, rollouts.logps, 0.0))


def positions_and_segments(rollouts: Rollouts) -> dict[str, Tensor]:
    """Return positions and segments of the padded rows, for a forward pass that sees what the sampler saw.

    Returns:
        {"positions": [B, P + M], counted from each prompt's first token; "segment_ids": [B, P + M], 0 on the
        padding before it}.
    """
    length = rollouts.tokens.shape[1]
    positions = torch.arange(length, device=rollouts.tokens.device) - rollouts.starts[:, None]
    return {"positions": positions.clamp(min=0), "segment_ids": (positions >= 0).long()}


def completion_states(hidden: Callable[..., Tensor], params: Tree, rollouts: Rollouts) -> Tensor:
    """Return the hidden states that predict each completion token, one position before it, without dropout.

    Args:
        hidden: (params, tokens, positions=, segment_ids=) -> [B, P + M, ...], such as `model.hidden`.
        params: the params that `hidden` takes.
        rollouts: B rows.

    Returns:
        [B, M, ...].
    """
    first = rollouts.tokens.shape[1] - rollouts.mask.shape[1] - 1
    states = hidden(params, rollouts.tokens, **positions_and_segments(rollouts))
    return states[:, first:-1]


def policy_log_probabilities(
    model: Model, *, temperature: float | Tensor, chunk: int | None = None
) -> LogProbs:
    """Return the log-probability function that loss, reference and behaviour policy share.

    Args:
        model: the policy's.
        temperature: temperature at which the completions were sampled.
        chunk: rows whose logits are computed at a time, to bound memory; None computes all at once.

    Returns:
        (params, rollouts) -> LogProbabilities [B, M], entropy included.
    """
    head = partial(
        linear_log_probabilities, logits=model.logits, temperature=temperature, entropy=True, chunk=chunk
    )
    return partial(completion_log_probabilities, model=model, head=region(head))


def completion_log_probabilities(
    params: Tree, rollouts: Rollouts, *, model: Model, head: Head
) -> LogProbabilities:
    """Compute the completions' log-probabilities with the forward pass that training differentiates.

    Behaviour policy, reference and learner all see the whole model, without dropout: the ratio of the learner
    to the behaviour policy is then exactly 1 before the first update, as the papers' clipping presupposes.

    Args:
        params: the policy's, or the reference's.
        rollouts: B rows.
        model: gives `hidden`.
        head: (params, hidden, labels) -> LogProbabilities, at the sampling temperature.

    Returns:
        LogProbabilities(logps [B, M], entropy [B, M]), 0 where masked.
    """
    states = completion_states(model.hidden, params, rollouts)
    return head(params, states, completion_labels(rollouts))


def completion_labels(rollouts: Rollouts) -> Tensor:
    """Return the completions' tokens, [B, M]; -100 where masked."""
    width = rollouts.tokens.shape[1] - rollouts.mask.shape[1]
    return torch.where(rollouts.mask, rollouts.tokens[:, width:], IGNORE)
