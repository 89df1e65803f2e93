"""Where a loop nest's loads and stores go: addresses per open loop, vectors by stride, masks, bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kiln.backends.cpu.exprs import MEMORY, ExprEmitter
from kiln.backends.cpu.ir import Builder, Val, elem_of, vec
from kiln.backends.cpu.isa import Isa
from kiln.compile.loopnest import ITEMSIZE, Expr, IndexMap, LoopNest, Store, walk

Key = tuple[int, IndexMap]


class Access:
    """Resolves leaves and stores at the current point: ``index`` of open dims, ``lanes``, ``mask``."""

    def __init__(
        self,
        b: Builder,
        isa: Isa,
        nest: LoopNest,
        first_scratch: int,
        offsets: tuple[int, ...],
        streamed: frozenset[int] = frozenset(),
    ) -> None:
        self.b, self.isa, self.nest = b, isa, nest
        self.first_scratch, self.offsets = first_scratch, offsets
        self.streamed, self.streams = streamed, False  # whether there are stores past the cache
        self.native_masks = isa.name == "avx512"
        self.lanes = 1
        self.mask: Val | None = None
        self.dim: int | None = None
        self.step = 1
        self.index: dict[int, Val] = {}
        self.address: dict[Key, Val] = {}
        self.buffers: dict[int, Val] = {}
        n_outer = len(nest.outer)
        steps, step = [], 1
        for size in reversed(nest.inner):
            steps.append(step)
            step *= size
        self.linear = (0,) * n_outer + tuple(reversed(steps))

    def base(self, args: Val, own: Val | None = None) -> None:
        """Load the buffers' addresses from the table and start every access at its offset.

        Scratch buffers start ``own`` bytes into the workspace.
        """
        keys = [(buffer, at) for kind, buffer, at in self.nest.accesses() if kind != "index"]
        scratch: Val | None = None
        used = {k[0] for k in keys} | {e.attr[0] for e in _scalars(self.nest)}
        for buffer in sorted(used):
            slot = min(buffer, self.first_scratch)
            if buffer < self.first_scratch or scratch is None:
                table = self.b.gep(args, "ptr", self.b.i64(slot))
                loaded = self.b.load("ptr", table, 8)
            if buffer >= self.first_scratch:
                if scratch is None:
                    scratch = loaded if own is None else self.b.gep(loaded, "i8", own)
                offset = self.offsets[buffer - self.first_scratch]
                loaded = self.b.gep(scratch, "i8", self.b.i64(offset))
            self.buffers[buffer] = loaded
        for buffer, at in keys:
            self.address[buffer, at] = self.b.gep(
                self.buffers[buffer], self.elem(buffer), self.b.i64(at.offset)
            )

    def elem(self, buffer: int) -> str:
        """The LLVM type of a buffer's elements."""
        return MEMORY[self.nest.buffers[buffer]]

    def save(self) -> tuple[Any, ...]:
        """The current point, for `restore`."""
        return dict(self.index), dict(self.address), self.lanes, self.mask, self.dim, self.step

    def restore(self, point: tuple[Any, ...]) -> None:
        """Back to an earlier point."""
        self.index, self.address, self.lanes, self.mask, self.dim, self.step = point

    def vector(self, dim: int | None, lanes: int, mask: Val | None, step: int = 1) -> None:
        """From here on lanes run along ``dim``, whose indices of lane 0 are multiples of ``step``."""
        self.dim, self.lanes, self.mask, self.step = dim, lanes, mask, step

    def enter(self, d: int, i: Val) -> None:
        """Index ``d`` is ``i`` (of lane 0 if it is the vector dim) from here on."""
        b = self.b
        self.index[d] = i
        moved = {}
        for key, address in self.address.items():
            stride = key[1].strides[d]
            if stride and i.const != 0:
                address = b.gep(address, self.elem(key[0]), b.mul(i, b.i64(stride)))
            moved[key] = address
        self.address = moved

    # -- values -----------------------------------------------------------------------------------

    def leaf(self, e: Expr, emitter: ExprEmitter) -> Val:
        """The register value of a leaf."""
        b = self.b
        if e.op == "index":
            return self.affine(e.attr, "i64")
        if e.op == "scalar":
            buffer, offset = e.attr
            address = b.gep(self.buffers[buffer], self.elem(buffer), b.i64(offset))
            return self.read(emitter, e, address, 0, None)
        buffer, at = e.attr
        address = self.address[buffer, at]
        stride = at.strides[self.dim] if self.dim is not None and self.lanes > 1 else 0
        if e.op == "gather":
            where = emitter.cast(emitter.emit(e.args[0]), e.args[0].dtype, "i64")
            if where.lanes > 1:
                return self.gather(emitter, e, address, where, stride)
            address = b.gep(address, self.elem(buffer), where)
            return self.read(emitter, e, address, stride, self.mask)
        if at.bounds:
            return self.guarded(emitter, e, address, stride)
        return self.read(emitter, e, address, stride, self.mask)

    def run(self, e: Expr) -> tuple[Val, bool] | None:
        """Of an index leaf that counts up by one over the lanes: the first, and if it is a multiple of 4."""
        if e.op != "index" or self.dim is None or e.attr.strides[self.dim] != 1:
            return None
        others = [s for d, s in enumerate(e.attr.strides) if d != self.dim]
        aligned = all(n % 4 == 0 for n in (e.attr.offset, self.step, *others))
        return self.first(e.attr), aligned

    def first(self, at: IndexMap) -> Val:
        """offset + sum(strides * index), of lane 0."""
        b = self.b
        total = b.i64(at.offset)
        for d, stride in enumerate(at.strides):
            if stride:
                total = b.add(total, b.mul(self.index[d], b.i64(stride)))
        return total

    def affine(self, at: IndexMap, elem: str) -> Val:
        """offset + sum(strides * index), a vector where it varies along the lanes."""
        b = self.b
        total = self.first(at)
        if elem != "i64":
            total = (
                b.const(elem, total.const)
                if total.const is not None
                else b.conv("trunc", total, elem)
            )
        stride = at.strides[self.dim] if self.dim is not None and self.lanes > 1 else 0
        if not stride:
            return total
        return b.bin("add", b.splat(total, self.lanes), b.iota(elem, self.lanes, stride))

    def position(self, elem: str) -> Val:
        """The linear index over the inner domain, in every lane."""
        return self.b.splat(self.affine(IndexMap(0, self.linear), elem), self.lanes)

    def read(self, em: ExprEmitter, e: Expr, address: Val, stride: int, mask: Val | None) -> Val:
        """One value (stride 0) or a vector with a stride between its elements."""
        b, elem, size = self.b, MEMORY[e.dtype], ITEMSIZE[e.dtype]
        if stride == 0:
            return em.from_memory(b.load(elem, address, size), e.dtype)
        lanes = self.lanes
        ty = vec(elem, lanes)
        if stride == 1:
            raw = b.masked_load(ty, address, mask, size) if mask else b.load(ty, address, size)
        elif stride == -1:
            first = b.gep(address, elem, b.i64(1 - lanes))
            order = range(lanes - 1, -1, -1)
            if mask:
                raw = b.masked_load(ty, first, b.shuffle(mask, None, order), size)
            else:
                raw = b.load(ty, first, size)
            raw = b.shuffle(raw, None, order)
        elif stride == 2 and lanes > 2 and (mask is None or self.native_masks):
            raw = self.every_other(ty, address, mask, size)
        elif mask:
            where = b.gep(address, elem, b.iota("i64", lanes, stride))
            raw = b.masked_gather(ty, where, mask, size)
        else:
            raw = Val("poison", ty)
            for k in range(lanes):
                one = b.load(elem, b.gep(address, elem, b.i64(k * stride)), size)
                raw = b.insert(raw, one, k)
        return em.from_memory(raw, e.dtype)

    def every_other(self, ty: str, address: Val, mask: Val | None, size: int) -> Val:
        """Elements 0, 2, 4, …: two overlapping vectors, which reach to the last of them and no further."""
        b, lanes = self.b, self.lanes
        off = b.const(vec("i1", lanes), False)
        parts = []
        for first in (0, lanes - 1):
            at = b.gep(address, elem_of(ty), b.i64(first))
            if mask is None:
                parts.append(b.load(ty, at, size))
            else:
                wanted = [k // 2 if k % 2 == 0 else lanes for k in range(first, first + lanes)]
                parts.append(b.masked_load(ty, at, b.shuffle(mask, off, wanted), size))
        order = [2 * k if 2 * k < lanes else 2 * k + 1 for k in range(lanes)]
        return b.shuffle(parts[0], parts[1], order)

    def gather(self, em: ExprEmitter, e: Expr, address: Val, where: Val, stride: int) -> Val:
        """A vector of elements at a vector of indices."""
        b, elem, size = self.b, MEMORY[e.dtype], ITEMSIZE[e.dtype]
        if stride:
            where = b.bin("add", where, b.iota("i64", self.lanes, stride))
        ty = vec(elem, self.lanes)
        if self.mask:
            raw = b.masked_gather(ty, b.gep(address, elem, where), self.mask, size)
        else:  # one by one: on Zen 5 a third faster than the instruction that gathers
            raw = Val("poison", ty)
            for k in range(self.lanes):
                one = b.load(elem, b.gep(address, elem, b.extract(where, k)), size)
                raw = b.insert(raw, one, k)
        return em.from_memory(raw, e.dtype)

    def tile(self, em: ExprEmitter, e: Expr) -> list[Val]:
        """A load at ``lanes`` consecutive indices of the tile dim: rows read whole, then transposed."""
        b, n = self.b, self.lanes
        buffer, at = e.attr
        elem, size, stride = self.elem(buffer), ITEMSIZE[e.dtype], at.strides[self.dim]
        base = self.address[buffer, at]
        rows = [b.load(vec(elem, n), b.gep(base, elem, b.i64(k * stride)), size) for k in range(n)]
        bit = 1
        while bit < n:  # swap one bit of the row number with the same bit of the lane number
            upper = [k if not k & bit else n + (k ^ bit) for k in range(n)]
            lower = [k | bit if not k & bit else n + k for k in range(n)]
            for k in range(n):
                if not k & bit:
                    x, y = rows[k], rows[k | bit]
                    rows[k], rows[k | bit] = b.shuffle(x, y, upper), b.shuffle(x, y, lower)
            bit *= 2
        return [em.from_memory(r, e.dtype) for r in rows]

    def guarded(self, em: ExprEmitter, e: Expr, address: Val, stride: int) -> Val:
        """A load that happens only within its bounds; elsewhere the fill value."""
        b = self.b
        at = e.attr[1]
        fill = em.emit(e.args[0])
        scalars: list[Val] = []
        lanes_ok: Val | None = self.mask
        varies = self.dim is not None and self.lanes > 1
        for d, lo, hi in at.bounds:
            i = self.index[d]
            if d == self.dim and varies:
                i = b.bin("add", b.splat(i, self.lanes), b.iota("i64", self.lanes))
                inside = b.icmp("ult", b.sub(i, b.const(i.ty, lo)), b.const(i.ty, hi - lo))
                lanes_ok = inside if lanes_ok is None else b.bin("and", lanes_ok, inside)
            else:
                # One unsigned comparison does both sides.
                scalars.append(b.icmp("ult", b.sub(i, b.i64(lo)), b.i64(hi - lo)))
        vector = varies and (
            stride != 0 or fill.lanes > 1 or any(d == self.dim for d, _, _ in at.bounds)
        )
        if not vector:
            return self.branch(em, e, address, scalars, fill)
        mask = lanes_ok or b.const(vec("i1", self.lanes), True)
        for s in scalars:
            mask = b.bin("and", mask, b.splat(s, self.lanes))
            # a load with no lane on costs microseconds where nothing is mapped
            address = b.select(s, address, self.buffers[e.attr[0]])
        if stride == 0:
            whole = em.math.any_true(mask)
            value = b.splat(self.branch(em, e, address, [whole], b.extract(fill, 0)), self.lanes)
        else:
            value = self.read(em, e, address, stride, mask)
        return b.select(mask, value, b.splat(fill, self.lanes))

    def branch(
        self, em: ExprEmitter, e: Expr, address: Val, conditions: list[Val], fill: Val
    ) -> Val:
        """A scalar load under scalar conditions."""
        b = self.b
        if not conditions:
            return self.read(em, e, address, 0, None)
        ok = conditions[0]
        for c in conditions[1:]:
            ok = b.bin("and", ok, c)
        with b.if_then(ok, (fill,)) as taken:
            taken.set(self.read(em, e, address, 0, None))
        return taken.results[0]

    def write(self, em: ExprEmitter, stores: Sequence[Store]) -> None:
        """Evaluate all expressions, then write all: a region updates its inputs in place safely."""
        values = []
        for t in stores:
            e = t.expr
            if e.op == "cast" and e.dtype in ("f16", "bf16") and e.args[0].dtype == "f32":
                e = e.args[0]  # the store itself rounds
            values.append(em.to_memory(em.emit(e), t.expr.dtype))
        for t, value in zip(stores, values, strict=True):
            self.store(t, value)

    def store(self, t: Store, value: Val) -> None:
        """Write one value or vector, already in its memory form."""
        b, elem, size = self.b, self.elem(t.buffer), ITEMSIZE[self.nest.buffers[t.buffer]]
        address = self.address[t.buffer, t.at]
        stride = t.at.strides[self.dim] if self.dim is not None and self.lanes > 1 else 0
        if stride == 0:
            b.store(b.extract(value, 0), address, size)
            return
        lanes, mask = self.lanes, self.mask
        value = b.splat(value, lanes)
        if stride == 1:
            if mask:
                b.masked_store(value, address, mask, size)
            elif self.past_cache(t, size):
                b.store(value, address, min(lanes * size, self.isa.vector_bytes), past_cache=True)
                self.streams = True
            else:
                b.store(value, address, size)
        elif mask:
            b.masked_scatter(value, b.gep(address, elem, b.iota("i64", lanes, stride)), mask, size)
        else:
            for k in range(lanes):
                b.store(b.extract(value, k), b.gep(address, elem, b.i64(k * stride)), size)

    def past_cache(self, t: Store, size: int) -> bool:
        """Whether a vector goes to memory directly: where that is asked for, and each one is aligned."""
        unit = min(self.lanes * size, self.isa.vector_bytes)
        steps = [s for d, s in enumerate(t.at.strides) if d != self.dim]
        return (
            t.buffer in self.streamed
            and unit >= 16
            and all(n * size % unit == 0 for n in (t.at.offset, self.step, *steps))
        )

    def finish(self) -> None:
        """Have stores past the cache be seen before anything that follows the task."""
        if self.streams and self.isa.name != "neon":
            self.b.module.declare("llvm.x86.sse.sfence", "void", [])
            self.b.line("call void @llvm.x86.sse.sfence()")


def _scalars(nest: LoopNest) -> list[Expr]:
    return [e for e in walk(nest.roots()) if e.op == "scalar"]
