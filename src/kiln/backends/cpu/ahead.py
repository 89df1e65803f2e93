"""Which launches of a program read nothing but state that it doesn't write: its prologue, see `prologue`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from ...graph.node import CONST, INPUT, LITERAL, Graph, Node
from .lower import Launch

_GROWTH = 2
"""How many times the bytes that it reads a result may have to be kept; more is cheaper to compute again."""


def unchanging(graph: Graph, inputs: Iterable[int]) -> frozenset[Node]:
    """These inputs, and all nodes that depend on them and constants only."""
    found = {graph.inputs[i] for i in inputs}
    for n in graph.nodes():
        reads = n.inputs if n.op is not INPUT else ()
        if any(x in found for x in reads) and all(
            x in found or x.op in (CONST, LITERAL) for x in reads
        ):
            found.add(n)
    return frozenset(found)


def divide(
    launches: list[Launch], steady: frozenset[Node], stay: Collection[Node]
) -> tuple[list[Launch], list[Launch]]:
    """The launches of the prologue and the others, which make all nodes that have to `stay` among them."""
    if not steady:
        return [], launches
    writers = Counter(n for x in launches for n in x.writes)
    chosen = {
        j for j, x in enumerate(launches)
        if x.host is None and x.control is None and x.reads
        and not any(n in stay for n in x.writes) and (x.ahead or _bytes(x.writes) <= _GROWTH * _bytes(x.reads))
    }  # fmt: skip
    given = {n for x in launches for n in x.reads if n.op is LITERAL or n in steady} - set(writers)
    while True:  # a node is made in one place, and of what is there
        made = Counter(n for j in chosen for n in launches[j].writes)
        whole = {n for n, count in made.items() if count == writers[n]}
        wrong = {
            j for j in chosen
            if not whole.issuperset(launches[j].writes)
            or any(n not in given and n not in whole for n in launches[j].reads)
        }  # fmt: skip
        if not wrong:
            break
        chosen -= wrong
    return (
        [x for j, x in enumerate(launches) if j in chosen],
        [x for j, x in enumerate(launches) if j not in chosen],
    )


def _bytes(nodes: Collection[Node]) -> int:
    return sum(n.numel() * n.dtype.itemsize for n in nodes)
