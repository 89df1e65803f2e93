"""How much arithmetic a node is: multiplications and additions, as the field counts them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .. import recording
from ..ops.registry import Op
from .node import Node


def flops(n: Node) -> int:
    """Multiplications and additions of a node by its op's definition, not of a shorter way (Winograd) to its result.

    A product counts two for each pair, an elementwise op one for each element, a reduction one for each element that it reads.
    """
    if not isinstance(n.op, Op) or not n.inputs:
        return 0
    family, first = n.op.family, n.inputs[0]
    if family == "contraction":
        return recording.flops(n.name, n.args, n)
    if n.outputs is not None or first.outputs is not None:
        return 0
    if family == "reduction":
        return first.numel()
    return n.numel() if family == "elementwise" and n.op.scalar not in (None, "cast") else 0


def between(writes: Iterable[Node], reads: Collection[Node]) -> list[Node]:
    """All nodes that lead from some to others."""
    seen: dict[Node, None] = {}
    todo = list(writes)
    while todo:
        n = todo.pop()
        if n not in seen:
            seen[n] = None
            todo += [x for x in n.inputs if x not in reads]
    return list(seen)


def title(result: Node, nodes: Collection[Node]) -> str:
    """The work of several nodes as reports name it: the op of most arithmetic, that of the result, and what this is."""
    main = max(nodes, key=flops)
    names = list(dict.fromkeys([main.name, result.name])) if flops(main) else [result.name]
    others = {n.name for n in nodes if flops(n)} - set(names)
    if others:
        names.insert(1, "…")
    return f"<{'+'.join(names)} {repr(result)[1:].partition(' ')[2]}"
