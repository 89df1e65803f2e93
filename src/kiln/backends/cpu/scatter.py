"""Scatters: values written to, or combined with, elements whose addresses integer buffers hold.

Points are visited in row-major order wherever two of them may meet at one element, so sums have one
order on any number of threads and the last of several writes stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from kiln.backends.cpu.access import Access
from kiln.backends.cpu.exprs import ExprEmitter
from kiln.backends.cpu.ir import Builder, Module, Val
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.schedule import (
    MAX_TASKS,
    TASK_COST,
    bounds_on,
    pow2_above,
    pow2_below,
    regroup,
)
from kiln.compile.loopnest import (
    INTS,
    ITEMSIZE,
    Expr,
    IndexMap,
    LoopNest,
    Stage,
    Store,
    apply,
    leaf,
    walk,
)
from kiln.errors import KilnError

# How a value meets what stands there; bools take the logical forms.
_COMBINE = {"add": "add", "prod": "mul", "max": "maximum", "min": "minimum"}
_LOGICAL = {"add": "or", "prod": "and", "max": "or", "min": "and"}
_READS = ("load", "gather", "scalar")
_SIZE = ITEMSIZE | {"f16": 4, "bf16": 4}  # in registers
_WIDE = 4  # registers side by side, where values of at most so many nodes leave room
_LIGHT = 12
MODES = ("set", *_COMBINE)


@dataclass(frozen=True)
class Scatter:
    """``buffers[out][at + index] = value`` (or ``mode`` of both) for all points of ``dims``, in order.

    ``out`` holds its first contents already; no expression reads it. ``index`` is an integer expression,
    in range; ``at`` has no bounds. ``separate`` are the dims along which two points never meet, whatever
    the indices, because they count along a dim of the output of their own: they may run in any order, in
    lanes and on threads.
    """

    dims: tuple[int, ...]
    buffers: tuple[str, ...]
    out: int
    at: IndexMap
    index: Expr
    value: Expr
    mode: str = "set"
    separate: tuple[int, ...] = ()

    def check(self) -> Scatter:
        """Raise KilnError where the fields contradict each other; returns the scatter."""
        reads = {e.attr[0] for e in walk([self.index, self.value]) if e.op in _READS}
        wrong = (
            f"no mode {self.mode!r}" if self.mode not in MODES
            else "the index is not an integer" if self.index.dtype not in INTS
            else "value and buffer differ in dtype" if self.value.dtype != self.buffers[self.out]
            else "the address has bounds" if self.at.bounds
            else "an expression reads the output" if self.out in reads
            else None
        )  # fmt: skip
        if wrong:
            received = f"{self.value.dtype} to b{self.out} at [{self.at} + {self.index}]"
            raise KilnError("scatter", wrong, received, "see kiln.backends.cpu.scatter.Scatter")
        return self


def emit(spec: Scatter, isa: Isa, symbol: str | None = None) -> Kernel:
    """The kernel of a scatter; its table holds the addresses of ``spec.buffers`` in order.

    Without ``symbol`` it is named after its content.
    """
    if symbol is None:
        symbol = "scatter_" + hashlib.sha256(f"{spec}|{isa.key}".encode()).hexdigest()[:20]
    return _Writer(spec.check(), isa, symbol).kernel()


class _Writer:
    def __init__(self, spec: Scatter, isa: Isa, symbol: str) -> None:
        self.isa, self.symbol, self.mode = isa, symbol, spec.mode
        self.nest, self.separate = _simplify(spec)
        (self.store,) = self.nest.stages[0].stores
        self.index, self.value = self.store.expr.args
        self.vector = self._vector()
        self.lanes = 1 if self.vector is None else self._lanes(self.vector)
        self.split, self.ntasks = self._tasks()
        self.b: Builder = Module().function(
            symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]
        )
        self.access = Access(self.b, isa, self.nest, len(spec.buffers), ())
        self.e = ExprEmitter(self.b, isa, lambda e: self.access.leaf(e, self.e), self.access.run)

    # -- decisions --------------------------------------------------------------------------------

    def _vector(self) -> int | None:
        """A separate dim along which the output is contiguous and the index is one."""
        fits = [
            d
            for d in self.separate
            if self.store.at.strides[d] == 1
            and not _varies(self.index, d)
            and self.nest.dims[d] > 1
        ]
        return max(fits, key=lambda d: self.nest.dims[d], default=None)

    def _lanes(self, d: int) -> int:
        """Lanes of one register of the widest element that varies along ``d``, or fewer for short rows."""
        held = [e.dtype for e in walk([self.value]) if e.op != "index" and _varies(e, d)]
        full = self.isa.lanes(max(_SIZE[t] for t in [*held, self.value.dtype]))
        size = self.nest.dims[d]
        masked = self.isa.name == "avx512"
        return min(full, pow2_above(size) if masked else pow2_below(size))

    def _tasks(self) -> tuple[tuple[int, int] | None, int]:
        """((dim, chunk), number of tasks), by shapes only."""
        points = 1
        for n in self.nest.dims:
            points *= n
        want = min(MAX_TASKS, points * (2 + len(walk([self.store.expr]))) // TASK_COST)
        best, pieces, step = None, 1, 1
        for d in self.separate:
            granule = 4 * _WIDE * self.lanes if d == self.vector else 1
            can = min(want, -(-self.nest.dims[d] // granule))
            if can > pieces:
                best, pieces, step = d, can, granule
        if best is None:
            return None, 1
        size = self.nest.dims[best]
        chunk = -(-size // (pieces * step)) * step
        return (best, chunk), -(-size // chunk)

    # -- code -------------------------------------------------------------------------------------

    def kernel(self) -> Kernel:
        """The finished kernel."""
        if 0 not in self.nest.dims:
            self.access.base(self.b.params[0])
            order = [d for d in range(len(self.nest.dims)) if d != self.vector]
            self.level(order)
        self.b.ret()
        return Kernel(self.b.module.text(), self.symbol, self.ntasks)

    def bounds(self, d: int) -> tuple[Val, Val]:
        """First index and end of dim ``d`` in this task."""
        b, size = self.b, self.nest.dims[d]
        if not self.split or self.split[0] != d:
            return b.i64(0), b.i64(size)
        chunk = self.split[1]
        start = b.mul(b.params[1], b.i64(chunk))
        return start, b.intrinsic("smin", b.add(start, b.i64(chunk)), b.i64(size))

    def level(self, dims: list[int]) -> None:
        """Open the dims one inside the other, the vector dim innermost."""
        if dims:
            with self.b.loop(*self.bounds(dims[0])) as loop:
                self.scoped(lambda: (self.access.enter(dims[0], loop.i), self.level(dims[1:])))
        elif self.vector is None:
            self.point()
        else:
            for e in walk([self.store.expr]):  # what is one for the whole row is computed before it
                if e.op not in ("const", "scatter") and not _varies(e, self.vector):
                    self.e.emit(e)
            self.row(self.vector)

    def row(self, d: int) -> None:
        """All of vector dim ``d``: wide and plain vectors, then a masked one or single elements."""
        b, lanes, size = self.b, self.lanes, self.nest.dims[d]
        position, stop = self.bounds(d)
        widths = [lanes * _WIDE, lanes] if len(walk([self.value])) <= _LIGHT else [lanes]
        for width in widths:
            left = b.sub(stop, position)
            if left.const is None:
                end = b.add(position, b.bin("and", left, b.i64(-width))) if width > 1 else stop
            else:
                end = b.add(position, b.i64(left.const // width * width))
            if left.const is None or left.const >= width:
                with b.loop(position, end, width) as loop:
                    self.at(d, loop.i, width, None)
            position = end
        if not size % lanes:
            return
        # See the remark in loops.py: LLVM miscompiles some constant one-lane masks.
        if self.isa.name == "avx512" and size % lanes > 1:
            left = b.sub(stop, position)
            if left.const is not None:
                self.at(d, position, lanes, b.active_lanes(left, lanes))
            else:
                with b.if_then(b.icmp("sgt", left, b.i64(0))):
                    self.at(d, position, lanes, b.active_lanes(left, lanes))
        else:
            with b.loop(position, stop) as loop:
                self.at(d, loop.i, 1, None)

    def at(self, d: int, i: Val, lanes: int, mask: Val | None) -> None:
        """One vector of points along ``d``."""

        def write() -> None:
            self.access.vector(d, lanes, mask, self.lanes)
            self.access.enter(d, i)
            self.point()

        self.scoped(write)

    def scoped(self, write: Callable[[], object]) -> None:
        """Write code whose values must not be used after it."""
        values, point = dict(self.e.values), self.access.save()
        write()
        self.e.values = values
        self.access.restore(point)

    def point(self) -> None:
        """Read what stands there, combine, write."""
        b, access, dtype = self.b, self.access, self.value.dtype
        key = (self.store.buffer, self.store.at)
        where = self.e.cast(self.e.emit(self.index), self.index.dtype, "i64")
        access.address[key] = b.gep(access.address[key], access.elem(key[0]), where)
        value = self.value
        if self.mode != "set":
            old, new = leaf("old", dtype), leaf("new", dtype)
            self.e.values[new] = self.e.emit(value)
            stride = 1 if access.lanes > 1 else 0
            self.e.values[old] = access.read(self.e, old, access.address[key], stride, access.mask)
            table = _LOGICAL if dtype == "bool" else _COMBINE
            value = apply(table[self.mode], old, new)
        access.write(self.e, [Store(key[0], key[1], value)])


def _varies(e: Expr, d: int) -> bool:
    """Whether an expression depends on the index of a dim."""
    for x in walk([e]):
        at = x.attr if x.op == "index" else x.attr[1] if x.op in ("load", "gather") else None
        if at and (at.strides[d] or any(dim == d for dim, _, _ in at.bounds)):
            return True
    return False


def _simplify(spec: Scatter) -> tuple[LoopNest, list[int]]:
    """The scatter as a nest with unit dims dropped and contiguous neighbours merged; its separate dims.

    The nest has one store, of a node ``scatter(index, value)``.
    """
    both = Expr("scatter", (spec.index, spec.value), spec.value.dtype)
    stage = Stage((), (Store(spec.out, spec.at, both),))
    nest = LoopNest(spec.dims, (), spec.buffers, (stage,))
    if 0 in spec.dims:
        return nest, []
    groups: list[list[int]] = []
    for d, size in enumerate(spec.dims):
        if size == 1:
            continue
        if groups and _mergeable(nest, groups[-1][-1], d, spec.separate):
            groups[-1].append(d)
        else:
            groups.append([d])
    separate = [k for k, g in enumerate(groups) if g[0] in spec.separate]
    return regroup(nest, groups, []), separate


def _mergeable(nest: LoopNest, a: int, d: int, separate: tuple[int, ...]) -> bool:
    return (a in separate) == (d in separate) and all(
        at.strides[a] == at.strides[d] * nest.dims[d] and not bounds_on(at, nest.dims, a, d)
        for _, _, at in nest.accesses()
    )
