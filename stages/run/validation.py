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
from pure.transform.accumulate import Metric
from pure.types import Model, Tree
from stages.online import Rollout, Score, policy_of, weighted_sum
from stages.rollout import rollout
from stages.stage import Loss, Stage


class Validate(Protocol):
    """Measures params on held-out data; lower "val_loss" is better."""

    def __call__(self, params: Tree, /) -> Mapping[str, float]: ...


class Compressors(NamedTuple):
    """Bits per byte of the usual compressors on the same text, each file set as one stream."""

    gzip: float
    xz: float


def bits_per_byte(model: Model, batches: Pipe, nbytes: int, *, dtype: torch.dtype) -> Validate:
    """Makes the function that a run validates with.

        val_loss = Σ nll / tokens          nats a token
        val_bpb  = Σ nll / (bytes ln 2)    bits a byte

    Args:
        model: whose forward is asked.
        batches: held-out {"tokens", "labels"}; each token that counts has its label in exactly one row.
        nbytes: UTF-8 bytes of the text that the labels spell.
        dtype: of the products.

    Returns:
        params -> {"val_loss", "val_bpb"}.
    """
    return partial(_bits_per_byte, model=model, batches=batches, nbytes=nbytes, dtype=dtype)


def validate_nothing(params: Tree, /) -> dict[str, float]:
    """Validates without held-out data: there are no figures."""
    del params
    return {}


def mean_loss(stage: Stage, batches: Pipe | None, names: tuple[str, ...] = ()) -> Validate:
    """Makes the function that validates with a stage's own loss.

    Args:
        stage: whose loss is taken. It is given None for the key, by which every loss here drops nothing out,
            in the model or in adapters.
        batches: held out; None gives no figures.
        names: metrics of the loss that are wanted too.

    Returns:
        params -> {"val_loss", "val_NAME", ...}, the same bits whenever it is asked.

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


def mean_reward(
    model: Model,
    batches: Pipe,
    score: Score,
    *,
    sampling: Sampling,
    first: int,
    key: torch.Tensor,
    dtype: torch.dtype,
    weights: tuple[float, ...] | None = None,
    compile: bool | Stepper = False,
) -> Validate:
    """Makes the function that validates a policy by what its answers are worth, drawn as in training.

    Args:
        model: the policy's.
        batches: held-out prompts; their first batch is asked.
        score: Rollouts -> rewards [B, K].
        sampling: of the answers, as in training.
        first: what is added to a prompt's number, for the score to find its row.
        key: the same for every validation, so that they can be compared.
        dtype: to draw in.
        weights: of the K rewards in their sum; None weighs each with 1.
        compile: as in `pure.generation.generate.generate`.

    Returns:
        params -> {"val_reward", "val_loss"}: the mean of the summed rewards, and its negative, as lower is
        better.
    """
    draw = partial(rollout, model, samples=1, sampling=sampling, dtype=dtype, compile=compile)
    return partial(
        _mean_reward, draw=draw, batches=batches, score=score, first=first, key=key, weights=weights
    )


def compressors(text: bytes) -> Compressors:
    """Compresses `text` by gzip -9 and xz -9e, bits per byte.

    Example:
        >>> compressors(b"a" * 10000).gzip < 0.1
        True
    """
    packed = gzip.compress(text, 9, mtime=0), lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)
    return Compressors(*(8 * len(data) / len(text) for data in packed))


def _mean_loss(params: Tree, *, loss: Loss, batches: Pipe, names: tuple[str, ...]) -> dict[str, float]:
    """Computes the mean over the batches."""
    device = tree.leaves(params)[0].device
    sums = torch.zeros(2 + 2 * len(names), dtype=torch.float64, device=device)
    with torch.no_grad():
        for number in range(len(batches)):
            batch = tree.map(lambda x: x.to(device), batches[number])
            rows = torch.arange(tree.leaves(batch)[0].shape[0], device=device)
            total, count, metrics = loss(params, {"batch_position": rows, **batch}, None)
            sums += torch.stack(
                [total, count, *(x.double() for name in names for x in _sum_and_count(metrics[name]))]
            )
    total, *rest = (sums[::2] / sums[1::2].clamp(min=1)).tolist()
    return {"val_loss": total, **{f"val_{name}": value for name, value in zip(names, rest, strict=True)}}


def _sum_and_count(metric: Metric) -> tuple[torch.Tensor, torch.Tensor]:
    """A mean's sum and count; a sum is divided by 1."""
    return (metric, torch.zeros_like(metric)) if isinstance(metric, torch.Tensor) else metric


def _mean_reward(
    params: Tree,
    *,
    draw: Rollout,
    batches: Pipe,
    score: Score,
    first: int,
    key: torch.Tensor,
    weights: tuple[float, ...] | None,
) -> dict[str, float]:
    """Samples one completion of each prompt of the first batch, and scores them."""
    policy = policy_of(params)
    device = tree.leaves(policy)[0].device
    with torch.no_grad():
        found = draw(policy, tree.map(lambda x: x.to(device), batches[0]), key)
        total = float(weighted_sum(score(found._replace(row=found.row + first)), weights).double().nanmean())
    return {"val_reward": total, "val_loss": 0.0 - total}


def _bits_per_byte(
    params: Tree, *, model: Model, batches: Pipe, nbytes: int, dtype: torch.dtype
) -> dict[str, float]:
    """Computes the bits per byte; the sums are in float64, and read once."""
    narrow = tree.cast(params, dtype)
    device = tree.leaves(params)[0].device
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    with torch.no_grad():
        for number in range(len(batches)):
            batch = tree.map(lambda x: x.to(device), batches[number])
            where = {name: batch[name] for name in ("positions", "segment_ids") if name in batch}
            sums += torch.stack(
                cross_entropy(model.forward(narrow, batch["tokens"], **where), batch["labels"])
            )
    nats, tokens = sums.tolist()
    return {"val_loss": nats / tokens, "val_bpb": nats / (nbytes * math.log(2))}
