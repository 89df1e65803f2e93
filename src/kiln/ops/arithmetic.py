"""Arithmetic: sums, products, powers, signs and rounding, and what every elementwise op shares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, describe
from ..shape import broadcast_shapes
from ..tensor import Tensor
from .derive import OPERANDS
from .dispatch import expect_tensor
from .half_floats import rounded
from .registry import REGISTRY, Op, Operand, Sample, composition, op
from .rules import not_differentiable
from .runners import elementwise_infer
from .samples import binary, draw, rng, unary

# Note [Scalar expressions]
# `scalar` names the primitive with which a compiled loop computes the op. An op without one has a
# `body` in terms of ops that have; where neither exists, compiled programs call the reference.


def elementwise(promote: str = "same", scalar: str | None = None, **facts: Any) -> Any:
    """An op that maps elements; `promote`: "same", "float" (ints compute as floats), "bool", "real"."""
    facts.setdefault("check", False)
    return op(family="elementwise", promote=promote, scalar=scalar, **facts)


def conjugate(x: Any) -> Any:
    """The complex conjugate, as gradient rules need it; real tensors and numbers as they are."""
    if isinstance(x, complex):
        return x.conjugate()
    return x.conj() if isinstance(x, Tensor) and x._a.dtype.kind == "c" else x


def only(name: str, low: int, high: int, kind: type[KilnError] = KilnNotImplementedError) -> Any:
    """The shape rule of an elementwise op that is defined for some categories of dtypes, `low` to `high`."""

    def infer(*args: Any) -> tuple:
        shape, d = elementwise_infer(REGISTRY[name])(*args)
        if not low <= d.category <= high:
            raise kind(
                name, f"not defined for {d.name} tensors", describe(args), "convert them first"
            )
        return shape, d

    return infer


def _no_bool(name: str) -> Any:
    return only(name, dt.INT, dt.COMPLEX, KilnNotImplementedError)


# ---------------------------------------------------------------- sums and products


def _weight(name: str, x: Any, alpha: Any) -> Any:
    return x.dtype.type(dt.element(alpha, dt.OF_NUMPY[x.dtype], name))


def _held(alpha: Any, input: Any, other: Any) -> Any:
    """A sum's factor: see Note [Numbers beside half floats]."""
    d = dt.result_type(input, other)
    return rounded(alpha, d) if d in (dt.float16, dt.bfloat16) else alpha


def _scaled(x: Any, alpha: Any) -> Any:
    return x if not isinstance(alpha, Tensor) and alpha == 1 else x * alpha


@elementwise(
    ufunc=np.add, scalar="add", numbers=True, inplace=True, out=True,
    dunders=("__add__", "__radd__", "__iadd__"),
    grad={"input": lambda g: g, "other": lambda g, alpha: _scaled(g, alpha)},
    quick={"input": lambda g: g, "other": lambda g, alpha: _scaled(g, alpha)},
    body=lambda input, other, alpha: input + other * _held(alpha, input, other),
    samples=binary(kwargs=({}, {"alpha": 2.5})),
)  # fmt: skip
def add(input: Operand, other: Operand, *, alpha: Any = 1) -> Tensor:
    """input + alpha * other, broadcast. Dtypes promote; bool adds as logical or."""
    return np.add(input, other if alpha == 1 else other * _weight("add", other, alpha))


def _sub_infer(input: Any, other: Any, alpha: Any) -> tuple:
    for x in (input, other):
        if isinstance(x, bool) or getattr(x, "dtype", None) is dt.bool_:
            raise KilnError(
                "sub", "subtraction with a bool tensor is not supported", describe((input, other)),
                "invert a mask with ~ or logical_not(), or convert it first",
            )  # fmt: skip
    return elementwise_infer(REGISTRY["sub"])(input, other, alpha)


def _sub_samples() -> Iterator[Sample]:
    yield from binary(kwargs=({}, {"alpha": 2.5}))()
    x, mask = draw(rng(), (3,)), np.array([True, False, True])
    for pair in ((x, mask), (mask, x), (mask, mask), (x, True), (mask, 1), (mask, 1.5)):
        yield Sample(pair, error=RuntimeError)


@elementwise(
    ufunc=np.subtract, scalar="sub", numbers=True, inplace=True, out=True, aliases=("subtract",), native="fiu",
    dunders=("__sub__", "__rsub__", "__isub__"),
    grad={"input": lambda g: g, "other": lambda g, alpha: -g if alpha == 1 else g * -alpha},
    quick={"input": lambda g: g, "other": lambda g, alpha: -g if alpha == 1 else g * -alpha},
    body=lambda input, other, alpha: input - other * _held(alpha, input, other),
    infer=_sub_infer, check=True, samples=_sub_samples,
)  # fmt: skip
def sub(input: Operand, other: Operand, *, alpha: Any = 1) -> Tensor:
    """input - alpha * other, broadcast. Not defined where either is bool."""
    return np.subtract(input, other if alpha == 1 else other * _weight("sub", other, alpha))


@composition(method=True, samples=binary())
def rsub(input: Tensor, other: Operand, *, alpha: Any = 1) -> Tensor:
    """other - alpha * input."""
    expect_tensor("rsub", input)
    return sub(other, input, alpha=alpha)


@elementwise(
    ufunc=np.multiply, scalar="mul", numbers=True, inplace=True, out=True, aliases=("multiply",),
    dunders=("__mul__", "__rmul__", "__imul__"), wide_numbers=True,
    grad={"input": lambda g, other: g * conjugate(other), "other": lambda g, input: g * conjugate(input)},
    quick={"input": lambda g, other: g * other, "other": lambda g, input: g * input},
    samples=binary(),
)  # fmt: skip
def mul(input: Operand, other: Operand) -> Tensor:
    """input * other, broadcast. Dtypes promote; bool multiplies as logical and."""
    return np.multiply(input, other)


def _div_grad_other(g: Tensor, input: Any, other: Any, rounding_mode: str | None) -> Any:
    return None if rounding_mode else -g * conjugate(input / other / other)


def _div_infer(input: Any, other: Any, rounding_mode: str | None = None) -> tuple:
    if rounding_mode not in (None, "trunc", "floor"):
        raise KilnError(
            "div", "rounding_mode must be None, 'trunc' or 'floor'", repr(rounding_mode), ""
        )
    if rounding_mode is not None:
        return _no_bool("div")(input, other)
    shape = broadcast_shapes(*[getattr(x, "shape", ()) for x in (input, other)], op="div")
    d = dt.result_type(input, other)
    if d.category < dt.FLOAT:
        d = dt.get_default_dtype()
    return shape, d


def _check_divisor(name: str, other: np.ndarray) -> None:
    """Refuse an integer 0 to divide by, and bools (with a TypeError that the shape rule explains)."""
    if other.dtype.kind == "b":
        raise TypeError("bool")
    if other.dtype.kind in "iu" and np.any(other == 0):
        raise KilnError(
            name, "integer division by zero", "a divisor of 0", "mask the zeros or use floats"
        )


def _integer_division(input: np.ndarray, other: np.ndarray, mode: str) -> np.ndarray:
    _check_divisor("div", other)
    q = np.floor_divide(input, other)
    if mode == "trunc":
        q = q + ((input % other != 0) & ((input < 0) != (other < 0)))
    return q


def _div_body(input: Any, other: Any, rounding_mode: str | None) -> Tensor:
    d = dt.result_type(input, other)
    if rounding_mode == "trunc" and d.category >= dt.FLOAT:
        if d in (dt.bfloat16, dt.float16):  # whose quotient is rounded before it is cut off
            wide = (x.float() if isinstance(x, Tensor) else x for x in (input, other))
            return (next(wide) / next(wide)).to(d).float().trunc().to(d)
        return (input / other).trunc()
    q = floor_divide(input, other)
    if rounding_mode == "floor":
        return q
    return q + ((input - q * other != 0) & ((input < 0) != (other < 0)))


def _div_samples() -> Any:
    modes = ({}, {"rounding_mode": "floor"}, {"rounding_mode": "trunc"})
    yield from binary(low2=0.5, high2=2.0, kwargs=modes)()
    for kw in modes:
        yield Sample((np.array([7, -7, 6, 0]), np.array([2, 2, -3, -5])), kw, grad=False)
        yield Sample((np.array([7, -7]), 2), kw, grad=False)


@elementwise(
    ufunc=np.true_divide, scalar="div", numbers=True, inplace=True, out=True, aliases=("divide",), native="f",
    promote="div", dunders=("__truediv__", "__itruediv__"), wide_numbers=True,
    grad={
        "input": lambda g, other, rounding_mode: None if rounding_mode else g / conjugate(other),
        "other": _div_grad_other,
    },
    quick={
        "input": lambda g, other, rounding_mode: None if rounding_mode else g / other,
        "other": lambda g, input, other, rounding_mode: None
        if rounding_mode
        else -g * (input / other / other),
    },
    body=_div_body, infer=_div_infer, samples=_div_samples,
)  # fmt: skip
def div(input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Tensor:
    """input / other; integers divide as floats unless `rounding_mode` is "floor" or "trunc"."""
    if rounding_mode is None:
        return np.true_divide(input, other)
    if input.dtype.kind in "iub":
        return _integer_division(input, other, rounding_mode)
    if rounding_mode == "floor":
        return np.where(other == 0, np.true_divide(input, other), np.floor_divide(input, other))
    return np.trunc(np.true_divide(input, other))


@composition(out="cast", inplace=True, samples=binary(low2=0.5), method=True)
def true_divide(input: Tensor, other: Operand) -> Tensor:
    """input / other as floats."""
    return input / other


@elementwise(out=True,
    scalar="floordiv", numbers=True, wide_numbers=True, inplace=True, dunders=("__floordiv__", "__rfloordiv__", "__ifloordiv__"),
    infer=only("floor_divide", dt.INT, dt.FLOAT), grad={("input", "other"): not_differentiable("floor_divide")},
    samples=binary(low2=0.5, grad=False),
)  # fmt: skip
def floor_divide(input: Operand, other: Operand) -> Tensor:
    """floor(input / other) in the promoted dtype. No gradient."""
    if input.dtype.kind in "iub":
        return _integer_division(input, other, "floor")
    return np.where(other == 0, np.true_divide(input, other), np.floor_divide(input, other))


@elementwise(
    scalar="rem", inplace=True, out=True, dunders=("__mod__", "__rmod__", "__imod__"),
    infer=only("remainder", dt.INT, dt.FLOAT),
    grad={"input": lambda g: g, "other": lambda g, input, other: -g * div(input, other, rounding_mode="floor")},
    samples=binary(low2=0.7, high2=0.9, low=-0.6, high=0.6, away=0.4),
)  # fmt: skip
def remainder(input: Operand, other: Operand) -> Tensor:
    """input - other * floor(input / other): the sign follows `other`, of zero too (the Array API standard)."""
    _check_divisor("remainder", other)
    return np.remainder(input, other)


@elementwise(
    scalar="fmod", inplace=True, out=True, infer=only("fmod", dt.INT, dt.FLOAT),
    grad={"input": lambda g: g, "other": lambda g, input, other: -g * (input / other).trunc()},
    samples=binary(low2=0.7, high2=0.9, low=-0.6, high=0.6, away=0.4),
)  # fmt: skip
def fmod(input: Tensor, other: Operand) -> Tensor:
    """input - other * trunc(input / other): the sign follows `input`."""
    _check_divisor("fmod", other)
    return np.fmod(input, other)


@elementwise(promote="float", scalar="reciprocal", inplace=True, out=True,
             grad={"input": lambda g, out: -g * conjugate(out * out)}, samples=unary(0.5, 2.0))  # fmt: skip
def reciprocal(input: Tensor) -> Tensor:
    """1 / input."""
    return np.true_divide(input.dtype.type(1), input)


def _number_over(self: Tensor, other: Any) -> Any:
    """other / self: as in PyTorch a product with 1 / self, which is kept, so that self may be written to."""
    if not isinstance(other, OPERANDS):
        return NotImplemented
    inverse = reciprocal(self)
    return inverse if other.__class__ in (int, float) and other == 1 else inverse * other


Tensor.__rtruediv__ = _number_over  # type: ignore[attr-defined]


def _lerp(input: Any, end: Any, weight: Any) -> Any:
    """From the end that is nearer, as PyTorch does: a weight of 1 gives `end` to the bit."""
    step, near = end - input, weight.__abs__() < 0.5
    if isinstance(weight, Tensor):
        return (input + step * weight).where(near, end - step * (1 - weight))
    if not np.ndim(weight):
        return input + step * weight if near else end - step * (1 - weight)
    return np.where(near, input + step * weight, end - step * (1 - weight))


@elementwise(scalar="lerp", inplace=True, out=True, wide_numbers=True,
    grad={
        "input": lambda g, weight: g * conjugate(1 - weight),
        "end": lambda g, weight: g * conjugate(weight),
        "weight": lambda g, input, end: g * conjugate(end - input),
    },
    body=_lerp,
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)), 0.3)),
        Sample((draw(rng(), (3, 1)), draw(rng(1), (1, 4)), draw(rng(2), (3, 4)))),
        Sample((draw(rng(), ()), draw(rng(1), ()), 0.7)),
        Sample((draw(rng(), (0,)), draw(rng(1), (0,)), 0.7)),
        Sample((draw(rng(), (3,)) + 1j, draw(rng(1), (3,)) - 2j, draw(rng(2), (3,)) + 3j)),
        Sample((draw(rng(), (3,)), draw(rng(1), (4,)), 0.7), error=RuntimeError),
    ]))  # fmt: skip
def lerp(input: Tensor, end: Tensor, weight: Operand) -> Tensor:
    """input + weight * (end - input)."""
    return _lerp(input, end, weight)


def _addcmul(input: Any, tensor1: Any, tensor2: Any, value: Any) -> Any:
    product = tensor1 * tensor2
    kind = input.dtype.kind if isinstance(input, np.ndarray) else _KINDS.get(product.dtype.category)
    return input + _scaled(product, int(value) if kind in ("i", "u", "b") else value)


_KINDS = {dt.BOOL: "b", dt.INT: "i"}


@elementwise(
    factor="value", wide_numbers=True, inplace=True, out=True, body=_addcmul,
    grad={
        "input": lambda g: g,
        "tensor1": lambda g, tensor2, value: _scaled(g * conjugate(tensor2), conjugate(value)),
        "tensor2": lambda g, tensor1, value: _scaled(g * conjugate(tensor1), conjugate(value)),
    },
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)), draw(rng(2), (3, 1))), {"value": 0.5}),
        Sample((draw(rng(), ()), draw(rng(1), ()), draw(rng(2), ()))),
        Sample((draw(rng(), (3,)) * 1j, draw(rng(1), (3,)) + 1j, draw(rng(2), (3,)) - 2j), {"value": 0.5 + 1j}),
        Sample((np.arange(3), np.arange(3), np.arange(3)), {"value": 2}, grad=False),
        Sample((draw(rng(), (3,)), draw(rng(1), (4,)), draw(rng(2), (3,))), error=RuntimeError),
    ]))  # fmt: skip
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """input + value * tensor1 * tensor2."""
    return _addcmul(input, tensor1, tensor2, value)


def _addcdiv_infer(input: Any, tensor1: Any, tensor2: Any, value: Any = 1) -> tuple:
    if tensor1.dtype.category < dt.FLOAT and tensor2.dtype.category < dt.FLOAT:
        raise KilnError(
            "addcdiv", "integer division with addcdiv is not supported",
            describe((tensor1, tensor2)), "divide first: input + value * (tensor1 / tensor2)",
        )  # fmt: skip
    return elementwise_infer(REGISTRY["addcdiv"])(input, tensor1, tensor2)


@elementwise(
    factor="value", wide_numbers=True, inplace=True, out=True, check=True, infer=_addcdiv_infer,
    body=lambda input, tensor1, tensor2, value: input + _scaled(tensor1 / tensor2, value),
    grad={
        "input": lambda g: g,
        "tensor1": lambda g, tensor2, value: _scaled(g / conjugate(tensor2), conjugate(value)),
        "tensor2": lambda g, tensor1, tensor2, value: _scaled(
            -g * conjugate(tensor1 / (tensor2 * tensor2)), conjugate(value)
        ),
    },
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)), draw(rng(2), (3, 1), 0.5, 2)), {"value": 0.5}),
        Sample((np.ones(3), np.arange(3), np.arange(3)), error=RuntimeError),
    ]))  # fmt: skip
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    """input + value * tensor1 / tensor2; the quotient of integers is refused."""
    return input + _scaled(tensor1 / tensor2, value)


# ---------------------------------------------------------------- signs


@elementwise(
    ufunc=np.negative, scalar="neg", inplace=True, out="same", aliases=("negative",), native="fiu",
    dunders=("__neg__",), grad={"input": lambda g: -g}, quick={"input": lambda g: -g},
    infer=lambda input: _no_bool("neg")(input), samples=unary(),
)  # fmt: skip
def neg(input: Tensor) -> Tensor:
    """-input. Not defined for bool."""
    return np.negative(input)


@composition(samples=unary())
def positive(input: Tensor) -> Tensor:
    """input itself. Not defined for bool."""
    expect_tensor("positive", input)
    if input.dtype is dt.bool_:
        raise KilnError("positive", "not defined for bool tensors", input, "convert it first")
    return input


Tensor.__pos__ = positive  # type: ignore[attr-defined]


def _signs(x: np.ndarray) -> np.ndarray:
    """The slope of the magnitude of float or complex numbers: 0 at NaN, as `sgn` has it."""
    return np.sign(x) if x.dtype.kind == "c" else np.subtract(x > 0, x < 0, dtype=x.dtype)


def _abs_samples() -> Iterator[Sample]:
    yield from unary(away=2.0)()
    yield Sample((np.array([True]),), error=NotImplementedError)


@elementwise(
    promote="real", ufunc=np.absolute, scalar="abs", inplace=True, out="same", native="fiu",
    aliases=("absolute",), dunders=("__abs__",), grad={"input": lambda g, input: g * input.sgn()},
    quick={"input": lambda g, input: g * _signs(input)}, infer=_no_bool("abs"), check=True, samples=_abs_samples,
)  # fmt: skip
def abs(input: Tensor) -> Tensor:
    """The absolute value; of complex numbers the magnitude, as a real tensor. Not defined for bool."""
    return np.absolute(input)


@elementwise(scalar="sign", inplace=True, out="same", grad={"input": lambda g: g.new_zeros(g.shape)},
             samples=unary(away=2.0))  # fmt: skip
def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1 by the sign of each element."""
    if input.dtype.kind == "c":
        raise KilnNotImplementedError(
            "sign", "not defined for complex tensors", str(input.dtype), "use sgn"
        )
    return np.where(np.isnan(input), 0, np.sign(input)) if input.dtype.kind == "f" else (
        input if input.dtype.kind == "b" else np.sign(input)
    )  # fmt: skip


@composition(out="beside", inplace=True, samples=unary(away=2.0))
def sgn(input: Tensor) -> Tensor:
    """The sign; of complex numbers input / |input|, 0 at 0."""
    expect_tensor("sgn", input)
    if not input.is_complex():
        return input.sign()
    r = input.abs()
    zero, one = r.new_zeros(()), r.new_ones(())
    return (r == 0).where(zero, input / (r == 0).where(one, r))


# ---------------------------------------------------------------- powers


def _pow_grad_base(g: Tensor, input: Any, exponent: Any) -> Any:
    if not isinstance(exponent, Tensor):
        if exponent == 0:
            return g.new_zeros(g.shape)
        if exponent == 2:
            return g * (conjugate(input) * 2)
        return g * conjugate(input ** (exponent - 1) * exponent)
    return (exponent == 0).where(g.new_zeros(()), g * conjugate(exponent * input ** (exponent - 1)))


def _quick_pow_base(g: np.ndarray, input: Any, exponent: Any) -> np.ndarray:
    if exponent.__class__ is np.ndarray:
        d = g * (exponent * pow_op.reference(input, exponent - 1))
        return np.where(exponent == 0, g.dtype.type(0), d)
    if exponent == 0:
        return np.zeros_like(g)
    if exponent == 2:
        return g * (input + input)
    return g * (pow_op.reference(input, exponent - 1) * exponent)


def _pow_grad_exponent(g: Tensor, input: Any, exponent: Tensor, out: Tensor) -> Any:
    if isinstance(input, Tensor):
        zero = (input == 0) & ((exponent.real if exponent.is_complex() else exponent) >= 0)
        log = zero.where(out.new_ones(()), input).log()  # -inf at 0 to a negative power
        return zero.where(g.new_zeros(()), g * conjugate(out * log))
    if input == 0:
        return (exponent == 0).where(g.new_zeros(()), g * 0)
    log = complex(np.log(input)) if isinstance(input, complex) else float(np.log(input))
    return g * conjugate(out * log)


def _short_pow(input: np.ndarray, exponent: Any) -> Any:
    if exponent.__class__ is not np.ndarray and (exponent == 2 or exponent == 3):
        return pow_op.reference(input, exponent)
    return pow_op.eager(input, exponent)


def _pow_infer(input: Any, exponent: Any) -> tuple:
    shape, d = elementwise_infer(REGISTRY["pow"])(input, exponent)
    if d is dt.bool_:
        raise KilnNotImplementedError(
            "pow", "not defined for bool tensors", describe((input, exponent)), "x.int()"
        )
    if d.category == dt.INT and not hasattr(exponent, "shape"):
        if exponent < 0:
            raise _inverse_power()
        dt.element(exponent, d, "pow")
    return shape, d


def _inverse_power() -> KilnError:
    return KilnError(
        "pow", "integers to negative integer powers are not allowed", "a negative exponent",
        "use a floating base: x.float() ** y",
    )  # fmt: skip


def _pow_node(node: Any) -> str:
    base, exponent = (isinstance(x, int | float | complex) for x in node.args)
    return f"PowBackward{0 if exponent else 2 if base else 1}"


@elementwise(
    node=("PowBackward0", _pow_node), scalar="pow", inplace=True, out=True, dunders=("__pow__", "__rpow__", "__ipow__"), infer=_pow_infer,
    short=_short_pow, native="fiu",
    grad={"input": _pow_grad_base, "exponent": _pow_grad_exponent}, quick={"input": _quick_pow_base},
    samples=binary(low=0.4, high=2.0, low2=-1.5, high2=2.5, scalar=2),
)  # fmt: skip
def pow(input: Operand, exponent: Operand) -> Tensor:
    """input to the power of exponent. Integer bases need exponents that are not negative."""
    if input.dtype.kind not in "iu" or not np.any(exponent < 0):
        if input.dtype.kind == "b":
            raise TypeError("powers of bools")
        if not isinstance(exponent, np.ndarray) and exponent == -0.5:
            return 1 / np.sqrt(input)  # as PyTorch does, and as NumPy takes roots for 0.5
        if getattr(exponent, "ndim", 0) == 0 and (exponent == 2 or exponent == 3):
            square = np.square(input)
            return square if exponent == 2 else square * input
        return np.power(input, exponent)
    if not isinstance(exponent, np.ndarray):
        raise _inverse_power()
    parity = np.where(exponent % 2, input, 1)  # 1 / x**n is an integer only where |x| is 1
    return np.where(
        exponent < 0,
        np.where(np.abs(input) == 1, parity, 0),
        np.power(input, np.maximum(exponent, 0)),
    )


pow_op: Op = pow.op  # type: ignore[attr-defined]


@composition(out=True, samples=binary(low=0.4, high=2.0))
def float_power(input: Operand, exponent: Operand) -> Tensor:
    """input ** exponent in float64, or complex128."""
    if not isinstance(input, Tensor) and not isinstance(exponent, Tensor):
        expect_tensor("float_power", input)
    wide = dt.complex128 if dt.result_type(input, exponent).is_complex else dt.float64

    def up(x: Any) -> Any:
        return x.to(wide) if isinstance(x, Tensor) else x

    return up(input) ** up(exponent)


@elementwise(
    ufunc=np.square, promote="square", inplace=True, out=True, native="fiu",
    grad={"input": lambda g, input: g * (conjugate(input) * 2)}, quick={"input": lambda g, input: g * (input + input)},
    infer=lambda input: (input.shape, dt.int64 if input.dtype is dt.bool_ else input.dtype),
    body=lambda input: input * input if input.dtype is not dt.bool_ else input.to(dt.int64), samples=unary(),
)  # fmt: skip
def square(input: Tensor) -> Tensor:
    """input * input; bools count as integers."""
    return np.square(input if input.dtype != np.bool_ else input.astype(np.int64))


# ---------------------------------------------------------------- rounding


def _flat_grad(g: Tensor) -> Tensor:
    return g.new_zeros(g.shape)


def _rounder(fn: Any) -> Any:
    """Integers are whole; a bool or complex number is refused by the op's rule."""

    def run(x: np.ndarray) -> np.ndarray:
        if x.dtype.kind in "bc":
            raise TypeError("not defined")
        return x if x.dtype.kind in "iu" else fn(x)

    return run


def _round_samples() -> Iterator[Sample]:
    yield from unary(away=1.0)()
    yield Sample((np.array([True]),), error=NotImplementedError)
    yield Sample((np.array([1 + 2j]),), error=NotImplementedError)


def _reals(name: str) -> Any:
    return only(name, dt.INT, dt.FLOAT, KilnNotImplementedError)


@elementwise(scalar="floor", inplace=True, out="same", grad={"input": _flat_grad},
             infer=_reals("floor"), samples=_round_samples)  # fmt: skip
def floor(input: Tensor) -> Tensor:
    """The largest integer not above each element."""
    return _rounder(np.floor)(input)


@elementwise(scalar="ceil", inplace=True, out="same", grad={"input": _flat_grad},
             infer=_reals("ceil"), samples=_round_samples)  # fmt: skip
def ceil(input: Tensor) -> Tensor:
    """The smallest integer not below each element."""
    return _rounder(np.ceil)(input)


@elementwise(scalar="trunc", inplace=True, out="same", aliases=("fix",), grad={"input": _flat_grad},
             infer=_reals("trunc"), samples=_round_samples)  # fmt: skip
def trunc(input: Tensor) -> Tensor:
    """Each element without its fraction."""
    return _rounder(np.trunc)(input)


def _decimal_samples() -> Iterator[Sample]:
    yield from unary(away=0.5)()
    yield Sample((np.array([True]),), error=NotImplementedError)
    yield Sample((np.array([1 + 2j]),), error=NotImplementedError)


@elementwise(scalar="round", inplace=True, out="same", grad={"input": _flat_grad},
             body=lambda input, decimals: (input * 10**decimals).round() / 10**decimals,
             infer=lambda input, decimals=0: _reals("round")(input), samples=_decimal_samples)  # fmt: skip
def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """The nearest integer, halves to even; or to `decimals` places."""
    if input.dtype.kind != "f":
        return _rounder(np.rint)(input)
    return np.rint(input) if decimals == 0 else np.rint(input * 10.0**decimals) / 10.0**decimals


@elementwise(inplace=True, out="same", grad={"input": lambda g: g}, infer=only("frac", dt.FLOAT, dt.FLOAT), check=True, samples=unary(away=1.0),
             body=lambda input: input - input.trunc())  # fmt: skip
def frac(input: Tensor) -> Tensor:
    """The fraction of each element, with its sign."""
    return input - np.trunc(input)
