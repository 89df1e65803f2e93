"""`kiln.scan`, `kiln.cond`, `kiln.while_loop`: control flow that a captured program keeps.

Eagerly they are Python. In a captured function each becomes one node with Graphs for bodies, which
the CPU backend runs as a native loop: neither compile time nor Python's part depends on its length.

Note [Gradient of a scan]: a scan that is differentiated also stacks the intermediate values that
its backward body reads; nodes that are cheap to compute again from those are not among them. Backward
is a scan in the other direction, whose carries are the gradients of the carries. A tensor from
outside (a weight) gets the sum of its gradients over all steps. Where each step's is a product of
two matrices, they are stacked and multiplied once, after the loop; other gradients are summed in a
carry. Backward scans are differentiated like any other, by calling the ops of their body again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..autograd.modes import mode
from ..autograd.tape import TapeNode, edge_of
from ..dtypes import FLOAT, bool_
from ..errors import KilnError, KilnTypeError, KilnValueError, describe
from ..graph.node import CONST, ITEM, LITERAL, Graph, Node, input_node, item, make
from ..ops.control import match, slices
from ..ops.creation import empty, zeros_like
from ..ops.joining import stack
from ..ops.linear import linear_weight_grad
from ..ops.registry import REGISTRY, Op
from ..shape import norm_dim
from ..tensor import Tensor, _fresh, active_capture
from .bodies import BodyCapture, Tree, below, replay, seed, zeros
from .capture import Capture
from .regions import VIEWS, scalar_op

_CHEAP = {"add", "sub", "mul", "neg", "where", "cast", "copy", "maximum", "minimum", "and", "or", "not",
          "eq", "ne", "lt", "le", "gt", "ge"}  # fmt: skip


# ---------------------------------------------------------------- scan


def scan(
    combine_fn: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any = None,
    *,
    dim: int = 0,
    reverse: bool = False,
    length: int | None = None,
) -> tuple[Any, Any]:
    """Apply `combine_fn(carry, x) -> (carry, y)` to the slices of `xs` along `dim`, one after the other.

    Gives the last carry and the ys, stacked along a new first dimension in the order of xs. `init`,
    `xs` and what the function returns are tensors or nested containers of them (or None); carries keep
    their shapes and dtypes. With `reverse` it begins at the end. `length` is needed where there are no
    xs. In a captured function it is one loop; the function may use any tensor from outside, and may
    not write to those that it is given. Errors: KilnError, CaptureError.
    Source: torch._higher_order_ops.scan, jax.lax.scan.
    """
    carry, seq = Tree("scan", "carries", init), Tree("scan", "xs", xs)
    moved = []
    for x in seq.tensors:
        if not x.ndim:
            raise KilnError("scan", "a sequence has no dimension to scan over", describe(x), "")
        d = norm_dim(dim, x.ndim, "scan")
        moved.append(x if d == 0 else x.movedim(d, 0))
    sizes = {x.shape[0] for x in moved} | (set() if length is None else {length})
    if len(sizes) != 1:
        raise KilnValueError(
            "scan", "the sequences have no common length", sorted(sizes),
            "xs have one size along dim; without xs pass length=",
        )  # fmt: skip
    (n,) = sizes
    seq.tensors = moved
    capture = active_capture()
    if capture is not None:
        return _captured_scan(capture, combine_fn, carry, seq, n, reverse)
    if n == 0:  # the ys' shapes come from a capture that nothing runs
        outer = Capture()
        with outer.active():
            _, ys = _captured_scan(outer, combine_fn, carry, seq, 0, reverse)
            kinds = Tree("scan", "ys", ys)
        return init, kinds.build([empty(s, dtype=d) for s, d in kinds.kinds])
    rows = [slices(x) for x in moved]
    stacks: list[Any] = [None] * n
    ys_tree: Tree | None = None
    now = init
    for t in reversed(range(n)) if reverse else range(n):
        after, ys_tree = _step(combine_fn(now, seq.build([r[t] for r in rows])), carry)
        now, stacks[t] = carry.build(after.tensors), ys_tree.tensors
    assert ys_tree is not None
    return now, ys_tree.build([stack(list(column)) for column in zip(*stacks, strict=True)])


def _step(result: Any, carry: Tree) -> tuple[Tree, Tree]:
    """What the function of a scan returned, checked."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise KilnTypeError(
            "scan", "the function returns a pair (carry, y)", describe(result), "return carry, None where there is no y",
        )  # fmt: skip
    after = Tree("scan", "carries", result[0])
    _check_carry("scan", carry, after)
    return after, Tree("scan", "ys", result[1])


def _check_carry(name: str, before: Tree, after: Tree) -> None:
    if before.key != after.key:
        raise KilnError(
            name, "the function returns carries of another structure", f"{len(after.tensors)} tensors for {len(before.tensors)}",
            "return the containers that it is given",
        )  # fmt: skip
    match(name, "a carry changes its shape or dtype", before.kinds, after.kinds,
          "the function returns carries like those that it takes")  # fmt: skip


class Trace:
    """A body as it was traced: its capture, its parameters in the order of its inputs, and its outputs."""

    def __init__(self, body: BodyCapture, heads: Sequence[Tensor], outs: Sequence[Tensor]):
        self.body, self.heads, self.outs = body, list(heads), list(outs)
        self.nodes = [body.head(t) for t in heads]

    def graph(self, extra: Sequence[Node] = ()) -> Graph:
        """The body, with further outputs."""
        outs = [self.body.payload(o).node() for o in self.outs]
        return self.body.graph(self.nodes, [*outs, *extra])

    @staticmethod
    def of(capture: Capture, what: str, graph: Graph, tracked: Sequence[bool]) -> Trace:
        """A Graph traced again, to be differentiated."""
        body = BodyCapture(capture, what)
        with body.active():
            heads = [
                body.parameter(n.shape, n.dtype, rg)
                for n, rg in zip(graph.inputs, tracked, strict=True)
            ]
            outs = replay(body, graph, heads, lambda op, args: _call_again(body, op, args))
            return Trace(body, heads, [body.own(o) for o in outs])


def _call_again(capture: Capture, op: Op, args: tuple) -> Any:
    """An op with bodies called on tensors."""
    if op.name == "scan_op":
        body, init, xs, consts, length, reverse = args
        return _call_scan(capture, body, init, xs, consts, length, reverse)
    if op.name == "cond_op":
        return _call_cond(capture, args[:2], args[2], args[3])
    return _call_while(capture, *args, _tracked([*args[2], *args[3]]))


def _tracked(tensors: Sequence[Tensor]) -> bool:
    return mode.grad and any(_fresh(t)._rg for t in tensors)


def _values(capture: Capture, tensors: Sequence[Tensor]) -> tuple[Node, ...]:
    return tuple(capture.payload(t).node() for t in tensors)


def _outputs(capture: Capture, n: Node) -> list[Tensor]:
    assert n.outputs is not None
    return [capture.tensor(item(n, i)) for i in range(len(n.outputs))]


def _captured_scan(
    capture: Capture, fn: Callable, carry: Tree, seq: Tree, length: int, reverse: bool
) -> tuple[Any, Any]:
    body = BodyCapture(capture, "kiln.scan")
    with body.active():
        before = [body.parameter(s, d, mode.grad) for s, d in carry.kinds]
        xs = [body.parameter(x.shape[1:], x.dtype, _tracked([x])) for x in seq.tensors]
        after, ys = _step(fn(carry.build(before), seq.build(xs)), carry)
        outs = [*map(body.own, after.tensors), *map(body.own, ys.tensors)]
    state, consts, n = body.writes(), body.reads(), len(before)
    init = [*carry.tensors, *(t for t, _, _ in state)]
    trace = Trace(
        body,
        [*before, *(inner for _, inner, _ in state), *xs, *(inner for _, inner in consts)],
        [*outs[:n], *(new for _, _, new in state), *outs[n:]],
    )
    results = _call_scan(
        capture, None, init, seq.tensors, [t for t, _ in consts], length, reverse, trace
    )
    for (t, _, _), new in zip(state, results[n:], strict=False):
        capture.write(t, new)
    return carry.build(results[:n]), ys.build(results[len(init) :])


def _call_scan(
    capture: Capture,
    graph: Graph | None,
    init: Sequence[Tensor],
    xs: Sequence[Tensor],
    consts: Sequence[Tensor],
    length: int,
    reverse: bool,
    trace: Trace | None = None,
) -> list[Tensor]:
    """The last carries and the ys of a scan whose body is a Graph, a trace, or both; goes on the tape."""
    operands = [capture.own(t) for t in (*init, *xs, *consts)]
    record, n = _tracked(operands), len(init)
    if graph is None or (record and trace is None):
        assert trace is not None or graph is not None
        if trace is None:
            carried = [True] * n + [_fresh(t)._rg for t in operands[n:]]
            trace = Trace.of(capture, "kiln.scan", graph, carried)  # type: ignore[arg-type]
        graph = trace.graph()
    if length == 0:
        ys = [empty((0, *o.shape), dtype=o.dtype) for o in graph.outputs[n:]]
        return [*operands[:n], *ys]
    node = None
    if record:
        assert trace is not None
        node = ScanNode(capture, trace, operands, n, len(xs), length, reverse)
        graph = trace.graph(node.saved)
    nodes = _values(capture, operands)
    made = make(
        "scan_op", (graph, nodes[:n], nodes[n : n + len(xs)], nodes[n + len(xs) :], length, reverse),
        capture.where(),
    )  # fmt: skip
    outs = _outputs(capture, made)
    if node is None:
        return outs
    visible = node.n_out
    node.stacks = dict(zip(node.saved, outs[visible:], strict=True))
    return node.attach(outs[:visible])


class BodyNode(TapeNode):
    """A loop or a branch on the tape."""

    __slots__ = ("capture", "operands", "trace")

    def __init__(self, capture: Capture, trace: Any, operands: list[Tensor], n_out: int):
        super().__init__([edge_of(t) for t in operands], n_out)
        self.capture, self.trace = capture, trace
        self.operands = []
        seen = []
        for t in operands:
            if not _fresh(t)._rg:  # its value now, whatever is stored there later
                self.operands.append(capture.tensor(capture.payload(t).node()))
                continue
            self.operands.append(t)
            if t._ver is None:
                t._ver = [0, 0]
            seen.append((t._ver, t._ver[0]))
        self.versions = seen

    def outs(self) -> list[Tensor]:
        """The traced outputs, which say what requires grad."""
        return self.trace.outs

    def attach(self, results: list[Tensor]) -> list[Tensor]:
        """The results with this node as their history."""
        for i, (r, o) in enumerate(zip(results, self.outs(), strict=True)):
            if _fresh(o)._rg:
                r._fn, r._idx, r._rg = self, i, True
        return results

    def free(self) -> None:
        super().free()
        self.trace = self.operands = None


class ScanNode(BodyNode):
    """A scan on the tape, see Note [Gradient of a scan]."""

    __slots__ = ("length", "n_init", "n_xs", "reverse", "saved", "stacks")

    def __init__(
        self, capture: Capture, trace: Trace, operands: list[Tensor], n_init: int, n_xs: int, length: int, reverse: bool,
    ):  # fmt: skip
        super().__init__(capture, trace, operands, len(trace.outs))
        self.n_init, self.n_xs, self.length, self.reverse = n_init, n_xs, length, reverse
        self.stacks: dict[Node, Tensor] = {}
        seeds = [seed(k, o) if _fresh(o)._rg else None for k, o in enumerate(trace.outs)]
        grads = trace.body.gradients(trace.outs, seeds, self._heads())
        self.saved = self._choose([g for g in grads if g is not None])

    def name(self) -> str:
        return "ScanBackward0"

    def free(self) -> None:
        super().free()
        self.stacks = {}

    def _targets(self) -> list[int]:
        """The inputs of the body whose gradients backward computes: all carries, and what requires grad."""
        heads = self.trace.heads
        return [i for i, h in enumerate(heads) if h._rg and (i < self.n_init or self.edges[i] is not None)]  # fmt: skip

    def _heads(self) -> list[Tensor]:
        return [self.trace.heads[i] for i in self._targets()]

    def _choose(self, grads: list[Node]) -> list[Node]:
        """What forward stacks: the values at which the gradients' nodes begin, or cheaper ones before these."""
        n = self.n_init + self.n_xs
        xs, consts = set(self.trace.nodes[self.n_init : n]), set(self.trace.nodes[n:])
        order = below(grads)
        late: set[Node] = set()
        steady: set[Node] = set()  # equal at all steps
        for x in order:
            if _is_seed(x) or any(i in late for i in x.inputs):
                late.add(x)
            elif (
                x in consts or (x.inputs and all(i in steady for i in x.inputs)) or _is_constant(x)
            ):
                steady.add(x)
        free = steady | xs
        needed = {i for x in order if x in late for i in x.inputs} | set(grads)
        cut = {x for x in needed if x not in late and x not in free}

        def derived(x: Node) -> bool:
            """Whether a value is cheap to compute from what is there."""
            return x in free or x in cut or (_is_cheap(x) and all(map(derived, x.inputs)))

        for x in reversed(order):
            if x not in cut or not _is_cheap(x):
                continue
            rest = [i for i in x.inputs if not derived(i)]
            if not rest:
                cut.discard(x)
            elif x.name in VIEWS and rest[0].op is not ITEM and rest[0].numel() <= x.numel():
                cut.discard(x)
                cut.add(rest[0])
        return [x for x in order if x in cut]

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        self.check()
        trace, n, n_xs = self.trace, self.n_init, self.n_xs
        outs, operands = trace.outs, self.operands
        seeds = [
            seed(k, o) if _fresh(o)._rg and (k < n or g is not None) else None
            for k, (o, g) in enumerate(zip(outs, gs, strict=True))
        ]
        targets = self._targets()
        found = trace.body.gradients(outs, seeds, self._heads())
        grads = dict(zip(targets, found, strict=True))
        # what backward reads, by node of the body: sequences, and tensors from outside
        rows: dict[Node, Tensor] = dict(
            zip(trace.nodes[n : n + n_xs], operands[n : n + n_xs], strict=True)
        )
        consts: dict[Node, Tensor] = dict(
            zip(trace.nodes[n + n_xs :], operands[n + n_xs :], strict=True)
        )
        for k, (s, g) in enumerate(zip(seeds, gs, strict=True)):
            if k >= n and s is not None:
                assert g is not None
                rows[s] = g
        if not mode.grad:
            rows |= self.stacks
        carries = [i for i in targets if i < n]
        carry_seeds = [seeds[i] for i in carries]
        roots = [g for g in found if g is not None]
        missing = [
            x for x in _reached(roots, {*rows, *consts}) if x in trace.nodes[:n] and x not in rows
        ]
        if missing:
            rows |= self._carried(missing)
        return self._call(gs, grads, carries, carry_seeds, rows, consts)

    def _carried(self, wanted: list[Node]) -> dict[Node, Tensor]:
        """Carries at the beginning of each step, by running the loop again."""
        trace, n, m = self.trace, self.n_init, self.n_init + self.n_xs
        heads = [trace.heads[trace.nodes.index(x)] for x in wanted]
        again = Trace(trace.body, trace.heads, [*trace.outs[:n], *heads])
        o = self.operands
        results = _call_scan(
            self.capture, None, o[:n], o[n:m], o[m:], self.length, self.reverse, again
        )
        return dict(zip(wanted, results[n:], strict=True))

    def _call(
        self,
        gs: list[Tensor | None],
        grads: dict[int, Node | None],
        carries: list[int],
        carry_seeds: list[Node | None],
        rows: dict[Node, Tensor],
        consts: dict[Node, Tensor],
    ) -> list[Tensor | None]:
        """Emit the backward scan; gives the gradients for the edges."""
        trace, n, m = self.trace, self.n_init, self.n_init + self.n_xs
        sums = _Sums(rows)
        fixed = [i for i in grads if i >= m and grads[i] is not None]
        fixed.sort(key=lambda i: grads[i].name == "sum")  # type: ignore[union-attr]
        later = {i: sums.plan(grads[i]) for i in fixed}  # type: ignore[arg-type]
        added = [i for i in fixed if later[i] is None]
        for i in grads:
            g = grads[i]
            if n <= i < m and g is not None:
                sums.stack(g)
        steps = [grads[i] if grads[i] is not None else zeros(trace.nodes[i]) for i in carries]
        totals = [input_node(-1000 - i, grads[i].shape, grads[i].dtype, "sum") for i in added]  # type: ignore[union-attr]
        steps += [make("add", (t, grads[i], 1)) for t, i in zip(totals, added, strict=True)]
        roots = [*steps, *sums.wanted]
        reached = _reached(roots, {*rows, *consts})
        xs, fixed_heads = [x for x in reached if x in rows], [x for x in reached if x in consts]
        firsts = [
            s
            if s is not None
            else input_node(-2000 - k, trace.nodes[i].shape, trace.nodes[i].dtype)
            for k, (i, s) in enumerate(zip(carries, carry_seeds, strict=True))
        ]
        heads = [*firsts, *totals, *xs, *fixed_heads]
        graph = trace.body.graph(heads, roots)
        o = self.operands
        init = [zeros_like(o[i]).detach() if (g := gs[i]) is None else g for i in carries]
        init += [zeros_like(o[i]).detach() for i in added]
        results = _call_scan(
            self.capture, graph, init, [rows[x] for x in xs], [consts[x] for x in fixed_heads], self.length, not self.reverse,
        )  # fmt: skip
        sums.results = results[len(init) :]
        done = dict(zip([*carries, *added], results, strict=False))
        out: list[Tensor | None] = []
        for i, e in enumerate(self.edges):
            g = grads.get(i)
            if e is None or (g is None and i not in done):
                out.append(None)
            elif i in done:
                out.append(done[i])
            else:
                out.append(sums.stacked(g) if i < m else later[i]())  # type: ignore[misc, arg-type]
        return out


class _Sums:
    """Sums over all steps, taken after the loop from stacked values."""

    def __init__(self, rows: dict[Node, Tensor]):
        self.rows = rows
        self.wanted: list[Node] = []  # what the loop has to stack
        self.results: list[Tensor] = []

    def stack(self, x: Node) -> Node:
        """Ask for the values of a node at all steps."""
        if x not in self.rows and x not in self.wanted:
            self.wanted.append(x)
        return x

    def stacked(self, x: Node) -> Tensor:
        """The values of a node at all steps."""
        return self.rows[x] if x in self.rows else self.results[self.wanted.index(x)]

    def plan(self, g: Node) -> Callable[[], Tensor] | None:
        """How to sum a node over all steps after the loop; None where the loop had better do it."""
        if g.name == "add" and g.args[2] == 1 and g.args[0].shape == g.args[1].shape:
            a, b = self.plan(g.args[0]), self.plan(g.args[1])
            return None if a is None or b is None else lambda: a() + b()
        if g.name in ("permute", "reshape"):
            inner = self.plan(g.args[0])
            return None if inner is None else lambda: REGISTRY[g.name].fn(inner(), *g.args[1:])
        if g.name == "linear_weight_grad":
            a, b = map(self.stack, g.args)
            return lambda: linear_weight_grad(self.stacked(a), self.stacked(b))
        if g.name == "matmul" and all(x.ndim == 2 for x in g.args):
            x, turned = self._source(g.args[0])
            y, flipped = self._source(g.args[1])
            return lambda: self._rows(x, not turned).transpose(0, 1) @ self._rows(y, flipped)
        if g.name == "sum" and (g.args[0] in self.wanted or g.args[0] in self.rows):
            return lambda: REGISTRY["sum"].fn(self.stacked(g.args[0]).sum(0), *g.args[1:])
        return None

    def _source(self, x: Node) -> tuple[Node, bool]:
        turned = x.name == "permute"
        return self.stack(x.args[0] if turned else x), turned

    def _rows(self, x: Node, turn: bool) -> Tensor:
        """The stacked matrices, one below the other."""
        s = self.stacked(x)
        s = s.transpose(1, 2) if turn else s
        return s.reshape(-1, s.shape[-1])


def _is_seed(x: Node) -> bool:
    return x.name == "input" and x.args[0] < 0


def _is_cheap(x: Node) -> bool:
    return bool(x.inputs) and x.op is not ITEM and (x.name in VIEWS or scalar_op(x) in _CHEAP)


def _is_constant(x: Node) -> bool:
    return x.op is CONST or x.op is LITERAL or (not x.inputs and x.name in ("full", "arange"))


def _reached(roots: Sequence[Node], stop: set[Node]) -> list[Node]:
    """Inputs and nodes of `stop` that the roots need, without looking below these."""
    seen: set[Node] = set()
    out: list[Node] = []
    stack = list(reversed(roots))
    while stack:
        x = stack.pop()
        if x in seen:
            continue
        seen.add(x)
        if x in stop or x.name == "input":
            out.append(x)
        else:
            stack.extend(reversed(x.inputs))
    return out


# ---------------------------------------------------------------- cond


def cond(
    pred: Any, true_fn: Callable, false_fn: Callable, operands: Sequence[Any] | dict[str, Any] = ()
) -> Any:
    """`true_fn(*operands)` where `pred` is true, else `false_fn(*operands)`.

    `pred` is a bool or a tensor of one element; both functions return tensors of the same shapes and
    dtypes, in the same containers. In a captured function both are in the program, and one of them
    runs at each call. Errors: KilnError, CaptureError. Source: torch.cond.
    """
    capture = active_capture()
    if not isinstance(pred, Tensor) or capture is None:
        return (true_fn if bool(pred) else false_fn)(*operands)
    if pred.numel() != 1:
        raise KilnError("cond", "the predicate is one truth value", describe(pred), "e.g. x.any()")
    pred = pred.reshape(()).to(bool_)
    bodies, trees = [], []
    for fn in (true_fn, false_fn):
        body = BodyCapture(capture, "kiln.cond")
        with body.active():
            tree = Tree("cond", "results", fn(*operands))
            tree.tensors = [body.own(t) for t in tree.tensors]
        bodies.append(body)
        trees.append(tree)
    if trees[0].key != trees[1].key:
        raise KilnError(
            "cond", "the branches return different structures", f"{len(trees[0].tensors)} and {len(trees[1].tensors)} tensors",
            "return the same containers from both",
        )  # fmt: skip
    match("cond", "the branches return different shapes or dtypes", trees[0].kinds, trees[1].kinds,
          "both branches return tensors of the same kinds")  # fmt: skip
    written = {id(t): t for b in bodies for t, _, _ in b.writes()}
    for b in bodies:
        with b.active():
            for t in written.values():
                b.own(t)
    lifted = {
        id(t): t for b in bodies for t, _ in (*b.reads(), *((t, i) for t, i, _ in b.writes()))
    }
    for b in bodies:
        with b.active():
            for t in lifted.values():
                b.own(t)
    traces = tuple(
        Trace(
            b,
            [b.lifted[i][1] for i in lifted],
            [*tree.tensors, *(b.tensor(b.lifted[i][1]._a.node()) for i in written)],
        )
        for b, tree in zip(bodies, trees, strict=True)
    )
    results = _call_cond(capture, None, pred, list(lifted.values()), traces)
    n = len(trees[0].tensors)
    for t, new in zip(written.values(), results[n:], strict=True):
        capture.write(t, new)
    return trees[0].build(results[:n])


def _call_cond(
    capture: Capture,
    graphs: Sequence[Graph] | None,
    pred: Tensor,
    operands: Sequence[Tensor],
    traces: Sequence[Trace] | None = None,
) -> list[Tensor]:
    """The results of the branch that is taken, of two Graphs or traces; goes on the tape."""
    operands = [capture.own(t) for t in operands]
    record = _tracked(operands)
    if record and traces is None:
        assert graphs is not None
        flags = [_fresh(t)._rg for t in operands]
        traces = [Trace.of(capture, "kiln.cond", g, flags) for g in graphs]
    if graphs is None:
        assert traces is not None
        graphs = [t.graph() for t in traces]
    test = capture.payload(pred).node()
    made = make("cond_op", (*graphs, test, _values(capture, operands)), capture.where())
    outs = _outputs(capture, made)
    if not record:
        return outs
    return CondNode(capture, traces, operands, pred).attach(outs)


class CondNode(BodyNode):
    """A branch on the tape: backward is a branch too, which computes again what it needs."""

    __slots__ = ("pred",)

    def __init__(self, capture: Capture, traces: Any, operands: list[Tensor], pred: Tensor):
        super().__init__(capture, traces, operands, len(traces[0].outs))
        self.pred = pred

    def name(self) -> str:
        return "CondBackward0"

    def outs(self) -> list[Tensor]:
        then, other = (t.outs for t in self.trace)
        return [a if _fresh(a)._rg else b for a, b in zip(then, other, strict=True)]

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        self.check()
        given = [(k, g) for k, g in enumerate(gs) if g is not None]
        wanted = [i for i, e in enumerate(self.edges) if e is not None]
        graphs = []
        for trace in self.trace:
            seeds = [None if g is None else seed(k, o) for k, (o, g) in enumerate(zip(trace.outs, gs, strict=True))]  # fmt: skip
            heads = [trace.heads[i] for i in wanted]
            found = trace.body.gradients(trace.outs, seeds, heads)
            grads = [
                zeros(trace.body.head(h)) if g is None else g
                for h, g in zip(heads, found, strict=True)
            ]
            graphs.append(
                trace.body.graph([*trace.nodes, *(s for s in seeds if s is not None)], grads)
            )
        results = _call_cond(
            self.capture, graphs, self.pred, [*self.operands, *(g for _, g in given)]
        )
        done = dict(zip(wanted, results, strict=True))
        return [done.get(i) for i in range(len(self.edges))]


# ---------------------------------------------------------------- while


def while_loop(cond_fn: Callable, body_fn: Callable, carried_inputs: Sequence[Any]) -> Any:
    """`body_fn(*carries)` again and again for as long as `cond_fn(*carries)` is true; gives the last carries.

    `carried_inputs` is a tuple or list of tensors (or nested containers); `body_fn` returns as many, of
    the same shapes and dtypes. In a captured function it is one loop, which can't be differentiated (its
    length is not known): use `scan`. Errors: KilnError, CaptureError.
    Source: torch._higher_order_ops.while_loop.
    """
    carry = Tree("while_loop", "carries", tuple(carried_inputs))
    capture = active_capture()
    if capture is None:
        now = tuple(carried_inputs)
        while bool(cond_fn(*now)):
            after = _carries(body_fn(*now))
            _check_carry("while_loop", carry, after)
            now = after.build(after.tensors)
        return now
    test, body = BodyCapture(capture, "kiln.while_loop"), BodyCapture(capture, "kiln.while_loop")
    with test.active():
        seen = [test.parameter(s, d, False) for s, d in carry.kinds]
        flag = cond_fn(*carry.build(seen))
        if not isinstance(flag, Tensor) or flag.numel() != 1:
            raise KilnError("while_loop", "the condition is one truth value", describe(flag), "e.g. (x > 0).any()")  # fmt: skip
        flag = test.own(flag.reshape(()).to(bool_))
    if test.writes():
        raise KilnError("while_loop", "the condition writes a tensor from outside", describe(test.writes()[0][0]),
                        "do it in the body")  # fmt: skip
    with body.active():
        before = [body.parameter(s, d, False) for s, d in carry.kinds]
        after = _carries(body_fn(*carry.build(before)))
        _check_carry("while_loop", carry, after)
        outs = [body.own(t) for t in after.tensors]
    state = body.writes()
    lifted = {id(t): t for t, _ in (*test.reads(), *body.reads()) if all(t is not s for s, _, _ in state)}  # fmt: skip
    for b in (test, body):
        with b.active():
            for t in (*(t for t, _, _ in state), *lifted.values()):
                b.own(t)
    heads = [
        [*own, *(b.lifted[id(t)][1] for t in (*(t for t, _, _ in state), *lifted.values()))]
        for b, own in ((test, seen), (body, before))
    ]
    graphs = (
        Trace(test, heads[0], [flag]).graph(),
        Trace(body, heads[1], [*outs, *(new for _, _, new in state)]).graph(),
    )
    n = len(before)
    init = [*carry.tensors, *(t for t, _, _ in state)]
    consts = list(lifted.values())
    # of an outer tensor that requires grad, the body may only read what it detached
    tracked = _tracked([*init, *outs])
    results = _call_while(capture, *graphs, init, consts, tracked)
    for (t, _, _), new in zip(state, results[n:], strict=True):
        capture.write(t, new)
    return carry.build(results[:n])


def _carries(result: Any) -> Tree:
    """What the body of a while loop returned, as a tuple."""
    return Tree("while_loop", "carries", tuple(result) if isinstance(result, list | tuple) else (result,))  # fmt: skip


def _call_while(
    capture: Capture, test: Graph, body: Graph, init: Sequence[Tensor], consts: Sequence[Tensor],
    tracked: bool,
) -> list[Tensor]:  # fmt: skip
    """The last carries of a while loop."""
    operands = [capture.own(t) for t in (*init, *consts)]
    nodes, n = _values(capture, operands), len(init)
    outs = _outputs(capture, make("while_op", (test, body, nodes[:n], nodes[n:]), capture.where()))
    return WhileNode(capture, None, operands, n).attach(outs) if tracked else outs


class WhileNode(BodyNode):
    """A while loop on the tape, which refuses to go backward."""

    __slots__ = ()

    def name(self) -> str:
        return "WhileBackward0"

    def attach(self, results: list[Tensor]) -> list[Tensor]:
        for i, r in enumerate(results):
            if r.dtype.category >= FLOAT:
                r._fn, r._idx, r._rg = self, i, True
        return results

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        raise KilnError(
            "while_loop", "a captured while_loop has no gradient: its number of steps is not known before", self.name(),
            "use kiln.scan with a fixed length, detach() what it is given, or run it eagerly",
        )  # fmt: skip
