"""The machine's limits, measured, and what events reach of them."""

from __future__ import annotations

import ctypes
import functools
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..autograd.profiler_util import FunctionEvent, FunctionEventAvg
from ..recording import COMPILE

CHAINS = (
    16  # independent accumulators: more than the latency times the throughput of any core's FMA
)
TURNS = 2_000_000
COPIES = {"1M": 1 << 20, "16M": 1 << 24}  # float32 elements


def peaks(threads: int, rounds: int = 9) -> dict[str, float]:
    """Rates of the threads together: `flops` per second in fp32, bytes copied per second by size.

    Copying counts what is read and what is written.
    """
    return {"flops": _fma(threads, rounds)} | {
        label: _copy(n, threads, rounds) for label, n in COPIES.items()
    }


def rate(jobs: list[Callable[[], float]], rounds: int) -> float:
    """What the jobs do per second together, a thread each: the median of the rounds.

    A job gives the amount of its work; its time is its thread's processor time, as another process
    that takes a core away would make the machine look slower than it is.
    """
    rates = [[0.0] * len(jobs) for _ in range(rounds)]

    def work(i: int, job: Callable[[], float], into: list[float]) -> None:
        start = time.thread_time()
        amount = job()
        into[i] = amount / (time.thread_time() - start)

    for into in rates:
        hands = [threading.Thread(target=work, args=(i, job, into)) for i, job in enumerate(jobs)]
        for h in hands:
            h.start()
        for h in hands:
            h.join()
    return statistics.median(map(sum, rates))


def _fma(threads: int, rounds: int) -> float:
    """Multiply-adds on registers alone, in a kernel of Kiln's."""
    from ..backends.cpu import jit
    from ..backends.cpu.isa import host_isa

    isa = host_isa()
    lanes = isa.lanes(4)
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
    run = kernel(jit.build([_fma_text(lanes)], isa)("kiln_limit_fma"))

    def job() -> float:
        out = (ctypes.c_float * (lanes * CHAINS))()
        run(ctypes.addressof(out), TURNS)
        return 2.0 * lanes * CHAINS * TURNS

    return rate([job] * threads, rounds)


def _fma_text(lanes: int) -> str:
    """LLVM IR: every accumulator times one constant plus another, again and again."""
    v = f"<{lanes} x float>"
    chains = range(CHAINS)
    phis = [f"  %a{i} = phi {v} [ zeroinitializer, %entry ], [ %b{i}, %loop ]" for i in chains]
    steps = [
        f"  %b{i} = call {v} @llvm.fmuladd.v{lanes}f32({v} %a{i}, {v} %x, {v} %y)" for i in chains
    ]
    stores = []
    for i in chains:
        stores.append(f"  %p{i} = getelementptr {v}, ptr %out, i64 {i}")
        stores.append(f"  store {v} %b{i}, ptr %p{i}, align 4")
    return "\n".join([
        f"declare {v} @llvm.fmuladd.v{lanes}f32({v}, {v}, {v})",
        "define void @kiln_limit_fma(ptr %out, i64 %n) {", "entry:",
        f"  %x = load {v}, ptr %out, align 4", f"  %q = getelementptr {v}, ptr %out, i64 1",
        f"  %y = load {v}, ptr %q, align 4", "  br label %loop", "loop:",
        "  %k = phi i64 [ 0, %entry ], [ %next, %loop ]", *phis, *steps,
        "  %next = add i64 %k, 1", "  %more = icmp slt i64 %next, %n",
        "  br i1 %more, label %loop, label %done", "done:", *stores, "  ret void", "}", "",
    ])  # fmt: skip


def _copy(n: int, threads: int, rounds: int) -> float:
    """NumPy's copy of n floats, shared out among the threads."""
    import numpy as np

    size, turns = n // threads, max(1, (1 << 26) // n)

    def job(to: Any, source: Any) -> float:
        for _ in range(turns):
            np.copyto(to, source)
        return 8.0 * size * turns

    pairs = [(np.ones(size, np.float32), np.ones(size, np.float32)) for _ in range(threads)]
    return rate([functools.partial(job, *p) for p in pairs], rounds)


@dataclass(frozen=True)
class Limits:
    """What the machine can do: float32 multiplications and additions, and bytes read and written in memory, per second."""

    flops: float
    bytes: float

    def __str__(self) -> str:
        return f"{self.flops / 1e9:.1f} GFLOP/s, {self.bytes / 1e9:.1f} GB/s"


@functools.cache
def machine_limits(threads: int | None = None) -> Limits:
    """The limits of so many threads together (all that Kiln uses), measured once a process in under a second.

    Arithmetic on registers alone, and copies of arrays far larger than caches: what lies in a cache may be read faster.
    """
    from ..runtime.threads import get_num_threads

    n = threads or get_num_threads()
    return Limits(_fma(n, 3), _copy(COPIES["16M"], n, 3))


class Efficiency(list):
    """What ops and kernels reach of the machine's limits, those first that took longest; `str()` of it is a table.

    Each is an average with `bytes_per_s`, `flops_per_s`, `of_bandwidth` and `of_flops` (fractions of the limits); `bound` is the limit that
    it is nearer to, "overhead" where it reaches a twentieth of neither, or "compiling" where that was what took the time. Only events that called no others are looked at, so that nothing is counted twice.
    """

    def __init__(self, events: Iterable[FunctionEvent], limits: Limits):
        found: dict[tuple[str, str], FunctionEventAvg] = {}
        for e in events:
            if not e.cpu_children and not e.is_user_annotation and e.self_cpu_time_total > 0:
                shapes = str(e.input_shapes) if e.input_shapes else ""
                a = found.setdefault((e.key, shapes), FunctionEventAvg(e.key, shapes)).add(e)
                a.kind = e.kind
        self.limits = limits
        super().__init__(
            sorted((Reached(a, limits) for a in found.values()), key=lambda r: -r.seconds)
        )

    def __str__(self) -> str:
        total = sum(r.seconds for r in self) or 1.0
        rows = [
            ("Name", "Calls", "Time", "%", "GB/s", "of limit", "GFLOP/s", "of limit", "bound by")
        ]
        rows += [
            (
                r.name, str(r.count), f"{r.seconds * 1e6:.1f}us", f"{100 * r.seconds / total:.1f}%", f"{r.bytes_per_s / 1e9:.2f}",
                f"{100 * r.of_bandwidth:.0f}%", f"{r.flops_per_s / 1e9:.2f}", f"{100 * r.of_flops:.0f}%", r.bound,
            )
            for r in self
        ]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                c.ljust(w) if i == 0 else c.rjust(w)
                for i, (c, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        return "\n".join([f"limits of the machine: {self.limits}", *lines])


class Reached:
    """What the calls of one op, or the runs of one kernel, reach together."""

    def __init__(self, a: FunctionEventAvg, limits: Limits):
        self.name, self.count, self.seconds = (
            a.key + a.input_shapes,
            a.count,
            a.self_cpu_time_total / 1e6,
        )
        self.bytes, self.flops = a.moved, a.flops
        self.bytes_per_s, self.flops_per_s = a.moved / self.seconds, a.flops / self.seconds
        self.of_bandwidth, self.of_flops = (
            self.bytes_per_s / limits.bytes,
            self.flops_per_s / limits.flops,
        )
        near = max(self.of_flops, self.of_bandwidth)
        self.bound = (
            "overhead" if near < 0.05 else "arithmetic" if near == self.of_flops else "memory"
        )
        if a.kind == COMPILE:
            self.bound = "compiling"
