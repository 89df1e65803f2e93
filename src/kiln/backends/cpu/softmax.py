"""Softmax and log softmax along rows of any number and length, and their gradients: one kernel each for all sizes.

A row is read three times from the cache nearest to the processor: its largest element, the sum of exponentials less that,
the result. Kernels made for a shape are no faster, and sequences have many lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod

import numpy as np

from ... import dtypes as dt
from ...runtime import threads
from ...runtime.blocks import allocator
from ...runtime.calls import Call
from ...runtime.forks import own_lock
from . import jit
from .ir import Builder, Module, Val, vec
from .isa import Isa, make_isa, requested_isa
from .vmath import VMath

_ELEMENT = {dt.float32.np: ("float", 4), dt.float64.np: ("double", 8)}
_TASK = 1 << 14
"""Elements of a task's rows."""
_OUT, _X, _Y, _ROWS, _COLS, _CHUNK, _WORDS = range(7)
_BRIEF = 1 << 15  # elements that take less time than letting go of the GIL may cost


class _Row:
    """One row being written: sweeps over its elements, in vectors and what is left in part of one."""

    def __init__(self, b: Builder, isa: Isa, element: str, size: int, cols: Val):
        self.b, self.math, self.size, self.cols = b, VMath(b, isa), size, cols
        self.lanes = isa.lanes(size)
        self.type = vec(element, self.lanes)

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


def _largest(r: _Row, x: Val) -> Val:
    low = r.constant(float("-inf"))
    (m,) = r.sweep([low], lambda at, mask, now: [r.larger(now[0], r.load(x, at, mask, low))])
    return r.joined(m, r.larger)


def _softmax(r: _Row, out: Val, x: Val, _: Val) -> None:
    b, zero, m = r.b, r.constant(0.0), _largest(r, x)

    def add(at: Val, mask: Val | None, now: list[Val]) -> list[Val]:
        e = r.math.exp(r.math.sub(r.load(x, at, mask, zero), m))
        r.store(e, out, at, mask)
        return [r.math.add(now[0], r.live(e, mask))]

    (s,) = r.sweep([zero], add)
    scale = b.bin("fdiv", r.constant(1.0), r.joined(s, r.math.add))

    def put(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
        r.store(r.math.mul(r.load(out, at, mask, zero), scale), out, at, mask)
        return []

    r.sweep([], put)


def _log_softmax(r: _Row, out: Val, x: Val, _: Val) -> None:
    zero, m = r.constant(0.0), _largest(r, x)

    def shifted(at: Val, mask: Val | None) -> Val:
        return r.math.sub(r.load(x, at, mask, zero), m)

    (s,) = r.sweep(
        [zero],
        lambda at, mask, now: [r.math.add(now[0], r.live(r.math.exp(shifted(at, mask)), mask))],
    )
    log = r.math.log(r.joined(s, r.math.add))

    def put(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
        r.store(r.math.sub(shifted(at, mask), log), out, at, mask)
        return []

    r.sweep([], put)


def _softmax_grad(r: _Row, out: Val, g: Val, y: Val) -> None:
    zero = r.constant(0.0)

    def both(at: Val, mask: Val | None) -> tuple[Val, Val]:
        p = r.load(y, at, mask, zero)
        return r.math.mul(r.load(g, at, mask, zero), p), p

    (d,) = r.sweep([zero], lambda at, mask, now: [r.math.add(now[0], both(at, mask)[0])])
    d = r.joined(d, r.math.add)

    def put(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
        h, p = both(at, mask)
        r.store(r.math.sub(h, r.math.mul(p, d)), out, at, mask)
        return []

    r.sweep([], put)


def _log_softmax_grad(r: _Row, out: Val, g: Val, y: Val) -> None:
    zero = r.constant(0.0)
    (d,) = r.sweep([zero], lambda at, mask, now: [r.math.add(now[0], r.load(g, at, mask, zero))])
    d = r.joined(d, r.math.add)

    def put(at: Val, mask: Val | None, _: list[Val]) -> list[Val]:
        p = r.math.exp(r.load(y, at, mask, zero))
        r.store(r.math.sub(r.load(g, at, mask, zero), r.math.mul(p, d)), out, at, mask)
        return []

    r.sweep([], put)


_KINDS: dict[str, Callable[[_Row, Val, Val, Val], None]] = {
    "softmax": _softmax, "log_softmax": _log_softmax,
    "softmax_grad": _softmax_grad, "log_softmax_grad": _log_softmax_grad,
}  # fmt: skip


@lru_cache(64)
def _kernel(kind: str, d: np.dtype, name: str | None) -> int:
    """The address of a kernel: its arguments are three addresses, the sizes and how many rows a task has."""
    isa = make_isa(name)
    element, size = _ELEMENT[d]
    module, symbol = Module(), f"rows_{kind}_{element}_{isa.name}"
    b = module.function(symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")])
    args, task, _ = b.params

    def word(i: int, ty: str) -> Val:
        return b.load(ty, b.gep(args, "i64", b.i64(i)), 8)

    arrays = [word(i, "ptr") for i in (_OUT, _X, _Y)]
    rows, cols, chunk = (word(i, "i64") for i in (_ROWS, _COLS, _CHUNK))
    first = b.mul(task, chunk)
    end = b.add(first, chunk)
    with b.loop(first, b.select(b.icmp("slt", end, rows), end, rows)) as loop:
        at = b.mul(loop.i, cols)
        row = _Row(b, isa, element, size, cols)
        _KINDS[kind](row, *(b.gep(a, element, at) for a in arrays))
    b.ret()
    return jit.build([module.text()], isa)(symbol)


class Rows:
    """The kernel of a kind for one shape: its plan, and the call that runs it."""

    def __init__(self, kind: str, shape: tuple[int, ...], d: np.dtype, isa: str | None):
        cols = shape[-1]
        rows = prod(shape[:-1])
        size = rows * cols
        chunk = max(1, _TASK // cols)
        tasks = -(-rows // chunk)
        self.shape, self.dtype, self.parallel = shape, d, tasks > 1
        self.make = allocator(size * d.itemsize)
        words = [0] * _WORDS
        words[_ROWS], words[_COLS], words[_CHUNK] = rows, cols, chunk
        self.words = np.array(words, np.int64)
        address = self.words.ctypes.data
        self.row = np.array([_kernel(kind, d, isa), address, tasks], np.int64)
        slots = [[(address + 8 * i, 0)] for i in (_OUT, _X, _Y)]
        self.call = Call(self.row.ctypes.data, 1, slots, hold=size < _BRIEF)
        self.lock = own_lock(self)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        out = self.make(self.shape, self.dtype)
        if self.parallel:
            threads.ready()
        with self.lock:  # the addresses are stored in one place
            self.call.function(out, x, y)
        return out


@lru_cache(4096)
def _rows(kind: str, shape: tuple[int, ...], d: np.dtype, isa: str | None) -> Rows:
    return Rows(kind, shape, d, isa)


def run(kind: str, x: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    """A kind of C-contiguous float32 or float64 arrays with elements: along the last dimension.

    Gradients are given those of the result, and the result.
    """
    return _rows(kind, x.shape, x.dtype, requested_isa())(x, x if y is None else y)
