"""Options of LoRA: the matrices with adapters, and their ranks and scales.

Shape letters: O output width, I input width, R rank.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple
from zlib import crc32

from pure.nn.linear import LoRA
from pure.nn.nf4 import NF4
from pure.number import is_int
from pure.types import Tree

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
"""The matrices of a layer."""


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "conservative": {"rank": 4, "alpha": 8.0, "targets": ("q", "v")},
    "balanced": {"rank": 16, "alpha": 32.0, "targets": ("q", "k", "v", "o"), "dropout": 0.05},
    "aggressive": {"rank": 64, "alpha": 128.0, "targets": MATRICES, "dropout": 0.1},
}
"""Name -> options, from small changes with little forgetting to nearly full fine-tuning."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Options of LoRA adapters.

    Args:
        rank: R, >= 1.
        alpha: > 0; the update B A is scaled by alpha / R.
        targets: names of matrices ("q") or shell patterns of paths ("layers/0/attention/*").
        rank_pattern, alpha_pattern: (pattern, value) pairs: the first that matches a path overrides `rank` or
            `alpha`.
        dropout: dropout rate of an adapter's inputs in training, in [0, 1).
        use_rslora: scale by alpha / √R, so that larger ranks do not learn more slowly.
        use_dora: learn the norm of each row separately from its direction.

    Raises:
        ValueError: for a value out of range.

    Example:
        >>> LoRAConfig(rank=4).alpha
        16.0
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = MATRICES
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, float], ...] = ()
    dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False

    def __post_init__(self) -> None:
        for name in ("targets", "rank_pattern", "alpha_pattern"):
            value = getattr(self, name)
            pairs = value.items() if isinstance(value, Mapping) else value
            object.__setattr__(self, name, (pairs,) if isinstance(pairs, str) else tuple(pairs))
        ranks = (self.rank, *(rank for _, rank in self.rank_pattern))
        if not all(is_int(rank) and rank >= 1 for rank in ranks):
            raise ValueError(f"lora: rank must be a whole number of at least 1, got {ranks}")
        if not all(alpha > 0 for alpha in (self.alpha, *(alpha for _, alpha in self.alpha_pattern))):
            raise ValueError(f"lora: alpha must be above 0, got {self.alpha} and {self.alpha_pattern}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora: dropout must be a rate in [0, 1), got {self.dropout}; 0 disables it")
        if not self.targets:
            raise ValueError(f"lora: targets is empty; give some of {', '.join(MATRICES)}")


class Site(NamedTuple):
    """One adapted matrix.

    Fields:
        rank: R.
        scale: factor of the update B A.
        shape: (O, I) of the matrix.
        number: hash of the path, folded into the dropout's key.
    """

    rank: int
    scale: float
    shape: tuple[int, int]
    number: int


def lora_config(name: str, **changes: Any) -> LoRAConfig:
    """Returns the options of a preset.

    Args:
        name: one of PRESETS.
        changes: options that replace the preset's.

    Raises:
        ValueError: for an unknown name; it lists the names.

    Example:
        >>> lora_config("balanced", rank=8).rank
        8
    """
    if name not in PRESETS:
        raise ValueError(f"lora_config: expected one of {', '.join(PRESETS)}, got {name!r}")
    return LoRAConfig(**{**PRESETS[name], **changes})


def sites(base: Tree, config: LoRAConfig) -> dict[str, Site]:
    """Lists the matrices with an adapter, by their paths.

    Args:
        base: params, with tensors or nodes.
        config: the options.

    Returns:
        {path: Site}, in the order of the tree.

    Raises:
        ValueError: if a target or a pattern matches no matrix.
    """
    matrices = {path: shape for path, leaf in weights(base).items() if len(shape := shape_of(leaf)) == 2}
    matrices.pop("embedding", None)
    patterns = (*config.targets, *(p for p, _ in config.rank_pattern), *(p for p, _ in config.alpha_pattern))
    for pattern in patterns:
        if not any(_matches(pattern, path) for path in matrices):
            names = sorted({path.rsplit("/", 1)[-1] for path in matrices})
            raise ValueError(
                f"lora: {pattern!r} matches no matrix of the base; there are {', '.join(names)}, at paths "
                f"like {next(iter(matrices), 'none')}"
            )
    return {
        path: _site(path, shape, config)
        for path, shape in matrices.items()
        if any(_matches(pattern, path) for pattern in config.targets)
    }


def _site(path: str, shape: tuple[int, ...], config: LoRAConfig) -> Site:
    """Makes the site of one matrix, with the first matching rank and alpha."""
    rank = next((value for pattern, value in config.rank_pattern if _matches(pattern, path)), config.rank)
    alpha = next((value for pattern, value in config.alpha_pattern if _matches(pattern, path)), config.alpha)
    divisor = rank**0.5 if config.use_rslora else rank
    return Site(rank, alpha / divisor, (shape[0], shape[1]), crc32(path.encode()))


def weights(params: Tree, path: str = "") -> dict[str, Tree]:
    """Lists tensors, and nodes in the place of tensors, by path."""
    if not isinstance(params, dict | list):
        return {path: params}
    parts = params.items() if isinstance(params, dict) else enumerate(params)
    by_path: dict[str, Tree] = {}
    for name, part in parts:
        by_path |= weights(part, f"{path}/{name}" if path else str(name))
    return by_path


def shape_of(weight: Tree) -> tuple[int, ...]:
    """Returns the shape of a tensor, or of a node's matrix."""
    if isinstance(weight, LoRA):
        return shape_of(weight.base)
    if isinstance(weight, NF4):
        return weight.codes.shape[0], 2 * weight.codes.shape[1]
    return tuple(weight.shape)


def _matches(pattern: str, path: str) -> bool:
    """Matches a pattern with a path, or, without a slash, with the last name of the path."""
    return fnmatchcase(path if "/" in pattern else path.rsplit("/", 1)[-1], pattern)
