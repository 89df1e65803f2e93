"""Fourier transforms in eager mode: NumPy's, one dimension after the other, rows on all threads where they are many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

import numpy as np

from ..config import config
from ..ops.dispatch import LARGE
from ..ops.registry import REGISTRY

Array = np.ndarray


def _along(fn: Callable, x: Array, d: int, out: Array, **how: Any) -> Array:
    """A transform along one dimension into `out`: parts of the largest other dimension, one for each thread.

    Threads are made for the call, as they are in no way of a fork then; it takes milliseconds.
    """
    from ..runtime.threads import get_num_threads

    others = [i for i in range(x.ndim) if i != d]
    axis = max(others, key=x.shape.__getitem__, default=None)
    n = 1 if axis is None else min(get_num_threads(), x.shape[axis])
    if n == 1 or axis is None:
        return fn(x, axis=d, out=out, **how)
    cuts = [x.shape[axis] * i // n for i in range(n + 1)]
    failed: list[BaseException] = []

    def part(i: int) -> None:
        where = (*[slice(None)] * axis, slice(cuts[i], cuts[i + 1]))
        try:
            fn(x[where], axis=d, out=out[where], **how)
        except BaseException as e:
            failed.append(e)

    helpers = [Thread(target=part, args=(i,)) for i in range(1, n)]
    for h in helpers:
        h.start()
    part(0)
    for h in helpers:
        h.join()
    if failed:
        raise failed[0]
    return out


def _complex(x: Array, dims: Sequence[int], inverse: bool, out: Array | None = None) -> Array:
    """Complex to complex along dimensions, the last one first; without a scale."""
    for d in reversed(dims):
        if out is None:
            out = np.empty(x.shape, x.dtype)
        if inverse:
            x = _along(np.fft.ifft, x, d, out, norm="forward")
        else:
            x = _along(np.fft.fft, x, d, out)
    return x


def _large(x: Array) -> bool:
    return x.size >= LARGE and config.eager == "cpu"


def _dft(input: Array, dims: tuple, inverse: bool) -> Array:
    if not _large(input) or input.dtype.kind != "c":
        return REGISTRY["dft"].run(input, dims, inverse)
    return _complex(input, dims, inverse)


def _rdft(input: Array, dims: tuple) -> Array:
    if not _large(input) or input.dtype.kind != "f":
        return REGISTRY["rdft"].run(input, dims)
    shape, d = list(input.shape), dims[-1]
    shape[d] = shape[d] // 2 + 1
    out = np.empty(shape, np.result_type(input.dtype, np.complex64))
    return _complex(_along(np.fft.rfft, input, d, out), dims[:-1], False, out)


def _irdft(input: Array, n: int, dims: tuple) -> Array:
    if not _large(input) or input.dtype.kind != "c":
        return REGISTRY["irdft"].run(input, n, dims)
    x = _complex(input, dims[:-1], True)
    shape = [n if i == dims[-1] else s for i, s in enumerate(x.shape)]
    out = np.empty(shape, x.real.dtype)
    return _along(np.fft.irfft, x, dims[-1], out, n=n, norm="forward")


def bind() -> None:
    """Give the three transforms their routines."""
    for name, routine in (("dft", _dft), ("rdft", _rdft), ("irdft", _irdft)):
        REGISTRY[name].eager = routine
