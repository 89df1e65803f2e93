"""Elementwise ops: arithmetic, rounding, exponentials, trigonometry, comparison and logic."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnTypeError
from ..shape import broadcast_shapes
from ..tensor import Tensor
from .derive import compute_dtype
from .registry import REGISTRY, Operand, Sample, composition, op
from .samples import binary, draw, rng, unary

# Note [Scalar expressions]
# `scalar` names the primitive with which a compiled loop computes the op. An op without one has a
# `body` in terms of ops that have; where neither exists, compiled programs call the reference.


def elementwise(promote: str = "same", scalar: str | None = None, **facts: Any) -> Any:
    """An op that maps elements; `promote`: "same", "float" (ints compute as floats), "bool", "real"."""
    return op(family="elementwise", promote=promote, scalar=scalar, check=False, **facts)


def _conj(x: Any) -> Any:
    if isinstance(x, complex):
        return x.conjugate()
    return x.conj() if isinstance(x, Tensor) and x._a.dtype.kind == "c" else x


def _no_bool(name: str) -> Any:
    def infer(*args: Any) -> tuple:
        o = REGISTRY[name]
        xs = [args[i] for i in o.tensor_slots]
        d = compute_dtype(o, xs)
        if d.category == dt.BOOL and any(getattr(x, "dtype", None) is dt.bool_ for x in xs):
            raise KilnError(
                name, "not defined for bool tensors", f"{d.name}",
                "use ^ or logical_not() on bool tensors, or convert to an integer dtype",
            )  # fmt: skip
        return broadcast_shapes(*[getattr(x, "shape", ()) for x in xs], op=name), d

    return infer


# ---------------------------------------------------------------- arithmetic


def _scaled(x: Any, alpha: Any) -> Any:
    return x if alpha == 1 else x * alpha


@elementwise(
    ufunc=np.add, scalar="add", inplace=True, out=True,
    dunders=("__add__", "__radd__", "__iadd__"),
    grad={"input": lambda g: g, "other": lambda g, alpha: _scaled(g, alpha)},
    body=lambda input, other, alpha: input + other * alpha,
    samples=binary(kwargs=({}, {"alpha": 2.5})),
)  # fmt: skip
def add(input: Operand, other: Operand, *, alpha: Any = 1) -> Tensor:
    """input + alpha * other, broadcast. Dtypes promote; bool adds as logical or."""
    return np.add(input, other if alpha == 1 else other * other.dtype.type(alpha))


@elementwise(
    ufunc=np.subtract, scalar="sub", inplace=True, out=True, aliases=("subtract",), native="fiu",
    dunders=("__sub__", "__rsub__", "__isub__"),
    grad={"input": lambda g: g, "other": lambda g, alpha: g * -alpha},
    body=lambda input, other, alpha: input - other * alpha,
    infer=lambda input, other, alpha=1: _no_bool("sub")(input, other),
    samples=binary(kwargs=({}, {"alpha": 2.5})),
)  # fmt: skip
def sub(input: Operand, other: Operand, *, alpha: Any = 1) -> Tensor:
    """input - alpha * other, broadcast. Not defined for bool."""
    return np.subtract(input, other if alpha == 1 else other * other.dtype.type(alpha))


@composition(method=True, samples=binary())
def rsub(input: Tensor, other: Operand, *, alpha: Any = 1) -> Tensor:
    """other - alpha * input."""
    return other - _scaled(input, alpha)


@elementwise(
    ufunc=np.multiply, scalar="mul", inplace=True, out=True, aliases=("multiply",),
    dunders=("__mul__", "__rmul__", "__imul__"),
    grad={"input": lambda g, other: g * _conj(other), "other": lambda g, input: g * _conj(input)},
    samples=binary(),
)  # fmt: skip
def mul(input: Operand, other: Operand) -> Tensor:
    """input * other, broadcast. Dtypes promote; bool multiplies as logical and."""
    return np.multiply(input, other)


def _div_grad_other(g: Tensor, input: Any, other: Any, rounding_mode: str | None) -> Any:
    return None if rounding_mode else -g * _conj(input / other / other)


def _div_infer(input: Any, other: Any, rounding_mode: str | None = None) -> tuple:
    if rounding_mode not in (None, "trunc", "floor"):
        raise KilnError(
            "div", "rounding_mode must be None, 'trunc' or 'floor'", repr(rounding_mode), ""
        )
    shape = broadcast_shapes(*[getattr(x, "shape", ()) for x in (input, other)], op="div")
    d = dt.result_type(input, other)
    if rounding_mode is None and d.category < dt.FLOAT:
        d = dt.get_default_dtype()
    return shape, d


def _integer_division(input: np.ndarray, other: np.ndarray, mode: str) -> np.ndarray:
    if np.any(other == 0):
        raise KilnError("div", "integer division by zero", "a divisor of 0", "mask the zeros or use floats")
    q = np.floor_divide(input, other)
    if mode == "trunc":
        q = q + ((input % other != 0) & ((input < 0) != (other < 0)))
    return q


@elementwise(
    ufunc=np.true_divide, scalar="div", inplace=True, out=True, aliases=("divide",), native="f",
    promote="div", dunders=("__truediv__", "__rtruediv__", "__itruediv__"),
    grad={
        "input": lambda g, other, rounding_mode: None if rounding_mode else g / _conj(other),
        "other": _div_grad_other,
    },
    body=lambda input, other, rounding_mode: (
        (input / other).floor() if rounding_mode == "floor" else (input / other).trunc()
    ),
    infer=_div_infer,
    samples=binary(low2=0.5, high2=2.0, kwargs=({}, {"rounding_mode": "floor"}, {"rounding_mode": "trunc"})),
)  # fmt: skip
def div(input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Tensor:
    """input / other; integers divide as floats unless `rounding_mode` is "floor" or "trunc"."""
    if rounding_mode is None:
        if input.dtype.kind in "iub":
            d = dt.get_default_dtype().np
            return np.true_divide(input.astype(d), other.astype(d))
        return np.true_divide(input, other)
    if input.dtype.kind in "iub":
        return _integer_division(input, other, rounding_mode)
    if rounding_mode == "floor":
        return np.where(other == 0, np.true_divide(input, other), np.floor_divide(input, other))
    return np.trunc(np.true_divide(input, other))


@composition(samples=binary(low2=0.5), method=True)
def true_divide(input: Tensor, other: Operand) -> Tensor:
    """input / other as floats."""
    return input / other


@elementwise(
    scalar="floordiv", inplace=True, dunders=("__floordiv__", "__rfloordiv__", "__ifloordiv__"),
    samples=binary(low2=0.5, grad=False),
)  # fmt: skip
def floor_divide(input: Operand, other: Operand) -> Tensor:
    """floor(input / other) in the promoted dtype. No gradient."""
    if input.dtype.kind in "iub":
        return _integer_division(input, other, "floor")
    return np.where(other == 0, np.true_divide(input, other), np.floor_divide(input, other))


@elementwise(
    scalar="rem", inplace=True, out=True, dunders=("__mod__", "__rmod__", "__imod__"),
    grad={"input": lambda g: g, "other": lambda g, input, other: -g * (input / other).floor()},
    samples=binary(low2=0.7, high2=0.9, low=-0.6, high=0.6, away=0.4),
)  # fmt: skip
def remainder(input: Operand, other: Operand) -> Tensor:
    """input - other * floor(input / other): the sign follows `other`."""
    if input.dtype.kind in "iub" and np.any(other == 0):
        raise KilnError("remainder", "integer modulo by zero", "a divisor of 0", "mask the zeros")
    return np.remainder(input, other)


@elementwise(
    scalar="fmod", inplace=True, out=True,
    grad={"input": lambda g: g, "other": lambda g, input, other: -g * (input / other).trunc()},
    samples=binary(low2=0.7, high2=0.9, low=-0.6, high=0.6, away=0.4),
)  # fmt: skip
def fmod(input: Operand, other: Operand) -> Tensor:
    """input - other * trunc(input / other): the sign follows `input`."""
    if input.dtype.kind in "iub" and np.any(other == 0):
        raise KilnError("fmod", "integer modulo by zero", "a divisor of 0", "mask the zeros")
    return np.fmod(input, other)


@elementwise(
    ufunc=np.negative, scalar="neg", inplace=True, out=True, aliases=("negative",), native="fiu",
    dunders=("__neg__",), grad={"input": lambda g: -g},
    infer=lambda input: _no_bool("neg")(input), samples=unary(),
)  # fmt: skip
def neg(input: Tensor) -> Tensor:
    """-input. Not defined for bool."""
    return np.negative(input)


@composition(samples=unary())
def positive(input: Tensor) -> Tensor:
    """input itself. Not defined for bool."""
    if input.dtype is dt.bool_:
        raise KilnError("positive", "not defined for bool tensors", input, "convert it first")
    return input


Tensor.__pos__ = positive  # type: ignore[attr-defined]


def _pow_grad_base(g: Tensor, input: Any, exponent: Any) -> Any:
    if not isinstance(exponent, Tensor):
        if exponent == 0:
            return g.new_zeros(g.shape)
        if exponent == 2:
            return g * (_conj(input) * 2)
        return g * _conj(input ** (exponent - 1) * exponent)
    return (exponent == 0).where(g.new_zeros(()), g * _conj(exponent * input ** (exponent - 1)))


def _pow_grad_exponent(g: Tensor, input: Any, exponent: Tensor, out: Tensor) -> Any:
    if isinstance(input, Tensor):
        log = (input == 0).where(input.new_ones(()), input).log()
        zero = (input == 0) & ((exponent.real if exponent.is_complex() else exponent) >= 0)
        return zero.where(g.new_zeros(()), g * _conj(out * log))
    if input == 0:
        return (exponent == 0).where(g.new_zeros(()), g * 0)
    return g * _conj(out * float(np.log(input))) if not isinstance(input, complex) else g * _conj(out * complex(np.log(input)))


@elementwise(
    scalar="pow", inplace=True, out=True, dunders=("__pow__", "__rpow__", "__ipow__"),
    grad={"input": _pow_grad_base, "exponent": _pow_grad_exponent},
    samples=binary(low=0.4, high=2.0, low2=-1.5, high2=2.5, scalar=2),
)  # fmt: skip
def pow(input: Operand, exponent: Operand) -> Tensor:
    """input to the power of exponent. Integer bases need exponents that are not negative."""
    if input.dtype.kind in "iu" and np.any(exponent < 0):
        raise KilnError(
            "pow", "integers to negative integer powers are not allowed", "a negative exponent",
            "use a floating base: x.float() ** y",
        )  # fmt: skip
    return np.power(input, exponent)


@composition(samples=binary(low=0.4, high=2.0))
def float_power(input: Operand, exponent: Operand) -> Tensor:
    """input ** exponent in float64."""
    def up(x: Any) -> Any:
        return x.to(x.dtype.to_complex() if x.is_complex() else dt.float64) if isinstance(x, Tensor) else x

    return up(input) ** up(exponent)


@elementwise(
    ufunc=np.square, scalar="square", inplace=True, out=True, native="fiu",
    grad={"input": lambda g, input: g * (_conj(input) * 2)},
    body=lambda input: input * input, samples=unary(),
)  # fmt: skip
def square(input: Tensor) -> Tensor:
    """input * input."""
    return np.square(input)


@elementwise(
    promote="real", ufunc=np.absolute, scalar="abs", inplace=True, out=True, native="fiu",
    aliases=("absolute",), dunders=("__abs__",), grad={"input": lambda g, input: g * input.sgn()},
    samples=unary(away=2.0),
)  # fmt: skip
def abs(input: Tensor) -> Tensor:
    """The absolute value; of complex numbers the magnitude, as a real tensor."""
    return np.absolute(input)


@elementwise(scalar="sign", inplace=True, out=True, grad={"input": lambda g: g.new_zeros(g.shape)},
             samples=unary(away=2.0))  # fmt: skip
def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1 by the sign of each element."""
    if input.dtype.kind == "c":
        raise KilnError("sign", "not defined for complex tensors", str(input.dtype), "use sgn")
    return np.where(np.isnan(input), 0, np.sign(input)) if input.dtype.kind == "f" else (
        input if input.dtype.kind == "b" else np.sign(input)
    )  # fmt: skip


@composition(samples=unary(away=2.0))
def sgn(input: Tensor) -> Tensor:
    """The sign; of complex numbers input / |input|, 0 at 0."""
    if not input.is_complex():
        return input.sign()
    r = input.abs()
    return input / (r == 0).where(r.new_ones(()), r)


@elementwise(promote="float", scalar="reciprocal", inplace=True, out=True,
             grad={"input": lambda g, out: -g * _conj(out * out)}, samples=unary(0.5, 2.0))  # fmt: skip
def reciprocal(input: Tensor) -> Tensor:
    """1 / input."""
    return np.true_divide(input.dtype.type(1), input)


def _extreme_grad(wins: str) -> Any:
    def share(g: Tensor, x: Any, y: Any) -> Tensor:
        tie = g * 0.5
        return (getattr(x, wins)(y)).where(g, (x == y).where(tie, g.new_zeros(())))

    return {
        "input": lambda g, input, other: share(g, _as_tensor(input, g), other),
        "other": lambda g, input, other: share(g, _as_tensor(other, g), input),
    }


def _as_tensor(x: Any, like: Tensor) -> Tensor:
    return x if isinstance(x, Tensor) else like.new_tensor(x)


@elementwise(ufunc=np.maximum, scalar="maximum", out=True, grad=_extreme_grad("gt"),
             samples=binary(away2=0.25, low=-1.9, low2=-2.0, scalar=None))  # fmt: skip
def maximum(input: Tensor, other: Tensor) -> Tensor:
    """The larger of each pair; NaN wins. At ties the gradient is shared equally."""
    return np.maximum(input, other)


@elementwise(ufunc=np.minimum, scalar="minimum", out=True, grad=_extreme_grad("lt"),
             samples=binary(away2=0.25, low=-1.9, low2=-2.0, scalar=None))  # fmt: skip
def minimum(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of each pair; NaN wins. At ties the gradient is shared equally."""
    return np.minimum(input, other)


@elementwise(scalar="lerp", inplace=True, out=True,
    grad={
        "input": lambda g, weight: g * (1 - weight),
        "end": lambda g, weight: g * weight,
        "weight": lambda g, input, end: g * (end - input),
    },
    body=lambda input, end, weight: input + (end - input) * weight,
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)), 0.3)),
        Sample((draw(rng(), (3, 1)), draw(rng(1), (1, 4)), draw(rng(2), (3, 4)))),
        Sample((draw(rng(), ()), draw(rng(1), ()), 0.7)),
        Sample((draw(rng(), (0,)), draw(rng(1), (0,)), 0.7)),
        Sample((draw(rng(), (3,)), draw(rng(1), (4,)), 0.7), error=RuntimeError),
    ]))  # fmt: skip
def lerp(input: Tensor, end: Tensor, weight: Operand) -> Tensor:
    """input + weight * (end - input)."""
    return input + weight * (end - input)


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)), draw(rng(2), (3, 1))), {"value": 0.5}),
    Sample((draw(rng(), ()), draw(rng(1), ()), draw(rng(2), ()))),
]))  # fmt: skip
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """input + value * tensor1 * tensor2."""
    return input + _scaled(tensor1 * tensor2, value)


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)), draw(rng(2), (3, 1), 0.5, 2)), {"value": 0.5}),
]))  # fmt: skip
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """input + value * tensor1 / tensor2."""
    return input + _scaled(tensor1 / tensor2, value)


# ---------------------------------------------------------------- rounding


def _flat_grad(g: Tensor) -> Tensor:
    return g.new_zeros(g.shape)


def _rounder(fn: Any) -> Any:
    return lambda x: x if x.dtype.kind in "iub" else fn(x)


@elementwise(scalar="floor", inplace=True, out=True, grad={"input": _flat_grad}, samples=unary(away=1.0))
def floor(input: Tensor) -> Tensor:
    """The largest integer not above each element."""
    return _rounder(np.floor)(input)


@elementwise(scalar="ceil", inplace=True, out=True, grad={"input": _flat_grad}, samples=unary(away=1.0))
def ceil(input: Tensor) -> Tensor:
    """The smallest integer not below each element."""
    return _rounder(np.ceil)(input)


@elementwise(scalar="trunc", inplace=True, out=True, aliases=("fix",), grad={"input": _flat_grad},
             samples=unary(away=1.0))  # fmt: skip
def trunc(input: Tensor) -> Tensor:
    """Each element without its fraction."""
    return _rounder(np.trunc)(input)


@elementwise(scalar="round", inplace=True, out=True, grad={"input": _flat_grad},
             body=lambda input, decimals: (input * 10**decimals).round() / 10**decimals,
             samples=unary(away=0.5))  # fmt: skip
def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """The nearest integer, halves to even; or to `decimals` places."""
    if input.dtype.kind in "iub":
        return input
    return np.rint(input) if decimals == 0 else np.rint(input * 10.0**decimals) / 10.0**decimals


@composition(samples=unary(away=1.0))
def frac(input: Tensor) -> Tensor:
    """The fraction of each element, with its sign."""
    return input - input.trunc()


# ---------------------------------------------------------------- exponentials and roots


@elementwise("float", "exp", ufunc=np.exp, native="f", inplace=True, out=True,
             grad={"input": lambda g, out: g * _conj(out)}, samples=unary())  # fmt: skip
def exp(input: Tensor) -> Tensor:
    """e to the power of each element."""
    return np.exp(input)


@elementwise("float", "exp2", inplace=True, out=True,
             grad={"input": lambda g, out: g * _conj(out) * 0.6931471805599453}, samples=unary())  # fmt: skip
def exp2(input: Tensor) -> Tensor:
    """2 to the power of each element."""
    return np.exp2(input)


@elementwise("float", "expm1", inplace=True, out=True, aliases=(),
             grad={"input": lambda g, out: g * (_conj(out) + 1)}, samples=unary())  # fmt: skip
def expm1(input: Tensor) -> Tensor:
    """exp(input) - 1, precise near 0."""
    return np.expm1(input)


@elementwise("float", "log", ufunc=np.log, native="f", inplace=True, out=True,
             grad={"input": lambda g, input: g / _conj(input)}, samples=unary(0.2, 3.0))  # fmt: skip
def log(input: Tensor) -> Tensor:
    """The natural logarithm."""
    return np.log(input)


@elementwise("float", "log2", inplace=True, out=True,
             grad={"input": lambda g, input: g / _conj(input * 0.6931471805599453)}, samples=unary(0.2, 3.0))  # fmt: skip
def log2(input: Tensor) -> Tensor:
    """The logarithm to base 2."""
    return np.log2(input)


@elementwise("float", "log10", inplace=True, out=True,
             grad={"input": lambda g, input: g / _conj(input * 2.302585092994046)}, samples=unary(0.2, 3.0))  # fmt: skip
def log10(input: Tensor) -> Tensor:
    """The logarithm to base 10."""
    return np.log10(input)


@elementwise("float", "log1p", inplace=True, out=True,
             grad={"input": lambda g, input: g / _conj(input + 1)}, samples=unary(-0.7, 3.0))  # fmt: skip
def log1p(input: Tensor) -> Tensor:
    """log(1 + input), precise near 0."""
    return np.log1p(input)


@elementwise("float", "sqrt", ufunc=np.sqrt, native="f", inplace=True, out=True,
             grad={"input": lambda g, out: g / _conj(out * 2)}, samples=unary(0.2, 3.0))  # fmt: skip
def sqrt(input: Tensor) -> Tensor:
    """The square root."""
    return np.sqrt(input)


@elementwise("float", "rsqrt", inplace=True, out=True,
             grad={"input": lambda g, out: g * _conj(out**3) * -0.5}, samples=unary(0.2, 3.0))  # fmt: skip
def rsqrt(input: Tensor) -> Tensor:
    """1 / sqrt(input)."""
    return np.true_divide(input.dtype.type(1), np.sqrt(input))


def _stable_sigmoid(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "c":
        return 1 / (1 + np.exp(-x))
    e = np.exp(-np.absolute(x))
    return np.where(x >= 0, 1, e) / (1 + e)


@elementwise("float", "sigmoid", inplace=True, out=True, aliases=(),
             grad={"input": lambda g, out: g * _conj((1 - out) * out)}, samples=unary(-4, 4))  # fmt: skip
def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-input))."""
    return _stable_sigmoid(input)


@elementwise("float", inplace=True, samples=unary(0.1, 0.9),
             grad={"input": lambda g, input: g / (input * (1 - input))},
             body=lambda input, eps: _logit_body(input, eps))  # fmt: skip
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """log(input / (1 - input)); `eps` clamps the input to [eps, 1 - eps]."""
    x = input if eps is None else np.clip(input, eps, 1 - eps)
    return np.log(x / (1 - x))


def _logit_body(input: Tensor, eps: float | None) -> Tensor:
    x = input if eps is None else input.clamp(eps, 1 - eps)
    return (x / (1 - x)).log()


# ---------------------------------------------------------------- trigonometry


@elementwise("float", "sin", inplace=True, out=True, grad={"input": lambda g, input: g * _conj(input.cos())},
             samples=unary())  # fmt: skip
def sin(input: Tensor) -> Tensor:
    """The sine, radians."""
    return np.sin(input)


@elementwise("float", "cos", inplace=True, out=True, grad={"input": lambda g, input: -g * _conj(input.sin())},
             samples=unary())  # fmt: skip
def cos(input: Tensor) -> Tensor:
    """The cosine, radians."""
    return np.cos(input)


@elementwise("float", "tan", inplace=True, out=True, grad={"input": lambda g, out: g * _conj(out * out + 1)},
             samples=unary(-1.2, 1.2))  # fmt: skip
def tan(input: Tensor) -> Tensor:
    """The tangent, radians."""
    return np.tan(input)


@elementwise("float", "asin", inplace=True, out=True, aliases=("arcsin",),
             grad={"input": lambda g, input: g * _conj((1 - input * input).rsqrt())},
             samples=unary(-0.9, 0.9))  # fmt: skip
def asin(input: Tensor) -> Tensor:
    """The angle whose sine is given, in [-pi/2, pi/2]."""
    return np.arcsin(input)


@elementwise("float", "acos", inplace=True, out=True, aliases=("arccos",),
             grad={"input": lambda g, input: -g * _conj((1 - input * input).rsqrt())},
             samples=unary(-0.9, 0.9))  # fmt: skip
def acos(input: Tensor) -> Tensor:
    """The angle whose cosine is given, in [0, pi]."""
    return np.arccos(input)


@elementwise("float", "atan", inplace=True, out=True, aliases=("arctan",),
             grad={"input": lambda g, input: g / _conj(input * input + 1)}, samples=unary())  # fmt: skip
def atan(input: Tensor) -> Tensor:
    """The angle whose tangent is given, in (-pi/2, pi/2)."""
    return np.arctan(input)


@elementwise("float", "atan2", inplace=True, out=True, aliases=("arctan2",),
    grad={
        "input": lambda g, input, other: g * (other / (input * input + other * other)),
        "other": lambda g, input, other: g * (-input / (input * input + other * other)),
    },
    samples=binary(low=0.5, high=2.0, scalar=None))  # fmt: skip
def atan2(input: Tensor, other: Tensor) -> Tensor:
    """The angle of the point (other, input), in (-pi, pi]."""
    return np.arctan2(input, other)


@elementwise("float", "sinh", inplace=True, out=True, grad={"input": lambda g, input: g * _conj(input.cosh())},
             samples=unary())  # fmt: skip
def sinh(input: Tensor) -> Tensor:
    """The hyperbolic sine."""
    return np.sinh(input)


@elementwise("float", "cosh", inplace=True, out=True, grad={"input": lambda g, input: g * _conj(input.sinh())},
             samples=unary())  # fmt: skip
def cosh(input: Tensor) -> Tensor:
    """The hyperbolic cosine."""
    return np.cosh(input)


@elementwise("float", "tanh", ufunc=np.tanh, native="f", inplace=True, out=True,
             grad={"input": lambda g, out: g * _conj(1 - out * out)}, samples=unary())  # fmt: skip
def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return np.tanh(input)


def _erf(x: np.ndarray) -> np.ndarray:
    from ._special import erf as f

    return f(x)


@elementwise("float", "erf", inplace=True, out=True, aliases=(),
             grad={"input": lambda g, input: g * ((input * input).neg().exp() * 1.1283791670955126)},
             samples=unary())  # fmt: skip
def erf(input: Tensor) -> Tensor:
    """The error function."""
    return _erf(input)


@elementwise("float", "erfc", inplace=True, out=True,
             grad={"input": lambda g, input: g * ((input * input).neg().exp() * -1.1283791670955126)},
             samples=unary())  # fmt: skip
def erfc(input: Tensor) -> Tensor:
    """1 - erf(input), precise for large inputs."""
    from ._special import erfc as f

    return f(input)


# ---------------------------------------------------------------- comparison and logic


def comparison(scalar: str, ufunc: Any, dunder: str, **facts: Any) -> Any:
    """A comparison: promotes its operands, gives bool, has no gradient."""
    return elementwise("bool", scalar, ufunc=ufunc, dunders=(dunder,), inplace=True, out=True,
                       samples=binary(grad=False), **facts)  # fmt: skip


@comparison("eq", np.equal, "__eq__")
def eq(input: Operand, other: Operand) -> Tensor:
    """Where input == other."""
    return np.equal(input, other)


@comparison("ne", np.not_equal, "__ne__", aliases=("not_equal",))
def ne(input: Operand, other: Operand) -> Tensor:
    """Where input != other."""
    return np.not_equal(input, other)


@comparison("lt", np.less, "__lt__", aliases=("less",))
def lt(input: Operand, other: Operand) -> Tensor:
    """Where input < other."""
    return np.less(input, other)


@comparison("le", np.less_equal, "__le__", aliases=("less_equal",))
def le(input: Operand, other: Operand) -> Tensor:
    """Where input <= other."""
    return np.less_equal(input, other)


@comparison("gt", np.greater, "__gt__", aliases=("greater",))
def gt(input: Operand, other: Operand) -> Tensor:
    """Where input > other."""
    return np.greater(input, other)


@comparison("ge", np.greater_equal, "__ge__", aliases=("greater_equal",))
def ge(input: Operand, other: Operand) -> Tensor:
    """Where input >= other."""
    return np.greater_equal(input, other)


def _integral(name: str) -> Any:
    def infer(*args: Any) -> tuple:
        o = REGISTRY[name]
        xs = [args[i] for i in o.tensor_slots]
        d = compute_dtype(o, xs)
        if d.category > dt.INT:
            raise KilnError(
                name, "only defined for integer and bool tensors", d.name, "convert with .long()"
            )
        return broadcast_shapes(*[getattr(x, "shape", ()) for x in xs], op=name), d

    return infer


def _ints(scalar: Any = 3) -> Any:
    def samples() -> Any:
        r = rng(2)
        for s1, s2 in (((3, 4), (4,)), ((), ()), ((0,), (1,))):
            yield Sample((r.integers(0, 8, s1), r.integers(0, 8, s2)), grad=False)
        yield Sample((r.integers(0, 8, (3,)), scalar), grad=False)
        yield Sample((r.integers(0, 2, (3, 2)) > 0, r.integers(0, 2, (3, 2)) > 0), grad=False)
        yield Sample((draw(r, (3,)), draw(r, (3,))), error=RuntimeError)

    return samples


@elementwise(scalar="and", ufunc=np.bitwise_and, native="iub", inplace=True, out=True, samples=_ints(),
             dunders=("__and__", "__rand__", "__iand__"), infer=_integral("bitwise_and"))  # fmt: skip
def bitwise_and(input: Operand, other: Operand) -> Tensor:
    """Bitwise and of integers; logical and of bools."""
    return np.bitwise_and(input, other)


@elementwise(scalar="or", ufunc=np.bitwise_or, native="iub", inplace=True, out=True, samples=_ints(),
             dunders=("__or__", "__ror__", "__ior__"), infer=_integral("bitwise_or"))  # fmt: skip
def bitwise_or(input: Operand, other: Operand) -> Tensor:
    """Bitwise or of integers; logical or of bools."""
    return np.bitwise_or(input, other)


@elementwise(scalar="xor", ufunc=np.bitwise_xor, native="iub", inplace=True, out=True, samples=_ints(),
             dunders=("__xor__", "__rxor__", "__ixor__"), infer=_integral("bitwise_xor"))  # fmt: skip
def bitwise_xor(input: Operand, other: Operand) -> Tensor:
    """Bitwise exclusive or."""
    return np.bitwise_xor(input, other)


def _int_unary() -> Any:
    yield Sample((rng(3).integers(0, 9, (3, 4)),), grad=False)
    yield Sample((rng(3).integers(0, 2, (4,)) > 0,), grad=False)
    yield Sample((draw(rng(), (3,)),), error=RuntimeError)


@elementwise(scalar="not", ufunc=np.invert, native="iub", inplace=True, out=True, samples=_int_unary,
             dunders=("__invert__",), infer=_integral("bitwise_not"))  # fmt: skip
def bitwise_not(input: Tensor) -> Tensor:
    """Bitwise not of integers; logical not of bools."""
    return np.invert(input)


def _shifts() -> Any:
    r = rng(4)
    yield Sample((r.integers(0, 99, (3, 4)), r.integers(0, 5, (4,))), grad=False)
    yield Sample((r.integers(0, 99, (3,)), 2), grad=False)


@elementwise(scalar="shl", inplace=True, out=True, samples=_shifts, infer=_integral("bitwise_left_shift"),
             dunders=("__lshift__", "__ilshift__"))  # fmt: skip
def bitwise_left_shift(input: Operand, other: Operand) -> Tensor:
    """input * 2**other on integers."""
    return np.left_shift(input, other)


@elementwise(scalar="shr", inplace=True, out=True, samples=_shifts, infer=_integral("bitwise_right_shift"),
             dunders=("__rshift__", "__irshift__"))  # fmt: skip
def bitwise_right_shift(input: Operand, other: Operand) -> Tensor:
    """floor(input / 2**other) on integers."""
    return np.right_shift(input, other)


def _logic(name: str, fn: Any, doc: str) -> Any:
    def ref(input: Operand, other: Operand) -> Tensor:
        return fn(input != 0, other != 0)

    ref.__name__, ref.__doc__ = name, doc
    body = {
        "logical_and": lambda input, other: (input != 0) & (other != 0),
        "logical_or": lambda input, other: (input != 0) | (other != 0),
        "logical_xor": lambda input, other: (input != 0) ^ (other != 0),
    }[name]
    return elementwise("bool", inplace=True, out=True, samples=binary(grad=False), body=body)(ref)


logical_and = _logic("logical_and", np.logical_and, "Where both are not zero.")
logical_or = _logic("logical_or", np.logical_or, "Where either is not zero.")
logical_xor = _logic("logical_xor", np.logical_xor, "Where exactly one is not zero.")


@elementwise("bool", inplace=True, out=True, samples=unary(grad=False), body=lambda input: input == 0)
def logical_not(input: Tensor) -> Tensor:
    """Where input is zero."""
    return np.logical_not(input)


@elementwise("bool", "isnan", samples=unary(grad=False))
def isnan(input: Tensor) -> Tensor:
    """Where input is not a number."""
    return np.isnan(input)


@elementwise("bool", "isinf", samples=unary(grad=False))
def isinf(input: Tensor) -> Tensor:
    """Where input is infinite."""
    return np.isinf(input)


@elementwise("bool", "isfinite", samples=unary(grad=False))
def isfinite(input: Tensor) -> Tensor:
    """Where input is neither infinite nor NaN."""
    return np.isfinite(input)


# ---------------------------------------------------------------- selection


def _where_infer(condition: Any, input: Any, other: Any) -> tuple:
    if getattr(condition, "dtype", None) not in (dt.bool_, dt.uint8):
        raise KilnError(
            "where", "the condition must be a bool tensor", condition, "compare first: x > 0"
        )
    shapes = [getattr(x, "shape", ()) for x in (condition, input, other)]
    return broadcast_shapes(*shapes, op="where"), dt.result_type(input, other)


def _where_run(condition: Any, input: Any, other: Any) -> Any:
    d = dt.result_type(input, other).np
    if condition.dtype != np.bool_:
        if condition.dtype != np.uint8:
            _where_infer(condition, input, other)
        condition = condition != 0
    return np.where(condition, np.asarray(input, d), np.asarray(other, d))


def _where_samples() -> Any:
    r = rng(5)
    for sc, s1, s2 in (((3, 4), (3, 4), (3, 4)), ((4,), (3, 1), ()), ((), (2,), (2,)), ((0, 2), (2,), ())):
        yield Sample((np.asarray(r.random(sc) > 0.5), draw(r, s1), draw(r, s2)))
    yield Sample((r.random((3,)) > 0.5, draw(r, (3,)), 0.5))
    yield Sample((draw(r, (3,)), draw(r, (3,)), draw(r, (3,))), error=RuntimeError)
    yield Sample((r.random((3,)) > 0.5, draw(r, (4,)), draw(r, (3,))), error=RuntimeError)


@op(
    name="where", family="select", scalar="where", check=False, exact=True, method=False,
    infer=_where_infer, samples=_where_samples, private=True,
    grad={
        "input": lambda g, condition: where_op(condition, g, g.new_zeros(())),
        "other": lambda g, condition: where_op(condition, g.new_zeros(()), g),
    },
)  # fmt: skip
def where_op(condition: Tensor, input: Operand, other: Operand) -> Tensor:
    """input where condition holds, other elsewhere; the three broadcast."""
    return _where_run(condition, input, other)


@composition(method=False)
def where(condition: Tensor, input: Any = None, other: Any = None, *, out: Any = None) -> Any:
    """input where condition holds, other elsewhere; with the condition alone, `nonzero(as_tuple=True)`."""
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    if not isinstance(condition, Tensor):
        raise KilnTypeError("where", "the condition must be a Tensor", condition, "compare first: x > 0")
    r = where_op(condition, input, other)
    return r if out is None else out.copy_(r)


def _tensor_where(self: Tensor, a: Any, b: Any = None) -> Tensor:
    """`x.where(condition, other)` as PyTorch has it; a bool tensor may also select: `c.where(a, b)`."""
    if isinstance(a, Tensor) and a.dtype is dt.bool_ and b is not None and self.dtype is not dt.bool_:
        return where_op(a, self, b)
    return where_op(self, a, b)


def _clamp_infer(input: Any, min: Any = None, max: Any = None) -> tuple:
    if min is None and max is None:
        raise KilnError("clamp", "at least one of min and max must be given", "None, None", "")
    xs = [x for x in (input, min, max) if x is not None]
    d = dt.result_type(*xs)
    if d.is_complex:
        raise KilnError("clamp", "not defined for complex tensors", d.name, "clamp x.real, x.imag")
    return broadcast_shapes(*[getattr(x, "shape", ()) for x in xs], op="clamp"), d


def _clamp_mask(input: Any, min: Any, max: Any) -> Any:
    keep = None
    if min is not None:
        keep = input >= min
    if max is not None:
        keep = (input <= max) if keep is None else keep & (input <= max)
    return keep


def _clamp_body(input: Tensor, min: Any, max: Any) -> Tensor:
    if min is not None:
        input = maximum(input, min)
    return input if max is None else minimum(input, max)


def _clamp_samples() -> Any:
    r = rng(6)
    for shape in ((3, 4), (), (0,), (2, 3, 2)):
        yield Sample((draw(r, shape, away=1.0), -0.95, 0.95))
        yield Sample((draw(r, shape, away=1.0), -0.95))
        yield Sample((draw(r, shape, away=1.0),), {"max": 0.95})
    yield Sample((draw(r, (3, 4), away=1.0), draw(r, (4,), -2, -1.5), draw(r, (3, 1), 1.5, 2)))
    yield Sample((draw(r, (3,)),), error=RuntimeError)


@elementwise(
    inplace=True, out=True, aliases=("clip",), infer=_clamp_infer, samples=_clamp_samples, body=_clamp_body,
    grad={
        "input": lambda g, input, min, max: where_op(_clamp_mask(input, min, max), g, g.new_zeros(())),
        "min": lambda g, input, min, max: where_op(
            (input < min) if max is None else (input < min) & (_as_tensor(min, g) < max), g, g.new_zeros(())
        ),
        "max": lambda g, input, min, max: where_op(
            (input > max) if min is None else (input > max) | (_as_tensor(max, g) < min), g, g.new_zeros(())
        ),
    },
)  # fmt: skip
def clamp(input: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """Each element moved into [min, max]; NaN stays. Where min > max the result is max."""
    x = input
    if min is not None:
        x = np.maximum(x, min)
    return x if max is None else np.minimum(x, max)


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4), away=1.0), -0.5))]))
def clamp_min(input: Tensor, min: Operand) -> Tensor:
    """clamp(input, min=min)."""
    return clamp(input, min)


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4), away=1.0), 0.5))]))
def clamp_max(input: Tensor, max: Operand) -> Tensor:
    """clamp(input, max=max)."""
    return clamp(input, None, max)


def _nan_limits(input: Any, nan: Any, posinf: Any, neginf: Any) -> tuple:
    d = input.dtype if isinstance(input.dtype, dt.dtype) else dt.OF_NUMPY[input.dtype]
    info = dt.finfo(d) if d.category >= dt.FLOAT else None
    if info is None:
        return 0, 0, 0
    return (0.0 if nan is None else nan, info.max if posinf is None else posinf,
            info.min if neginf is None else neginf)  # fmt: skip


def _nan_to_num_body(input: Tensor, nan: Any, posinf: Any, neginf: Any) -> Tensor:
    n, p, m = _nan_limits(input, nan, posinf, neginf)
    x = where_op(input.isnan(), n, input)
    x = where_op(x == float("inf"), p, x)
    return where_op(x == float("-inf"), m, x)


@elementwise(
    inplace=True, out=True, body=_nan_to_num_body,
    grad={"input": lambda g, input: where_op(input.isfinite(), g, g.new_zeros(()))},
    samples=lambda: iter([
        Sample((np.array([1.0, np.nan, np.inf, -np.inf]),), grad=False),
        Sample((np.array([1.0, np.nan, np.inf, -np.inf]), 2.0, 3.0, 4.0), grad=False),
        Sample((draw(rng(), (3, 4)),)), Sample((draw(rng(), (0,)),)),
    ]),
)  # fmt: skip
def nan_to_num(input: Tensor, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Tensor:
    """NaN and infinities replaced by numbers: 0 and the largest finite ones by default."""
    if input.dtype.kind not in "fc":
        return input
    n, p, m = _nan_limits(input, nan, posinf, neginf)
    return np.nan_to_num(input, nan=n, posinf=p, neginf=m)


@composition(method=True, samples=binary(grad=False, scalar=None))
def isclose(input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Where |input - other| <= atol + rtol * |other|."""
    if input.dtype is not other.dtype:
        raise KilnError("isclose", "both tensors must have the same dtype", (input.dtype, other.dtype), "")
    same = input == other
    if input.dtype.category < dt.FLOAT:
        input, other = input.double(), other.double()
    close = same | (((input - other).abs() <= atol + rtol * other.abs()) & other.isfinite() & input.isfinite())
    return close | (input.isnan() & other.isnan()) if equal_nan else close


Tensor.where = _tensor_where  # type: ignore[attr-defined]
