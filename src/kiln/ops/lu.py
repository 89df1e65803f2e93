"""LU with row exchanges and LDL: factors in one matrix, and equations solved with them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..shape import Size
from ..tensor import Tensor
from . import _lapack
from ._matrices import (
    check_matrix,
    check_pair,
    eye,
    factorization,
    fail,
    rectangles,
    well,
)
from .creation import arange
from .equations import solve_triangular
from .registry import FUNCTIONS, Sample, composition, method, named
from .rules import not_differentiable
from .samples import draw, rng
from .scatter import gather, take_along_dim
from .storing import store_out
from .views import adjoint as turned

# ---------------------------------------------------------------- LU


def _lu_infer(A: Any, *rest: Any) -> list:
    *lead, m, n = check_matrix("lu_factor", A)
    k = min(m, n)
    return [(Size((*lead, m, n)), A.dtype), (Size((*lead, k)), dt.int32), (Size(lead), dt.int32)]


def _lu_grad(gs: Any, outs: Any) -> Tensor:
    # the first min(m, n) rows and columns are a square LU; what is below is B U^-1, to the right L^-1 B
    packed, pivots, _ = outs
    g = gs[0]
    m, n = packed.shape[-2:]
    k = min(m, n)
    u, low = packed[..., :k, :k].triu(), packed[..., :k, :k]
    gl, gu = g[..., :k, :k].tril(-1), g[..., :k, :k].triu()
    beside: Any = None
    if m > n:
        beside = solve_triangular(turned(u), g[..., k:, :], upper=False, left=False)
        gu = gu - turned(packed[..., k:, :]) @ beside
    if m < n:
        beside = solve_triangular(turned(low), g[..., k:], upper=True, unitriangular=True)
        gl = gl - beside @ turned(packed[..., k:])
    unit = low.tril(-1) + eye(k, low)
    middle = (turned(unit) @ gl).tril(-1) + (gu @ turned(u)).triu()
    middle = solve_triangular(turned(u), middle, upper=False, left=False)
    out = solve_triangular(turned(low), middle, upper=True, unitriangular=True)
    if beside is not None:
        out = FUNCTIONS["cat"]([out, beside], -2 if m > n else -1)
    return take_along_dim(out, row_order(pivots, m).argsort(-1).unsqueeze(-1), -2)


@factorization(
    "lu_factor_ex", _lu_infer, lambda: (Sample((*s.args, False)) for s in _lu_samples() if not s.error),
    grad={"A": _lu_grad}, nondiff_outputs=(1, 2), private=True,
)  # fmt: skip
def lu_op(A: Tensor, check_errors: bool) -> Tensor:
    """L (its unit diagonal left out) and U in one matrix, row exchanges, and the first pivot that is zero."""
    packed, pivots, info = _lapack.lu(A)
    if check_errors:  # in PyTorch no LinAlgError
        fail("lu_factor", info, "U[{0},{0}] is zero and using it on lu_solve would result in a division by zero.",
             "linalg.lu_factor_ex or linalg.lu give the factors of singular matrices", KilnError)  # fmt: skip
    return packed, pivots, info


def _lu_samples() -> Iterator[Sample]:
    yield from rectangles()
    r = rng(47)
    for shape in ((2, 4), (3, 2, 4), (0, 0), (2, 0), (0, 3, 3)):
        yield Sample((well(r, *shape),))
    yield Sample((well(r, 3, 3) + 1j * draw(r, (3, 3)),))
    yield Sample((draw(r, (20, 20)),), grad=False)
    yield Sample((draw(r, (3,)),), error=RuntimeError)


def _check_pivot(name: str, pivot: bool) -> None:
    if not pivot:
        raise KilnError(
            name, "LU without pivoting is not implemented on the CPU", f"pivot={pivot}", ""
        )


@composition(namespace="linalg", method=False, samples=_lu_samples)
def lu_factor_ex(
    A: Tensor, *, pivot: bool = True, check_errors: bool = False, out: Any = None
) -> Any:
    """(LU, pivots, info): both factors in one matrix, row exchanges from 1 (int32), the first zero pivot (0: none)."""
    check_matrix("lu_factor_ex", A)
    _check_pivot("lu_factor_ex", pivot)
    r = named("linalg_lu_factor_ex", "LU pivots info")(*lu_op(A, check_errors))
    return store_out(lu_op.op, r, out)


@composition(namespace="linalg", method=False, samples=_lu_samples)
def lu_factor(A: Tensor, *, pivot: bool = True, out: Any = None) -> Any:
    """(LU, pivots): both factors in one matrix, and row exchanges from 1 (int32); an error for a zero pivot."""
    check_matrix("lu_factor", A)
    _check_pivot("lu_factor", pivot)
    r = named("linalg_lu_factor", "LU pivots")(*lu_op(A, True)[:2])
    return store_out(lu_op.op, r, out)


@composition(namespace="linalg", method=False, samples=_lu_samples)
def lu(A: Tensor, *, pivot: bool = True, out: Any = None) -> Any:
    """(P, L, U) of A = P L U: a permutation, unit lower and upper triangular matrices."""
    check_matrix("lu", A)
    _check_pivot("lu", pivot)
    packed, pivots, _ = lu_op(A, False)
    r = named("linalg_lu", "P L U")(*_unpack(packed, pivots, True, True))
    return store_out(lu_op.op, r, out)


def _old_lu(A: Tensor, pivot: bool = True, get_infos: bool = False, out: Any = None) -> Any:
    """(LU, pivots), and infos where asked for: see `linalg.lu_factor`."""
    check_matrix("lu", A)
    _check_pivot("lu", pivot)
    r = lu_op(A, False)
    r = named("lu_with_info", "LU pivots info")(*r) if get_infos else r[:2]
    if out is None:
        return r
    for x, o in zip(r, out, strict=True):  # of whatever dtypes these are
        o.resize_as_(x).copy_(x)
    return out


FUNCTIONS["lu"] = _old_lu
method("lu")(_old_lu)


def _order_infer(pivots: Any, m: int) -> tuple:
    return Size((*pivots.shape[:-1], m)), dt.int64


@factorization(
    "row_order", _order_infer, lambda: iter([Sample((np.array([[2, 2], [1, 3]], np.int32), 4), grad=False)]), private=True,
)  # fmt: skip
def row_order(pivots: Tensor, m: int) -> Tensor:
    """The row of A that stands at each place of L U."""
    if pivots.size and (pivots.min() < 1 or pivots.max() > m):
        raise KilnError("lu", "pivots must be between 1 and the number of rows", str(pivots.tolist()),
                        "give what linalg.lu_factor returned")  # fmt: skip
    return _lapack.permutation(pivots, m)


def _unpack(
    packed: Tensor, pivots: Tensor, data: bool, exchanges: bool
) -> tuple[Tensor, Tensor, Tensor]:
    m, n = packed.shape[-2:]
    k = min(m, n)
    p = l = u = packed.new_empty((0,))
    if exchanges:
        p = (row_order(pivots, m).unsqueeze(-2) == arange(m).unsqueeze(-1)).to(packed.dtype)
    if data:
        l = packed[..., :k].tril(-1) + eye(m, packed, k)
        u = packed[..., :k, :].triu()
    return p, l, u


def _unpack_samples() -> Iterator[Sample]:
    for s in _lu_samples():
        if s.error is None:
            packed, pivots, _ = _lapack.lu(s.args[0])
            yield Sample((packed, pivots), grad=s.grad)
    yield Sample((packed, pivots), {"unpack_data": False}, grad=False)
    yield Sample((packed, pivots), {"unpack_pivots": False}, grad=False)
    yield Sample((packed, pivots.astype(np.int64)), error=RuntimeError)
    yield Sample((packed, pivots * 100), error=RuntimeError)


@composition(method=False, samples=_unpack_samples)
def lu_unpack(LU_data: Tensor, LU_pivots: Tensor, unpack_data: bool = True, unpack_pivots: bool = True, *,
              out: Any = None) -> Any:  # fmt: skip
    """(P, L, U) of what `linalg.lu_factor` returned; empty for what is not asked for."""
    check_matrix("lu_unpack", LU_data, floats=False)
    if unpack_pivots:
        _check_pivots("lu_unpack", LU_pivots)
    r = named("lu_unpack", "P L U")(*_unpack(LU_data, LU_pivots, unpack_data, unpack_pivots))
    return store_out(lu_op.op, r, out)


def _check_pivots(name: str, pivots: Tensor) -> None:
    if pivots.dtype is not dt.int32:
        raise KilnError(name, "pivots should be a tensor of int32", describe(pivots),
                        "give what linalg.lu_factor returned")  # fmt: skip


def _lu_solve_samples() -> Iterator[Sample]:
    r = rng(48)
    for a, b in (
        ((3, 3), (3, 2)),
        ((2, 3, 3), (2, 3, 2)),
        ((2, 3, 3), (3, 2)),
        ((3, 3), (2, 3, 2)),
        ((0, 0), (0, 2)),
    ):
        packed, pivots, _ = _lapack.lu(well(r, *a))
        for flags in ({}, {"adjoint": True}, {"left": False}, {"left": False, "adjoint": True}):
            right = draw(r, b)
            yield Sample(
                (packed, pivots, right if flags.get("left", True) else np.swapaxes(right, -1, -2)),
                flags,
            )
    packed, pivots, _ = _lapack.lu(well(r, 3, 3))
    yield Sample((packed, pivots, draw(r, (2, 2))), error=RuntimeError)
    yield Sample((packed, pivots.astype(np.int64), draw(r, (3, 2))), error=RuntimeError)
    yield Sample((packed, pivots[:2], draw(r, (3, 2))), error=RuntimeError)


@composition(namespace="linalg", method=False, samples=_lu_solve_samples)
def lu_solve(LU: Tensor, pivots: Tensor, B: Tensor, *, left: bool = True, adjoint: bool = False,
             out: Tensor | None = None) -> Tensor:  # fmt: skip
    """The solution X of A X = B (X A = B; of A^H with `adjoint`) from what `lu_factor` returned for A."""
    lead = check_pair("lu_solve", LU, B, left)
    _check_pivots("lu_solve", pivots)
    if tuple(pivots.shape) != tuple(LU.shape[:-1]):
        raise KilnError(
            "lu_solve",
            "Expected LU.shape[:-1] and pivots.shape to be the same",
            describe((LU, pivots)),
            "",
        )
    r = _lu_solve(LU, pivots, B, lead, adjoint) if left else B
    if not left:  # X A = B is A^H X^H = B^H
        r = turned(_lu_solve(LU, pivots, turned(B), lead, not adjoint))
    return store_out(lu_op.op, r, out)


def _lu_solve(packed: Tensor, pivots: Tensor, b: Tensor, lead: tuple, conj: bool) -> Tensor:
    n = packed.shape[-1]
    b = b.expand((*lead, *b.shape[-2:]))
    order = row_order(pivots, n).unsqueeze(-1).expand((*lead, n, b.shape[-1]))
    if not conj:
        half = gather(b, -2, order)
        half = solve_triangular(packed, half, upper=False, unitriangular=True)
        return solve_triangular(packed, half, upper=True)
    back = turned(packed)
    half = solve_triangular(back, b, upper=False)
    half = solve_triangular(back, half, upper=True, unitriangular=True)
    return gather(half, -2, order.argsort(-2))


def _old_lu_solve(input: Tensor, LU_data: Tensor, LU_pivots: Tensor, *, out: Tensor | None = None) -> Tensor:  # fmt: skip
    """The solution of A x = input from what `linalg.lu_factor` returned for A."""
    return lu_solve(LU_data, LU_pivots, input, out=out)


FUNCTIONS["lu_solve"] = _old_lu_solve
method("lu_solve")(_old_lu_solve)


# ---------------------------------------------------------------- LDL


def _ldl_infer(A: Any, hermitian: bool, check_errors: bool) -> list:
    shape = check_matrix("ldl_factor", A, True)
    return [(Size(shape), A.dtype), (Size(shape[:-1]), dt.int32), (Size(shape[:-2]), dt.int32)]


def _symmetric() -> Iterator[Sample]:
    r = rng(49)
    for shape in ((3, 3), (2, 4, 4), (0, 0), (9, 9)):
        a = draw(r, shape)
        yield Sample((a + np.swapaxes(a, -1, -2),), grad=False)
    a = draw(r, (5, 5)) + 1j * draw(r, (5, 5))
    yield Sample((a + a.T,), grad=False)
    yield Sample((a + a.T.conj(),), {"hermitian": True}, grad=False)
    yield Sample((np.array([[0.0, 1.0], [1.0, 0.0]]),), grad=False)
    yield Sample((draw(r, (2, 3)),), error=RuntimeError)


@factorization(
    "ldl_factor_ex", _ldl_infer, lambda: (Sample((*s.args, s.kwargs.get("hermitian", False), False), grad=False) for s in _symmetric() if not s.error),
    grad={"A": not_differentiable("ldl_factor")}, nondiff_outputs=(1, 2), private=True,
)  # fmt: skip
def ldl_op(A: Tensor, hermitian: bool, check_errors: bool) -> Tensor:
    """L and D of A = L D L^T (L D L^H) in one matrix, exchanges, and the first zero of D."""
    packed, pivots, info = _lapack.ldl(A, hermitian)
    if check_errors:
        fail("ldl_factor", info, "D[{0},{0}] is zero and using it on ldl_solve would result in a division by zero.",
             "linalg.ldl_factor_ex gives the factors of singular matrices")  # fmt: skip
    return packed, pivots, info


@composition(namespace="linalg", method=False, samples=_symmetric)
def ldl_factor_ex(
    input: Tensor, *, hermitian: bool = False, check_errors: bool = False, out: Any = None
) -> Any:
    """(LD, pivots, info) of symmetric (Hermitian) matrices as LAPACK's sytrf stores them; no gradient."""
    r = named("linalg_ldl_factor_ex", "LD pivots info")(*ldl_op(input, hermitian, check_errors))
    return store_out(ldl_op.op, r, out)


@composition(namespace="linalg", method=False, samples=_symmetric)
def ldl_factor(input: Tensor, *, hermitian: bool = False, out: Any = None) -> Any:
    """(LD, pivots) of symmetric (Hermitian) matrices, see `ldl_factor_ex`; a LinAlgError for a zero in D."""
    r = named("linalg_ldl_factor", "LD pivots")(*ldl_op(input, hermitian, True)[:2])
    return store_out(ldl_op.op, r, out)


def _ldl_solve_infer(LD: Any, pivots: Any, B: Any, hermitian: bool) -> tuple:
    lead = check_pair("ldl_solve", LD, B)
    if tuple(pivots.shape) != tuple(LD.shape[:-1]):
        raise KilnError(
            "ldl_solve",
            "Expected LD.shape[:-1] and pivots.shape to be the same",
            describe((LD, pivots)),
            "",
        )
    if pivots.dtype.category >= dt.FLOAT or pivots.dtype is dt.bool_:
        raise KilnError("ldl_solve", "Expected pivots to be integers", describe(pivots), "")
    return Size((*lead, *B.shape[-2:])), B.dtype


def _ldl_solve_samples() -> Iterator[Sample]:
    r = rng(50)
    for s in _symmetric():
        if s.error is None and s.args[0].size:
            h = s.kwargs.get("hermitian", False)
            packed, pivots, _ = _lapack.ldl(s.args[0], h)
            right = draw(r, (packed.shape[-1], 2)).astype(packed.dtype)
            yield Sample((packed, pivots, right), {"hermitian": h}, grad=False)
    yield Sample((packed, pivots, draw(r, (3, 2))), error=RuntimeError)
    yield Sample((packed, pivots.astype(np.float64), draw(r, (2, 2))), error=RuntimeError)


@factorization(
    "ldl_solve", _ldl_solve_infer, lambda: (Sample((*s.args, s.kwargs["hermitian"]), grad=False) for s in _ldl_solve_samples() if not s.error),
    grad={("LD", "B"): not_differentiable("ldl_solve")}, private=True,
)  # fmt: skip
def ldl_solve_op(LD: Tensor, pivots: Tensor, B: Tensor, hermitian: bool) -> Tensor:
    """X of A X = B from A's LDL factorisation."""
    return _lapack.ldl_solve(LD, pivots, B, hermitian)


@composition(namespace="linalg", method=False, samples=_ldl_solve_samples)
def ldl_solve(LD: Tensor, pivots: Tensor, B: Tensor, *, hermitian: bool = False, out: Tensor | None = None) -> Tensor:  # fmt: skip
    """The solution X of A X = B from what `ldl_factor` returned for A; no gradient."""
    return store_out(ldl_solve_op.op, ldl_solve_op(LD, pivots, B, hermitian), out)
