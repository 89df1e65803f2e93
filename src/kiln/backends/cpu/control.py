"""Loops and branches as launches: their bodies are lowered into the same plan, and jumps go between.

Note [Control entries]: an entry of a plan whose ntasks is -1 is no kernel but a function
`i64 f(ptr args)` that gives how many entries to skip (a negative number goes back). What changes from
step to step of a scan are addresses: the places of its sequences move on by a stride. They are
patched in the table of arguments by `kiln_begin` and `kiln_next`, whose block of that table holds

    steps left | steps | entries from next to the first of the body | number of patches
    and for each patch: first address | its offset in bytes at the first step | stride | entry to patch

entries counted from the block's beginning. A first address may itself be patched by an outer loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...compile import loopnest as ln
from ...compile.regions import Unfusable, ln_dtype
from ...compile.views import strided_view
from ...graph.node import INPUT, Graph, Node, item, make
from ...shape import contiguous_strides
from . import checked, loops
from .isa import Isa
from .kernel import Kernel

if TYPE_CHECKING:
    from .lower import Launch, Lowering

OPS = ("scan_op", "cond_op", "while_op")

_TEXTS = {
    "kiln_begin": """
define i64 @kiln_begin(ptr %args) {
entry:
  %steps.p = getelementptr i64, ptr %args, i64 1
  %steps = load i64, ptr %steps.p
  store i64 %steps, ptr %args
  %count.p = getelementptr i64, ptr %args, i64 3
  %count = load i64, ptr %count.p
  %first = getelementptr i64, ptr %args, i64 4
  br label %head
head:
  %k = phi i64 [ 0, %entry ], [ %k.next, %body ]
  %more = icmp slt i64 %k, %count
  br i1 %more, label %body, label %exit
body:
  %patch = getelementptr { i64, i64, i64, i64 }, ptr %first, i64 %k
  %base = load i64, ptr %patch
  %offset.p = getelementptr i64, ptr %patch, i64 1
  %offset = load i64, ptr %offset.p
  %target.p = getelementptr i64, ptr %patch, i64 3
  %target = load i64, ptr %target.p
  %where = getelementptr i64, ptr %args, i64 %target
  %address = add i64 %base, %offset
  store i64 %address, ptr %where
  %k.next = add i64 %k, 1
  br label %head
exit:
  ret i64 0
}
""",
    "kiln_next": """
define i64 @kiln_next(ptr %args) {
entry:
  %left = load i64, ptr %args
  %left.next = sub i64 %left, 1
  store i64 %left.next, ptr %args
  %done = icmp sle i64 %left.next, 0
  br i1 %done, label %leave, label %advance
advance:
  %count.p = getelementptr i64, ptr %args, i64 3
  %count = load i64, ptr %count.p
  %first = getelementptr i64, ptr %args, i64 4
  br label %head
head:
  %k = phi i64 [ 0, %advance ], [ %k.next, %body ]
  %more = icmp slt i64 %k, %count
  br i1 %more, label %body, label %again
body:
  %patch = getelementptr { i64, i64, i64, i64 }, ptr %first, i64 %k
  %stride.p = getelementptr i64, ptr %patch, i64 2
  %stride = load i64, ptr %stride.p
  %target.p = getelementptr i64, ptr %patch, i64 3
  %target = load i64, ptr %target.p
  %where = getelementptr i64, ptr %args, i64 %target
  %old = load i64, ptr %where
  %new = add i64 %old, %stride
  store i64 %new, ptr %where
  %k.next = add i64 %k, 1
  br label %head
again:
  %back.p = getelementptr i64, ptr %args, i64 2
  %back = load i64, ptr %back.p
  ret i64 %back
leave:
  ret i64 0
}
""",
    "kiln_jump": """
define i64 @kiln_jump(ptr %args) {
  %by = load i64, ptr %args
  ret i64 %by
}
""",
    "kiln_unless": """
define i64 @kiln_unless(ptr %args) {
  %by = load i64, ptr %args
  %flag.p = getelementptr i64, ptr %args, i64 1
  %flag = load ptr, ptr %flag.p
  %value = load i8, ptr %flag
  %true = icmp ne i8 %value, 0
  %skip = select i1 %true, i64 0, i64 %by
  ret i64 %skip
}
""",
}


def entry(symbol: str) -> Kernel:
    """The function of a control entry."""
    return Kernel(_TEXTS[symbol], symbol, -1)


@dataclass
class Part:
    """A body: its Graph, whose updates are the carries, and its launches, the first `ahead` of which a
    loop runs once, before its first step.

    `outputs[k]` is the number that output k of the Graph has among the outputs of the node's body.
    """

    graph: Graph
    outputs: list[int]
    launches: list[Launch]
    ahead: int


@dataclass
class Control:
    """What a launch of a node with bodies consists of; `operands` are (node in memory, offset in elements).

    The node is a `checked` one; `results` are where its outputs lie.
    """

    node: Node
    parts: list[Part]
    operands: list[tuple[Node, int]]
    strides: list[int]
    results: list[Node]
    memories: list[Any] = field(default_factory=list)
    """Where the values of each part lie: made by `layout`."""

    @property
    def workspace_bytes(self) -> int:
        """Memory for the values of all parts, and one flag."""
        return sum(-(-m.bytes // 64) * 64 for m in self.memories) + 64


def emit(lowering: Lowering, n: Node) -> None:
    """Append the launch of a node with bodies; it is a host call where a body needs one."""
    from .lower import Launch

    asked, flag, host = n, None, False
    if lowering.checking:
        try:
            n = checked.checked(asked) or asked
        except checked.Unchecked:
            host = True
    if n is not asked:
        flag = item(n, checked.place(n))
        for x in asked.inputs:  # the reference will tell of a wrong index
            if not lowering.stored(x):
                raise Unfusable(x)
    sequences = range(0)
    if n.name == "scan_op":
        sequences = range(len(n.arg("init")), len(n.arg("init")) + len(n.arg("xs")))
    operands, strides = [], []
    for i, x in enumerate(n.inputs):
        found = strided_view(x, lowering.stored, lowering.strides)
        whole = 1 if i in sequences else 0
        if found is None or not _contiguous(x.shape[whole:], found[1][whole:]):
            raise Unfusable(x)
        operands.append((found[0], found[2]))
        strides.append(found[1][0] if whole else 0)
    parts = None if host else _parts(n, lowering.isa)
    if parts is None:
        for x in asked.inputs:
            if not lowering.stored(x):
                raise Unfusable(x)
        lowering.launches.append(lowering.host(asked))
        return
    assert asked.outputs is not None
    items = [item(asked, i) for i in range(len(asked.outputs))]
    if flag is not None:
        items.insert(checked.place(n), flag)
        lowering.checks.append((flag, asked))
    lowering.memory.update(items)
    lowering.done.update(items)
    control = Control(n, parts, operands, strides, items)
    lowering.launches.append(Launch(list(operands), items, control=control))


def _contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    want = contiguous_strides(shape)
    return 0 in shape or all(a == b or s == 1 for a, b, s in zip(strides, want, shape, strict=True))


def _parts(n: Node, isa: Isa) -> list[Part] | None:
    """The bodies of a node, lowered; None where one of them has work for the host."""
    if any(ln_dtype(x.dtype) is None or 0 in x.shape for x in n.inputs):
        return None
    loop = n.name != "cond_op"
    carries = len(n.arg("init")) if loop else 0
    parts = []
    for k, g in enumerate(n.graphs):
        steady = g.inputs[len(g.inputs) - len(n.arg("consts")) :] if loop else ()
        part = _part(g, 0 if n.name == "while_op" and k == 0 else carries, frozenset(steady), isa)
        if part is None:
            return None
        parts.append(part)
    return parts


def _part(g: Graph, carries: int, steady: frozenset[Node], isa: Isa) -> Part | None:
    from . import fuse, lower

    # old values of carries are read first: then the new ones can take their place
    order = sorted(range(len(g.outputs)), key=lambda k: g.outputs[k].op is not INPUT)
    outs: list[Node] = []
    for k in order:
        o = g.outputs[k]
        outs.append(make("clone", (o, None)) if o in outs else o)
    g = Graph(g.inputs, outs, {i: k for i, k in enumerate(order) if k < carries})
    g = lower.prepare(g)
    if any(ln_dtype(d) is None for x in g.nodes() for _, d in x.outputs or ((x.shape, x.dtype),)):
        return None
    launches, _, _ = lower.lower(g, isa, images=False, steady=steady, checking=False)
    if any(x.host is not None for x in launches):
        return None
    ahead = [x for x in launches if x.ahead]
    launches = fuse.needed(fuse.fuse([x for x in launches if not x.ahead]), set(g.outputs))
    fuse.emit(launches, isa)
    return Part(g, order, [*ahead, *launches], len(ahead))


def copy(n: Node, isa: Isa) -> Kernel:
    """The kernel that copies a node's values: its table is (target, source)."""
    d = ln_dtype(n.dtype)
    assert d is not None
    at = ln.IndexMap(0, (1,))
    nest = ln.elementwise((max(n.numel(), 1),), [d, d], [ln.Store(0, at, ln.load(1, d, at))])
    return loops.emit(nest, isa)
