"""Long reductions split into chunks: one nest becomes several that run one after another.

Where a nest has too few independent outer points to keep several cores busy, each of its stages becomes
partial results over a fixed number of chunks and a combination of them, through scratch buffers. The number
of chunks depends on the shape alone, and so do all results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kiln.backends.cpu import schedule
from kiln.backends.cpu.schedule import MAX_TASKS, cost, simplify
from kiln.compile.loopnest import (
    ITEMSIZE,
    Expr,
    IndexMap,
    LoopNest,
    Reduction,
    Stage,
    Store,
    apply,
    cast,
    const,
    gather,
    index,
    load,
    map_nest,
    ref,
    rewrite,
    unrounded,
)

_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class Phases:
    """Nests to run one after another; buffers from ``first_scratch`` on lie in a workspace.

    Where ``task_bytes`` is not 0, each task has so many bytes of it for itself.
    """

    nests: list[LoopNest]
    first_scratch: int
    offsets: tuple[int, ...] = ()
    scratch_bytes: int = 0
    task_bytes: int = 0


def phases(nest: LoopNest) -> Phases:
    """Split reductions that leave too few independent outer points to keep several cores busy.

    Each stage becomes partial results over a fixed number of chunks and a combination of them, so that
    both the parallelism and the order of additions depend on the shape alone.
    """
    whole = _unsplit(nest)
    want = min(MAX_TASKS, int(cost(nest) // schedule.TASK_COST))
    if want < 2 or not nest.inner or 0 in nest.dims or not any(s.reductions for s in nest.stages):
        return whole
    columns = _columns(nest)
    if max(nest.outer[:-1] if columns else nest.outer, default=1) >= 8:
        return whole
    chunk = _blocks(nest) if columns else _chunk(nest, want)
    return whole if chunk is None else _Splitter(nest, *chunk).run()


def _unsplit(nest: LoopNest) -> Phases:
    """The nest as it is, its private buffers in the workspace."""
    first = len(nest.buffers) - nest.private
    offsets, end = [], 0
    points = math.prod(nest.dims)
    for dtype in nest.buffers[first:]:
        offsets.append(end)
        end += _aligned(points * ITEMSIZE[dtype])
    return Phases([nest], first, tuple(offsets), end)


def by_row(work: Phases, ntasks: int) -> Phases:
    """A nest that runs whole rows, with one row of each private buffer for each task."""
    (nest,) = work.nests
    n = len(nest.outer)
    strides, step = [0] * len(nest.dims), 1
    for d in reversed(range(n, len(nest.dims))):
        strides[d] = step
        step *= nest.dims[d]
    at = IndexMap(0, tuple(strides))

    def change(e: Expr) -> Expr | None:
        if e.op == "load" and e.attr[0] >= work.first_scratch:
            return Expr("load", e.args, e.dtype, (e.attr[0], at))
        return None

    stages, final = map_nest(nest, change, lambda m: m)
    stages = tuple(
        Stage(
            s.reductions,
            tuple(
                Store(t.buffer, at, t.expr) if t.buffer >= work.first_scratch else t
                for t in s.stores
            ),
        )
        for s in stages
    )
    offsets, end = [], 0
    for dtype in nest.buffers[work.first_scratch :]:
        offsets.append(end)
        end += _aligned(step * ITEMSIZE[dtype])
    small = replace(nest, stages=stages, final=final)
    return Phases([small], work.first_scratch, tuple(offsets), end * ntasks, end)


def _aligned(size: int) -> int:
    return -(-size // 64) * 64


def _columns(nest: LoopNest) -> bool:
    """Whether lanes will run along the last outer dim, which then gives fewer tasks."""
    if not nest.outer:
        return False
    last = len(nest.outer) - 1
    loads = [at.strides for kind, _, at in nest.accesses() if kind == "load"]
    return any(s[last] == 1 and any(s[last + 1 :]) and 1 not in s[last + 1 :] for s in loads)


def _chunkable(nest: LoopNest) -> Sequence[int]:
    """The dims whose chunks may be reduced apart: where order matters, the first."""
    first = len(nest.outer)
    ordered = any(r.kind.startswith("arg") for s in nest.stages for r in s.reductions)
    return [first] if ordered else range(first, len(nest.dims))


def _chunk(nest: LoopNest, want: int) -> tuple[int, int, int] | None:
    """(dim, size, number) of the chunks to make, or None where no dim is long enough."""
    dim = max(_chunkable(nest), key=lambda d: min(nest.dims[d], 16 * want))
    size = nest.dims[dim]
    granule = 256 if dim == len(nest.dims) - 1 and size >= 512 else 1
    length = -(-size // (want * granule)) * granule
    count = -(-size // length)
    return (dim, length, count) if count > 1 else None


def _blocks(nest: LoopNest) -> tuple[int, int, int] | None:
    """(dim, size, number) of blocks of whole rows that stay in cache while columns are added up.

    Rows far apart defeat prefetching: a column walked through all of them ran at a third of the speed.
    """
    dim = max(_chunkable(nest), key=lambda d: nest.dims[d])
    row = nest.outer[-1] * 4 * math.prod(nest.inner) // nest.dims[dim]
    length = max(8, _BLOCK_BYTES // row)
    count = -(-nest.dims[dim] // length)
    return (dim, length, count) if count > 1 else None


class _Splitter:
    """Rewrites one nest into partial and combining nests."""

    def __init__(self, nest: LoopNest, dim: int, length: int, count: int) -> None:
        self.nest, self.dim, self.length, self.count = nest, dim, length, count
        self.buffers = list(nest.buffers)
        kept = _unsplit(nest)
        self.first_scratch = kept.first_scratch
        self.offsets = list(kept.offsets)
        self.bytes = kept.scratch_bytes
        self.points = math.prod(nest.outer)
        strides, step = [], 1
        for size in reversed(nest.outer):
            strides.append(step)
            step *= size
        self.strides = tuple(reversed(strides))  # of a result array, one per outer point
        self.results: dict[tuple[int, int], tuple[int, str, str]] = {}

    def run(self) -> Phases:
        nests: list[LoopNest] = []
        for number, stage in enumerate(self.nest.stages):
            last = number == len(self.nest.stages) - 1
            if stage.reductions:
                nests += self.reduce(number, stage, last)
            else:
                nests.append(self.plain(stage))
                if last and self.nest.final:
                    nests.append(self.finish())
        frozen = tuple(self.buffers)
        nests = [simplify(replace(n, buffers=frozen).check()) for n in nests]
        return Phases(nests, self.first_scratch, tuple(self.offsets), self.bytes)

    def scratch(self, dtype: str, count: int) -> int:
        self.buffers.append(dtype)
        self.offsets.append(self.bytes)
        self.bytes += _aligned(count * ITEMSIZE[dtype])
        return len(self.buffers) - 1

    def reduce(self, number: int, stage: Stage, last: bool) -> list[LoopNest]:
        n_inner = len(self.nest.inner)
        partial: list[Reduction] = []
        saved: list[Store] = []
        combine: list[Reduction] = []
        outcome: list[Expr] = []
        part_at = IndexMap(0, (self.points, *self.strides) + (0,) * n_inner)
        read_at = IndexMap(0, (*self.strides, self.points))

        def keep(r: Reduction) -> int:
            partial.append(r)
            buffer = self.scratch(r.dtype, self.points * self.count)
            saved.append(Store(buffer, part_at, ref(0, len(partial) - 1, r.dtype)))
            return buffer

        for r in stage.reductions:
            expr = self.shift(r.expr)
            if r.kind.startswith("arg"):
                wide = "f32" if expr.dtype in ("f16", "bf16") else expr.dtype
                value = keep(Reduction(r.kind[3:], expr, wide))
                where = keep(Reduction(r.kind, expr, "i64"))
                combine.append(Reduction(r.kind, load(value, wide, read_at), "i64"))
                at = IndexMap(0, (*self.strides, 0))
                row = apply("mul", ref(0, len(combine) - 1, "i64"), const(self.points, "i64"))
                outcome.append(gather(where, "i64", row, at))
            else:
                wide = "f32" if r.dtype in ("f16", "bf16") else r.dtype
                value = keep(Reduction(r.kind, expr, wide))
                combine.append(Reduction(r.kind, load(value, wide, read_at), r.dtype))
                outcome.append(ref(0, len(combine) - 1, r.dtype))
        chunk = (self.dim + 1, self.length)
        stores = tuple(Store(t.buffer, _shift_map(t.at), self.shift(t.expr)) for t in stage.stores)
        first = LoopNest(
            (self.count, *self.nest.outer), self.nest.inner, (), (Stage(tuple(partial), stores),),
            tuple(saved), chunk,
        )  # fmt: skip
        final = []
        for k, e in enumerate(outcome):
            if not last:
                wide = "f32" if e.dtype in ("f16", "bf16") else e.dtype
                buffer = self.scratch(wide, self.points)
                self.results[number, k] = (buffer, wide, e.dtype)
                final.append(Store(buffer, IndexMap(0, (*self.strides, 0)), cast(e, wide)))
        if last:
            here = {(number, k): e for k, e in enumerate(outcome)}
            final = [
                Store(t.buffer, self.outer_map(t.at, 1), self.outer_expr(t.expr, 1, here))
                for t in self.nest.final
            ]
        second = LoopNest(
            self.nest.outer, (self.count,), (), (Stage(tuple(combine), ()),), tuple(final)
        )
        return [first, second]

    def plain(self, stage: Stage) -> LoopNest:
        """A stage that only stores: elementwise over everything."""
        n = len(self.nest.dims) - len(self.nest.outer)
        stores = tuple(
            Store(t.buffer, t.at, self.with_results(t.expr, lambda s: IndexMap(0, s + (0,) * n)))
            for t in stage.stores
        )
        return LoopNest(self.nest.dims, (), (), (Stage((), stores),))

    def finish(self) -> LoopNest:
        stores = tuple(
            Store(t.buffer, self.outer_map(t.at, 0), self.outer_expr(t.expr, 0, {}))
            for t in self.nest.final
        )
        return LoopNest(self.nest.outer, (), (), (Stage((), stores),))

    def shift(self, e: Expr) -> Expr:
        """An expression of the original nest, for one with the chunk number as a new first dim."""
        n = len(self.nest.inner)
        e = self.with_results(e, lambda s: IndexMap(0, s + (0,) * n))
        return _map_indices(e, _shift_map)

    def result(self, e: Expr, at: IndexMap) -> Expr:
        """An earlier stage's result, from where it was saved."""
        buffer, saved, dtype = self.results[e.attr]
        return unrounded(load(buffer, saved, at), dtype)

    def with_results(self, e: Expr, at: Callable[[tuple[int, ...]], IndexMap]) -> Expr:
        def change(x: Expr) -> Expr | None:
            if x.op != "ref":
                return None
            return self.result(x, at(self.strides))

        return rewrite([e], change)[0]

    def outer_map(self, at: IndexMap, n_inner: int) -> IndexMap:
        return IndexMap(at.offset, at.strides[: len(self.nest.outer)] + (0,) * n_inner, at.bounds)

    def outer_expr(self, e: Expr, n_inner: int, here: dict[tuple[int, int], Expr]) -> Expr:
        def change(x: Expr) -> Expr | None:
            if x.op == "ref":
                if x.attr in here:
                    return here[x.attr]
                return self.result(x, IndexMap(0, self.strides + (0,) * n_inner))
            return _changed_indices(x, lambda at: self.outer_map(at, n_inner))

        return rewrite([e], change)[0]


def _shift_map(at: IndexMap) -> IndexMap:
    return IndexMap(at.offset, (0, *at.strides), tuple((d + 1, lo, hi) for d, lo, hi in at.bounds))


def _changed_indices(e: Expr, change: Callable[[IndexMap], IndexMap]) -> Expr | None:
    if e.op == "index":
        at = change(e.attr)
        return index(at.strides, at.offset)
    if e.op in ("load", "gather"):
        buffer, at = e.attr
        return Expr(e.op, e.args, e.dtype, (buffer, change(at)))
    return None


def _map_indices(e: Expr, change: Callable[[IndexMap], IndexMap]) -> Expr:
    return rewrite([e], lambda x: _changed_indices(x, change))[0]
