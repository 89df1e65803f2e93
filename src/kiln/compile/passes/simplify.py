"""Simplify: algebraic identities, casts and movements that cancel, constants folded."""

from __future__ import annotations

from typing import Any

import numpy as np

from ... import dtypes as dt
from ...graph.node import CONST, Graph, Node, const, make, remade
from ...ops.registry import Op
from ...shape import norm_dim


def scalar_of(n: Node) -> Any:
    """The number that a node is everywhere; None where it is not one constant."""
    while n.name in ("expand", "reshape"):
        n = n.args[0]
    if n.op is CONST:
        return n.args[0]
    return n.args[1] if n.name == "full" else None


def _spread(x: Node, like: Node) -> Node | None:
    """x in the shape of another node of the same dtype."""
    if x.dtype is not like.dtype:
        return None
    return x if tuple(x.shape) == tuple(like.shape) else make("expand", (x, tuple(like.shape)))


# Rules: op name -> function(node) -> replacement or None. Each is exact in floating point: x*1, x/1, x-0
# and x+(-0.0) keep every bit; x+0.0 turns -0.0 into 0.0, so it stays, and so does complex arithmetic,
# whose imaginary part goes through products with zero.


def _add(n: Node) -> Node | None:
    if n.args[2] != 1 or n.dtype.category > dt.FLOAT:
        return None
    for x, y in ((n.args[0], n.args[1]), (n.args[1], n.args[0])):
        v = scalar_of(y)
        if v is not None and v == 0 and (n.dtype.category <= dt.INT or np.signbit(v)):
            return _spread(x, n)
    return None


def _sub(n: Node) -> Node | None:
    v = scalar_of(n.args[1])
    if n.args[2] != 1 or n.dtype.category > dt.FLOAT:
        return None
    return _spread(n.args[0], n) if v is not None and v == 0 and not np.signbit(v) else None


def _mul(n: Node) -> Node | None:
    for x, y in ((n.args[0], n.args[1]), (n.args[1], n.args[0])):
        if n.dtype.category <= dt.FLOAT and scalar_of(y) == 1:
            return _spread(x, n)
    return None


def _pow(n: Node) -> Node | None:
    x, v = n.args[0], scalar_of(n.args[1])
    if n.dtype.category > dt.FLOAT or tuple(x.shape) != tuple(n.shape):
        return None
    if v in (0.5, -0.5) and x.dtype is n.dtype:  # which differ from powers at -0 and -inf
        return make("sqrt" if v > 0 else "rsqrt", (x,))
    if v == 3:
        return make("mul", (make("mul", (x, x)), x))
    return x if v == 1 else make("mul", (x, x)) if v == 2 else None


def _div(n: Node) -> Node | None:
    if n.dtype.category > dt.FLOAT or n.args[2] is not None:
        return None
    return _spread(n.args[0], n) if scalar_of(n.args[1]) == 1 else None


def _cast(n: Node) -> Node | None:
    x, d = n.args
    if x.dtype is d:
        return x
    if x.op is CONST:
        with np.errstate(all="ignore"):
            exact = (
                d.category >= x.dtype.category
            )  # else NaN and imaginary parts ask for the kernel's rule
            return const(np.asarray(x.args[0], x.dtype.np).astype(d.np)[()], d) if exact else None
    if x.name == "cast":
        inner = x.args[0].dtype
        wider = x.dtype.itemsize - inner.itemsize
        if (
            inner.category == x.dtype.category <= d.category
            and (wider > 0 or (wider == 0 and inner.is_signed == x.dtype.is_signed))
            and dt.promote_types(inner, x.dtype) is x.dtype
        ):
            return make("cast", (x.args[0], d), n.source)
    return None


def _reshape(n: Node) -> Node | None:
    x = n.args[0]
    if tuple(x.shape) == tuple(n.shape):
        return x
    if x.name == "reshape":
        return make("reshape", (x.args[0], tuple(n.shape)), n.source)
    return None


def _permute(n: Node) -> Node | None:
    x, dims = n.args
    order = tuple(d % max(len(dims), 1) for d in dims)
    if order == tuple(range(len(order))):
        return x
    if x.name == "permute":
        inner = tuple(d % len(order) for d in x.args[1])
        return make("permute", (x.args[0], tuple(inner[d] for d in order)), n.source)
    return None


def _expand(n: Node) -> Node | None:
    x = n.args[0]
    if tuple(x.shape) == tuple(n.shape):
        return x
    return make("expand", (x.args[0], tuple(n.shape)), n.source) if x.name == "expand" else None


def _slice(n: Node) -> Node | None:
    x, start, stop, step = n.args
    whole = all(
        a == 0 and b >= s and c == 1 for a, b, c, s in zip(start, stop, step, x.shape, strict=True)
    )
    return x if whole else None


def _pad(n: Node) -> Node | None:
    return n.args[0] if not any(n.args[1]) and not any(n.args[2]) else None


def _clone(n: Node) -> Node | None:
    return n.args[0]  # values are immutable in a Graph


def _view_update(n: Node) -> Node | None:
    _x, v, chain = n.args
    return v if not chain else None


def _gather(n: Node) -> Node | None:
    """Few elements of an elementwise result are computed from as many of its operands: the log
    probabilities of the targets need no array of all of them."""
    x, dim, index = n.args[:3]
    if not isinstance(x.op, Op) or x.op.family not in ("elementwise", "cast", "select"):
        return None
    d = norm_dim(dim, len(x.shape)) if x.shape else 0
    like = [s for i, s in enumerate(x.shape) if i != d]
    if 4 * index.numel() > x.numel() or like != [s for i, s in enumerate(index.shape) if i != d]:
        return None

    def fits(a: Node) -> bool:  # the whole shape, or broadcast along the dimension alone
        return len(a.shape) == len(x.shape) and all(
            s == t or (i == d and s == 1)
            for i, (s, t) in enumerate(zip(a.shape, x.shape, strict=True))
        )

    if not all(a.op is CONST or fits(a) for a in x.inputs):
        return None

    def moved(a: Any) -> Any:
        if not isinstance(a, Node) or a.op is CONST or a.shape[d] == 1:
            return a
        part = make("gather", (a, *n.args[1:]), n.source)
        return _gather(part) or part

    return make(x.op, tuple(map(moved, x.args)), n.source)


RULES = {
    "add": _add, "sub": _sub, "mul": _mul, "pow": _pow, "div": _div, "cast": _cast, "reshape": _reshape,
    "permute": _permute, "expand": _expand, "slice": _slice, "pad": _pad, "clone": _clone,
    "view_update": _view_update, "gather": _gather,
}  # fmt: skip


def _fold(n: Node) -> Node | None:
    """An elementwise op on constants, computed now by the reference."""
    assert isinstance(n.op, Op)
    if (
        n.op.family not in ("elementwise", "select")
        or n.shape != ()
        or not all(x.op is CONST for x in n.inputs)
    ):
        return None
    with np.errstate(all="ignore"):
        args = [np.asarray(a.args[0], a.dtype.np) if isinstance(a, Node) else a for a in n.args]
        return const(np.asarray(n.op.run(*args))[()], n.dtype)


def simplify(graph: Graph) -> Graph:
    """The Graph with every rule applied wherever it matches, from inputs to outputs."""

    def visit(n: Node, args: tuple) -> Node:
        new = remade(n, args)
        for _ in range(8):
            if new.outputs is not None or not isinstance(new.op, Op):
                return new
            rule = RULES.get(new.name)
            better = (rule(new) if rule is not None else None) or _fold(new)
            if better is None:
                return new
            new = better
        return new

    return graph.rewrite(visit)
