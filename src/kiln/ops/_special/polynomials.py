"""Orthogonal polynomials by their recurrences; of Chebyshev's also the trigonometric forms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .chebyshev import Array, doubled

Step = Callable[[int, Array, Array], Array]


def _recurrence(x: Array, n: Array, first: Array, step: Step) -> Array:
    """The n-th member of a sequence that begins with 1 and `first`; 0 for negative n."""
    p, q = np.ones_like(x), first
    out = np.where(n == 0, 1.0, np.where(n < 0, 0.0, q))
    for k in range(1, int(n.max(initial=0))):
        p, q = q, step(k, p, q)
        out = np.where(n == k + 1, q, out)
    return out


def _degrees(x: Array, n: Array) -> tuple[Array, Array]:
    """Operands of one shape, whole degrees; what is no integer of 64 bits (NaN too) counts as negative."""
    x, n = np.broadcast_arrays(x, n)
    return x, np.where(np.abs(n) < 2.0**63, np.trunc(n), -1.0)


# of kind t, u, v, w: the degree from which the trigonometric form is taken, the polynomial of degree 1,
# that form in the angle, and the values at 1 and (for even n) at -1
_KINDS: dict[str, tuple] = {
    "t": (6, lambda x: x, lambda n, t: np.cos(n * t), lambda n: 1 + 0 * n, lambda n: 1 + 0 * n),
    "u": (8, lambda x: 2 * x, lambda n, t: np.sin((n + 1) * t) / np.sin(t), lambda n: n + 1, lambda n: n + 1),
    "v": (8, lambda x: 2 * x - 1, lambda n, t: np.cos((n + 0.5) * t) / np.cos(t / 2), lambda n: 1 + 0 * n,
          lambda n: 2 * n + 1),
    "w": (8, lambda x: 2 * x + 1, lambda n, t: np.sin((n + 0.5) * t) / np.sin(t / 2), lambda n: 2 * n + 1,
          lambda n: 1 + 0 * n),
}  # fmt: skip


def _chebyshev(x: Array, n: Array, kind: str) -> Array:
    least, first, trigonometric, right, left = _KINDS[kind]
    x, n = _degrees(x, n)
    turned = (n > least) & (np.abs(x) < 1)
    end = np.abs(x) == 1
    r = _recurrence(x, np.where(turned | end, 0, n), first(x), lambda k, p, q: 2 * x * q - p)
    r = np.where(turned, trigonometric(n, np.arccos(np.where(turned, x, 0.5))), r)
    parity = np.where(n % 2 == 0, 1.0, -1.0)
    return np.where(
        end & (n >= 0), np.where(x > 0, right(n), parity * left(n)), np.where(n < 0, 0.0, r)
    )


def chebyshev(kind: str, shifted: bool) -> Callable:
    """Chebyshev polynomials of a kind; shifted ones live on [0, 1]."""
    return doubled(lambda x, n: _chebyshev(2 * x - 1 if shifted else x, n, kind))


@doubled
def hermite_h(x: Array, n: Array) -> Array:
    x, n = _degrees(x, n)
    return _recurrence(x, n, 2 * x, lambda k, p, q: 2 * x * q - 2 * k * p)


@doubled
def hermite_he(x: Array, n: Array) -> Array:
    x, n = _degrees(x, n)
    return _recurrence(x, n, x, lambda k, p, q: x * q - k * p)


@doubled
def laguerre(x: Array, n: Array) -> Array:
    x, n = _degrees(x, n)
    return _recurrence(x, n, 1 - x, lambda k, p, q: ((2 * k + 1 - x) * q - k * p) / (k + 1))


@doubled
def legendre(x: Array, n: Array) -> Array:
    x, n = _degrees(x, n)
    return _recurrence(x, n, x, lambda k, p, q: ((2 * k + 1) * x * q - k * p) / (k + 1))
