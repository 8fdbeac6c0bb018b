"""Every distribution of `pure.random` against jax.random's, number by number, from the same key.

    python benchmarks/random_equal.py [--draws N] [--only NAME]

For each: the share of equal numbers, and the largest distance, in units in the last place of float32 for
logarithms and normal numbers. The Gumbel numbers near 0 are compared by |ours - theirs| / max(1, |theirs|).
The exit status is 1 if a row is outside its bound.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from pure import random

PROBABILITIES = np.random.default_rng(0).random(1000, dtype=np.float32)
LOGITS = np.log(PROBABILITIES[:8])


class Row(NamedTuple):
    """A draw made by both libraries.

    Fields:
        name: of the draw.
        ours: (key, n) -> our numbers, as NumPy's.
        theirs: (key, n) -> JAX's numbers.
        ulps: the largest distance allowed; 0 is bit for bit.
        relative: the largest |ours - theirs| / max(1, |theirs|) allowed, instead of ulps.
    """

    name: str
    ours: Callable[[Any, int], Any]
    theirs: Callable[[Any, int], Any]
    ulps: int = 0
    relative: float | None = None


def rows() -> list[Row]:
    """Return the table."""
    p = torch.from_numpy(PROBABILITIES)
    logits = torch.from_numpy(LOGITS)
    theirs = jax.random
    return [
        Row(
            "split to (n/2, 2)",
            lambda k, n: random.split(k, (n // 2, 2)),
            lambda k, n: theirs.split(k, (n // 2, 2)),
        ),
        Row("bits", lambda k, n: random.bits(k, (n,)), lambda k, n: theirs.bits(k, (n,))),
        Row("uniform", lambda k, n: random.uniform(k, (n,)), lambda k, n: theirs.uniform(k, (n,))),
        Row(
            "uniform in [-1, 3)",
            lambda k, n: random.uniform(k, (n,), minval=-1.0, maxval=3.0),
            lambda k, n: theirs.uniform(k, (n,), minval=-1.0, maxval=3.0),
        ),
        Row(
            "randint",
            lambda k, n: random.randint(k, (n,), -5, 1 << 30),
            lambda k, n: theirs.randint(k, (n,), -5, 1 << 30),
        ),
        Row(
            "bernoulli",
            lambda k, n: random.bernoulli(k, 0.3, (n,)),
            lambda k, n: theirs.bernoulli(k, np.float32(0.3), (n,)),
        ),
        Row("rademacher", lambda k, n: random.rademacher(k, (n,)), lambda k, n: theirs.rademacher(k, (n,))),
        Row("permutation", random.permutation, theirs.permutation),
        Row("choice", lambda k, n: random.choice(k, 1000, (n,)), lambda k, n: theirs.choice(k, 1000, (n,))),
        Row(
            "choice with p",
            lambda k, n: random.choice(k, 1000, (n,), p=p),
            lambda k, n: theirs.choice(k, 1000, (n,), p=PROBABILITIES),
        ),
        Row(
            "choice without replacement",
            lambda k, n: random.choice(k, n, (n // 2,), replace=False),
            lambda k, n: theirs.choice(k, n, (n // 2,), replace=False),
        ),
        Row(
            "categorical",
            lambda k, n: random.categorical(k, logits, shape=(n // 8,)),
            lambda k, n: theirs.categorical(k, LOGITS, shape=(n // 8,)),
        ),
        Row("normal", lambda k, n: random.normal(k, (n,)), lambda k, n: theirs.normal(k, (n,)), ulps=3),
        Row(
            "truncated_normal",
            lambda k, n: random.truncated_normal(k, -2.0, 2.0, (n,)),
            lambda k, n: theirs.truncated_normal(k, -2.0, 2.0, (n,)),
            ulps=3,
        ),
        Row(
            "exponential",
            lambda k, n: random.exponential(k, (n,)),
            lambda k, n: theirs.exponential(k, (n,)),
            ulps=1,
        ),
        Row("laplace", lambda k, n: random.laplace(k, (n,)), lambda k, n: theirs.laplace(k, (n,)), ulps=1),
        Row(
            "gumbel",
            lambda k, n: random.gumbel(k, (n,)),
            lambda k, n: theirs.gumbel(k, (n,)),
            relative=2.4e-7,
        ),
    ]


def main() -> None:
    """Print the table; exit with status 1 if a row is outside its bound."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--draws", type=int, default=10_000_000, metavar="N", help="numbers a row (10,000,000)"
    )
    parser.add_argument("--only", default="", metavar="NAME", help="rows whose name contains this")
    options = parser.parse_args()
    print(f"{options.draws:,} draws a row, key 7; JAX {jax.__version__} on {jax.default_backend()}")
    print(f"{'':<28} {'equal':>12}  largest distance")
    outside = False
    for row in rows():
        if options.only in row.name:
            equal, distance, within = compare(row, options.draws)
            outside |= not within
            print(
                f"{row.name:<28} {equal:>12.6%}  {distance}{'' if within else '  OUTSIDE ITS BOUND'}",
                flush=True,
            )
    sys.exit(outside)


def compare(row: Row, draws: int) -> tuple[float, str, bool]:
    """Draw from both; return the share of equal numbers, the largest distance and if it is in bounds."""
    ours = np.asarray(row.ours(random.key(7), draws))
    theirs = np.asarray(row.theirs(jax.random.PRNGKey(7), draws))
    if ours.shape != theirs.shape:
        raise SystemExit(f"{row.name}: shapes {ours.shape} and {theirs.shape} differ")
    equal = float((ours == theirs).mean())
    if row.relative is not None:
        gap = np.abs(ours.astype(np.float64) - theirs) / np.maximum(1, np.abs(theirs))
        return equal, f"{gap.max():.1e} of max(1, |x|)", bool(gap.max() <= row.relative)
    if ours.dtype != np.float32:
        return equal, "0" if equal == 1 else "differs", equal == 1
    steps = int(np.abs(ordered(ours) - ordered(theirs)).max())
    return equal, f"{steps} ulp", steps <= row.ulps


def ordered(x: Any) -> Any:
    """Number the float32 values in ascending order, so that neighbours are 1 apart."""
    words = np.ascontiguousarray(x).view(np.int32).astype(np.int64)
    return np.where(words < 0, -(1 << 31) - words, words)


if __name__ == "__main__":
    main()
