"""`random.uniform`, `bernoulli` and `rademacher` against jax.random's, bit for bit, over a million samples
each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pure.random.keys import key
from pure.random.uniform import bernoulli, rademacher, uniform

MILLION = 1 << 20
OURS, THEIRS = key(7), jax.random.PRNGKey(7)
DTYPES = ["float32", "float16", "bfloat16"]


def as_float64(x: torch.Tensor) -> np.ndarray:
    """Convert to float64, which holds every value of the narrower types."""
    return x.double().numpy()


@pytest.mark.parametrize(
    ("name", "shape"),
    [*((name, (MILLION,)) for name in DTYPES), *(("float32", s) for s in [(3, 0, 2), (), (2, 3, 5)])],
)
def test_uniform_equals_jax(name: str, shape: tuple[int, ...]) -> None:
    ours = uniform(OURS, shape, getattr(torch, name))
    theirs = jax.random.uniform(THEIRS, shape, name)
    assert ours.dtype == getattr(torch, name)
    assert ours.shape == theirs.shape
    assert np.array_equal(as_float64(ours), np.asarray(theirs, np.float64))


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0.1, 0.3), (-3.3, 17.77), (1e-3, 1e3), (5, 2), (3, 3)])
def test_uniform_between_bounds_equals_jax(name: str, low: float, high: float) -> None:
    """Also where the range is empty or minval is above maxval: then the result is minval."""
    ours = uniform(OURS, (MILLION,), getattr(torch, name), low, high)
    theirs = jax.random.uniform(THEIRS, (MILLION,), name, low, high)
    assert np.array_equal(as_float64(ours), np.asarray(theirs, np.float64))


def test_uniform_with_tensors_as_bounds_equals_jax() -> None:
    low = np.random.default_rng(0).normal(size=(1024, 1)).astype(np.float32)
    high = np.random.default_rng(1).normal(size=(1024,)).astype(np.float32)
    ours = uniform(OURS, (1024, 1024), minval=torch.from_numpy(low), maxval=torch.from_numpy(high))
    assert np.array_equal(ours, jax.random.uniform(THEIRS, (1024, 1024), minval=low, maxval=high))


def test_float64_uniform_equals_jax() -> None:
    with jax.enable_x64(True):
        theirs = np.asarray(jax.random.uniform(THEIRS, (MILLION,), jnp.float64))
    assert np.array_equal(uniform(OURS, (MILLION,), torch.float64).numpy(), theirs)


def test_uniform_is_differentiable_in_its_bounds() -> None:
    """With u in [0, 1), the derivative by maxval is u, and by minval 1 - u."""
    low, high = torch.tensor(2.0, requires_grad=True), torch.tensor(5.0, requires_grad=True)
    u = uniform(OURS, (1000,))
    by_low, by_high = torch.autograd.grad(uniform(OURS, (1000,), minval=low, maxval=high).sum(), (low, high))
    torch.testing.assert_close(by_low, (1 - u).sum())
    torch.testing.assert_close(by_high, u.sum())


@pytest.mark.parametrize(
    ("name", "mode"), [("float32", "low"), ("float32", "high"), ("float16", "low"), ("bfloat16", "high")]
)
def test_bernoulli_equals_jax(name: str, mode: str) -> None:
    p = np.linspace(0, 1, 1024, dtype=np.float32)
    ours = bernoulli(OURS, torch.from_numpy(p).to(getattr(torch, name)), (1024, 1024), mode)
    theirs = jax.random.bernoulli(THEIRS, jnp.asarray(p, name), (1024, 1024), mode)
    assert ours.dtype == torch.bool
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("p", [0.5, 0.3, 0.0, 1.0])
def test_bernoulli_with_one_probability_equals_jax(p: float) -> None:
    ours = bernoulli(OURS, p, (MILLION,))
    assert np.array_equal(ours, jax.random.bernoulli(THEIRS, p, (MILLION,)))
    assert abs(ours.double().mean().item() - p) < 0.003


def test_bernoulli_has_the_shape_of_p() -> None:
    p = torch.tensor([[0.1], [0.9]])
    assert bernoulli(OURS).shape == ()
    assert np.array_equal(bernoulli(OURS, p), jax.random.bernoulli(THEIRS, p.numpy()))


@pytest.mark.parametrize("name", ["int32", "int8", "float32", "bfloat16"])
def test_rademacher_equals_jax_and_refuses_unsigned_dtypes(name: str) -> None:
    ours = rademacher(OURS, (1000,), getattr(torch, name))
    assert ours.dtype == getattr(torch, name)
    assert np.array_equal(
        as_float64(ours), np.asarray(jax.random.rademacher(THEIRS, (1000,), name), np.float64)
    )
    with pytest.raises(ValueError, match=r"dtype must hold -1, got torch.uint8"):
        rademacher(OURS, (3,), torch.uint8)
