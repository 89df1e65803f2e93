"""What older programs use: constructors named after their type (`FloatTensor([1, 2])`, `x.new(2, 3)`), removed names."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .. import dtypes as dt
from .. import naming
from ..device import as_device
from ..errors import KilnError, KilnTypeError, describe
from ..shape import Size
from ..tensor import Tensor
from .creation import arange, arange_op, as_tensor, empty, tensor
from .joining import stack
from .registry import FUNCTIONS, Sample, composition, method
from .samples import draw, rng
from .storing import store_out


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
    device = "cpu"

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


def tensor_type(name: str) -> Any:
    """The tensor type of a name such as "torch.FloatTensor", the name itself where there is none."""
    room, _, last = name.rpartition(".")
    if last in TYPES and room.endswith("cuda"):
        as_device("cuda")
    return TYPES.get(last, name)


@method("type")
def type_(self: Tensor, dtype: Any = None, non_blocking: bool = False) -> Any:
    """The name of the tensor's type, or the tensor cast to `dtype`: a dtype, a tensor type or its name."""
    if dtype is None:
        return f"{naming.name}." + _NAMES.get(self.dtype, f"{self.dtype.name.capitalize()}Tensor")
    if isinstance(dtype, str):
        dtype = tensor_type(dtype)
    elif dtype is Tensor:  # the type of tensors of the default dtype
        dtype = dt.get_default_dtype()
    if isinstance(dtype, TensorType):
        as_device(dtype.device)
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


def range_(start: Any, end: Any = None, step: Any = 1, *, out: Any = None, dtype: Any = None, layout: Any = None,
           device: Any = None, requires_grad: bool = False, pin_memory: bool = False) -> Tensor:  # fmt: skip
    """`arange` with the end included; deprecated in PyTorch too."""
    as_device(device)
    warnings.warn(
        "range is deprecated, as it differs from Python's: use arange, whose end is exclusive", UserWarning, stacklevel=2
    )  # fmt: skip
    if end is None:
        start, end = 0, start
    if not step or (end - start) / step < 0:
        raise KilnError(
            "range",
            "step must be nonzero and lead from start to end",
            f"{start}, {end}, {step}",
            "",
        )
    d = (
        dt.as_dtype(dtype)
        if dtype is not None
        else dt.get_default_dtype()
        if out is None
        else out.dtype
    )
    r = (arange(int((end - start) / step) + 1, dtype=dt.float64) * step + start).to(d)
    r.requires_grad = requires_grad
    return store_out(arange_op.op, r, out)


FUNCTIONS["range"] = range_


def from_file(filename: str, shared: bool | None = None, size: int = 0, *, dtype: Any = None, layout: Any = None,
              device: Any = None, pin_memory: bool = False, requires_grad: bool = False) -> Tensor:  # fmt: skip
    """The first `size` elements of a file's bytes; with `shared` what is written to the tensor is written to the file."""
    as_device(device)
    d = dt.get_default_dtype() if dtype is None else dt.as_dtype(dtype)
    from ..storage import mapped

    return as_tensor(mapped(filename, shared, size, d.np)).requires_grad_(requires_grad)


def to_dlpack(tensor: Tensor) -> Any:
    """The DLPack capsule of a tensor, for `from_dlpack` of another library."""
    return tensor.__dlpack__()


FUNCTIONS["from_file"], FUNCTIONS["to_dlpack"] = from_file, to_dlpack


@composition(method=False, samples=lambda: iter([
    Sample((draw(rng(), (3,)),)), Sample((draw(rng(), (3,)), 2, True)), Sample((draw(rng(), (3,)), 0), grad=False),
    Sample((np.arange(3), 3), grad=False), Sample((draw(rng(), (2, 2)),), error=RuntimeError),
]))  # fmt: skip
def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """The powers of a vector's elements, the highest first as in NumPy; `linalg.vander` begins with the lowest."""
    if x.ndim != 1:
        raise KilnError(
            "vander",
            "x must be a one-dimensional tensor",
            describe(x),
            "linalg.vander takes batches",
        )
    n = x.shape[0] if N is None else N
    if n < 0:
        raise KilnError("vander", "N must be non-negative", n, "")
    wide = x if x.dtype.category >= dt.FLOAT else x.long()
    powers = [wide.new_ones(wide.shape)] if n else []
    while len(powers) < n:
        powers.append(powers[-1] * wide)
    if not n:
        return wide.new_empty((x.shape[0], 0))
    return stack(powers if increasing else powers[::-1], 1)
