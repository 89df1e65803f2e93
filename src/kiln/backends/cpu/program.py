"""A Graph made executable on the CPU: kernels, an arena laid out by liveness, and a flat launch plan."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ...compile.regions import ln_dtype
from ...config import config
from ...errors import KilnError, KilnIndexError
from ...graph.node import CONST, INPUT, LITERAL, Graph, Node, literal, make
from ...runtime import arena, threads
from . import cache, jit
from .contract import WORKSPACE
from .isa import Isa, host_isa
from .lower import Launch, finish, lower


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


class Memory:
    """Where each node of a Program lies: inputs, outputs, literals, or an offset in the arena."""

    def __init__(self, graph: Graph, launches: list[Launch], keep: set[Node], quiet: int):
        self.graph, self.keep, self.quiet = (
            graph,
            keep,
            quiet,
        )  # the first `quiet` launches must not write state
        self.place: dict[Node, tuple[str, Any]] = {
            n: ("ext", i) for i, n in enumerate(graph.inputs)
        }
        self.copies: list[
            tuple[Node, tuple[str, Any]]
        ] = []  # results stored in a second place at the end
        self.launches = launches
        self._updates()
        for k, o in enumerate(graph.outputs):
            if k in graph.updates:
                continue
            if o in self.place:
                self.copies.append((o, ("out", k)))
            else:
                self.place[o] = ("out", k)
        self._arena()

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
        writers = [j for j, x in enumerate(self.launches) if o in x.writes]
        if not writers or writers[0] < self.quiet:
            return False
        first = self.launches[writers[0]]
        if any(old in x.reads for x in self.launches[writers[0] + 1 :]):
            return False
        if old not in first.reads:
            return True
        nest = first.nest
        if nest is None or len(nest.stages) != 1 or nest.stages[0].reductions:
            return False
        mine = first.arguments.index(old)
        stores = [s for s in nest.stages[0].stores if first.arguments[s.buffer] is o]
        loads = [at for kind, b, at in nest.accesses() if b == mine and kind != "store"]
        return all(at == stores[0].at for at in loads) and not any(
            k == "gather" and b == mine for k, b, _ in nest.accesses()
        )

    def _arena(self) -> None:
        births: dict[Node, int] = {}
        deaths: dict[Node, int] = {}
        for j, x in enumerate(self.launches):
            for n in x.writes:
                births.setdefault(n, j)
                deaths[n] = j
            for n in x.reads:
                deaths[n] = j
        for n in (*self.keep, *(n for n, _ in self.copies)):
            if n in births:
                deaths[n] = len(self.launches)
        nodes = [n for n in births if n not in self.place]
        values = [
            arena.Interval(max(n.numel(), 1) * n.dtype.itemsize, births[n], deaths[n])
            for n in nodes
        ]
        scratch = [
            (j, x.kernel.workspace_bytes)
            for j, x in enumerate(self.launches)
            if x.kernel is not None and x.kernel.workspace_bytes
        ]
        values += [arena.Interval(size, j, j) for j, size in scratch]
        offsets, self.bytes = arena.plan(values)
        for n, at in zip(nodes, offsets, strict=False):
            self.place[n] = ("arena", at)
        self.scratch = {j: at for (j, _), at in zip(scratch, offsets[len(nodes) :], strict=True)}


def _late(launches: list[Launch], flags: set[Node]) -> tuple[list[Launch], list[Launch]]:
    """What can fail (host calls, and the checks of `flags`) with all that it needs, and the rest after it.

    State is written last: nothing is half-changed where something fails.
    """
    read: set[Node] = set()
    late: list[Launch] = []
    early: list[Launch] = []
    for x in reversed(launches):
        if x.host is None and not any(w in read or w in flags for w in x.writes):
            late.append(x)
        else:
            early.append(x)
            read |= x.reads
    return early[::-1], late[::-1]


def _build(name: str, texts: dict[str, str], isa: Isa) -> Callable[[str], int]:
    """Compile and load kernels (symbol -> LLVM IR); KILN_DEBUG tells about it."""

    def say(text: str) -> None:
        print(f"[kiln] {name} {text}", file=sys.stderr)

    for symbol, text in texts.items():
        if config.debug >= 5:
            say(f"LLVM IR of {symbol}:\n{text}")
        if config.debug >= 6:
            say(f"assembly of {symbol}:\n{jit.assembly(text, isa)}")
    stats = cache.stats
    hits, compiles = stats.hits, stats.compiles
    symbols = jit.build(list(texts.values()), isa)
    if config.debug >= 1:
        hits, compiles = stats.hits - hits, stats.compiles - compiles
        say(
            f"{len(texts)} kernels: {hits} from the disk cache, {compiles} compiled, {len(texts) - hits - compiles} loaded before"
        )
    return symbols


class CpuProgram:
    """Kernels over an arena, run by one native call for each stretch without host calls."""

    def __init__(self, graph: Graph, name: str):
        self.name = name
        isa = host_isa()
        graph = _own_outputs(_literal_constants(graph))
        launches, self.checks = lower(graph, isa)
        early, late = _late(launches, {flag for flag, _ in self.checks})
        early = finish(early, isa)
        launches, quiet = early + finish(late, isa), len(early)
        # what checks look at stays in memory until they have been asked
        keep = {x for flag, n in self.checks for x in (flag, *n.inputs)}
        m = self.memory = Memory(graph, launches, keep, quiet)
        self.graph = graph
        texts: dict[str, str] = {}
        for x in launches:
            for kernel in x.kernel.phases() if x.kernel is not None else ():
                texts.setdefault(kernel.symbol, kernel.text)
        symbols = _build(name, texts, isa)
        self.buffer = np.zeros(m.bytes + arena.ALIGN, np.uint8)
        self.base = -(-self.buffer.ctypes.data // arena.ALIGN) * arena.ALIGN
        self.literals = [n for n in graph.nodes() if n.op is LITERAL]
        self.literal_arrays = {n: np.ascontiguousarray(n.args[0]) for n in self.literals}
        # one table of argument pointers for all launches; those of inputs and outputs are patched at each run
        table: list[int] = []
        patches: dict[tuple[str, int], list[tuple[int, int]]] = {}
        entries: list[list[int]] = []
        self.segments: list[Any] = []  # (first entry, count) or a host launch
        starts: list[tuple[int, int]] = []
        for j, x in enumerate([*launches, None]):
            if j == quiet and self.checks:
                self._close(entries)
                self.segments.append("check")
            if x is None:
                break
            if x.host is not None:
                self._close(entries)
                self.segments.append(x)
                continue
            if x.kernel is None:
                continue
            at = len(table)
            for a in x.arguments:
                node, offset = a if isinstance(a, tuple) else (a, 0)
                if node is None:
                    table.append(0)
                elif node == WORKSPACE:
                    table.append(self.base + m.scratch[j] if j in m.scratch else 0)
                else:
                    kind, where = self._place(node)
                    extra = offset * node.dtype.itemsize
                    if kind in ("ext", "out"):
                        patches.setdefault((kind, where), []).append((len(table), extra))
                        table.append(0)
                    else:
                        table.append(where + extra)
            for kernel in x.kernel.phases():
                entries.append([symbols(kernel.symbol), at, kernel.ntasks])
                starts.append((len(entries) - 1, j))
        self._close(entries)
        self.table = np.array(table or [0], np.int64)
        base = self.table.ctypes.data
        self.plan = np.array(
            [[fn, base + 8 * at, n] for fn, at, n in entries] or [[0, 0, 0]], np.int64
        )
        self.plan_address = self.plan.ctypes.data
        self.ext = [patches.get(("ext", i), []) for i in range(len(graph.inputs))]
        self.out = {
            k: patches.get(("out", k), [])
            for k in range(len(graph.outputs))
            if k not in graph.updates
        }
        self.specs = [(tuple(n.shape), n.dtype.np) for n in graph.inputs]
        self.written = set(graph.updates.values())
        self.held: list[Any] = [None] * len(graph.inputs)
        self.launches, self.starts = launches, starts
        self.lock = threading.Lock()

    def _close(self, entries: list) -> None:
        """End the stretch of native launches before a host call."""
        begun = sum(c for _, c in (s for s in self.segments if isinstance(s, tuple)))
        if len(entries) > begun:
            self.segments.append((begun, len(entries) - begun))

    def _place(self, n: Node) -> tuple[str, Any]:
        if n in self.literal_arrays:
            return "fixed", self.literal_arrays[n].ctypes.data
        kind, where = self.memory.place[n]
        return ("fixed", self.base + where) if kind == "arena" else (kind, where)

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Execute once; safe to call from several threads, one of which runs at a time."""
        with self.lock:
            return self._run(inputs)

    def _run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        table, held = self.table, self.held
        arrays = inputs
        back: list[tuple[np.ndarray, np.ndarray]] = []
        for i, a in enumerate(inputs):
            if a is held[i]:
                continue
            if not a.flags.c_contiguous:
                if arrays is inputs:
                    arrays = list(inputs)
                copy = np.ascontiguousarray(a)
                if i in self.written:
                    back.append((a, copy))
                arrays[i] = a = copy
            held[i] = a
            address = a.ctypes.data
            for slot, extra in self.ext[i]:
                table[slot] = address + extra
        outputs: dict[int, np.ndarray] = {}
        for k, slots in self.out.items():
            n = self.graph.outputs[k]
            outputs[k] = o = np.empty(n.shape, n.dtype.np)
            if slots:
                address = o.ctypes.data
                for slot, extra in slots:
                    table[slot] = address + extra
        for s in self.segments:
            if isinstance(s, tuple):
                if config.debug >= 2:
                    self._timed(*s)
                else:
                    threads.run_plan(self.plan_address + 24 * s[0], s[1])
            elif s == "check":
                self._check(arrays, outputs)
            else:
                self._host(s, arrays, outputs)
        for n, (kind, where) in self.memory.copies:
            target = arrays[where] if kind == "ext" else outputs[where]
            np.copyto(target, self._array(n, arrays, outputs))
        for original, copy in back:
            np.copyto(original, copy)
            held[[x is copy for x in arrays].index(True)] = None
        return list(outputs.values())

    def _array(
        self, n: Node, arrays: list[np.ndarray], outputs: dict[int, np.ndarray]
    ) -> np.ndarray:
        """A node's memory as an array."""
        if n in self.literal_arrays:
            return self.literal_arrays[n]
        kind, where = self.memory.place[n]
        if kind == "ext":
            return arrays[where]
        if kind == "out":
            return outputs[where]
        start = self.base - self.buffer.ctypes.data + where
        return (
            self.buffer[start : start + n.numel() * n.dtype.itemsize]
            .view(n.dtype.np)
            .reshape(n.shape)
        )

    def _check(self, arrays: list[np.ndarray], outputs: dict[int, np.ndarray]) -> None:
        """Raise what the reference raises where an index is out of range; no state has changed yet."""
        for flag, n in self.checks:
            if self._array(flag, arrays, outputs):
                args = [
                    [self._array(b, arrays, outputs) for b in a] if isinstance(a, tuple) and a and isinstance(a[0], Node)
                    else self._array(a, arrays, outputs) if isinstance(a, Node) else a
                    for a in n.args
                ]  # fmt: skip
                try:
                    n.op.run(*args)  # type: ignore[union-attr]
                except (
                    KilnError
                ) as e:  # composites raise an IndexError where their parts raise another class
                    raise KilnIndexError(e.op, e.what, e.received, e.help) from None

    def _host(self, x: Launch, arrays: list[np.ndarray], outputs: dict[int, np.ndarray]) -> None:
        """Call an op's reference on the memory of its inputs and store what it gives."""
        n = x.host
        assert n is not None

        def raw(a: Any) -> Any:
            if isinstance(a, Node):
                return self._array(a, arrays, outputs)
            return (
                [raw(b) for b in a]
                if isinstance(a, tuple) and any(isinstance(b, Node) for b in a)
                else a
            )

        with np.errstate(all="ignore"):
            r = n.op.run(*[raw(a) for a in n.args])  # type: ignore[union-attr]
        if n.outputs is None:
            np.copyto(self._array(n, arrays, outputs), r)
        else:
            for w in x.writes:
                np.copyto(self._array(w, arrays, outputs), r[w.args[1]])

    def _timed(self, first: int, count: int) -> None:
        """KILN_DEBUG=2: each kernel by itself, with its time and the memory it touches."""
        for e in range(first, first + count):
            start = time.perf_counter()
            threads.run_plan(self.plan_address + 24 * e, 1)
            us = (time.perf_counter() - start) * 1e6
            x = self.launches[dict(self.starts)[e]]
            touched = sum(n.numel() * n.dtype.itemsize for n in {*x.reads, *x.writes})
            symbol = x.kernel.symbol if x.kernel is not None else ""
            print(
                f"[kiln] {self.name} {us:9.1f} us {touched / max(us, 1e-3) / 1e3:7.2f} GB/s  {symbol[:28]:28} {x.writes[0]!r}",
                file=sys.stderr,
            )

    def __repr__(self) -> str:
        hosts = sum(1 for s in self.segments if isinstance(s, Launch))
        return f"<cpu program {self.name}: {len(self.plan)} launches, {hosts} host calls, arena {self.memory.bytes} bytes>"
