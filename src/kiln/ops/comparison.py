"""Comparison, logic and bits: elementwise ops that test values."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, describe
from ..tensor import Tensor
from .arithmetic import elementwise, only
from .dispatch import expect_tensor
from .registry import REGISTRY, Operand, Sample, composition
from .runners import elementwise_infer
from .samples import binary, draw, rng, unary

# ---------------------------------------------------------------- comparison


def _pairs() -> Any:
    yield from binary(grad=False)()
    yield Sample((2, draw(rng(), (3,))), error=TypeError)
    yield Sample((2, 3), error=TypeError)


def _ordered_pairs() -> Any:
    yield from _pairs()
    z = np.array([1 + 2j])
    for pair in ((z, z), (z, 1.0), (z.real, 1j)):
        yield Sample(pair, error=NotImplementedError)


def comparison(scalar: str, ufunc: Any, **facts: Any) -> Any:
    """A comparison: promotes its operands, gives bool, has no gradient but in place, where that is zero."""
    return elementwise("bool", scalar, ufunc=ufunc, dunders=(f"__{scalar}__",), inplace="zero", out=True,
                       **{"samples": _pairs, **facts})  # fmt: skip


def ordering(scalar: str, ufunc: Any, alias: str) -> Any:
    """A comparison that complex numbers do not have."""
    return comparison(scalar, ufunc, infer=_unordered(scalar), samples=_ordered_pairs, aliases=(alias,))  # fmt: skip


def _unordered(name: str) -> Any:
    """The shape rule of a comparison that complex numbers do not have."""

    def infer(input: Any, other: Any) -> tuple:
        if dt.result_type(input, other).is_complex:
            raise KilnNotImplementedError(
                name, "complex numbers have no order", describe((input, other)),
                "compare x.abs(), or x.real and x.imag",
            )  # fmt: skip
        return elementwise_infer(REGISTRY[name])(input, other)

    return infer


def _ordered(ufunc: Any, input: Any, other: Any) -> Any:
    if input.dtype.kind == "c":
        raise TypeError("no order")
    return ufunc(input, other)


@comparison("eq", np.equal)
def eq(input: Tensor, other: Operand) -> Tensor:
    """Where input == other."""
    return np.equal(input, other)


@comparison("ne", np.not_equal, aliases=("not_equal",))
def ne(input: Tensor, other: Operand) -> Tensor:
    """Where input != other."""
    return np.not_equal(input, other)


@ordering("lt", np.less, "less")
def lt(input: Tensor, other: Operand) -> Tensor:
    """Where input < other."""
    return _ordered(np.less, input, other)


@ordering("le", np.less_equal, "less_equal")
def le(input: Tensor, other: Operand) -> Tensor:
    """Where input <= other."""
    return _ordered(np.less_equal, input, other)


@ordering("gt", np.greater, "greater")
def gt(input: Tensor, other: Operand) -> Tensor:
    """Where input > other."""
    return _ordered(np.greater, input, other)


@ordering("ge", np.greater_equal, "greater_equal")
def ge(input: Tensor, other: Operand) -> Tensor:
    """Where input >= other."""
    return _ordered(np.greater_equal, input, other)


@composition(method=True, samples=binary(grad=False, scalar=None))
def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Where |input - other| <= atol + rtol * |other|."""
    expect_tensor("isclose", input)
    expect_tensor("isclose", other)
    if input.dtype is not other.dtype:
        raise KilnError(
            "isclose", "both tensors must have the same dtype", (input.dtype, other.dtype), ""
        )
    for name, bound in (("rtol", rtol), ("atol", atol)):
        if bound < 0:
            raise KilnError(
                "isclose",
                f"{name} must be greater than or equal to zero, but got {bound}",
                f"{name}={bound}",
                "",
            )
    same = input == other
    if input.dtype.category < dt.FLOAT:
        input, other = input.double(), other.double()
    close = same | (
        ((input - other).abs() <= atol + rtol * other.abs()) & other.isfinite() & input.isfinite()
    )
    return close | (input.isnan() & other.isnan()) if equal_nan else close


# ---------------------------------------------------------------- kinds of value


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


# ---------------------------------------------------------------- logic


def _logic(name: str, fn: Any, doc: str) -> Any:
    def ref(input: Tensor, other: Tensor) -> Tensor:
        return fn(input != 0, other != 0)

    ref.__name__, ref.__doc__ = name, doc
    body = {
        "logical_and": lambda input, other: (input != 0) & (other != 0),
        "logical_or": lambda input, other: (input != 0) | (other != 0),
        "logical_xor": lambda input, other: (input != 0) ^ (other != 0),
    }[name]
    return elementwise(
        "bool", inplace=True, out=True, samples=binary(grad=False, scalar=None), body=body
    )(ref)


logical_and = _logic("logical_and", np.logical_and, "Where both are not zero.")
logical_or = _logic("logical_or", np.logical_or, "Where either is not zero.")
logical_xor = _logic("logical_xor", np.logical_xor, "Where exactly one is not zero.")


@elementwise("bool", inplace=True, out=True, body=lambda input: input == 0,
             samples=unary(grad=False))  # fmt: skip
def logical_not(input: Tensor) -> Tensor:
    """Where input is zero."""
    return np.logical_not(input)


# ---------------------------------------------------------------- bits


def _integral(name: str) -> Any:
    return only(name, dt.BOOL, dt.INT)


def _ints(scalar: Any = 3) -> Any:
    def samples() -> Any:
        r = rng(2)
        for s1, s2 in (((3, 4), (4,)), ((), ()), ((0,), (1,))):
            yield Sample((r.integers(0, 8, s1), r.integers(0, 8, s2)), grad=False)
        yield Sample((r.integers(0, 8, (3,)), scalar), grad=False)
        yield Sample((r.integers(0, 2, (3, 2)) > 0, r.integers(0, 2, (3, 2)) > 0), grad=False)
        yield Sample((draw(r, (3,)), draw(r, (3,))), error=RuntimeError)
        yield Sample((2, 3), error=TypeError)

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


@elementwise(scalar="not", ufunc=np.invert, native="iub", inplace=True, out="same", samples=_int_unary,
             dunders=("__invert__",), infer=_integral("bitwise_not"))  # fmt: skip
def bitwise_not(input: Tensor) -> Tensor:
    """Bitwise not of integers; logical not of bools."""
    return np.invert(input)


def _no_bools(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "b":
        raise TypeError("shifts of bools")
    return x


def _shifts() -> Any:
    r = rng(4)
    yield Sample((r.integers(0, 99, (3, 4)), r.integers(0, 5, (4,))), grad=False)
    yield Sample((r.integers(0, 99, (3,)), 2), grad=False)


@elementwise(scalar="shl", inplace=True, out=True, samples=_shifts, infer=only("bitwise_left_shift", dt.INT, dt.INT),
             dunders=("__lshift__", "__rlshift__", "__ilshift__"))  # fmt: skip
def bitwise_left_shift(input: Operand, other: Operand) -> Tensor:
    """input * 2**other on integers."""
    return np.left_shift(_no_bools(input), other)


@elementwise(scalar="shr", inplace=True, out=True, samples=_shifts, infer=only("bitwise_right_shift", dt.INT, dt.INT),
             dunders=("__rshift__", "__rrshift__", "__irshift__"))  # fmt: skip
def bitwise_right_shift(input: Operand, other: Operand) -> Tensor:
    """floor(input / 2**other) on integers."""
    return np.right_shift(_no_bools(input), other)
