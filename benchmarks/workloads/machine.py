"""The machine's measured peaks, and what the packages weigh."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import re
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..common import fresh
from ..startup import IMPORT

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
    from kiln.backends.cpu import jit
    from kiln.backends.cpu.isa import host_isa

    isa = host_isa()
    lanes = isa.lanes(4)
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
    run = kernel(jit.build([_fma_text(lanes)], isa)("kiln_bench_fma"))

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
        "define void @kiln_bench_fma(ptr %out, i64 %n) {", "entry:",
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


def package(name: str, rounds: int = 3) -> dict[str, Any]:
    """Version, megabytes as installed here (alone and with all it needs), and import time in seconds."""
    names = importlib.metadata.packages_distributions().get(name) or ["kiln-dl"]
    own, needed = names[0], _needed(names[0])
    times = [fresh(IMPORT, name, TF_CPP_MIN_LOG_LEVEL="3")["seconds"] for _ in range(rounds + 1)][
        1:
    ]
    return {
        "version": _version(own), "alone": _size(own), "with": sum(_size(d) for d in needed),
        "import": statistics.median(times),
    }  # fmt: skip


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        import kiln

        return kiln.__version__


def _needed(distribution: str) -> set[str]:
    """The distribution and all that it requires without extras, as far as it is installed here."""
    found: set[str] = set()
    todo = [distribution]
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in found:
            continue
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            if name != "kiln-dl":
                continue
            requires = ["numpy", "llvmlite", "ml_dtypes", "safetensors", "rich", "platformdirs"]
        found.add(name)
        plain = (r for r in requires if "extra ==" not in r)
        todo += [m[0] for r in plain if (m := re.match(r"[\w.-]+", r))]
    return found


def _size(distribution: str) -> float:
    """Megabytes of a distribution's files; Kiln's by its folder, as it may be installed editable."""
    if re.sub(r"[-_.]+", "-", distribution) == "kiln-dl":
        import kiln

        files = [f for f in Path(kiln.__file__ or "").parent.rglob("*") if f.is_file()]
        files = [f for f in files if "__pycache__" not in f.parts]
    else:
        listed = importlib.metadata.files(distribution) or []
        files = [p for f in listed if (p := Path(str(f.locate()))).is_file()]
    return sum(f.stat().st_size for f in files) / 1e6
