"""Reductions: what all share, sums, products and truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.tape import record_unary
from ..errors import KilnError, KilnIndexError, KilnNotImplementedError, KilnTypeError, describe
from ..shape import Size, norm_dims, numel
from ..tensor import CAPTURING, Tensor, wrap
from .dispatch import LARGE, apply
from .registry import Sample, composition, op
from .samples import draw, rng, strided
from .selection import where_op
from .storing import store_out
from .views import broadcast_array

Dims = int | Sequence[int] | None

# Note [Dims of a reduction]
# Reduction ops take `dim` as the user wrote it: an int, a sequence of ints (negative ones count from
# the end), None for all. An empty sequence also means all, except for `any` and `all`, where it means
# none. `reduced_axes` gives the canonical form: the sorted tuple of dimensions counted from the front.

_F32, _F64 = dt.float32.np, dt.float64.np
_FEW = 1 << 10
INT64 = dt.int64.np
add_reduce = np.add.reduce


def reduced_axes(dim: Dims, ndim: int, op: str = "dim") -> tuple[int, ...]:
    """The dimensions that a reduction over `dim` removes, in ascending order."""
    if dim is None or (isinstance(dim, list | tuple) and len(dim) == 0):
        return tuple(range(ndim))
    return tuple(sorted(norm_dims(dim, ndim, op)))


def reduced_shape(shape: Sequence[Any], axes: Sequence[int], keepdim: bool) -> Size:
    """The shape after reducing `axes`."""
    if keepdim:
        return Size(1 if i in axes else s for i, s in enumerate(shape))
    return Size(s for i, s in enumerate(shape) if i not in axes)


def lined(x: Any, shape: Sequence[Any], dim: Dims, keepdim: bool) -> Any:
    """A tensor or an array reduced from `shape`, as one that broadcasts to it again."""
    if keepdim or not x.ndim:
        return x
    return x.reshape(reduced_shape(shape, reduced_axes(dim, len(shape)), True))


def spread(x: Tensor, shape: Sequence[Any], dim: Dims, keepdim: bool) -> Tensor:
    """A tensor reduced from `shape`, expanded to it again."""
    return lined(x, shape, dim, keepdim).expand(shape)


def spread_array(g: np.ndarray, shape: tuple, dim: Dims, keepdim: bool) -> np.ndarray:
    """`spread` of a plain array."""
    if not g.ndim and math.prod(shape) < _FEW:
        out = np.empty(shape, g.dtype)  # half the time of a view that repeats it
        out.fill(g)
        return out
    return broadcast_array(lined(g, shape, dim, keepdim), shape)


def reduced_count(shape: Sequence[Any], dim: Dims) -> Any:
    return numel(shape[i] for i in reduced_axes(dim, len(shape)))


def numpy_axis(dim: Dims, ndim: int) -> Any:
    """`dim` as NumPy's axis=."""
    if dim is None:
        return None
    if not ndim:
        norm_dims(dim, 0)  # 0 and -1 are its dimensions
        return None
    if isinstance(dim, list | tuple):
        return tuple(dim) or None
    return dim


def reduction_rule(
    name: str, dtype: Callable[[dt.dtype], dt.dtype], nonempty: bool = False
) -> Callable:
    """A shape rule: the reduced shape; `nonempty` reductions have no value of nothing."""

    def infer(input: Any, dim: Dims = None, keepdim: bool = False) -> tuple:
        shape = input.shape
        axes = reduced_axes(dim, len(shape), name)
        if nonempty and numel(shape) == 0:
            check_nonempty(name, shape, dim, axes, input)
        return reduced_shape(shape, axes, keepdim), dtype(input.dtype)

    return infer


def check_nonempty(
    name: str, shape: Any, dim: Dims, axes: Sequence[int], input: Any, whole: type = KilnError
) -> None:
    """Raise where a reduction without an identity would reduce no elements."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        raise whole(
            name, "expected reduction dim to be specified for an input without elements",
            describe(input), "give a dim whose size is not 0",
        )  # fmt: skip
    for d in axes:
        if shape[d] == 0:
            raise KilnIndexError(
                name, f"expected reduction dim {d} to have non-zero size", describe(input),
                "there is no such element of nothing",
            )  # fmt: skip


def same_dtype(d: dt.dtype) -> dt.dtype:
    return d


def _widened(d: dt.dtype) -> dt.dtype:
    return dt.int64 if d.category < dt.FLOAT else d


def reductions(low: float = -2.0, high: float = 2.0, *, many: bool = True, empty: bool = True, grad: bool = True,
             integers: bool = False, bad: Callable[[], Iterator[Sample]] | None = None) -> Callable[[], Iterator[Sample]]:  # fmt: skip
    """Samples of f(x, dim, keepdim): no dim, one, several, negative; 0-d, empty, strided."""

    def samples() -> Iterator[Sample]:
        r = rng(7)
        x = draw(r, (3, 4, 2), low, high)
        yield Sample((x, None, False), grad=grad)
        for dim in (0, -1, *(((0, 2), [1], (-1, -2)) if many else ())):
            yield Sample((x, dim, False), grad=grad)
            yield Sample((x, dim, True), grad=grad)
        yield Sample((draw(r, (), low, high), 0, False), grad=grad)
        yield Sample((draw(r, (), low, high), None, True), grad=grad)
        yield Sample((strided(draw(r, (4, 3), low, high)), 0, False), grad=grad)
        yield Sample((draw(r, (0, 3), low, high), 1, False), grad=grad)
        if empty:
            yield Sample((draw(r, (2, 0)), 1, False), grad=grad)
            yield Sample((draw(r, (0,)), None, False), grad=grad)
        if integers:
            yield Sample((r.integers(-3, 4, (3, 4)), 0, False), grad=False)
            yield Sample((r.integers(0, 2, (3, 4)) > 0, None, False), grad=False)
        yield Sample((x, 3, False), error=IndexError)
        if many:
            yield Sample((x, (0, 0), False), error=RuntimeError)
        if bad is not None:
            yield from bad()

    return samples


def no_elements() -> Iterator[Sample]:
    yield Sample((np.zeros((0, 3)), 0, False), error=IndexError)
    yield Sample((np.zeros((0, 3)), None, False), error=RuntimeError)


# ---------------------------------------------------------------- sums and products


def accurate_sum(a: np.ndarray, axis: Any = None, keepdim: bool = False) -> Any:
    """The sum of a float array; where NumPy would add float32 one by one, in blocks or in float64."""
    if a.dtype is _F32 and a.size > 256 and not _pairwise(a, axis) and not _short(a, axis):
        if axis in (0, (0,)) and a.shape[0] <= a.size // 32 and a.flags.c_contiguous:
            return _sum_rows(a)[None] if keepdim else _sum_rows(a)
        return add_reduce(a, axis, _F64, None, keepdim).astype(_F32)
    return add_reduce(a, axis, None, None, keepdim)


def _short(a: np.ndarray, axis: Any) -> bool:
    """Whether so few numbers make each sum that one by one is as good as blocks of 32."""
    if axis.__class__ is int:
        return a.shape[axis] <= 64
    axes = range(a.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    return math.prod(a.shape[i] for i in axes) <= 64


def _sum_rows(a: np.ndarray) -> np.ndarray:
    """The sum over the first axis: of 32 rows each, as far apart as can be, so that they are added in long runs; then of these."""
    n = a.shape[0]
    if n <= 64:
        return add_reduce(a, 0)
    whole = n - n % 32
    total = _sum_rows(add_reduce(a[:whole].reshape(32, n // 32, *a.shape[1:]), 0))
    return total if whole == n else total + add_reduce(a[whole:], 0)


def _pairwise(a: np.ndarray, axis: Any) -> bool:
    """Whether NumPy reduces along contiguous memory, where it sums pairwise."""
    if axis is None:
        return a.flags.c_contiguous or a.flags.f_contiguous
    if isinstance(axis, tuple):
        if len(axis) != 1:
            return False
        axis = axis[0]
    return axis in (-1, a.ndim - 1) and a.strides[-1] == a.itemsize


@op(
    node=("SumBackward0", lambda node: f"SumBackward{int(node.args[1] is not None)}"), name="sum", private=True, family="reduction", check=False, infer=reduction_rule("sum", _widened),
    grad={"input": lambda g, in_shape, dim, keepdim: spread(g, in_shape, dim, keepdim)},
    quick={"input": lambda g, in_shape, dim, keepdim: spread_array(g, in_shape, dim, keepdim)},
    samples=reductions(integers=True),
)  # fmt: skip
def sum_op(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The sum over dimensions; integers and bools add up in int64."""
    axis = numpy_axis(dim, input.ndim)
    if input.dtype.kind in "iub":
        return add_reduce(input, axis, INT64, None, keepdim)
    return accurate_sum(input, axis, keepdim)


def alias_dims(dim: Any, keepdim: Any, names: dict[str, Any], name: str) -> tuple[Any, Any]:
    """NumPy's names for `dim` and `keepdim`."""
    for k, v in names.items():
        if k == "axis":
            dim = v
        elif k == "keepdims":
            keepdim = v
        else:
            raise KilnTypeError(
                name, f"unexpected argument '{k}'", describe(v), "see its documentation"
            )
    return dim, keepdim


def converted(input: Any, dtype: Any) -> Any:
    return input if dtype is None else input.to(dt.as_dtype(dtype))


_sum = sum_op.op  # type: ignore[attr-defined]


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)),)), Sample((draw(rng(), (3, 4)), 1), {"dtype": dt.float64}),
    Sample((draw(rng(), (3, 4)),), {"axis": 0, "keepdims": True}), Sample((draw(rng(), (3, 4)), ()), grad=False),
]))  # fmt: skip
def sum(input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None, out: Tensor | None = None,
        **names: Any) -> Tensor:  # fmt: skip
    """The sum of all elements, or over `dim`; integers and bools add up in int64 unless `dtype` is given."""
    if (
        dim is None
        and not keepdim
        and dtype is None
        and out is None
        and not names
        and isinstance(input, Tensor)
        and not CAPTURING
    ):
        a = input._a
        d = a.dtype
        if (d is _F32 or d is _F64) and a.size < LARGE and a.flags.c_contiguous:
            t = wrap(np.asarray(add_reduce(a, None)))
            if input._rg or input._base is not None:
                record_unary(_sum, input, t)
            return t
    if names:
        dim, keepdim = alias_dims(dim, keepdim, names, "sum")
    if dtype is None and out is not None:
        dtype = out.dtype
    r = sum_op(converted(input, dtype), dim, keepdim)
    r = r if dtype is None else r.to(dtype)
    return store_out(_sum, r, out)


def _prod_grad(g: Tensor, input: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    # d(prod)/dx is the product of the others, written so that it and its derivative hold at zeros:
    # `rest` multiplies what is not 0, and of zeros at most two matter.
    zero = input == 0
    safe = where_op(zero, 1, input)
    rest = apply(_prod, (safe, dim, True))
    zeros = apply(_sum, (zero, dim, True))
    total = apply(_sum, (where_op(zero, input, 0), dim, True))
    at_zero = where_op(zeros == 1, 1, where_op(zeros == 2, total - input, 0))
    elsewhere = where_op(zeros == 0, 1, where_op(zeros == 1, total, 0)) / safe
    d = rest * where_op(zero, at_zero, elsewhere)
    return spread(g, input.shape, dim, keepdim) * (d.conj() if d.is_complex() else d)


def _with_zeros() -> Iterator[Sample]:
    x = draw(rng(8), (4, 4), 0.5, 1.5)
    x[0, 1] = x[1, 0] = x[1, 2] = x[2, 0] = x[2, 1] = x[2, 3] = 0
    yield Sample((x, 1, False))
    yield Sample((x, None, False))


@op(
    node=("ProdBackward0", lambda node: f"ProdBackward{int(node.args[1] is not None)}"), name="prod", private=True, family="reduction", check=False, infer=reduction_rule("prod", _widened),
    grad={"input": _prod_grad}, samples=reductions(0.5, 1.5, integers=True, bad=_with_zeros),
)  # fmt: skip
def prod_op(input: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    """The product over dimensions; integers and bools multiply in int64."""
    wide = INT64 if input.dtype.kind in "iub" else None
    return np.multiply.reduce(input, numpy_axis(dim, input.ndim), wide, None, keepdim)


_prod = prod_op.op  # type: ignore[attr-defined]


@composition(samples=lambda: iter([
    Sample((draw(rng(), (3, 4)),)), Sample((draw(rng(), (3, 4)), 1, True), {"dtype": dt.float64}),
    Sample((np.array([[3, 200], [1, 2]]), 1), {"dtype": dt.uint8}), Sample((np.array([True]),), {"dtype": dt.bool_}),
    Sample((draw(rng(), (3, 4)), (0, 1)), error=TypeError),
]))  # fmt: skip
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None,
         out: Tensor | None = None, **names: Any) -> Tensor:  # fmt: skip
    """The product of all elements, or over `dim`; integers and bools multiply in int64."""
    dim, keepdim = alias_dims(dim, keepdim, names, "prod")
    if isinstance(dim, list | tuple):
        raise KilnTypeError(
            "prod", "dim must be one dimension", describe(dim), "reduce them one by one"
        )
    if dtype is None and out is not None:
        dtype = out.dtype
    r = prod_op(converted(input, dtype), dim, keepdim)
    return store_out(prod_op.op, r if dtype is None else r.to(dtype), out)


def nan_is_zero(input: Tensor) -> Tensor:
    return where_op(input.isnan(), 0, input) if input.dtype.category >= dt.FLOAT else input


def store_nan_free(entry: str, input: Tensor, r: Tensor, out: Tensor | None) -> Tensor:
    """A reduction of what is not NaN in `out`, which is floating where the input is."""
    if isinstance(out, Tensor) and input.dtype.category == dt.FLOAT != out.dtype.category:
        raise KilnNotImplementedError(
            entry, f"not implemented for {out.dtype.name} results", describe((input, out)), "give a floating out="
        )  # fmt: skip
    return store_out(_sum, r, out, cast=True)


@composition(samples=lambda: iter([
    Sample((np.array([[1.0, np.nan], [2.0, 3.0]]), 0)), Sample((np.array([np.nan]),)),
]))  # fmt: skip
def nansum(
    input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None, out: Tensor | None = None,
    **names: Any,
) -> Tensor:  # fmt: skip
    """The sum with NaN counted as 0."""
    dim, keepdim = alias_dims(dim, keepdim, names, "nansum")
    r = sum(nan_is_zero(input), dim, keepdim, dtype=dtype)
    return store_nan_free("nansum", input, r, out)


@composition(samples=lambda: iter([
    Sample((np.array([[1.0, 0.0], [2.0, 3.0]]), 0), grad=False), Sample((np.array(2.0),), grad=False),
]))  # fmt: skip
def count_nonzero(input: Tensor, dim: Dims = None) -> Tensor:
    """How many elements are not zero, as int64."""
    return sum_op(input != 0, dim, False)


# ---------------------------------------------------------------- truth


def _truth_dtype(d: dt.dtype) -> dt.dtype:
    return d if d is dt.uint8 else dt.bool_


def _truth_rule(name: str) -> Callable:
    def infer(input: Any, dim: Dims = None, keepdim: bool = False) -> tuple:
        axes = norm_dims(dim, len(input.shape), name)
        return reduced_shape(input.shape, axes, keepdim), _truth_dtype(input.dtype)

    return infer


def _truth(name: str, ufunc: Any, doc: str) -> Any:
    def reference(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
        axis = tuple(dim) if isinstance(dim, list | tuple) else dim
        r = ufunc.reduce(input, axis if input.ndim else None, np.bool_, None, keepdim)
        return r.astype(np.uint8) if input.dtype == np.uint8 else r

    reference.__name__, reference.__doc__ = name, doc
    return op(
        name=name, family="reduction", exact=True, out=True, check=False, infer=_truth_rule(name),
        samples=reductions(grad=False, integers=True, bad=lambda: iter([
            Sample((np.array([[0, 1, 2], [0, 3, 0]], np.uint8), 0, True), grad=False),
            Sample((np.array([0.0, np.nan]), (), False), grad=False),
        ])),
    )(reference)  # fmt: skip


any = _truth(
    "any",
    np.logical_or,
    "Whether any element is not zero, over `dim` or of all. uint8 stays uint8.",
)
all = _truth(
    "all",
    np.logical_and,
    "Whether all elements are not zero, over `dim` or of all. uint8 stays uint8.",
)
