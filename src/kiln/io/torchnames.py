"""What the names in PyTorch's files stand for: functions that make tensors and plain containers.

Each checks what it is given before it allocates; nothing here looks at a file, imports or evaluates.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import numpy as np

from .. import dtypes as dt
from .. import formats
from ..device import device
from ..shape import Size
from ..storage import TypedStorage
from ..tensor import Tensor, wrap
from .pickled import Function, hashable

STORAGES = {
    "FloatStorage": dt.float32, "DoubleStorage": dt.float64, "HalfStorage": dt.float16, "BFloat16Storage": dt.bfloat16,
    "LongStorage": dt.int64, "IntStorage": dt.int32, "ShortStorage": dt.int16, "CharStorage": dt.int8,
    "ByteStorage": dt.uint8, "BoolStorage": dt.bool_, "ComplexFloatStorage": dt.complex64,
    "ComplexDoubleStorage": dt.complex128, "UntypedStorage": dt.uint8,
}  # fmt: skip
_DIMS = 64
"""As many dimensions as NumPy's arrays have at most."""


class StorageType:
    """The type of a storage, by which a file names its dtype."""

    def __init__(self, dtype: dt.dtype):
        self.dtype = dtype


def plain(full: str) -> Any:
    """What a name in any file stands for, None where it is on no list."""
    if full in FUNCTIONS:
        return FUNCTIONS[full]
    module, _, name = full.rpartition(".")
    if module in ("torch", "torch.storage") and name in STORAGES:
        return StorageType(STORAGES[name])
    if module == "torch" and name in dt.BY_NAME:
        return dt.BY_NAME[name]
    if module == "torch" and isinstance(formats.BY_NAME.get(name), formats.layout):
        return formats.BY_NAME[name]
    if full in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"):
        return _kind(name)
    return None


def lacking(full: str) -> str | None:
    """What to say of a name that stands for something Kiln doesn't have."""
    module, _, name = full.rpartition(".")
    if name == "_rebuild_qtensor" or re.fullmatch(r"torch\.(Q\w+Storage|qu?int\d+(x\d)?)", full):
        return "quantised tensors: save x.dequantize(), or x.int_repr() with its scales"
    if name == "_rebuild_nested_tensor":
        return "nested tensors: save x.unbind()"
    if name in ("_rebuild_meta_tensor_no_storage", "_rebuild_wrapper_subclass"):
        return "tensors without data of their own: save plain tensors"
    if re.fullmatch(r"torch\.(float\d\w*|complex32|bits\d\w*|u?int\d)", full):
        return f"tensors of {full}: convert them, e.g. x.float()"
    if module.startswith("__torch__"):
        return "a TorchScript program: save model.state_dict() in place of it"
    return None


def _kind(name: str) -> type:
    from .. import nn

    return Tensor if name == "Tensor" else getattr(nn, name)


# ---------------------------------------------------------------- tensors


def _tensor(storage: Any, offset: int, size: Any, stride: Any, requires_grad: bool = False,
            hooks: Any = None, metadata: Any = None) -> Tensor:  # fmt: skip
    return _strided(storage, None, offset, size, stride, requires_grad)


def _tensor_of_dtype(storage: Any, offset: int, size: Any, stride: Any, requires_grad: bool,
                     hooks: Any, dtype: Any, metadata: Any = None) -> Tensor:  # fmt: skip
    if not isinstance(dtype, dt.dtype):
        raise ValueError("a tensor without a dtype")
    return _strided(storage, dtype, offset, size, stride, requires_grad)


def _strided(
    storage: Any, dtype: dt.dtype | None, offset: int, size: Any, stride: Any, requires_grad: Any
) -> Tensor:
    """A view of a storage, which must hold all of its elements."""
    if type(storage) is not TypedStorage:
        raise ValueError("a tensor without a storage")
    dtype = dtype or storage.dtype
    if len(size) != len(stride) or len(size) > _DIMS:
        raise ValueError(f"a tensor of {len(size)} dimensions and {len(stride)} strides")
    if any(type(n) is not int or not 0 <= n < 2**62 for n in (offset, *size, *stride)):
        raise ValueError("a tensor whose sizes, strides or offset are no sizes")
    width, memory = dtype.itemsize, storage.untyped()._bytes
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if prod(size) >= 2**62 or (0 not in size and (last + 1) * width > memory.size):
        raise ValueError(f"a tensor of size {tuple(size)} reaches outside its storage")
    if 0 in size:
        a = np.empty(size, dtype.np)
    else:
        a = np.ndarray(size, dtype.np, memory, offset * width, [s * width for s in stride])
    t = wrap(a)
    if requires_grad:
        t.requires_grad = True
    return t


def _parameter(data: Any, requires_grad: Any, hooks: Any = None, state: Any = None) -> Tensor:
    if not isinstance(data, Tensor):
        raise ValueError("a parameter that is no tensor")
    out = _kind("Parameter")(data, bool(requires_grad))
    return out if state is None else _with_attributes(out, state)


def _of_type(make: Any, kind: Any, args: Any, state: Any) -> Tensor:
    """A tensor of a subclass, or with attributes: as PyTorch writes what isn't just a tensor."""
    if type(make) is not Function or not (isinstance(kind, type) and issubclass(kind, Tensor)):
        raise ValueError("a tensor of a type that is none")
    out = make.call(*args)
    if kind is not type(out) and kind is not Tensor:
        out = kind(out, out.requires_grad)
    return _with_attributes(out, state)


def _with_attributes(t: Tensor, state: Any) -> Tensor:
    if state and type(state) is tuple:
        state, slots = state
        if slots:
            raise ValueError("a tensor with slots")
    if state:
        if type(state) is not dict or not all(type(k) is str for k in state):
            raise ValueError("attributes that are no names and values")
        t.__dict__.update(state)
    return t


def _sparse(layout: Any, parts: Any) -> Tensor:
    from ..sparse import rebuild

    return rebuild(layout, parts)


def _from_array(a: Any, dtype: Any, device: Any, requires_grad: Any) -> Tensor:
    """A tensor that was on a device without storages."""
    t = a if isinstance(a, Tensor) else wrap(np.array(a, dtype=dtype.np))
    t.requires_grad = bool(requires_grad)
    return t


def _layout(name: str) -> Any:
    found = formats.BY_NAME[name.removeprefix("torch.")]
    if not isinstance(found, formats.layout):
        raise ValueError(name)
    return found


# ---------------------------------------------------------------- containers and bytes


def _size(sizes: Any = ()) -> Size:
    if not all(type(n) is int and n >= 0 for n in sizes):
        raise ValueError("a size that is none")
    return Size(sizes)


def _encode(text: str, encoding: str = "") -> bytes:
    return text.encode("latin-1")


def _bytearray(x: Any = b"", encoding: Any = "latin-1", *_: Any) -> bytearray:
    if isinstance(x, str):
        x = x.encode("latin-1")
    if not isinstance(x, bytes):  # of a number it would be as many bytes
        raise ValueError("a bytearray of no bytes")
    return bytearray(x)


def _of_keys(kind: Callable[[Any], Any]) -> Function:
    """A container whose elements are hashed."""

    def make(items: Iterable[Any] = ()) -> Any:
        if type(items) not in (tuple, list, dict, set, frozenset):
            raise ValueError(f"a {kind.__name__} of no elements")  # type: ignore[attr-defined]
        for x in items:
            hashable(x)
        return kind(items)

    return Function(make)


def _ordered(items: Any = ()) -> OrderedDict:
    out: OrderedDict = OrderedDict()
    for k, v in items:
        out[hashable(k)] = v
    return out


# ---------------------------------------------------------------- NumPy's


def _numpy_dtype(name: Any, *_: Any) -> np.dtype:
    if type(name) is not str or not re.fullmatch(r"[<=|]?[biufcSU]\d{1,4}", name):
        raise ValueError("a dtype that is not of numbers")
    return np.dtype(name)


def _order(d: np.dtype, state: Any) -> None:
    if state[1] == ">":
        raise ValueError("numbers of another byte order")


def _number(dtype: Any, data: bytes) -> Any:
    """A NumPy number."""
    if not isinstance(dtype, np.dtype):
        raise ValueError("a number without a dtype")
    (out,) = np.frombuffer(data, dtype)
    return out


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    return np.ndarray((0,), np.int8)  # its state says what it is


def _fill_array(a: np.ndarray, state: Any) -> None:
    """Give an array its shape, dtype and elements in place, as pickled arrays are made."""
    _, shape, dtype, by_column, data = state
    if not isinstance(dtype, np.dtype) or dtype.hasobject or type(data) not in (bytes, str):
        raise ValueError("an array that is not of numbers")
    data = data.encode("latin-1") if isinstance(data, str) else data
    if len(shape) > _DIMS or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError("an array whose shape is none")
    if prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} and {len(data)} bytes")
    a.__setstate__((1, tuple(shape), dtype, bool(by_column), data))  # type: ignore[attr-defined]


FUNCTIONS = {
    "torch._utils._rebuild_tensor_v2": Function(_tensor, lambda t, state: None),
    "torch._utils._rebuild_tensor": Function(_tensor),
    "torch._utils._rebuild_tensor_v3": Function(_tensor_of_dtype),
    "torch._utils._rebuild_parameter": Function(_parameter),
    "torch._utils._rebuild_parameter_with_state": Function(_parameter),
    "torch._utils._rebuild_sparse_tensor": Function(_sparse),
    "torch._utils._rebuild_device_tensor_from_numpy": Function(_from_array),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": Function(_from_array),
    "torch._tensor._rebuild_from_type_v2": Function(_of_type),
    "torch.serialization._get_layout": Function(_layout),
    "torch.Size": Function(_size), "torch.device": Function(device),
    "collections.OrderedDict": Function(_ordered), "collections.Counter": _of_keys(Counter),
    "collections.defaultdict": Function(lambda make=None: {}),
    "builtins.set": _of_keys(set), "builtins.frozenset": _of_keys(frozenset),
    "builtins.complex": Function(complex), "builtins.bytearray": Function(_bytearray),
    "_codecs.encode": Function(_encode),
    "numpy.core.multiarray.scalar": Function(_number), "numpy.dtype": Function(_numpy_dtype, _order),
    "numpy.core.multiarray._reconstruct": Function(_empty_array, _fill_array), "numpy.ndarray": np.ndarray,
}  # fmt: skip
