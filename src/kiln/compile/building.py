"""Nodes as a capture makes them: casts and constants that eager ops imply are explicit in a Graph."""

from __future__ import annotations

from .. import dtypes as dt
from ..graph.node import Node, const, make
from ..ops.derive import compute_dtype
from ..ops.registry import Op


def build(op: Op, values: list, source: str = "") -> Node:
    """A node with explicit casts and constants: operands of an elementwise op get one dtype."""
    if op.family in ("elementwise", "select"):
        slots = [i for i in op.tensor_slots if values[i] is not None]
        if op.family == "select":
            slots = slots[1:]
            want = dt.result_type(*[values[i] for i in slots])
            cond = values[op.tensor_slots[0]]
            if cond.dtype is not dt.bool_:
                values[op.tensor_slots[0]] = make("ne", (cond, const(0, cond.dtype)), source)
        else:
            assert op.infer is not None
            op.infer(*values)
            want = compute_dtype(op, [values[i] for i in slots])
            if op.promote == "div":
                want = op.infer(*values)[1]
        for i in slots:
            x = values[i]
            if not isinstance(x, Node):
                values[i] = const(x, want)
            elif x.dtype is not want:
                values[i] = make("cast", (x, want), source)
    elif op.family == "movement" and op.name == "cat":
        want = op.infer(*values)[1]  # type: ignore[misc]
        values[0] = tuple(
            x if x.dtype is want else make("cast", (x, want), source) for x in values[0]
        )
    return make(op, values, source)
