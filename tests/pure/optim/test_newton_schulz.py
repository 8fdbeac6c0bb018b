"""`orthogonalize` (Newton-Schulz) against its polynomial, evaluated on the singular values in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from optax.contrib import _muon

from pure import random
from pure.optim.newton_schulz import DION, STANDARD, coefficients, orthogonalize

SHAPES = ((1, 6, 6), (1, 3, 8), (4, 8, 3))


def singular_values(x: torch.Tensor) -> np.ndarray:
    return np.linalg.svd(x.numpy(), compute_uv=False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("coefficient_rows", [(STANDARD,) * 5, DION])
@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "schatten"])
def test_orthogonalize_applies_its_polynomial_to_the_singular_values(
    shape: tuple, coefficient_rows: tuple, preconditioning: str
) -> None:
    """The result is U p(S) Vᵀ: p applies the odd polynomial a s + b s³ + c s⁵ five times, once for each row
    of coefficients."""
    x = torch.tensor(np.random.default_rng(0).normal(size=shape))
    u, s, vt = np.linalg.svd(x.numpy(), full_matrices=False)
    norms = {
        "frobenius": np.sqrt((s**2).sum(-1, keepdims=True)),
        "spectral": s.max(-1, keepdims=True),
        "schatten": (s**4).sum(-1, keepdims=True) ** 0.25,
    }
    s = s / norms[preconditioning]
    for a, b, c in coefficient_rows:
        s = a * s + b * s**3 + c * s**5
    coeffs = torch.tensor(coefficient_rows if coefficient_rows == DION else STANDARD, dtype=torch.float64)
    result = orthogonalize(x, coeffs, 5, 0.0, preconditioning)
    np.testing.assert_allclose(result.numpy(), (u * s[..., None, :]) @ vt, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
def test_singular_values_of_the_result_are_near_one(shape: tuple, preconditioning: str) -> None:
    x = torch.tensor(np.random.default_rng(1).normal(size=shape))
    values = singular_values(
        orthogonalize(x, torch.tensor(STANDARD, dtype=torch.float64), 5, 1e-8, preconditioning)
    )
    assert 0.6 < values.min() <= values.max() < 1.3


@pytest.mark.parametrize("shape", [(3, 48, 16), (1, 32, 96)])
def test_bfloat16_iterations_are_close_to_float64_ones(shape: tuple) -> None:
    x, coeffs = random.normal(random.key(3), shape), torch.tensor(STANDARD)
    exact = orthogonalize(x.double(), coeffs)
    result = orthogonalize(x, coeffs, dtype=torch.bfloat16)
    assert result.dtype == torch.float32
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6
    assert values.max() < 1.25
    cosine = torch.nn.functional.cosine_similarity(result.flatten(), exact.float().flatten(), dim=0)
    assert cosine > 0.995


def test_a_matrix_of_zeros_stays_zero() -> None:
    assert orthogonalize(torch.zeros(1, 2, 3), torch.tensor(STANDARD)).abs().sum() == 0


def test_coefficients_are_read_by_name_or_value_and_bad_ones_are_refused() -> None:
    assert coefficients("standard", 5) == STANDARD
    assert coefficients("dion", 5) == DION == tuple(_muon._NS_COEFFS_PRESET_DICT["dion"])
    assert coefficients([1, 2, 3], 1) == (1, 2, 3)
    with pytest.raises(ValueError, match="must be numbers or one of standard, dion, got 'polar'"):
        coefficients("polar", 5)
    with pytest.raises(ValueError, match="ns_steps must be an int >= 1, got 0"):
        coefficients(STANDARD, 0)
    with pytest.raises(ValueError, match="5 triples in ns_coeffs and ns_steps=3"):
        coefficients("dion", 3)
    for coefficient_rows in ((1.0, 2.0), (STANDARD, (1.0, 2.0)), (STANDARD, 1.0)):
        with pytest.raises(ValueError, match="three numbers or a sequence of triples"):
            coefficients(coefficient_rows, 5)
