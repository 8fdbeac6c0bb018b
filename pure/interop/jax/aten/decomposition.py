"""Decompositions of matrices: eigenvalues of symmetric ones, and QR."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jax import lax

from pure.interop.jax.aten.result import Entry, Out


def _eigh(out: tuple[Out, Out], x: Any, triangle: str = "L", compute_v: bool = True) -> tuple[Any, Any]:
    """Computes the eigenvalues [..., n], rising, and eigenvectors [..., n, n] of symmetric matrices.

    Args:
        out: the two traced results.
        x: [..., n, n]; one triangle is read.
        triangle: "L" or "U", the one.
        compute_v: not used: vectors that nobody reads are not computed.

    Returns:
        (values, vectors). The sign of a vector is open, and may differ from torch's.
    """
    del compute_v
    vectors, values = lax.linalg.eigh(x, lower=triangle == "L", symmetrize_input=False)
    return values.astype(out[0].dtype), vectors.astype(out[1].dtype)


def _qr(out: tuple[Out, Out], x: Any, mode: str = "reduced") -> tuple[Any, Any]:
    """Computes the QR decomposition: orthogonal columns and an upper triangular matrix."""
    q, r = lax.linalg.qr(x, full_matrices=mode == "complete")
    return q.astype(out[0].dtype), r.astype(out[1].dtype)


DECOMPOSITION: Mapping[str, Entry] = MappingProxyType({
    "_linalg_eigh.default": _eigh,
    "linalg_qr.default": _qr,
})  # fmt: skip
"""Name of an overload -> entry."""
