"""LoRA: fine-tuning of a frozen model by low-rank updates of its matrices.

The adapters are a tree, the only params of the adapted model; the base is bound. So every stage, optimizer,
checkpoint and transform works on adapters as on any params, and `vmap` over stacked adapters runs several on
one base.

Shape letters: O output width, I input width, R rank, B batch.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; Kalajdzievski, "A Rank Stabilization
Scaling Factor for Fine-Tuning with LoRA", 2023; Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation",
2024.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from zlib import crc32

import torch
from torch import Tensor

from pure import random, tree
from pure.adapt.attach import attach, materialize
from pure.adapt.lora_config import MATRICES, LoRAConfig, Site, sites, weights
from pure.nn.transformer import init as init_params
from pure.types import Hidden, Logits, Model, ParamSpec, Tree

DROPOUT_NUMBER = crc32(b"lora")
"""Number that separates the dropout keys of adapters from those of the model."""


class Merged(NamedTuple):
    """Params with merged adapters, laid out for decoding: the result of `Model.prepare`.

    Fields:
        params: of the base model.
    """

    params: Tree


def lora(
    model: Model,
    base: Tree,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] = MATRICES,
    rank_pattern: Mapping[str, int] | Sequence[tuple[str, int]] = (),
    alpha_pattern: Mapping[str, float] | Sequence[tuple[str, float]] = (),
    dropout: float = 0.0,
    use_rslora: bool = False,
    use_dora: bool = False,
) -> Model:
    """Builds a model whose params are adapters of a frozen base.

    The updates of weights in fine-tuning have low rank: two thin matrices represent them, and the optimizer's
    state, the gradients and the file shrink to about a hundredth.

        W' = W + s B A,     s = alpha / R, or alpha / √R with `use_rslora`
        DoRA: W' = m (W + s B A) / ‖W + s B A‖

    Args:
        model: from `transformer`, or an adapted model.
        base: its params; matrices may be `NF4` nodes.
        rank, alpha, targets, rank_pattern, alpha_pattern, dropout, use_rslora, use_dora: as in `LoRAConfig`.

    Returns:
        Model. `init` draws A from a normal distribution with PEFT's variance 1/(3 I) and sets B to 0, so that
        freshly initialised adapters are the identity; `{}` as params is the base without adapters, such as a
        reference policy; `prepare` merges the adapters into a copy of the base.

    Raises:
        ValueError: if a target matches no matrix of the base, or a value is out of range.

    Example:
        >>> from pure.config import ModelConfig
        >>> from pure.nn.transformer import transformer
        >>> config = ModelConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, num_key_value_heads=1)
        >>> plain = transformer(config)
        >>> base = plain.init(random.key(0))
        >>> adapted = lora(plain, base, rank=2, targets=["q", "v"])
        >>> adapters = adapted.init(random.key(1))
        >>> adapters["layers"][0]["attention"]["q"]["a"].shape
        torch.Size([2, 8])
        >>> tokens = torch.tensor([[1, 2, 3]])
        >>> torch.equal(adapted.forward(adapters, tokens), plain.forward(base, tokens))
        True

    Source: Hu et al. 2021, section 4.1; Kalajdzievski 2023, equation 4; Liu et al. 2024, equation 5.
    """
    options: dict[str, Any] = {
        "rank": rank,
        "alpha": alpha,
        "targets": targets,
        "rank_pattern": rank_pattern,
        "alpha_pattern": alpha_pattern,
        "dropout": dropout,
        "use_rslora": use_rslora,
        "use_dora": use_dora,
    }
    return bind(model, base, LoRAConfig(**options))


def bind(model: Model, base: Tree, config: LoRAConfig) -> Model:
    """Builds the model of `lora` from a LoRAConfig.

    Args:
        model, base: as in `lora`.
        config: the options.

    Raises:
        ValueError: as `lora`.
    """
    adapted = sites(base, config)
    squares = _squares(base, adapted) if config.use_dora else {}
    rate = torch.tensor(config.dropout, device=tree.leaves(base)[0].device) if config.dropout else None
    attached = partial(attach, base=base, adapted=adapted, squares=squares, rate=rate)
    spec = _spec(base, adapted, config.use_dora)
    return Model(
        config=model.config,
        spec=spec,
        init=partial(init, spec=spec, squares=squares),
        hidden=partial(_hidden, hidden=model.hidden, attached=attached, drops=rate is not None),
        logits=partial(_logits, logits=model.logits, attached=attached),
        forward=partial(_hidden, hidden=model.forward, attached=attached, drops=rate is not None),
        cache=model.cache,
        decode=partial(_decode, decode=model.decode, attached=attached),
        prepare=partial(_prepare, prepare=model.prepare, attached=attached),
    )


def adapter_spec(base: Tree, config: LoRAConfig) -> Tree:
    """Describes the adapters as ParamSpecs, nested like the base, with adapted matrices only.

    Raises:
        ValueError: if a target matches no matrix.
    """
    return _spec(base, sites(base, config), config.use_dora)


def init(key: Tensor, *, spec: Tree, squares: Mapping[str, Tensor]) -> Tree:
    """Initialises the adapters: A normal, B zero, and, for DoRA, the norms of the base's rows.

    Args:
        key: [2] uint32.
        spec: tree of ParamSpec.
        squares: {path: [O] squared norms of the base's rows}, for DoRA; else empty.

    Returns:
        Adapters on the key's device; no two share storage.
    """
    norms = {f"{path}/magnitude": square.sqrt() for path, square in squares.items()}

    def set_norm(path: str, x: Tensor) -> Tensor:
        return norms[path].to(key.device) if path in norms else x

    return tree.map_with_path(set_norm, init_params(key, spec=spec))


def merge(base: Tree, adapters: Tree, config: LoRAConfig) -> Tree:
    """Merges the adapters into the matrices, so that the base model computes the same without adapters.

    Args:
        base: params; NF4 matrices are dequantised to float32.
        adapters: of `lora(model, base, ...)`.
        config: options of that model.

    Returns:
        Params of the base model; leaves without adapters are the base's own, merged ones have the base's
        dtype, rounded once from float32.

    Raises:
        ValueError: if the options do not fit the base.
    """
    adapted = sites(base, config)
    squares = _squares(base, adapted) if config.use_dora else {}
    return materialize(attach(adapters, base=base, adapted=adapted, squares=squares, rate=None))


def unmerge(merged: Tree, adapters: Tree, config: LoRAConfig) -> Tree:
    """Inverts `merge`, up to rounding.

    Args:
        merged: result of `merge`.
        adapters, config: its arguments.

    Raises:
        ValueError: for DoRA, as the norms of the base's rows are lost.
    """
    if config.use_dora:
        raise ValueError(
            "lora: merged DoRA cannot be unmerged, as the norms of its rows are lost; keep the base"
        )
    negated = tree.map_with_path(lambda path, x: -x if path.endswith("/b") else x, adapters)
    return merge(merged, negated, config)


def _hidden(
    adapters: Tree,
    tokens: Tensor,
    *,
    key: Tensor | None = None,
    hidden: Hidden,
    attached: Callable[..., Tree],
    drops: bool,
    **arguments: Any,
) -> Tensor:
    """`hidden`, or `forward`, of the base with adapters; the key serves both kinds of dropout."""
    row_keys = _row_keys(key, tokens) if drops and key is not None else None
    return hidden(attached(adapters, key=row_keys), tokens, key=key, **arguments)


def _logits(adapters: Tree, states: Tensor, *, logits: Logits, attached: Callable[..., Tree]) -> Tensor:
    """`logits` of the base with adapters, without dropout."""
    return logits(attached(adapters), states)


def _decode(
    adapters: Tree,
    tokens: Tensor,
    cache: Tree,
    *,
    decode: Callable[..., tuple[Tensor, Tree]],
    attached: Callable[..., Tree],
    **arguments: Any,
) -> tuple[Tensor, Tree]:
    """`decode` of the base with adapters, or with params that `prepare` has merged."""
    params = adapters.params if isinstance(adapters, Merged) else attached(adapters)
    return decode(params, tokens, cache, **arguments)


def _prepare(
    adapters: Tree,
    *,
    rows: int | None = None,
    prepare: Callable[..., Tree],
    attached: Callable[..., Tree],
) -> Tree:
    """Merges the adapters, then prepares the result as the base model does."""
    if isinstance(adapters, Merged):
        return adapters
    params = attached(adapters)
    return Merged(prepare(materialize(params, params["embedding"].dtype), rows=rows))


def _spec(base: Tree, adapted: Mapping[str, Site], dora: bool) -> Tree:
    """ParamSpecs of the adapters, nested like the base, with adapted matrices only."""

    def describe(path: str) -> Tree:
        rank, (out, into) = adapted[path].rank, adapted[path].shape
        spec = {
            "a": ParamSpec(shape=(rank, into), std=(3 * into) ** -0.5),
            "b": ParamSpec(shape=(out, rank), init="zeros"),
        }
        if dora:
            spec["magnitude"] = ParamSpec(shape=(out,), init="ones")
        return spec

    return _prune(base, "", describe, adapted)


def _prune(base: Tree, path: str, describe: Callable[[str], Tree], adapted: Mapping[str, Site]) -> Tree:
    """Keeps the branches that have an adapter; lists keep their length, so that indices are unchanged."""
    if isinstance(base, list):
        return [_prune(x, f"{path}/{i}", describe, adapted) for i, x in enumerate(base)]
    pruned: dict[str, Tree] = {}
    for name in base if isinstance(base, dict) else ():
        full_path = f"{path}/{name}" if path else str(name)
        if full_path in adapted:
            pruned[name] = describe(full_path)
        elif any(site.startswith(f"{full_path}/") for site in adapted):
            pruned[name] = _prune(base[name], full_path, describe, adapted)
    return pruned


def _squares(base: Tree, adapted: Mapping[str, Site]) -> dict[str, Tensor]:
    """{path: squared norms of the rows [O] float32}."""
    leaves = weights(base)
    return {path: materialize(leaves[path]).float().square().sum(-1) for path in adapted}


def _row_keys(key: Tensor, tokens: Tensor) -> Tensor:
    """[2] or [B, 2] -> [B, 2], separate from the keys of the model's own dropout."""
    own = torch.func.vmap(random.fold_in, (0, None))(key.reshape(-1, 2), DROPOUT_NUMBER)
    if key.ndim == 2:
        return own
    rows = torch.arange(tokens.shape[0], device=key.device)
    return torch.func.vmap(random.fold_in, (None, 0))(own[0], rows)
