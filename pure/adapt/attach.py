"""Attaching adapters to a base as nodes of its tree, and replacing nodes by plain matrices.

Shape letters: O output width, I input width, R rank, B batch.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021; Liu et al., "DoRA", 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pure import random
from pure.adapt.lora_config import Site
from pure.nn.linear import LoRA, row_norms
from pure.nn.nf4 import NF4, dequantize
from pure.parallel.layers import gather_node
from pure.types import Tree


def attach(
    adapters: Tree,
    *,
    base: Tree,
    adapted: Mapping[str, Site],
    squares: Mapping[str, Tensor],
    rate: Tensor | None,
    key: Tensor | None = None,
) -> Tree:
    """Attaches each adapter to its matrix: the base's params, with `LoRA` nodes in the place of matrices.

    Args:
        adapters: tree of the adapted model's `spec`; `{}` gives the base. Rows are gathered, as they are few.
        base: params of the base model.
        adapted: {path of a matrix: Site}.
        squares: {path: [O] squared norms of the base's rows}, for DoRA; else empty.
        rate: [] dropout rate; None without dropout.
        key: [B, 2] uint32, of the dropout; None disables dropout.

    Returns:
        Params of the base model.

    Raises:
        TypeError: for the params of a base in the place of adapters.
    """
    if not adapters:
        return base
    adapters = gather_node(adapters)
    keys: dict[str, Tensor] = {}
    if key is not None and rate is not None:
        numbers = [site.number for site in adapted.values()]
        keys = dict(zip(adapted, _site_keys(key, numbers), strict=True))

    def make_node(path: str, matrix: Tree, adapter: Tree) -> Tree:
        return LoRA(
            matrix,
            adapter["a"],
            adapter["b"] * adapted[path].scale,
            adapter.get("magnitude"),
            squares.get(path),
            keys.get(path),
            rate if path in keys else None,
        )

    return _map_adapted(base, adapters, make_node)


def materialize(params: Tree, dtype: torch.dtype = torch.float32) -> Tree:
    """Replaces every node by its matrix: LoRA updates are merged, NF4 is dequantised.

    Decoding needs each matrix once per token, so there one plain product is faster than three; and a merged
    model needs no code for adapters, so every other program reads it.

        W' = W + B A
        DoRA: W' = m / ‖W + B A‖ ⊙ (W + B A), for each row

    with W = base, A = a, B = b, m = magnitude of a `LoRA` node.

    Args:
        params: a tree, or one node.
        dtype: the dtype of dequantised matrices; others keep their own.

    Returns:
        The tree without nodes: new dicts and lists; leaves that are tensors are the same objects.

    Steps:
        1. A `LoRA` node: materialise its base, [O, I], which may be a node; add B A, all in float32.
        2. With a magnitude, multiply each row by the magnitude over `row_norms` of the node.
        3. Convert to the dtype of the materialised base: rounded once.
        4. An `NF4` node: `dequantize` it to `dtype`.
        5. A dict or a list: the same for each value; anything else is returned as it is.

    Edge cases: a tree without nodes is copied, its leaves are not.

    Example:
        >>> node = LoRA(torch.tensor([[1.0, 2.0]]), a=torch.tensor([[1.0, 0.0]]), b=torch.tensor([[10.0]]))
        >>> materialize({"q": node})
        {'q': tensor([[11.,  2.]])}

    Source: Hu et al. 2021, section 4.1; Liu et al. 2024, equation 5.
    """
    # 1. LoRA: W + B A [O, I], float32.
    if isinstance(params, LoRA):
        base = materialize(params.base, dtype)
        merged = base.float() + params.b.float() @ params.a.float()
        # 2. DoRA: a factor for each row [O, 1].
        if params.magnitude is not None:
            merged = merged * (params.magnitude / row_norms(params))[:, None]
        # 3. Round to the dtype of the base.
        return merged.to(base.dtype)
    # 4. NF4.
    if isinstance(params, NF4):
        return dequantize(params, dtype)
    # 5. Containers, and other leaves.
    if isinstance(params, dict):
        return {name: materialize(part, dtype) for name, part in params.items()}
    if isinstance(params, list):
        return [materialize(part, dtype) for part in params]
    return params


def _map_adapted(
    base: Tree, adapters: Tree, make_node: Callable[[str, Tree, Tree], Tree], path: str = ""
) -> Tree:
    """Copies the base, with `make_node(path, matrix, adapter)` in the place of adapted matrices."""
    if isinstance(base, list):
        pairs = enumerate(zip(base, adapters, strict=True))
        return [_map_adapted(x, part, make_node, f"{path}/{i}") for i, (x, part) in pairs]
    if not isinstance(base, dict):
        if not isinstance(adapters, dict):
            raise TypeError(
                f"lora: expected adapters, such as {{'a', 'b'}} for each matrix, and {path!r} is a tensor; "
                "the params of an adapted model are those of its own init, not the base's"
            )
        return make_node(path, base, adapters)
    params = dict(base)
    for name, part in adapters.items():
        params[name] = _map_adapted(base[name], part, make_node, f"{path}/{name}" if path else name)
    return params


def _site_keys(key: Tensor, numbers: list[int]) -> Sequence[Tensor]:
    """[B, 2] -> one [B, 2] for each number, in one vectorised hash."""
    data = torch.tensor(numbers, device=key.device)
    keys = torch.func.vmap(torch.func.vmap(random.fold_in, (None, 0)), (0, None))(key, data)
    return keys.unbind(1)
