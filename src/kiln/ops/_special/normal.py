"""The error function scaled, and the normal distribution's logarithm and inverse, in float64."""

from __future__ import annotations

import math

import numpy as np

from . import erfc
from .chebyshev import Array, Series, doubled

_H = 0.5
_NODES = [(k + 0.5) * _H for k in range(13)]


def _square_exp(x: Array) -> Array:
    """exp(x * x) with the square's rounding error made good (Dekker's product)."""
    split = x * 134217729.0
    high = np.where(np.isfinite(split), split - (split - x), x)
    low = x - high
    square = x * x
    rest = ((high * high - square) + 2 * high * low) + low * low
    return np.exp(square) * np.where(np.abs(rest) < 1, 1 + rest, 1)


def _midpoint(x: Array) -> Array:
    """erfcx of x >= 0: the midpoint rule on 2x/pi times the integral of exp(-t²) / (t² + x²), and the residue of
    its pole, which the rule passes by where x < pi / h (Matta and Reichl, 1971)."""
    total = sum(math.exp(-t * t) / (t * t + x * x) for t in _NODES) * x * (2 * _H / math.pi)
    z = np.where(x < 6, x, 0)
    pole = 2 * np.exp(z * z) / (1 + np.exp(z * (2 * math.pi / _H)))
    return total + np.where(x < 6, pole, 0)


def _on_half_line(t: Array) -> Array:
    x = 4 * (1 + t) / (1 - t)
    return _midpoint(x) * (1 + 2 * x)


_series = Series(_on_half_line)


@doubled
def erfcx(x: Array) -> Array:
    y = np.abs(x)
    far = np.isinf(y)
    y = np.where(far, 1, y)
    r = np.where(far, 0, _series((y - 4) / (y + 4)) / (1 + 2 * y))
    low = x < 0
    if low.any():
        r = np.where(low, 2 * _square_exp(np.where(low, x, 0)) - r, r)
    return np.where(np.isnan(x), x, r)


@doubled
def log_ndtr(x: Array) -> Array:
    t = x * math.sqrt(0.5)
    low = x < -1
    down = np.log(erfcx(np.where(low, -t, 1)) / 2) - np.where(low, t * t, 0)
    return np.where(low, down, np.log1p(-erfc(np.where(low, 0, t)) / 2))


def _left(p: Array) -> Array:
    """The quantile of p < 0.15: Newton's steps on the logarithm of the distribution, which is concave."""
    log_p = np.log(p)
    x = -np.sqrt(np.maximum(-2 * log_p - np.log(-2 * math.tau * log_p), 0.5))
    for _ in range(6):
        ratio = math.sqrt(2 / math.pi) / erfcx(-x * math.sqrt(0.5))  # density over distribution
        x = x - (log_ndtr(x) - log_p) / ratio
    return x


@doubled
def ndtri(p: Array) -> Array:
    from ..elementary import _erfinv

    out = np.full(p.shape, np.nan)
    low, high = (p > 0) & (p < 0.15), (p > 0.85) & (p < 1)
    middle = (p >= 0.15) & (p <= 0.85)
    out[low], out[high] = _left(p[low]), -_left(1 - p[high])
    out[middle] = _erfinv(2 * p[middle] - 1) * math.sqrt(2)
    return np.where(p == 0, -np.inf, np.where(p == 1, np.inf, out))
