"""Nodes and Graphs: a captured program as immutable, hash-consed nodes in SSA order.

A node is an op of the registry with its arguments in the order of the op's parameters: nodes where
tensors go, plain frozen values elsewhere. Equal nodes are the same object, so common
subexpressions exist once by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import get_ident
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError
from ..ops.registry import REGISTRY, Op
from ..shape import Size


class Leaf:
    """A node kind that is not an op: `input`, `const`, `literal`, `item`."""

    __slots__ = ("name",)
    body = None
    family = "leaf"

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"<leaf {self.name}>"


INPUT, CONST, LITERAL, ITEM = Leaf("input"), Leaf("const"), Leaf("literal"), Leaf("item")


class Node:
    """One value of a Graph: `op(*args)` with its shape and dtype.

    An op with several outputs has `outputs`, a tuple of (shape, dtype); each is read through an
    `item` node. `source` is the user's line that made it; `inputs` are the nodes among the arguments,
    in order, `graphs` the Graphs: bodies of a loop or a branch; `legal` says that the spec has been
    checked (nodes never change).
    """

    __slots__ = (
        "__weakref__",
        "args",
        "dtype",
        "graphs",
        "inputs",
        "legal",
        "op",
        "outputs",
        "shape",
        "source",
    )

    op: Op | Leaf
    args: tuple
    shape: Size
    dtype: dt.dtype
    outputs: tuple[tuple[Size, dt.dtype], ...] | None
    source: str
    inputs: tuple[Node, ...]
    graphs: tuple[Graph, ...]
    legal: bool

    @property
    def name(self) -> str:
        """The op's name."""
        return self.op.name

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def numel(self) -> int:
        """The number of elements."""
        return Size(self.shape).numel()

    def arg(self, name: str) -> Any:
        """The argument of that parameter name."""
        assert isinstance(self.op, Op)
        return self.args[self.op.index[name]]

    def __repr__(self) -> str:
        kind = "several" if self.outputs else f"{self.dtype.abbr}{list(self.shape)}"
        return f"<{self.name} {kind}>"


_interned: WeakValueDictionary[Any, Node] = WeakValueDictionary()


def _key(x: Any) -> Any:
    """A hashable stand-in for an argument that tells 1, 1.0, True, 0.0 and -0.0 apart."""
    if isinstance(x, Node):
        return id(x)
    if isinstance(x, tuple):
        return tuple(map(_key, x))
    if isinstance(x, float | complex | np.generic):
        return (type(x).__name__, repr(x))
    if isinstance(x, np.ndarray):
        return ("array", id(x))
    if isinstance(x, Graph):
        return ("graph", tuple(map(id, x.inputs)), tuple(map(id, x.outputs)))
    return (type(x).__name__, x)


def freeze(x: Any) -> Any:
    """An argument in its immutable form."""
    if isinstance(x, list | tuple):
        return tuple(map(freeze, x))
    return x


def _node(op: Op | Leaf, args: tuple, shape: Any, dtype: Any, outputs: Any, source: str) -> Node:
    key = (op.name, *map(_key, args))
    found = _interned.get(key)
    if found is not None and found.op is op:
        return found
    n = Node()
    n.op, n.args, n.shape, n.dtype, n.outputs, n.source = op, args, shape, dtype, outputs, source
    inputs: list[Node] = []
    graphs: list[Graph] = []
    for a in args:
        if isinstance(a, Node):
            inputs.append(a)
        elif isinstance(a, tuple):
            inputs.extend(x for x in a if isinstance(x, Node))
        elif isinstance(a, Graph):
            graphs.append(a)
    n.inputs, n.graphs, n.legal = tuple(inputs), tuple(graphs), False
    _interned[key] = n
    return n


def make(op: Op | str, args: Sequence[Any], source: str = "") -> Node:
    """The node of an op applied to bound arguments; its shape rule gives shape and dtype."""
    o = REGISTRY[op] if isinstance(op, str) else op
    frozen = tuple(map(freeze, args))
    if o.infer is None:
        raise KilnError(
            o.name, "the result's shape depends on the values of its inputs, so it can't be captured",
            None, "compute it outside the compiled function, or use a masked form such as kiln.where",
        )  # fmt: skip
    r = o.infer(*frozen)
    if isinstance(r, list):
        return _node(o, frozen, None, None, tuple((Size(s), d) for s, d in r), source)
    return _node(o, frozen, Size(r[0]), r[1], None, source)


def remade(n: Node, args: tuple) -> Node:
    """An op's node with other arguments; itself where they are the same."""
    assert isinstance(n.op, Op)
    return n if args == n.args else make(n.op, args, n.source)


def item(n: Node, i: int) -> Node:
    """Output i of a node with several."""
    assert n.outputs is not None
    shape, dtype = n.outputs[i]
    return _node(ITEM, (n, i), shape, dtype, None, n.source)


def twin(n: Node) -> Node:
    """A node of the same value that is not the same object and never becomes it: it is computed again.

    Only for the last step of lowering: passes would take the two for one.
    """
    t = Node()
    for name in Node.__slots__[1:]:
        setattr(t, name, getattr(n, name))
    return t


def const(value: Any, dtype: dt.dtype, shape: Sequence[int] = ()) -> Node:
    """A scalar known at capture, as a 0-d node (or broadcast to a shape)."""
    # an integer beyond the dtype's range wraps, as in eager mode and PyTorch
    whole = dtype.category == dt.INT and isinstance(value, int)
    scalar = np.asarray(value).astype(dtype.np)[()] if whole else dtype.np.type(value)
    n = _node(
        CONST,
        (scalar.item() if dtype.category != dt.FLOAT else float(scalar), dtype),
        Size(()),
        dtype,
        None,
        "",
    )
    return n if not len(shape) else make("expand", (n, tuple(shape)))


def literal(array: np.ndarray) -> Node:
    """An array known at capture; the node keeps it."""
    return _node(LITERAL, (array,), Size(array.shape), dt.OF_NUMPY[array.dtype], None, "")


def input_node(index: int, shape: Sequence[Any], dtype: dt.dtype, name: str = "") -> Node:
    """Input `index` of a Graph."""
    return _node(INPUT, (index, name, tuple(shape), dtype), Size(shape), dtype, None, "")


class Graph:
    """A program: input nodes, output nodes, and which outputs are written into which inputs.

    `updates[k] = i` says that output k is the new value of input i, stored in its memory. `places` are those at which the nodes
    of the body of a loop or a branch were made as it was captured, nodes that no output needs among them: observers see these too.
    """

    __slots__ = ("inputs", "order", "outputs", "places", "updates")

    def __init__(
        self, inputs: Sequence[Node], outputs: Sequence[Node], updates: dict[int, int] | None = None
    ):
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.updates = dict(updates or {})
        self.order: tuple[Node, ...] | None = None
        self.places: dict[Node, Any] = {}

    def nodes(self) -> tuple[Node, ...]:
        """Every node that the outputs need, inputs first, each after its own inputs."""
        if self.order is None:
            self.order = tuple(toposort((*self.inputs, *self.outputs)))
        return self.order

    def deep_nodes(self) -> list[Node]:
        """`nodes`, and those of the bodies of loops and branches, at any depth."""
        out = list(self.nodes())
        for n in self.nodes():
            for g in n.graphs:
                out += g.deep_nodes()
        return out

    def evaluator(self) -> Evaluator:
        """The Graph as a function on arrays, by its ops' references."""
        return Evaluator(self)

    def replace_outputs(self, outputs: Sequence[Node]) -> Graph:
        """The same inputs and updates with other outputs."""
        return Graph(self.inputs, outputs, self.updates)

    def rewrite(self, fn: Callable[[Node, tuple], Node]) -> Graph:
        """The Graph with every op node replaced by `fn(node, new arguments)`, from inputs to outputs."""
        new: dict[Node, Node] = {}

        def moved(x: Any) -> Any:
            if isinstance(x, Node):
                return new[x]
            return tuple(map(moved, x)) if isinstance(x, tuple) else x

        for n in self.nodes():
            if n.op is ITEM:
                source = new[n.args[0]]
                new[n] = source[n.args[1]] if isinstance(source, tuple) else item(source, n.args[1])
            elif isinstance(n.op, Leaf):
                new[n] = n
            else:
                new[n] = fn(n, moved(n.args))
        return self.replace_outputs([new[o] for o in self.outputs])

    def __reduce__(self) -> tuple:
        from .text import parse_graph, print_graph

        return parse_graph, (print_graph(self),)

    def __str__(self) -> str:
        from .text import print_graph

        return print_graph(self)


OBSERVERS: dict[int, Callable[[Node, Any, Callable], None]] = {}
"""By thread, who looks at what evaluators compute, bodies of loops included: `observer(node, value, values)`, where
`values(argument)` are the arrays of an argument of the node. Ops run as in eager mode then, which takes an eighth of the
references' time for a ResNet. Empty almost always."""


class Evaluator:
    """A Graph run node by node on NumPy arrays; each value is dropped after its last use.

    Outputs may share memory with inputs; nothing is written. It defines the semantics.
    """

    __slots__ = ("drop", "graph", "order")

    def __init__(self, graph: Graph):
        self.graph = graph
        nodes = graph.nodes()
        if graph.places and get_ident() in OBSERVERS:
            nodes = toposort((*nodes, *graph.places))
        self.order = [n for n in nodes if n.op is not INPUT]
        last: dict[Node, int] = {}
        for i, n in enumerate(self.order):
            for x in n.inputs:
                last[x] = i
        keep = set(graph.outputs) | set(graph.inputs)
        self.drop: list[list[Node]] = [[] for _ in self.order]
        for n, i in last.items():
            if n not in keep:
                self.drop[i].append(n)

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for these inputs."""
        values: dict[Node, Any] = dict(zip(self.graph.inputs, inputs, strict=True))

        def raw(x: Any) -> Any:
            if isinstance(x, Node):
                return values[x]
            return (
                [raw(y) for y in x]
                if isinstance(x, tuple) and any(isinstance(y, Node) for y in x)
                else x
            )

        observer = OBSERVERS.get(get_ident()) if OBSERVERS else None
        with np.errstate(all="ignore"):
            for n, drop in zip(self.order, self.drop, strict=True):
                values[n] = self._value(n, raw, observer is not None)
                if observer is not None:
                    observer(n, values[n], raw)
                for d in drop:
                    del values[d]
        return [values[o] for o in self.graph.outputs]

    @staticmethod
    def _value(n: Node, raw: Any, quick: bool = False) -> Any:
        if n.op is CONST:
            return np.asarray(n.args[0], n.dtype.np)
        if n.op is LITERAL:
            return n.args[0]
        if n.op is ITEM:
            return np.asarray(raw(n.args[0])[n.args[1]])
        assert isinstance(n.op, Op)
        r = (n.op.eager if quick else n.op.run)(*[raw(a) for a in n.args])
        return r if n.outputs is not None else np.asarray(r)


def substitute(roots: Sequence[Node], new: dict[Node, Node]) -> list[Node]:
    """The roots with nodes replaced as `new` says, and rebuilt above them; `new` learns what was rebuilt."""

    def moved(x: Any) -> Any:
        if isinstance(x, Node):
            return new[x]
        return tuple(map(moved, x)) if isinstance(x, tuple) else x

    stack = [(r, False) for r in roots]
    while stack:
        n, ready = stack.pop()
        if n in new:
            continue
        if not ready:
            stack.append((n, True))
            stack.extend((x, False) for x in n.inputs)
        elif isinstance(n.op, Leaf):
            new[n] = item(new[n.args[0]], n.args[1]) if n.op is ITEM else n
        else:
            new[n] = remade(n, moved(n.args))
    return [new[r] for r in roots]


def toposort(roots: Iterable[Node]) -> list[Node]:
    """Nodes below the roots, each after its inputs, in the order in which the roots reach them."""
    done: set[Node] = set()
    out: list[Node] = []
    for root in roots:
        stack = [(root, False)]
        while stack:
            n, ready = stack.pop()
            if n in done:
                continue
            if ready:
                done.add(n)
                out.append(n)
            else:
                stack.append((n, True))
                stack.extend((i, False) for i in reversed(n.inputs) if i not in done)
    return out
