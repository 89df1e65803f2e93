"""The loop nest of one materialised node: elementwise, or a reduction with what only finishes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..graph.node import Node
from . import loopnest as ln
from . import maps
from .maps import Affine, NotAffine, Split
from .orders import Strides, row_major
from .regions import REDUCTIONS, Region, Unfusable, fusable, ln_dtype, reduced_dims, reducible

Stored = Callable[[Node], bool]


def write(n: Node, stored: Stored, strides: Strides = row_major) -> tuple[ln.LoopNest, list[Any]]:
    """The nest that computes a node into its own memory, and the nodes of its buffers.

    A reduction that only feeds this node is computed in the same nest. Loops are cut in two where a
    reshape below needs it. Raises Unfusable for a node that has to be in memory first.
    """

    def elsewhere(x: Node) -> bool:  # the node's own value is computed, not loaded
        return x is not n and stored(x)

    root = _reduction_below(n, elsewhere)
    inner = [root.args[0].shape[i] for i in reduced_dims(root)] if root is not None else []
    # the loops of n's dimensions, then the reduced ones; a group of loops walks one dimension
    dims = [*n.shape, *inner]
    groups = [[i] for i in range(len(dims))]
    for _ in range(64):
        region = Region(dims, elsewhere, strides)
        access = maps.identity(dims, groups)
        try:
            if root is None:
                return _nest(region, n, access, region.expr(n, access), len(dims), ())
            return _reduction(region, n, root, access, groups)
        except Split as cut:
            dims, groups = maps.split_dims(dims, groups, cut)
        except NotAffine:
            raise Unfusable(root if root is not None and root is not n else n.inputs[0]) from None
    raise Unfusable(n)


def _nest(
    region: Region,
    n: Node,
    access: Sequence[Affine],
    value: ln.Expr,
    outer: int,
    reductions: tuple[ln.Reduction, ...],
) -> tuple[ln.LoopNest, list[Any]]:
    """A nest that stores `value` as n: in its stage, or after the stage that reduces."""
    d = ln_dtype(n.dtype)
    assert d is not None
    stores = (ln.Store(region.buffer(n, d), region.position(access, n), value),)
    stage = ln.Stage(reductions, () if reductions else stores)
    buffers = tuple(dtype for _, dtype in region.buffers)
    nest = ln.LoopNest(
        region.dims[:outer], region.dims[outer:], buffers, (stage,), stores if reductions else ()
    )
    return nest, [key for key, _ in region.buffers]


def _reduction_below(n: Node, stored: Stored) -> Node | None:
    """The reduction that a node computes or finishes: the one below it through same-sized nodes."""
    if reducible(n):
        return n
    seen: set[Node] = set()
    found: list[Node] = []
    stack = [n]
    while stack:
        x = stack.pop()
        if x in seen or stored(x):
            continue
        seen.add(x)
        if reducible(x):
            found.append(x)
        elif fusable(x):
            stack.extend(x.inputs)
    if not found:
        return None
    if len(found) > 1 or found[0].numel() != n.numel():
        raise Unfusable(found[0])
    return found[0]


def _reduction(
    region: Region, n: Node, root: Node, access: tuple[Affine, ...], groups: list[list[int]]
) -> tuple[ln.LoopNest, list[Any]]:
    """The nest of reduction `root` and of n, which is it or finishes it."""
    x = root.args[0]
    own, inner = access[: len(n.shape)], iter(access[len(n.shape) :])
    at = (
        own
        if tuple(root.shape) == tuple(n.shape)
        else maps.reshape(own, n.shape, root.shape, region.dims)
    )
    reduced = reduced_dims(root)
    kept = iter(a for i, a in enumerate(at) if not (root.args[2] and i in reduced))
    source = tuple(next(inner) if i in reduced else next(kept) for i in range(len(x.shape)))
    value = region.expr(x, source)
    d = ln_dtype(root.dtype)
    assert d is not None
    kind = REDUCTIONS[root.name]
    carried = "bool" if kind in ("any", "all") else d
    if kind in ("sum", "prod", "any", "all"):
        value = ln.cast(value, carried)
    result = ln.cast(ln.ref(0, 0, carried), d)
    if root is not n:
        region.leaves[root] = (at, result)
        region.memo.clear()
        result = region.expr(n, own)
    outer = sum(len(g) for g in groups[: len(n.shape)])
    return _nest(region, n, own, result, outer, (ln.Reduction(kind, value, carried),))
