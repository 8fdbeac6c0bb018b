"""Norms of per-sample gradients, and weighted sums of them, from inputs and output gradients.

The gradient of example b is G[b] = Σ_t d_tᵀ x_t, over all positions t of all uses of the matrix. Its squared
norm needs no G: it is Σ_tt' (x_t · x_t') (d_t · d_t').

Shape letters: B examples, R rows, S positions of an example, I input width, O output width.

Goodfellow, "Efficient Per-Example Gradient Computations", 2015; Li et al., "Large Language Models Can Be
Strong Differentially Private Learners", 2022 (sequences).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from pure.loss.check import upcast
from pure.transform.example_rows import Rows, by_example, by_row
from pure.transform.recorder import Use

WHOLE = 2**22
"""Numbers in the gradients of all examples of a matrix, up to which they are computed at once."""


class Term(NamedTuple):
    """One use of a matrix in the backward pass: its input and the gradient of its output, by example.

    Fields:
        inputs: x [B, S, I], or tokens [B, S] of a lookup.
        grads: d [B, S, O], float32 or float64.
        swapped: the gradient is the transpose of dᵀ x.
        gram: x xᵀ [B, S, S], if it is known, as several matrices have this input.
    """

    inputs: Tensor
    grads: Tensor
    swapped: bool = False
    gram: Tensor | None = None

    @property
    def is_lookup(self) -> bool:
        """Reports if it is a lookup of rows."""
        return not self.inputs.is_floating_point()


def term_of(rows: Rows, use: Use, d: Tensor, gram: Tensor | None = None) -> Term:
    """Arranges a use by example, in at least float32.

    Args:
        rows: the order of the rows.
        use: the use.
        d: [R, ..., O], the gradient of its output.
        gram: of the input, see `input_gram`.

    Returns:
        Term; the factor of the use is in `grads`.
    """
    grads = upcast(by_example(rows, d))
    if not (isinstance(use.factor, float) and use.factor == 1.0):
        grads = grads * use.factor
    if use.is_lookup:
        return Term(by_example(rows, use.inputs[..., None])[..., 0], grads, use.swapped)
    return Term(upcast(by_example(rows, use.inputs)), grads, use.swapped, gram)


def input_gram(rows: Rows, use: Use) -> Tensor | None:
    """Computes x xᵀ of the input of a product: [B, S, S]; None if it takes more work than it saves."""
    x = upcast(by_example(rows, use.inputs))
    return x @ x.mT if x.shape[1] <= x.shape[2] else None


def squared_norms(terms: Sequence[Term]) -> Tensor:
    """Computes the squared norm of each example's gradient of one matrix.

        ‖Σ_u G_u[b]‖² = Σ_u ‖G_u[b]‖² + 2 Σ_{u < v} ⟨G_u[b], G_v[b]⟩,    G_u the gradient of use u

    Args:
        terms: all uses of the matrix: a tied embedding has two.

    Returns:
        [B] float.

    Example:
        x = (1, 2) and d = 3: the gradient (3, 6) has the squared norm 45.

        >>> squared_norms([Term(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0]]]))])
        tensor([45.])
    """
    total = sum(_own_norm(term) for term in terms)
    for first, second in combinations(terms, 2):
        total = total + 2 * _inner(first, second)
    assert isinstance(total, Tensor), "a matrix that is listed has a use"
    return total


def weighted_sum(rows: Rows, use: Use, d: Tensor, factors: Tensor, like: Tensor) -> Tensor:
    """Computes Σ_b factors[b] G[b] of one use: one product over all rows.

    Args:
        rows, use, d: as in `term_of`.
        factors: [B].
        like: the matrix.

    Returns:
        The sum, with shape and dtype of the matrix.

    Example:
        Gradients 3 and 4, the second one halved.

        >>> use, matrix = Use(0, torch.ones(2, 1), 1.0, False), torch.zeros(1, 1)
        >>> weighted_sum(Rows(2, 0), use, torch.tensor([[3.0], [4.0]]), torch.tensor([1.0, 0.5]), matrix)
        tensor([[5.]])
    """
    scale = (by_row(rows, factors, len(d)) * use.factor).view(-1, *[1] * (d.ndim - 1))
    if use.is_lookup:
        grads = (d * scale).flatten(0, -2).to(like.dtype)
        return torch.zeros_like(like).index_add(0, use.inputs.flatten(), grads)
    x = use.inputs.to(d.dtype)
    if x.shape[-1] < d.shape[-1]:
        x = (x * scale).to(d.dtype)
    else:
        d = (d * scale).to(d.dtype)
    x, d = x.flatten(0, -2), d.flatten(0, -2)
    return (x.T @ d if use.swapped else d.T @ x).to(like.dtype)


def _own_norm(term: Term) -> Tensor:
    """The squared norm of the gradient of one use: [B]; by the cheaper of two ways."""
    x, d = term.inputs, term.grads
    if term.is_lookup:
        return _lookup_norm(x, d)
    (count, size, into), out = x.shape, d.shape[-1]
    if size * (into + out if term.gram is None else out) <= into * out:
        gram = x @ x.mT if term.gram is None else term.gram
        return (gram * (d @ d.mT)).sum((1, 2))
    if count * into * out <= WHOLE:
        return (d.mT @ x).square().sum((1, 2))
    return torch.stack([(d[i].T @ x[i]).square().sum() for i in range(count)])


def _lookup_norm(tokens: Tensor, d: Tensor) -> Tensor:
    """The same of a lookup: the gradient's row of a token is the sum of d over the token's positions."""
    count = len(tokens)
    example = torch.arange(count, device=tokens.device)[:, None]
    offset = tokens.max() + 1 if tokens.numel() else 1
    found, place = torch.unique(tokens + example * offset, return_inverse=True)
    summed = d.new_zeros(len(found), d.shape[-1]).index_add_(0, place.flatten(), d.flatten(0, 1))
    squares = summed.square().sum(1)
    return d.new_zeros(count).index_add_(0, found // offset, squares)


def _inner(first: Term, second: Term) -> Tensor:
    """The inner product of each example's gradients of two uses: [B]."""
    if first.is_lookup and second.is_lookup:
        same = first.inputs[:, :, None] == second.inputs[:, None]
        return ((first.grads @ second.grads.mT) * same).sum((1, 2))
    if first.is_lookup or second.is_lookup:
        return _lookup_inner(*((first, second) if first.is_lookup else (second, first)))
    (x, d), (y, e) = (first.inputs, first.grads), (second.inputs, second.grads)
    if first.swapped != second.swapped:
        y, e = e, y
    return ((x @ y.mT) * (d @ e.mT)).sum((1, 2))


def _lookup_inner(lookup: Term, product: Term) -> Tensor:
    """The same of a lookup and a product with the table (its transpose): Σ_tt' e_t'[token_t] (d_t · y_t')."""
    y, e = product.inputs, product.grads
    if product.swapped:
        y, e = e, y
    index = lookup.inputs[:, None].expand(-1, e.shape[1], -1)
    return (e.gather(2, index) * (y @ lookup.grads.mT)).sum((1, 2))
