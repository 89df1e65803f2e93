"""Kiln's generated matmul kernels against torch.mm on one thread: ratios, measured interleaved.

Run: python -m benchmarks.kernels [size ...]   (KILN_CPU_ISA=avx2 to see another level)
"""

from __future__ import annotations

import ctypes
import sys
import time

import numpy as np

from kiln.backends.cpu import jit
from kiln.backends.cpu.gemm import Gemm, emit
from kiln.backends.cpu.isa import host_isa

_Native = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def prepare(n: int, ta: bool, tb: bool, a, b, c):  # type: ignore[no-untyped-def]
    """A callable that runs every task of an n x n x n product on this thread."""
    isa = host_isa()
    sa, sb = (1, n) if ta else (n, 1), (1, n) if tb else (n, 1)
    kernel = emit(Gemm(n, n, n, sa, sb, (n, 1)), isa, f"bench_{n}_{ta:d}{tb:d}")
    native = _Native(jit.build([kernel.text], isa)(kernel.symbol))
    raw = np.zeros(kernel.workspace_bytes + 64, np.uint8)
    workspace = (raw.ctypes.data + 63) & ~63
    table = np.array([c.ctypes.data, a.ctypes.data, b.ctypes.data, workspace], np.int64)
    block, tasks = table.ctypes.data, range(kernel.ntasks)

    def call(_keep=(raw, table)) -> None:  # type: ignore[no-untyped-def]
        for task in tasks:
            native(block, task, kernel.ntasks)

    return call


def interleave(calls, repeats: int, rounds: int = 9) -> list[float]:  # type: ignore[no-untyped-def]
    """Best CPU seconds of each callable; thread time, so other load on the box counts less."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            start = time.thread_time()
            for _ in range(repeats):
                call()
            best[i] = min(best[i], (time.thread_time() - start) / repeats)
    return best


def main(sizes: list[int]) -> None:
    """Print one line per size and transposition."""
    try:
        import torch
    except ImportError:
        print("torch is not installed: nothing to compare with (pip install kiln[peers])")
        return
    torch.set_num_threads(1)
    print(f"{'n':>5} {'form':>4} {'kiln GF':>8} {'torch GF':>8} {'ratio':>6}")
    for n in sizes:
        a, b, c = (np.random.default_rng(i).standard_normal((n, n), np.float32) for i in range(3))
        ta, tb, tc = (torch.from_numpy(x.copy()) for x in (a, b, c))
        for form in ("NN", "NT", "TN", "TT"):
            x = ta.T if form[0] == "T" else ta
            y = tb.T if form[1] == "T" else tb
            calls = [
                prepare(n, form[0] == "T", form[1] == "T", a, b, c),
                lambda x=x, y=y, z=tc: torch.mm(x, y, out=z),
            ]
            for call in calls:
                call()
            ours, theirs = interleave(calls, max(1, int(2e8 / n**3)))
            flops = 2 * n**3 * 1e-9
            print(f"{n:5} {form:>4} {flops / ours:8.0f} {flops / theirs:8.0f} {theirs / ours:6.2f}")


if __name__ == "__main__":
    main([int(x) for x in sys.argv[1:]] or [64, 128, 256, 512, 1024])
