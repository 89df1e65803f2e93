"""The legality spec: what holds for every Graph between passes."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError
from ..ops.registry import Op
from .node import CONST, INPUT, ITEM, LITERAL, Graph, Node

_PLAIN = (int, float, complex, bool, str, type(None), dt.dtype)


def _fail(stage: str, n: Node, why: str) -> NoReturn:
    raise KilnError("graph", f"illegal after pass '{stage}': {why}", repr(n) + (f" from {n.source}" if n.source else ""),
                    "this is a bug in Kiln's compiler: please report it with KILN_DEBUG=4 output")  # fmt: skip


def check(g: Graph, stage: str = "capture") -> None:
    """Raise where a node breaks the spec; `stage` names the pass that ran last."""
    for i, n in enumerate(g.inputs):
        if n.op is not INPUT or n.args[0] != i:
            _fail(stage, n, f"input {i} is not input node {i}")
    known = set(g.inputs)
    for n in g.nodes():
        if n.op is INPUT and n not in known:
            _fail(stage, n, "an input that the Graph does not declare")
        if n.legal:
            continue
        for x in n.inputs:
            if x.outputs is not None and n.op is not ITEM:
                _fail(stage, n, "uses a node of several outputs without item")
        if n.op is ITEM and (
            n.args[0].outputs is None or (n.shape, n.dtype) != n.args[0].outputs[n.args[1]]
        ):
            _fail(stage, n, "not an item of a node of several outputs")
        if n.op in (CONST, LITERAL, INPUT, ITEM):
            n.legal = True
            continue
        assert isinstance(n.op, Op)
        if len(n.args) != len(n.op.params):
            _fail(stage, n, f"{len(n.args)} arguments for {len(n.op.params)} parameters")
        for a in n.args:
            _check_arg(stage, n, a)
        assert n.op.infer is not None
        try:
            r = n.op.infer(*n.args)
        except KilnError as e:
            _fail(stage, n, f"its shape rule refuses its arguments: {e.what}")
        want = [(tuple(s), d) for s, d in (r if isinstance(r, list) else [r])]
        have = [(n.shape, n.dtype)] if n.outputs is None else n.outputs
        if want != [(tuple(s), d) for s, d in have]:
            _fail(
                stage, n, "its shape rule gives " + ", ".join(f"{d.abbr}{list(s)}" for s, d in want)
            )
        if n.op.family == "elementwise":
            kinds = {x.dtype for x in n.inputs}
            if len(kinds) > 1:
                _fail(stage, n, "operands of several dtypes; casts are explicit in a Graph")
        n.legal = True
    for o in g.outputs:
        if o.outputs is not None:
            _fail(stage, o, "a node of several outputs is an output without item")
    if len(set(g.updates.values())) != len(g.updates):
        _fail(stage, g.inputs[0], "an input is updated twice")
    for k, i in g.updates.items():
        a, b = g.outputs[k], g.inputs[i]
        if tuple(a.shape) != tuple(b.shape) or a.dtype is not b.dtype:
            _fail(stage, a, f"updates input {i} of another type, {b!r}")


def _check_arg(stage: str, n: Node, a: Any) -> None:
    if isinstance(a, tuple):
        for x in a:
            _check_arg(stage, n, x)
    elif isinstance(a, Graph):
        check(a, stage)
    elif not isinstance(a, (Node, *_PLAIN)) or isinstance(a, np.generic):
        _fail(stage, n, f"an argument of type {type(a).__name__}")
