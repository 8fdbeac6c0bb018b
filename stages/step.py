"""One optimizer step, of any stage: gradient, norm, update, metrics.

`stages.stage.stage` binds it to a loss and an optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from zlib import crc32

import torch
from torch import Tensor

from pure import random, tree
from pure.foreign import check_tensors
from pure.optim.base import increment
from pure.optim.ema import warmed_decay
from pure.parallel import rows
from pure.parallel.cut_models import record_cut_models
from pure.parallel.group import Group, data_group, within
from pure.parallel.layers import loss_on_rows
from pure.parallel.row_collectives import reduce_scatter_rows
from pure.plural import count_noun
from pure.transform import precision
from pure.transform.accumulate import Accumulated, Loss, Metric, check_sums, divisor, number_rows
from pure.transform.by_layer import leaf_norms
from pure.transform.gradient import Gradient, is_accumulation
from pure.types import GradientTransformation, Tree
from stages.cut_model import check_cut_models, norms_of_whole_leaves
from stages.row_update import update_rows
from stages.state import TrainState

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
        1. The step's own key; each example's place in the batch.
        2. Gradient of the summed loss, and the next memory of what computes it; rows of both if the state is
            cut.
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
    batch = number_rows("stage", batch)
    # 2. Gradient.
    scaling = state.extra.get("loss_scale")
    rest = {name: x for name, x in state.extra.items() if name != "gradient"}
    memory = state.extra.get("gradient", {})
    scale = None if scaling is None else scaling.scale
    with record_cut_models() as cut_models:
        result, grads, new_memory = _compute(gradient, loss, names, state.params, batch, key, memory, scale)
    check_cut_models(cut_models, elementwise, gradient)
    _check_names(result.metrics, names, gradient.metrics)
    # 3. Norm.
    scale = 1.0 / divisor(result.count).to(result.sum.dtype)
    per_leaf = rows.total_norms(norms_of_whole_leaves(leaf_norms(grads), grads, cut_models), state.params)
    bad = _why_skipped(per_leaf, result.sum, result.count)
    taken = bad < 0
    mean_loss, grad_norm = result.sum * scale, torch.linalg.vector_norm(per_leaf) * scale
    # 4. Update.
    trained = {"params": state.params, "opt_state": state.opt_state, "extra": rest}
    scalars = {"grad_norm": grad_norm, "finite": taken, "value": mean_loss}
    new = update_rows(update, trained, grads, scale, scalars)
    extra = new["extra"]
    if scaling is not None:
        extra = {**extra, "loss_scale": precision.adjust(scaling, per_leaf.isfinite().all())}
    if "gradient" in state.extra:
        kept = tree.where(taken, new_memory, rows.local(memory))
        extra = {**extra, "gradient": rows.wrap(kept, memory)}
    # 5. Metrics.
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


def _compute(
    gradient: Gradient,
    loss: Loss,
    names: tuple[str, ...],
    params: Tree,
    batch: Tree,
    key: Tensor,
    memory: Tree,
    scale: Tensor | None,
) -> tuple[Accumulated, Tree, Tree]:
    """Compute a gradient: (sums without it, the gradient, the next memory), rows of both if the state is cut.

    Whole params are gathered once, and given up before the gradient is cut.
    """
    named = partial(_compute_named, loss, names)
    if not rows.is_cut(params):
        result, new_memory = gradient.compute(named, params, batch, key, memory, scale)
        return result._replace(grads=()), result.grads, new_memory
    group, adds = _group_of_state(params), is_accumulation(gradient)
    if group.layers:
        if not adds:
            raise ValueError(
                "sharded(layers=True): the stage has a gradient= that looks at whole gradients, such as "
                "noise_scale or clipped; use layers=False, which gathers them"
            )
        with within(group._replace(scatter=True)):
            named = partial(_compute_named, partial(loss_on_rows, loss, params), names)
            result, new_memory = gradient.compute(named, rows.local(params), batch, key, memory, scale)
        return result._replace(grads=()), result.grads, new_memory
    with within(group._replace(scatter=adds)):
        result, new_memory = gradient.compute(
            named, rows.gather(params), batch, key, rows.gather(memory), scale
        )
    whole_grads = [result.grads]  # no name keeps them: each leaf is freed once it is summed
    result = result._replace(grads=())
    grads = reduce_scatter_rows(group, whole_grads.pop()) if adds else whole_grads.pop()
    return result, rows.own_like(grads, params), rows.own_like(new_memory, memory)


def _group_of_state(params: Tree) -> Group:
    """Return the processes of the running step, which must be those over which the state is cut."""
    group, of_state = data_group(), rows.group_of_rows(params)
    if group is None or group.mesh is None or group.size != of_state.size:
        raise ValueError(
            f"stage: the state is cut into rows over {count_noun(of_state.size, 'process', 'processes')}, "
            f"and the step runs on {1 if group is None else group.size} with whole states; call the step of "
            "stages.sharded.sharded(stage, mesh), or gather the state (pure.parallel.rows.gather)"
        )
    return group


def _why_skipped(per_leaf: Tensor, total: Tensor, count: Tensor) -> Tensor:
    """Return `nonfinite_leaf` [] (see STEP_METRICS) from the norms of the leaves [L], the loss and its count.

    The loss is checked too: a non-finite loss may have a finite gradient, since clamping makes it 0.
    """
    loss_and_count = torch.stack([~total.isfinite(), ~(count.isfinite() & (count > 0))])
    bad = torch.cat([~per_leaf.isfinite(), loss_and_count])
    return torch.where(bad.any(), bad.float().argmax(), -1).float()


def _compute_named(
    loss: Loss, names: tuple[str, ...], params: Tree, batch: Tree, key: Tensor | None, /
) -> tuple[Tensor, Tensor, dict[str, Metric]]:
    """Compute a loss, and check its metrics' names at once: other processes, or parts, add theirs to them."""
    total, count, metrics = check_sums(loss(params, batch, key))
    _check_names(metrics, names, ())
    return total, count, metrics


def _check_names(metrics: dict[str, Metric], of_loss: tuple[str, ...], of_gradient: tuple[str, ...]) -> None:
    """Check that the metrics are those that were declared: a state keeps its structure."""
    reported = set(metrics) - set(of_gradient)
    if reported != set(of_loss):
        raise ValueError(
            f"stage: the loss reported the metrics {sorted(reported)}, and {sorted(of_loss)} were "
            f"declared; a state keeps its structure, so write metrics={tuple(sorted(reported))}"
        )
    if missing := sorted(set(of_gradient) - set(metrics)):
        raise ValueError(f"stage: gradient.compute did not report the metrics {missing} that it declares")


def _mean_or_sum(metric: Metric) -> Tensor:
    """Divide a mean's sum by its count; return a sum as it is."""
    if isinstance(metric, Tensor):
        return metric
    total, count = metric
    return total / divisor(count)
