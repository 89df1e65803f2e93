"""Exponentials, logarithms, roots, trigonometry and the error function."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .. import dtypes as dt
from ..tensor import Tensor
from .arithmetic import conjugate, elementwise, only
from .registry import Sample
from .samples import binary, draw, rng, strided, unary

# ---------------------------------------------------------------- exponentials and roots


@elementwise("float", "exp", ufunc=np.exp, native="f", inplace=True, out=True,
             grad={"input": lambda g, out: g * conjugate(out)}, quick={"input": lambda g, out: g * out},
             samples=unary())  # fmt: skip
def exp(input: Tensor) -> Tensor:
    """e to the power of each element."""
    return np.exp(input)


@elementwise("float", "exp2", inplace=True, out=True,
             grad={"input": lambda g, out: g * conjugate(out) * 0.6931471805599453}, samples=unary())  # fmt: skip
def exp2(input: Tensor) -> Tensor:
    """2 to the power of each element."""
    return np.exp2(input)


def _complex_expm1(z: np.ndarray) -> np.ndarray:
    """By real and imaginary parts, precise near 0; as exp(z) - 1 where a part is infinite or NaN."""
    x, y = z.real, z.imag
    with np.errstate(all="ignore"):
        out = np.asarray(np.exp(z) - 1)
        finite = np.isfinite(x) & np.isfinite(y)
        half = np.sin(y / 2)
        out.real = np.where(finite, np.expm1(x) * np.cos(y) - 2 * half * half + 0.0, out.real)
    out.imag = np.where(y == 0, y, out.imag)
    return out


@elementwise("float", "expm1", inplace=True, out=True, aliases=(),
             grad={"input": lambda g, out: g * (conjugate(out) + 1)}, samples=unary())  # fmt: skip
def expm1(input: Tensor) -> Tensor:
    """exp(input) - 1, precise near 0."""
    return _complex_expm1(input) if input.dtype.kind == "c" else np.expm1(input)


@elementwise("float", "log", ufunc=np.log, native="f", inplace=True, out=True,
             grad={"input": lambda g, input: g / conjugate(input)}, quick={"input": lambda g, input: g / input},
             samples=unary(0.2, 3.0))  # fmt: skip
def log(input: Tensor) -> Tensor:
    """The natural logarithm."""
    return np.log(input)


@elementwise("float", "log2", inplace=True, out=True,
             grad={"input": lambda g, input: g / conjugate(input * 0.6931471805599453)}, samples=unary(0.2, 3.0))  # fmt: skip
def log2(input: Tensor) -> Tensor:
    """The logarithm to base 2."""
    return np.log2(input)


@elementwise("float", "log10", inplace=True, out=True,
             grad={"input": lambda g, input: g / conjugate(input * 2.302585092994046)}, samples=unary(0.2, 3.0))  # fmt: skip
def log10(input: Tensor) -> Tensor:
    """The logarithm to base 10."""
    return np.log10(input)


@elementwise("float", "log1p", node="Log1PBackward0", inplace=True, out=True,
             grad={"input": lambda g, input: g / conjugate(input + 1)}, samples=unary(-0.7, 3.0))  # fmt: skip
def log1p(input: Tensor) -> Tensor:
    """log(1 + input), precise near 0."""
    return np.log1p(input)


@elementwise("float", "sqrt", ufunc=np.sqrt, native="f", inplace=True, out=True,
             grad={"input": lambda g, out: g / conjugate(out * 2)}, quick={"input": lambda g, out: g / (out * 2)},
             samples=unary(0.2, 3.0))  # fmt: skip
def sqrt(input: Tensor) -> Tensor:
    """The square root."""
    return np.sqrt(input)


@elementwise("float", "rsqrt", inplace=True, out=True,
             grad={"input": lambda g, out: g * conjugate(out**3) * -0.5}, samples=unary(0.2, 3.0))  # fmt: skip
def rsqrt(input: Tensor) -> Tensor:
    """1 / sqrt(input)."""
    return np.true_divide(input.dtype.type(1), np.sqrt(input))


# Note [Slopes by results]
# The gradients of sigmoid and tanh are ops, whose own gradients are one op and a few: second derivatives of networks,
# which programs for differential equations take at each step, would else record three nodes for each one of these.
_FEW = 1 << 14
"""Elements from where on one kernel is quicker than several passes of NumPy's."""
_ONE, _TWO, _MINUS_TWO = (
    {d.np: np.array(x, d.np) for d in (dt.float32, dt.float64)} for x in (1, 2, -2)
)


def _small(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether arrays are such as passes of NumPy's in place are for."""
    return a.ndim > 0 and a.size < _FEW and a.shape == b.shape and a.dtype in _ONE


def _slopes() -> Iterator[Sample]:
    r = rng()
    for shape in ((3, 4), (), (0,), (2, 3, 4)):
        yield Sample((draw(r, shape), draw(r, shape, -0.9, 0.9)))
    yield Sample((strided(draw(r, (4, 3))), draw(r, (4, 3), -0.9, 0.9)))
    yield Sample((draw(r, (3, 4)), strided(draw(r, (3, 4), -0.9, 0.9))))


def _sigmoid_slope(grad: np.ndarray, result: np.ndarray) -> np.ndarray:
    if not _small(result, grad):
        return sigmoid_grad.op.eager(grad, result)
    out = np.subtract(_ONE[result.dtype], result)
    np.multiply(out, result, out)
    return np.multiply(grad, out, out)


def _sigmoid_bend(g: np.ndarray, grad: np.ndarray, result: np.ndarray) -> np.ndarray:
    if not _small(result, grad) or g.shape != grad.shape:
        return g * grad * (1 - result * 2)
    d = result.dtype
    out = np.multiply(result, _TWO[d])
    np.subtract(_ONE[d], out, out)
    np.multiply(out, grad, out)
    return np.multiply(g, out, out)


@elementwise(
    private=True, short=_sigmoid_slope, native="f", body=lambda grad, result: grad * ((1 - result) * result),
    grad={"grad": lambda g, result: sigmoid_grad(g, conjugate(result)),
          "result": lambda g, grad, result: g * conjugate(grad * (1 - result * 2))},
    quick={"grad": lambda g, result: _sigmoid_slope(g, result), "result": _sigmoid_bend}, samples=_slopes,
)  # fmt: skip
def sigmoid_grad(grad: Tensor, result: Tensor) -> Tensor:
    """The gradient of sigmoid by its result: Note [Slopes by results]."""
    return grad * ((1 - result) * result)


def _tanh_slope(grad: np.ndarray, result: np.ndarray) -> np.ndarray:
    if not _small(result, grad):
        return tanh_grad.op.eager(grad, result)
    out = np.multiply(result, result)
    np.subtract(_ONE[result.dtype], out, out)
    return np.multiply(grad, out, out)


def _tanh_bend(g: np.ndarray, grad: np.ndarray, result: np.ndarray) -> np.ndarray:
    if not _small(result, grad) or g.shape != grad.shape:
        return g * grad * result * -2
    out = np.multiply(g, grad)
    np.multiply(out, result, out)
    return np.multiply(out, _MINUS_TWO[result.dtype], out)


@elementwise(
    private=True, short=_tanh_slope, native="f", body=lambda grad, result: grad * (1 - result * result),
    grad={"grad": lambda g, result: tanh_grad(g, conjugate(result)),
          "result": lambda g, grad, result: g * conjugate(grad * result * -2)},
    quick={"grad": lambda g, result: _tanh_slope(g, result), "result": _tanh_bend}, samples=_slopes,
)  # fmt: skip
def tanh_grad(grad: Tensor, result: Tensor) -> Tensor:
    """The gradient of tanh by its result: Note [Slopes by results]."""
    return grad * (1 - result * result)


HANDFUL = 1 << 10
"""Elements from where on a kernel that is prepared is quicker than a few passes of NumPy's."""


def _logistic(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "c":
        return 1 / (1 + np.exp(-x))
    out = np.asarray(np.negative(x))
    np.exp(out, out)  # infinite far below 0, whose reciprocal is 0
    np.add(out, _ONE[x.dtype], out)
    return np.reciprocal(out, out)


def _short_sigmoid(x: np.ndarray) -> np.ndarray:
    few = x.size < HANDFUL and x.dtype in _ONE
    return _logistic(x) if few else sigmoid.op.eager(x)


@elementwise("float", "sigmoid", inplace=True, out=True, aliases=(), short=_short_sigmoid, native="f",
             grad={"input": lambda g, out: sigmoid_grad(g, conjugate(out))},
             quick={"input": lambda g, out: _sigmoid_slope(g, out)}, samples=unary(-4, 4))  # fmt: skip
def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-input))."""
    return _logistic(input)


@elementwise("float", out=True, inplace=True, infer=only("logit", dt.BOOL, dt.FLOAT), samples=unary(0.1, 0.9),
             grad={"input": lambda g, input, eps: _logit_grad(g, input, eps)},
             body=lambda input, eps: _logit_body(input, eps))  # fmt: skip
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """log(input / (1 - input)); `eps` clamps the input to [eps, 1 - eps]."""
    x = input if eps is None else np.clip(input, eps, 1 - eps)
    return np.log(x / (1 - x))


def _logit_grad(g: Tensor, input: Tensor, eps: float | None) -> Tensor:
    d = g / (input * (1 - input))
    low, high = (0, 1) if eps is None else (eps, 1 - eps)
    outside = g.new_full((), float("nan") if eps is None else 0)
    return ((input >= low) & (input <= high)).where(d, outside)


def _logit_body(input: Tensor, eps: float | None) -> Tensor:
    x = input if eps is None else input.clamp(eps, 1 - eps)
    return (x / (1 - x)).log()


# ---------------------------------------------------------------- trigonometry


@elementwise("float", "sin", inplace=True, out=True, grad={"input": lambda g, input: g * conjugate(input.cos())},
             samples=unary())  # fmt: skip
def sin(input: Tensor) -> Tensor:
    """The sine, radians."""
    return np.sin(input)


@elementwise("float", "cos", inplace=True, out=True, grad={"input": lambda g, input: -g * conjugate(input.sin())},
             samples=unary())  # fmt: skip
def cos(input: Tensor) -> Tensor:
    """The cosine, radians."""
    return np.cos(input)


@elementwise("float", "tan", inplace=True, out=True, grad={"input": lambda g, out: g * conjugate(out * out + 1)},
             samples=unary(-1.2, 1.2))  # fmt: skip
def tan(input: Tensor) -> Tensor:
    """The tangent, radians."""
    return np.tan(input)


@elementwise("float", "asin", inplace=True, out=True, aliases=("arcsin",),
             grad={"input": lambda g, input: g * conjugate((1 - input * input).rsqrt())},
             samples=unary(-0.9, 0.9))  # fmt: skip
def asin(input: Tensor) -> Tensor:
    """The angle whose sine is given, in [-pi/2, pi/2]."""
    return np.arcsin(input)


@elementwise("float", "acos", inplace=True, out=True, aliases=("arccos",),
             grad={"input": lambda g, input: -g * conjugate((1 - input * input).rsqrt())},
             samples=unary(-0.9, 0.9))  # fmt: skip
def acos(input: Tensor) -> Tensor:
    """The angle whose cosine is given, in [0, pi]."""
    return np.arccos(input)


@elementwise("float", "atan", inplace=True, out=True, aliases=("arctan",),
             grad={"input": lambda g, input: g / conjugate(input * input + 1)}, samples=unary())  # fmt: skip
def atan(input: Tensor) -> Tensor:
    """The angle whose tangent is given, in (-pi/2, pi/2)."""
    return np.arctan(input)


@elementwise("float", "atan2", inplace=True, out=True, aliases=("arctan2",), infer=only("atan2", dt.BOOL, dt.FLOAT),
    grad={
        "input": lambda g, input, other: _atan2_grad(g * other, input, other),
        "other": lambda g, input, other: _atan2_grad(g * -input, input, other),
    },
    samples=binary(low=0.5, high=2.0, scalar=None))  # fmt: skip
def atan2(input: Tensor, other: Tensor) -> Tensor:
    """The angle of the point (other, input), in (-pi, pi]."""
    return np.arctan2(input, other)


def _atan2_grad(g: Tensor, input: Tensor, other: Tensor) -> Tensor:
    """0 where the squares are: at the origin, and where they vanish."""
    square = input * input + other * other
    zero = square == 0
    return zero.where(g.new_zeros(()), g / zero.where(1, square))


@elementwise("float", "sinh", inplace=True, out=True, grad={"input": lambda g, input: g * conjugate(input.cosh())},
             samples=unary())  # fmt: skip
def sinh(input: Tensor) -> Tensor:
    """The hyperbolic sine."""
    return np.sinh(input)


@elementwise("float", "cosh", inplace=True, out=True, grad={"input": lambda g, input: g * conjugate(input.sinh())},
             samples=unary())  # fmt: skip
def cosh(input: Tensor) -> Tensor:
    """The hyperbolic cosine."""
    return np.cosh(input)


@elementwise("float", "tanh", ufunc=np.tanh, native="f", inplace=True, out=True,
             grad={"input": lambda g, out: tanh_grad(g, conjugate(out))},
             quick={"input": lambda g, out: _tanh_slope(g, out)}, samples=unary())  # fmt: skip
def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return np.tanh(input)


# ---------------------------------------------------------------- the error function


def _erf(x: np.ndarray) -> np.ndarray:
    from ._special import erf as f

    return f(x)


@elementwise("float", "erf", infer=only("erf", dt.BOOL, dt.FLOAT), inplace=True, out=True, aliases=(),
             grad={"input": lambda g, input: g * ((input * input).neg().exp() * 1.1283791670955126)},
             samples=unary())  # fmt: skip
def erf(input: Tensor) -> Tensor:
    """The error function."""
    return _erf(input)


@elementwise("float", "erfc", infer=only("erfc", dt.BOOL, dt.FLOAT), inplace=True, out=True,
             grad={"input": lambda g, input: g * ((input * input).neg().exp() * -1.1283791670955126)},
             samples=unary())  # fmt: skip
def erfc(input: Tensor) -> Tensor:
    """1 - erf(input), precise for large inputs."""
    from ._special import erfc as f

    return f(input)
