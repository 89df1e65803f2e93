"""Powers and squares."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, describe
from ..tensor import Tensor
from .arithmetic import conjugate, elementwise
from .dispatch import expect_tensor
from .registry import REGISTRY, Op, Operand, composition
from .runners import elementwise_infer
from .samples import binary, unary


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
    ufunc=np.square, node="PowBackward0", promote="square", inplace=True, out=True, native="fiu",
    grad={"input": lambda g, input: g * (conjugate(input) * 2)}, quick={"input": lambda g, input: g * (input + input)},
    infer=lambda input: (input.shape, dt.int64 if input.dtype is dt.bool_ else input.dtype),
    body=lambda input: input * input if input.dtype is not dt.bool_ else input.to(dt.int64), samples=unary(),
)  # fmt: skip
def square(input: Tensor) -> Tensor:
    """input * input; bools count as integers."""
    return np.square(input if input.dtype != np.bool_ else input.astype(np.int64))
