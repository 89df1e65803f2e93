"""How random numbers move with their parameters: implicit reparameterisation.

A number x with distribution function F(x; a) moves by dx/da = -(dF/da) / (dF/dx) when a moves and
F(x; a) stays (Figurnov et al., 2018, "Implicit reparameterization gradients"). dF/da is the integral
of the density's derivative over the tail on x's side of the mode, taken in logarithms of x, where
densities fall off at the scale of 1 or faster; for small shapes it is a series of positive terms.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..tensor import Tensor
from .arithmetic import elementwise
from .elementary import _digamma
from .registry import FUNCTIONS, Sample
from .rules import not_differentiable
from .samples import draw, rng

_CUT = 38.0  # what lies below exp(-38) of the integrand's peak is left out
_CHUNK = 1 << 13


@lru_cache(1)
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    """Gauss and Legendre's nodes and weights on [0, 1], as columns."""
    x, w = np.polynomial.legendre.leggauss(64)
    return (x[:, None] + 1) / 2, w[:, None] / 2


def _integral(fall: Callable, slope: Callable, weight: Callable, far: np.ndarray) -> np.ndarray:
    """The integral of exp(-fall(v)) * weight(v) over v > 0; `fall` is convex and 0 at 0.

    It ends where `fall` is _CUT: Newton's steps from `far`, which lies beyond, come down to that.
    """
    end = far
    for _ in range(24):
        end = end - (fall(end) - _CUT) / slope(end)
    x, w = _nodes()
    v = end * x
    return (np.exp(-fall(v)) * weight(v) * w).sum(0) * end


def _series(ratio: Callable, change: Callable, terms: int) -> tuple[np.ndarray, np.ndarray]:
    """1 + r(1) + r(1) r(2) + …, and its derivative, where log r(n) changes by change(n)."""
    term, moved = ratio(1), change(1)
    total, derivative = 1 + term, term * moved
    for n in range(2, terms):
        term, moved = term * ratio(n), moved + change(n)
        total, derivative = total + term, derivative + term * moved
    return total, derivative


def _in_chunks(fn: Callable, *args: np.ndarray) -> np.ndarray:
    """fn of flat float64 arrays, in pieces that stay in cache, in the shape and dtype of the first."""
    shape = np.broadcast_shapes(*(a.shape for a in args))
    flat = [np.broadcast_to(a, shape).astype(np.float64).ravel() for a in args]
    out = np.empty(flat[0].size)
    for i in range(0, out.size, _CHUNK):
        out[i : i + _CHUNK] = fn(*(a[i : i + _CHUNK] for a in flat))
    return out.reshape(shape).astype(args[0].dtype)


def _parts(fn: Callable, out: np.ndarray, where: np.ndarray, *args: np.ndarray) -> None:
    """out = fn(*args) in some places."""
    if where.any():
        out[where] = fn(*(a[where] for a in args))


# ---------------------------------------------------------------- gamma


def _gamma_small(a: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Where z is below 1: F is z**a * exp(-z) / gamma(a + 1) times the series of z**n / ((a + 1) … (a + n))."""
    total, change = _series(lambda n: z / (a + n), lambda n: -1 / (a + n), 24)
    return -z / a * (total * (np.log(z) - _digamma(a + 1)) + change)


def _gamma_below(a: np.ndarray, z: np.ndarray) -> np.ndarray:
    """By the tail below z: t = z * exp(-v)."""
    c = np.log(z) - _digamma(a)
    return -z * _integral(
        lambda v: a * v + z * np.expm1(-v), lambda v: a - z * np.exp(-v), lambda v: c - v, (_CUT + z) / a
    )  # fmt: skip


def _gamma_above(a: np.ndarray, z: np.ndarray) -> np.ndarray:
    """By the tail above z: t = z * exp(v)."""
    c = np.log(z) - _digamma(a)
    far = (a - z + np.sqrt((a - z) ** 2 + 2 * _CUT * z)) / z
    return z * _integral(
        lambda v: z * np.expm1(v) - a * v, lambda v: z * np.exp(v) - a, lambda v: c + v, far
    )  # fmt: skip


def _gamma(a: np.ndarray, z: np.ndarray) -> np.ndarray:
    out = np.full_like(z, np.nan)
    usual = (a > 0) & (z > 0) & np.isfinite(z) & np.isfinite(a)
    small, low = z < 1, z < a
    _parts(_gamma_small, out, usual & small, a, z)
    _parts(_gamma_below, out, usual & ~small & low, a, z)
    _parts(_gamma_above, out, usual & ~small & ~low, a, z)
    return out


@elementwise("float", "gamma_slope", dear=True, private=True, grad={p: not_differentiable("_standard_gamma_grad", p) for p in ("input", "output")}, samples=lambda: iter([
    Sample((draw(rng(), (3, 4), 0.1, 3), draw(rng(1), (3, 4), 0.1, 5)), grad=False), Sample((np.array(2.0), np.array(3.0)), grad=False),
    Sample((np.zeros((0,)), np.zeros((0,))), grad=False), Sample((np.array([0.01, 1e5]), np.array([1e-30, 1.01e5])), grad=False),
]))  # fmt: skip
def standard_gamma_grad(input: Tensor, output: Tensor) -> Tensor:
    """The derivative of gamma numbers `output` (of rate 1) with respect to their shape `input`."""
    return _in_chunks(_gamma, input, output)


# ---------------------------------------------------------------- beta


def _beta_terms(a: np.ndarray, b: np.ndarray, x: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(dF/dp) / f / (x (1 - x)), F = I_x(a, b), p = a where `own`, else b; for a < 1 and x <= 1/2.

    F is x**a (1 - x)**b / (a B(a, b)) times the series of x**n (a + b)…(a + b + n - 1) / ((a + 1)…(a + n)).
    """
    first = np.where(own, np.log(x) - _digamma(a + 1), np.log1p(-x) - _digamma(b)) + _digamma(a + b)
    total, change = _series(
        lambda n: x * ((a + b + n - 1) / (a + n)),
        lambda n: 1 / (a + b + n - 1) - np.where(own, 1 / (a + n), 0),
        64,
    )
    return (total * first + change) / a


def _beta_below(a: np.ndarray, b: np.ndarray, x: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The same for a >= 1 by the tail below x: t / (1 - t) = x / (1 - x) * exp(-v)."""
    first = np.where(own, np.log(x) - _digamma(a), np.log1p(-x) - _digamma(b)) + _digamma(a + b)
    s = a + b
    return _integral(
        lambda v: a * v + s * np.log1p(x * np.expm1(-v)),
        lambda v: a - s * x * np.exp(-v) / (1 + x * np.expm1(-v)),
        lambda v: first - np.log1p(x * np.expm1(-v)) - np.where(own, v, 0),
        (_CUT - s * np.log1p(-x)) / a,
    )


def _beta(x: np.ndarray, a: np.ndarray, total: np.ndarray) -> np.ndarray:
    given, b = x, total - a
    out = np.full_like(x, np.nan)
    usual = (a > 0) & (b > 0) & (x > 0) & (x < 1) & np.isfinite(total)
    own = x * total <= a  # else 1 - x is below its mode, and a the other parameter
    few = np.where(own, a, b) < 1
    own = np.where(few & (np.where(own, x, 1 - x) > 0.5), ~own, own)
    x, a, b = np.where(own, x, 1 - x), np.where(own, a, b), np.where(own, b, a)
    _parts(_beta_terms, out, usual & few, a, b, x, own)
    _parts(_beta_below, out, usual & ~few, a, b, x, own)
    return given * np.where(own, -out, out)


@elementwise("float", "beta_slope", dear=True, factor="", private=True, grad={p: not_differentiable("_dirichlet_grad", p) for p in ("x", "alpha", "total")}, samples=lambda: iter([
    Sample((draw(rng(), (3, 4), 0.1, 0.9), draw(rng(1), (3, 4), 0.1, 3), draw(rng(2), (3, 1), 4, 9)), grad=False),
    Sample((np.array(0.2), np.array(2.0), np.array(3.0)), grad=False), Sample((np.zeros((0,)),) * 3, grad=False),
]))  # fmt: skip
def dirichlet_grad(x: Tensor, alpha: Tensor, total: Tensor) -> Tensor:
    """dx / d alpha / (1 - x) for components x of points of the Dirichlet distribution.

    `alpha` is a component's concentration, `total` the sum of all. When alpha moves, x moves by
    1 - x times this, and each other component y by -y times this.
    """
    return _in_chunks(_beta, x, alpha, total)


FUNCTIONS["_standard_gamma_grad"], FUNCTIONS["_dirichlet_grad"] = (
    standard_gamma_grad,
    dirichlet_grad,
)
