"""Newton-Schulz iteration: brings the singular values of a matrix close to 1 by matrix products only.

Shape letters: N matrices, R rows, C columns.

Schulz, "Iterative Berechnung der reziproken Matrix", 1933; Jordan, "Muon: An optimizer for hidden layers in
neural networks", 2024 (standard coefficients); Ahn et al., "Dion: Distributed Orthonormalized Updates",
2025 (dion coefficients).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pure.optim.base import Scalar, upcast
from pure.plural import count_noun

STANDARD = (3.4445, -4.7750, 2.0315)
DION = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
PRESETS: Mapping[str, tuple] = {"standard": STANDARD, "dion": DION}
PRECONDITIONINGS = ("frobenius", "spectral", "aol", "schatten")

Coefficients = Sequence[float] | Sequence[Sequence[float]]
"""(a, b, c) of a step, or one such triple for each step."""


def orthogonalize(
    x: Tensor,
    ns_coeffs: Tensor,
    ns_steps: int = 5,
    eps: Scalar = 1e-8,
    preconditioning: str = "frobenius",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Brings the singular values of each matrix near 1; the singular vectors are unchanged (except by "aol").

    Muon takes equal steps in all directions of a weight matrix. A singular value decomposition would give
    them too, but is slow on a GPU; these are matrix products only.

    The standard coefficients raise small singular values as fast as possible: 5 steps bring those above a
    hundredth of the norm to about 0.7 to 1.2, which is accurate enough.

        X ← X / (‖X‖_F + eps);   then ns_steps times   A = X Xᵀ,  X ← a X + (b A + c A A) X

    Args:
        x: [N, R, C] float, matrices of momentum.
        ns_coeffs: [3] or [n, 3], one triple (a, b, c) for all steps, or one for each of n steps.
        ns_steps: number of steps if `ns_coeffs` is [3]; not read if it is [n, 3].
        eps: added to the norm, so that a matrix of zeros is not divided by 0.
        preconditioning: the first scaling: "frobenius" as above, "spectral" by the largest singular value, or
            a scaling of X and A inside the first step: "aol" divides row i of X by √(Σ_j |A_ij|), "schatten"
            divides X by √‖A‖_F; the numbers under these roots are clamped to at least 1e-8.
        dtype: of the computation; None is that of x. torch.bfloat16 is several times faster and changes
            singular values by a hundredth, as later steps correct rounding errors of earlier ones.

    Returns:
        [N, R, C], the dtype of x.

    Steps:
        1. Transpose tall matrices, R > C, so that A is the smaller product.
        2. Scale the singular values to at most 1, in the dtype of x: divide by the norm of each matrix
            [N, 1, 1] plus eps, for "frobenius" `torch.linalg.vector_norm` over both axes, for "spectral"
            `torch.linalg.matrix_norm` with ord=2. "aol" and "schatten" wait for A.
        3. Cast x to `dtype`, and the coefficients to at least float32; list one triple for each step.
        4. In each step, A [N, R, R]; in the first, x and A by `_first_scaling(x, A, preconditioning)`.
        5. B = b A + c A A: the products in the dtype of x, each upcast (`upcast`), as b and c nearly cancel;
            the sum is cast back. Then a X + B X, upcast and cast back likewise, [N, R, C].
        6. Transpose back, and cast to the dtype of the argument.

    Edge cases: a matrix of zeros stays zero.

    Example:
        One step from 2, scaled to 1: 3.4445 - 4.775 + 2.0315 = 0.701.

        >>> round(orthogonalize(torch.tensor([[[2.0]]]), torch.tensor(STANDARD), ns_steps=1).item(), 3)
        0.701

    Source: Jordan 2024; "aol" Boissin et al., "Turbo-Muon", 2025; "schatten" Grishina et al. 2025.
    """
    # 1. Transpose.
    dtype_of_x, tall = x.dtype, x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    # 2. Scale.
    if preconditioning == "frobenius":
        x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + eps)
    elif preconditioning == "spectral":
        x = x / (torch.linalg.matrix_norm(x, ord=2, keepdim=True) + eps)
    # 3. Dtypes and coefficients.
    x = x.to(dtype or dtype_of_x)
    coeffs = ns_coeffs.to(torch.promote_types(x.dtype, torch.float32))
    steps = coeffs.unbind(0) if coeffs.ndim == 2 else [coeffs] * ns_steps
    for i, step in enumerate(steps):
        a, b, c = step.unbind(0)
        # 4. Products A [N, R, R].
        gram = x @ x.mT
        if i == 0:
            x, gram = _first_scaling(x, gram, preconditioning)
        # 5. Polynomial [N, R, C].
        polynomial = (b * upcast(gram) + c * upcast(gram @ gram)).to(x.dtype)  # b and c nearly cancel
        x = (a * upcast(x) + upcast(polynomial @ x)).to(x.dtype)
    # 6. Transpose back.
    return (x.mT if tall else x).to(dtype_of_x)


def coefficients(ns_coeffs: Coefficients | str, ns_steps: int) -> Coefficients:
    """Returns the coefficients of the steps: a preset by name, or those given, checked.

    Args:
        ns_coeffs: "standard", "dion", (a, b, c), or a sequence of such triples.
        ns_steps: number of steps, >= the number of triples.

    Returns:
        (a, b, c), or a tuple of triples.

    Raises:
        ValueError: for an unknown name, ns_steps < 1, rows that are not triples, or more triples than steps.
    """
    if isinstance(ns_coeffs, str):
        if ns_coeffs not in PRESETS:
            raise ValueError(
                f"muon: ns_coeffs must be numbers or one of {', '.join(PRESETS)}, got {ns_coeffs!r}"
            )
        ns_coeffs = PRESETS[ns_coeffs]
    if not isinstance(ns_steps, int) or ns_steps < 1:
        raise ValueError(f"muon: ns_steps must be an int >= 1, got {ns_steps!r}; 5 is usual")
    triples: list[Sequence] = [tuple(row) for row in ns_coeffs if isinstance(row, Sequence)]
    mixed = triples and len(triples) != len(ns_coeffs)
    if mixed or any(len(row) != 3 for row in triples or [ns_coeffs]):
        raise ValueError(f"muon: ns_coeffs must be three numbers or a sequence of triples, got {ns_coeffs}")
    if len(triples) > ns_steps:
        raise ValueError(
            f"muon: {count_noun(len(triples), 'triple')} in ns_coeffs and ns_steps={ns_steps}; raise ns_steps"
        )
    return tuple(triples) if triples else tuple(ns_coeffs)


def _first_scaling(x: Tensor, gram: Tensor, preconditioning: str) -> tuple[Tensor, Tensor]:
    """Scales x [N, R, C] and its Gram matrix x xᵀ [N, R, R] for "aol" and "schatten"."""
    if preconditioning == "aol":
        s = gram.abs().sum(-1).clamp(min=1e-8).rsqrt().unsqueeze(-1)
        return x * s, gram * s * s.mT
    if preconditioning == "schatten":
        s = torch.linalg.vector_norm(gram, dim=(-2, -1), keepdim=True).clamp(min=1e-8).rsqrt()
        return x * s, gram * s**2
    return x, gram
