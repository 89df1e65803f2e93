"""Sparse tensors: places and values, a layout and a size. See Note [Composed tensors]."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from .. import dtypes as dt
from .. import formats
from ..composed import Composed, ComposedTensor, composed
from ..errors import KilnError, KilnNotImplementedError, describe
from ..ops.embedding import embedding_grad
from ..shape import Size, numel
from ..tensor import Tensor, wrap

COMPRESSED = {
    formats.sparse_csr: ("crow_indices", "col_indices"), formats.sparse_csc: ("ccol_indices", "row_indices"),
    formats.sparse_bsr: ("crow_indices", "col_indices"), formats.sparse_bsc: ("ccol_indices", "row_indices"),
}  # fmt: skip
"""The compressed layouts, with the names of their two index tensors."""


class SparseArray(Composed):
    """The payload of a sparse tensor."""

    __slots__ = ("coalesced", "shape")
    coalesced: bool
    shape: tuple[int, ...]

    def __init__(self, layout: formats.layout, shape: Any, parts: tuple, coalesced: bool = True):
        self.layout, self.shape, self.parts, self.coalesced = layout, tuple(shape), parts, coalesced

    def tensor(self) -> SparseTensor:
        """A tensor with this payload."""
        return composed(SparseTensor, self)

    def __add__(self, other: Any) -> Any:  # gradients that meet in backward
        if isinstance(other, SparseArray):
            return (self.tensor() + other.tensor())._a
        return self.tensor().to_dense()._a + other

    __radd__ = __add__


class SparseTensor(ComposedTensor):
    """A tensor of layout `sparse_coo`, `sparse_csr`, `sparse_csc`, `sparse_bsr` or `sparse_bsc`."""

    __slots__ = ()
    _a: SparseArray

    @property
    def _calls(self) -> Any:
        """What ops on it are called by."""
        from . import calls

        return calls

    # ---- what it is

    is_sparse = property(lambda self: self._a.layout is formats.sparse_coo)
    is_sparse_csr = property(lambda self: self._a.layout is formats.sparse_csr)

    def _nnz(self) -> int:
        return self._a.parts[-1].shape[0] if self.is_sparse else self._a.parts[1].shape[-1]

    def _coo(self, name: str) -> tuple[Tensor, Tensor]:
        if not self.is_sparse:
            raise KilnError(
                name, f"expected a sparse_coo tensor, got {self.layout.name}", describe(self),
                "x.to_sparse_coo()",
            )  # fmt: skip
        return self._a.parts  # type: ignore[return-value]

    def indices(self) -> Tensor:
        """The places of the elements: int64, one row for each sparse dimension."""
        self._demand_coalesced("indices")
        return self._coo("indices")[0].detach()

    def values(self) -> Tensor:
        """The elements that are stored, with their history."""
        if self.is_sparse:
            self._demand_coalesced("values")
        return self._a.parts[-1]

    def _indices(self) -> Tensor:
        return self._coo("_indices")[0].detach()

    def _values(self) -> Tensor:
        return self._a.parts[-1].detach()

    def _demand_coalesced(self, name: str) -> None:
        if self.is_sparse and not self._a.coalesced:
            raise KilnError(
                name, f"cannot get {name} on an uncoalesced tensor", describe(self),
                "call .coalesce() first, which sums elements of one place",
            )  # fmt: skip

    def _compressed(self, name: str) -> Tensor:
        names = COMPRESSED.get(self.layout, ())
        if name not in names:
            raise KilnError(
                name, f"{name} is not defined for a {self.layout.name} tensor", describe(self),
                f"it has {' and '.join(names) or 'indices'}",
            )  # fmt: skip
        return self._a.parts[names.index(name)]

    def crow_indices(self) -> Tensor:
        """Where each row's elements begin, and where the last one's end."""
        return self._compressed("crow_indices")

    def col_indices(self) -> Tensor:
        """The column of each element."""
        return self._compressed("col_indices")

    def ccol_indices(self) -> Tensor:
        """Where each column's elements begin, and where the last one's end."""
        return self._compressed("ccol_indices")

    def row_indices(self) -> Tensor:
        """The row of each element."""
        return self._compressed("row_indices")

    def is_coalesced(self) -> bool:
        """Whether no place has two elements, and places are in order."""
        self._coo("is_coalesced")
        return self._a.coalesced

    def _coalesced_(self, coalesced: bool) -> SparseTensor:
        """Say whether it is coalesced, which is not looked at."""
        self._coo("_coalesced_")
        self._a.coalesced = bool(coalesced)
        return self

    def sparse_dim(self) -> int:
        """How many dimensions are sparse."""
        return self._a.parts[0].shape[0] if self.is_sparse else 2

    def dense_dim(self) -> int:
        """How many dimensions of each stored element are dense."""
        if self.is_sparse:
            return self.ndim - self.sparse_dim()
        block = 2 if self.layout in (formats.sparse_bsr, formats.sparse_bsc) else 0
        return self._a.parts[2].ndim - self._a.parts[1].ndim - block

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        from .printing import sparse_repr

        return sparse_repr(self)

    # ---- copies

    def _with(self, values: Tensor, shape: Any = None) -> SparseTensor:
        """The same places with other values."""
        a = self._a
        shape = a.shape if shape is None else shape
        return SparseArray(a.layout, shape, (*a.parts[:-1], values), a.coalesced).tensor()

    def _values_of(self, g: Tensor) -> Tensor:
        dense = g.to_dense() if isinstance(g, SparseTensor) else g
        return dense.sparse_mask(self)._a.parts[-1]

    def __deepcopy__(self, memo: dict) -> SparseTensor:
        if id(self) not in memo:
            a = self._a
            parts = tuple(copy.deepcopy(p, memo) for p in a.parts)
            memo[id(self)] = SparseArray(a.layout, a.shape, parts, a.coalesced).tensor()
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        a = self._a
        return _unpickled, (a.layout, a.shape, a.parts, a.coalesced)

    def _rebuilding(self) -> tuple:
        """What PyTorch's files tell of it beside its layout."""
        a = self._a
        if self.is_sparse:
            return (*a.parts, Size(a.shape), a.coalesced)
        return (*a.parts, Size(a.shape))

    def copy_(self, src: Any, non_blocking: bool = False) -> SparseTensor:
        """Take over the elements of another sparse tensor; returns self."""
        if not isinstance(src, SparseTensor) or src.layout is not self.layout:
            raise KilnNotImplementedError(
                "copy_", "only tensors of one layout are copied", describe(src), "src.to_sparse()"
            )
        if src.shape != self.shape:
            raise KilnError("copy_", "expected a source of this size", describe(src), "")
        self._a = src._with(src._a.parts[-1].to(self.dtype, copy=True))._a
        return self

    def zero_(self) -> SparseTensor:
        """Forget all elements; returns self."""
        index, values = self._coo("zero_")
        n = index.shape[0]
        none = values.detach().new_zeros((0, *values.shape[1:]))
        self._a = SparseArray(self.layout, self.shape, (index.new_zeros((n, 0)), none))
        return self

    def __getitem__(self, key: Any) -> Tensor:
        """Numbers and slices of the first dimensions: x[2], x[:, 1:3]."""
        from .calls import select

        return select(self, key if isinstance(key, tuple) else (key,))

    # ---- between layouts

    def to_sparse(self, sparse_dim: Any = None, *, layout: Any = None, blocksize: Any = None, dense_dim: Any = None) -> Tensor:  # fmt: skip
        """This tensor in another sparse layout (`sparse_coo` unless given)."""
        from .convert import to_layout

        if dense_dim is not None:
            raise KilnError(
                "to_sparse", "conversion from a sparse layout with dense_dim argument given is not supported", describe(self),
                "x.to_dense() first",
            )  # fmt: skip
        return to_layout(self, layout or formats.sparse_coo, blocksize)

    def coalesce(self) -> SparseTensor:
        """Elements of one place summed, places in row-major order; itself where it is so."""
        index, values = self._coo("coalesce")
        if self._a.coalesced:
            return self
        shape = self.shape
        n = index.shape[0]
        places = np.ravel_multi_index(tuple(index._host("coalesce")), shape[:n]) if n else None
        if places is None or len(places) == 0:
            return SparseArray(self.layout, shape, (index, values)).tensor()
        kept, inverse = np.unique(places, return_inverse=True)
        at = from_array(np.stack(np.unravel_index(kept, shape[:n])).astype(np.int64))
        rows = values.reshape(len(places), -1)
        summed = embedding_grad(rows, from_array(inverse), len(kept), None, False)
        return SparseArray(self.layout, shape, (at, summed.reshape(len(kept), *shape[n:]))).tensor()

    def to_dense(self, dtype: Any = None, *, masked_grad: bool | None = None) -> Tensor:
        """The strided tensor with these elements, zero elsewhere."""
        x = self if self.is_sparse else self.to_sparse_coo()
        index, values = x._a.parts
        n, shape = index.shape[0], self.shape
        if values.dtype is dt.bool_:
            return x._with(values.to(dt.uint8)).to_dense().to(dt.bool_)
        cells = numel(shape[:n])
        rows = values.reshape(values.shape[0], numel(shape[n:]))
        out = embedding_grad(rows, flat_index(index, shape[:n]), cells, None, False)
        out = out.reshape(shape)
        return out if dtype is None else out.to(dtype)


def flat_index(index: Tensor, shape: Any) -> Tensor:
    """The places of indices, one row for each dimension, in row-major order."""
    out = index.new_zeros((index.shape[1],))
    for i, size in enumerate(shape):
        out = out * size + index[i]
    return out


def from_array(a: np.ndarray) -> Tensor:
    """A tensor of an array of indices."""
    return wrap(a.astype(np.int64, copy=False))


def coo(index: Tensor, values: Tensor, shape: Any, coalesced: bool = False) -> SparseTensor:
    """A COO tensor of parts that are known to fit."""
    return SparseArray(formats.sparse_coo, shape, (index, values), coalesced).tensor()


def _unpickled(layout: Any, shape: Any, parts: tuple, coalesced: bool) -> SparseTensor:
    return SparseArray(layout, shape, parts, coalesced).tensor()
