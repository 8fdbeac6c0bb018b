"""The decoder-only transformer: tokens in, the logits of each next token out.

Every switch between GPT-2, Llama, Qwen2 and Qwen3 is a field of ModelConfig; there is one code for all.

Shape letters: B batch, T tokens, D width, V vocabulary, L layers, N heads.

Vaswani et al., "Attention Is All You Need", 2017; Touvron et al., "LLaMA", 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.nn import backend as backends
from pure.nn.block import Keep, block, block_spec
from pure.nn.cache import KVCache, empty_cache
from pure.nn.linear import linear
from pure.nn.norm import norm, norm_spec
from pure.nn.position import Rotation, rotation, sinusoidal
from pure.nn.prepare import prepare
from pure.transform.jit import region
from pure.types import Model, ParamSpec, Tree


def transformer(
    config: ModelConfig, *, backend: str = "auto", wrap_block: Callable[[Callable], Callable] | None = None
) -> Model:
    """Binds a configuration: the builder that users call.

    Args:
        config: the shape of the model.
        backend: how attention is computed, see `pure.nn.backend.choose`.
        wrap_block: a transformation of the layer function, such as `pure.transform.remat.remat`; None leaves
            it.

    Returns:
        Model, whose functions take the params first.

    Raises:
        ValueError: for an unknown backend.
        TypeError: if `config` is no ModelConfig.

    Example:
        >>> model = transformer(ModelConfig(vocab_size=10, hidden_size=8, num_attention_heads=2, num_key_value_heads=1))
        >>> params = model.init(random.key(0))
        >>> model.forward(params, torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 10])
    """
    if not isinstance(config, ModelConfig):
        instead = f"preset({config!r})" if isinstance(config, str) else 'preset("tiny_config")'
        raise TypeError(
            f"transformer: config must be a ModelConfig, got {config!r}; from pure.config, write {instead}"
        )
    backends.check(backend)
    layer: Callable = partial(block, config=config, backend=backend)
    layer = region(layer)
    layer = wrap_block(layer) if wrap_block else layer
    states = partial(hidden, config=config, layer=layer, last_norm=region(partial(norm, config=config)))
    scores = partial(logits, config=config)
    return Model(
        config=config,
        spec=transformer_spec(config),
        init=partial(init, spec=transformer_spec(config)),
        hidden=states,
        logits=scores,
        forward=partial(forward, hidden=states, logits=scores),
        cache=partial(empty_cache, config=config),
        decode=partial(decode, config=config, layer=layer),
        prepare=partial(prepare, config=config),
    )


def transformer_spec(config: ModelConfig) -> Tree:
    """Describes every parameter as a ParamSpec: embedding [V, D], layers (a list), norm, head [V, D] unless
    tied."""
    table = ParamSpec(shape=(config.vocab_size, config.hidden_size), std=config.initializer_range)
    return {
        "embedding": table,
        "layers": [block_spec(config) for _ in range(config.num_hidden_layers)],
        "norm": norm_spec(config.hidden_size, rms=config.use_rms_norm),
        **({} if config.tie_word_embeddings else {"head": table}),
    }


def init(key: Tensor, *, spec: Tree) -> Tree:
    """Draws the initial parameters.

    Each leaf draws from a key of its own, folded from its path, so that adding a parameter changes no other.

    Args:
        key: [2] uint32, from `pure.random.key`.
        spec: tree of ParamSpec.

    Returns:
        A tree of tensors on the key's device; no two share storage.
    """
    return tree.map_with_path(partial(_draw, key), spec)


def hidden(
    params: Tree,
    tokens: Tensor,
    *,
    positions: Tensor | None = None,
    segment_ids: Tensor | None = None,
    key: Tensor | None = None,
    config: ModelConfig,
    layer: Callable,
    last_norm: Callable,
) -> Tensor:
    """Reads the tokens and returns what the model makes of each, before the vocabulary.

    Apart from `logits` so that a chunked cross-entropy, a value head or a reward head can take it from here.

    Args:
        params: as `transformer_spec`.
        tokens: [B, T] integers in 0 .. V-1.
        positions: [B, T] integers, tokens from the start of the document; None counts from 0.
        segment_ids: [B, T] integers: a token sees only its own segment; None is one segment a row.
        key: [2] or [B, 2] uint32, for the whole batch or one per example; None drops nothing.
        config, layer, last_norm: bound by `transformer`.

    Returns:
        [B, T, D], dtype of the params.

    Steps:
        1. Embed; add sinusoidal positions where there are no rotary ones.
        2. Draw all dropout factors at once.
        3. The layers.
        4. The last norm.

    Raises:
        ValueError: if T exceeds max_position_embeddings, or a shape or type is not as listed.
    """
    _check(tokens, config)
    _check_params(params, config)
    _check_beside(tokens, positions, segment_ids, key)
    # 1. Embed.
    positions = torch.arange(tokens.shape[1], device=tokens.device)[None] if positions is None else positions
    x, angles = _embed(params, tokens, positions, config)
    # 2. Dropout.
    keep = _keep(key, x, config)
    # 3. Layers.
    for layer_params, layer_keep in zip(params["layers"], keep, strict=True):
        x, _ = layer(layer_params, x, angles, segment_ids, layer_keep, None, None)
    # 4. Norm.
    return last_norm(params["norm"], x)


def logits(params: Tree, hidden: Tensor, *, config: ModelConfig) -> Tensor:
    """Scores every word of the vocabulary: hidden [..., D] -> [..., V]; a tied head is the embedding."""
    return linear(params["head"] if "head" in params else params["embedding"], hidden)


def forward(
    params: Tree, tokens: Tensor, *, hidden: Callable, logits: Callable, **arguments: Tensor | None
) -> Tensor:
    """Is `logits` after `hidden`, with the arguments of `hidden`: tokens [B, T] -> [B, T, V]."""
    return logits(params, hidden(params, tokens, **arguments))


def decode(
    params: Tree,
    tokens: Tensor,
    cache: KVCache,
    *,
    last: bool | Tensor = False,
    config: ModelConfig,
    layer: Callable,
) -> tuple[Tensor, KVCache]:
    """Reads T more tokens behind those that the cache holds: prefill with many, then one at a time.

    Rows of different lengths are filled padded on the right; then lower `cache.length` to the true lengths,
    and what lies behind is overwritten before it is ever seen.

    Args:
        params: as `transformer_spec`.
        tokens: [B, T] integers.
        cache: from `empty_cache` or an earlier call; room for T more (not checked: that would wait for the
            device).
        last: True gives the logits of the last token alone, [B, 1, V]: while a prompt is read, nobody wants
            the others; [B] integers those of one of the T tokens in each row, as rows padded on the right end
            in different places.
        config, layer: bound by `transformer`.

    Returns:
        (logits [B, T, V], the cache with T more tokens a row).
    """
    _check(tokens, config)
    _check_params(params, config)
    positions = cache.length[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
    x, angles = _embed(params, tokens, positions, config)
    layers = []
    for layer_params, memory in zip(params["layers"], cache.layers, strict=True):
        x, memory = layer(layer_params, x, angles, None, None, memory, cache.length)
        layers.append(memory)
    x = norm(params["norm"], chosen_places(x, last), config=config)
    return logits(params, x, config=config), KVCache(layers, cache.length + tokens.shape[1])


def chosen_places(x: Tensor, last: bool | Tensor) -> Tensor:
    """Takes the places whose logits are wanted.

    Args:
        x: [B, T, D].
        last: False takes all, True the last, [B] integers one in each row.

    Returns:
        [B, T, D] or [B, 1, D].
    """
    if isinstance(last, Tensor):
        return x.gather(1, last[:, None, None].expand(-1, 1, x.shape[-1]))
    return x[:, -1:] if last else x


def _draw(key: Tensor, path: str, spec: ParamSpec) -> Tensor:
    """One leaf from its specification."""
    if spec.init == "normal":
        own = random.fold_in(key, crc32(path.encode()))
        return random.normal(own, spec.shape).mul(spec.std).to(spec.dtype)
    fill = {"zeros": torch.zeros, "ones": torch.ones}[spec.init]
    return fill(spec.shape, dtype=spec.dtype, device=key.device)


def _check(tokens: Tensor, config: ModelConfig) -> None:
    """Refuses a batch of the wrong rank or longer than the model's context."""
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
            f"transformer: tokens {tuple(tokens.shape)} have no places; give at least one token a row"
        )
    if tokens.shape[1] > config.max_position_embeddings:
        raise ValueError(
            f"transformer: {tokens.shape[1]} tokens exceed max_position_embeddings {config.max_position_embeddings}; "
            "shorten the rows, or stretch the model with rope_scaling"
        )


def _check_params(params: Tree, config: ModelConfig) -> None:
    """Refuses the params of another model, as far as the embedding and the number of layers tell."""
    table, layers = params["embedding"], len(params["layers"])
    shape = tuple(table.shape) if isinstance(table, Tensor) else (config.vocab_size, config.hidden_size)
    wanted = (config.vocab_size, config.hidden_size)
    if shape != wanted or layers != config.num_hidden_layers:
        raise ValueError(
            f"transformer: params do not fit this config: expected an embedding {list(wanted)} and "
            f"{config.num_hidden_layers} layers, got {list(shape)} and {layers}; build the model of their own config"
        )


def _check_beside(
    tokens: Tensor, positions: Tensor | None, segment_ids: Tensor | None, key: Tensor | None
) -> None:
    """Refuses what does not lie beside the tokens [B, T]: a shape that broadcast would hide the mistake."""
    batch, length = tokens.shape
    for name, x, rows in (("positions", positions, (1, batch)), ("segment_ids", segment_ids, (batch,))):
        if x is not None and (x.ndim != 2 or x.shape[0] not in rows or x.shape[1] != length):
            wanted = " or ".join(("[B, T]", "[1, T]")[: len(rows)])
            raise ValueError(
                f"transformer: {name} must be {wanted} like tokens {batch, length}, got {tuple(x.shape)}"
            )
        if x is not None and x.is_floating_point():
            raise ValueError(
                f"transformer: {name} must be integers, got {x.dtype}; convert them with .long()"
            )
    if key is not None and tuple(key.shape) not in ((2,), (batch, 2)):
        raise ValueError(f"transformer: key must be [2] or [B, 2] with B = {batch}, got {tuple(key.shape)}")


def _embed(
    params: Tree, tokens: Tensor, positions: Tensor, config: ModelConfig
) -> tuple[Tensor, Rotation | None]:
    """Tokens and positions [B, T] -> (x [B, T, D], rotary angles or None)."""
    x = F.embedding(tokens, params["embedding"])
    if config.use_rope:
        return x, rotation(positions, config=config)
    return x + sinusoidal(positions, config.hidden_size).to(x.dtype), None


def _keep(key: Tensor | None, x: Tensor, config: ModelConfig) -> list[Keep | None]:
    """All layers' dropout factors from one vectorised draw: every inlined hash costs seconds of
    compilation."""
    layers, (batch, length, width) = config.num_hidden_layers, x.shape
    if key is None or not (config.attention_dropout or config.hidden_dropout):
        return [None] * layers
    keys = (
        torch.func.vmap(random.fold_in, (None, 0))(key, torch.arange(batch, device=key.device))
        if key.ndim == 1
        else key
    )
    shapes = {
        "weights": (config.attention_dropout, (config.num_attention_heads, length, length)),
        "attended": (config.hidden_dropout, (length, width)),
        "transformed": (config.hidden_dropout, (length, width)),
    }
    drawn = [torch.Size(shape).numel() for rate, shape in shapes.values() if rate]
    uniform = torch.func.vmap(lambda k: random.uniform(k, (layers, sum(drawn))))(keys)
    parts = iter(uniform.split(drawn, -1))
    factors = {
        name: (next(parts).unflatten(-1, shape).ge(rate).to(x.dtype) / (1 - rate)).unbind(1)
        if rate
        else [None] * layers
        for name, (rate, shape) in shapes.items()
    }
    return [Keep(*(factors[name][i] for name in Keep._fields)) for i in range(layers)]
