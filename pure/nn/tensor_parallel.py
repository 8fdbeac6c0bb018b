"""Tensor parallelism: the processes of a group share every matrix of a model, and the work of every layer.

Each process has some of the heads of attention, some of the channels of the feed-forward block, and the rows
of some tokens in embedding and head. Params are this process's parts: leaves of the same names, 1/n of the
size.

| leaf | cut along | first operation | last operation |
|---|---|---|---|
| q, k, v, gate, up and their biases | outputs (axis 0) | f: identity, backward Σ | - |
| o, down | inputs (axis 1) | - | g: Σ, backward identity |
| embedding, head | vocabulary (axis 0) | f (head) | g (embedding) |
| norms, biases of o and down | not cut | - | - |

Communication, forward and backward: four all-reduces [B, T, D] a layer, one each for embedding and head, and
three [B, T] for the loss; an all-reduce of X bytes sends 2 (n - 1)/n X from each process. Activations between
the blocks, such as the residual stream, are whole on all processes. With n processes of one machine in each
group, and the batch cut over machines:

    mesh = init_device_mesh("cuda", (machines, n), mesh_dim_names=("data", "tensor"))
    model = tensor_parallel(transformer(config), mesh["tensor"])
    fit = data_parallel(pretrain(model, optimizer), mesh["data"])

Shape letters: B batch, T tokens, S keys, D width, V vocabulary, N query heads, n processes.

Shoeybi et al., "Megatron-LM", 2019, section 3; Korthikanti et al., "Reducing Activation Recomputation in
Large Transformer Models", 2022, section 4.1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pure import tree
from pure.config import ModelConfig
from pure.nn.packed import Packed
from pure.parallel.group import Group, group_of
from pure.parallel.layers import Rows
from pure.parallel.operators import copy_to_group, sum_over_group
from pure.types import Model, ParamSpec, Tree

AXES: Mapping[str, int] = {
    "embedding": 0, "head": 0,
    "q": 0, "k": 0, "v": 0, "q_bias": 0, "k_bias": 0, "v_bias": 0, "o": 1,
    "gate": 0, "up": 0, "gate_bias": 0, "up_bias": 0, "down": 1,
}  # fmt: skip
"""Name of a leaf -> the axis along which it is cut; others are the same on all processes."""

ADDED_ONCE = ("o_bias", "down_bias")
"""Biases that are added to the sum of the parts, once."""

SHARED_BY_HEADS = ("q_norm", "k_norm")
"""Leaves that every process uses for its own heads: their gradients are summed."""


def tensor_parallel(model: Model, mesh: Any) -> Model:
    """Build the same model, computed by the processes of a group together.

        y = Σ_r W_o,r heads_r(f(x)),     y = Σ_r W_down,r (act(W_gate,r f(x)) ⊙ W_up,r f(x))

    Args:
        model: from `pure.nn.transformer.transformer`.
        mesh: the processes: a DeviceMesh with one dimension, such as `mesh["tensor"]`, or a ProcessGroup.

    Returns:
        Model, whose params are this process's parts: `init(key)` makes those of the plain `init(key)`,
        `pure.nn.tensor_params` cuts given ones and joins them. Hidden states are those of the
        plain model up to the order of summation (1e-6 in float32), equal on all processes. `logits` and
        `forward` give cut logits (`pure.parallel.vocabulary`), which the losses take; those of `decode` are
        whole. All processes must call it with the same arguments in the same order.

    Edge cases: dropout masks are those of the plain model. Only whole matrices of axis 1 (o, down) are drawn
    whole in `init`, one at a time, and cut. Adapters and quantised matrices are refused. Stages compute norms
    over all parts, and refuse optimizers that are not elementwise (`stages.step`); any other use of gradients
    has to add up cut leaves over the group.

    Raises:
        ValueError: if heads, key-value heads, intermediate_size or vocab_size do not divide by the number of
            processes; before torch.distributed is initialised.
        TypeError: for a model of another kind, such as an adapted one.

    Example:
        >>> from pure import random
        >>> from pure.nn.transformer import transformer
        >>> config = ModelConfig(vocab_size=8, hidden_size=8, num_attention_heads=2, num_key_value_heads=2)
        >>> model = tensor_parallel(transformer(config), Group(rank=1, size=2, handle=None))
        >>> model.init(random.key(0))["embedding"].shape
        torch.Size([4, 8])

    Source: Shoeybi et al. 2019, section 3. Differs from it: no padding of the vocabulary.
    """
    parallel = check_buildable("tensor_parallel", model)
    if parallel.tensor is not None:
        raise ValueError("tensor_parallel: this model is cut already; give it one group with all processes")
    group = group_of("tensor_parallel", mesh)
    check_divisible(model.config, group.size)
    return parallel.build(tensor=group, context=parallel.context)


def check_buildable(caller: str, model: Model) -> Any:
    """Return `model.parallel`.

    Args:
        caller: the caller's name in an error.
        model: any model.

    Raises:
        TypeError: for a model without it.
    """
    if getattr(model, "parallel", None) is None:
        raise TypeError(
            f"{caller}: expected a model of pure.nn.transformer.transformer; adapted models and modules of "
            "other libraries are computed by one process each (use stages.data_parallel or stages.sharded)"
        )
    return model.parallel


def check_divisible(config: ModelConfig, size: int) -> None:
    """Refuse a model that does not divide into equal parts.

    Args:
        config: of the whole model.
        size: n.

    Raises:
        ValueError: naming the field.
    """
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size"):
        value = getattr(config, name)
        if value % size:
            fix = "pad the vocabulary to a multiple" if name == "vocab_size" else "start fewer processes"
            raise ValueError(
                f"tensor_parallel: {name} {value} does not divide by {size} processes; {fix}, such as "
                f"{value + size - value % size if name == 'vocab_size' else _divisors(value, size)}"
            )


def tensor_layout(params: Tree, config: ModelConfig) -> dict[str, int | None]:
    """Return the axis along which each leaf is cut, for params or anything that holds trees like them.

    Args:
        params: params, gradients, or a whole TrainState: leaves whose path ends with a parameter's.
        config: of the model.

    Returns:
        {path: axis, or None for a leaf that is the same on all processes}.

    Example:
        >>> config = ModelConfig(num_hidden_layers=1)
        >>> tensor_layout({"mu": {"norm": {"scale": 0}, "embedding": 0}, "count": 0}, config)
        {'count': None, 'mu/embedding': 0, 'mu/norm/scale': None}
    """
    parameters = find_parameters(tree.paths(params), config)
    axes = {path: AXES.get(path.rpartition("/")[2]) for path in parameters}
    return {path: axis if parameters[path] else None for path, axis in axes.items()}


def find_parameters(paths: list[str], config: ModelConfig) -> dict[str, str]:
    """Return the parameter with which each path ends, where all leaves beside it are parameters too.

    (A scalar model's own "head" is no parameter of the transformer in it.)

    Args:
        paths: of the leaves of a tree.
        config: of the model.

    Returns:
        {path: path of the parameter, or ""}.

    Example:
        >>> find_parameters(["mu/norm/scale", "mu/embedding", "count"], ModelConfig())
        {'mu/norm/scale': 'norm/scale', 'mu/embedding': 'embedding', 'count': ''}
    """
    names = _parameter_names(config)
    foreign: dict[str, bool] = {}  # prefix -> there is a leaf under it that is no parameter
    parameters = dict.fromkeys(paths, "")
    for path in paths:
        parts = path.split("/")
        for suffix in ("/".join(parts[i:]) for i in range(len(parts))):
            prefix = path[: len(path) - len(suffix)]
            if suffix not in names:
                continue
            if prefix not in foreign:
                foreign[prefix] = any(x.startswith(prefix) and x[len(prefix) :] not in names for x in paths)
            if not foreign[prefix]:
                parameters[path] = suffix
                break
    return parameters


def cut_spec(spec: Tree, group: Group | None) -> Tree:
    """Describe this process's parts.

    Args:
        spec: tree of ParamSpec, of the whole model.
        group: the processes, or None.

    Returns:
        A tree of ParamSpec.
    """
    return spec if group is None else tree.map_with_path(partial(_cut_leaf_spec, group.size), spec)


def init_leaf(draw: Callable[..., Tensor], path: str, shape: tuple[int, ...], group: Group | None) -> Tensor:
    """Draw this process's part of a leaf, with the bits of the whole draw.

    Args:
        draw: (shape, offset=) -> numbers of that shape, from the index `offset` of the whole leaf on.
        path: of the leaf.
        shape: of the whole leaf.
        group: the processes, or None.

    Returns:
        The part. Parts along axis 0 are drawn alone; those along axis 1 are cut from the whole leaf, which is
        in memory for that time.

    Example:
        >>> def count(shape, offset=0):
        ...     return torch.arange(torch.Size(shape).numel()).reshape(shape) + offset
        >>> group = Group(rank=1, size=2, handle=None)
        >>> [init_leaf(count, name, (2, 2), group).tolist() for name in ("head", "o")]
        [[[2, 3]], [[1], [3]]]
    """
    axis = None if group is None else AXES.get(path.rpartition("/")[2])
    if group is None or axis is None:
        return draw(shape)
    if axis:
        return draw(shape).chunk(group.size, axis)[group.rank].contiguous()
    own = (shape[0] // group.size, *shape[1:])
    return draw(own, offset=group.rank * torch.Size(own).numel())


def embed(table: Tensor, tokens: Tensor, group: Group | None) -> Tensor:
    """Look up embeddings; each process has the rows of some tokens.

        x = Σ_r E_r[token - rV/n] if the token is one of r's, else 0

    Args:
        table: [V, D], or [V/n, D] with a group.
        tokens: [B, T] integers.
        group: the processes, or None.

    Returns:
        [B, T, D], equal on all processes.

    Edge cases: a token outside the vocabulary is an error of torch without a group, and NaN with one.
    """
    if group is None:
        return F.embedding(tokens, table)
    rows = table.shape[0]
    own = tokens - group.rank * rows
    is_own = (own >= 0) & (own < rows)
    unknown = (tokens < 0) | (tokens >= rows * group.size)
    x = F.embedding(own.clamp(0, rows - 1), table)
    others = torch.where(unknown, torch.nan, 0.0).to(x.dtype)
    return sum_over_group(torch.where(is_own[..., None], x, others[..., None]), group)


def enter_part(params: Tree, x: Tensor, group: Group | None) -> tuple[Tree, Tensor]:
    """Return the params and the input of this process's part of attention or of the feed-forward block.

    Args:
        params: this process's parts.
        x: [B, T, D], equal on all processes.
        group: the processes, or None.

    Returns:
        (params without the biases that are added to the sum, x); gradients of x, and of the leaves that all
        processes use, are summed over the group.
    """
    if group is None:
        return params, x
    own = {name: leaf for name, leaf in params.items() if name not in ADDED_ONCE}
    for name in SHARED_BY_HEADS:
        if name in own:
            own[name] = copy_to_group(own[name], group)
    return own, copy_to_group(x, group)


def leave_part(y: Tensor, params: Tree, bias: str, group: Group | None) -> Tensor:
    """Sum the parts of attention or of the feed-forward block, and add the bias once.

    Args:
        y: [B, T, D], this process's summand.
        params: this process's parts.
        bias: name of the bias, if the params have it.
        group: the processes, or None: y has its bias.

    Returns:
        [B, T, D], equal on all processes.
    """
    if group is None:
        return y
    y = sum_over_group(y, group)
    return y + params[bias] if bias in params else y


def check_parts(params: Tree, group: Group) -> None:
    """Refuse params with nodes in the place of matrices: adapters and quantised weights are not cut.

    Args:
        params: this process's parts.
        group: the processes.

    Raises:
        TypeError: naming the leaf.
    """
    for i, layer in enumerate(params["layers"]):
        for part in ("attention", "feedforward"):
            for name, leaf in layer[part].items():
                if not isinstance(leaf, Tensor | Packed | Rows):
                    raise TypeError(
                        f"tensor_parallel: layers/{i}/{part}/{name} is a {type(leaf).__name__}, which is not "
                        f"cut over {group.size} processes; train adapters with stages.data_parallel or "
                        "stages.sharded"
                    )


def _parameter_names(config: ModelConfig) -> frozenset[str]:
    """Paths of all parameters that a model of this configuration may have."""
    norms = {
        f"{name}/{leaf}" for name in ("attention_norm", "feedforward_norm") for leaf in ("scale", "bias")
    }
    attention = {"q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "o_bias", *SHARED_BY_HEADS}
    feedforward = {"gate", "up", "down", "gate_bias", "up_bias", "down_bias"}
    in_layer = norms | {f"attention/{x}" for x in attention} | {f"feedforward/{x}" for x in feedforward}
    layers = {f"layers/{i}/{x}" for i in range(config.num_hidden_layers) for x in in_layer}
    return frozenset(layers | {"embedding", "head", "norm/scale", "norm/bias"})


def _cut_leaf_spec(size: int, path: str, spec: ParamSpec) -> ParamSpec:
    """The spec of 1/n of a leaf."""
    axis = AXES.get(path.rpartition("/")[2])
    if axis is None:
        return spec
    shape = tuple(length // size if i == axis else length for i, length in enumerate(spec.shape))
    return dataclasses.replace(spec, shape=shape)


def _divisors(value: int, size: int) -> int:
    """The largest number of processes up to `size` that divides the value."""
    return max(n for n in range(1, size + 1) if value % n == 0)
