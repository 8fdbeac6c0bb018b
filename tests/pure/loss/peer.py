"""TRL's losses without its trainers: `_compute_loss` called on an object that has only what the loss reads.

TRL computes its losses in methods, in the middle of a model's forward pass and of logging; so the model here
answers with log-probabilities that the test chose.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def fake_trainer(**fields: Any) -> Any:
    """Stand-in for TRL's trainer."""
    same = lambda x, **_: x  # noqa: E731
    accelerator = SimpleNamespace(
        device="cpu", num_processes=1, gather=same, gather_for_metrics=same, reduce=same
    )
    always = {
        "accelerator": accelerator,
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "_tp_size": 1,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "current_gradient_accumulation_steps": 1,
    }
    return SimpleNamespace(**(always | fields))


def one_token_answers(rows: int) -> dict[str, Tensor]:
    """Rows of a prompt of one token and an answer of one."""
    return {
        "input_ids": torch.zeros(rows, 2, dtype=torch.int64),
        "attention_mask": torch.ones(rows, 2, dtype=torch.int64),
        "completion_mask": torch.tensor([[0, 1]] * rows),
    }


def answering(logps: Tensor) -> Callable[..., Any]:
    """A model that gives these log-probabilities [B] to the answers."""
    zeros = torch.zeros(len(logps), 1)
    outputs = SimpleNamespace(
        log_probs=logps[:, None], entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )
    return lambda **_: outputs
