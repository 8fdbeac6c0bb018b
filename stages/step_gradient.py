"""The gradient of one step: of whole params, or of a state that is cut into rows over processes.

Shape letters: B rows of a batch, L leaves.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from pure.parallel import rows
from pure.parallel.cut_models import record_cut_models
from pure.parallel.group import Group, data_group, within
from pure.parallel.layers import loss_on_rows
from pure.parallel.row_collectives import reduce_scatter_rows
from pure.plural import count_noun
from pure.transform.accumulate import Accumulated, Loss, Metric, check_sums
from pure.transform.by_layer import leaf_norms
from pure.transform.gradient import Gradient, is_accumulation
from pure.types import Tree
from stages.cut_model import check_cut_models, norms_of_whole_leaves
from stages.state import TrainState


def sum_gradient(
    state: TrainState,
    batch: Tree,
    key: Tensor,
    *,
    loss: Loss,
    gradient: Gradient,
    names: tuple[str, ...],
    elementwise: bool,
) -> tuple[Accumulated, Tree, Tensor, Tree]:
    """Compute the gradient of the summed loss, and the norms of its leaves.

    Args:
        state: TrainState, whole or cut into rows.
        batch: dict of tensors [B, ...], with numbered rows.
        key: [2], of this step.
        loss, gradient, names, elementwise: as in `stages.step.step`.

    Returns:
        (sums, gradient, norms, memory): sums is an Accumulated without its gradient; the norms [L] are those
        of whole leaves, NaN or infinite if the leaf has such an element; memory is the next one of what
        computes the gradient. Gradient and memory are this process's rows if the state is cut.

    Raises:
        ValueError: if the loss reports other metrics than were declared, or the state is cut over other
            processes than those of the running step.
    """
    scaling = state.extra.get("loss_scale")
    memory = state.extra.get("gradient", {})
    scale = None if scaling is None else scaling.scale
    with record_cut_models() as cut_models:
        result, grads, new_memory = _compute(gradient, loss, names, state.params, batch, key, memory, scale)
    check_cut_models(cut_models, elementwise, gradient)
    _check_names(result.metrics, names, gradient.metrics)
    per_leaf = rows.total_norms(norms_of_whole_leaves(leaf_norms(grads), grads, cut_models), state.params)
    return result, grads, per_leaf, new_memory


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
