"""Norms and condition numbers of matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import KilnError, describe
from ..shape import norm_dim
from ..tensor import Tensor
from ._matrices import check_matrix, check_same_dtype, well
from .factorize import inv, inv_ex
from .registry import FUNCTIONS, Sample, composition
from .samples import draw, rng
from .selection import where_op
from .spectra import svdvals
from .storing import store_out

_INF = float("inf")


def _matrix_norms() -> Iterator[Sample]:
    r = rng(39)
    for ord in ("fro", "nuc", 1, -1, 2, -2, _INF, -_INF):
        yield Sample((well(r, 3, 3), ord))
        yield Sample((well(r, 2, 3, 4), ord, (0, 2), True))
    for ord in ("fro", "nuc", 1, 2, _INF):
        yield Sample((np.zeros((0, 0)), ord), grad=False)
    yield Sample((np.zeros((3, 0)), 1), grad=False)
    yield Sample((np.zeros((3, 0)), -2), error=IndexError)
    yield Sample((draw(r, (3,)),), error=RuntimeError)
    yield Sample((draw(r, (3, 3)), 3), error=RuntimeError)
    yield Sample((draw(r, (3, 3)), "x"), error=RuntimeError)
    yield Sample((draw(r, (3, 3)), 1, (0, 0)), error=RuntimeError)


def _largest(x: Tensor, dim: int, keepdim: bool) -> Tensor:
    """The largest of positive numbers; 0 where there are none."""
    return x.amax(dim, keepdim) if x.shape[dim] else x.sum(dim, keepdim)


@composition(namespace="linalg", method=False, samples=_matrix_norms)
def matrix_norm(input: Tensor, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None,
                out: Tensor | None = None) -> Tensor:  # fmt: skip
    """A norm of matrices: "fro", "nuc", 2 and -2 (singular values), 1 and inf (sums of columns and rows)."""
    check_matrix("matrix_norm", input, halves=True)
    if isinstance(dim, int) or len(dim) != 2:
        raise KilnError("matrix_norm", f"dim must be a 2-tuple, got {dim}", describe(input), "")
    i, j = (norm_dim(d, input.ndim, "matrix_norm") for d in dim)
    if i == j:
        raise KilnError("matrix_norm", f"dims must be different, got {dim}", describe(input), "")
    input = input if dtype is None else input.to(dtype)
    if ord == "fro":
        r = FUNCTIONS["linalg.vector_norm"](input, 2, (i, j), keepdim)
    elif ord in ("nuc", 2, -2):
        s = svdvals(input.movedim((i, j), (-2, -1)))
        r = s.sum(-1) if ord == "nuc" else _largest(s, -1, False) if ord == 2 else s.amin(-1)
        for d in sorted((i, j)) if keepdim else ():
            r = r.unsqueeze(d)
    elif ord in (1, -1, _INF, -_INF):
        over, best = (i, j) if abs(ord) == 1 else (j, i)
        r = input.abs().sum(over, keepdim=True)
        r = _largest(r, best, True) if ord > 0 else r.amin(best, True)
        r = r if keepdim else r.squeeze((i, j))
    else:
        raise KilnError("matrix_norm", f"Order {ord} not supported.", repr(ord), "")
    return store_out(inv.op, r, out)


@composition(namespace="linalg", method=False, samples=lambda: iter([
    *(Sample((well(rng(), 3, 3), o)) for o in (None, "fro", "nuc", 1, 2, _INF)), Sample((draw(rng(), (4,)), 3)),
    Sample((draw(rng(), (3, 4)), 2, 0)), Sample((draw(rng(), (3, 4)), None, None, True)), Sample((well(rng(), 3, 3), 3), error=RuntimeError),
    Sample((draw(rng(), (2, 3, 4)), 2), error=RuntimeError), Sample((draw(rng(), (4,)), "fro"), error=RuntimeError),
]))  # fmt: skip
def norm(input: Tensor, ord: Any = None, dim: Any = None, keepdim: bool = False, *, out: Tensor | None = None,
         dtype: Any = None) -> Tensor:  # fmt: skip
    """A norm of vectors (`vector_norm`) or, for matrices and two dims with an `ord`, of matrices."""
    dims = 1 if isinstance(dim, int) else None if dim is None else len(dim)
    if ord is not None and (dims == 2 or (dims is None and input.ndim == 2)):
        return matrix_norm(
            input, ord, (-2, -1) if dim is None else dim, keepdim, dtype=dtype, out=out
        )
    if isinstance(ord, str):
        raise KilnError(
            "norm", f"Order {ord} needs a matrix", describe(input), "name two dimensions"
        )
    if ord is not None and dim is None and input.ndim != 1:
        raise KilnError("norm", "If dim is not specified but ord is, the input must be 1D or 2D",
                        describe(input), "name one or two dimensions")  # fmt: skip
    return FUNCTIONS["linalg.vector_norm"](
        input, 2 if ord is None else ord, dim, keepdim, dtype=dtype, out=out
    )


@composition(namespace="linalg", method=False, samples=lambda: iter([
    *(Sample((well(rng(), 3, 3), p)) for p in (None, "fro", "nuc", 1, -1, 2, -2, _INF)),
    *(Sample((np.ones((2, 2)), p), grad=False) for p in (1, "fro")), Sample((draw(rng(), (2, 3)),)),
    Sample((np.zeros((2, 0, 0)),), grad=False), Sample((draw(rng(), (2, 3)), 1), error=RuntimeError),
    Sample((draw(rng(), (2, 2)), 5), error=RuntimeError), Sample((draw(rng(), (2,)),), error=RuntimeError),
]))  # fmt: skip
def cond(input: Tensor, p: Any = None, *, out: Tensor | None = None) -> Tensor:
    """The condition number of matrices for a norm (inf for singular ones); by default largest over smallest singular value."""
    if p not in (None, "fro", "nuc", 1, -1, 2, -2, _INF, -_INF):
        raise KilnError(
            "cond", f"got an invalid norm type: {p}", describe(input), "use 2, 'fro', 1, …"
        )
    shape = check_matrix(
        "cond", input, p in ("fro", "nuc") or (p not in (None, 2, -2) and input.numel() > 0)
    )
    if not input.numel():
        r = input.new_zeros(shape[:-2], dtype=input.dtype.to_real())
    elif p in (None, 2, -2):
        s = svdvals(input)
        r = s[..., 0] / s[..., -1] if p != -2 else s[..., -1] / s[..., 0]
    else:
        inverse, info = inv_ex(input)
        inverse = where_op((info > 0)[..., None, None], _INF, inverse)
        r = matrix_norm(input, p) * matrix_norm(inverse, p)
    return store_out(inv.op, r, out, cast=True)


@composition(namespace="linalg", method=False, samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)))), Sample((draw(rng(), (3, 4)) * 1j, draw(rng(1), (3, 4)) * (1 + 1j)), {"dim": 0}),
    Sample((draw(rng(), (3,)), draw(rng(), (4,))), error=RuntimeError),
    Sample((draw(rng(), (3,)), np.arange(3)), error=RuntimeError), Sample((np.arange(3), np.arange(3)), error=RuntimeError),
]))  # fmt: skip
def vecdot(x: Tensor, y: Tensor, *, dim: int = -1, out: Tensor | None = None) -> Tensor:
    """The sums of products along a dimension, with the first factor conjugated."""
    if not (x.is_floating_point() or x.is_complex()):
        raise KilnError("vecdot", f"Expected a floating point or complex tensor as input, got {x.dtype.name}",
                        describe((x, y)), "convert first: x.float()")  # fmt: skip
    check_same_dtype("vecdot", x, y)
    return store_out(inv.op, ((x.conj() if x.is_complex() else x) * y).sum(dim), out)
