"""Indexing: reading and writing by position, by index tensors and by masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import mode
from ..errors import KilnError, KilnIndexError, describe
from ..shape import Size, broadcast_shapes, norm_dim, numel
from ..tensor import CAPTURING, Tensor, _fresh, active_capture
from . import dispatch
from .creation import arange, tensor
from .elementwise import where_op
from .movement import basic_index, normalize_index
from .registry import Operand, Sample, composition, method, op
from .samples import draw, rng


def indexing(**facts: Any) -> Any:
    """An op that reads or writes at indices."""
    return op(family="indexing", exact=True, **facts)


# ---------------------------------------------------------------- x[...]


def _split_index(index: Any) -> tuple[Any, bool]:
    """The index as a tuple with sequences as tensors, and whether it is basic (ints and slices only)."""
    items = index if isinstance(index, tuple) else (index,)
    out, basic = [], True
    for i in items:
        if isinstance(i, list | range):
            i = tensor(list(i)) if len(i) else tensor([], dtype=dt.int64)
        elif isinstance(i, np.ndarray):
            i = tensor(i)
        if isinstance(i, Tensor):
            if i.dtype.category > dt.INT:
                raise KilnIndexError(
                    "index", "tensors used as indices must be long, int, byte or bool tensors", describe(i),
                    "convert with .long()",
                )  # fmt: skip
            if i._a.ndim == 0 and i.dtype.category == dt.INT and isinstance(i._a, np.ndarray) and not active_capture():
                i = int(i._a)
            else:
                basic = False
        elif isinstance(i, bool | np.bool_):
            i, basic = tensor(bool(i)), False
        elif isinstance(i, float) or isinstance(i, str):
            raise KilnIndexError(
                "index", "only integers, slices, ellipsis, None and integer or bool tensors are valid indices",
                describe(i), "",
            )  # fmt: skip
        out.append(i)
    return tuple(out), basic


@method("__getitem__")
def getitem(self: Tensor, index: Any) -> Tensor:
    """Elements by ints, slices, None, Ellipsis (views) and by integer or bool tensors (copies)."""
    items, basic = _split_index(index)
    if basic:
        return basic_index(self, normalize_index(items, self._a.shape))
    x, tensors = _advanced(self, items)
    return gather_index(x, tensors)


def _advanced(x: Tensor, items: tuple) -> tuple[Tensor, list[Tensor | None]]:
    """The view under the basic parts of a mixed index, and its index tensors by dimension."""
    used = sum(1 if not (isinstance(i, Tensor) and i.dtype.category == dt.BOOL) else max(i._a.ndim, 0)
               for i in items if i is not None and i is not Ellipsis)  # fmt: skip
    if used > x._a.ndim:
        raise KilnIndexError("index", f"too many indices for tensor of dimension {x._a.ndim}", f"{used} indices", "")
    at = next((j for j, i in enumerate(items) if i is Ellipsis), None)
    fill = (slice(None),) * (x._a.ndim - used)
    items = (*items, *fill) if at is None else (*items[:at], *fill, *items[at + 1 :])
    basic: list[Any] = []
    tensors: list[Tensor | None] = []
    dim = 0
    for i in items:
        if i is None:
            basic.append(None)
            tensors.append(None)
        elif isinstance(i, Tensor) and i.dtype.category == dt.BOOL:
            if i._a.ndim == 0:  # a new dimension of size 0 or 1
                basic.append(None)
                tensors.append(i.reshape(1).nonzero()[:, 0])
                continue
            for k, n in enumerate(i._a.shape):
                if n != x._a.shape[dim + k]:
                    raise KilnIndexError(
                        "index", f"the shape of the mask {list(i._a.shape)} at index {k} does not match the shape "
                        f"of the indexed tensor {list(x._a.shape)} at index {dim + k}", describe(i), "",
                    )  # fmt: skip
                basic.append(slice(None))
            tensors.extend(i.nonzero(as_tuple=True))
            dim += i._a.ndim
        elif isinstance(i, Tensor):
            basic.append(slice(None))
            tensors.append(i)
            dim += 1
        else:
            basic.append(i)
            dim += 1
            if isinstance(i, slice):
                tensors.append(None)
    if any(b != slice(None) for b in basic):
        x = basic_index(x, normalize_index(tuple(basic), x._a.shape))
    return x, tensors + [None] * (x._a.ndim - len(tensors))


def _place(indices: list, ndim: int) -> tuple[list[int], bool]:
    """Dimensions that are indexed, and whether they stand side by side (the result replaces them)."""
    dims = [d for d in range(ndim) if d < len(indices) and indices[d] is not None]
    return dims, bool(dims) and dims[-1] - dims[0] + 1 == len(dims)


def _gather_index_shape(shape: Any, indices: list) -> Size:
    dims, together = _place(indices, len(shape))
    common = broadcast_shapes(*[indices[d].shape for d in dims], op="index")
    rest = [s for d, s in enumerate(shape) if d not in dims]
    at = dims[0] if together else 0
    return Size([*rest[:at], *common, *rest[at:]])


def _compact(indices: Any) -> tuple[list, tuple[int, ...]]:
    dims = tuple(d for d, i in enumerate(indices) if i is not None)
    return [indices[d] for d in dims], dims


def gather_index(x: Tensor, indices: list[Tensor | None]) -> Tensor:
    """x at broadcast integer index tensors, one (or None for all) per dimension."""
    ts, dims = _compact(indices)
    return index_op(x, ts, dims)


def _full(indices: Any, dims: tuple, ndim: int) -> list:
    out: list[Any] = [None] * ndim
    for d, i in zip(dims, indices, strict=True):
        out[d] = i
    return out


def _index_run(input: np.ndarray, indices: list, dims: tuple) -> np.ndarray:
    full = _full(indices, dims, input.ndim)
    _check_bounds("index", input.shape, indices, dims)
    return input[tuple(slice(None) if i is None else i for i in full)]


def _check_bounds(name: str, shape: Any, indices: Any, dims: Any) -> None:
    for i, d in zip(indices, dims, strict=True):
        n = shape[d]
        if i.size and (i.max() >= n or i.min() < -n):
            bad = i.max() if i.max() >= n else i.min()
            raise KilnIndexError(
                name, f"index {bad} is out of bounds for dimension {d} with size {n}", f"index {bad}",
                f"valid indices are {-n} to {n - 1}",
            )  # fmt: skip


def _index_infer(input: Any, indices: Any, dims: tuple) -> tuple:
    return _gather_index_shape(input.shape, _full(indices, dims, len(input.shape))), input.dtype


def _adv_samples() -> Any:
    x = draw(rng(), (4, 3, 5))
    i, j = np.array([0, 3, -1]), np.array([[2], [0]])
    yield Sample((x, [i], (0,)))
    yield Sample((x, [i, j], (0, 1)))
    yield Sample((x, [i % 3, i % 5], (0, 2)))
    yield Sample((x, [np.zeros((0,), np.int64)], (1,)))
    yield Sample((x, [np.array([4])], (0,)), error=IndexError)


@indexing(
    private=True, name="index", infer=_index_infer, samples=_adv_samples, check=False,
    grad={"input": lambda g, in_shape, indices, dims: index_put_op(g.new_zeros(in_shape), g, indices, dims, True)},
)  # fmt: skip
def index_op(input: Tensor, indices: Sequence[Tensor], dims: tuple) -> Tensor:
    """input at broadcast integer indices of the dimensions `dims`."""
    return _index_run(input, indices, dims)


def _put_infer(input: Any, values: Any, indices: Any, dims: tuple, accumulate: bool) -> tuple:
    shape = _index_infer(input, indices, dims)[0]
    if broadcast_shapes(shape, values.shape, op="index_put") != shape:
        raise KilnError("index_put", "the values do not broadcast to the indexed shape",
                        f"values {describe(values)} for {list(shape)}", "")  # fmt: skip
    if values.dtype is not input.dtype:
        raise KilnError("index_put", "Index put requires the source and destination dtypes match",
                        f"{input.dtype.name} and {values.dtype.name}", "cast the values")  # fmt: skip
    return input.shape, input.dtype


@indexing(
    private=True, name="index_put_op", infer=_put_infer,
    grad={
        "input": lambda g, values, indices, dims, accumulate: g if accumulate else index_put_op(
            g, g.new_zeros(()), indices, dims, False),
        "values": lambda g, indices, dims: index_op(g, indices, dims),
    },
    samples=lambda: iter([
        Sample((draw(rng(), (4, 3)), draw(rng(1), (2, 3)), [np.array([0, 2])], (0,), False)),
        Sample((draw(rng(), (4, 3)), draw(rng(1), (3,)), [np.array([0, 0, 2]), np.array([1, 1, -1])], (0, 1), True)),
    ]),
)  # fmt: skip
def index_put_op(input: Tensor, values: Tensor, indices: Sequence[Tensor], dims: tuple, accumulate: bool) -> Tensor:
    """A copy of input with values put (or added) at broadcast integer indices."""
    out = input.copy()
    _check_bounds("index_put", input.shape, indices, dims)
    where = tuple(slice(None) if i is None else i for i in _full(indices, dims, input.ndim))
    if accumulate:
        np.add.at(out, where, values)
    else:
        out[where] = values
    return out


@method("index_put_")
def index_put_(self: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """Put (or add) values at a tuple of index tensors, in place."""
    x, ts = _advanced(self, tuple(i if i is not None else slice(None) for i in indices))
    compact, dims = _compact(ts)
    dispatch.inplace(index_put_op.op, (x, values, compact, dims, bool(accumulate)))  # type: ignore[attr-defined]
    return self


@composition(samples=lambda: iter([
    Sample((draw(rng(), (4, 3)), [np.array([0, 2])], draw(rng(1), (2, 3))))]))  # fmt: skip
def index_put(input: Tensor, indices: Sequence[Tensor], values: Tensor, accumulate: bool = False) -> Tensor:
    """A copy of input with values put (or added) at a tuple of index tensors."""
    return index_put_(input.clone(), tuple(indices), values, accumulate)


@method("__setitem__")
def setitem(self: Tensor, index: Any, value: Any) -> None:
    """Write elements by any index that reading takes; the value broadcasts and is cast."""
    items, basic = _split_index(index)
    if basic:
        copy_(basic_index(self, normalize_index(items, self._a.shape)), value)
        return
    if len(items) == 1 and items[0].dtype is dt.bool_ and not (isinstance(value, Tensor) and value._a.ndim):
        mask = items[0]
        if mask._a.ndim and mask._a.shape == self._a.shape[: mask._a.ndim]:
            extra = self._a.ndim - mask._a.ndim
            masked_fill_(self, mask.reshape((*mask._a.shape, *(1,) * extra)), value)
            return
    x, ts = _advanced(self, items)
    compact, dims = _compact(ts)
    v = value.to(self.dtype) if isinstance(value, Tensor) else tensor(value, dtype=self.dtype)
    shape = _index_infer(x, compact, dims)[0]
    while v._a.ndim > len(shape) and v._a.shape[0] == 1:
        v = v.squeeze(0)
    dispatch.inplace(index_put_op.op, (x, v, compact, dims, False))  # type: ignore[attr-defined]


# ---------------------------------------------------------------- copy, fill


def _copy_infer(input: Any, src: Any) -> tuple:
    if broadcast_shapes(input.shape, getattr(src, "shape", ()), op="copy_") != tuple(input.shape):
        raise KilnError(
            "copy_", f"the size of the source {list(src.shape)} must broadcast to the tensor's {list(input.shape)}",
            describe(src), "",
        )  # fmt: skip
    return input.shape, input.dtype


@op(family="copy", private=True, exact=True, name="copy", infer=_copy_infer, grad={"src": lambda g: g},
    body=lambda input, src: (src if isinstance(src, Tensor) else tensor(src)).to(input.dtype).expand(input.shape).clone(),
    samples=lambda: iter([Sample((draw(rng(), (3, 4)), draw(rng(1), (4,))))]))  # fmt: skip
def copy_op(input: Tensor, src: Operand) -> Tensor:
    """src broadcast to the shape of input and cast to its dtype."""
    src = np.asarray(src)
    if src.dtype.kind == "c" and input.dtype.kind != "c":
        src = src.real
    return np.broadcast_to(src, input.shape).astype(input.dtype)


@method("copy_")
def copy_(self: Tensor, src: Any, non_blocking: bool = False) -> Tensor:
    """Overwrite with another tensor or number, broadcast and cast; returns self."""
    if not isinstance(src, Tensor | int | float | complex):
        src = tensor(src, dtype=self.dtype)
    if not mode.grad and not CAPTURING and isinstance(src, Tensor) and self._a.flags.writeable:
        _copy_infer(self, src)
        a = src._a
        np.copyto(self._a, a.real if a.dtype.kind == "c" and self._a.dtype.kind != "c" else a, casting="unsafe")
        dispatch.bump(self)
        return self
    return dispatch.inplace(copy_op.op, (self, src))  # type: ignore[attr-defined]


@method("fill_")
def fill_(self: Tensor, value: Any) -> Tensor:
    """Set every element to a number or a 0-d tensor; returns self."""
    if isinstance(value, Tensor) and value._a.ndim:
        raise KilnError("fill_", "fill_ only supports 0-dimension value tensors", describe(value), "")
    return copy_(self, value)


@composition(method=True, samples=lambda: iter([Sample((draw(rng(), (3, 4)), 2.0))]))
def fill(input: Tensor, value: Any) -> Tensor:
    """A tensor like input with one value everywhere."""
    return fill_(input.clone(), value)


@method("zero_")
def zero_(self: Tensor) -> Tensor:
    """Set every element to zero; returns self."""
    return copy_(self, 0)


@method("set_data")
def _set_data(self: Tensor, value: Tensor) -> None:
    """`x.data = value`."""
    self.data = value


# ---------------------------------------------------------------- masks


def _mask_check(name: str, mask: Any) -> None:
    if not isinstance(mask, Tensor) or mask.dtype is not dt.bool_:
        raise KilnError(name, f"{name} only supports boolean masks", describe(mask), "compare first: x > 0")


def _mask_samples() -> Any:
    yield Sample((draw(rng(), (3, 4)), rng(1).random((3, 4)) > 0.5, 1.5))
    yield Sample((draw(rng(), (3, 4)), rng(1).random((4,)) > 0.5, draw(rng(2), ())))
    yield Sample((draw(rng(), ()), np.array(True), 0.0))
    yield Sample((draw(rng(), (3,)), draw(rng(), (3,)), 1.0), error=RuntimeError)


@composition(samples=_mask_samples)
def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """input with `value` where the mask is True."""
    _mask_check("masked_fill", mask)
    if isinstance(value, Tensor):
        if value._a.ndim:
            raise KilnError("masked_fill", "masked_fill only supports a 0-dimensional value tensor", describe(value), "")
        value = value.to(input.dtype)
    elif (isinstance(value, complex) and not input.is_complex()) or (isinstance(value, float) and input.dtype.category < dt.FLOAT):
        raise KilnError("masked_fill", "value cannot be converted to the tensor's dtype without loss",
                        f"value={value} for {input.dtype.name}", "cast the tensor first")  # fmt: skip
    return where_op(mask, value, input)


@method("masked_fill_")
def masked_fill_(self: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Set elements to `value` where the mask is True; returns self."""
    return assign(self, masked_fill, mask, value)


def assign(self: Tensor, fn: Any, *args: Any, **kwargs: Any) -> Tensor:
    """The in-place form of a composition: self takes the value and the history of fn(self, …)."""
    if mode.grad:
        from ..autograd.views import check_inplace

        check_inplace(self, fn.__name__ + "_", False)
        _fresh(self)
    source = fn(self if self._rg else self, *args, **kwargs)
    return copy_(self, source)


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4)), rng(1).random((3, 4)) > 0.5)),
                                   Sample((draw(rng(), (3, 4)), rng(1).random((4,)) > 0.5))]))  # fmt: skip
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where the mask is True, in one dimension."""
    _mask_check("masked_select", mask)
    shape = broadcast_shapes(input._a.shape, mask._a.shape, op="masked_select")
    return input.expand(shape)[mask.expand(shape)]


@indexing(
    private=True, name="masked_scatter_op", infer=lambda input, mask, source: (input.shape, input.dtype),
    grad={
        "input": lambda g, mask: g.masked_fill(mask, 0),
        "source": lambda g, mask, source: _masked_scatter_grad(g, mask, source),
    },
    samples=lambda: iter([Sample((draw(rng(), (3, 4)), rng(1).random((3, 4)) > 0.5, draw(rng(2), (12,))))]),
)  # fmt: skip
def masked_scatter_op(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """input with consecutive elements of source where the mask is True."""
    out = input.copy()
    mask = np.broadcast_to(mask, input.shape)
    n = int(mask.sum())
    if source.size < n:
        raise KilnError("masked_scatter", "source has fewer elements than the mask selects", f"{source.size} < {n}", "")
    out[mask] = source.reshape(-1)[:n]
    return out


def _masked_scatter_grad(g: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    order = (mask.expand(g.shape).reshape(-1).long().cumsum(0) - 1).clamp(min=0, max=max(source.numel() - 1, 0))
    picked = where_op(mask.expand(g.shape).reshape(-1), g.reshape(-1), g.new_zeros(()))
    return g.new_zeros(source.numel()).scatter_add(0, order, picked).reshape(source.shape)


@composition(samples=None)
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """input with consecutive elements of source where the mask is True."""
    _mask_check("masked_scatter", mask)
    return masked_scatter_op(input, mask, source)


@method("masked_scatter_")
def masked_scatter_(self: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """`masked_scatter` in place."""
    return assign(self, masked_scatter, mask, source)


@indexing(private=True, name="nonzero_op", samples=lambda: iter([
    Sample((np.array([[1, 0], [0, 2]]),), grad=False), Sample((np.zeros((0, 2)),), grad=False), Sample((np.array(3.0),), grad=False)]))  # fmt: skip
def nonzero_op(input: Tensor) -> Tensor:
    """Coordinates of the elements that are not zero, one row each."""
    if input.ndim == 0:
        return np.zeros((int(input != 0), 0), np.int64)
    return np.argwhere(input).astype(np.int64)


@composition(samples=None)
def nonzero(input: Tensor, *, out: Any = None, as_tuple: bool = False) -> Any:
    """Coordinates of the elements that are not zero: an (n, ndim) tensor, or a tuple of columns."""
    if as_tuple:
        coords = nonzero_op(input.reshape(1) if input._a.ndim == 0 else input)
        return tuple(coords[:, i] for i in range(coords._a.shape[1]))
    r = nonzero_op(input)
    return r if out is None else dispatch.store_out(nonzero_op.op, r, out)  # type: ignore[attr-defined]


@composition(samples=None)
def argwhere(input: Tensor) -> Tensor:
    """Coordinates of the elements that are not zero, one row each."""
    return nonzero_op(input)


# ---------------------------------------------------------------- along one dimension


def _index_dtype(name: str, index: Any, allow_int32: bool = True) -> None:
    ok = (dt.int64, dt.int32) if allow_int32 else (dt.int64,)
    if index.dtype not in ok:
        raise KilnError(name, f"{name}(): expected dtype int64 for index", describe(index), "convert with .long()")


def _gather_infer(input: Any, dim: int, index: Any, sparse_grad: bool = False) -> tuple:
    _index_dtype("gather", index)
    d = norm_dim(dim, len(input.shape), "gather")
    if len(index.shape) != len(input.shape) and not (numel(index.shape) == 0 and len(index.shape) == 1):
        raise KilnError(
            "gather", "Index tensor must have the same number of dimensions as input tensor",
            f"index {describe(index)}, input {describe(input)}", "",
        )  # fmt: skip
    for i, (a, b) in enumerate(zip(index.shape, input.shape, strict=False)):
        if i != d and a > b:
            raise KilnError(
                "gather", f"Size does not match at dimension {i}: index must not be larger than input apart from dim {d}",
                f"index {describe(index)}, input {describe(input)}", "",
            )  # fmt: skip
    return index.shape, input.dtype


def _along(shape: tuple, index: np.ndarray, dim: int) -> tuple:
    grids = list(np.ogrid[tuple(slice(0, n) for n in index.shape)])
    if index.ndim:
        grids[dim] = index
    return tuple(grids)


def _check_index(name: str, index: np.ndarray, n: int, dim: int) -> None:
    if index.size and (index.max() >= n or index.min() < 0):
        bad = index.max() if index.max() >= n else index.min()
        raise KilnError(
            name, f"index {bad} is out of bounds for dimension {dim} with size {n}", f"index {bad}",
            f"valid indices are 0 to {n - 1}",
        )  # fmt: skip


def _gather_samples() -> Any:
    x, i = draw(rng(), (3, 4)), rng(1).integers(0, 3, (2, 4))
    yield Sample((x, 0, i))
    yield Sample((x, -1, i % 4))
    yield Sample((draw(rng(), ()), 0, np.array(0)))
    yield Sample((x, 1, np.zeros((3, 0), np.int64)))
    yield Sample((x, 0, i + 5), error=RuntimeError)
    yield Sample((x, 0, draw(rng(), (2, 4))), error=RuntimeError)
    yield Sample((x, 0, np.zeros((2,), np.int64)), error=RuntimeError)


@indexing(infer=_gather_infer, samples=_gather_samples,
    grad={"input": lambda g, in_shape, dim, index: g.new_zeros(in_shape).scatter_add(dim, index, g)})  # fmt: skip
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """out[i][j] = input[index[i][j]][j] for dim 0: values along one dimension at given indices."""
    if input.ndim == 0 or index.size == 0:
        _check_index("gather", index, 1 if input.ndim == 0 else input.shape[dim], dim)
        return np.broadcast_to(input, index.shape).copy() if input.ndim == 0 else np.zeros(index.shape, input.dtype)
    dim %= input.ndim
    _check_index("gather", index, input.shape[dim], dim)
    return input[_along(input.shape, index, dim)]


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4)), rng(1).integers(0, 4, (3, 2)), 1)),
                                   Sample((draw(rng(), (3, 4)), rng(1).integers(0, 4, (1, 2)), 1)),
                                   Sample((draw(rng(), (3, 4)), rng(1).integers(0, 12, (5,))))]))  # fmt: skip
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """Values along one dimension at indices that broadcast against the others."""
    if dim is None:
        return gather(input.reshape(-1), 0, indices.reshape(-1))
    d = norm_dim(dim, input._a.ndim, "take_along_dim")
    rest = broadcast_shapes(
        [1 if i == d else n for i, n in enumerate(input._a.shape)],
        [1 if i == d else n for i, n in enumerate(indices._a.shape)], op="take_along_dim",
    )  # fmt: skip
    wide = input.expand([input._a.shape[d] if i == d else n for i, n in enumerate(rest)])
    return gather(wide, d, indices.expand([indices._a.shape[d] if i == d else n for i, n in enumerate(rest)]))


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4)), rng(1).integers(0, 12, (2, 3))))]))
def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements by their position in row-major order."""
    _index_dtype("take", index)
    return index_op(input.reshape(-1), [index.long()], (0,))


def _select_infer(input: Any, dim: int, index: Any) -> tuple:
    _index_dtype("index_select", index)
    d = norm_dim(dim, len(input.shape), "index_select")
    if len(index.shape) > 1:
        raise KilnIndexError("index_select", "index_select(): Index is supposed to be a vector", describe(index), "")
    shape = list(input.shape)
    if shape:
        shape[d] = numel(index.shape)
    return Size(shape), input.dtype


@indexing(infer=_select_infer,
    grad={"input": lambda g, in_shape, dim, index: g.new_zeros(in_shape).index_add(dim, index, g)},
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4)), 1, np.array([0, 3, 3]))), Sample((draw(rng(), (3,)), -1, np.array(2))),
        Sample((draw(rng(), (3,)), 0, np.zeros(0, np.int64))), Sample((draw(rng(), (3, 4)), 0, np.array([3])), error=IndexError),
    ]))  # fmt: skip
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """Slices along one dimension at the given indices."""
    n = input.shape[dim] if input.ndim else 1
    if index.size and (index.max() >= n or index.min() < 0):
        raise KilnIndexError(
            "index_select", "index out of range in self", f"index {index.max()}, size {n}", f"0 to {n - 1}"
        )
    return np.take(input, index.reshape(-1), dim) if input.ndim else input.copy()


# ---------------------------------------------------------------- scatter


def _scatter_infer(input: Any, dim: int, index: Any, src: Any, *rest: Any) -> tuple:
    _index_dtype("scatter", index)
    d = norm_dim(dim, len(input.shape), "scatter")
    shape = getattr(src, "shape", index.shape)
    if isinstance(src, Tensor) and src.dtype is not input.dtype:
        raise KilnError("scatter", "scatter(): Expected self.dtype to be equal to src.dtype",
                        f"{input.dtype.name}, {src.dtype.name}", "cast src")  # fmt: skip
    if numel(index.shape) == 0:
        return input.shape, input.dtype
    if len(index.shape) != len(input.shape) or (len(shape) != len(index.shape) and isinstance(src, Tensor)):
        raise KilnError("scatter", "Index tensor must have the same number of dimensions as self tensor",
                        f"index {describe(index)}, self {describe(input)}", "")  # fmt: skip
    for i, (a, b) in enumerate(zip(index.shape, input.shape, strict=True)):
        if (i != d and a > b) or (isinstance(src, Tensor) and a > shape[i]):
            raise KilnError(
                "scatter", f"Expected index to be no larger than self apart from dimension {d} and no larger size than src",
                f"index {describe(index)}, self {describe(input)}, src {describe(src)}", "",
            )  # fmt: skip
    return input.shape, input.dtype


def _clip_src(src: Any, index: np.ndarray) -> Any:
    return src[tuple(slice(0, n) for n in index.shape)] if isinstance(src, np.ndarray) and src.ndim else src


def _window(g: Tensor, like: Any, index: Tensor) -> Tensor:
    """A gradient for src, zero outside the part that the index covers."""
    shape = tuple(like._a.shape)
    if g._a.shape == shape:
        return g
    from .movement import pad_op

    return pad_op(g, (0,) * len(shape), tuple(n - m for n, m in zip(shape, g._a.shape, strict=True)), 0)


def _scatter_samples() -> Any:
    x, i = draw(rng(), (3, 5)), np.array([[0, 1, 2, 0], [2, 0, 0, 1]])
    yield Sample((x, 0, i, draw(rng(1), (2, 4))))
    yield Sample((x, 0, i, draw(rng(1), (3, 5))))
    yield Sample((x, -1, i, 1.5))
    yield Sample((x, 0, np.zeros((0, 0), np.int64), draw(rng(1), (2, 4))))
    yield Sample((x, 0, i + 3, draw(rng(1), (2, 4))), error=RuntimeError)
    yield Sample((x, 0, i, draw(rng(1), (1, 4))), error=RuntimeError)


def _unique_samples() -> Any:  # without repeated indices, where the result is defined
    x, i = draw(rng(), (3, 5)), np.array([[0, 1, 2, 0], [2, 0, 0, 1]])
    yield Sample((x, 0, i, draw(rng(1), (2, 4))))
    yield Sample((x, -1, np.array([[4, 0], [1, 2]]), draw(rng(1), (3, 5))))
    yield Sample((x, -1, np.array([[4, 0], [1, 2]]), 1.5))
    yield Sample((x, 0, i + 3, draw(rng(1), (2, 4))), error=RuntimeError)


@indexing(private=True, name="scatter_op", infer=_scatter_infer, samples=_unique_samples,
    grad={
        "input": lambda g, dim, index: scatter_op(g, dim, index, 0),
        "src": lambda g, dim, index, src: _window(gather(g, dim, index), src, index),
    })  # fmt: skip
def scatter_op(input: Tensor, dim: int, index: Tensor, src: Operand) -> Tensor:
    """A copy of input with out[index[i][j]][j] = src[i][j] for dim 0."""
    out = input.copy()
    if index.size:
        d = dim % max(input.ndim, 1)
        _check_index("scatter", index, input.shape[d] if input.ndim else 1, d)
        if input.ndim:
            out[_along(input.shape, index, d)] = _clip_src(src, index)
        else:
            out[...] = src
    return out


@indexing(infer=_scatter_infer, samples=_scatter_samples, inplace=True,
    grad={"input": lambda g: g, "src": lambda g, dim, index, src: _window(gather(g, dim, index), src, index)})  # fmt: skip
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Operand) -> Tensor:
    """A copy of input with src[i][j] added at [index[i][j]][j] for dim 0."""
    out = input.copy()
    if index.size:
        d = dim % max(input.ndim, 1)
        _check_index("scatter_add", index, input.shape[d] if input.ndim else 1, d)
        np.add.at(out, _along(input.shape, index, d) if input.ndim else (), _clip_src(src, index))
    return out


def _reduced(input: Tensor, dim: int, index: Tensor, src: Any, how: str) -> Tensor:
    if how == "add":
        return scatter_add(input, dim, index, src if isinstance(src, Tensor) else input.new_full(index.shape, src))
    if how == "multiply":
        return scatter_reduce(input, dim, index, src if isinstance(src, Tensor) else input.new_full(index.shape, src), "prod")
    raise KilnError("scatter", "reduce argument must be either add or multiply", repr(how), "see scatter_reduce")


@composition(samples=_unique_samples)
def scatter(input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | None = None) -> Tensor:
    """A copy of input with values of src (or one value) written at indices along one dimension."""
    v = value if src is None else src
    return scatter_op(input, dim, index, v) if reduce is None else _reduced(input, dim, index, v, reduce)


@method("scatter_")
def scatter_(self: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | None = None) -> Tensor:
    """`scatter` in place."""
    v = value if src is None else src
    if reduce is None:
        return dispatch.inplace(scatter_op.op, (self, dim, index, v))  # type: ignore[attr-defined]
    return assign(self, scatter, dim, index, v, reduce=reduce)


_REDUCE = {"sum": np.add, "prod": np.multiply, "amax": np.maximum, "amin": np.minimum, "mean": np.add}


def _reduce_infer(input: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool = True) -> tuple:
    if reduce not in _REDUCE:
        raise KilnError("scatter_reduce", "reduce argument must be either sum, prod, mean, amax or amin", repr(reduce), "")
    return _scatter_infer(input, dim, index, src)


def _reduce_grad(g: Tensor, input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, include_self: bool,
                 out: Tensor) -> tuple:  # fmt: skip
    ones = src.new_ones(index.shape)
    picked = src[tuple(slice(0, n) for n in index.shape)] if index._a.ndim else src
    hit = scatter_add(input.new_zeros(input.shape), dim, index, ones)
    keep = input.new_ones(input.shape) if include_self else (hit == 0).to(input.dtype)
    if reduce == "sum":
        gi, gs = g * keep, gather(g, dim, index)
    elif reduce == "mean":
        count = (hit + (1 if include_self else 0)).clamp(min=1)
        gi, gs = g * keep / count, gather(g / count, dim, index)
    elif reduce == "prod":
        gi = where_op(keep != 0, g * out / input, g.new_zeros(()))
        gs = gather(g * out, dim, index) / picked
    else:
        mine = (input == out).to(g.dtype) * keep
        theirs = (picked == gather(out, dim, index)).to(g.dtype)
        count = mine + scatter_add(input.new_zeros(input.shape), dim, index, theirs)
        share = g / count.clamp(min=1)
        gi, gs = share * mine, gather(share, dim, index) * theirs
    return gi, _window(gs, src, index)


@indexing(infer=_reduce_infer, inplace=True, grad={("input", "src"): _reduce_grad},
    samples=lambda: iter(
        Sample((draw(rng(), (3, 5), 0.5, 2), 0, np.array([[0, 1, 2, 0], [2, 0, 0, 1]]), draw(rng(1), (2, 4), 0.5, 2), how), {"include_self": inc})
        for how in _REDUCE for inc in (True, False)))  # fmt: skip
def scatter_reduce(input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True) -> Tensor:
    """A copy of input reduced with src at indices along one dimension: sum, prod, mean, amax, amin."""
    out = input.copy()
    if not index.size or not input.ndim:
        return out
    d = dim % input.ndim
    _check_index("scatter_reduce", index, input.shape[d], d)
    at = _along(input.shape, index, d)
    count = np.zeros(input.shape, np.int64)
    np.add.at(count, at, 1)
    if not include_self:
        start = {"prod": 1, "sum": 0, "mean": 0, "amax": -np.inf, "amin": np.inf}[reduce]
        if input.dtype.kind in "iu" and reduce in ("amax", "amin"):
            info = np.iinfo(input.dtype)
            start = info.min if reduce == "amax" else info.max
        out[count > 0] = start
    _REDUCE[reduce].at(out, at, _clip_src(src, index))
    if reduce == "mean":
        count += int(include_self)
        total = np.maximum(count, 1)
        out = out // total if input.dtype.kind in "iu" else out / total.astype(input.dtype)
    return out


def _index_add_infer(input: Any, dim: int, index: Any, source: Any, alpha: Any = 1) -> tuple:
    _index_dtype("index_add", index)
    d = norm_dim(dim, len(input.shape), "index_add")
    if len(index.shape) > 1:
        raise KilnIndexError("index_add", "index_add_(): Index is supposed to be a vector", describe(index), "")
    if source.dtype is not input.dtype:
        raise KilnError("index_add", "self and source expected to have the same dtype",
                        f"{input.dtype.name}, {source.dtype.name}", "")  # fmt: skip
    if input.shape and (len(source.shape) != len(input.shape) or source.shape[d] != numel(index.shape)):
        raise KilnError("index_add", "Number of indices should be equal to source.size(dim)",
                        f"index {describe(index)}, source {describe(source)}", "")  # fmt: skip
    return input.shape, input.dtype


@indexing(infer=_index_add_infer, inplace=True, out=True,
    grad={"input": lambda g: g,
          "source": lambda g, dim, index, source, alpha: g.index_select(dim, index).reshape(source.shape) * alpha},
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4)), 0, np.array([0, 2, 0]), draw(rng(1), (3, 4)))),
        Sample((draw(rng(), (3, 4)), -1, np.array([1, 1]), draw(rng(1), (3, 2))), {"alpha": 2.0}),
        Sample((draw(rng(), (3, 4)), 0, np.array([0]), draw(rng(1), (2, 4))), error=RuntimeError),
    ]))  # fmt: skip
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """A copy of input with alpha * source[i] added to slice index[i] of one dimension."""
    out = input.copy()
    _check_index("index_add", index, input.shape[dim] if input.ndim else 1, dim)
    at = (slice(None),) * (dim % max(input.ndim, 1)) + (index.reshape(-1),) if input.ndim else ()
    np.add.at(out, at, source if alpha == 1 else source * input.dtype.type(alpha))
    return out


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4)), 0, np.array([0, 2]), draw(rng(1), (2, 4))))]))
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy of input with slices of one dimension replaced."""
    _index_dtype("index_copy", index)
    d = norm_dim(dim, input._a.ndim, "index_copy")
    at = (slice(None),) * d + (index,)
    out = input.clone()
    out[at] = source
    return out


@method("index_copy_")
def index_copy_(self: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """`index_copy` in place."""
    return assign(self, index_copy, dim, index, source)


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4)), 1, np.array([0, 2]), 1.5))]))
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """A copy of input with slices of one dimension set to a value."""
    d = norm_dim(dim, input._a.ndim, "index_fill")
    n = input._a.shape[d]
    hit = (arange(n).unsqueeze(1) == (index.reshape(-1) % n)).any(1)
    return masked_fill(input, hit.reshape([n if i == d else 1 for i in range(input._a.ndim)]), value)


@method("index_fill_")
def index_fill_(self: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """`index_fill` in place."""
    return assign(self, index_fill, dim, index, value)


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 2)), 2)), Sample((draw(rng(), (3, 2)), 2, 1)),
    Sample((draw(rng(), (3, 2)), np.array([1, 0, 2]), 0))]))  # fmt: skip
def repeat_interleave(input: Tensor, repeats: Any, dim: int | None = None, *, output_size: int | None = None) -> Tensor:
    """Each element (or slice along dim) repeated in its place."""
    if dim is None:
        input, dim = input.reshape(-1), 0
    d = norm_dim(dim, input._a.ndim, "repeat_interleave")
    n = input._a.shape[d]
    if isinstance(repeats, int):
        shape = input._a.shape
        wide = input.unsqueeze(d + 1).expand(*shape[: d + 1], repeats, *shape[d + 1 :])
        return wide.reshape((*shape[:d], n * repeats, *shape[d + 1 :]))
    counts = tensor(repeats)._host("repeat_interleave") if not isinstance(repeats, Tensor) else repeats._host("repeat_interleave")
    counts = np.broadcast_to(counts, (n,)) if counts.size == 1 else counts
    if counts.shape != (n,) or (counts < 0).any():
        raise KilnError("repeat_interleave", "repeats must have the same size as input along dim, none negative",
                        f"repeats of shape {list(counts.shape)} for size {n}", "")  # fmt: skip
    return index_select(input, d, tensor(np.repeat(np.arange(n), counts)))


Tensor.__getitem__ = getitem  # type: ignore[attr-defined]
Tensor.__setitem__ = setitem  # type: ignore[attr-defined]
