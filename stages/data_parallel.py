"""Data parallel training: each process computes the gradient of its rows of the batch, and all add them up.

It is gradient accumulation side by side: a loss returns sums and counts, randomness belongs to the example,
and `pipe[i]` is a function of the index. Every process holds the whole state; `stages.sharded` cuts it.

Shape letters: B batch, n processes.

Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pure import tree
from pure.parallel.agreement import describe_structure, refuse_differences
from pure.parallel.checksum import checksums
from pure.parallel.collect import every, exchange, own, refuse_transforms, together
from pure.parallel.group import Group, group_of, is_grouped, run_within, within
from pure.parallel.rows import gather, is_cut
from pure.types import Tree
from stages import online, population, sweep
from stages.online import Rollout, Score, compute_checked_rewards
from stages.rollout import Rollouts, check_rollouts, pad_rollouts
from stages.stage import Init, Stage
from stages.state import TrainState


class FirstStep(NamedTuple):
    """Memo of the check before the first step, which is made once; it changes no result.

    Fields:
        checked: has an element once states and batches have been compared.
    """

    checked: set


def data_parallel(stage: Stage, mesh: Any) -> Stage:
    """Return the same stage, whose steps are computed by several processes together.

        gradient = Σ_r ∂ sum_r / ∂params,    count = Σ_r count_r      over the rows r of each process

    The numbers are those of one process, up to the order of summation: gradients to 1e-6 in float32. (Params
    of an optimizer that divides by what may be near 0 can differ more: Adam's to 1e-4, SOAP's by more, as
    with `accumulation=2` on one process.) Those of two
    processes are those of `accumulation=2`, bit for bit. All processes must be given the same states and the
    same whole batches (no DistributedSampler: a batch is not cut beforehand), and take the same number of
    steps in the same order. Compile after: `jit(data_parallel(stage, mesh).step, donate=True, regions=True)`.

    Args:
        stage: of `stages.stage.stage`, or a built-in one. With `accumulation`, or another `gradient=`, each
            of its micro-batches is cut, so that measures of gradients are those of one process.
        mesh: the processes: a DeviceMesh with one dimension, or a ProcessGroup.

    Returns:
        Stage. `step` takes the whole batch and uses B/n rows of it. Online, each process samples and scores
        the completions of its own prompts; all processes then update on all of them. `loss` is the plain
        stage's, a function of one process: gradients per sample, influence, curvature, audits and validation
        take it as ever. The functions in `parts` must be called by all processes, as `step` must.

    Edge cases: the loss must be a sum over rows, with their count. One that returns a mean and the count 1,
    or uses a statistic of the whole batch, gives other numbers, as it does with `accumulation`; that is not
    found out. B need not be a multiple of n. An error of a loss (on a CPU) or a reward function on one
    process is raised on all, and so are metrics, completions or rewards of another structure on one; a
    sampler must draw from each row's key (`stages.online.Rollout`). A fingerprint is that of the plain stage,
    so that a run resumes with another number of processes. `stages.branch` works; what differentiates or
    vmaps steps (`unroll`, `population`, `sweep`, torch.func) is refused: collectives have no derivative here.

    What is checked: in `init` and before the first step that is not compiled, that all processes have the
    same state and the same batch, leaf by leaf; in each step that they have the same batch, and losses that
    return the same names, dtypes and shapes, by 8 bytes. On a GPU, or compiled as a whole, a step with
    different batches is skipped (its loss is NaN) in the place of an error. Not checked: that states stay the
    same, as they are computed from the same bits; that processes take as many steps. One that stops early
    leaves the others waiting for torch's timeout of the group, after which they raise an error that says so.

    Raises:
        ValueError: for a population or sweep, a stage that is data parallel already, or an online stage whose
            step is compiled; before torch.distributed is initialised; in a step, for fewer rows than
            processes, or different batches; in `init` and the first step, for different states.
        RuntimeError: in a step, under a transform of torch.func; if another process ended.

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

    Raises:
        ValueError: for an online stage whose step is not that of `stages.online`, as a compiled one.
    """
    init, first = partial(init_together, stage.init, group), FirstStep(set())
    if stage.parts is None:
        return stage._replace(init=init, step=partial(step_together, stage.step, group, first))
    kind = getattr(stage.step, "func", None)
    if kind not in (online.step, online.offline_step):
        raise ValueError(
            "data_parallel: the step of this online stage is compiled, or not that of stages.online; give "
            "the plain stage, and compile afterwards: jit(data_parallel(stage, mesh).step, ...)"
        )
    parts = stage.parts._replace(
        rollout=partial(sample_own, stage.parts.rollout, group, stage.parts.samples),
        score=None
        if stage.parts.score is None
        else partial(score_own, stage.parts.score, group, stage.parts.samples, stage.parts.rewards),
        update=partial(run_within, stage.parts.update, group),
        examples=partial(run_within, stage.parts.examples, group),
    )
    step = partial(step_together, partial(kind, parts=parts), group, first)
    return stage._replace(init=init, step=step, parts=parts)


def step_together(
    step: Callable[[TrainState, Tree], TrainState],
    group: Group,
    first: FirstStep,
    state: TrainState,
    batch: Tree,
) -> TrainState:
    """Take a step together; before the first one, check that all processes have the same state and batch.

    Args:
        step: of the plain stage.
        group: the processes.
        first: memo of the check.
        state: the same on all processes, or cut into rows.
        batch: the whole batch, the same on all processes.

    Returns:
        The next state.

    Raises:
        ValueError: naming a leaf that differs between processes.
    """
    if group.size > 1 and not torch.compiler.is_compiling() and not first.checked:
        refuse_transforms("data_parallel", tree.leaves((state, batch)))
        check_same("data_parallel: the state", plain_leaves(state), group)
        check_same("data_parallel: the batch", batch, group)
        first.checked.add(True)
    return run_within(step, group, state, batch)


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
    check_same("data_parallel: the initial state", state, group)
    return state


def sample_own(
    rollout: Rollout, group: Group, samples: int, params: Tree, batch: Tree, key: Tensor, /
) -> Rollouts:
    """Sample the completions of this process's prompts, and gather those of all.

    A completion's key depends on its prompt's row and its number, so that it is that of one process (up to
    rounding, as the shape of the batch differs). Completions are as wide as the widest of all processes.

    Args:
        rollout: of the plain stage.
        group: the processes.
        samples: G, completions of a prompt.
        params: whole, or cut into rows, which are gathered once.
        batch, key: as in `rollout`; the batch has the prompts of all.

    Returns:
        Rollouts of all prompts.

    Raises:
        Exception: of the rollout, on whichever process.
        TypeError, ValueError: as `stages.rollout.check_rollouts`.
    """
    check_same("data_parallel: the prompts", batch, group)
    with within(group):
        prompts, whole = own(batch), gather(params)
        sampled = together(_sample_and_check, rollout, samples, whole, prompts, key)
        width = max(exchange(sampled.mask.shape[1], group))
        return every(pad_rollouts(sampled, width), len(batch["row"]))


def score_own(
    score: Score, group: Group, samples: int, names: tuple[str, ...], rollouts: Rollouts, /
) -> Tensor:
    """Score the completions of this process's prompts, and gather the rewards of all; each is scored once.

    Args:
        score: of the plain stage.
        group: the processes.
        samples: G, completions of a prompt, which are scored by one process.
        names: of the K rewards; () if they are not known, and K is compared.
        rollouts: B rows, the same on all processes.

    Returns:
        [B, K] float32.

    Raises:
        Exception: of a reward function, on whichever process.
        TypeError, ValueError: as `stages.online.compute_checked_rewards`.
    """
    with within(group):
        scored = partial(compute_checked_rewards, score, names)
        rewards = together(run_within, scored, None, own(rollouts, samples))
        if not names:
            structures = exchange(describe_structure(rewards, of_rows=True), group)
            refuse_differences("score", structures, "return the same K rewards on all processes")
        return every(rewards, len(rollouts.row) // samples)


def refuse_members(caller: str, stage: Stage) -> None:
    """Refuse a population or sweep, whose steps are vmapped, and a stage of several processes already.

    Args:
        caller: the caller's name in an error.
        stage: any stage.

    Raises:
        ValueError: for one.
    """
    if getattr(stage.init, "func", None) in (population.init, sweep.init):
        raise ValueError(
            f"{caller}: a population or sweep has an axis of members in the place of rows; run its members "
            "on one process each, or train one stage on all processes"
        )
    if is_grouped(stage.init):
        raise ValueError(f"{caller}: this stage is computed by several processes already; give the plain one")


def check_same(caller: str, values: Tree, group: Group) -> None:
    """Check that a tree has the same bits on all processes.

    Args:
        caller: the caller's name in an error.
        values: tree of tensors.
        group: the processes.

    Raises:
        ValueError: naming the first leaf that differs, and the processes; on all of them.
    """
    all_facts = exchange(_describe(values), group)
    for path in sorted({path for facts in all_facts for path in facts}):
        different = [
            rank for rank, facts in enumerate(all_facts) if facts.get(path) != all_facts[0].get(path)
        ]
        if different:
            raise ValueError(
                f"{caller}: {path} of process {different[0]} differs from that of process 0; give all "
                "processes the same key, the same params and the same whole batches (no slice by rank, no "
                "DistributedSampler)"
            )


def plain_leaves(values: Tree) -> dict[str, Tensor]:
    """Return the leaves that are not cut into rows, and so are the same on all processes, by path."""
    pairs = zip(tree.paths(values), tree.leaves(values), strict=True)
    return {path: x for path, x in pairs if not is_cut(x)}


def _sample_and_check(rollout: Rollout, samples: int, params: Tree, batch: Tree, key: Tensor) -> Rollouts:
    """Samples alone."""
    sampled = run_within(rollout, None, params, batch, key)
    check_rollouts(sampled, batch, samples)
    return sampled


def _describe(values: Tree) -> dict[str, tuple]:
    """Shape, dtype and checksum of each leaf; one copy to the host for all leaves of a device."""
    facts = {}
    paths, leaves = tree.paths(values), tree.leaves(values)
    for device in {x.device for x in leaves}:
        chosen = [i for i, x in enumerate(leaves) if x.device == device]
        sums = [0] * len(chosen)
        if device.type != "meta":
            sums = checksums([leaves[i] for i in chosen]).tolist()
        for i, value in zip(chosen, sums, strict=True):
            facts[paths[i]] = (tuple(leaves[i].shape), str(leaves[i].dtype), value)
    return facts
