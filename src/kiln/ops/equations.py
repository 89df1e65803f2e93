"""Equations: A X = B for square, triangular and rectangular A, and for tensors seen as matrices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..shape import Size, broadcast_shapes
from ..tensor import Tensor
from . import _lapack
from ._matrices import (
    broadcast_lead,
    check_matrix,
    check_pair,
    check_same_dtype,
    factorization,
    fail,
    is_vector,
    run,
    well,
)
from .factorize import inv
from .registry import FUNCTIONS, Sample, composition, named
from .samples import draw, rng
from .spectra import pinv, pinv_grad
from .storing import store_out
from .views import adjoint

# ---------------------------------------------------------------- square matrices


def _solve_infer(A: Any, B: Any, check_errors: bool) -> list:
    a, b = check_matrix("solve", A, True), tuple(B.shape)
    check_same_dtype("solve", A, B)
    vector = is_vector(A, B)
    b = (*b, 1) if vector else b
    if len(b) < 2 or b[-2] != a[-1]:
        raise KilnError("solve", f"Incompatible shapes of A and B for the equation AX = B ({list(a)} and {list(B.shape)})",
                        describe((A, B)), "")  # fmt: skip
    lead = broadcast_shapes(a[:-2], b[:-2], op="solve")
    return [(Size((*lead, *b[-2 : -1 if vector else None])), A.dtype), (Size(a[:-2]), dt.int32)]


def _solve_grad(gs: Any, A: Tensor, B_shape: tuple, outs: Any, needs: tuple) -> tuple:
    vector = len(B_shape) == 1 or tuple(B_shape) == tuple(A.shape[:-1])
    g, x = (gs[0].unsqueeze(-1), outs[0].unsqueeze(-1)) if vector else (gs[0], outs[0])
    gb = solve_op(adjoint(A), g, False)[0]
    return -(gb @ adjoint(x)) if needs[0] else None, gb.squeeze(-1) if vector else gb


def _solve_samples() -> Iterator[Sample]:
    r = rng(33)
    for a, b in (
        ((3, 3), (3, 2)),
        ((3, 3), (3,)),
        ((2, 3, 3), (2, 3, 2)),
        ((2, 3, 3), (2, 3)),
        ((2, 3, 3), (3, 4)),
        ((0, 0), (0, 2)),
    ):
        yield Sample((well(r, *a), draw(r, b)))
    yield Sample((well(r, 3, 3), draw(r, (2, 2))), error=RuntimeError)
    yield Sample((np.zeros((2, 2)), draw(r, (2, 2))), error=RuntimeError)
    yield Sample((draw(r, (2, 3)), draw(r, (2, 2))), error=RuntimeError)


@factorization(
    "solve_ex", _solve_infer, lambda: (Sample((*s.args, True), error=s.error) for s in _solve_samples()),
    grad={("A", "B"): _solve_grad}, nondiff_outputs=(1,), private=True,
)  # fmt: skip
def solve_op(A: Tensor, B: Tensor, check_errors: bool) -> Tensor:
    """The solution X of A X = B, and where an elimination met a pivot of 0 (0: nowhere)."""
    vector = is_vector(A, B)
    right = B[..., None] if vector else B
    try:
        x, info = np.linalg.solve(A, right), np.zeros(A.shape[:-2], np.int32)
    except np.linalg.LinAlgError:
        LU, pivots, info = _lapack.lu(A)
        if check_errors:
            fail("solve", info, "The solver failed because the input matrix is singular.",
                 "use linalg.lstsq for some solution")  # fmt: skip
        x = _lapack.lu_solve(LU, pivots, right)
    return x[..., 0] if vector else x, info


def _solve(name: str, A: Tensor, B: Tensor, left: bool, check: bool) -> tuple[Tensor, Tensor]:
    if left:
        return solve_op(A, B, check)
    check_matrix(name, A, True)
    if is_vector(A, B):
        raise KilnError(name, "Vector broadcasting of the left hand side is not supported for left=False",
                        describe((A, B)), "unsqueeze B")  # fmt: skip
    check_pair(name, A, B, False)
    x, info = solve_op(A.mT, B.mT, check)
    return x.mT, info


@composition(namespace="linalg", method=False, samples=_solve_samples)
def solve(A: Tensor, B: Tensor, *, left: bool = True, out: Tensor | None = None) -> Tensor:
    """The solution X of A X = B, or of X A = B where `left` is False; B may be a vector for each matrix."""
    return store_out(solve_op.op, _solve("solve", A, B, left, True)[0], out)


@composition(
    namespace="linalg", method=False, samples=lambda: (s for s in _solve_samples() if not s.error)
)
def solve_ex(
    A: Tensor, B: Tensor, *, left: bool = True, check_errors: bool = False, out: Any = None
) -> Any:
    """(result, info): the solution, and for each matrix the pivot that is zero (int32; 0 where it succeeded)."""
    r = named("linalg_solve_ex", "result info")(*_solve("solve_ex", A, B, left, check_errors))
    return store_out(solve_op.op, r, out)


# ---------------------------------------------------------------- triangular matrices


def _triangular_infer(A: Any, B: Any, upper: bool, unitriangular: bool) -> tuple:
    lead = check_pair("solve_triangular", A, B)
    return Size((*lead, *B.shape[-2:])), B.dtype


def _triangular_grad(
    g: Tensor, A: Tensor, out: Tensor, upper: bool, unitriangular: bool, needs: tuple
) -> tuple:
    gb = triangular_op(adjoint(A), g, not upper, unitriangular)
    if not needs[0]:
        return None, gb
    ga = -(gb @ adjoint(out))
    return ga.triu(int(unitriangular)) if upper else ga.tril(-int(unitriangular)), gb


def _triangles() -> Iterator[Sample]:
    r = rng(34)
    for a, b in (
        ((3, 3), (3, 2)),
        ((2, 3, 3), (2, 3, 2)),
        ((3, 3), (2, 3, 2)),
        ((2, 3, 3), (3, 2)),
        ((0, 0), (0, 2)),
    ):
        for upper in (True, False):
            yield Sample((well(r, *a), draw(r, b)), {"upper": upper, "unitriangular": False})
    yield Sample((well(r, 3, 3), draw(r, (3, 2))), {"upper": True, "unitriangular": True})
    yield Sample(
        (well(r, 12, 12), draw(r, (12, 2))), {"upper": False, "unitriangular": False}, grad=False
    )


@factorization("solve_triangular", _triangular_infer, _triangles, grad={("A", "B"): _triangular_grad}, private=True)  # fmt: skip
def triangular_op(A: Tensor, B: Tensor, upper: bool, unitriangular: bool) -> Tensor:
    """The solution X of A X = B for triangular A."""
    return _lapack.substitute(A, B, upper, unitriangular)


def _triangular_samples() -> Iterator[Sample]:
    r = rng(34)
    yield from _triangles()
    yield Sample((well(r, 3, 3), draw(r, (2, 3))), {"upper": False, "left": False})
    yield Sample((well(r, 3, 3), draw(r, (2, 3))), {"upper": False}, error=RuntimeError)
    yield Sample((draw(r, (2, 3)), draw(r, (2, 3))), {"upper": False}, error=RuntimeError)
    yield Sample((well(r, 3, 3), draw(r, (3,))), {"upper": False}, error=RuntimeError)


@composition(namespace="linalg", method=False, samples=_triangular_samples)
def solve_triangular(input: Tensor, B: Tensor, *, upper: bool, left: bool = True, unitriangular: bool = False,
                     out: Tensor | None = None) -> Tensor:  # fmt: skip
    """The solution X of input X = B (X input = B) for triangular input, whose other triangle is not read."""
    check_pair("solve_triangular", input, B, left)
    if left:
        r = triangular_op(input, B, upper, unitriangular)
    else:
        r = triangular_op(input.mT, B.mT, not upper, unitriangular).mT
    return store_out(triangular_op.op, r, out)


@composition(samples=lambda: iter([
    *(Sample((draw(rng(1), (2, 3, 2)), well(rng(2), 3, 3), *flags)) for flags in ((), (False,), (True, True), (False, False, True))),
    Sample((draw(rng(1), (2, 2)), well(rng(2), 3, 3)), error=RuntimeError),
]))  # fmt: skip
def triangular_solve(input: Tensor, A: Tensor, upper: bool = True, transpose: bool = False, unitriangular: bool = False,
                     *, out: Any = None) -> Any:  # fmt: skip
    """(solution, cloned_coefficient): X of A X = input (A^T X = input) for triangular A, and a copy of A."""
    lead = check_pair("triangular_solve", A, input)
    if transpose:
        x = triangular_op(A.mT, input, not upper, unitriangular)
    else:
        x = triangular_op(A, input, upper, unitriangular)
    copy = A.expand((*lead, *A.shape[-2:])).clone()
    r = named("triangular_solve", "solution cloned_coefficient")(x, copy)
    return store_out(triangular_op.op, r, out)


# ---------------------------------------------------------------- least squares

DRIVERS = ("gels", "gelsy", "gelsd", "gelss")


def _lstsq_infer(A: Any, B: Any, rcond: Any, driver: str) -> list:
    *_, m, n = check_matrix("lstsq", A)
    check_same_dtype("lstsq", A, B)
    lead = broadcast_lead("lstsq", A, B)
    return [
        (Size((*lead, n, B.shape[-1])), A.dtype),
        (Size(A.shape[:-2]), dt.int64),
        (
            Size((*A.shape[:-2], min(m, n) if driver in ("gelsd", "gelss") else 0)),
            A.dtype.to_real(),
        ),
    ]


def _lstsq_grad(gs: Any, A: Tensor, B: Tensor, needs: tuple) -> tuple:
    inverse = pinv(A)
    gb = adjoint(inverse) @ gs[0] if needs[1] else None
    return pinv_grad(gs[0] @ adjoint(B), A, inverse) if needs[0] else None, gb


def _lstsq_pairs() -> Iterator[Sample]:
    r = rng(43)
    for a, b in (
        ((3, 3), (3, 2)),
        ((4, 2), (4, 1)),
        ((2, 4), (2, 3)),
        ((2, 4, 3), (2, 4, 2)),
        ((3, 0), (3, 2)),
    ):
        yield Sample((well(r, *a), draw(r, b)))


@factorization(
    "lstsq", _lstsq_infer, lambda: (Sample((*s.args, None, d)) for s in _lstsq_pairs() for d in DRIVERS),
    grad={("A", "B"): _lstsq_grad}, nondiff_outputs=(1, 2), private=True,
)  # fmt: skip
def lstsq_op(A: Tensor, B: Tensor, rcond: Any, driver: str) -> Tensor:
    """The smallest X of those for which |A X - B| is smallest, the rank of A, and singular values if by them."""
    m, n = A.shape[-2:]
    none = np.empty((*A.shape[:-2], 0), A.real.dtype)
    if driver == "gels":
        return _full_rank(A, B), np.full(A.shape[:-2], min(m, n)), none
    if driver == "gelsy":
        least = np.finfo(A.dtype).eps * max(m, n) if rcond is None else rcond
        found = _lapack.least_squares(A, B, float(least))
        if found is not None:
            return *found, none
    u, s, vh = run("lstsq", np.linalg.svd, A, full_matrices=False)
    eps = np.finfo(s.dtype).eps * max(m, n)
    floor = (eps if rcond is None else rcond) * s[..., :1]
    kept = s > floor
    inverse = np.where(kept, 1 / np.where(kept, s, 1), 0).astype(s.dtype)
    x = _lapack.turned(vh) @ (inverse[..., None] * (_lapack.turned(u) @ B))
    return x, np.asarray(kept.sum(-1)), none if driver == "gelsy" else s


def _full_rank(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The solution by QR; 0 for matrices of zeros, as LAPACK's gels."""
    m, n = A.shape[-2:]
    zero = ~A.any((-2, -1))
    q, r = np.linalg.qr(A if m >= n else _lapack.turned(A))
    fail("lstsq", np.where(zero, 0, _lapack.first(r.diagonal(0, -2, -1) == 0)), "The least squares solution could "
         "not be computed because the input matrix does not have full rank (error code: {0}).", "use driver='gelsd'")  # fmt: skip
    if m >= n:
        x = _lapack.substitute(r, _lapack.turned(q) @ B, True)
    else:
        x = q @ _lapack.substitute(_lapack.turned(r), B, False)
    return np.where(zero[..., None, None], 0, x).astype(A.dtype)


def _lstsq_samples() -> Iterator[Sample]:
    yield from _lstsq_pairs()
    r = rng(44)
    yield Sample((well(r, 4, 2), draw(r, (4, 1))), {"driver": "gelsd"})
    yield Sample((well(r, 4, 2), draw(r, (4, 1))), {"driver": "gels"})
    yield Sample((well(r, 4, 2), draw(r, (4, 1)), 1e-3), {"driver": "gelss"})
    yield Sample((draw(r, (3,)), draw(r, (3,))), error=RuntimeError)
    yield Sample((draw(r, (3, 2)), draw(r, (4, 2))), error=RuntimeError)
    yield Sample((draw(r, (3, 2)), draw(r, (2, 3, 2))), error=RuntimeError)
    yield Sample((well(r, 1, 4, 2), draw(r, (2, 4, 1))), {"driver": "gelsd"})
    yield Sample((draw(r, (3, 2)), draw(r, (3, 2))), {"driver": "none"}, error=RuntimeError)


@composition(namespace="linalg", method=False, samples=_lstsq_samples)
def lstsq(input: Tensor, b: Tensor, rcond: float | None = None, *, driver: str | None = None, out: Any = None) -> Any:  # fmt: skip
    """(solution, residuals, rank, singular_values) of the X for which |input X - b| is smallest.

    `driver` is the name of a routine of LAPACK: "gelsy" (the default), "gelsd" and "gelss" take
    singular values below `rcond` times the largest as 0; "gels" expects full rank. As in PyTorch,
    residuals are computed for tall input of full rank, unless by "gelsy"; the rank unless by "gels";
    singular values by "gelsd" and "gelss"; what is not computed is empty.
    """
    *_, m, n = check_matrix("lstsq", input)
    driver = driver or "gelsy"
    if driver not in DRIVERS:
        raise KilnError("lstsq", f"parameter `driver` should be one of {DRIVERS}", repr(driver), "")
    vector = is_vector(input, b)
    right = b.unsqueeze(-1) if vector else b
    if right.ndim != input.ndim or right.shape[-2] != m:
        raise KilnError("lstsq", "B must have as many dimensions and rows as A, or be a vector for each matrix",
                        describe((input, b)), "expand the smaller one")  # fmt: skip
    x, rank, values = lstsq_op(input, right, rcond, driver)
    real = input.dtype.to_real()
    residuals = (x.real if input.is_complex() else x).reshape(-1)[
        :0
    ]  # empty, but as differentiable
    if m > n and (driver == "gels" or (driver != "gelsy" and bool((rank == n).all()))):
        apart = input @ x - right
        residuals = ((apart * apart.conj()).real if input.is_complex() else apart * apart).sum(-2)
    if driver == "gels":
        rank = input.new_empty((0,), dtype=dt.int64)
    if driver not in ("gelsd", "gelss"):
        values = input.new_empty((0,), dtype=real)
    result = named("linalg_lstsq", "solution residuals rank singular_values")
    return store_out(
        lstsq_op.op,
        result(x.squeeze(-1) if vector else x, residuals, rank, values),
        out,
        cast=True,
    )


# ---------------------------------------------------------------- tensors as matrices


@composition(namespace="linalg", method=False, samples=lambda: iter([
    Sample((well(rng(1), 4, 4).reshape(2, 2, 4),)), Sample((well(rng(1), 6, 6).reshape(2, 3, 6),)), Sample((well(rng(1), 6, 6).reshape(6, 3, 2), 1)),
    Sample((draw(rng(), (2, 3, 5)),), error=RuntimeError), Sample((draw(rng(), (2, 3, 6)), 0), error=RuntimeError),
]))  # fmt: skip
def tensorinv(input: Tensor, ind: int = 2, *, out: Tensor | None = None) -> Tensor:
    """The inverse of a tensor seen as a matrix whose rows are its first `ind` dimensions."""
    if ind <= 0:
        raise KilnError("tensorinv", "Expected a strictly positive integer for 'ind'", ind, "")
    rows, columns = tuple(input.shape[:ind]), tuple(input.shape[ind:])
    if ind > input.ndim or prod(rows) != prod(columns):
        raise KilnError(
            "tensorinv", f"Expected self to satisfy the requirement prod(self.shape[ind:]) == prod(self.shape[:ind]), "
            f"but got {prod(columns)} != {prod(rows)}", describe(input), "",
        )  # fmt: skip
    r = inv(input.reshape((prod(rows), prod(columns)))).reshape((*columns, *rows))
    return store_out(inv.op, r, out, cast=True)


@composition(namespace="linalg", method=False, samples=lambda: iter([
    Sample((well(rng(1), 6, 6).reshape(2, 3, 6), draw(rng(2), (2, 3)))),
    Sample((well(rng(1), 6, 6).reshape(2, 6, 3), draw(rng(2), (2, 3))), {"dims": (1,)}),
    Sample((draw(rng(), (2, 3, 5)), draw(rng(2), (2, 3))), error=RuntimeError),
]))  # fmt: skip
def tensorsolve(input: Tensor, other: Tensor, dims: Sequence[int] | None = None, *, out: Tensor | None = None) -> Tensor:  # fmt: skip
    """The solution X of tensordot(input, X, X.ndim) = other; `dims` of input are moved to its end before."""
    if dims is not None:
        moved = FUNCTIONS["movedim"](
            input, tuple(dims), tuple(range(input.ndim - len(dims), input.ndim))
        )
    else:
        moved = input
    unknown = tuple(moved.shape[other.ndim :])
    if prod(unknown) != other.numel():
        raise KilnError(
            "tensorsolve", "Expected self to satisfy the requirement prod(self.shape[other.ndim:]) == "
            f"prod(self.shape[:other.ndim]), but got {prod(unknown)} != {other.numel()}", describe((input, other)), "",
        )  # fmt: skip
    x = solve(moved.reshape((other.numel(), prod(unknown))), other.reshape(-1))
    return store_out(solve_op.op, x.reshape(unknown), out, cast=True)
