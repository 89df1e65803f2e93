"""Loops and branches that also tell whether an index in their bodies is out of range.

Kernels clamp indices, and a Program looks at flags before it changes state (`program`). Inside a body the
flag is one more carry, of a branch one more output: the node is rewritten so before it is lowered.
"""

from __future__ import annotations

from functools import reduce

from ... import dtypes as dt
from ...compile import regions
from ...graph.node import Graph, Node, const, input_node, item, make
from . import indexed

_FLAG = -3000  # the number of the flag's input, which no other input of a body has


class Unchecked(Exception):
    """A flag has no way out: a loop's condition can't carry one."""


def out_of_range(index: Node, size: int, wraps: bool) -> Node:
    """Whether an index is out of the range of a dimension, in which it may count from the end."""
    low = const(-size if wraps else 0, index.dtype)
    high = const(size, index.dtype)
    bad = make("bitwise_or", (make("lt", (index, low)), make("ge", (index, high))))
    return make("any", (bad, None, False))


def gathers(n: Node) -> bool:
    """Whether a node has indices that its kernel clamps."""
    if n.name in regions.SCATTERS:
        return indexed.lowers(n)
    return n.name in regions.GATHERS and regions.fusable(n)


def place(n: Node) -> int:
    """Where a checked node has its flag among its outputs."""
    assert n.outputs is not None
    return len(n.outputs) - 1 if n.name == "cond_op" else len(n.arg("init")) - 1


def checked(n: Node) -> Node | None:
    """The node with a flag after its carries, or None where its bodies need none; raises Unchecked."""
    bodies = [_flagged(g) for g in n.graphs]
    if all(flag is None for _, flag in bodies):
        return None
    no = const(False, dt.bool_)
    if n.name == "cond_op":
        graphs = [g.replace_outputs([*g.outputs, no if f is None else f]) for g, f in bodies]
        return make(n.op, (*graphs, *n.args[2:]), n.source)
    init = (*n.arg("init"), no)
    body, flag = bodies[-1]
    assert flag is not None or len(bodies) == 2
    old = input_node(_FLAG, (), dt.bool_)
    new = _carrying(
        body, len(init) - 1, old, old if flag is None else make("bitwise_or", (old, flag))
    )
    if n.name == "scan_op":
        return make(n.op, (new, init, *n.args[2:]), n.source)
    test, unseen = bodies[0]
    if unseen is not None:
        raise Unchecked
    # what goes on with clamped indices might go on for ever
    on = make("bitwise_and", (test.outputs[0], make("bitwise_not", (old,))))
    inputs = (*test.inputs[: len(init) - 1], old, *test.inputs[len(init) - 1 :])
    return make(n.op, (Graph(inputs, [on]), new, init, *n.args[3:]), n.source)


def _carrying(body: Graph, at: int, old: Node, new: Node) -> Graph:
    """A body with one more carry after the first `at` ones."""
    return Graph(
        (*body.inputs[:at], old, *body.inputs[at:]), (*body.outputs[:at], new, *body.outputs[at:])
    )


def _flagged(g: Graph) -> tuple[Graph, Node | None]:
    """A Graph whose loops and branches are checked, and its own flag."""
    flags: list[Node] = []

    def rebuilt(n: Node, args: tuple) -> Node | tuple[Node, ...]:
        new = make(n.op, args, n.source)
        with_flag = checked(new) if new.graphs else None
        if with_flag is None:
            return new
        assert with_flag.outputs is not None
        k = place(with_flag)
        flags.append(item(with_flag, k))
        return tuple(item(with_flag, i) for i in range(len(with_flag.outputs)) if i != k)

    g = g.rewrite(rebuilt)  # type: ignore[arg-type]
    for n in g.nodes():
        if gathers(n):
            uses = dict.fromkeys(u for u in regions.index_uses(n) if u[0].numel())
            flags += [out_of_range(*u) for u in uses]
    unique = list(dict.fromkeys(flags))
    return g, reduce(lambda a, b: make("bitwise_or", (a, b)), unique) if unique else None
