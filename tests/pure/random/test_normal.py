"""Normal numbers against jax.random's, over a million draws each, and against their own distribution."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pure.random.keys import key
from pure.random.normal import normal, truncated_normal
from tests.pure.random.test_erf_inv import ulps

MILLION = 1 << 20
OURS, THEIRS = key(7), jax.random.PRNGKey(7)
NARROW = ["float16", "bfloat16"]


def test_normal() -> None:
    ours, theirs = normal(OURS, (MILLION,)), torch.from_numpy(np.array(jax.random.normal(THEIRS, (MILLION,))))
    apart = ulps(ours, theirs)
    assert apart.max() <= 3
    assert (apart == 0).double().mean() > 0.99
    torch.testing.assert_close(ours, theirs, rtol=2.5e-7, atol=0)


@pytest.mark.parametrize("name", NARROW)
def test_narrow_normals_are_equal(name: str) -> None:
    ours, theirs = normal(OURS, (MILLION,), getattr(torch, name)), jax.random.normal(THEIRS, (MILLION,), name)
    assert ours.dtype == getattr(torch, name)
    assert np.array_equal(ours.double(), np.asarray(theirs, np.float64))


def test_normal_of_64_bits() -> None:
    with jax.enable_x64(True):
        theirs = np.asarray(jax.random.normal(THEIRS, (MILLION,), jnp.float64))
    np.testing.assert_allclose(normal(OURS, (MILLION,), torch.float64), theirs, rtol=2e-12)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3)])
def test_shapes(shape: tuple[int, ...]) -> None:
    assert normal(OURS, shape).shape == shape
    np.testing.assert_allclose(normal(OURS, shape), jax.random.normal(THEIRS, shape), rtol=2.5e-7)


def test_moments() -> None:
    """Of a million: mean 0 ± 0.005 (five standard errors), variance 1, no skew, kurtosis 3."""
    x = normal(OURS, (MILLION,)).double()
    for power, expected in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert abs((x**power).mean().item() - expected) < 0.005 * power**2


@pytest.mark.parametrize(
    ("low", "high"), [(-2.0, 2.0), (-1.0, 3.0), (2.0, 2.5), (-9.0, 9.0), (1.0, 1.0), (1.0, -1.0)]
)
def test_truncated_normal(low: float, high: float) -> None:
    ours = truncated_normal(OURS, low, high, (MILLION,))
    theirs = torch.from_numpy(np.array(jax.random.truncated_normal(THEIRS, low, high, (MILLION,))))
    apart = ulps(ours, theirs)
    assert apart.max() <= 3
    assert (apart == 0).double().mean() > 0.98
    if low < high:
        assert low < ours.min()
        assert ours.max() < high


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (-1.0, 3.0), (2.0, 2.5)])
def test_narrow_truncated_normals_are_equal(name: str, low: float, high: float) -> None:
    ours = truncated_normal(OURS, low, high, (MILLION,), getattr(torch, name))
    theirs = jax.random.truncated_normal(THEIRS, low, high, (MILLION,), name)
    assert np.array_equal(ours.double(), np.asarray(theirs, np.float64))


@pytest.mark.parametrize("name", ["float32", *NARROW])
def test_truncated_between_tensors(name: str) -> None:
    low, high = (
        np.linspace(-3, 2, 1024, dtype=np.float32)[:, None],
        np.linspace(2.5, 3, 1024, dtype=np.float32),
    )
    ours = truncated_normal(OURS, torch.from_numpy(low), torch.from_numpy(high), dtype=getattr(torch, name))
    theirs = jax.random.truncated_normal(THEIRS, jnp.asarray(low, name), jnp.asarray(high, name), dtype=name)
    if name == "float32":
        assert ulps(ours, torch.from_numpy(np.array(theirs))).max() <= 3
    else:
        assert np.array_equal(ours.double(), np.asarray(theirs, np.float64))
