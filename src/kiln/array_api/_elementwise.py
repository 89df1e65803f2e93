"""Elementwise functions and the operators that are made of them: tables, and what differs from PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import KilnTypeError, describe
from ..ops.indexing import assign
from ..ops.registry import FUNCTIONS
from ..ops.selection import where_op
from ..tensor import Tensor
from ._array import Array, array
from ._dtypes import (
    BITS,
    BOOL,
    COMPLEX,
    EVERY,
    FLOAT,
    FLOATING,
    INT,
    NUMERIC,
    REAL,
    Scalar,
    checked,
    common_dtype,
    operand,
    operands,
)


def _table(*rows: tuple[set[int], str]) -> dict[str, set[int]]:
    return {name: kinds for kinds, names in rows for name in names.split()}


# Which kinds of dtypes each function is defined for; the functions themselves are Kiln's.
UNARY = _table(
    (FLOATING, "acos acosh asin asinh atan atanh cos cosh exp expm1 log log1p log2 log10 reciprocal sin sinh sqrt tan tanh"),
    (NUMERIC, "abs conj isfinite isinf isnan negative positive real round sign square"),
    (REAL, "ceil floor trunc"), (FLOAT, "signbit"), (COMPLEX, "imag"), (BITS, "bitwise_invert"), (BOOL, "logical_not"),
)  # fmt: skip
BINARY = _table(
    (NUMERIC, "add subtract multiply pow"), (FLOATING, "divide"), (EVERY, "equal not_equal"),
    (REAL, "floor_divide remainder greater greater_equal less less_equal maximum minimum"),
    (FLOAT, "atan2 copysign hypot logaddexp nextafter"), (BITS, "bitwise_and bitwise_or bitwise_xor"),
    (INT, "bitwise_left_shift bitwise_right_shift"), (BOOL, "logical_and logical_or logical_xor"),
)  # fmt: skip
KILN_NAMES = {"bitwise_invert": "bitwise_not", "equal": "eq"}
"""What Kiln, after PyTorch, calls a function of the standard."""


def _sign(x: Tensor) -> Tensor:
    """NaN has no sign; PyTorch's sign of it is 0."""
    s = x.sgn()
    return where_op(x.isnan(), float("nan"), s) if x.is_floating_point() else s


def _floor_divide(a: Tensor, b: Tensor) -> Tensor:
    """The quotient rounded down; where one is infinite PyTorch's is Python's, which pairs with the remainder."""
    q = FUNCTIONS["floor_divide"](a, b)
    if not a.is_floating_point():
        return q
    return where_op(a.isinf() | b.isinf(), (a / b).floor(), q)


def _round(x: Tensor) -> Tensor:
    """Of complex numbers each part; PyTorch has none of them."""
    if not x.is_complex():
        return x.round()
    return FUNCTIONS["complex"](x.real.round(), x.imag.round())


def _tanh(x: Tensor) -> Tensor:
    """At an infinite real part the imaginary one is a zero of its own sign; PyTorch's has that of sin(2 imag)."""
    t = x.tanh()
    if not x.is_complex():
        return t
    at_infinity = x.real.isinf() & x.imag.isfinite()
    return where_op(at_infinity, FUNCTIONS["complex"](t.real, 0 * x.imag), t)


ADAPTED = {"sign": _sign, "floor_divide": _floor_divide, "round": _round, "tanh": _tanh}
"""What the standard defines otherwise than PyTorch does."""


def _unary(name: str, kinds: set[int], fn: Callable) -> Callable:
    def f(x: Tensor, /) -> Array:
        return array(fn(checked(name, kinds, x)), x)

    return f


def _binary(name: str, kinds: set[int], fn: Callable) -> Callable:
    def f(x1: Tensor | Scalar, x2: Tensor | Scalar, /) -> Array:
        a, b = operands(name, kinds, x1, x2)
        return array(fn(a, b), x1, x2)

    return f


def _named(name: str, f: Any, doc: str | None) -> Callable:
    f.__name__ = f.__qualname__ = name
    f.__module__, f.__doc__ = "kiln.array_api", doc
    return f


def _functions() -> dict[str, Callable]:
    out = {}
    for make, table in ((_unary, UNARY), (_binary, BINARY)):
        for name, kinds in table.items():
            fn = ADAPTED.get(name) or FUNCTIONS[KILN_NAMES.get(name, name)]
            out[name] = _named(name, make(name, kinds, fn), fn.__doc__)
    return out


ELEMENTWISE = _functions()


def clip(x: Tensor, /, min: Any = None, max: Any = None) -> Array:
    """Each element moved into [min, max], arrays or numbers that broadcast; dtype of x."""
    checked("clip", REAL, x)
    bounds = [b for b in (min, max) if b is not None]
    if any(common_dtype("clip", x, b) is not x.dtype for b in bounds):
        raise KilnTypeError("clip", "bounds must promote to the dtype of x", describe((x, min, max)), "astype(bound, x.dtype)")  # fmt: skip
    lo, hi = (None if b is None else operand(b, x.dtype) for b in (min, max))
    return array(FUNCTIONS["clamp"](x, lo, hi) if bounds else x.clone(), x)


# ---------------------------------------------------------------- operators


def _operator(stem: str, fn: Callable, prepare: Callable) -> tuple[Callable, Callable, Callable]:
    """`x + y`, `y + x` for a y that is no array, and `x += y`; `prepare` gives operands of a common dtype.

    Where the standard defines no result they are PyTorch's, so that Arrays work in programs written for tensors.
    """
    plain = {p: getattr(Tensor, f"__{p}{stem}__", None) for p in ("", "r", "i")}

    def forward(self: Array, other: Any, /) -> Any:
        try:
            a, b = prepare(self, other)
        except KilnTypeError:
            r = plain[""](self, other)  # type: ignore[misc]
            return array(r, self, other) if isinstance(r, Tensor) else r
        return fn(a, b)

    def reflected(self: Array, other: Any, /) -> Any:
        try:
            a, b = prepare(other, self)
        except KilnTypeError:
            r = plain["r"](self, other) if plain["r"] else NotImplemented
            return array(r, self, other) if isinstance(r, Tensor) else r
        return fn(a, b)

    def inplace(self: Array, other: Any, /) -> Any:
        try:
            a, _ = prepare(self, other)
        except KilnTypeError:
            return plain["i"](self, other) if plain["i"] else NotImplemented
        if a is not self:
            raise KilnTypeError(
                f"__i{stem}__", f"an array of {self.dtype.name} can't hold the result of dtype {a.dtype.name}",
                describe((self, other)), "convert the other operand first: astype(y, x.dtype)",
            )  # fmt: skip
        return assign(self, fn, other)

    return forward, reflected, inplace


def bind_operators(stem: str, fn: Callable, kinds: set[int]) -> None:
    """Give the Array the operator that a function is, with its reflected and in-place forms."""
    forms = _operator(stem, fn, lambda a, b: operands(fn.__name__, kinds, a, b))
    names = (
        [f"__{stem}__"]
        if fn.__name__ in COMPARISONS
        else [f"__{p}{stem}__" for p in ("", "r", "i")]
    )
    for name, f in zip(names, forms, strict=False):
        setattr(Array, name, _named(name, f, fn.__doc__))


OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "pow", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
    "lshift": "bitwise_left_shift", "rshift": "bitwise_right_shift", "eq": "equal", "ne": "not_equal",
    "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
}  # fmt: skip
COMPARISONS = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")
SIGNS = {"neg": "negative", "pos": "positive", "abs": "abs", "invert": "bitwise_invert"}

for _stem, _name in OPERATORS.items():
    bind_operators(_stem, ELEMENTWISE[_name], BINARY[_name])
for _stem, _name in SIGNS.items():
    setattr(Array, f"__{_stem}__", ELEMENTWISE[_name])
Array.__hash__ = Tensor.__hash__
