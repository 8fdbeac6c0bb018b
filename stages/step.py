"""One optimizer step, of any stage: gradient, norm, update, metrics.

`stages.stage.stage` binds it to a loss and an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from zlib import crc32

import torch
from torch import Tensor

from pure import random, tree
from pure.foreign import check_tensors
from pure.optim.base import increment
from pure.optim.ema import warmed_decay
from pure.parallel import rows
from pure.transform import precision
from pure.transform.accumulate import Loss, Metric, divisor, number_rows
from pure.transform.gradient import Gradient
from pure.types import GradientTransformation, Tree
from stages.row_update import update_rows
from stages.state import TrainState
from stages.step_gradient import sum_gradient

STEP_METRICS = ("loss", "grad_norm", "nonfinite_leaf")
"""Metrics of every stage: mean loss, global norm of the mean gradient, and why the step was skipped.

With L leaves, nonfinite_leaf is -1 if the step was taken; i if the gradient of leaf i is not finite; L if the
loss is not finite; L + 1 if its count is not finite or 0, as in a batch without labels.
"""


LOSS_KEY = crc32(b"loss")
"""Folded into a step's key for the loss. The result is that of `fold_in_name(key, "loss")`, whose crc32
torch.compile cannot trace."""


def step(
    state: TrainState,
    batch: Tree,
    *,
    loss: Loss,
    gradient: Gradient,
    update: Callable,
    names: tuple[str, ...],
    elementwise: bool = False,
) -> TrainState:
    """Take one optimizer step, or skip a batch with a loss, count or gradient that is not finite, or count 0.

    A training run is this function, applied to one batch after another.

        loss = Σ sum / Σ count,     params ← params + optimizer(∂loss/∂params)

    Args:
        state: not modified.
        batch: dict of tensors [B, ...].
        loss, gradient: see `stage`.
        update: (trained, grads, scale, extra) -> trained; see `update`.
        names: the metrics that the loss was declared to report.
        elementwise: if the optimizer is (`pure.optim.leafwise.is_elementwise`), so that it may update parts
            of leaves alone.

    Returns:
        The next state: `step` one higher, always; params, opt_state and average changed only if the step was
        taken, see `nonfinite_leaf`.

    Steps:
        1. Check the batch by `check_tensors("stage: the batch", batch)`, and number its rows by
            `number_rows("stage", batch)`. The step's own key: state.key with state.step folded in
            (`random.fold_in(key, step)`), then `LOSS_KEY`.
        2. `sum_gradient(state, batch, key, ...)`, which takes loss, gradient, names and elementwise by name,
            returns four things: an `Accumulated` with the fields sum, count and metrics, the gradient of the
            sum (a tree), the norms of its leaves [L], and the next memory of what computes it.
        3. Scale []: 1 / `divisor(count)`, converted to the dtype of the sum before the division. It times the
            sum is the mean loss, times the norm of the norms the gradient's. The step is taken if
            `_why_skipped(norms, sum, count)`, which is the metric nonfinite_leaf, is below 0.
        4. Update: `update_rows(update, trained, gradient, scale, scalars)`, where trained is {"params",
            "opt_state", "extra"} of the state, extra without "gradient", and scalars is {"grad_norm",
            "finite" (if the step is taken), "value" (the mean loss)}.
        5. The new extra with the loss scale and memory: `_adjust_extra(new extra, old extra, memory, norms,
            taken)`.
        6. Metrics: loss, grad_norm, nonfinite_leaf, and those of the loss by `_mean_or_sum`; all in float32.
            The next state has the old key and step + 1.

    Edge cases: a batch without labels has count 0, and is skipped.

    Raises:
        ValueError: if the loss reports other metrics than were declared, or the batch has no rows, or its
            leaves differ in their number of rows.

    Example:
        The mean of (w - x)² over 1 and 3 has the gradient 2w - 4: at w = 0 with rate 0.5 the step is 2.

        >>> from pure.optim.sgd import sgd
        >>> from stages.stage import stage
        >>> def mean_square(params, batch, key):
        ...     return (params - batch["x"]).square().sum(), torch.tensor(len(batch["x"])), {}
        >>> fit = stage(mean_square, sgd(0.5))
        >>> state = fit.step(fit.init(random.key(0), torch.tensor(0.0)), {"x": torch.tensor([1.0, 3.0])})
        >>> state.params, state.metrics["loss"], state.metrics["grad_norm"]
        (tensor(2.), tensor(5.), tensor(4.))

    Source: Robbins and Monro, "A Stochastic Approximation Method", 1951 (a step along the gradient of a
    sample).
    """
    # 1. Check, number, and key [2].
    check_tensors("stage: the batch", batch)
    key = random.fold_in(random.fold_in(state.key, state.step), LOSS_KEY)
    batch = number_rows("stage", batch)
    # 2. Gradient like the params, and norms [L].
    result, grads, per_leaf, new_memory = sum_gradient(
        state, batch, key, loss=loss, gradient=gradient, names=names, elementwise=elementwise
    )
    # 3. Means, [] each.
    scale = 1.0 / divisor(result.count).to(result.sum.dtype)
    bad = _why_skipped(per_leaf, result.sum, result.count)
    taken = bad < 0
    mean_loss, grad_norm = result.sum * scale, torch.linalg.vector_norm(per_leaf) * scale
    # 4. Update.
    rest = {name: x for name, x in state.extra.items() if name != "gradient"}
    trained = {"params": state.params, "opt_state": state.opt_state, "extra": rest}
    scalars = {"grad_norm": grad_norm, "finite": taken, "value": mean_loss}
    new = update_rows(update, trained, grads, scale, scalars)
    # 5. Loss scale and memory.
    extra = _adjust_extra(new["extra"], state.extra, new_memory, per_leaf, taken)
    # 6. Metrics, [] each.
    metrics = {"loss": mean_loss, "grad_norm": grad_norm, "nonfinite_leaf": bad}
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
    ema: float | Tensor | None,
) -> Tree:
    """Update params, optimizer state and average.

        params ← params + optimizer(scale grads)
        average ← average + (1 - d) (params - average),     d the decay `ema`, warmed up

    With a leafwise optimizer this is leafwise too, so `update_by_layer` can apply it to one layer at a time.

    Args:
        trained: {"params", "opt_state", "extra"} of a TrainState.
        grads: of the summed loss, like params.
        scale: [] 1 / count.
        extra: grad_norm, finite, value: passed to the optimizer; `finite` [] bool False keeps everything as
            it was.
        optimizer: a GradientTransformation, bound by `stage`.
        ema: decay of the average of the params, which is trained["extra"]["ema"], after
            trained["extra"]["ema_count"] updates; None keeps none.

    Returns:
        A tree like `trained`.

    Steps:
        1. Gradient of the mean: each leaf times the scale (`tree.map`).
        2. Updates and new state by the optimizer, with the params and `extra` as keywords.
        3. New params: the updates, in the dtypes of the params, are added.
        4. With ema: the average moves towards the new params by 1 - `warmed_decay(ema, count)`, of the count
            before this update, cast to each leaf's dtype; then the count by `increment(count)`. The other
            entries of "extra" are kept.
        5. The old tree where `finite` is False: `tree.where(finite, new, old)`.

    Edge cases: numbers that are not finite are computed and not kept: a compiled step cannot branch.

    Example:
        A sum over 2 rows with gradient 6, and rate 0.5: 1 - 0.5 · 6/2.

        >>> from pure.optim.sgd import sgd
        >>> opt, p = sgd(0.5), torch.tensor(1.0)
        >>> trained = {"params": p, "opt_state": opt.init(p), "extra": {}}
        >>> extra = {"finite": torch.tensor(True)}
        >>> update(trained, torch.tensor(6.0), torch.tensor(0.5), extra, optimizer=opt, ema=None)["params"]
        tensor(-0.5000)

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992 (the average).
    """
    # 1. Mean gradient, like the params.
    mean = tree.map(lambda g: g * scale, grads)
    # 2. Updates.
    updates, opt_state = optimizer.update(mean, trained["opt_state"], trained["params"], **extra)
    # 3. Params.
    params = tree.map(lambda p, u: p + u.to(p.dtype), trained["params"], updates)
    # 4. Average.
    rest = trained["extra"]
    if ema is not None:
        share = 1 - warmed_decay(ema, rest["ema_count"])
        average = tree.map(lambda e, p: e + share.to(e.dtype) * (p - e), rest["ema"], params)
        rest = {**rest, "ema": average, "ema_count": increment(rest["ema_count"])}
    # 5. Keep the old.
    new = {"params": params, "opt_state": opt_state, "extra": rest}
    return tree.where(extra["finite"], new, trained)


def _adjust_extra(extra: Tree, old: Tree, memory: Tree, per_leaf: Tensor, taken: Tensor) -> Tree:
    """Return `extra` with the next loss scale, and the next memory of the gradient if the step is taken."""
    scaling = old.get("loss_scale")
    if scaling is not None:
        extra = {**extra, "loss_scale": precision.adjust(scaling, per_leaf.isfinite().all())}
    if "gradient" in old:
        kept = tree.where(taken, memory, rows.local(old["gradient"]))
        extra = {**extra, "gradient": rows.wrap(kept, old["gradient"])}
    return extra


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
    return total / divisor(count)
