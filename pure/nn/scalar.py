"""A scalar head: one number for each token, from a language model's hidden states.

Reward models score completions with it, and value functions predict the remaining reward.

Shape letters: B batch, T tokens, D width.

Stiennon et al., "Learning to summarize from human feedback", 2020.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from zlib import crc32

from torch import Tensor

from pure import random, tree
from pure.config import ModelConfig
from pure.nn.linear import linear
from pure.nn.naive import accumulation_dtype
from pure.parallel.layers import gather_node
from pure.types import Hidden, Model, ParamSpec, Tree


class ScalarModel(NamedTuple):
    """A model with a scalar output; params are {"model": those of the language model, "score": [1, D]}.

    Fields:
        spec: tree of ParamSpec.
        init: (key [2] uint32, params=None) -> params; copies the given language model's, or initialises them.
        score: (params, tokens [B, T], *, positions=None, segment_ids=None, key=None) -> [B, T] float32.
    """

    spec: Tree
    init: Callable[..., Tree]
    score: Hidden


def scalar_model(model: Model) -> ScalarModel:
    """Builds a scalar model from a language model, whose own head is not used.

    Args:
        model: gives `hidden`, `init`, `spec` and `config`.

    Returns:
        ScalarModel(spec, init, score).

    Example:
        >>> from pure.config import ModelConfig
        >>> from pure.nn.transformer import transformer
        >>> config = ModelConfig(vocab_size=8, hidden_size=8, num_attention_heads=2, num_key_value_heads=1)
        >>> reward_model = scalar_model(transformer(config))
        >>> reward_model.score(reward_model.init(random.key(0)), torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3])

    Source: Stiennon et al. 2020, section 3.4: a linear head, initialised with standard deviation 1/√(D + 1).
    """
    head = ParamSpec(shape=(1, model.config.hidden_size), std=(model.config.hidden_size + 1) ** -0.5)
    return ScalarModel(
        spec={"model": _without_own_head(model, model.spec), "score": head},
        init=partial(init, model=model, head=head),
        score=partial(score, model=model),
    )


def without_head(params: Tree) -> Tree:
    """Removes the language model's own head, if it has one (is not tied): a scalar model does not use it."""
    return {name: part for name, part in params.items() if name != "head"}


def init(key: Tensor, params: Tree | None = None, *, model: Model, head: ParamSpec) -> Tree:
    """Initialises the scalar head, and copies or initialises the rest.

    Args:
        key: [2] uint32.
        params: those of a language model, which are copied; None initialises them.
        model, head: bound by `scalar_model`.

    Returns:
        {"model": ..., "score": [1, D]}.
    """
    params = model.init(key) if params is None else tree.clone(params)
    weight = random.normal(random.fold_in(key, crc32(b"score")), head.shape) * head.std
    return {"model": _without_own_head(model, params), "score": weight}


def score(
    params: Tree,
    tokens: Tensor,
    *,
    positions: Tensor | None = None,
    segment_ids: Tensor | None = None,
    key: Tensor | None = None,
    model: Model,
) -> Tensor:
    """Computes one number for each token, from its hidden state.

        score_t = w · hidden_t

    Args:
        params: {"model", "score"}.
        tokens: [B, T] integers.
        positions, segment_ids, key: as in `pure.nn.transformer.hidden`.
        model: bound by `scalar_model`.

    Returns:
        [B, T] float: float32, or float64 with float64 params.
    """
    hidden = model.hidden(params["model"], tokens, positions=positions, segment_ids=segment_ids, key=key)
    score = linear(gather_node(params["score"]), hidden)[..., 0]
    return score.to(accumulation_dtype(score.dtype))


def _without_own_head(model: Model, params: Tree) -> Tree:
    """Removes the head of a model of this project; another's hidden states may need a leaf of that name."""
    return without_head(params) if isinstance(model.config, ModelConfig) else params
