"""`erf` and `erf_inv` against XLA's, on the arguments that sampling normal numbers can produce."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from torch import Tensor

from pure.random.erf_inv import erf, erf_inv

EPSILON = torch.finfo(torch.float32).eps
EVERY_FIFTH = torch.arange(0, 1 << 23, 5).to(torch.float32) * (2 * EPSILON) - (1 - EPSILON / 2)
"""Every fifth of the 2²³ arguments of `erf_inv` that sampling a float32 normal can produce.

The bounds below hold for all of them.
"""


def ulp_distance(a: Tensor, b: Tensor) -> Tensor:
    """Count the float32 steps from a to b (units in the last place)."""
    a, b = (x.view(torch.int32).long() for x in (a, b))
    return (torch.where(a < 0, -(1 << 31) - a, a) - torch.where(b < 0, -(1 << 31) - b, b)).abs()


def test_erf_inv_is_within_3_ulps_of_xla() -> None:
    theirs = torch.from_numpy(np.array(jax.jit(jax.lax.erf_inv)(EVERY_FIFTH.numpy())))
    distances = ulp_distance(erf_inv(EVERY_FIFTH), theirs)
    assert distances.max() <= 3
    assert (distances == 0).double().mean() > 0.98
    assert (distances <= 1).double().mean() > 0.99


def test_erf_equals_xla_bit_for_bit() -> None:
    x = torch.linspace(-6, 6, 1 << 20)
    assert torch.equal(erf(x), torch.from_numpy(np.array(jax.jit(jax.lax.erf)(x.numpy()))))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_results_are_rounded_from_higher_precision(dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 1001).to(dtype)
    assert torch.equal(erf(x), torch.erf(x.float()).to(dtype))
    torch.testing.assert_close(
        erf_inv(x), torch.erfinv(x.double()).to(dtype), rtol=torch.finfo(dtype).eps, atol=0
    )


def test_erf_and_erf_inv_are_inverses() -> None:
    x = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    torch.testing.assert_close(erf_inv(erf(x)), x, rtol=1e-10, atol=0)
    torch.testing.assert_close(erf(erf_inv(EVERY_FIFTH[::1000])), EVERY_FIFTH[::1000], rtol=1e-6, atol=0)


def test_erf_inv_is_close_to_float64() -> None:
    x = EVERY_FIFTH[::100]
    torch.testing.assert_close(erf_inv(x).double(), torch.erfinv(x.double()), rtol=6e-6, atol=0)


def test_erf_and_erf_inv_at_the_ends_of_their_domains() -> None:
    x = torch.tensor([-1.0, 0.0, 1.0, 2.0, torch.nan])
    assert torch.equal(erf_inv(x)[:3], torch.tensor([-torch.inf, 0, torch.inf]))
    assert erf_inv(x)[3:].isnan().all()
    assert erf(torch.tensor([-torch.inf, torch.inf])).tolist() == [-1, 1]
