"""Validation on held-out data: bits per byte, mean loss, mean reward.

Bits per byte compare models with different tokenizers, and with gzip and xz.

Shape letters: B batch, T tokens.
"""

from __future__ import annotations

import gzip
import lzma
import math
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple, Protocol

import torch

from data_pipes.types import Pipe
from pure import tree
from pure.generation.sampling import Sampling
from pure.generation.stepper import Stepper
from pure.loss.cross_entropy import cross_entropy
from pure.parallel.collect import together, total
from pure.parallel.cut_models import record_cut_models
from pure.parallel.group import data_group, within
from pure.transform.accumulate import Loss, Metric, divisor
from pure.types import Model, Tree
from stages.cut_model import score_once
from stages.online import Rollout, Score, compute_checked_rewards, policy_of, weighted_sum
from stages.rollout import rollout
from stages.stage import Stage


class Validate(Protocol):
    """Measures params on held-out data; lower "val_loss" is better."""

    def __call__(self, params: Tree, /) -> Mapping[str, float]: ...


class Compressors(NamedTuple):
    """Bits per byte of gzip and xz on the same text, compressed as one stream."""

    gzip: float
    xz: float


def numbers_of(values: Mapping[str, float]) -> dict[str, float]:
    """Returns what a validation gave as numbers; a tensor of one number is one.

    Raises:
        TypeError: naming the value that is no number.
    """
    numbers = {}
    for name, value in values.items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError, RuntimeError):
            shape = (
                f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
            )
            raise TypeError(f"run: validate gave {shape} as {name!r}; expected a number") from None
    return numbers


def bits_per_byte(model: Model, batches: Pipe, nbytes: int, *, dtype: torch.dtype) -> Validate:
    """Makes the function that validates pretraining: loss per token and bits per byte.

        val_loss = Σ nll / tokens          nats a token
        val_bpb  = Σ nll / (bytes ln 2)    bits a byte

    Args:
        model: gives `forward`.
        batches: held-out {"tokens", "labels"}; each scored token is a label in exactly one row.
        nbytes: UTF-8 bytes of the text that the labels decode to.
        dtype: that the forward pass computes in.

    Returns:
        params -> {"val_loss", "val_bpb"}.
    """
    return partial(_bits_per_byte, model=model, batches=batches, nbytes=nbytes, dtype=dtype)


def validate_nothing(params: Tree, /) -> dict[str, float]:
    """Validates without held-out data: returns no metrics."""
    del params
    return {}


def mean_loss(stage: Stage, batches: Pipe | None, names: tuple[str, ...] = ()) -> Validate:
    """Makes the function that validates with a stage's own loss.

    Args:
        stage: gives `loss`, which is called with key None: dropout is off in the model and in adapters.
        batches: held out; None returns `validate_nothing`.
        names: metrics of the loss to report too.

    Returns:
        params -> {"val_loss", "val_NAME", ...}, deterministic.

    Raises:
        ValueError: for a stage whose loss does not take the pipe's batches.
    """
    if batches is None:
        return validate_nothing
    if stage.loss is None or stage.parts is not None:
        raise ValueError(
            "mean_loss: expected a stage whose loss takes the pipe's batches; validate grpo and ppo with "
            "mean_reward"
        )
    return partial(_mean_loss, loss=stage.loss, batches=batches, names=names)


def member_validation(validate: Validate) -> Validate:
    """Makes the function that validates each member of a population or sweep.

    Args:
        validate: for the params of one member, such as `mean_loss(stage, batches)` of the stage that the
            members share.

    Returns:
        params with a leading axis [P, ...] -> {"NAME", "NAME/0", ..., "NAME/lowest"} for each NAME that
        `validate` reports: the mean, each member's, and that of the lowest, NaN left out.
        `RunOptions(watch="val_loss/lowest")` stops a run when no member improves, and keeps the checkpoint
        with the best one.

    Example:
        >>> member_validation(lambda params: {"val_loss": float(params)})(torch.tensor([3.0, 1.0]))
        {'val_loss': 2.0, 'val_loss/0': 3.0, 'val_loss/1': 1.0, 'val_loss/lowest': 1.0}
    """
    return partial(_validate_members, validate=validate)


def mean_reward(
    model: Model,
    batches: Pipe,
    score: Score,
    *,
    sampling: Sampling,
    row_offset: int,
    key: torch.Tensor,
    dtype: torch.dtype,
    weights: tuple[float, ...] | None = None,
    compile: bool | Stepper = False,
) -> Validate:
    """Makes the function that validates a policy by the mean reward of completions sampled as in training.

    Args:
        model: the policy's.
        batches: held-out prompts; only the first batch is used.
        score: Rollouts -> rewards [B, K].
        sampling: settings of the sampling, as in training.
        row_offset: added to the row numbers of the prompts, so that `score` looks up the right rows.
        key: the same for every validation, so that validations are comparable.
        dtype: that sampling computes in.
        weights: of the K rewards in their sum; None weighs each with 1.
        compile: as in `pure.generation.generate.generate`.

    Returns:
        params -> {"val_reward", "val_loss"}: the mean of the summed rewards, and its negative, as lower is
        better.
    """
    sample = partial(rollout, model, samples=1, sampling=sampling, dtype=dtype, compile=compile)
    return partial(
        _mean_reward,
        sample=sample,
        batches=batches,
        score=score,
        row_offset=row_offset,
        key=key,
        weights=weights,
    )


def compression_rates(text: bytes) -> Compressors:
    """Computes the bits per byte of `text` after gzip -9 and after xz -9e.

    Example:
        >>> compression_rates(b"a" * 10000).gzip < 0.1
        True
    """
    compressed = gzip.compress(text, 9, mtime=0), lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    return Compressors(*(8 * len(data) / len(text) for data in compressed))


def _mean_loss(params: Tree, *, loss: Loss, batches: Pipe, names: tuple[str, ...]) -> dict[str, float]:
    """Computes the means of the loss and the named metrics over all batches."""
    device = tree.leaves(params)[0].device
    sums = torch.zeros(2 * (1 + len(names)), dtype=torch.float64, device=device)  # sum, count, ...
    with torch.no_grad():
        for number in _own_numbers(len(batches)):
            batch = tree.map(lambda x: x.to(device), batches[number])
            rows = torch.arange(tree.leaves(batch)[0].shape[0], device=device)
            with within(None):  # this process computes its own batches
                loss_sum, count, metrics = loss(params, {"batch_position": rows, **batch}, None)
            if loss_sum.ndim:
                raise ValueError(
                    f"mean_loss: a population has {len(loss_sum)} losses; validate each member, with the "
                    "stage that the population was made from (member_validation)"
                )
            terms = [loss_sum, count]
            for name in names:
                terms += [x.double() for x in _sum_and_count(metrics[name])]
            sums += torch.stack(terms)
    sums = total(sums)
    loss_mean, *means = (sums[::2] / divisor(sums[1::2])).tolist()
    return {"val_loss": loss_mean} | {f"val_{name}": x for name, x in zip(names, means, strict=True)}


def _sum_and_count(metric: Metric) -> tuple[torch.Tensor, torch.Tensor]:
    """Splits a metric into sum and count; a metric that is a plain sum has count 0, which divides by 1."""
    return (metric, torch.zeros_like(metric)) if isinstance(metric, torch.Tensor) else metric


def _mean_reward(
    params: Tree,
    *,
    sample: Rollout,
    batches: Pipe,
    score: Score,
    row_offset: int,
    key: torch.Tensor,
    weights: tuple[float, ...] | None,
) -> dict[str, float]:
    """Samples one completion for each prompt of the first batch, and averages the weighted rewards."""
    policy = policy_of(params)
    own_sums = together(_sum_own_rewards, policy, sample, batches[0], score, row_offset, key, weights)
    sums, count = total(own_sums).tolist()
    mean = sums / count if count else math.nan
    return {"val_reward": mean, "val_loss": 0.0 - mean}  # not -mean, which is -0.0 for a mean of 0


def _sum_own_rewards(
    policy: Tree,
    sample: Rollout,
    batch: Tree,
    score: Score,
    row_offset: int,
    key: torch.Tensor,
    weights: tuple[float, ...] | None,
) -> torch.Tensor:
    """Samples and scores completions of this process's prompts: sum and number of their rewards, [2]."""
    device = tree.leaves(policy)[0].device
    numbers = _own_numbers(len(batch["row"]))
    if not numbers:
        return torch.zeros(2, dtype=torch.float64, device=device)
    prompts = tree.map(lambda x: x[numbers.start :: numbers.step].to(device), batch)
    with torch.no_grad(), within(None):
        with record_cut_models() as models:
            rollouts = sample(policy, prompts, key)
        scored = partial(compute_checked_rewards, score, ())
        rewards = score_once(scored, models, rollouts._replace(row=rollouts.row + row_offset))
    values = weighted_sum(rewards, weights).double()
    return torch.stack([values.nansum(), values.isfinite().sum().double()])


def _own_numbers(count: int) -> range:
    """The numbers of the batches, or rows, that this process takes: every n-th of n processes."""
    group = data_group()
    return range(count) if group is None else range(group.rank, count, group.size)


def _bits_per_byte(
    params: Tree, *, model: Model, batches: Pipe, nbytes: int, dtype: torch.dtype
) -> dict[str, float]:
    """Computes the bits per byte; float64 sums are copied to the host once."""
    cast_params = tree.cast(params, dtype)
    device = tree.leaves(params)[0].device
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    with torch.no_grad():
        for number in _own_numbers(len(batches)):
            batch = tree.map(lambda x: x.to(device), batches[number])
            packing = {name: batch[name] for name in ("positions", "segment_ids") if name in batch}
            logits = model.forward(cast_params, batch["tokens"], **packing)
            sums += torch.stack(cross_entropy(logits, batch["labels"]))
    nats, tokens = total(sums).tolist()
    return {"val_loss": nats / tokens, "val_bpb": nats / (nbytes * math.log(2))}


def _validate_members(params: Tree, *, validate: Validate) -> dict[str, float]:
    """Validates the members one after the other."""
    rows = [validate(member) for member in tree.unstack(params)]
    values: dict[str, float] = {}
    for name in rows[0]:
        own = [row[name] for row in rows]
        values[name] = sum(own) / len(own)
        values |= {f"{name}/{i}": value for i, value in enumerate(own)}
        values[f"{name}/lowest"] = min((value for value in own if not math.isnan(value)), default=math.nan)
    return values
