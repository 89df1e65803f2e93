"""QR, and products of the reflections I - tau v v^H that it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import KilnError, describe
from ..shape import Size
from ..tensor import Tensor
from . import _lapack
from ._matrices import check_matrix, diag, eye, factorization, well
from .registry import FUNCTIONS, Sample, composition, method, named
from .rules import not_differentiable
from .samples import draw, rng
from .storing import store_out
from .views import adjoint

# ---------------------------------------------------------------- QR


def _qr_infer(A: Any, mode: str = "reduced") -> list:
    if mode not in ("reduced", "complete", "r"):
        raise KilnError("qr", f"received unrecognized mode '{mode}' but expected one of 'reduced' (default), "
                        "'r', or 'complete'", repr(mode), "")  # fmt: skip
    *lead, m, n = check_matrix("qr", A)
    k = m if mode == "complete" else min(m, n)
    q = (0,) if mode == "r" else (*lead, m, k)
    return [(Size(q), A.dtype), (Size((*lead, k, n)), A.dtype)]


def _qr_grad(gs: Any, outs: Any, mode: str) -> Tensor:
    q, r = outs
    gq, gr = gs
    if mode == "r":
        raise KilnError("qr", "The derivative of linalg.qr depends on Q, which is not computed when mode='r'",
                        f"R={describe(r)}", "use mode='reduced'")  # fmt: skip
    m, n = q.shape[-2], r.shape[-1]
    if mode == "complete" and m > n:
        raise KilnError("qr", "The QR decomposition is not differentiable when mode='complete' and nrows > ncols",
                        f"Q={describe(q)}, R={describe(r)}", "use mode='reduced'")  # fmt: skip
    rest: Any = None
    if m < n:  # the columns past the square are Q times those of R
        if gr is not None:
            rest = q @ gr[..., m:]
            more = q @ r[..., m:] @ adjoint(gr[..., m:])
            gq = more if gq is None else gq + more
            gr = gr[..., :m]
        r = r[..., :m]
    middle: Any = 0
    if gr is not None:
        middle = r @ adjoint(gr)
    if gq is not None:
        middle = middle - adjoint(gq) @ q
    full = q @ _hermitian_part(middle)
    full = full if gq is None else full + gq
    out = FUNCTIONS["linalg.solve_triangular"](adjoint(r), full, upper=False, left=False)
    if m < outs[1].shape[-1]:
        rest = q.new_zeros((*q.shape[:-1], n - m)) if rest is None else rest
        out = FUNCTIONS["cat"]([out, rest], -1)
    return out


def _hermitian_part(x: Tensor) -> Tensor:
    """The lower triangle and its adjoint, with the real part of the diagonal."""
    low = x.tril(-1)
    on = x.diagonal(0, -2, -1)
    return low + adjoint(low) + diag(on.real.to(x.dtype) if x.is_complex() else on)


def _qr_samples() -> Iterator[Sample]:
    r = rng(35)
    for shape in ((3, 3), (4, 3), (2, 4, 2), (2, 3), (0, 2), (3, 0)):
        yield Sample((well(r, *shape),), grad=False)
    yield Sample((well(r, 4, 3),), {"mode": "complete"}, grad=False)
    yield Sample((well(r, 4, 3),), {"mode": "r"}, grad=False)
    yield Sample((well(r, 3, 3),), {"mode": "x"}, error=RuntimeError)
    yield Sample((draw(r, (3,)),), error=RuntimeError)


@factorization("qr", _qr_infer, _qr_samples, grad={"A": _qr_grad}, result_names="Q R", out=True)
def qr(A: Tensor, mode: str = "reduced") -> Tensor:
    """A = Q R with orthonormal columns in Q and upper triangular R."""
    if mode == "r":
        return np.empty((0,), A.dtype), np.linalg.qr(A, mode="r")
    return tuple(np.linalg.qr(A, mode=mode))


def _old_qr(input: Tensor, some: bool = True, *, out: Any = None) -> Any:
    """input = Q R; square Q where not `some`."""
    return qr(input, "reduced" if some else "complete", out=out)


FUNCTIONS["qr"] = _old_qr
method("qr")(_old_qr)


def _geqrf_infer(A: Any) -> list:
    shape = check_matrix("geqrf", A)
    return [(Size(shape), A.dtype), (Size((*shape[:-2], min(shape[-2:]))), A.dtype)]


@factorization(
    "geqrf", _geqrf_infer, lambda: (Sample(s.args, error=s.error, grad=False) for s in _qr_samples() if not s.kwargs),
    grad={"A": not_differentiable("geqrf")}, private=True,
)  # fmt: skip
def geqrf_op(A: Tensor) -> Tensor:
    """R on and above the diagonal with the reflections' vectors below it, and their factors tau."""
    return _lapack.qr(A)


@composition(
    samples=lambda: (
        Sample(s.args, error=s.error, grad=False) for s in _qr_samples() if not s.kwargs
    )
)
def geqrf(input: Tensor, *, out: Any = None) -> Any:
    """(a, tau): R of QR with the vectors of Q's reflections below it, and their factors."""
    return store_out(geqrf_op.op, named("geqrf", "a tau")(*geqrf_op(input)), out, cast=True)


# ---------------------------------------------------------------- products of reflections


def _check_reflections(name: str, A: Tensor, tau: Tensor, *like: Tensor) -> None:
    shape = check_matrix(name, A)
    if A.ndim - tau.ndim != 1 or tuple(tau.shape[:-1]) != shape[:-2]:
        what = f"Expected tau to have the batch dimensions {list(shape[:-2])} and one more"
        raise KilnError(name, what, describe((A, tau)), "")
    if tau.shape[-1] > shape[-1]:
        raise KilnError(name, "input.shape[-1] must be greater than or equal to tau.shape[-1]",
                        describe((A, tau)), "")  # fmt: skip
    for x in (tau, *like):
        if x.dtype is not A.dtype:
            raise KilnError(name, f"Expected all tensors to have the dtype {A.dtype.name}, got {x.dtype.name}",
                            describe((A, x)), "")  # fmt: skip


def _reflect(A: Tensor, tau: Tensor, to: Tensor, back: bool = False) -> Tensor:
    """The product of all reflections (its adjoint: `back`) times a matrix.

    H1 H2 … Hk = I - V T V^H, where T^-1 = diag(tau)^-1 + the upper triangle of V^H V, so that
    T = (I + diag(tau) triu(V^H V, 1))^-1 diag(tau), which needs no division by a tau.
    """
    k = tau.shape[-1]
    v = A[..., :k].tril(-1) + eye(A.shape[-2], A, k)
    vh = adjoint(v)
    upper = tau.unsqueeze(-1) * (vh @ v).triu(1)
    solve = FUNCTIONS["linalg.solve_triangular"]
    if back:
        inner = solve(adjoint(upper), vh @ to, upper=False, unitriangular=True)
        tau = tau.conj() if tau.is_complex() else tau
        return to - v @ (tau.unsqueeze(-1) * inner)
    return to - v @ solve(upper, tau.unsqueeze(-1) * (vh @ to), upper=True, unitriangular=True)


def _product_samples() -> Iterator[Sample]:
    r = rng(45)
    for a, t in (
        ((3, 3), (3,)),
        ((4, 3), (2,)),
        ((2, 4, 2), (2, 2)),
        ((3, 3), (0,)),
        ((0, 0), (0,)),
    ):
        yield Sample((draw(r, a), draw(r, t)))
    yield Sample((draw(r, (3, 2)) + 1j * draw(r, (3, 2)), draw(r, (2,)) * (1 - 0.5j)))
    yield Sample((draw(r, (2, 3)), draw(r, (2,))), error=RuntimeError)
    yield Sample((draw(r, (3, 3)), draw(r, (4,))), error=RuntimeError)
    yield Sample((draw(r, (3,)), draw(r, (3,))), error=RuntimeError)


@composition(namespace="linalg", method=False, samples=_product_samples)
def householder_product(input: Tensor, tau: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The first columns of the product of reflections, whose vectors stand below input's diagonal, their factors in tau."""
    _check_reflections("householder_product", input, tau)
    if input.shape[-2] < input.shape[-1]:
        raise KilnError("householder_product", "input.shape[-2] must be greater than or equal to input.shape[-1]",
                        describe(input), "")  # fmt: skip
    r = _reflect(input, tau, eye(input.shape[-2], input, input.shape[-1]))
    return store_out(qr.op, r, out, cast=True)


@composition(samples=_product_samples)
def orgqr(input: Tensor, input2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The first columns of the product of reflections, whose vectors stand below input's diagonal."""
    return householder_product(input, input2, out=out)


def _ormqr_samples() -> Iterator[Sample]:
    r = rng(46)
    for left in (True, False):
        for transpose in (True, False):
            other = draw(r, (4, 3) if left else (3, 4))
            yield Sample((draw(r, (4, 2)), draw(r, (2,)), other, left, transpose))
    yield Sample((draw(r, (2, 3, 3)), draw(r, (2, 3)), draw(r, (2, 3, 2))))
    yield Sample((draw(r, ()), draw(r, ()), draw(r, ())), error=RuntimeError)
    yield Sample((draw(r, (4, 2)), draw(r, (2,)), draw(r, (3, 2))), error=RuntimeError)
    yield Sample((draw(r, (5, 0)), draw(r, (5,)), draw(r, (5, 5)), True, True), error=RuntimeError)


@composition(samples=_ormqr_samples)
def ormqr(input: Tensor, input2: Tensor, input3: Tensor, left: bool = True, transpose: bool = False, *,
          out: Tensor | None = None) -> Tensor:  # fmt: skip
    """The product of reflections (its adjoint: `transpose`) with factors input2 times input3, from its left or right."""
    _check_reflections("ormqr", input, input2, input3)
    if input3.ndim != input.ndim or tuple(input3.shape[:-2]) != tuple(input.shape[:-2]):
        raise KilnError("ormqr", "Expected other to have the batch dimensions of input",
                        describe((input, input3)), "")  # fmt: skip
    side = -2 if left else -1
    if input3.shape[side] != input.shape[-2]:
        raise KilnError("ormqr", f"other.shape[{side}] must be equal to input.shape[-2]",
                        describe((input, input3)), "")  # fmt: skip
    if input2.shape[-1] != min(input3.shape[side], input.shape[-1]):
        raise KilnError("ormqr", f"tau.shape[-1] must be equal to min(other.shape[{side}], input.shape[-1])",
                        describe((input2, input3, input)), "")  # fmt: skip
    if left:
        r = _reflect(input, input2, input3, transpose)
    else:
        r = adjoint(_reflect(input, input2, adjoint(input3), not transpose))
    return store_out(qr.op, r, out)
