"""Graphs of boxes within boxes put on a page: layers from top to bottom, lines that go around boxes.

Note [Layers]
The method of Sugiyama, Tagawa and Toda (1981): boxes go below all that they read, a line over several layers has a place of its
own in each, and order in the layers follows the mean place of neighbours. Places are those nearest to the
neighbours' means that keep boxes apart, by isotonic regression (pool adjacent violators). A box with boxes inside is laid
out first and is one box outside; where lines enter or leave it, it has ports, which are places in its first and last layer.
So boxes next to each other never overlap, and lines cross lines alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

GAP, LAYER_GAP, PAD, TITLE, LANE = 18.0, 26.0, 12.0, 20.0, 10.0
_SWEEPS = 8


class Box:
    """A node, or with `children` a group of nodes; `reads` are the nodes whose values it gets.

    After `arrange`, (x, y) is its upper left corner on the page, (w, h) its size and `lines` what goes between its children.
    """

    def __init__(self, lines: list[str], kind: str = "op", parent: Box | None = None):
        self.text, self.kind, self.parent = lines, kind, parent
        self.children: list[Box] = []
        self.reads: dict[Box, None] = {}
        self.x = self.y = self.w = self.h = 0.0
        self.entries: dict[Box, float] = {}  # where values from outside come in, from the left edge
        self.exits: dict[Box, float] = {}
        self.lines: list[tuple[float, float, float, float, float, bool]] = []
        """(x0, y0, turn, x1, y1, arrow): down from (x0, y0) to the height `turn`, then over to (x1, y1)."""
        if parent is not None:
            parent.children.append(self)

    def above(self) -> list[Box]:
        """The groups that it is in, the innermost first."""
        out, g = [], self.parent
        while g is not None:
            out.append(g)
            g = g.parent
        return out

    def walk(self) -> Iterator[Box]:
        """The box and all inside of it."""
        yield self
        for c in self.children:
            yield from c.walk()


class _Place:
    """What has a place in a layer: a box, a port, or a line that passes."""

    __slots__ = ("after", "before", "box", "w", "x")

    def __init__(self, w: float, box: Box | None = None):
        self.w, self.box, self.x = w, box, 0.0
        self.before: list[
            tuple[_Place, float, float]
        ] = []  # (neighbour, its anchor, ours), from the centres
        self.after: list[tuple[_Place, float, float]] = []


def arrange(root: Box, size: float = 7.3) -> None:
    """Give every box inside its place; `size` is the width of a letter."""
    edges: dict[Box, dict[tuple[Box, Box | None, Box | None], None]] = defaultdict(dict)
    for v in root.walk():
        for u in v.reads:
            _connect(u, v, edges)
    _level(root, edges, size)
    _shift(root, 0.0, 0.0)


def _connect(u: Box, v: Box, edges: dict) -> None:
    """An edge as edges within the groups that it passes; (value, from, to), where None is the group's own border."""
    groups_u, groups_v = u.above(), v.above()
    common = next(g for g in groups_u if g in groups_v)
    a, b = u, v
    for g in groups_u[: groups_u.index(common)]:
        edges[g][u, a, None] = None
        a = g
    for g in groups_v[: groups_v.index(common)]:
        edges[g][u, None, b] = None
        b = g
    edges[common][u, a, b] = None


def _level(group: Box, edges: dict, size: float) -> None:
    for c in group.children:
        if c.children:
            _level(c, edges, size)
        else:
            c.w = max(len(t) for t in c.text) * size + 16
            c.h = 15.0 * len(c.text) + 9
    mine = list(edges[group])
    layers, chains = _layered(group, mine)
    for _ in range(_SWEEPS):
        _order(layers)
    _place(layers)
    y = TITLE + PAD
    tops, bottoms = [], []
    for layer in layers:
        tall = max((p.box.h for p in layer if p.box is not None), default=0.0)
        for p in layer:
            if p.box is not None:
                p.box.x, p.box.y = p.x - p.w / 2, y
        tops.append(y)
        bottoms.append(y + tall)
        y += tall + LAYER_GAP
    left = min((p.x - p.w / 2 for layer in layers for p in layer), default=0.0) - PAD
    right = max((p.x + p.w / 2 for layer in layers for p in layer), default=0.0) + PAD
    if tops and not any(p.box for p in layers[0]):
        tops[0] = bottoms[0] = 0.0  # ports lie on the border
    group.h = y - LAYER_GAP + PAD
    if bottoms and not any(p.box for p in layers[-1]):
        tops[-1] = bottoms[-1] = group.h
    group.w = max(right - left, len(group.text[0]) * size + 2 * PAD if group.text else 0.0)
    drawn = set()
    for u, _, b, places in chains:
        for i, (p, at) in enumerate(places):
            q = places[i + 1] if i + 1 < len(places) else None
            if q is None and p.box is not None:
                continue
            x0 = p.x + _anchor(p.box, u, "exits") - left
            if p.box is None and (p, None) not in drawn and bottoms[at] > tops[at]:
                drawn.add((p, None))
                group.lines.append((x0, tops[at], bottoms[at], x0, bottoms[at], False))
            if q is None or (p, q[0], u) in drawn:
                continue
            drawn.add((p, q[0], u))
            x1 = q[0].x + _anchor(q[0].box, u, "entries") - left
            y0 = bottoms[at] if p.box is None else p.box.y + p.box.h
            last = b is not None and q[0].box is b and not b.children
            group.lines.append((x0, y0, bottoms[at], x1, tops[q[1]], last))
    for u, a, b, places in chains:
        if a is None:
            group.entries[u] = places[0][0].x - left
        if b is None:
            group.exits[u] = places[-1][0].x - left
    for c in group.children:
        c.x -= left


def _anchor(box: Box | None, u: Box, side: str) -> float:
    """Where a value enters or leaves a box, from its centre."""
    if box is None or not box.children:
        return 0.0
    return getattr(box, side)[u] - box.w / 2


_Chain = tuple[Box, "Box | None", "Box | None", list[tuple[_Place, int]]]


def _layered(group: Box, edges: list) -> tuple[list[list[_Place]], list[_Chain]]:
    """Layers of places, and for each edge its places from layer to layer."""
    reads: dict[Box, set[Box]] = {c: set() for c in group.children}
    for _, a, b in edges:
        if a is not None and b is not None:
            reads[b].add(a)
    entered = any(a is None for _, a, _ in edges)
    depth: dict[Box, int] = {}
    for first in group.children:
        todo = [first]
        while todo:
            c = todo[-1]
            missing = [r for r in reads[c] if r not in depth]
            if missing:
                todo += missing
                continue
            depth[c] = max((depth[r] + 1 for r in reads[c]), default=int(entered))
            todo.pop()
    last = max(depth.values(), default=0) + any(b is None for _, _, b in edges)
    layers: list[list[_Place]] = [[] for _ in range(last + 1)]
    boxes = {c: _Place(c.w, c) for c in group.children}
    for c, p in boxes.items():
        layers[depth[c]].append(p)
    lanes: dict[tuple[Box, int], _Place] = {}

    def lane(u: Box, at: int) -> tuple[_Place, int]:
        if (u, at) not in lanes:
            lanes[u, at] = _Place(LANE)
            layers[at].append(lanes[u, at])
        return lanes[u, at], at

    chains: list[_Chain] = []
    joined = set()
    for u, a, b in edges:
        start = 0 if a is None else depth[a]
        stop = last if b is None else depth[b]
        places = [lane(u, start) if a is None else (boxes[a], start)]
        places += [lane(u, at) for at in range(start + 1, stop)]
        places.append(lane(u, stop) if b is None else (boxes[b], stop))
        chains.append((u, a, b, places))
        for (p, _), (q, _) in pairwise(places):
            if (p, q, u) not in joined:
                joined.add((p, q, u))
                here, there = _anchor(p.box, u, "exits"), _anchor(q.box, u, "entries")
                p.after.append((q, there, here))
                q.before.append((p, here, there))
    return layers, chains


def _order(layers: list[list[_Place]]) -> None:
    """One sweep down and one up, each layer by its neighbours' mean place in theirs."""
    for side, run in (("before", layers), ("after", layers[::-1])):
        at: dict[_Place, float] = {}
        for layer in run:
            if at:
                now = {p: i for i, p in enumerate(layer)}
                mean = {
                    p: sum(at[q] for q, _, _ in near) / len(near) if (near := [e for e in getattr(p, side) if e[0] in at])
                    else now[p] / max(len(layer), 1) for p in layer
                }  # fmt: skip
                layer.sort(key=mean.__getitem__)
            at = {p: (i + 0.5) / len(layer) for i, p in enumerate(layer)}


def _place(layers: list[list[_Place]]) -> None:
    """Centres: near those of neighbours, apart from each other."""
    for layer in layers:
        _spread(layer, [0.0] * len(layer))
    for k in range(2 * _SWEEPS):
        down = k % 2 == 0
        for layer in layers if down else layers[::-1]:
            side = "before" if down else "after"
            _spread(layer, [
                sum(q.x + there - here for q, there, here in near) / len(near) if (near := getattr(p, side)) else p.x
                for p in layer
            ])  # fmt: skip


def _spread(layer: list[_Place], wanted: list[float]) -> None:
    """The places nearest to those wanted, by squares, at which neighbours keep their distance."""
    shifts, total = [], 0.0
    for i, p in enumerate(layer):
        if i:
            total += (layer[i - 1].w + p.w) / 2 + GAP
        shifts.append(total)
    pools: list[tuple[float, int]] = []
    for want, shift in zip(wanted, shifts, strict=True):
        mean, n = want - shift, 1
        while pools and pools[-1][0] > mean:
            other, m = pools.pop()
            mean, n = (mean * n + other * m) / (n + m), n + m
        pools.append((mean, n))
    flat = [mean for mean, n in pools for _ in range(n)]
    for p, base, shift in zip(layer, flat, shifts, strict=True):
        p.x = base + shift


def _shift(box: Box, x: float, y: float) -> None:
    """From places in the group to places on the page."""
    box.x += x
    box.y += y
    box.lines = [(a + box.x, b + box.y, t + box.y, c + box.x, d + box.y, arrow) for a, b, t, c, d, arrow in box.lines]  # fmt: skip
    for c in box.children:
        _shift(c, box.x, box.y)
