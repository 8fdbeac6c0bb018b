"""Data parallel training: each process computes the gradient of its rows of the batch, and all add them up.

It is gradient accumulation side by side: a loss returns sums and counts, randomness belongs to the example,
and `pipe[i]` is a function of the index. Every process holds the whole state; `stages.sharded` cuts it.

Shape letters: B batch, n processes.

Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from pure import tree
from pure.parallel.collect import every, exchange, own, together
from pure.parallel.group import Group, group_of, run_within, within
from pure.types import Tree
from stages import population, sweep
from stages.online import Online, Rollout, Score
from stages.rollout import Rollouts
from stages.stage import Init, Stage
from stages.state import TrainState


def data_parallel(stage: Stage, mesh: Any) -> Stage:
    """Return the same stage, whose steps are computed by several processes together.

        gradient = Σ_r ∂ sum_r / ∂params,    count = Σ_r count_r      over the rows r of each process

    The numbers are those of one process, up to the order of summation (1e-6 in float32); those of two
    processes are those of `accumulation=2`, bit for bit. All processes must be given the same states and the
    same whole batches, and take the same steps in the same order.

    Args:
        stage: of `stages.stage.stage`, or a built-in one. With `accumulation`, or another `gradient=`, each
            of its micro-batches is cut.
        mesh: the processes: a DeviceMesh with one dimension, or a ProcessGroup.

    Returns:
        Stage. `step` takes the whole batch and uses B/n rows of it. Online, each process samples and scores
        the completions of its own prompts; all processes then update on all of them. `loss` is the plain
        stage's.

    Edge cases: B need not be a multiple of n. An error of a reward function on one process is raised on all.
    A fingerprint is that of the plain stage, so that a run resumes with another number of processes.

    Raises:
        ValueError: for a population or sweep; before torch.distributed is initialised; in a step, for fewer
            rows than processes; in `init`, if processes start from different params.

    Example:
        >>> import torch.distributed as dist
        >>> from pure import optim, random
        >>> from stages.stage import stage
        >>> def square(params, batch, key):
        ...     return (params - batch["x"]).square().sum(), torch.tensor(len(batch["x"])), {}
        >>> one_process = Group(rank=0, size=1, handle=None)
        >>> fit = data_parallel(stage(square, optim.sgd(0.5)), one_process)
        >>> fit.step(fit.init(random.key(0), torch.tensor(0.0)), {"x": torch.tensor([1.0, 3.0])}).params
        tensor(2.)
    """
    refuse_members("data_parallel", stage)
    return stage_within(stage, group_of("data_parallel", mesh))


def stage_within(stage: Stage, group: Group) -> Stage:
    """Return a stage whose functions are called together with a group.

    Args:
        stage: of any kind but a population.
        group: the processes.

    Returns:
        Stage.
    """
    init = partial(init_together, stage.init, group)
    if stage.parts is None:
        return stage._replace(init=init, step=partial(run_within, stage.step, group))
    parts = Online(
        init=stage.parts.init,
        rollout=partial(sample_own, stage.parts.rollout, group),
        score=None if stage.parts.score is None else partial(score_own, stage.parts.score, group),
        update=partial(run_within, stage.parts.update, group),
        examples=partial(run_within, stage.parts.examples, group),
    )
    step = partial(stage.step.func, **{**stage.step.keywords, "parts": parts})  # type: ignore[attr-defined]
    return stage._replace(init=init, step=step, parts=parts)


def init_together(init: Init, group: Group, key: Tensor, params: Tree | None = None) -> TrainState:
    """Return the first state, and check that it is the same on all processes.

    Args:
        init: of the plain stage.
        group: the processes.
        key: [2] uint32.
        params: to start from, or None.

    Returns:
        TrainState.

    Raises:
        ValueError: if a leaf differs between processes.
    """
    with within(group):
        state = together(init, key, params)
    check_same("data_parallel", state, group)
    return state


def sample_own(rollout: Rollout, group: Group, params: Tree, batch: Tree, key: Tensor, /) -> Rollouts:
    """Sample the completions of this process's prompts, and gather those of all.

    A completion's key depends on its prompt's row and its number, so that it is that of one process (up to
    rounding, as the shape of the batch differs).

    Args:
        rollout: of the plain stage.
        group: the processes.
        params, batch, key: as in `rollout`; the batch has the prompts of all.

    Returns:
        Rollouts of all prompts.
    """
    with within(group):
        prompts = own(batch)
        with within(None):
            sampled = rollout(params, prompts, key)
        return every(sampled, len(batch["row"]))


def score_own(score: Score, group: Group, rollouts: Rollouts, /) -> Tensor:
    """Score this process's completions, and gather the rewards of all; each is scored once.

    Args:
        score: of the plain stage.
        group: the processes.
        rollouts: B rows, the same on all processes.

    Returns:
        [B, K] float32.

    Raises:
        Exception: of a reward function, on whichever process.
    """
    with within(group):
        return every(together(score, own(rollouts)), len(rollouts.row))


def refuse_members(caller: str, stage: Stage) -> None:
    """Refuse a population or sweep, whose steps are vmapped.

    Args:
        caller: the caller's name in an error.
        stage: any stage.

    Raises:
        ValueError: for one.
    """
    if getattr(stage.step, "func", None) in (population.step, sweep.step):
        raise ValueError(
            f"{caller}: a population or sweep has an axis of members in the place of rows; run its members "
            "on one process each, or train one stage on all processes"
        )


def check_same(caller: str, values: Tree, group: Group) -> None:
    """Check that a tree has the same bits on all processes.

    Args:
        caller: the caller's name in an error.
        values: tree of tensors.
        group: the processes.

    Raises:
        ValueError: naming the first leaf that differs, and the processes; on all of them.
    """
    own_sums = {path: _checksum(x) for path, x in zip(tree.paths(values), tree.leaves(values), strict=True)}
    all_sums = exchange(own_sums, group)
    for path in sorted({path for sums in all_sums for path in sums}):
        different = [rank for rank, sums in enumerate(all_sums) if sums.get(path) != all_sums[0].get(path)]
        if different:
            raise ValueError(
                f"{caller}: {path} of process {different[0]} differs from that of process 0; start all "
                "processes with the same key and the same params"
            )


def _checksum(x: Tensor) -> tuple:
    """Shape, dtype and two sums of the bytes of a tensor, one of them weighted by position."""
    data = x.detach().contiguous().reshape(-1).view(torch.uint8)
    sums = [0, 0]
    for start in range(0, len(data), 1 << 22):
        block = data[start : start + (1 << 22)].long()
        place = torch.arange(len(block), device=x.device) % 65521 + 1
        sums = [sums[0] + int(block.sum()), sums[1] + (start + 1) * int((block * place).sum())]
    return tuple(x.shape), str(x.dtype), *sums
