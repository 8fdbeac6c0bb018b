"""One layer: attention and feed-forward, each behind a norm and added to the stream that runs past them.

Shape letters: B batch, T tokens, D width.

Xiong et al., "On Layer Normalization in the Transformer Architecture", 2020 (pre-norm).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pure.config import ModelConfig
from pure.nn.attention import attention, attention_spec
from pure.nn.cache import LayerCache
from pure.nn.feedforward import feedforward, feedforward_spec
from pure.nn.norm import norm, norm_spec
from pure.nn.position import Rotation
from pure.types import Tree


class Keep(NamedTuple):
    """Dropout factors of one layer, 0 or 1/(1 - p); None where nothing is dropped.

    Fields:
        weights: [B, N, T, T], on attention weights.
        attended, transformed: [B, T, D], on the two outputs.
    """

    weights: Tensor | None
    attended: Tensor | None
    transformed: Tensor | None


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
    keep: Keep | None,
    cache: LayerCache | None,
    start: Tensor | None,
    *,
    config: ModelConfig,
    backend: str,
) -> tuple[Tensor, LayerCache | None]:
    """Adds what attention and then the feed-forward block find to the residual stream.

    The norms stand before the blocks, not after, so that the stream itself is never rescaled and gradients
    reach the first layer undimmed.

        x ← x + dropout(attention(norm(x)))
        x ← x + dropout(feedforward(norm(x)))

    Args:
        params: one layer's, as `block_spec`.
        x: [B, T, D].
        angles, segment_ids, cache, start: as in `pure.nn.attention.attention`.
        keep: dropout factors, or None.

    Returns:
        (x [B, T, D], the layer's cache or None).

    Source: Xiong et al. 2020, figure 1b.
    """
    keep = keep or Keep(None, None, None)
    y, cache = attention(
        params["attention"],
        norm(params["attention_norm"], x, config=config),
        angles,
        config=config,
        backend=backend,
        segment_ids=segment_ids,
        keep=keep.weights,
        cache=cache,
        start=start,
    )
    x = x + _drop(y, keep.attended)
    y = feedforward(params["feedforward"], norm(params["feedforward_norm"], x, config=config), config=config)
    return x + _drop(y, keep.transformed), cache


def _drop(y: Tensor, keep: Tensor | None) -> Tensor:
    """y [B, T, D] times its dropout factors, if there are any."""
    return y if keep is None else y * keep.to(y.dtype)
