"""What older programs use: constructors named after their type (`FloatTensor([1, 2])`, `x.new(2, 3)`), removed names."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnTypeError, describe
from ..shape import Size
from ..tensor import Tensor
from .creation import empty, tensor
from .registry import FUNCTIONS, method


def _made(name: str, d: dt.dtype, args: tuple) -> Tensor:
    """A tensor of a dtype: uninitialised with these sizes, or holding this data."""
    if len(args) != 1 or isinstance(args[0], int):
        return empty(args or (0,), dtype=d)
    (value,) = args
    if isinstance(value, Size):
        return empty(value, dtype=d)
    if isinstance(value, Tensor):
        if value.dtype is not d:
            raise KilnTypeError(
                name, f"expected a tensor of {d.name}", describe(value), "use x.to(dtype)"
            )
        return value.detach()
    if not isinstance(value, list | tuple | np.ndarray):
        from ..storage import TypedStorage, UntypedStorage, tensor_of

        if isinstance(value, TypedStorage | UntypedStorage):
            return tensor_of(value, d)
    if not hasattr(value, "__len__"):
        raise KilnTypeError(
            name, "data must be a sequence", describe(value), "give sizes or a list"
        )
    return tensor(value, dtype=d)


class TensorType(type):
    """The type of tensors of one dtype: `isinstance` asks for the dtype, a call makes a tensor."""

    dtype: dt.dtype

    def __instancecheck__(cls, x: Any) -> bool:
        return isinstance(x, Tensor) and x.dtype is cls.dtype

    def __call__(cls, *args: Any) -> Tensor:
        return _made(cls.__name__, cls.dtype, args)


def _type(name: str, d: dt.dtype) -> Any:
    out = TensorType(name, (), {"__doc__": f"Tensors of {d.name}.", "__module__": __name__})
    out.dtype = d
    return out


FloatTensor, DoubleTensor = _type("FloatTensor", dt.float32), _type("DoubleTensor", dt.float64)
HalfTensor, BFloat16Tensor = _type("HalfTensor", dt.float16), _type("BFloat16Tensor", dt.bfloat16)
ByteTensor, CharTensor = _type("ByteTensor", dt.uint8), _type("CharTensor", dt.int8)
ShortTensor, IntTensor = _type("ShortTensor", dt.int16), _type("IntTensor", dt.int32)
LongTensor, BoolTensor = _type("LongTensor", dt.int64), _type("BoolTensor", dt.bool_)

TYPES: dict[str, TensorType] = {
    t.__name__: t for t in (FloatTensor, DoubleTensor, HalfTensor, BFloat16Tensor, ByteTensor, CharTensor,
                            ShortTensor, IntTensor, LongTensor, BoolTensor)
}  # fmt: skip
_NAMES = {t.dtype: name for name, t in TYPES.items()}


@method("type")
def type_(self: Tensor, dtype: Any = None) -> Any:
    """The name of the tensor's type, or the tensor cast to `dtype`: a dtype, a tensor type or its name."""
    if dtype is None:
        return "kiln." + _NAMES.get(self.dtype, f"{self.dtype.name.capitalize()}Tensor")
    if isinstance(dtype, str):
        dtype = TYPES.get(dtype.rpartition(".")[2], dtype)
    return self.to(dtype.dtype if isinstance(dtype, TensorType) else dt.as_dtype(dtype))


@method("new")
def new(self: Tensor, *args: Any) -> Tensor:
    """A tensor of this tensor's dtype: uninitialised with these sizes, or holding this data."""
    return _made("new", self.dtype, args)


def _removed(name: str, instead: str) -> None:
    def gone(*args: Any, **kwargs: Any) -> Any:
        raise KilnError(
            name, "this function was removed, as in PyTorch", None, f"use kiln.linalg.{instead}"
        )

    gone.__name__, gone.__doc__ = name, f"Removed, as in PyTorch: raises. Use `linalg.{instead}`."
    FUNCTIONS[name] = gone
    method(name)(gone)


for _name, _instead in {
    "symeig": "eigh", "eig": "eig", "lstsq": "lstsq", "matrix_rank": "matrix_rank", "solve": "solve",
}.items():  # fmt: skip
    _removed(_name, _instead)
