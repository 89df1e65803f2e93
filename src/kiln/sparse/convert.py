"""Between layouts: strided, COO, and the compressed ones of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import formats
from ..dtypes import int32, int64
from ..errors import KilnError, KilnNotImplementedError, describe
from ..ops.creation import arange
from ..ops.embedding import embedding_grad
from ..ops.registry import FUNCTIONS
from ..ops.sorting import search_op
from ..tensor import Tensor
from .tensor import COMPRESSED, SparseArray, SparseTensor, coo, from_array

BLOCKED = (formats.sparse_bsr, formats.sparse_bsc)
BY_COLUMN = (formats.sparse_csc, formats.sparse_bsc)


def from_dense(x: Tensor, sparse_dim: int | None = None) -> SparseTensor:
    """A strided tensor's elements that are not zero; those of the last dimensions stay dense."""
    n = x.ndim if sparse_dim is None else sparse_dim
    if not (0 < n <= x.ndim or n == x.ndim == 0):
        raise KilnError(
            "to_sparse", f"sparse_dim must be in [1, {x.ndim}], got {n}", describe(x), "",
        )  # fmt: skip
    a = x.detach()._host("to_sparse")
    held = (a != 0).any(axis=tuple(range(n, x.ndim))) if n < x.ndim else a != 0
    at = np.argwhere(held).T if n else np.zeros((0, int(held)))
    places = np.flatnonzero(held)
    rows = x.reshape(-1, *x.shape[n:]) if x.numel() else x.reshape(held.size, *x.shape[n:])
    return coo(from_array(np.ascontiguousarray(at)), rows.index_select(0, from_array(places)), x.shape, True)  # fmt: skip


def to_layout(x: Tensor, layout: Any, blocksize: Any = None, sparse_dim: int | None = None) -> Any:
    """A tensor, strided or sparse, in a sparse layout."""
    if not isinstance(layout, formats.layout) or layout is formats.jagged:
        raise KilnError("to_sparse", "not a sparse layout", describe(layout), "kiln.sparse_csr")
    if layout is formats.strided:
        return x.to_dense()
    if isinstance(x, SparseTensor) and x.layout is layout and (layout not in BLOCKED or blocksize is None):  # fmt: skip
        return x
    if not isinstance(x, SparseTensor):
        if layout is not formats.sparse_coo and (x.ndim if sparse_dim is None else sparse_dim) != 2:
            _refuse_batches(x, f"to_{layout.name}")
        x = from_dense(x, sparse_dim)
    out = x if x.is_sparse else _coo(x)
    return out if layout is formats.sparse_coo else compress(out, layout, blocksize)


def _refuse_batches(x: Tensor, name: str) -> None:
    raise KilnNotImplementedError(
        name, "compressed layouts are of matrices, without batches", describe(x),
        "dense_dim= says how many last dimensions stay dense; kiln.sparse_coo takes any number of dimensions",
    )  # fmt: skip


def _matrix(x: Tensor, name: str) -> None:
    if x.ndim < 2 or (isinstance(x, SparseTensor) and x.is_sparse and x.sparse_dim() != 2):
        _refuse_batches(x, name)


def pointers(lines: Tensor, n: int) -> Tensor:
    """Where each of n lines begins in the sorted numbers of lines, and where the last ends."""
    return search_op(lines, FUNCTIONS["arange"](n + 1), False, lines.dtype)


def lines_of(pointers: Tensor, nnz: int) -> Tensor:
    """The line of each element, from where lines begin."""
    return search_op(pointers, FUNCTIONS["arange"](nnz), True, pointers.dtype) - 1


def compress(x: SparseTensor, layout: Any, blocksize: Any = None) -> SparseTensor:
    """A COO matrix in a compressed layout."""
    name = f"to_{layout.name}"
    _matrix(x, name)
    x = x.coalesce()
    (index, values), shape = x._a.parts, x.shape
    if layout in BLOCKED:
        index, values, grid = _blocks(index, values, shape, blocksize, name)
    elif blocksize is not None:
        raise KilnError(name, "a blocksize is for layouts of blocks", describe(blocksize), "")
    else:
        grid = shape
    lines, others = index[0], index[1]
    if layout in BY_COLUMN:
        order = (others * grid[0] + lines).argsort()
        lines, others = others.index_select(0, order), lines.index_select(0, order)
        values = values.index_select(0, order)
    count = grid[1] if layout in BY_COLUMN else grid[0]
    return SparseArray(layout, shape, (pointers(lines, count), others, values)).tensor()


def _blocks(index: Tensor, values: Tensor, shape: Any, blocksize: Any, name: str) -> tuple:
    """The places and values of the blocks that hold elements, and the shape in blocks."""
    if blocksize is None or len(blocksize) != 2:
        raise KilnError(name, "a blocksize of two numbers is needed", describe(blocksize), "(2, 2)")
    h, w = blocksize
    if shape[0] % h or shape[1] % w:
        raise KilnError(
            name, "the blocksize must divide the matrix", f"{list(shape)}, blocks {blocksize}", ""
        )
    r, c = index._host(name)
    grid = (shape[0] // h, shape[1] // w)
    kept, block = np.unique(r // h * grid[1] + c // w, return_inverse=True)
    cell = (block * h + r % h) * w + c % w
    rest = values.shape[1:]
    flat = embedding_grad(values.reshape(values.shape[0], int(np.prod(rest))), from_array(cell),
                          len(kept) * h * w, None, False)  # fmt: skip
    at = from_array(np.stack([kept // grid[1], kept % grid[1]]))
    return at, flat.reshape(len(kept), h, w, *rest), grid


def _coo(x: SparseTensor) -> SparseTensor:
    """A compressed matrix in the COO layout."""
    starts, others, values = x._a.parts
    if starts.ndim != 1:
        _matrix(coo(starts, values, (0,)), "to_sparse_coo")
    lines = lines_of(starts, others.shape[0])
    layout = x.layout
    rows, columns = (others, lines) if layout in BY_COLUMN else (lines, others)
    if layout in BLOCKED:
        n, h, w = values.shape[:3]
        arange = FUNCTIONS["arange"]
        rows = (rows.reshape(n, 1, 1) * h + arange(h).reshape(1, h, 1)).expand(n, h, w)
        columns = (columns.reshape(n, 1, 1) * w + arange(w)).expand(n, h, w)
        rows, columns = rows.reshape(n * h * w), columns.reshape(n * h * w)
        values = values.reshape(n * h * w, *values.shape[3:])
    index = FUNCTIONS["stack"]([rows, columns])
    out = coo(index, values, x.shape, layout is formats.sparse_csr)
    return out if layout is formats.sparse_csr else out.coalesce()


__all__ = ["COMPRESSED", "compress", "from_dense", "to_layout"]


def _convert_indices_from_coo_to_csr(
    input: Tensor, size: int, *, out_int32: bool = False, out: Tensor | None = None
) -> Tensor:
    """Where each of `size` rows begins and ends among sorted row indices, which programs call by its PyTorch name."""
    ends = FUNCTIONS["searchsorted"](input, arange(size + 1, dtype=input.dtype), out_int32=out_int32)  # fmt: skip
    return ends if out is None else out.copy_(ends)


def _convert_indices_from_csr_to_coo(
    crow_indices: Tensor, col_indices: Tensor, *, out_int32: bool = False, transpose: bool = False,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The indices of a CSR matrix as those of a COO one; `transpose` those of its transpose."""
    rows = arange(crow_indices.shape[-1] - 1).repeat_interleave(crow_indices.diff())
    pair = [col_indices, rows] if transpose else [rows, col_indices]
    indices = FUNCTIONS["stack"]([x.to(int32 if out_int32 else int64) for x in pair])
    return indices if out is None else out.copy_(indices)
