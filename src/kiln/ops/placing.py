"""Writing at places: `put`, `index_reduce`, `as_strided_scatter`, `fill_diagonal_`, and coordinates of fixed number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnIndexError, describe
from ..shape import Size, norm_dim, numel
from ..tensor import Tensor
from .assembling import _scattered
from .creation import tensor
from .indexing import copy_, index_put_op, indexing
from .picking import coordinates
from .registry import Sample, composition, method
from .samples import draw, rng
from .scatter import scatter_reduce

# ---------------------------------------------------------------- by position in row-major order


def _put_samples() -> Iterator[Sample]:
    x, i = draw(rng(), (3, 4)), np.array([[0, 11], [-1, 5]])
    for accumulate in (False, True):
        yield Sample((x, i[0], draw(rng(1), (2,)), accumulate))
    yield Sample((x, i, draw(rng(1), (2, 2)), True))
    yield Sample((x.T, i, draw(rng(1), (4,)), True))
    yield Sample((draw(rng(), ()), np.array(0), draw(rng(1), ())))
    yield Sample((x, np.zeros(0, np.int64), np.zeros(0)))
    yield Sample((x, np.array([12]), np.ones(1)), error=IndexError)
    yield Sample((x, np.array([0, 1]), np.ones(1)), error=IndexError)
    yield Sample((x, np.array([0]), np.ones(1, np.float32)), error=RuntimeError)
    yield Sample((x, np.array([0], np.int32), np.ones(1)), error=RuntimeError)


@composition(samples=_put_samples, inplace=True, out=True)
def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """A copy with the values of `source` put (or added) at places in row-major order."""
    if index.dtype is not dt.int64:
        raise KilnError(
            "put", f"put_(): Expected a long tensor for index, but got {index.dtype.name}", describe(index), "index.long()"
        )  # fmt: skip
    if input.dtype is not source.dtype:
        raise KilnError("put", "put_(): self and source expected to have the same dtype",
                        f"{input.dtype.name}, {source.dtype.name}", "convert one of them")  # fmt: skip
    if index.numel() != source.numel():
        raise KilnIndexError("put", "put_(): Expected source and index to have the same number of elements",
                        f"{describe(source)}, {describe(index)}", "")  # fmt: skip
    if index.numel() and not input.numel():
        raise KilnIndexError(
            "put", "tried to put elements into an empty tensor", describe(input), ""
        )
    flat = index_put_op(
        input.reshape(-1), source.reshape(-1), [index.reshape(-1)], (0,), accumulate
    )
    return flat.reshape(input.shape)


# ---------------------------------------------------------------- whole slices


def _index_reduce_samples() -> Iterator[Sample]:
    x, src, i = draw(rng(), (3, 4), 0.5, 2), draw(rng(1), (4, 4), 0.5, 2), np.array([0, 2, 0, 0])
    for how in ("prod", "mean", "amax", "amin"):
        for include in (True, False):
            yield Sample((x, 0, i, src, how), {"include_self": include})
    yield Sample((x, -1, np.array([1, 1]), draw(rng(1), (3, 2)), "amax"))
    yield Sample((draw(rng(), ()), 0, np.array(0), draw(rng(1), ()), "prod"))
    yield Sample((x, 0, i[:0], src[:0], "prod"))
    yield Sample((x, 0, i, src, "sum"), error=RuntimeError)
    yield Sample((x, 0, i[:2], src, "prod"), error=RuntimeError)
    yield Sample((x, 0, i, src.astype(np.float32), "prod"), error=RuntimeError)
    yield Sample((x, 0, src, src, "prod"), error=IndexError)
    yield Sample((x, 0, src[0], src, "prod"), error=RuntimeError)


@composition(samples=_index_reduce_samples, inplace=True, out="beside")
def index_reduce(
    input: Tensor,
    dim: int,
    index: Tensor,
    source: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Tensor:
    """A copy reduced with slice i of `source` at slice index[i] of one dimension: prod, mean, amax, amin."""
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise KilnError(
            "index_reduce",
            "reduce argument must be either prod, mean, amax or amin.",
            repr(reduce),
            "",
        )
    d = norm_dim(dim, input.ndim, "index_reduce")
    if index.ndim > 1:
        raise KilnIndexError(
            "index_reduce", "index_reduce(): Index is supposed to be a vector", describe(index), ""
        )
    if index.dtype not in (dt.int64, dt.int32):
        raise KilnError(
            "index_reduce", "index_reduce(): Expected dtype int32/int64 for index", describe(index), "index.long()"
        )  # fmt: skip
    if input.dtype is not source.dtype:
        raise KilnError("index_reduce", "index_reduce(): self and source expected to have the same dtype",
                        f"{input.dtype.name}, {source.dtype.name}", "convert one of them")  # fmt: skip
    fits = [index.numel() if i == d else n for i, n in enumerate(input.shape)] == list(source.shape)
    if not fits and (input.ndim or source.numel() != 1 or index.numel() != 1):
        raise KilnError("index_reduce", "index_reduce(): source must have the size of self, and along dim that of index",
                        f"self {describe(input)}, source {describe(source)}, index {describe(index)}", "")  # fmt: skip
    if not input.ndim:
        return scatter_reduce(
            input, 0, index.reshape(()), source.reshape(()), reduce, include_self=include_self
        )
    at = index.reshape([-1 if i == d else 1 for i in range(input.ndim)]).expand(source.shape)
    return scatter_reduce(input, d, at, source, reduce, include_self=include_self)


# ---------------------------------------------------------------- strided places, diagonals


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (2, 2)), (2, 2), (4, 2), 1), grad=False),
    Sample((draw(rng(), (3, 4)), draw(rng(1), (2,)), (2,), (5,)), grad=False),
    Sample((draw(rng(), (3, 4)), draw(rng(1), (3,)), (2,), (5,)), error=RuntimeError),
]), out=True)  # fmt: skip
def as_strided_scatter(
    input: Tensor,
    src: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Tensor:
    """A copy with `src` at the elements that `as_strided` would show."""
    return _scattered(
        "as_strided_scatter", input, src, lambda x: x.as_strided(size, stride, storage_offset or 0)
    )


@method("fill_diagonal_")
def fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """Set the diagonal from the first element on, in place; `wrap` goes on below a tall matrix's end."""
    shape = self.shape
    if len(shape) < 2:
        raise KilnError("fill_diagonal_", "dimensions must larger than 1", describe(self), "")
    if len(shape) > 2 and len(set(shape)) > 1:
        raise KilnError(
            "fill_diagonal_", "all dimensions of input must be of equal length", describe(self), ""
        )
    stride = [numel(shape[i + 1 :]) for i in range(len(shape))]
    step = sum(stride)
    count = min(shape)
    if wrap and len(shape) == 2 and shape[0] > shape[1] + 1:
        count = -(-numel(shape) // step)
    at = np.arange(count) * step
    mask = np.zeros(numel(shape), bool)
    mask[at[at < mask.size]] = True
    return copy_(self, self.masked_fill(tensor(mask.reshape(shape)), fill_value))


def _static_samples() -> Iterator[Sample]:
    x = np.array([[1, 0, 2], [0, 0, 3]])
    for size in (0, 2, 3, 5):
        yield Sample((x,), {"size": size}, grad=False)
    yield Sample((x,), {"size": 4, "fill_value": 7}, grad=False)
    yield Sample((np.array(3.0),), {"size": 2}, grad=False)
    yield Sample((x,), {"size": -1}, error=RuntimeError)


def _static_infer(input: Any, size: int, fill_value: int) -> tuple:
    if size < 0:
        raise KilnError(
            "nonzero_static", "nonzero_static: 'size' must be an non-negative integer", size, ""
        )
    return Size((size, len(input.shape))), dt.int64


@indexing(infer=_static_infer, samples=_static_samples, out=True)
def nonzero_static(input: Tensor, *, size: int, fill_value: int = -1) -> Tensor:
    """The first `size` rows of `nonzero`, filled up with `fill_value` where there are fewer."""
    found = coordinates(input, size)
    out = np.full((size, input.ndim), fill_value, np.int64)
    out[: len(found)] = found
    return out
