"""Params of a tensor-parallel model: this process's parts of whole ones, and whole ones from all parts.

A state on disk is whole, so that it is the plain model's: any number of processes resumes from it.

    checkpoint.save(folder, join_params(state, model), group=every_process, fingerprint=fingerprint(stage))
    state = split_params(checkpoint.load(folder, plain_stage.init(key), group=every_process).state, model)

A state that is cut into rows too (`stages.sharded` over another dimension of the mesh) is gathered first,
`join_params(gather(state), model)`: its rows alone are those of one part.

Shape letters: n processes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure import tree
from pure.nn.tensor_parallel import find_parameters, tensor_layout
from pure.parallel.cut_models import same_over_group
from pure.parallel.group import Group
from pure.parallel.operators import join_over_group
from pure.plural import count_noun
from pure.types import Model, Tree


def split_params(params: Tree, model: Model) -> Tree:
    """Return this process's parts of whole params; the inverse of `join_params`.

    Args:
        params: of the plain model, or any tree that holds trees like it, such as a TrainState.
        model: of `tensor_parallel`.

    Returns:
        A tree of copies.

    Raises:
        ValueError: if a leaf has another shape than the plain model's, or differs between processes.
    """
    group = _group(model)
    same_over_group("split_params: the params", params, group, wait=True)
    layout = tensor_layout(params, model.config)
    parameters = find_parameters(tree.paths(params), model.config)
    parts = dict(zip(tree.paths(model.spec), tree.leaves(model.spec), strict=True))

    def split(path: str, x: Tensor) -> Tensor:
        axis = layout[path]
        if axis is None or not x.ndim:
            return x.clone()
        own = x.chunk(group.size, axis)[group.rank]
        expected = parts[parameters[path]].shape
        if own.shape != expected or x.shape[axis] != expected[axis] * group.size:
            raise ValueError(
                f"split_params: expected {path} with {expected[axis] * group.size} along axis {axis}, for "
                f"{list(expected)} on each of {count_noun(group.size, 'process', 'processes')}, got "
                f"{list(x.shape)}; give whole params of the plain model"
            )
        return own.clone(memory_format=torch.contiguous_format)

    return tree.map_with_path(split, params)


def join_params(params: Tree, model: Model) -> Tree:
    """Return whole params from the parts of all processes; each must call it. One leaf is joined at a time.

    Args:
        params: of `model`, or any tree that holds trees like them, such as a TrainState.
        model: of `tensor_parallel`.

    Returns:
        A tree of copies, the same on all processes: params of the plain model.
    """
    group = _group(model)
    layout = tensor_layout(params, model.config)
    return tree.map_with_path(lambda path, x: _join(x, layout[path], group), params)


def _group(model: Model) -> Group:
    """The group of a tensor-parallel model."""
    if model.parallel is None or model.parallel.tensor is None:
        raise ValueError("split_params, join_params: expected a model of tensor_parallel(model, mesh)")
    return model.parallel.tensor


def _join(x: Tensor, axis: int | None, group: Group) -> Tensor:
    """A whole leaf from all parts."""
    whole = x if axis is None else join_over_group(x.detach(), group, axis)
    return whole.clone(memory_format=torch.contiguous_format)
