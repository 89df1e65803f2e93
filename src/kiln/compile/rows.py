"""Rows: neighbouring nests over the same rows become one nest of several stages.

Softmax is lowered as a maximum, a sum and an elementwise nest. As one nest each row stays in cache from
the first stage to the last: memory is read once and written once. What one nest stores and the other
reads at the same place stays in a register within a stage; a later stage reads it from memory.

Note [Aligning nests]
Two nests walk the same elements in loops of their own. A buffer that both touch tells which loop of one
is which loop of the other: those with equal strides. Where a loop of one is two loops of the other, it is
cut. Where only the rows have such a buffer, what is left walks each row in order on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import loopnest as ln

_MOST_STORES, _MOST_NODES, _MOST_BUFFERS, _MOST_STAGES = 12, 240, 28, 6
_SMALL = 1 << 16

Loop = tuple[int, int, int, int]  # stride, size, dim, step of the dim's index


@dataclass(frozen=True)
class _Form:
    """Loops that two nests share: sizes, and for each nest where its dims went: dim -> (loop, step)."""

    outer: tuple[int, ...]
    inner: tuple[int, ...]
    places: tuple[dict[int, list[tuple[int, int]]], dict[int, list[tuple[int, int]]]]


def merge(
    a: ln.LoopNest, a_keys: Sequence[Any], b: ln.LoopNest, b_keys: Sequence[Any]
) -> tuple[ln.LoopNest, list[Any]] | None:
    """The nest that does `a` and then `b` row by row, and its buffers; None where they have to stay two.

    `keys` name the buffers: equal keys are the same memory.
    """
    if not (_reduces(a) or _reduces(b)) or not (_mergeable(a) and _mergeable(b)):
        return None
    form = _align(a, a_keys, b, b_keys)
    if form is None:
        return None
    x, y = _recast(a, form, 0), _recast(b, form, 1)
    if x is None or y is None:
        return None
    keys = list(a_keys)
    buffers = list(a.buffers)
    for k, d in zip(b_keys, b.buffers, strict=True):
        if k not in keys:
            keys.append(k)
            buffers.append(d)
    if len(keys) > _MOST_BUFFERS:
        return None
    joined = _Joined(x, buffers)
    if not joined.add(y, [keys.index(k) for k in b_keys]):
        return None
    nest = joined.nest()
    if not _worthwhile(nest) or ln.heightened(nest, a, b):
        return None
    return nest.check(), keys


def _reduces(nest: ln.LoopNest) -> bool:
    return any(s.reductions for s in nest.stages)


def _mergeable(nest: ln.LoopNest) -> bool:
    if nest.chunk is not None or 0 in nest.dims:
        return False
    return not _reduces(nest) or math.prod(nest.inner) > 1


def _worthwhile(nest: ln.LoopNest) -> bool:
    """Whether the joined nest is small enough and its rows lie along memory.

    Rows across memory (a column each) are walked a cache line at a time: good for sums, worse than two
    passes in order where elements are stored.
    """
    stores = sum(len(s.stores) for s in nest.stages) + len(nest.final)
    if stores > _MOST_STORES or len(nest.stages) > _MOST_STAGES:
        return False
    if len(ln.walk(nest.roots())) > _MOST_NODES:
        return False
    n = len(nest.outer)
    if math.prod(nest.dims) <= _SMALL or (len(nest.stages) == 1 and not nest.stages[0].stores):
        return True
    full = [at for _, _, at in nest.accesses() if any(at.strides[n:]) and any(at.strides[:n])]
    return not any(1 in at.strides[:n] and 1 not in at.strides[n:] for at in full)


# -- which loop is which --------------------------------------------------------------------------


def _loops(at: ln.IndexMap, sizes: Sequence[int]) -> list[Loop] | None:
    """The loops that move a map, fastest first; None where one runs backwards."""
    found = [
        (s, n, d, 1) for d, (s, n) in enumerate(zip(at.strides, sizes, strict=True)) if s and n > 1
    ]
    return None if any(s < 0 for s, *_ in found) else sorted(found)


def _in_order(dims: Sequence[int], sizes: Sequence[int]) -> list[Loop]:
    """Loops as if they walked contiguous memory, fastest first."""
    found, step = [], 1
    for d in reversed(dims):
        found.append((step, sizes[d], d, 1))
        step *= sizes[d]
    return found


Piece = tuple[int, tuple[int, int] | None, tuple[int, int] | None]  # size, (dim, step) in each nest


def _match(a: list[Loop], b: list[Loop]) -> list[Piece] | None:
    """Loops of two nests with equal strides, cut to equal sizes, fastest first."""
    a, b = list(a), list(b)
    out: list[Piece] = []
    while a and b:
        (sa, na, da, pa), (sb, nb, db, pb) = a[0], b[0]
        k = min(na, nb)
        if sa != sb or na % k or nb % k:
            return None
        out.append((k, (da, pa), (db, pb)))
        a[:1] = [] if na == k else [(sa * k, na // k, da, pa * k)]
        b[:1] = [] if nb == k else [(sb * k, nb // k, db, pb * k)]
    return None if a or b else out


def _align(
    a: ln.LoopNest, a_keys: Sequence[Any], b: ln.LoopNest, b_keys: Sequence[Any]
) -> _Form | None:
    a_maps = _maps(a, a_keys)
    pairs = [
        (x, y)
        for k, ys in _maps(b, b_keys).items()
        for x in a_maps.get(k, ())
        for y in ys
        if x.offset == y.offset
    ][:16]
    if not pairs:
        return None
    lists = [(_loops(x, a.dims), _loops(y, b.dims)) for x, y in pairs]
    known = [(x, y) for x, y in lists if x is not None and y is not None]
    every = tuple([d for d, n in enumerate(nest.dims) if n > 1] for nest in (a, b))
    for x, y in known:
        if len(x) == len(every[0]) and len(y) == len(every[1]):
            pieces = _match(x, y)
            form = _form(a, b, pieces) if pieces else None
            if form is not None:
                return form
    if not {a_keys[k] for k in _written(a)} & set(b_keys):
        return None
    first = (a, b) if _reduces(a) else (b, a)
    for x, y in known:
        rows = x if first[0] is a else y
        if {d for _, _, d, _ in rows} != _outer_dims(first[0]):
            continue
        other = {d for _, _, d, _ in (y if first[0] is a else x)}
        if _reduces(first[1]) and other != _outer_dims(first[1]):
            continue
        pieces = _match(x, y)
        if pieces is None:
            continue
        left = [
            [d for d in dims if d not in {q for _, _, q, _ in moved}]
            for dims, moved in zip(every, (x, y), strict=True)
        ]
        form = _form(a, b, pieces, left)
        if form:
            return form
    return None


def _written(nest: ln.LoopNest) -> set[int]:
    return {buffer for kind, buffer, _ in nest.accesses() if kind == "store"}


def _outer_dims(nest: ln.LoopNest) -> set[int]:
    return {d for d, n in enumerate(nest.outer) if n > 1}


def _maps(nest: ln.LoopNest, keys: Sequence[Any]) -> dict[Any, list[ln.IndexMap]]:
    found: dict[Any, list[ln.IndexMap]] = {}
    for kind, buffer, at in nest.accesses():
        if kind in ("load", "store"):
            found.setdefault(keys[buffer], []).append(at)
    return found


def _form(
    a: ln.LoopNest, b: ln.LoopNest, pieces: list[Piece], left: list[list[int]] | None = None
) -> _Form | None:
    """Common loops from matched pieces and dims that have none, which walk each row in order."""
    inside: list[Piece] = []
    if left is not None:
        sides = [_in_order(dims, nest.dims) for dims, nest in zip(left, (a, b), strict=True)]
        if all(sides):
            matched = _match(*sides)
            if matched is None:
                return None
            inside = matched
        else:
            inside = [(n, (d, p), None) for _, n, d, p in sides[0]]
            inside += [(n, None, (d, p)) for _, n, d, p in sides[1]]
    outer: list[Piece] = []
    inner: list[Piece] = []
    for piece in [*pieces, *inside]:
        kinds = {
            place[0] >= len(nest.outer)
            for nest, place in ((a, piece[1]), (b, piece[2]))
            if place is not None and _reduces(nest)
        }
        if len(kinds) > 1:
            return None
        (outer if kinds == {False} else inner).append(piece)
    lead = 1 if _reduces(a) else 2

    def order(p: Piece) -> tuple[int, int]:
        first, second = (p[1], p[2]) if lead == 1 else (p[2], p[1])
        place = first or second
        assert place is not None
        return place[0], -place[1]

    outer.sort(key=order)
    inner.sort(key=order)
    places: tuple[dict, dict] = ({}, {})
    for k, piece in enumerate([*outer, *inner]):
        for side, place in zip(places, piece[1:], strict=True):
            if place is not None:
                side.setdefault(place[0], []).append((k, place[1]))
    return _Form(tuple(p[0] for p in outer), tuple(p[0] for p in inner), places)


def _recast(nest: ln.LoopNest, form: _Form, side: int) -> ln.LoopNest | None:
    """The nest over the common loops; one without inner loops stores after all stages."""
    place, n = form.places[side], len(form.outer) + len(form.inner)
    if any(
        d in place and len(place[d]) > 1
        for _, _, at in nest.accesses()
        for d, lo, hi in at.bounds
        if lo > 0 or hi < nest.dims[d]
    ) or any(
        nest.dims[d] == 1 and not lo <= 0 < hi
        for _, _, at in nest.accesses()
        for d, lo, hi in at.bounds
    ):
        return None

    def new_map(at: ln.IndexMap) -> ln.IndexMap:
        strides = [0] * n
        for d, parts in place.items():
            for k, step in parts:
                strides[k] = at.strides[d] * step
        bounds = tuple(
            (place[d][0][0], lo, hi)
            for d, lo, hi in at.bounds
            if d in place and (lo > 0 or hi < nest.dims[d])
        )
        return ln.IndexMap(at.offset, tuple(strides), bounds)

    def new_expr(e: ln.Expr) -> ln.Expr | None:
        if e.op == "index":
            at = new_map(e.attr)
            return ln.index(at.strides, at.offset)
        if e.op == "load":
            fill = e.args[0] if e.args else None
            at = new_map(e.attr[1])
            return ln.Expr(
                "load", () if fill is None or not at.bounds else (fill,), e.dtype, (e.attr[0], at)
            )
        if e.op == "gather":
            return ln.Expr("gather", e.args, e.dtype, (e.attr[0], new_map(e.attr[1])))
        return None

    if any(r.kind.startswith("arg") for s in nest.stages for r in s.reductions):
        old = {
            d: step
            for step, _, d, _ in _in_order(range(len(nest.outer), len(nest.dims)), nest.dims)
        }
        new = {
            k: step
            for step, _, k, _ in _in_order(range(len(form.outer), n), form.outer + form.inner)
        }
        for d, parts in place.items():
            if d in old and any(old[d] * step != new[k] for k, step in parts):
                return None
    stages, final = ln.map_nest(nest, new_expr, new_map)
    if not _reduces(nest) and all(k < len(form.outer) for p in place.values() for k, _ in p):
        stages, final = (), (*(t for s in stages for t in s.stores), *final)
    return ln.LoopNest(form.outer, form.inner, nest.buffers, stages, final)


# -- one after the other, stage by stage ------------------------------------------------------------


class _Joined:
    """The stages of a nest, to which those of another over the same loops are added."""

    def __init__(self, nest: ln.LoopNest, buffers: Sequence[str]):
        self.outer, self.inner, self.buffers = nest.outer, nest.inner, tuple(buffers)
        self.reductions = [list(s.reductions) for s in nest.stages]
        self.stores = [list(s.stores) for s in nest.stages]
        self.final = list(nest.final)
        self.rows = {t.buffer: t for t in nest.final}
        self.kept: dict[int, tuple[int, ln.Store]] = {
            t.buffer: (k, t) for k, s in enumerate(nest.stages) for t in s.stores
        }

    def nest(self) -> ln.LoopNest:
        """All of it."""
        stages = [
            ln.Stage(tuple(r), tuple(t)) for r, t in zip(self.reductions, self.stores, strict=True)
        ]
        return ln.LoopNest(self.outer, self.inner, self.buffers, tuple(stages), tuple(self.final))

    def add(self, nest: ln.LoopNest, number: Sequence[int]) -> bool:
        """Add a nest whose buffers have these numbers here; False where it reads what isn't there yet."""
        written = {number[t.buffer] for s in nest.stages for t in s.stores}
        written |= {number[t.buffer] for t in nest.final}
        if written & (self.rows.keys() | self.kept.keys()):
            return False
        for kind, buffer, at in nest.accesses():
            if (
                kind == "store"
                or buffer < 0
                or number[buffer] not in self.rows.keys() | self.kept.keys()
            ):
                continue
            there = self.rows.get(number[buffer]) or self.kept[number[buffer]][1]
            if kind != "load" or at != there.at:
                return False
        mine = self.rows.keys() | self.kept.keys()
        if any(e.op == "scalar" and number[e.attr[0]] in mine for e in ln.walk(nest.roots())):
            return False
        refs: dict[tuple[int, int], ln.Expr] = {}
        for j, stage in enumerate(nest.stages):
            for k, r in enumerate(stage.reductions):
                level, e = self.placed(r.expr, number, refs)
                self.open(level)
                here = self.reductions[level]
                fresh = ln.Reduction(r.kind, e, r.dtype)
                if fresh not in here:
                    here.append(fresh)
                refs[j, k] = ln.ref(level, here.index(fresh), r.dtype)
            for t in stage.stores:
                level, e = self.placed(t.expr, number, refs)
                self.open(level)
                store = ln.Store(number[t.buffer], t.at, e)
                self.stores[level].append(store)
                self.kept[store.buffer] = level, store
        for t in nest.final:
            _, e = self.placed(t.expr, number, refs)
            self.final.append(ln.Store(number[t.buffer], t.at, e))
            self.rows[number[t.buffer]] = self.final[-1]
        return True

    def placed(
        self, e: ln.Expr, number: Sequence[int], refs: dict[tuple[int, int], ln.Expr]
    ) -> tuple[int, ln.Expr]:
        """The first stage in which an expression can be computed, and the expression as it is there."""
        kept: list[ln.Expr] = []

        def change(x: ln.Expr) -> ln.Expr | None:
            if x.op == "ref":
                return refs[x.attr]
            if x.op == "load":
                buffer, at = number[x.attr[0]], x.attr[1]
                if buffer in self.rows:
                    return _stored(self.rows[buffer].expr)
                moved = ln.Expr("load", x.args, x.dtype, (buffer, at))
                if buffer in self.kept:
                    kept.append(moved)
                return moved
            if x.op in ("gather", "scalar"):
                return ln.Expr(x.op, x.args, x.dtype, (number[x.attr[0]], x.attr[1]))
            return None

        (e,) = ln.rewrite([e], change)
        level = max([0, *(self.kept[x.attr[0]][0] for x in kept)])
        for x in ln.walk([e]):
            if x.op == "ref":
                level = max(level, x.attr[0] + 1)
            elif x.op == "load" and x.attr[0] in self.kept and x not in kept:
                level = max(level, self.kept[x.attr[0]][0] + 1)
        here = {x: _stored(s.expr) for x in kept for k, s in [self.kept[x.attr[0]]] if k == level}
        if here:
            (e,) = ln.rewrite([e], here.get)
        return level, e

    def open(self, level: int) -> None:
        """Make sure that there are stages up to `level`."""
        while len(self.stores) <= level:
            self.stores.append([])
            self.reductions.append([])


def _stored(e: ln.Expr) -> ln.Expr:
    """A value as it is read back after being stored: rounded where its dtype is narrower than f32."""
    if e.dtype not in ("f16", "bf16"):
        return e
    return ln.Expr("cast", (ln.Expr("cast", (e,), "f32"),), e.dtype)


# -- what nobody else reads -------------------------------------------------------------------------


def trim(
    nest: ln.LoopNest, keys: Sequence[Any], needed: Callable[[Any], bool]
) -> tuple[ln.LoopNest, list[Any]]:
    """The nest without stores of buffers that nobody needs; what its own stages read becomes private.

    Gives the nest, whose last buffers are the private ones, and the keys of the others.
    """
    loads = {b for kind, b, _ in nest.accesses() if kind == "load"}
    loads |= {e.attr[0] for e in ln.walk(nest.roots()) if e.op in ("scalar", "gather")}
    unwanted = {t.buffer for s in nest.stages for t in s.stores if not needed(keys[t.buffer])} | {
        t.buffer for t in nest.final if not needed(keys[t.buffer])
    }
    dead, private = unwanted - loads, unwanted & loads
    stages = [
        ln.Stage(s.reductions, tuple(t for t in s.stores if t.buffer not in dead))
        for s in nest.stages
    ]
    final = tuple(t for t in nest.final if t.buffer not in dead)
    used = {t.buffer for s in stages for t in s.stores} | {t.buffer for t in final}
    roots = [
        e for s in stages for e in (*(r.expr for r in s.reductions), *(t.expr for t in s.stores))
    ]
    used |= {
        e.attr[0]
        for e in ln.walk([*roots, *(t.expr for t in final)])
        if e.op in ("load", "gather", "scalar")
    }
    order = [k for k in range(len(keys)) if k in used - private] + sorted(private)
    number = {old: new for new, old in enumerate(order)}

    def moved(e: ln.Expr) -> ln.Expr | None:
        if e.op in ("load", "gather", "scalar"):
            return ln.Expr(e.op, e.args, e.dtype, (number[e.attr[0]], e.attr[1]))
        return None

    slim = ln.LoopNest(nest.outer, nest.inner, nest.buffers, tuple(stages), final)
    stages, final = ln.map_nest(slim, moved, lambda at: at)

    def renamed(t: ln.Store) -> ln.Store:
        return ln.Store(number[t.buffer], t.at, t.expr)

    stages = tuple(ln.Stage(s.reductions, tuple(map(renamed, s.stores))) for s in stages)
    buffers = tuple(nest.buffers[k] for k in order)
    made = ln.LoopNest(
        nest.outer, nest.inner, buffers, stages, tuple(map(renamed, final)), private=len(private)
    )
    return made.check(), [keys[k] for k in order if k not in private]
