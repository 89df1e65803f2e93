"""Native routines in eager mode: what runs in place of an op's reference where arrays are large.

A routine has the op's raw arguments and gives what the reference gives, to roundings; whatever it has no
kernel for, small arrays and wrong arguments included, it hands on to `Op.run`, which then also says what
is wrong. Nothing of LLVM is imported before an array is large.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..config import config
from ..errors import KilnError
from ..ops.linalg import SMALL
from ..ops.registry import REGISTRY

_F16, _BF16 = dt.float16.np, dt.bfloat16.np
_F32, _F64, _I32, _I8 = dt.float32.np, dt.float64.np, dt.int32.np, dt.int8.np

# The least products of elements for which native code gains, measured beside NumPy's loops and OpenBLAS.
_LEAST = {
    d.num: least
    for d, least in (
        (_F32, 1 << 14), (_F64, 1 << 14), (_F16, 1 << 15), (_BF16, 1 << 9), (_I32, 1 << 12), (_I8, 1 << 12),
    )
}  # fmt: skip
_DEEP = 1 << 13  # a sum of bf16 is not cut, and its panels grow with it


def routine(name: str) -> Callable[[Callable], Callable]:
    """Have eager mode call the decorated function for an op."""

    def register(fn: Callable) -> Callable:
        REGISTRY[name].eager = fn
        return fn

    return register


@cache
def _products() -> Any:
    """The module that multiplies, or None where this processor has no kernels."""
    from .cpu import isa, products

    try:
        isa.make_isa()
    except KilnError:
        return None
    return products


def _multiply(a: np.ndarray, b: np.ndarray, start: np.ndarray | None = None) -> np.ndarray | None:
    """a @ b (+ start, for each row) of one dtype, rounded once; None where the reference is to do it."""
    d = a.dtype
    least = _LEAST.get(d.num)
    if least is None or d is not b.dtype or a.ndim < 2 or b.ndim < 2:
        return None
    (m, k), n = a.shape[-2:], b.shape[-1]
    # a matrix times a vector takes as long as reading it, by either
    few = (m == 1 or n == 1) and (d is _F32 or d is _F64)
    if max(a.size * n, b.size * m) < least or few or b.shape[-2] != k or config.eager != "cpu":
        return None
    native = _products()
    if native is None:
        return None
    if d is _F16 or (d is _BF16 and k > _DEEP):
        wide = None if start is None else start.astype(_F32)
        r = _multiply(a.astype(_F32), b.astype(_F32), wide)
        return None if r is None else r.astype(d)
    product = native.find(a, b, start is not None)
    if product is None:
        return None
    if start is None:
        return product(a, b)
    out = product.empty()
    out[...] = start
    return product(a, b, out)


@routine("matmul")
def matmul(input: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The product of matrices or of batches of them."""
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
    if input.size * weight.size < SMALL and input.dtype is _F32:
        return _linear_run(input, weight, bias)
    start = bias is None or (bias.dtype is input.dtype and bias.shape == weight.shape[:1])
    if start and weight.ndim == 2 and input.dtype.kind in "fV":
        r = _multiply(input, weight.T, bias)
        if r is not None:
            return r
    return _linear_run(input, weight, bias)


@routine("linear_weight_grad")
def linear_weight_grad(grad: np.ndarray, input: np.ndarray) -> np.ndarray:
    """The product of all rows."""
    if grad.size and input.size and grad.ndim > 1 and grad.shape[:-1] == input.shape[:-1]:
        return matmul(grad.reshape(-1, grad.shape[-1]).T, input.reshape(-1, input.shape[-1]))
    return _weight_grad.run(grad, input)


_matmul, _int_mm = REGISTRY["matmul"], REGISTRY["_int_mm"]
_linear_run, _weight_grad = REGISTRY["linear"].run, REGISTRY["linear_weight_grad"]
