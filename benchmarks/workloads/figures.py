"""What follows from the measurements: ratios, the best peer, shares of the peak, whether results agree."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .catalog import KERNELS, WORKLOADS

OURS, PLAIN = "kiln", "torch"


@dataclass(frozen=True)
class Ratio:
    """A ratio over the rounds: its median, its least and its greatest."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}..{self.most:.2f})"


@dataclass(frozen=True)
class Line:
    """One workload at one number of threads: how many times faster Kiln is than each peer.

    `seconds` has each kind's median step, `ratios` each peer's step over Kiln's; `best` is the fastest
    peer whose results agree, "" where there is none; `share` is Kiln's part of what the machine can do.
    """

    name: str
    threads: int
    family: str
    seconds: dict[str, float]
    ratios: dict[str, Ratio]
    best: str
    share: float | None
    status: dict[str, str]
    apart: dict[str, float]
    tolerance: float

    @property
    def ahead(self) -> Ratio | None:
        """How many times faster Kiln is than the best peer."""
        return self.ratios.get(self.best)

    @property
    def agreement(self) -> str:
        """In words, whether all kinds computed the same."""
        if not self.apart:
            return "nothing to compare"
        off = {k: a for k, a in self.apart.items() if not a <= self.tolerance}
        if off:
            return "MISSED: " + ", ".join(f"{k} {a:.1e}" for k, a in off.items())
        return f"agree ({max(self.apart.values()):.0e})"


def apart(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest distance of two results, relative to the largest number in them; NaN is infinitely far."""
    if len(a) != len(b) or not all(map(math.isfinite, [*a, *b])):
        return math.inf
    scale = max((abs(v) for v in [*a, *b]), default=0.0)
    return max((abs(p - q) for p, q in zip(a, b, strict=True)), default=0.0) / (scale or 1.0)


def line(run: dict[str, Any], peaks: dict[str, Any], clock: str) -> Line:
    """The line of a measured workload; `clock` is `wall`, or `cpu` for processor time at one thread."""
    workload, threads, kinds = WORKLOADS[run["workload"]], run["threads"], run["kinds"]
    rounds = "cpus" if clock == "cpu" and threads == 1 else "medians"
    times = {k: r[rounds] for k, r in kinds.items() if r["status"] == "ok" and r[rounds]}
    seconds = {k: statistics.median(t) for k, t in times.items()}
    found = {k: r["found"] for k, r in kinds.items() if r["status"] == "ok" and r["found"]}
    reference = next((k for k in (OURS, PLAIN, *found) if k in found), "")
    distances = {k: apart(found[reference], f) for k, f in found.items() if k != reference}
    ratios = {}
    if OURS in times:
        ratios = {k: _ratio(t, times[OURS]) for k, t in times.items() if k != OURS}
    peers = [k for k in seconds if k != OURS and distances.get(k, 0.0) <= workload.tolerance]
    best = min(peers, key=lambda k: seconds[k], default="")
    return Line(
        workload.name, threads, workload.family, seconds, ratios, best,
        _share(run, seconds, peaks.get(str(threads))), {k: r["status"] for k, r in kinds.items()},
        distances, workload.tolerance,
    )  # fmt: skip


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    each = [a / b for a, b in zip(theirs, ours, strict=False)]
    return Ratio(statistics.median(each), min(each), max(each))


def _share(run: dict[str, Any], seconds: dict[str, float], peak: Any) -> float | None:
    """Of the peak rate of multiply-adds; of the copy bandwidth where a kernel only moves data."""
    if OURS not in seconds or not peak:
        return None
    kernel = KERNELS.get(run["workload"])
    if kernel is not None and kernel.bytes:
        # what fits the cache is copied faster
        rate = peak["1M" if kernel.bytes <= 8 << 20 else "16M"]
        return kernel.bytes / seconds[OURS] / rate
    return run["flops"] / seconds[OURS] / peak["flops"]


def geometric(values: Iterable[float]) -> float | None:
    """The geometric mean; None of nothing."""
    logs = [math.log(v) for v in values]
    return math.exp(statistics.fmean(logs)) if logs else None


@dataclass(frozen=True)
class Claim:
    """Something that Kiln is to show: what was measured, and whether the bound is met."""

    text: str
    measured: float | None
    bound: float
    at_least: bool = True
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        met = self.measured >= self.bound if self.at_least else self.measured <= self.bound
        return "met" if met else "MISSED"


def claims(lines: Sequence[Line], runs: Sequence[dict[str, Any]], packages: Any) -> list[Claim]:
    """The goals for whole workloads, kernels, neighbours, memory and size."""
    made: list[Claim] = []
    for threads in sorted({ln.threads for ln in lines}):
        at = f"{threads} thread{'s' * (threads > 1)}"
        here = [ln for ln in lines if ln.threads == threads]
        for family in ("training", "inference"):
            made += _family(family, at, [ln for ln in here if ln.family == family])
        small = next((ln.ratios.get("jax") for ln in here if ln.name == "mlp-small"), None)
        made.append(Claim(f"MLP 64-32-10 against JAX, {at}", small and small.median, 1.5))
        made += _kernels(at, here)
    worst = _worst(
        (run["workload"], statistics.median(r["beside"])) for run in runs
        for k, r in run["kinds"].items() if k == OURS and r["beside"]
    )  # fmt: skip
    made.append(
        Claim("slowdown beside another busy process, the worst", worst[1], 1.6, False, worst[0])
    )
    worst = _worst(
        (f"{run['workload']}, {run['threads']}", kinds[OURS]["peak"] / kinds[PLAIN]["peak"])
        for run in runs
        if {OURS, PLAIN} <= (kinds := run["kinds"]).keys()
        and kinds[OURS]["peak"] and kinds[PLAIN]["peak"]
    )  # fmt: skip
    made.append(
        Claim("peak memory over PyTorch eager's, the worst", worst[1], 1.0, False, worst[0])
    )
    if {"kiln", "torch"} <= packages.keys():
        share = packages["kiln"]["with"] / packages["torch"]["with"]
        made.append(
            Claim("installed size over PyTorch's, both with what they need", share, 1 / 3, False)
        )
    return made


def _worst(values: Iterable[tuple[str, float]]) -> tuple[str, float | None]:
    return max(values, key=lambda v: v[1], default=("", None))


def _family(family: str, at: str, lines: list[Line]) -> list[Claim]:
    ahead = {ln.name: ln.ahead.median for ln in lines if ln.ahead}
    plain = [ln.ratios[PLAIN].median for ln in lines if PLAIN in ln.ratios]
    least = min(ahead, key=ahead.__getitem__, default="")
    return [
        Claim(
            f"{family}, {at}: the least against the best peer", ahead.get(least), 1.2, True, least
        ),
        Claim(
            f"{family}, {at}: geometric mean against the best peer", geometric(ahead.values()), 1.6
        ),
        Claim(f"{family}, {at}: geometric mean against PyTorch eager", geometric(plain), 2.5),
    ]


def _kernels(at: str, lines: list[Line]) -> list[Claim]:
    def least(names: list[str], kind: str | None) -> tuple[float | None, str]:
        found = [(r.median, ln.name) for ln in lines if ln.name in names
                 and (r := ln.ratios.get(kind) if kind else ln.ahead)]  # fmt: skip
        return min(found, default=(None, ""))

    matmuls = [f"matmul-{n}-fp32" for n in (256, 512, 1024, 2048)]
    winograd = [
        f"conv-{s}-{way}" for s in ("64@56", "128@28", "256@14") for way in ("forward", "weight")
    ]
    rows = [name for name, k in KERNELS.items() if k.bytes and name.endswith("16M")]
    shares = [(ln.share, ln.name) for ln in lines if ln.name in rows and ln.share]
    made = []
    for text, (value, name), bound in (
        (f"matmul fp32 256-2048, {at}: the least against the best peer", least(matmuls, None), 0.95),
        (f"the same against PyTorch eager (AMD, AVX-512), {at}", least(matmuls, PLAIN), 1.9),
        (f"3x3 convolutions forward and weight against channels_last, {at}, the least",
         least(winograd, "torch-tuned"), 2.0),
        (f"elementwise and rows on 16M over copy bandwidth, {at}, the least",
         min(shares, default=(None, "")), 0.9),
    ):  # fmt: skip
        made.append(Claim(text, value, bound, True, name))
    return made
