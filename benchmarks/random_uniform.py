"""Random numbers: `torch.compile(uniform)` against `jax.jit(jax.random.uniform)`, the same numbers from both.

    python benchmarks/random_uniform.py [--pairs N] [--large N]

The target is for the first line (uniform); normal and gumbel follow without one. `--large N` also samples N
normal numbers eagerly, in a new process, and prints the time and peak memory: as when a large model is
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
from _timing import make_parser, peak_memory, print_header, print_row, time_pairs
from torch import Tensor

from pure import random

SIZE = 1 << 22


def main() -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "--large", type=int, default=0, metavar="N", help="also sample N normal numbers eagerly"
    )
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    threads = torch.get_num_threads()
    print(f"{SIZE:,} float32 numbers on {device}, {threads} threads; JAX on {jax.default_backend()}")
    print_header()
    for name, ours, theirs, target in (
        ("uniform", random.uniform, jax.random.uniform, 1.5),
        ("normal", random.normal, jax.random.normal, None),
        ("gumbel", random.gumbel, jax.random.gumbel, None),
    ):
        mine = compile_ours(ours, random.key(0, device=device))
        other = compile_theirs(theirs, jax.random.PRNGKey(0))
        np.testing.assert_allclose(mine().cpu(), other(), rtol=3e-7, atol=1e-6)
        print_row(name, time_pairs(mine, other, options.pairs), target, items=SIZE / 1e6, unit="M")
    if options.large:
        peak, result = peak_memory(large_side, options.large).peak, options.large * 4
        print(f"peak {peak / 2**20:,.0f} MiB, of which {result / 2**20:,.0f} MiB are the result")


def compile_ours(sample: Callable[..., Tensor], key: Tensor) -> Callable[[], Tensor]:
    """Compile our sampler with Inductor, as one graph."""
    return partial(torch.compile(lambda key: sample(key, (SIZE,)), fullgraph=True), key)


def compile_theirs(sample: Callable[..., Any], key: Any) -> Callable[[], Any]:
    """Compile JAX's sampler with XLA."""
    return partial(jax.jit(lambda key: sample(key, (SIZE,))), key)


def large_side(size: int) -> Callable[[], None]:
    """Return a function that samples `size` normal numbers, and prints the time."""

    def sample() -> None:
        start = time.perf_counter()
        random.normal(random.key(0), (size,))
        print(f"{size:,} normal numbers, eager: {time.perf_counter() - start:.1f} s")

    return sample


if __name__ == "__main__":
    main()
