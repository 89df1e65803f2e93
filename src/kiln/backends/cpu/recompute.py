"""Recomputation: values that wait long for their next reader are computed again instead, until a limit is met.

Gradients read what forward computed, so memory fills up until backward begins. A value that nobody reads
for a while may be dropped and its launch run once more, right before the next reader. Which one is a trade
of bytes against work, decided greedily at the fullest point: the most bytes x launches above the limit
freed per operation (the ratio is that of Kirisame et al. 2021, "Dynamic tensor rematerialization"; greedy
rounds at the peak over a fixed schedule as in XLA's rematerialization; the idea goes back to Chen et al.
2016, "Training deep nets with sublinear memory cost").

Note [Twins]
A value computed again is a node of its own (`node.twin`), which nothing takes for the first one. What
comes after reads the twin, so liveness, placement and computing in place need not know about it.

Note [The same bits]
A launch that runs again is the same kernel on the same operands. Where it makes more than is asked for and
takes no sums, it goes without the other stores; one that does take sums stays whole, as the order of
these depends on all that a kernel does. What such a kernel computes from its sums, element by element, has a
launch of its own, too: the one from before nests were joined (`origins`), which reads the sums.

Note [What is looked at]
A step changes a few launches, so lives and bytes held are kept up to date (`lifetimes.py`), and so are the
ways of dropping a value: each keeps what it gained for its work when last looked at. As memory gets less
so do gains, so only a way that comes out first on those figures is looked at again, until one stays first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ...compile import loopnest as ln
from ...dtypes import FLOAT
from ...errors import KilnMemoryError
from ...graph.node import Node, twin
from ...runtime.arena import ALIGN, aligned
from .fuse import trimmed
from .lifetimes import Lifetimes
from .lower import Launch

if TYPE_CHECKING:
    from .layout import Memory

_DEEPEST = 24
"""How many launches one value may need to be computed again."""
_SMALL = 16
"""An operand so many times smaller than the result is kept rather than computed again."""
_FINE = 64
"""The search ends where the peak can't be lowered by that part of it."""
_BYTE = 8
"""The operations that take as long as to move one byte."""


@dataclass
class _Plan:
    """A value computed again: which launches run before launch number `at`, in order, and for which nodes each."""

    node: Node
    after: int  # the number of the last launch before the gap that touches the node
    at: int
    steps: list[tuple[Launch, Node]] = field(default_factory=list)
    known: dict[Node, Node | None] = field(default_factory=dict)
    """By first version: the version of an operand that is there, or None where an earlier step makes it."""
    longer: dict[Node, int] = field(default_factory=dict)
    """Versions that have to live on, with the number of the last launch that needs them so far."""
    cost: int = 0
    """The operations that it takes."""
    held: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """The bytes that each of its launches holds more than is held before the first."""


class _Ways:
    """A table of the ways to drop a value: between two launches that touch it, with or without operands that are gone."""

    def __init__(self) -> None:
        self.rows: list[tuple[Node, int, int, bool]] = []
        self.gaps: set[tuple[int, int, Node]] = set()
        self.of: dict[Node, set[int]] = {}  # rows by the first version of what they depend on
        self.plans: list[_Plan | None] = []  # None where there is none, or it has to be made again
        self.after, self.before = (np.zeros(64, np.int64) for _ in range(2))
        self.worth, self.most = np.zeros(64), np.zeros(64)
        """Bytes x launches above the target that are saved for each operation where that is `exact`, and the
        most that it may be, if what is held above the target only gets less."""
        self.exact = np.zeros(64, bool)

    def add(self, node: Node, after: int, before: int) -> range:
        """The rows of a gap, if it is a new one."""
        first = len(self.rows)
        if (after, before, node) in self.gaps:
            return range(0)
        self.gaps.add((after, before, node))
        if first + 2 > len(self.worth):
            for name in ("after", "before", "worth", "most", "exact"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate((old, np.zeros_like(old))))
        for deep in (False, True):
            self.after[len(self.rows)], self.before[len(self.rows)] = after, before
            self.rows.append((node, after, before, deep))
            self.plans.append(None)
        return range(first, first + 2)

    def loosen(self) -> None:
        """Know of no way more than the most that it is worth, as what is held has changed."""
        self.worth[self.exact] = self.most[self.exact]
        self.exact[:] = False


def within(
    limit: int, name: str, ways: list[list[Launch]], quiet: int, origins: list[Launch],
    memory: Callable[[list[Launch], int], Memory], scratch: Callable[[Launch], int],
) -> Memory:  # fmt: skip
    """The memory of launches, some of them run again, in so many bytes of arena and literals.

    `ways` are orders of the launches, of which the one that takes least work is chosen; `memory(launches,
    quiet)` says how long everything lives, `scratch(launch)` what it needs for itself; the first `quiet` launches write no state; `origins` are the
    launches before they were joined.
    Errors: KilnMemoryError where it can't be done.
    """
    tried = []
    for launches in ways:
        search = Recomputation(launches, quiet, origins, memory, scratch)
        fixed = sum(n.args[0].nbytes for n in search.m.literals)
        tried.append((search.within(limit - fixed), search))
    enough = [(s.spent, k) for k, (m, s) in enumerate(tried) if m.bytes + fixed <= limit]
    if enough:
        return tried[min(enough)[1]][0]
    least, most = min((m.bytes + fixed, s.most()) for m, s in tried)
    raise KilnMemoryError(
        "compile", f"{name} can't run within max_memory={limit} bytes",
        f"at least {least} bytes, most of them for {most}",
        "raise max_memory, use smaller batches, or compile smaller functions",
    )  # fmt: skip


class Recomputation:
    """One search: launches, of which more and more are run twice, and the memory that they need.

    `memory(launches, quiet)` says where everything lies; the first `quiet` launches write no state.
    `scratch(launch)` is what one launch needs for itself.
    """

    def __init__(
        self, launches: list[Launch], quiet: int, origins: list[Launch],
        memory: Callable[[list[Launch], int], Memory], scratch: Callable[[Launch], int],
    ):  # fmt: skip
        self.quiet, self.memory = quiet, memory
        writers = Counter(n for x in origins for n in x.writes)
        self.origins = {
            x.writes[0]: x for x in origins if _separate(x) and writers[x.writes[0]] == 1
        }
        self.root: dict[Node, Node] = {}  # the first version of each twin
        self.versions: dict[Node, list[Node]] = {}
        self.banned: set[tuple[Node, int]] = set()
        self.products = {
            w: _products(x, w) for x in launches if x.nest is None and _plain(x) for w in x.writes
        }
        self.spent = 0  # operations of all that is computed again
        m = self.m = memory(launches, quiet)
        pinned = {*m.keep, *(n for n, _ in m.copies)}
        self.outside = set(m.place)
        self.wanted = {*m.keep, *m.graph.outputs}
        self.lives = Lifetimes(launches, self.outside, pinned, scratch)
        self.maker = {n: i for i, x in self.lives.numbers() for n in x.writes}
        counts = Counter(n for x in launches for n in x.writes)
        self.shared = {n for n, count in counts.items() if count > 1}
        # inputs whose memory is written by a launch can't be read after it
        self.overwritten = {
            m.graph.inputs[i]: self.lives.touches[o][0]
            for k, i in m.graph.updates.items()
            if m.place.get(o := m.graph.outputs[k]) == ("ext", i) and o in m.born
        }
        self._work: dict[tuple[int, Node], tuple[Launch, int]] = {}
        self.ways = _Ways()
        self.gaps(self.lives.touches)

    def within(self, limit: int) -> Memory:
        """The memory of the launches after as much recomputation as the limit takes, or as there is.

        Where the limit is out of reach at once, targets between it and the peak are tried first.
        """
        target = limit
        self.aim(target)
        while True:
            peak = int(self.lives.live.max(initial=0))
            if peak <= limit and (laid := self.laid()).bytes <= limit:
                return laid
            if peak <= target:  # on to the limit, or below it by what is lost between values
                target = limit if peak > limit else peak - ALIGN
                self.aim(target, peak > limit)
            if not peak or not self.step(target):
                if peak - target <= peak // _FINE:
                    return self.laid()
                target = (target + peak) // 2
                self.aim(target, False)

    def laid(self) -> Memory:
        """The memory of the launches as they are now, with a place for each value."""
        quiet = sum(1 for _ in self.lives.numbers(0, self.quiet))
        return self.memory([x for _, x in self.lives.numbers()], quiet).laid()

    def aim(self, target: int, lower: bool = True) -> None:
        """Go for another target; one that is `lower` makes more of every way."""
        self.banned.clear()
        self.ways.loosen()
        for k in range(len(self.ways.rows)) if lower else ():
            self.bound(k, target)

    def step(self, target: int) -> bool:
        """Recompute one more value; False where nothing lowers the fullest point."""
        lives = self.lives
        while (plan := self.best(target)) is not None:
            before = _above(lives.live, target)
            lives.undo.clear()
            self.apply(plan)
            changed = lives.settle()
            done = _above(lives.live, target) < before
            if not done:
                self.banned.add((plan.node, plan.at))
                changed |= lives.revert()
            self.follow(changed, target)
            if done:
                self.spent += plan.cost
                return True
        return False

    def best(self, target: int) -> _Plan | None:
        """The plan that frees most for its work where the most is held."""
        rows, ways = self.around(), self.ways
        for afresh in (False, True):  # what is held may have become more since ways came to nothing
            for k in rows.tolist() if afresh else ():
                self.bound(k, target)
            while len(rows) and ways.worth[k := int(rows[np.argmax(ways.worth[rows])])] > 0:
                plan = ways.plans[k]
                assert plan is not None
                if ways.exact[k]:
                    return plan
                banned = (plan.node, plan.at) in self.banned
                saved, most = (0, 0) if banned else self.worth(plan, target)
                ways.exact[k], ways.worth[k], ways.most[k] = (
                    True,
                    saved / plan.cost,
                    most / plan.cost,
                )
        return None

    def around(self) -> np.ndarray:
        """The ways to drop what is held at the fullest point by a launch that neither makes nor reads it."""
        at, n = self.lives.at, len(self.ways.rows)
        top = int(self.lives.live.argmax())
        return np.flatnonzero((at[self.ways.after[:n]] < top) & (top < at[self.ways.before[:n]]))

    def gaps(self, nodes: Iterable[Node]) -> list[int]:
        """New rows for the times at which values are held, but not used."""
        lives, rows = self.lives, []
        for n in nodes:
            if n in lives.lives and n not in lives.pinned:
                for a, b in pairwise(lives.touches[n]):
                    if lives.at[b] - lives.at[a] > 1:
                        rows += self.ways.add(n, a, b)
        return rows

    def follow(self, changed: set[Node], target: int) -> None:
        """Look again at the ways that depend on values that are touched otherwise now."""
        rows = set(self.gaps(changed))
        for n in changed:
            rows |= self.ways.of.pop(self.root.get(n, n), set())
        for k in rows:
            self.ways.plans[k] = None
            self.bound(k, target)
        self.ways.loosen()

    def bound(self, k: int, target: int) -> None:
        """The most that a way can be worth: what it adds elsewhere may come to be below the target."""
        ways, lives = self.ways, self.lives
        node, after, before, deep = ways.rows[k]
        ways.exact[k], ways.worth[k], ways.most[k] = False, 0, 0
        held = lives.live[lives.at[after] + 1 : lives.at[before]]
        saved = _above(held, target)
        if not saved:
            return
        plan = ways.plans[k]
        if plan is None:
            plan = ways.plans[k] = self.planned(node, after, before, deep)
            for root in () if plan is None else (self.root.get(node, node), *plan.known):
                ways.of.setdefault(root, set()).add(k)
        if plan is not None:
            ways.worth[k] = ways.most[k] = (
                saved - _above(held - self.bytes(node), target)
            ) / plan.cost

    def source(self, n: Node, place: int) -> Launch | None:
        """A launch that can make a value again before the launch at a place."""
        made = self.maker.get(n)
        x = None if made is None else self.lives.launches[made]
        first = self.origins.get(self.root.get(n, n))
        if (
            x is None
            or not _plain(x)
            or x.partial
            or not self.shared.isdisjoint(x.writes)
            or (first is not None and not _slim(x))
        ):
            x = first
        at = self.lives.at
        if x is None or any(
            at[self.overwritten[r]] < place for r in x.reads if r in self.overwritten
        ):
            return None
        return x

    def planned(self, node: Node, after: int, before: int, deep: bool) -> _Plan | None:
        """How a value is computed again; `deep` says that operands that are gone are too, unless they are small."""
        touches = self.lives.touches[node]
        k = touches.index(before) if before in touches else 0
        later = [self.lives.launches[i] for i in touches[k:]]
        if k == 0 or touches[k - 1] != after or not self.lives.lives.get(node):
            return None
        plan = _Plan(node, after, before)
        if not all(map(_plain, later)) or not self.add(plan, node, deep):
            return None
        held, most = 0, []
        for x, n in plan.steps:
            others = 0 if _slim(x) else sum(self.bytes(w) for w in x.writes if w is not n)
            held += self.bytes(n)
            most.append(held + others + aligned(self.lives.scratch(x)))
        plan.held = np.array(most, np.int64)
        plan.cost = sum(self.work(x, n) for x, n in plan.steps)
        return plan

    def add(self, plan: _Plan, n: Node, deep: bool) -> bool:
        """Add to a plan what makes a value again; False where that can't be done."""
        place = int(self.lives.at[plan.at])
        x = self.source(n, place)
        if x is None or len(plan.steps) >= _DEEPEST:
            return False
        for r in x.reads:
            root = self.root.get(r, r)
            if root in plan.known or r in self.outside or r in self.lives.pinned:
                continue
            plan.known[root] = self.version(r, place)
            if plan.known[root] is not None:
                continue
            last = self.latest(r, place)
            if last is None or (
                deep
                and self.bytes(r) * _SMALL > self.bytes(n)
                and self.source(r, place) is not None
            ):
                if not self.add(plan, r, deep):
                    return False
            else:
                plan.known[root] = last
                plan.longer[last] = self.lives.touches[last][-1]
        plan.steps.append((x, n))
        return True

    def version(self, n: Node, place: int) -> Node | None:
        """The version of a value that is in memory when the launch at a place begins."""
        at = self.lives.at
        for v, t in self.known(n):
            if at[t[0]] < place <= at[t[-1]]:
                return v
        return None

    def latest(self, n: Node, place: int) -> Node | None:
        """The version of a value that was in memory last before the launch at a place, if one was."""
        at = self.lives.at
        before = [(at[t[-1]], v) for v, t in self.known(n) if at[t[0]] < place]
        return max(before, key=lambda b: b[0], default=(0, None))[1]

    def known(self, n: Node) -> list[tuple[Node, list[int]]]:
        """The versions of a value that there are, and the launches that touch each."""
        root, touches = self.root.get(n, n), self.lives.touches
        return [(v, t) for v in self.versions.get(root, (root,)) if (t := touches.get(v))]

    def worth(self, plan: _Plan, target: int) -> tuple[int, int]:
        """Bytes x launches above the target that a plan saves, and how many if all that it adds were below."""
        place, size = self.lives.at, self.bytes(plan.node)
        begin, at = int(place[plan.after]) + 1, int(place[plan.at])
        ends = {n: int(place[last]) + 1 for n, last in plan.longer.items()}
        first = min([begin, *ends.values()])
        now = self.lives.live[first:at]
        then = now.copy()
        then[begin - first :] -= size
        for n, end in ends.items():
            then[end - first :] += self.bytes(n)
        # between the launches before and at `at`
        held = int(self.lives.across[at]) + sum(map(self.bytes, ends)) - size
        saved = most = _above(now, target) - _above(then, target)
        if ends:
            gap = now[begin - first :]
            most = _above(gap, target) - _above(gap - size, target)
        return max(saved - _above(held + plan.held, target), 0), most

    def apply(self, plan: _Plan) -> None:
        """Run a plan's launches before launch `at`, which and whose successors read the twin."""
        now = dict(plan.known)
        new = []
        for x, n in plan.steps:
            if _slim(x):
                x = trimmed(x, {w for w in x.writes if self.root.get(w, w) is self.root.get(n, n)})
                assert x is not None
            names = {r: now.get(self.root.get(r, r)) or r for r in x.reads}
            for w in x.writes:
                root = self.root.get(w, w)
                now[root] = names[w] = self.twin(w, root)
            new.append(_renamed(x, names))
        node, lives = plan.node, self.lives
        mine = now[self.root.get(node, node)]
        assert mine is not None
        numbers = range(len(lives.launches), len(lives.launches) + len(new))
        place = int(lives.at[plan.at])
        lives.insert(place, new)
        self.quiet += len(new) if place < self.quiet else 0
        self.maker |= {w: i for i, x in zip(numbers, new, strict=True) for w in x.writes}
        for i in lives.touches[node].copy():
            if (x := lives.launches[i]) is not None and lives.at[i] >= lives.at[plan.at]:
                lives.put(i, _renamed(x, {node: mine}))
        self.prune(node)

    def prune(self, node: Node) -> None:
        """Drop launches, and stores, that only made a value that is not read any more."""
        launches, touches = self.lives.launches, self.lives.touches
        stack = [node]
        while stack:
            n = stack.pop()
            if self.read(n):
                continue
            for i in touches.get(n, []).copy():
                x = launches[i]
                if x is None or n not in x.writes or not _plain(x):
                    continue
                wanted = set(filter(self.read, x.writes))
                y = x if wanted else None
                if wanted and _slim(x):
                    y = trimmed(x, wanted) or x
                if y is not x:
                    self.lives.put(i, y)
                    stack += x.reads - (y.reads if y is not None else set())

    def read(self, n: Node) -> bool:
        """Whether a launch reads a value, or it is asked for at the end."""
        launches = self.lives.launches
        return n in self.wanted or any(
            (x := launches[i]) is not None and n in x.reads for i in self.lives.touches.get(n, ())
        )

    def bytes(self, n: Node) -> int:
        """The bytes of the arena that a node takes."""
        return self.lives.size(n)

    def work(self, x: Launch, n: Node) -> int:
        """The operations of a launch that makes a node, bytes that it moves counted as operations."""
        known = self._work.get((id(x), n))
        if known is None:
            moved = {*x.reads, n} if _slim(x) else {*x.reads, *x.writes}
            work = _BYTE * sum(map(self.bytes, moved))
            if x.nest is not None:
                work += prod(x.nest.dims) * len(ln.walk(x.nest.roots()))
            else:
                work += self.products[self.root.get(n, n)]
            known = self._work[id(x), n] = (x, work)
        return known[1]

    def most(self) -> str:
        """What holds most of the memory where it is fullest."""
        lives = self.lives
        if not len(lives.live):
            return "constants"
        top = int(lives.live.argmax())
        there = [(self.bytes(n), repr(n)) for n, (a, b) in lives.lives.items()
                 if lives.at[a] <= top and (n in lives.pinned or top <= lives.at[b])]  # fmt: skip
        x = lives.launches[lives.order[top]]
        if x is not None and (scratch := lives.scratch(x)):
            there.append((scratch, f"scratch memory of {x.writes[0]!r}"))
        there.sort(key=lambda b: -b[0])
        return ", ".join(f"{what} ({b} bytes)" for b, what in there[:3])

    def twin(self, n: Node, root: Node) -> Node:
        """A node for a value's next version."""
        made = twin(n)
        self.root[made] = root
        self.versions.setdefault(root, [root]).append(made)
        return made


def _above(live: np.ndarray, target: int) -> int:
    return int(np.maximum(live - target, 0).sum())


def _plain(x: Launch) -> bool:
    """Whether a launch is a kernel, which knows its operands by its arguments alone."""
    return x.host is None and x.control is None


def _slim(x: Launch) -> bool:
    """Whether a launch can do without some of its stores: sums might be taken in another order then."""
    return x.nest is not None and not any(s.reductions for s in x.nest.stages)


def _separate(x: Launch) -> bool:
    """Whether a launch as lowered makes one value element by element, with the same bits as within any other kernel."""
    return (
        _slim(x)
        and not x.partial
        and len(x.writes) == 1
        and all(n.dtype.itemsize >= 4 or n.dtype.category < FLOAT for n in (*x.reads, *x.writes))
    )


def _renamed(x: Launch, names: dict[Node, Node]) -> Launch:
    """A launch on other nodes."""

    def moved(a: object) -> object:
        if isinstance(a, tuple):
            return (names.get(a[0], a[0]), *a[1:])
        return names.get(a, a) if isinstance(a, Node) else a

    arguments = [moved(a) for a in x.arguments]
    return replace(x, arguments=arguments, writes=[names.get(w, w) for w in x.writes], reads=set())


def _products(x: Launch, n: Node) -> int:
    """The operations of the contraction with which a launch makes a node: it lies between its operands and the node."""
    work = 0
    seen: set[Node] = set()
    stack = [n]
    while stack:
        y = stack.pop()
        if y not in seen and y not in x.reads:
            seen.add(y)
            stack += y.inputs
            work += _contraction(y)
    return work


def _contraction(n: Node) -> int:
    """The operations of a contraction; 0 for all else."""
    if n.name in ("matmul", "_int_mm"):
        return 2 * n.numel() * n.args[0].shape[-1]
    if n.name == "convolution":
        return 2 * n.numel() * n.args[1].numel() // n.args[1].shape[0]
    if n.name == "conv_input_grad":
        return 2 * n.args[0].numel() * n.args[1].numel() // n.args[1].shape[0]
    if n.name == "conv_weight_grad":
        return 2 * n.args[1].numel() * n.numel() // n.shape[0]
    if n.name in ("attention", "attention_grad"):
        q, k = n.arg("query"), n.arg("key")
        return (4 if n.name == "attention" else 10) * q.numel() * k.shape[-2]
    return 0
