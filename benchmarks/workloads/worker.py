"""One kind of framework at work in this process: takes orders, see `crew`.

`python -m benchmarks.workloads.worker KIND THREADS`
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from ..crew import serve
from . import framework, problem
from .catalog import WORKLOADS

SAMPLES = 64  # elements of a result that are compared


def memory(field: str) -> float | None:
    """Megabytes of this process, now (VmRSS) or at most (VmHWM); None where the system doesn't say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return None


def samples(arrays: list[Any]) -> list[float]:
    """Some elements of each array, evenly spread, and its root mean square: what is compared."""
    import numpy as np

    found: list[float] = []
    for a in arrays:
        flat = np.asarray(a, np.float64).reshape(-1)
        places = np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(int)
        found += [*flat[places].tolist(), float(np.sqrt(np.mean(flat**2)))]
    return found


class Worker:
    """Holds the workload that was loaded last."""

    def __init__(self, kind: str, threads: int):
        self.kind, self.threads = kind, threads
        self.ready: framework.Prepared | None = None

    def load(self, name: str, file: str) -> dict[str, Any]:
        """Prepare a workload; says what is missing or went wrong, else the seconds it took."""
        self.ready = None
        framework.load(self.kind, self.threads)
        rest = memory("VmRSS")
        workload, (weights, batches) = WORKLOADS[name], problem.read(file)
        start = time.perf_counter()
        try:
            self.ready = framework.prepare(self.kind, workload, weights, batches, self.threads)
        except framework.Missing as e:
            return {"missing": str(e)}
        except Exception as e:  # whatever a library raises goes into the report
            return {"failed": _words(e)}
        return {"seconds": time.perf_counter() - start, "memory": rest}

    def first(self, steps: int) -> dict[str, Any]:
        """The first steps: seconds of the very first, and losses or samples of results."""
        ready = self.ready
        assert ready is not None
        start = time.perf_counter()
        try:
            result = ready.call(*ready.batches[0])
        except Exception as e:
            self.ready = None
            return {"failed": _words(e)}
        seconds = time.perf_counter() - start
        found = samples(ready.read(result))[: SAMPLES + 1]
        if len(found) == 2:  # a loss, and its root mean square
            found = found[:1]
        for i in range(1, steps):
            found += samples(ready.read(ready.call(*ready.batches[i % len(ready.batches)])))[:1]
        return {"seconds": seconds, "found": found, "memory": memory("VmHWM")}

    def block(self, seconds: float) -> dict[str, float]:
        """Steps for so long: the median and the mean step by the clock, the mean in processor time."""
        ready = self.ready
        assert ready is not None
        call, b, clock = ready.call, ready.batches, time.perf_counter
        times: list[float] = []
        call(*b[0])
        began, spent = clock(), time.process_time()
        until = began + seconds
        while clock() < until or len(times) < 3:
            batch = b[len(times) % len(b)]
            start = clock()
            call(*batch)
            times.append(clock() - start)
        spent = time.process_time() - spent
        return {
            "median": statistics.median(times),
            "mean": (clock() - began) / len(times),
            "cpu": spent / len(times),
        }

    def steady(self) -> float | None:
        """The most memory that steps take once all is compiled, in megabytes of the process."""
        ready = self.ready
        assert ready is not None
        try:
            Path("/proc/self/clear_refs").write_text("5")  # starts VmHWM anew
        except OSError:
            return None
        for batch in ready.batches:
            ready.call(*batch)
        return memory("VmHWM")


def _words(e: Exception) -> str:
    """An error in one line."""
    said = [line.strip() for line in str(e).splitlines() if line.strip()]
    return f"{type(e).__name__}: {said[0] if said else ''}"[:300]


def pin(threads: int) -> None:
    """Run on as many cores as threads, so that pools which ask the system have that size.

    On one core all kinds share the last one. Does nothing where a process can't be bound to cores.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def main() -> None:
    """Answer orders."""
    kind, threads = sys.argv[1], int(sys.argv[2])
    pin(threads)
    w = Worker(kind, threads)
    serve({"load": w.load, "first": w.first, "block": w.block, "steady": w.steady})


if __name__ == "__main__":
    main()
