"""The decoder-only transformer: tokens in, logits of each next token out.

Every difference between GPT-2, Llama, Qwen2 and Qwen3 is a field of ModelConfig.

Shape letters: B batch, T tokens, D width, V vocabulary, L layers, N heads.

Vaswani et al., "Attention Is All You Need", 2017; Touvron et al., "LLaMA", 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.nn import backend as backends
from pure.nn.block import Layer, block, block_spec
from pure.nn.cache import KVCache, empty_cache
from pure.nn.context_parallel import Places, copy_params, join_places, own_places
from pure.nn.dropout import dropout_masks
from pure.nn.inputs import check_key, check_params, check_same_shape, check_tokens
from pure.nn.linear import linear
from pure.nn.norm import norm, norm_spec
from pure.nn.position import Rotation, rotation, sinusoidal
from pure.nn.prepare import prepare
from pure.nn.tensor_parallel import cut_spec, embed, init_leaf
from pure.parallel.cut_models import note_cut, same_over_group
from pure.parallel.group import Group
from pure.parallel.layers import gather_layers, gather_node
from pure.parallel.operators import copy_to_group
from pure.parallel.rows import cut_here, draw_rows
from pure.parallel.vocabulary import CutLogits, gather_logits
from pure.transform.jit import region
from pure.types import Hidden, Logits, Model, Parallel, ParamSpec, Tree


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
    return build(config, backend, wrap_block)


def build(
    config: ModelConfig,
    backend: str,
    wrap_block: Callable[[Layer], Layer] | None,
    *,
    tensor: Group | None = None,
    context: Group | None = None,
) -> Model:
    """Builds the model of `transformer`, computed by one process or by groups of them.

    Args:
        config, backend, wrap_block: as in `transformer`.
        tensor: processes that share the matrices (`pure.nn.tensor_parallel`); None: this one has them whole.
        context: processes that share the rows' places (`pure.nn.context_parallel`); None: this one has all.

    Returns:
        Model.
    """
    shared: dict[str, Any] = {
        name: group for name, group in (("tensor", tensor), ("context", context)) if group is not None
    }
    own: dict[str, Any] = {name: group for name, group in shared.items() if name == "tensor"}
    layer: Layer = region(partial(block, config=config, backend=backend, **shared))
    if wrap_block is not None:
        layer = wrap_block(layer)
    last_norm = region(partial(norm, config=config))
    hidden_fn = partial(hidden, config=config, layer=layer, last_norm=last_norm, **shared)
    logits_fn = partial(logits, config=config, **own)
    spec = transformer_spec(config)
    return Model(
        config=config,
        spec=cut_spec(spec, tensor),
        init=partial(init, spec=spec, **shared),
        hidden=hidden_fn,
        logits=logits_fn,
        forward=partial(forward, hidden=hidden_fn, logits=logits_fn),
        cache=partial(empty_cache, config=config, **own),
        decode=partial(decode, config=config, layer=layer, **shared),
        prepare=partial(prepare, config=config),
        parallel=Parallel(partial(build, config, backend, wrap_block), tensor, context),
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


def init(key: Tensor, *, spec: Tree, tensor: Group | None = None, context: Group | None = None) -> Tree:
    """Draws the initial parameters.

    The key of each leaf is folded from its path, so adding a parameter changes no other.

    Args:
        key: [2] uint32, from `pure.random.key`.
        spec: tree of ParamSpec, of whole leaves.
        tensor: processes of which each draws its part of every leaf; None: this one draws all.
        context: processes that draw the same; None: this one only.

    Returns:
        A tree of tensors on the key's device; no two share storage. While a sharded state is initialised,
        DTensors: each process draws its own rows, bit-equal to those of the whole draw.

    Raises:
        ValueError: if the key differs between the processes.
    """
    for group in (tensor, context):
        same_over_group("tensor_parallel, context_parallel: the keys of init", key, group, wait=True)
    return tree.map_with_path(partial(_init_leaf, key, tensor), spec)


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
    tensor: Group | None = None,
    context: Group | None = None,
) -> Tensor:
    """Computes the hidden state of every token, the input of `logits`.

    Separate from `logits`, because chunked cross-entropies, value heads and reward heads take hidden states.

        x_0 = embed(tokens),     x_l = layer_l(x_(l-1)) for l = 1 ... L,     result = last_norm(x_L)

    Args:
        params: as `transformer_spec`; leaves that are cut into rows over processes are gathered, layer by
            layer (`pure.parallel.layers`).
        tokens: [B, T] integers in 0 .. V-1.
        positions: [B, T] integers, index of each token in its document; None counts from the row's start.
        segment_ids: [B, T] integers: a token attends only to its own segment; None: one segment per row.
        key: [2] or [B, 2] uint32, for the whole batch or one per example; None disables dropout.
        config, layer, last_norm, tensor, context: bound by `build`.

    Returns:
        [B, T, D], dtype of the params.

    Steps:
        1. Check: `check_tokens(tokens, config)`, `check_params(params, config, tensor)`,
            `check_same_shape(tokens, positions, segment_ids)`, `check_key(tokens, key)`. List those of
            tokens, positions, segment_ids and key that are given, and call `_enter(tensor, config, inputs)`
            and `_enter(context, None, inputs)`; each returns a bool tensor, or None for one process.
        2. Without positions, count from 0: [1, T]. Draw the masks of all layers with `dropout_masks`, rows
            (B, T), dtype of the embedding. Put all in `Places(tokens, positions, segment_ids, masks, start)`,
            start None. With `context`, take `copy_params(params, context)` and `own_places(places, context)`.
        3. Embed with `_embed`: x [B, T, D] and the angles. Where a bool of step 1 is False, x is NaN.
        4. Take the function `gather_layers(layer, params["layers"])`. For each layer, call it with the
            layer's params, x, angles, segment_ids, the layer's masks, no cache, start: its first result is
            the new x.
        5. Apply `last_norm` to `gather_node(params["norm"])` and x. With `context`, the result is
            `join_places(x, T, context)`.

    Raises:
        ValueError: if T exceeds max_position_embeddings, or a shape or type is not as listed; in eager code
            on a CPU, if processes that share rows or matrices have other arguments (elsewhere the result is
            NaN).

    Example:
        Embedding (2, 3), a layer that adds 10, a norm that doubles: 2 (2 + 10) = 24, 2 (3 + 10) = 26.

        >>> sizes = {"vocab_size": 2, "hidden_size": 2, "num_attention_heads": 1, "num_key_value_heads": 1}
        >>> table, layers = torch.tensor([[0.0, 1.0], [2.0, 3.0]]), [{"shift": torch.tensor(10.0)}]
        >>> functions = {"layer": lambda params, x, *rest: (x + params["shift"], None)}
        >>> functions["last_norm"] = lambda params, x: 2 * x
        >>> params = {"embedding": table, "layers": layers, "norm": {}}
        >>> config = ModelConfig(**sizes, num_hidden_layers=1)
        >>> hidden(params, torch.tensor([[1]]), config=config, **functions)
        tensor([[[24., 26.]]])

    Source: Vaswani et al. 2017, figure 1, right half without the encoder's part.
    """
    # 1. Check the inputs; compare them over the groups.
    check_tokens(tokens, config)
    check_params(params, config, tensor)
    check_same_shape(tokens, positions, segment_ids)
    check_key(tokens, key)
    inputs = [x for x in (tokens, positions, segment_ids, key) if x is not None]
    same = [_enter(group, config if group is tensor else None, inputs) for group in (tensor, context)]
    # 2. Positions [1, T], the masks of all layers, and the places of this process.
    batch, length = tokens.shape
    if positions is None:
        positions = torch.arange(length, device=tokens.device)[None]
    masks = dropout_masks(key, (batch, length), params["embedding"].dtype, config, tensor)
    places = Places(tokens, positions, segment_ids, masks, None)
    if context is not None:
        params, places = copy_params(params, context), own_places(places, context)
    # 3. Embed: x [B, T, D], angles.
    x, angles = _embed(params, places.tokens, places.positions, config, tensor)
    for is_same in same:
        x = x if is_same is None else torch.where(is_same, x, torch.nan)
    # 4. The layers, [B, T, D].
    layer = gather_layers(layer, params["layers"])
    for layer_params, layer_masks in zip(params["layers"], places.masks, strict=True):
        x, _ = layer(layer_params, x, angles, places.segment_ids, layer_masks, None, places.start)
    # 5. The last norm, and the places of all processes.
    x = last_norm(gather_node(params["norm"]), x)
    return x if context is None else join_places(x, length, context)


def logits(params: Tree, hidden: Tensor, *, config: ModelConfig, tensor: Group | None = None) -> Any:
    """Computes logits over the vocabulary: hidden [..., D] -> [..., V]; a tied head is the embedding.

    With a group, they are CutLogits (`pure.parallel.vocabulary`).
    """
    head = gather_node(params["head"] if "head" in params else params["embedding"])
    if tensor is None:
        return linear(head, hidden)
    return CutLogits(linear(head, copy_to_group(hidden, tensor)), tensor)


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
    tensor: Group | None = None,
    context: Group | None = None,
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
        config, layer, tensor, context: bound by `build`. Processes that share rows compute the same here.

    Returns:
        (logits [B, T, V], the cache with T more tokens per row).

    Steps:
        1. Check: `check_tokens(tokens, config)`, `check_params(params, config, tensor)`. Note the groups:
            `note_cut(tensor, config)`, `note_cut(context, None)`.
        2. The tokens follow those in the cache: positions `cache.length` + 0 ... T-1, [B, T]. Embed with
            `_embed`: x [B, T, D] and the angles.
        3. Call `layer` for each layer's params and its cache, with x, the angles, no segments, no masks, and
            `cache.length` as start: the new x, and the layer's new cache.
        4. Select with `select_positions(x, last)`; apply `norm` with params["norm"], which is cheaper for
            fewer tokens: [B, T or 1, D].
        5. Compute `logits`, whole over the vocabulary with `gather_logits(scores)`. The new KVCache has the
            new layers, and T more in each length.

    Edge cases: the old cache is not changed, so several continuations may start from it.

    Example:
        Three tokens at once give the same logits as two and then one.

        >>> config = ModelConfig(vocab_size=10, hidden_size=8, num_attention_heads=2, num_key_value_heads=1)
        >>> model, tokens = transformer(config), torch.tensor([[1, 2, 3]])
        >>> params = model.init(random.key(0))
        >>> _, cache = model.decode(params, tokens[:, :2], model.cache(1, 3))
        >>> logits, cache = model.decode(params, tokens[:, 2:], cache)
        >>> cache.length, bool((logits - model.forward(params, tokens)[:, 2:]).abs().max() < 1e-6)
        (tensor([3]), True)

    Source: Shazeer, "Fast Transformer Decoding", 2019, the incremental form of attention.
    """
    # 1. Check, and note the groups.
    check_tokens(tokens, config)
    check_params(params, config, tensor)
    note_cut(tensor, config)
    note_cut(context, None)
    # 2. Positions [B, T] after those in the cache; x [B, T, D].
    positions = cache.length[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
    x, angles = _embed(params, tokens, positions, config, tensor)
    # 3. The layers, each with its cache.
    layers = []
    for layer_params, old_cache in zip(params["layers"], cache.layers, strict=True):
        x, new_cache = layer(layer_params, x, angles, None, None, old_cache, cache.length)
        assert new_cache is not None, "a layer that was given a cache returns one"
        layers.append(new_cache)
    # 4. The last norm of the selected positions, [B, T or 1, D].
    x = norm(params["norm"], select_positions(x, last), config=config)
    # 5. Logits [B, T or 1, V], and the longer cache.
    whole_logits = gather_logits(logits(params, x, config=config, tensor=tensor))
    return whole_logits, KVCache(layers, cache.length + tokens.shape[1])


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


def _init_leaf(key: Tensor, tensor: Group | None, path: str, spec: ParamSpec) -> Tensor:
    """Draws or fills one parameter, or this process's part of it, or rows of that."""
    if tensor is None:
        return draw_rows(spec.shape, partial(_draw_numbers, key, path, spec))
    draw = partial(random.normal, random.fold_in(key, crc32(path.encode())))
    if spec.init == "normal":
        return cut_here(init_leaf(draw, path, spec.shape, tensor).mul(spec.std).to(spec.dtype))
    own = cut_spec({path: spec}, tensor)[path]
    return draw_rows(own.shape, partial(_draw_numbers, key, path, own))


def _draw_numbers(key: Tensor, path: str, spec: ParamSpec, shape: tuple[int, ...], offset: int) -> Tensor:
    """The numbers of one parameter from a flat index on, as a tensor of `shape`."""
    if spec.init == "normal":
        leaf_key = random.fold_in(key, crc32(path.encode()))
        return random.normal(leaf_key, shape, offset=offset).mul(spec.std).to(spec.dtype)
    fill = {"zeros": torch.zeros, "ones": torch.ones}[spec.init]
    return fill(shape, dtype=spec.dtype, device=key.device)


def _enter(group: Group | None, config: ModelConfig | None, inputs: list[Tensor]) -> Tensor | None:
    """Notes that a group computes the model, and compares what its processes were given."""
    note_cut(group, config)
    return same_over_group("tensor_parallel, context_parallel: the tokens, positions or keys", inputs, group)


def _embed(
    params: Tree, tokens: Tensor, positions: Tensor, config: ModelConfig, tensor: Group | None
) -> tuple[Tensor, Rotation | None]:
    """Embeds tokens [B, T] at positions [B, T]: (x [B, T, D], rotary angles or None)."""
    x = embed(gather_node(params["embedding"]), tokens, tensor)
    if config.use_rope:
        return x, rotation(positions, config=config)
    return x + sinusoidal(positions, config.hidden_size).to(x.dtype), None
