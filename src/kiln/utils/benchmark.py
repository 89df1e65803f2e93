"""How long a statement takes: `torch.utils.benchmark`'s `Timer`."""

from __future__ import annotations

import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..runtime.threads import get_num_threads, set_num_threads


@dataclass
class Measurement:
    """Times of several runs of a statement, in seconds per run."""

    number_per_run: int
    raw_times: list[float]
    label: str | None = None
    sub_label: str | None = None
    description: str | None = None
    env: str | None = None
    num_threads: int = 1
    stmt: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def times(self) -> list[float]:
        """Seconds per run, of each measurement."""
        return [t / self.number_per_run for t in self.raw_times]

    @property
    def median(self) -> float:
        """The median of the times."""
        return statistics.median(self.times)

    @property
    def mean(self) -> float:
        """The mean of the times."""
        return statistics.fmean(self.times)

    @property
    def iqr(self) -> float:
        """The distance of the times' quartiles."""
        if len(self.times) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.times, n=4, method="inclusive")
        return high - low

    def __repr__(self) -> str:
        title = self.label or self.stmt
        head = f"{title}: {self.sub_label}" if self.sub_label else title
        return f"<kiln.utils.benchmark.Measurement>\n{head}\n  Median: {self.median * 1e6:.2f} us\n  {len(self.times)} measurements, {self.number_per_run} runs each, {self.num_threads} threads"


class Timer:
    """Times of a statement, on one thread unless `num_threads` says otherwise, after a run to warm up."""

    def __init__(
        self, stmt: str | Callable = "pass", setup: str = "pass", global_setup: str = "", timer: Callable[[], float] = time.perf_counter,
        globals: dict[str, Any] | None = None, label: str | None = None, sub_label: str | None = None,
        description: str | None = None, env: str | None = None, num_threads: int = 1, language: Any = "python",
    ):  # fmt: skip
        self._timer = timeit.Timer(stmt, setup, timer, dict(globals or {}))
        self._facts: dict[str, Any] = {
            "label": label, "sub_label": sub_label, "description": description, "env": env,
            "num_threads": num_threads, "stmt": str(stmt),
        }  # fmt: skip
        self._threads = num_threads

    def _times(self, number: int, repeat: Callable[[list[float]], bool]) -> Measurement:
        before, times = get_num_threads(), list[float]()
        set_num_threads(self._threads)
        try:
            self._timer.timeit(1)
            while not times or repeat(times):
                times.append(self._timer.timeit(number))
        finally:
            set_num_threads(before)
        return Measurement(number, times, **self._facts)

    def timeit(self, number: int = 1_000_000) -> Measurement:
        """One measurement of `number` runs."""
        return self._times(number, lambda _: False)

    def blocked_autorange(self, callback: Any = None, min_run_time: float = 0.2) -> Measurement:
        """Measurements of as many runs as take a while each, for at least `min_run_time` seconds."""
        number, _ = self._autorange(min_run_time / 100)
        return self._times(number, lambda ts: sum(ts) < min_run_time)

    def adaptive_autorange(
        self,
        threshold: float = 0.1,
        *,
        min_run_time: float = 0.01,
        max_run_time: float = 10.0,
        callback: Any = None,
    ) -> Measurement:
        """Measurements until they spread by less than `threshold` of their median, or `max_run_time` is over."""
        number, _ = self._autorange(min_run_time)

        def again(ts: list[float]) -> bool:
            m = Measurement(number, ts)
            return sum(ts) < max_run_time and (len(ts) < 5 or m.iqr > threshold * m.median)

        return self._times(number, again)

    def _autorange(self, least: float) -> tuple[int, float]:
        number = 1
        while True:
            taken = self._timer.timeit(number)
            if taken >= least:
                return number, taken
            number = max(number * 2, int(number * least / max(taken, 1e-9)))


class Compare:
    """A table of measurements."""

    def __init__(self, results: Sequence[Measurement]):
        self._results = list(results)

    def extend_results(self, results: Sequence[Measurement]) -> None:
        """More rows."""
        self._results += results

    def __str__(self) -> str:
        rows = [(f"{m.label or m.stmt} {m.sub_label or ''} {m.description or ''}".strip(), f"{m.median * 1e6:.2f} us")
                for m in self._results]  # fmt: skip
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(f"{name:<{width}}  {value:>12}" for name, value in rows)

    def print(self) -> None:
        """Print it."""
        print(self)
