"""Siblings: neighbouring elementwise nests over the same loops become one nest with several stores.

An optimizer's update of a parameter is three nests (two moments, the parameter); as one it reads the
gradient once and runs in place. A value that the first nest stores and the second loads at the same
place stays in a register.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from . import loopnest as ln

_MOST_STORES, _MOST_NODES, _MOST_BUFFERS = 12, 160, 24
_FEW = 64


def mergeable(nest: ln.LoopNest) -> bool:
    """Whether a nest only maps elements: one stage of stores, no reductions."""
    return (
        not nest.inner and not nest.final and nest.chunk is None and len(nest.stages) == 1
        and not nest.stages[0].reductions and not {"f16", "bf16"} & set(nest.buffers)
    )  # fmt: skip


def merge(
    a: ln.LoopNest, a_keys: Sequence[Any], b: ln.LoopNest, b_keys: Sequence[Any]
) -> tuple[ln.LoopNest, list[Any]] | None:
    """The nest that does `a` and then `b`, and its buffers; None where they have to stay two.

    `keys` name the buffers: equal keys are the same memory.
    """
    if a.outer != b.outer or not mergeable(a) or not mergeable(b):
        return None
    a_stores, b_stores = a.stages[0].stores, b.stages[0].stores
    if len(a_stores) + len(b_stores) > _MOST_STORES:
        return None
    if not set(a_keys) & set(b_keys) and prod(a.outer) > _FEW:
        return None
    written = {a_keys[s.buffer]: s for s in a_stores}
    b_written = {b_keys[s.buffer] for s in b_stores}
    if any(k in written for k in b_written):
        return None
    for kind, buffer, at in b.accesses():
        if (
            buffer >= 0
            and b_keys[buffer] in written
            and (kind != "load" or at != written[b_keys[buffer]].at)
        ):
            return None
    if any(e.op == "scalar" and b_keys[e.attr[0]] in written for e in ln.walk(b.roots())):
        return None
    for kind, buffer, at in a.accesses():
        if (
            buffer >= 0
            and a_keys[buffer] in b_written
            and (kind != "load" or any(s.at != at for s in b_stores))
        ):
            return None
    keys = list(a_keys)
    buffers = list(a.buffers)
    for k, d in zip(b_keys, b.buffers, strict=True):
        if k not in keys:
            keys.append(k)
            buffers.append(d)
    if len(keys) > _MOST_BUFFERS:
        return None
    number = [keys.index(k) for k in b_keys]

    def moved(e: ln.Expr) -> ln.Expr | None:
        if e.op == "load":
            buffer, at = e.attr
            done = written.get(b_keys[buffer])
            if done is not None:
                return done.expr
            return ln.Expr("load", e.args, e.dtype, (number[buffer], at))
        if e.op in ("gather", "scalar"):
            buffer, at = e.attr
            return ln.Expr(e.op, e.args, e.dtype, (number[buffer], at))
        return None

    exprs = ln.rewrite([s.expr for s in b_stores], moved)
    stores = (
        *a_stores,
        *(ln.Store(number[s.buffer], s.at, e) for s, e in zip(b_stores, exprs, strict=True)),
    )
    if len(ln.walk([s.expr for s in stores])) > _MOST_NODES:
        return None
    both = ln.LoopNest(a.outer, (), tuple(buffers), (ln.Stage((), stores),))
    return None if ln.heightened(both, a, b) else (both.check(), keys)
