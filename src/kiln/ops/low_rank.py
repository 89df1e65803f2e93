"""Approximate decompositions by random projection: SVD and principal components.

Source: Halko, Martinsson and Tropp, https://arxiv.org/abs/0909.4061 (algorithms 4.4 and 5.1).
"""

from __future__ import annotations

from typing import Any

from ..errors import KilnValueError, describe
from ..tensor import Tensor
from ._matrices import check_matrix
from .orthogonal import qr
from .registry import FUNCTIONS, composition
from .spectra import svd_op
from .views import adjoint

# ---------------------------------------------------------------- SVD


def _range(A: Tensor, q: int, niter: int) -> Tensor:
    """Q with q orthonormal columns such that Q Q^H A is near A."""
    found = qr(A @ FUNCTIONS["randn"](A.shape[-1], q, dtype=A.dtype))[0]
    for _ in range(niter):
        found = qr(adjoint(A) @ found)[0]
        found = qr(A @ found)[0]
    return found


def _svd_lowrank(A: Tensor, q: int, niter: int) -> tuple[Tensor, Tensor, Tensor]:
    wide = A.shape[-2] < A.shape[-1]
    A = adjoint(A) if wide else A
    basis = _range(A, q, niter)
    u, s, vh = svd_op(adjoint(basis) @ A, False, True)
    u, v = basis @ u, adjoint(vh)
    return (v, s, u) if wide else (u, s, v)


@composition(method=False, samples=None)
def svd_lowrank(
    A: Tensor, q: int | None = 6, niter: int | None = 2, M: Tensor | None = None
) -> Any:
    """(U, S, V): about the q largest singular values of A - M and their vectors, by random projection."""
    check_matrix("svd_lowrank", A)
    q, niter = 6 if q is None else q, 2 if niter is None else niter
    return _svd_lowrank(A if M is None else A - M, q, niter)


@composition(method=False, samples=None)
def pca_lowrank(A: Tensor, q: int | None = None, center: bool = True, niter: int = 2) -> Any:
    """(U, S, V) of A's rows, less their mean where `center`: V's columns are the principal directions."""
    m, n = check_matrix("pca_lowrank", A)[-2:]
    q = min(6, m, n) if q is None else q
    if not 0 <= q <= min(m, n):
        raise KilnValueError("pca_lowrank", f"q(={q}) must be non-negative and not greater than min(m, n)={min(m, n)}",
                             describe(A), "")  # fmt: skip
    if niter < 0:
        raise KilnValueError(
            "pca_lowrank", f"niter(={niter}) must be a non-negative integer", niter, ""
        )
    return _svd_lowrank(A - A.mean(-2, keepdim=True) if center else A, q, niter)
