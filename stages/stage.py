"""Stage: the pair (init, step) that turns a loss and an optimizer into training.

`functools.reduce(stage.step, pipe, stage.init(key))` is a whole training run. Every built-in stage is made by
`stage`, so a researcher's own has the same features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypedDict
from zlib import crc32

import torch
from torch import Tensor

from pure import random, tree
from pure.foreign import check_tensors
from pure.optim.base import increment
from pure.optim.ema import warmed_decay
from pure.optim.extra import with_extra
from pure.optim.leafwise import is_leafwise
from pure.transform import precision
from pure.transform.accumulate import Accumulated, Loss, Metric, accumulate, row_count
from pure.transform.by_layer import leaf_norms, update_at_once, update_by_layer
from pure.types import GradientTransformation, Tree
from stages.state import TrainState

if TYPE_CHECKING:
    from stages.online import Online
    from stages.rollout import Rollouts

STEP_METRICS = ("loss", "grad_norm", "nonfinite_leaf")
"""Metrics of every stage: mean loss, global norm of the mean gradient, and why the step was skipped.

With L leaves, nonfinite_leaf is -1 if the step was taken; i if the gradient of leaf i is not finite; L if the
loss is not finite; L + 1 if its count is not finite or 0, as in a batch without labels.
"""


LOSS_KEY = crc32(b"loss")
"""Folded into a step's key for the loss. The result is that of `fold_in_name(key, "loss")`, whose crc32
torch.compile cannot trace."""

StageOptions = TypedDict(  # noqa: UP013 (here, classes are NamedTuples, dataclasses or Protocols)
    "StageOptions", {"accumulation": int, "ema": float | None, "loss_scale": float | None}, total=False
)
"""Arguments of `stage` that every built-in stage takes and passes on."""


class Init(Protocol):
    """First state: (key [2] uint32, params=None) -> TrainState; params default to new ones."""

    def __call__(self, key: Tensor, params: Tree | None = None) -> TrainState: ...


class Stage(NamedTuple):
    """Training as two pure functions, with the loss and the parts that they are made of.

    Fields:
        init: (key [2] uint32, params=None) -> TrainState; params default to the model's own initial ones.
        step: (state, batch) -> TrainState.
        loss: the function that `step` differentiates, in its precision; for validation, and for each
            example's own gradient (`pure.transform.per_sample`). It takes the batches of `step`; in an
            online stage, those that `update` builds from rollouts and rewards. None for a population, whose
            params have a leading axis.
        parts: rollout, score and update of an online stage; None for all others.

    Example:
        >>> from pure import optim
        >>> def mean_square(params, batch, key):
        ...     return (params - batch["x"]).square().sum(), torch.tensor(len(batch["x"])), {}
        >>> fit = stage(mean_square, optim.sgd(0.5))
        >>> state = fit.init(random.key(0), torch.tensor(0.0))
        >>> fit.step(state, {"x": torch.tensor([1.0, 3.0])}).params
        tensor(2.)
    """

    init: Init
    step: Callable[[TrainState, Tree], TrainState]
    loss: Loss | None = None
    parts: Online | None = None


def stage(
    loss: Loss,
    optimizer: GradientTransformation,
    *,
    init: Callable[[Tensor], Tree] | None = None,
    metrics: tuple[str, ...] = (),
    accumulation: int = 1,
    ema: float | None = None,
    compute: torch.dtype | None = None,
    loss_scale: float | None = None,
) -> Stage:
    """Build a stage from a loss and an optimizer.

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics), in float32, or float64 with params in
            float64; see Loss.
        optimizer: a GradientTransformation.
        init: key -> params, such as `model.init`; None if params are always given.
        metrics: names of the metrics that the loss reports, without "loss".
        accumulation: micro-batches a step; must divide B.
        ema: decay of an exponential moving average of the params, in (0, 1), kept in `extra["ema"]`, and
            warmed up over the updates that `extra["ema_count"]` counts (`pure.optim.ema.warmed_decay`); None
            keeps none.
        compute: dtype to which the params are cast for the loss; those in the state keep their dtype. None:
            no cast.
        loss_scale: initial factor of dynamic loss scaling, kept in `extra["loss_scale"]`; None: 2**16 if
            `compute` is float16, else none.

    Returns:
        Stage(init, step).

    Edge cases: params in bfloat16 or float16 cause one warning, when the first state is made: an update below
    1/512 (1/4096) of a weight is rounded away.

    Raises:
        ValueError: if ema or accumulation is out of range.
    """
    if ema is not None and not 0 < ema < 1:
        raise ValueError(f"stage: ema is a decay in (0, 1), such as 0.999, got {ema}")
    if compute is not None:
        loss = precision.mixed(loss, compute)
    if loss_scale is None and compute == torch.float16:
        loss_scale = precision.FIRST_SCALE
    optimizer = with_extra(optimizer)
    update_fn = partial(update, optimizer=optimizer, ema=ema)
    return Stage(
        init=partial(
            init_state, init=init, optimizer=optimizer, metrics=metrics, ema=ema, loss_scale=loss_scale
        ),
        step=partial(
            step,
            gradient=accumulate(loss, accumulation),
            names=metrics,
            update=update_by_layer(update_fn) if is_leafwise(optimizer) else update_at_once(update_fn),
        ),
        loss=loss,
    )


def loss_of(stage: Stage) -> Loss:
    """Return the loss that a stage differentiates, in its precision.

    Args:
        stage: of `stage`, or a built-in one.

    Raises:
        ValueError: for a population, whose params have a leading axis.

    Example:
        >>> from pure import optim
        >>> def square(params, batch, key):
        ...     return (params * batch["x"]).square().sum(), torch.tensor(len(batch["x"])), {}
        >>> loss_of(stage(square, optim.sgd(0.1)))(torch.tensor(2.0), {"x": torch.ones(3)}, None)[0]
        tensor(12.)
    """
    if stage.loss is None:
        raise ValueError(
            "loss_of: this stage has no loss of its own (a population?); take the loss of the stage that it "
            "was made from, and vmap it over the members"
        )
    return stage.loss


def examples_of(stage: Stage, state: TrainState, rollouts: Rollouts, rewards: Tensor) -> Tree:
    """Return the batch that an online stage trains on, with one completion a row.

    `per_sample_grad(loss_of(stage))(policy, examples_of(...), key)` is then the gradient of each completion,
    at fixed advantages.

    Args:
        stage: of `grpo` or `ppo`.
        state: the current state.
        rollouts: of B completions, from the stage's `parts.rollout`.
        rewards: [B, K] float, NaN where one is missing.

    Returns:
        dict of tensors, [B, 1, ...] for GRPO (groups of one), [B, ...] for PPO.

    Raises:
        ValueError: for a stage that is not online; its own batches are its examples.
    """
    if stage.parts is None:
        raise ValueError("examples_of: expected a stage of grpo or ppo; the batches of others are examples")
    return stage.parts.examples(state, rollouts, rewards)


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
    """Return the state before the first step; no two leaves share storage.

    Args:
        key: [2] uint32, the root of all randomness of the run.
        params: to start from, copied; None initialises new ones.
        init, optimizer, metrics, ema, loss_scale: bound by `stage`.

    Raises:
        ValueError: if there are neither params nor `init`.
        TypeError: for params or a key of another library.
    """
    if params is None and init is None:
        raise ValueError(
            "stage.init: no params to start from; give params=..., or build the stage with init=model.init"
        )
    check_tensors("stage.init: params", params)
    check_tensors("stage.init: key", key)
    params = init(fold_in_name(key, "init")) if params is None and init else tree.clone(params)
    _warn_about_low_precision(params)
    extra: dict = {}
    if ema is not None:
        extra = {
            "ema": tree.clone(params),
            "ema_count": torch.zeros((), dtype=torch.int32, device=key.device),
        }
    if loss_scale is not None:
        extra["loss_scale"] = precision.loss_scale(loss_scale, key.device)
    return TrainState(
        step=torch.zeros((), dtype=torch.int32, device=key.device),
        key=key.clone(),
        params=params,
        opt_state=optimizer.init(params),
        extra=extra,
        metrics={name: torch.full((), torch.nan, device=key.device) for name in (*STEP_METRICS, *metrics)},
    )


def step(
    state: TrainState, batch: Tree, *, gradient: Callable, update: Callable, names: tuple[str, ...]
) -> TrainState:
    """Take one optimizer step, or skip a batch with a loss, count or gradient that is not finite, or count 0.

    Args:
        state: not modified.
        batch: dict of tensors [B, ...].
        gradient: (params, batch, key, scale) -> Accumulated.
        update: (trained, grads, scale, extra) -> trained; see `update`.
        names: the metrics that the loss was declared to report.

    Returns:
        The next state: `step` one higher, always; params, opt_state and average changed only if the step was
        taken, see `nonfinite_leaf`.

    Steps:
        1. The step's own key; each example's place in the batch.
        2. Gradient of the summed loss.
        3. Norm of each leaf, NaN or infinite if the leaf has such an element; the global norm is their norm.
        4. Update, whole or layer by layer, and keep it only if finite.
        5. Metrics: means divided once, sums as they are, in float32.

    Raises:
        ValueError: if the loss reports other metrics than were declared, or the batch has no rows, or its
            leaves differ in their number of rows.
    """
    # 1. Key and places.
    check_tensors("stage: the batch", batch)
    key = random.fold_in(random.fold_in(state.key, state.step), LOSS_KEY)
    batch = {"batch_position": torch.arange(row_count("stage", batch), device=state.key.device), **batch}
    # 2. Gradient.
    scaling = state.extra.get("loss_scale")
    result: Accumulated = gradient(state.params, batch, key, None if scaling is None else scaling.scale)
    if set(result.metrics) != set(names):
        raise ValueError(
            f"stage: the loss reported the metrics {sorted(result.metrics)}, and {sorted(names)} were "
            f"declared; a state keeps its structure, so write metrics={tuple(result.metrics)}"
        )
    # 3. Norm.
    scale = 1.0 / result.count.clamp(min=1).to(result.sum.dtype)
    per_leaf = leaf_norms(result.grads)
    bad = _why_skipped(per_leaf, result.sum, result.count)
    taken = bad < 0
    loss, grad_norm = result.sum * scale, torch.linalg.vector_norm(per_leaf) * scale
    # 4. Update.
    trained = {"params": state.params, "opt_state": state.opt_state, "extra": state.extra}
    new = update(trained, result.grads, scale, {"grad_norm": grad_norm, "finite": taken, "value": loss})
    extra = new["extra"]
    if scaling is not None:
        extra = {**extra, "loss_scale": precision.adjust(scaling, per_leaf.isfinite().all())}
    # 5. Metrics.
    metrics = {"loss": loss, "grad_norm": grad_norm, "nonfinite_leaf": bad}
    metrics |= {name: _mean_or_sum(metric) for name, metric in result.metrics.items()}
    metrics = {name: x.float() for name, x in metrics.items()}
    return TrainState(state.step + 1, state.key, new["params"], new["opt_state"], extra, metrics)


def update(
    trained: Tree,
    grads: Tree,
    scale: Tensor,
    extra: dict[str, Tensor],
    *,
    optimizer: GradientTransformation,
    ema: float | None,
) -> Tree:
    """Update params, optimizer state and average.

    With a leafwise optimizer this is leafwise too, so `update_by_layer` can apply it to one layer at a time.

    Args:
        trained: {"params", "opt_state", "extra"} of a TrainState.
        grads: of the summed loss, like params.
        scale: [] 1 / count.
        extra: grad_norm, finite, value: passed to the optimizer; `finite` False keeps everything as it was.
        optimizer, ema: bound by `stage`.

    Returns:
        A tree like `trained`.
    """
    mean = tree.map(lambda g: g * scale, grads)
    updates, opt_state = optimizer.update(mean, trained["opt_state"], trained["params"], **extra)
    params = tree.map(lambda p, u: p + u.to(p.dtype), trained["params"], updates)
    rest = trained["extra"]
    if ema is not None:
        share = 1 - warmed_decay(ema, rest["ema_count"])
        average = tree.map(lambda e, p: e + share.to(e.dtype) * (p - e), rest["ema"], params)
        rest = {**rest, "ema": average, "ema_count": increment(rest["ema_count"])}
    new = {"params": params, "opt_state": opt_state, "extra": rest}
    return tree.where(extra["finite"], new, trained)


def fold_in_name(key: Tensor, name: str) -> Tensor:
    """Fold a name into a key, so that adding a use of randomness leaves all others unchanged."""
    return random.fold_in(key, crc32(name.encode()))


def _why_skipped(per_leaf: Tensor, total: Tensor, count: Tensor) -> Tensor:
    """Return `nonfinite_leaf` [] (see STEP_METRICS) from the norms of the leaves [L], the loss and its count.

    The loss is checked too: a non-finite loss may have a finite gradient, since clamping makes it 0.
    """
    loss_and_count = torch.stack([~total.isfinite(), ~(count.isfinite() & (count > 0))])
    bad = torch.cat([~per_leaf.isfinite(), loss_and_count])
    return torch.where(bad.any(), bad.float().argmax(), -1).float()


def _mean_or_sum(metric: Metric) -> Tensor:
    """Divide a mean's sum by its count; return a sum as it is."""
    if isinstance(metric, Tensor):
        return metric
    total, count = metric
    return total / count.clamp(min=1)


def _warn_about_low_precision(params: Tree) -> None:
    """Warn about params in a dtype whose rounding loses small updates."""
    dtypes = sorted({str(x.dtype) for x in tree.leaves(params) if x.dtype in (torch.bfloat16, torch.float16)})
    if dtypes:
        warnings.warn(
            f"the params are stored in {', '.join(dtypes)}, which rounds away an update a few hundred times "
            "smaller than its weight; keep them in float32 (tree.cast) and give the stage "
            "compute=torch.bfloat16",
            stacklevel=3,
        )
