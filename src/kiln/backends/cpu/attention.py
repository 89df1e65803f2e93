"""Attention without its scores in memory: the forward kernel, and both kernels' place in a Graph."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kiln import dtypes as dt
from kiln.backends.cpu import attention_grad, tasks
from kiln.backends.cpu.attention_tiles import Attention, Driver, Mask, Rows
from kiln.backends.cpu.contract import WORKSPACE, Operands
from kiln.backends.cpu.ir import Val
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.microkernel import Site
from kiln.backends.cpu.text import ITEMSIZE, Text, load_scalar, splat
from kiln.compile.regions import Unfusable
from kiln.graph.node import ITEM, Node, item
from kiln.shape import contiguous_strides

if TYPE_CHECKING:
    from kiln.backends.cpu.lower import Lowering

ARG_OUT, ARG_Q, ARG_K, ARG_V, ARG_LSE, ARG_MASK = 0, 1, 2, 4, 5, 6
_BLOCK = 256
_DTYPES = {dt.float32: "f32", dt.float64: "f64"}


@dataclass(frozen=True)
class RowScale:
    """An epilogue: row i of the tile is multiplied by number i at ``args``."""

    dtype: str
    heavy: bool = False

    def emit(self, b: Text, site: Site) -> str:
        """The scaled vector."""
        scale = load_scalar(b, b.at(site.args, site.row, ITEMSIZE[self.dtype]), self.dtype)
        wide = splat(b, scale, site.element, site.lanes)
        return b.op(f"fmul {site.vtype} {site.value}, {wide}")


def emit(spec: Attention, isa: Isa, symbol: str) -> Kernel:
    """The forward kernel; ``args``: out (N, L, H, V), q, k, workspace, v, lse (N, H, L), mask."""
    return _Forward(spec, isa, symbol).emit()


class _Forward(Driver):
    """Keys by blocks, packed once a task; each row tile keeps a running maximum and sum."""

    def __init__(self, spec: Attention, isa: Isa, symbol: str) -> None:
        super().__init__(spec, isa, symbol, _BLOCK)
        units = spec.batch * spec.heads
        self.grid = tasks.Grid.choose(spec.flops, units, self.tiles, 1, 2)
        self.several = self.key_blocks > 1
        self.packed = self.reserve(self.block * spec.features)
        self.score = self.reserve(self.mr * self.pitch)
        self.inverse = self.reserve(self.mr)
        rows = -(-self.tiles // self.grid.rows) * self.mr if self.several else 0
        self.top, self.total = self.reserve(rows), self.reserve(rows)

    def emit(self) -> Kernel:
        """The module's text and what it needs at run time."""
        b, spec = self.b, self.spec
        with b.function(self.symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
            slots = (ARG_OUT, ARG_Q, ARG_K, ARG_V, ARG_LSE, ARG_MASK)
            pointers = [b.argument("%args", slot) for slot in slots]
            space = self.workspace()
            share = self.grid.ranges(b, spec.batch * spec.heads, self.tiles, 1)
            self.first_tile = share.rows[0]
            with b.loop(*share.batch) as unit:
                self._unit(unit.index, pointers, space, share.rows)
        self._define_row()
        self.define_parts()
        ntasks = self.grid.ntasks
        return Kernel(b.module(), self.symbol, ntasks, ntasks * self.workspace_bytes)

    def _unit(self, unit: str, pointers: list[str], space: str, rows: tuple[str, str]) -> None:
        """All keys for a range of row tiles of one head."""
        b, spec = self.b, self.spec
        n = b.op(f"udiv i64 {unit}, {spec.heads}")
        h = b.op(f"urem i64 {unit}, {spec.heads}")
        g = b.op(f"udiv i64 {h}, {spec.heads // spec.groups}")
        out, q, k, v, lse, mask = pointers
        width = spec.heads * spec.values
        self.out = self.move(out, (n, spec.length * width), (h, spec.values))
        self.q = self.move(q, (n, spec.q[0]), (h, spec.q[1]))
        self.k = self.move(k, (n, spec.k[0]), (g, spec.k[1]))
        self.v = self.move(v, (n, spec.v[0]), (g, spec.v[1]))
        self.lse = self.move(lse, (unit, spec.length))
        self.mask, self.space = mask, space
        if spec.mask is not None:
            size = 1 if spec.mask.dtype == "bool" else self.size
            strides = spec.mask.strides
            self.mask = self.move_by(mask, size, (n, strides[0]), (h, strides[1]))
        if spec.causal:
            finite = self.all_finite(space, (self.v, spec.keys, spec.v[2], spec.values))
            self.whole = b.op(f"xor i1 {finite}, true")
        with b.loop(0, self.key_blocks) as block:
            first = b.mul(block.index, self.block)
            end = b.least(b.add(first, self.block), spec.keys)
            if spec.causal:
                end = self.unless_whole(b.least(end, b.mul(rows[1], self.mr)), end)
            self.pack_keys(self.k, spec.k[2], spec.features, b.at(space, self.packed), first, end)
            self.each_tile(*rows, lambda tile, count: self._tile(tile, count, first))

    def _tile(self, tile: str, rows: int, first: str) -> None:
        """One tile of rows and one block of keys."""
        b, spec = self.b, self.spec
        row = b.mul(tile, self.mr)
        columns = self.live(first, row, rows)
        if not spec.causal:
            self._visible(tile, rows, first, row, columns)
            return
        with b.when(b.op(f"icmp sgt i64 {columns}, 0")):
            self._visible(tile, rows, first, row, columns)

    def _visible(self, tile: str, rows: int, first: str, row: str, columns: str) -> None:
        b, spec = self.b, self.spec
        score = b.at(self.space, self.score)
        q = self.move(self.q, (row, spec.q[2])), spec.q[2]
        self.scores(rows, q, b.at(self.space, self.packed), spec.features, score, columns)
        width = spec.heads * spec.values
        out = self.move(self.out, (row, width))
        more = last = ""
        if self.several:
            more = b.op(f"icmp ne i64 {first}, 0")
            seen = str(spec.keys)
            if spec.causal:
                seen = self.unless_whole(b.least(b.add(row, rows), spec.keys), seen)
            last = b.op(f"icmp sge i64 {b.add(first, self.block)}, {seen}")
        local = b.mul(b.op(f"sub i64 {tile}, {self.first_tile}"), self.mr)
        inverse = b.at(self.space, self.inverse)
        with b.loop(0, rows) as r:
            i = b.add(row, r.index)
            place = b.add(local, r.index)
            live = self.row_live(first, i, columns)
            state = [b.at(b.at(self.space, at), place, self.size) for at in (self.top, self.total)]
            b.emit(
                f"call void @{self.symbol}.row(ptr {self.move(score, (r.index, self.pitch))}, "
                f"ptr {self.mask_at(self.mask, i, first)}, i64 {columns}, i64 {live}, "
                f"ptr {b.at(inverse, r.index, self.size)}, ptr {b.at(self.lse, i, self.size)}, "
                f"ptr {state[0]}, ptr {state[1]}, ptr {self.move(out, (r.index, width))}, "
                f"i1 {more or 'false'})"
            )
        self.product(
            rows, spec.values, (score, self.pitch, 1),
            (self.move(self.v, (first, spec.v[2])), spec.v[2]), (out, width), columns,
            more or "false", last or "true", RowScale(spec.dtype), inverse,
        )  # fmt: skip

    def _define_row(self) -> None:
        """The function that turns a row of products into probabilities, and keeps its state."""
        b, e = self.b, self.element
        params = [("ptr noalias", "s"), ("ptr", "mask"), ("i64", "columns"), ("i64", "live"),
                  ("ptr", "inverse"), ("ptr", "lse"), ("ptr", "top"), ("ptr", "total"),
                  ("ptr", "out"), ("i1", "more")]  # fmt: skip
        with b.function(f"{self.symbol}.row", params, internal=True):
            ir = b.ir
            rows = Rows(self, ir)
            m = rows.math
            s, mask = Val("%s", "ptr"), Val("%mask", "ptr")
            columns, live, more = Val("%columns", "i64"), Val("%live", "i64"), Val("%more", "i1")
            minus = ir.const(e, float("-inf"))
            zero, one = ir.const(e, 0.0), ir.const(e, 1.0)
            with ir.loop(ir.i64(0), columns, self.lanes, [rows.splat(float("-inf"))]) as loop:
                x = rows.load(s, loop.i)
                x = rows.score(x, mask, loop.i, rows.active(loop.i, live))
                ir.store(x, rows.at(s, loop.i), self.size)
                loop.next(rows.larger(x, loop.carried[0]))
            top = rows.fold(loop.results[0], True)
            old = minus
            if self.several:
                old = ir.select(more, ir.load(e, Val("%top", "ptr"), self.size), minus)
                top = rows.larger(top, old)
                ir.store(top, Val("%top", "ptr"), self.size)
            top = ir.select(ir.fcmp("oeq", top, minus), zero, top)
            wide = ir.splat(top, self.lanes)
            with ir.loop(ir.i64(0), columns, self.lanes, [rows.splat(0.0)]) as loop:
                x = m.exp(m.sub(rows.load(s, loop.i), wide))
                ir.store(x, rows.at(s, loop.i), self.size)
                loop.next(m.add(loop.carried[0], x))
            total = rows.fold(loop.results[0], False)
            if self.several:
                shrink = m.exp(m.sub(old, top))
                before = ir.select(more, ir.load(e, Val("%total", "ptr"), self.size), zero)
                total = m.add(m.mul(before, shrink), total)
                ir.store(total, Val("%total", "ptr"), self.size)
                with ir.if_then(more):
                    self._shrink_row(rows, shrink)
            none = ir.fcmp("oeq", total, zero)
            ir.store(m.div(one, ir.select(none, one, total)), Val("%inverse", "ptr"), self.size)
            lse = ir.select(none, ir.const(e, float("inf")), m.add(top, m.log(total)))
            ir.store(lse, Val("%lse", "ptr"), self.size)

    def _shrink_row(self, rows: Rows, factor: Val) -> None:
        """What earlier blocks gave to a row of the result, relative to the new maximum."""
        ir, out = rows.b, Val("%out", "ptr")
        tail = self.spec.values % self.lanes
        whole = self.spec.values - tail
        wide = ir.splat(factor, self.lanes)
        if whole:
            with ir.loop(ir.i64(0), ir.i64(whole), self.lanes) as loop:
                x = rows.math.mul(rows.load(out, loop.i), wide)
                ir.store(x, rows.at(out, loop.i), self.size)
        if tail:
            mask = ir.active_lanes(ir.i64(tail), self.lanes)
            place = rows.at(out, ir.i64(whole))
            x = rows.math.mul(ir.masked_load(rows.type, place, mask, self.size), wide)
            ir.masked_store(x, place, mask, self.size)


# -- in a Graph ------------------------------------------------------------------------------------


def lowers(n: Node) -> bool:
    """Whether a node is attention, or its gradient, that has a kernel here."""
    if n.name not in ("attention", "attention_grad"):
        return False
    query, mask = n.arg("query"), n.arg("attn_mask")
    return (
        query.dtype in _DTYPES
        and not any(0 in x.shape for x in n.inputs)
        and (mask is None or mask.dtype in (query.dtype, dt.bool_))
    )


def lower(state: Lowering, n: Node) -> None:
    """Append the launch of such a node."""
    from kiln.backends.cpu.lower import Launch

    ops = Operands(state.stored, state.strides)
    query, key, value = n.arg("query"), n.arg("key"), n.arg("value")
    q, k, v = (_dense(ops, x) for x in (query, key, value))
    found = None if n.arg("attn_mask") is None else _mask(ops, n.arg("attn_mask"), n)
    mask = None if found is None else found[2]
    batch, heads, length, features = query.shape
    grad = n.name == "attention_grad"
    g = _dense(ops, n.arg("grad")) if grad else None
    spec = Attention(
        batch, heads, key.shape[1], length, key.shape[2], features, value.shape[3], q[1], k[1],
        v[1], mask, n.arg("is_causal"), n.arg("scale"), _DTYPES[query.dtype], g[1] if g else (),
    )  # fmt: skip
    items = {y.args[1]: y for y in state.order if y.op is ITEM and y.args[0] is n}
    assert n.outputs is not None
    writes = [items.get(i) or item(n, i) for i in range(len(n.outputs))]
    tail = [] if found is None else [found[:2]]
    if grad:
        assert g is not None
        result, lse = (_whole(ops, n.arg(x)) for x in ("result", "lse"))
        arguments = [*writes, WORKSPACE, q[0], k[0], v[0], g[0], result, lse, *tail]
    else:
        arguments = [writes[0], q[0], k[0], WORKSPACE, v[0], writes[1], *tail]
    state.memory.update(writes)
    state.launches.append(Launch([*arguments, None], writes, _kernel(spec, state.isa, grad)))


@functools.lru_cache(maxsize=64)
def _kernel(spec: Attention, isa: Isa, grad: bool) -> Kernel:
    """The forward or backward kernel: written once for layers that are alike."""
    key = hashlib.sha256(f"{spec}|{isa.key}".encode()).hexdigest()[:20]
    return (
        attention_grad.emit(spec, isa, f"attndx_{key}") if grad else emit(spec, isa, f"attn_{key}")
    )


def _dense(ops: Operands, n: Node) -> tuple[tuple[Node, int], tuple[int, ...]]:
    """An operand's (memory, offset) and its strides but the last, which must be 1."""
    memory, strides, offset = ops.view(n)
    if strides[-1] != 1:
        raise Unfusable(n)
    return (memory, offset), strides[:-1]


def _whole(ops: Operands, n: Node) -> tuple[Node, int]:
    """An operand that must lie in row-major order."""
    memory, strides, offset = ops.view(n)
    if strides != contiguous_strides(n.shape):
        raise Unfusable(n)
    return memory, offset


def _mask(ops: Operands, n: Node, attention: Node) -> tuple[Node, int, Mask]:
    """A mask's memory, offset and strides, 0 where it broadcasts."""
    memory, strides, offset = ops.view(n)
    strides = tuple(0 if size == 1 else s for size, s in zip(n.shape, strides, strict=True))
    if strides[3] not in (0, 1):
        raise Unfusable(n)
    kind = "bool" if n.dtype is dt.bool_ else _DTYPES[n.dtype]
    return memory, offset, Mask(kind, strides)
