"""A stage: the pair (init, step) that turns a loss and an optimizer into training.

`functools.reduce(stage.step, pipe, stage.init(key))` is a whole training run. Every built-in stage is made by `stage`,
so that a researcher's own can do all that they can.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from pure import random, tree
from pure.optim.extra import with_extra
from pure.optim.leafwise import is_leafwise
from pure.transform import precision
from pure.transform.accumulate import Accumulated, accumulate
from pure.transform.by_layer import leaf_norms, leafwise, whole
from pure.types import GradientTransformation, Tree
from stages.state import TrainState

ALWAYS = ("loss", "grad_norm", "nonfinite_leaf")
"""Metrics of every stage: mean loss, global norm of the mean gradient, and the index of the first leaf whose gradient
is not finite (-1: none, the step was taken)."""


LOSS_KEY = crc32(b"loss")
"""What the loss's key of a step is folded from: `named(key, "loss")`, which a compiler cannot trace."""


class Stage(NamedTuple):
    """Training as two pure functions.

    Fields:
        init: (key [2] uint32, params=None) -> TrainState; params default to the model's own initial ones.
        step: (state, batch) -> TrainState.
    """

    init: Callable[..., TrainState]
    step: Callable[[TrainState, Tree], TrainState]


def stage(
    loss: Callable,
    optimizer: GradientTransformation,
    *,
    init: Callable[[Tensor], Tree] | None = None,
    metrics: tuple[str, ...] = (),
    accumulation: int = 1,
    ema: float | None = None,
    loss_scale: float | None = None,
) -> Stage:
    """Makes a stage of a loss and an optimizer.

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics {name: (sum [], count [])}), in float32. The batch has
            "row" [B], each example's index in it, for randomness that must not depend on how the batch was cut.
        optimizer: optax's pair.
        init: key -> params, such as `model.init`; None if params are always given.
        metrics: names that the loss reports, besides "loss".
        accumulation: micro-batches a step; must divide B.
        ema: decay of an exponential moving average of the params, in (0, 1), kept in `extra["ema"]`; None keeps none.
        loss_scale: first factor of dynamic loss scaling, for float16, kept in `extra["loss_scale"]`; None: none.

    Returns:
        Stage(init, step).

    Raises:
        ValueError: if ema or accumulation is out of range.
    """
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"stage: ema is a decay in (0, 1), such as 0.999, got {ema}")
    optimizer = with_extra(optimizer)
    bound = partial(update, optimizer=optimizer, ema=ema)
    return Stage(
        init=partial(init_state, init=init, optimizer=optimizer, metrics=metrics, ema=ema, loss_scale=loss_scale),
        step=partial(
            step,
            gradient=accumulate(loss, accumulation),
            names=metrics,
            update=leafwise(bound) if is_leafwise(optimizer) else whole(bound),
        ),
    )


def init_state(
    key: Tensor,
    params: Tree | None = None,
    *,
    init: Callable[[Tensor], Tree] | None,
    optimizer: GradientTransformation,
    metrics: tuple[str, ...],
    ema: float | None,
    loss_scale: float | None,
) -> TrainState:
    """Makes the state before the first step; no two leaves share storage.

    Args:
        key: [2] uint32, the root of all randomness of the run.
        params: to start from, copied; None draws new ones.
        init, optimizer, metrics, ema, loss_scale: bound by `stage`.

    Raises:
        ValueError: if there are neither params nor `init`.
    """
    if params is None and init is None:
        raise ValueError(
            "stage.init: no params to start from; give params=..., or build the stage with init=model.init"
        )
    params = init(named(key, "init")) if params is None and init else tree.clone(params)
    extra: dict = {} if ema is None else {"ema": tree.clone(params)}
    if loss_scale is not None:
        extra["loss_scale"] = precision.loss_scale(loss_scale, key.device)
    return TrainState(
        step=torch.zeros((), dtype=torch.int32, device=key.device),
        key=key.clone(),
        params=params,
        opt_state=optimizer.init(params),
        extra=extra,
        metrics={name: torch.full((), torch.nan, device=key.device) for name in (*ALWAYS, *metrics)},
    )


def step(state: TrainState, batch: Tree, *, gradient: Callable, update: Callable, names: tuple[str, ...]) -> TrainState:
    """Takes one optimizer step, or, where a gradient is not finite, passes over the batch.

    Args:
        state: unchanged by this.
        batch: dict of tensors [B, ...].
        gradient: (params, batch, key) -> Accumulated.
        update: (moving, grads, scale, extra) -> moving.
        names: of the metrics that the loss was declared to report.

    Returns:
        The next state: `step` one higher, always; params and opt_state only if every gradient was finite.

    Steps:
        1. The step's own key; each example's row.
        2. Gradient of the summed loss.
        3. Norm of each leaf, not finite where the leaf is not; their norm is the global one.
        4. Update, whole or layer by layer, and keep it only if finite.
        5. Metrics: sums divided once.

    Raises:
        ValueError: if the loss reports other metrics than were declared.
    """
    # 1. Key and rows.
    key = random.fold_in(random.fold_in(state.key, state.step), LOSS_KEY)
    rows = tree.leaves(batch)[0].shape[0]
    batch = {"row": torch.arange(rows, device=state.key.device), **batch}
    # 2. Gradient.
    scaling = state.extra.get("loss_scale")
    result: Accumulated = gradient(state.params, batch, key, None if scaling is None else scaling.scale)
    if set(result.metrics) != set(names):
        raise ValueError(
            f"stage: the loss reported the metrics {sorted(result.metrics)}, and {sorted(names)} were declared; a "
            f"state keeps its structure, so write metrics={tuple(result.metrics)}"
        )
    # 3. Norm.
    scale = 1.0 / result.count.clamp(min=1)
    per_leaf = leaf_norms(result.grads)
    finite = per_leaf.isfinite().all()
    loss, grad_norm = result.sum * scale, torch.linalg.vector_norm(per_leaf) * scale
    # 4. Update.
    moving = {"params": state.params, "opt_state": state.opt_state, "extra": state.extra}
    new = update(moving, result.grads, scale, {"grad_norm": grad_norm, "finite": finite, "value": loss})
    extra = new["extra"] if scaling is None else {**new["extra"], "loss_scale": precision.adjust(scaling, finite)}
    # 5. Metrics.
    bad = torch.where(finite, -1, (~per_leaf.isfinite()).float().argmax()).float()
    metrics = {"loss": loss, "grad_norm": grad_norm, "nonfinite_leaf": bad}
    metrics |= {name: total / count.clamp(min=1) for name, (total, count) in result.metrics.items()}
    return TrainState(state.step + 1, state.key, new["params"], new["opt_state"], extra, metrics)


def update(
    moving: Tree,
    grads: Tree,
    scale: Tensor,
    extra: dict[str, Tensor],
    *,
    optimizer: GradientTransformation,
    ema: float | None,
) -> Tree:
    """Updates params, optimizer state and average; leafwise if the optimizer is: then it may go layer by layer.

    Args:
        moving: {"params", "opt_state", "extra"}.
        grads: of the summed loss, like params.
        scale: [] 1 / count.
        extra: grad_norm, finite, value: passed to the optimizer; `finite` False keeps everything as it was.
        optimizer, ema: bound by `stage`.

    Returns:
        A tree like `moving`.
    """
    mean = tree.map(lambda g: g * scale, grads)
    updates, opt_state = optimizer.update(mean, moving["opt_state"], moving["params"], **extra)
    params = tree.map(lambda p, u: p + u.to(p.dtype), moving["params"], updates)
    rest = moving["extra"]
    if ema is not None:
        rest = {**rest, "ema": tree.map(lambda e, p: e + (1 - ema) * (p - e), rest["ema"], params)}
    new = {"params": params, "opt_state": opt_state, "extra": rest}
    return tree.where(extra["finite"], new, moving)


def loss_of(stage: Stage) -> Callable:
    """The loss that a stage was made of, bound and in its precision: (params, batch, key) -> (sum, count, metrics).

    Whoever validates, or looks at each example's own gradient (`pure.transform.per_sample`), takes it from here.

    Raises:
        ValueError: if the stage was not made by `stage`.

    Example:
        >>> from pure import optim
        >>> loss_of(stage(max, optim.sgd(0.1))) is max
        True
    """
    gradient = getattr(stage.step, "keywords", {}).get("gradient")
    if gradient is None:
        raise ValueError("loss_of: expected a stage made by stages.stage.stage; of grpo and ppo take parts(stage)")
    return gradient.args[0]


def named(key: Tensor, name: str) -> Tensor:
    """A sub-key by name, so that adding a use of randomness changes no other."""
    return random.fold_in(key, crc32(name.encode()))
