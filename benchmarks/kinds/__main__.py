"""A process that runs kinds of programs under whichever library `torch` is there: see `crew.serve`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from ..crew import serve
from . import KINDS, language, small, vision  # noqa: F401  # which fill the table

_running: dict[str, Callable[[], float]] = {}


def start(name: str, threads: int) -> dict[str, float]:
    """Make a program and run its first steps: the first loss, and the seconds until it was there."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    _running.clear()
    begin = time.perf_counter()
    step = _running[name] = KINDS[name]()
    loss = step()
    first = time.perf_counter() - begin
    for _ in range(5):
        step()
    return {"loss": loss, "first": first}


def block(name: str, seconds: float) -> dict[str, float]:
    """Steps for so many seconds: the median one by the wall clock, and by the processor's."""
    step, wall, cpu = _running[name], [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(wall) < 3:
        a, b = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - a)
        cpu.append(time.process_time() - b)
    return {"wall": statistics.median(wall), "cpu": statistics.median(cpu)}


serve({"kinds": lambda: list(KINDS), "start": start, "block": block})
