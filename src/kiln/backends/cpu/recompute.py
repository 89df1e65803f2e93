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
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ...compile import loopnest as ln
from ...dtypes import FLOAT
from ...errors import KilnMemoryError
from ...graph.node import Node, twin
from ...runtime import arena
from ...runtime.arena import ALIGN, aligned
from .fuse import trimmed
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
    """A value computed again: which launches run before launch `at`, in order, and for which nodes each."""

    node: Node
    after: int  # the last launch before the gap that touches the node
    at: int
    steps: list[tuple[Launch, Node]] = field(default_factory=list)
    known: dict[Node, Node | None] = field(default_factory=dict)
    """By first version: the version of an operand that is there, or None where an earlier step makes it."""
    longer: dict[Node, int] = field(default_factory=dict)
    """Versions that have to live on, with the last launch that needs them so far."""


def within(
    limit: int, name: str, ways: list[list[Launch]], quiet: int, origins: list[Launch],
    memory: Callable[[list[Launch], int], Memory],
) -> Memory:  # fmt: skip
    """The memory of launches, some of them run again, in so many bytes of arena and literals.

    `ways` are orders of the launches, of which the one that takes least work is chosen; `memory(launches,
    quiet)` says how long everything lives; the first `quiet` launches write no state; `origins` are the
    launches before they were joined.
    Errors: KilnMemoryError where it can't be done.
    """
    tried = []
    for launches in ways:
        search = Recomputation(launches, quiet, origins, memory)
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
    """

    def __init__(
        self, launches: list[Launch], quiet: int, origins: list[Launch],
        memory: Callable[[list[Launch], int], Memory],
    ):  # fmt: skip
        self.launches, self.quiet, self.memory = launches, quiet, memory
        writers = Counter(n for x in origins for n in x.writes)
        self.origins = {
            x.writes[0]: x for x in origins if _separate(x) and writers[x.writes[0]] == 1
        }
        self.root: dict[Node, Node] = {}  # the first version of each twin
        self.versions: dict[Node, list[Node]] = {}
        self.banned: set[tuple[Node, Node]] = set()
        self.products = {
            w: _products(x, w) for x in launches if x.nest is None and _plain(x) for w in x.writes
        }
        self.spent = 0  # operations of all that is computed again
        self.look()

    def within(self, limit: int) -> Memory:
        """The memory of the launches after as much recomputation as the limit takes, or as there is.

        Where the limit is out of reach at once, targets between it and the peak are tried first.
        """
        target = limit
        while True:
            peak = int(self.live.max(initial=0))
            if peak <= limit and (laid := self.m.laid()).bytes <= limit:
                return laid
            if peak <= target:  # on to the limit, or below it by what is lost between values
                target = limit if peak > limit else peak - ALIGN
                self.banned.clear()
            if not peak or not self.step(target):
                if peak - target <= peak // _FINE:
                    return self.m.laid()
                target = (target + peak) // 2
                self.banned.clear()

    def look(self) -> None:
        """Learn from memory as it is now: who touches what when, and how many bytes are held at each launch."""
        m = self.m = self.memory(self.launches, self.quiet)
        last = len(self.launches)
        self.touches: dict[Node, list[int]] = {}
        self.maker: dict[Node, Launch] = {}
        writers = Counter(n for x in self.launches for n in x.writes)
        for j, x in enumerate(self.launches):
            for n in (*x.writes, *(r for r in x.reads if r not in x.writes)):
                self.touches.setdefault(n, []).append(j)
            for n in x.writes:
                self.maker[n] = x
        self.shared = {n for n, count in writers.items() if count > 1}
        self.live = arena.held([*m.lives.values(), *m.scratch.values()])[:last]
        pinned = self.pinned = {*m.keep, *(n for n, _ in m.copies)}
        self.held = {n: _bytes(n) for n in (*m.lives, *m.over) if n not in pinned}
        across = np.zeros(last + 2, np.int64)
        for n in (*m.lives, *m.over):
            across[self.touches[n][0] + 1] += _bytes(n)
            across[(last if n in pinned else self.touches[n][-1]) + 1] -= _bytes(n)
        self.across = np.cumsum(across)  # bytes held from before a launch until it runs
        # inputs whose memory is written by a launch can't be read after it
        self.overwritten = {
            m.graph.inputs[i]: m.born[o]
            for k, i in m.graph.updates.items()
            if m.place.get(o := m.graph.outputs[k]) == ("ext", i) and o in m.born
        }

    def step(self, target: int) -> bool:
        """Recompute one more value; False where nothing lowers the fullest point."""
        top = int(self.live.argmax())
        ranked = []
        for node, after, at in self.gaps(top):
            for deep in (False, True):
                plan = self.planned(node, after, at, deep)
                if plan is None:
                    continue
                gain, cost = self.worth(plan, target)
                if gain > 0:
                    ranked.append((gain / cost, len(ranked), cost, plan))
        for _, _, cost, plan in sorted(ranked, key=lambda r: (-r[0], r[1])):
            before = self.launches, self.quiet, _above(self.live, target)
            self.apply(plan)
            self.look()
            if _above(self.live, target) < before[2]:
                self.spent += cost
                return True
            self.banned.add((plan.node, before[0][plan.at].writes[0]))
            self.launches, self.quiet = before[:2]
            self.look()
        return False

    def gaps(self, top: int) -> Iterator[tuple[Node, int, int]]:
        """Values held at a launch that neither makes nor reads them: with the launches before and after that touch them."""
        for n in self.held:
            t = self.touches[n]
            k = bisect_left(t, top)
            if 0 < k < len(t) and t[k] != top and self.source(n, t[k]) is not None:
                later = [self.launches[j] for j in t[k:]]
                if all(map(_plain, later)) and (n, later[0].writes[0]) not in self.banned:
                    yield n, t[k - 1], t[k]

    def source(self, n: Node, at: int) -> Launch | None:
        """A launch that can make a value again before launch `at`."""
        x = self.maker.get(n)
        first = self.origins.get(self.root.get(n, n))
        if (
            x is None
            or not _plain(x)
            or x.partial
            or not self.shared.isdisjoint(x.writes)
            or (first is not None and not _slim(x))
        ):
            x = first
        if x is None or any(self.overwritten.get(r, at) < at for r in x.reads):
            return None
        return x

    def planned(self, node: Node, after: int, at: int, deep: bool) -> _Plan | None:
        """How a value is computed again; `deep` says that operands that are gone are too, unless they are small."""
        plan = _Plan(node, after, at)
        return plan if self.add(plan, node, deep) else None

    def add(self, plan: _Plan, n: Node, deep: bool) -> bool:
        """Add to a plan what makes a value again; False where that can't be done."""
        x = self.source(n, plan.at)
        if x is None or len(plan.steps) >= _DEEPEST:
            return False
        for r in x.reads:
            root = self.root.get(r, r)
            there = self.m.place.get(r, ("arena", 0))[0] != "arena" or r in self.pinned
            if root in plan.known or there:
                continue
            plan.known[root] = self.version(r, plan.at)
            if plan.known[root] is not None:
                continue
            last = self.latest(r, plan.at)
            if last is None or (
                deep and _bytes(r) * _SMALL > _bytes(n) and self.source(r, plan.at) is not None
            ):
                if not self.add(plan, r, deep):
                    return False
            else:
                plan.known[root] = last
                plan.longer[last] = self.touches[last][-1]
        plan.steps.append((x, n))
        return True

    def version(self, n: Node, at: int) -> Node | None:
        """The version of a value that is in memory when launch `at` begins."""
        root = self.root.get(n, n)
        for v in self.versions.get(root, [root]):
            t = self.touches.get(v)
            if t is not None and t[0] < at <= t[-1]:
                return v
        return None

    def latest(self, n: Node, at: int) -> Node | None:
        """The version of a value that was in memory last before launch `at`, if one was."""
        root = self.root.get(n, n)
        known = [v for v in self.versions.get(root, [root]) if v in self.touches]
        before = [v for v in known if self.touches[v][0] < at]
        return max(before, key=lambda v: self.touches[v][-1], default=None)

    def worth(self, plan: _Plan, target: int) -> tuple[int, int]:
        """Bytes x launches above the target that a plan saves, and the operations that it takes."""
        begin, at = plan.after + 1, plan.at
        first = min([begin, *(last + 1 for last in plan.longer.values())])
        now = self.live[first:at]
        then = now.copy()
        then[begin - first :] -= self.held[plan.node]
        for n, last in plan.longer.items():
            then[last + 1 - first :] += _bytes(n)
        # between the launches before and at `at`
        held = int(self.across[at]) + sum(map(_bytes, plan.longer)) - self.held[plan.node]
        steps = []
        for x, n in plan.steps:
            others = 0 if _slim(x) else sum(_bytes(w) for w in x.writes if w is not n)
            held += _bytes(n)
            scratch = x.kernel.workspace_bytes if x.kernel is not None else 0
            steps.append(held + others + aligned(scratch))
        after = _above(then, target) + _above(np.array(steps, np.int64), target)
        return _above(now, target) - after, sum(self.work(x, n) for x, n in plan.steps)

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
        node = plan.node
        mine = now[self.root.get(node, node)]
        assert mine is not None
        rest = [
            _renamed(x, {node: mine}) if node in x.reads else x for x in self.launches[plan.at :]
        ]
        early, late = self.launches[: plan.at], [*new, *rest]
        split = self.quiet + len(new) if plan.at < self.quiet else self.quiet
        whole = [*early, *late]
        late = self.needed(whole[split:], set())
        early = self.needed(whole[:split], {r for x in late for r in x.reads})
        self.launches, self.quiet = [*early, *late], len(early)

    def needed(self, launches: list[Launch], read: set[Node]) -> list[Launch]:
        """The launches without those, and without stores, that only made what a twin is read for now."""
        wanted = {*read, *self.m.keep, *self.m.graph.outputs}
        left: list[Launch] = []
        for x in reversed(launches):
            if _plain(x) and wanted.isdisjoint(x.writes):
                continue
            if _slim(x) and not wanted.issuperset(x.writes):
                x = trimmed(x, wanted) or x
            wanted |= x.reads
            left.append(x)
        return left[::-1]

    def work(self, x: Launch, n: Node) -> int:
        """The operations of a launch that makes a node, bytes that it moves counted as operations."""
        moved = {*x.reads, n} if _slim(x) else {*x.reads, *x.writes}
        work = _BYTE * sum(map(_bytes, moved))
        if x.nest is not None:
            return work + prod(x.nest.dims) * len(ln.walk(x.nest.roots()))
        return work + self.products[self.root.get(n, n)]

    def most(self) -> str:
        """What holds most of the memory where it is fullest."""
        if not len(self.live):
            return "constants"
        top = int(self.live.argmax())
        there = [(_bytes(n), repr(n)) for n, t in self.touches.items()
                 if t[0] <= top <= t[-1] and (n in self.m.lives or n in self.m.over)]  # fmt: skip
        if top in self.m.scratch:
            x = self.launches[top].writes[0]
            there.append((self.m.scratch[top].size, f"scratch memory of {x!r}"))
        there.sort(key=lambda b: -b[0])
        return ", ".join(f"{what} ({b} bytes)" for b, what in there[:3])

    def twin(self, n: Node, root: Node) -> Node:
        """A node for a value's next version."""
        made = twin(n)
        self.root[made] = root
        self.versions.setdefault(root, [root]).append(made)
        return made


def _bytes(n: Node) -> int:
    return aligned(max(n.numel(), 1) * n.dtype.itemsize)


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
