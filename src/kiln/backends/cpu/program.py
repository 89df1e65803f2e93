"""A Recipe made executable: its arena, its table of addresses, its plan, and the call that runs it."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ...amounts import in_bytes
from ...config import config
from ...errors import KilnError, KilnIndexError
from ...graph.node import Graph
from ...ladder import tell
from ...ops.registry import REGISTRY
from ...recording import COMPILE, RECORDING, block, kernels_wanted, note_kernel
from ...runtime import arena, threads
from ...runtime.blocks import allocator, blocks
from ...runtime.calls import Call
from ...runtime.forks import own_lock
from ..base import too_large
from . import cache, jit, recipe
from .isa import host_isa
from .prologue import Prologue
from .recipe import Checks, Host, Native, Recipe, Slot

_BRIEF = 1 << 19
"""A program of few kernels that touch less than so many bytes is over in microseconds."""


def compile(
    graph: Graph, name: str, max_memory: int | None = None, steady: Sequence[int] = ()
) -> CpuProgram:
    """A native Program for a captured Graph, from the disk cache where it is known there.

    `max_memory`: the most bytes that it may hold beside its inputs and outputs; `steady`: see `Backend`.
    """
    return CpuProgram(recipe_of(graph, name, max_memory, steady), name)


def recipe_of(
    graph: Graph, name: str, max_memory: int | None = None, steady: Sequence[int] = ()
) -> Recipe:
    """What `compile` makes a program of, with its kernels loaded."""
    with block(f"compiling {name}", COMPILE):
        return _recipe_of(graph, name, max_memory, steady)


def _recipe_of(graph: Graph, name: str, max_memory: int | None, steady: Sequence[int]) -> Recipe:
    compiled, begun = cache.stats.compiles, time.perf_counter()
    isa = host_isa()
    key = recipe.key(graph, isa, max_memory, steady)
    made = recipe.fetch(key) if key is not None and config.debug < 3 else None
    if made is None or not jit.load_stored(made.objects):
        from .layout import plan

        made = plan(graph, name, isa, max_memory, steady)
        if key is not None:
            recipe.store(key, made)
    if config.debug >= 1:
        new, kept = cache.stats.compiles - compiled, made.kept_bytes
        tell(
            f"{name}: {len(made.objects)} kernels in {time.perf_counter() - begun:.2f} s, {new} compiled, the others from the disk cache; "
            f"{in_bytes(made.arena_bytes)} between kernels"
            + (f", {in_bytes(kept)} kept of parameters" if kept else "")
        )
    return made


def bytes_of(graph: Graph, name: str) -> int:
    """What `compile` would make a program hold beside its inputs and outputs, in bytes; no kernel is compiled."""
    isa = host_isa()
    key = recipe.key(graph, isa)
    made = None if key is None else recipe.fetch(key)
    if made is None:
        from .layout import plan

        made = plan(graph, name, isa, bare=True)
    return made.arena_bytes + made.kept_bytes + sum(a.nbytes for a in made.literals)


class CpuProgram:
    """Kernels over an arena, run by one native call up to a host call or the end.

    Programs that never run at the same time may be given one arena, as large as the largest's.
    """

    def __init__(self, recipe: Recipe, name: str, room: Room | None = None):
        self.recipe, self.name = recipe, name
        self.kept_bytes = recipe.kept_bytes
        held = recipe.arena_bytes + recipe.kept_bytes
        self.memory_bytes = held + sum(a.nbytes for a in recipe.literals)
        try:
            self.arena = Room(recipe.arena_bytes) if room is None else room
            self.kept = Room(recipe.kept_bytes)
        except MemoryError:
            raise too_large(f"what {name} holds between its kernels", held) from None
        # one table of addresses for all kernels; those of inputs and outputs are stored as they come
        fixed = {
            "null": lambda _: 0,
            "int": lambda value: value,
            "arena": lambda where: self.arena.base + where,
            "kept": lambda where: self.kept.base + where,
            "literal": lambda where: recipe.literals[where].ctypes.data,
        }
        table: list[int] = []
        self.ext: list[list[tuple[int, int]]] = [[] for _ in range(recipe.n_inputs)]
        self.out: dict[int, list[tuple[int, int]]] = {k: [] for k, _, _ in recipe.outputs}
        self.table = np.zeros(max(len(recipe.table), 1), np.int64)
        base = self.table.ctypes.data
        for i, (kind, where, extra) in enumerate(recipe.table):
            address = fixed.get(kind)
            if address is None:
                (self.ext if kind == "ext" else self.out)[where].append((base + 8 * i, extra))
            table.append(0 if address is None else address(where) + extra)
        self.table[: len(table)] = table
        self.stops: dict[int, Host | Checks | None] = {}
        rows = self._rows(base)
        self.plan = np.array(rows or [[0, 0, 0]], np.int64)
        self.plan_address, self.length = self.plan.ctypes.data, len(rows)
        self.prologue: Prologue | None = None
        if recipe.ahead:
            self.before = np.array(self._launches(base, 0, recipe.ahead), np.int64)
            self.prologue = Prologue(self.before.ctypes.data, recipe.ahead)
        self.parallel = any(k.ntasks > 1 for k in recipe.kernels)
        jumps = any(k.ntasks < 0 for k in recipe.kernels)
        brief = not (self.parallel or jumps) and sum(k.touched for k in recipe.kernels) < _BRIEF
        self.results = [
            (allocator(math.prod(shape) * d.itemsize), shape, d.np)
            for _, shape, d in recipe.outputs
        ]
        self.hold = brief and len(recipe.kernels) < 100
        self.bound: list[Any] = [None] * recipe.n_inputs
        self.lock = own_lock(self)

    def _rows(self, base: int) -> list[list[int]]:
        """The plan: kernels with the addresses of their arguments, and stops for what Python does between them."""
        rows: list[list[int]] = []
        for s in self.recipe.steps:
            if isinstance(s, Native):
                rows += self._launches(base, s.first, s.count)
                continue
            flags = [0]
            if isinstance(s, Checks) and all(flag.kind == "arena" for flag, _ in s.flags):
                flags = [self.arena.base + flag.where for flag, _ in s.flags]
            for flag in flags:
                rows.append([0, flag, 0])
                self.stops[len(rows)] = s
        if self.recipe.copies:
            rows.append([0, 0, 0])
            self.stops[len(rows)] = None
        return rows

    def _launches(self, base: int, first: int, count: int) -> list[list[int]]:
        """Entries of the plan for some kernels in a row."""
        kernels = self.recipe.kernels[first : first + count]
        return [[jit.symbol_address(k.symbol), base + 8 * k.at, k.ntasks] for k in kernels]

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Execute once; safe to call from several threads, one of which runs at a time."""
        outputs = self.empty()
        whole = [np.asarray(a, order="C") for a in inputs]
        with self.lock:
            self.whole(*whole, *outputs)
        for i in self.recipe.written:
            if whole[i] is not inputs[i]:
                np.copyto(inputs[i], whole[i])
        return outputs

    def empty(self) -> list[np.ndarray]:
        """Memory for the results."""
        try:
            return [make(shape, d) for make, shape, d in self.results]
        except MemoryError:
            size = sum(math.prod(shape) * d.itemsize for _, shape, d in self.results)
            raise too_large(f"results of {self.name}", size) from None

    @cached_property
    def whole(self) -> Callable[..., None]:
        """The program as a function of the arrays of all its inputs and outputs, see `caller`."""
        return self.caller(range(self.recipe.n_inputs))

    def bind(self, i: int, a: np.ndarray) -> None:
        """Have input i lie in this C-contiguous array at each call from now on."""
        self.bound[i] = a
        address = a.ctypes.data
        for slot, extra in self.ext[i]:
            ctypes.c_int64.from_address(slot).value = address + extra
        if self.prologue is not None and i in self.recipe.sources:
            arrays = [self.bound[j] for j in self.recipe.sources]
            self.prologue.bound([a for a in arrays if a is not None])

    def caller(self, varying: Sequence[int]) -> Callable[..., None]:
        """The program as a function of the arrays of these inputs and of its outputs; the others are bound."""
        slots = [self.ext[i] for i in varying] + [self.out[k] for k, _, _ in self.recipe.outputs]
        native = Call(self.plan_address, self.length, slots, self.hold)
        place = Call(self.plan_address, 0, slots)
        prologue, always = self.prologue, not set(varying).isdisjoint(self.recipe.sources)

        def call(*arrays: np.ndarray) -> None:
            if self.parallel:
                threads.ready()
            if prologue is not None and (always or prologue.due()):
                place.function(*arrays)
                self._prepare(prologue, not always)
            if config.debug >= 2 or (RECORDING and kernels_wanted()):
                place.function(*arrays)
                at = self._timed(0)
            else:
                at = native.function(*arrays)
            if at:
                inputs = list(self.bound)
                for i, a in zip(varying, arrays, strict=False):
                    inputs[i] = a
                self._resume(at, inputs, arrays[len(varying) :])

        return call

    def _prepare(self, prologue: Prologue, keep: bool) -> None:
        """Run the prologue, whose results hold for later calls too where its inputs are bound (`keep`)."""
        start = time.perf_counter()
        prologue.run()
        prologue.kept &= keep
        if config.debug >= 2:
            us = (time.perf_counter() - start) * 1e6
            tell(
                f"{self.name} {us:9.1f} us {len(self.before)} kernels ahead, "
                f"{'kept' if prologue.kept else 'not kept: code outside of Kiln may write what they read'}"
            )

    def _resume(self, at: int, inputs: list[np.ndarray], outputs: tuple[np.ndarray, ...]) -> None:
        """Do what a stop is for, and go on until the end."""
        made = {k: o for (k, _, _), o in zip(self.recipe.outputs, outputs, strict=True)}
        while at:
            s = self.stops[at]
            if isinstance(s, Checks):
                self._check(s, inputs, made)
            elif s is not None:
                self._host(s, inputs, made)
            else:
                for source, target in self.recipe.copies:
                    np.copyto(self._array(target, inputs, made), self._array(source, inputs, made))
            if config.debug >= 2 or (RECORDING and kernels_wanted()):
                at = self._timed(at)
            else:
                at = threads.run_plan(self.plan_address, self.length, at)

    def _array(
        self, s: Slot, arrays: list[np.ndarray], outputs: dict[int, np.ndarray]
    ) -> np.ndarray:
        """The array that lies in a Slot."""
        if s.kind == "ext":
            return arrays[s.where]
        if s.kind == "out":
            return outputs[s.where]
        if s.kind == "literal":
            return self.recipe.literals[s.where]
        if s.kind == "none":
            return np.broadcast_to(np.zeros((), s.dtype.np), s.shape)
        room = self.kept if s.kind == "kept" else self.arena
        return np.ndarray(s.shape, s.dtype.np, room.memory, room.offset + s.where, s.strides)

    def _call(self, h: Host, arrays: list[np.ndarray], outputs: dict[int, np.ndarray]) -> Any:
        """What an op's reference gives for the arrays that lie in its arguments' Slots."""

        def raw(a: Any) -> Any:
            if isinstance(a, Slot):
                return self._array(a, arrays, outputs)
            return (
                [raw(b) for b in a]
                if isinstance(a, tuple) and any(isinstance(b, Slot) for b in a)
                else a
            )

        return REGISTRY[h.op].run(*map(raw, h.args))

    def _check(self, s: Checks, arrays: list[np.ndarray], outputs: dict[int, np.ndarray]) -> None:
        """Raise what the reference raises where an index is out of range; no state has changed yet."""
        for flag, call in s.flags:
            if self._array(flag, arrays, outputs):
                try:
                    self._call(call, arrays, outputs)
                except KilnError as e:
                    # composites raise an IndexError where their parts raise another class
                    raise KilnIndexError(e.op, e.what, e.received, e.help) from None
                raise KilnIndexError(
                    call.op, "an index is out of range", "see the arguments", "indices start at 0"
                )

    def _host(self, h: Host, arrays: list[np.ndarray], outputs: dict[int, np.ndarray]) -> None:
        """Call an op's reference and store what it gives."""
        with np.errstate(all="ignore"):
            r = self._call(h, arrays, outputs)
        for i, slot in h.results:
            np.copyto(self._array(slot, arrays, outputs), r if i is None else r[i])

    def _timed(self, first: int) -> int:
        """Each kernel by itself, for profilers and KILN_DEBUG=2: its time and the memory it touches; sums where it is in a loop."""
        rows = np.flatnonzero(self.plan[: self.length, 0])
        kernels = dict(zip(rows.tolist(), self.recipe.kernels[self.recipe.ahead :], strict=True))
        spent: dict[int, list[float]] = {}
        at, row = 0, first
        while row < self.length and not at:
            if row in kernels and kernels[row].ntasks < 0:
                row += 1 + threads.jump(*self.plan[row, :2].tolist())
                continue
            start = time.perf_counter_ns()
            at = threads.run_plan(self.plan_address, row + 1, row)
            if row in kernels:
                k, end = kernels[row], time.perf_counter_ns()
                spent.setdefault(row, []).append((end - start) / 1e3)
                if RECORDING:
                    note_kernel(k.label, start, end, k.touched, k.flops)
            row += 1
        for row in sorted(spent) if config.debug >= 2 else ():
            us, times, k = sum(spent[row]), len(spent[row]), kernels[row]
            tell(
                f"{self.name} {us:9.1f} us {times * k.touched / max(us, 1e-3) / 1e3:7.2f} GB/s {times * k.flops / max(us, 1e-3) / 1e3:7.2f} GFLOP/s  {k.symbol[:28]:28} {k.label}"
                + (f" x {times}" if times > 1 else "")
            )
        if config.debug >= 2 and len(spent) > 1:
            tell(
                f"{self.name} {sum(map(sum, spent.values())):9.1f} us in these {len(spent)} kernels, one by one"
            )
        return at

    def __repr__(self) -> str:
        r = self.recipe
        hosts = sum(isinstance(s, Host) for s in r.steps)
        return f"<cpu program {self.name}: {len(r.kernels)} launches, {hosts} host calls, arena {r.arena_bytes} bytes>"


class Room:
    """Zeroed memory of a program: its address `base`, aligned, is so many bytes (`offset`) into an array."""

    def __init__(self, size: int):
        self.memory = blocks.make(lambda: np.zeros(size + arena.ALIGN, np.uint8))
        start = self.memory.ctypes.data
        self.base = -(-start // arena.ALIGN) * arena.ALIGN
        self.offset = self.base - start

    def free(self) -> None:
        """Give the memory back, whoever holds this; nobody uses it again."""
        self.memory, self.base = np.empty(0, np.uint8), 0
