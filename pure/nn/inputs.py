"""Checks of a transformer's inputs: each refusal names the argument and the fix.

Shape letters: B batch, T tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pure.config import ModelConfig
from pure.nn.tensor_parallel import check_parts
from pure.parallel.group import Group
from pure.plural import count_noun
from pure.types import Tree


def check_tokens(tokens: Tensor, config: ModelConfig) -> None:
    """Refuses a batch of the wrong rank or type, or longer than the model's context.

    Args:
        tokens: what was given as such.
        config: of the model.

    Raises:
        ValueError: for another rank or type, no tokens, or more than max_position_embeddings.
    """
    if tokens.ndim != 2:
        raise ValueError(
            f"transformer: tokens must be [B, T], got {tuple(tokens.shape)}; add a batch axis with [None]"
        )
    if tokens.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"transformer: tokens must be int64 or int32, got {tokens.dtype}; convert them with .long()"
        )
    if not tokens.shape[1]:
        raise ValueError(
            f"transformer: tokens {tuple(tokens.shape)} are empty; give at least one token per row"
        )
    if tokens.shape[1] > config.max_position_embeddings:
        raise ValueError(
            f"transformer: {tokens.shape[1]} tokens exceed max_position_embeddings "
            f"{config.max_position_embeddings}; shorten the rows, or extend the context with rope_scaling"
        )


def check_params(params: Tree, config: ModelConfig, tensor: Group | None = None) -> None:
    """Refuses params of another model, judged by the embedding's shape and the number of layers.

    Args:
        params: what was given as such.
        config: of the model.
        tensor: processes that share the matrices, or None.

    Raises:
        ValueError: if they do not fit.
        TypeError: for adapters or quantised matrices with `tensor`.
    """
    if not isinstance(params, dict) or not all(name in params for name in ("embedding", "layers")):
        keys = sorted(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(
            f"transformer: params need an embedding and layers, got {keys}; of a TrainState give "
            "state.params, of adapters the model of lora(model, base)"
        )
    table, layers = params["embedding"], len(params["layers"])
    parts = 1 if tensor is None else tensor.size
    expected = (config.vocab_size // parts, config.hidden_size)
    shape = tuple(table.shape) if isinstance(table, Tensor) else expected
    if shape != expected or layers != config.num_hidden_layers:
        raise ValueError(
            f"transformer: params do not fit this config: expected an embedding {list(expected)} and "
            f"{count_noun(config.num_hidden_layers, 'layer')}, got {list(shape)} and {layers}; build the "
            "model with the config of the params, and cut them with split_params for tensor_parallel"
        )
    if tensor is not None:
        check_parts(params, tensor)


def check_same_shape(tokens: Tensor, positions: Tensor | None, segment_ids: Tensor | None) -> None:
    """Refuses positions and segments of another shape than tokens [B, T]; nothing is broadcast.

    Args:
        tokens: checked ones.
        positions, segment_ids: what was given as such; None passes.

    Raises:
        ValueError: naming the argument.
    """
    batch, length = tokens.shape
    for name, x, batches, expected in (
        ("positions", positions, (1, batch), "[B, T] or [1, T]"),
        ("segment_ids", segment_ids, (batch,), "[B, T]"),
    ):
        if x is None:
            continue
        if x.ndim != 2 or x.shape[0] not in batches or x.shape[1] != length:
            raise ValueError(
                f"transformer: {name} must be {expected} like tokens {batch, length}, got {tuple(x.shape)}"
            )
        if x.is_floating_point():
            raise ValueError(
                f"transformer: {name} must be integers, got {x.dtype}; convert them with .long()"
            )


def check_key(tokens: Tensor, key: Tensor | None) -> None:
    """Checks that there is one key for the batch [2], or one for each row [B, 2].

    Args:
        tokens: checked ones.
        key: of dropout; None passes.

    Raises:
        ValueError: for another shape.
    """
    batch = tokens.shape[0]
    if key is not None and tuple(key.shape) not in ((2,), (batch, 2)):
        raise ValueError(f"transformer: key must be [2] or [B, 2] with B = {batch}, got {tuple(key.shape)}")
