"""Loop nests to kernels: fused elementwise regions, row and column reductions, softmax-like stages.

`emit` is the entrance. A nest is simplified and, where long reductions leave no parallelism, split into
phases (split.py); each phase is written as loops over its dims with one of them vectorised. Main loops
use vectors several registers wide, which LLVM splits into independent ones: that is the unrolling.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

from kiln.backends.cpu import reductions as red
from kiln.backends.cpu.access import Access, Key
from kiln.backends.cpu.exprs import ExprEmitter
from kiln.backends.cpu.ir import Builder, Module, Val
from kiln.backends.cpu.isa import Isa
from kiln.backends.cpu.kernel import Kernel
from kiln.backends.cpu.schedule import Plan, plan, simplify, tileable
from kiln.backends.cpu.split import Phases, by_row, phases
from kiln.compile.loopnest import ITEMSIZE, Expr, IndexMap, LoopNest, Reduction, Stage, walk

# Float sums longer than this many steps restart their accumulators, so that rounding errors grow with the
# number of blocks plus the length of one instead of their product.
BLOCK = 128

# Rows of an array of so many bytes are fetched ahead: smaller ones stay in a core's caches.
FAR_BYTES = 1 << 20

State = list[list[Val]]


def emit(
    nest: LoopNest, isa: Isa, symbol: str | None = None, streamed: frozenset[int] = frozenset()
) -> Kernel:
    """The kernel (chain) of a nest; without ``symbol`` it is named after its content.

    What it stores in the buffers ``streamed``, which must be aligned to 64 bytes, goes past the cache.
    Raises KilnError where the nest breaks the rules of `kiln.compile.loopnest`.
    """
    if symbol is None:
        content = f"{nest}|{isa.key}|{sorted(streamed)}" if streamed else f"{nest}|{isa.key}"
        symbol = "loops_" + hashlib.sha256(content.encode()).hexdigest()[:20]
    work = phases(simplify(nest.check()))
    if work.nests[0].private and len(work.nests) == 1:
        small = by_row(work, plan(work.nests[0], isa).ntasks)
        chosen = plan(small.nests[0], isa)
        if chosen.vector is None or chosen.vector >= len(small.nests[0].outer):
            work = (
                small
                if small.task_bytes * chosen.ntasks == small.scratch_bytes
                else by_row(work, chosen.ntasks)
            )
    kernel: Kernel | None = None
    for number in reversed(range(len(work.nests))):
        name = symbol if number == 0 else f"{symbol}_{number}"
        kernel = _Writer(work, number, isa, name, streamed).kernel(kernel)
    return kernel


class _Writer:
    """Writes one phase."""

    def __init__(
        self, work: Phases, number: int, isa: Isa, symbol: str, streamed: frozenset[int]
    ) -> None:
        self.work, self.isa, self.symbol = work, isa, symbol
        self.nest = work.nests[number]
        self.plan: Plan = plan(self.nest, isa)
        self.module = Module()
        params = [("ptr", "args"), ("i64", "task"), ("i64", "place")]
        self.b: Builder = self.module.function(symbol, params)
        self.n_outer = len(self.nest.outer)
        self.access = Access(self.b, isa, self.nest, work.first_scratch, work.offsets, streamed)
        kept = [t.expr for s in self.nest.stages for t in s.stores]
        self.e = ExprEmitter(self.b, isa, self.leaf, self.access.run, kept)
        self.refs: dict[tuple[int, int], Val] = {}
        written = {t.buffer for s in self.nest.stages for t in s.stores}
        self.depth = _depths(self.nest, written)
        self.total = math.prod(self.nest.inner)
        self.in_tile = False
        self.wide = self.plan.wide[0]
        self.ahead: list[Key] = []  # what is asked for as the stage being written goes on

    def kernel(self, then: Kernel | None) -> Kernel:
        """The finished kernel."""
        if 0 not in self.nest.outer:
            roots = self.nest.roots()
            own = self.b.mul(self.b.params[2], self.b.i64(self.work.task_bytes))
            self.access.base(self.b.params[0], own)
            self.hoist(0, roots)
            self.outer_level(0)
            self.access.finish()
        self.b.ret()
        text = self.module.text()
        return Kernel(text, self.symbol, self.plan.ntasks, self.work.scratch_bytes, then)

    # -- values -----------------------------------------------------------------------------------

    def leaf(self, e: Expr) -> Val:
        """The value of a leaf at the point being written."""
        if e.op == "ref":
            return self.refs[e.attr]
        return self.access.leaf(e, self.e)

    def hoist(self, level: int, roots: Sequence[Expr]) -> None:
        """Emit all that is fixed once ``level`` dims are open, so that deeper loops find it done."""
        if level >= len(self.nest.dims) or self.in_tile:
            return
        seen: set[Expr] = set()
        stack = list(roots)
        while stack:
            e = stack.pop()
            if e in seen or e.op == "const":
                continue
            seen.add(e)
            if self.depth[e] > level:
                stack += e.args
            elif all(r.attr in self.refs for r in walk([e]) if r.op == "ref"):
                self.e.emit(e)

    def scoped(self, write: Callable[[], None]) -> None:
        """Write code whose values must not be used after it."""
        values, point = dict(self.e.values), self.access.save()
        write()
        self.e.values = values
        self.access.restore(point)

    # -- loops ------------------------------------------------------------------------------------

    def bounds(self, d: int) -> tuple[Val, Val]:
        """First index and end of dim ``d`` in this task (and chunk)."""
        b, size = self.b, self.nest.dims[d]
        if self.plan.split and self.plan.split[0] == d:
            which, step = b.params[1], self.plan.split[1]
        elif self.nest.chunk and self.nest.chunk[0] == d:
            which, step = self.access.index[0], self.nest.chunk[1]
        else:
            return b.i64(0), b.i64(size)
        start = b.mul(which, b.i64(step))
        stop = b.add(start, b.i64(step))
        if size % step:
            stop = b.intrinsic("smin", stop, b.i64(size))
        return start, stop

    def outer_level(self, d: int) -> None:
        """Open outer dim ``d`` and all inside it."""
        if d == self.n_outer:
            self.point()
            return
        start, stop = self.bounds(d)

        def body(i: Val, state: State) -> State:
            def write() -> None:
                self.access.enter(d, i)
                self.refs = {}
                self.hoist(d + 1, self.nest.roots())
                self.outer_level(d + 1)

            self.scoped(write)
            return state

        if d == self.plan.vector:
            self.vector_loops(d, start, stop, [], (), body)
        elif d == self.plan.tile:
            self.tile_loops(d, start, stop, body)
        else:
            with self.b.loop(start, stop) as loop:
                body(loop.i, [])

    def tile_loops(
        self, d: int, start: Val, stop: Val, body: Callable[[Val, State], State]
    ) -> None:
        """The tile dim: blocks of as many indices as there are lanes, then single ones."""
        b, lanes = self.b, self.plan.lanes
        length = b.sub(stop, start)
        if length.const is not None:
            end = b.i64(length.const // lanes * lanes)
        else:
            end = b.add(start, b.bin("and", length, b.i64(-lanes)))
        with b.loop(start, end, lanes) as loop:
            self.in_tile = True
            body(loop.i, [])
            self.in_tile = False
        if self.nest.dims[d] % lanes:
            with b.loop(end, stop) as loop:
                body(loop.i, [])

    def tile_body(self, stage: Stage) -> None:
        """Everything for one block of the tile dim: unrolled where vectors are full, else a loop."""
        d, lanes = self.plan.tile, self.plan.lanes
        if self.access.lanes != lanes or self.access.mask:
            with self.b.loop(self.b.i64(0), self.b.i64(lanes)) as loop:
                self.scoped(lambda: self.tile_point(stage, d, loop.i))
            return
        maps = tileable(self.nest, self.plan.vector)
        tiles = {
            e: self.access.tile(self.e, e)
            for e in walk(self.nest.roots())
            if e.op == "load" and e.attr[1] in maps and e.attr[1].strides[d] == 1
        }
        for k in range(lanes):

            def write(k: int = k) -> None:
                self.e.values.update({e: rows[k] for e, rows in tiles.items()})
                self.tile_point(stage, d, self.b.i64(k))

            self.scoped(write)

    def tile_point(self, stage: Stage, d: int, k: Val) -> None:
        """One index within a block: ``k`` more than what is open."""
        first = self.access.index[d]
        self.access.enter(d, k)
        self.access.index[d] = self.b.add(first, k)
        self.access.write(self.e, stage.stores)

    def point(self) -> None:
        """All stages and the final stores at one outer point (or vector of them)."""
        self.refs = {}
        for number, stage in enumerate(self.nest.stages):
            self.scoped(lambda n=number, s=stage: self.stage(n, s))
        roots = [t.expr for t in self.nest.final]
        if roots:
            self.scoped(lambda: self.access.write(self.e, self.nest.final))

    def stage(self, number: int, stage: Stage) -> None:
        """One stage: its inner loops, then its results folded to one value per outer point."""
        roots = [r.expr for r in stage.reductions] + [t.expr for t in stage.stores]
        self.hoist(self.n_outer, roots)
        self.wide = self.plan.wide[number]
        self.ahead = self.next_rows() if number == 1 else []
        kinds = stage.reductions
        inside = self.plan.vector is not None and self.plan.vector >= self.n_outer
        groups = [w for w, _ in self.widths(self.plan.vector)] if inside else [self.access.lanes]
        state = [red.start(self.b, r, lanes, self.total) for lanes in groups for r in kinds]
        if self.total:
            state = self.inner_level(self.n_outer, stage, state)
        for k, r in enumerate(kinds):
            parts = state[k :: len(kinds)]
            if inside:
                parts = [red.fold(self.b, r, part, 1) for part in parts]
            whole = parts[0]
            for part in parts[1:]:
                whole = red.merge(self.b, r, whole, part)
            self.refs[number, k] = red.finish(self.b, whole)

    def next_rows(self) -> list[Key]:
        """What the first stage will read of the next row, which the second stage has time to fetch.

        The machine's own prefetching ends with a page, which is to say with a row of 1024 floats.
        """
        nest, d, row = self.nest, self.plan.vector, self.n_outer - 1
        if d is None or d < self.n_outer or row < 0:
            return []
        found = []
        for e in walk([r.expr for r in nest.stages[0].reductions]):
            if e.op != "load" or e.attr[1].bounds or e.attr[0] >= self.work.first_scratch:
                continue
            strides = e.attr[1].strides
            points = math.prod(n for n, s in zip(nest.dims, strides, strict=True) if s)
            if strides[d] == 1 and strides[row] and points * ITEMSIZE[e.dtype] >= FAR_BYTES:
                found.append(e.attr)
        return found

    def fetch(self) -> None:
        """Ask for what lies one row further on than this vector."""
        for key in self.ahead:
            buffer, at = key
            size, step = ITEMSIZE[self.nest.buffers[buffer]], at.strides[self.n_outer - 1]
            for line in range(0, self.access.lanes * size, 64):
                offset = self.b.i64(step + line // size)
                place = self.b.gep(self.access.address[key], self.access.elem(buffer), offset)
                self.b.prefetch(place)

    def inner_level(self, d: int, stage: Stage, state: State) -> State:
        """Open inner dim ``d`` and all inside it; returns the reductions' new state."""
        if d == len(self.nest.dims):
            if self.in_tile:
                self.tile_body(stage)
                return state
            return self.body(stage, state)
        start, stop = self.bounds(d)

        def body(i: Val, state: State) -> State:
            result: State = []

            def write() -> None:
                self.access.enter(d, i)
                if d + 1 < len(self.nest.dims):
                    roots = [r.expr for r in stage.reductions] + [t.expr for t in stage.stores]
                    self.hoist(d + 1, roots)
                result.extend(self.inner_level(d + 1, stage, state))

            self.scoped(write)
            return result

        if d == self.plan.vector:
            return self.vector_loops(d, start, stop, state, stage.reductions, body)
        kinds = stage.reductions * (len(state) // max(1, len(stage.reductions)))
        return self.counted(d, start, stop, 1, state, kinds, body)

    def widths(self, d: int) -> list[tuple[int, bool]]:
        """(lanes, partial) of the loops along vector dim ``d``: wide, one register, what is left."""
        p, size = self.plan, self.nest.dims[d]
        cut = self.nest.chunk if self.nest.chunk and self.nest.chunk[0] == d else p.split
        step = cut[1] if cut and cut[0] == d else size
        regular = (
            step == size or step % self.wide == 0
        )  # then what is left over is the same everywhere
        found = []
        if step >= self.wide:
            found.append((self.wide, False))
        if self.wide > p.lanes and (not regular or size % self.wide >= p.lanes):
            found.append((p.lanes, False))
        if not regular or size % p.lanes:
            # One element left is scalar code: LLVM 22 turns a narrowing masked store with a constant
            # one-lane mask into a scalar store of the wide element, overwriting its neighbour.
            masked = self.isa.name == "avx512" and not (regular and size % p.lanes == 1)
            found.append((p.lanes if masked else 1, True))
        return found

    def vector_loops(
        self,
        d: int,
        start: Val,
        stop: Val,
        state: State,
        kinds: Sequence[Reduction],
        body: Callable[[Val, State], State],
    ) -> State:
        """The loops along the vector dim; ``state`` holds accumulators for each of `widths` in turn."""
        b, n = self.b, len(kinds)
        cuts = [c for c in (self.plan.split, self.nest.chunk) if c and c[0] == d]
        after: State = []
        position = start
        for k, (lanes, partial) in enumerate(self.widths(d)):
            mine = state[k * n : (k + 1) * n]
            step = math.gcd(*(cut[1] for cut in cuts), lanes)  # wider loops came before
            left = b.sub(stop, position)
            if partial and lanes > 1:
                after += self.masked_tail(d, position, left, lanes, step, mine, body)
                continue
            if left.const is not None:
                whole = b.i64(left.const // lanes * lanes)
            else:
                whole = left if lanes == 1 else b.bin("and", left, b.i64(-lanes))
            end = b.add(position, whole)
            self.access.vector(d, lanes, None, step)
            after += self.counted(d, position, end, lanes, mine, () if partial else kinds, body)
            position = end
        self.access.vector(None, 1, None)
        return after

    def masked_tail(
        self,
        d: int,
        at: Val,
        left: Val,
        lanes: int,
        step: int,
        state: State,
        body: Callable[[Val, State], State],
    ) -> State:
        """The last, partial vector."""
        b = self.b
        if left.const is not None:
            self.access.vector(d, lanes, b.active_lanes(left, lanes), step)
            return body(at, state)
        flat = [v for s in state for v in s]
        some = b.icmp("sgt", left, b.i64(0))
        # A remainder of a whole register and more can't be: an earlier loop took it.
        with b.if_then(some, flat) as branch:
            self.access.vector(d, lanes, b.active_lanes(left, lanes), step)
            branch.set(*[v for s in body(at, state) for v in s])
        return _unflat(branch.results, state)

    def counted(
        self,
        d: int,
        start: Val,
        stop: Val,
        step: int,
        state: State,
        kinds: Sequence[Reduction],
        body: Callable[[Val, State], State],
    ) -> State:
        """A loop carrying ``state``, in blocks where long float sums ask for it."""
        sums = [red.is_float_sum(r) for r in kinds]
        trips = self.nest.dims[d] // step
        nested = d > self.n_outer and trips >= 8
        if not any(sums) or (trips <= 2 * BLOCK and not nested):
            return self.plain(start, stop, step, state, body)

        def run(first: Val, last: Val, carried: State) -> State:
            fresh = [
                red.start(self.b, r, c[0].lanes, self.total) if is_sum else c
                for r, is_sum, c in zip(kinds, sums, carried, strict=True)
            ]
            done = self.plain(first, last, step, fresh, body)
            return [
                red.merge(self.b, r, c, v) if is_sum else v
                for r, is_sum, c, v in zip(kinds, sums, carried, done, strict=True)
            ]

        if trips <= 2 * BLOCK:
            return run(start, stop, state)
        span = step * BLOCK

        def block(i: Val, carried: State) -> State:
            last = self.b.intrinsic("smin", self.b.add(i, self.b.i64(span)), stop)
            return run(i, last, carried)

        return self.plain(start, stop, span, state, block)

    def plain(
        self, start: Val, stop: Val, step: int, state: State, body: Callable[[Val, State], State]
    ) -> State:
        """A loop carrying ``state``."""
        with self.b.loop(start, stop, step, [v for s in state for v in s]) as loop:
            after = body(loop.i, _unflat(loop.carried, state))
            loop.next(*[v for s in after for v in s])
        return _unflat(loop.results, state)

    # -- the innermost body -----------------------------------------------------------------------

    def body(self, stage: Stage, state: State) -> State:
        """Evaluate, reduce and store at one point or vector of points."""
        b, mask = self.b, self.access.mask
        lanes = self.access.lanes
        after = []
        for r, old in zip(stage.reductions, state, strict=True):
            value = b.splat(self.e.emit(r.expr), lanes)
            value = self.e.cast(value, r.expr.dtype, red.carrier(r))
            position = None
            if r.kind.startswith("arg"):
                position = self.access.position(old[1].elem)
            new = red.update(b, r, old, value, position)
            inner_mask = mask is not None and self.plan.vector >= self.n_outer
            after.append(
                [b.select(mask, n, o) for n, o in zip(new, old, strict=True)] if inner_mask else new
            )
        self.access.write(self.e, stage.stores)
        self.fetch()
        return after


def _unflat(values: Sequence[Val], like: State) -> State:
    result, k = [], 0
    for s in like:
        result.append(list(values[k : k + len(s)]))
        k += len(s)
    return result


def _depths(nest: LoopNest, written: set[int]) -> dict[Expr, int]:
    """How many dims must be open before an expression is known; written buffers are never hoisted."""

    def reach(at: IndexMap) -> int:
        used = [d for d, s in enumerate(at.strides) if s] + [d for d, _, _ in at.bounds]
        return 1 + max(used, default=-1)

    depth: dict[Expr, int] = {}
    everything = len(nest.dims)
    for e in walk(nest.roots()):
        own = 0
        if e.op == "ref":
            own = len(nest.outer)
        elif e.op == "index":
            own = reach(e.attr)
        elif e.op in ("load", "gather"):
            own = everything if e.attr[0] in written else reach(e.attr[1])
        elif e.op == "scalar" and e.attr[0] in written:
            own = everything
        depth[e] = max([own, *(depth[a] for a in e.args)])
    return depth
