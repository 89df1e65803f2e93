"""Functions of matrices: powers, exponentials, Vandermonde matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..formats import contiguous_format
from ..shape import Size
from ..tensor import Tensor
from . import _lapack
from ._matrices import check_matrix, eye, factorization, squares, well
from .factorize import inv
from .linalg import matmul
from .registry import FUNCTIONS, Sample, composition
from .rules import zero_gradient
from .samples import draw, rng
from .storing import store_out
from .views import adjoint


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
    copied = n in (0, 1)
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
        power = zero_gradient(eye(shape[-1], input).expand(shape).clone(), input)
    if power is input and out is None:
        return input.clone(memory_format=contiguous_format)
    return store_out(inv.op, power, out, cast=copied)


FUNCTIONS["linalg.matrix_power"] = matrix_power


def _exp_grad(g: Tensor, A: Tensor) -> Tensor:
    # exp of [[A^H, g], [0, A^H]] holds the derivative in the direction of g (Mathias, 1996)
    n = A.shape[-1]
    if not n:
        return g
    turned = adjoint(A)
    cat = FUNCTIONS["cat"]
    above, below = cat([turned, g], -1), cat([turned.new_zeros(turned.shape), turned], -1)
    return matrix_exp_op(cat([above, below], -2))[..., :n, n:]


def _exp_infer(A: Any) -> tuple:
    return Size(check_matrix("matrix_exp", A, True, halves=True)), A.dtype


@factorization("matrix_exp", _exp_infer, squares(bad=False), grad={"A": _exp_grad}, private=True)
def matrix_exp_op(A: Tensor) -> Tensor:
    """The matrix exponential."""
    return _lapack.matrix_exp(A)


@composition(samples=squares())
def matrix_exp(input: Tensor) -> Tensor:
    """The sum of input^k / k! over all k, for square matrices."""
    return matrix_exp_op(input)


def _linalg_matrix_exp(input: Tensor) -> Tensor:
    """The sum of input^k / k! over all k, for square matrices."""
    return matrix_exp_op(input)


FUNCTIONS["linalg.matrix_exp"] = _linalg_matrix_exp


@composition(namespace="linalg", method=False, samples=lambda: iter([
    Sample((draw(rng(), (4,)),)), Sample((draw(rng(), (2, 3)),), {"N": 5}), Sample((draw(rng(), (2, 3)) * 1j,), {"N": 3}),
    Sample((draw(rng(), ()),), {"N": 3}), Sample((draw(rng(), (3,)),), {"N": 1}, error=RuntimeError),
]))  # fmt: skip
def vander(x: Tensor, *, N: int | None = None) -> Tensor:
    """The powers 0, 1, …, N - 1 of each element of the last dimension, in a new one."""
    x = x if x.ndim else x.unsqueeze(0)
    N = x.shape[-1] if N is None else N
    if N <= 1:
        raise KilnError("vander", f"N must be greater than 1, but got {N}", describe(x), "")
    if x.dtype in (dt.bool_, dt.float16, dt.bfloat16):
        raise KilnError(
            "vander", f"not for {x.dtype.name}", describe(x), "convert first: x.float()"
        )
    if not (x.is_floating_point() or x.is_complex()):
        x = x.to(dt.int64)
    shape = (*x.shape, N - 1)
    powers = FUNCTIONS["cumprod"](x.unsqueeze(-1).expand(shape), -1)
    return FUNCTIONS["cat"]([x.new_ones((*x.shape, 1)), powers], -1)
