"""Causal attention: multi-head, grouped-query and multi-query.

Shape letters: B batch, T queries, S keys, N query heads, K key-value heads, H head width, D model width. In
grouped-query attention each key-value head serves N/K query heads.

Vaswani et al., "Attention Is All You Need", 2017; Ainslie et al., "GQA", 2023.
"""

from __future__ import annotations

from torch import Tensor

from pure.config import ModelConfig
from pure.nn import backend as backends
from pure.nn.cache import LayerCache, append
from pure.nn.linear import linear, linears
from pure.nn.norm import rms_norm
from pure.nn.position import Rotation, rotate
from pure.parallel.group import Group
from pure.parallel.operators import gather_over_group
from pure.types import ParamSpec, Tree


def attention_spec(config: ModelConfig) -> Tree:
    """Describes the parameters: q [N·H, D], k and v [K·H, D], o [D, N·H]; biases; q_norm and k_norm [H]."""
    head, width, std = config.head_dim or 0, config.hidden_size, config.initializer_range
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    spec = {
        "q": ParamSpec(shape=(queries, width), std=std),
        "k": ParamSpec(shape=(keys, width), std=std),
        "v": ParamSpec(shape=(keys, width), std=std),
        "o": ParamSpec(shape=(width, queries), std=std / (2 * config.num_hidden_layers) ** 0.5),
    }
    if config.attention_bias:
        biased = ("q", "k", "v") if config.attention_bias == "qkv" else ("q", "k", "v", "o")
        spec |= {f"{name}_bias": ParamSpec(shape=(spec[name].shape[0],), init="zeros") for name in biased}
    if config.qk_norm:
        spec |= {name: ParamSpec(shape=(head,), init="ones") for name in ("q_norm", "k_norm")}
    return spec


def attention(
    params: Tree,
    x: Tensor,
    angles: Rotation | None,
    *,
    config: ModelConfig,
    backend: str = "auto",
    segment_ids: Tensor | None = None,
    dropout_mask: Tensor | None = None,
    cache: LayerCache | None = None,
    start: Tensor | None = None,
    context: Group | None = None,
) -> tuple[Tensor, LayerCache | None]:
    """Computes causal self-attention: each position attends to itself and the positions before it.

        y = W_o · concat_n softmax(q_n k_nᵀ / √H + mask) v_n
        q = rope(norm(W_q x)),  k = rope(norm(W_k x)),  v = W_v x

    Args:
        params: as described by `attention_spec`.
        x: [B, T, D].
        angles: cos and sin of each position, [B or 1, T, H/2]; None without rotary positions.
        config: heads, head_dim, qk_norm.
        backend: "auto", "naive", "flash", "sdpa" or "flex"; all compute the same (`pure.nn.backend.choose`).
        segment_ids: [B, S] integers; a token attends only to its own segment. None: one segment.
        dropout_mask: [B, N, T, S] factors on the attention weights, 0 or 1/(1 - p); None disables dropout.
        cache: keys and values of earlier tokens; None when training.
        start: [B] filled positions of the cache; the T new tokens are written after them. With `context`, the
            place of the first of this process's tokens among all.
        context: processes that share the places of the rows; keys and values are gathered. None: this one.

    Returns:
        (y [B, T, D], the cache with the new keys and values, or None).

    Steps:
        1. Project into heads.
        2. Normalise queries and keys, if configured, and rotate them by their positions.
        3. Append keys and values to the cache, or gather those of all places.
        4. Attend, and merge the heads.

    Source: Vaswani et al. 2017, equation 1; grouped heads as Ainslie et al. 2023.
    """
    # 1. Heads.
    head = config.head_dim or 0
    sizes = (config.num_attention_heads * head, *[config.num_key_value_heads * head] * 2)
    q, k, v = (y.unflatten(-1, (-1, head)) for y in linears(params, ("q", "k", "v"), sizes, x))
    # 2. Norm and rotation.
    if config.qk_norm:
        q = rms_norm(q, params["q_norm"], eps=config.rms_norm_eps)
        k = rms_norm(k, params["k_norm"], eps=config.rms_norm_eps)
    if angles is not None:
        q, k = rotate(q, angles), rotate(k, angles)
    # 3. Cache.
    if cache is not None:
        cache = append(cache, k, v, start)
        k, v = cache.keys.transpose(1, 2), cache.values.transpose(1, 2)
    else:
        k, v = gather_over_group(k, context, 1), gather_over_group(v, context, 1)
    # 4. Attend.
    attend = backends.choose(backend, q, k, dropout_mask)
    y = attend(q, k, v, start=start, segment_ids=segment_ids, dropout_mask=dropout_mask)
    return linear(params["o"], y.flatten(-2), params.get("o_bias")), cache
