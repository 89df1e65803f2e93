"""Bodies of the gamma function's kin and of erfinv: in float64, by recurrence, reflection and asymptotic series.

https://dlmf.nist.gov/5.5, 5.11 and 5.15. Every element takes the same way, so that loops are vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .. import dtypes as dt
from ..tensor import Tensor
from .selection import where_op

_STEPS = 8  # how far up the recurrence goes, where the series begin to hold


def _float(input: Tensor) -> Any:
    """The dtype of the result."""
    return input.dtype if input.is_floating_point() else dt.get_default_dtype()


def _series(z: Tensor, coefficients: Sequence[float]) -> Tensor:
    """The polynomial with these coefficients, lowest first."""
    out = z * coefficients[-1]
    for c in coefficients[-2:0:-1]:
        out = (out + c) * z
    return out + coefficients[0]


def _reflected(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(where x is to the left of 1/2, 1 - x there and x elsewhere, pi times x less its nearest integer)."""
    left = x < 0.5
    return left, where_op(left, 1 - x, x), (x - x.round()) * math.pi


def lgamma(input: Tensor) -> Tensor:
    """log |gamma(input)|."""
    x = input.double()
    left, y, turn = _reflected(x)
    near = y < _STEPS
    product = y
    for k in range(1, _STEPS):
        product = product * (y + k)
    z = where_op(near, y + _STEPS, y)
    r = z.reciprocal()
    tail = r * _series(
        r * r, (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
    )
    out = (z - 0.5) * z.log() - z + (0.5 * math.log(2 * math.pi)) + tail
    out = out - where_op(near, product, 1).log()
    tiny = x.abs() < 1e-290  # pi times as much would have few bits
    sine = where_op(tiny, x * 2.0**200 * math.pi, turn.sin()).abs()
    out = where_op(left, math.log(math.pi) - sine.log() + tiny.double() * (200 * math.log(2)) - out, out)  # fmt: skip
    out = where_op((x == 1) | (x == 2), 0, out)  # exactly, as in eager mode
    pole = (x.abs() == math.inf) | ((x <= 0) & (turn == 0))
    return where_op(pole, math.inf, out).to(_float(input))


def digamma(input: Tensor) -> Tensor:
    """The logarithmic derivative of the gamma function."""
    x = input.double()
    left, y, turn = _reflected(x)
    z = y + _STEPS
    r = z.reciprocal()
    q = r * r
    series = q * _series(q, (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12))
    out = z.log() - 0.5 * r - series
    for k in range(_STEPS):
        out = out - (y + k).reciprocal()
    out = where_op(left, out - math.pi / turn.tan(), out)
    out = where_op((x < 0) & (x == x.floor()), math.nan, out)
    return where_op(x == 0, -x.reciprocal(), out).to(_float(input))


def trigamma(input: Tensor) -> Tensor:
    """The derivative of digamma."""
    x = input.double()
    left, y, turn = _reflected(x)
    z = y + _STEPS
    r = z.reciprocal()
    q = r * r
    series = _series(q, (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6))
    out = r + 0.5 * q + r * q * series
    for k in range(_STEPS):
        part = (y + k).reciprocal()
        out = out + part * part
    narrow = input if input.dtype is dt.float64 else input.float()
    pole = (narrow * math.pi).sin().double()  # PyTorch: what rounding leaves of infinity
    mirror = math.pi / where_op(turn == 0, pole, turn.sin())
    return where_op(left, mirror * mirror - out, out).to(_float(input))


def erfinv(input: Tensor, near: Sequence[float], far: Sequence[float]) -> Tensor:
    """The inverse of erf: Giles' approximation with these coefficients, and Newton's steps in float64."""
    d = _float(input)
    x = input.to(d) if d is dt.float64 else input.float()
    inside = x.abs() < 1
    z = where_op(inside, x, 0)
    w = -((1 - z) * (1 + z)).log()
    y = where_op(w < 5, _series(w - 2.5, near[::-1]), _series(w.sqrt() - 3, far[::-1])) * z
    if d is dt.float64:
        for _ in range(3):
            tail = z.sign() * ((1 - z.abs()) - y.abs().erfc())
            off = where_op(z.abs() > 0.5, tail, y.erf() - z)
            y = y - off / (2 / math.sqrt(math.pi) * (-y * y).exp())
    return where_op(inside, y, where_op(x.abs() == 1, x * math.inf, math.nan)).to(d)
