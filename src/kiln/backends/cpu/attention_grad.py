"""Attention's backward kernel: the scores are computed again, block by block, from the log-sum-exp.

With p = exp(score - lse) and delta the product of a row's gradient and result, summed:
dv = p^T @ g, ds = p * (g @ v^T - delta), dq = ds @ k * scale, dk = ds^T @ q * scale.
A task has one head of key and value with all heads of query that it serves, so that nothing is
ever added to by two tasks.
"""

from __future__ import annotations

from kiln.backends.cpu import tasks
from kiln.backends.cpu.attention_tiles import Attention, Driver, Rows
from kiln.backends.cpu.ir import Val
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel

ARG_DQ, ARG_DK, ARG_DV, ARG_Q, ARG_K, ARG_V, ARG_G = 0, 1, 2, 4, 5, 6, 7
ARG_OUT, ARG_LSE, ARG_MASK = 8, 9, 10
_BLOCK = 128


def emit(spec: Attention, isa: Isa, symbol: str) -> Kernel:
    """``args``: dq (N, L, H, E), dk, dv (N, S, G, …), workspace, q, k, v, g, out (N, L, H, V), lse, mask."""
    return _Backward(spec, isa, symbol).emit()


class _Backward(Driver):
    """Loops: key blocks, heads of the group, row blocks; then tiles of rows, then tiles of keys."""

    def __init__(self, spec: Attention, isa: Isa, symbol: str) -> None:
        super().__init__(spec, isa, symbol, _BLOCK)
        self.repeat = spec.heads // spec.groups
        parts = -(-self.tiles * self.mr // _BLOCK)
        self.row_tiles = -(-self.tiles // parts)  # in one block of rows
        self.row_block = self.row_tiles * self.mr
        self.row_blocks = -(-self.tiles // self.row_tiles)
        units = spec.batch * spec.groups
        self.ntasks = min(units, tasks.task_count(5 * spec.flops // 2))
        self.packed_k = self.reserve(self.block * spec.features)
        self.packed_v = self.reserve(self.block * spec.values)
        self.p = self.reserve(self.row_block * self.pitch)
        self.ds = self.reserve(self.row_block * self.pitch)
        self.delta = self.reserve(self.repeat * spec.length)

    def emit(self) -> Kernel:
        """The module's text and what it needs at run time."""
        b, spec = self.b, self.spec
        units = spec.batch * spec.groups
        with b.function(self.symbol, [("ptr", "args"), ("i64", "task"), ("i64", "place")]):
            slots = (ARG_DQ, ARG_DK, ARG_DV, ARG_Q, ARG_K, ARG_V, ARG_G, ARG_OUT, ARG_LSE, ARG_MASK)
            pointers = [b.argument("%args", slot) for slot in slots]
            self.space = self.workspace()
            share = tasks.Grid(self.ntasks, 1, 1).ranges(b, units, 1, 1)
            with b.loop(*share.batch) as unit:
                self._unit(unit.index, pointers)
        self._define_row()
        self.define_parts()
        return Kernel(b.module(), self.symbol, self.ntasks, self.ntasks * self.workspace_bytes)

    def _unit(self, unit: str, pointers: list[str]) -> None:
        """Everything of one head of key and value."""
        b, spec = self.b, self.spec
        self.pointers = pointers
        self.n = b.op(f"udiv i64 {unit}, {spec.groups}")
        g = b.op(f"urem i64 {unit}, {spec.groups}")
        self.first_head = b.mul(g, self.repeat)
        k_row, v_row = spec.groups * spec.features, spec.groups * spec.values
        self.dk = self.move(pointers[1], (self.n, spec.keys * k_row), (g, spec.features))
        self.dv = self.move(pointers[2], (self.n, spec.keys * v_row), (g, spec.values))
        self.k = self.move(pointers[4], (self.n, spec.k[0]), (g, spec.k[1]))
        self.v = self.move(pointers[5], (self.n, spec.v[0]), (g, spec.v[1]))
        self._deltas()
        if spec.causal:
            self._head(self.first_head)
            self._find_whole()
        with b.loop(0, self.key_blocks) as block:
            first = b.mul(block.index, self.block)
            end = b.least(b.add(first, self.block), spec.keys)
            for source, stride, depth, target in (
                (self.k, spec.k[2], spec.features, self.packed_k),
                (self.v, spec.v[2], spec.values, self.packed_v),
            ):
                self.pack_keys(source, stride, depth, b.at(self.space, target), first, end)
            self._key_block(first, end)

    def _find_whole(self) -> None:
        """Whether all is computed: what is not finite in q shows in lse, in g, v and the result in delta."""
        b, spec = self.b, self.spec
        finite = self.all_finite(
            self.space,
            (self.k, spec.keys, spec.k[2], spec.features),
            (b.at(self.space, self.delta), 1, 0, self.repeat * spec.length),
            (self.lse, 1, 0, self.repeat * spec.length),
        )
        self.whole = b.op(f"xor i1 {finite}, true")

    def _key_block(self, first: str, end: str) -> None:
        b, spec = self.b, self.spec
        start = "0"
        if spec.causal:  # rows before the first key don't see it
            start = self.unless_whole(b.op(f"udiv i64 {first}, {self.row_block}"), "0")
            if spec.keys > spec.length:
                none = b.op(f"icmp sge i64 {start}, {self.row_blocks}")
                with b.when(none):
                    self._nothing(first, end)
        with b.loop(0, self.repeat) as r:
            self._head(b.add(self.first_head, r.index))
            self.my_delta = self.move(b.at(self.space, self.delta), (r.index, spec.length))
            with b.loop(start, self.row_blocks) as block:
                tile = b.mul(block.index, self.row_tiles)
                last = b.least(b.add(tile, self.row_tiles), self.tiles)
                row = b.mul(tile, self.mr)
                self.each_tile(tile, last, lambda t, rows, row=row: self._tile(t, rows, row, first))
                begun = b.op(f"icmp ne i64 {block.index}, {start}")
                again = b.op(f"icmp ne i64 {r.index}, 0")
                self._keys(first, end, row, last, b.op(f"or i1 {begun}, {again}"))

    def _head(self, h: str) -> None:
        """The addresses of one head of query."""
        spec, p, n = self.spec, self.pointers, self.n
        self.dq = self.move(p[0], (n, spec.length * spec.heads * spec.features), (h, spec.features))
        self.q = self.move(p[3], (n, spec.q[0]), (h, spec.q[1]))
        self.g = self.move(p[6], (n, spec.g[0]), (h, spec.g[2]))
        self.lse = self.move(p[8], (n, spec.heads * spec.length), (h, spec.length))
        self.mask = p[9]
        if spec.mask is not None:
            size = 1 if spec.mask.dtype == "bool" else self.size
            strides = spec.mask.strides
            self.mask = self.move_by(p[9], size, (n, strides[0]), (h, strides[1]))

    def _tile(self, tile: str, rows: int, block: str, first: str) -> None:
        """p and ds of a tile of rows and a block of keys, and the rows' share of dq."""
        b = self.b
        row = b.mul(tile, self.mr)
        columns = self.live(first, row, rows)
        if not self.spec.causal:
            self._visible(row, rows, block, first, columns)
            return
        with b.when(b.op(f"icmp sgt i64 {columns}, 0")):
            self._visible(row, rows, block, first, columns)

    def _visible(self, row: str, rows: int, block: str, first: str, columns: str) -> None:
        b, spec = self.b, self.spec
        local = b.op(f"sub i64 {row}, {block}")
        p, ds = (self.move(b.at(self.space, at), (local, self.pitch)) for at in (self.p, self.ds))
        q, g = self.move(self.q, (row, spec.q[2])), self.move(self.g, (row, spec.g[1]))
        self.scores(
            rows, (q, spec.q[2]), b.at(self.space, self.packed_k), spec.features, p, columns
        )
        self.scores(rows, (g, spec.g[1]), b.at(self.space, self.packed_v), spec.values, ds, columns)
        keys = b.op(f"sub i64 {spec.keys}, {first}")
        with b.loop(0, rows) as r:
            i = b.add(row, r.index)
            step = b.mul(r.index, self.pitch)
            b.emit(
                f"call void @{self.symbol}.row(ptr {b.at(p, step, self.size)}, "
                f"ptr {b.at(ds, step, self.size)}, ptr {self.mask_at(self.mask, i, first)}, "
                f"i64 {columns}, i64 {self.row_live(first, i, columns)}, "
                f"i64 {keys}, ptr {b.at(self.lse, i, self.size)}, ptr {b.at(self.my_delta, i, self.size)})"
            )
        width = spec.heads * spec.features
        more = b.op(f"icmp ne i64 {first}, 0") if self.key_blocks > 1 else "false"
        self.product(
            rows, spec.features, (ds, self.pitch, 1),
            (self.move(self.k, (first, spec.k[2])), spec.k[2]),
            (self.move(self.dq, (row, width)), width), columns, more,
        )  # fmt: skip

    def _keys(self, first: str, end: str, row: str, last: str, more: str) -> None:
        """The block of rows' share of dk and dv."""
        b, spec = self.b, self.spec
        stop = b.least(b.mul(last, self.mr), spec.length)
        more = more if self.row_blocks * self.repeat > 1 else "false"

        def tile(key: str, keys: int) -> None:
            start = self.unless_whole(b.most(row, key), row) if spec.causal else row
            depth = b.op(f"sub i64 {stop}, {start}")
            if spec.causal:
                depth = b.most(depth, 0)
            local = b.op(f"sub i64 {start}, {row}")
            column = b.op(f"sub i64 {key}, {first}")
            for source, right, stride, target, n in (
                (self.p, self.g, spec.g[1], self.dv, spec.values),
                (self.ds, self.q, spec.q[2], self.dk, spec.features),
            ):
                base = b.at(self.space, source)
                width = spec.groups * n
                self.product(
                    keys, n, (self.move(base, (local, self.pitch), (column, 1)), 1, self.pitch),
                    (self.move(right, (start, stride)), stride),
                    (self.move(target, (key, width)), width), depth, more,
                )  # fmt: skip

        left = b.op(f"sub i64 {end}, {first}")
        over = b.op(f"urem i64 {left}, {self.mr}")
        cut = b.op(f"sub i64 {end}, {over}")
        with b.loop(first, cut, self.mr) as key:
            tile(key.index, self.mr)
        for count in sorted(self._remainders()):
            with b.when(b.op(f"icmp eq i64 {over}, {count}")):
                tile(cut, count)

    def _remainders(self) -> set[int]:
        """Keys that are left in a block after whole tiles."""
        sizes = {self.spec.keys - (self.key_blocks - 1) * self.block}
        if self.key_blocks > 1:
            sizes.add(self.block)
        return {size % self.mr for size in sizes} - {0}

    def _nothing(self, first: str, end: str) -> None:
        """Keys that no row sees have a gradient of zero."""
        b, spec = self.b, self.spec
        with b.loop(first, end) as key:
            for target, n in ((self.dk, spec.features), (self.dv, spec.values)):
                row = self.move(target, (key.index, spec.groups * n))
                with b.loop(0, n) as i:
                    b.emit(f"store {self.element} 0.0, ptr {b.at(row, i.index, self.size)}")

    def _deltas(self) -> None:
        """The product of gradient and result, summed, of every row of the group's heads."""
        b, spec = self.b, self.spec
        width = spec.heads * spec.values
        with b.loop(0, self.repeat) as r:
            h = b.add(self.first_head, r.index)
            g = self.move(self.pointers[6], (self.n, spec.g[0]), (h, spec.g[2]))
            out = self.move(self.pointers[7], (self.n, spec.length * width), (h, spec.values))
            target = self.move(b.at(self.space, self.delta), (r.index, spec.length))
            with b.loop(0, spec.length) as i:
                self.dot(
                    self.move(g, (i.index, spec.g[1])), self.move(out, (i.index, width)),
                    spec.values, b.at(target, i.index, self.size),
                )  # fmt: skip

    def _define_row(self) -> None:
        """The function that turns rows of products into p and ds."""
        b, e = self.b, self.element
        params = [("ptr noalias", "p"), ("ptr noalias", "ds"), ("ptr", "mask"), ("i64", "columns"),
                  ("i64", "live"), ("i64", "keys"), ("ptr", "lse"), ("ptr", "delta")]  # fmt: skip
        with b.function(f"{self.symbol}.row", params, internal=True):
            ir = b.ir
            rows = Rows(self, ir)
            m = rows.math
            p, ds, mask = (Val(f"%{name}", "ptr") for name in ("p", "ds", "mask"))
            columns, live = Val("%columns", "i64"), Val("%live", "i64")
            lse = ir.splat(ir.load(e, Val("%lse", "ptr"), self.size), self.lanes)
            delta = ir.splat(ir.load(e, Val("%delta", "ptr"), self.size), self.lanes)
            scale = rows.splat(self.spec.scale)
            with ir.loop(ir.i64(0), columns, self.lanes) as loop:
                on = rows.active(loop.i, live)
                x = rows.score(rows.load(p, loop.i), mask, loop.i, on)
                x = m.exp(m.sub(x, lse))
                d = m.mul(m.mul(x, m.sub(rows.load(ds, loop.i), delta)), scale)
                if self.spec.keys % self.lanes:  # what lies past the last key may be anything
                    on = rows.active(loop.i, Val("%keys", "i64"))
                    x, d = (ir.select(on, y, rows.splat(0.0)) for y in (x, d))
                ir.store(x, rows.at(p, loop.i), self.size)
                ir.store(d, rows.at(ds, loop.i), self.size)
            if self.spec.causal:  # tiles of keys reach past what these rows see
                done = ir.bin("and", ir.add(columns, ir.i64(self.lanes - 1)), ir.i64(-self.lanes))
                with ir.loop(done, ir.i64(self.block), self.lanes) as loop:
                    for base in (p, ds):
                        ir.store(rows.splat(0.0), rows.at(base, loop.i), self.size)
