"""Context parallelism: the processes of a group share the places of every row, for contexts too long for one.

Each process computes the layers for T/n places, and gathers the keys and values of all in each layer. Its
activations, the memory that grows with T, are 1/n; params are whole.

Communication a layer: an all-gather of keys and values [B, T, K, H], forward, and a reduce-scatter of their
gradients; and an all-reduce of the gradients of its params. The hidden states are joined at the end, by one
all-gather [B, T, D], so that every head and loss takes them unchanged; each process then computes the whole
loss, and `chunk` bounds the memory of its logits. (Heads of a large vocabulary are cut by `tensor_parallel`,
over another dimension of the mesh.) Each process multiplies its queries with all keys, and masks the later
ones: the work is the same on all, and up to twice what causal attention needs. (An order of places that gives
each process early and late ones is not implemented.)

    mesh = init_device_mesh("cuda", (machines, n), mesh_dim_names=("data", "context"))
    model = context_parallel(transformer(config, backend="flash"), mesh["context"])
    fit = data_parallel(sft(model, optimizer, chunk=1024), mesh["data"])

Shape letters: B batch, T places, D width, K key-value heads, H head width, n processes, r a process.

Llama Team, "The Llama 3 Herd of Models", 2024, section 3.3.2 (gathered keys and values); Liu et al., "Ring
Attention", 2023 (the same, in turn).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pure import tree
from pure.nn.block import DropoutMasks
from pure.nn.linear import LoRA
from pure.nn.tensor_parallel import check_buildable
from pure.parallel.group import Group, group_of
from pure.parallel.layers import Rows
from pure.parallel.operators import copy_to_group, join_over_group
from pure.types import Model, Tree


class Places(NamedTuple):
    """The inputs of the layers, of all places or of this process's.

    Fields:
        tokens: [B, T] integers.
        positions: [B or 1, T] integers.
        segment_ids: [B, S] integers, of all places, or None.
        masks: the dropout masks of each layer, or None.
        start: [B] integers, index of the first place among all; None is 0.
    """

    tokens: Tensor
    positions: Tensor
    segment_ids: Tensor | None
    masks: list[DropoutMasks | None]
    start: Tensor | None


def context_parallel(model: Model, mesh: Any) -> Model:
    """Build the same model, whose rows are computed by the processes of a group together.

        hidden = (hidden_0, ..., hidden_{n-1}),     hidden_r of the places r T/n .. (r + 1) T/n - 1

    Args:
        model: from `pure.nn.transformer.transformer`, or of `tensor_parallel`.
        mesh: the processes: a DeviceMesh with one dimension, such as `mesh["context"]`, or a ProcessGroup.

    Returns:
        Model with the same arguments and results: `hidden` takes whole rows [B, T] and returns [B, T, D] on
        all processes, and gradients of params are whole. They equal those of the plain model up to the order
        of summation (1e-6 in float32). `decode` computes all on each process. All processes must call it with
        the same arguments in the same order.

    Edge cases: rows whose length does not divide by n are padded inside. Packed rows (`segment_ids`) and
    dropout masks are those of the plain model.

    Raises:
        TypeError: for a model of another kind.
        ValueError: before torch.distributed is initialised; in `hidden`, for adapters with dropout.

    Example:
        >>> from pure import random
        >>> from pure.config import ModelConfig
        >>> from pure.nn.transformer import transformer
        >>> config = ModelConfig(vocab_size=8, hidden_size=8, num_attention_heads=2, num_key_value_heads=2)
        >>> model = context_parallel(transformer(config), Group(rank=0, size=1, handle=None))
        >>> model.hidden(model.init(random.key(0)), torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 8])

    Source: Llama Team 2024, section 3.3.2. Differs from it: the places are in order.
    """
    parallel = check_buildable("context_parallel", model)
    if parallel.context is not None:
        raise ValueError("context_parallel: this model is cut already; give it one group with all processes")
    return parallel.build(tensor=parallel.tensor, context=group_of("context_parallel", mesh))


def own_places(places: Places, group: Group) -> Places:
    """Cut the inputs of the layers to this process's places.

    Args:
        places: of whole rows, T places.
        group: the processes.

    Returns:
        Places, of ⌈T/n⌉ places; T is padded to a multiple of n. `segment_ids` are those of all places.
    """
    batch, length = places.tokens.shape
    own = -(-length // group.size)
    first, padding = group.rank * own, own * group.size - length

    def cut(x: Tensor | None, axis: int) -> Tensor | None:
        return None if x is None else _pad(x, axis, padding).narrow(axis, first, own)

    def cut_masks(masks: DropoutMasks | None) -> DropoutMasks | None:
        if masks is None:
            return None
        weights = None if masks.weights is None else _pad(masks.weights, 3, padding)
        return DropoutMasks(cut(weights, 2), cut(masks.attention, 1), cut(masks.feedforward, 1))

    segments = places.segment_ids
    return Places(
        tokens=_pad(places.tokens, 1, padding).narrow(1, first, own),
        positions=_pad(places.positions, 1, padding).narrow(1, first, own),
        segment_ids=None if segments is None else _pad(segments, 1, padding),
        masks=[cut_masks(masks) for masks in places.masks],
        start=torch.full((batch,), first, device=places.tokens.device),
    )


def join_places(hidden: Tensor, length: int, group: Group) -> Tensor:
    """Join the hidden states of all places, without those of the padding.

    Args:
        hidden: [B, ⌈T/n⌉, D], of this process's places.
        length: T.
        group: the processes.

    Returns:
        [B, T, D], equal on all processes.
    """
    return join_over_group(hidden, group, 1)[:, :length]


def copy_params(params: Tree, group: Group) -> Tree:
    """Return the params for a computation of own places: their gradients are summed over the processes.

    Args:
        params: of the model; adapters and quantised matrices too.
        group: the processes.

    Returns:
        A tree of equal leaves.

    Raises:
        ValueError: for adapters with dropout, whose masks are drawn for the places that a process has.
    """
    if any(node.key is not None for node in tree.nodes(LoRA, params)):
        raise ValueError(
            "context_parallel: the dropout of adapters is drawn for whole rows; set the adapters' dropout "
            "to 0"
        )
    return tree.map(partial(_copy_leaf, group), params)


def _copy_leaf(group: Group, x: Tensor | Rows) -> Tensor | Rows:
    """Copies a float leaf, or the rows that a process holds of it."""
    if isinstance(x, Rows):
        return x.with_rows(copy_to_group(x.local, group))
    return copy_to_group(x, group) if x.is_floating_point() else x


def _pad(x: Tensor, axis: int, padding: int) -> Tensor:
    """x with zeros after its end along one axis."""
    return F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, padding]) if padding else x
