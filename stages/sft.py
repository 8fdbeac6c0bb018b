"""Supervised fine-tuning: train on the assistant's turns of conversations.

The mathematics is in `pure/loss/cross_entropy.py`; `data_pipes/chat/chat.py` marks the assistant's tokens;
`data_pipes/sft.py` packs several examples into a row.

Shape letters: B batch, T tokens.

Ouyang et al., "Training language models to follow instructions with human feedback", 2022.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pure.foreign import check_model
from pure.types import GradientTransformation, Model
from stages.pretrain import pretrain
from stages.stage import Stage

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from stages.stage import StageOptions


def sft(
    model: Model,
    optimizer: GradientTransformation,
    *,
    compute: torch.dtype = torch.float32,
    chunk: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    **options: Unpack[StageOptions],
) -> Stage:
    """Build the stage that trains on conversations: the loss of pretraining, on the assistant's tokens alone.

        loss = - Σ_{t of the assistant} log p(token_t | tokens before it) / (number of such t)

    Args:
        model: from `pure.nn.transformer.transformer`, or any other.
        optimizer: a GradientTransformation.
        compute: dtype of the forward and backward pass; params keep theirs.
        chunk: positions whose logits are computed at a time, to bound memory; None: all at once.
        label_smoothing, z_loss: see `pure.loss.cross_entropy.cross_entropy`.
        options: keyword arguments of `stages.stage.stage`.

    Returns:
        Stage(init, step) for batches {"tokens": [B, T], "labels": [B, T]}, labels already shifted and -100 on
        every other token; several examples packed in a row also have "segment_ids" and "positions" [B, T].
        The metric "tokens" counts the labels.

    Edge cases: a batch without any token of the assistant has loss 0 and no gradient.

    Source: Ouyang et al. 2022, section 3.5.
    """
    check_model("sft", model)
    return pretrain(
        model,
        optimizer,
        compute=compute,
        chunk=chunk,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        **options,
    )
