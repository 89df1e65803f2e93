"""Ops on sparse tensors: their sparse forms by the name of the op. What has none is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import formats
from ..autograd.modes import mode
from ..errors import KilnError, KilnIndexError, KilnNotImplementedError, describe
from ..ops.dispatch import apply
from ..ops.embedding import embedding_grad
from ..ops.registry import FUNCTIONS, Op
from ..ops.storing import bump
from ..shape import Size, norm_dim, norm_dims, numel
from ..tensor import CAPTURING, Tensor
from .tensor import SparseTensor, coo, flat_index

FORMS: dict[str, Callable] = {}
"""By an op's name: its form, called with the op's arguments, of which at least one is sparse."""

KEEPS_ZERO = {
    "abs", "asin", "asinh", "atan", "atanh", "ceil", "conj", "deg2rad", "erf", "erfinv", "expm1", "floor", "frac",
    "isinf", "isnan", "log1p", "neg", "positive", "rad2deg", "relu", "round", "sgn", "sign", "signbit", "sin", "sinh",
    "sqrt", "square", "tan", "tanh", "trunc", "isneginf", "isposinf",
}  # fmt: skip
"""Ops of one tensor whose value at zero is zero: they act on the stored elements."""


def form(*names: str) -> Callable[[Callable], Callable]:
    """Name the decorated function as the sparse form of ops."""

    def register(fn: Callable) -> Callable:
        FORMS.update(dict.fromkeys(names, fn))
        return fn

    return register


def call(op: Op, args: tuple) -> Any:
    """The result of an op of which an argument is sparse."""
    if op.infer is not None:
        op.infer(*args)  # raises the op's own errors
    fn = FORMS.get(op.name)
    if fn is None and op.name in KEEPS_ZERO:
        x = args[0].coalesce() if args[0].is_sparse else args[0]
        return x._with(apply(op, (x.values(), *args[1:])))
    r = NotImplemented if fn is None else fn(*args)
    if r is NotImplemented:
        raise KilnNotImplementedError(
            op.name, "not implemented for these layouts",
            ", ".join(f"{x.layout.name} {describe(x)}" for x in op.flat_tensors(args)),
            "x.to_dense(), or work on x.indices() and x.values()",
        )  # fmt: skip
    return r


def inplace(op: Op, args: tuple) -> Tensor:
    """An op whose result is stored in its first argument."""
    x, y, weight = (*args, None, None)[:3]
    if isinstance(x, SparseTensor):
        if mode.grad and x.requires_grad and x.is_leaf:
            raise KilnError(
                op.name + "_", "a leaf Variable that requires grad is being used in an in-place operation",
                describe(x), "use the out-of-place form, or kiln.no_grad()",
            )  # fmt: skip
        r = call(op, args)
        if not isinstance(r, SparseTensor):
            raise KilnError(op.name + "_", "the result is dense", describe(x), "x.to_dense() first")
        x._a = r._a
        return x
    plain = not CAPTURING and not (mode.grad and (y.requires_grad or x.requires_grad))
    if plain and op.name in ("add", "sub") and x.shape == y.shape and x._a.flags.writeable:
        return _scatter(x, y, weight if op.name == "add" else -weight)
    return x.copy_(call(op, args))


def _scatter(x: Tensor, y: SparseTensor, weight: Any) -> Tensor:
    """Add a sparse tensor's elements where they belong: a table's rows, no more."""
    y = (y if y.is_sparse else y.to_sparse_coo()).coalesce()
    index, values = y._a.parts
    at = tuple(index._host("add_"))
    a = x._a
    a[at] += (values._host("add_") * weight).astype(a.dtype, copy=False)
    bump(x)
    return x


# ---------------------------------------------------------------- elementwise


def _coo(x: Any) -> SparseTensor:
    return x if x.is_sparse else x.to_sparse_coo()


def _is_sparse(x: Any) -> bool:
    return isinstance(x, SparseTensor)


def _like(out: SparseTensor, x: SparseTensor) -> Any:
    """A COO result in the layout of an operand."""
    return out if x.is_sparse else out.to_sparse(layout=x.layout)


@form("add")
def _add(x: Any, y: Any, alpha: Any = 1) -> Any:
    if not _is_sparse(x):
        if not isinstance(x, Tensor):
            return NotImplemented
        y = y if y.shape == x.shape else NotImplemented
        return NotImplemented if y is NotImplemented else x + y.to_dense() * alpha
    if not _is_sparse(y):
        return NotImplemented if not isinstance(y, Tensor) else x.to_dense() + y * alpha
    if x.shape != y.shape:
        raise KilnError(
            "add", "expected sparse tensors of one size", f"{describe(x)}, {describe(y)}",
            "sparse tensors don't broadcast",
        )  # fmt: skip
    a, b = _coo(x), _coo(y)
    (i, v), (j, w) = a._a.parts, b._a.parts
    w = w if alpha == 1 else w * alpha
    cat = FUNCTIONS["cat"]
    out = coo(cat([i, j], 1), cat([v, w], 0), x.shape)
    return out if x.is_sparse else _like(out.coalesce(), x)


@form("sub")
def _sub(x: Any, y: Any, alpha: Any = 1) -> Any:
    return _add(x, y, -alpha)


@form("mul")
def _mul(x: Any, y: Any) -> Any:
    if not _is_sparse(x):
        x, y = y, x
    if not isinstance(y, Tensor) or (y.ndim == 0 and not _is_sparse(y)):
        return x._with(x._a.parts[-1] * y)
    x = _coo(x).coalesce() if _is_sparse(y) else x
    if not x.is_sparse:
        return _like(_mul(_coo(x), y), x)
    if not _is_sparse(y):
        if y.shape != x.shape:
            y = y.expand(x.shape)
        return x._with(x._a.parts[1] * _gather(y, x))
    if x.shape != y.shape:
        return NotImplemented
    y = _coo(y).coalesce()
    shape = x.shape[: x.sparse_dim()]
    a, b = (flat_index(t._a.parts[0], shape)._host("mul") for t in (x, y))
    _, i, j = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    tensor = FUNCTIONS["tensor"]
    i, j = tensor(i), tensor(j)
    values = x._a.parts[1].index_select(0, i) * y._a.parts[1].index_select(0, j)
    return coo(x._a.parts[0].index_select(1, i), values, x.shape, True)


@form("div")
def _div(x: Any, y: Any, rounding_mode: Any = None) -> Any:
    if not _is_sparse(x) or _is_sparse(y) or (isinstance(y, Tensor) and y.ndim):
        return NotImplemented
    x = x.coalesce() if rounding_mode is not None and x.is_sparse else x
    return x._with(x._a.parts[-1].div(y, rounding_mode=rounding_mode))


@form("pow")
def _pow(x: Any, exponent: Any) -> Any:
    if not _is_sparse(x) or isinstance(exponent, Tensor) or not exponent > 0:
        return NotImplemented
    x = x.coalesce() if x.is_sparse else x
    return x._with(x.values() ** exponent)


@form("clone")
def _clone(x: Any, memory_format: Any = None) -> Any:
    a = x._a
    parts = [p.clone() for p in a.parts]
    return type(a)(a.layout, a.shape, tuple(parts), a.coalesced).tensor()


@form("cast")
def _cast(x: Any, dtype: Any) -> Any:
    return x._with(x._a.parts[-1].to(dtype))


# ---------------------------------------------------------------- movement and reduction


@form("permute")
def _permute(x: Any, dims: Any) -> Any:
    order = [d % x.ndim for d in dims]
    if not x.is_sparse:
        if order != [1, 0]:
            return NotImplemented
        turned = {"sparse_csr": "sparse_csc", "sparse_csc": "sparse_csr",
                  "sparse_bsr": "sparse_bsc", "sparse_bsc": "sparse_bsr"}[x.layout.name]  # fmt: skip
        a = x._a
        values = a.parts[2]
        values = values.transpose(1, 2) if "bs" in turned else values
        shape = (a.shape[1], a.shape[0])
        return type(a)(formats.BY_NAME[turned], shape, (*a.parts[:2], values)).tensor()
    n = x.sparse_dim()
    if sorted(order[:n]) != list(range(n)):
        return NotImplemented
    index, values = x._a.parts
    index = FUNCTIONS["stack"]([index[d] for d in order[:n]]) if n else index
    values = values.permute(0, *(d - n + 1 for d in order[n:]))
    kept = x._a.coalesced and order[:n] == list(range(n))
    return coo(index, values, [x.shape[d] for d in order], kept)


@form("sum")
def _sum(x: Any, dim: Any, keepdim: bool) -> Any:
    values = x._a.parts[-1]
    if dim is None:
        return values.sum()
    if keepdim:
        return NotImplemented
    x = _coo(x)
    index, values = x._a.parts
    n = x.sparse_dim()
    dims = norm_dims(dim, x.ndim, "sum")
    dense = [d - n + 1 for d in dims if d >= n]
    values = values.sum(dense) if dense else values
    kept = [d for d in range(n) if d not in dims]
    shape = [s for d, s in enumerate(x.shape) if d not in dims]
    if not kept:
        return values.sum(0)
    out = coo(FUNCTIONS["stack"]([index[d] for d in kept]), values, shape)
    return out if len(kept) < n else coo(index, values, shape, x._a.coalesced)


@form("index_select")
def _index_select(x: Any, dim: int, index: Tensor) -> Any:
    x = _coo(x)
    d, n = norm_dim(dim, x.ndim), x.sparse_dim()
    places, values = x._a.parts
    shape = [index.shape[0] if i == d else s for i, s in enumerate(x.shape)]
    if d >= n:
        return coo(places, values.index_select(d - n + 1, index), shape, x._a.coalesced)
    wanted = index._host("index_select")
    at, of = np.nonzero(places._host("index_select")[d][None, :] == wanted[:, None])
    tensor = FUNCTIONS["tensor"]
    picked = places.index_select(1, tensor(of)).clone()
    picked[d] = tensor(at)
    return coo(picked, values.index_select(0, tensor(of)), shape)


def select(x: Any, keys: tuple) -> Tensor:
    """x[keys] for numbers and slices, one for each dimension from the first."""
    x = _coo(x)
    d = 0
    for k in keys:
        n = x.sparse_dim()
        if isinstance(k, slice) and d < n:
            if k != slice(None):
                x = _index_select(x, d, FUNCTIONS["arange"](*k.indices(x.shape[d])))
            d += 1
        elif isinstance(k, int) and d < n:
            if not -x.shape[d] <= k < x.shape[d]:
                raise KilnIndexError(
                    "index", f"index {k} is out of bounds for dimension {d}", describe(x), ""
                )
            x = _index_select(x, d, FUNCTIONS["tensor"]([k % x.shape[d]]))
            index, values = x._a.parts
            shape = (*x.shape[:d], *x.shape[d + 1 :])
            if n == 1:
                return values.sum(0)
            rest = FUNCTIONS["stack"]([index[i] for i in range(n) if i != d])
            x = coo(rest, values, shape, x._a.coalesced)
        else:
            raise KilnNotImplementedError(
                "index", "a sparse tensor takes numbers and slices of its sparse dimensions", describe(k),
                "x.to_dense()[…]",
            )  # fmt: skip
    return x


@form("cat")
def _cat(tensors: Any, dim: int = 0) -> Any:
    if not all(_is_sparse(t) for t in tensors):
        return NotImplemented
    parts = [_coo(t) for t in tensors]
    first = parts[0]
    d, n = norm_dim(dim, first.ndim), first.sparse_dim()
    if d >= n or any(p.sparse_dim() != n for p in parts):
        return NotImplemented
    indices, at = [], 0
    for p in parts:
        index = p._a.parts[0].clone()
        index[d] += at
        indices.append(index)
        at += p.shape[d]
    cat = FUNCTIONS["cat"]
    shape = [at if i == d else s for i, s in enumerate(first.shape)]
    return coo(cat(indices, 1), cat([p._a.parts[1] for p in parts], 0), shape)


@form("norm")
def _norm(x: Any, ord: Any, dim: Any, keepdim: bool) -> Any:
    whole = dim is None or len(norm_dims(dim, x.ndim)) == x.ndim
    if not whole or keepdim or ord < 0:
        return NotImplemented
    return (x.coalesce() if x.is_sparse else x)._a.parts[-1].norm(ord)


# ---------------------------------------------------------------- products


@form("matmul")
def matmul(x: Any, y: Any) -> Any:
    """The product of matrices, or of batches of them, of which one is sparse."""
    if not _is_sparse(x):  # (yᵀ xᵀ)ᵀ
        if x.ndim != 2 or y.ndim != 2:
            return NotImplemented
        return matmul(y.t(), x.t()).t()
    if _is_sparse(y):
        return _sparse_product(x, y)
    if x.ndim == 2 and y.ndim == 1:
        return matmul(x, y.unsqueeze(1)).squeeze(1)
    x = _coo(x)
    if x.dense_dim() or x.ndim != y.ndim or x.ndim not in (2, 3):
        return NotImplemented
    if x.ndim == 3 and x.shape[0] != y.shape[0]:
        return NotImplemented
    index, values = x._a.parts
    m, n = x.shape[-2], y.shape[-1]
    rows, columns = index[-2], index[-1]
    if x.ndim == 3:
        rows, columns = index[0] * m + rows, index[0] * y.shape[1] + columns
    table = y.reshape(numel(y.shape[:-1]), n)
    products = values.unsqueeze(1) * table.index_select(0, columns)
    out = embedding_grad(products, rows, numel(x.shape[:-1]), None, False)
    return out.reshape(*x.shape[:-1], n)


def _sparse_product(x: SparseTensor, y: SparseTensor) -> Any:
    """Of two sparse matrices: each element of x meets the elements of a row of y."""
    if x.ndim != 2 or y.ndim != 2 or _coo(x).dense_dim() or _coo(y).dense_dim():
        return NotImplemented
    a, b = _coo(x).coalesce(), _coo(y).coalesce()
    (i, v), (j, w) = a._a.parts, b._a.parts
    first = np.searchsorted(j._host("mm")[0], np.arange(y.shape[0] + 1))
    inner = i._host("mm")[1]
    counts = first[inner + 1] - first[inner]
    of_x = np.repeat(np.arange(len(inner)), counts)
    start = np.repeat(first[inner] - np.cumsum(counts) + counts, counts)
    of_y = start + np.arange(len(of_x))
    tensor, stack = FUNCTIONS["tensor"], FUNCTIONS["stack"]
    p, q = tensor(of_x.astype(np.int64)), tensor(of_y.astype(np.int64))
    index = stack([i[0].index_select(0, p), j[1].index_select(0, q)])
    values = v.index_select(0, p) * w.index_select(0, q)
    out = coo(index, values, (x.shape[0], y.shape[1])).coalesce()
    return _like(out, x)


@form("linear")
def _linear(x: Any, weight: Any, bias: Any = None) -> Any:
    if x.ndim != 2:
        return NotImplemented
    out = matmul(x, weight.t())
    return out if bias is None else out + bias


def _gather(dense: Tensor, x: SparseTensor) -> Tensor:
    """The elements of a dense tensor at the places of a COO tensor."""
    n = x.sparse_dim()
    shape = dense.shape
    flat = dense.reshape(numel(shape[:n]), *shape[n:])
    return flat.index_select(0, flat_index(x._a.parts[0], shape[:n]))


def mask(dense: Tensor, pattern: SparseTensor) -> SparseTensor:
    """The elements of a dense tensor at the places of a sparse one."""
    if dense.shape != Size(pattern.shape):
        raise KilnError(
            "sparse_mask", "expected a mask of the tensor's size", f"{describe(dense)}, {describe(pattern)}", "",
        )  # fmt: skip
    if pattern.is_sparse:
        return pattern._with(_gather(dense, pattern))
    return _like(mask(dense, pattern.to_sparse_coo()), pattern)
