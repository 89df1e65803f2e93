"""`kiln.scan`, `kiln.cond`, `kiln.while_loop`: control flow that a captured program keeps.

Eagerly they are Python. In a captured function each becomes one node with Graphs for bodies, which
the CPU backend runs as a native loop: neither compile time nor Python's part depends on its length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..autograd.modes import mode
from ..dtypes import bool_, int64
from ..errors import KilnError, KilnTypeError, KilnValueError, describe
from ..graph.node import Graph, Node, const, input_node, item, make, substitute
from ..ops.control import match, slices
from ..ops.creation import empty, zeros_like
from ..ops.joining import stack
from ..ops.registry import Op
from ..ops.selection import where_op
from ..shape import norm_dim
from ..tensor import Tensor, _fresh, active_capture
from .bodies import BodyCapture, BodyNode, Trace, Tree, replay, seed, zeros
from .capture import Capture
from .scan_gradient import ScanNode

# ---------------------------------------------------------------- scan


def _loops() -> Capture | None:
    """The capture that keeps loops and branches; under vmap they are Python, as in eager mode."""
    ctx = active_capture()
    return ctx if isinstance(ctx, Capture) else None


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
    capture = _loops()
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


def _made(capture: Capture, name: str, args: tuple) -> Node:
    """The node of a loop or a branch, and where it was made."""
    at = capture.where()
    n = make(name, args, at)
    capture.places.setdefault(n, at)
    return n


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
            trace = Trace.of(capture, "kiln.scan", graph, carried, _call_again)  # type: ignore[arg-type]
        graph = trace.graph()
    if length == 0:
        ys = [empty((0, *o.shape), dtype=o.dtype) for o in graph.outputs[n:]]
        return [*operands[:n], *ys]
    node = None
    if record:
        assert trace is not None
        node = ScanNode(_call_scan, capture, trace, operands, n, len(xs), length, reverse)
        graph = trace.graph(node.saved)
    nodes = _values(capture, operands)
    xs_nodes, consts_nodes = nodes[n : n + len(xs)], nodes[n + len(xs) :]
    made = _made(capture, "scan_op", (graph, nodes[:n], xs_nodes, consts_nodes, length, reverse))
    outs = _outputs(capture, made)
    if node is None:
        return outs
    node.keep(outs)
    return node.attach(outs[: node.n_out])


# ---------------------------------------------------------------- cond


def cond(
    pred: Any, true_fn: Callable, false_fn: Callable, operands: Sequence[Any] | dict[str, Any] = ()
) -> Any:
    """`true_fn(*operands)` where `pred` is true, else `false_fn(*operands)`.

    `pred` is a bool or a tensor of one element; both functions return tensors of the same shapes and
    dtypes, in the same containers. In a captured function both are in the program, and one of them
    runs at each call. Errors: KilnError, CaptureError. Source: torch.cond.
    """
    capture = _loops()
    if isinstance(pred, Tensor) and capture is None and _differs(pred):
        return _both(pred, true_fn(*operands), false_fn(*operands))
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
    _check_branches(*trees)
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


def _differs(pred: Tensor) -> bool:
    """Whether a predicate differs in the batch of a vmap."""
    level = active_capture()
    return level is not None and level.payload(pred).batched


def _both(pred: Tensor, then: Any, other: Any) -> Any:
    """The results of a branch that goes both ways in a batch, chosen for each."""
    trees = Tree("cond", "results", then), Tree("cond", "results", other)
    _check_branches(*trees)
    test = pred.reshape(()).to(bool_)
    pairs = zip(trees[0].tensors, trees[1].tensors, strict=True)
    return trees[0].build([where_op(test, a, b) for a, b in pairs])


def _check_branches(then: Tree, other: Tree) -> None:
    """Raise where two branches give different things."""
    if then.key != other.key:
        raise KilnError(
            "cond", "the branches return different structures", f"{len(then.tensors)} and {len(other.tensors)} tensors",
            "return the same containers from both",
        )  # fmt: skip
    match("cond", "the branches return different shapes or dtypes", then.kinds, other.kinds,
          "both branches return tensors of the same kinds")  # fmt: skip


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
        traces = [Trace.of(capture, "kiln.cond", g, flags, _call_again) for g in graphs]
    if graphs is None:
        assert traces is not None
        graphs = [t.graph() for t in traces]
    test = capture.payload(pred).node()
    made = _made(capture, "cond_op", (*graphs, test, _values(capture, operands)))
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

    def required(self) -> list[bool]:
        then, other = (t.outs for t in self.trace)
        return [_fresh(a)._rg or _fresh(b)._rg for a, b in zip(then, other, strict=True)]

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
    the same shapes and dtypes. In a captured function it is one loop. As its length is not known, its
    gradient stores no step but computes them again: of n steps some n ** 1.5, so prefer `scan` where
    there is a fixed length. Errors: KilnError, CaptureError. Source: torch._higher_order_ops.while_loop.
    """
    carry = Tree("while_loop", "carries", tuple(carried_inputs))
    capture = _loops()
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
        tracked = _tracked(carry.tensors)
        before = [body.parameter(s, d, tracked) for s, d in carry.kinds]
        after = _carries(body_fn(*carry.build(before)))
        _check_carry("while_loop", carry, after)
        outs = [body.own(t) for t in after.tensors]
        tracked = tracked or _tracked(outs)
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
    results = _call_while(capture, *graphs, init, list(lifted.values()), tracked)
    for (t, _, _), new in zip(state, results[n:], strict=True):
        capture.write(t, new)
    return carry.build(results[:n])


def _carries(result: Any) -> Tree:
    """What the body of a while loop returned, as a tuple."""
    return Tree("while_loop", "carries", tuple(result) if isinstance(result, list | tuple) else (result,))  # fmt: skip


def _call_while(
    capture: Capture, test: Graph, body: Graph, init: Sequence[Tensor], consts: Sequence[Tensor], tracked: bool
) -> list[Tensor]:  # fmt: skip
    """The last carries of a while loop, which need a gradient where it is `tracked`."""
    operands = [capture.own(t) for t in (*init, *consts)]
    nodes, n = _values(capture, operands), len(init)
    if not tracked:
        made = _made(capture, "while_op", (test, body, nodes[:n], nodes[n:]))
        return _outputs(capture, made)
    flags = [True] * n + [_fresh(t)._rg for t in operands[n:]]
    trace = Trace.of(capture, "kiln.while_loop", body, flags, _call_again)
    counted = _counted(test, n, False), _counted(body, n, True)
    zero = const(0, int64, ())
    made = _made(capture, "while_op", (*counted, (*nodes[:n], zero), nodes[n:]))
    *outs, steps = _outputs(capture, made)
    return WhileNode(capture, trace, operands, n, steps).attach(outs)


def _counted(g: Graph, n: int, counts: bool) -> Graph:
    """A Graph of a while loop with the number of steps as a carry after the n others."""
    steps = input_node(n, (), int64)
    rest = [input_node(n + 1 + i, x.shape, x.dtype) for i, x in enumerate(g.inputs[n:])]
    outs = substitute(
        g.outputs, {**{x: x for x in g.inputs[:n]}, **dict(zip(g.inputs[n:], rest, strict=True))}
    )
    if counts:
        outs.append(make("add", (steps, const(1, int64, ()), 1)))
    return Graph([*g.inputs[:n], steps, *rest], outs)


class WhileNode(BodyNode):
    """A while loop on the tape.

    Note [Gradient of a while loop]: backward is a loop over the steps from the last to the first. What
    a step was given is computed again. Steps come in segments of the square root of their number: at
    the end of each, forward runs from the beginning to the segment's first step, and from there to each
    step in it. So memory does not grow with the number of steps, and their cost is its power of 1.5.
    """

    __slots__ = ("steps",)

    def __init__(
        self, capture: Capture, trace: Trace, operands: list[Tensor], n: int, steps: Tensor
    ):
        super().__init__(capture, trace, operands, n)
        self.steps = steps

    def name(self) -> str:
        return "WhileBackward0"

    def required(self) -> list[bool]:
        # whatever the body gives, the first step was given carries
        return [h._rg for h in self.trace.heads[: self.n_out]]

    def free(self) -> None:
        super().free()
        self.steps = None

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        self.check()
        trace, n, steps = self.trace, self.n_out, self.steps
        init, consts = self.operands[:n], self.operands[n:]
        carries = [k for k in range(n) if trace.heads[k]._rg]
        wanted = [i for i, e in enumerate(self.edges) if i >= n and e is not None]
        seeds = [seed(k, o) if k in carries else None for k, o in enumerate(trace.outs)]
        heads = [trace.heads[i] for i in (*carries, *wanted)]
        found = trace.body.gradients(trace.outs, seeds, heads)
        grads = [
            zeros(trace.body.head(h)) if g is None else g for h, g in zip(heads, found, strict=True)
        ]
        forward = trace.graph()
        reverse = trace.body.graph([*trace.nodes, *(s for s in seeds if s is not None)], grads)

        def run(graph: Graph, now: Sequence[Tensor], more: Sequence[Tensor] = ()) -> list[Tensor]:
            inner = active_capture()
            return replay(
                inner, graph, [*now, *consts, *more], lambda op, args: _call_again(inner, op, args)
            )

        def ahead(count: Tensor, now: Sequence[Tensor]) -> list[Tensor]:
            """The carries so many steps after these."""
            _, *after = while_loop(
                lambda left, *_: left > 0,
                lambda left, *now: (left - 1, *run(forward, now)),
                (count, *now),
            )
            return after

        def segment(end: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
            first = (end - size).clamp(min=0)
            begin = ahead(first, init)

            def step(t: Tensor, *sums: Tensor) -> tuple[Tensor, ...]:
                m = len(carries)
                new = run(reverse, ahead(t - 1 - first, begin), sums[:m])
                added = (a + b for a, b in zip(sums[m:], new[m:], strict=True))
                return t - 1, *new[:m], *added

            return while_loop(lambda t, *_: t > first, step, (end, *sums))

        size = steps.double().sqrt().ceil().long().clamp(min=1)
        last = [zeros_like(init[k]).detach() if gs[k] is None else gs[k] for k in carries]
        totals = [zeros_like(self.operands[i]).detach() for i in wanted]
        _, *sums = while_loop(lambda end, *_: end > 0, segment, (steps, *last, *totals))
        done = dict(zip((*carries, *wanted), sums, strict=True))
        return [done.get(i) if e is not None else None for i, e in enumerate(self.edges)]
