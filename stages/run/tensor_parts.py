"""Runs whose model is cut over processes (`--tensor_parallel`): flags, params to start from, states on disk.

A state on disk is whole, as one process writes it, so that any number of processes resumes from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from pure import tree
from pure.config import ModelConfig
from pure.nn.tensor_parallel import check_divisible, tensor_parallel
from pure.nn.tensor_params import join_params, split_params
from pure.optim.leafwise import is_elementwise
from pure.parallel.group import Group
from pure.parallel.rows import gather, own_like, wrap
from pure.types import Model, Tree
from stages.checkpoint.checkpoint import Loaded
from stages.models.language_model import Pretrained
from stages.run import optimizer
from stages.run.options.base import OptimizerFlags
from stages.run.options.tuning import AdapterFlags, RolloutFlags
from stages.state import TrainState


def count_parts(tensor: int, processes: int) -> int:
    """Returns the number of parts that each batch is split into.

    Args:
        tensor: --tensor_parallel, the number of processes that share the model.
        processes: number of processes of the run.

    Raises:
        ValueError: if `tensor` does not divide `processes`, or there is one process.

    Example:
        >>> count_parts(2, 8)
        4
    """
    if tensor > 1 and processes == 1:
        raise ValueError(
            f"--tensor_parallel {tensor} cuts the model over processes, and there is one; start several with "
            "intro2llm launch NUMBER, or leave --tensor_parallel out"
        )
    if processes % tensor:
        near = max(n for n in range(1, tensor) if processes % n == 0)
        raise ValueError(
            f"--tensor_parallel {tensor} does not divide the number of processes {processes}: groups of "
            f"{tensor} compute the model together; start {processes + tensor - processes % tensor}, or use "
            f"--tensor_parallel {near}"
        )
    return processes // tensor


def check_optimizer(tensor: int, flags: OptimizerFlags) -> None:
    """Refuses optimizers and gradients that need whole leaves.

    Args:
        tensor: --tensor_parallel.
        flags: optimizer, noise_scale and clip_per_sample.

    Raises:
        ValueError: naming the flag.
    """
    if tensor == 1:
        return
    if not is_elementwise(optimizer.build(flags, 1, torch.float32).optimizer):
        raise ValueError(
            f"--tensor_parallel {tensor}: --optimizer {flags.optimizer} reads the shape or the norm of whole "
            "matrices, and each process has a part; use --optimizer adamw, or --shard state in the place of "
            "--tensor_parallel"
        )
    for name, value in (("noise_scale", flags.noise_scale), ("clip_per_sample", flags.clip_per_sample)):
        if value:
            raise ValueError(
                f"--tensor_parallel {tensor}: --{name} takes norms of whole gradients, and each process has "
                f"a part; leave out --{name}, or use --shard state in the place of --tensor_parallel"
            )


def check_model(tensor: int, config: ModelConfig) -> None:
    """Refuses a model that does not divide; its vocabulary is checked once the tokenizer is known.

    Args:
        tensor: --tensor_parallel.
        config: of the whole model.

    Raises:
        ValueError: naming the field.
    """
    vocabulary = config.vocab_size + -config.vocab_size % tensor
    check_divisible(dataclasses.replace(config, vocab_size=vocabulary), tensor)


def check_adapters(tensor: int, flags: AdapterFlags) -> None:
    """Refuses adapters, which are not cut.

    Args:
        tensor: --tensor_parallel.
        flags: lora and qlora.

    Raises:
        ValueError: naming the flag.
    """
    for name, value in (("lora", flags.lora is not None), ("qlora", flags.qlora)):
        if tensor > 1 and value:
            raise ValueError(
                f"--tensor_parallel {tensor}: adapters are not cut; leave out --{name}, or use --shard state "
                "in the place of --tensor_parallel"
            )


def check_rollouts(tensor: int, flags: RolloutFlags) -> None:
    """Refuses a server that samples completions: whole weights are sent to it.

    Args:
        tensor: --tensor_parallel.
        flags: rollout_server.

    Raises:
        ValueError: for one.
    """
    if tensor > 1 and flags.rollout_server is not None:
        raise ValueError(
            f"--tensor_parallel {tensor}: --rollout_server is sent whole weights, and each process has a "
            "part; leave out --rollout_server, or use --shard state in the place of --tensor_parallel"
        )


def cut_base(base: Pretrained, group: Group | None) -> Pretrained:
    """Returns this process's part of the model to start from.

    Args:
        base: whole model; its params may be {}, for new ones that the stage draws by parts.
        group: processes that share the model; None returns `base`.

    Raises:
        ValueError: for sizes that do not divide by the processes; it names the field.
    """
    if group is None:
        return base
    model = tensor_parallel(base.model, group)
    return base._replace(model=model, params=split_params(base.params, model) if base.params else {})


def pair_with_whole(params: Tree | None, model: Model) -> list[tuple[Tensor, Tensor]]:
    """Pairs this process's parts of frozen params with the whole leaves; all processes must call it.

    Args:
        params: of `model`; None: there are none.
        model: any model; one that is not cut has no parts.

    Returns:
        [(part, whole leaf)], for `stages.checkpoint.fingerprint.fingerprint`.
    """
    if params is None or model.parallel is None or model.parallel.tensor is None:
        return []
    return list(zip(tree.leaves(params), tree.leaves(join_params(params, model)), strict=True))


def join_state(state: Tree, model: Model | None) -> Tree:
    """Returns a whole state, or whole params, from the rows and the parts of all processes; all must call it.

    Args:
        state: a TrainState, or params.
        model: whose parts it holds; None returns `state`, rows included.

    Returns:
        Whole leaves on every process, which so holds the whole state until the copy is written.
    """
    return state if model is None else join_params(gather(state), model)


def load_state(load: Callable[[TrainState], Loaded], state: TrainState, model: Model | None) -> Loaded:
    """Loads a state, and takes this process's parts and rows of it; all processes must call it.

    Args:
        load: a state to take structure and shapes from -> what is on disk.
        state: such a state of this process: parts, or rows of parts.
        model: whose parts it holds; None is a state that `load` takes.

    Returns:
        Loaded, its state like `state`.
    """
    if model is None:
        return load(state)
    loaded = load(join_state(state, model))
    parts = split_params(loaded.state, model)
    return loaded._replace(state=wrap(own_like(parts, state), state))
