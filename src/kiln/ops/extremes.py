"""Extremes: the largest and smallest elements and where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.recorders import called
from ..errors import KilnError, KilnIndexError, KilnNotImplementedError, describe
from ..shape import norm_dim, numel
from ..tensor import Tensor
from .reduction import (
    INT64,
    Dims,
    alias_dims,
    check_nonempty,
    no_elements,
    numpy_axis,
    reduced_shape,
    reduction_rule,
    reductions,
    same_dtype,
    spread,
    sum_op,
)
from .registry import Sample, composition, named, op
from .samples import draw, rng, strided
from .selection import maximum, minimum
from .storing import store_out


def tied_grad(g: Tensor, input: Tensor, out: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    """The gradient of an extreme: shared evenly among the elements that attain it."""
    return share(g, input == spread(out, input.shape, dim, keepdim), dim, keepdim)


def share(g: Tensor, mask: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    """A gradient divided evenly among the elements where `mask` holds."""
    return spread(g / sum_op(mask, dim, keepdim), mask.shape, dim, keepdim) * mask


def _not_complex(infer: Callable) -> Callable:
    def checked(input: Any, *args: Any) -> tuple:
        if input.dtype.is_complex:
            raise KilnNotImplementedError(
                "amax",
                "complex numbers have no order",
                describe(input),
                "reduce x.abs(), or x.real and x.imag",
            )
        return infer(input, *args)

    return checked


def _ties() -> Iterator[Sample]:
    yield from no_elements()
    yield Sample((np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), 1, False), grad=False)
    yield Sample((np.array([[1.0, np.nan], [2.0, 3.0]]), 1, True), grad=False)


def _extreme(name: str, ufunc: Any, doc: str) -> Any:
    def reference(input: Tensor, dim: Dims = (), keepdim: bool = False) -> Tensor:
        return ufunc.reduce(input, numpy_axis(dim, input.ndim), None, None, keepdim)

    reference.__name__, reference.__doc__ = name, doc
    return op(
        name=name, family="reduction", exact=True, out=True, check=False,
        infer=_not_complex(reduction_rule(name, same_dtype, nonempty=True)), grad={"input": tied_grad},
        samples=reductions(empty=False, integers=True, bad=_ties),
    )(reference)  # fmt: skip


amax = _extreme(
    "amax", np.maximum, "The largest element over `dim`; NaN wins; ties share the gradient evenly."
)
amin = _extreme(
    "amin", np.minimum, "The smallest element over `dim`; NaN wins; ties share the gradient evenly."
)


def _arg_rule(name: str) -> Callable:
    def infer(input: Any, dim: int | None = None, keepdim: bool = False) -> tuple:
        if input.dtype.category in (dt.BOOL, dt.COMPLEX):
            raise KilnError(
                name,
                f"not defined for {input.dtype.name} tensors",
                describe(input),
                "convert it first",
            )
        shape = input.shape
        axes = tuple(range(len(shape))) if dim is None else (norm_dim(dim, len(shape), name),)
        if numel(shape) == 0:
            check_nonempty(name, shape, dim, axes, input, KilnIndexError)
        return reduced_shape(shape, axes, keepdim), dt.int64

    return infer


def _no_index() -> Iterator[Sample]:
    yield Sample((np.zeros((0, 3)), 0, False), error=IndexError)
    yield Sample((np.zeros((0, 3)), None, False), error=IndexError)
    yield Sample((np.array([True, False]), None, False), error=RuntimeError)
    yield Sample((np.array([[1.0, 3.0, 3.0], [2.0, np.nan, 2.0]]), 1, False), grad=False)


def _arg_extreme(name: str, find: Any, doc: str) -> Any:
    def reference(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        if input.dtype.kind in "bc":
            raise TypeError("no order")
        if not input.ndim:
            return np.zeros((), INT64)
        return find(input, axis=dim, keepdims=keepdim)

    reference.__name__, reference.__doc__ = name, doc
    return op(
        name=name, family="reduction", exact=True, out=True, check=False, infer=_arg_rule(name),
        samples=reductions(many=False, empty=False, grad=False, bad=_no_index),
    )(reference)  # fmt: skip


argmax = _arg_extreme(
    "argmax",
    np.argmax,
    "Where the largest element is: the first one's index, in `dim` or flattened.",
)
argmin = _arg_extreme(
    "argmin",
    np.argmin,
    "Where the smallest element is: the first one's index, in `dim` or flattened.",
)


def select_grad(gs: Any, picks: Any, in_shape: Any, dim: int, keepdim: bool) -> Tensor | None:
    """The gradient of (values, indices) picked along `dim`: each value's goes to its index."""
    g, index = gs[0], picks
    if g is None:
        return None
    if not in_shape:
        return g
    if not keepdim:
        g, index = g.unsqueeze(dim), index.unsqueeze(dim)
    return g.new_zeros(in_shape).scatter(dim, index, g)


def select_body(find: Callable) -> Callable:
    """A body that gathers the values at the indices that `find` gives."""

    def body(input: Tensor, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
        ordered = input.to(dt.uint8) if input.dtype is dt.bool_ else input
        if not len(input.shape):
            return input.clone(), find(ordered, 0, False)
        index = find(ordered, dim, True)
        values = input.gather(dim, index)
        return (values, index) if keepdim else (values.squeeze(dim), index.squeeze(dim))

    return body


def select(input: np.ndarray, dim: int, keepdim: bool, find: Any) -> tuple:
    if input.dtype.kind == "c":
        raise TypeError("no order")
    if not input.ndim:
        return input.copy(), np.zeros((), INT64)
    index = find(input, axis=dim, keepdims=True)
    values = np.take_along_axis(input, index, dim)
    return (values, index) if keepdim else (values.squeeze(dim), index.squeeze(dim))


def select_rule(name: str) -> Callable:
    def infer(input: Any, dim: int, keepdim: bool) -> list:
        shape = input.shape
        axes = (norm_dim(dim, len(shape), name),)
        if numel(shape) == 0:
            check_nonempty(name, shape, dim, axes, input)
        out = reduced_shape(shape, axes, keepdim)
        return [(out, input.dtype), (out, dt.int64)]

    return infer


def select_samples() -> Iterator[Sample]:
    r = rng(10)
    for dim, keepdim in ((0, False), (-1, True), (1, False)):
        yield Sample((draw(r, (3, 4, 2)), dim, keepdim))
    yield Sample((draw(r, ()), 0, False))
    yield Sample((strided(draw(r, (4, 3))), 1, False))
    yield Sample((np.array([[1.0, 3.0, 3.0], [2.0, np.nan, 2.0]]), 1, False), grad=False)
    yield Sample((draw(r, (0, 3)), 1, False))
    yield Sample((np.zeros((0, 3)), 0, False), error=IndexError)
    yield Sample((np.zeros((2, 3)), 2, False), error=IndexError)


def _samples() -> Iterator[Sample]:
    yield from select_samples()
    yield Sample((np.array(True), 0, False), grad=False)
    yield Sample((np.array([[False, True, True], [False, False, False]]), 1, False), grad=False)


def _selection(name: str, find: Any, find_op: Any, doc: str) -> Any:
    def reference(input: Tensor, dim: int, keepdim: bool) -> Tensor:
        return select(input, dim, keepdim, find)

    reference.__name__, reference.__doc__ = name, doc
    return op(
        name=name, private=True, exact=True, check=False, result_names="values indices", nondiff_outputs=(1,),
        infer=_not_complex(select_rule(name)), grad={"input": select_grad}, body=select_body(find_op),
        samples=_samples,
    )(reference)  # fmt: skip


max_dim = _selection(
    "max", np.argmax, argmax, "The largest element along a dimension and its index."
)
min_dim = _selection(
    "min", np.argmin, argmin, "The smallest element along a dimension and its index."
)


def _min_or_max(
    name: str, input: Tensor, dim: Any, keepdim: bool, other: Any, out: Any, names: dict
) -> Any:
    whole, along, pairwise = (amax, max_dim, maximum) if name == "max" else (amin, min_dim, minimum)
    dim, keepdim = alias_dims(dim, keepdim, names, name)
    if isinstance(dim, Tensor):
        dim, other = None, dim
    if other is not None:
        return pairwise(input, other, out=out)
    if dim is not None:
        return store_out(along.op, along(input, dim, keepdim), out)
    if numel(input.shape) == 0:
        check_nonempty(name, input.shape, None, (), input)
    found = called(whole(input), f"{name.capitalize()}Backward1")
    return store_out(whole.op, found, out, cast=True)


def _min_or_max_samples() -> Iterator[Sample]:
    r = rng(11)
    yield Sample((draw(r, (3, 4)),))
    yield Sample((draw(r, ()),))
    yield Sample((draw(r, (3, 4)), draw(r, (4,))))
    yield Sample((draw(r, (3, 4)), 1, True))
    yield Sample((draw(r, (3, 4)),), {"axis": 0})
    yield Sample((np.zeros((0,)),), error=RuntimeError)


@composition(samples=_min_or_max_samples)
def max(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None, out: Any = None,
        **names: Any) -> Any:  # fmt: skip
    """The largest element; with `dim` (values, indices) along it; with a tensor the larger of each pair."""
    return _min_or_max("max", input, dim, keepdim, other, out, names)


@composition(samples=_min_or_max_samples)
def min(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None, out: Any = None,
        **names: Any) -> Any:  # fmt: skip
    """The smallest element; with `dim` (values, indices) along it; with a tensor the smaller of each pair."""
    return _min_or_max("min", input, dim, keepdim, other, out, names)


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)),)), Sample((draw(rng(), (3, 4)),), {"dim": 0, "keepdim": True}),
]))  # fmt: skip
def aminmax(
    input: Tensor, *, dim: int | None = None, keepdim: bool = False, out: Any = None
) -> Any:
    """The smallest and the largest element, over `dim` where given."""
    dims = () if dim is None else dim
    low, high = (None, None) if out is None else out
    for x in (low, high):
        if x is not None and x.dtype is not input.dtype:
            raise KilnError(
                "aminmax", f"expected out tensor to have dtype {input.dtype.name}", describe(x), ""
            )
    return named("aminmax", "min max")(
        amin(input, dims, keepdim, out=low), amax(input, dims, keepdim, out=high)
    )
