"""Chebyshev series of functions that are known exactly, but slowly: found from their values when first used."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

Array = np.ndarray

_POINTS = 64
_BLOCK = 1 << 13


def doubled(fn: Callable) -> Callable:
    """The function computed in float64, a block that stays in cache at a time, and rounded to its argument's dtype."""

    def rounded(*xs: Array) -> Array:
        with np.errstate(all="ignore"):
            if xs[0].size <= _BLOCK:
                return np.asarray(fn(*(np.asarray(x, np.float64) for x in xs))).astype(xs[0].dtype)
            same = np.broadcast_arrays(*xs)
            flat = [np.ascontiguousarray(x).reshape(-1) for x in same]
            out = np.empty(flat[0].size, xs[0].dtype)
            for at in range(0, out.size, _BLOCK):
                part = slice(at, at + _BLOCK)
                out[part] = fn(*(x[part].astype(np.float64) for x in flat))
        return out.reshape(same[0].shape)

    return rounded


class Series:
    """A smooth function on [-1, 1] as a sum of as many Chebyshev polynomials as it needs."""

    def __init__(self, exact: Callable[[Array], Array]):
        self.exact = exact
        self._found: list[float] | None = None

    def _coefficients(self) -> list[float]:
        odd = (
            2 * np.arange(_POINTS) + 1
        )  # point j is cos(odd[j] * turn), reduced before it is rounded
        cosines = np.cos(np.arange(4 * _POINTS) * (math.pi / (2 * _POINTS)))
        with np.errstate(all="ignore"):
            values = self.exact(cosines[odd])
        found = [
            math.fsum(values * cosines[k * odd % (4 * _POINTS)]) * 2 / _POINTS
            for k in range(_POINTS)
        ]
        found[0] /= 2
        largest = max(map(abs, found))
        while len(found) > 2 and abs(found[-1]) < 2.5e-16 * largest:
            found.pop()
        return found

    def __call__(self, t: Array) -> Array:
        """The sum, by Clenshaw's recurrence."""
        if self._found is None:
            self._found = self._coefficients()
        twice, b1, b2 = 2 * t, np.zeros_like(t), np.zeros_like(t)
        for c in self._found[:0:-1]:
            b1, b2 = twice * b1 - b2 + c, b1
        return t * b1 - b2 + self._found[0]


def tail(exact: Callable[[Array], Array], low: float = 1.0) -> Callable[[Array], Array]:
    """A function of x >= low that falls like 1 / sqrt(x), by a series in low / x."""

    def scaled(t: Array) -> Array:
        x = 2 * low / (t + 1)
        return exact(x) * np.sqrt(x)

    series = Series(scaled)
    return lambda x: series(2 * low / x - 1) / np.sqrt(x)
