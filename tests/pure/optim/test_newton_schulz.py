"""Newton-Schulz against its polynomial, evaluated on singular values in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pure import random
from pure.optim.newton_schulz import DION, STANDARD, coefficients, orthogonalize

SHAPES = ((1, 6, 6), (1, 3, 8), (4, 8, 3))


def singular(x: torch.Tensor) -> np.ndarray:
    return np.linalg.svd(x.numpy(), compute_uv=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [(STANDARD,) * 5, DION])
@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "schatten"])
def test_a_polynomial_of_the_singular_values(shape: tuple, rows: tuple, preconditioning: str) -> None:
    """U p(S) Vᵀ: the vectors stay, each value goes through the odd polynomial a s + b s³ + c s⁵ five
    times."""
    x = torch.tensor(np.random.default_rng(0).normal(size=shape))
    u, s, vt = np.linalg.svd(x.numpy(), full_matrices=False)
    by = {
        "frobenius": np.sqrt((s**2).sum(-1, keepdims=True)),
        "spectral": s.max(-1, keepdims=True),
        "schatten": (s**4).sum(-1, keepdims=True) ** 0.25,
    }
    s = s / by[preconditioning]
    for a, b, c in rows:
        s = a * s + b * s**3 + c * s**5
    coeffs = torch.tensor(rows if rows == DION else STANDARD, dtype=torch.float64)
    found = orthogonalize(x, coeffs, 5, 0.0, preconditioning)
    np.testing.assert_allclose(found.numpy(), (u * s[..., None, :]) @ vt, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
def test_singular_values_come_near_one(shape: tuple, preconditioning: str) -> None:
    x = torch.tensor(np.random.default_rng(1).normal(size=shape))
    found = singular(orthogonalize(x, torch.tensor(STANDARD, dtype=torch.float64), 5, 1e-8, preconditioning))
    assert 0.6 < found.min() <= found.max() < 1.3


@pytest.mark.parametrize("shape", [(3, 48, 16), (1, 32, 96)])
def test_in_bfloat16_the_singular_values_come_as_near(shape: tuple) -> None:
    x, coeffs = random.normal(random.key(3), shape), torch.tensor(STANDARD)
    exact = orthogonalize(x.double(), coeffs)
    found = orthogonalize(x, coeffs, dtype=torch.bfloat16)
    assert found.dtype == torch.float32
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.25
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), exact.float().flatten(), dim=0)
    assert cosine > 0.995


def test_zeros_stay_zero() -> None:
    assert orthogonalize(torch.zeros(1, 2, 3), torch.tensor(STANDARD)).abs().sum() == 0


def test_coefficients() -> None:
    assert coefficients("standard", 5) == STANDARD
    assert coefficients("dion", 5) == DION
    assert coefficients([1, 2, 3], 1) == (1, 2, 3)
    with pytest.raises(ValueError, match="must be numbers or one of standard, dion, got 'polar'"):
        coefficients("polar", 5)
    with pytest.raises(ValueError, match="ns_steps must be an int >= 1, got 0"):
        coefficients(STANDARD, 0)
    with pytest.raises(ValueError, match="5 triples in ns_coeffs and ns_steps=3"):
        coefficients("dion", 3)
    for rows in ((1.0, 2.0), (STANDARD, (1.0, 2.0)), (STANDARD, 1.0)):
        with pytest.raises(ValueError, match="three numbers or a sequence of triples"):
            coefficients(rows, 5)
