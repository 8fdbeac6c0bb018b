"""Conversion of a `torch.nn.Module` to a Model: a tree of parameters, and a pure function of them.

Shape letters: B batch, T tokens, D width, V vocabulary.

Source: `torch.func.functional_call`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pure import tree
from pure.interop.left_padding import call_unpadded
from pure.interop.module_parts import bind_module, copy_or_build, nest, split_head
from pure.interop.module_trial import check_logits, is_same_function, result_width
from pure.interop.token_cache import decode_again, empty_cache
from pure.types import Hidden, Logits, Model, ParamSpec, Tree


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
        hidden_size: D, width of what `hidden` returns: V where no output layer is known.
        bos_token_id, eos_token_id, pad_token_id: ids, or None.
    """

    vocab_size: int
    max_position_embeddings: int
    hidden_size: int
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    pad_token_id: int | None = None


def from_module(
    module: nn.Module,
    *,
    forward: Forward | None = None,
    vocab_size: int | None = None,
    max_length: int | None = None,
    head: str | None = None,
    build: Callable[[Tensor], nn.Module] | None = None,
) -> Model:
    """Builds a Model from a causal language model written as a module.

    The module's own parameters are never changed: each call runs with the params that it is given. So
    torch.func's transforms, all stages and all optimizers work with it, as far as its own operations do: see
    the edge cases.

    Args:
        module: a causal model: the logits at a position depend on the tokens up to it. It is set to
            evaluation mode, as its dropout takes no key.
        forward: calls the module; None calls `module(tokens)` and returns the result or its `.logits`; rows
            may be padded on the left, but not packed. `hugging_face` is for models of transformers with
            attention, and supports positions and packed rows.
        vocab_size: V; None reads `module.config`.
        max_length: longest row, tokens; None reads `module.config`.
        head: name of the output layer, such as "lm_head", whose result is the logits. None takes the one that
            a model of transformers names, if the logits are its result.
        build: key [2] -> a module of the same class with initial parameters drawn anew, for `init`: torch's
            own initialisation takes no key. None: `init` returns copies of the module's parameters.

    Returns:
        Model. Params are nested by the module's own names, "model/layers/0/mlp/up_proj/weight"; tied ones are
        one leaf; buffers are bound. With an output layer, `hidden` returns its input [B, T, D], and `logits`
        applies it, so that losses can compute the logits in parts, and reward models and value functions read
        the hidden states; without, `hidden` computes the logits, which `logits` returns unchanged.
        `decode` recomputes the row for every token.

    Edge cases: recurrent modules (GRU, Mamba) take the default `forward`: the padding on the left of
    rollouts is moved to the end, where it enters no state. Without `build` all members of a population start
    with equal params, which `population` refuses if they see the same batch. Modules that write into their
    own tensors (torch's GRU) fail under vmap: give `chunk=1` to `per_sample_grad`. torch's fused attention
    (`scaled_dot_product_attention`, transformers' default "sdpa") has no forward-mode and no second
    derivative, and no batching rule: for `jvp`, Hessian products and vmap load the model with
    `attn_implementation="eager"`.

    Raises:
        ValueError: if the vocabulary's size or the longest row is neither given nor in `module.config`; if
            the logits are not [B, T, V], the module is not causal, or `forward` takes packed rows whose
            documents see each other (all tried on a row of up to 8 tokens); if `head` is no module or the
            logits are not its result; when called, for packed rows that `forward` does not take; in `init`,
            if `build` returns other parameters.

    Example:
        >>> class Bigram(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.table = nn.Embedding(5, 3)
        ...         self.output = nn.Linear(3, 5)
        ...     def forward(self, tokens):
        ...         return self.output(self.table(tokens))
        >>> model = from_module(Bigram(), vocab_size=5, max_length=8, head="output")
        >>> params, tokens = model.init(None), torch.tensor([[1, 2]])
        >>> tree.paths(params), model.hidden(params, tokens).shape, model.forward(params, tokens).shape
        (['output/bias', 'output/weight', 'table/weight'], torch.Size([1, 2, 3]), torch.Size([1, 2, 5]))
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
    initial = nest({name: x.detach().clone() for name, x in module.named_parameters()})
    forward = forward or call_with_tokens
    whole = partial(_hidden, call=bind_module(module), forward=forward)
    check_logits(module, whole, initial, size, longest)
    parts = split_head(module, head)
    hidden: Hidden = whole
    logits: Logits = identity_logits
    all_logits: Hidden = whole
    if parts is not None:
        body = partial(_hidden, call=parts.body, forward=forward)
        composed = partial(_forward, hidden=body, logits=parts.logits)
        if is_same_function(whole, composed, parts, initial, size, longest, required=head is not None):
            hidden, logits, all_logits = body, parts.logits, composed
    bos, eos, pad = (
        _first_id(getattr(module_config, name, None))
        for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    )
    return Model(
        config=ModuleConfig(size, longest, result_width(hidden, initial, size), bos, eos, pad),
        spec=tree.map(lambda x: ParamSpec(shape=tuple(x.shape), dtype=x.dtype), initial),
        init=partial(copy_or_build, initial=initial, build=build),
        hidden=hidden,
        logits=logits,
        forward=all_logits,
        cache=empty_cache,
        decode=partial(decode_again, forward=all_logits),
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

    Padding on the left, as in rollouts, is moved to the row's end, where no other token sees it and no
    recurrent state meets it: see `pure.interop.left_padding`.

    Args:
        call: runs the module.
        tokens: [B, T] integers.
        positions, segment_ids: None, or those of rows that are padded on the left.
        dtype: of the parameters; not used.

    Returns:
        [B, T, V].

    Raises:
        ValueError: if rows are packed, or positions are others than those of such rows.
    """

    def run(tokens: Tensor) -> Tensor:
        output = call(tokens)
        return getattr(output, "logits", output)

    if positions is None and segment_ids is None:
        return run(tokens)
    fix = "give from_module a forward that passes them to it (hugging_face, for attention of transformers)"
    return call_unpadded("from_module", run, tokens, positions, segment_ids, fix=fix)


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
    """Computes what the call returns, logits or hidden states; the key is not used."""
    dtype = next(x.dtype for x in tree.leaves(params) if x.is_floating_point())
    return forward(partial(call, params), tokens, positions=positions, segment_ids=segment_ids, dtype=dtype)


def _forward(
    params: Tree,
    tokens: Tensor,
    *,
    positions: Tensor | None = None,
    segment_ids: Tensor | None = None,
    key: Tensor | None = None,
    hidden: Hidden,
    logits: Logits,
) -> Tensor:
    """Computes the logits [B, T, V] from the hidden states."""
    return logits(params, hidden(params, tokens, positions=positions, segment_ids=segment_ids, key=key))


def identity_logits(params: Tree, hidden: Tensor) -> Tensor:
    """Returns the logits, which `hidden` has computed already."""
    return hidden


def _first_id(value: Any) -> int | None:
    """Returns an id, or the first of a list of ids."""
    return value[0] if isinstance(value, list) and value else value
