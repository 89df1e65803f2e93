"""`kiln.special` beyond everyday use: Bessel, Airy, zeta, the normal distribution, orthogonal polynomials.

Defined when `kiln.special` is first imported. Their values come from `ops/_special`, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnNotImplementedError
from ..tensor import Tensor
from ._special import bessel, gamma, normal, polynomials
from .arithmetic import elementwise, only
from .registry import Operand, Sample
from .rules import not_differentiable
from .samples import draw, rng, unary
from .selection import where_op
from .special import i0


def _special(name: str, **facts: Any) -> Any:
    """An op of `kiln.special` on real numbers, with an `out=` form."""
    infer = only(name, dt.BOOL, dt.FLOAT, KilnNotImplementedError)
    return elementwise(
        "float", name=name, infer=infer, check=True, namespace="special", out=True, **facts
    )


def _unary(
    name: str,
    fn: Callable,
    doc: str,
    grad: Callable | None = None,
    low: float = 0.2,
    high: float = 4.0,
) -> Any:
    """Register a function of one argument; its samples lie between `low` and `high`."""

    def reference(input: Tensor) -> Tensor:
        return fn(input)

    reference.__doc__ = doc

    def samples() -> Iterator[Sample]:
        yield from unary(low, high, grad=grad is not None)()
        edges = [0.0, 0.5, 1.0, 3.0, 12.5, 33.0, 150.0, 800.0, np.nan]
        yield Sample((np.array([*edges, *(-x for x in edges)]),), grad=False)

    rules = {"input": grad} if grad else None
    return _special(name, grad=rules, samples=samples)(reference)


def _ratio(f: Callable, limit: float) -> Callable:
    """f(x) / x, and its limit at 0."""

    def at(x: Tensor) -> Tensor:
        zero = x == 0
        return where_op(zero, limit, f(x) / where_op(zero, 1, x))

    return at


# ---------------------------------------------------------------- Bessel and Airy

airy_ai = _unary(
    "airy_ai",
    bessel.airy_ai,
    "The Airy function Ai, which solves y'' = x y and vanishes at infinity.",
    low=-2,
)
bessel_j0 = _unary("bessel_j0", bessel.j0, "The Bessel function of the first kind of order 0.",
                   lambda g, input: -g * bessel_j1(input), -4)  # fmt: skip
bessel_j1 = _unary("bessel_j1", bessel.j1, "The Bessel function of the first kind of order 1.",
                   lambda g, input: g * (bessel_j0(input) - _ratio(bessel_j1, 0.5)(input)), -4)  # fmt: skip
bessel_y0 = _unary("bessel_y0", bessel.y0, "The Bessel function of the second kind of order 0; -inf at 0, NaN below.",
                   lambda g, input: -g * bessel_y1(input))  # fmt: skip
bessel_y1 = _unary("bessel_y1", bessel.y1, "The Bessel function of the second kind of order 1; -inf at 0, NaN below.",
                   lambda g, input, out: g * (bessel_y0(input) - out / input))  # fmt: skip
spherical_bessel_j0 = _unary(
    "spherical_bessel_j0", bessel.spherical_j0, "sin(input) / input, and 1 at 0."
)

i0e = _unary(
    "i0e",
    bessel.i0e,
    "`i0` times exp(-|input|).",
    lambda g, input, out: g * (i1e(input) - input.sgn() * out),
    -4,
)
i1 = _unary("i1", bessel.i1, "The modified Bessel function of the first kind of order 1.",
            lambda g, input: g * (i0(input) - _ratio(i1, 0.5)(input)), -4)  # fmt: skip
i1e = _unary("i1e", bessel.i1e, "`i1` times exp(-|input|).",
             lambda g, input, out: g * (i0e(input) - out * input.sgn() - _ratio(i1e, 0.5)(input)), -4)  # fmt: skip
modified_bessel_i0 = _unary("modified_bessel_i0", bessel.i0, "The modified Bessel function of the first kind of order 0.",
                            lambda g, input: g * i1(input), -4)  # fmt: skip
modified_bessel_i1 = _unary("modified_bessel_i1", bessel.i1, "The modified Bessel function of the first kind of order 1.",
                            lambda g, input: g * (i0(input) - _ratio(i1, 0.5)(input)), -4)  # fmt: skip
modified_bessel_k0 = _unary("modified_bessel_k0", bessel.k0, "The modified Bessel function of the second kind of order 0.",
                            lambda g, input: -g * modified_bessel_k1(input))  # fmt: skip
modified_bessel_k1 = _unary("modified_bessel_k1", bessel.k1, "The modified Bessel function of the second kind of order 1.",
                            lambda g, input, out: -g * (modified_bessel_k0(input) + out / input))  # fmt: skip
scaled_modified_bessel_k0 = _unary(
    "scaled_modified_bessel_k0", bessel.k0e, "`modified_bessel_k0` times exp(input).",
    lambda g, input, out: g * (out - scaled_modified_bessel_k1(input)),
)  # fmt: skip
scaled_modified_bessel_k1 = _unary(
    "scaled_modified_bessel_k1", bessel.k1e, "`modified_bessel_k1` times exp(input).",
    lambda g, input, out: g * (out - scaled_modified_bessel_k0(input) - out / input),
)  # fmt: skip


# ---------------------------------------------------------------- the normal distribution

erfcx = _unary("erfcx", normal.erfcx, "`erfc` times exp(input**2): small where erfc vanishes.",
               lambda g, input, out: g * (2 * input * out - 2 / math.sqrt(math.pi)), -3)  # fmt: skip
log_ndtr = _unary("log_ndtr", normal.log_ndtr, "The logarithm of the area under the standard normal density up to input.",
                  lambda g, input: g / erfcx(input * -math.sqrt(0.5)) * math.sqrt(2 / math.pi), -4)  # fmt: skip
ndtri = _unary("ndtri", normal.ndtri, "The inverse of `ndtr`: where the area under the normal density is input.",
               lambda g, out: g * (out * out / 2).exp() * math.sqrt(2 * math.pi), 0.05, 0.95)  # fmt: skip


# ---------------------------------------------------------------- two arguments


def _zeta_samples() -> Iterator[Sample]:
    x, q = draw(rng(), (3, 4), 1.5, 6), draw(rng(1), (4,), 0.3, 5)
    yield Sample((x, q), grad=False)
    yield Sample((x, 2.5), grad=False)
    yield Sample((2.5, q), grad=False)
    yield Sample(
        (
            np.array([1.0, 0.5, 2.0, 2.0, 2.5, 3.0, 50.0, 400.0]),
            np.array([2.0, 2, 0, -0.5, -0.5, -1, 0.7, 0.3]),
        ),
        grad=False,
    )
    yield Sample((x, draw(rng(), (3, 5))), error=RuntimeError)


@_special(
    "zeta", samples=_zeta_samples,
    grad={"input": not_differentiable("zeta", "input"),
          "other": lambda g, input, other: g * -input * zeta(input + 1, other)},
)  # fmt: skip
def zeta(input: Operand, other: Operand) -> Tensor:
    """The Hurwitz zeta function: the sum over k of (other + k) ** -input."""
    return gamma.zeta(input, other)


def _polynomial(name: str, fn: Callable, what: str) -> None:
    def reference(input: Operand, n: Operand) -> Tensor:
        return fn(input, n)

    reference.__doc__ = f"The {what} of degree n (cut to an integer, 0 where negative)."

    def samples() -> Iterator[Sample]:
        x = draw(rng(), (11, 3), -1, 1)
        yield Sample((x, np.arange(-1, 10).reshape(11, 1)), grad=False)
        yield Sample((x * 2, 5), grad=False)
        yield Sample((0.5, np.arange(4)), grad=False)
        yield Sample(
            (np.array([[-1.0], [1.0], [0.0]]), np.array([0.0, 1, 2, 3, 8, 9, 10])), grad=False
        )
        yield Sample((x, draw(rng(), (3, 5))), error=RuntimeError)

    _special(name, samples=samples)(reference)


for _kind in "tuvw":
    _polynomial(f"chebyshev_polynomial_{_kind}", polynomials.chebyshev(_kind, False),
                f"Chebyshev polynomial of kind {_kind.upper()}")  # fmt: skip
    _polynomial(f"shifted_chebyshev_polynomial_{_kind}", polynomials.chebyshev(_kind, True),
                f"Chebyshev polynomial of kind {_kind.upper()} at 2 input - 1,")  # fmt: skip
_polynomial("hermite_polynomial_h", polynomials.hermite_h, "physicist's Hermite polynomial")
_polynomial("hermite_polynomial_he", polynomials.hermite_he, "probabilist's Hermite polynomial")
_polynomial("laguerre_polynomial_l", polynomials.laguerre, "Laguerre polynomial")
_polynomial("legendre_polynomial_p", polynomials.legendre, "Legendre polynomial")
