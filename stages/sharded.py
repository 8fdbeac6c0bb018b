"""Sharded training: each process holds its rows of the params, of the optimizer's state and of their average.

Shape letters: n processes, P bytes of the params, S rows of a leaf.

Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", 2020; Zhao et al.,
"PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pure.parallel.group import Group, group_of, within
from pure.parallel.rows import cut_here, mesh_of
from pure.types import Tree
from stages.data_parallel import check_same, plain_leaves, refuse_members, stage_within
from stages.stage import Init, Stage
from stages.state import TrainState


def sharded(stage: Stage, mesh: Any, *, layers: bool = False) -> Stage:
    """Return the same stage, whose state is cut into rows over several processes, and its batches too.

    Each process holds ⌈S/n⌉ rows of each leaf of `params`, `opt_state` and `extra`, as DTensors (`Shard(0)`);
    `step`, `key`, `metrics` and leaves [] are whole and equal on all. A step differentiates the loss of this
    process's rows of the batch, adds up the gradients so that each process has its rows of the sum, and
    updates the rows:

        p_r ← p_r + optimizer(Σ_q ∂ sum_q / ∂p  [rows of r], state_r, p_r)        for each process r

    The numbers are those of one process, up to the order of summation, for a loss that is a sum
    over rows: see `stages.data_parallel.data_parallel`.

        layers   whole at a time            bytes received by a process
        False    params, their gradient     (n - 1)/n 2 P a step: params before, gradients after all parts
        True     two layers, and what is    (n - 1)/n 3 P for each part of an accumulation: a layer before its
                 outside all layers         forward and before its backward pass, then its gradient

    An optimizer that acts on each element by itself (`optim.is_elementwise`) receives no more; Muon and
    others that look at whole leaves gather params, state and gradient of one layer after the other
    (`stages.row_update`).

    Args:
        stage: of `stages.stage.stage`, or a built-in one.
        mesh: the processes: a DeviceMesh with one dimension, or a ProcessGroup.
        layers: gather params layer by layer (`pure.parallel.layers`), in models of `pure.nn.transformer`, and
            their adapters and heads; any other leaf that is outside all lists is gathered once a loss. False
            gathers all params once a step, for any model, loss and gradient.

    Returns:
        Stage. `init(key, params=None)` draws each process's rows of the model's own initial params, bit-equal
        to those of the whole draw, so that no process holds the model; or cuts the given params, which are
        the same on all processes or cut already. `step` takes the whole batch. `loss` is the plain stage's:
        it takes whole params (`pure.parallel.rows.gather(state.params)`, on all processes).

    Edge cases: a leaf with fewer rows than processes has none on the last ones. A skipped step keeps the
    rows. Initial params that are not drawn by a transformer's own `init` (a head of rewards, adapters' norms)
    are made whole, then cut. An optimizer that is neither elementwise nor leafwise (`optim.is_leafwise`)
    gathers the whole state at each update. A frozen base (`lora(model, cut(base, mesh))`) or reference may be
    cut as well (`pure.parallel.rows.cut`), and is gathered layer by layer. With layers=False an error on one
    process is raised on all, also then: on a CPU each gathering of a layer is preceded by 24 bytes. With
    layers=True an error inside the loss is raised only where it happens, as the others are in collectives
    that sum gradients: that process must end, and not catch the error and go on, as its next collective would
    meet theirs. (Different batches are refused on all, before the loss.) Online stages gather the policy once
    for sampling. A fingerprint is that of the plain stage.

    Raises:
        ValueError: for a population or sweep; a stage made by hand; before torch.distributed is initialised;
            in `init`, if processes start from different keys or params; in a step, for fewer rows than
            processes, a state cut over others, or with `layers` for a model that does not gather its layers
            and a gradient= that looks at whole gradients (noise_scale, cosines, clipped).

    Example:
        >>> from pure import optim, random
        >>> from pure.parallel.rows import gather
        >>> from stages.stage import stage
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> def square(params, batch, key):
        ...     return (params - batch["x"][:, None]).square().sum(), torch.tensor(len(batch["x"])), {}
        >>> import torch
        >>> fit = sharded(stage(square, optim.sgd(0.5)), dist.group.WORLD)
        >>> state = fit.init(random.key(0), torch.zeros(3))
        >>> gather(fit.step(state, {"x": torch.tensor([1.0, 3.0])}).params)
        tensor([2., 2., 2.])
        >>> dist.destroy_process_group()

    Source: Rajbhandari et al. 2020, section 5: optimizer state, gradients and params cut; Zhao et al. 2023,
    section 3, for `layers`.
    """
    refuse_members("sharded", stage)
    if stage.loss is None:
        raise ValueError(
            "sharded: this stage was made by hand, and its step does not know of rows; build it with "
            "stages.stage.stage, or use data_parallel"
        )
    group = group_of("sharded", mesh)
    group = group._replace(mesh=mesh_of(mesh, _device_type(group)), layers=layers, errors_shared=not layers)
    return stage_within(stage, group)._replace(init=partial(init_rows, stage.init, group))


def init_rows(init: Init, group: Group, key: Tensor, params: Tree | None = None) -> TrainState:
    """Return this process's rows of the first state.

    Args:
        init: of the plain stage.
        group: the processes.
        key: [2] uint32.
        params: to start from, whole or cut; None draws them by rows.

    Returns:
        TrainState; its leaves with rows are DTensors, except `key` and `metrics`.

    Raises:
        ValueError: if the key, or a given leaf that is whole, differs between processes.
    """
    check_same("sharded: what `init` is given", plain_leaves({"key": key, "params": params}), group)
    with within(group):
        state = init(key, params if params is None else cut_here(params))
        return state._replace(extra=cut_here(state.extra))


def _device_type(group: Group) -> str:
    """The device of a group's tensors: a GPU, if its backend has one."""
    on_cpu = str(dist.get_backend(group.handle)) in ("gloo", "mpi") or not torch.cuda.is_available()
    return "cpu" if on_cpu else "cuda"
