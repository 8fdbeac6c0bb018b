"""jax.random in PyTorch: the same names, arguments, keys and numbers.

Randomness is an argument. A key [2] uint32 determines the numbers drawn from it: the same key gives the same
numbers on every device, alone or vmapped, in JAX and here. Never draw twice from one key: `split` it, or
`fold_in` the number of the step, the row or the position. Results are on the key's device; nothing waits for
the host.

Agreement with JAX (threefry2x32, `jax_threefry_partitionable`, 64-bit types off) on a CPU: keys, bits,
integers, permutations, choices, signs and uniform numbers bit for bit; float32 `normal` and
`truncated_normal` within 3 units in the last place (99% of all values are equal); `exponential` and `laplace`
within 1 (93%);
`gumbel` within 2.4e-7 max(1, |value|), so that `categorical`, and `choice` with probabilities but without
replacement, differ only where two elements are that close. float16 and bfloat16 are equal throughout; but
Inductor, unlike XLA and eager PyTorch, does not round between their operations. float64 agrees with JAX with
64-bit types on, `normal` within 2e-12 relative, `exponential` and `laplace` within 3e-14.
`python benchmarks/random_equal.py` compares 10 million of each.

Names of jax.random that are not here (`gamma`, `PRNGKey`, ...) raise an AttributeError with the line to
write.

Many keys at once, [n, 2], each with its own numbers:

    torch.func.vmap(random.uniform)(keys)                                        # [n]
    torch.func.vmap(lambda key: random.normal(key, (3, 4)))(keys)                # [n, 3, 4]
    torch.func.vmap(random.fold_in, in_dims=(None, 0))(key, torch.arange(n))     # [n, 2], = split(key, n)

Large draws. Number i depends only on the key and i, so `normal(key, (n,), offset=k)` gives the numbers k to
k + n of any larger draw. Eager draws work in blocks that fit a CPU's cache, with no memory beyond the result:
half a billion normal numbers take half a minute on one core. Compiled code takes a quarter of that. To fill a
large tensor, compile one block, and pass `offset` as a 0-d int64 tensor, so that it is compiled once:

    block = torch.compile(lambda key, offset: random.normal(key, (1 << 20,), offset=offset))
    for start, part in zip(range(0, n, 1 << 20), out.split(1 << 20)):  # out: [n] float32
        part.copy_(block(key, torch.tensor(start))[: len(part)])

Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011. The layout is that of `jax.random`.
"""

from typing import TYPE_CHECKING

from pure.random.choice import choice
from pure.random.exponential import exponential, laplace
from pure.random.gumbel import categorical, gumbel
from pure.random.integers import bits, permutation, randint
from pure.random.keys import clone, fold_in, key, key_data, split, wrap_key_data
from pure.random.normal import normal, truncated_normal
from pure.random.uniform import bernoulli, rademacher, uniform

if not TYPE_CHECKING:  # a type checker then finds misspelled names
    from pure.random.names import __getattr__  # noqa: F401  (Python calls it for a missing name)

__all__ = [
    "bernoulli",
    "bits",
    "categorical",
    "choice",
    "clone",
    "exponential",
    "fold_in",
    "gumbel",
    "key",
    "key_data",
    "laplace",
    "normal",
    "permutation",
    "rademacher",
    "randint",
    "split",
    "truncated_normal",
    "uniform",
    "wrap_key_data",
]
