"""Random numbers beside JAX's: `torch.compile(uniform)` and `jax.jit(jax.random.uniform)`, the same numbers
from both.

The first line is the one to reach; the others show what else is drawn in quantity. `--large N` also fills N
normal numbers eagerly, in a fresh process, and prints its time and peak memory: the way a large model is
initialised.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from _timing import header, paired, parser, peak_memory, row
from torch import Tensor

from pure import random

SIZE = 1 << 22


def main() -> None:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--large", type=int, default=0, metavar="N", help="also draw N normal numbers eagerly"
    )
    options = arguments.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(
        f"{SIZE:,} float32 numbers on {device}, {torch.get_num_threads()} threads; JAX on {jax.default_backend()}"
    )
    header()
    for name, ours, theirs, reach in (
        ("uniform", random.uniform, jax.random.uniform, 1.5),
        ("normal", random.normal, jax.random.normal, None),
        ("gumbel", random.gumbel, jax.random.gumbel, None),
    ):
        mine, other = compiled(ours, random.key(0, device=device)), jitted(theirs, jax.random.PRNGKey(0))
        np.testing.assert_allclose(mine().cpu(), other(), rtol=3e-7, atol=1e-6)
        row(name, paired(mine, other, options.pairs), reach, items=SIZE / 1e6, unit="M")
    if options.large:
        memory = peak_memory(large, options.large)
        print(
            f"peak {memory.peak / 2**20:,.0f} MiB, of which {options.large * 4 / 2**20:,.0f} MiB are the result"
        )


def compiled(draw: Callable, key: Tensor) -> Callable[[], Tensor]:
    """Ours, compiled by Inductor as one graph."""
    return partial(torch.compile(lambda key: draw(key, (SIZE,)), fullgraph=True), key)


def jitted(draw: Callable, key: Any) -> Callable[[], Any]:
    """JAX's, compiled by XLA."""
    return partial(jax.jit(lambda key: draw(key, (SIZE,))), key)


def large(size: int) -> Callable[[], None]:
    """A draw that is larger than one likes to hold twice."""

    def draw() -> None:
        start = time.perf_counter()
        random.normal(random.key(0), (size,))
        print(f"{size:,} normal numbers, eager: {time.perf_counter() - start:.1f} s")

    return draw


if __name__ == "__main__":
    main()
