"""Any `torch.nn.Module` as a Model: its parameters become a tree, and its forward a pure function of them.

Shape letters: B batch, T tokens, V vocabulary, S places.

Source: `torch.func.functional_call`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pure import tree
from pure.types import Model, ParamSpec, Tree

Forward = Callable[..., Tensor]
"""(call, tokens [B, T], *, positions, segment_ids, dtype) -> logits [B, T, V]: call(*args, **kwargs) runs the
module, whose parameters have that dtype."""


class ModuleConfig(NamedTuple):
    """What the stages and `generate` ask of a model's configuration.

    Fields:
        vocab_size: V.
        max_position_embeddings: longest row, tokens.
        bos_token_id, eos_token_id, pad_token_id: ids, or None.
    """

    vocab_size: int
    max_position_embeddings: int
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None


class TokenCache(NamedTuple):
    """The memory of a model that has none: it reads the whole row again for every token.

    Fields:
        tokens: [B, S] int64.
        length: [B] int64, places of each row that are filled.
    """

    tokens: Tensor
    length: Tensor


def from_module(
    module: nn.Module,
    *,
    forward: Forward | None = None,
    vocab_size: int | None = None,
    max_length: int | None = None,
) -> Model:
    """Makes a Model of a causal language model written as a module.

    The module itself is never changed: its parameters are copied out, and every call puts the given ones in
    their places. So torch.func's transforms, all stages and all optimizers work on it.

    Args:
        module: anything causal: the logits of a place depend on the tokens up to it. Dropout inside it has no
            key, so that it is put into evaluation mode.
        forward: how to call it; None calls `module(tokens)` and takes `.logits` of what comes back, if it has
            that. `hugging_face` is the one for models of transformers, and takes positions and packed rows as
            well.
        vocab_size: V; None asks `module.config`.
        max_length: longest row, tokens; None asks `module.config`.

    Returns:
        Model. Params are nested by the module's own names, "model/layers/0/mlp/up_proj/weight"; tied ones are
        one leaf; buffers are bound. `init` returns copies of the module's parameters as they were at first,
        whatever the key; `hidden` gives logits, and `logits` hands them on; `decode` reads the row again for
        every token.

    Raises:
        ValueError: if the vocabulary's size or the longest row is not known.

    Example:
        >>> class Bigram(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.table = nn.Embedding(5, 5)
        ...     def forward(self, tokens):
        ...         return self.table(tokens)
        >>> model = from_module(Bigram(), vocab_size=5, max_length=8)
        >>> params = model.init(None)
        >>> tree.paths(params), model.forward(params, torch.tensor([[1, 2]])).shape
        (['table/weight'], torch.Size([1, 2, 5]))
    """
    theirs = getattr(module, "config", None)
    size = vocab_size or getattr(theirs, "vocab_size", None)
    longest = max_length or getattr(theirs, "max_position_embeddings", None)
    if not size or not longest:
        raise ValueError(
            f"from_module: vocab_size is {size} and max_length {longest}, and {type(module).__name__} has no config "
            "that tells; give both"
        )
    module.eval()
    values = {name: x.detach().clone() for name, x in module.named_parameters()}
    buffers = {name: x.detach().clone() for name, x in module.named_buffers()}
    call = partial(_call, module=module, buffers=buffers, names=tuple(values))
    states = partial(_hidden, call=call, forward=forward or plain)
    ids = {
        name: _id(getattr(theirs, name, None)) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    first = nested(values)
    return Model(
        config=ModuleConfig(size, longest, **ids),
        spec=tree.map(lambda x: ParamSpec(shape=tuple(x.shape), dtype=x.dtype), first),
        init=partial(_init, first=first),
        hidden=states,
        logits=_handed_on,
        forward=states,
        cache=_cache,
        decode=partial(_decode, hidden=states),
    )


def plain(
    call: Callable,
    tokens: Tensor,
    *,
    positions: Tensor | None,
    segment_ids: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Calls a module with the tokens and nothing else.

    Args:
        call: runs the module.
        tokens: [B, T] integers.
        positions, segment_ids: must be None.
        dtype: of the parameters; not used.

    Returns:
        [B, T, V].

    Raises:
        ValueError: if rows are packed or positions given, which such a call would pass over.
    """
    if positions is not None or segment_ids is not None:
        raise ValueError(
            "from_module: the batch has positions or packed rows, and module(tokens) knows neither; give from_module a "
            "forward that does (hugging_face, for models of transformers), or a pipe without packing"
        )
    found = call(tokens)
    return getattr(found, "logits", found)


def hugging_face(
    call: Callable,
    tokens: Tensor,
    *,
    positions: Tensor | None,
    segment_ids: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Calls a causal model of transformers, with a mask that keeps packed documents apart.

    For vmap load the model with `attn_implementation="eager"`: torch has no batching rule for its fused
    attention.

    Args:
        call: runs the module.
        tokens: [B, T] integers.
        positions: [B, T] integers, or None: counted from 0.
        segment_ids: [B, T] integers, or None: one segment.
        dtype: of the parameters, and of the mask.

    Returns:
        [B, T, V].
    """
    rows, length = tokens.shape
    places = torch.arange(length, device=tokens.device)
    seen = (places[:, None] >= places).expand(rows, length, length)
    if segment_ids is not None:
        seen = seen & (segment_ids[:, :, None] == segment_ids[:, None])
    positions = places.expand(rows, length) if positions is None else positions.expand(rows, length)
    mask = torch.where(seen, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]
    return call(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits


def nested(values: Mapping[str, Any]) -> Tree:
    """Makes {"a.b": x} into {"a": {"b": x}}.

    Example:
        >>> nested({"a.b": 1, "a.c.d": 2})
        {'a': {'b': 1, 'c': {'d': 2}}}
    """
    made: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        node = made
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return made


def _call(
    params: Tree,
    *args: Any,
    module: nn.Module,
    buffers: Mapping[str, Tensor],
    names: tuple[str, ...],
    **options: Any,
) -> Any:
    """The module on these params."""
    values = {name: tree.get(params, name.replace(".", "/")) for name in names}
    return torch.func.functional_call(module, (values, dict(buffers)), args, options)


def _hidden(
    params: Tree,
    tokens: Tensor,
    *,
    positions: Tensor | None = None,
    segment_ids: Tensor | None = None,
    key: Tensor | None = None,
    call: Callable,
    forward: Forward,
) -> Tensor:
    """Logits [B, T, V]; the key has no use."""
    dtype = next(x.dtype for x in tree.leaves(params) if x.is_floating_point())
    return forward(partial(call, params), tokens, positions=positions, segment_ids=segment_ids, dtype=dtype)


def _handed_on(params: Tree, hidden: Tensor) -> Tensor:
    """The logits, which `hidden` has computed already."""
    return hidden


def _init(key: Tensor | None, *, first: Tree) -> Tree:
    """Copies of the parameters that the module had."""
    return tree.map(lambda x: x.clone() if key is None else x.to(key.device, copy=True), first)


def _cache(batch: int, length: int, dtype: torch.dtype = torch.float32, device: Any = "cpu") -> TokenCache:
    """An empty memory."""
    tokens = torch.zeros(batch, length, dtype=torch.int64, device=device)
    return TokenCache(tokens, torch.zeros(batch, dtype=torch.int64, device=device))


def _decode(
    params: Tree, tokens: Tensor, cache: TokenCache, *, last: bool | Tensor = False, hidden: Callable
) -> tuple:
    """Writes the tokens behind those that are there, and reads the rows as a whole."""
    places = cache.length[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
    row = cache.tokens.scatter(1, places, tokens.long())
    found = hidden(params, row)
    at = last[:, None] if isinstance(last, Tensor) else torch.full_like(places[:, :1], tokens.shape[1] - 1)
    wanted = places.gather(1, at) if last is not False else places
    logits = found.gather(1, wanted[..., None].expand(-1, -1, found.shape[-1]))
    return logits, TokenCache(row, cache.length + tokens.shape[1])


def _id(value: Any) -> int | None:
    """The first of several ids."""
    return value[0] if isinstance(value, list) and value else value
