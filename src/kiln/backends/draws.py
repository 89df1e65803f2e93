"""PyTorch's stream in eager mode: the laws of `ops/mersenne.py` by kernels on the generator's state (`cpu/draws.py`).

A law has the reference's arguments, with the state in place of the stream, and gives an array, or None where that is to
draw. It has the reference's bits save where that takes NumPy's functions of float64 or float32 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..mersenne import FEW
from ..ops import mersenne
from ..ops.mersenne import scaled_one
from ..shape import numel

_F32, _F64, _I64 = dt.float32.np, dt.float64.np, dt.int64.np
_ELEMENT = {_F32: "float", _F64: "double"}
_DENSE = 16  # normal numbers from where on they are made in blocks


def bind(native: Callable[[], bool]) -> None:
    """Have PyTorch's stream drawn by kernels, where the processor has them."""

    def laws() -> dict[str, Callable]:
        if native():
            from .cpu import draws, isa

            _KERNELS.update(draws.functions(isa.host_isa()))
        return LAWS if _KERNELS else {}

    mersenne.kernels = laws


_KERNELS: dict[str, Callable[..., np.ndarray]] = {}
LAWS: dict[str, Callable[..., np.ndarray | None]] = {}


def _law(fn: Callable[..., np.ndarray | None]) -> Callable[..., np.ndarray | None]:
    LAWS[fn.__name__] = fn
    return fn


def _run(
    kernel: str, state: np.ndarray, out: np.ndarray, given: np.ndarray | None = None
) -> np.ndarray:
    """What a kernel makes of numbers or parameters, of which there are none or as many as it reads."""
    return _KERNELS[kernel](state, out, out.size, out if given is None else given, 0, 0)


@lru_cache(256)
def _numbers(*values: float) -> np.ndarray:
    return np.array(values, _F64)


@lru_cache(256)
def _words(*values: int) -> np.ndarray:
    return np.array([v % 2**64 for v in values], np.uint64)


@_law
def uniform(
    state: np.ndarray, size: tuple, dtype: dt.dtype, _: Any, low: float, high: float
) -> Any:
    d = dtype.np
    if d is not _F32 and d is not _F64:
        return None
    out = np.empty(size, d)
    if low == 0.0 and high == 1.0:
        return _run(dtype.name, state, out)
    return _run(f"range_{dtype.name}", state, out, _range(low, high, d.type))


@lru_cache(256)
def _range(low: float, high: float, kind: type) -> np.ndarray:
    return np.array([kind(high) - kind(low), kind(low), kind(high)], _F64)


@_law
def normal(state: np.ndarray, size: tuple, dtype: dt.dtype, _: Any, mean: float, std: float, dense: bool) -> Any:  # fmt: skip
    element = _ELEMENT.get(dtype.np)
    if element is None:
        return None
    out = np.empty(size, dtype.np)
    if out.size < _DENSE or not dense:
        return _run(f"few_normal_{element}", state, out, _numbers(mean, std))
    if element == "float":
        return _run("normal_float", state, out, _single(mean, std))
    return _run("normal_double", state, out, _numbers(mean, std)) if out.size <= FEW else None


@lru_cache(256)
def _single(*values: float) -> np.ndarray:
    return np.array(values, _F32).astype(_F64)


@_law
def exponential(state: np.ndarray, size: tuple, dtype: dt.dtype, _: Any, rate: float) -> Any:
    element = _ELEMENT.get(dtype.np)
    if element is None or numel(size) > FEW:
        return None
    return _run(f"exponential_{element}", state, np.empty(size, dtype.np), _numbers(-rate))


@_law
def integers(state: np.ndarray, size: tuple, dtype: Any, _: Any, low: int, high: int) -> Any:
    span = high - low
    if numel(size) > FEW or span >= 2**64:
        return None
    kernel = "integers" if span < 2**28 else "long_integers"
    return _run(kernel, state, np.empty(size, _I64), _words(span, low))


@_law
def permutation(state: np.ndarray, size: tuple, dtype: Any, _: Any) -> Any:
    if len(size) != 1 or size[0] >= 2**32:
        return None
    return _run("permutation", state, np.empty(size, _I64))


@_law
def bernoulli(state: np.ndarray, size: tuple, dtype: dt.dtype, given: Any, p: float | None = None, scale: float = 1.0) -> Any:  # fmt: skip
    if p is not None:
        bound = _bound(p, scale, dtype)
        if bound is None:
            return None
        kernel, d, given = bound
        return _run(kernel, state, np.empty(size, d), given)
    (q,) = given
    element = _ELEMENT.get(q.dtype)
    if (
        q.__class__ is not np.ndarray
        or element is None
        or q.shape != size
        or not q.flags.c_contiguous
    ):
        return None
    return _run(f"bernoulli_{element}", state, np.empty(size, q.dtype), q)


@lru_cache(256)
def _bound(p: float, scale: float, dtype: dt.dtype) -> tuple[str, np.dtype, np.ndarray] | None:
    """Which kernel makes trials of what dtype, and what it is given: the bound of 53 bits, and what is where they are below it."""
    value = scaled_one(scale, dtype)
    d = value.dtype
    if d is not _F32 and d is not _F64 and d is not dt.bool_.np:
        return None
    given = np.array([math.ceil(p * 2.0**53), 0], np.uint64)
    given[1:].view(d)[0] = value
    return f"below_{d}", d, given


@_law
def gamma(state: np.ndarray, size: tuple, dtype: dt.dtype, given: Any) -> Any:
    (alpha,) = given
    element = _ELEMENT.get(alpha.dtype)
    if (
        alpha.__class__ is not np.ndarray
        or element is None
        or alpha.dtype is not dtype.np
        or alpha.shape != size
        or not alpha.flags.c_contiguous
    ):
        return None
    return _run(f"gamma_{element}", state, np.empty(size, alpha.dtype), alpha)


@_law
def dirichlet(state: np.ndarray, size: tuple, dtype: dt.dtype, given: Any) -> Any:
    (alpha,) = given
    if alpha.shape != size or not alpha.size:
        return None
    alpha = np.ascontiguousarray(alpha, _F64)
    return _KERNELS["shares"](state, np.empty(size, _F64), alpha.size, alpha, size[-1], 0)


@_law
def multinomial(state: np.ndarray, size: tuple, dtype: dt.dtype, given: Any) -> Any:
    (weights,) = given
    if weights.dtype.itemsize < 4:
        weights = weights.astype(_F32)
    cols = weights.shape[-1]
    sums = np.add.accumulate(weights.reshape(-1, cols), 1)
    sums /= sums[:, -1:]
    sums[:, -1] = 1
    sums = np.ascontiguousarray(sums, _F64)
    return _KERNELS["choices"](state, np.empty(size, _I64), len(sums), sums, cols, size[-1])


@_law
def chosen(state: np.ndarray, size: tuple, dtype: Any, weights: np.ndarray) -> Any:
    """One place of each row, none where a row is nothing to draw from."""
    element = _ELEMENT.get(weights.dtype)
    n = weights.ndim
    if (
        element is None
        or not 1 <= n <= 2
        or not 0 < size[-1] <= FEW
        or not weights.flags.c_contiguous
    ):
        return None
    rows = size[0] if n == 2 else 1
    out = np.empty((*size[:-1], 1), _I64)
    _KERNELS[f"chosen_{element}"](state, out, rows, weights, size[-1], 0)
    return out if rows and out.item(0) >= 0 else None
