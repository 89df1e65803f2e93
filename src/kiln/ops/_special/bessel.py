"""Bessel and Airy functions of real numbers, in float64.

Note [Bessel functions by quadrature]
The trapezoid rule converges exponentially for integrands that are periodic, or that are analytic
near the line and fall quickly on it (Trefethen and Weideman, 2014, "The Exponentially Convergent
Trapezoidal Rule"). Three integrals then give all of these functions to a few roundings:

    I_v(x)            = 1/pi  int_0^pi   exp(x cos t) cos(v t) dt
    K_v(x)  exp(x)    =       int_0^inf  exp(-x (cosh t - 1)) cosh(v t) dt
    K_v(ix) exp(ix)   =       int_0^inf  exp(-x sinh s tanh s) cosh(v t) (1 - i / cosh s) ds,  t = s - i gd s

The third is the second on the path of steepest descent, where gd is the Gudermannian; its integrand
does not oscillate. K_0(ix) is -pi/2 (Y_0 + i J_0), K_1(ix) is -pi/2 (J_1 - i Y_1), and Airy's
function is K_1/3. Their integrands narrow as 1 / sqrt(x), so the steps do too, and the number of
steps is the same for all x. Near zero, where they widen, stand the power series.

The integrals are taken at some fifty points when a function is first called; what is then evaluated is
the Chebyshev series through them (`chebyshev.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .chebyshev import Array, Series, doubled, tail

_EULER = 0.5772156649015329


# ---------------------------------------------------------------- series near zero

_K = range(14)
_FACTORIALS = [float(math.factorial(k) ** 2) for k in _K]
_HARMONIC = [math.fsum(1 / j for j in range(1, k + 1)) for k in range(15)]
# the coefficients of (±x²/4)**k, highest first, as np.polyval takes them
_P0 = [1 / f for f in _FACTORIALS][::-1]
_D0 = [h / f for h, f in zip(_HARMONIC, _FACTORIALS, strict=False)][::-1]
_P1 = [1 / (f * (k + 1)) for k, f in enumerate(_FACTORIALS)][::-1]
_D1 = [
    (_HARMONIC[k] + _HARMONIC[k + 1] - 2 * _EULER) / (f * (k + 1))
    for k, f in enumerate(_FACTORIALS)
][::-1]


def _near(q: Array, x: Array) -> tuple[Array, Array, Array, Array]:
    """Below 1: the solutions of order 0 and 1 that are finite at 0, and those with a logarithm."""
    log = np.log(x) - math.log(2)  # half of the smallest number is 0
    p0, p1 = np.polyval(_P0, q), np.polyval(_P1, q) * (x / 2)
    return p0, p1, (log + _EULER) * p0 - np.polyval(_D0, q), log * p1 - x / 4 * np.polyval(_D1, q)


# ---------------------------------------------------------------- the integrals

_STEPS = 28


def _falling(x: Array, weight: Callable[[Array], Array]) -> Array:
    """The integral of exp(-x (cosh t - 1)) * weight(t) from 0 on, for x >= 0.5."""
    h = 0.7 / np.sqrt(x + 10)
    total = 0.5 * weight(np.zeros_like(x))
    for k in range(1, _STEPS):
        t = k * h
        total = total + np.exp(-2 * x * np.sinh(t / 2) ** 2) * weight(t)
    return h * total


def _turning(x: Array, weight: Callable[[Array], tuple[Array, Array]]) -> tuple[Array, Array]:
    """The integrals of exp(-x sinh s tanh s) times each of two weights from 0 on, for x >= 0.5."""
    h = 0.5 / np.sqrt(x + 8)
    a, b = (0.5 * w for w in weight(np.zeros_like(x)))
    for k in range(1, _STEPS):
        s = k * h
        e = np.exp(-x * np.sinh(s) * np.tanh(s))
        u, v = weight(s)
        a, b = a + e * u, b + e * v
    return h * a, h * b


def _turned(x: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """2/pi times the parts of exp(-ix) (a - ib), the second with its sign changed."""
    c, s = np.cos(x), np.sin(x)
    return (a * c - b * s) * (2 / math.pi), (a * s + b * c) * (2 / math.pi)


def _parts(
    weight: Callable[[Array], tuple[Array, Array]], low: float = 1.0
) -> Callable[[Array], tuple[Array, Array]]:
    """`_turning` for x >= low, by series."""
    a, b = (tail(lambda x, i=i: _turning(x, weight)[i], low) for i in (0, 1))
    return lambda x: (a(x), b(x))


_parts0 = _parts(lambda s: (np.ones_like(s), 1 / np.cosh(s)))
_parts1 = _parts(lambda s: (np.cosh(s) ** -2, np.cosh(s)))


def _hankel0(x: Array) -> tuple[Array, Array]:
    minus_y, j = _turned(x, *_parts0(x))
    return j, -minus_y


def _hankel1(x: Array) -> tuple[Array, Array]:
    minus_j, minus_y = _turned(x, *_parts1(x))
    return -minus_j, -minus_y


def _pieces(x: Array, *parts: tuple[Array, Callable[[Array], Array]]) -> Array:
    """The function that `parts` define, each on its own mask; NaN where there is none."""
    out = np.full(x.shape, np.nan)
    for mask, fn in parts:
        if mask.any():
            out[mask] = fn(x[mask])
    return out


# ---------------------------------------------------------------- J and Y


@doubled
def j0(x: Array) -> Array:
    x = np.abs(x)
    return _pieces(
        x, (x < 1, lambda x: np.polyval(_P0, -x * x / 4)), (x >= 1, lambda x: _hankel0(x)[0])
    )


@doubled
def j1(x: Array) -> Array:
    y = np.abs(x)
    low, high = (lambda x: np.polyval(_P1, -x * x / 4) * (x / 2)), (lambda x: _hankel1(x)[0])
    return np.copysign(1.0, x) * _pieces(y, (y < 1, low), (y >= 1, high))


@doubled
def y0(x: Array) -> Array:
    return _pieces(
        x, (x == 0, lambda x: np.full_like(x, -np.inf)), (x >= 1, lambda x: _hankel0(x)[1]),
        ((x > 0) & (x < 1), lambda x: _near(-x * x / 4, x)[2] * (2 / math.pi)),
    )  # fmt: skip


@doubled
def y1(x: Array) -> Array:
    return _pieces(
        x, (x == 0, lambda x: np.full_like(x, -np.inf)), (x >= 1, lambda x: _hankel1(x)[1]),
        ((x > 0) & (x < 1), lambda x: (_near(-x * x / 4, x)[3] - 1 / x) * (2 / math.pi)),
    )  # fmt: skip


@doubled
def spherical_j0(x: Array) -> Array:
    even = [1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800]
    near = np.abs(x) < 0.5
    far = np.where(np.isinf(x), 0, np.sin(x) / np.where(near, 1, x))
    return np.where(near, np.polyval(even[::-1], np.where(near, x * x, 0)), far)


# ---------------------------------------------------------------- I and K

_M = 32
_COSINES = [math.cos(math.pi * (k + 0.5) / _M) for k in range(_M // 2)]


def _series_i(x: Array, order: int) -> Array:
    """Exponentially scaled I of large x: the asymptotic series, whose terms are all of one sign."""
    total, term = np.ones_like(x), np.ones_like(x)
    for k in range(1, 24):
        term = term * ((2 * k - 1) ** 2 - 4 * order) / (8 * k * x)
        total = total + term
    return total / np.sqrt(2 * math.pi * x)


def _bounded_i(x: Array, order: int) -> Array:
    """Exponentially scaled I of order 0, or of order 1 divided by x, up to 30."""
    terms = (
        (np.cosh(x * c) for c in _COSINES)
        if order == 0
        else (c * np.sinh(x * c) / x for c in _COSINES)
    )
    return sum(terms) * np.exp(-x) * (2 / _M)


def _tail_i(order: int) -> Callable[[Array], Array]:
    def exact(x: Array) -> Array:
        near = np.minimum(x, 30)
        return np.where(
            x < 30,
            _bounded_i(near, order) * (near if order else 1),
            _series_i(np.maximum(x, 30), order),
        )

    return tail(exact, 8.0)


_i0_near, _i1_near = (Series(lambda t, k=k: _bounded_i(4 * t + 4, k)) for k in (0, 1))
_i0_far, _i1_far = _tail_i(0), _tail_i(1)


@doubled
def i0e(x: Array) -> Array:
    x = np.abs(x)
    return _pieces(x, (x < 8, lambda x: _i0_near(x / 4 - 1)), (x >= 8, _i0_far))


@doubled
def i1e(x: Array) -> Array:
    y = np.abs(x)
    return np.copysign(1.0, x) * _pieces(
        y, (y < 8, lambda x: _i1_near(x / 4 - 1) * x), (y >= 8, _i1_far)
    )


def _grown(x: Array, scaled: Array) -> Array:
    """exp(|x|) times a scaled value, by halves so that what is in range does not overflow."""
    half = np.exp(np.abs(x) / 2)
    return np.where(np.isinf(x), np.copysign(np.inf, scaled), scaled * half * half)


i0 = doubled(lambda x: _grown(x, i0e(x)))
i1 = doubled(lambda x: _grown(x, i1e(x)))


_k0_far = tail(lambda x: _falling(x, np.ones_like))
_k1_far = tail(lambda x: _falling(x, np.cosh))


def _k_scaled(x: Array, near: Callable[[Array], Array], far: Callable[[Array], Array]) -> Array:
    return _pieces(
        x, (x == 0, lambda x: np.full_like(x, np.inf)), (x == np.inf, np.zeros_like),
        ((x >= 1) & (x < np.inf), far),
        ((x > 0) & (x < 1), lambda x: near(x) * np.exp(x)),
    )  # fmt: skip


@doubled
def k0e(x: Array) -> Array:
    return _k_scaled(x, lambda x: -_near(x * x / 4, x)[2], _k0_far)


@doubled
def k1e(x: Array) -> Array:
    return _k_scaled(x, lambda x: _near(x * x / 4, x)[3] + 1 / x, _k1_far)


k0 = doubled(lambda x: k0e(x) * np.exp(-x))
k1 = doubled(lambda x: k1e(x) * np.exp(-x))


# ---------------------------------------------------------------- Airy's function

_AI0 = 1 / (3 ** (2 / 3) * math.gamma(2 / 3))
_AI1 = -1 / (3 ** (1 / 3) * math.gamma(1 / 3))


def _airy_near(x: Array) -> Array:
    """The power series: Ai'' = x Ai gives each coefficient from the one three before."""
    cube, f, g = x**3, np.ones_like(x), x.copy()
    total = _AI0 * f + _AI1 * g
    for k in range(1, 12):
        f, g = f * cube / ((3 * k - 1) * (3 * k)), g * cube / ((3 * k) * (3 * k + 1))
        total = total + (_AI0 * f + _AI1 * g)
    return total


_airy_falls = tail(lambda z: _falling(z, lambda t: np.cosh(t / 3)), 2 / 3)


def _airy_right(x: Array) -> Array:
    z = 2 / 3 * x * np.sqrt(x)
    return np.sqrt(x / 3) / math.pi * _airy_falls(z) * np.exp(-z)


def _airy_weight(s: Array) -> tuple[Array, Array]:
    """cosh(t / 3) (1 - i / cosh s) on the path t(s)."""
    third = 2 / 3 * np.arctan(np.tanh(s / 2))
    u, v, w = np.cosh(s / 3) * np.cos(third), np.sinh(s / 3) * np.sin(third), 1 / np.cosh(s)
    return u - v * w, v + u * w


_airy_turns = _parts(_airy_weight, 2 / 3)


def _airy_left(x: Array) -> Array:
    x = -x
    z = 2 / 3 * x * np.sqrt(x)
    return np.sqrt(x / 3) * _turned(z, *_airy_turns(z))[1]


@doubled
def airy_ai(x: Array) -> Array:
    right = (x > 1) & (x < np.inf)
    left = (x < -1) & (x > -np.inf)
    return _pieces(x, (np.abs(x) <= 1, _airy_near), (right, _airy_right), (left, _airy_left))
