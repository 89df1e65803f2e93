"""Native products of eager mode, of matrices of any size."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..config import config
from ..ops.linalg import LEAST, MATRIX, SMALL
from ..ops.linalg import product as small_product
from ..ops.registry import REGISTRY
from .routines import native, routine

_F16, _BF16 = dt.float16.np, dt.bfloat16.np
_F32, _F64, _I32, _I8 = dt.float32.np, dt.float64.np, dt.int32.np, dt.int8.np

# The least products of elements for which native code gains, measured beside NumPy's loops and OpenBLAS.
_LEAST = {
    d.num: least
    for d, least in (
        (_F32, LEAST), (_F64, LEAST), (_F16, 1 << 15), (_BF16, 1 << 9), (_I32, 1 << 12), (_I8, 1 << 12),
    )
}  # fmt: skip
_FEW, _ROWS = 1 << 8, 20
"""Products of elements from where on those of few rows gain by a kernel of their own, and how many those are at most."""
_DEEP = 1 << 13  # a sum of bf16 is not cut, and its panels grow with it


@cache
def _products() -> Any:
    """The module that multiplies."""
    from .cpu import products

    return products


def _multiply(a: np.ndarray, b: np.ndarray, start: np.ndarray | None = None) -> np.ndarray | None:
    """a @ b (+ start, for each row) of one dtype, rounded once; None where the reference is to do it."""
    d = a.dtype
    least = _LEAST.get(d.num)
    if least is None or d is not b.dtype or a.ndim < 2 or b.ndim < 2:
        return None
    (m, k), n = a.shape[-2:], b.shape[-1]
    # a small matrix times a vector takes as long as reading it, by either
    few = (m == 1 or n == 1) and max(a.size, b.size) < MATRIX and (d is _F32 or d is _F64)
    if max(a.size * n, b.size * m) < least or few or b.shape[-2] != k:
        return None
    if (
        n == 1 and m > 1 and start is None and a.ndim == b.ndim == 2
    ):  # rows of sums are quicker than a column
        r = _multiply(b.T, a.T)
        return None if r is None else r.T
    if config.eager != "cpu" or not native():
        return None
    if m <= _ROWS and a.ndim == b.ndim == 2 and (d is _F32 or d is _F64) and b.flags.f_contiguous:
        r = _products().few(a, b.T, start)
        if r is not None:
            return r
    if d is _F16 or (d is _BF16 and k > _DEEP):
        wide = None if start is None else start.astype(_F32)
        r = _multiply(a.astype(_F32), b.astype(_F32), wide)
        return None if r is None else r.astype(d)
    product = _products().find(a, b, start is not None)
    if product is None:
        return None
    if start is None:
        return product(a, b)
    out = product.empty()
    out[...] = start
    return product(a, b, out)


def _few(x: np.ndarray, w: np.ndarray, bias: np.ndarray | None) -> np.ndarray | None:
    """x @ w.T (+ bias) of one dtype for few rows of x; None where another way is to do it."""
    if config.eager != "cpu" or not native():
        return None
    return _products().few(x, w, bias)


@routine("matmul")
def matmul(input: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The product of matrices or of batches of them, or of a large matrix and a vector."""
    if other.ndim == 1 and input.ndim == 2 and input.size >= MATRIX:
        r = _multiply(input, other[:, None])
        r = None if r is None else r.reshape(-1)
    else:
        r = _multiply(input, other)
    if r is None:
        return _matmul.run(input, other)
    return r if r.dtype is input.dtype else r.astype(input.dtype)  # int8 wraps, as its sums would


@routine("_int_mm")
def int_mm(input: np.ndarray, mat2: np.ndarray) -> np.ndarray:
    """The product of int8 matrices in int32."""
    r = _multiply(input, mat2)
    return _int_mm.run(input, mat2) if r is None else r


@routine("linear")
def linear(input: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """input @ weight.T + bias: the sums begin with the bias."""
    d = input.dtype
    if (
        _FEW <= input.size * len(weight) <= _ROWS * weight.size and (d is _F32 or d is _F64) and d is weight.dtype and weight.ndim == 2
        and (bias is None or (d is bias.dtype and bias.shape == weight.shape[:1]))
        and (r := _few(input, weight, bias)) is not None
    ):  # fmt: skip
        return r
    if (d is _F32 or d is _F64) and (
        input.size * weight.size < SMALL
        or (input.ndim > 1 and input.size == input.shape[-1] and weight.size < MATRIX)  # one row
    ):
        if bias is None and input.ndim == weight.ndim == 2 and d is weight.dtype:
            return input.dot(weight.T)
        if (
            bias is not None and input.ndim == weight.ndim == 2 and bias.shape == weight.shape[:1]
            and d is weight.dtype is bias.dtype
        ):  # fmt: skip
            out = input.dot(weight.T)
            row = out if len(out) != 1 else out[0]  # of one shape, which is added in half the time
            np.add(row, bias, row)
            return out
        return _linear.reference(input, weight, bias)  # row-major as it is
    start = bias is None or (bias.dtype is input.dtype and bias.shape == weight.shape[:1])
    if start and weight.ndim == 2 and input.dtype.kind in "fV":
        r = _multiply(input, weight.T, bias)
        if r is not None:
            return r
    return _linear.run(input, weight, bias)


@routine("linear_weight_grad")
def linear_weight_grad(grad: np.ndarray, input: np.ndarray) -> np.ndarray:
    """The product of all rows."""
    d = grad.dtype
    if grad.ndim == input.ndim == 2 and d is input.dtype and (d is _F32 or d is _F64):
        return small_product(grad.T, input)
    if grad.size and input.size and grad.ndim > 1 and grad.shape[:-1] == input.shape[:-1]:
        return matmul(grad.reshape(-1, grad.shape[-1]).T, input.reshape(-1, input.shape[-1]))
    return _weight_grad.run(grad, input)


_matmul, _int_mm = REGISTRY["matmul"], REGISTRY["_int_mm"]
_linear, _weight_grad = REGISTRY["linear"], REGISTRY["linear_weight_grad"]
