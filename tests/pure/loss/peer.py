"""Stand-ins for TRL's trainers and models, so that tests can call TRL's `_compute_loss` directly.

TRL computes its losses in methods of its trainers, between a model's forward pass and logging. The fake
trainer has only the fields that the loss reads; the fake model returns log-probabilities that the test chose.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


def fake_trainer(**fields: Any) -> Any:
    """Stand-in for a trainer of TRL; `fields` are added to those that every loss reads."""
    identity = lambda x, **_: x  # noqa: E731
    accelerator = SimpleNamespace(
        device="cpu", num_processes=1, gather=identity, gather_for_metrics=identity, reduce=identity
    )
    common_fields = {
        "accelerator": accelerator,
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "_tp_size": 1,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "current_gradient_accumulation_steps": 1,
    }
    return SimpleNamespace(**(common_fields | fields))


def one_token_completions(rows: int) -> dict[str, Tensor]:
    """A batch whose rows are a prompt of one token and a completion of one token."""
    return {
        "input_ids": torch.zeros(rows, 2, dtype=torch.int64),
        "attention_mask": torch.ones(rows, 2, dtype=torch.int64),
        "completion_mask": torch.tensor([[0, 1]] * rows),
    }


def fake_model(logps: Tensor) -> Callable[..., Any]:
    """Stand-in for a model that gives these log-probabilities [B] to the completions."""
    zeros = torch.zeros(len(logps), 1)
    outputs = SimpleNamespace(
        log_probs=logps[:, None], entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )
    return lambda **_: outputs
