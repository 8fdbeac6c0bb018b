"""`random.exponential` and `random.laplace` against jax.random's, and against the moments of their
distributions."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch

from pure import random
from tests.pure.random.test_erf_inv import ulp_distance

MANY = 1 << 18
OURS, THEIRS = random.key(7), jax.random.PRNGKey(7)
NAMES = ["exponential", "laplace"]


@pytest.mark.parametrize("name", NAMES)
def test_samples_equal_jax_within_one_ulp_and_half_precision_exactly(name: str) -> None:
    ours, theirs = getattr(random, name), getattr(jax.random, name)
    distances = ulp_distance(ours(OURS, (MANY,)), torch.from_numpy(np.array(theirs(THEIRS, (MANY,)))))
    assert distances.max() <= 1
    assert (distances == 0).double().mean() > 0.9
    for dtype in ("float16", "bfloat16"):
        half = ours(OURS, (MANY,), getattr(torch, dtype))
        assert half.dtype == getattr(torch, dtype)
        assert np.array_equal(half.double(), np.asarray(theirs(THEIRS, (MANY,), dtype), np.float64))
    with jax.enable_x64(True):
        theirs_float64 = np.asarray(theirs(THEIRS, (1000,), "float64"))
    # XLA's float64 log1p is up to 2.7e-14 from the exact value, torch's 1.4e-16.
    np.testing.assert_allclose(ours(OURS, (1000,), torch.float64), theirs_float64, rtol=4e-14)


@pytest.mark.parametrize(("name", "mean", "variance"), [("exponential", 1, 1), ("laplace", 0, 2)])
def test_samples_have_the_right_moments_and_agree_under_offset_vmap_and_compile(
    name: str, mean: float, variance: float
) -> None:
    sample = getattr(random, name)
    x = sample(OURS, (MANY,))
    assert abs(x.mean() - mean) < 0.015
    assert abs(x.var() - variance) < 0.06
    assert torch.equal(sample(OURS, (5,), offset=100), x[100:105])
    keys = random.split(OURS, 3)
    one_by_one = torch.stack([sample(key, (4,)) for key in keys])
    assert torch.equal(torch.func.vmap(lambda key: sample(key, (4,)))(keys), one_by_one)
    compiled = torch.compile(sample, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(keys[0], (4,)), one_by_one[0])
