"""State of every stage: a step takes and returns it, and a checkpoint holds it.

A training run is a fold, `reduce(stage.step, pipe, stage.init(key))`, over this state.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pure.types import Tree


class TrainState(NamedTuple):
    """All that changes during training, and nothing else: a run resumes from it bit for bit.

    Configuration, the optimizer and frozen weights are bound into the stage, so that a state is only tensors:
    it can be saved, copied, stacked for `vmap`, or sent to another framework. No two leaves of an initial
    state share storage.

    Fields:
        step: [] int32, items of the pipe consumed so far, skipped ones included. A run
            resumes with `pipe[int(state.step):]`.
        key: [2] uint32, the root key. It never advances: a step draws from `fold_in(key, step)`.
        params: exactly what is differentiated (PPO: {"policy": ..., "value": ...}).
        opt_state: the optimizer's state, with optax's structure. A skipped step does not advance its counts.
        extra: values that change without a gradient, {} by default: an average of the weights, an adaptive
            coefficient.
        metrics: {name: [] tensor} of the last step, NaN before the first; only the training loop reads them.

    Example:
        >>> import torch
        >>> state = TrainState(torch.tensor(0), torch.tensor([0, 42]), {"w": torch.zeros(2)}, (), {}, {})
        >>> state._replace(step=state.step + 1).step.item()
        1
    """

    step: Tensor
    key: Tensor
    params: Tree
    opt_state: Tree
    extra: Tree
    metrics: dict[str, Tensor]
