"""`random.normal` and `truncated_normal` against jax.random's, over a million samples each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from pure.random.keys import key
from pure.random.normal import normal, truncated_normal
from tests.pure.random.test_erf_inv import ulp_distance

MILLION = 1 << 20
OURS, THEIRS = key(7), jax.random.PRNGKey(7)
HALF_PRECISION = ["float16", "bfloat16"]


def test_normal_is_within_3_ulps_of_jax() -> None:
    ours, theirs = normal(OURS, (MILLION,)), torch.from_numpy(np.array(jax.random.normal(THEIRS, (MILLION,))))
    distances = ulp_distance(ours, theirs)
    assert distances.max() <= 3
    assert (distances == 0).double().mean() > 0.99
    torch.testing.assert_close(ours, theirs, rtol=2.5e-7, atol=0)


@pytest.mark.parametrize("name", HALF_PRECISION)
def test_half_precision_normal_equals_jax_exactly(name: str) -> None:
    ours, theirs = normal(OURS, (MILLION,), getattr(torch, name)), jax.random.normal(THEIRS, (MILLION,), name)
    assert ours.dtype == getattr(torch, name)
    assert np.array_equal(ours.double(), np.asarray(theirs, np.float64))


def test_float64_normal_equals_jax_up_to_rounding() -> None:
    with jax.enable_x64(True):
        theirs = np.asarray(jax.random.normal(THEIRS, (MILLION,), jnp.float64))
    np.testing.assert_allclose(normal(OURS, (MILLION,), torch.float64), theirs, rtol=2e-12)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3)])
def test_normal_of_each_shape_equals_jax(shape: tuple[int, ...]) -> None:
    assert normal(OURS, shape).shape == shape
    np.testing.assert_allclose(normal(OURS, shape), jax.random.normal(THEIRS, shape), rtol=2.5e-7)


def test_moments_of_normal() -> None:
    """Mean 0, variance 1, no skew, kurtosis 3. The tolerance of the mean is five standard errors."""
    x = normal(OURS, (MILLION,)).double()
    for power, expected in ((1, 0), (2, 1), (3, 0), (4, 3)):
        assert abs((x**power).mean().item() - expected) < 0.005 * power**2


@pytest.mark.parametrize(
    ("low", "high"), [(-2.0, 2.0), (-1.0, 3.0), (2.0, 2.5), (-9.0, 9.0), (1.0, 1.0), (1.0, -1.0)]
)
def test_truncated_normal_is_within_3_ulps_of_jax(low: float, high: float) -> None:
    ours = truncated_normal(OURS, low, high, (MILLION,))
    theirs = torch.from_numpy(np.array(jax.random.truncated_normal(THEIRS, low, high, (MILLION,))))
    distances = ulp_distance(ours, theirs)
    assert distances.max() <= 3
    assert (distances == 0).double().mean() > 0.98
    if low < high:
        assert low < ours.min()
        assert ours.max() < high


@pytest.mark.parametrize("name", HALF_PRECISION)
@pytest.mark.parametrize(("low", "high"), [(-2.0, 2.0), (-1.0, 3.0), (2.0, 2.5)])
def test_half_precision_truncated_normal_equals_jax_exactly(name: str, low: float, high: float) -> None:
    ours = truncated_normal(OURS, low, high, (MILLION,), getattr(torch, name))
    theirs = jax.random.truncated_normal(THEIRS, low, high, (MILLION,), name)
    assert np.array_equal(ours.double(), np.asarray(theirs, np.float64))


@pytest.mark.parametrize("name", ["float32", *HALF_PRECISION])
def test_truncated_normal_with_tensors_as_bounds_equals_jax(name: str) -> None:
    low = np.linspace(-3, 2, 1024, dtype=np.float32)[:, None]
    high = np.linspace(2.5, 3, 1024, dtype=np.float32)
    ours = truncated_normal(OURS, torch.from_numpy(low), torch.from_numpy(high), dtype=getattr(torch, name))
    theirs = jax.random.truncated_normal(THEIRS, jnp.asarray(low, name), jnp.asarray(high, name), dtype=name)
    if name == "float32":
        assert ulp_distance(ours, torch.from_numpy(np.array(theirs))).max() <= 3
    else:
        assert np.array_equal(ours.double(), np.asarray(theirs, np.float64))
