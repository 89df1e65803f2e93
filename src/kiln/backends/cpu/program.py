"""A Recipe made executable: its arena, its table of addresses, and one native call for each stretch of kernels."""

from __future__ import annotations

import sys
import threading
import time
from math import prod
from typing import Any

import numpy as np

from ...config import config
from ...errors import KilnError, KilnIndexError, KilnMemoryError
from ...graph.node import Graph
from ...ops.registry import REGISTRY
from ...runtime import arena, threads
from . import cache, jit, recipe
from .isa import host_isa
from .recipe import Checks, Host, Native, Recipe, Slot


def compile(graph: Graph, name: str) -> CpuProgram:
    """A native Program for a captured Graph, from the disk cache where it is known there."""
    stats = cache.stats
    before = stats.hits, stats.compiles
    isa = host_isa()
    key = recipe.key(graph, isa)
    made = recipe.fetch(key) if key is not None and config.debug < 3 else None
    if made is None or not jit.load_stored(made.objects):
        from .layout import plan

        made = plan(graph, name, isa)
        if key is not None:
            recipe.store(key, made)
    if config.debug >= 1:
        hits, compiles = stats.hits - before[0], stats.compiles - before[1]
        print(
            f"[kiln] {name} {len(made.objects)} kernels: {hits} entries from the disk cache, {compiles} compiled",
            file=sys.stderr,
        )
    return CpuProgram(made, name)


class CpuProgram:
    """Kernels over an arena, run by one native call for each stretch without host calls."""

    def __init__(self, recipe: Recipe, name: str):
        self.recipe, self.name = recipe, name
        try:
            self.buffer = np.zeros(recipe.arena_bytes + arena.ALIGN, np.uint8)
        except MemoryError:
            raise self._too_large() from None
        start = self.buffer.ctypes.data
        self.base = -(-start // arena.ALIGN) * arena.ALIGN
        self.arena_offset = self.base - start
        # one table of addresses for all kernels; those of inputs and outputs are patched at each run
        fixed = {
            "null": lambda _: 0,
            "arena": lambda where: self.base + where,
            "literal": lambda where: recipe.literals[where].ctypes.data,
        }
        table: list[int] = []
        self.ext: list[list[tuple[int, int]]] = [[] for _ in range(recipe.n_inputs)]
        self.out: dict[int, list[tuple[int, int]]] = {k: [] for k, _, _ in recipe.outputs}
        for i, (kind, where, extra) in enumerate(recipe.table):
            address = fixed.get(kind)
            if address is None:
                (self.ext if kind == "ext" else self.out)[where].append((i, extra))
            table.append(0 if address is None else address(where) + extra)
        self.table = np.array(table or [0], np.int64)
        base = self.table.ctypes.data
        self.plan = np.array(
            [[jit.symbol_address(k.symbol), base + 8 * k.at, k.ntasks] for k in recipe.kernels]
            or [[0, 0, 0]],
            np.int64,
        )
        self.plan_address = self.plan.ctypes.data
        self.outputs = [(k, shape, d.np, self.out[k]) for k, shape, d in recipe.outputs]
        self.held: list[Any] = [None] * recipe.n_inputs
        self.lock = threading.Lock()

    def _too_large(self) -> KilnMemoryError:
        results = sum(prod(shape) * d.itemsize for _, shape, d in self.recipe.outputs)
        return KilnMemoryError(
            "compile", "not enough memory for a program", f"{self.name}: {results / 2**30:,.2f} GiB of results, "
            f"{self.recipe.arena_bytes / 2**30:,.2f} GiB between its kernels",
            "use smaller batches, or compile smaller functions",
        )  # fmt: skip

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Execute once; safe to call from several threads, one of which runs at a time."""
        try:
            with self.lock:
                return self._run(inputs)
        except MemoryError:  # results are made first: no state has changed
            raise self._too_large() from None

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
                if i in self.recipe.written:
                    back.append((a, copy))
                arrays[i] = a = copy
            held[i] = a
            address = a.ctypes.data
            for slot, extra in self.ext[i]:
                table[slot] = address + extra
        outputs: dict[int, np.ndarray] = {}
        for k, shape, d, slots in self.outputs:
            outputs[k] = o = np.empty(shape, d)
            if slots:
                address = o.ctypes.data
                for slot, extra in slots:
                    table[slot] = address + extra
        for s in self.recipe.steps:
            if isinstance(s, Native):
                if config.debug >= 2:
                    self._timed(s)
                else:
                    threads.run_plan(self.plan_address + 24 * s.first, s.count)
            elif isinstance(s, Checks):
                self._check(s, arrays, outputs)
            else:
                self._host(s, arrays, outputs)
        for source, target in self.recipe.copies:
            np.copyto(self._array(target, arrays, outputs), self._array(source, arrays, outputs))
        for original, copy in back:
            np.copyto(original, copy)
            held[[x is copy for x in arrays].index(True)] = None
        return list(outputs.values())

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
        return np.ndarray(s.shape, s.dtype.np, self.buffer, self.arena_offset + s.where)

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

    def _host(self, h: Host, arrays: list[np.ndarray], outputs: dict[int, np.ndarray]) -> None:
        """Call an op's reference and store what it gives."""
        with np.errstate(all="ignore"):
            r = self._call(h, arrays, outputs)
        for i, slot in h.results:
            np.copyto(self._array(slot, arrays, outputs), r if i is None else r[i])

    def _timed(self, s: Native) -> None:
        """KILN_DEBUG=2: each kernel by itself, with its time and the memory it touches."""
        for e in range(s.first, s.first + s.count):
            start = time.perf_counter()
            threads.run_plan(self.plan_address + 24 * e, 1)
            us = (time.perf_counter() - start) * 1e6
            k = self.recipe.kernels[e]
            print(
                f"[kiln] {self.name} {us:9.1f} us {k.touched / max(us, 1e-3) / 1e3:7.2f} GB/s  {k.symbol[:28]:28} {k.label}",
                file=sys.stderr,
            )

    def __repr__(self) -> str:
        r = self.recipe
        hosts = sum(isinstance(s, Host) for s in r.steps)
        return f"<cpu program {self.name}: {len(r.kernels)} launches, {hosts} host calls, arena {r.arena_bytes} bytes>"
