"""What the benchmarks share: the machine's description, peers, fresh processes, ratios and tables."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .crew import ROOT


def peer(name: str) -> Any:
    """The peer's module; None, with a message, where it is not installed."""
    try:
        return __import__(name)
    except ImportError:
        print(f"{name} is not installed: skipped (pip install -e '.[peers]')")
        return None


def describe() -> tuple[str, str]:
    """The machine and the software, in a line each."""
    from kiln.backends.cpu.isa import host_isa

    def version(package: str) -> str:
        try:
            return f"{package} {importlib.metadata.version(package)}"
        except importlib.metadata.PackageNotFoundError:
            return f"{package} not installed"

    packages = ", ".join(version(p) for p in ("numpy", "llvmlite", "torch"))
    return (
        f"{_processor()}, {os.cpu_count()} cores, {host_isa().name}",
        f"{platform.system()}, Python {platform.python_version()}, {packages}",
    )


def banner() -> None:
    """Print what a figure means nothing without: date, machine, load, versions."""
    machine, software = describe()
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"{datetime.date.today()}, {machine}, load {load}\n{software}\n")


def _processor() -> str:
    """The processor's name and model number, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    return f"{facts.get('model name', platform.machine())} (family {facts.get('cpu family', '?')})"


def fresh(code: str, *args: str, **env: str) -> dict[str, Any]:
    """What a program prints as JSON when run in a new Python process."""
    done = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=ROOT, env={**os.environ, **env}, stdout=subprocess.PIPE,
        text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def two_cores() -> float:
    """How much work two processes do in the time of one: below 2 where something else takes cores."""
    code = "from time import perf_counter as t; s = t()\nfor i in range(3_000_000): pass\nprint(t() - s)"

    def times(n: int) -> list[float]:
        jobs = [
            subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
            for _ in range(n)
        ]
        return [float(j.communicate()[0]) for j in jobs]

    alone = min(times(1)[0] for _ in range(3))
    return statistics.median(sum(alone / t for t in times(2)) for _ in range(3))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over the rounds of ours / theirs: what drifts from round to round cancels."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float, float]:
    """The median over the rounds of ours / theirs, and its quartiles: between them are half of the rounds."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = (
        statistics.quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    )
    return middle, low, high


def verdict(value: float, *, at_most: float | None = None, at_least: float | None = None) -> str:
    """Whether a figure is within its bound, in words."""
    met = value <= at_most if at_most is not None else value >= (at_least or 0.0)
    bound = f"<= {at_most:g}" if at_most is not None else f">= {at_least:g}"
    return f"{bound} {'met' if met else 'MISSED'}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a Markdown table."""
    cells = [list(head), ["---"] * len(head), *(list(r) for r in rows)]
    widths = [max(len(r[i]) for r in cells) for i in range(len(head))]
    for r in cells:
        print("| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |")
    print()
