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
from pure.foreign import check_loss, check_tensors
from pure.optim.extra import with_extra
from pure.optim.leafwise import is_elementwise, is_leafwise, mark_as_inner
from pure.parallel.rows import cut_here
from pure.transform import gradient as gradients
from pure.transform import precision
from pure.transform.accumulate import Loss, Metric, number_rows
from pure.transform.by_layer import update_at_once, update_by_layer
from pure.transform.gradient import Gradient
from pure.types import GradientTransformation, Tree
from stages.row_update import init_optimizer
from stages.state import TrainState
from stages.step import STEP_METRICS, step, update

if TYPE_CHECKING:
    from stages.online import Online
    from stages.rollout import Rollouts

StageOptions = TypedDict(  # noqa: UP013 (here, classes are NamedTuples, dataclasses or Protocols)
    "StageOptions",
    {
        "accumulation": int,
        "gradient": Gradient | None,
        "ema": float | Tensor | None,
        "loss_scale": float | None,
    },
    total=False,
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
            example's own gradient (`pure.transform.per_sample`). It takes the batches of `step`, whose rows
            it numbers from 0 where they have no "batch_position", as `step` does; in an
            online stage, those that `update` builds from rollouts and rewards; in a population, with a
            leading axis over the members. None for a stage made by hand without one.
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
    gradient: Gradient | None = None,
    ema: float | Tensor | None = None,
    compute: torch.dtype | None = None,
    loss_scale: float | None = None,
) -> Stage:
    """Build a stage from a loss and an optimizer.

    Args:
        loss: (params, batch, key) -> (sum [], count [], metrics), in float32, or float64 with params in
            float64; see `pure.transform.accumulate.Loss`. It reads the leaf "weights" [B] itself, if batches
            have one, and weights of tokens under a name of its own.
        optimizer: a GradientTransformation.
        init: key -> params, such as `model.init`; None if params are always given.
        metrics: names of the metrics that the loss reports, without "loss".
        accumulation: micro-batches a step; must divide B.
        gradient: computes the gradient and measures it, such as `noise_scale(parts=4)`
            (`pure.transform.gradient`); its memory is kept in `extra["gradient"]`. None: the gradient of the
            summed loss. It takes the place of `accumulation`.
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
        ValueError: if ema or accumulation is out of range, or both accumulation and gradient are given.
        TypeError: for a loss, optimizer or gradient of another kind; in a step, for a loss that returns
            another thing than sum, count and metrics.

    Example:
        A cross-entropy with a weight for each token, and for each row where the batch has "weights".

        >>> from pure import optim
        >>> from pure.config import ModelConfig
        >>> from pure.loss.cross_entropy import cross_entropy
        >>> from pure.nn.transformer import transformer
        >>> sizes = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
        >>> model = transformer(ModelConfig(**sizes))
        >>> def weighted(params, batch, key):
        ...     weights = batch["token_weights"]  # [B, T]
        ...     if "weights" in batch:
        ...         weights = weights * batch["weights"][:, None]
        ...     logits = model.forward(params, batch["tokens"], key=key)
        ...     total, count = cross_entropy(logits, batch["labels"], weights)
        ...     return total, count, {"weight": count}
        >>> fit = stage(weighted, optim.adamw(1e-3), init=model.init, metrics=("weight",))
        >>> batch = {"tokens": torch.tensor([[1, 2]]), "labels": torch.tensor([[2, 3]])}
        >>> batch["token_weights"] = torch.tensor([[0.5, 2.0]])
        >>> fit.step(fit.init(random.key(0)), batch).metrics["weight"]
        tensor(2.5000)
    """
    check_loss("stage", loss)
    if gradient is not None and not isinstance(gradient, Gradient):
        raise TypeError(
            f"stage: expected gradient to be a Gradient, such as noise_scale(parts=4), got {gradient!r}"
        )
    if gradient is not None and accumulation != 1:
        raise ValueError(
            f"stage: gradient= takes the place of accumulation={accumulation}; give the number of "
            "micro-batches to the former, such as noise_scale(parts=4)"
        )
    gradient = gradient or gradients.accumulation(accumulation)
    if ema is not None and not isinstance(ema, Tensor) and not 0 < ema < 1:
        raise ValueError(f"stage: ema is a decay in (0, 1), such as 0.999, got {ema}")
    if compute is not None:
        loss = precision.mixed(loss, compute)
    if loss_scale is None and compute == torch.float16:
        loss_scale = precision.FIRST_SCALE
    optimizer = with_extra(optimizer)
    update_fn: Callable = partial(update, optimizer=optimizer, ema=ema)
    update_fn = update_by_layer(update_fn) if is_leafwise(optimizer) else update_at_once(update_fn)
    return Stage(
        init=partial(
            init_state,
            init=init,
            optimizer=optimizer,
            gradient=gradient,
            metrics=metrics,
            ema=ema,
            loss_scale=loss_scale,
        ),
        step=partial(
            step,
            loss=loss,
            gradient=gradient,
            names=metrics,
            update=mark_as_inner(update_fn, optimizer),
            elementwise=is_elementwise(optimizer),
        ),
        loss=partial(compute_loss, loss),
    )


def loss_of(stage: Stage) -> Loss:
    """Return the loss that a stage differentiates, in its precision.

    Args:
        stage: of `stage`, or a built-in one.

    Returns:
        (params, batch, key) -> (sum, count, metrics). A batch without "batch_position" is a whole one: its
        rows are numbered from 0, as in a step.

    Raises:
        ValueError: for a stage made by hand, as Stage(init, step), without a loss.

    Example:
        >>> from pure import optim
        >>> def square(params, batch, key):
        ...     return (params * batch["x"]).square().sum(), torch.tensor(len(batch["x"])), {}
        >>> loss_of(stage(square, optim.sgd(0.1)))(torch.tensor(2.0), {"x": torch.ones(3)}, None)[0]
        tensor(12.)
    """
    if stage.loss is None:
        raise ValueError(
            "loss_of: this stage was made without a loss; give Stage(init, step, loss=...), or build it with "
            "stages.stage.stage"
        )
    return stage.loss


def compute_loss(
    loss: Loss, params: Tree, batch: Tree, key: Tensor | None, /
) -> tuple[Tensor, Tensor, dict[str, Metric]]:
    """Compute the loss of a batch, whose rows are numbered from 0 unless it has "batch_position" [B].

    Args:
        loss: bound by `stage`.
        params, batch, key: as in `pure.transform.accumulate.Loss`.

    Returns:
        (sum [], count [], metrics).

    Raises:
        ValueError: if the batch has no rows, or its leaves differ in their number of rows.

    Example:
        >>> last = lambda params, batch, key: (batch["batch_position"][-1], torch.tensor(1), {})
        >>> compute_loss(last, {}, {"x": torch.zeros(3)}, None)[0]
        tensor(2)
    """
    if "batch_position" not in batch:
        batch = number_rows("loss_of", batch)
    return loss(params, batch, key)


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
    gradient: Gradient,
    metrics: tuple[str, ...],
    ema: float | Tensor | None,
    loss_scale: float | None,
) -> TrainState:
    """Return the state before the first step; no two leaves share storage. In a sharded stage it is cut.

    Args:
        key: [2] uint32, the root of all randomness of the run.
        params: to start from, copied; None initialises new ones.
        init, optimizer, gradient, metrics, ema, loss_scale: bound by `stage`.

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
    params = cut_here(params)
    _warn_about_low_precision(params)
    extra: dict = {}
    if ema is not None:
        extra = {
            "ema": tree.clone(params),
            "ema_count": torch.zeros((), dtype=torch.int32, device=key.device),
        }
    if loss_scale is not None:
        extra["loss_scale"] = precision.loss_scale(loss_scale, key.device)
    memory = cut_here(gradient.init(params))
    if tree.leaves(memory):
        extra["gradient"] = memory
    names = (*STEP_METRICS, *metrics, *gradient.metrics)
    return TrainState(
        step=torch.zeros((), dtype=torch.int32, device=key.device),
        key=key.clone(),
        params=params,
        opt_state=init_optimizer(optimizer, params),
        extra=extra,
        metrics={name: torch.full((), torch.nan, device=key.device) for name in names},
    )


def fold_in_name(key: Tensor, name: str) -> Tensor:
    """Fold a name into a key, so that adding a use of randomness leaves all others unchanged."""
    return random.fold_in(key, crc32(name.encode()))


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
