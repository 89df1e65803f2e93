"""From a Graph to launches: which kernel computes which node, from what memory, in what order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import numpy as np

from ... import dtypes as dt
from ...compile import loopnest as ln
from ...compile import maps, nests, orders, regions, views
from ...compile.regions import Unfusable, fusable, ln_dtype, reducible
from ...config import config
from ...graph.node import (
    CONST,
    INPUT,
    ITEM,
    LITERAL,
    Graph,
    Leaf,
    Node,
    input_node,
    literal,
    make,
)
from ...shape import norm_dim
from . import attention, checked, contract, control, indexed
from .isa import Isa
from .kernel import Kernel

_MOST_PHASES, _MOST_TAPS = 9, 32
"""How many nests, and reads in all of them, a `windows_grad` may be written out as."""
_MOST_PIECES = 8
"""How many pieces of a `cat` one nest may store."""


@dataclass
class Launch:
    """One kernel with its argument table, a host call of an op's reference, or a loop or branch.

    An argument is a node, (node, offset in elements), "workspace" or None; `writes` are the nodes
    whose memory it fills (in place of part of it where `partial`). What is `ahead` lays out an operand
    that stays the same: a loop runs it once, before its first step.
    """

    arguments: list[Any]
    writes: list[Node]
    kernel: Kernel | None = None
    host: Node | None = None
    nest: ln.LoopNest | None = None
    control: control.Control | None = None
    partial: bool = False
    ahead: bool = False
    reads: set[Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        for a in self.arguments:
            n = a[0] if isinstance(a, tuple) else a
            if isinstance(n, Node) and (n not in self.writes or self.host):
                self.reads.add(n)


def lowers(n: Node) -> bool:
    """Whether the backend takes a node as it is, without its body."""
    if isinstance(n.op, Leaf):
        return True
    if n.op.scalar is not None and any(
        ln_dtype(x.dtype) is None for x in (n, *n.inputs) if x.outputs is None
    ):
        return True  # complex arithmetic is a host call
    return special(n) or regions.scalar_op(n) is not None


def special(n: Node) -> bool:
    """Whether a node has a kernel of another kind than a loop nest, or bodies."""
    return bool(n.graphs) or contract.lowers(n) or attention.lowers(n) or indexed.lowers(n)


def strided(n: Node) -> bool:
    """Whether a node's kernel reads operands through strides, whatever lies between them."""
    return (n.name == "matmul" and contract.lowers(n)) or attention.lowers(n)


def is_host(n: Node) -> bool:
    """Whether a node is computed by its reference, on the host."""
    if isinstance(n.op, Leaf) or (
        n.name in ("cat", "view_update", "windows_grad") and ln_dtype(n.dtype) is not None
    ):
        return False
    return not (fusable(n) or reducible(n) or special(n))


def has_kernel(n: Node) -> bool:
    """Whether a node is never an expression inside somebody else's loops."""
    if isinstance(n.op, Leaf):
        return False
    return special(n) or is_host(n) or n.name == "view_update"


class Lowering:
    """The state of lowering one Graph."""

    def __init__(
        self, graph: Graph, isa: Isa, images: bool, steady: frozenset[Node], checking: bool
    ):
        self.graph, self.isa, self.steady, self.checking = graph, isa, steady, checking
        self.order = graph.nodes()
        self.chosen, self.users = regions.choose(graph, has_kernel, not config.no_fuse, strided)
        self.outputs = set(graph.outputs)
        self.memory: set[Node] = {n for n in self.order if n.op in (INPUT, LITERAL)} | set(
            self.chosen
        )
        for n in self.order:
            if n.op is ITEM:
                self.memory.add(n)
            if n.name == "cat" or (n.name == "windows_grad" and not fusable(n)):
                self.memory.add(n)
        self.last: frozenset[Node] = frozenset()
        if images:
            self.last = orders.channels_last(
                graph, contract.channels_last_gain, self.row_major_only()
            )
        self.memory.update(n for n in self.order if self.transposed_often(n))
        self.chosen = [
            n
            for n in self.order
            if (n in self.memory and not isinstance(n.op, Leaf))
            or (n in self.outputs and n.op is CONST)
        ]
        self.launches: list[Launch] = []
        self.checks: list[
            tuple[Node, Node]
        ] = []  # (flag, gather): the flag says that an index is out of range
        self.done: set[Node] = {n for n in self.order if n.op in (INPUT, LITERAL)}

    def stored(self, n: Node) -> bool:
        """Whether a node's values lie in memory."""
        return n in self.memory

    def strides(self, n: Node) -> tuple[int, ...]:
        """The strides, in elements, with which a node lies in memory."""
        return orders.channels_inside(n) if n in self.last else orders.row_major(n)

    def transposed_often(self, n: Node) -> bool:
        """Whether a value crosses between orders where each element is read or made of several: one copy is less."""
        if n not in self.last:
            return False
        if regions.taps(n):
            return any(u not in self.last for u in self.users[n])
        return (
            n.name == "reshape"
            and n.args[0] not in self.last
            and any(u.outputs is None and u.numel() > n.numel() for u in self.users[n])
        )

    def row_major_only(self) -> Iterator[Node]:
        """Nodes that kernels read or write in the order of their dimensions."""
        for n in self.order:
            if n.name in ("matmul", "_int_mm"):
                yield n
            elif special(n) and n.name not in orders.CONVOLUTIONS:
                yield n
                yield from n.inputs

    def run(self) -> list[Launch]:
        """Every launch, each after those whose results it reads."""
        for n in self.chosen:
            self.settle(n)
        for n in self.order:
            if self.checking and checked.gathers(n):
                self.check_indices(n)
        return self.launches

    def check_indices(self, n: Node) -> None:
        """Compute whether a gather's indices are in range; the Program asks before it changes state."""
        for index, size, wraps in regions.index_uses(n):
            if index.numel() == 0:
                continue
            if index not in self.memory and index.op is not CONST:  # the error will tell of it
                self.memory.add(index)
                self.settle(index)
            flag = checked.out_of_range(index, size, wraps)
            if (flag, n) not in self.checks:
                self.checks.append((flag, n))
                if flag not in self.memory:
                    self.memory.add(flag)
                    self.settle(flag)

    def settle(self, n: Node) -> None:
        """Emit what computes a node, after whatever has to be in memory first."""
        stack = [n]
        tries = 0
        while stack:
            top = stack[-1]
            if top in self.done:
                stack.pop()
                continue
            waiting = self.missing(top)
            if waiting:
                stack.extend(waiting)
                continue
            tries += 1
            if tries > 10_000:
                raise RecursionError(f"lowering {n!r} does not end")
            mark = len(self.launches)
            try:
                self.emit(top)
                self.done.add(top)
                stack.pop()
            except Unfusable as e:
                del self.launches[mark:]
                if e.node is top:
                    if e.node.name in ("pad",) or fusable(top) or reducible(top):
                        self.memory.update(x for x in top.inputs if x.op is not CONST)
                        if all(x in self.memory for x in top.inputs):
                            self.launches.append(self.host(top))
                            self.done.add(top)
                            stack.pop()
                        continue
                    raise
                self.memory.update((e.node, *e.further))
                stack += (e.node, *e.further)

    def missing(self, n: Node) -> list[Node]:
        """Materialised nodes that a node reads, through expressions, and that are not computed yet."""
        out: list[Node] = []
        seen: set[Node] = set()
        stack = list(n.inputs)
        while stack:
            x = stack.pop()
            if x in seen:
                continue
            seen.add(x)
            if x in self.memory:
                if x not in self.done:
                    out.append(x)
            else:
                stack.extend(x.inputs)
        return out

    # ---- one node

    def emit(self, n: Node) -> None:
        """Append the launches that compute a node."""
        if n.op is ITEM:
            return  # its producer wrote it
        if contract.lowers(n):
            c = self.contraction(n)
            self.memory.add(c.result)
            if c.result is not n:
                self.memory.discard(n)
            self.done.add(c.result)
            return
        if n.graphs:
            control.emit(self, n)
        elif attention.lowers(n):
            attention.lower(self, n)
        elif indexed.lowers(n):
            indexed.emit(self, n)
        elif n.name == "cat" and not is_host(n):
            self.cat(n)
        elif n.name == "view_update" and not is_host(n):
            self.view_update(n)
        elif n.name == "windows_grad" and not is_host(n) and not fusable(n):
            self.windows_grad(n)
        elif is_host(n):
            for x in n.inputs:
                if x not in self.memory:
                    raise Unfusable(x)
            self.launches.append(self.host(n))
        else:
            nest, keys = nests.write(n, self.stored, self.strides)
            self.nest(nest, keys, [n])

    def contraction(self, n: Node) -> contract.Contraction:
        """Append the launch of a contraction with what its epilogue takes in, and that of its packing."""

        def lowered(users: dict[Node, list[Node]]) -> contract.Contraction:
            return contract.lower(
                n, users, self.outputs, self.stored, self.strides, self.isa, self.steady
            )

        c = lowered(self.users)
        if c.result is not n and any(
            isinstance(x, Node) and x not in self.done and x is not c.result for x in c.arguments
        ):
            c = lowered({**self.users, n: []})
        if c.packing is not None:
            kernel, size = c.packing
            packed = input_node(-1 - len(self.launches), (size,), dt.uint8, "packed")
            arguments = [None, None, c.arguments[2], packed]
            self.launches.append(Launch(arguments, [packed], kernel, ahead=True))
            c.arguments[2] = packed
        self.launches.append(Launch(c.arguments, [c.result], c.kernel))
        return c

    def nest(
        self, nest: ln.LoopNest, keys: list[Any], writes: list[Node], partial: bool = False
    ) -> None:
        """Append a loop nest's launch; its kernel is made when all nests are known (`fuse`)."""
        self.launches.append(
            Launch([*keys, contract.WORKSPACE], writes, nest=nest, partial=partial)
        )

    def host(self, n: Node) -> Launch:
        """A call of the op's reference."""
        writes = (
            list(dict.fromkeys(x for x in self.users[n] if x.op is ITEM))
            if n.outputs is not None
            else [n]
        )
        self.memory.update(writes)
        return Launch(list(n.inputs), writes, host=n)

    def store(self, source: Node, whole: Node, place: Callable, first: bool) -> None:
        """Store one node, as `store_all`."""
        self.store_all([(source, place)], whole, first)

    def store_all(self, parts: Sequence[tuple[Node, Callable]], whole: Node, first: bool) -> None:
        """Store nodes of one shape, from memory or computed in the same loops, in parts of another node's memory.

        Each comes with `place(dims, access)`: the access of `whole` at which its value at `access` goes.
        """
        dims = list(parts[0][0].shape)
        groups = [[i] for i in range(len(dims))]
        d = ln_dtype(whole.dtype)
        assert d is not None
        for _ in range(64):
            region = regions.Region(dims, self.stored, self.strides)
            access = maps.identity(dims, groups)
            stores = []
            try:
                for source, place in parts:
                    value = region.expr(source, access)
                    at = region.position(place(dims, access), whole)
                    target: Any = whole
                    if len(parts) == 1 and at.offset:  # in the address: equal parts share a kernel
                        target, at = (whole, at.offset), ln.IndexMap(0, at.strides)
                    stores.append(ln.Store(region.buffer(target, d), at, value))
            except maps.Split as cut:
                dims, groups = maps.split_dims(dims, groups, cut)
                continue
            nest = ln.elementwise(dims, [b for _, b in region.buffers], stores)
            self.nest(nest, [k for k, _ in region.buffers], [whole], partial=not first)
            return
        raise Unfusable(parts[0][0])

    def cat(self, n: Node) -> None:
        """Each piece is stored in its own part of the result; a few that are alike, in the same loops."""
        pieces = [x for x in n.args[0] if not (len(x.shape) == 1 and x.shape[0] == 0)]
        d = norm_dim(n.args[1], len(n.shape)) if n.shape else 0
        at = 0
        parts: list[tuple[Node, Callable]] = []
        for x in pieces:

            def place(dims: Any, access: Any, base: int = at) -> Any:
                return (*access[:d], access[d].scaled(1, base), *access[d + 1 :])

            parts.append((x, place))
            at += x.shape[d]
        alike = len(pieces) <= _MOST_PIECES and len({tuple(x.shape) for x in pieces}) == 1
        blocked: list[Node] = []  # by all pieces: to try again after each would take long
        for k, group in enumerate([parts] if alike else [[p] for p in parts]):
            try:
                self.store_all(group, n, k == 0)
            except Unfusable as e:
                blocked += (e.node, *e.further)
        if blocked:
            raise Unfusable(*dict.fromkeys(blocked))
        if not pieces:
            self.launches.append(Launch([], [n]))

    def view_update(self, n: Node) -> None:
        """The base is copied, then the viewed part is stored over it."""
        base, value, chain = n.args
        if value not in self.memory and not fusable(value):
            raise Unfusable(value)
        probe = base
        steps: list[Node] = []
        for name, rest in chain:
            probe = make(name, (probe, *rest))
            steps.append(probe)

        def place(dims: Any, access: Any) -> Any:
            for s in reversed(steps):
                if s.name == "basic_index":
                    access = _through_index(s, access, len(dims))
                elif s.name in views.VIEWS:
                    access = views.through(s, access, dims)
                else:
                    raise Unfusable(n)
            return access

        mark = len(self.launches)
        try:
            self.store(base, n, whole, True)
            self.store(value, n, place, False)
        except (Unfusable, maps.NotAffine) as e:
            del self.launches[mark:]
            for x in (base, value):
                if x not in self.memory:
                    raise Unfusable(x) from None
            if isinstance(e, Unfusable) and e.node is not n and e.node not in self.memory:
                raise
            self.launches.append(self.host(n))

    def windows_grad(self, n: Node) -> None:
        """Overlap-add by reading: each element sums what the windows over it hold.

        Elements `stride` apart along a dimension lie under the same taps, so each residue is a nest of
        its own, in which the windows over an element are at fixed distances.
        """
        g, size, kernel, stride, dilation = n.args
        lead = len(n.shape) - len(kernel)
        phases = [
            p
            for p in product(*map(range, stride))
            if all(a < s for a, s in zip(p, size, strict=True))
        ]
        if len(phases) > _MOST_PHASES or prod(kernel) > _MOST_TAPS:
            self.windows_grad_by_index(n)
            return
        d = ln_dtype(n.dtype)
        assert d is not None
        mark = len(self.launches)
        for phase in phases:
            steps = [-((p - s) // t) for p, s, t in zip(phase, size, stride, strict=True)]
            dims = [*n.shape[:lead], *steps]
            region = regions.Region(dims, self.stored, self.strides)
            access = maps.identity(dims, [[i] for i in range(len(dims))])
            total: ln.Expr | None = None
            for tap in product(*map(range, kernel)):
                # window * stride + tap * dilation = element = index * stride + phase
                ahead = [p - k * a for p, k, a in zip(phase, tap, dilation, strict=True)]
                if any(a % t for a, t in zip(ahead, stride, strict=True)):
                    continue
                shift = [a // t for a, t in zip(ahead, stride, strict=True)]
                bounds = [
                    (lead + i, max(-s, 0), min(g.shape[lead + i] - s, dims[lead + i]))
                    for i, s in enumerate(shift)
                ]
                at = (
                    *access[:lead],
                    *(access[lead + i].scaled(1, s) for i, s in enumerate(shift)),
                    *(maps.constant(len(dims), k) for k in tap),
                )
                try:
                    part = region.guarded(g, at, bounds)
                except (maps.Split, maps.NotAffine):
                    raise Unfusable(g) from None
                total = part if total is None else ln.apply("add", total, part)
            place = (
                *access[:lead],
                *(
                    access[lead + i].scaled(t, p)
                    for i, (t, p) in enumerate(zip(stride, phase, strict=True))
                ),
            )
            store = ln.Store(
                region.buffer(n, d), region.position(place, n), total or ln.const(0, d)
            )
            nest = ln.elementwise(dims, [b for _, b in region.buffers], [store])
            self.nest(nest, [k for k, _ in region.buffers], [n], partial=len(phases) > 1)
        if len(phases) > 1:
            self.launches[mark].partial = False

    def windows_grad_by_index(self, n: Node) -> None:
        """The same for windows of many taps, with loops over these: where a tap's window is, is computed."""
        g, _size, kernel, stride, dilation = n.args
        if g not in self.memory:
            raise Unfusable(g)
        k = len(kernel)
        lead = len(n.shape) - k
        dims = [*n.shape, *kernel]
        d = ln_dtype(n.dtype)
        assert d is not None
        region = regions.Region(dims, self.stored, self.strides)
        b = region.buffer(g, d)
        zero = maps.constant(len(dims))
        g_strides = self.strides(g)
        access = maps.identity(dims, [[i] for i in range(len(dims))])
        at = zero
        for i in range(lead):
            at = at.added(access[i].scaled(g_strides[i]))
        valid: ln.Expr | None = None
        where: ln.Expr | None = None
        for i in range(k):
            out_size = g.shape[lead + i]
            at = at.added(access[lead + k + i].scaled(g_strides[lead + k + i]))
            # numerator = position - tap * dilation; a window covers it where that is stride * o
            num = access[lead + i].added(access[lead + k + i].scaled(-dilation[i]))
            x = ln.index(num.strides, num.offset)
            ok = ln.apply(
                "and",
                ln.apply("ge", x, ln.const(0, "i64")),
                ln.apply("lt", x, ln.const(out_size * stride[i], "i64")),
            )
            o = x
            if stride[i] > 1:
                o = ln.apply("floor_div", x, ln.const(stride[i], "i64"))
                ok = ln.apply(
                    "and", ok, ln.apply("eq", ln.apply("mul", o, ln.const(stride[i], "i64")), x)
                )
            step = ln.apply("mul", o, ln.const(g_strides[lead + i], "i64"))
            valid = ok if valid is None else ln.apply("and", valid, ok)
            where = step if where is None else ln.apply("add", where, step)
        assert valid is not None
        assert where is not None
        safe = ln.apply("where", valid, where, ln.const(0, "i64"))
        value = ln.apply(
            "where",
            valid,
            ln.gather(b, d, safe, ln.IndexMap(at.offset, at.strides)),
            ln.const(0, d),
        )
        out = region.buffer(n, d)
        store = ln.Store(out, region.position(access[: lead + k], n), ln.ref(0, 0, d))
        nest = ln.LoopNest(tuple(n.shape), tuple(kernel), tuple(x for _, x in region.buffers),
                           (ln.Stage((ln.Reduction("sum", value, d),)),), (store,))  # fmt: skip
        self.nest(nest, [x for x, _ in region.buffers], [n])


def whole(dims: Any, access: Any) -> Any:
    """The place of a node's elements in memory of its own shape."""
    return access


def _through_index(n: Node, access: Any, n_dims: int) -> Any:
    """The access of a basic index's source."""
    out = []
    k = 0
    for i in n.args[1]:
        if i is None:
            k += 1
        elif isinstance(i, tuple):
            out.append(access[k].scaled(i[2], i[0]))
            k += 1
        else:
            out.append(maps.constant(n_dims, i))
    return tuple(out)


def prepare(graph: Graph) -> Graph:
    """The Graph as it is lowered: outputs are computed, and constants that no kernel knows lie in memory."""
    return _own_outputs(_literal_constants(graph))


def _own_outputs(graph: Graph) -> Graph:
    """Outputs that are inputs or constants become copies, so that each output is computed."""
    outs = [
        make("clone", (o, None)) if o.op in (INPUT, LITERAL, CONST) and o.dtype.category < 3 else o
        for o in graph.outputs
    ]
    return graph.replace_outputs(outs)


def _literal_constants(graph: Graph) -> Graph:
    """Constants of dtypes that no kernel knows (complex ones), which host calls read, lie in memory."""

    def moved(x: Any) -> Any:
        if isinstance(x, Node):
            return (
                literal(np.asarray(x.args[0], x.dtype.np))
                if x.op is CONST and ln_dtype(x.dtype) is None
                else x
            )
        return tuple(map(moved, x)) if isinstance(x, tuple) else x

    if not any(n.op is CONST and ln_dtype(n.dtype) is None for n in graph.nodes()):
        return graph
    new = graph.rewrite(lambda n, args: make(n.op, moved(args), n.source))  # type: ignore[arg-type]
    return new.replace_outputs([moved(o) for o in new.outputs])


def lower(
    graph: Graph,
    isa: Isa,
    images: bool = True,
    steady: frozenset[Node] = frozenset(),
    checking: bool = True,
) -> tuple[list[Launch], list[tuple[Node, Node]], orders.Strides]:
    """The launches of a Graph in a possible order, its (flag, gather) checks of indices, and memory's strides.

    `images` says whether nodes may lie channels-last; `steady` are nodes that all steps of a loop, or calls, share.
    Without `checking` it has flags of its own (`checked`).
    """
    state = Lowering(graph, isa, images, steady, checking)
    return state.run(), state.checks, state.strides
