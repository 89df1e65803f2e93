"""Scans: running sums and products along one dim of a contiguous array."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from kiln.backends.cpu.exprs import MEMORY, REGISTER, ExprEmitter
from kiln.backends.cpu.ir import Builder, Module, Val, vec
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.schedule import MAX_TASKS, TASK_COST
from kiln.compile.loopnest import FLOATS, ITEMSIZE
from kiln.errors import KilnError

_ROWS = 8  # rows scanned side by side: one alone waits for each addition's result


@dataclass(frozen=True)
class Scan:
    """Running ``kind`` (sum or prod) along the middle dim of a contiguous (outer, n, inner) array.

    The input is converted to ``dtype``, the output's; sums of f32 and halves are carried in f64, their
    products in f32. Elements combine one after another, from index 0 on.
    """

    kind: str
    outer: int
    n: int
    inner: int
    source: str
    dtype: str

    @property
    def carrier(self) -> str:
        """The dtype of the running value."""
        if self.dtype not in FLOATS or self.dtype == "f64":
            return self.dtype
        return "f64" if self.kind == "sum" else "f32"


def emit(spec: Scan, isa: Isa, symbol: str | None = None) -> Kernel:
    """The kernel of a scan; its table is (input, output).

    Without ``symbol`` it is named after its content.
    """
    if spec.kind not in ("sum", "prod") or spec.dtype == "bool":
        raise KilnError("scan", f"no {spec.kind} of {spec.dtype}", str(spec), "sum or prod of numbers")
    if symbol is None:
        symbol = "scan_" + hashlib.sha256(f"{spec}|{isa.key}".encode()).hexdigest()[:20]
    return _Writer(spec, isa, symbol).kernel()


class _Writer:
    def __init__(self, spec: Scan, isa: Isa, symbol: str) -> None:
        self.spec, self.isa, self.symbol = spec, isa, symbol
        widest = max(ITEMSIZE[spec.carrier], ITEMSIZE[spec.source], ITEMSIZE[spec.dtype])
        self.lanes = isa.lanes(widest) * 2
        while self.lanes > spec.inner:
            self.lanes //= 2
        self.b: Builder = Module().function(
            symbol, [("ptr", "args"), ("i64", "task"), ("i64", "ntasks")]
        )
        self.e = ExprEmitter(self.b, isa, lambda e: Val("poison", REGISTER[e.dtype]))

    def kernel(self) -> Kernel:
        """The finished kernel: tasks are chunks of the outer dim, or of the inner one if that is longer."""
        b, s = self.b, self.spec
        ntasks = 1
        if s.outer and s.n and s.inner:
            want = min(MAX_TASKS, 2 * s.outer * s.n * s.inner // TASK_COST)
            source, target = (b.load("ptr", b.gep(b.params[0], "ptr", b.i64(k)), 8) for k in (0, 1))
            by_rows = s.outer // (_ROWS if s.inner == 1 else 1) >= s.inner // self.lanes
            size, granule = (s.outer, _ROWS) if by_rows else (s.inner, self.lanes)
            if by_rows and s.inner > 1:
                granule = 1
            pieces = max(1, min(want, size // granule))
            chunk = -(-size // (pieces * granule)) * granule
            ntasks = -(-size // chunk)
            start, stop = b.i64(0), b.i64(size)
            if ntasks > 1:
                start = b.mul(b.params[1], b.i64(chunk))
                stop = b.intrinsic("smin", b.add(start, b.i64(chunk)), stop)
            self.loops(source, target, by_rows, start, stop)
        b.ret()
        return Kernel(b.module.text(), self.symbol, ntasks)

    def loops(self, source: Val, target: Val, by_rows: bool, start: Val, stop: Val) -> None:
        """All scans of a task: ``start`` and ``stop`` are rows, or else columns of every row."""
        b, s = self.b, self.spec
        rows = (start, stop) if by_rows else (b.i64(0), b.i64(s.outer))
        if s.inner == 1:
            middle = self.whole(*rows, _ROWS)
            for first, last, count in ((rows[0], middle, _ROWS), (middle, rows[1], 1)):
                with self.some(first, last, count) as loop:
                    self.along([b.mul(b.add(loop.i, b.i64(k)), b.i64(s.n)) for k in range(count)], 1,
                               source, target)  # fmt: skip
            return
        with b.loop(*rows) as row:
            base = b.mul(row.i, b.i64(s.n * s.inner))
            first, last = (b.i64(0), b.i64(s.inner)) if by_rows else (start, stop)
            middle = self.whole(first, last, self.lanes)
            for begin, end, lanes in ((first, middle, self.lanes), (middle, last, 1)):
                with self.some(begin, end, lanes) as column:
                    self.along([b.add(base, column.i)], lanes, source, target)
