"""One captured path made executable: its Program, where inputs come from and where outputs go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..autograd.tape import TapeNode
from ..backends import base
from ..graph.node import Graph, Node, make
from ..tensor import Tensor, _fresh
from .capture import Capture
from .gradient import Joint, differentiate
from .inputs import Input
from .pytree import flatten
from .replay import replay
from .stretches import Apart, Stretch
from .symbolic import SymArray, dense_order


class Plan:
    """One captured path: its Program, where its inputs come from and where its outputs go."""

    def __init__(
        self,
        capture: Capture,
        result: Any,
        compile: Callable[..., base.Program],
        name: str,
        n_leaves: int,
        watchers: Sequence[Any] = (),
    ):
        self.watchers = watchers  # who looks at values of each call, outermost last
        self.call: Callable[[tuple[Any, ...]], Any] | None = None
        self.inputs = capture.inputs
        outputs: list[Node] = []

        def output(node: Node) -> int:
            outputs.append(node)
            return len(outputs) - 1

        out_leaves: list[Any] = []
        self.structure = flatten(result, out_leaves)
        out_leaves += capture.shared(out_leaves)
        self.makers = _makers(capture, out_leaves, output)
        late = {"alias": 1, "again": 2}
        self.order = sorted(enumerate(self.makers), key=lambda p: late.get(p[1][0], 0))
        grad_outputs = [
            (k, x) for k, x in zip(self.makers, out_leaves, strict=True) if k[0] == "new" and _fresh(x)._rg
        ]  # fmt: skip
        # a loss whose backward ran inside the function still says requires_grad, as in eager mode
        self.spent = {k[1] for k, x in grad_outputs if _is_spent(x)}
        grad_outputs = [(k, x) for k, x in grad_outputs if k[1] not in self.spent]
        moved = capture.moved()
        self.moved = [(leaf, output(capture.value(t))) for leaf, t in moved]
        grad_outputs += [(("new", k), t) for (_, k), (_, t) in zip(self.moved, moved, strict=True)]
        # (tensor or argument, what becomes its .grad: an argument itself, an output or nothing)
        self.grads: list[tuple[Tensor | int, tuple[str, int] | None]] = []
        changed = [(t, old, t._grad) for t, old, _ in capture.grads.values()]
        changed += [
            (leaf, capture.arg_grads.get(leaf), t._grad)
            for leaf, t, _ in capture.stand_ins.values()
        ]
        for target, old, new in changed:
            if isinstance(target, Tensor):
                target._grad = old
            if new is not old:
                known = capture.stand_ins.get(id(new))
                if new is None:
                    self.grads.append((target, None))
                elif known is not None:
                    self.grads.append((target, ("arg", known[0])))
                else:
                    self.grads.append((target, ("new", output(capture.payload(new).node()))))
        self.joint: Joint | None = None
        if grad_outputs:
            self.joint = differentiate(
                capture, [x for _, x in grad_outputs], [k[1] for k, _ in grad_outputs], output
            )
        self.written = capture.written()
        self.apart = Apart(self.inputs, self.written)
        values = {s.storage.origin: s.storage.value for s, _ in capture.storages.values()}
        updates = {output(values[i]): i.index for i in self.written}
        self.visible = [k for k in range(len(outputs)) if k not in updates]
        graph = Graph([i.node for i in self.inputs], outputs, updates)
        self.graph, self.places = graph, capture.places
        self.loose = {
            i.index
            for i in self.inputs
            if i.array is not None and not i.lay(i.array).flags.c_contiguous
        }
        self.program = compile(graph, name, () if self.joint is not None else self._steady())
        if self.joint is not None:
            self.joint.program = compile(self.joint.graph, name + ".backward")
        self.n_leaves = n_leaves
        for i in self.inputs:  # the first call's memory is not needed any more
            i.array = None
            if i.leaf >= 0:
                i.tensor = None

    def _steady(self) -> tuple[int, ...]:
        """Inputs that hold the same from call to call, mostly: state that this program doesn't write."""
        return tuple(
            i.index for i in self.inputs
            if i.kind == "state" and i not in self.written and i.index not in self.loose
        )  # fmt: skip

    def run(self, leaves: tuple[Any, ...]) -> Any:
        """Execute once for these argument leaves."""
        with self.program.lock:
            if self.call is None:
                self.call = replay(self)
            run = self.call
            for w in self.watchers:
                run = w.around(self, run)
            self.run = run  # type: ignore[method-assign]
        return run(leaves)

    def rewatch(self) -> None:
        """Follow a change of who looks."""
        self.__dict__.pop("run", None)


def _makers(capture: Capture, found: list[Any], output: Callable[[Node], int]) -> list[tuple]:
    """How each output leaf is made at each call.

    ("value", x) a Python value; ("new", k) from the Program's output k, or ("new", k, dims) from that with
    its dimensions permuted; ("again", j) the same tensor as output leaf j; ("arg", i) argument leaf i; ("alias", source, chain, tracked) a view of an input, of a
    tensor reached by the function or of output leaf j, or that tensor itself (no chain).
    """
    out: list[Any] = [None] * len(found)
    first: dict[int, int] = {}
    wholes: dict[Any, int] = {}  # storage -> the leaf that is all of it
    later: list[int] = []
    for j, x in enumerate(found):
        if not isinstance(x, Tensor):
            out[j] = ("value", x)
        elif id(x) in first:
            out[j] = ("again", first[id(x)])
        else:
            first[id(x)] = j
            later.append(j)
            a = x._a
            whole = isinstance(a, SymArray) and not a.chain and a.storage.origin is None
            if whole and (a.storage not in wholes or _fresh(x)._rg):
                wholes[a.storage] = j
    for j in later:
        x = found[j]
        a = x._a
        if not isinstance(a, SymArray):
            out[j] = ("alias", x, None, True)
            continue
        origin, tracked = a.storage.origin, _fresh(x)._rg
        if origin is not None and origin.kind in ("arg", "stretch", "state"):
            known = capture.stand_ins.get(id(x))
            if known is not None:
                out[j] = ("arg", known[0])
            elif origin.kind == "stretch":
                leaf, chain = _within(capture, origin.stretch, x)
                out[j] = ("alias", Input("arg", -1, origin.node, leaf=leaf), chain, tracked)
            else:
                chain = a.chain[len(origin.chain) :]
                out[j] = ("alias", origin, None if origin.tensor is x else chain, tracked)
            continue
        k = wholes.get(a.storage)
        if k is not None and k != j and (_fresh(found[k])._rg or not tracked):
            out[j] = ("alias", k, a.chain, tracked)
        else:
            dims = dense_order(a)
            if dims is None:
                out[j] = ("new", output(a.node()))
            else:  # in memory as eager mode has it
                inverse = tuple(dims.index(i) for i in range(len(dims)))
                out[j] = ("new", output(make("permute", (a.node(), dims))), inverse)
    return out


def _within(capture: Capture, stretch: Stretch, x: Tensor) -> tuple[int, Any]:
    """The argument in a stretch that a tensor is a view of, and the view ops that make it of that argument."""
    base = capture.stand_ins.get(id(x._base))
    fits = [
        (len(chain), leaf) for leaf, _, chain in stretch.places
        if x._a.chain[: len(chain)] == chain and (base is None or base[0] == leaf)
    ]  # fmt: skip
    n, leaf = max(fits)
    return leaf, x._a.chain[n:]


def _is_spent(t: Tensor) -> bool:
    """Whether a backward pass inside the function has used up this tensor's history."""
    seen: set[Any] = set()
    stack = [t._fn]
    while stack:
        n = stack.pop()
        if isinstance(n, TapeNode) and n not in seen:
            if n.freed:
                return True
            seen.add(n)
            stack.extend(e[0] for e in n.edges if e is not None)
    return False
