"""The passes of backward: gradients on their way down the tape, in descending order of recording.

`on_arrays` is for first-order gradients in eager mode, on plain arrays; `on_tensors` for all others: those that get a
history themselves, those of captured functions, and the watched ones of anomaly mode.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any, cast

import numpy as np

from ..dtypes import bits, float32, float64
from ..formats import contiguous_format, dense, strided
from ..ops.registry import REGISTRY
from ..ops.storing import bump
from ..sharing import watched, written
from ..tensor import CAPTURING, Tensor, _fresh, wrap
from . import hooks
from .tape import ANOMALY, LARGE, OpNode, Part, TapeNode, fit


class Targets:
    """The tensors whose gradients `grad` was asked for, and the nodes that lead to them.

    `nodes` has of each node the part that leads there, None for all of it; `found` the gradients by `keys`.
    """

    def __init__(self, inputs: Sequence[Tensor], roots: Sequence[Tensor]):
        self.found: dict[Any, Tensor] = {}
        self.keys = [(_fresh(x)._fn or x, x._idx if x._fn else 0) for x in inputs]
        self.wanted = set(self.keys)
        self.ends = ends = {k[0] for k in self.keys}
        seen: set[TapeNode] = set()
        stack: list[Any] = [r._fn for r in roots if r._fn is not None]
        while stack:
            n = stack.pop()
            if n not in seen:
                seen.add(n)
                for e in n.edges:
                    if e is not None:
                        to = e[0]
                        if to.__class__ is OpNode or isinstance(to, TapeNode):
                            stack.append(to)
        self.nodes: dict[TapeNode, Part | None] = {}
        self._tensors: dict[int, Tensor] = {}
        nodes = self.nodes
        reached: set[Any] = set(ends)
        # a node is needed if an input is below it: seen in ascending order of recording
        n: Any
        for n in sorted(seen, key=_SEQ):
            edges = n.edges
            if len(edges) == 1:
                e = edges[0]
                if e is not None and e[0] in reached:
                    nodes[n] = None
                    reached.add(n)
                continue
            leads = [e is not None and e[0] in reached for e in edges]
            if True in leads:
                some = False in leads and isinstance(n, OpNode)
                nodes[n] = n.part(tuple(leads)) if some else None
                reached.add(n)

    def tensor(self, a: Any) -> Tensor:
        """The tensor of a gradient's payload: the same for the same one."""
        return self._tensors.setdefault(id(a), _tensor(a))


_SEQ = operator.attrgetter("seq")


def on_tensors(
    roots: Sequence[Tensor],
    grads: Sequence[Tensor],
    retain_graph: bool,
    create_graph: bool,
    targets: Targets | None,
) -> Iterable[list[Any]]:
    """The leaves that gradients are for, these, and whether their memory is ours."""
    # (gradient, whether its memory is ours), or a list of them by output
    pending: dict[TapeNode, Any] = {}
    heap: list[tuple[int, TapeNode]] = []
    leaves: dict[int, list[Any]] = {}

    def deliver(to: Any, idx: int, g: Tensor, owned: bool) -> None:
        """Add a gradient to what a node's output, or a leaf, has received."""
        if to.__class__ is not OpNode and not isinstance(to, TapeNode):
            if targets is None or to in targets.ends:
                known = leaves.get(id(to))
                if known is None:
                    leaves[id(to)] = [to, g, owned]
                else:
                    known[1], known[2] = known[1] + g, True
            return
        old = pending.get(to)
        if old is None:
            heappush(heap, (-to.seq, to))
        if to.n_out == 1:
            pending[to] = (g, owned) if old is None else (old[0] + g, True)
            return
        if old is None:
            old = pending[to] = cast(list, [None] * to.n_out)
        e = old[idx]
        old[idx] = (g, owned) if e is None else (e[0] + g, True)

    for r, g in zip(roots, grads, strict=True):
        deliver(_fresh(r)._fn or r, r._idx if r._fn else 0, g, False)
    while heap:
        node: Any = heappop(heap)[1]
        entry = pending.pop(node)
        if node.n_out == 1:
            gs = [entry[0]]
            ours = entry[1]
        else:
            gs = [None if e is None else e[0] for e in entry]
            ours = all(e is None or e[1] for e in entry)
        if node.hooks is not None:
            gs = hooks.run_output_hooks(node, gs)
        part, edges = None, node.edges
        if targets is not None:
            if node in targets.ends:
                for i, g in enumerate(gs):
                    if (node, i) in targets.wanted and g is not None:
                        targets.found[(node, i)] = g
            if node not in targets.nodes:
                continue
            part = targets.nodes[node]
            if part is not None:
                edges = part[1]
        given = (gs,) if part is None else (gs, part)
        results = ANOMALY[0].run(node, *given) if ANOMALY else node.backward(*given)
        if node.hooks is not None:
            results, edges = _hooked(node, results, edges, gs), node.edges
        if not retain_graph:
            node.free()
        alone = len(results) == 1
        for r, edge in zip(results, edges, strict=True):
            if r is None or edge is None:
                continue
            to, idx, shape, d = edge
            a = r._a
            owned = False  # which nobody asks about where gradients have history
            if a.shape != shape or a.dtype != d:
                r, owned = fit(r, shape, d), True
            elif not create_graph:
                # what is the incoming gradient itself, or goes two ways, may not be kept as it is
                if r is gs[0] or (len(gs) > 1 and any(r is g for g in gs)):
                    owned = alone and ours
                else:
                    owned = alone or sum(r is o for o in results) == 1
            deliver(to, idx, r, owned)
    return leaves.values()


def _hooked(node: TapeNode, results: list, edges: list, gs: list) -> list:
    """What a node's hooks make of its results, which are those of these of its edges."""
    if edges is node.edges:
        return hooks.run_node_hooks(node, results, gs)
    found = {id(e): r for e, r in zip(edges, results, strict=True)}
    return hooks.run_node_hooks(node, [found.get(id(e)) for e in node.edges], gs)


def on_arrays(
    roots: Sequence[Tensor], grads: Sequence[Tensor], retain_graph: bool, targets: Targets | None
) -> list[list[Any]]:
    """`on_tensors` for first-order gradients in eager mode, on plain arrays: the common case, kept short."""
    # (array, whether its memory is ours), or a list of them by output
    pending: dict[TapeNode, Any] = {}
    heap: list[tuple[int, Any]] = []
    leaves: dict[int, list[Any]] = {}
    # the node that is likely to be next, and what it has received: most nodes have one other behind them
    ahead: Any = None
    entry: Any = None

    def deliver(to: TapeNode, idx: int, a: Any, owned: bool) -> None:
        old = pending.get(to)
        if old is None:
            heappush(heap, (-to.seq, to))
        if to.n_out == 1:
            pending[to] = (a, owned) if old is None else (old[0] + a, True)
            return
        if old is None:
            old = pending[to] = cast(list, [None] * to.n_out)
        e = old[idx]
        old[idx] = (a, owned) if e is None else (e[0] + a, True)

    def add_part(edge: Any, place: tuple, g: np.ndarray) -> None:
        """Add the gradient of a part of a tensor to that of the whole, in memory that is only for this."""
        to, idx, shape, d = edge
        node = isinstance(to, TapeNode)
        old = pending.get(to) if node else leaves.get(id(to))
        if old is not None and node and to.n_out > 1:
            old = old[idx]
        if old is not None and old[-1] is _PARTS:
            old[-2][place] += g
            return
        whole = np.zeros(shape, d)
        whole[place] = g
        if old is not None:
            whole = whole + old[-2]
        entry = (whole, _PARTS if whole.__class__ is np.ndarray else True)
        if not node:
            leaves[id(to)] = [to, *entry]
            return
        slots = pending.get(to)
        if slots is None:
            heappush(heap, (-to.seq, to))
            slots = cast(list, [None] * to.n_out)
        if to.n_out == 1:
            pending[to] = entry
        else:
            pending[to] = slots
            slots[idx] = entry

    for r, seed in zip(roots, grads, strict=True):
        fn = _fresh(r)._fn
        if fn is not None:
            deliver(fn, r._idx, seed._a, False)
        elif targets is None or r in targets.ends:
            known = leaves.get(id(r))
            leaves[id(r)] = [r, seed._a if known is None else known[1] + seed._a, known is not None]
    while True:
        if ahead is None:
            if not heap:
                break
            node = heappop(heap)[1]
            entry = pending.pop(node)
        elif heap and heap[0][0] < -ahead.seq:
            heappush(heap, (-ahead.seq, ahead))
            pending[ahead] = entry
            node = heappop(heap)[1]
            entry = pending.pop(node)
        else:
            node = ahead
        ahead, part, edges = None, None, node.edges
        g: Any
        gs: Any = None  # a list of g where that is all
        if node.n_out == 1:
            g, ours = entry
        else:
            g, ours = None, False
            gs = [None if e is None else e[0] for e in entry]
        hooked = None
        if node.hooks is not None:
            gs = gs or [g]
            hooked = hooks.run_output_hooks(node, [None if g is None else _tensor(g) for g in gs])
            gs = [None if g is None else g._a for g in hooked]
            g, ours = gs[0], False
        if targets is not None:
            if node in targets.ends:
                for i, x in enumerate(gs or [g]):
                    if (node, i) in targets.wanted and x is not None:
                        targets.found[(node, i)] = targets.tensor(x)
                ours = False
            if node not in targets.nodes:
                continue
            part = targets.nodes[node]
            if part is not None:
                edges = part[1]
        if hooked is not None:
            results = node.backward(hooked) if part is None else node.backward(hooked, part)
            results, edges = _hooked(node, results, edges, hooked), node.edges
            arrays = [None if r is None else r._a for r in results]
        elif node.__class__ is OpNode:
            place = node.op.part
            if (
                place is not None
                and g.__class__ is np.ndarray
                and (edge := edges[0]) is not None
                and g.dtype is edge[3]
                and (targets is None or isinstance(edge[0], TapeNode) or edge[0] in targets.ends)
            ):
                if node.freed:
                    node.check()
                add_part(edge, place(*node.args[1:]), g)
                if not retain_graph:
                    node.free()
                continue
            plan = node.plan if part is None else part[0]
            quick = plan.quick
            c = g.__class__
            if quick is not None and (
                c is _NUMBER
                or c is _DOUBLE
                or (c is np.ndarray and ((d := g.dtype) is _F32 or d is _F64) and g.size < LARGE)
            ):
                if node.freed:
                    node.check()
                for ver, seen in node.versions:
                    if ver[0] != seen:
                        node.check()
                outs = node.outs
                try:
                    arrays = quick(g, node.args, None if outs is None else outs[0][0], edges)
                except (RuntimeWarning, NotImplementedError):
                    arrays = node.otherwise([g], part)
            else:
                arrays = node.backward_arrays(gs or [g], part)
        elif part is None:
            arrays = node.backward_arrays(gs or [g])
        else:
            arrays = node.backward_arrays(gs or [g], part)
        if not retain_graph:
            node.free()
        n, ids = len(arrays), None
        if n > 1 or gs is not None:
            ours = ours and n == 1
            # ids are looked at one by one only where two are the same
            if n == 2 and gs is None:
                apart = arrays[0] is not arrays[1]
            else:
                apart = (gs is None or len(gs) == 1) and len(set(map(id, arrays))) == n
            if not apart:
                ids = [id(x) for x in (*arrays, *(gs or [g]))]
        for edge, a in zip(edges, arrays, strict=True):
            if a is None or edge is None:
                continue
            # what is the incoming gradient itself, or goes two ways, may not become a leaf's own memory
            owned = (ours or a is not g) if ids is None else ids.count(id(a)) == 1
            to, idx, shape, d = edge
            if a.shape != shape or a.dtype is not d:
                summed = _summed(a, shape) if a.dtype is d else None
                # or a view, whose memory is asked about below
                a, owned = fit(_tensor(a), shape, d)._a if summed is None else summed, True
            if to.__class__ is not OpNode and not isinstance(to, TapeNode):
                if targets is not None and to not in targets.ends:
                    continue
                known = leaves.get(id(to))
                if known is None:
                    leaves[id(to)] = [to, a, owned]
                elif known[2] is _PARTS and a.__class__ is np.ndarray:
                    np.add(known[1], a, known[1])
                else:
                    whole = known[1] + a
                    known[1:] = whole, _PARTS if whole.__class__ is np.ndarray else True
            elif to is ahead:
                entry = (entry[0] + a, True)
            elif to.n_out > 1 or to in pending:
                deliver(to, idx, a, owned)
            elif ahead is None:
                ahead, entry = to, (a, owned)
            elif to.seq > ahead.seq:
                heappush(heap, (-ahead.seq, ahead))
                pending[ahead] = entry
                ahead, entry = to, (a, owned)
            else:
                heappush(heap, (-to.seq, to))
                pending[to] = (a, owned)
    return list(leaves.values())


def add_gradients(leaves: list[list[Any]]) -> None:
    """Add to leaves' `.grad` what `on_arrays` gives for them."""
    parts: set[int] | None = None
    for known in leaves:
        leaf, a, owned = known
        old = leaf._grad
        if (
            old is not None
            and leaf._hooks is None
            and a.__class__ is np.ndarray is (into := old._a).__class__
            and a.dtype is into.dtype
            and a.shape == into.shape
            and old._fn is old._base is None
            and into.flags.writeable
        ):  # nothing to record, promote or broadcast
            if watched:
                written(into)
            np.add(into, a, into)
            bump(old)
            continue
        old = into = None
        if owned and a.__class__ is np.ndarray and isinstance(a.base, np.ndarray):
            a = None
            if parts is None:
                parts = _apart(leaves)
            owned = id(known) in parts
        add_gradient(leaf, _tensor(known[1]), owned, False)


def _summed(a: Any, shape: tuple) -> np.ndarray | None:
    """A gradient summed over the dimensions that broadcasting its input has added; None in other cases."""
    lead = a.ndim - len(shape)
    if a.__class__ is not np.ndarray or lead < 0:
        return None
    if a.size == math.prod(shape):
        return a.reshape(shape)
    kept = a.shape[lead:] != shape
    axes = tuple(range(lead))
    if kept:
        axes += tuple([i + lead for i, s in enumerate(shape) if s == 1 != a.shape[i + lead]])
    if not axes:
        return None
    d = a.dtype
    op = REGISTRY["sum"]
    run = op.reference if a.size < LARGE and (d is _F32 or d is _F64) else op.eager
    r = np.asarray(run(a, axes[0] if len(axes) == 1 else axes, kept))
    if r.shape == shape:
        return r
    return r.reshape(shape) if r.size == math.prod(shape) else None


_F32, _F64 = float32.np, float64.np
_NUMBER, _DOUBLE = _F32.type, _F64.type  # what NumPy makes of 0-d arrays
_PARTS = 2
"""That memory is ours, and holds nothing but a sum of gradients: whoever adds to it may do so in place."""


def _holders(entry: list) -> tuple[int, int]:
    """How often a leaf's gradient, and the array that it is a view of, are referred to."""
    a = entry[1]
    return sys.getrefcount(a), sys.getrefcount(a.base)


_ALONE = _holders([None, np.empty(2)[:1]])


def _apart(entries: Iterable[list]) -> set[int]:
    """The ids of entries whose gradients are parts of arrays that nobody else can reach, no two of them the same part.

    So `.grad` may lie in the gradient of what a leaf was reshaped or joined to, but never in one that the user has.
    """
    groups: dict[int, list[list]] = {}
    for e in entries:
        base = getattr(e[1], "base", None)
        if isinstance(base, np.ndarray):
            groups.setdefault(id(base), []).append(e)
    base = None
    found: set[int] = set()
    for group in groups.values():
        free = all(_holders(e) == (_ALONE[0], _ALONE[1] + len(group) - 1) for e in group)
        if free and all(dense(e[1]) for e in group):
            bounds = sorted((e[1].ctypes.data, e[1].nbytes) for e in group)
            if all(a + n <= b for (a, n), (b, _) in pairwise(bounds)):
                found.update(map(id, group))
    return found


def _tensor(a: Any) -> Tensor:
    """A tensor of a payload: an array, or that of a sparse gradient."""
    if a.__class__ is np.ndarray:
        return wrap(a)
    if isinstance(a, np.generic):
        return wrap(np.asarray(a))
    return a.tensor()


def add_gradient(leaf: Tensor, g: Tensor, owned: bool, create_graph: bool) -> None:
    """Add a gradient to a leaf's `.grad`; its first one is stored in memory of its own, as it is where `owned`.

    It lies as the leaf does, where that is dense, as PyTorch has it.
    """
    if leaf._hooks is not None:
        hooked = hooks.run_tensor_hooks(leaf, g)
        g, owned = hooked, owned and hooked is g
    old = leaf.grad if CAPTURING else leaf._grad
    if old is None:
        if not create_graph and (CAPTURING or g._a.__class__ is np.ndarray):
            a, like = g._a, leaf._a
            if (
                a.__class__ is np.ndarray is like.__class__
                and not like.flags.c_contiguous
                and dense(like)
            ):
                if a.strides != like.strides or not (owned and a.flags.writeable):
                    a = np.empty_like(like, a.dtype)
                    np.copyto(a, g._a)
            elif not CAPTURING and not (owned and a.flags.c_contiguous and a.flags.writeable):
                if a.flags.c_contiguous:
                    a = bits(a).copy().view(a.dtype)
                else:
                    a = REGISTRY["clone"].eager(a, contiguous_format)
            g = wrap(a)
        if CAPTURING:
            leaf.grad = g
        else:
            leaf._grad = g
    elif create_graph or g.layout is not strided or old.layout is not strided:
        leaf.grad = old + g
    else:
        old.add_(g)
    if leaf._hooks is not None:
        hooks.run_post_accumulate(leaf)
