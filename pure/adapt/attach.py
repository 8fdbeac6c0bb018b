"""Adapters beside the matrices of a base, as nodes of its tree; and nodes made whole matrices again.

Shape letters: O output width, I input width, R rank, B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pure import random
from pure.adapt.lora_config import Site
from pure.nn.linear import LoRA, row_lengths
from pure.nn.nf4 import NF4, dequantize
from pure.types import Tree


def attach(
    adapters: Tree,
    *,
    base: Tree,
    found: Mapping[str, Site],
    squares: Mapping[str, Tensor],
    rate: Tensor | None,
    key: Tensor | None = None,
) -> Tree:
    """Puts each adapter beside its matrix: the base's params, with `LoRA` nodes where there is one.

    Args:
        adapters: as the model's spec; `{}` gives the base.
        base, found, squares, rate: bound by `lora`.
        key: [B, 2] uint32, of the dropout; None drops nothing.

    Returns:
        Params for the model below.
    """
    if not adapters:
        return base
    keys = (
        dict(zip(found, _site_keys(key, [site.number for site in found.values()]), strict=True))
        if key is not None and rate is not None
        else {}
    )

    def put(path: str, leaf: Tree, part: Tree) -> Tree:
        key = keys.get(path)
        return LoRA(
            leaf,
            part["a"],
            part["b"] * found[path].scale,
            part.get("magnitude"),
            squares.get(path),
            key,
            None if key is None else rate,
        )

    return _walk(base, adapters, put)


def whole(params: Tree, dtype: torch.dtype = torch.float32) -> Tree:
    """Makes every node that stands for a matrix into that matrix: LoRA works its change in, NF4 is
    dequantised.

    Args:
        params: a tree, or one node.
        dtype: of what was quantised; other matrices keep theirs.

    Returns:
        The tree without nodes.
    """
    if isinstance(params, LoRA):
        base = whole(params.base, dtype)
        made = base.float() + params.b.float() @ params.a.float()
        if params.magnitude is not None:
            made = made * (params.magnitude / row_lengths(params))[:, None]
        return made.to(base.dtype)
    if isinstance(params, NF4):
        return dequantize(params, dtype)
    if isinstance(params, dict):
        return {name: whole(part, dtype) for name, part in params.items()}
    return [whole(part, dtype) for part in params] if isinstance(params, list) else params


def _walk(base: Tree, adapters: Tree, put: Callable[[str, Tree, Tree], Tree], path: str = "") -> Tree:
    """The base, with `put(path, leaf, adapter)` where there is an adapter."""
    if isinstance(base, list):
        return [
            _walk(x, part, put, f"{path}/{i}") for i, (x, part) in enumerate(zip(base, adapters, strict=True))
        ]
    if not isinstance(base, dict):
        return put(path, base, adapters)
    return {
        name: _walk(x, adapters[name], put, f"{path}/{name}" if path else name) if name in adapters else x
        for name, x in base.items()
    }


def _site_keys(key: Tensor, numbers: list[int]) -> Sequence[Tensor]:
    """[B, 2] -> one [B, 2] for each number, from one draw."""
    names = torch.tensor(numbers, device=key.device)
    each = torch.func.vmap(torch.func.vmap(random.fold_in, (None, 0)), (0, None))(key, names)
    return each.unbind(1)
