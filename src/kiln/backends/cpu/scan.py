"""Scans: running sums and products along one dim of a contiguous array."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
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
        raise KilnError(
            "scan", f"no {spec.kind} of {spec.dtype}", str(spec), "sum or prod of numbers"
        )
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
            symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]
        )
        self.e = ExprEmitter(self.b, isa, lambda e: Val("poison", REGISTER[e.dtype]))

    def kernel(self) -> Kernel:
        """The finished kernel: tasks are chunks of the outer dim, or of the inner one if that is longer."""
        b, s = self.b, self.spec
        ntasks = 1
        if s.outer and s.n and s.inner:
            want = min(MAX_TASKS, 2 * s.outer * s.n * s.inner // TASK_COST)
            source, target = (b.load("ptr", b.gep(b.params[0], "ptr", b.i64(k)), 8) for k in (0, 1))
            by_rows = s.inner == 1 or s.outer >= s.inner // self.lanes
            size = s.outer if by_rows else s.inner
            granule = _ROWS if s.inner == 1 else 1 if by_rows else self.lanes
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
        if s.inner == 1:

            def some_rows(row: Val, count: int) -> None:
                starts = [b.mul(b.add(row, b.i64(k)), b.i64(s.n)) for k in range(count)]
                self.along(starts, 1, source, target)

            self.blocked(start, stop, _ROWS, some_rows)
            return
        rows, columns = ((start, stop), (b.i64(0), b.i64(s.inner)))
        if not by_rows:
            rows, columns = (b.i64(0), b.i64(s.outer)), (start, stop)
        with b.loop(*rows) as row:
            base = b.mul(row.i, b.i64(s.n * s.inner))

            def some_columns(column: Val, lanes: int) -> None:
                self.along([b.add(base, column)], lanes, source, target)

            self.blocked(*columns, self.lanes, some_columns)

    def blocked(self, start: Val, stop: Val, step: int, body: Callable[[Val, int], None]) -> None:
        """``body(i, count)`` over a range, ``step`` at once, what is left in blocks half as long, …"""
        b = self.b
        length = b.sub(stop, start)
        if length.const is None:
            end = b.add(start, b.bin("and", length, b.i64(-step))) if step > 1 else stop
        else:
            end = b.add(start, b.i64(length.const // step * step))
        if length.const is None or length.const >= step:
            with b.loop(start, end, step) as loop:
                body(loop.i, step)
        if step > 1 and (length.const is None or length.const % step):
            self.blocked(end, stop, step // 2, body)

    def along(self, starts: list[Val], lanes: int, source: Val, target: Val) -> None:
        """Scans side by side, each ``lanes`` wide, of the elements from each of ``starts`` on."""
        b, s, e = self.b, self.spec, self.e
        wide = s.carrier
        ty = vec(REGISTER[wide], lanes)
        first = b.const(ty, 0 if s.kind == "sum" else 1)
        op = {"sum": "add", "prod": "mul"}[s.kind]
        with b.loop(b.i64(0), b.i64(s.n), 1, [first] * len(starts)) as loop:
            offset = b.mul(loop.i, b.i64(s.inner))
            totals = []
            for begin, total in zip(starts, loop.carried, strict=True):
                where = b.add(begin, offset)
                raw = b.load(
                    vec(MEMORY[s.source], lanes),
                    b.gep(source, MEMORY[s.source], where),
                    ITEMSIZE[s.source],
                )
                value = e.cast(e.from_memory(raw, s.source), s.source, s.dtype)
                value = e.cast(value, s.dtype, wide)
                total = b.bin(("f" if wide in FLOATS else "") + op, total, value)
                totals.append(total)
                out = e.to_memory(_narrowed(b, total, s.dtype), s.dtype)
                b.store(out, b.gep(target, MEMORY[s.dtype], where), ITEMSIZE[s.dtype])
            loop.next(*totals)


def _narrowed(b: Builder, total: Val, dtype: str) -> Val:
    """The running value in the register form of ``dtype``; the store rounds halves."""
    ty = REGISTER[dtype]
    return total if total.elem == ty else b.conv("fptrunc", total, ty)
