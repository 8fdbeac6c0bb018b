"""Conversion of a `torch.nn.Module` to a Model: a tree of parameters, and a pure function of them.

Shape letters: B batch, T tokens, V vocabulary.

Source: `torch.func.functional_call`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pure import tree
from pure.interop.token_cache import decode_again, empty_cache
from pure.types import Model, ParamSpec, Tree


@runtime_checkable
class Forward(Protocol):
    """Calls a module: tokens [B, T] -> logits [B, T, V].

    `call(*args, **kwargs)` runs the module; `dtype` is that of its parameters.
    """

    def __call__(
        self,
        call: Callable[..., Any],
        tokens: Tensor,
        /,
        *,
        positions: Tensor | None,
        segment_ids: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor: ...


class ModuleConfig(NamedTuple):
    """The part of a model's configuration that stages and `generate` read.

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


def from_module(
    module: nn.Module,
    *,
    forward: Forward | None = None,
    vocab_size: int | None = None,
    max_length: int | None = None,
) -> Model:
    """Builds a Model from a causal language model written as a module.

    The module's own parameters are never changed: each call runs with the params that it is given. So
    torch.func's transforms, all stages and all optimizers work with it.

    Args:
        module: a causal model: the logits at a position depend on the tokens up to it. It is set to
            evaluation mode, as its dropout takes no key.
        forward: calls the module; None calls `module(tokens)` and returns the result or its `.logits`.
            `hugging_face` is for models of transformers, and supports positions and packed rows.
        vocab_size: V; None reads `module.config`.
        max_length: longest row, tokens; None reads `module.config`.

    Returns:
        Model. Params are nested by the module's own names, "model/layers/0/mlp/up_proj/weight"; tied ones are
        one leaf; buffers are bound. `init` returns copies of the module's initial parameters, for every key;
        `hidden` computes the logits, and `logits` returns them unchanged; `decode` recomputes the row for
        every token.

    Raises:
        ValueError: if the vocabulary's size or the longest row is neither given nor in `module.config`.

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
    module_config = getattr(module, "config", None)
    size = vocab_size or getattr(module_config, "vocab_size", None)
    longest = max_length or getattr(module_config, "max_position_embeddings", None)
    if not size or not longest:
        raise ValueError(
            f"from_module: vocab_size is {size} and max_length {longest}, and {type(module).__name__} has no "
            "config that contains them; give both"
        )
    module.eval()
    values = {name: x.detach().clone() for name, x in module.named_parameters()}
    buffers = {name: x.detach().clone() for name, x in module.named_buffers()}
    call = partial(_call, module=module, buffers=buffers, names=tuple(values))
    hidden = partial(_hidden, call=call, forward=forward or call_with_tokens)
    bos, eos, pad = (
        _first_id(getattr(module_config, name, None))
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    )
    initial = nest(values)
    return Model(
        config=ModuleConfig(size, longest, bos, eos, pad),
        spec=tree.map(lambda x: ParamSpec(shape=tuple(x.shape), dtype=x.dtype), initial),
        init=partial(_init, initial=initial),
        hidden=hidden,
        logits=identity_logits,
        forward=hidden,
        cache=empty_cache,
        decode=partial(decode_again, forward=hidden),
    )


def call_with_tokens(
    call: Callable[..., Any],
    tokens: Tensor,
    /,
    *,
    positions: Tensor | None,
    segment_ids: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Calls a module with the tokens only: the default Forward.

    Args:
        call: runs the module.
        tokens: [B, T] integers.
        positions, segment_ids: must be None.
        dtype: of the parameters; not used.

    Returns:
        [B, T, V].

    Raises:
        ValueError: if rows are packed or positions given, which this call would ignore.
    """
    if positions is not None or segment_ids is not None:
        raise ValueError(
            "from_module: the batch has positions or packed rows, and module(tokens) takes neither; give "
            "from_module a forward that does (hugging_face, for models of transformers), or a pipe without "
            "packing"
        )
    output = call(tokens)
    return getattr(output, "logits", output)


def hugging_face(
    call: Callable[..., Any],
    tokens: Tensor,
    /,
    *,
    positions: Tensor | None,
    segment_ids: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Calls a causal model of transformers, with a mask that separates packed documents.

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
    index = torch.arange(length, device=tokens.device)
    visible = (index[:, None] >= index).expand(rows, length, length)
    if segment_ids is not None:
        visible = visible & (segment_ids[:, :, None] == segment_ids[:, None])
    positions = (index if positions is None else positions).expand(rows, length)
    mask = torch.where(visible, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]
    return call(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=False).logits


def nest(values: Mapping[str, Any]) -> Tree:
    """Nests values by the dots in their names: {"a.b": x} -> {"a": {"b": x}}.

    Example:
        >>> nest({"a.b": 1, "a.c.d": 2})
        {'a': {'b': 1, 'c': {'d': 2}}}
    """
    root: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return root


def _call(
    params: Tree,
    *args: Any,
    module: nn.Module,
    buffers: Mapping[str, Tensor],
    names: tuple[str, ...],
    **options: Any,
) -> Any:
    """Runs the module with these params."""
    values = {name: tree.get(params, name.replace(".", "/")) for name in names}
    return torch.func.functional_call(module, (values, dict(buffers)), args, options)


def _hidden(
    params: Tree,
    tokens: Tensor,
    *,
    positions: Tensor | None = None,
    segment_ids: Tensor | None = None,
    key: Tensor | None = None,
    call: Callable[..., Any],
    forward: Forward,
) -> Tensor:
    """Computes the logits [B, T, V]; the key is not used."""
    dtype = next(x.dtype for x in tree.leaves(params) if x.is_floating_point())
    return forward(partial(call, params), tokens, positions=positions, segment_ids=segment_ids, dtype=dtype)


def identity_logits(params: Tree, hidden: Tensor) -> Tensor:
    """Returns the logits, which `hidden` has computed already."""
    return hidden


def _init(key: Tensor | None, *, initial: Tree) -> Tree:
    """Copies the module's initial parameters, to the key's device."""
    return tree.map(lambda x: x.clone() if key is None else x.to(key.device, copy=True), initial)


def _first_id(value: Any) -> int | None:
    """Returns an id, or the first of a list of ids."""
    return value[0] if isinstance(value, list) and value else value
