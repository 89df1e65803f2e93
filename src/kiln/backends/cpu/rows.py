"""Functions of rows of any number and length: kernels whose sizes are arguments, one for all shapes.

A row is swept a few times in the cache nearest to the processor, so kernels made for a shape are no faster, and
sequences have many lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod

import numpy as np

from ... import dtypes as dt
from ...runtime import threads
from ...runtime.calls import Call
from ...runtime.forks import own_lock
from . import jit
from .ir import Builder, Module, Val, vec
from .isa import Isa, make_isa
from .vmath import VMath

ELEMENT = {dt.float32.np: ("float", 4), dt.float64.np: ("double", 8)}
TASK = 1 << 14
"""Elements of a task's rows."""
_BRIEF = 1 << 15  # elements that take less time than letting go of the GIL may cost


class Row:
    """One row being written: sweeps over its elements, in vectors and what is left in part of one.

    `here` says where an array's row begins, `own` where that of the task is in an array with one for each;
    `number` is a number that the kernel is given.
    """

    def __init__(
        self,
        b: Builder,
        isa: Isa,
        element: str,
        size: int,
        cols: Val,
        at: tuple[Val, ...],
        number: Val,
    ):
        self.b, self.isa, self.math, self.size, self.cols = b, isa, VMath(b, isa), size, cols
        self.element, self.at, self.number = element, at, number
        self.lanes = isa.lanes(size)
        self.type = vec(element, self.lanes)

    def here(self, array: Val) -> Val:
        return self.b.gep(array, self.element, self.at[0])

    def result(self, array: Val) -> Val:
        """Where the row's one element is."""
        return self.b.gep(array, self.element, self.at[2])

    def own(self, array: Val) -> Val:
        return self.b.gep(array, self.element, self.at[1])

    def constant(self, value: float) -> Val:
        return self.b.const(self.type, value)

    def sweep(self, start: Sequence[Val], body: Callable) -> list[Val]:
        """`body(at, mask, carried)` for all elements; gives what was carried last."""
        b = self.b
        whole = b.bin("and", self.cols, b.i64(-self.lanes))
        with b.loop(b.i64(0), whole, self.lanes, start) as inner:
            inner.next(*body(inner.i, None, inner.carried))
        left = b.sub(self.cols, whole)
        with b.if_then(b.icmp("sgt", left, b.i64(0)), inner.results) as rest:
            rest.set(*body(whole, b.active_lanes(left, self.lanes), inner.results))
        return rest.results

    def part(self, start: Val, most: int) -> Row:
        """So many elements of it from one on, or as many as there are."""
        b, left = self.b, self.b.sub(self.cols, start)
        cols = b.select(b.icmp("slt", left, b.i64(most)), left, b.i64(most))
        at = b.add(self.at[0], start), *self.at[1:]
        return Row(b, self.isa, self.element, self.size, cols, at, self.number)

    def load(self, row: Val, at: Val, mask: Val | None, fill: Val) -> Val:
        place = self.b.gep(row, fill.elem, at)
        if mask is None:
            return self.b.load(self.type, place, self.size)
        return self.b.masked_load(self.type, place, mask, self.size, fill)

    def store(self, value: Val, row: Val, at: Val, mask: Val | None) -> None:
        place = self.b.gep(row, value.elem, at)
        if mask is None:
            self.b.store(value, place, self.size)
        else:
            self.b.masked_store(value, place, mask, self.size)

    def live(self, value: Val, mask: Val | None) -> Val:
        """0 in lanes behind the row's end."""
        return value if mask is None else self.b.select(mask, value, self.constant(0.0))

    def larger(self, x: Val, y: Val) -> Val:
        return self.b.select(self.b.fcmp("olt", x, y), y, x)

    def joined(self, value: Val, join: Callable[[Val, Val], Val]) -> Val:
        """All lanes joined, in every lane."""
        n = self.lanes
        step = n // 2
        while step:
            value = join(value, self.b.shuffle(value, None, [i ^ step for i in range(n)]))
            step //= 2
        return value


Kind = Callable[[Row, list[Val]], None]
"""What writes a row: it is given the arrays."""


@lru_cache(256)
def _kernel(name: str, kind: Kind, arrays: int, d: np.dtype, isa_name: str | None) -> int:
    """The address of a kernel: its arguments are addresses, the sizes, how many rows a task has and a number."""
    isa = make_isa(isa_name)
    element, size = ELEMENT[d]
    module, symbol = Module(), f"rows_{name}_{element}_{isa.name}"
    b = module.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")])
    args, task, _ = b.params

    def word(i: int, ty: str) -> Val:
        return b.load(ty, b.gep(args, "i64", b.i64(i)), 8)

    given = [word(i, "ptr") for i in range(arrays)]
    rows, cols, chunk = (word(arrays + i, "i64") for i in range(3))
    number = word(arrays + 3, "double")
    if element == "float":
        number = b.conv("fptrunc", number, "float")
    first = b.mul(task, chunk)
    end = b.add(first, chunk)
    with b.loop(first, b.select(b.icmp("slt", end, rows), end, rows)) as loop:
        at = b.mul(loop.i, cols), b.mul(task, cols), loop.i
        kind(Row(b, isa, element, size, cols, at, number), given)
    b.ret()
    return jit.build([module.text()], isa)(symbol)


class Runner:
    """A kernel whose arguments are the addresses of so many arrays, as a function of them: `tasks` share the work."""

    def __init__(self, kernel: int, arrays: int, tasks: int, brief: bool):
        self.words = np.zeros(arrays, np.int64)
        address = self.words.ctypes.data
        self.row = np.array([kernel, address, tasks], np.int64)
        slots = [[(address + 8 * i, 0)] for i in range(arrays)]
        self.parallel, self.brief = tasks > 1, brief and tasks == 1
        self.call = Call(self.row.ctypes.data, 1, slots, hold=self.brief)
        self.lock = own_lock(self)

    def __call__(self, *arrays: np.ndarray) -> None:
        if self.parallel:
            threads.ready()
        with self.lock:  # the addresses are stored in one place
            self.call.function(*arrays)

    def function(self) -> Callable:
        """The same without a lock where the GIL is kept all through the call."""
        return self.call.function if self.brief else self


class Plan:
    """A kernel for one shape, as a function of its arrays: `tasks` share the rows, by shape alone."""

    def __init__(
        self, name: str, kind: Kind, arrays: int, rows: int, cols: int, d: np.dtype, isa: str | None, number: float
    ):  # fmt: skip
        chunk = max(1, TASK // cols)
        self.tasks = -(-rows // chunk)
        self.words = np.array([0] * arrays + [rows, cols, chunk, 0], np.int64)
        self.words[-1:].view(np.float64)[0] = number
        address = self.words.ctypes.data
        self.row = np.array([_kernel(name, kind, arrays, d, isa), address, self.tasks], np.int64)
        slots = [[(address + 8 * i, 0)] for i in range(arrays)]
        self.call = Call(self.row.ctypes.data, 1, slots, hold=rows * cols < _BRIEF)
        self.lock = own_lock(self)

        self.brief = self.tasks == 1 and rows * cols < _BRIEF

    def __call__(self, *arrays: np.ndarray) -> None:
        if self.tasks > 1:
            threads.ready()
        with self.lock:  # the addresses are stored in one place
            self.call.function(*arrays)

    def function(self) -> Callable:
        """The plan as a function of its arrays, without a lock where the GIL is kept all through the call."""
        return self.call.function if self.brief else self


@lru_cache(4096)
def plan(
    name: str, kind: Kind, arrays: int, shape: tuple[int, ...], last: int, d: np.dtype, isa: str | None, number: float = 0.0
) -> Plan:  # fmt: skip
    """The plan for C-contiguous arrays of a shape whose last dimensions, so many, are rows."""
    at = len(shape) - last
    return Plan(name, kind, arrays, prod(shape[:at]), prod(shape[at:]), d, isa, number)
