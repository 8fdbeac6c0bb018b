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
    """Describes the parameters: q [N·H, D], k and v [K·H, D], o [D, N·H]; biases; q_norm and k_norm [H].

    Initialisation, counting and the check of checkpoints all read this description. `o` adds to the residual
    stream in each of the layers, as does the feed-forward block; its smaller std bounds the sum.

        std of q, k, v = initializer_range,     std of o = initializer_range / √(2 · num_hidden_layers)

    Args:
        config: gives hidden_size D, num_attention_heads N, num_key_value_heads K, head_dim H,
            num_hidden_layers, initializer_range, attention_bias, qk_norm.

    Returns:
        dict: name -> ParamSpec; matrices are (out, in).

    Steps:
        1. Compute the output widths: queries N·H, keys and values K·H.
        2. Describe the matrices "q", "k", "v", "o", drawn from a normal distribution of the std above.
        3. With `attention_bias`, add a bias for each output of q, k and v, zeros, named "q_bias" and so on;
            for o too, unless `attention_bias` is "qkv".
        4. With `qk_norm`, add the scales "q_norm" and "k_norm" [H], ones.

    Edge cases: N·H may differ from D, if the configuration gives head_dim.

    Example:
        D is 8, N 4, K 2, so H is 2: q has 4·2 rows, k has 2·2.

        >>> config = ModelConfig(hidden_size=8, num_attention_heads=4, num_key_value_heads=2)
        >>> {name: leaf.shape for name, leaf in attention_spec(config).items()}
        {'q': (8, 8), 'k': (4, 8), 'v': (4, 8), 'o': (8, 8)}

    Source: Vaswani et al. 2017, section 3.2.2; the std of o is that of Radford et al. 2019, section 2.3.
    """
    # 1. Output widths N·H and K·H.
    head, width, std = config.head_dim or 0, config.hidden_size, config.initializer_range
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    # 2. Matrices: q [N·H, D], k and v [K·H, D], o [D, N·H].
    spec = {
        "q": ParamSpec(shape=(queries, width), std=std),
        "k": ParamSpec(shape=(keys, width), std=std),
        "v": ParamSpec(shape=(keys, width), std=std),
        "o": ParamSpec(shape=(width, queries), std=std / (2 * config.num_hidden_layers) ** 0.5),
    }
    # 3. Biases, as long as their matrix has rows.
    if config.attention_bias:
        biased = ("q", "k", "v") if config.attention_bias == "qkv" else ("q", "k", "v", "o")
        spec |= {f"{name}_bias": ParamSpec(shape=(spec[name].shape[0],), init="zeros") for name in biased}
    # 4. Scales of the norms of queries and keys, [H].
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

    Here alone tokens exchange information: every other part of a layer works on each token by itself.

        y = W_o · concat_n softmax(q_n k_nᵀ / √H + mask) v_n
        q = rope(norm(W_q x)),  k = rope(norm(W_k x)),  v = W_v x

    Args:
        params: as described by `attention_spec`; a missing bias is None for `linear`.
        x: [B, T, D].
        angles: cos and sin of each position, [B or 1, T, H/2]; None without rotary positions.
        config: heads, head_dim, qk_norm, rms_norm_eps.
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
        1. Project x with `linears`, whose sizes are N·H, K·H, K·H, and split each result into its heads:
            q [B, T, N, H], k and v [B, T, K, H].
        2. With `qk_norm`, apply `rms_norm` with the scales q_norm and k_norm to q and k. With `angles`, then
            rotate q and k with `rotate`.
        3. With a cache, write k and v into it with `append` from `start` on, and take all its keys and
            values, transposed to [B, S, K, H]. Without one, join those of all processes along axis 1 with
            `gather_over_group(k, context, 1)`, which returns k itself if `context` is None.
        4. Choose the function with `backends.choose(backend, q, k, dropout_mask)`, and call it with q, k, v,
            start, segment_ids and dropout_mask, these three by name: [B, T, N, H].
        5. Join the heads, [B, T, N·H], and multiply by "o" with `linear`, with "o_bias" if it is there:
            [B, T, D].

    Edge cases: without a cache the second result is None. The old cache is not changed.

    Example:
        All scores are 0, so the second token takes the mean of both: (1, 0) and (0, 1) give (1/2, 1/2).

        >>> import torch
        >>> config = ModelConfig(hidden_size=2, num_attention_heads=1, num_key_value_heads=1)
        >>> zero, one = torch.zeros(2, 2), torch.eye(2)
        >>> params = {"q": zero, "k": zero, "v": one, "o": one}
        >>> attention(params, one[None], None, config=config)[0]
        tensor([[[1.0000, 0.0000],
                 [0.5000, 0.5000]]])

    Source: Vaswani et al. 2017, equation 1; grouped heads as Ainslie et al. 2023.
    """
    # 1. Project into heads: q [B, T, N, H], k and v [B, T, K, H].
    head = config.head_dim or 0
    sizes = (config.num_attention_heads * head, *[config.num_key_value_heads * head] * 2)
    q, k, v = (y.unflatten(-1, (-1, head)) for y in linears(params, ("q", "k", "v"), sizes, x))
    # 2. Norms of q and k, if configured; then the rotation.
    if config.qk_norm:
        q = rms_norm(q, params["q_norm"], eps=config.rms_norm_eps)
        k = rms_norm(k, params["k_norm"], eps=config.rms_norm_eps)
    if angles is not None:
        q, k = rotate(q, angles), rotate(k, angles)
    # 3. Keys and values of the cache, or of all processes: [B, S, K, H].
    if cache is not None:
        cache = append(cache, k, v, start)
        k, v = cache.keys.transpose(1, 2), cache.values.transpose(1, 2)
    else:
        k, v = gather_over_group(k, context, 1), gather_over_group(v, context, 1)
    # 4. Attend, [B, T, N, H].
    attend = backends.choose(backend, q, k, dropout_mask)
    y = attend(q, k, v, start=start, segment_ids=segment_ids, dropout_mask=dropout_mask)
    # 5. Join the heads [B, T, N·H], project to [B, T, D].
    return linear(params["o"], y.flatten(-2), params.get("o_bias")), cache
