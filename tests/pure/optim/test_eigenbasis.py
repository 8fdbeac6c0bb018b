"""Bases of the sides of a matrix: what becomes of each coordinate when they change."""

from __future__ import annotations

import torch

from pure import random
from pure.optim.eigenbasis import Sides, average_products, next_bases, rotate, rotate_back

YES, NO = torch.tensor(True), torch.tensor(False)


def symmetric(seed: int, *shape: int) -> torch.Tensor:
    x = random.normal(random.key(seed), shape).double()
    return x @ x.mT


def test_repeated_power_iterations_find_the_eigenvectors_in_order() -> None:
    statistics = [Sides(symmetric(0, 4, 4), symmetric(1, 3, 3))]
    bases, squares = [Sides(torch.eye(4).double(), torch.eye(3).double())], [torch.ones(4, 3).double()]
    for _ in range(200):
        bases, squares = next_bases(NO, YES, statistics, bases, squares)
    exact, _ = next_bases(YES, NO, statistics, bases, squares)
    for found, expected in zip(bases[0], exact[0], strict=True):
        torch.testing.assert_close((found.mT @ expected).abs(), torch.eye(len(found)).double())


def test_squares_follow_their_coordinates_when_two_eigenvalues_cross() -> None:
    """The basis is the identity, and the second axis has become the larger one."""
    statistics, bases = [Sides(None, torch.diag(torch.tensor([1.0, 9.0])))], [Sides(None, torch.eye(2))]
    new, squares = next_bases(NO, YES, statistics, bases, [torch.tensor([[0.1, 0.9]])])
    assert squares[0].tolist() == [[torch.tensor(0.9).item(), torch.tensor(0.1).item()]]
    assert new[0].right is not None
    torch.testing.assert_close(new[0].right.abs(), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))


def test_a_batch_of_matrices_equals_each_alone() -> None:
    g = random.normal(random.key(0), (2, 4, 3)).double()
    zeros = Sides(torch.zeros(2, 4, 4).double(), torch.zeros(2, 3, 3).double())
    statistics = [average_products(zeros, g, 0.5)]
    bases, _ = next_bases(YES, NO, statistics, [zeros], [g])
    new, squares = next_bases(NO, YES, statistics, bases, [g])
    for i in range(2):
        alone = [Sides(*(x[i] for x in statistics[0]))], [Sides(*(x[i] for x in bases[0]))], [g[i]]
        (basis,), (square,) = next_bases(NO, YES, *alone)
        torch.testing.assert_close(square, squares[0][i])
        torch.testing.assert_close(rotate(g[i], basis), rotate(g, new[0])[i])
        torch.testing.assert_close(rotate_back(rotate(g[i], basis), basis), g[i])
