"""Division: quotients, remainders and reciprocals."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError
from ..shape import broadcast_shapes
from ..tensor import Tensor
from .arithmetic import conjugate, elementwise, no_bool, only
from .derive import OPERANDS
from .registry import Operand, Sample, composition
from .rules import not_differentiable
from .samples import binary, unary


def _div_grad_other(g: Tensor, input: Any, other: Any, rounding_mode: str | None) -> Any:
    return None if rounding_mode else -g * conjugate(input / other / other)


def _div_infer(input: Any, other: Any, rounding_mode: str | None = None) -> tuple:
    if rounding_mode not in (None, "trunc", "floor"):
        raise KilnError(
            "div", "rounding_mode must be None, 'trunc' or 'floor'", repr(rounding_mode), ""
        )
    if rounding_mode is not None:
        return no_bool("div")(input, other)
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
