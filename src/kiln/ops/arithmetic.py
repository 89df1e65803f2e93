"""Arithmetic: sums, products, signs and rounding, and what every elementwise op shares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, describe
from ..tensor import Tensor
from .dispatch import expect_tensor
from .half_floats import HALF, rounded
from .registry import REGISTRY, Operand, Sample, composition, op
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


def no_bool(name: str) -> Any:
    return only(name, dt.INT, dt.COMPLEX, KilnNotImplementedError)


# ---------------------------------------------------------------- sums and products


def _factor(name: str, alpha: Any, d: dt.dtype) -> Any:
    """A sum's factor as an element of the sum's dtype; a tensor stays one."""
    if isinstance(alpha, Tensor):
        return alpha
    for kind, least, fraction in (
        (float, dt.FLOAT, "floating point"),
        (complex, dt.COMPLEX, "complex"),
    ):
        if isinstance(alpha, kind) and d.category < least:
            raise KilnError(
                name, f"For {'integral' if kind is float else 'non-complex'} input tensors, argument alpha must not be a "
                f"{fraction} number.", f"alpha={alpha!r}, {d.name}", "convert the tensors first",
            )  # fmt: skip
    return dt.element(alpha, d, name)


def _weight(name: str, x: Any, alpha: Any) -> Any:
    return x.dtype.type(_factor(name, alpha, dt.OF_NUMPY[x.dtype]))


def _held(name: str, alpha: Any, input: Any, other: Any) -> Any:
    """A sum's factor: see Note [Numbers beside half floats]."""
    d = dt.result_type(input, other)
    alpha = _factor(name, alpha, d)
    return rounded(alpha, d) if d.np in HALF else alpha


def _scaled(x: Any, alpha: Any) -> Any:
    return x if not isinstance(alpha, Tensor) and alpha == 1 else x * alpha


@elementwise(
    ufunc=np.add, scalar="add", numbers=True, inplace=True, out=True,
    dunders=("__add__", "__radd__", "__iadd__"),
    grad={"input": lambda g: g, "other": lambda g, alpha: _scaled(g, alpha)},
    quick={"input": lambda g: g, "other": lambda g, alpha: _scaled(g, alpha)},
    body=lambda input, other, alpha: input + other * _held("add", alpha, input, other),
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
    dunders=("__sub__", "__rsub__", "__isub__"), reflected="RsubBackward1",
    grad={"input": lambda g: g, "other": lambda g, alpha: -g if alpha == 1 else g * -alpha},
    quick={"input": lambda g: g, "other": lambda g, alpha: -g if alpha == 1 else g * -alpha},
    body=lambda input, other, alpha: input - other * _held("sub", alpha, input, other),
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
    infer=lambda input: no_bool("neg")(input), samples=unary(),
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
    """The signs of float or complex numbers, which are the slopes of their magnitudes; of floats 0 at NaN."""
    return np.sign(x) if x.dtype.kind == "c" else np.subtract(x > 0, x < 0, dtype=x.dtype)


def _abs_samples() -> Iterator[Sample]:
    yield from unary(away=2.0)()
    yield Sample((np.array([True]),), error=NotImplementedError)


@elementwise(
    promote="real", ufunc=np.absolute, scalar="abs", inplace=True, out="same", native="fiu",
    aliases=("absolute",), dunders=("__abs__",), grad={"input": lambda g, input: g * input.sgn()},
    quick={"input": lambda g, input: g * _signs(input)}, infer=no_bool("abs"), check=True, samples=_abs_samples,
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
    if input.dtype.kind == "f":
        return _signs(input)
    return input if input.dtype.kind == "b" else np.sign(input)


@composition(out="beside", inplace=True, samples=unary(away=2.0))
def sgn(input: Tensor) -> Tensor:
    """The sign; of complex numbers input / |input|, 0 at 0."""
    expect_tensor("sgn", input)
    if not input.is_complex():
        return input.sign()
    r = input.abs()
    zero, one = r.new_zeros(()), r.new_ones(())
    return (r == 0).where(zero, input / (r == 0).where(one, r))


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
