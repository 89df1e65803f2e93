"""Order and counting: sort, topk, unique, searchsorted, bincount."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnIndexError, KilnNotImplementedError, describe
from ..shape import Size, norm_dim, numel
from ..tensor import Tensor
from .extremes import select_grad
from .registry import Operand, Sample, composition, op
from .samples import draw, rng, strided
from .storing import store_out

# Note [NaN in order]
# NaN is larger than every number: it sorts last, first where descending, and `topk` takes it.

# ---------------------------------------------------------------- sort


_FEW = 1 << 8
"""Elements up to which NumPy's sort is over before keys are made."""


def _order(a: np.ndarray, dim: int, descending: bool) -> np.ndarray:
    """The stable order of the elements along a dimension."""
    if a.size <= _FEW and a.dtype.kind == "f" and not np.isnan(a).any():
        return np.argsort(-a if descending else a, axis=dim, kind="stable")
    if a.dtype == np.float32 and 1 < a.shape[dim] < 1 << 32:
        return _order_by_keys(_keys(a), dim, descending)
    if not descending:
        return np.argsort(a, axis=dim, kind="stable")
    flipped = np.argsort(np.flip(a, dim), axis=dim, kind="stable")
    return a.shape[dim] - 1 - np.flip(flipped, dim)


def _keys(a: np.ndarray) -> np.ndarray:
    """int32 numbers in the order of float32 ones: zeros are equal, and so are NaN, above all else."""
    bits = (a + np.float32(0)).view(np.int32)  # -0 + 0 is 0
    keys = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return np.where(np.isnan(a), np.int32(0x7FFFFFFF), keys)


def _order_by_keys(keys: np.ndarray, dim: int, descending: bool) -> np.ndarray:
    """The stable order of int32 keys: of numbers that hold a key and its place, which NumPy sorts fastest."""
    keys = np.moveaxis(~keys if descending else keys, dim, -1)
    both = keys.astype(np.int64) << 32
    both |= np.arange(keys.shape[-1])
    both.sort(-1)
    both &= 0xFFFFFFFF
    return np.moveaxis(both, -1, dim)


def _ordered(name: str, input: Any, dim: int) -> int:
    if input.dtype.is_complex:
        raise KilnError(
            name, "complex numbers have no order", describe(input), "sort x.abs() or x.real"
        )
    return norm_dim(dim, len(input.shape), name)


def _sort_infer(input: Any, dim: int, descending: bool) -> list:
    _ordered("sort", input, dim)
    return [(input.shape, input.dtype), (input.shape, dt.int64)]


def _ties() -> np.ndarray:
    return np.array([[3.0, 1.0, 3.0, np.nan, 1.0], [2.0, np.inf, np.nan, -np.inf, 2.0]])


def _sort_samples() -> Iterator[Sample]:
    r = rng(40)
    for descending in (False, True):
        yield Sample((draw(r, (3, 4)), -1, descending))
        yield Sample((draw(r, (3, 4, 2)), 0, descending))
        yield Sample((draw(r, ()), 0, descending))
        yield Sample((draw(r, (0, 3)), 0, descending))
        yield Sample((strided(draw(r, (4, 3))), 0, descending))
        yield Sample((r.integers(0, 9, (3, 8)), 1, descending), grad=False)
    yield Sample((draw(r, (3, 4)), 2, False), error=IndexError)
    yield Sample((draw(r, (3,)) * 1j, 0, False), error=RuntimeError)


@op(
    name="sort", private=True, family="sort", lies="operands", infer=_sort_infer, result_names="values indices", nondiff_outputs=(1,),
    grad={"input": lambda gs, picks, in_shape, dim: select_grad(gs, picks, in_shape, dim, True)}, samples=_sort_samples,
)  # fmt: skip
def sort_op(input: Tensor, dim: int, descending: bool) -> Tensor:
    """The elements in order along a dimension and where they were; equal ones keep their order."""
    if not input.ndim:
        return input.copy(), np.zeros((), np.int64)
    order = _order(input, dim, descending)
    return np.take_along_axis(input, order, dim), order


def _public_sorts() -> Iterator[Sample]:
    yield Sample((draw(rng(), (3, 4)),))
    yield Sample((draw(rng(), (3, 4)), 0, True))
    yield Sample((_ties(),), {"dim": 1, "descending": True, "stable": True}, grad=False)
    yield Sample((_ties(),), {"stable": True}, grad=False)
    yield Sample((draw(rng(), ()),))
    yield Sample((draw(rng(), (3, 4)), 2), error=IndexError)


@composition(samples=_public_sorts)
def sort(
    input: Tensor,
    dim: int = -1,
    descending: bool = False,
    stable: bool | None = False,
    *,
    out: Any = None,
) -> Any:
    """(values, indices) in order along `dim`. Equal elements always keep their order."""
    return store_out(sort_op.op, sort_op(input, dim, descending), out)


@composition(out=True, samples=_public_sorts)
def argsort(
    input: Tensor,
    dim: int = -1,
    descending: bool = False,
    stable: bool = False,
) -> Tensor:
    """The indices that sort along `dim`."""
    return sort_op(input, dim, descending)[1]


@composition(out="beside", samples=lambda: iter([Sample((draw(rng(), (3, 4)),))]))
def msort(input: Tensor) -> Tensor:
    """The elements in order along the first dimension."""
    return sort_op(input, 0, False)[0]


# ---------------------------------------------------------------- the k-th


def _topk_infer(
    input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> list:
    d = _ordered("topk", input, dim)
    if input.dtype is dt.bool_:
        raise KilnError("topk", "does not support bool", describe(input), "convert with .int()")
    n = input.shape[d] if len(input.shape) else 1
    if k < 0 or k > n:
        raise KilnError(
            "topk", "selected index k out of range", f"k={k}, {describe(input)}", f"0 to {n} here"
        )
    shape = Size(k if i == d else s for i, s in enumerate(input.shape))
    return [(shape, input.dtype), (shape, dt.int64)]


def _topk_samples() -> Iterator[Sample]:
    r = rng(41)
    for largest in (True, False):
        yield Sample((draw(r, (3, 5)), 2, -1, largest))
        yield Sample((draw(r, (6, 5)), 3, 0, largest))
        yield Sample((draw(r, (200,)), 3, 0, largest))
        yield Sample((draw(r, ()), 1, -1, largest))
        yield Sample((draw(r, (3, 5)), 0, -1, largest))
    yield Sample((draw(r, (3, 5)), 6), error=RuntimeError)
    yield Sample((draw(r, (3, 5)), 1, 2), error=IndexError)


@op(
    family="sort", infer=_topk_infer, result_names="values indices", nondiff_outputs=(1,), out=True,
    grad={"input": lambda gs, picks, in_shape, dim: select_grad(gs, picks, in_shape, dim, True)}, samples=_topk_samples,
)  # fmt: skip
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Tensor:
    """(values, indices) of the k largest (or smallest) elements along `dim`, in order."""
    if not input.ndim:
        return input.copy(), np.zeros((), np.int64)
    n = input.shape[dim]
    if input.size == n <= _FEW and input.dtype.kind == "f" and (few := _first(input, k, largest)):
        return few
    if selects(k, n):  # find the k first, then put them in order
        part = np.moveaxis(_extremes(np.moveaxis(input, dim, -1), k, largest), -1, dim)
        order = _order(np.take_along_axis(input, part, dim), dim, largest)
        index = np.take_along_axis(part, order, dim)
    else:
        order = _order(input, dim, largest)
        index = (
            order[..., :k] if dim in (-1, input.ndim - 1) else np.take(order, range(k), axis=dim)
        )
    if input.size == n:  # one row
        return input.reshape(-1)[index], index
    return np.take_along_axis(input, index, dim), index


def _first(row: np.ndarray, k: int, largest: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """`topk` of one short row; None where there is a NaN, which is sorted last."""
    if not 0 < k <= row.size:
        return None
    flat = row.reshape(-1)
    order = (-flat if largest else flat).argsort(kind="stable")
    worst = flat[order[-1]]
    if worst != worst:
        return None
    index = order[:k].copy()
    shape = tuple([k if s == row.size else s for s in row.shape]) if row.size > 1 else row.shape
    return flat.take(index).reshape(shape), index.reshape(shape)


def selects(k: int, n: int) -> bool:
    """Whether so few of n elements are asked for that sorting all would take longer than to find them."""
    return 0 < k * 8 < n


def _extremes(a: np.ndarray, k: int, largest: bool) -> np.ndarray:
    """Where the k largest (or smallest) elements along the last axis are, from the first on."""
    n = a.shape[-1]
    at = n - k if largest else k - 1
    if a.dtype.kind in "fiu" and a.size:
        kth = np.partition(a, at, axis=-1)[..., at : at + 1]
        found = np.flatnonzero(a >= kth if largest else a <= kth)
        if found.size == a.size // n * k:  # no others are equal to the k-th ones, nor NaN
            return (found % n).reshape(*a.shape[:-1], k)
    part = np.argpartition(a, at, axis=-1)
    return np.sort(part[..., n - k :] if largest else part[..., :k], axis=-1)


def kth_place(a: np.ndarray, k: int) -> np.ndarray:
    """Where the k-th smallest element along the last axis is, counted from 0; NaNs are the largest."""
    if a.dtype.kind not in "fiu" or a.shape[-1] < 64:
        return np.argsort(a, axis=-1, kind="stable")[..., k : k + 1]
    kth = np.partition(a, k, axis=-1)[..., k : k + 1]
    hit = a == kth
    if a.dtype.kind == "f":
        hit |= np.isnan(a) & np.isnan(kth)
    return hit.argmax(-1, keepdims=True)


def _kth_infer(input: Any, k: int, dim: int = -1, keepdim: bool = False) -> list:
    d = _ordered("kthvalue", input, dim)
    n = input.shape[d] if len(input.shape) else 1
    if n == 0:
        raise KilnIndexError(
            "kthvalue", f"expected reduction dim {d} to have non-zero size", describe(input), ""
        )
    if k < 1 or k > n:
        raise KilnError(
            "kthvalue",
            f"selected number k out of range for dimension {d}",
            f"k={k}, {describe(input)}",
            f"1 to {n} here",
        )
    shape = Size((1 if i == d else s) for i, s in enumerate(input.shape) if keepdim or i != d)
    return [(shape, input.dtype), (shape, dt.int64)]


@op(
    family="sort", infer=_kth_infer, result_names="values indices", nondiff_outputs=(1,), out="apart",
    grad={"input": select_grad},
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4)), 2)), Sample((draw(rng(), (3, 4)), 1, 0, True)), Sample((draw(rng(), ()), 1)),
        Sample((draw(rng(), (3,)), 4), error=RuntimeError), Sample((draw(rng(), (0,)), 1), error=IndexError),
    ]),
)  # fmt: skip
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Tensor:
    """(values, indices) of the k-th smallest element along `dim`, counted from 1."""
    if not input.ndim:
        return input.copy(), np.zeros((), np.int64)
    index = np.moveaxis(kth_place(np.moveaxis(input, dim, -1), k - 1), -1, dim)
    values = np.take_along_axis(input, index, dim)
    return (values, index) if keepdim else (values.squeeze(dim), index.squeeze(dim))


# ---------------------------------------------------------------- places in a sorted sequence


def _search_infer(sorted_sequence: Any, input: Any, right: bool, dtype: dt.dtype) -> tuple:
    shape, values = sorted_sequence.shape, getattr(input, "shape", ())
    if len(shape) != 1 and tuple(shape[:-1]) != tuple(values[:-1]):
        raise KilnError(
            "searchsorted", "boundaries must have 1 dimension or the first N-1 dimensions of the values",
            f"{describe(sorted_sequence)}, {describe(input)}", "expand the boundaries",
        )  # fmt: skip
    return Size(values), dtype


@op(name="searchsorted", private=True, exact=True, infer=_search_infer, samples=lambda: iter([
    Sample((np.array([1.0, 3.0, 5.0]), np.array([[0.0, 3.0], [np.nan, 6.0]]), False, dt.int64), grad=False),
    Sample((np.array([[1.0, 3.0], [2.0, 4.0]]), np.array([[0.0, 3.0, 1.0], [2.0, 9.0, 4.0]]), True, dt.int32), grad=False),
]))  # fmt: skip
def search_op(sorted_sequence: Tensor, input: Operand, right: bool, dtype: dt.dtype) -> Tensor:
    """Where each value would be inserted to keep a sequence sorted."""
    side = "right" if right else "left"
    if sorted_sequence.dtype == dt.bfloat16.np:  # which NumPy cannot order
        sorted_sequence, input = sorted_sequence.astype(np.float32), np.asarray(input, np.float32)
    if sorted_sequence.ndim == 1:
        return np.asarray(np.searchsorted(sorted_sequence, input, side)).astype(dtype.np)
    out = np.empty(input.shape, dtype.np)
    for i in np.ndindex(input.shape[:-1]):
        out[i] = np.searchsorted(sorted_sequence[i], input[i], side)
    return out


def _search_samples() -> Iterator[Sample]:
    edges, values = np.array([1.0, 3.0, 5.0]), np.array([[0.0, 3.0, 6.0], [1.0, np.nan, 5.0]])
    yield Sample((edges, values), grad=False)
    yield Sample((edges, values), {"right": True, "out_int32": True}, grad=False)
    yield Sample((edges, 3.0), {"side": "right"}, grad=False)
    yield Sample((np.array([[1.0, 3.0], [2.0, 4.0]]), values), grad=False)
    yield Sample((np.array([5.0, 1.0, 3.0]), values), {"sorter": np.array([1, 2, 0])}, grad=False)
    yield Sample((np.array([[1.0, 3.0]]), values), error=RuntimeError)
    yield Sample((edges, values), {"side": "up"}, error=RuntimeError)
    yield Sample((edges, values), {"side": "left", "right": True}, error=RuntimeError)


@composition(out=True, method=False, samples=_search_samples)
def searchsorted(sorted_sequence: Tensor, input: Any, *, out_int32: bool = False, right: bool = False,
                 side: str | None = None, sorter: Tensor | None = None) -> Tensor:  # fmt: skip
    """Where each value would be inserted to keep the last dimension sorted; `right` puts it after equals."""
    if side not in (None, "left", "right"):
        raise KilnError("searchsorted", "side can only be 'left' or 'right'", repr(side), "")
    if side == "left" and right:
        raise KilnError(
            "searchsorted", "side and right can't be opposites", f"side={side}, right={right}", ""
        )
    if sorter is not None:
        sorted_sequence = sorted_sequence.gather(-1, sorter)
    return search_op(
        sorted_sequence, input, right or side == "right", dt.int32 if out_int32 else dt.int64
    )


@composition(out=True, method=False, samples=lambda: iter([
    Sample((np.array([[0.0, 3.0], [4.0, 6.0]]), np.array([1.0, 3.0, 5.0])), grad=False),
    Sample((3.0, np.array([1.0, 3.0, 5.0])), {"right": True}, grad=False),
    Sample((np.array([0.0]), np.zeros((2, 2))), error=RuntimeError),
]))  # fmt: skip
def bucketize(
    input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False
) -> Tensor:
    """The number of the bucket between sorted boundaries that each value falls in."""
    if len(boundaries.shape) != 1:
        raise KilnError(
            "bucketize",
            "boundaries tensor must be 1 dimension",
            describe(boundaries),
            "use searchsorted",
        )
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


# ---------------------------------------------------------------- distinct values and counts


def _counted(name: str, run: Callable) -> Callable:
    def reference(input: Tensor, dim: int | None, inverse: bool) -> Tensor:
        return run(input, dim, inverse)

    reference.__name__ = name
    reference.__doc__ = "Distinct values, where they were (empty unless asked for), and how often."
    return op(name=name, private=True, exact=True, family="data-dependent", samples=lambda: iter([
        Sample((np.array([[3, 1, 3], [1, 2, 1]]), None, True), grad=False), Sample((np.array([[3, 1, 3], [1, 2, 1]]), 1, False), grad=False),
        Sample((np.zeros((0,)), None, True), grad=False), Sample((np.array([[3.0, 1], [np.nan, 1]]), None, False), grad=False),
    ]))(reference)  # fmt: skip


_NOWHERE = np.empty(0, np.int64)


def _distinct(input: np.ndarray, dim: int | None, inverse: bool) -> tuple:
    wide = input.astype(np.float32) if input.dtype == dt.bfloat16.np else input  # puts NaN last
    values, *places, counts = np.unique(
        wide, return_inverse=inverse, return_counts=True, axis=dim, equal_nan=False
    )
    shape = input.shape if dim is None else (input.shape[dim],)
    where = places[0].reshape(shape) if inverse else _NOWHERE.copy()
    return values.astype(input.dtype, copy=False), where, counts


def _runs(input: np.ndarray, dim: int | None, inverse: bool) -> tuple:
    """Distinct neighbours: a run of equal slices is one."""
    rows = input.reshape(-1) if dim is None else np.moveaxis(input, dim, 0)
    n = rows.shape[0]
    differs = rows[1:] != rows[:-1]
    new = np.ones(n, bool)
    if n > 1:
        new[1:] = differs if differs.ndim == 1 else differs.reshape(n - 1, -1).any(1)
    starts = np.flatnonzero(new)
    values = rows[starts] if dim is None else np.moveaxis(rows[starts], 0, dim)
    shape = input.shape if dim is None else (n,)
    where = (np.cumsum(new) - 1).reshape(shape) if inverse else _NOWHERE.copy()
    return values, where, np.diff(np.append(starts, n))


unique_op = _counted("unique_op", _distinct)
unique_consecutive_op = _counted("unique_consecutive_op", _runs)


def _picked(found: tuple, return_inverse: bool, return_counts: bool) -> Any:
    values, inverse, counts = found
    out = (values, *((inverse,) if return_inverse else ()), *((counts,) if return_counts else ()))
    return out if len(out) > 1 else values


def _unique_samples() -> Iterator[Sample]:
    x = np.array([[3, 1, 3], [1, 2, 1]])
    both = {"return_inverse": True, "return_counts": True}
    yield Sample((x,), grad=False)
    yield Sample((x,), both, grad=False)
    yield Sample((x,), {"dim": 1, **both}, grad=False)
    yield Sample((np.array(3),), both, grad=False)
    yield Sample((np.array([1, 1, 2, 2, 1]),), both, grad=False)
    yield Sample((x,), {"dim": 2}, error=IndexError)


def _checked(input: Tensor, dim: int | None) -> int | None:
    return None if dim is None else norm_dim(dim, len(input.shape), "unique")


@composition(samples=_unique_samples)
def unique(input: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False,
           dim: int | None = None) -> Any:  # fmt: skip
    """The distinct elements in order (or slices along `dim`); where each went; how often each occurs."""
    found = unique_op(input.detach(), _checked(input, dim), return_inverse)
    return _picked(found, return_inverse, return_counts)


@composition(samples=_unique_samples)
def unique_consecutive(input: Tensor, return_inverse: bool = False, return_counts: bool = False,
                       dim: int | None = None) -> Any:  # fmt: skip
    """The elements (or slices along `dim`) without repetitions of the one before."""
    found = unique_consecutive_op(input.detach(), _checked(input, dim), return_inverse)
    return _picked(found, return_inverse, return_counts)


def _bincount_samples() -> Iterator[Sample]:
    x = np.array([1, 1, 3])
    yield Sample((x,), grad=False)
    yield Sample((x, np.array([0.5, 1.0, 2.0])), grad=False)
    yield Sample((x, np.array([0.5, 1.0, 2.0], np.float32)), grad=False)
    yield Sample((x,), {"minlength": 6}, grad=False)
    yield Sample((np.zeros(0, np.int64),), grad=False)
    yield Sample((np.array([-1]),), error=RuntimeError)
    yield Sample((np.zeros((2, 2), np.int64),), error=RuntimeError)
    yield Sample((np.array([1.0]),), error=NotImplementedError)
    yield Sample((x, np.array([0.5, 1.0])), error=RuntimeError)


@op(family="data-dependent", exact=True, samples=_bincount_samples)
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each value from 0 occurs in a 1-d integer tensor, or the sum of its weights."""
    if input.dtype.kind not in "iu":
        raise KilnNotImplementedError(
            "bincount",
            f"not implemented for {input.dtype}",
            str(input.dtype),
            "convert with .long()",
        )
    if input.ndim != 1 or (input.size and input.min() < 0):
        raise KilnError(
            "bincount", "only supports 1-d non-negative integral inputs", f"{input.ndim}-d", ""
        )
    if weights is not None and weights.shape != input.shape:
        raise KilnError(
            "bincount",
            "weights should be 1-d and have the same length as input",
            str(weights.shape),
            "",
        )
    if minlength < 0:
        raise KilnError("bincount", "minlength should be >= 0", minlength, "")
    r = np.bincount(input, weights, minlength)
    return r.astype(np.float32) if weights is not None and weights.dtype == np.float32 else r


def _histc_infer(input: Any, bins: int = 100, min: float = 0, max: float = 0) -> tuple:
    if input.dtype.category != dt.FLOAT:
        raise KilnNotImplementedError(
            "histc", f"not implemented for {input.dtype.name}", describe(input), "x.float()"
        )
    if bins <= 0:
        raise KilnError("histc", f"bins must be > 0, but got {bins}", bins, "")
    if min > max:
        raise KilnError("histc", "max must be larger than min", f"min={min}, max={max}", "")
    return Size((bins,)), input.dtype


@op(infer=_histc_infer, out=True, exact=True, samples=lambda: iter([
    Sample((np.array([1.0, 2.0, 1.0, 4.0]), 4), grad=False), Sample((np.array([1.0, 2.0, 1.0, 4.0]), 4, 0, 3), grad=False),
    Sample((np.array([1.0, 1.0]), 3), grad=False), Sample((np.array([1.0]), 0), error=RuntimeError),
    Sample((np.array([1]), 4), error=NotImplementedError),
]))  # fmt: skip
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """The number of elements in each of equal bins from min to max (of the data where both are equal)."""
    if min == max and input.size:
        min, max = float(input.min()), float(input.max())
    if min == max:
        min, max = min - 1, max + 1
    low, high = (np.asarray(v).astype(input.dtype) for v in (min, max))
    x = input[(input >= low) & (input <= high)]
    # rounded as the input's dtype after each step, as in PyTorch
    at = (x - low) * np.asarray(bins).astype(x.dtype) / (high - low)
    found = np.bincount(np.minimum(at.astype(np.int64), bins - 1), minlength=bins)
    return found.astype(input.dtype)


def _isin_body(
    elements: Tensor, test_elements: Tensor, assume_unique: bool, invert: bool
) -> Tensor:
    found = (elements.unsqueeze(-1) == test_elements.reshape(numel(test_elements.shape))).any(-1)
    return ~found if invert else found


@op(out=True, exact=True, method=False, body=_isin_body, samples=lambda: iter([
    Sample((np.array([[3, 1], [1, 2]]), np.array([1, 5])), grad=False),
    Sample((np.array([[3, 1], [1, 2]]), np.array([1, 5])), {"invert": True}, grad=False),
]), infer=lambda elements, test_elements, assume_unique=False, invert=False: (elements.shape, dt.bool_))  # fmt: skip
def isin(
    elements: Tensor, test_elements: Tensor, *, assume_unique: bool = False, invert: bool = False
) -> Tensor:
    """Where an element is one of `test_elements`."""
    return np.isin(elements, test_elements, assume_unique, invert)
