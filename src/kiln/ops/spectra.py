"""Eigenvalues, singular values, and the pseudo-inverse.

Gradients of vectors are those of functions that don't depend on their signs and phases; they need
values that differ. Sources: as for `factorize`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError
from ..shape import Size
from ..tensor import Tensor
from . import _lapack
from ._matrices import (
    check_matrix,
    diag,
    factorization,
    hermitian,
    rectangles,
    run,
    squares,
    tracked,
    well,
)
from .registry import FUNCTIONS, Operand, Sample, composition, method, named
from .samples import draw, rng
from .selection import where_op
from .storing import store_out
from .views import adjoint


def _apart(differences: Tensor) -> Tensor:
    """Differences between values with ones in place of those between a value and itself."""
    return where_op(_same(differences), 1, differences)


def _same(x: Tensor) -> Tensor:
    return FUNCTIONS["eye"](x.shape[-1], dtype=dt.bool_)


def _check_phase(name: str, turn: Tensor) -> None:
    """An error where a function of complex vectors depends on their phases (which eager mode can see)."""
    a = turn._a
    if turn.is_complex() and isinstance(a, np.ndarray):
        along = np.diagonal(a, 0, -2, -1).imag
        if not np.allclose(along, 0, 1e-2, 1e-2, equal_nan=True):
            raise KilnError(
                name, "the vectors are only known up to a phase e^{i phi}, on which the function that was "
                "differentiated depends", f"a slope of {abs(along).max():.3g} along phi",
                "differentiate what no phase changes, such as absolute values or projections",
            )  # fmt: skip


# ---------------------------------------------------------------- Hermitian matrices


def _eigh_infer(A: Any, UPLO: str, vectors: bool) -> list:
    shape = check_matrix("eigh", A, True)
    if not isinstance(UPLO, str) or UPLO.upper() not in ("L", "U"):
        raise KilnError(
            "eigh", f"Expected UPLO argument to be 'L' or 'U', but got {UPLO}", repr(UPLO), ""
        )
    return [
        (Size(shape[:-1]), A.dtype.to_real()),
        (Size(shape) if vectors else Size((0,)), A.dtype),
    ]


def _eigh_grad(gs: Any, outs: Any) -> Tensor:
    values, vectors = outs
    gl, gv = gs
    back = adjoint(vectors)
    middle: Any = 0
    if gv is not None:
        apart = _apart(values.unsqueeze(-2) - values.unsqueeze(-1))
        turn = back @ gv
        _check_phase("eigh", turn)
        middle = where_op(_same(apart), 0, (turn - adjoint(turn)) / (apart * 2))
    if gl is not None:
        middle = middle + diag(gl).to(vectors.dtype)
    return vectors @ middle @ back


@factorization(
    "eigh", _eigh_infer, lambda: (Sample((*s.args, "L", v), error=s.error, grad=False) for v in (True, False) for s in hermitian()),
    grad={"A": _eigh_grad}, private=True,
)  # fmt: skip
def eigh_op(A: Tensor, UPLO: str, vectors: bool) -> Tensor:
    """Eigenvalues, ascending, and eigenvectors (or nothing) of Hermitian matrices."""
    if not vectors:
        return run("eigvalsh", np.linalg.eigvalsh, A, UPLO.upper()), np.empty((0,), A.dtype)
    return tuple(run("eigh", np.linalg.eigh, A, UPLO.upper()))


@composition(namespace="linalg", method=False, samples=hermitian)
def eigh(input: Tensor, UPLO: str = "L", *, out: Any = None) -> Any:
    """(eigenvalues, eigenvectors) of Hermitian matrices, ascending; one triangle is read."""
    r = named("linalg_eigh", "eigenvalues eigenvectors")(*eigh_op(input, UPLO, True))
    return store_out(eigh_op.op, r, out)


@composition(namespace="linalg", method=False, samples=hermitian)
def eigvalsh(input: Tensor, UPLO: str = "L", *, out: Tensor | None = None) -> Tensor:
    """The eigenvalues of Hermitian matrices, ascending."""
    return store_out(eigh_op.op, eigh_op(input, UPLO, tracked(input))[0], out)


# ---------------------------------------------------------------- square matrices


def _eig_infer(A: Any, vectors: bool) -> list:
    shape = check_matrix("eig", A, True)
    d = A.dtype.to_complex()
    return [(Size(shape[:-1]), d), (Size(shape) if vectors else Size((0,)), d)]


def _eig_grad(gs: Any, outs: Any) -> Tensor:
    values, vectors = outs
    gl, gv = gs
    back = adjoint(vectors)
    middle: Any = 0
    if gv is not None:
        inner = back @ gv
        _check_phase("eig", inner)
        along = (back @ vectors) * inner.diagonal(0, -2, -1).real.unsqueeze(-2)
        apart = _apart(values.unsqueeze(-2) - values.unsqueeze(-1))
        middle = where_op(_same(apart), 0, (inner - along) / apart.conj())
    if gl is not None:
        middle = middle + diag(gl)
    return FUNCTIONS["linalg.solve"](back, middle @ back)


@factorization(
    "eig", _eig_infer, lambda: (Sample((*s.args, v), error=s.error, grad=False) for v in (True, False) for s in squares()()),
    grad={"A": _eig_grad}, private=True,
)  # fmt: skip
def eig_op(A: Tensor, vectors: bool) -> Tensor:
    """Eigenvalues and eigenvectors (or nothing), complex, of square matrices."""
    d = dt.OF_NUMPY[A.dtype].to_complex().np
    if not np.isfinite(A).all():
        raise KilnError("eig", "input tensor should not contain infs or NaNs", str(A.shape), "")
    if not vectors:
        return run("eigvals", np.linalg.eigvals, A).astype(d), np.empty((0,), d)
    return tuple(x.astype(d) for x in run("eig", np.linalg.eig, A))


@composition(namespace="linalg", method=False, samples=squares())
def eigvals(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The eigenvalues of square matrices, complex, in no particular order."""
    return store_out(eig_op.op, eig_op(input, tracked(input))[0], out)


def _eig_samples() -> Iterator[Sample]:
    r = rng(67)  # of which PyTorch has vectors of the same sign in float32
    yield Sample((well(r, 3, 3),), grad=False)
    yield Sample((well(r, 2, 3, 3),), grad=False)
    yield Sample((np.zeros((0, 0)),), grad=False)
    yield Sample((draw(r, (2, 3)),), error=RuntimeError)
    yield Sample((np.full((2, 2), np.nan),), error=RuntimeError)


@composition(namespace="linalg", method=False, samples=_eig_samples)
def eig(input: Tensor, *, out: Any = None) -> Any:
    """(eigenvalues, eigenvectors) of square matrices, complex; vectors of length 1 in columns."""
    r = named("linalg_eig", "eigenvalues eigenvectors")(*eig_op(input, True))
    return store_out(eig_op.op, r, out)


# ---------------------------------------------------------------- singular values


def _svd_infer(A: Any, full_matrices: bool, vectors: bool) -> list:
    *lead, m, n = check_matrix("svd", A)
    k = min(m, n)
    u, v = (m, n) if full_matrices else (k, k)
    return [
        (Size((*lead, m, u) if vectors else (0,)), A.dtype),
        (Size((*lead, k)), A.dtype.to_real()),
        (Size((*lead, v, n) if vectors else (0,)), A.dtype),
    ]


def _svd_grad(gs: Any, outs: Any) -> Tensor:
    u, s, vh = outs
    k = s.shape[-1]
    gu, gs_, gvh = gs
    if gu is None and gvh is None:
        return (u[..., :k] * gs_.unsqueeze(-2)) @ vh[..., :k, :]
    u, vh = u[..., :k], vh[..., :k, :]
    gu = None if gu is None else gu[..., :k]
    gv = None if gvh is None else adjoint(gvh[..., :k, :])
    v = adjoint(vh)
    row, column = s.unsqueeze(-2), s.unsqueeze(-1)
    gap = _apart((row - column) * (row + column))
    same = _same(gap)
    middle: Any = diag(gs_).to(u.dtype) if gs_ is not None else 0
    turn: Any = None
    phase: Any = None
    if gu is not None:
        x = adjoint(u) @ gu
        turn = phase = x
        middle = middle + where_op(same, 0, (x - adjoint(x)) / gap) * row
    if gv is not None:
        x = vh @ gv
        turn, phase = (-x, x) if turn is None else (turn - x, turn + x)
        middle = middle + where_op(same, 0, (x - adjoint(x)) / gap) * column
    _check_phase("svd", phase)
    if u.is_complex():  # U and V turn together; what turns them against each other changes A
        spin = turn.diagonal(0, -2, -1).imag / (s * 2)
        middle = middle + diag(spin * 1j)
    out = u @ middle @ vh
    if gu is not None and u.shape[-2] > k:
        rest = gu - u @ (adjoint(u) @ gu)
        out = out + (rest / row) @ vh
    if gv is not None and v.shape[-2] > k:
        rest = gv - v @ (vh @ gv)
        out = out + u @ adjoint(rest / row)
    return out


def _svd_samples() -> Iterator[Sample]:
    r = rng(36)
    for shape in ((3, 3), (4, 2), (2, 3, 2), (3, 0), (0, 2, 2)):
        for full in (True, False):
            yield Sample((well(r, *shape), full), grad=False)
    yield Sample((draw(r, (3,)),), error=RuntimeError)


def _svd_calls() -> Iterator[Sample]:
    for s in _svd_samples():
        yield Sample(
            (*(s.args if len(s.args) > 1 else (*s.args, True)), True), error=s.error, grad=False
        )
    yield Sample((well(rng(), 3, 2), False, False), grad=False)


@factorization("svd", _svd_infer, _svd_calls, grad={"A": _svd_grad}, private=True)
def svd_op(A: Tensor, full_matrices: bool, vectors: bool) -> Tensor:
    """A = U diag(S) Vh; nothing for U and Vh without `vectors`."""
    if not vectors:
        none = np.empty((0,), A.dtype)
        return none, run("svdvals", np.linalg.svd, A, compute_uv=False), none
    return tuple(run("svd", np.linalg.svd, A, full_matrices))


def check_driver(name: str, driver: str | None) -> None:
    """An error where a driver is named: those of PyTorch are for GPUs."""
    if driver is not None:
        raise KilnError(name, "keyword argument `driver=` is only supported on CUDA inputs with cuSOLVER backend.",
                        repr(driver), "leave it out")  # fmt: skip


@composition(namespace="linalg", method=False, samples=_svd_samples)
def svd(
    A: Tensor, full_matrices: bool = True, *, driver: str | None = None, out: Any = None
) -> Any:
    """(U, S, Vh) of A = U diag(S) Vh: orthonormal U and V, singular values S in descending order."""
    check_driver("svd", driver)
    r = named("linalg_svd", "U S Vh")(*svd_op(A, full_matrices, True))
    return store_out(svd_op.op, r, out)


@composition(namespace="linalg", method=False, samples=rectangles)
def svdvals(A: Tensor, *, driver: str | None = None, out: Tensor | None = None) -> Tensor:
    """The singular values, in descending order."""
    check_driver("svdvals", driver)
    return store_out(svd_op.op, svd_op(A, False, tracked(A))[1], out)


def _old_svd(input: Tensor, some: bool = True, compute_uv: bool = True, *, out: Any = None) -> Any:
    """(U, S, V) of input = U diag(S) V^H; zeros for U and V without `compute_uv`."""
    result = named("svd", "U S V")
    if compute_uv:
        u, s, vh = svd_op(input, not some, True)
        return store_out(svd_op.op, result(u, s, adjoint(vh)), out)
    *lead, m, n = check_matrix("svd", input)
    u, v = input.new_zeros((*lead, m, m)), input.new_zeros((*lead, n, n))
    return store_out(svd_op.op, result(u, svdvals(input), v), out)


FUNCTIONS["svd"] = _old_svd
method("svd")(_old_svd)


# ---------------------------------------------------------------- pseudo-inverse and rank


def floor_of(s: np.ndarray, atol: Any, rtol: Any, size: int) -> np.ndarray:
    """The value that singular values (descending or not) must exceed to count."""
    a = np.asarray(0.0 if atol is None else atol)
    r = np.asarray(np.finfo(s.dtype).eps * size if rtol is None else rtol)
    if rtol is None:
        r = np.where(a > 0, 0, r)
    return np.maximum(a, r * s.max(-1, initial=0))[..., None]


def _pinv_infer(A: Any, atol: Any, rtol: Any, hermitian: bool) -> tuple:
    *lead, m, n = check_matrix("pinv", A, hermitian)
    return Size((*lead, n, m)), A.dtype


def pinv_grad(g: Tensor, A: Tensor, out: Tensor) -> Tensor:
    """The gradient through the pseudo-inverse `out` of A, among matrices of A's rank."""
    p, gh = adjoint(out), adjoint(g)
    first = p @ g @ p
    left = (gh @ out) @ p
    right = p @ (out @ gh)
    return -first + (left - A @ (out @ left)) + (right - (right @ out) @ A)


@factorization(
    "pinv", _pinv_infer, lambda: iter([Sample((well(rng(), 3, 2), None, None, False)), Sample((well(rng(), 2, 2, 3), 1e-9, 1e-9, False))]),
    grad={"A": pinv_grad}, private=True,
)  # fmt: skip
def pinv_op(A: Tensor, atol: Operand | None, rtol: Operand | None, hermitian: bool) -> Tensor:
    """The pseudo-inverse."""
    if hermitian:
        w, v = run("pinv", np.linalg.eigh, A)
        size, back = abs(w), _lapack.turned(v)
    else:
        v, w, back = run("pinv", np.linalg.svd, A, full_matrices=False)
        v, back, size = _lapack.turned(back), _lapack.turned(v), w
    kept = size > floor_of(size, atol, rtol, max(A.shape[-2:]))
    inverse = np.where(kept, 1 / np.where(kept, w, 1), 0).astype(w.dtype)
    return (v * inverse[..., None, :]) @ back


@composition(namespace="linalg", method=False, samples=rectangles)
def pinv(input: Tensor, rcond: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None,
         out: Tensor | None = None) -> Tensor:  # fmt: skip
    """The Moore-Penrose pseudo-inverse; singular values not above max(atol, rtol * largest) count as 0."""
    return store_out(
        pinv_op.op,
        pinv_op(input, atol, rtol if rcond is None else rcond, hermitian),
        out,
        cast=True,
    )


@composition(samples=rectangles)
def pinverse(input: Tensor, rcond: float = 1e-15) -> Tensor:
    """The pseudo-inverse; singular values below `rcond` times the largest count as 0."""
    return pinv(input, rcond)


def _rank_infer(A: Any, atol: Any, rtol: Any, hermitian: bool) -> tuple:
    return Size(check_matrix("matrix_rank", A, hermitian)[:-2]), dt.int64


@factorization(
    "matrix_rank", _rank_infer, lambda: (Sample((*s.args, None, None, False), grad=False) for s in rectangles()), private=True,
)  # fmt: skip
def rank_op(A: Tensor, atol: Operand | None, rtol: Operand | None, hermitian: bool) -> Tensor:
    """How many singular values count."""
    if hermitian:
        s = abs(run("matrix_rank", np.linalg.eigvalsh, A))
    else:
        s = run("matrix_rank", np.linalg.svd, A, compute_uv=False)
    return (s > floor_of(s, atol, rtol, max(A.shape[-2:]))).sum(-1)


@composition(namespace="linalg", method=False, samples=lambda: iter([
    Sample((well(rng(), 3, 3),), grad=False), Sample((np.ones((2, 3)),), grad=False), Sample((np.zeros((2, 2, 2)),), grad=False),
    Sample((np.ones((2, 3)), 0.5), grad=False), Sample((np.ones((3, 3)),), {"hermitian": True}, grad=False),
    Sample((well(rng(), 3, 3),), {"atol": 3.0, "rtol": 0.1}, grad=False), Sample((np.zeros((0, 3)),), grad=False),
    Sample((np.zeros(3),), error=RuntimeError),
]))  # fmt: skip
def matrix_rank(input: Tensor, tol: Any = None, hermitian: bool = False, *, atol: Any = None, rtol: Any = None,
                out: Tensor | None = None) -> Tensor:  # fmt: skip
    """How many singular values are above max(atol, rtol * largest); `tol` is an older name of atol, without rtol."""
    if tol is not None:
        atol, rtol = tol, 0.0
    return store_out(rank_op.op, rank_op(input, atol, rtol, hermitian), out, cast=True)
