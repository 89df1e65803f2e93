"""Sparse tensors: PyTorch's `torch.sparse`. What is implemented is listed in docs/sparse.md.

`sparse_coo` tensors of any number of dimensions, matrices in `sparse_csr`, `sparse_csc`, `sparse_bsr` and
`sparse_bsc`; products with dense tensors, arithmetic, reductions and conversions, all with gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from .. import formats
from ..errors import KilnError, KilnNotImplementedError, describe
from ..ops.embedding import embedding_grad
from ..ops.registry import FUNCTIONS
from ..shape import norm_dim
from ..tensor import Tensor
from .construct import (
    legacy,
    rebuild,
    sparse_bsc_tensor,
    sparse_bsr_tensor,
    sparse_compressed_tensor,
    sparse_coo_tensor,
    sparse_csc_tensor,
    sparse_csr_tensor,
)
from .tensor import SparseTensor, coo, flat_index, from_array

FloatTensor, DoubleTensor = legacy("FloatTensor", dt.float32), legacy("DoubleTensor", dt.float64)
LongTensor, IntTensor = legacy("LongTensor", dt.int64), legacy("IntTensor", dt.int32)
HalfTensor, ByteTensor = legacy("HalfTensor", dt.float16), legacy("ByteTensor", dt.uint8)


def mm(mat1: Tensor, mat2: Tensor, reduce: str | None = None) -> Tensor:
    """The product of matrices of which at least one is sparse; gradients of it are sparse as it is.

    `reduce` ("sum", "mean", "amax" or "max", "amin" or "min") of the products of a CSR matrix with a dense one.
    """
    reduce = {"max": "amax", "min": "amin"}.get(reduce or "", reduce)
    if not isinstance(mat1, SparseTensor) and not isinstance(mat2, SparseTensor):
        raise KilnError("sparse.mm", "expected a sparse matrix", describe((mat1, mat2)), "x @ y")
    if mat1.ndim != 2 or mat2.ndim != 2:
        raise KilnError("sparse.mm", "expected matrices", describe((mat1, mat2)), "kiln.bmm")
    if reduce is None or reduce == "sum":
        return FUNCTIONS["mm"](mat1, mat2)
    if reduce not in ("mean", "amax", "amin") or mat1.layout is not formats.sparse_csr:
        raise KilnError(
            "sparse.mm", "reduce is sum, mean, amax or amin of a CSR matrix", reduce, ""
        )
    rows, columns = mat1.to_sparse_coo()._indices()  # type: ignore[attr-defined]
    products = mat1.values().unsqueeze(1) * mat2.index_select(0, columns)
    zeros = products.new_zeros((mat1.shape[0], mat2.shape[1]))
    at = rows.unsqueeze(1).expand(products.shape)
    return zeros.scatter_reduce(0, at, products, reduce, include_self=False)


def smm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of a sparse and a dense matrix as a sparse matrix."""
    return mm(input, mat2).to_sparse()


def hspmm(mat1: Tensor, mat2: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The product of a sparse and a dense matrix with sparse rows and dense columns."""
    r = mm(mat1, mat2).to_sparse(1)
    return r if out is None else out.copy_(r)


def sspaddmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """beta * input + alpha * (mat1 @ mat2), where all but mat2 are sparse."""
    r = input * beta + smm(mat1, mat2) * alpha
    return r if out is None else out.copy_(r)


def spmm(input: Tensor, mat2: Tensor) -> Tensor:
    """`kiln.mm` by its older name."""
    return FUNCTIONS["mm"](input, mat2)


def addmm(mat: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """beta * mat + alpha * (mat1 @ mat2) with a sparse mat1."""
    return FUNCTIONS["addmm"](mat, mat1, mat2, beta=beta, alpha=alpha)


def sum(input: SparseTensor, dim: Any = None, dtype: Any = None) -> Tensor:
    """The sum of a sparse tensor's elements, or over dimensions: sparse where sparse dimensions are left."""
    x = input if dtype is None else input.to(dtype)
    return x.sum() if dim is None else x.sum(dim)


def sampled_addmm(
    input: SparseTensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1.0, alpha: Any = 1.0, out: Any = None
) -> Tensor:  # fmt: skip
    """alpha * (mat1 @ mat2) at the places of a CSR matrix, plus beta times its elements."""
    if (
        input.layout is not formats.sparse_csr
        or mat1.ndim != 2
        or mat2.ndim != 2
        or out is not None
    ):
        raise KilnError("sampled_addmm", "expected a CSR matrix and two dense ones",
                        describe((input, mat1, mat2)), "x.to_sparse_csr()")  # fmt: skip
    if (mat1.shape[0], mat2.shape[1]) != tuple(input.shape) or mat1.shape[1] != mat2.shape[0]:
        raise KilnError("sampled_addmm", "sizes differ", describe((input, mat1, mat2)), "")
    rows, columns = input.to_sparse_coo()._indices()  # type: ignore[attr-defined]
    products = (mat1.index_select(0, rows) * mat2.t().index_select(0, columns)).sum(1)
    return input._with(products * alpha + input.values() * beta)


def softmax(input: SparseTensor, dim: int, *, dtype: Any = None) -> SparseTensor:
    """The softmax over the stored elements along a dimension: others count as minus infinity."""
    return _softmax(input, dim, dtype, "softmax")


def log_softmax(input: SparseTensor, dim: int, *, dtype: Any = None) -> SparseTensor:
    """The logarithm of `softmax`."""
    return _softmax(input, dim, dtype, "log_softmax")


def _softmax(x: SparseTensor, dim: int, dtype: Any, name: str) -> Any:
    x = (x if dtype is None else x.to(dtype)) if x.is_sparse else x.to_sparse_coo()  # type: ignore[assignment]
    x = x.coalesce()
    index, values = x._a.parts
    d, n = norm_dim(dim, x.ndim, name), x.sparse_dim()
    if d >= n:
        return x._with(getattr(values, name)(d - n + 1))
    others = [i for i in range(n) if i != d]
    shape = [x.shape[i] for i in others]
    at = flat_index(FUNCTIONS["stack"]([index[i] for i in others]), shape) if others else None
    flat = np.zeros(values.shape[0], np.int64) if at is None else at._host(name)
    kept, inverse = np.unique(flat, return_inverse=True)
    line = from_array(inverse)
    a = values._a.reshape(values.shape[0], -1)
    top = np.full((len(kept), a.shape[1]), -np.inf, a.dtype)
    np.maximum.at(top, inverse, a)
    rows = values.reshape(*a.shape) - FUNCTIONS["tensor"](top).index_select(0, line)
    total = embedding_grad(rows.exp(), line, len(kept), None, False).index_select(0, line)
    out = rows.exp() / total if name == "softmax" else rows - total.log()
    return x._with(out.reshape(values.shape))


def spdiags(diagonals: Tensor, offsets: Tensor, shape: Any, layout: Any = None) -> Tensor:
    """A sparse matrix with rows of `diagonals` on the diagonals that `offsets` names."""
    d = diagonals.reshape(1, -1) if diagonals.ndim == 1 else diagonals
    off = offsets.reshape(-1)
    if d.ndim != 2 or d.shape[0] != off.shape[0] or len(shape) != 2:
        raise KilnError("spdiags", "expected one offset for each row of diagonals and a matrix's shape",
                        f"{describe(d)}, {describe(off)}, {shape}", "")  # fmt: skip
    o = off._host("spdiags")
    if len(set(o.tolist())) != len(o):
        raise KilnError("spdiags", "offsets are not distinct", o.tolist(), "")
    line, column = np.nonzero(
        (np.arange(d.shape[1]) - o[:, None] >= 0)
        & (np.arange(d.shape[1]) - o[:, None] < shape[0])
        & (np.arange(d.shape[1]) < shape[1])
    )
    index = from_array(np.stack([column - o[line], column]))
    values = d.reshape(-1).index_select(0, from_array(line * d.shape[1] + column))
    out = coo(index, values, shape).coalesce()
    if layout not in (None, formats.sparse_coo, formats.sparse_csr, formats.sparse_csc):
        raise KilnError(
            "spdiags", "only COO, CSR and CSC are diagonal layouts", describe(layout), ""
        )
    return out if layout is None else out.to_sparse(layout=layout)


class check_sparse_tensor_invariants:
    """A context manager and decorator of PyTorch's: Kiln checks the parts of sparse tensors at all times."""

    def __init__(self, enable: bool = True):
        if not enable:
            raise KilnNotImplementedError(
                "check_sparse_tensor_invariants", "checks can't be turned off", enable, ""
            )

    @staticmethod
    def is_enabled() -> bool:
        """Whether parts are checked."""
        return True

    @staticmethod
    def enable() -> None:
        """Check parts, which is done anyway."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


__all__ = [
    "SparseTensor", "addmm", "check_sparse_tensor_invariants", "hspmm", "log_softmax", "mm", "rebuild", "sampled_addmm",
    "smm", "softmax", "sparse_bsc_tensor", "sparse_bsr_tensor", "sparse_compressed_tensor", "sparse_coo_tensor",
    "sparse_csc_tensor", "sparse_csr_tensor", "spdiags", "spmm", "sspaddmm", "sum",
]  # fmt: skip
