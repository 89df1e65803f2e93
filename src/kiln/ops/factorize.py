"""Inverses, determinants and Cholesky factors.

Gradients follow https://people.maths.ox.ac.uk/gilesm/files/NA-08-01.pdf and, for complex matrices,
https://arxiv.org/abs/1909.02659.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..shape import Size
from ..tensor import Tensor
from . import _lapack
from ._matrices import (
    check_matrix,
    check_pair,
    factorization,
    fail,
    hermitian,
    squares,
    well,
)
from .registry import FUNCTIONS, Sample, composition, method, named
from .rules import by_body
from .samples import draw, rng
from .selection import where_op
from .storing import store_out
from .views import adjoint

# ---------------------------------------------------------------- inverse


def _square_rule(name: str) -> Any:
    def infer(A: Any, *rest: Any) -> tuple:
        return Size(check_matrix(name, A, True)), A.dtype

    return infer


def _with_info(name: str) -> Any:
    def infer(A: Any, *rest: Any) -> list:
        shape = check_matrix(name, A, True)
        return [(Size(shape), A.dtype), (Size(shape[:-2]), dt.int32)]

    return infer


def invert(name: str, A: np.ndarray, check: bool) -> tuple[np.ndarray, np.ndarray]:
    """The inverses, and where an elimination met a pivot of 0 (0: nowhere)."""
    try:
        return np.linalg.inv(A), np.zeros(A.shape[:-2], np.int32)
    except np.linalg.LinAlgError:
        LU, pivots, info = _lapack.lu(A)
    if check:
        fail(name, info, "The diagonal element {0} is zero, the inversion could not be completed "
             "because the input matrix is singular.", "use linalg.pinv")  # fmt: skip
    return _lapack.lu_solve(LU, pivots, np.eye(A.shape[-1], dtype=A.dtype)), info


def _inv_grad(g: Tensor, out: Tensor) -> Tensor:
    back = adjoint(out)
    return -(back @ g @ back)


def _singular() -> Iterator[Sample]:
    yield from squares()()
    yield Sample((np.zeros((2, 2)),), error=RuntimeError)


@factorization(
    "inv",
    _square_rule("inv"),
    _singular,
    node="LinalgInvExBackward0",
    grad={"A": _inv_grad},
    out=True,
)
def inv(A: Tensor) -> Tensor:
    """The inverse of square matrices; a LinAlgError where there is none."""
    return invert("inv", A, True)[0]


@factorization(
    "inv_ex", _with_info("inv_ex"), squares(), grad={"A": lambda gs, outs: _inv_grad(gs[0], outs[0])},
    result_names="inverse info", nondiff_outputs=(1,), out=True,
)  # fmt: skip
def inv_ex(A: Tensor, *, check_errors: bool = False) -> Tensor:
    """The inverse of square matrices, and for each the pivot that is zero (int32; 0 where it succeeded)."""
    return invert("inv_ex", A, check_errors)


@composition(samples=_singular)
def inverse(input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The inverse of square matrices."""
    return inv(input, out=out)


# ---------------------------------------------------------------- determinants


def _slogdet_grad(gs: Any, A: Tensor, outs: Any) -> Tensor | None:
    factor = gs[1]
    if gs[0] is not None and A.is_complex():  # the phase turns with the imaginary part of the trace
        spin = (gs[0] * outs[0].conj()).imag * 1j
        factor = spin if factor is None else factor + spin
    return None if factor is None else adjoint(inv_ex(A)[0]) * factor[..., None, None]


@factorization(
    "slogdet", lambda A: [(Size(check_matrix("slogdet", A, True)[:-2]), A.dtype), (Size(A.shape[:-2]), A.dtype.to_real())],
    squares(), grad={"A": _slogdet_grad}, result_names="sign logabsdet", out=True,
)  # fmt: skip
def slogdet(A: Tensor) -> Tensor:
    """The sign (or phase) of the determinant and the logarithm of its absolute value."""
    sign, size = np.linalg.slogdet(A)
    return np.asarray(sign), np.asarray(size)


def _cofactor_body(A: Tensor) -> Tensor:
    return inv(A).mT * det(A)[..., None, None]


@factorization(
    "cofactors", _square_rule("det"), squares(bad=False), private=True, grad=by_body(_cofactor_body, "A"),
)  # fmt: skip
def cofactors(A: Tensor) -> Tensor:
    """The derivative of the determinant to each element, of singular matrices too."""
    inverse, info = invert("det", A, False)
    size = np.asarray(np.linalg.det(A))
    with np.errstate(all="ignore"):
        condition = abs(A).sum(-1).max(-1, initial=0) * abs(inverse).sum(-1).max(-1, initial=0)
        singular = (info != 0) | ~(condition * np.finfo(A.dtype).eps < 0.01)
        out = np.swapaxes(inverse, -1, -2) * size[..., None, None]
    if singular.any():  # the product of the other singular values in place of each
        u, s, vh = np.linalg.svd(A[singular])
        others = np.where(np.eye(s.shape[-1], dtype=bool), 1, s[..., None, :]).prod(-1)
        turn = (np.linalg.det(u) * np.linalg.det(vh))[..., None, None]
        out[singular] = turn * ((u * others[..., None, :]) @ vh).conj()
    return out


def _det_grad(g: Tensor, A: Tensor) -> Tensor:
    found = cofactors(A)
    return (found.conj() if A.is_complex() else found) * g[..., None, None]


def _scalar_rule(A: Any) -> tuple:
    return Size(check_matrix("det", A, True)[:-2]), A.dtype


@factorization(
    "det", _scalar_rule, squares(), node="LinalgDetBackward0", grad={"A": _det_grad}, out=True
)
def det(A: Tensor) -> Tensor:
    """The determinant of square matrices."""
    return np.asarray(np.linalg.det(A))


@composition(samples=squares())
def logdet(input: Tensor) -> Tensor:
    """The logarithm of the determinant; NaN where that is negative."""
    sign, size = slogdet(input)
    if input.is_complex():
        return sign.log() + size
    return where_op(sign == -1, float("nan"), size)


for _fn in (det, slogdet):
    FUNCTIONS[_fn.__name__] = _fn
    method(_fn.__name__)(_fn)


# ---------------------------------------------------------------- Cholesky


def _cholesky_grad(gs: Any, outs: Any, upper: bool) -> Tensor:
    L, g = (adjoint(outs[0]), adjoint(gs[0])) if upper else (outs[0], gs[0])
    middle = adjoint(L) @ g
    middle = (middle.tril() + adjoint(middle.tril(-1))) * 0.5
    solve = FUNCTIONS["linalg.solve_triangular"]
    return solve(L, solve(adjoint(L), middle, upper=True), upper=False, left=False)


def _definite() -> Iterator[Sample]:
    yield from hermitian()
    yield Sample((-np.eye(2),), error=RuntimeError)
    yield Sample((np.full((2, 2), np.nan),), error=RuntimeError)


@factorization(
    "cholesky_ex", _with_info("cholesky"), lambda: (Sample((*s.args, u, False), grad=False) for s in hermitian() if not s.error for u in (False, True)),
    grad={"A": _cholesky_grad}, nondiff_outputs=(1,), private=True,
)  # fmt: skip
def cholesky_op(A: Tensor, upper: bool, check_errors: bool) -> Tensor:
    """L of A = L L^H (U of U^H U) from A's triangle of that name, and the first minor that is not positive."""
    L, info = _lapack.cholesky(_lapack.turned(A) if upper else A)
    if check_errors:
        fail("cholesky", info, "The factorization could not be completed because the input is not "
             "positive-definite (the leading minor of order {0} is not positive-definite).",
             "add a multiple of the identity, or use linalg.ldl_factor")  # fmt: skip
    return _lapack.turned(L) if upper else L, info


@composition(namespace="linalg", method=False, samples=_definite)
def cholesky(input: Tensor, *, upper: bool = False, out: Tensor | None = None) -> Tensor:
    """The triangular factor of Hermitian positive-definite matrices: input = L L^H, or U^H U; else a LinAlgError."""
    return store_out(cholesky_op.op, cholesky_op(input, upper, True)[0], out)


@composition(namespace="linalg", method=False, samples=hermitian)
def cholesky_ex(
    input: Tensor, *, upper: bool = False, check_errors: bool = False, out: Any = None
) -> Any:
    """(L, info): the triangular factor, and the order of the minor that is not positive-definite (int32; 0: none)."""
    r = named("linalg_cholesky_ex", "L info")(*cholesky_op(input, upper, check_errors))
    return store_out(cholesky_op.op, r, out)


def _old_cholesky(input: Tensor, upper: bool = False, *, out: Tensor | None = None) -> Tensor:
    """The triangular factor of Hermitian positive-definite matrices."""
    return store_out(cholesky_op.op, cholesky_op(input, upper, True)[0], out, cast=True)


FUNCTIONS["cholesky"] = _old_cholesky
method("cholesky")(_old_cholesky)


def _factors() -> Iterator[Sample]:
    r = rng(41)
    for shape in ((3, 3), (2, 3, 3), (0, 0)):
        for upper in (False, True):
            low = np.tril(well(r, *shape))
            yield Sample((np.swapaxes(low, -1, -2) if upper else low, upper), grad=False)
    yield Sample((draw(r, (2, 3)), False), error=RuntimeError)
    yield Sample((np.zeros((2, 2)), False), error=RuntimeError)


# PyTorch's gradients of these two are those of dense L in L L^H, of which one triangle is read
@factorization(
    "cholesky_inverse", _square_rule("cholesky_inverse"), _factors, private=True,
    grad={"L": lambda g, L, out, upper: _through_gram(out @ (g + adjoint(g)) @ out, L, upper)},
)  # fmt: skip
def cholesky_inverse_op(L: Tensor, upper: bool) -> Tensor:
    """The inverse of L L^H (U^H U)."""
    fail("cholesky_inverse", _lapack.first(L.diagonal(0, -2, -1) == 0), "The diagonal element {0} is zero, the "
         "inversion could not be completed because the input matrix is singular.", "give a Cholesky factor")  # fmt: skip
    return _from_factor(np.eye(L.shape[-1], dtype=L.dtype), L, upper)


def _through_gram(common: Tensor, L: Tensor, upper: bool) -> Tensor:
    return -(L @ common) if upper else -(common @ L)


def _from_factor(B: np.ndarray, L: np.ndarray, upper: bool) -> np.ndarray:
    """X of L L^H X = B."""
    back = _lapack.turned(L)
    first, second = (back, L) if upper else (L, back)
    lead = np.broadcast_shapes(B.shape[:-2], L.shape[:-2])
    half = _lapack.substitute(first, np.broadcast_to(B, (*lead, *B.shape[-2:])), False)
    return _lapack.substitute(second, half, True)


@composition(samples=_factors)
def cholesky_inverse(input: Tensor, upper: bool = False, *, out: Tensor | None = None) -> Tensor:
    """The inverse of the matrices whose triangular Cholesky factors are given (U where `upper`)."""
    return store_out(cholesky_inverse_op.op, cholesky_inverse_op(input, upper), out, cast=True)


def _cholesky_solve_infer(B: Any, L: Any, upper: bool = False) -> tuple:
    lead = check_pair("cholesky_solve", L, B)
    return Size((*lead, *B.shape[-2:])), B.dtype


def _cholesky_solve_grad(g: Tensor, L: Tensor, out: Tensor, upper: bool, needs: tuple) -> tuple:
    gb = cholesky_solve_op(g, L, upper)
    if not needs[1]:
        return gb, None
    common = gb @ adjoint(out)
    return gb, _through_gram(common + adjoint(common), L, upper)


def _cholesky_solve_samples() -> Iterator[Sample]:
    r = rng(42)
    for b, a in (((3, 2), (3, 3)), ((2, 3, 1), (2, 3, 3)), ((3, 2), (2, 3, 3)), ((0, 2), (0, 0))):
        for upper in (False, True):
            low = np.tril(well(r, *a))
            yield Sample(
                (draw(r, b), np.swapaxes(low, -1, -2) if upper else low, upper), grad=False
            )
    yield Sample((draw(r, (2, 3)), draw(r, (3, 3)), False), error=RuntimeError)
    yield Sample((draw(r, (3,)), draw(r, (3, 3)), False), error=RuntimeError)


@factorization(
    "cholesky_solve", _cholesky_solve_infer, _cholesky_solve_samples, private=True,
    grad={("B", "L"): _cholesky_solve_grad},
)  # fmt: skip
def cholesky_solve_op(B: Tensor, L: Tensor, upper: bool) -> Tensor:
    """X of L L^H X = B."""
    return _from_factor(B, L, upper)


@composition(samples=_cholesky_solve_samples)
def cholesky_solve(
    input: Tensor, input2: Tensor, upper: bool = False, *, out: Tensor | None = None
) -> Tensor:
    """The solution X of A X = input from the triangular Cholesky factor input2 of A (U where `upper`)."""
    return store_out(cholesky_solve_op.op, cholesky_solve_op(input, input2, upper), out, cast=True)
