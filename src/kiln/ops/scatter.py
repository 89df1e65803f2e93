"""Gather and scatter: reading and writing at indices along one dimension."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnIndexError, KilnNotImplementedError, describe
from ..formats import contiguous_format
from ..shape import Size, broadcast_shapes, norm_dim, numel
from ..tensor import Tensor
from . import dispatch, storing
from .creation import arange, tensor, zeros
from .indexing import assign, index_op, index_put_op, indexing
from .masks import filled
from .picking import along, check_index, gathered_at
from .registry import Operand, Sample, composition, method
from .samples import draw, rng
from .selection import where_op
from .slicing import pad_op


def _index_dtype(name: str, index: Any, allow_int32: bool = True) -> None:
    ok = (dt.int64, dt.int32) if allow_int32 else (dt.int64,)
    if index.dtype not in ok and numel(index.shape):
        raise KilnError(
            name, f"{name}(): expected dtype int64 for index", describe(index),
            "convert with .long()",
        )  # fmt: skip


# ---------------------------------------------------------------- gather


def _gather_infer(input: Any, dim: int, index: Any, sparse_grad: bool = False) -> tuple:
    _index_dtype("gather", index)
    d = norm_dim(dim, len(input.shape), "gather")
    if numel(index.shape) == 0:
        return index.shape, input.dtype
    if max(len(index.shape), 1) != max(len(input.shape), 1):
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


def _gather_samples() -> Any:
    x, i = draw(rng(), (3, 4)), rng(1).integers(0, 3, (2, 4))
    yield Sample((x, 0, i))
    yield Sample((x, -1, i % 4))
    yield Sample((draw(rng(), ()), 0, np.array(0)))
    yield Sample((x, 1, np.zeros((3, 0), np.int64)))
    yield Sample((draw(rng(), ()), 0, np.array([0])))
    yield Sample((draw(rng(), (3,)), 0, np.array(2)))
    yield Sample((draw(rng(), (3,)), 0, np.zeros((2, 0), np.uint8)))
    yield Sample((x, 0, i + 5), error=RuntimeError)
    yield Sample((x, 0, draw(rng(), (2, 4))), error=RuntimeError)
    yield Sample((x, 0, np.zeros((2,), np.int64)), error=RuntimeError)


@indexing(infer=_gather_infer, samples=_gather_samples, out="apart",
    grad={"input": lambda g, in_shape, dim, index: g.new_zeros(in_shape).scatter_add(dim, index, g)},
    quick={"input": lambda g, in_shape, dim, index: _added(np.zeros(in_shape, g.dtype), dim, index, g)})  # fmt: skip
def gather(input: Tensor, dim: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """out[i][j] = input[index[i][j]][j] for dim 0: values along one dimension at given indices."""
    if index.size == 0:
        return np.zeros(index.shape, input.dtype)
    x, at = (input, index) if input.ndim and index.ndim else map(np.atleast_1d, (input, index))
    dim %= x.ndim
    check_index("gather", index, x.shape[dim], dim)
    r = x[along(x.shape, at, dim)]
    return r if r.shape == index.shape else r.reshape(index.shape)


@composition(out="apart", samples=lambda: iter([Sample((draw(rng(), (3, 4)), rng(1).integers(0, 4, (3, 2)), 1)),
                                   Sample((draw(rng(), (3, 4)), rng(1).integers(-4, 4, (1, 2)), 1)),
                                   Sample((draw(rng(), (3, 4)), np.array([1]), 0), error=RuntimeError),
                                   Sample((draw(rng(), (3, 4)), rng(1).integers(0, 12, (5,))))]))  # fmt: skip
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """Values along one dimension at indices that broadcast against the others."""
    if dim is None:
        return gather(input.reshape(-1), 0, indices.reshape(-1))
    _index_dtype("take_along_dim", indices)
    if input._a.ndim != indices._a.ndim:
        raise KilnError("take_along_dim", "input and indices should have the same number of dimensions",
                        f"{describe(input)}, {describe(indices)}", "")  # fmt: skip
    d = norm_dim(dim, input._a.ndim, "take_along_dim")
    rest = broadcast_shapes(
        [1 if i == d else n for i, n in enumerate(input._a.shape)],
        [1 if i == d else n for i, n in enumerate(indices._a.shape)], op="take_along_dim",
    )  # fmt: skip
    n = input._a.shape[d] if rest else 1
    wide = input.expand([n if i == d else m for i, m in enumerate(rest)])
    at = indices.expand([indices._a.shape[d] if i == d else m for i, m in enumerate(rest)])
    return gather(wide, d, at % n if n else at)  # negative indices count from the end


@composition(samples=lambda: iter([Sample((draw(rng(), (3, 4)), rng(1).integers(0, 12, (2, 3))))]))
def take(input: Tensor, index: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Elements by their position in row-major order."""
    _index_dtype("take", index)
    r = index_op(input.reshape(-1), [index.long()], (0,))
    return storing.store_out(index_op.op, r, out, (input, index))


def _select_infer(input: Any, dim: int, index: Any) -> tuple:
    _index_dtype("index_select", index)
    d = norm_dim(dim, len(input.shape), "index_select")
    if len(index.shape) > 1:
        raise KilnIndexError(
            "index_select", "index_select(): Index is supposed to be a vector", describe(index), ""
        )
    shape = list(input.shape)
    if shape:
        shape[d] = numel(index.shape)
    return Size(shape), input.dtype


def _select_batch(n: int, input: Any, dim: int, index: Any) -> Any:
    if not input.ndim:
        return None
    d = norm_dim(dim, input.ndim)
    if not index.batched:
        return input.tensor, d + 1, index.tensor
    at = index.tensor.reshape((n, -1))
    if not input.batched:
        return index_op(input.tensor.movedim(d, 0), [at], (0,)).movedim(1, d + 1)
    rows = arange(n).reshape((n, 1))
    return index_op(input.tensor.movedim(d + 1, 1), [rows, at], (0, 1)).movedim(1, d + 1)


def _quick_select(g: np.ndarray, in_shape: tuple, dim: int, index: np.ndarray) -> np.ndarray:
    if not in_shape:
        return g.sum().reshape(())
    d = dim % len(in_shape)
    flat = index.reshape(-1)
    return index_put_op.op.eager(np.zeros(in_shape, g.dtype), g, [flat], (d,), True)


@indexing(out="apart", batch=_select_batch, infer=_select_infer,
    grad={"input": lambda g, in_shape, dim, index: g.new_zeros(in_shape).index_add(dim, index, g)},
    quick={"input": lambda g, in_shape, dim, index: _quick_select(g, in_shape, dim, index)},
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4)), 1, np.array([0, 3, 3]))), Sample((draw(rng(), (3,)), -1, np.array(2))),
        Sample((draw(rng(), (3,)), 0, np.zeros(0, np.int64))), Sample((draw(rng(), (3, 4)), 0, np.array([3])), error=IndexError),
    ]))  # fmt: skip
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """Slices along one dimension at the given indices."""
    n = input.shape[dim] if input.ndim else 1
    if index.size and (index.max() >= n or index.min() < 0):
        raise KilnIndexError(
            "index_select", "index out of range in self", f"index {index.max()}, size {n}",
            f"0 to {n - 1}",
        )  # fmt: skip
    return np.take(input, index.reshape(-1), dim) if input.ndim else input.copy()


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 2)), 2)), Sample((draw(rng(), (3, 2)), 2, 1)),
    Sample((draw(rng(), (3, 2)), np.array([1, 0, 2]), 0))]))  # fmt: skip
def repeat_interleave(
    input: Tensor,
    repeats: Any = None,
    dim: int | None = None,
    *,
    output_size: int | None = None,
) -> Tensor:
    """Each element (or slice along dim) repeated in its place; of counts alone, each index as often as its count says."""
    if repeats is None:
        input, repeats = arange(len(input), device=input.device), input
    if dim is None:
        input, dim = input.reshape(-1), 0
    d = norm_dim(dim, input._a.ndim, "repeat_interleave")
    n = input._a.shape[d]
    if isinstance(repeats, int):
        shape = input._a.shape
        wide = input.unsqueeze(d + 1).expand(*shape[: d + 1], repeats, *shape[d + 1 :])
        return wide.reshape((*shape[:d], n * repeats, *shape[d + 1 :]))
    counts = (
        tensor(repeats)._host("repeat_interleave")
        if not isinstance(repeats, Tensor)
        else repeats._host("repeat_interleave")
    )
    counts = np.broadcast_to(counts, (n,)) if counts.size == 1 else counts
    if counts.shape != (n,) or (counts < 0).any():
        raise KilnError("repeat_interleave", "repeats must have the same size as input along dim, none negative",
                        f"repeats of shape {list(counts.shape)} for size {n}", "")  # fmt: skip
    return index_select(input, d, tensor(np.repeat(np.arange(n), counts)))


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
    ranks = {
        max(len(s), 1)
        for s in (
            (input.shape, index.shape, shape)
            if isinstance(src, Tensor)
            else (input.shape, index.shape)
        )
    }
    if len(ranks) > 1:  # a 0-d tensor counts as one element
        raise KilnError("scatter", "Index tensor must have the same number of dimensions as self tensor",
                        f"index {describe(index)}, self {describe(input)}", "")  # fmt: skip
    for i, a in enumerate(index.shape):
        if (i != d and a > input.shape[i]) or (
            isinstance(src, Tensor) and a > (shape[i] if shape else 1)
        ):
            raise KilnError(
                "scatter", f"Expected index to be no larger than self apart from dimension {d} and no larger size than src",
                f"index {describe(index)}, self {describe(input)}, src {describe(src)}", "",
            )  # fmt: skip
    return input.shape, input.dtype


def _places(name: str, out: np.ndarray, dim: int, index: np.ndarray) -> tuple[np.ndarray, tuple]:
    """A view of `out` with at least one dimension, and where in it the indices point."""
    if not (out.ndim and index.ndim):
        out, index = np.atleast_1d(out), np.atleast_1d(index)
    d = dim % out.ndim
    check_index(name, index, out.shape[d], d)
    return out, along(out.shape, index, d)


def _added(out: np.ndarray, dim: int, index: np.ndarray, src: np.ndarray) -> np.ndarray:
    """Numbers added to an array along one dimension, at indices."""
    if index.size:
        x, at = _places("scatter_add", out, dim, index)
        gathered_at(np.add, x, at, _clip_src(src, index))
    return out


def _clip_src(src: Any, index: np.ndarray) -> Any:
    """The part of src that the index covers."""
    if not isinstance(src, np.ndarray) or (not src.ndim and not index.ndim):
        return src
    if src.shape == index.shape:
        return src
    return np.atleast_1d(src)[tuple(slice(0, n) for n in index.shape)]


def _window(g: Tensor, shape: tuple) -> Tensor:
    """A gradient for src, of this shape, zero outside the part that the index covers."""
    shape = tuple(shape)
    if g._a.shape == shape:
        return g
    if not shape or not g._a.ndim:
        g = g.reshape((1,) * len(shape))
    return pad_op(
        g, (0,) * len(shape), tuple(n - m for n, m in zip(shape, g._a.shape, strict=True)), 0
    )


def _scatter_samples() -> Any:
    x, i = draw(rng(), (3, 5)), np.array([[0, 1, 2, 0], [2, 0, 0, 1]])
    yield Sample((x, 0, i, draw(rng(1), (2, 4))))
    yield Sample((x, 0, i, draw(rng(1), (3, 5))))
    yield Sample((x, -1, i, 1.5))
    yield Sample((x, 0, np.zeros((0, 0), np.int64), draw(rng(1), (2, 4))))
    yield Sample((x, 0, i + 3, draw(rng(1), (2, 4))), error=RuntimeError)
    yield Sample((draw(rng(), ()), 0, np.array(0), draw(rng(1), ())))
    yield Sample((draw(rng(), ()), 0, np.array([0]), draw(rng(1), (1,))))
    yield Sample((x, 0, i, draw(rng(1), (1, 4))), error=RuntimeError)


def _unique_samples() -> Any:  # without repeated indices, where the result is defined
    x, i = draw(rng(), (3, 5)), np.array([[0, 1, 2, 0], [2, 0, 0, 1]])
    yield Sample((x, 0, i, draw(rng(1), (2, 4))))
    yield Sample((x, -1, np.array([[4, 0], [1, 2]]), draw(rng(1), (3, 5))))
    yield Sample((x, -1, np.array([[4, 0], [1, 2]]), 1.5))
    yield Sample((x, 0, i + 3, draw(rng(1), (2, 4))), error=RuntimeError)


@indexing(private=True, name="scatter_op", node="ScatterBackward0", infer=_scatter_infer, samples=_unique_samples,
    grad={
        "input": lambda g, dim, index: scatter_op(g, dim, index, 0),
        "src": lambda g, dim, index, in_shape: _window(gather(g, dim, index), in_shape),
    })  # fmt: skip
def scatter_op(input: Tensor, dim: int, index: Tensor, src: Operand) -> Tensor:
    """A copy of input with out[index[i][j]][j] = src[i][j] for dim 0."""
    out = input.copy()
    if index.size:
        x, at = _places("scatter", out, dim, index)
        x[at] = _clip_src(src, index)
    return out


@indexing(out=True, infer=_scatter_infer, inplace=True,
    samples=lambda: (s for s in _scatter_samples() if not isinstance(s.args[3], float)),
    grad={"input": lambda g: g, "src": lambda g, dim, index, in_shape: _window(gather(g, dim, index), in_shape)})  # fmt: skip
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of input with src[i][j] added at [index[i][j]][j] for dim 0."""
    return _added(input.copy(), dim, index, src)


def _reduced(input: Tensor, dim: int, index: Tensor, src: Any, how: str) -> Tensor:
    if how == "add":
        return scatter_add(
            input, dim, index, src if isinstance(src, Tensor) else input.new_full(index.shape, src)
        )
    if how == "multiply":
        return scatter_reduce(
            input,
            dim,
            index,
            src if isinstance(src, Tensor) else input.new_full(index.shape, src),
            "prod",
        )
    raise KilnError(
        "scatter", "reduce argument must be either add or multiply", repr(how), "see scatter_reduce"
    )


@composition(out="beside", samples=_unique_samples)
def scatter(
    input: Tensor,
    dim: int,
    index: Tensor,
    src: Any = None,
    *,
    value: Any = None,
    reduce: str | None = None,
) -> Tensor:
    """A copy of input with values of src (or one value) written at indices along one dimension."""
    v = value if src is None else src
    return (
        scatter_op(input, dim, index, v)
        if reduce is None
        else _reduced(input, dim, index, v, reduce)
    )


@method("scatter_")
def scatter_(
    self: Tensor,
    dim: int,
    index: Tensor,
    src: Any = None,
    *,
    value: Any = None,
    reduce: str | None = None,
) -> Tensor:
    """`scatter` in place."""
    v = value if src is None else src
    if reduce is None:
        return dispatch.inplace(scatter_op.op, (self, dim, index, v))  # type: ignore[attr-defined]
    return assign(self, scatter, dim, index, v, reduce=reduce)


# ---------------------------------------------------------------- reduce


_REDUCE = {
    "sum": np.add,
    "prod": np.multiply,
    "amax": np.maximum,
    "amin": np.minimum,
    "mean": np.add,
}


def _reduce_infer(
    input: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool = True
) -> tuple:
    if reduce not in _REDUCE:
        raise KilnError(
            "scatter_reduce", "reduce argument must be either sum, prod, mean, amax or amin",
            repr(reduce), "",
        )  # fmt: skip
    if reduce == "mean" and input.dtype is dt.bool_:
        raise KilnNotImplementedError(
            "scatter_reduce", "no mean of bools", describe(input), "convert first: x.float()"
        )
    return _scatter_infer(input, dim, index, src)


def _reduce_grad(g: Tensor, input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, include_self: bool,
                 out: Tensor) -> tuple:  # fmt: skip
    ones = src.new_ones(index.shape)
    picked = src[tuple(slice(0, n) for n in index.shape)] if index._a.ndim and src._a.ndim else src
    hit = scatter_add(input.new_zeros(input.shape), dim, index, ones)
    keep = input.new_ones(input.shape) if include_self else (hit == 0).to(input.dtype)
    if reduce == "sum":
        gi, gs = g * keep, gather(g, dim, index)
    elif reduce == "mean":
        count = (hit + (1 if include_self else 0)).clamp(min=1)
        gi, gs = g * keep / count, gather(g / count, dim, index)
    elif reduce == "prod":
        # the product of the others, where one factor may be zero
        full = where_op(input == 0, 1, input)
        rest = scatter_reduce(full, dim, index, src, reduce, include_self=include_self)
        gi = where_op(keep != 0, g * rest / full, g.new_zeros(()))
        zero = picked == 0
        zeros = scatter_add(input.new_zeros(input.shape), dim, index, zero.to(src.dtype))
        single = zero & (gather(zeros, dim, index) == 1)
        rest = scatter_reduce(
            input, dim, index, where_op(single, 1, picked), reduce, include_self=include_self
        )
        gs = where_op(
            single,
            gather(g * rest, dim, index),
            gather(g * out, dim, index) / where_op(zero, 1, picked),
        )
    else:
        mine = (input == out).to(g.dtype)  # which counts among the equal ones, included or not
        theirs = (picked == gather(out, dim, index)).to(g.dtype)
        count = mine + scatter_add(input.new_zeros(input.shape), dim, index, theirs)
        share = g / count.clamp(min=1)
        gi, gs = share * mine * keep, gather(share, dim, index) * theirs
    return gi, _window(gs, src.shape)


def _reduce_samples() -> Any:
    i = np.array([[0, 1, 2, 0], [2, 0, 0, 1]])
    x, src = draw(rng(), (3, 5), 0.5, 2), draw(rng(1), (2, 4), 0.5, 2)
    for how in _REDUCE:
        for inc in (True, False):
            yield Sample((x, 0, i, src, how), {"include_self": inc})
            yield Sample((x[0, 0], 0, np.array(0), src[0, 0], how), {"include_self": inc})
    for inc in (True, False):
        yield Sample(
            (np.where(x > 1, x, 0), 0, i, np.where(src > 1, src, 0), "prod"),
            {"include_self": inc},
            grad=False,
        )
        for how in ("amax", "amin", "prod"):
            yield Sample((x > 1, 0, i, src > 1, how), {"include_self": inc}, grad=False)
    yield Sample((x, 0, i, src, "most"), error=RuntimeError)


@indexing(
    out=True,
    infer=_reduce_infer,
    inplace=True,
    grad={("input", "src"): _reduce_grad},
    samples=_reduce_samples,
)
def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """A copy of input reduced with src at indices along one dimension: sum, prod, mean, amax, amin."""
    if not index.size:
        return input.copy()
    out, at = _places("scatter_reduce", input.copy(), dim, index)
    count = np.zeros(out.shape, np.int64)
    if reduce == "mean" or not include_self:
        gathered_at(np.add, count, at, 1)
    if not include_self:
        start = {"prod": 1, "sum": 0, "mean": 0, "amax": -np.inf, "amin": np.inf}[reduce]
        if input.dtype.kind in "iu" and reduce in ("amax", "amin"):
            info = np.iinfo(input.dtype)
            start = info.min if reduce == "amax" else info.max
        out[count > 0] = start if input.dtype.kind != "b" else reduce in ("prod", "amin")
    gathered_at(_REDUCE[reduce], out, at, _clip_src(src, index))
    if reduce == "mean":
        count += int(include_self)
        total = np.maximum(count, 1)
        out = (
            (out // total).astype(out.dtype)
            if input.dtype.kind in "iu"
            else out / total.astype(input.dtype)
        )
    return out.reshape(input.shape)


# ---------------------------------------------------------------- whole slices


def _index_add_infer(input: Any, dim: int, index: Any, source: Any, alpha: Any = 1) -> tuple:
    _index_dtype("index_add", index)
    d = norm_dim(dim, len(input.shape), "index_add")
    if len(index.shape) > 1:
        raise KilnIndexError(
            "index_add", "index_add_(): Index is supposed to be a vector", describe(index), ""
        )
    if source.dtype is not input.dtype:
        raise KilnError("index_add", "self and source expected to have the same dtype",
                        f"{input.dtype.name}, {source.dtype.name}", "")  # fmt: skip
    if input.shape and (
        len(source.shape) != len(input.shape) or source.shape[d] != numel(index.shape)
    ):
        raise KilnError("index_add", "Number of indices should be equal to source.size(dim)",
                        f"index {describe(index)}, source {describe(source)}", "")  # fmt: skip
    return input.shape, input.dtype


def _index_add_batch(n: int, input: Any, dim: int, index: Any, source: Any, alpha: Any) -> Any:
    if not input.ndim:
        return None
    d = norm_dim(dim, input.ndim) + 1
    if not index.batched:
        return input.whole, d, index.tensor, source.whole, alpha
    x, values = input.whole.movedim(d, 1), source.whole.movedim(d, 1)
    at = [arange(n).reshape((n, 1)), index.tensor.reshape((n, -1))]
    return index_put_op(x, values if alpha == 1 else values * alpha, at, (0, 1), True).movedim(1, d)


@indexing(batch=_index_add_batch, infer=_index_add_infer, inplace=True, out=True,
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
    check_index("index_add", index, input.shape[dim] if input.ndim else 1, dim)
    at = (slice(None),) * (dim % max(input.ndim, 1)) + (index.reshape(-1),) if input.ndim else ()
    gathered_at(
        np.add,
        out,
        at,
        source
        if alpha == 1
        else source * input.dtype.type(dt.element(alpha, dt.OF_NUMPY[input.dtype], "index_add")),
    )
    return out


@composition(out="beside", samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), 0, np.array([0, 2]), draw(rng(1), (2, 4)))),
    Sample((draw(rng(), ()), 0, np.array([0]), draw(rng(1), (1,))))]))  # fmt: skip
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy of input with slices of one dimension replaced."""
    _index_dtype("index_copy", index)
    d = norm_dim(dim, input._a.ndim, "index_copy")
    out = input.clone(memory_format=contiguous_format)
    if input._a.ndim:
        out[(slice(None),) * d + (index,)] = source
    elif index.numel():
        out.copy_(source.reshape(()))
    return out


@method("index_copy_")
def index_copy_(self: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """`index_copy` in place."""
    return assign(self, index_copy, dim, index, source)


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), 1, np.array([0, 2]), 1.5)), Sample((draw(rng(), ()), 0, np.array([0]), 1.5)),
    Sample((draw(rng(), (3, 4)), 1, np.array([0.0]), 1.5), error=IndexError),
]))  # fmt: skip
def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """A copy of input with slices of one dimension set to a value."""
    d = norm_dim(dim, input._a.ndim, "index_fill")
    if index.dtype is not dt.int64:
        raise KilnIndexError(
            "index_fill", "index_fill_(): Expected dtype int64 for index.", describe(index), ""
        )
    n = input._a.shape[d] if input._a.ndim else 1
    hit = index_put_op(zeros(n, dtype=dt.bool_), tensor(True), [index.reshape(-1)], (0,), False)
    return filled(input, hit.reshape([n if i == d else 1 for i in range(input._a.ndim)]), value)


@method("index_fill_")
def index_fill_(self: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """`index_fill` in place."""
    return assign(self, index_fill, dim, index, value)
