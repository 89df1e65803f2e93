"""Element types and the rules by which they combine (PyTorch's).

https://docs.pytorch.org/docs/stable/tensor_attributes.html#type-promotion-doc
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from . import naming
from .errors import KilnError, KilnTypeError

BOOL, INT, FLOAT, COMPLEX = range(4)  # categories, in the order in which they win


class dtype:
    """An element type such as `kiln.float32`; there is one object of each.

    `np` is the NumPy dtype that stores it, `itemsize` its size in bytes, `abbr` its short name.
    """

    __slots__ = ("abbr", "category", "is_signed", "itemsize", "name", "np", "order")

    def __init__(self, name: str, abbr: str, np_type: Any, category: int, order: int):
        self.name, self.abbr, self.category, self.order = name, abbr, category, order
        self.np = np.dtype(np_type)
        self.itemsize = self.np.itemsize
        self.is_signed = category >= INT and not name.startswith("uint")

    @property
    def is_floating_point(self) -> bool:
        return self.category == FLOAT

    @property
    def is_complex(self) -> bool:
        return self.category == COMPLEX

    def to_real(self) -> dtype:
        """The dtype of the real part."""
        return {complex64: float32, complex128: float64}.get(self, self)

    def to_complex(self) -> dtype:
        """The complex dtype whose parts can hold this one."""
        if self.is_complex:
            return self
        return complex128 if self is float64 else complex64

    def __repr__(self) -> str:
        return f"{naming.name}.{self.name}"

    def __reduce__(self) -> tuple:  # copies and pickles are the object itself
        return _by_name, (self.name,)

    def __hash__(self) -> int:
        return hash(self.name)


def _by_name(name: str) -> dtype:
    return BY_NAME[name]


_all = [
    bool_ := dtype("bool", "bool", np.bool_, BOOL, 0),
    uint8 := dtype("uint8", "u8", np.uint8, INT, 0),
    int8 := dtype("int8", "i8", np.int8, INT, 0),
    uint16 := dtype("uint16", "u16", np.uint16, INT, 1),
    int16 := dtype("int16", "i16", np.int16, INT, 1),
    uint32 := dtype("uint32", "u32", np.uint32, INT, 2),
    int32 := dtype("int32", "i32", np.int32, INT, 2),
    uint64 := dtype("uint64", "u64", np.uint64, INT, 3),
    int64 := dtype("int64", "i64", np.int64, INT, 3),
    float16 := dtype("float16", "f16", np.float16, FLOAT, 0),
    bfloat16 := dtype("bfloat16", "bf16", ml_dtypes.bfloat16, FLOAT, 0),
    float32 := dtype("float32", "f32", np.float32, FLOAT, 1),
    float64 := dtype("float64", "f64", np.float64, FLOAT, 2),
    complex64 := dtype("complex64", "c64", np.complex64, COMPLEX, 1),
    complex128 := dtype("complex128", "c128", np.complex128, COMPLEX, 2),
]
ALL: tuple[dtype, ...] = tuple(_all)
BY_NAME = {d.name: d for d in _all}
BY_ABBR = {d.abbr: d for d in _all}


def bits(a: np.ndarray) -> np.ndarray:
    """The same memory in a dtype that NumPy knows: it moves elements of others one by one."""
    return a.view(f"u{a.itemsize}") if a.dtype.kind == "V" else a


OF_NUMPY: dict[Any, dtype] = {d.np: d for d in _all}


def known(a: np.ndarray) -> np.ndarray:
    """The same memory under the dtype object that Kiln compares by: what is unpickled brings a copy of it."""
    d = OF_NUMPY.get(a.dtype)
    return a if d is None or d.np is a.dtype else a.view(d.np)


PYTHON_TYPES = {bool: bool_, int: int64}
ALIASES = {
    "half": float16, "float": float32, "double": float64, "short": int16, "int": int32,
    "long": int64, "cfloat": complex64, "cdouble": complex128,
}  # fmt: skip

_default = float32


def get_default_dtype() -> dtype:
    """The floating dtype of new tensors made from Python floats."""
    return _default


def set_default_dtype(d: dtype) -> None:
    """Set the dtype of tensors made from Python floats; a floating dtype."""
    global _default
    if not isinstance(d, dtype) or not d.is_floating_point:
        raise KilnTypeError(
            "set_default_dtype", "only floating-point dtypes can be the default", d,
            "use kiln.float32 or kiln.float64",
        )  # fmt: skip
    _default = d
    _result.cache_clear()


def as_dtype(d: Any) -> dtype:
    """The Kiln dtype for a Kiln dtype, a NumPy dtype, a name, or a Python scalar type."""
    if isinstance(d, dtype):
        return d
    if d is float:
        return _default
    if d is complex:
        return _default.to_complex()
    if d in PYTHON_TYPES:
        return PYTHON_TYPES[d]
    if isinstance(d, str) and d in BY_NAME:
        return BY_NAME[d]
    try:
        return OF_NUMPY[np.dtype(d).newbyteorder("=")]
    except (TypeError, KeyError):
        raise KilnTypeError(
            "dtype", "not an element type that Kiln has", repr(d),
            "one of " + ", ".join(BY_NAME),
        ) from None  # fmt: skip


def of_scalar(x: Any) -> dtype:
    """The dtype that a Python number has by itself."""
    if isinstance(x, bool | np.bool_):
        return bool_
    if isinstance(x, int | np.integer):
        return int64
    if isinstance(x, float | np.floating):
        return _default
    return _default.to_complex()


@lru_cache(None)
def promote_types(type1: dtype, type2: dtype) -> dtype:
    """The smallest dtype that both can be converted to, by PyTorch's table."""
    a, b = type1, type2
    if a is b:
        return a
    if a.category != b.category:
        low, high = (a, b) if a.category < b.category else (b, a)
        if high is complex64 and low is float64:
            return complex128
        return high
    if a.category in (FLOAT, COMPLEX):
        if a.order == b.order:  # float16 with bfloat16
            return float32
        return a if a.order > b.order else b
    if a.is_signed == b.is_signed:
        return a if a.order > b.order else b
    signed, unsigned = (a, b) if a.is_signed else (b, a)
    if signed.order > unsigned.order:
        return signed
    if unsigned.order == 3:
        raise KilnTypeError(
            "promote_types", "no integer dtype holds both", f"{a.name}, {b.name}",
            "convert one of them first, e.g. x.to(kiln.int64)",
        )  # fmt: skip
    return (int16, int32, int64)[unsigned.order]


def _combine(high: dtype | None, low: dtype | None) -> dtype | None:
    if high is None or low is None:
        return high or low
    if high.category >= low.category and high.category != BOOL:
        return high
    if high.category == FLOAT:  # low is complex: keep the width of high
        return high.to_complex()
    return promote_types(high, low)


@lru_cache(None)
def _result(dims: tuple, zeros: tuple, scalars: tuple) -> dtype:
    parts: list[dtype | None] = []
    for group in (dims, zeros, scalars):
        acc: dtype | None = None
        for d in group:
            acc = d if acc is None else promote_types(acc, d)
        parts.append(acc)
    out = _combine(_combine(parts[0], parts[1]), parts[2])
    assert out is not None
    return out


def result_type(*operands: Any) -> dtype:
    """The dtype of an operation on tensors and Python numbers.

    Tensors with dimensions decide before 0-d tensors, these before Python numbers; a weaker
    operand counts only where its category (bool < int < float < complex) is higher.
    """
    dims, zeros, scalars = [], [], []
    for x in operands:
        shape = getattr(x, "shape", None)
        if shape is None or isinstance(x, np.generic):
            scalars.append(of_scalar(x))
        else:
            d = x.dtype
            (dims if len(shape) else zeros).append(d if isinstance(d, dtype) else OF_NUMPY[d])
    return _result(tuple(dims), tuple(zeros), tuple(scalars))


_SAFE = {BOOL: {0, 1, 2, 3}, INT: {1, 2, 3}, FLOAT: {2, 3}, COMPLEX: {3}}


def can_cast(from_: dtype, to: dtype) -> bool:
    """Whether an in-place or `out=` result of dtype `from_` may be stored in dtype `to`."""
    return to.category in _SAFE[from_.category]


FLOAT32_MAX = float(np.finfo(np.float32).max)


def element(value: Any, d: dtype, op: str) -> Any:
    """A Python number as an element of dtype `d`; negative ones wrap around in unsigned dtypes."""
    fits = d.is_complex or not isinstance(value, complex)
    if fits and d is bool_:
        return bool(value)
    if d.category == INT and not isinstance(value, complex):
        info = np.iinfo(d.np)
        fits = value == value and (info.min or -info.max) <= value <= info.max
        if fits:
            return int(value) % (int(info.max) + 1) if value < 0 and not info.min else int(value)
    elif value.__class__ is float and d is float32:
        fits = not FLOAT32_MAX < abs(value) < math.inf
    elif d is float32 or d is complex64:  # PyTorch asks of no other floats
        fits = fits and not any(
            FLOAT32_MAX < abs(part) < math.inf for part in (value.real, value.imag)
        )
    if not fits:
        raise KilnError(
            op,
            f"value cannot be converted to type {d.name} without overflow",
            repr(value),
            "use a wider dtype",
        )
    return value


class finfo:
    """Limits of a floating dtype: `eps`, `max`, `min`, `tiny`, `smallest_normal`, `resolution`, `bits`."""

    def __init__(self, type: dtype | None = None):
        limits = getattr(type, "limits", None)
        if type is not None and limits is not None:  # a type that can only be named
            self.bits, self.dtype, self.resolution = 8, type.name, 1.0
            self.eps, self.min, self.max, self.tiny = limits
            self.smallest_normal = self.tiny
            return
        d = (type or _default).to_real()
        if not d.is_floating_point:
            raise KilnTypeError("finfo", "not a floating dtype", d, "use kiln.iinfo")
        info = ml_dtypes.finfo(d.np)
        self.bits, self.dtype = d.itemsize * 8, d.name
        self.eps, self.max, self.min = float(info.eps), float(info.max), float(info.min)
        self.tiny = self.smallest_normal = float(info.tiny)
        self.resolution = float(info.resolution)

    def __repr__(self) -> str:
        return (
            f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, "
            f"eps={self.eps:g}, smallest_normal={self.smallest_normal:g}, tiny={self.tiny:g}, dtype={self.dtype})"
        )


class iinfo:
    """Limits of an integer dtype: `min`, `max`, `bits`."""

    def __init__(self, type: dtype):
        if type.category != INT:
            raise KilnTypeError("iinfo", "not an integer dtype", type, "use kiln.finfo")
        info = np.iinfo(type.np)
        self.bits, self.dtype = type.itemsize * 8, type.name
        self.min, self.max = int(info.min), int(info.max)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"
