"""The decoder-only transformer: tokens in, logits of each next token out.

Every difference between GPT-2, Llama, Qwen2 and Qwen3 is a field of ModelConfig.

Shape letters: B batch, T tokens, D width, V vocabulary, L layers, N heads.

Vaswani et al., "Attention Is All You Need", 2017; Touvron et al., "LLaMA", 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.nn import backend as backends
from pure.nn.block import DropoutMasks, Layer, block, block_spec
from pure.nn.cache import KVCache, empty_cache
from pure.nn.linear import linear
from pure.nn.norm import norm, norm_spec
from pure.nn.position import Rotation, rotation, sinusoidal
from pure.nn.prepare import prepare
from pure.transform.jit import region
from pure.types import Hidden, Logits, Model, ParamSpec, Tree


def transformer(
    config: ModelConfig, *, backend: str = "auto", wrap_block: Callable[[Layer], Layer] | None = None
) -> Model:
    """Builds a model from a configuration.

    Args:
        config: the shape of the model.
        backend: the attention backend, see `pure.nn.backend.choose`.
        wrap_block: a transformation of the layer function, such as `pure.transform.remat.remat`; None leaves
            it unchanged.

    Returns:
        Model, whose functions take the params first.

    Raises:
        ValueError: for an unknown backend.
        TypeError: if `config` is not a ModelConfig.

    Example:
        >>> config = ModelConfig(vocab_size=10, hidden_size=8, num_attention_heads=2, num_key_value_heads=1)
        >>> model = transformer(config)
        >>> params = model.init(random.key(0))
        >>> model.forward(params, torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 10])
    """
    if not isinstance(config, ModelConfig):
        call = f"preset({config!r})" if isinstance(config, str) else 'preset("tiny_config")'
        raise TypeError(
            f"transformer: config must be a ModelConfig, got {config!r}; write {call}, from pure.config"
        )
    backends.check(backend)
    layer: Layer = region(partial(block, config=config, backend=backend))
    if wrap_block is not None:
        layer = wrap_block(layer)
    hidden_fn = partial(hidden, config=config, layer=layer, last_norm=region(partial(norm, config=config)))
    logits_fn = partial(logits, config=config)
    return Model(
        config=config,
        spec=transformer_spec(config),
        init=partial(init, spec=transformer_spec(config)),
        hidden=hidden_fn,
        logits=logits_fn,
        forward=partial(forward, hidden=hidden_fn, logits=logits_fn),
        cache=partial(empty_cache, config=config),
        decode=partial(decode, config=config, layer=layer),
        prepare=partial(prepare, config=config),
    )


def transformer_spec(config: ModelConfig) -> Tree:
    """Describes every parameter: embedding [V, D], layers (a list), norm, and head [V, D] unless tied."""
    table = ParamSpec(shape=(config.vocab_size, config.hidden_size), std=config.initializer_range)
    spec = {
        "embedding": table,
        "layers": [block_spec(config) for _ in range(config.num_hidden_layers)],
        "norm": norm_spec(config.hidden_size, rms=config.use_rms_norm),
    }
    if not config.tie_word_embeddings:
        spec["head"] = table
    return spec


def init(key: Tensor, *, spec: Tree) -> Tree:
    """Draws the initial parameters.

    The key of each leaf is folded from its path, so adding a parameter changes no other.

    Args:
        key: [2] uint32, from `pure.random.key`.
        spec: tree of ParamSpec.

    Returns:
        A tree of tensors on the key's device; no two share storage.
    """
    return tree.map_with_path(partial(_init_leaf, key), spec)


def hidden(
    params: Tree,
    tokens: Tensor,
    *,
    positions: Tensor | None = None,
    segment_ids: Tensor | None = None,
    key: Tensor | None = None,
    config: ModelConfig,
    layer: Layer,
    last_norm: Callable[[Tree, Tensor], Tensor],
) -> Tensor:
    """Computes the hidden state of every token, the input of `logits`.

    Separate from `logits`, because chunked cross-entropies, value heads and reward heads take hidden states.

    Args:
        params: as `transformer_spec`.
        tokens: [B, T] integers in 0 .. V-1.
        positions: [B, T] integers, index of each token in its document; None counts from the row's start.
        segment_ids: [B, T] integers: a token attends only to its own segment; None: one segment per row.
        key: [2] or [B, 2] uint32, for the whole batch or one per example; None disables dropout.
        config, layer, last_norm: bound by `transformer`.

    Returns:
        [B, T, D], dtype of the params.

    Steps:
        1. Embed; add sinusoidal positions unless positions are rotary.
        2. Draw the dropout masks of all layers at once.
        3. The layers.
        4. The last norm.

    Raises:
        ValueError: if T exceeds max_position_embeddings, or a shape or type is not as listed.
    """
    _check_tokens(tokens, config)
    _check_params(params, config)
    _check_same_shape(tokens, positions, segment_ids)
    _check_key(tokens, key)
    # 1. Embed.
    if positions is None:
        positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
    x, angles = _embed(params, tokens, positions, config)
    # 2. Dropout.
    masks = _dropout_masks(key, x, config)
    # 3. Layers.
    for layer_params, layer_masks in zip(params["layers"], masks, strict=True):
        x, _ = layer(layer_params, x, angles, segment_ids, layer_masks, None, None)
    # 4. Norm.
    return last_norm(params["norm"], x)


def logits(params: Tree, hidden: Tensor, *, config: ModelConfig) -> Tensor:
    """Computes logits over the vocabulary: hidden [..., D] -> [..., V]; a tied head is the embedding."""
    return linear(params["head"] if "head" in params else params["embedding"], hidden)


def forward(
    params: Tree, tokens: Tensor, *, hidden: Hidden, logits: Logits, **arguments: Tensor | None
) -> Tensor:
    """Computes `logits` of `hidden`: tokens [B, T] -> [B, T, V]; `arguments` are passed to `hidden`."""
    return logits(params, hidden(params, tokens, **arguments))


def decode(
    params: Tree,
    tokens: Tensor,
    cache: KVCache,
    *,
    last: bool | Tensor = False,
    config: ModelConfig,
    layer: Layer,
) -> tuple[Tensor, KVCache]:
    """Decodes T tokens after those in the cache: many at once to prefill, then one at a time.

    To prefill rows of different lengths, pad them on the right, then lower `cache.length` to the true
    lengths: the padding is masked until new tokens overwrite it.

    Args:
        params: as `transformer_spec`.
        tokens: [B, T] integers.
        cache: from `empty_cache` or an earlier call; room for T more (not checked: that would wait for the
            device).
        last: True computes the logits of the last token only, [B, 1, V], which is all that prefilling needs;
            [B] integers select one of the T tokens in each row, for rows padded on the right.
        config, layer: bound by `transformer`.

    Returns:
        (logits [B, T, V], the cache with T more tokens per row).
    """
    _check_tokens(tokens, config)
    _check_params(params, config)
    positions = cache.length[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
    x, angles = _embed(params, tokens, positions, config)
    layers = []
    for layer_params, old_cache in zip(params["layers"], cache.layers, strict=True):
        x, new_cache = layer(layer_params, x, angles, None, None, old_cache, cache.length)
        assert new_cache is not None, "a layer that was given a cache returns one"
        layers.append(new_cache)
    x = norm(params["norm"], select_positions(x, last), config=config)
    return logits(params, x, config=config), KVCache(layers, cache.length + tokens.shape[1])


def select_positions(x: Tensor, last: bool | Tensor) -> Tensor:
    """Selects the positions whose logits are computed.

    Args:
        x: [B, T, D].
        last: False selects all, True the last, [B] integers one in each row.

    Returns:
        [B, T, D] or [B, 1, D].
    """
    if isinstance(last, Tensor):
        return x.gather(1, last[:, None, None].expand(-1, 1, x.shape[-1]))
    return x[:, -1:] if last else x


def _init_leaf(key: Tensor, path: str, spec: ParamSpec) -> Tensor:
    """Draws or fills one parameter."""
    if spec.init == "normal":
        leaf_key = random.fold_in(key, crc32(path.encode()))
        return random.normal(leaf_key, spec.shape).mul(spec.std).to(spec.dtype)
    fill = {"zeros": torch.zeros, "ones": torch.ones}[spec.init]
    return fill(spec.shape, dtype=spec.dtype, device=key.device)


def _check_tokens(tokens: Tensor, config: ModelConfig) -> None:
    """Refuses a batch of the wrong rank or type, or longer than the model's context."""
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


def _check_params(params: Tree, config: ModelConfig) -> None:
    """Refuses params of another model, judged by the embedding's shape and the number of layers."""
    if not isinstance(params, dict) or not {"embedding", "layers"} <= params.keys():
        keys = sorted(params) if isinstance(params, dict) else type(params).__name__
        raise ValueError(
            f"transformer: params need an embedding and layers, got {keys}; of a TrainState give "
            "state.params, of adapters the model of lora(model, base)"
        )
    table, layers = params["embedding"], len(params["layers"])
    expected = (config.vocab_size, config.hidden_size)
    shape = tuple(table.shape) if isinstance(table, Tensor) else expected
    if shape != expected or layers != config.num_hidden_layers:
        raise ValueError(
            f"transformer: params do not fit this config: expected an embedding {list(expected)} and "
            f"{config.num_hidden_layers} layers, got {list(shape)} and {layers}; build the model with the "
            "config of the params"
        )


def _check_same_shape(tokens: Tensor, positions: Tensor | None, segment_ids: Tensor | None) -> None:
    """Refuses positions and segments of another shape than tokens [B, T]; nothing is broadcast."""
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


def _check_key(tokens: Tensor, key: Tensor | None) -> None:
    """Checks that there is one key for the batch [2], or one for each row [B, 2]."""
    batch = tokens.shape[0]
    if key is not None and tuple(key.shape) not in ((2,), (batch, 2)):
        raise ValueError(f"transformer: key must be [2] or [B, 2] with B = {batch}, got {tuple(key.shape)}")


def _embed(
    params: Tree, tokens: Tensor, positions: Tensor, config: ModelConfig
) -> tuple[Tensor, Rotation | None]:
    """Embeds tokens [B, T] at positions [B, T]: (x [B, T, D], rotary angles or None)."""
    x = F.embedding(tokens, params["embedding"])
    if config.use_rope:
        return x, rotation(positions, config=config)
    return x + sinusoidal(positions, config.hidden_size).to(x.dtype), None


def _dropout_masks(key: Tensor | None, x: Tensor, config: ModelConfig) -> list[DropoutMasks | None]:
    """Draws the dropout masks of all layers at once: each random call adds seconds of compilation."""
    layers, (batch, length, width) = config.num_hidden_layers, x.shape
    if key is None or not (config.attention_dropout or config.hidden_dropout):
        return [None] * layers
    if key.ndim == 1:
        key = torch.func.vmap(random.fold_in, (None, 0))(key, torch.arange(batch, device=key.device))
    sites = (  # the fields of DropoutMasks, in order: rate, shape in one layer of one row
        (config.attention_dropout, (config.num_attention_heads, length, length)),
        (config.hidden_dropout, (length, width)),
        (config.hidden_dropout, (length, width)),
    )
    sizes = [torch.Size(shape).numel() for rate, shape in sites if rate]
    uniform = torch.func.vmap(lambda row_key: random.uniform(row_key, (layers, sum(sizes))))(key)
    parts = iter(uniform.split(sizes, -1))
    masks: list[Sequence[Tensor | None]] = []  # one sequence for each site, of one mask for each layer
    for rate, shape in sites:
        if rate:
            kept = next(parts).unflatten(-1, shape).ge(rate)
            masks.append((kept.to(x.dtype) / (1 - rate)).unbind(1))
        else:
            masks.append([None] * layers)
    return [DropoutMasks(*layer_masks) for layer_masks in zip(*masks, strict=True)]
