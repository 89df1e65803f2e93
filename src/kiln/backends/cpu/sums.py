"""Sums along rows of any number and length, and of them: see `rows`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from ...ops.reduction import accurate_sum, reduced_shape
from ...runtime.blocks import allocator
from .ir import Val
from .isa import requested_isa
from .rows import Row, plan

_PART, _RUN = 1 << 12, 1 << 10
"""Elements of the parts that a sum of all elements is added up in, which threads share, and of those of a row."""
_SHORT, _LONG = 1 << 5, 1 << 16
"""Lengths from where on a row is worth a turn of the loop over rows, and up to where its sum may be one."""
_THIN, _BROAD = 1 << 3, 1 << 10
"""The same for rows that are added to each other, of which a task has several."""


def _sum(r: Row, arrays: list[Val]) -> None:
    b, add, zero = r.b, r.math.add, r.constant(0.0)
    with b.loop(b.i64(0), r.cols, _RUN, [zero]) as parts:  # in parts, for its roundings
        part = r.part(parts.i, _RUN)
        x = part.here(arrays[1])
        (s,) = part.sweep([zero], lambda at, mask, now: [add(now[0], part.load(x, at, mask, zero))])
        parts.next(add(parts.carried[0], s))
    total = r.joined(parts.results[0], add)
    b.store(b.extract(total, 0), r.result(arrays[0]), r.size)


def _added(r: Row, arrays: list[Val]) -> None:
    total, x, zero = r.own(arrays[0]), r.here(arrays[1]), r.constant(0.0)

    def add(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
        value = r.math.add(r.load(total, at, mask, zero), r.load(x, at, mask, zero))
        r.store(value, total, at, mask)
        return []

    r.sweep([], add)


def prepared(
    shape: tuple[int, ...], axes: tuple[int, ...], keepdim: bool, d: np.dtype
) -> Callable[[np.ndarray], np.ndarray] | None:
    """The sum over `axes`, in order, as a function of a C-contiguous float32 or float64 array of this shape.

    None where they are neither the first dimensions nor the last and, it may be, some of the first.
    """
    n, last = len(shape), 0
    while last < len(axes) and axes[-1 - last] == n - 1 - last:
        last += 1
    first, total = len(axes) - last, prod(shape)
    if not total or axes[:first] != tuple(range(first)):
        return None
    result = reduced_shape(shape, axes, keepdim)
    isa = requested_isa()
    if last == n:
        parts = total // _PART
        if not parts:
            return None
        run = plan("sum", _sum, 2, (parts, _PART), 1, d, isa).function()

        def whole(x: np.ndarray) -> np.ndarray:
            sums = np.empty(parts, d)
            run(sums, x)
            s = np.add.reduce(sums)
            if total % _PART:
                s = s + np.add.reduce(x.reshape(-1)[parts * _PART :])
            return np.asarray(s, d).reshape(result)

        return whole
    if not last:
        cols = prod(shape[first:])
        if not _THIN <= cols <= _BROAD:
            return None
        columns = plan("added", _added, 2, (total // cols, cols), 1, d, isa)

        def of_columns(x: np.ndarray) -> np.ndarray:
            parts = np.zeros((columns.tasks, cols), d)  # of each task's rows
            columns(parts, x)
            return np.asarray(accurate_sum(parts, 0)).reshape(result)

        return of_columns
    lead, cols = shape[: n - last], prod(shape[n - last :])
    if not _SHORT <= cols <= _LONG:
        return None
    rows = plan("sum", _sum, 2, shape, last, d, isa).function()
    empty = allocator(prod(lead) * d.itemsize)

    def of_rows(x: np.ndarray) -> np.ndarray:
        out = empty(lead, d)
        rows(out, x)
        if first:
            out = np.asarray(accurate_sum(out, axes[:first]))
        return out.reshape(result)

    return of_rows
