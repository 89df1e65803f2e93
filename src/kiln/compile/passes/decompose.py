"""Decompose: composites are replaced by their bodies until only ops that the backend lowers are left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...graph.node import ITEM, Graph, Leaf, Node, item, remade
from ...ops.registry import Op
from ...tensor import wrap
from ..capture import Capture


def decompose(graph: Graph, lowers: Callable[[Node], bool]) -> Graph:
    """`lowers(node)` says whether the backend takes a node as it is; others are inlined.

    An op without a body that is not lowered stays: the backend calls its reference on the host.
    """
    done: dict[Node, Node | tuple[Node, ...]] = {}

    def settle(n: Node) -> Node | tuple[Node, ...]:
        if n in done:
            return done[n]
        if isinstance(n.op, Leaf) or n.op.body is None or lowers(n):
            done[n] = n
            return n
        r = inline(n.op, n.args, n.source)
        if r is n:  # the body is for other attributes or dtypes
            done[n] = n
            return n
        out = tuple(map(rebuild, r)) if isinstance(r, tuple) else rebuild(r)
        done[n] = out
        return out

    rebuilt: dict[Node, Node] = {}

    def rebuild(root: Node) -> Node:
        """The nodes below a body's result, settled in their turn."""
        stack = [(root, False)]
        while stack:
            n, ready = stack.pop()
            if n in rebuilt:
                continue
            if not ready:
                stack.append((n, True))
                stack.extend((x, False) for x in n.inputs if x not in rebuilt)
                continue
            rebuilt[n] = one(n)
        return rebuilt[root]

    def moved(x: object) -> object:
        if isinstance(x, Node):
            return rebuilt[x]
        return tuple(map(moved, x)) if isinstance(x, tuple) else x

    several: dict[Node, tuple[Node, ...]] = {}

    def one(n: Node) -> Node:
        if n.op is ITEM:
            source = n.args[0]
            if source in several:
                return several[source][n.args[1]]
            return item(rebuilt[source], n.args[1])
        if isinstance(n.op, Leaf):
            return n
        again = remade(n, moved(n.args))  # type: ignore[arg-type]
        r = settle(again)
        if isinstance(r, tuple):
            several[n] = r
            return again
        return r

    return graph.replace_outputs([rebuild(o) for o in graph.outputs])


def inline(op: Op, args: tuple, source: str = "") -> Any:
    """The nodes of an op's body: its decomposition traced with symbolic tensors."""
    from ...autograd.modes import no_grad

    assert op.body is not None
    c = Capture(constants=True)

    def symbolic(x: Any) -> Any:
        if isinstance(x, Node):
            return wrap(c._fresh(x))
        return (
            [symbolic(y) for y in x]
            if isinstance(x, tuple) and any(isinstance(y, Node) for y in x)
            else x
        )

    with c.active(), no_grad():
        out = op.body(*(symbolic(a) for a in args))
        if isinstance(out, tuple | list):
            return tuple(c.value(o) for o in out)
        return c.value(out)
