"""Where a condition holds: coordinates of elements, those elements in a row, and a row of them put back or added.

Masks are gone through in pieces that stay in cache; how much is found is counted before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..errors import KilnError
from ..shape import numel
from ..tensor import Tensor
from .registry import Sample, op
from .samples import draw, rng
from .selection import where_op

_PIECE = 1 << 16
Empty = Callable[[tuple[int, ...], np.dtype], np.ndarray]
"""What makes an array of undefined contents."""


def _places(flags: np.ndarray) -> Iterator[np.ndarray]:
    """The places of True in a flat array, a piece after the other."""
    for start in range(0, flags.size, _PIECE):
        places = np.flatnonzero(flags[start : start + _PIECE])
        places += start
        yield places


def _flags(x: np.ndarray) -> np.ndarray:
    return (x if x.dtype == np.bool_ else x != 0).reshape(-1)


def coordinates(x: np.ndarray, most: int | None = None, empty: Empty = np.empty) -> np.ndarray:
    """Coordinates of the elements that are not zero, one row each; `most` of them where that is given."""
    flags = _flags(x)
    n = 0 if most == 0 else int(np.count_nonzero(flags))
    n = n if most is None else min(n, most)
    out = empty((n, x.ndim), np.dtype(np.int64))
    at = 0
    for places in _places(flags) if n else ():
        places = places[: n - at]
        rows = out[at : at + len(places)]
        for d in range(x.ndim - 1, 0, -1):
            above = places // x.shape[d]
            np.subtract(places, above * x.shape[d], out=rows[:, d])
            places = above
        if x.ndim:
            rows[:, 0] = places
        at += len(rows)
        if at == n:
            break
    return out


def selected(x: np.ndarray, mask: np.ndarray, empty: Empty = np.empty) -> np.ndarray:
    """What lies at x's first dimensions where a mask of these is True."""
    rest = x.shape[mask.ndim :]
    rows, flags = x.reshape((mask.size, *rest)), mask.reshape(-1)
    out = empty((int(np.count_nonzero(flags)), *rest), x.dtype)
    at = 0
    for places in _places(flags):
        np.take(
            rows, places, 0, out[at : at + len(places)], "clip"
        )  # which does not ask for a buffer
        at += len(places)
    return out


@op(
    private=True, name="nonzero_op", family="indexing", exact=True, samples=lambda: iter([
        Sample((np.array([[1, 0], [0, 2]]),), grad=False), Sample((np.zeros((0, 2)),), grad=False),
        Sample((np.array(3.0),), grad=False), Sample((np.array([[[0.0, np.nan]], [[-0.0, 1.0]]]),), grad=False),
    ]),
)  # fmt: skip
def nonzero_op(input: Tensor) -> Tensor:
    """Coordinates of the elements that are not zero, one row each."""
    return coordinates(input)


def _spread(g: Tensor, mask: Tensor, shape: tuple) -> Tensor:
    mask = mask.reshape((*mask.shape, *(1,) * (len(shape) - mask.ndim)))
    return masked_scatter_op(g.new_zeros(shape), mask, g)


@op(
    private=True, node="MaskedSelectBackward0", name="masked_select_op", family="indexing", exact=True,
    grad={"input": lambda g, mask, in_shape: _spread(g, mask, in_shape)},
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4)), rng(1).random((3, 4)) > 0.5)), Sample((draw(rng(), (3, 4)), rng(1).random(3) > 0.5)),
        Sample((draw(rng(), (2, 3, 2)), np.zeros((2, 3), bool))), Sample((draw(rng(), (0, 3)), np.zeros((0, 3), bool))),
    ]),
)  # fmt: skip
def masked_select_op(input: Tensor, mask: Tensor) -> Tensor:
    """What lies at input's first dimensions where the mask, which has their sizes, is True."""
    return selected(input, mask)


def _masked_scatter_grad(g: Tensor, mask: Tensor, shape: tuple) -> Tensor:
    n = numel(shape)
    if n == 0:
        return g.new_zeros(shape)
    order = (mask.expand(g.shape).reshape(-1).long().cumsum(0) - 1).clamp(min=0, max=max(n - 1, 0))
    picked = where_op(mask.expand(g.shape).reshape(-1), g.reshape(-1), g.new_zeros(()))
    return g.new_zeros(n).scatter_add(0, order, picked).reshape(shape)


@op(
    private=True, name="masked_scatter_op", family="indexing", exact=True,
    infer=lambda input, mask, source: (input.shape, input.dtype),
    grad={
        "input": lambda g, mask: g.masked_fill(mask, 0),
        "source": lambda g, mask, in_shape: _masked_scatter_grad(g, mask, in_shape),
    },
    samples=lambda: iter([Sample((draw(rng(), (3, 4)), rng(1).random((3, 4)) > 0.5, draw(rng(2), (12,)))),
                          Sample((draw(rng(), (2,)), np.zeros(2, bool), np.zeros(0)))]),
)  # fmt: skip
def masked_scatter_op(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """input with consecutive elements of source where the mask is True."""
    out = np.array(input, order="C")
    flags = np.broadcast_to(mask, input.shape).reshape(-1)
    n = int(np.count_nonzero(flags))
    if source.size < n:
        raise KilnError(
            "masked_scatter", "source has fewer elements than the mask selects",
            f"{source.size} < {n}", "",
        )  # fmt: skip
    flat, given, at = out.reshape(-1), source.reshape(-1), 0
    for places in _places(flags):
        flat[places] = given[at : at + len(places)]
        at += len(places)
    return out


def gathered_at(ufunc: Any, out: np.ndarray, where: tuple, values: Any) -> None:
    """`ufunc.at`, by places in flat memory, which NumPy goes through ten times as fast as through several indices.

    `where` has whole slices for all dimensions but one, or indices for each.
    """
    indices = [w for w in where if w.__class__ is not slice]
    where = (*where, *[slice(None)] * (out.ndim - len(where)))
    whole = len(indices) < out.ndim
    if (
        not out.flags.c_contiguous or not indices or any(w.dtype.kind != "i" for w in indices)
        or (whole and (len(indices) > 1 or indices[0].ndim != 1))
    ):  # fmt: skip
        ufunc.at(out, where, values)
        return
    places: Any = 0
    for d, (w, n) in enumerate(zip(where, out.shape, strict=True)):
        side = np.arange(n) if w.__class__ is slice else w
        if whole:
            side = side.reshape(-1, *[1] * (out.ndim - 1 - d))
        places = places * n + (np.where(side < 0, side + n, side) if (side < 0).any() else side)
    flat = np.broadcast_to(values, places.shape).astype(out.dtype, copy=False)
    ufunc.at(out.reshape(-1), np.ravel(places), flat.reshape(-1))


def along(shape: tuple, index: np.ndarray, dim: int) -> tuple:
    """NumPy's index for what indices along one dimension point at."""
    n = index.ndim
    found: list[np.ndarray] = []
    for i, size in enumerate(index.shape):
        if i == dim:
            found.append(index)
        elif size == 1:
            found.append(_FIRST)
        else:
            found.append(np.arange(size).reshape((1,) * i + (-1,) + (1,) * (n - 1 - i)))
    return tuple(found)


_FIRST = np.zeros(1, np.int64)


_UNSIGNED = {k: np.dtype(f"u{k}") for k in (1, 2, 4, 8)}


def check_index(name: str, index: np.ndarray, n: int, dim: int) -> None:
    """An error where an index lies outside of a dimension; negative ones are large where they are unsigned."""
    if index.size and np.maximum.reduce(index.view(_UNSIGNED[index.itemsize]), None) >= n:
        bad = index.max() if index.max() >= n else index.min()
        raise KilnError(
            name, f"index {bad} is out of bounds for dimension {dim} with size {n}", f"index {bad}",
            f"valid indices are 0 to {n - 1}",
        )  # fmt: skip
