"""Pretraining: predict the next token of running text.

The mathematics is in `pure/loss/cross_entropy.py`.

Shape letters: B batch, T tokens.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pure import random
from pure.foreign import check_model
from pure.loss.cross_entropy import CrossEntropyHead, chunk_cross_entropy, linear_cross_entropy
from pure.transform.jit import region
from pure.types import GradientTransformation, Model, Tree
from stages.stage import Stage, stage
from stages.weights import row_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from stages.stage import StageOptions


def pretrain(
    model: Model,
    optimizer: GradientTransformation,
    *,
    compute: torch.dtype = torch.float32,
    chunk: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    **options: Unpack[StageOptions],
) -> Stage:
    """Build the stage that trains on `{"tokens": [B, T], "labels": [B, T]}`, labels already shifted by one.

    Args:
        model: from `pure.nn.transformer.transformer`.
        optimizer: a GradientTransformation.
        compute: dtype of the forward and backward pass; params keep theirs.
        chunk: number of positions whose logits are in memory at a time; None computes all at once.
        label_smoothing, z_loss: see `pure.loss.cross_entropy.cross_entropy`.
        options: of `stages.stage.stage`.

    Returns:
        Stage(init, step); batches may also carry "positions" and "segment_ids" [B, T].
    """
    check_model("pretrain", model)
    extras: dict[str, Any] = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    part = region(partial(chunk_cross_entropy, logits=model.logits, options=extras))
    cross_entropy_fn = partial(linear_cross_entropy, logits=model.logits, **extras)
    head: CrossEntropyHead = (
        region(cross_entropy_fn) if chunk is None else partial(cross_entropy_fn, chunk=chunk, part=part)
    )
    loss = partial(next_token_loss, model=model, head=head)
    return stage(loss, optimizer, init=model.init, metrics=("tokens",), compute=compute, **options)


def next_token_loss(
    params: Tree, batch: Tree, key: Tensor | None, *, model: Model, head: CrossEntropyHead
) -> tuple[Tensor, Tensor, dict]:
    """Return the sum of the cross-entropies of all labels, nats.

    Args:
        params: the model's parameters.
        batch: tokens [B, T], labels [B, T] (-100 is not trained on), batch_position [B]; optional: positions,
            segment_ids [B, T], weights [B].
        key: [2]; dropout folds in each example's batch_position. None disables dropout, for validation.
        model, head: bound by `pretrain`.

    Returns:
        (sum [], count [] tokens, metrics).
    """
    keys = None if key is None else torch.func.vmap(random.fold_in, (None, 0))(key, batch["batch_position"])
    packing = {name: batch[name] for name in ("positions", "segment_ids") if name in batch}
    hidden = model.hidden(params, batch["tokens"], key=keys, **packing)
    weights = row_weights(batch)
    if weights is None:
        total, count = head(params, hidden, batch["labels"])
    else:
        total, count = head(params, hidden, batch["labels"], weights[:, None].expand(batch["labels"].shape))
    return total, count, {"tokens": count}
