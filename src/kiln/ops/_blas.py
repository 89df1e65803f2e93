"""How many threads NumPy's LAPACK takes: one for matrices that are not large.

OpenBLAS parts even a 64 x 64 factorization among all cores, and its threads wait by spinning: on a quiet
machine that gains nothing, beside other work it takes several times as long.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

LARGE = 1024
"""Rows and columns from where on all threads are worth their while."""
_NAMES = (
    "scipy_openblas_{}_num_threads64_",
    "openblas_{}_num_threads64_",
    "openblas_{}_num_threads",
)


@cache
def library() -> ctypes.CDLL | None:
    """The library in which NumPy's linear algebra is, with all that it is linked to."""
    try:
        return ctypes.CDLL(np.linalg._umath_linalg.__file__)  # type: ignore[attr-defined]
    except (AttributeError, OSError):
        return None


@cache
def _controls() -> tuple[Callable[[], int], Callable[[int], Any]] | None:
    """How the number of threads is read and set; None where the library has no such functions."""
    found = library()
    for name in _NAMES:
        try:
            return getattr(found, name.format("get")), getattr(found, name.format("set"))
        except AttributeError:
            continue
    return None


def alone(run: Callable) -> Callable:
    """A function of arrays that runs on one thread of LAPACK's where its matrices are not large."""

    def call(*args: Any) -> Any:
        controls = _controls()
        large = any(
            a.__class__ is np.ndarray and a.ndim > 1 and min(a.shape[-2:]) >= LARGE for a in args
        )
        if controls is None or large:
            return run(*args)
        get, put = controls
        threads = get()
        if threads == 1:
            return run(*args)
        put(1)
        try:
            return run(*args)
        finally:
            put(threads)

    return call
