"""Extreme eigenvalues of large symmetric matrices by LOBPCG.

Source: Knyazev, https://epubs.siam.org/doi/10.1137/S1064827500366124, with a basis that drops what is
linearly dependent, as Stathopoulos and Wu propose (https://epubs.siam.org/doi/10.1137/S1064827500370883).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import KilnError, KilnValueError, describe
from ..shape import Size
from ..tensor import Tensor, wrap
from ._lapack import turned
from ._matrices import check_matrix, factorization, tracked, well
from .registry import FUNCTIONS, Sample, composition
from .samples import draw, rng
from .selection import where_op
from .spectra import eigh_op
from .views import adjoint

Array = np.ndarray


def _orthonormal(S: Array, B: Array | None) -> Array:
    """A basis of S's columns that is orthonormal with respect to B; what depends on others is dropped."""
    if B is None:
        u, s, _ = np.linalg.svd(S, full_matrices=False)
        return u[:, s > s[0] * np.finfo(s.dtype).eps * max(S.shape)]
    w, v = np.linalg.eigh(turned(S) @ B @ S)
    kept = w > w[-1] * np.finfo(w.dtype).eps * max(S.shape)
    return S @ (v[:, kept] / np.sqrt(w[kept]))


class Search(SimpleNamespace):
    """The state of an iteration, as a tracker sees it."""

    def run(self) -> tuple[Array, Array]:
        """Iterate until k pairs have converged, the steps are used up or the tracker wants no more."""
        A, B, X = self.A, self.B, _orthonormal(self.X, self.B)
        n, k = self.iparams["n"], self.iparams["k"]
        niter, tol = self.iparams["niter"], self.fparams["tol"]
        P, S, step = X[:, :0], X, 0
        while True:
            E, Z = np.linalg.eigh(turned(S) @ (A @ S))
            if self.bparams["largest"]:
                E, Z = E[::-1], Z[:, ::-1]
            E, old = E[:n], X
            X = S @ Z[:, :n]
            AX, BX = A @ X, X if B is None else B @ X
            R = AX - BX * E
            size = np.linalg.norm(X, axis=0)
            scale = np.linalg.norm(AX, axis=0) + abs(E) * np.linalg.norm(BX, axis=0)
            error = np.linalg.norm(R, axis=0) / np.where(scale * size == 0, 1, scale)
            below = error <= tol
            done = n if below.all() else int(below.argmin())
            self.E, self.X, self.S, self.R = (wrap(np.ascontiguousarray(a)) for a in (E, X, S, R))
            self.ivars = {"istep": step, "converged_count": done, "iterations_left": niter - step}
            self.tvars = {"rerr": wrap(error)}
            if self.tracker is not None:
                self.tracker(self)
            if (
                done >= k
                or step == niter
                or self.bvars["force_stop"]
                or not np.isfinite(error).all()
            ):
                return E[:k], X[:, :k]
            P = X - old @ (turned(old) @ BX) if step else P
            W = R if self.iK is None else self.iK @ R
            S = _orthonormal(np.concatenate([X, _scaled(W), _scaled(P)], 1), B)
            step += 1


def _scaled(x: Array) -> Array:
    """Columns of length 1; those of 0 as they are."""
    size = np.linalg.norm(x, axis=0)
    return x / np.where(size == 0, 1, size)


def _infer(A: Any, B: Any, X: Any, iK: Any, k: int, *rest: Any) -> list:
    *lead, m, _ = check_matrix("lobpcg", A, True)
    return [(Size((*lead, k)), A.dtype.to_real()), (Size((*lead, m, k)), A.dtype)]


def _grad(gs: Any, A: Tensor, B: Any, outs: Any, k: int, largest: bool) -> Tensor:
    if B is not None or A.is_complex():
        raise KilnValueError(
            "lobpcg",
            "there is no gradient for complex matrices or with B",
            describe(A),
            "use linalg.eigh",
        )
    E, X = outs
    ge, gx = gs
    middle: Any = 0 if ge is None else X * ge.unsqueeze(-2)
    if gx is not None:
        m = A.shape[-1]
        values, vectors = eigh_op(A, "L", True)
        own = np.zeros((m, k), bool)
        own[[m - 1 - i if largest else i for i in range(k)], range(k)] = True
        apart = where_op(wrap(own), 1, E.unsqueeze(-2) - values.unsqueeze(-1))
        middle = middle + vectors @ where_op(wrap(own), 0, (vectors.mT @ gx) / apart)
    return middle @ adjoint(X)


@factorization(
    "lobpcg", _infer, lambda: iter([Sample((s.args[0], None, draw(rng(51), (9, 1)), None, 1, 1000, None, True, None), grad=False) for s in _samples()][:1]),
    grad={"A": _grad}, private=True,
)  # fmt: skip
def lobpcg_op(
    A: Tensor, B: Tensor | None, X: Tensor, iK: Tensor | None, k: int, niter: int, tol: float | None,
    largest: bool, tracker: Callable | None,
) -> Tensor:  # fmt: skip
    """Eigenvalues and eigenvectors, the most extreme first."""
    lead, (m, n) = A.shape[:-2], X.shape[-2:]
    real = np.empty(0, A.dtype).real.dtype
    E, V = np.empty((*lead, k), real), np.empty((*lead, m, k), A.dtype)
    for where in np.ndindex(*lead):
        search = Search(
            A=A[where], B=None if B is None else B[where], X=X[where] if X.ndim > 2 else X, iK=iK,
            tracker=tracker, iparams={"m": m, "n": n, "k": k, "niter": niter}, bparams={"largest": largest},
            fparams={"tol": np.finfo(real).eps ** 0.5 if tol is None else tol}, bvars={"force_stop": False},
        )  # fmt: skip
        E[where], V[where] = search.run()
    return E, V


def _samples() -> Iterator[Sample]:
    r = rng(52)
    a = well(r, 9, 9)
    yield Sample((a @ a.T,), grad=False)
    yield Sample((well(r, 3, 3), 2), error=ValueError)


@composition(method=False, samples=None)
def lobpcg(
    A: Tensor, k: int | None = None, B: Tensor | None = None, X: Tensor | None = None, n: int | None = None,
    iK: Tensor | None = None, niter: int | None = None, tol: float | None = None, largest: bool | None = None,
    method: str | None = None, tracker: Callable | None = None, ortho_iparams: Any = None,
    ortho_fparams: Any = None, ortho_bparams: Any = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(E, X): the k largest (smallest) eigenvalues of symmetric A, or of A x = e B x, and their vectors.

    `X` (or n random vectors) is where the search begins, `iK` a preconditioner, `tol` the relative
    residual at which a pair has converged; niter=-1 sets no limit. Both methods of PyTorch's, "basic"
    and "ortho", are one here, which has no use for the ortho_ parameters.
    """
    m = check_matrix("lobpcg", A, True)[-1]
    if B is not None and B.shape != A.shape:
        raise KilnError("lobpcg", "A and B must have the same shape", describe((A, B)), "")
    if method not in (None, "ortho", "basic"):
        raise KilnValueError("lobpcg", "method must be 'ortho' or 'basic'", repr(method), "")
    k = (1 if X is None else X.shape[-1]) if k is None else k
    n = (k if n is None else n) if X is None else X.shape[-1]
    if m < 3 * n:
        raise KilnValueError("lobpcg", f"not applicable when the number of A rows (={m}) is smaller than "
                             f"3 x the number of requested eigenpairs (={n})", describe(A), "use linalg.eigh")  # fmt: skip
    if X is None:
        X = FUNCTIONS["randn"]((*A.shape[:-2], m, n), dtype=A.dtype)
    if tracked(A):  # so that a step along the gradient leaves A symmetric
        A = (A + adjoint(A)) / 2
    niter = 1000 if niter is None else niter
    return lobpcg_op(A, B, X, iK, k, niter, tol, largest is None or largest, tracker)
