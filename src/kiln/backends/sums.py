"""Large sums and means in eager mode, of arrays of any shape by one kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from math import prod
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..config import config
from ..ops.reduction import accurate_sum, reduced_axes, reduced_shape
from ..ops.registry import REGISTRY
from .derived import LONG

_FLOATS = (dt.float32.np, dt.float64.np)


@cache
def _kernels() -> Any:
    """The module of kernels."""
    from .cpu import sums

    return sums


def bind(native: Callable[[], bool]) -> None:
    """Give sum and mean their routines."""
    _bind("sum", native)
    _bind("mean", native)


def _bind(name: str, native: Callable[[], bool]) -> None:
    op = REGISTRY[name]
    others, mean = op.eager, name == "mean"

    def run(input: np.ndarray, dim: Any, keepdim: bool) -> np.ndarray:
        """Over the first dimensions, or the last, or both, in the order in which they lie."""
        if (
            input.size >= LONG and input.dtype in _FLOATS and config.eager == "cpu" and native()
            and (s := _summed(input, reduced_axes(dim, input.ndim, name), keepdim)) is not None
        ):  # fmt: skip
            return s / s.dtype.type(input.size / s.size) if mean else s
        return others(input, dim, keepdim)

    run.least_of_any = others.least_of_any  # type: ignore[attr-defined]
    op.eager = run


def _summed(x: np.ndarray, axes: tuple[int, ...], keepdim: bool) -> np.ndarray | None:
    """The sum over `axes`; None where another way is to do it."""
    repeated = [i for i in axes if not x.strides[i] and x.shape[i] > 1]
    if repeated:  # such as the gradient of a sum
        times = prod([x.shape[i] for i in repeated])
        once = x[tuple([slice(1) if i in repeated else slice(None) for i in range(x.ndim)])]
        return np.asarray(accurate_sum(once, axes, keepdim) * x.dtype.type(times))
    if x.flags.c_contiguous:
        call = _prepared(x.shape, axes, keepdim, x.dtype, config.cpu_isa)
        return None if call is None else call(x)
    order = sorted(range(x.ndim), key=lambda i: -x.strides[i])
    lying = x.transpose(order)
    if not lying.flags.c_contiguous:
        return None
    call = _prepared(lying.shape, tuple(sorted(map(order.index, axes))), True, x.dtype, config.cpu_isa)  # fmt: skip
    if call is None:
        return None
    s = np.ascontiguousarray(call(lying).transpose(np.argsort(order)))
    return s.reshape(reduced_shape(x.shape, axes, keepdim))


@lru_cache(4096)
def _prepared(
    shape: tuple[int, ...], axes: tuple[int, ...], keepdim: bool, d: np.dtype, isa: str
) -> Callable[[np.ndarray], np.ndarray] | None:
    return _kernels().prepared(shape, axes, keepdim, d)
