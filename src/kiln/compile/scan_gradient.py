"""The gradient of a captured scan.

Note [Gradient of a scan]: a scan that is differentiated also stacks the intermediate values that
its backward body reads; not what is cheap to compute again from those, nor what are ys anyway (a
carry whose new values are ys is in these, one step further on). Backward is a scan in the other
direction, whose carries are the gradients of the carries. A tensor from outside (a weight) gets the
sum of its gradients over all steps. Where each step's is a product of two matrices, they are stacked
and multiplied once, after the loop; other gradients are summed in a carry. Backward scans are
differentiated like any other, by calling the ops of their body again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..autograd.modes import mode
from ..autograd.tape import edge_of
from ..graph.node import CONST, ITEM, LITERAL, Node, input_node, make, toposort
from ..ops.creation import zeros_like
from ..ops.joining import cat
from ..ops.linear import linear_weight_grad
from ..ops.registry import REGISTRY
from ..tensor import Tensor, _fresh
from .bodies import BodyNode, Trace, seed, zeros
from .capture import Capture
from .regions import scalar_op
from .views import VIEWS

_CHEAP = {"add", "sub", "mul", "neg", "where", "cast", "copy", "maximum", "minimum", "and", "or", "not",
          "eq", "ne", "lt", "le", "gt", "ge"}  # fmt: skip


class ScanNode(BodyNode):
    """A scan on the tape, see Note [Gradient of a scan]."""

    __slots__ = ("call", "given", "length", "n_init", "n_xs", "reverse", "saved", "stacks")

    def __init__(
        self, call: Callable, capture: Capture, trace: Trace, operands: list[Tensor], n_init: int, n_xs: int, length: int, reverse: bool,
    ):  # fmt: skip
        super().__init__(capture, trace, operands, len(trace.outs))
        self.call = call  # what emits a scan
        self.n_init, self.n_xs, self.length, self.reverse = n_init, n_xs, length, reverse
        self.stacks: dict[Node, Tensor] = {}
        seeds = [seed(k, o) if _fresh(o)._rg else None for k, o in enumerate(trace.outs)]
        grads = trace.body.gradients(trace.outs, seeds, self._heads())
        # the number of the ys that hold a node, and whether they do one step later
        ys = {self._node(k): k for k in range(n_init, len(trace.outs))}
        before = {x: ys.get(self._node(i)) for i, x in enumerate(trace.nodes[:n_init])}
        self.given = {x: (k, True) for x, k in before.items() if k is not None}
        self.given |= {x: (k, False) for x, k in ys.items()}
        self.saved = self._choose([g for g in grads if g is not None])

    def _node(self, k: int) -> Node:
        """Output k of the body."""
        return self.trace.body.payload(self.trace.outs[k]).node()

    def keep(self, results: list[Tensor]) -> None:
        """Note what the scan has stacked for backward."""
        self.stacks = dict(zip(self.saved, results[self.n_out :], strict=True))
        for x, (k, before) in self.given.items():
            now = results[k].detach()
            if before:
                first = self.operands[self.trace.nodes.index(x)].detach().unsqueeze(0)
                now = cat([now[1:], first] if self.reverse else [first, now[:-1]])
            self.stacks[x] = now

    def name(self) -> str:
        return "ScanBackward0"

    def required(self) -> list[bool]:
        # the body is traced with carries that all require grad; at the first step init says which do
        leads = _leads(self.trace)
        now = [e is not None for e in self.edges]
        rest, stacked = now[self.n_init :], [False] * (self.n_out - self.n_init)
        for _ in range(self.length):
            before = now, stacked
            outs = [any(now[i] for i in ways) for ways in leads]
            now = [*outs[: self.n_init], *rest]
            stacked = [a or b for a, b in zip(stacked, outs[self.n_init :], strict=True)]
            if (now, stacked) == before:
                break
        return [*now[: self.n_init], *stacked]

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
        order = toposort(grads)
        late: set[Node] = set()
        steady: set[Node] = set()  # equal at all steps
        for x in order:
            if _is_seed(x) or any(i in late for i in x.inputs):
                late.add(x)
            elif (
                x in consts or (x.inputs and all(i in steady for i in x.inputs)) or _is_constant(x)
            ):
                steady.add(x)
        free = steady | xs | set(self.given)
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
        results = self.call(
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
        results = self.call(
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
        return s.reshape(s.shape[0] * s.shape[1], s.shape[2])


def _leads(trace: Trace) -> list[set[int]]:
    """The inputs of a body that each of its outputs leads back to on the tape."""
    heads = {id(h): i for i, h in enumerate(trace.heads)}
    leads = []
    for o in trace.outs:
        found, seen, todo = set(), set(), [edge_of(o)]
        while todo:
            e = todo.pop()
            if e is None or id(e[0]) in seen:
                continue
            seen.add(id(e[0]))
            if isinstance(e[0], Tensor):
                found.add(heads.get(id(e[0]), -1))
            else:
                todo += e[0].edges
        leads.append(found - {-1})
    return leads


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
