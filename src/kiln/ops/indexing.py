"""Indexing: reading and writing by position and by index tensors, copying and filling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import mode
from ..autograd.recorders import called
from ..errors import KilnError, KilnIndexError, describe
from ..shape import Size, behind, broadcast_shapes
from ..sharing import watched, written
from ..tensor import CAPTURING, PLAIN, Tensor, _fresh, active_capture, differentiated, wrap
from . import dispatch, storing
from .creation import arange_op, full_like, tensor
from .picking import gathered_at, masked_select_op
from .registry import Operand, Sample, composition, method, op
from .rules import zero_gradient
from .samples import draw, rng
from .slicing import basic_index, normalize_index, spelled_out, written_at

_I64, _BOOL = dt.int64.np, dt.bool_.np
_basic = basic_index.op  # type: ignore[attr-defined]


def indexing(**facts: Any) -> Any:
    """An op that reads or writes at indices."""
    return op(family="indexing", exact=True, **facts)


# ---------------------------------------------------------------- x[...]


def _split_index(index: Any) -> tuple[Any, bool]:
    """The index as a tuple with sequences as tensors, and whether it is basic (ints and slices only)."""
    if isinstance(index, list) and len(index) < 32 and any(map(_apart, index)):
        index = tuple(index)  # as NumPy once took it, and PyTorch does
    items = index if isinstance(index, tuple) else (index,)
    out, basic = [], True
    for i in items:
        if isinstance(i, list | range | tuple):
            i = tensor(list(i)) if len(i) else tensor([], dtype=dt.int64)
        elif isinstance(i, np.ndarray):
            i = tensor(i)
        if isinstance(i, Tensor):
            if i.dtype.category > dt.INT:
                raise KilnIndexError(
                    "index", "tensors used as indices must be long, int, byte or bool tensors", describe(i),
                    "convert with .long()",
                )  # fmt: skip
            if (
                i._a.ndim == 0
                and i.dtype.category == dt.INT
                and isinstance(i._a, np.ndarray)
                and not active_capture()
            ):
                i = int(i._a)
            else:
                basic = False
        elif isinstance(i, bool | np.bool_):
            i, basic = tensor(bool(i)), False
        elif isinstance(i, float | str):
            raise KilnIndexError(
                "index", "only integers, slices, ellipsis, None and integer or bool tensors are valid indices",
                describe(i), "",
            )  # fmt: skip
        out.append(i)
    return tuple(out), basic


def _apart(i: Any) -> bool:
    """Whether an element makes a list of indices one for each dimension."""
    return i is None or i is Ellipsis or isinstance(i, _INDICES)


_INDICES = (Tensor, slice, list, tuple, range, np.ndarray)


@method("__getitem__")
def getitem(self: Tensor, index: Any) -> Tensor:
    """Elements by ints, slices, None, Ellipsis (views) and by integer or bool tensors (copies)."""
    shape = self._a.shape
    if index.__class__ is int and shape and not CAPTURING and -shape[0] <= index < shape[0]:
        i = index % shape[0]
        a = self._a
        r = a[i, ...] if a.__class__ is np.ndarray else None
        return dispatch.view(_basic, (self, (i, *[(0, n, 1) for n in shape[1:]])), r)
    if (
        isinstance(index, Tensor)
        and index._a.__class__ is np.ndarray
        and index._a.dtype is _I64
        and shape
        and not CAPTURING
    ):
        return index_op(self, [index], (0,))
    if index.__class__ is tuple and not CAPTURING and self._a.__class__ is np.ndarray:
        r = _plain_index(self, index)
        if r is not None:
            return r
    items, basic = _split_index(index)
    if basic:
        return basic_index(self, normalize_index(items, shape))
    mask = items[0]
    if len(items) == 1 and mask.dtype is dt.bool_ and not CAPTURING:
        size = mask._a.shape
        if (
            size
            and size == shape[: len(size)]
            and mask._a.__class__ is self._a.__class__ is np.ndarray
        ):
            return called(masked_select_op(self, mask), "IndexBackward0")
    x, tensors = _advanced(self, items)
    return gather_index(x, tensors)


def _plain_index(x: Tensor, index: tuple) -> Tensor | None:
    """x at ints, plain slices and new dimensions, or at whole slices and tensors of ints, or at slices and one list of ints.

    None for any other index.
    """
    a, normal, listed = x._a, [], None
    shape = a.shape
    whole, d = True, 0  # of all slices
    for i in index:
        c = i.__class__
        if c in PLAIN:
            return _at_tensors(x, index)
        if i is None:
            normal.append(None)
            continue
        if d == len(shape):
            return None
        n = shape[d]
        d += 1
        if c is int:
            if not -n <= i < n:
                return None
            normal.append(i if i >= 0 else i + n)
        elif c is slice:
            low, high = i.start, i.stop
            if i.step is not None or not (low is None or low.__class__ is int):
                return None
            if low is high is None:
                normal.append((0, n, 1))
                continue
            if not (high is None or high.__class__ is int):
                return None
            low, high, _ = i.indices(n)
            normal.append((low, max(low, high), 1))
            whole = False
        elif c is list and listed is None and i and set(map(type, i)) == _INTS:
            listed = d - 1
            normal.append((0, n, 1))
        elif i is Ellipsis:
            full = spelled_out(index, len(shape))
            return None if full is None else _plain_index(x, full)
        else:
            return None
    normal += [(0, n, 1) for n in shape[d:]]
    if listed is None:
        return dispatch.view(_basic, (x, tuple(normal)), a[(*index, ...)])
    if int in map(type, index) or None in index:
        return None
    part = x if whole else basic_index(x, tuple(normal))
    return index_op(part, [wrap(np.array(index[listed], _I64))], (listed,))


def _at_tensors(x: Tensor, index: tuple) -> Tensor | None:
    """x at int64 tensors of one dimension or more and whole slices; None for any other index."""
    ts, dims = [], []
    if len(index) > x._a.ndim:
        return None
    for d, i in enumerate(index):
        if i.__class__ in PLAIN:
            a = i._a
            if a.__class__ is not np.ndarray or a.dtype is not _I64 or not a.ndim:
                return None
            ts.append(i)
            dims.append(d)
        elif i.__class__ is not slice or i != _ALL:
            return None
    return index_op(x, ts, tuple(dims))


_ALL, _INTS = slice(None), {int}


def _advanced(x: Tensor, items: tuple) -> tuple[Tensor, list[Tensor | None]]:
    """The view under the basic parts of a mixed index, and its index tensors by dimension."""
    used = sum(1 if not (isinstance(i, Tensor) and i.dtype.category == dt.BOOL) else max(i._a.ndim, 0)
               for i in items if i is not None and i is not Ellipsis)  # fmt: skip
    if used > x._a.ndim:
        raise KilnIndexError(
            "index", f"too many indices for tensor of dimension {x._a.ndim}", f"{used} indices", ""
        )
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
    shapes = [indices[d].shape for d in dims]
    try:
        common = broadcast_shapes(*shapes, op="index")
    except KilnError:
        raise KilnIndexError(
            "index", "shape mismatch: indexing tensors could not be broadcast together", [list(s) for s in shapes],
            "x[rows[:, None], columns] picks each pair",
        ) from None  # fmt: skip
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
    if len(dims) == 1 and indices[0].dtype is _I64 and input.dtype.isbuiltin == 1:
        try:
            return input.take(indices[0], dims[0])
        except IndexError:  # told below
            pass
    where = tuple([_ALL if i is None else i for i in _full(indices, dims, input.ndim)])
    try:
        return input[where]
    except IndexError:
        _check_bounds("index", input.shape, indices, dims)
        raise


def _index_quick(g: np.ndarray, in_shape: tuple, indices: Sequence[Tensor], dims: tuple) -> Any:
    """Gradients at indices, added up where they come from."""
    arrays, out = [i._a for i in indices], np.zeros(in_shape, g.dtype)
    if len(dims) == len(in_shape) and g.size <= _FEW:
        np.add.at(out, tuple(arrays), g)
        return out
    return index_put_op.op.eager(out, g, arrays, dims, True)


_FEW = 1 << 9
"""Elements up to which several indices are no slower than places in flat memory."""


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


def _positions(indices: Any, n: int) -> tuple[list[Tensor], int]:
    """Indices that say which of a batch of n as well, and how many dimensions one of the batch has."""
    rank = max(i.ndim for i in indices)
    first = arange_op(0, 1, n, dt.int64).reshape((n, *(1,) * rank))
    return [first, *(i.aligned(rank) if i.batched else i.tensor for i in indices)], rank


def _index_batch(n: int, input: Any, indices: Any, dims: tuple) -> Tensor:
    together = dims[-1] - dims[0] + 1 == len(dims)
    if not any(i.batched for i in indices):
        out = index_op(input.tensor, [i.tensor for i in indices], behind(dims, input.ndim))
        return out if together else out.movedim(max(i.ndim for i in indices), 0)
    at, rank = _positions(indices, n)
    if not input.batched:
        return index_op(input.tensor, at[1:], dims).movedim(dims[0] if together else 0, 0)
    out = index_op(input.tensor, at, (0, *behind(dims, input.ndim)))
    return _turned(out, rank, dims[0]) if together else out


def _turned(x: Tensor, rank: int, to: int, back: bool = False) -> Tensor:
    """The `rank` indexed dimensions behind the batch moved `to` where they belong, or back."""
    front, place = range(1, 1 + rank), range(1 + to, 1 + to + rank)
    return x.movedim(*map(tuple, (place, front) if back else (front, place)))


def _put_batch(n: int, input: Any, values: Any, indices: Any, dims: tuple, accumulate: bool) -> tuple:  # fmt: skip
    shape = _gather_index_shape(input.shape, _full(indices, dims, input.ndim))
    v, together = values.aligned(len(shape)), dims[-1] - dims[0] + 1 == len(dims)
    if together and not any(i.batched for i in indices):
        at = [i.tensor for i in indices]
        return input.whole, v, at, behind(dims, input.ndim), accumulate
    at, rank = _positions(indices, n)
    v = v.expand((n, *shape))
    v = _turned(v, rank, dims[0], back=True) if together else v
    return input.whole, v, at, (0, *behind(dims, input.ndim)), accumulate


@indexing(
    private=True, name="index", out="apart", batch=_index_batch, infer=_index_infer, samples=_adv_samples, check=False,
    grad={"input": lambda g, in_shape, indices, dims: index_put_op(g.new_zeros(in_shape), g, indices, dims, True)},
    quick={"input": _index_quick},
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
    private=True, name="index_put_op", node="IndexPutBackward0", batch=_put_batch, infer=_put_infer,
    grad={
        "input": lambda g, indices, dims, accumulate: g if accumulate else index_put_op(
            g, g.new_zeros(()), indices, dims, False),
        "values": lambda g, indices, dims: index_op(g, indices, dims),
    },
    samples=lambda: iter([
        Sample((draw(rng(), (4, 3)), draw(rng(1), (2, 3)), [np.array([0, 2])], (0,), False)),
        Sample((draw(rng(), (4, 3)), draw(rng(1), (3,)), [np.array([0, 0, 2]), np.array([1, 1, -1])], (0, 1), True)),
    ]),
)  # fmt: skip
def index_put_op(
    input: Tensor, values: Tensor, indices: Sequence[Tensor], dims: tuple, accumulate: bool
) -> Tensor:
    """A copy of input with values put (or added) at broadcast integer indices."""
    out = input.copy()
    where = _where("index_put", input, indices, dims)
    if accumulate:
        gathered_at(np.add, out, where, values)
    else:
        out[where] = values
    return out


def _where(name: str, x: np.ndarray, indices: Any, dims: tuple) -> tuple:
    """NumPy's index for what lies at these, once all are known to be in range."""
    _check_bounds(name, x.shape, indices, dims)
    return tuple(slice(None) if i is None else i for i in _full(indices, dims, x.ndim))


def _put_into(
    input: np.ndarray, values: np.ndarray, indices: list, dims: tuple, accumulate: bool
) -> bool:
    """Put values into an array's own memory, unless they or the indices lie there too."""
    if accumulate or any(np.may_share_memory(input, a) for a in (values, *indices)):
        return False
    input[_where("index_put", input, indices, dims)] = values
    return True


index_put_op.op.into = _put_into


@method("index_put_")
def index_put_(self: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """Put (or add) values at a tuple of index tensors, in place."""
    x, ts = _advanced(self, tuple(i if i is not None else slice(None) for i in indices))
    compact, dims = _compact(ts)
    dispatch.inplace(index_put_op.op, (x, values, compact, dims, bool(accumulate)))  # type: ignore[attr-defined]
    return self


@composition(samples=lambda: iter([
    Sample((draw(rng(), (4, 3)), [np.array([0, 2])], draw(rng(1), (2, 3))))]))  # fmt: skip
def index_put(
    input: Tensor, indices: Sequence[Tensor], values: Tensor, accumulate: bool = False
) -> Tensor:
    """A copy of input with values put (or added) at a tuple of index tensors."""
    return index_put_(input.clone(), tuple(indices), values, accumulate)


@method("__setitem__")
def setitem(self: Tensor, index: Any, value: Any) -> None:
    """Write elements by any index that reading takes; the value broadcasts.

    Numbers are cast, and tensors for ints, slices and one mask; with index tensors dtypes must match.
    """
    if (
        (value.__class__ is float or value.__class__ is int) and isinstance(index, Tensor)
        and index._a.dtype is _BOOL and not CAPTURING and (a := self._a).__class__ is np.ndarray
        and index._a.shape == a.shape and a.dtype.kind == "f" and a.flags.writeable
        and (not mode.grad or not (self._rg or self._base is not None))
    ):  # fmt: skip
        value = a.dtype.type(dt.element(value, self.dtype, "fill_"))
        if watched:
            written(a)
        np.copyto(a, value, where=index._a)
        storing.bump(self)
        return
    if written_at(self, index, value):
        return
    items, basic = _split_index(index)
    if basic:
        picked = basic_index(self, normalize_index(items, self._a.shape))
        if isinstance(value, Tensor) and value._a.ndim > picked._a.ndim:
            value = _shortened(value, picked._a.ndim)
        copy_(picked, value)
        return
    if (
        len(items) == 1
        and items[0].dtype is dt.bool_
        and not (isinstance(value, Tensor) and value._a.ndim)
    ):
        mask = items[0]
        if mask._a.ndim and mask._a.shape == self._a.shape[: mask._a.ndim]:
            extra = self._a.ndim - mask._a.ndim
            self.masked_fill_(mask.reshape((*mask._a.shape, *(1,) * extra)), value)
            return
    x, ts = _advanced(self, items)
    compact, dims = _compact(ts)
    v = value if isinstance(value, Tensor) else tensor(value, dtype=self.dtype)
    tensors = [i for i in items if isinstance(i, Tensor)]
    if len(tensors) == 1 and tensors[0].dtype is dt.bool_ and tensors[0].ndim and v.numel() == 1:
        v = v.to(self.dtype)  # fills what the mask picks
    shape = _index_infer(x, compact, dims)[0]
    v = _shortened(v, len(shape))
    dispatch.inplace(index_put_op.op, (x, v, compact, dims, False))  # type: ignore[attr-defined]


def _shortened(v: Tensor, ndim: int) -> Tensor:
    """What is written at an index: it may have more dimensions than there, of size 1 and first."""
    while v._a.ndim > ndim and v._a.shape[0] == 1:
        v = v.squeeze(0)
    return v


Tensor.__getitem__ = getitem  # type: ignore[attr-defined]
Tensor.__setitem__ = setitem  # type: ignore[attr-defined]
getitem.__name__, setitem.__name__ = "__getitem__", "__setitem__"


# ---------------------------------------------------------------- copy, fill


def _copy_infer(input: Any, src: Any) -> tuple:
    if broadcast_shapes(input.shape, getattr(src, "shape", ()), op="copy_") != tuple(input.shape):
        raise KilnError(
            "copy_", f"the size of the source {list(src.shape)} must broadcast to the tensor's {list(input.shape)}",
            describe(src), "",
        )  # fmt: skip
    if not hasattr(src, "shape"):
        dt.element(src, input.dtype, "fill_")
    return input.shape, input.dtype


@op(family="copy", private=True, exact=True, name="copy", infer=_copy_infer,
    grad={("input", "src"): lambda g, needs: (None, g) if needs[1] else (g.new_zeros(g.shape), None)},
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
    plain = not self._rg and self._base is None  # nothing to record
    if (
        not CAPTURING
        and isinstance(src, Tensor)
        and (not mode.grad or (plain and not src._rg and src._base is None))
        and (a := src._a).__class__ is np.ndarray is self._a.__class__
        and self._a.flags.writeable
    ):
        if a.shape != self._a.shape:
            _copy_infer(self, src)
        if watched:
            written(self._a)
        np.copyto(
            self._a,
            a.real if a.dtype.kind == "c" and self._a.dtype.kind != "c" else a,
            casting="unsafe",
        )
        storing.bump(self)
        return self
    return dispatch.inplace(copy_op.op, (self, src))  # type: ignore[attr-defined]


def assign(self: Tensor, fn: Any, *args: Any, **kwargs: Any) -> Tensor:
    """The in-place form of a composition: self takes the value and the history of fn(self, …)."""
    if mode.grad:
        from ..autograd.views import check_inplace

        check_inplace(self, fn.__name__ + "_", False)
        tensors = [x for x in (self, *args, *kwargs.values()) if isinstance(x, Tensor)]
        if any(_fresh(x)._rg for x in tensors):  # what backward needs of self is kept
            before = wrap(ctx.payload(self).copy() if (ctx := active_capture()) else self._a.copy())
            before._fn, before._idx, before._rg = self._fn, self._idx, self._rg
            return copy_(self, _fitting(fn, self, fn(before, *args, **kwargs)))
    return copy_(self, _fitting(fn, self, fn(self, *args, **kwargs)))


def _fitting(fn: Any, x: Tensor, value: Tensor) -> Tensor:
    storing.check_result(fn.__name__, x, value)
    return value


@method("fill_")
def fill_(self: Tensor, value: Any) -> Tensor:
    """Set every element to a number or a 0-d tensor; returns self."""
    a, c = self._a, value.__class__
    if (
        (c is int or c is float)
        and not CAPTURING
        and a.__class__ is np.ndarray
        and a.dtype.kind == "f"
        and a.flags.writeable
        and ((not self._rg and self._base is None) or not mode.grad)  # nothing to record
    ):
        value = dt.element(value, self.dtype, "fill_")
        if watched:
            written(a)
        a.fill(value)
        storing.bump(self)
        return self
    if isinstance(value, Tensor) and value._a.ndim:
        raise KilnError(
            "fill_", "fill_ only supports 0-dimension value tensors", describe(value), ""
        )
    if (
        not CAPTURING
        and 0 in a.strides
        and not a.flags.writeable
        and not (mode.grad and differentiated(self))
    ):
        once = wrap(a[tuple(slice(None) if s else slice(1) for s in a.strides)])
        storing.open_memory("fill_", self, once._a)
        copy_(once, value)  # each place that elements share
        storing.bump(self)
        return self
    return copy_(self, value)


@composition(method=True, samples=lambda: iter([Sample((draw(rng(), (3, 4)), 2.0))]))
def fill(input: Tensor, value: Any) -> Tensor:
    """A tensor like input with one value everywhere."""
    if value.__class__ in (int, float) and input.is_floating_point():
        return zero_gradient(full_like(input, value), input)
    return fill_(input.clone(), value)


@method("zero_")
def zero_(self: Tensor) -> Tensor:
    """Set every element to zero; returns self."""
    return fill_(self, 0)
