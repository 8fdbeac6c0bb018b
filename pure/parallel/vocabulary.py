"""Logits of which each process holds those of its part of the vocabulary.

Logits are the largest tensor of a step. A tensor-parallel head computes V/n of them on each process, and no
process ever holds them all: the losses take them as they are (`pure.loss.vocabulary`).

Shape letters: V vocabulary, n processes.

Shoeybi et al., "Megatron-LM", 2019, section 3 (parallel cross-entropy).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pure.parallel.group import Group
from pure.parallel.operators import join_over_group


@dataclass(frozen=True, eq=False)
class CutLogits:
    """Own part of the logits; anything but a loss or `gather_logits` refuses them.

    Fields:
        local: [..., V/n], of the tokens rank · V/n .. (rank + 1) · V/n - 1.
        group: the processes, in the order of the vocabulary.
    """

    local: Tensor
    group: Group

    @property
    def size(self) -> int:
        """V, tokens of the whole vocabulary."""
        return self.local.shape[-1] * self.group.size

    @property
    def first(self) -> int:
        """The first token of this process's part."""
        return self.local.shape[-1] * self.group.rank

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(f"{REFUSAL} (.{name})")

    def __getitem__(self, index: Any) -> Any:
        raise TypeError(f"{REFUSAL} (an index)")

    @classmethod
    def __torch_function__(cls, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TypeError(f"{REFUSAL} ({getattr(function, '__name__', function)})")


REFUSAL = (
    "logits of a tensor-parallel model are cut over the vocabulary: give them to cross_entropy or "
    "log_probabilities, or join them first with pure.parallel.vocabulary.gather_logits(logits)"
)
"""The error of everything that does not take cut logits."""


def gather_logits(logits: Tensor | CutLogits) -> Tensor:
    """Return whole logits [..., V] on every process: a communication of V numbers a position.

    Args:
        logits: of a tensor-parallel model; plain ones are returned unchanged.

    Returns:
        [..., V]; all processes must compute the same from them.

    Example:
        >>> import torch
        >>> gather_logits(CutLogits(torch.zeros(1, 2), Group(0, 1, None))).shape
        torch.Size([1, 2])
    """
    return join_over_group(logits.local, logits.group, -1) if isinstance(logits, CutLogits) else logits
