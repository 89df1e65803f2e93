"""Where everything of a native program lies: inputs and outputs, literals, and an arena laid out by liveness.

From launches to a `Recipe`, the last step of lowering.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from ...compile import pipeline
from ...compile.orders import Strides, row_major
from ...compile.regions import index_uses
from ...config import config
from ...graph.node import CONST, LITERAL, Graph, Leaf, Node
from ...ladder import tell
from ...runtime import arena
from . import jit
from .ahead import divide, unchanging
from .assembly import Assembly, Place
from .contract import WORKSPACE
from .fuse import emit, fuse, needed
from .isa import Isa
from .lifetimes import computed_over, over
from .lower import Launch, lower, lowers, prepare
from .order import orders
from .recipe import Checks, Host, Native, Recipe, Slot
from .recompute import within

_NOTHING: Mapping[Node, tuple[str, int]] = MappingProxyType({})


class Memory:
    """Where each node of a Program lies: inputs, outputs, literals, or an offset in the arena."""

    def __init__(
        self,
        graph: Graph,
        launches: list[Launch],
        keep: Collection[Node] = (),
        quiet: int = 0,  # the first `quiet` launches must not write state
        strides: Strides = row_major,
        kept: Mapping[Node, tuple[str, int]] = _NOTHING,  # what lies outside, computed before
    ):
        self.graph, self.keep, self.quiet, self.strides = graph, keep, quiet, strides
        self.place: dict[Node, tuple[str, Any]] = {
            n: ("ext", i) for i, n in enumerate(graph.inputs)
        }
        self.place |= kept
        self.copies: list[
            tuple[Node, tuple[str, Any]]
        ] = []  # results stored in a second place at the end
        self.launches = launches
        self.literals = [n for n in graph.nodes() if n.op is LITERAL]
        self.place |= {n: ("literal", i) for i, n in enumerate(self.literals)}
        self.born: dict[
            Node, int
        ] = {}  # the first launch that writes a node, the last that reads it
        self.read: dict[Node, int] = {}
        for j, x in enumerate(launches):
            for n in x.writes:
                self.born.setdefault(n, j)
            self.read.update(dict.fromkeys(x.reads, j))
        self._updates()
        for k, o in enumerate(graph.outputs):
            if k in graph.updates:
                continue
            if o in self.place:
                self.copies.append((o, ("out", k)))
            else:
                self.place[o] = ("out", k)
        self._lives()

    def _updates(self) -> None:
        """Updates are computed in their input's own memory where nobody reads the old value later."""
        for k, i in self.graph.updates.items():
            o, old = self.graph.outputs[k], self.graph.inputs[i]
            if o is old:
                continue
            if o not in self.place and self._in_place(o, old):
                self.place[o] = ("ext", i)
            else:
                self.copies.append((o, ("ext", i)))

    def _in_place(self, o: Node, old: Node) -> bool:
        born = self.born.get(o, -1)
        if born < self.quiet or self.read.get(old, -1) > born:
            return False
        first = self.launches[born]
        if old not in first.reads:
            return True
        return over(first, old, o)

    def _lives(self) -> None:
        """How long each value and each launch's scratch memory is needed, and what is computed over what."""
        births = self.born
        deaths = {n: max(j, self.read.get(n, j)) for n, j in births.items()}
        for j, x in enumerate(self.launches):
            for n in x.writes:
                deaths[n] = max(deaths[n], j)
        for n in (*self.keep, *(n for n, _ in self.copies)):
            if n in births:
                deaths[n] = len(self.launches)
        self.over = self._over(births, deaths)
        nodes = [n for n in births if n not in self.place and n not in self.over]
        self.lives = {
            n: arena.Interval(max(n.numel(), 1) * n.dtype.itemsize, births[n], deaths[n])
            for n in nodes
        }
        for x in self.launches:
            if x.control is not None and not x.control.memories:
                x.control.memories = [
                    Memory(
                        p.graph, p.launches, [n for y in p.launches[: p.ahead] for n in y.writes]
                    ).laid()
                    for p in x.control.parts
                ]
        self.scratch = {
            j: arena.Interval(size, j, j)
            for j, x in enumerate(self.launches)
            if (made := x.kernel or x.control) is not None and (size := made.workspace_bytes)
        }

    def laid(self) -> Memory:
        """This memory with an offset in the arena for each value."""
        values = [*self.lives.values(), *self.scratch.values()]
        offsets, self.bytes = arena.plan(values)
        for n, at in zip(self.lives, offsets, strict=False):
            self.place[n] = ("arena", at)
        for n, old in self.over.items():
            self.place[n] = self.place[old]
        self.scratch_at = dict(zip(self.scratch, offsets[len(self.lives) :], strict=True))
        return self

    def _over(self, births: dict[Node, int], deaths: dict[Node, int]) -> dict[Node, Node]:
        """Nodes computed over one that dies there, with the first node in that memory, which now lives as long."""
        over: dict[Node, Node] = {}
        last = dict(deaths)
        for j, x in enumerate(self.launches):
            free = {
                n
                for n in x.reads
                if n in births and n not in self.place and last[n] == j and births[n] < j
            }
            for o, old in computed_over(
                x, free, lambda o, j=j: o not in self.place and births[o] == j
            ):
                over[o] = over.get(old, old)
                deaths[over[o]] = max(deaths[over[o]], deaths[o])
        return over

    def copies_itself(self, x: Launch) -> bool:
        """Whether a launch would copy a node to where it lies."""
        if x.nest is None or len(x.writes) != 1 or not x.nest.is_copy():
            return False
        return self.place.get(x.arguments[0]) == self.place[x.writes[0]]

    def slot(self, n: Node) -> Slot:
        """Where a node's array lies."""
        return self.slot_at(self.place[n], n)

    def slot_at(self, place: tuple[str, int], n: Node) -> Slot:
        """A place for a node's array."""
        size = n.dtype.itemsize
        return Slot(*place, tuple(n.shape), n.dtype, tuple(s * size for s in self.strides(n)))

    def argument(self, a: Any, launch: int) -> tuple[str, int, int]:
        """An entry in the table of a kernel's arguments: kind, where, extra bytes."""
        node, offset = a if isinstance(a, tuple) else (a, 0)
        if node == WORKSPACE and launch in self.scratch_at:
            return "arena", self.scratch_at[launch], 0
        if node is None or node == WORKSPACE:
            return "null", 0, 0
        return *self.place[node], offset * node.dtype.itemsize

    def host(self, n: Node, writes: list[Node]) -> Host:
        """A call of a node's reference that fills `writes`."""

        def moved(x: Any) -> Any:
            if isinstance(x, Node) and x.op is CONST:
                return np.asarray(x.args[0], x.dtype.np)
            if isinstance(
                x, Node
            ):  # a check looks at indices; of other operands it takes the shapes
                return (
                    self.slot(x)
                    if x in self.place
                    else Slot("none", 0, tuple(x.shape), x.dtype, ())
                )
            return tuple(map(moved, x)) if isinstance(x, tuple) else x

        several = n.outputs is not None
        results = tuple((w.args[1] if several else None, self.slot(w)) for w in writes)
        return Host(n.name, moved(n.args), results)


def _arrays(graph: Graph) -> set[Node]:
    """The outputs of a Graph that are arrays of their own, and in one place."""
    times = Counter(graph.outputs)
    return {
        o
        for k, o in enumerate(graph.outputs)
        if k not in graph.updates and times[o] == 1 and not isinstance(o.op, Leaf)
    }


def _late(launches: list[Launch], asked: set[Node]) -> tuple[list[Launch], list[Launch]]:
    """What can fail (host calls, and what is `asked` for by checks) with all that it needs, and the rest after it.

    State is written last: nothing is half-changed where something fails.
    """
    read: set[Node] = set()
    late: list[Launch] = []
    early: list[Launch] = []
    for x in reversed(launches):
        if x.host is None and not any(w in read or w in asked for w in x.writes):
            late.append(x)
        else:
            early.append(x)
            read |= x.reads
    return early[::-1], late[::-1]


def plan(
    graph: Graph, name: str, isa: Isa, max_memory: int | None = None, steady: Sequence[int] = (), bare: bool = False
) -> Recipe:  # fmt: skip
    """The Recipe of a captured Graph; its kernels are compiled (or found in the cache) and loaded, unless it is to be `bare`.

    `max_memory` bounds the arena, literals and what is kept, in bytes; KilnMemoryError where they can't
    be as small. What is computed of the inputs `steady` alone is kept where there is room.
    """
    graph = prepare(pipeline.optimize(graph, lowers, name))
    if steady and max_memory is not None:
        recipe = _plan(graph, name, isa, None, steady, bare)
        held = recipe.arena_bytes + recipe.kept_bytes + sum(a.nbytes for a in recipe.literals)
        if held <= max_memory:
            return recipe
        steady = ()
    return _plan(graph, name, isa, max_memory, steady, bare)


def _plan(
    graph: Graph, name: str, isa: Isa, max_memory: int | None, steady: Sequence[int], bare: bool
) -> Recipe:
    """The Recipe of a Graph as it is lowered."""
    same = unchanging(graph, steady)
    launches, checks, strides = lower(graph, isa, steady=same)
    indices = {x for _, n in checks for x in n.inputs if n.graphs}
    indices.update(i for _, n in checks if not n.graphs for i, _, _ in index_uses(n))
    # what checks look at stays in memory until they have been asked
    keep = {x for flag, n in checks for x in (flag, *n.inputs)}
    ahead, launches = divide(launches, same, {*keep, *indices, *graph.outputs})
    origins = launches
    early, late = _late(launches, {flag for flag, _ in checks} | indices)
    late = needed(fuse(late), {*keep, *graph.outputs})
    early = needed(fuse(early), {*keep, *graph.outputs}.union(*(x.reads for x in late)))
    code = Assembly(isa)
    kept, kept_bytes = _kept(ahead, [*early, *late], graph, isa, strides, code)
    early = orders(early, graph, {*keep, *(n for x in late for n in x.reads)})[0]

    def memory(launches: list[Launch], quiet: int) -> Memory:
        emit(launches, isa, _arrays(graph))
        return Memory(graph, launches, keep, quiet, strides, kept)

    def scratch(x: Launch) -> int:
        if x.kernel is None and x.control is None and x.nest is not None:
            x = replace(x)  # which stores pass the caches is decided where all launches are known
            emit([x], isa)
        made = x.kernel or x.control
        return 0 if made is None else made.workspace_bytes

    if max_memory is None:
        m = memory(early + orders(late, graph, keep)[0], len(early)).laid()
    else:
        ways = [early + order for order in orders(late, graph, keep)]
        m = within(max_memory, name, ways, len(early), origins, memory, scratch)
    launches, quiet = m.launches, m.quiet
    literals = code.literals(m)
    steps: list[Native | Host | Checks] = []
    begun = first = len(code.kernels)

    def close() -> None:
        """End the stretch of native launches before something else."""
        nonlocal begun
        if len(code.kernels) > begun:
            steps.append(Native(begun, len(code.kernels) - begun))
            begun = len(code.kernels)

    for j, x in enumerate([*launches, None]):
        if j == quiet and checks:
            close()
            steps.append(Checks(tuple((m.slot(flag), m.host(n, [])) for flag, n in checks)))
        if x is None:
            break
        if x.host is not None:
            close()
            steps.append(m.host(x.host, x.writes))
        else:
            code.launch(m, j, lambda place: place)
    close()
    if not bare:
        _show(name, code.texts, isa)
    return Recipe(
        n_inputs=len(graph.inputs),
        outputs=[(k, tuple(o.shape), o.dtype) for k, o in enumerate(graph.outputs) if k not in graph.updates],
        written=sorted(set(graph.updates.values())),
        arena_bytes=m.bytes,
        kept_bytes=kept_bytes,
        ahead=first,
        sources=sorted({i for i, n in enumerate(graph.inputs) for x in ahead if n in x.reads}),
        literals=literals,
        table=code.table,
        kernels=code.kernels,
        steps=steps,
        copies=[(m.slot(n), m.slot_at(place, n)) for n, place in m.copies],
        objects=[] if bare else jit.provide(list(code.texts.values()), isa),
    )  # fmt: skip


def _kept(
    ahead: list[Launch], launches: list[Launch], graph: Graph, isa: Isa, strides: Strides,
    code: Assembly,
) -> tuple[dict[Node, tuple[str, int]], int]:  # fmt: skip
    """Write the prologue down; gives where what it leaves for the launches lies, and how many bytes that takes."""
    made = {n for x in ahead for n in x.writes}
    wanted = {n for x in launches for n in x.reads if n in made}
    ahead = needed(fuse(ahead), wanted)
    emit(ahead, isa, set())
    m = Memory(graph, ahead, wanted, 0, strides).laid()

    def place(entry: Place) -> Place:
        kind, where, extra = entry
        return "kept" if kind == "arena" else kind, where, extra

    for j in range(len(ahead)):
        code.launch(m, j, place)
    return {n: ("kept", m.place[n][1]) for n in wanted}, m.bytes


def _show(name: str, texts: dict[str, str], isa: Isa) -> None:
    """What KILN_DEBUG tells about kernels (symbol -> LLVM IR)."""
    for symbol, text in texts.items():
        if config.debug >= 5:
            tell(f"{name} LLVM IR of {symbol}:\n{text}")
        if config.debug >= 6:
            tell(f"{name} assembly of {symbol}:\n{jit.assembly(text, isa)}")
