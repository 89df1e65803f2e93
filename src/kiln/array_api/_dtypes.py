"""Kinds of dtypes and the standard's promotion: within a kind only, whatever the shapes are.

https://data-apis.org/array-api/2025.12/API_specification/type_promotion.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import dtypes as dt
from ..device import as_device
from ..errors import KilnTypeError, KilnValueError, describe
from ..ops.creation import full_op
from ..tensor import Tensor
from ._array import Array, array

Scalar = bool | int | float | complex
BOOL, INT, FLOAT, COMPLEX = {dt.BOOL}, {dt.INT}, {dt.FLOAT}, {dt.COMPLEX}
REAL, FLOATING, NUMERIC = INT | FLOAT, FLOAT | COMPLEX, INT | FLOAT | COMPLEX
BITS, EVERY = BOOL | INT, BOOL | NUMERIC

_NAMES = {dt.BOOL: "bool", dt.INT: "integer", dt.FLOAT: "real floating", dt.COMPLEX: "complex"}
_KINDS = {
    "bool": lambda d: d.category == dt.BOOL,
    "signed integer": lambda d: d.category == dt.INT and d.is_signed,
    "unsigned integer": lambda d: d.category == dt.INT and not d.is_signed,
    "integral": lambda d: d.category == dt.INT,
    "real floating": lambda d: d.category == dt.FLOAT,
    "complex floating": lambda d: d.category == dt.COMPLEX,
    "numeric": lambda d: d.category != dt.BOOL,
}


def _promote(a: dt.dtype, b: dt.dtype, name: str) -> dt.dtype:
    if a.category != b.category and not {a.category, b.category} <= FLOATING:
        raise KilnTypeError(
            name, f"the standard has no promotion between {a.name} and {b.name}",
            f"{a.name}, {b.name}", "convert one of them first: astype(x, dtype)",
        )  # fmt: skip
    return dt.promote_types(a, b)


def _with_scalar(d: dt.dtype, x: Scalar, name: str) -> dt.dtype:
    """The dtype of an array of dtype `d` with a Python number, which must be of its kind or one below."""
    kind = dt.of_scalar(x).category
    if kind == dt.COMPLEX and d.category == dt.FLOAT:
        return d.to_complex()
    if kind > d.category or (kind == dt.BOOL) is not (d.category == dt.BOOL):
        raise KilnTypeError(
            name, f"a Python {type(x).__name__} does not combine with an array of dtype {d.name}",
            describe(x), "convert the array first: astype(x, dtype)",
        )  # fmt: skip
    return d


def common_dtype(name: str, *xs: Any) -> dt.dtype:
    """The promoted dtype of arrays, dtypes and Python numbers, of which one is not a number."""
    out: dt.dtype | None = None
    for x in xs:
        if isinstance(x, Tensor | dt.dtype):
            d = x.dtype if isinstance(x, Tensor) else x
            out = d if out is None else _promote(out, d, name)
        elif not isinstance(x, Scalar):
            raise KilnTypeError(
                name, f"expected an array or a Python number, not {type(x).__name__}", describe(x),
                "make an array first: asarray(x)",
            )  # fmt: skip
    if out is None:
        raise KilnTypeError(name, "at least one argument must be an array", describe(xs), "")
    for x in xs:
        if not isinstance(x, Tensor | dt.dtype):
            out = _with_scalar(out, x, name)
    return out


def operand(x: Any, d: dt.dtype) -> Tensor:
    """An array or Python number as a tensor of dtype `d`."""
    if isinstance(x, Tensor):
        return x if x.dtype is d else x.to(d)
    return full_op((), x, d)


def check_kind(name: str, kinds: set[int], d: dt.dtype) -> dt.dtype:
    """Raise unless the standard defines an operation for arrays of dtype `d`; gives `d`."""
    if d.category not in kinds:
        raise KilnTypeError(
            name, f"not defined for {d.name} arrays", d.name,
            "takes " + ", ".join(_NAMES[k] for k in sorted(kinds)) + " dtypes: astype(x, dtype)",
        )  # fmt: skip
    return d


def operands(name: str, kinds: set[int], x1: Any, x2: Any) -> tuple[Tensor, Tensor]:
    """Two arrays, or an array and a number, as tensors of their common dtype, which must be of these kinds."""
    if isinstance(x1, Tensor) and isinstance(x2, Tensor) and x1._a.dtype is x2._a.dtype:
        check_kind(name, kinds, x1.dtype)
        return x1, x2
    d = check_kind(name, kinds, common_dtype(name, x1, x2))
    return operand(x1, d), operand(x2, d)


def checked(name: str, kinds: set[int], x: Any) -> Tensor:
    """The one array that an operation takes."""
    if not isinstance(x, Tensor):
        raise KilnTypeError(
            name, f"expected an array, not {type(x).__name__}", describe(x), "asarray(x) first"
        )
    check_kind(name, kinds, x.dtype)
    return x


# ---------------------------------------------------------------- public


def result_type(*arrays_and_dtypes: Any) -> dt.dtype:
    """The dtype of an operation on these arrays, dtypes and Python numbers; an error across kinds."""
    return common_dtype("result_type", *arrays_and_dtypes)


def can_cast(from_: dt.dtype | Tensor, to: dt.dtype, /) -> bool:
    """Whether promotion leads from one dtype to another."""
    d = from_.dtype if isinstance(from_, Tensor) else from_
    try:
        return _promote(d, to, "can_cast") is to
    except KilnTypeError:
        return False


def isdtype(dtype: dt.dtype, kind: Any) -> bool:
    """Whether a dtype is another one, of a kind such as "integral", or among a tuple of these."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if not isinstance(kind, str):
        return dtype is kind
    if kind not in _KINDS:
        raise KilnValueError("isdtype", "no such kind of dtypes", repr(kind), "one of " + ", ".join(_KINDS))  # fmt: skip
    return _KINDS[kind](dtype)


@dataclass(frozen=True)
class finfo_object:
    """Limits of a floating dtype, of the parts for a complex one."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: dt.dtype


@dataclass(frozen=True)
class iinfo_object:
    """Limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: dt.dtype


def finfo(type: dt.dtype | Tensor, /) -> finfo_object:
    """Limits of a floating dtype, or of an array's."""
    d = type.dtype if isinstance(type, Tensor) else type
    check_kind("finfo", FLOATING, d)
    i = dt.finfo(d)
    return finfo_object(i.bits, i.eps, i.max, i.min, i.smallest_normal, d.to_real())


def iinfo(type: dt.dtype | Tensor, /) -> iinfo_object:
    """Limits of an integer dtype, or of an array's."""
    d = type.dtype if isinstance(type, Tensor) else type
    check_kind("iinfo", INT, d)
    i = dt.iinfo(d)
    return iinfo_object(i.bits, i.max, i.min, d)


def astype(x: Tensor, dtype: dt.dtype, /, *, copy: bool = True, device: Any = None) -> Array:
    """The elements in another dtype; the array itself where that is its own and `copy` is False."""
    as_device(device)
    checked("astype", EVERY, x)
    if x.dtype.is_complex and not dtype.is_complex:
        raise KilnTypeError(
            "astype", "complex numbers don't convert to real ones", f"{x.dtype.name} to {dtype.name}",
            "take real(x), imag(x) or abs(x)",
        )  # fmt: skip
    return array(x.to(dtype, copy=copy), x)
