"""Compiled fp32 matmul on one thread, against torch.mm, in the four forms of transposition.

`kiln.compile` of the product against `torch.mm`, both as a user calls them, with a new output each
time, and also `torch.mm(out=)`, which spares torch the allocation. All run in turn on this thread;
time is the thread's CPU time, so that other load on the machine counts less; medians over the
rounds. Run: `python -m benchmarks.matmul [size ...]`
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from .common import banner, peer, ratio, table, verdict

TARGET = 1.5


def product(form: str, mm: Callable) -> Callable:
    """A function of row-major matrices that multiplies them, transposed as the form says."""

    def f(a: Any, b: Any) -> Any:
        return mm(a.t() if form[0] == "T" else a, b.t() if form[1] == "T" else b)

    return f


def block(call: Callable, args: tuple, repeats: int) -> float:
    """CPU seconds of a call."""
    start = time.thread_time()
    for _ in range(repeats):
        call(*args)
    return (time.thread_time() - start) / repeats


def main() -> None:
    """Print one row per size and form."""
    cli = argparse.ArgumentParser(prog="python -m benchmarks.matmul", description=__doc__)
    cli.add_argument("sizes", type=int, nargs="*", default=[1024], help="default: 1024")
    cli.add_argument("--rounds", type=int, default=21, help="blocks of each (default: 21)")
    options = cli.parse_args()
    torch = peer("torch")
    import numpy as np

    import kiln

    banner()
    kiln.set_num_threads(1)
    rows = []
    for n in options.sizes:
        arrays = [np.random.default_rng(i).standard_normal((n, n), np.float32) for i in range(2)]
        repeats = max(1, int(1e9 / n**3))
        gflops = 2e-9 * n**3
        for form in ("NN", "NT", "TN", "TT"):
            ours = tuple(kiln.from_numpy(x.copy()) for x in arrays)
            compiled = kiln.compile(product(form, kiln.mm))
            calls: list[tuple[Callable, tuple]] = [(compiled, ours)]
            if torch is not None:
                torch.set_num_threads(1)
                theirs = tuple(torch.from_numpy(x.copy()) for x in arrays)
                out = torch.empty(n, n)
                into = product(form, lambda a, b, out=out: torch.mm(a, b, out=out))
                calls += [(product(form, torch.mm), theirs), (into, theirs)]
            results = [call(*args).numpy() for call, args in calls]
            for r in results[1:]:
                np.testing.assert_allclose(results[0], r, rtol=1e-3, atol=1e-3)
            times: list[list[float]] = [[] for _ in calls]
            for _ in range(options.rounds):
                for (call, args), seconds in zip(calls, times, strict=True):
                    seconds.append(block(call, args, repeats))
            speeds = [f"{gflops / statistics.median(t):.0f}" for t in times]
            if torch is None:
                rows.append([f"{n} {form}", *speeds, "-", "-", "-", "-", f">= {TARGET:g}"])
                continue
            r = ratio(times[1], times[0])
            bound = verdict(r, at_least=TARGET) if n == 1024 else "-"
            again = f"{ratio(times[2], times[0]):.2f}"
            rows.append([f"{n} {form}", *speeds, f"{r:.2f}", again, bound])
    head = ["fp32, 1 thread", "kiln GF/s", "torch GF/s", "torch out= GF/s", "kiln / torch", "kiln / torch out=", "target"]  # fmt: skip
    table(head, rows)


if __name__ == "__main__":
    main()
