"""Launches joined: nests over the same loops become one kernel, and what nobody reads is not stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from functools import lru_cache
from math import prod

from ...compile import loopnest as ln
from ...compile import rows, siblings
from ...config import config
from ...graph.node import Node
from ...ladder import tell
from . import loops
from .contract import WORKSPACE
from .isa import Isa
from .kernel import Kernel
from .lower import Launch

_TINY = 1024
_TRIES = 4
STREAM_BYTES = 16 << 20
"""From this size on, a result that nothing in the program reads is written past the cache."""


def fuse(launches: list[Launch]) -> list[Launch]:
    """The launches in an order that fits, nests joined where one kernel does for several."""
    if config.no_fuse:
        return launches
    writers = Counter(n for x in launches for n in x.writes)
    shared = {n for n, count in writers.items() if count > 1}
    return _Joiner(_Joiner(_early(launches, shared), shared).vertical(), shared).siblings()


def _early(launches: list[Launch], shared: set[Node]) -> list[Launch]:
    """Launches of a few elements moved right behind what they need, and small ones that nobody reads
    to the end: they stand in nobody's way there."""
    place: dict[Node, int] = {}
    keys: list[int] = []
    read = set().union(*(x.reads for x in launches))

    def last(x: Launch) -> bool:
        """Whether a launch only makes a few elements for the caller, from memory that may wait for it."""
        return (
            x.nest is not None
            and not x.partial
            and read.isdisjoint(x.writes)
            and shared.isdisjoint(x.writes)
            and sum(n.numel() for n in x.writes) <= _TINY
            and sum(n.numel() for n in x.reads if n in place) <= 64 * _TINY
        )

    for j, x in enumerate(launches):
        key = j
        if _tiny(x) and not last(x):
            key = max((place[n] for n in x.reads if n in place), default=-1)
        elif last(x):
            key = len(launches)
        keys.append(key)
        for n in x.writes:
            place[n] = key
    return [launches[j] for j in sorted(range(len(launches)), key=lambda j: (keys[j], j))]


def _tiny(x: Launch) -> bool:
    """Whether a launch is a nest over a few elements."""
    return x.nest is not None and not x.partial and prod(x.nest.dims) <= _TINY


class _Joiner:
    """Launches in order, some of which have joined others; `out` has None where one moved down.

    Those that write nodes in `shared`, a part each, stay as they are.
    """

    def __init__(self, launches: list[Launch], shared: set[Node]):
        self.launches, self.shared = launches, shared
        self.out: list[Launch | None] = []
        self.made: dict[Node, int] = {}  # where a node is computed
        self.readers: dict[Node, list[int]] = {}

    def vertical(self) -> list[Launch]:
        """Each nest takes in those that it reads, where nothing in between reads them too; else it
        joins the last of them."""
        for x in self.launches:
            self.place(*self.gathered(x))
        return self.left()

    def siblings(self) -> list[Launch]:
        """Nests that read the same memory join, where the later one needs nothing from in between, or
        nobody in between reads the earlier one, which comes down to it then."""
        tiny = -1
        for x in self.launches:
            x = self.with_earlier(x)
            after = max(self.needs(x), default=-1)
            near = {k for n in x.reads for k in self.readers.get(n, ())[-_TRIES:]}
            if _tiny(x):
                near.add(tiny)
            for k in sorted((k for k in near if k > after), reverse=True)[:_TRIES]:
                both = self.joined(k, x)
                if both is not None:
                    self.place(both, k)
                    break
            else:
                if _tiny(x):
                    tiny = len(self.out)
                self.place(x, len(self.out))
        return self.left()

    def with_earlier(self, x: Launch) -> Launch:
        """A launch with those before it taken in that read no more than it does, and that nobody reads yet."""
        near = {k for n in x.reads for k in self.readers.get(n, ())[-_TRIES:]} - self.needs(x)
        for k in sorted(near)[-_TRIES:] if x.nest is not None else ():
            a = self.out[k]
            if a is None or not a.reads <= x.reads or not self.free(k):
                continue
            both = self.joined(k, x)
            if both is not None:
                self.out[k] = None
                x = both
        return x

    def left(self) -> list[Launch]:
        """The launches that there are now."""
        return [x for x in self.out if x is not None]

    def needs(self, x: Launch) -> set[int]:
        """Where the nodes that a launch reads are computed."""
        return {self.made[n] for n in x.reads if n in self.made}

    def place(self, x: Launch, at: int) -> None:
        """Put a launch at the end, or in the place of one that has become part of it."""
        if at == len(self.out):
            self.out.append(x)
        else:
            self.out[at] = x
        for n in x.writes:
            self.made[n] = at
        for n in x.reads:
            known = self.readers.setdefault(n, [])
            if at not in known[-_TRIES:]:
                known.append(at)

    def gathered(self, x: Launch) -> tuple[Launch, int]:
        """A launch with those that it reads taken in, and its place."""
        seen: set[int] = set()
        for _ in range(2 * _TRIES if x.nest is not None else 0):
            needs = self.needs(x)
            todo = sorted(needs - seen, reverse=True)
            if not todo:
                break
            k = todo[0]
            seen.add(k)
            both = self.joined(k, x)
            if both is None:
                continue
            if self.free(k):
                self.out[k] = None
                x = both
            elif k == max(needs):
                return both, k
        return x, len(self.out)

    def joined(self, k: int, b: Launch) -> Launch | None:
        """One launch that does launch k, then another; None where they have to stay two."""
        a = self.out[k]
        if a is None or a.nest is None or b.nest is None:
            return None
        writes = [*a.writes, *b.writes]
        if not self.shared.isdisjoint(writes):
            return None
        keys = list(dict.fromkeys([*a.arguments[:-1], *b.arguments[:-1]]))
        number = {n: k for k, n in enumerate(keys)}
        first, second = (tuple(number[n] for n in x.arguments[:-1]) for x in (a, b))
        both = _merged(a.nest, first, b.nest, second)
        if both is None:
            return None
        return Launch([*(keys[k] for k in both[1]), WORKSPACE], writes, nest=both[0])

    def free(self, k: int) -> bool:
        """Whether no launch so far reads what launch k computes."""
        x = self.out[k]
        return x is not None and not any(
            self.out[r] is not None for n in x.writes for r in self.readers.get(n, ())
        )


@lru_cache(4096)
def _merged(
    a: ln.LoopNest, a_keys: tuple[int, ...], b: ln.LoopNest, b_keys: tuple[int, ...]
) -> tuple[ln.LoopNest, list[int]] | None:
    """The nest that does `a` and then `b`, and its buffers; None where they have to stay two.

    Buffers have numbers for names, so layers that are alike, in one program or in several, are joined once.
    """
    return siblings.merge(a, a_keys, b, b_keys) or rows.merge(a, a_keys, b, b_keys)


def needed(launches: list[Launch], keep: set[Node]) -> list[Launch]:
    """The launches without stores of nodes that no later launch reads and `keep` lacks."""
    wanted = set(keep)
    left: list[Launch] = []
    for x in reversed(launches):
        if x.nest is not None and not config.no_fuse:
            x = trimmed(x, wanted)
            if x is None:
                continue
        wanted |= x.reads
        left.append(x)
    return left[::-1]


def trimmed(x: Launch, wanted: set[Node]) -> Launch | None:
    """A nest's launch without its unwanted stores; None where nothing is left."""
    writes = [n for n in x.writes if n in wanted]
    if len(writes) == len(x.writes) or not writes:
        return x if writes else None
    assert x.nest is not None
    unwanted = set(x.writes) - wanted
    nest, keys = rows.trim(x.nest, x.arguments[:-1], lambda n: n not in unwanted)
    return Launch([*keys, WORKSPACE], writes, nest=nest)


def emit(launches: list[Launch], isa: Isa, results: Collection[Node] = ()) -> None:
    """Give every nest's launch its kernel, where it has none.

    `results` are nodes that become arrays of their own, in blocks (`runtime.blocks`).
    """
    touched = [x.reads if x.nest is not None else {*x.reads, *x.writes} for x in launches]
    unread = set(results).difference(*touched)
    large = {n for n in unread if n.numel() * n.dtype.itemsize >= STREAM_BYTES}
    for x in launches:
        if x.nest is None or x.kernel is not None:
            continue
        if config.debug >= 3:
            tell(f"region of {', '.join(map(repr, x.writes))}\n{x.nest}")
        read = {buffer for kind, buffer, _ in x.nest.accesses() if kind != "store"}
        streamed = frozenset(k for k, n in enumerate(x.arguments) if n in large) - read
        x.kernel = _kernel(x.nest, isa, streamed)


@lru_cache(1024)
def _kernel(nest: ln.LoopNest, isa: Isa, streamed: frozenset[int]) -> Kernel:
    """The kernel of a nest, written once in a process."""
    return loops.emit(nest, isa, streamed=streamed)
