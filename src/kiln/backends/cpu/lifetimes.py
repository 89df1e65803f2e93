"""How many bytes launches hold, kept up to date while they change: a change looks at what it touches alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from ...graph.node import Node
from ...runtime.arena import aligned
from .lower import Launch


def size(n: Node) -> int:
    """The bytes of the arena that a node takes."""
    return aligned(max(n.numel(), 1) * n.dtype.itemsize)


def computed_over(
    x: Launch, free: set[Node], fits: Callable[[Node], bool]
) -> Iterator[tuple[Node, Node]]:
    """Nodes that a launch writes, if they fit, each with the one of `free` in whose memory it does so."""
    for o in x.writes if x.nest is not None and not x.partial else ():
        if not fits(o) or o.numel() == 0:
            continue
        for old in x.arguments:
            if (
                old in free
                and old.numel() == o.numel()
                and old.dtype.itemsize == o.dtype.itemsize
                and over(x, old, o)
            ):
                free.discard(old)
                yield o, old
                break


def over(x: Launch, old: Node, new: Node) -> bool:
    """Whether a launch may compute one node in the memory of another that it reads."""
    if x.nest is None:
        return False
    return x.nest.in_place(x.arguments.index(old), x.arguments.index(new))


class Lifetimes:
    """Launches in order, which values each touches, and the bytes held at each.

    A launch keeps its number for good; `at` says where in the order a number is. One that is no longer
    needed leaves its place empty, where no more is held than beside it. `outside` are nodes that do not
    lie in the arena, `pinned` those that live to the end; `scratch(launch)` is what it needs for itself.
    """

    def __init__(
        self, launches: Sequence[Launch], outside: Collection[Node], pinned: Collection[Node],
        scratch: Callable[[Launch], int],
    ):  # fmt: skip
        self.outside, self.pinned, self.scratch = outside, pinned, scratch
        self.launches: list[Launch | None] = []
        self.order = np.empty(0, np.int64)  # numbers
        self.at = np.empty(0, np.int64)
        self.live, self.across = np.zeros(0, np.int64), np.zeros(1, np.int64)
        """Bytes held while the launch at a place runs, and from before it until it does."""
        self.touches: dict[Node, list[int]] = {}
        """The launches that read or write a node, by number, in order."""
        self.lives: dict[
            Node, tuple[int, int]
        ] = {}  # first and last number of those, as counted in
        self.own: list[int] = []  # scratch memory less what is computed over, as counted in
        self.undo: list[tuple[int, Launch | None]] = []
        self._sizes: dict[Node, int] = {}
        self._stale: set[Node] = set()
        self._changed: set[int] = set()
        self.insert(0, launches)
        self.settle()

    def size(self, n: Node) -> int:
        """The bytes that a node takes."""
        found = self._sizes.get(n)
        if found is None:
            found = self._sizes[n] = size(n)
        return found

    def numbers(self, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, Launch]]:
        """The launches from one place to another, with their numbers."""
        for i in self.order[begin:end].tolist():
            x = self.launches[i]
            if x is not None:
                yield i, x

    def insert(self, place: int, new: Sequence[Launch]) -> None:
        """Put launches before the one at a place."""
        first = len(self.launches)
        numbers = np.arange(first, first + len(new))
        self.launches += [None] * len(new)
        self.own += [0] * len(new)
        held = np.full(len(new), self.across[place])
        self.live = np.insert(self.live, place, held)
        self.across = np.insert(self.across, place, held)
        self.order = np.insert(self.order, place, numbers)
        self.at = np.empty(len(self.order), np.int64)
        self.at[self.order] = np.arange(len(self.order))
        for i, x in zip(numbers.tolist(), new, strict=True):
            self.put(i, x)

    def put(self, i: int, x: Launch | None) -> None:
        """Have launch number i be another one, or none."""
        old = self.launches[i]
        self.undo.append((i, old))
        self.launches[i] = x
        before, now = _touched(old), _touched(x)
        for n in before - now:
            self.touches[n].remove(i)
        at = self.at
        for n in now - before:
            known = self.touches.setdefault(n, [])
            k = len(known)
            while k and at[known[k - 1]] > at[i]:
                k -= 1
            known.insert(k, i)
        self._stale |= before ^ now
        self._changed.add(i)

    def settle(self) -> set[Node]:
        """Count in what has changed; the nodes that are touched otherwise than before."""
        changed, stale = self._changed, self._stale
        for n in stale:
            known = self.touches[n]
            old, new = self.lives.get(n), (known[0], known[-1]) if known else None
            changed.update(old or (), known[:1], known[-1:])
            if n not in self.outside:
                if old is not None:
                    self._count(n, old, -self.size(n))
                if new is not None:
                    self._count(n, new, self.size(n))
                    self.lives[n] = new
                else:
                    self.lives.pop(n, None)
        for i in changed:
            own = self._own(i)
            self.live[self.at[i]] += own - self.own[i]
            self.own[i] = own
        self._changed, self._stale = set(), set()
        return stale

    def revert(self) -> set[Node]:
        """Take back what was done since `undo` was emptied."""
        for i, x in reversed(self.undo[:]):
            self.put(i, x)
        return self.settle()

    def _count(self, n: Node, life: tuple[int, int], size: int) -> None:
        first = self.at[life[0]]
        last = len(self.order) if n in self.pinned else self.at[life[1]]
        self.live[first : last + 1] += size
        self.across[first + 1 : last + 1] += size

    def _own(self, i: int) -> int:
        x = self.launches[i]
        if x is None:
            return 0
        free = {n for n in x.reads if self._ends(n, i)}
        saved = sum(self.size(o) for o, _ in computed_over(x, free, lambda o: self._begins(o, i)))
        return aligned(self.scratch(x)) - saved

    def _ends(self, n: Node, i: int) -> bool:
        if n in self.outside or n in self.pinned:
            return False
        known = self.touches[n]
        return known[-1] == i != known[0]

    def _begins(self, n: Node, i: int) -> bool:
        return n not in self.outside and self.touches[n][0] == i


def _touched(x: Launch | None) -> set[Node]:
    return set() if x is None else {*x.writes, *x.reads}
