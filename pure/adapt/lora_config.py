"""Where LoRA's adapters stand in a model, and how large they are.

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
from pure.types import Tree

MATRICES = ("q", "k", "v", "o", "gate", "up", "down")
"""The matrices of a layer."""


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "conservative": {"rank": 4, "alpha": 8.0, "targets": ("q", "v")},
    "balanced": {"rank": 16, "alpha": 32.0, "targets": ("q", "k", "v", "o"), "dropout": 0.05},
    "aggressive": {"rank": 64, "alpha": 128.0, "targets": MATRICES, "dropout": 0.1},
}
"""Name -> options. The first changes little and forgets little, the last comes near to training every
weight."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Where adapters stand, and how large they are.

    Args:
        rank: R, >= 1.
        alpha: the change is scaled by alpha / R, > 0.
        targets: names of matrices ("q") or patterns of paths ("layers/0/attention/*"), as the shell writes
            them.
        rank_pattern, alpha_pattern: (pattern, value) pairs: the first that fits a path overrules `rank` or
            `alpha`.
        dropout: share of an adapter's inputs that are dropped in training, in [0, 1).
        use_rslora: scale by alpha / √R, so that a larger rank does not learn more slowly.
        use_dora: learn the length of each row apart from its direction.

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
        if any(isinstance(rank, bool) or not isinstance(rank, int) or rank < 1 for rank in ranks):
            raise ValueError(f"lora: rank must be a whole number of at least 1, got {ranks}")
        if not all(alpha > 0 for alpha in (self.alpha, *(alpha for _, alpha in self.alpha_pattern))):
            raise ValueError(f"lora: alpha must be above 0, got {self.alpha} and {self.alpha_pattern}")
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"lora: dropout must be a share in [0, 1), got {self.dropout}; 0 switches it off"
            )
        if not self.targets:
            raise ValueError(f"lora: targets names no matrix; give some of {', '.join(MATRICES)}")


class Site(NamedTuple):
    """One adapted matrix.

    Fields:
        rank: R.
        scale: of the change.
        shape: (O, I) of the matrix.
        number: of its own, for the dropout's key.
    """

    rank: int
    scale: float
    shape: tuple[int, int]
    number: int


def lora_config(name: str, **changes: Any) -> LoRAConfig:
    """Returns options by name.

    Args:
        name: one of PRESETS.
        changes: options to set otherwise.

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
    """Lists the matrices that get an adapter, by their paths.

    Args:
        base: params, tensors or nodes in their place.
        config: the options.

    Returns:
        {path: Site}, in the order of the tree.

    Raises:
        ValueError: if a target or a pattern fits no matrix.
    """
    matrices = {path: shape for path, leaf in weights(base).items() if len(shape := shape_of(leaf)) == 2}
    matrices.pop("embedding", None)
    patterns = (*config.targets, *(p for p, _ in config.rank_pattern), *(p for p, _ in config.alpha_pattern))
    for pattern in patterns:
        if not any(_fits(pattern, path) for path in matrices):
            names = sorted({path.rsplit("/", 1)[-1] for path in matrices})
            raise ValueError(
                f"lora: {pattern!r} fits no matrix of the base; there are {', '.join(names)}, at paths like "
                f"{next(iter(matrices), 'none')}"
            )
    found = {}
    for path, shape in matrices.items():
        if any(_fits(pattern, path) for pattern in config.targets):
            rank = next((value for p, value in config.rank_pattern if _fits(p, path)), config.rank)
            alpha = next((value for p, value in config.alpha_pattern if _fits(p, path)), config.alpha)
            found[path] = Site(
                rank,
                alpha / (rank**0.5 if config.use_rslora else rank),
                (shape[0], shape[1]),
                crc32(path.encode()),
            )
    return found


def weights(params: Tree, path: str = "") -> dict[str, Tree]:
    """Lists tensors and nodes in their place, by path."""
    if isinstance(params, dict | list):
        parts = params.items() if isinstance(params, dict) else enumerate(params)
        found: dict[str, Tree] = {}
        for name, part in parts:
            found |= weights(part, f"{path}/{name}" if path else str(name))
        return found
    return {path: params}


def shape_of(weight: Tree) -> tuple[int, ...]:
    """Tells the shape of a tensor, or of the matrix that a node stands for."""
    if isinstance(weight, LoRA):
        return shape_of(weight.base)
    if isinstance(weight, NF4):
        return weight.codes.shape[0], 2 * weight.codes.shape[1]
    return tuple(weight.shape)


def _fits(pattern: str, path: str) -> bool:
    """Whether a name or a pattern means this path."""
    return fnmatchcase(path, pattern) if "/" in pattern else fnmatchcase(path.rsplit("/", 1)[-1], pattern)
