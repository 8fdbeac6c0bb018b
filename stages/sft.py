"""Supervised fine-tuning: learn to write the assistant's part of a conversation.

The mathematics is in `pure/loss/cross_entropy.py`; which tokens are the assistant's,
`data_pipes/chat/chat.py` says; how examples are packed side by side, `data_pipes/sft.py`.

Shape letters: B batch, T tokens.

Ouyang et al., "Training language models to follow instructions with human feedback", 2022.
"""

from __future__ import annotations

from typing import Any

import torch

from pure.types import GradientTransformation, Model
from stages.pretrain import pretrain
from stages.stage import Stage


def sft(
    model: Model,
    optimizer: GradientTransformation,
    *,
    compute: torch.dtype = torch.float32,
    chunk: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    **options: Any,
) -> Stage:
    """Makes the stage that trains on conversations: the loss of pretraining, on the assistant's tokens alone.

        loss = - Σ_{t of the assistant} log p(token_t | tokens before it) / (number of such t)

    Args:
        model: from `pure.nn.transformer.transformer`, or any other.
        optimizer: optax's pair.
        compute: dtype of the products; params stay as they are.
        chunk: positions whose logits are held at a time; None holds all.
        label_smoothing, z_loss: see `pure.loss.cross_entropy.cross_entropy`.
        options: `accumulation`, `ema`, `loss_scale` of `stages.stage.stage`.

    Returns:
        Stage(init, step) for batches {"tokens": [B, T], "labels": [B, T]}, labels already shifted and -100 on
        all that is not the assistant's; several examples packed in a row also have "segment_ids" and
        "positions" [B, T]. The metric "tokens" counts what was trained on.

    Edge cases: a batch without an assistant's token has loss 0 and no gradient.

    Source: Ouyang et al. 2022, section 3.5.
    """
    return pretrain(
        model,
        optimizer,
        compute=compute,
        chunk=chunk,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        **options,
    )
