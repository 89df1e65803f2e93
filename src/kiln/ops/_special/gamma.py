"""The incomplete gamma functions and the zeta function, in float64."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import cache

import numpy as np

from . import lgamma
from .chebyshev import Array, doubled

# ---------------------------------------------------------------- pieces


def log1p_minus(m: Array) -> Array:
    """log(1 + m) - m without cancellation: log(1 + m) is 2 artanh(m / (2 + m))."""
    near = (m > -0.5) & (m < 1)
    r = np.where(near, m / (2 + m), 0)
    odd = np.polyval([1 / (2 * k + 3) for k in range(17)][::-1], r * r)
    return np.where(near, 2 * r**3 * odd - m * r, np.log1p(m) - m)


STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_ZETA = [math.fsum(j**-k for j in range(1, 60)) + 59.5 ** (1 - k) / (k - 1) for k in range(9, 42)]
LGAMMA1P = [-0.5772156649015329] + [
    (-1) ** k * z / k
    for k, z in enumerate(
        [1.6449340668482264, 1.2020569031595942, 1.0823232337111382, 1.0369277551433699,
         1.0173430619844491, 1.0083492773819228, 1.0040773561979443, *_ZETA], 2,
    )
]  # fmt: skip


def _lgamma1p(a: Array) -> Array:
    """log(gamma(1 + a)) for |a| <= 0.5, exact near 0."""
    return np.polyval([*LGAMMA1P[::-1], 0.0], a)


def _density(a: Array, x: Array) -> Array:
    """x**a exp(-x) / gamma(a), without forming the large numbers whose quotient it is."""
    large = a >= 10
    b = np.where(large, a, 10.0)
    z = 1 / (b * b)
    stirling = np.polyval(STIRLING[::-1], z) / b
    far = np.sqrt(b / math.tau) * np.exp(b * log1p_minus((x - b) / b) - stirling)
    s = np.where(large, 1.0, a)
    gamma = np.where(s < 1e-300, np.inf, np.exp(lgamma(1 + s)) / s)
    gamma = np.where(s < 0.5, np.exp(_lgamma1p(np.where(s < 0.5, s, 0))) / s, gamma)
    near = np.exp(-x / 2) * (x**s / gamma) * np.exp(-x / 2)
    return np.where(large, far, np.where(np.isnan(near), 0, near))


# ---------------------------------------------------------------- the incomplete gamma functions

_EPS = 2.0**-54


def _series(a: Array, x: Array) -> Array:
    """P by its power series, for x not far above a."""
    total, term, n = np.ones_like(x), np.ones_like(x), a
    for _ in range(2000):
        n = n + 1
        term = term * (x / n)
        total = total + term
        if not (term > _EPS * total).any():
            break
    return total * _density(a, x) / a


def _fraction(a: Array, x: Array) -> Array:
    """Q by Legendre's continued fraction, for x above a (Lentz' method)."""
    b = x + 1 - a
    c = np.full_like(x, 1e300)
    d = 1 / b
    h = d
    for k in range(1, 2000):
        an = k * (a - k)
        b = b + 2
        d = an * d + b
        c = b + an / c
        d = 1 / np.where(d == 0, 1e-300, d)
        c = np.where(c == 0, 1e-300, c)
        step = d * c
        h = h * step
        if not (np.abs(step - 1) > 2 * _EPS).any():
            break
    return h * _density(a, x)


def _small_q(a: Array, x: Array) -> Array:
    """Q of x up to about 1, where it is not near 1 - P's roundings: a series for Q itself."""
    u = a * np.log(x) - _lgamma1p(np.where(a <= 0.5, a, 0)) - np.where(a > 0.5, lgamma(1 + a), 0)
    total, term = np.zeros_like(x), np.ones_like(x)
    for n in range(1, 30):
        term = term * (-x / n)
        total = total + term / (a + n)
    return -np.expm1(u) - np.exp(u) * a * total


@cache
def gauss_legendre(n: int) -> list[tuple[float, float]]:
    """Points and weights of Gauss and Legendre's rule of even order on [0, 1], by Newton's steps in 40 digits."""
    out = []
    with localcontext() as context:
        context.prec = 40
        for i in range(n // 2):
            x = Decimal(math.cos(math.pi * (i + 0.75) / (n + 0.5)))
            for _ in range(4):
                p, q = Decimal(1), x
                for k in range(1, n):
                    p, q = q, ((2 * k + 1) * x * q - k * p) / (k + 1)
                slope = n * (x * q - p) / (x * x - 1)
                x -= q / slope
            w = float(1 / ((1 - x * x) * slope * slope))
            out += [(float((1 - x) / 2), w), (float((1 + x) / 2), w)]
    return out


def _peak(a: Array, x: Array, up: bool) -> Array:
    """Q (`up`) or P where a is large and x near it: the integral from x to where nothing is left."""
    # relative to the integrand at x, exp(-slope * y - curve * y**2 …) of y = |t - x| / x
    slope = (x - a + 1) if up else (a - 1 - x)
    curve = (a - 1) / 2
    y = (np.sqrt(slope * slope + 160 * curve) - slope) / (2 * curve) * (1.3 if up else 1.0)
    y = y if up else np.minimum(y, 1.0)
    total = np.zeros_like(x)
    for t, w in gauss_legendre(72):
        m = y * t
        total = total + w * np.exp((a - 1) * log1p_minus(m if up else -m) - slope * m)
    return total * y * _density(a, x)


def _gamma_p_q(a: Array, x: Array, q: bool) -> Array:
    """P or Q of a > 0, x > 0, both finite, by whichever formula suits."""
    out = np.full(x.shape, np.nan)
    inside = (a > 0) & (x > 0) & np.isfinite(a) & np.isfinite(x)
    peak = inside & (a >= 60) & (np.abs(x - a) < 0.3 * a)
    small = (
        inside & ~peak & (x <= 1.1) & (a * np.log(x) - lgamma(1 + a) > -0.7)
    )  # P is above a half
    below = inside & ~peak & ~small & (x < a + 1)
    above = inside & ~peak & ~small & ~below
    up = peak & (x >= a)
    for mask, fn, gives_q in (
        (up, lambda a, x: _peak(a, x, True), True), (peak & ~up, lambda a, x: _peak(a, x, False), False),
        (small, _small_q, True), (below, _series, False), (above, _fraction, True),
    ):  # fmt: skip
        if mask.any():
            r = fn(a[mask], x[mask])
            out[mask] = r if gives_q is q else 1 - r
    return out


def _incomplete(a: Array, x: Array, q: bool) -> Array:
    a, x = np.broadcast_arrays(a, x)
    out = _gamma_p_q(a, x, q)
    none, all_ = (1.0, 0.0) if q else (0.0, 1.0)
    out = np.where(x == 0, none, out)
    out = np.where((a == 0) & (x > 0), all_, out)
    out = np.where(np.isinf(x), all_, out)
    out = np.where(np.isinf(a), none, out)
    wrong = (a < 0) | (x < 0) | ((a == 0) & (x == 0)) | (np.isinf(a) & np.isinf(x))
    return np.where(wrong | np.isnan(a) | np.isnan(x), np.nan, out)


gammainc = doubled(lambda a, x: _incomplete(a, x, False))
gammaincc = doubled(lambda a, x: _incomplete(a, x, True))


# ---------------------------------------------------------------- zeta

_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798)


def hurwitz(s: Array | float, q: Array) -> Array:
    """The sum of (q + k)**-s for s > 1: terms until they vanish or the Euler-Maclaurin formula holds.

    NaN below -1000.
    """
    a = np.where(q >= -1000, q.astype(np.float64), np.nan)
    total = np.zeros(np.broadcast_shapes(np.shape(s), a.shape))
    a = a + total
    while True:
        term = a**-s
        small = (a <= 9 + s) & ~((a > 0) & (term <= total * 2.0**-60))
        if not small.any():
            break
        total = np.where(small, total + term, total)
        a = np.where(small, a + 1, a)
    rest = a ** (1 - s) / (s - 1) + 0.5 * a**-s
    factor, power, fact = s, a ** (-s - 1), 2.0
    for k, b in enumerate(_BERNOULLI):
        rest = rest + b / fact * factor * power
        factor = factor * (s + 2 * k + 1) * (s + 2 * k + 2)
        power = power / (a * a)
        fact *= (2 * k + 3) * (2 * k + 4)
    return np.where(a > 9 + s, total + rest, total)  # where terms have vanished, so has the rest


@doubled
def zeta(x: Array, q: Array) -> Array:
    x, q = np.broadcast_arrays(x, q)
    pole = (q <= 0) & (q == np.floor(q))
    defined = (x > 1) & ~pole & ((q > 0) | (x == np.floor(x)))
    r = hurwitz(np.where(defined, x, 2.0), np.where(defined, q, 1.0))
    r = np.where(defined, r, np.where((x > 1) & pole, np.inf, np.nan))
    return np.where(x == 1, np.inf, r)
