"""The order of launches: what frees memory runs as soon as it can.

A Graph's own order follows its outputs: all of backward down to the first layer's gradient, and only then
the other layers' weight gradients, for which every layer's activations and gradients have waited.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from heapq import heappop, heappush

from ...graph.node import Graph, Node
from ...runtime.arena import Interval, held
from .lower import Launch

_SMALL = 4096
"""Values of fewer bytes decide nothing."""


def orders(launches: list[Launch], graph: Graph, keep: Collection[Node] = ()) -> list[list[Launch]]:
    """The launches as given and as scheduled by memory, the order that holds less at its fullest point first.

    `keep` are nodes that stay in memory.
    """
    sizes = _sizes(launches, graph, keep)
    made = [_scheduled(launches, _before(launches, graph), sizes), launches]
    return sorted(made, key=lambda order: _peak(order, sizes))


def _scheduled(
    launches: list[Launch], before: list[set[int]], sizes: dict[Node, int]
) -> list[Launch]:
    """List scheduling: the given order, except that the last readers of a value go ahead together as soon as
    they can, where they end more bytes than they begin."""
    after: list[list[int]] = [[] for _ in launches]
    for j, needs in enumerate(before):
        for k in needs:
            after[k].append(j)
    waits = [len(needs) for needs in before]
    readers: dict[Node, set[int]] = {n: set() for n in sizes}
    for j, x in enumerate(launches):
        for n in (*x.reads, *x.writes):
            if n in sizes:
                readers[n].add(j)

    def gain(group: set[int]) -> int:
        """How many bytes less are held after some launches than before them."""
        ends = {n for j in group for n in launches[j].reads if n in sizes and readers[n] <= group}
        begins = {n for j in group for n in launches[j].writes if n in sizes} - born
        return sum(sizes[n] for n in ends) - sum(sizes[n] for n in begins if readers[n] > group)

    born: set[Node] = set()
    ready = [j for j, w in enumerate(waits) if not w]  # a heap, as it is sorted
    done = [False] * len(launches)
    order: list[int] = []
    ahead: deque[int] = deque()
    while ahead or ready:
        j = ahead.popleft() if ahead else heappop(ready)
        if done[j]:
            continue
        done[j] = True
        order.append(j)
        near = [n for n in (*launches[j].reads, *launches[j].writes) if n in sizes]
        born.update(launches[j].writes)
        for n in near:
            readers[n].discard(j)
        for k in after[j]:
            waits[k] -= 1
            if not waits[k]:
                heappush(ready, k)
                near += [n for n in launches[k].reads if n in sizes]
        for n in dict.fromkeys(near):
            group = readers[n]
            if group and not any(waits[k] for k in group) and gain(group) > 0:
                ahead.extend(sorted(group))
    return [launches[j] for j in order]


def _before(launches: list[Launch], graph: Graph) -> list[set[int]]:
    """For each launch those that must come before it: writers of what it reads, and readers of what it overwrites."""
    before: list[set[int]] = [set() for _ in launches]
    writers: dict[Node, list[int]] = {}
    readers: dict[Node, list[int]] = {}
    for j, x in enumerate(launches):
        for n in (*x.reads, *x.writes):
            before[j].update(writers.get(n, ()))
        for n in x.writes:
            before[j].update(readers.get(n, ()))
            writers.setdefault(n, []).append(j)
        for n in x.reads:
            readers.setdefault(n, []).append(j)
    for (
        k,
        i,
    ) in graph.updates.items():  # computed in the memory of the old value, if all have read that
        old = readers.get(graph.inputs[i], ())
        for j in writers.get(graph.outputs[k], ())[:1]:
            if max(old, default=j) <= j:
                before[j].update(old)
    for j, needs in enumerate(before):
        needs.discard(j)
    return before


def _sizes(launches: list[Launch], graph: Graph, keep: Collection[Node]) -> dict[Node, int]:
    """The bytes of each node that holds memory only from its first launch to its last."""
    stays = {*graph.outputs, *keep}
    sizes = {n: n.numel() * n.dtype.itemsize for x in launches for n in x.writes if n not in stays}
    return {n: size for n, size in sizes.items() if size >= _SMALL}


def _peak(launches: list[Launch], sizes: dict[Node, int]) -> int:
    """The most bytes held at any launch, its scratch memory among them."""
    lives: dict[Node, Interval] = {}
    scratch: list[Interval] = []
    for j, x in enumerate(launches):
        for n in (*x.writes, *x.reads):
            if n in lives or (n in x.writes and n in sizes):
                lives[n] = Interval(sizes[n], lives[n].start if n in lives else j, j)
        if x.kernel is not None:
            scratch.append(Interval(x.kernel.workspace_bytes, j, j))
    return int(held([*lives.values(), *scratch]).max(initial=0))
