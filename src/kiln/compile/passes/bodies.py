"""Passes for nodes that hold Graphs: other passes inside bodies, dead parts of scans, loop invariants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...graph.node import (
    CONST,
    ITEM,
    LITERAL,
    Graph,
    Node,
    input_node,
    item,
    make,
    remade,
    substitute,
)
from ..views import VIEWS


def inside(graph: Graph, run: Callable[[Graph], Graph]) -> Graph:
    """The Graph with a pass applied to the bodies of its nodes, to any depth."""
    if not any(n.graphs for n in graph.nodes()):
        return graph

    def visit(n: Node, args: tuple) -> Node:
        new = tuple(run(inside(a, run)) if isinstance(a, Graph) else a for a in args)
        return remade(n, new)

    return graph.rewrite(visit)


def prune(graph: Graph) -> Graph:
    """Scans without ys that nobody reads, carries that never change, and inputs that the body does not read."""
    if not any(n.name == "scan_op" for n in graph.nodes()):
        return graph
    used: dict[Node, set[int]] = {}
    for n in graph.nodes():
        if n.op is ITEM:
            used.setdefault(n.args[0], set()).add(n.args[1])

    def visit(n: Node, args: tuple) -> Node | tuple[Node, ...]:
        if n.name != "scan_op":
            return remade(n, args)
        return _pruned(args, used[n], n.source)

    return graph.rewrite(visit)  # type: ignore[arg-type]


def _pruned(args: tuple, used: set[int], source: str) -> tuple[Node, ...]:
    """The outputs of a scan, by number, from one that does no more than needed; unused ones are the init."""
    body, init, xs, consts, length, reverse = args
    n, m = len(init), len(init) + len(xs)
    fixed = [k for k in range(n) if body.outputs[k] is body.inputs[k]]
    carries = [k for k in range(n) if k not in fixed]
    ys = [k for k in range(n, len(body.outputs)) if k in used]
    outs = [body.outputs[k] for k in (*carries, *ys)]
    read = set(Graph((), outs).nodes())
    rows = [k for k in range(n, m) if body.inputs[k] in read]
    rest = [k for k in (*fixed, *range(m, len(body.inputs))) if body.inputs[k] in read]
    values = [*init, *xs, *consts]
    if not outs:
        return tuple(init)
    new = make(
        "scan_op",
        (
            reordered(body, (*carries, *rows, *rest), outs),
            *(tuple(values[k] for k in part) for part in (carries, rows, rest)),
            length, reverse,
        ),
        source,
    )  # fmt: skip
    results = [init[k] if k < n else init[0] if n else new for k in range(len(body.outputs))]
    for i, k in enumerate((*carries, *ys)):
        results[k] = item(new, i)
    return tuple(results)


def reordered(body: Graph, inputs: Sequence[int], outputs: Sequence[Node]) -> Graph:
    """A body with these of its inputs, in this order, and other outputs."""
    heads = [
        input_node(i, body.inputs[k].shape, body.inputs[k].dtype) for i, k in enumerate(inputs)
    ]
    new = {body.inputs[k]: h for k, h in zip(inputs, heads, strict=True)}
    return Graph(heads, substitute(outputs, new))


def hoist(graph: Graph) -> Graph:
    """What is equal at all steps of a scan is computed once, before it."""
    if not any(n.name == "scan_op" for n in graph.nodes()):
        return graph

    def visit(n: Node, args: tuple) -> Node:
        if n.name != "scan_op":
            return remade(n, args)
        body, init, xs, consts, length, reverse = args
        m = len(init) + len(xs)
        moved = _invariant(body, set(body.inputs[m:]))
        if length > 1 and moved:
            outer = dict(zip(body.inputs[m:], consts, strict=True))
            values = substitute(moved, outer)
            extra = [
                input_node(len(body.inputs) + i, x.shape, x.dtype) for i, x in enumerate(moved)
            ]
            new = {**{i: i for i in body.inputs}, **dict(zip(moved, extra, strict=True))}
            whole = Graph((*body.inputs, *extra), substitute(body.outputs, new))
            args = (whole, init, xs, (*consts, *values), length, reverse)
        return make("scan_op", args, n.source)

    return prune(graph.rewrite(visit))


def _invariant(body: Graph, consts: set[Node]) -> list[Node]:
    """Nodes to compute before the loop: those with work in them that steps read."""
    order = body.nodes()
    steady: set[Node] = set()
    for n in order:
        if (
            n in consts
            or n.op in (CONST, LITERAL)
            or (n.inputs and all(x in steady for x in n.inputs))
        ):
            steady.add(n)
    found: set[Node] = set()
    ends = {x for n in order if n not in steady for x in n.inputs if x in steady}
    for root in ends | {o for o in body.outputs if o in steady}:
        while root.name in VIEWS:
            root = root.inputs[0]
        if root not in consts and root.inputs and root.outputs is None and root.op is not ITEM:
            found.add(root)
    return [x for x in order if x in found]
