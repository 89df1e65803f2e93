"""`record` written out for an op: which of its parameters hold tensors is known when its function is made.

And other names for what was recorded.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from ..ops.registry import TENSOR, TENSORS, Op, Plan, code_of
from . import tape


def called(out: Any, name: str) -> Any:
    """A result that an op has just made, whose node goes by PyTorch's name for the call that it was made by."""
    if out._fn.__class__ is tape.OpNode:
        out._fn.label = name
    return out


_EDGE = """\
{s}if {x}._base is not None:
{s}    _fresh({x})
{s}if {x}._rg:
{s}    a = {x}._a
{s}    edges.append(({x}._fn or {x}, {x}._idx, a.shape, a.dtype))
{s}    {need}
"""
_SOURCE = """\
def put({params}, out, op, plans, plan_of):
    if DISABLED and get_ident() in DISABLED:
        return
    edges = []
    {start}
{edges}    if not edges:
        return
    d = out._a.dtype
    if d is not _F32 and d is not _F64 and not _differentiable(out):
        return
{key}    plan = plans.get(needed) or plan_of(needed)
    node = _node(OpNode)
    node.op, node.plan, node.edges, node.seq = op, plan, edges, next_seq()
    node.n_out, node.hooks, node.freed, node.outs = 1, None, False, None
    (plan.save or saver(op, plan))(node, ({params},), (out,))
    out._fn, out._rg = node, True
"""


def recorder(op: Op) -> Callable[..., None]:
    """A function of an op's arguments, the tensors among them plain ones, and of its one result: `record` of the call."""
    if not op.rules:
        return lambda *_: None
    listed = bool(op.list_slots)
    edges = []
    for k, i in enumerate(op.tensor_slots):
        x, kind = f"p{i}", op.params[i].kind
        if kind == TENSORS:
            edges.append(f"    for j, y in enumerate({x}):\n")
            edges.append(_EDGE.format(s="        ", x="y", need=f"needed.append(({i}, j))"))
            continue
        need = f"needed.append({i})" if listed else f"needed |= {1 << k}"
        if kind != TENSOR:
            edges.append(f"    if isinstance({x}, Tensor):\n")
        edges.append(_EDGE.format(s="    " if kind == TENSOR else "        ", x=x, need=need))
    source = _SOURCE.format(
        params=", ".join([f"p{i}" for i in range(len(op.params))]), edges="".join(edges),
        start="needed = []" if listed else "needed = 0", key="    needed = tuple(needed)\n" if listed else "",
    )  # fmt: skip
    plans: dict[Any, Plan] = op._plans if listed else {}

    def plan_of(needed: int) -> Plan:
        which = [i for k, i in enumerate(op.tensor_slots) if needed >> k & 1]
        found = plans[needed] = op.plan(tuple(which))
        return found

    given = (op, plans, op.plan if listed else plan_of)
    return types.FunctionType(code_of(source, "<kiln tape>"), tape.__dict__, "put", given)
