"""Storages: the memory that tensors lie in, as PyTorch shows it.

https://docs.pytorch.org/docs/stable/storage.html
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.lib.stride_tricks import as_strided

from . import dtypes as dt
from .device import CPU, device
from .errors import KilnTypeError, describe
from .sharing import expose, outermost
from .tensor import Tensor, _address, wrap


def memory(a: np.ndarray) -> np.ndarray:
    """The bytes of the whole memory that an array is a part of."""
    root = outermost(a)
    if any(s < 0 for s in root.strides):
        root = a
    start, end = byte_bounds(root)
    if not a.size:
        return np.zeros(0, np.uint8)
    items = as_strided(root, ((end - start) // root.itemsize,), (root.itemsize,))
    return items.view(np.uint8)


def mapped(filename: Any, shared: bool | None, size: int, dtype: np.dtype) -> np.ndarray:
    """The first elements of a file; a shared one is made, and made long enough, and sees what is written."""
    if shared:
        with open(filename, "ab") as f:
            f.truncate(max(f.tell(), size * dtype.itemsize))
    if not size:
        return np.empty(0, dtype)
    return np.asarray(np.memmap(filename, dtype, "r+" if shared else "c", shape=(size,)))


class UntypedStorage:
    """The bytes that tensors lie in."""

    def __init__(self, size: Any = 0, *, device: Any = None):
        self._bytes = size if isinstance(size, np.ndarray) else np.zeros(int(size), np.uint8)

    @property
    def device(self) -> device:
        """Where the bytes are."""
        return CPU

    is_cuda = is_sparse = property(lambda self: False)

    def get_device(self) -> int:
        """-1: the CPU."""
        return -1

    def is_shared(self) -> bool:
        """Whether other processes see it: False, see `Tensor.share_memory_`."""
        return False

    def is_pinned(self, device: Any = None) -> bool:
        """Whether a device may read it by itself: False."""
        return False

    def untyped(self) -> UntypedStorage:
        """Itself."""
        return self

    def fill_(self, value: int) -> UntypedStorage:
        """Set every byte."""
        self[:] = value
        return self

    def copy_(self, source: UntypedStorage, non_blocking: bool | None = None) -> UntypedStorage:
        """Overwrite with the bytes of another storage of this size."""
        self[:] = source._bytes
        return self

    def data_ptr(self) -> int:
        """The address of the first byte."""
        expose(self._bytes)
        return _address(self._bytes)

    def nbytes(self) -> int:
        """How many bytes there are."""
        return self._bytes.size

    size = __len__ = nbytes

    def element_size(self) -> int:
        """Bytes of an element."""
        return self._bytes.itemsize

    def tolist(self) -> list[int]:
        """The bytes as numbers."""
        return self._bytes.tolist()

    def __getitem__(self, i: Any) -> Any:
        found = self._bytes[i]
        return UntypedStorage(found) if isinstance(found, np.ndarray) else int(found)

    def __setitem__(self, i: Any, value: int) -> None:
        expose(self._bytes)
        self._bytes[i] = value

    def __iter__(self) -> Iterator[int]:
        return iter(self.tolist())

    def clone(self) -> UntypedStorage:
        """A copy in memory of its own."""
        return UntypedStorage(self._bytes.copy())

    def cpu(self) -> UntypedStorage:
        """Itself: it is there."""
        return self

    @staticmethod
    def from_buffer(buffer: Any, *_: Any, **__: Any) -> UntypedStorage:
        """A copy of the bytes of an object with Python's buffer interface."""
        return UntypedStorage(np.frombuffer(buffer, np.uint8).copy())

    @staticmethod
    def from_file(filename: Any, shared: bool = False, nbytes: int = 0) -> UntypedStorage:
        """A file's first bytes, read where they are touched; with `shared` what is written goes to the file."""
        return UntypedStorage(mapped(filename, shared, nbytes, np.dtype(np.uint8)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The bytes, which are shared."""
        expose(self._bytes)
        return np.array(self._bytes, dtype, copy=copy)

    def __repr__(self) -> str:
        return f"<kiln.UntypedStorage of {self.nbytes()} bytes>"


class TypedStorage:
    """The elements of one dtype in a storage: all of the memory, whatever a tensor shows of it."""

    dtype: dt.dtype

    def __init__(self, *args: Any, wrap_storage: UntypedStorage | None = None, dtype: Any = None):
        self.dtype = dt.as_dtype(dtype or getattr(type(self), "dtype", None) or dt.float32)
        if wrap_storage is not None:
            self._untyped = wrap_storage
        elif args and not isinstance(args[0], int):
            self._untyped = UntypedStorage(np.asarray(args[0], self.dtype.np).view(np.uint8))
        else:
            self._untyped = UntypedStorage((args[0] if args else 0) * self.dtype.itemsize)

    @property
    def _values(self) -> np.ndarray:
        return self._untyped._bytes.view(self.dtype.np)

    device = property(lambda self: CPU)
    is_cuda = is_sparse = property(lambda self: False)

    def get_device(self) -> int:
        """-1: the CPU."""
        return -1

    def is_shared(self) -> bool:
        """Whether other processes see it: False, see `Tensor.share_memory_`."""
        return False

    def cpu(self) -> TypedStorage:
        """Itself: it is there."""
        return self

    def type(self, dtype: Any = None, non_blocking: bool = False) -> Any:
        """The name of its type."""
        return (
            f"torch.{type(self).__name__}"
            if dtype is None
            else TypedStorage(self._values, dtype=dtype)
        )

    def untyped(self) -> UntypedStorage:
        """The bytes."""
        return self._untyped

    def data_ptr(self) -> int:
        """The address of the first element."""
        return self._untyped.data_ptr()

    def size(self) -> int:
        """How many elements there are."""
        return self._values.size

    __len__ = size

    def nbytes(self) -> int:
        """How many bytes there are."""
        return self._untyped.nbytes()

    def element_size(self) -> int:
        """Bytes of an element."""
        return self.dtype.itemsize

    def tolist(self) -> list[Any]:
        """The elements as Python numbers."""
        return self._values.tolist()

    def __getitem__(self, i: Any) -> Any:
        found = self._values[i]
        return found.tolist() if isinstance(found, np.ndarray) else found.item()

    def __setitem__(self, i: Any, value: Any) -> None:
        expose(self._untyped._bytes)
        self._values[i] = value

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())

    def fill_(self, value: Any) -> TypedStorage:
        """Set every element."""
        self[:] = value
        return self

    def copy_(self, source: TypedStorage, non_blocking: bool = False) -> TypedStorage:
        """Overwrite with the elements of another storage of this size."""
        self[:] = source._values
        return self

    def clone(self) -> TypedStorage:
        """The same elements in memory of their own."""
        return type(self)(wrap_storage=self._untyped.clone(), dtype=self.dtype)

    @classmethod
    def from_buffer(
        cls, buffer: Any, byte_order: str = "native", *_: Any, **__: Any
    ) -> TypedStorage:
        """A copy of the elements in an object with Python's buffer interface."""
        if byte_order not in ("native", "little"):
            raise KilnTypeError(
                "from_buffer", "only little-endian buffers", byte_order, "byteswap()"
            )
        return cls(wrap_storage=UntypedStorage.from_buffer(buffer))

    def __repr__(self) -> str:
        return f"<kiln.{type(self).__name__} of {self.size()} {self.dtype.name}>"


def _typed(name: str, d: dt.dtype) -> Any:
    return type(name, (TypedStorage,), {"dtype": d, "__doc__": f"Storages of {d.name}."})


FloatStorage, DoubleStorage = (
    _typed("FloatStorage", dt.float32),
    _typed("DoubleStorage", dt.float64),
)
HalfStorage, BFloat16Storage = (
    _typed("HalfStorage", dt.float16),
    _typed("BFloat16Storage", dt.bfloat16),
)
LongStorage, IntStorage = _typed("LongStorage", dt.int64), _typed("IntStorage", dt.int32)
ShortStorage, CharStorage = _typed("ShortStorage", dt.int16), _typed("CharStorage", dt.int8)
ByteStorage, BoolStorage = _typed("ByteStorage", dt.uint8), _typed("BoolStorage", dt.bool_)
ComplexFloatStorage, ComplexDoubleStorage = (
    _typed("ComplexFloatStorage", dt.complex64),
    _typed("ComplexDoubleStorage", dt.complex128),
)


def _cast(d: dt.dtype) -> Any:
    def cast(self: TypedStorage) -> TypedStorage:
        return TypedStorage(self._values.astype(d.np), dtype=d)

    cast.__doc__ = f"The elements as {d.name}, in memory of their own."
    return cast


for _name, _dtype in (
    ("float", dt.float32), ("double", dt.float64), ("half", dt.float16), ("bfloat16", dt.bfloat16), ("long", dt.int64),
    ("int", dt.int32), ("short", dt.int16), ("char", dt.int8), ("byte", dt.uint8), ("bool", dt.bool_),
    ("complex_float", dt.complex64), ("complex_double", dt.complex128),
):  # fmt: skip
    setattr(TypedStorage, _name, _cast(_dtype))


def is_storage(obj: Any) -> bool:
    """Whether an object is a storage."""
    return isinstance(obj, TypedStorage | UntypedStorage)


def tensor_of(storage: Any, d: dt.dtype) -> Tensor:
    """A 1-d tensor on a storage's memory."""
    if isinstance(storage, TypedStorage) and storage.dtype is not d:
        raise KilnTypeError("tensor", f"expected a storage of {d.name}", describe(storage), "")
    data = storage._bytes if isinstance(storage, UntypedStorage) else storage._untyped._bytes
    return wrap(data.view(d.np))
