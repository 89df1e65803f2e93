"""Decisions about a loop nest before code is written: order of dims, vector dim, tiles, tasks.

Everything here is data to data and depends on shapes and the target only, never on the number of threads:
that is what makes results the same on any number of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kiln.backends.cpu.isa import Isa
from kiln.compile.loopnest import (
    FLOATS,
    ITEMSIZE,
    Expr,
    IndexMap,
    LoopNest,
    Stage,
    Store,
    const,
    gather,
    index,
    load,
    map_nest,
    walk,
)

MAX_TASKS = 16
TASK_COST = 65536  # about 5 us of work: hand-over to another thread costs up to 1
_HEAVY = frozenset(
    [
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "atan2",
        "sinh",
        "cosh",
        "tanh",
        "erf",
        "erfc",
        "sigmoid",
        "pow",
        "random_bits",
        "rem",
        "fmod",
        "floor_div",
        "trunc_div",
        "div",
        "sqrt",
        "rsqrt",
        "reciprocal",
    ]
)


@dataclass(frozen=True)
class Plan:
    """How one nest is emitted.

    ``vector`` is the dim that lanes run along (None: scalar code), ``lanes`` the width of its remainder
    loop and ``wide`` of its main loop, in each stage; ``split`` = (dim, chunk) is the outer dim divided among ``ntasks``;
    ``tile`` is a dim to take ``lanes`` indices of at once, because loads are contiguous along it.
    """

    vector: int | None
    lanes: int
    wide: tuple[int, ...]
    split: tuple[int, int] | None
    ntasks: int
    tile: int | None = None


# -- dims -----------------------------------------------------------------------------------------


def simplify(nest: LoopNest) -> LoopNest:
    """The same nest with unit dims dropped, dims ordered by stride, and contiguous dims merged."""
    if 0 in nest.dims:
        return nest
    plain = len(nest.stages) == 1 and not nest.stages[0].reductions
    if plain and not nest.final and not nest.chunk:
        nest = replace(nest, outer=nest.dims, inner=())
    sizes, split = nest.dims, len(nest.outer)
    maps = [at for _, _, at in nest.accesses()]
    stores = [at for kind, _, at in nest.accesses() if kind == "store"]
    ranked = stores + [at for at in maps if at not in stores]

    def by_stride(d: int) -> tuple[int, ...]:
        return tuple(-abs(at.strides[d]) for at in ranked)

    fixed = 1 if nest.chunk else 0  # index[0] counts the chunks
    outer = [d for d in range(fixed, split) if sizes[d] != 1]
    inner = [d for d in range(split, len(sizes)) if sizes[d] != 1 or nest.chunk]
    outer = list(range(fixed)) + sorted(outer, key=by_stride)
    if not any(r.kind.startswith("arg") for s in nest.stages for r in s.reductions):
        inner.sort(key=by_stride)

    def mergeable(a: int, b: int) -> bool:
        if nest.chunk and (a == 0 or nest.chunk[0] in (a, b)):
            return False
        return all(
            at.strides[a] == at.strides[b] * sizes[b] and not bounds_on(at, sizes, a, b)
            for at in maps
        )

    return regroup(nest, _groups(outer, mergeable), _groups(inner, mergeable))


def bounds_on(at: IndexMap, sizes: tuple[int, ...], *dims: int) -> bool:
    """Whether a map has bounds on one of the dims that exclude something."""
    return any(d in dims and (lo > 0 or hi < sizes[d]) for d, lo, hi in at.bounds)


def _groups(dims: list[int], mergeable: Callable[[int, int], bool]) -> list[list[int]]:
    groups: list[list[int]] = []
    for d in dims:
        if groups and mergeable(groups[-1][-1], d):
            groups[-1].append(d)
        else:
            groups.append([d])
    return groups


def regroup(nest: LoopNest, outer: list[list[int]], inner: list[list[int]]) -> LoopNest:
    """The nest over one dim for each group of contiguous dims; dims in no group have one index."""
    groups = outer + inner
    place = {d: k for k, g in enumerate(groups) for d in g}
    sizes = nest.dims

    def new_map(at: IndexMap) -> IndexMap:
        bounds = tuple(
            (place[d], lo, hi)
            for d, lo, hi in at.bounds
            if d in place and (lo > 0 or hi < sizes[d])
        )
        return IndexMap(at.offset, tuple(at.strides[g[-1]] for g in groups), bounds)

    def new_expr(e: Expr) -> Expr | None:
        if e.op == "index":
            at = new_map(e.attr)
            return index(at.strides, at.offset) if any(at.strides) else const(at.offset, "i64")
        if e.op == "load":
            buffer, at = e.attr
            fill = e.args[0] if e.args else None
            if any(not lo <= 0 < hi for d, lo, hi in at.bounds if d not in place):
                return fill
            return load(buffer, e.dtype, new_map(at), fill)
        if e.op == "gather":
            buffer, at = e.attr
            return gather(buffer, e.dtype, e.args[0], new_map(at))
        return None

    stages, final = map_nest(nest, new_expr, new_map)
    extent = [math.prod(sizes[d] for d in g) for g in groups]
    chunk = (place[nest.chunk[0]], nest.chunk[1]) if nest.chunk else None
    n = len(outer)
    return LoopNest(
        tuple(extent[:n]), tuple(extent[n:]), nest.buffers, stages, final, chunk, nest.private
    )


# -- vector dim and tasks -------------------------------------------------------------------------


def cost(nest: LoopNest) -> float:
    """Rough work of a nest, in light operations on elements."""
    points = math.prod(nest.dims)
    total = 0.0
    for e in walk([x for s in nest.stages for x in _roots(s)]):
        total += (
            4.0 if e.op in _HEAVY else 0.5 if e.op not in ("const", "ref", "scalar", "index") else 0
        )
    total += sum(len(s.stores) + len(s.reductions) for s in nest.stages)
    total *= points
    total += math.prod(nest.outer) * sum(2.0 for _ in nest.final)
    return total


def _roots(stage: Stage) -> list[Expr]:
    return [r.expr for r in stage.reductions] + [t.expr for t in stage.stores]


def plan(nest: LoopNest, isa: Isa) -> Plan:
    """Choose the vector dim, the widths and the tasks of a simplified nest."""
    n_outer, dims = len(nest.outer), nest.dims
    reduces = any(s.reductions for s in nest.stages)
    candidates = []
    if nest.inner:
        candidates.append(len(dims) - 1)
    if n_outer and not (nest.chunk and n_outer == 1):
        candidates.append(n_outer - 1)
    full = isa.vector_bytes // _element_size(nest)
    per_point = replace(nest, final=()).accesses() if reduces else nest.accesses()
    best, best_score = None, float("inf")
    for d in candidates:
        size = dims[d]
        if size < 2:
            continue
        score = sum(_access_score(kind, at.strides[d]) for kind, _, at in per_point)
        width = min(full, pow2_above(size))
        score += 4 * full * (0.5 if reduces else 1.0) / min(full, size)  # lanes that idle
        score *= -(-size // width) * width / size
        if d >= n_outer:
            folds = sum(len(s.reductions) for s in nest.stages)
            score += folds * 12.0 * full / max(math.prod(nest.inner), 1)
        if score < best_score:
            best, best_score = d, score
    lanes, wide = 1, (1,) * len(nest.stages)
    if best is not None:
        masked = isa.name == "avx512"
        lanes = min(full, pow2_above(dims[best]) if masked else pow2_below(dims[best]))
        blocks = [_unroll([s], ()) for s in nest.stages]
        if best < n_outer:  # one loop round all stages
            blocks = [_unroll(nest.stages, nest.final)] * len(blocks)
        if any(kind != "index" and abs(at.strides[best]) > 1 for kind, _, at in per_point):
            blocks = [1] * len(blocks)  # element by element is long enough code
        wide = tuple(max(lanes, min(lanes * n, pow2_below(dims[best]))) for n in blocks)
    tile = None if reduces or nest.inner or best is None else _tile(nest, best, lanes)
    split, ntasks = _tasks(nest, best, max(wide), tile)
    return Plan(best, lanes, wide, split, ntasks, tile)


def _tile(nest: LoopNest, vector: int, lanes: int) -> int | None:
    """A dim along which strided loads are contiguous, if transposing blocks in registers pays."""
    if not 4 <= lanes <= 16 or len(walk(nest.roots())) > 24 or nest.dims[vector] < lanes:
        return None
    for at in tileable(nest, vector):
        for d, stride in enumerate(at.strides):
            if stride == 1 and nest.dims[d] >= lanes:
                return d
    return None


def tileable(nest: LoopNest, vector: int) -> list[IndexMap]:
    """Maps of unguarded loads that stride along the vector dim and are contiguous along another."""
    maps = [at for kind, _, at in nest.accesses() if kind == "load"]
    return [at for at in maps if not at.bounds and abs(at.strides[vector]) > 1 and 1 in at.strides]


def _access_score(kind: str, stride: int) -> float:
    if kind == "index" or stride == 0:
        return 0.0
    if kind == "gather":
        return 2.0 if stride == 1 else 6.0
    return 1.0 if stride in (1, -1) else 2.5 if stride == 2 and kind == "load" else 6.0


def _unroll(stages: Sequence[Stage], final: Sequence[Store]) -> int:
    """How many registers wide a loop round stages is."""
    ops = {e.op for e in walk([*(e for s in stages for e in _roots(s)), *(t.expr for t in final)])}
    heavy = bool(ops & _HEAVY)
    kinds = [r.kind for s in stages for r in s.reductions]
    if not kinds:
        return 1 if heavy and "random_bits" not in ops else 2  # one block serves four lanes
    if heavy or any(k.startswith("arg") for k in kinds) or len(kinds) > 2:
        return 2
    return 4


def _element_size(nest: LoopNest) -> int:
    """Bytes of the widest value computed per element: of the floats, where there are any.

    What is computed of scalars alone is computed once for all, whatever its width.
    """
    once: set[Expr] = set()
    for e in walk(nest.roots()):  # arguments come first
        fixed = e.op not in ("index", "ref", "gather", "random_bits")
        if e.op == "load":
            fixed = not any(e.attr[1].strides) and not e.attr[1].bounds
        if fixed and once.issuperset(e.args):
            once.add(e)
    size = 1
    floats = 0
    stack = [*nest.roots()]
    seen = set()
    while stack:
        e = stack.pop()
        if e in seen or e in once:
            continue
        seen.add(e)
        if e.op not in ("index", "ref"):
            wide = 4 if e.dtype in ("f16", "bf16") else ITEMSIZE[e.dtype]
            size = max(size, wide)
            floats = max(floats, wide if e.dtype in FLOATS else 0)
        if e.op not in ("gather", "random_bits"):
            stack += e.args
    for s in nest.stages:
        for r in s.reductions:
            size = max(size, 4 if r.kind.startswith("arg") else ITEMSIZE[r.dtype])
            floats = max(floats, ITEMSIZE[r.dtype] if r.dtype in FLOATS else 0)
    return floats or size


def _tasks(
    nest: LoopNest, vector: int | None, wide: int, tile: int | None
) -> tuple[tuple[int, int] | None, int]:
    want = min(MAX_TASKS, int(cost(nest) // TASK_COST))
    if want < 2:
        return None, 1
    best, pieces, step = None, 1, 1
    for d, size in enumerate(nest.outer):
        granule = wide * 4 if d == vector else wide if d == tile else 1
        can = min(want, -(-size // granule))
        if can > pieces:
            best, pieces, step = d, can, granule
    if best is None:
        return None, 1
    size = nest.outer[best]
    chunk = -(-size // (pieces * step)) * step
    return (best, chunk), -(-size // chunk)


def pow2_above(n: int) -> int:
    """The smallest power of two that is not below ``n``."""
    return 1 << (n - 1).bit_length()


def pow2_below(n: int) -> int:
    """The largest power of two that is not above ``n``."""
    return 1 << (n.bit_length() - 1)
