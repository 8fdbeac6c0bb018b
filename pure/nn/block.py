"""One layer: attention and feed-forward, each applied to a norm of the residual stream and added to it.

Shape letters: B batch, T tokens, D width.

Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020 (pre-norm).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from pure.config import ModelConfig
from pure.nn.attention import attention, attention_spec
from pure.nn.cache import LayerCache
from pure.nn.feedforward import feedforward, feedforward_spec
from pure.nn.norm import norm, norm_spec
from pure.nn.position import Rotation
from pure.nn.tensor_parallel import enter_part, leave_part
from pure.parallel.group import Group
from pure.types import Tree


class DropoutMasks(NamedTuple):
    """Dropout masks of one layer, with factors 0 or 1/(1 - p); None where nothing is dropped.

    Fields:
        weights: [B, N, T, S], on the attention weights.
        attention: [B, T, D], on the output of attention.
        feedforward: [B, T, D], on the output of the feed-forward block.
    """

    weights: Tensor | None
    attention: Tensor | None
    feedforward: Tensor | None


@runtime_checkable
class Layer(Protocol):
    """One layer of a model: `block` with its configuration bound, or a wrapper of it, such as `remat`."""

    def __call__(
        self,
        params: Tree,
        x: Tensor,
        angles: Rotation | None,
        segment_ids: Tensor | None,
        dropout_masks: DropoutMasks | None,
        cache: LayerCache | None,
        start: Tensor | None,
        /,
    ) -> tuple[Tensor, LayerCache | None]: ...


def block_spec(config: ModelConfig) -> Tree:
    """Describes one layer's parameters."""
    return {
        "attention": attention_spec(config),
        "attention_norm": norm_spec(config.hidden_size, rms=config.use_rms_norm),
        "feedforward": feedforward_spec(config),
        "feedforward_norm": norm_spec(config.hidden_size, rms=config.use_rms_norm),
    }


def block(
    params: Tree,
    x: Tensor,
    angles: Rotation | None,
    segment_ids: Tensor | None,
    dropout_masks: DropoutMasks | None,
    cache: LayerCache | None,
    start: Tensor | None,
    *,
    config: ModelConfig,
    backend: str,
    tensor: Group | None = None,
    context: Group | None = None,
) -> tuple[Tensor, LayerCache | None]:
    """Adds the outputs of attention and of the feed-forward block to the residual stream.

    The norms are applied to the blocks' inputs (pre-norm), so the stream itself is never rescaled and
    gradients reach the first layer at full size.

        x ← x + dropout(attention(norm(x)))
        x ← x + dropout(feedforward(norm(x)))

    Args:
        params: those of one layer, as in `block_spec`.
        x: [B, T, D].
        angles, segment_ids, cache, start: as in `pure.nn.attention.attention`.
        dropout_masks: those of this layer; None drops nothing.
        config, backend: bound by `pure.nn.transformer.transformer`.
        tensor, context: groups of processes that share the matrices, or the places; None: this one only.

    Returns:
        (x [B, T, D], the layer's cache or None).

    Steps:
        1. Without dropout masks, take DropoutMasks(None, None, None). Apply `norm` with "attention_norm" to
            x, and pass the "attention" params and the result through `enter_part(params, y, tensor)`, which
            returns both unchanged if `tensor` is None.
        2. Call `attention` with these and all that belongs to it: config, backend, segment_ids, the masks'
            `weights` as dropout_mask, cache, start, context. Keep the cache that it returns.
        3. Pass the result through `leave_part(y, params["attention"], "o_bias", tensor)`, which returns y if
            `tensor` is None; multiply by the mask `attention` with `_drop`, and add it to x.
        4. In the same way apply the norm "feedforward_norm" to the new x, `enter_part`, `feedforward`, and
            `leave_part` with "down_bias".
        5. Multiply by the mask `feedforward` with `_drop`, and add it to x.

    Edge cases: with zeros in "o" and "down" the layer is the identity.

    Example:
        Width 2, one head. The norm of (1, 1) is (1, 1); attention adds it: (2, 2). The norm of that is (1, 1)
        again, and the feed-forward block adds relu(3 · 1).

        >>> import torch
        >>> sizes = {"hidden_size": 2, "num_attention_heads": 1, "num_key_value_heads": 1}
        >>> config = ModelConfig(**sizes, use_swiglu=False, hidden_act="relu")
        >>> one, scale = torch.eye(2), {"scale": torch.ones(2)}
        >>> attention_params = {"q": one, "k": one, "v": one, "o": one}
        >>> params = {"attention": attention_params, "feedforward": {"up": 3 * one, "down": one}}
        >>> params |= {"attention_norm": scale, "feedforward_norm": scale}
        >>> x = torch.ones(1, 1, 2)
        >>> block(params, x, None, None, None, None, None, config=config, backend="naive")[0].round()
        tensor([[[5., 5.]]])

    Source: Xiong et al. 2020, figure 1b.
    """
    # 1. Norm of the stream, [B, T, D].
    masks = dropout_masks or DropoutMasks(None, None, None)
    own, y = enter_part(params["attention"], norm(params["attention_norm"], x, config=config), tensor)
    # 2. Attention, [B, T, D], and the layer's cache.
    y, cache = attention(
        own,
        y,
        angles,
        config=config,
        backend=backend,
        segment_ids=segment_ids,
        dropout_mask=masks.weights,
        cache=cache,
        start=start,
        context=context,
    )
    # 3. Dropout, and the first addition to the stream.
    x = x + _drop(leave_part(y, params["attention"], "o_bias", tensor), masks.attention)
    # 4. Norm of the new stream, and the feed-forward block, [B, T, D].
    own, y = enter_part(params["feedforward"], norm(params["feedforward_norm"], x, config=config), tensor)
    y = leave_part(feedforward(own, y, config=config), params["feedforward"], "down_bias", tensor)
    # 5. Dropout, and the second addition.
    return x + _drop(y, masks.feedforward), cache


def _drop(y: Tensor, dropout_mask: Tensor | None) -> Tensor:
    """y [B, T, D] times its dropout mask, if there is one."""
    return y if dropout_mask is None else y * dropout_mask.to(y.dtype)
