"""What follows from factorisations: powers, ranks, norms and condition numbers of matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..tensor import Tensor
from .dispatch import store_out
from .factorize import check_matrix, inv, svdvals, well
from .linalg import matmul
from .registry import FUNCTIONS, Sample, composition
from .samples import draw, rng


def _power_samples() -> Iterator[Sample]:
    r = rng(38)
    for n in (0, 1, 2, 5, -1, -2):
        yield Sample((well(r, 3, 3), n))
    yield Sample((well(r, 2, 2, 2), 3))
    yield Sample((draw(r, (2, 3)), 2), error=RuntimeError)


@composition(samples=_power_samples)
def matrix_power(input: Tensor, n: int, *, out: Tensor | None = None) -> Tensor:
    """The n-th power of square matrices; negative powers are those of the inverse."""
    shape = check_matrix("matrix_power", input, True, floats=n < 0)
    if n < 0:
        input, n = inv(input), -n
    power: Tensor | None = None
    while n:
        if n & 1:
            power = input if power is None else matmul(power, input)
        n >>= 1
        if n:
            input = matmul(input, input)
    if power is None:
        power = FUNCTIONS["eye"](shape[-1], dtype=input.dtype).expand(shape).clone()
    return store_out(inv.op, power, out)


FUNCTIONS["linalg.matrix_power"] = matrix_power


@composition(namespace="linalg", method=False, samples=lambda: iter([
    Sample((well(rng(), 3, 3),), grad=False), Sample((np.ones((2, 3)),), grad=False), Sample((np.zeros((2, 2, 2)),), grad=False),
]))  # fmt: skip
def matrix_rank(A: Tensor, tol: Any = None, hermitian: bool = False, *, rtol: Any = None) -> Tensor:
    """How many singular values are above `tol`, or above `rtol` times the largest."""
    s = svdvals(A.detach())
    if tol is None:
        eps = dt.finfo(A.dtype).eps * max(A.shape[-2:])
        tol = s.amax(-1, True) * (eps if rtol is None else rtol)
    return (s > tol).sum(-1)


def _matrix_norms() -> Iterator[Sample]:
    r = rng(39)
    for ord in ("fro", "nuc", 1, -1, 2, -2, float("inf"), float("-inf")):
        yield Sample((well(r, 3, 3), ord))
        yield Sample((well(r, 2, 3, 4), ord, (0, 2), True))
    yield Sample((draw(r, (3,)),), error=RuntimeError)


@composition(namespace="linalg", method=False, samples=_matrix_norms)
def matrix_norm(A: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None,
                out: Tensor | None = None) -> Tensor:  # fmt: skip
    """A norm of matrices: "fro", "nuc", 2 and -2 (singular values), 1 and inf (sums of columns and rows)."""
    if A.ndim < 2:
        raise KilnError(
            "matrix_norm", "The input tensor A must have at least 2 dimensions", describe(A), ""
        )
    A = A if dtype is None else A.to(dtype)
    i, j = (d % A.ndim for d in dim)
    if ord == "fro":
        r = FUNCTIONS["linalg.vector_norm"](A, 2, (i, j), keepdim)
    elif ord in ("nuc", 2, -2):
        s = svdvals(A.movedim((i, j), (-2, -1)))
        r = s.sum(-1) if ord == "nuc" else s.amax(-1) if ord == 2 else s.amin(-1)
        for d in sorted((i, j)) if keepdim else ():
            r = r.unsqueeze(d)
    elif ord in (1, -1, float("inf"), float("-inf")):
        over, best = (i, j) if abs(ord) == 1 else (j, i)
        r = A.abs().sum(over, keepdim=True)
        r = r.amax(best, True) if ord > 0 else r.amin(best, True)
        r = r if keepdim else r.squeeze((i, j))
    else:
        raise KilnError("matrix_norm", f"Order {ord} not supported.", repr(ord), "")
    return store_out(inv.op, r, out)


@composition(namespace="linalg", method=False, samples=lambda: iter([
    *(Sample((well(rng(), 3, 3), o)) for o in (None, "fro", "nuc", 1, 2, float("inf"))), Sample((draw(rng(), (4,)), 3)),
    Sample((draw(rng(), (3, 4)), 2, 0)), Sample((draw(rng(), (3, 4)), None, None, True)), Sample((well(rng(), 3, 3), 3), error=RuntimeError),
]))  # fmt: skip
def norm(A: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, out: Tensor | None = None,
         dtype: Any = None) -> Tensor:  # fmt: skip
    """A norm of vectors (`vector_norm`) or, for matrices and two dims with an `ord`, of matrices."""
    dims = 1 if isinstance(dim, int) else None if dim is None else len(dim)
    if ord is not None and (dims == 2 or (dims is None and A.ndim == 2)):
        return matrix_norm(A, ord, (-2, -1) if dim is None else dim, keepdim, dtype=dtype, out=out)
    if isinstance(ord, str):
        raise KilnError("norm", f"Order {ord} needs a matrix", describe(A), "name two dimensions")
    return FUNCTIONS["linalg.vector_norm"](
        A, 2 if ord is None else ord, dim, keepdim, dtype=dtype, out=out
    )


@composition(namespace="linalg", method=False, samples=lambda: iter([
    *(Sample((well(rng(), 3, 3), p)) for p in (None, "fro", "nuc", 1, -1, 2, -2, float("inf"))),
]))  # fmt: skip
def cond(A: Tensor, p: Any = None, *, out: Tensor | None = None) -> Tensor:
    """The condition number of matrices for a norm; by default the largest over the smallest singular value."""
    if p in (None, 2, -2):
        s = svdvals(A)
        r = s[..., 0] / s[..., -1] if p != -2 else s[..., -1] / s[..., 0]
    else:
        r = matrix_norm(A, p) * matrix_norm(inv(A), p)
    return store_out(inv.op, r, out)


@composition(namespace="linalg", method=False, samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)))), Sample((draw(rng(), (3, 4)) * 1j, draw(rng(1), (3, 4)) * (1 + 1j)), {"dim": 0}),
]))  # fmt: skip
def vecdot(x: Tensor, y: Tensor, *, dim: int = -1, out: Tensor | None = None) -> Tensor:
    """The sums of products along a dimension, with the first factor conjugated."""
    return store_out(inv.op, ((x.conj() if x.is_complex() else x) * y).sum(dim), out)
