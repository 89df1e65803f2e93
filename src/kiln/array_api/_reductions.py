"""Statistics, truth, searching, sorting and sets."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

from .. import dtypes as dt
from ..errors import KilnValueError, describe
from ..ops import joining, reduction, selection, sorting, statistics
from ..ops.registry import FUNCTIONS
from ..shape import norm_dim
from ..tensor import Tensor
from ._array import Array, array
from ._dtypes import (
    BOOL,
    EVERY,
    FLOAT,
    FLOATING,
    NUMERIC,
    REAL,
    checked,
    operands,
)

Axes = int | tuple[int, ...] | None


def _reduced(fn: Callable, x: Tensor, axis: Axes, keepdims: bool) -> Array:
    """A reduction over axes; over none of them, each element is reduced by itself."""
    if axis == ():
        return array(fn(x.unsqueeze(-1), -1, False), x)
    return array(fn(x, axis, keepdims), x)


def _accumulator(x: Tensor, dtype: Any) -> dt.dtype:
    """The dtype of sums and products: the widest integer of the same sign, or that of the array."""
    if dtype is not None or x.dtype.category != dt.INT:
        return dtype or x.dtype
    return dt.int64 if x.dtype.is_signed else dt.uint64


def _wide(x: Tensor, d: dt.dtype) -> Tensor:
    """Elements as they add up: in a wider floating dtype, but integers in 64 bits, in which any of theirs wraps alike."""
    return x.to(d) if d.category >= dt.FLOAT else x


def sum(x: Tensor, /, *, axis: Axes = None, dtype: Any = None, keepdims: bool = False) -> Array:
    """The sum over axes, by default all; integers add up in 64 bits."""
    d = _accumulator(checked("sum", NUMERIC, x), dtype)
    return array(_reduced(reduction.sum_op, _wide(x, d), axis, keepdims).to(d))


def prod(x: Tensor, /, *, axis: Axes = None, dtype: Any = None, keepdims: bool = False) -> Array:
    """The product over axes, by default all; integers multiply in 64 bits."""
    d = _accumulator(checked("prod", NUMERIC, x), dtype)
    return array(_reduced(reduction.prod_op, _wide(x, d), axis, keepdims).to(d))


def mean(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """The mean over axes."""
    return _reduced(statistics.mean_op, checked("mean", FLOATING, x), axis, keepdims)


def var(
    x: Tensor, /, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False
) -> Array:
    """The variance over axes: squared distances from the mean, divided by their number less `correction`."""
    checked("var", FLOAT, x)
    return _reduced(lambda x, a, k: statistics.var_op(x, a, correction, k), x, axis, keepdims)


def std(
    x: Tensor, /, *, axis: Axes = None, correction: float = 0.0, keepdims: bool = False
) -> Array:
    """The square root of the variance."""
    checked("std", FLOAT, x)
    return _reduced(lambda x, a, k: statistics.std_op(x, a, correction, k), x, axis, keepdims)


def max(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """The largest element over axes; NaN wins."""
    return _reduced(FUNCTIONS["amax"], checked("max", REAL, x), axis, keepdims)


def min(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """The smallest element over axes; NaN wins."""
    return _reduced(FUNCTIONS["amin"], checked("min", REAL, x), axis, keepdims)


def all(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """Whether all elements over axes are not zero."""
    return _reduced(FUNCTIONS["all"], checked("all", EVERY, x) != 0, axis, keepdims)


def any(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """Whether any element over axes is not zero."""
    return _reduced(FUNCTIONS["any"], checked("any", EVERY, x) != 0, axis, keepdims)


def count_nonzero(x: Tensor, /, *, axis: Axes = None, keepdims: bool = False) -> Array:
    """How many elements over axes are not zero."""
    return _reduced(reduction.sum_op, checked("count_nonzero", EVERY, x) != 0, axis, keepdims)


def _cumulative(name: str, first: int) -> Callable:
    def f(x: Tensor, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False) -> Array:  # fmt: skip
        d = _accumulator(checked(name, NUMERIC, x), dtype)
        if axis is None and x.ndim != 1:
            raise KilnValueError(name, "axis must be given unless there is one dimension", describe(x), "axis=-1")  # fmt: skip
        at = norm_dim(axis or 0, x.ndim, name)
        out = FUNCTIONS["cum" + name.removeprefix("cumulative_")](_wide(x, d), at).to(d)
        if include_initial:
            shape = [1 if i == at else n for i, n in enumerate(x.shape)]
            out = joining.cat([out.new_full(shape, first), out], at)
        return array(out, x)

    f.__name__ = f.__qualname__ = name
    return f


cumulative_sum, cumulative_prod = (
    _cumulative("cumulative_sum", 0),
    _cumulative("cumulative_prod", 1),
)
cumulative_sum.__doc__ = (
    "The sum of the elements up to each one along an axis, after a 0 if `include_initial`."
)
cumulative_prod.__doc__ = (
    "The product of the elements up to each one along an axis, after a 1 if `include_initial`."
)


# ---------------------------------------------------------------- searching


def argmax(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Array:
    """Where the largest element is, along an axis or in the flattened array."""
    return array(FUNCTIONS["argmax"](checked("argmax", REAL, x), axis, keepdims))


def argmin(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> Array:
    """Where the smallest element is, along an axis or in the flattened array."""
    return array(FUNCTIONS["argmin"](checked("argmin", REAL, x), axis, keepdims))


def nonzero(x: Tensor, /) -> tuple[Array, ...]:
    """The indices of the elements that are not zero, an array for each axis."""
    if checked("nonzero", EVERY, x).ndim == 0:
        raise KilnValueError("nonzero", "a 0-d array has no indices", describe(x), "reshape(x, (1,))")  # fmt: skip
    return tuple(map(array, x.nonzero(as_tuple=True)))


def searchsorted(
    x1: Tensor, x2: Any, /, *, side: str = "left", sorter: Tensor | None = None
) -> Array:
    """Where values would be inserted into a sorted array to keep it sorted, before or after equal ones."""
    a, b = operands("searchsorted", REAL, x1, x2)
    return array(FUNCTIONS["searchsorted"](a, b, side=side, sorter=sorter))


def where(condition: Tensor, x1: Any, x2: Any, /) -> Array:
    """Elements of x1 where the condition holds, of x2 elsewhere."""
    checked("where", BOOL, condition)
    return array(selection.where_op(condition, *operands("where", EVERY, x1, x2)))


# ---------------------------------------------------------------- sorting


def sort(x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """The elements in order along an axis."""
    return array(sorting.sort_op(checked("sort", REAL, x), axis, descending)[0])


def argsort(
    x: Tensor, /, *, axis: int = -1, descending: bool = False, stable: bool = True
) -> Array:
    """The indices that sort along an axis; equal elements keep their order."""
    return array(sorting.sort_op(checked("argsort", REAL, x), axis, descending)[1])


# ---------------------------------------------------------------- sets

_All = namedtuple("unique_all_result", "values indices inverse_indices counts")  # noqa: PYI024
_Counts = namedtuple("unique_counts_result", "values counts")  # noqa: PYI024
_Inverse = namedtuple("unique_inverse_result", "values inverse_indices")  # noqa: PYI024


def unique_all(x: Tensor, /) -> _All:
    """The distinct elements, where each was first, where each element went, and how often each occurs."""
    values, inverse, counts = map(array, sorting.unique_op(checked("unique_all", EVERY, x).detach(), None, True))  # fmt: skip
    places = sorting.sort_op(inverse.reshape(-1), 0, False)[1]  # by value, then by place
    first = counts.cumsum(0) - counts
    return _All(values, array(places[first]), inverse, counts)


def unique_counts(x: Tensor, /) -> _Counts:
    """The distinct elements and how often each occurs; each NaN is one of its own."""
    found = unique_all(x)
    return _Counts(found.values, found.counts)


def unique_inverse(x: Tensor, /) -> _Inverse:
    """The distinct elements and where each element went."""
    found = unique_all(x)
    return _Inverse(found.values, found.inverse_indices)


def unique_values(x: Tensor, /) -> Array:
    """The distinct elements."""
    return unique_all(x).values


def isin(x1: Any, x2: Any, /, *, invert: bool = False) -> Array:
    """Where an element of x1 is among those of x2, or is not if `invert`."""
    return array(FUNCTIONS["isin"](*operands("isin", EVERY, x1, x2), invert=invert))
