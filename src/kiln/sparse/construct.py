"""Sparse tensors from their parts, which are looked at: a place outside of the tensor is an error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from .. import formats
from ..device import as_device
from ..errors import KilnError, KilnTypeError, describe
from ..ops.creation import as_tensor, empty
from ..shape import Size
from ..tensor import Tensor
from .tensor import COMPRESSED, SparseArray, SparseTensor


def _refuse(name: str, what: str, received: Any, help: str = "") -> Any:
    raise KilnError(name, what, received, help)


def _values(values: Any, dtype: Any, requires_grad: bool) -> Tensor:
    v = as_tensor(values)
    v = v if dtype is None else v.to(dt.as_dtype(dtype))
    return v.detach().requires_grad_() if requires_grad else v


def _indices(name: str, x: Any) -> Tensor:
    t = as_tensor(x)
    if t.numel() == 0 and t.dtype.is_floating_point and not isinstance(x, Tensor):
        t = t.to(dt.int64)  # an empty list
    if t.dtype.category != dt.INT:
        raise KilnTypeError(name, "indices must be integers", describe(t), "x.long()")
    return t.detach()


def _sizes(name: str, size: Any) -> tuple[int, ...]:
    out = tuple(int(s) for s in size)
    return out if all(s >= 0 for s in out) else _refuse(name, "sizes must not be negative", out)


def _known(t: Tensor) -> bool:
    """Whether the values can be looked at: not while a function is captured."""
    return isinstance(t._a, np.ndarray)


def sparse_coo_tensor(
    indices: Any, values: Any = None, size: Sequence[int] | None = None, *, dtype: Any = None, device: Any = None,
    pin_memory: bool = False, requires_grad: bool = False, check_invariants: bool | None = None,
    is_coalesced: bool | None = None,
) -> SparseTensor:  # fmt: skip
    """A COO tensor: `values[i]` at the place `indices[:, i]`; elements of one place add up.

    indices (sparse_dim, n) int; values (n, *dense); the size is inferred from both where it is left out.
    `sparse_coo_tensor(size)` has no elements. Indices out of range are a RuntimeError.
    """
    name = "sparse_coo_tensor"
    as_device(device)
    if values is None:
        shape = _sizes(name, indices if size is None else size)
        d = dt.get_default_dtype() if dtype is None else dt.as_dtype(dtype)
        parts = (
            empty((len(shape), 0), dtype=dt.int64),
            _values(empty(0, dtype=d), d, requires_grad),
        )
        return SparseArray(formats.sparse_coo, shape, parts).tensor()
    index, v = _indices(name, indices).to(dt.int64), _values(values, dtype, requires_grad)
    given = f"indices={describe(index)}, values={describe(v)}, size={size}"
    if index.ndim != 2:
        _refuse(
            name, "indices must be sparse_dim x nnz", given, "one row for each sparse dimension"
        )
    if v.ndim == 0 and index.shape[1] == 1:
        v = v.reshape(1)
    n, nnz = index.shape
    if v.ndim == 0 or v.shape[0] != nnz:
        _refuse(name, "indices and values must have the same nnz", given)
    if size is None:
        if nnz == 0 and n:
            _refuse(name, "the size can't be inferred without elements", given, "pass size=")
        top = tuple(int(i) + 1 for i in index._host(name).max(1)) if n else ()
        shape = (*top, *v.shape[1:])
    else:
        shape = _sizes(name, size)
        if len(shape) != n + v.ndim - 1:
            _refuse(name, "number of dimensions must be sparse_dim + dense_dim", given)
        if tuple(shape[n:]) != tuple(v.shape[1:]):
            _refuse(name, "values has incorrect size for the dense dimensions", given)
    if _known(index) and nnz:
        for d, row in enumerate(index._a):
            if row.min() < 0:
                _refuse(name, f"found negative index {row.min()} for dim {d}", given)
            if row.max() >= shape[d]:
                _refuse(name, f"size is inconsistent with indices: for dim {d}, size is {shape[d]} "
                        f"but found index {row.max()}", given)  # fmt: skip
    done = bool(is_coalesced) or nnz == 0
    return SparseArray(formats.sparse_coo, shape, (index, v), done).tensor()


def sparse_compressed_tensor(
    compressed_indices: Any, plain_indices: Any, values: Any, size: Sequence[int] | None = None, *,
    dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: bool = False,
    requires_grad: bool = False, check_invariants: bool | None = None, _name: str = "sparse_compressed_tensor",
) -> SparseTensor:  # fmt: skip
    """A matrix in a compressed layout: where each line's elements begin, their places in it, their values.

    compressed_indices (lines + 1), plain_indices (n), values (n, *dense), of blocks (n, h, w, *dense).
    """
    as_device(device)
    if layout not in COMPRESSED:
        _refuse(_name, "layout must be a compressed one", describe(layout), "kiln.sparse_csr")
    starts, others = _indices(_name, compressed_indices), _indices(_name, plain_indices)
    v = _values(values, dtype, requires_grad)
    first, second = COMPRESSED[layout]
    given = f"{first}={describe(starts)}, {second}={describe(others)}, values={describe(v)}, size={size}"
    if starts.dtype is not others.dtype or starts.dtype not in (dt.int32, dt.int64):
        _refuse(_name, f"{first} and {second} must be int32 or int64 alike", given)
    blocked = "bs" in layout.name
    if starts.ndim != 1 or others.ndim != 1 or v.ndim < (3 if blocked else 1):
        _refuse(_name, f"{first} and {second} must be 1-d and values {'blocks' if blocked else '1-d'}",
                given, "batches of compressed matrices are not implemented")  # fmt: skip
    if len(starts.shape) and starts.shape[0] < 1:
        _refuse(_name, f"{first} must have at least one element", given)
    h, w = v.shape[1:3] if blocked else (1, 1)
    lines, nnz = starts.shape[0] - 1, others.shape[0]
    if v.shape[0] != nnz:
        _refuse(_name, f"{second} and values must have the same length", given)
    rows_first = first == "crow_indices"
    dense = v.shape[3:] if blocked else v.shape[1:]
    if size is None:
        most = int(others._host(_name).max()) + 1 if nnz else 0
        shape = (lines * h, most * w) if rows_first else (most * h, lines * w)
        shape = (*shape, *dense)
    else:
        shape = _sizes(_name, size)
    if len(shape) != 2 + len(dense) or tuple(shape[2:]) != tuple(dense):
        _refuse(_name, "size must be that of a matrix and the values' dense dimensions", given)
    grid = (shape[0] // h, shape[1] // w) if h and w else (0, 0)
    along, across = grid if rows_first else grid[::-1]
    if (grid[0] * h, grid[1] * w) != shape[:2] or lines != along:
        _refuse(_name, f"{first} must have one element more than there are lines", given)
    if _known(starts) and _known(others):
        s, o = starts._a, others._a
        if s[0] != 0 or s[-1] != nnz or (np.diff(s) < 0).any() or (np.diff(s) > across).any():
            _refuse(_name, f"{first} must go from 0 to nnz in steps from 0 to {across}", given)
        if nnz and (o.min() < 0 or o.max() >= across):
            _refuse(_name, f"{second} must be in [0, {across})", given)
        line = np.repeat(np.arange(lines), np.diff(s))
        if ((np.diff(o) <= 0) & (np.diff(line) == 0)).any():
            _refuse(_name, f"{second} must be sorted and distinct in each line", given)
    return SparseArray(layout, shape, (starts, others, v)).tensor()


def _named(name: str, layout: Any) -> Any:
    names = dict(zip(COMPRESSED[layout], ("compressed_indices", "plain_indices"), strict=True))

    def make(*args: Any, **kwargs: Any) -> SparseTensor:
        kwargs = {names.get(k, k): v for k, v in kwargs.items()}
        return sparse_compressed_tensor(*args, **kwargs, layout=layout, _name=name)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"""A matrix of layout `{layout.name}`: {", ".join(names)}, values, size.

    See `sparse_compressed_tensor`.
    """
    return make


sparse_csr_tensor = _named("sparse_csr_tensor", formats.sparse_csr)
sparse_csc_tensor = _named("sparse_csc_tensor", formats.sparse_csc)
sparse_bsr_tensor = _named("sparse_bsr_tensor", formats.sparse_bsr)
sparse_bsc_tensor = _named("sparse_bsc_tensor", formats.sparse_bsc)


def rebuild(layout: Any, parts: tuple) -> SparseTensor:
    """A sparse tensor from what PyTorch's files tell of it."""
    if layout is formats.sparse_coo:
        index, values, size, *coalesced = parts
        return sparse_coo_tensor(index, values, size, is_coalesced=any(coalesced))
    starts, others, values, size = parts
    return sparse_compressed_tensor(starts, others, values, size, layout=layout)


def legacy(name: str, d: dt.dtype) -> Any:
    """`FloatTensor(indices, values, size)`, as older programs make sparse tensors."""

    def make(*args: Any) -> SparseTensor:
        if len(args) >= 2 and isinstance(args[0], Tensor):
            return sparse_coo_tensor(args[0], args[1], *args[2:3], dtype=d)
        shape = args[0] if len(args) == 1 and isinstance(args[0], list | tuple | Size) else args
        return sparse_coo_tensor(shape, dtype=d)

    make.__name__ = make.__qualname__ = name
    make.__doc__ = f"A COO tensor of {d.name}: `{name}(indices, values, size)`."
    return make
