"""Capturing the bodies of loops and branches: what they read from outside becomes their inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .. import dtypes as dt
from ..autograd.engine import run
from ..autograd.modes import no_grad
from ..autograd.passes import Targets
from ..autograd.tape import TapeNode, edge_of
from ..errors import CaptureError, KilnError, describe
from ..graph.node import (
    CONST,
    INPUT,
    ITEM,
    LITERAL,
    Graph,
    Node,
    const,
    input_node,
    substitute,
    toposort,
)
from ..ops.dispatch import apply
from ..ops.registry import Op
from ..tensor import Tensor, _fresh, wrap
from .capture import Capture
from .pytree import flatten, unflatten
from .symbolic import Storage, SymArray


class Tree:
    """The tensors of a nested value, and how to put others in their places."""

    def __init__(self, name: str, what: str, tree: Any):
        leaves: list[Any] = []
        self.structure = flatten(tree, leaves)
        self.tensors: list[Tensor] = [x for x in leaves if x is not None]
        self.key = (self.structure, tuple(x is None for x in leaves))
        for x in self.tensors:
            if not isinstance(x, Tensor):
                raise KilnError(name, f"{what} are tensors", describe(x), "wrap it: kiln.tensor(x)")

    @property
    def kinds(self) -> list[tuple]:
        """Shape and dtype of each tensor."""
        return [(tuple(t._a.shape), t.dtype) for t in self.tensors]

    def build(self, tensors: Sequence[Any]) -> Any:
        """The nested value with these tensors."""
        rest = iter(tensors)
        nones = iter(self.key[1])
        return unflatten(self.structure, lambda: None if next(nones) else next(rest))


class BodyCapture(Capture):
    """The capture of a body, inside another capture.

    Tensors of the body itself are made by `parameter`. Any other tensor that it reads is lifted: it
    gets a stand-in that is an input of the body, so the body is closed. Memory from outside that the
    body writes (a generator's state) is in `writes`.
    """

    def __init__(self, outer: Capture, what: str):
        super().__init__()
        self.outer, self.what, self.hook = outer, what, outer.hook
        self.heads: dict[int, Node] = {}  # input nodes by id of their storage
        self.lifted: dict[int, tuple[Tensor, Tensor]] = {}  # (outer, stand-in) by id of the outer
        self.memory: dict[Any, tuple[Storage, Tensor]] = {}

    def parameter(self, shape: Sequence[int], dtype: dt.dtype, tracked: bool) -> Tensor:
        """A tensor that the body is given; it may not be written to."""
        n = input_node(len(self.heads), shape, dtype)
        storage = Storage(n, readonly=True)
        self.heads[id(storage)] = n
        out = wrap(SymArray(self, storage, (), n.shape, dtype.np))
        out._rg = tracked and dtype.category >= dt.FLOAT
        return out

    def head(self, t: Tensor) -> Node:
        """The input node of a parameter or a stand-in."""
        return self.heads[id(t._a.storage)]

    def own(self, t: Tensor) -> Tensor:
        a = t._a
        if isinstance(a, SymArray) and a.capture is self:
            return t
        known = self.lifted.get(id(t))
        if known is not None:
            return known[1]
        sym = self.outer.payload(t)
        tracked = _fresh(t)._rg
        place = (id(sym.storage), sym.chain, tracked)
        if place not in self.memory:
            out = self.parameter(sym.shape, t.dtype, tracked)
            storage = out._a.storage
            storage.readonly = sym.storage.readonly or bool(sym.chain) or tracked
            self.memory[place] = (storage, t)
        else:
            storage = self.memory[place][0]
            out = wrap(SymArray(self, storage, (), sym.shape, sym.dtype))
            out._rg = tracked
        self.lifted[id(t)] = (t, out)
        return out

    def reads(self) -> list[tuple[Tensor, Tensor]]:
        """(tensor from outside, stand-in) for each input that was lifted and is not written."""
        first: dict[int, tuple[Tensor, Tensor]] = {}
        for pair in self.lifted.values():
            storage = pair[1]._a.storage
            if not storage.written:
                first.setdefault(id(storage), pair)
        return list(first.values())

    def writes(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(tensor from outside, stand-in, tensor of the new value) for all memory that the body writes."""
        for t, inner in self.lifted.values():
            # what required grad before is read-only; views made here have the stand-in as their base
            if inner._a.storage.written and (_fresh(t)._rg or _fresh(inner)._rg):
                t._fn, t._rg = None, False
                self._forbid(
                    "writes values that require grad to a tensor from outside",
                    "write them detached, or return the new values: a result has a gradient",
                )
        return [
            (t, self.lifted[id(t)][1], self.tensor(s.value))
            for s, t in self.memory.values()
            if s.written
        ]

    # ---- what a capture is asked for

    def payload(self, t: Tensor) -> SymArray:
        return self.own(t)._a

    def call(self, op: Op, args: tuple) -> Any:
        def moved(x: Any) -> Any:
            if isinstance(x, Tensor):
                return self.own(x)
            if isinstance(x, list | tuple) and any(isinstance(y, Tensor) for y in x):
                return [moved(y) for y in x]
            return x

        return super().call(op, tuple(map(moved, args)))

    def write(self, x: Tensor, value: Any) -> None:
        if self.payload(x).storage.readonly:
            self._forbid(
                "writes a tensor that it was given", "clone() it first, or make it a carry"
            )
        super().write(x, value)

    def host_scalar(self, owner: Any, key: Any) -> Tensor:
        return self.outer.host_scalar(owner, key)

    def watch(self, owner: Any) -> None:
        self.outer.watch(owner)

    def rebind(self, table: dict[str, Any], name: str) -> None:
        self._forbid(f"binds the attribute {name!r} to another tensor", "return the tensor instead")

    def branch(self, t: Tensor) -> bool:
        self._forbid("branches in Python on a tensor's value", "use kiln.where or kiln.cond")

    def read_grad(self, t: Tensor) -> Tensor | None:
        if self._is_ours(t):
            return super().read_grad(t)
        self._forbid("reads .grad of a tensor from outside", "use kiln.autograd.grad in it")

    def note_grad(self, t: Tensor) -> None:
        if not self._is_ours(t):
            self._forbid("sets .grad of a tensor from outside", "use kiln.autograd.grad in it")

    def _forbid(self, what: str, cure: str) -> NoReturn:
        raise CaptureError("compile", f"the body of {self.what} {what}", self.where(), cure)

    # ---- as a Graph

    def graph(self, heads: Sequence[Node], outs: Sequence[Node]) -> Graph:
        """The closed Graph with these input nodes, in this order."""
        inputs = [input_node(i, n.shape, n.dtype) for i, n in enumerate(heads)]
        new: dict[Node, Node] = {}
        for n, i in zip(heads, inputs, strict=True):
            new.setdefault(n, i)  # two tensors from outside may be one memory
        out = Graph(inputs, substitute(outs, new))
        known = set(new)
        for n in toposort(self.places):
            if n.op is not INPUT and all(x in known for x in n.inputs):
                known.add(n)
        made = [n for n in self.places if n in known]
        out.places = dict(zip(substitute(made, new), map(self.places.get, made), strict=True))
        return out

    def gradients(
        self, outs: Sequence[Tensor], seeds: Sequence[Node | None], wanted: Sequence[Tensor]
    ) -> list[Node | None]:
        """Nodes of the gradients of `wanted`, from nodes of the gradients of `outs` (None: not needed)."""
        pairs = [
            (o, s) for o, s in zip(outs, seeds, strict=True) if s is not None and _fresh(o)._rg
        ]
        roots = [o for o, _ in pairs]
        targets = Targets(wanted, roots)
        with self.active(), no_grad():
            run(roots, [self.tensor(s) for _, s in pairs], True, False, targets, accumulate=False)
            found = [targets.found.get(k) for k in targets.keys]
            return [None if g is None else self.payload(g).node() for g in found]


def replay(
    capture: Capture, graph: Graph, inputs: Sequence[Tensor], control: Callable
) -> list[Tensor]:
    """A Graph's outputs, its ops called again on tensors of the running capture, with their tape.

    `control(op, args)` calls an op that has bodies.
    """
    values: dict[Node, Any] = dict(zip(graph.inputs, inputs, strict=True))

    def moved(x: Any) -> Any:
        if isinstance(x, Node):
            return values[x]
        if isinstance(x, tuple) and any(isinstance(y, Node) for y in x):
            return [moved(y) for y in x]
        return x

    for n in graph.nodes():
        if n.op is INPUT:
            continue
        if n.op is ITEM:
            values[n] = values[n.args[0]][n.args[1]]
        elif n.op in (CONST, LITERAL):
            values[n] = capture.tensor(n)
        else:
            assert isinstance(n.op, Op)
            values[n] = (control if n.graphs else apply)(n.op, tuple(map(moved, n.args)))
    return [values[o] for o in graph.outputs]


def seed(k: int, t: Tensor) -> Node:
    """The node that stands for the gradient of output k while a body is differentiated."""
    return input_node(-1 - k, t._a.shape, t.dtype, "grad")


def zeros(n: Node) -> Node:
    """Zeros like a node."""
    return const(0, n.dtype, n.shape)


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
    def of(
        capture: Capture, what: str, graph: Graph, tracked: Sequence[bool], control: Callable
    ) -> Trace:
        """A Graph traced again, to be differentiated; `control` as in `replay`."""
        body = BodyCapture(capture, what)
        with body.active():
            heads = [
                body.parameter(n.shape, n.dtype, rg)
                for n, rg in zip(graph.inputs, tracked, strict=True)
            ]
            outs = replay(body, graph, heads, lambda op, args: control(body, op, args))
            return Trace(body, heads, [body.own(o) for o in outs])


class BodyNode(TapeNode):
    """A loop or a branch on the tape."""

    __slots__ = ("capture", "operands", "trace")
    mapped = False
    trace: Any
    operands: Any

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

    def required(self) -> list[bool]:
        """Which results require grad: what eager mode would say."""
        return [_fresh(o)._rg for o in self.trace.outs]

    def attach(self, results: list[Tensor]) -> list[Tensor]:
        """The results with this node as their history."""
        for i, (r, required) in enumerate(zip(results, self.required(), strict=True)):
            if required:
                r._fn, r._idx, r._rg = self, i, True
        return results

    def free(self) -> None:
        super().free()
        self.trace = self.operands = None
