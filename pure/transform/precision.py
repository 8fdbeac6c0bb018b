"""Mixed precision: parameters are kept in float32 and computed with in fewer bits.

Micikevicius et al., "Mixed Precision Training", 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from pure import tree
from pure.types import Tree


def mixed(function: Callable, dtype: torch.dtype) -> Callable:
    """Returns a function that sees its params in `dtype`; their gradients come back in the params' own.

    Matrix products in bfloat16 are several times faster, but an update of a thousandth would vanish in its 8 bits: so
    the params stay in float32 and only a copy of them is narrow.

        f'(params, ...) = f(cast(params, dtype), ...)

    Args:
        function: (params, *rest) -> anything.
        dtype: torch.bfloat16 or torch.float16 (which needs loss scaling), or torch.float32 for none.

    Returns:
        A function of the same arguments.

    Example:
        >>> mixed(lambda p: p["x"].dtype, torch.bfloat16)({"x": torch.ones(1)})
        torch.bfloat16

    Source: Micikevicius et al. 2018, section 3.1.
    """
    return partial(_mixed, function, dtype)


def _mixed(function: Callable, dtype: torch.dtype, params: Tree, *rest: Any, **options: Any) -> Any:
    """Casts, then calls."""
    return function(tree.cast(params, dtype), *rest, **options)
