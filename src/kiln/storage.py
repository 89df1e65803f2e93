"""The memory under tensors: PyTorch's `UntypedStorage` (bytes) and `TypedStorage` (elements)."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import dtypes as dt
from .device import CPU, device
from .errors import KilnIndexError, KilnTypeError, describe
from .sharing import lend, watched, written
from .tensor import Tensor, wrap


def _flat(a: np.ndarray) -> np.ndarray:
    """The whole memory that an array lies in, as one dimension of its dtype; what it shows where there are gaps."""
    root = a
    while isinstance(root.base, np.ndarray) and root.base.dtype == a.dtype:
        root = root.base
    return root.reshape(-1) if root.flags.c_contiguous else np.ascontiguousarray(a).reshape(-1)


class TypedStorage:
    """The elements of the memory that a tensor lies in, those that the tensor does not show included."""

    def __init__(self, *, wrap_array: np.ndarray):
        self._flat = wrap_array

    @property
    def dtype(self) -> dt.dtype:
        """The element type."""
        return dt.OF_NUMPY[self._flat.dtype]

    @property
    def device(self) -> device:
        """Where the memory is."""
        return CPU

    def size(self) -> int:
        """The number of elements."""
        return self._flat.size

    __len__ = size

    def element_size(self) -> int:
        """Bytes per element."""
        return self._flat.itemsize

    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self._flat.nbytes

    def data_ptr(self) -> int:
        """The address of the first element."""
        return wrap(self._flat).data_ptr()

    def tolist(self) -> list:
        """The elements as Python numbers."""
        return self._flat.tolist()

    def __iter__(self) -> Any:
        return iter(self.tolist())

    def __getitem__(self, index: Any) -> Any:
        try:
            r = self._flat[index]
        except IndexError as e:
            raise KilnIndexError(
                "storage", str(e), describe(index), f"there are {self.size()} elements"
            ) from None
        return type(self)(wrap_array=r) if isinstance(r, np.ndarray) else r.item()

    def __setitem__(self, index: Any, value: Any) -> None:
        if watched:
            written(self._flat)
        self._flat[index] = value

    def fill_(self, value: Any) -> TypedStorage:
        """Set every element."""
        self[:] = value
        return self

    def copy_(self, source: TypedStorage, non_blocking: bool = False) -> TypedStorage:
        """Overwrite with the elements of another storage of this size."""
        self[:] = source._flat
        return self

    def clone(self) -> TypedStorage:
        """The same elements in memory of their own."""
        return type(self)(wrap_array=self._flat.copy())

    def cpu(self) -> TypedStorage:
        """The storage itself."""
        return self

    def is_shared(self) -> bool:
        """False: memory is this process's own."""
        return False

    def untyped(self) -> UntypedStorage:
        """The same memory as bytes."""
        return UntypedStorage(wrap_array=self._flat.view(np.uint8))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TypedStorage) and self._flat is other._flat

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size()} elements of {self.dtype.name}, {self.nbytes()} bytes)"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._flat, dtype) if copy or dtype is not None else lend(self._flat)


class UntypedStorage(TypedStorage):
    """The bytes of the memory that a tensor lies in."""

    def untyped(self) -> UntypedStorage:
        """The storage itself."""
        return self


def is_storage(obj: Any) -> bool:
    """Whether an object is a storage."""
    return isinstance(obj, TypedStorage)


def storage_of(x: Tensor, typed: bool) -> TypedStorage:
    """The memory that a tensor lies in."""
    if not isinstance(x, Tensor):
        raise KilnTypeError("storage", "expected a Tensor", describe(x), "")
    flat = _flat(x._host("storage"))
    return (
        TypedStorage(wrap_array=flat) if typed else UntypedStorage(wrap_array=flat.view(np.uint8))
    )
