"""The extension of linear algebra: Kiln's, where the standard asks for the same; stacks of matrices throughout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .. import linalg as _kiln
from ..errors import KilnValueError, describe
from ..ops import linalg as _products
from ..ops.matrix import diagonal as _diagonal
from ..ops.reduction import sum_op
from ..tensor import Tensor
from ._array import Array, array
from ._dtypes import EVERY, FLOATING, NUMERIC, checked, operand, operands
from ._elementwise import _named, bind_operators
from ._manipulation import matrix_transpose
from ._reductions import Axes, _reduced, sum

__all__ = [
    "cholesky", "cross", "det", "diagonal", "eig", "eigh", "eigvals", "eigvalsh", "inv", "matmul", "matrix_norm",
    "matrix_power", "matrix_rank", "matrix_transpose", "outer", "pinv", "qr", "slogdet", "solve", "svd", "svdvals",
    "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip

# ---------------------------------------------------------------- products


def matmul(x1: Tensor, x2: Tensor, /) -> Array:
    """The matrix product over the last two axes; 1-d arrays are vectors."""
    return array(_products.matmul(*operands("matmul", NUMERIC, x1, x2)))


bind_operators("matmul", matmul, NUMERIC)


def tensordot(
    x1: Tensor, x2: Tensor, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2
) -> Array:
    """The sum of products over the last axes of x1 with the first of x2, or over pairs of axes."""
    return array(_products.tensordot(*operands("tensordot", NUMERIC, x1, x2), axes))


def vecdot(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Array:
    """The sum of products of vectors along an axis, those of x1 conjugated."""
    a, b = operands("vecdot", NUMERIC, x1, x2)
    if not -min(a.ndim, b.ndim) <= axis < 0 or a.shape[axis] != b.shape[axis]:
        raise KilnValueError("vecdot", "axis counts from the end and has one size in both arrays",
                             f"{describe((x1, x2))}, axis={axis}", "axis=-1 is the last one")  # fmt: skip
    return array(sum_op((a.conj() if a.is_complex() else a) * b, axis, False).to(a.dtype))


def outer(x1: Tensor, x2: Tensor, /) -> Array:
    """The matrix of all products of two vectors' elements."""
    return array(_products.outer(*operands("outer", NUMERIC, x1, x2)))


def cross(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Array:
    """The cross product of vectors of three elements along an axis, counted from the end."""
    a, b = operands("cross", NUMERIC, x1, x2)
    n = max(a.ndim, b.ndim)
    a, b = (x.reshape((1,) * (n - x.ndim) + tuple(x.shape)) for x in (a, b))
    return array(_kiln.cross(a, b, dim=axis))


def matrix_power(x: Tensor, n: int, /) -> Array:
    """The n-th power of square matrices; negative powers are those of the inverse."""
    return array(_kiln.matrix_power(checked("matrix_power", FLOATING, x), n), x)


# ---------------------------------------------------------------- diagonals and norms


def diagonal(x: Tensor, /, *, offset: int = 0) -> Array:
    """The diagonals of matrices, `offset` columns right of the main one."""
    return array(_diagonal(checked("diagonal", EVERY, x), offset, -2, -1))


def trace(x: Tensor, /, *, offset: int = 0, dtype: Any = None) -> Array:
    """The sums of the diagonals of matrices; dtype as in `sum`."""
    return sum(diagonal(checked("trace", NUMERIC, x), offset=offset), axis=-1, dtype=dtype)


def vector_norm(
    x: Tensor, /, *, axis: Axes = None, keepdims: bool = False, ord: float = 2
) -> Array:
    """The `ord`-norm of vectors along axes, by default of all elements."""
    checked("vector_norm", FLOATING, x)
    return _reduced(lambda x, a, k: _kiln.vector_norm(x, ord, a, k), x, axis, keepdims)


def matrix_norm(x: Tensor, /, *, keepdims: bool = False, ord: Any = "fro") -> Array:
    """A norm of matrices: "fro", "nuc", 2 and -2 (singular values), 1 and inf (sums of columns and rows)."""
    checked("matrix_norm", FLOATING, x)
    return array(_kiln.matrix_norm(x, "fro" if ord is None else ord, keepdim=keepdims))


# ---------------------------------------------------------------- equations and factorisations


def solve(x1: Tensor, x2: Tensor, /) -> Array:
    """The solution x of x1 @ x = x2; only a 1-d x2 is a vector."""
    a, b = operands("solve", FLOATING, x1, x2)
    columns = b.unsqueeze(-1) if b.ndim == 1 else b
    stack = columns.reshape((1,) * (a.ndim - columns.ndim) + tuple(columns.shape))
    out = _kiln.solve(a, stack)
    return array(out.squeeze(-1) if b.ndim == 1 else out)


def _of_tolerance(fn: Callable, x: Tensor, rtol: Any) -> Array:
    """A function of singular values that are above `rtol` times the largest of their matrix."""
    checked(fn.__name__, FLOATING, x)
    if isinstance(rtol, Tensor):
        rtol = operand(rtol, x.dtype.to_real())
    return array(fn(x, rtol=rtol))


def matrix_rank(x: Tensor, /, *, rtol: Any = None) -> Array:
    """How many singular values of matrices are above `rtol` times the largest."""
    return _of_tolerance(_kiln.matrix_rank, x, rtol)


def pinv(x: Tensor, /, *, rtol: Any = None) -> Array:
    """The pseudo-inverse of matrices; singular values up to `rtol` times the largest count as 0."""
    return _of_tolerance(_kiln.pinv, x, rtol)


def cholesky(x: Tensor, /, *, upper: bool = False) -> Array:
    """The lower (or upper) triangular factor of positive-definite matrices."""
    return array(_kiln.cholesky(checked("cholesky", FLOATING, x), upper=upper))


def qr(x: Tensor, /, *, mode: str = "reduced") -> Any:
    """Factors (Q, R) of matrices: orthonormal columns and an upper triangle."""
    return _arrays(_kiln.qr(checked("qr", FLOATING, x), mode))


def svd(x: Tensor, /, *, full_matrices: bool = True) -> Any:
    """Factors (U, S, Vh) of matrices: the singular values between unitary matrices."""
    return _arrays(_kiln.svd(checked("svd", FLOATING, x), full_matrices))


def _arrays(result: Any) -> Any:
    return type(result)(*map(array, result))


def _of_matrices(name: str) -> Callable:
    fn = getattr(_kiln, name)

    def f(x: Tensor, /) -> Any:
        r = fn(checked(name, FLOATING, x))
        return array(r) if isinstance(r, Tensor) else _arrays(r)

    return _named(name, f, fn.__doc__)


det, eig, eigh, eigvals, eigvalsh, inv, slogdet, svdvals = map(
    _of_matrices, ("det", "eig", "eigh", "eigvals", "eigvalsh", "inv", "slogdet", "svdvals")
)
