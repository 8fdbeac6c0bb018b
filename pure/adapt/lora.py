"""LoRA: a frozen model learns through small matrices beside its own.

The adapters are a tree of their own, and the only params of the model made here; the base is bound. So every
stage, optimizer, checkpoint and transform works on adapters as on any params, and `vmap` over stacked
adapters runs several over one base.

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
from pure.adapt.attach import attach, whole
from pure.adapt.lora_config import MATRICES, LoRAConfig, Site, sites, weights
from pure.nn.transformer import init as draw
from pure.types import Model, ParamSpec, Tree

OWN = crc32(b"lora")
"""Sets the keys of this dropout apart."""


class Merged(NamedTuple):
    """Params with the adapters worked in, arranged for generation: what `Model.prepare` makes.

    Fields:
        params: of the model below.
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
    """Makes a model whose params are adapters, over a base that never changes.

    A change of weights that fine-tuning finds has low rank; so two thin matrices can hold it, and the
    optimizer's memory, the gradients and the file shrink to a hundredth.

        W' = W + s B A,     s = alpha / R, or alpha / √R with `use_rslora`;     DoRA: W' = m (W + s B A) / ‖W
        + s B A‖

    Args:
        model: from `transformer`, or made by this function.
        base: its params; matrices may be `NF4` nodes.
        rank, alpha, targets, rank_pattern, alpha_pattern, dropout, use_rslora, use_dora: as in `LoRAConfig`.

    Returns:
        Model. `init` draws A from a normal distribution with PEFT's variance 1/(3 I) and sets B to 0, so that
        it begins as the base; `{}` in the place of the params is the base without an adapter, as a reference
        policy wants it; `prepare` works the adapters into a copy of the base.

    Raises:
        ValueError: if a target fits no matrix of the base, or a value is out of range.

    Example:
        >>> from pure.config import ModelConfig
        >>> from pure.nn.transformer import transformer
        >>> plain = transformer(ModelConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, num_key_value_heads=1))
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
    """Is `lora` with its options in one piece.

    Args:
        model, base: as in `lora`.
        config: the options.

    Raises:
        ValueError: as `lora`.
    """
    found = sites(base, config)
    squares = _squares(base, found) if config.use_dora else {}
    rate = torch.tensor(config.dropout, device=_device(base)) if config.dropout else None
    attached = partial(attach, base=base, found=found, squares=squares, rate=rate)
    spec = _spec(base, found, config.use_dora)
    return Model(
        config=model.config,
        spec=spec,
        init=partial(init, spec=spec, squares=squares),
        hidden=partial(_hidden, hidden=model.hidden, attached=attached),
        logits=partial(_logits, logits=model.logits, attached=attached),
        forward=partial(_forward, forward=model.forward, attached=attached),
        cache=model.cache,
        decode=partial(_decode, decode=model.decode, attached=attached),
        prepare=partial(_prepare, prepare=model.prepare, attached=attached),
    )


def adapter_spec(base: Tree, config: LoRAConfig) -> Tree:
    """Describes the adapters as ParamSpecs: nested as the base, without what has none.

    Raises:
        ValueError: if a target fits no matrix.
    """
    return _spec(base, sites(base, config), config.use_dora)


def init(key: Tensor, *, spec: Tree, squares: Mapping[str, Tensor]) -> Tree:
    """Draws the adapters: A normal, B zero, and, for DoRA, the lengths that the base's rows have.

    Args:
        key: [2] uint32.
        spec: tree of ParamSpec.
        squares: {path: [O]} of the base, bound by `lora`.

    Returns:
        Adapters on the key's device; no two share storage.
    """
    lengths = {f"{path}/magnitude": square.sqrt() for path, square in squares.items()}
    return tree.map_with_path(
        lambda path, x: lengths[path].to(key.device) if path in lengths else x, draw(key, spec=spec)
    )


def merge(base: Tree, adapters: Tree, config: LoRAConfig) -> Tree:
    """Works the adapters into the matrices, so that the model below computes the same without them.

    Args:
        base: params; NF4 matrices come back whole, in float32.
        adapters: of `lora(model, base, ...)`.
        config: the options that it was made with.

    Returns:
        Params of the model below; leaves without an adapter are the base's own, the others of the base's
        dtype, rounded once from float32.

    Raises:
        ValueError: if the options do not fit the base.
    """
    found = sites(base, config)
    squares = _squares(base, found) if config.use_dora else {}
    return whole(attach(adapters, base=base, found=found, squares=squares, rate=None))


def unmerge(merged: Tree, adapters: Tree, config: LoRAConfig) -> Tree:
    """Undoes `merge`, up to the rounding of the dtype.

    Args:
        merged: params that `merge` made.
        adapters, config: those that it was given.

    Raises:
        ValueError: for DoRA, whose lengths of the base's rows are lost.
    """
    if config.use_dora:
        raise ValueError(
            "lora: merged DoRA cannot be taken out, as the rows' first lengths are lost; keep the base"
        )
    away = tree.map_with_path(lambda path, x: -x if path.endswith("/b") else x, adapters)
    return merge(merged, away, config)


def _hidden(
    adapters: Tree,
    tokens: Tensor,
    *,
    key: Tensor | None = None,
    hidden: Callable,
    attached: Callable,
    **arguments: Any,
) -> Tensor:
    """The model's own, on the base with the adapters; the key serves both kinds of dropout."""
    return hidden(attached(adapters, key=_row_keys(key, tokens, attached)), tokens, key=key, **arguments)


def _logits(adapters: Tree, states: Tensor, *, logits: Callable, attached: Callable) -> Tensor:
    """The model's own; an adapter of the head drops nothing."""
    return logits(attached(adapters), states)


def _forward(
    adapters: Tree, tokens: Tensor, *, forward: Callable, attached: Callable, **arguments: Any
) -> Tensor:
    """The model's own."""
    rows = _row_keys(arguments.get("key"), tokens, attached)
    return forward(attached(adapters, key=rows), tokens, **arguments)


def _decode(
    adapters: Tree, tokens: Tensor, cache: Tree, *, decode: Callable, attached: Callable, **arguments: Any
) -> tuple[Tensor, Tree]:
    """The model's own, on merged params where `prepare` has made them."""
    params = adapters.params if isinstance(adapters, Merged) else attached(adapters)
    return decode(params, tokens, cache, **arguments)


def _prepare(adapters: Tree, *, rows: int | None = None, prepare: Callable, attached: Callable) -> Tree:
    """Merged, then as the model below likes it."""
    if isinstance(adapters, Merged):
        return adapters
    params = attached(adapters)
    return Merged(prepare(whole(params, params["embedding"].dtype), rows=rows))


def _spec(base: Tree, found: Mapping[str, Site], dora: bool) -> Tree:
    """ParamSpecs of the adapters: nested as the base, without what has none."""

    def part(path: str) -> Tree:
        rank, (out, into) = found[path].rank, found[path].shape
        spec = {
            "a": ParamSpec(shape=(rank, into), std=(3 * into) ** -0.5),
            "b": ParamSpec(shape=(out, rank), init="zeros"),
        }
        return {**spec, "magnitude": ParamSpec(shape=(out,), init="ones")} if dora else spec

    return _pruned(base, "", part, found)


def _pruned(base: Tree, path: str, part: Callable[[str], Tree], found: Mapping[str, Site]) -> Tree:
    """The branches of a tree that lead to an adapter; lists keep their length, so that paths keep their
    numbers."""
    below = {
        name: f"{path}/{name}" if path else str(name) for name in (base if isinstance(base, dict) else ())
    }
    if isinstance(base, list):
        return [_pruned(x, f"{path}/{i}", part, found) for i, x in enumerate(base)]
    kept = {}
    for name, whole_path in below.items():
        if whole_path in found:
            kept[name] = part(whole_path)
        elif any(site.startswith(f"{whole_path}/") for site in found):
            kept[name] = _pruned(base[name], whole_path, part, found)
    return kept


def _squares(base: Tree, found: Mapping[str, Site]) -> dict[str, Tensor]:
    """{path: squared lengths of the rows [O] float32}."""
    leaves = weights(base)
    return {path: whole(leaves[path]).float().square().sum(-1) for path in found}


def _row_keys(key: Tensor | None, tokens: Tensor, attached: Any) -> Tensor | None:
    """[2] or [B, 2] -> [B, 2], apart from those of the model's own dropout; None where adapters drop
    nothing."""
    if key is None or attached.keywords["rate"] is None:
        return None
    rows, own = tokens.shape[0], torch.func.vmap(random.fold_in, (0, None))(key.reshape(-1, 2), OWN)
    if key.ndim == 2:
        return own
    return torch.func.vmap(random.fold_in, (None, 0))(own[0], torch.arange(rows, device=key.device))


def _device(base: Tree) -> torch.device:
    """Where the base lies."""
    return tree.leaves(base)[0].device
