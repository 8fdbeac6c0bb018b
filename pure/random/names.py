"""Names of jax.random that pure.random does not have, each with what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pure.absent import refuse_name

_FORMULAS: Mapping[str, str] = {
    "PRNGKey": "random.key(seed)",
    "cauchy": "(torch.pi * (random.uniform(key, shape) - 0.5)).tan()",
    "key_dtype": "torch.uint32",
    "key_impl": '"threefry2x32"',
    "logistic": "random.uniform(key, shape).logit()",
    "lognormal": "(sigma * random.normal(key, shape)).exp()",
    "multivariate_normal": "mean + random.normal(key, shape) @ torch.linalg.cholesky(cov).mT",
    "pareto": "(random.exponential(key, shape) / b).exp()",
    "rayleigh": "scale * (2 * random.exponential(key, shape)).sqrt()",
    "weibull_min": "scale * random.exponential(key, shape) ** (1 / concentration)",
}
"""Name -> an expression of the same distribution (not of the same numbers) or meaning."""

_BY_JAX = (
    "ball", "beta", "binomial", "chisquare", "dirichlet", "double_sided_maxwell", "f", "gamma",
    "generalized_normal", "geometric", "loggamma", "maxwell", "multinomial", "orthogonal", "poisson",
    "random_gamma_p", "t", "triangular", "wald",
)  # fmt: skip
"""Names that only JAX draws."""

_TORCH: Mapping[str, str] = {
    "manual_seed": "random.key(seed)",
    "rand": "random.uniform(key, shape)",
    "randn": "random.normal(key, shape)",
    "randperm": "random.permutation(key, n)",
    "shuffle": "random.permutation(key, x)",
    "seed": "random.key(seed)",
}
"""Names of torch and NumPy -> the same here."""

INSTEAD: Mapping[str, str] = MappingProxyType({
    **{name: f"write {formula}" for name, formula in {**_FORMULAS, **_TORCH}.items()},
    **{
        name: f"with JAX installed, pure.interop.jax.jax_fn_in_torch(jax.random.{name}) draws it"
        for name in _BY_JAX
    },
})  # fmt: skip
"""Name -> the part of the message that says what to write."""


def __getattr__(name: str) -> Any:
    """Answers a missing name of `pure.random`; the package imports this function."""
    refuse_name("pure.random", name, INSTEAD)
