"""Unrolled training: several steps as one function, differentiated with respect to anything it starts from.

The derivative of a validation loss after some steps with respect to the learning rate, beta, weights of the
data or the initial params is a meta-gradient: a hyperparameter is then learned like a param.

Shape letters: S steps.

Maclaurin et al., "Gradient-based Hyperparameter Optimization through Reversible Learning", 2015; Finn et al.,
"Model-Agnostic Meta-Learning", 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure.plural import count_noun
from pure.transform.bound import differentiable_parts
from pure.transform.modes import is_forward_mode
from pure.transform.remat import remat as rematerialize
from pure.types import Tree
from stages.population import refuse_grouped
from stages.stage import Stage
from stages.state import TrainState

Unrolled = Callable[..., TrainState]
"""(state, batches, values={}) -> state after S steps."""


def unroll(stage: Stage | Callable[..., Stage], steps: int, *, remat: bool = True) -> Unrolled:
    """Return a function that takes S steps, and whose derivative is that of the whole training.

        state_s+1 = stage.step(state_s, batch_s),    s = 0 ... S - 1

    Args:
        stage: a Stage; or a function `make(**values) -> Stage`, to differentiate with respect to numbers that
            the stage is built from, such as `lambda rate: sft(model, optim.adamw(rate))`.
        steps: S, >= 1.
        remat: save only the state before each step, and compute each step again in the backward pass: about
            a third more time, and of each step only a state (with Adam three times the params) and the batch
            are in memory. False saves all activations of all steps.

    Returns:
        (state, batches, values={}) -> TrainState. `batches` are S batches, such as `pipe[k : k + S]`; a leaf
        "weights" [B] in them weighs the rows; `values` {name: number} are the arguments of `make`. It is
        differentiated like any function: by `pure.transform.grad.grad`, autograd, torch.func or forward mode
        (of few numbers, in a constant amount of memory).

    Edge cases: for a truncated meta-gradient, unroll from `pure.tree.detach(state)`: earlier steps then count
    as constant. The key, counts and tokens are integers, without derivative. A skipped step passes the
    derivative of the state through unchanged.

    Raises:
        ValueError: if steps < 1; for a stage that samples (unroll one built with score=None, on rollouts
            sampled before), a step compiled with donation, which overwrites its state, or one that several
            processes compute; on the call, for another number of batches, values without a `make`, or a
            tensor bound in the stage that is being differentiated, which gets no gradient with `remat`.

    Example:
        Each step multiplies the param by 1 - 2 rate, so after two steps its derivative is -4 (1 - 2 rate).

        >>> from pure import optim, random
        >>> from pure.transform.grad import grad
        >>> from stages.stage import stage
        >>> def square(params, batch, key):
        ...     return params.square().sum(), torch.tensor(1.0), {}
        >>> make = lambda rate: stage(square, optim.sgd(rate))
        >>> state, batches = make(0.25).init(random.key(0), torch.tensor(1.0)), [{"x": torch.ones(1)}] * 2
        >>> two = unroll(make, 2)
        >>> grad(lambda rate: two(state, batches, {"rate": rate}).params)(torch.tensor(0.25))
        tensor(-2.)

    Source: Maclaurin et al. 2015, section 2, with the steps of memory and recomputation of Chen et al.,
    "Training Deep Nets with Sublinear Memory Cost", 2016, instead of reversing the dynamics.
    """
    if steps < 1:
        raise ValueError(f"unroll: steps must be at least 1, got {steps}")
    if isinstance(stage, Stage):
        _check_stage(stage)
    return partial(_unroll, stage=stage, steps=steps, remat=remat)


def _unroll(
    state: TrainState,
    batches: Sequence[Tree],
    values: Mapping[str, Tensor | float] | None = None,
    *,
    stage: Stage | Callable[..., Stage],
    steps: int,
    remat: bool,
) -> TrainState:
    """Fold the step over the batches; all that has a gradient is among its arguments."""
    if len(batches) != steps:
        raise ValueError(
            f"unroll: expected {count_noun(steps, 'batch', 'batches')}, one for each step, got "
            f"{len(batches)}; slice the pipe: pipe[k : k + steps]"
        )
    if values and isinstance(stage, Stage):
        raise ValueError(
            f"unroll: the values {', '.join(values)} are arguments of a builder, but a Stage was given; "
            "write unroll(lambda ...: sft(...), steps)"
        )
    step: Callable[..., TrainState] = partial(_step, stage)
    if remat and not torch.compiler.is_compiling() and not is_forward_mode():
        bound = differentiable_parts(stage)
        if bound:
            raise ValueError(
                f"unroll: {bound[0]} is differentiated but bound in the stage, and gets no gradient with "
                "remat=True; pass it in `values` to unroll(make, ...), or give remat=False"
            )
        step = rematerialize(step)
    for i in range(steps):
        state = step(state, batches[i], dict(values or {}))
    return state


def _step(
    stage: Stage | Callable[..., Stage], state: TrainState, batch: Tree, values: dict[str, Any]
) -> TrainState:
    """Take one step of a stage that is given, or built from values."""
    if isinstance(stage, Stage):
        return stage.step(state, batch)
    made = stage(**values)
    _check_stage(made)
    return made.step(state, batch)


def _check_stage(stage: Stage) -> None:
    """Refuse a step that samples, that overwrites its state, or that several processes compute."""
    refuse_grouped("unroll", stage)
    if stage.parts is not None and stage.parts.score is not None:
        raise ValueError(
            "unroll: a step that samples has no derivative with respect to its tokens; sample first "
            "(stages.online.generate_and_score), and unroll the stage built with score=None on those rollouts"
        )
    if getattr(getattr(stage.step, "func", None), "__name__", "") == "_donate":
        raise ValueError(
            "unroll: the step is compiled with donate=True and overwrites its state; give the stage's own"
        )
