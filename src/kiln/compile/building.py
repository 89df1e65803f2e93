"""Nodes as a capture makes them: casts and constants that eager ops imply are explicit in a Graph."""

from __future__ import annotations

from typing import Any

from .. import dtypes as dt
from ..graph.node import Node, const, make
from ..ops.half_floats import HALF, rounded, wide
from ..ops.registry import Op
from ..ops.runners import compute_dtype


def _beside(op: Op, slot: int, x: Any, half: dt.dtype) -> bool:
    """Whether an operand beside half floats has digits that are to stay: Note [Numbers beside half floats]."""
    if isinstance(x, Node):
        return not x.shape and x.dtype in (dt.float32, dt.float64) and wide(op, slot, x)
    return wide(op, slot, x) and rounded(x, half) != x


def _as(d: dt.dtype, x: Any, source: str) -> Node:
    if not isinstance(x, Node):
        return const(x, d)
    return x if x.dtype is d else make("cast", (x, d), source)


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
            if want.np in HALF and any(_beside(op, i, values[i], want) for i in slots):
                for i in slots:
                    values[i] = _as(dt.float32, values[i], source)
                return make("cast", (make(op, values, source), want), source)
        for i in slots:
            values[i] = _as(want, values[i], source)
    elif op.family == "movement" and op.name == "cat":
        want = op.infer(*values)[1]  # type: ignore[misc]
        values[0] = tuple(
            x if x.dtype is want else make("cast", (x, want), source) for x in values[0]
        )
    return make(op, values, source)
