"""Rows at places of one table added to rows at places of another, one after the other: one kernel for all sizes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from . import jit
from .ir import Module, Val
from .isa import make_isa, requested_isa
from .rows import ELEMENT, Row, Runner

_TASK = 1 << 15
"""Elements of a task: of a part of the columns, so that no two tasks write to one place."""
_LINE = 64  # elements of a task's share of a row, at least
_BRIEF = 1 << 15  # elements that take less time than letting go of the GIL may cost
_ARRAYS = 5  # out, to, x, at, sizes
_ALL = np.zeros(1, np.int64)


@lru_cache(16)
def _kernel(d: np.dtype, isa_name: str | None) -> int:
    """The address of the kernel: its arguments are addresses, the last of them that of the sizes."""
    isa = make_isa(isa_name)
    element, size = ELEMENT[d]
    module, symbol = Module(), f"added_rows_{element}_{isa.name}"
    b = module.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")])
    args, task, _ = b.params
    out, to, x, at, sizes = (b.load("ptr", b.gep(args, "i64", b.i64(i)), 8) for i in range(_ARRAYS))
    n, cols, chunk, placed = (b.load("i64", b.gep(sizes, "i64", b.i64(i)), 8) for i in range(4))
    named = b.icmp("ne", placed, b.i64(0))
    first = b.mul(task, chunk)
    end = b.add(first, chunk)
    end = b.select(b.icmp("slt", end, cols), end, cols)
    none = b.i64(0)
    row = Row(b, isa, element, size, b.sub(end, first), (none, none), none)
    zero = row.constant(0.0)

    def line(table: Val, place: Val) -> Val:
        return b.gep(table, element, b.add(b.mul(place, cols), first))

    with b.loop(none, n) as each:
        # without places of its own, row after row: then only the first of them is there to be read
        place = b.load("i64", b.gep(at, "i64", b.mul(each.i, placed)), 8)
        source = line(x, b.select(named, place, each.i))
        target = line(out, b.load("i64", b.gep(to, "i64", each.i), 8))

        def add(i: Val, mask: Val | None, _: list[Val]) -> list[Val]:
            value = row.math.add(row.load(target, i, mask, zero), row.load(source, i, mask, zero))
            row.store(value, target, i, mask)
            return []

        row.sweep([], add)
    b.ret()
    return jit.build([module.text()], isa)(symbol)


@lru_cache(64)
def _runner(d: np.dtype, isa: str | None, tasks: int, brief: bool) -> Runner:
    return Runner(_kernel(d, isa), _ARRAYS, tasks, brief)


def add(out: np.ndarray, to: np.ndarray, x: np.ndarray, at: np.ndarray | None = None) -> None:
    """Add the rows of x at the places `at`, or all of them in order, to the rows of `out` at the places `to`.

    Tables are C-contiguous matrices of float32 or float64, places C-contiguous int64 that are in range, each with elements.
    """
    n, cols = to.size, out.shape[1]
    most = max(1, n * cols // _TASK)
    chunk = max(_LINE, -(-cols // most // _LINE) * _LINE)
    tasks = -(-cols // chunk)
    sizes = np.array([n, cols, chunk, int(at is not None)], np.int64)
    run = _runner(out.dtype, requested_isa(), tasks, n * cols < _BRIEF).function()
    run(out, to, x, _ALL if at is None else at, sizes)
