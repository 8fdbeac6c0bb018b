"""Lanczos and conjugate gradients against dense linear algebra, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pure import random, tree
from pure.transform.krylov import cg, lanczos, ravel, unravel

SIZE = 24
LIKE = {"w": torch.zeros(4, 5, dtype=torch.float64), "b": [torch.zeros(4, dtype=torch.float64)]}
KEY = random.key(0)


def symmetric(eigenvalues: Tensor) -> Tensor:
    """A dense symmetric matrix with these eigenvalues."""
    rotation = torch.linalg.qr(random.normal(random.key(1), (SIZE, SIZE)).double())[0]
    return rotation @ torch.diag(eigenvalues.double()) @ rotation.T


def product_with(matrix: Tensor) -> Callable[[Any], Any]:
    return lambda v: unravel(matrix @ ravel(v), LIKE)


POSITIVE = symmetric(torch.linspace(0.1, 9.0, SIZE))
INDEFINITE = symmetric(torch.linspace(-1.0, 9.0, SIZE))
RIGHT = unravel(random.normal(random.key(2), (SIZE,)).double(), LIKE)


@pytest.mark.parametrize(
    "eigenvalues",
    [
        torch.linspace(-1.0, 9.0, SIZE),
        torch.ones(SIZE),  # the space is exhausted in each step
        torch.cat([torch.zeros(SIZE - 2), torch.tensor([3.0, 3.0])]),
        torch.zeros(SIZE),
    ],
)
def test_all_steps_of_lanczos_give_all_eigenvalues_with_their_vectors(eigenvalues: Tensor) -> None:
    matrix = symmetric(eigenvalues)
    found = lanczos(product_with(matrix), KEY, LIKE, SIZE)
    torch.testing.assert_close(found.values, torch.linalg.eigvalsh(matrix), rtol=1e-9, atol=1e-9)
    rows = [tree.map(lambda x, i=i: x[i], found.vectors) for i in range(SIZE)]
    vectors = torch.stack([ravel(row) for row in rows])
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(SIZE, dtype=torch.float64))
    torch.testing.assert_close(matrix @ vectors.T, vectors.T * found.values, rtol=1e-8, atol=1e-8)


def test_few_steps_give_the_outermost_eigenvalues_within_their_residuals_and_moments_by_the_weights() -> None:
    found = lanczos(product_with(INDEFINITE), KEY, LIKE, 12)
    exact = torch.linalg.eigvalsh(INDEFINITE)
    distances = (found.values[:, None] - exact).abs().amin(1)
    assert (distances <= found.residuals + 1e-12).all()
    assert (found.values[-1] - exact[-1]).abs() < 0.02
    # Gauss quadrature: moments of the start vector are exact up to degree 2 K - 1.
    start = ravel(lanczos(product_with(INDEFINITE), KEY, LIKE, 1).vectors)
    for degree in (0, 1, 5):
        moment = start @ torch.linalg.matrix_power(INDEFINITE, degree) @ start
        torch.testing.assert_close((found.weights * found.values**degree).sum(), moment)


def test_lanczos_under_vmap_over_matrices_equals_a_loop() -> None:
    matrices = torch.stack([POSITIVE, symmetric(torch.ones(SIZE))])
    values = torch.func.vmap(lambda m: lanczos(product_with(m), KEY, LIKE, SIZE).values)(matrices)
    torch.testing.assert_close(values, torch.linalg.eigvalsh(matrices), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("damping", [0.0, 0.5, torch.tensor(0.5)])
def test_cg_equals_the_dense_solution(damping: float | Tensor) -> None:
    found = cg(product_with(POSITIVE), RIGHT, damping=damping, tol=1e-12)
    exact = torch.linalg.solve(POSITIVE + damping * torch.eye(SIZE), ravel(RIGHT))
    torch.testing.assert_close(ravel(found.x), exact, rtol=1e-9, atol=1e-9)
    assert not found.indefinite
    assert found.residual < 1e-11
    assert found.steps <= SIZE + 6


def test_cg_says_that_a_matrix_is_indefinite_and_gives_no_number() -> None:
    singular = symmetric(torch.cat([torch.zeros(4), torch.ones(SIZE - 4)]))
    for matrix in (INDEFINITE, -POSITIVE, singular, symmetric(torch.zeros(SIZE))):
        found = cg(product_with(matrix), RIGHT)
        assert found.indefinite
        assert ravel(found.x).isnan().all()
        assert found.residual.isnan()
    assert not cg(product_with(INDEFINITE), RIGHT, damping=2.0).indefinite


def test_cg_that_stops_early_says_how_far_the_solution_is() -> None:
    found = cg(product_with(POSITIVE), RIGHT, steps=3)
    exact = ravel(RIGHT) - POSITIVE @ ravel(found.x)
    torch.testing.assert_close(found.residual, exact.norm() / ravel(RIGHT).norm())
    assert found.residual > 1e-2
    assert found.steps == 3


def test_cg_of_a_zero_right_hand_side_is_zero() -> None:
    found = cg(product_with(POSITIVE), unravel(torch.zeros(SIZE), LIKE))
    assert ravel(found.x).eq(0).all()
    assert found.residual == 0
    assert found.steps == 0


@pytest.mark.parametrize("size", [1e-25, 1e-15, 1e15, 1e25])
def test_cg_solves_for_a_right_hand_side_whose_square_is_no_number_of_float32(size: float) -> None:
    diagonal = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = cg(lambda v: diagonal * v, size * torch.ones(4))
    torch.testing.assert_close(found.x / size, 1 / diagonal)
    assert found.residual < 1e-5


def test_cg_under_vmap_over_right_hand_sides_equals_a_loop() -> None:
    def solve(b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = cg(product_with(POSITIVE), unravel(b, LIKE), steps=40, tol=1e-10)
        return ravel(found.x), found.residual, found.steps

    rights = torch.stack([ravel(RIGHT), torch.zeros(SIZE), POSITIVE[0]])
    for together, alone in zip(
        torch.func.vmap(solve)(rights), zip(*map(solve, rights), strict=True), strict=True
    ):
        torch.testing.assert_close(together, torch.stack(alone), rtol=1e-7, atol=1e-9)


def test_gradients_flow_through_a_solution() -> None:
    """d x / d damping = - (A + damping I)^-1 x."""

    def total(damping: Tensor) -> Tensor:
        return ravel(cg(product_with(POSITIVE), RIGHT, damping=damping, steps=60, tol=1e-14).x).sum()

    matrix = POSITIVE + 0.5 * torch.eye(SIZE)
    exact = -torch.linalg.solve(matrix, torch.linalg.solve(matrix, ravel(RIGHT))).sum()
    found = torch.func.grad(total)(torch.tensor(0.5, dtype=torch.float64))
    torch.testing.assert_close(found, exact, rtol=1e-7, atol=1e-7)


def test_bad_arguments_are_refused() -> None:
    product = product_with(POSITIVE)
    with pytest.raises(ValueError, match=r"lanczos: expected steps in \[1, 24\]"):
        lanczos(product, KEY, LIKE, 25)
    with pytest.raises(ValueError, match="lanczos: the product is not symmetric"):
        lanczos(product_with(POSITIVE.tril()), KEY, LIKE, 3)
    with pytest.raises(ValueError, match="lanczos: the product is not finite"):
        lanczos(product_with(POSITIVE * torch.nan), KEY, LIKE, 2)
    with pytest.raises(ValueError, match="cg: damping must be at least 0, got -1"):
        cg(product, RIGHT, damping=-1.0)
    with pytest.raises(ValueError, match="cg: expected at least 1 step, got 0"):
        cg(product, RIGHT, steps=0)
    with pytest.raises(ValueError, match="cg: tol is relative"):
        cg(product, RIGHT, tol=-1.0)
