"""Routines of LAPACK in the library that NumPy multiplies with: in place, in the dtype of what they are given.

`numpy.linalg` has few of them, some in float64 only. Where NumPy was built with a library that has none
under these names, `has` says so and callers eliminate in NumPy. Matrices here are what LAPACK sees: those
of a C-contiguous array transposed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from . import _blas

Array = np.ndarray
_LETTERS = {"f": "s", "d": "d", "F": "c", "D": "z"}
_NAMES = ("scipy_{}_64_", "{}_64_")  # both with integers of 64 bits


@cache
def _routine(name: str, char: str) -> Callable[..., Any] | None:
    library = _blas.library()
    if library is None or char not in _LETTERS:
        return None
    for form in _NAMES:
        fn = getattr(library, form.format(_LETTERS[char] + name), None)
        if fn is not None:
            fn.restype = None
            return fn
    return None


def has(name: str, x: Array) -> bool:
    """Whether a routine can be called for arrays of this dtype."""
    return _routine(name, x.dtype.char) is not None


def call(name: str, *args: Any) -> None:
    """Run a routine named without its letter: letters, whole numbers and C-contiguous arrays, as it lists them."""
    fn: Any = _routine(name, next(a for a in args if isinstance(a, Array)).dtype.char)
    given: list[Any] = []
    for a in args:
        if isinstance(a, Array):
            given.append(ctypes.c_void_p(a.ctypes.data))
        elif isinstance(a, str):
            given.append(ctypes.c_char_p(a.encode()))
        else:
            given.append(ctypes.byref(ctypes.c_int64(a)))
    # Fortran has the lengths of letters behind everything else
    fn(*given, *(ctypes.c_size_t(1) for a in args if isinstance(a, str)))


def integers(n: int = 1) -> Array:
    """Room for results that are whole numbers."""
    return np.zeros(n, np.int64)


def working(name: str, dtype: np.dtype, args: tuple, last: tuple) -> None:
    """`call` for a routine that is given work and its size between `args` and `last`, after asking for the best size."""
    best = np.zeros(1, dtype)
    call(name, *args, best, -1, *last)
    size = max(1, int(best[0].real))
    call(name, *args, np.empty(size, dtype), size, *last)
