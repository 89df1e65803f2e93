"""Elementwise functions beyond the everyday ones: inverse hyperbolics, angles, logs of sums, parts of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, describe
from ..shape import broadcast_shapes
from ..tensor import Tensor
from . import _gamma
from .activation import widen
from .arithmetic import conjugate, elementwise, only
from .complex import complex as make_complex
from .complex import real_part
from .dispatch import expect_tensor
from .registry import ALIGNED, LEADING, REGISTRY, Operand, Sample, composition, op
from .rules import not_differentiable
from .runners import elementwise_infer
from .samples import binary, draw, rng, unary
from .scan import log_add_exp
from .selection import where_op


def _floats(name: str) -> Any:
    return only(name, dt.FLOAT, dt.FLOAT, KilnNotImplementedError)


def _ordered(name: str) -> Any:
    return only(name, dt.BOOL, dt.FLOAT)


# ---------------------------------------------------------------- inverse hyperbolics and angles


@elementwise("float", inplace=True, out=True, aliases=("arcsinh",), samples=unary(),
             grad={"input": lambda g, input: g * conjugate((input * input + 1).rsqrt())})  # fmt: skip
def asinh(input: Tensor) -> Tensor:
    """The inverse of sinh."""
    return np.arcsinh(input)


@elementwise("float", inplace=True, out=True, aliases=("arccosh",), samples=unary(1.1, 4.0),
             grad={"input": lambda g, input: g * conjugate((input * input - 1).rsqrt())})  # fmt: skip
def acosh(input: Tensor) -> Tensor:
    """The inverse of cosh; NaN below 1."""
    return np.arccosh(input)


@elementwise("float", inplace=True, out=True, aliases=("arctanh",), samples=unary(-0.9, 0.9),
             grad={"input": lambda g, input: g / conjugate(1 - input * input)})  # fmt: skip
def atanh(input: Tensor) -> Tensor:
    """The inverse of tanh."""
    return np.arctanh(input)


@elementwise("float", inplace=True, out=True, samples=unary(), grad={"input": lambda g: g * (math.pi / 180)},
             infer=_ordered("deg2rad"), body=lambda input: input * (math.pi / 180))  # fmt: skip
def deg2rad(input: Tensor) -> Tensor:
    """Degrees as radians."""
    return input * (math.pi / 180)


@elementwise("float", inplace=True, out=True, samples=unary(), grad={"input": lambda g: g * (180 / math.pi)},
             infer=_ordered("rad2deg"), body=lambda input: input * (180 / math.pi))  # fmt: skip
def rad2deg(input: Tensor) -> Tensor:
    """Radians as degrees."""
    return input * (180 / math.pi)


def _hypot_body(input: Tensor, other: Tensor) -> Tensor:
    a, b = input.abs(), other.abs()
    most = a.maximum(b)
    part = a.minimum(b) / where_op(most == 0, 1, most)
    r = most * (part * part + 1).sqrt()
    return where_op((a == math.inf) | (b == math.inf), math.inf, r)


@elementwise(inplace=True, out=True, samples=binary(0.5, 2.0, scalar=None), infer=_floats("hypot"), check=True, body=_hypot_body,
             grad={"input": lambda g, input, out: g * (input / out), "other": lambda g, other, out: g * (other / out)})  # fmt: skip
def hypot(input: Tensor, other: Tensor) -> Tensor:
    """The length of the hypotenuse: sqrt(input**2 + other**2)."""
    return np.hypot(input, other)


def _angle_infer(input: Any) -> tuple:
    d = dt.result_type(input)
    return input.shape, d.to_real() if d.category >= dt.FLOAT else dt.get_default_dtype()


def _angle_grad(g: Tensor, input: Tensor) -> Any:
    if not input.is_complex():
        return g * 0
    size = input.abs()
    zero = size == 0
    turned = input / where_op(zero, 1, size * size) * 1j
    return where_op(zero, 0, turned * g)


def _angle_body(input: Tensor) -> Tensor:
    if input.is_complex():
        return angle(input)  # which has no other form
    x = input if input.is_floating_point() else input.to(dt.get_default_dtype())
    return where_op(x.isnan(), x, (x < 0).to(x.dtype) * math.pi)


@op(family="elementwise", promote="real", check=False, infer=_angle_infer, grad={"input": _angle_grad}, out=True, body=_angle_body,
    samples=lambda: iter([*unary(away=2.0)(), Sample((draw(rng(), (3, 4)) + 1j * draw(rng(1), (3, 4)),))]))  # fmt: skip
def angle(input: Tensor) -> Tensor:
    """The angle of complex numbers; of real ones 0, and pi where negative."""
    if input.dtype.kind == "c":
        return np.angle(input)
    d = input.dtype if input.dtype.kind == "f" else dt.get_default_dtype().np
    return np.where(np.isnan(input), input, np.where(input < 0, np.pi, 0)).astype(d)


def _polar_infer(abs: Any, angle: Any) -> tuple:
    if abs.dtype is not angle.dtype or abs.dtype not in (dt.float32, dt.float64):
        raise KilnError(
            "polar", "expected two tensors of one dtype, float32 or float64", describe((abs, angle)), "convert one of them"
        )  # fmt: skip
    return broadcast_shapes(abs.shape, angle.shape, op="polar"), abs.dtype.to_complex()


@op(method=False, out=True, batch=ALIGNED, lies="operands", infer=_polar_infer,
    body=lambda abs, angle: make_complex(abs * angle.cos(), abs * angle.sin()),
    grad={"abs": lambda g, out: real_part(g.conj() * out.sgn()), "angle": lambda g, out: real_part(g.conj() * (out * 1j))},
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4), 0.5, 2), draw(rng(1), (4,)))), Sample((np.zeros(2), draw(rng(1), (2,))), grad=False),
        Sample((np.array([1]), np.array([1])), error=RuntimeError),
        Sample((np.ones(2), np.ones(2, np.float32)), error=RuntimeError),
    ]))  # fmt: skip
def polar(abs: Tensor, angle: Tensor) -> Tensor:
    """The complex numbers of these absolute values, which are not negative, and angles.

    As in PyTorch gradients follow from the result, so that they are 0 where it is.
    """
    out = np.empty(np.broadcast_shapes(abs.shape, angle.shape), np.result_type(abs, np.complex64))
    out.real, out.imag = abs * np.cos(angle), abs * np.sin(angle)
    return out


@composition(out="beside", inplace=True, samples=lambda: iter([
    Sample((draw(rng(), (3, 4)),)), Sample((draw(rng(), (3,)) * (1 + 2j),)),
]))  # fmt: skip
def conj_physical(input: Tensor) -> Tensor:
    """The complex conjugate; a real tensor as it is."""
    return input.conj() if input.is_complex() else input


# ---------------------------------------------------------------- logarithms and exponentials


def _log_sum(a: Tensor, b: Tensor, base: float, exp: Any) -> Tensor:
    """The larger plus log(1 + exp(-|a - b|)) in the base of that logarithm; infinities may be equal."""
    if a.is_complex():
        more = a.real >= b.real
        high, low = where_op(more, a, b), where_op(more, b, a)
        return where_op(high.real == -math.inf, high, high + (low - high).exp().log1p())
    more = exp((a - b).abs().neg()).log1p() / base
    return where_op(a == b, a + math.log(2) / base, a.maximum(b) + more)


def _log_sum_grad(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """All goes to an infinite one; complex exponentials would overflow in the quotient."""
    return g * conjugate((x - logaddexp(x, y)).exp()) if x.is_complex() else g / (1 + (y - x).exp())


def _log_sum_samples() -> Iterator[Sample]:
    yield from binary(scalar=None)()
    z = draw(rng(), (4,)) + 1j * draw(rng(1), (4,))
    yield Sample((z, z[::-1].copy()))
    yield Sample((np.array([800 + 1j, 1j]), np.array([799.0, -900 + 2j])), grad=False)


@elementwise(out=True, samples=_log_sum_samples, infer=only("logaddexp", dt.FLOAT, dt.COMPLEX, KilnNotImplementedError),
    body=lambda input, other: _log_sum(input, other, 1.0, lambda d: d.exp()), check=True,
             grad={"input": lambda g, input, other: _log_sum_grad(g, input, other),
                   "other": lambda g, input, other: _log_sum_grad(g, other, input)})  # fmt: skip
def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """log(exp(input) + exp(other)) without overflow."""
    return log_add_exp(input, other) if input.dtype.kind == "c" else np.logaddexp(input, other)


@elementwise(out=True, samples=binary(scalar=None), infer=_floats("logaddexp2"),
    body=lambda input, other: _log_sum(input, other, math.log(2), lambda d: d.exp2()), check=True,
             grad={"input": lambda g, input, other: g / (1 + (other - input).exp2()),
                   "other": lambda g, input, other: g / (1 + (input - other).exp2())})  # fmt: skip
def logaddexp2(input: Tensor, other: Tensor) -> Tensor:
    """log2(2**input + 2**other) without overflow."""
    return np.logaddexp2(input, other)


def _log(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.log()
    return math.log(x) if x > 0 else float("-inf") if x == 0 else float("nan")


def _xlogy_grad(g: Tensor, input: Any, other: Any) -> Tensor:
    # where nothing arrives nothing goes on, even by a logarithm that is infinite or NaN
    return xlogy(where_op((input == 0) & (other <= 0), 0, g), other)


@elementwise("float", inplace=True, out=True, infer=_ordered("xlogy"), samples=binary(0.3, 2.0),
             body=lambda input, other: where_op((input == 0) & (other == other), 0, input * _log(other)),
             grad={"input": _xlogy_grad, "other": lambda g, input, other: g * (input / other)})  # fmt: skip
def xlogy(input: Operand, other: Operand) -> Tensor:
    """input * log(other); 0 where input is 0 and other a number."""
    return np.where((input == 0) & ~np.isnan(other), other.dtype.type(0), input * np.log(other))


def _sinc_grad(g: Tensor, input: Tensor) -> Tensor:
    x = input * math.pi
    zero = input == 0
    safe = where_op(zero, 1, x)
    return g * where_op(zero, 0, conjugate((x.cos() * x - x.sin()) / safe / safe * math.pi))


def _sinc_body(input: Tensor) -> Tensor:
    x = widen(input) * math.pi
    zero = input == 0
    r = where_op(zero, 1, x.sin() / where_op(zero, 1, x))
    return r if input.dtype.category < dt.FLOAT else r.to(input.dtype)


@elementwise(
    "float",
    inplace=True,
    out=True,
    samples=unary(0.2, 3.0),
    grad={"input": _sinc_grad},
    body=_sinc_body,
)
def sinc(input: Tensor) -> Tensor:
    """sin(pi * input) / (pi * input), and 1 at 0."""
    return np.sinc(input)


# ---------------------------------------------------------------- parts of numbers


@elementwise("float", "copysign", inplace=True, out=True, samples=binary(away=2.0, away2=2.0), infer=_ordered("copysign"),
             grad={"input": lambda g, input, out: g * where_op(input == 0, 0, out / where_op(input == 0, 1, input)),
                   "other": lambda g: g.new_zeros(g.shape)})  # fmt: skip
def copysign(input: Tensor, other: Operand) -> Tensor:
    """The size of `input` with the sign of `other`."""
    return np.copysign(input, other)


def _sign_samples() -> Iterator[Sample]:
    yield from unary(grad=False)()
    yield Sample((np.array([1 + 2j]),), error=NotImplementedError)


@elementwise(
    "bool", out="same", samples=_sign_samples, infer=lambda input: _real_test("signbit", input)
)
def signbit(input: Tensor) -> Tensor:
    """Where the sign bit is set: in negative numbers and in -0."""
    return np.signbit(input) if input.dtype.kind == "f" else input < 0


@elementwise(
    scalar="nextafter",
    inplace=True,
    out=True,
    samples=binary(grad=False, scalar=None),
    infer=_floats("nextafter"),
    check=True,
    exact=True,
    grad={
        "input": lambda g, input, other: where_op(input == other, 0, g),
        "other": lambda g: g.new_zeros(g.shape),
    },
)
def nextafter(input: Tensor, other: Tensor) -> Tensor:
    """The next number after `input` in the direction of `other`."""
    return np.nextafter(input, other)


def _heaviside_infer(input: Any, values: Any) -> tuple:
    shape, d = elementwise_infer(REGISTRY["heaviside"])(input, values)
    if input.dtype is not values.dtype or d.is_complex:
        raise KilnError(
            "heaviside", "expected two real tensors of one dtype", describe((input, values)), ""
        )
    return shape, d


@elementwise(
    inplace=True,
    out="same",
    check=True,
    infer=_heaviside_infer,
    grad={("input", "values"): not_differentiable("heaviside")},
    samples=binary(grad=False, scalar=None),
)
def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 where input is negative or NaN, 1 where positive, and `values` where it is 0."""
    return np.where(input == 0, values, (input > 0).astype(input.dtype))


def _whole(name: str) -> Any:
    return only(name, dt.INT, dt.INT, KilnNotImplementedError)


def _whole_samples() -> Any:
    r = rng(5)
    yield Sample((r.integers(-20, 20, (3, 4)), r.integers(-20, 20, (4,))), grad=False)
    yield Sample((np.array(0), np.array([0, 4])), grad=False)
    yield Sample((draw(r, (3,)), draw(r, (3,))), error=NotImplementedError)


@elementwise(
    scalar="gcd", inplace=True, out=True, check=True, infer=_whole("gcd"), samples=_whole_samples
)
def gcd(input: Tensor, other: Tensor) -> Tensor:
    """The greatest common divisor of integers."""
    return np.gcd(input, other)


@elementwise(
    scalar="lcm", inplace=True, out=True, check=True, infer=_whole("lcm"), samples=_whole_samples
)
def lcm(input: Tensor, other: Tensor) -> Tensor:
    """The least common multiple of integers; where that is out of range its low bits, of 32 and 64 bits without sign."""
    r = np.lcm(input, other)
    return np.abs(r) if r.dtype.itemsize >= 4 else r


@composition(out="cast", inplace=True, samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), np.array([1, 2, 0, 3]))), Sample((np.array([1, 2]), np.array([3, 4])), grad=False),
]))  # fmt: skip
def ldexp(input: Tensor, other: Tensor) -> Tensor:
    """input * 2**other, in input's dtype where that is floating and other holds integers."""
    expect_tensor("ldexp", input)
    expect_tensor("ldexp", other)
    if input.is_floating_point() and other.dtype is dt.bool_:
        raise KilnNotImplementedError(
            "ldexp", "not implemented for bool exponents", describe((input, other)), "other.int()"
        )
    if input.is_floating_point() and other.dtype.category == dt.INT:
        wide = widen(input)
        return (wide * 2.0 ** other.to(wide.dtype)).to(input.dtype)
    return input * 2.0**other


def _frexp_infer(input: Any) -> list:
    if input.dtype.category != dt.FLOAT:
        raise KilnError(
            "frexp", "only supports floating-point dtypes", describe(input), "x.float()"
        )
    return [(input.shape, input.dtype), (input.shape, dt.int32)]


@op(batch=LEADING, lies="operands", infer=_frexp_infer, result_names="mantissa exponent", nondiff_outputs=(1,), out=True,
    grad={"input": lambda gs, picks: gs[0] * 2.0**-picks},
    samples=lambda: iter([*unary(0.3, 9.0)(), Sample((np.array([0.0, np.inf, np.nan, -3.0]),), grad=False)]))  # fmt: skip
def frexp(input: Tensor) -> Tensor:
    """(mantissa, exponent) with input = mantissa * 2**exponent and 0.5 <= |mantissa| < 1."""
    mantissa, exponent = np.frexp(input)
    return mantissa, exponent.astype(np.int32)


# ---------------------------------------------------------------- extremes that pass over NaN


def _picked(better: Any) -> dict[str, Any]:
    return {
        "input": lambda g, input, other: where_op(better(input, other) | other.isnan(), g, 0),
        "other": lambda g, input, other: where_op(better(input, other) | other.isnan(), 0, g),
    }


def _first_of_equals(pick: Any, input: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of 0 and -0 the first, where NumPy gives one or the other by the place."""
    r = pick(input, other)
    return r if r.dtype.kind in "iub" else np.where(input == other, input, r)


@elementwise(
    scalar="fmax",
    out=True,
    samples=binary(scalar=None),
    infer=_ordered("fmax"),
    grad=_picked(lambda a, b: a >= b),
)
def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The larger of two elements; of a number and a NaN the number."""
    return _first_of_equals(np.fmax, input, other)


@elementwise(
    scalar="fmin",
    out=True,
    samples=binary(scalar=None),
    infer=_ordered("fmin"),
    grad=_picked(lambda a, b: a <= b),
)
def fmin(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of two elements; of a number and a NaN the number."""
    return _first_of_equals(np.fmin, input, other)


@elementwise(
    "bool",
    out="same",
    infer=lambda input: _real_test("isposinf", input),
    check=True,
    samples=unary(grad=False),
)
def isposinf(input: Tensor) -> Tensor:
    """Where input is positive infinity."""
    return input == np.inf


@elementwise(
    "bool",
    out="same",
    infer=lambda input: _real_test("isneginf", input),
    check=True,
    samples=unary(grad=False),
)
def isneginf(input: Tensor) -> Tensor:
    """Where input is negative infinity."""
    return input == -np.inf


def _real_test(name: str, input: Any) -> tuple:
    if input.dtype.is_complex:
        raise KilnNotImplementedError(
            name, f"{name} does not support complex inputs.", describe(input), ""
        )
    return input.shape, dt.bool_


@composition(
    samples=lambda: iter(
        [Sample((draw(rng(), (3,)),), grad=False), Sample((np.array([1 + 1j, 2]),), grad=False)]
    )
)
def isreal(input: Tensor) -> Tensor:
    """Where the imaginary part is 0."""
    return input.imag == 0 if input.is_complex() else input.new_ones(input.shape, dtype=dt.bool_)


# ---------------------------------------------------------------- the gamma function and its kin


def _digamma(x: np.ndarray) -> np.ndarray:
    """By recurrence up to 8 and the asymptotic series there; by reflection below 0."""
    x = x.astype(np.float64)
    low = x < 0
    y = np.where(low, 1 - x, x)
    out = np.where(low, -np.pi / np.tan(np.pi * (x - np.round(x))), 0.0)
    for _ in range(8):
        small = y < 8
        out = out - np.where(small, 1 / np.where(small, y, 1), 0)
        y = np.where(small, y + 1, y)
    z = 1 / (y * y)
    series = z * (
        1 / 12 - z * (1 / 120 - z * (1 / 252 - z * (1 / 240 - z * (1 / 132 - z * 691 / 32760))))
    )
    out = out + np.log(y) - 0.5 / y - series
    out = np.where(low & (x == np.floor(x)), np.nan, out)
    return np.where(x == 0, -np.copysign(np.inf, x), out)


def _zeta(s: float, q: np.ndarray) -> np.ndarray:
    """The Hurwitz zeta function for whole s, by the Euler-Maclaurin formula above 9; NaN below -1000."""
    a = np.where(q >= -1000, q.astype(np.float64), np.nan)
    total = np.zeros_like(a)
    while (small := a <= 9).any():
        total = total + np.where(small, np.where(small, a, 1) ** -s, 0)
        a = np.where(small, a + 1, a)
    total = total + a ** (1 - s) / (s - 1) + 0.5 * a**-s
    factor, power = s, a ** (-s - 1)
    bernoulli = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)
    fact = 2.0
    for k, b in enumerate(bernoulli):
        total = total + b / fact * factor * power
        factor *= (s + 2 * k + 1) * (s + 2 * k + 2)
        power = power / (a * a)
        fact *= (2 * k + 3) * (2 * k + 4)
    return total


def _lgamma(x: np.ndarray) -> np.ndarray:
    from ._special import lgamma as f

    return f(x)


@elementwise("float", inplace=True, out=True, samples=unary(0.3, 5.0), infer=_ordered("lgamma"), dear=True, body=_gamma.lgamma,
             grad={"input": lambda g, input: g * digamma(input)},
             quick={"input": lambda g, input: g * digamma.op.eager(input)})  # fmt: skip
def lgamma(input: Tensor) -> Tensor:
    """The logarithm of the absolute value of the gamma function."""
    return _lgamma(input)


@elementwise("float", inplace=True, out=True, samples=unary(0.3, 5.0), infer=_ordered("digamma"), dear=True, body=_gamma.digamma,
             grad={"input": lambda g, input: g * polygamma_op(input, 1)},
             quick={"input": lambda g, input: g * polygamma_op.op.eager(input, 1)})  # fmt: skip
def digamma(input: Tensor) -> Tensor:
    """The logarithmic derivative of the gamma function."""
    return _digamma(input).astype(input.dtype)


@elementwise("float", private=True, infer=lambda input, n: elementwise_infer(REGISTRY["polygamma_n"])(input), node="PolygammaBackward0", name="polygamma_n", dear=True,
             body=lambda input, n: _gamma.trigamma(input) if n == 1 else polygamma_op(input, n),
             grad={"input": lambda g, input, n: g * polygamma_op(input, n + 1)},
             samples=lambda: iter([Sample((draw(rng(), (3, 4), 0.3, 5.0), n)) for n in (1, 2)]))  # fmt: skip
def polygamma_op(input: Tensor, n: int) -> Tensor:
    """The n-th derivative of digamma, for n >= 1."""
    sign = -1.0 if n % 2 == 0 else 1.0
    out = sign * math.factorial(n) * _zeta(n + 1.0, input)
    if n == 1:  # below 0 by reflection
        x = input.astype(np.float64)
        sine = np.sin(np.pi * (x - np.round(x)))
        pole = np.sin(input.dtype.type(np.pi) * input)  # PyTorch: what rounding leaves of infinity
        mirrored = (np.pi / np.where(x == np.round(x), pole, sine)) ** 2 - _zeta(
            2.0, np.where(x <= 0, 1 - x, 1.0)
        )
        out = np.where(x <= 0, mirrored, out)
    return out.astype(input.dtype)


@composition(method=False, samples=lambda: iter([
    *(Sample((n, draw(rng(), (3, 4), 0.3, 5.0))) for n in (0, 1, 2, 3)), Sample((-1, draw(rng(), (3,))), error=RuntimeError),
]))  # fmt: skip
def polygamma(n: int, input: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The n-th derivative of digamma."""
    if n < 0:
        raise KilnError("polygamma", "polygamma(n, x) does not support negative n", n, "")
    r = digamma(input) if n == 0 else polygamma_op(input, n)
    return r if out is None else out.copy_(r)


_NEAR = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
    -0.00417768164, 0.246640727, 1.50140941)  # fmt: skip
_FAR = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
    0.00943887047, 1.00167406, 2.83297682)  # fmt: skip


def _erfinv(y: np.ndarray) -> np.ndarray:
    """Giles' approximation (https://people.maths.ox.ac.uk/gilesm/files/gems_erfinv.pdf), then Newton's steps."""
    from ._special import erf, erfc

    y = y.astype(np.float64)
    inside = np.abs(y) < 1
    z = np.where(inside, y, 0)
    w = -np.log((1 - z) * (1 + z))
    a, b = w - 2.5, np.sqrt(w) - 3
    x = np.where(w < 5, np.polyval(_NEAR, a), np.polyval(_FAR, b)) * z
    for _ in range(3):
        off = np.where(
            np.abs(z) > 0.5, np.sign(z) * ((1 - np.abs(z)) - erfc(np.abs(x))), erf(x) - z
        )
        x = x - off / (1.1283791670955126 * np.exp(-x * x))
    return np.where(inside, x, np.where(np.abs(y) == 1, y * np.inf, np.nan))


@elementwise("float", inplace=True, out=True, samples=unary(-0.95, 0.95), infer=_ordered("erfinv"), dear=True,
             body=lambda input: _gamma.erfinv(input, _NEAR, _FAR),
             grad={"input": lambda g, input: g * input.erfinv().square().exp() * 0.8862269254527580})  # fmt: skip
def erfinv(input: Tensor) -> Tensor:
    """The inverse of the error function."""
    return _erfinv(input).astype(input.dtype)
