"""Events that a profiler recorded: lists, averages, tables and traces."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any

from ..errors import KilnValueError
from ..recording import BLOCK, Event, Recorder

_UNITS = {"s": 1e6, "ms": 1e3, "us": 1.0}
_SORTS = (
    "cpu_time", "cpu_time_total", "self_cpu_time_total", "cpu_memory_usage", "self_cpu_memory_usage", "flops", "count",
)  # fmt: skip
_STACKS = ("self_cpu_time_total", "self_cuda_time_total", "self_device_time_total")


class DeviceType(Enum):
    """Where an event ran."""

    CPU = 0
    CUDA = 1


def _format_time(us: float) -> str:
    unit = "s" if us >= 1e6 else "ms" if us >= 1e3 else "us"
    return f"{us / _UNITS[unit]:.3f}{unit}"


def _format_memory(n: float) -> str:
    for unit, size in (("GB", 2**30), ("MB", 2**20), ("KB", 2**10)):
        if abs(n) >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n:.0f} B"


def _format_flops(n: float) -> str:
    k = min((len(str(int(n))) - 1) // 3, 5)
    return f"{n / 1000**k:.3f}{' KMGTP'[k].strip()}" if n > 0 else "--"


def _text(attribute: str) -> property:
    return property(
        lambda self: _format_time(getattr(self, attribute)), doc=f"`{attribute}` with its unit."
    )


class _Times:
    """Times in microseconds and memory in bytes, of one event or of several together. There is no device but the CPU."""

    count = 1
    self_cpu_time_total = cpu_time_total = 0.0
    device_type = DeviceType.CPU
    device_time = device_time_total = self_device_time_total = cuda_time = cuda_time_total = (
        self_cuda_time_total
    ) = 0.0
    device_memory_usage = self_device_memory_usage = cuda_memory_usage = self_cuda_memory_usage = 0
    flops = moved = cpu_memory_usage = self_cpu_memory_usage = 0
    stack: Sequence[str] = ()

    @property
    def cpu_time(self) -> float:
        """The mean time of one."""
        return self.cpu_time_total / self.count if self.count else 0.0

    cpu_time_str, cpu_time_total_str = _text("cpu_time"), _text("cpu_time_total")
    self_cpu_time_total_str = _text("self_cpu_time_total")
    device_time_str, device_time_total_str = _text("device_time"), _text("device_time_total")
    self_device_time_total_str = _text("self_device_time_total")


class TimeRange:
    """When an event began and ended, in microseconds."""

    def __init__(self, start: float, end: float):
        self.start, self.end = start, end

    def elapsed_us(self) -> float:
        """How long it took."""
        return self.end - self.start


class FunctionEvent(_Times):
    """One event: an op, a run of a compiled function, or a block that `record_function` named."""

    def __init__(self, e: Event, began: int):
        self.name = self.key = e.name
        self.kind, self.thread, self.input_shapes = e.kind, e.thread, e.shapes
        self.is_user_annotation = e.kind == BLOCK
        self.time_range = TimeRange((e.start - began) / 1e3, (e.end - began) / 1e3)
        self.cpu_time_total = (e.end - e.start) / 1e3
        self.self_cpu_time_total = (e.end - e.start - e.inside) / 1e3
        self.flops, self.self_cpu_memory_usage, self.stack = e.flops, e.allocated, e.stack
        self.moved = e.moved
        self.cpu_memory_usage = _allocated(e)
        self.cpu_parent: FunctionEvent | None = None
        self.cpu_children: list[FunctionEvent] = []

    def __repr__(self) -> str:
        return (
            f"<FunctionEvent name={self.name} cpu_time={self.cpu_time_str} self_cpu_time="
            f"{self.self_cpu_time_total_str} input_shapes={self.input_shapes} thread={self.thread}>"
        )


def _allocated(e: Event) -> int:
    return e.allocated + sum(map(_allocated, e.children))


class FunctionEventAvg(_Times):
    """All events of one name, or of one name and shapes, together."""

    def __init__(self, key: str = "Total", input_shapes: Any = "") -> None:
        self.key, self.input_shapes, self.count = key, input_shapes, 0
        self.self_cpu_time_total = self.cpu_time_total = 0.0
        self.stack: Sequence[str] = ()
        self.is_user_annotation = False
        self.kind = ""

    def add(self, other: _Times) -> FunctionEventAvg:
        """Count another event, or several, as well."""
        self.count += other.count
        self.cpu_time_total += other.cpu_time_total
        self.self_cpu_time_total += other.self_cpu_time_total
        self.flops += other.flops
        self.moved += other.moved
        self.cpu_memory_usage += other.cpu_memory_usage
        self.self_cpu_memory_usage += other.self_cpu_memory_usage
        return self

    __iadd__ = add

    def __repr__(self) -> str:
        return (
            f"<FunctionEventAvg key={self.key} self_cpu_time={self.self_cpu_time_total_str} "
            f"cpu_time={self.cpu_time_str} input_shapes={self.input_shapes}>"
        )


class EventList(list):
    """Events, or averages of them. `columns` names what was measured besides time: "memory", "flops"."""

    def __init__(self, events: Iterable = (), columns: Iterable[str] = ()):
        super().__init__(events)
        self.columns = frozenset(columns)

    @property
    def self_cpu_time_total(self) -> float:
        """The time of all, each counted without what it called, in microseconds."""
        return sum(e.self_cpu_time_total for e in self)

    def total_average(self) -> FunctionEventAvg:
        """All events together."""
        total = FunctionEventAvg()
        for e in self:
            total.add(e)
        return total

    def key_averages(self, group_by_input_shapes: bool = False, group_by_stack_n: int = 0, group_by_overload_name: bool = False) -> EventList:  # fmt: skip
        """Averages over events of one name, and of one choice of shapes, and of the innermost lines that called, if asked for."""
        found: dict[Any, FunctionEventAvg] = {}
        for e in self:
            shapes = str(e.input_shapes) if group_by_input_shapes else ""
            stack = tuple(e.stack[:group_by_stack_n])
            average = found.get((e.key, shapes, stack))
            if average is None:
                average = FunctionEventAvg(e.key, e.input_shapes if shapes else "")
                average.is_user_annotation, average.stack = e.is_user_annotation, stack
                found[e.key, shapes, stack] = average
            average.add(e)
        return EventList(found.values(), self.columns)

    def table(self, sort_by: str | None = None, row_limit: int = 100, max_src_column_width: int = 75,
              max_name_column_width: int = 55, max_shapes_column_width: int = 80, header: str | None = None,
              top_level_events_only: bool = False, time_unit: str | None = None) -> str:  # fmt: skip
        """The events as a table, sorted by an attribute that is a number, as "self_cpu_time_total" or "count"."""
        rows = list(self)
        if top_level_events_only:
            rows = [e for e in rows if getattr(e, "cpu_parent", None) is None]
        if sort_by is not None:
            if sort_by not in _SORTS and not sort_by.startswith(
                ("self_cuda", "cuda", "device", "self_device")
            ):
                raise KilnValueError("table", "nothing to sort by of this name", repr(sort_by), f"one of {_SORTS}")  # fmt: skip
            rows.sort(key=lambda e: -getattr(e, sort_by, 0))
        total = self.self_cpu_time_total
        shapes = any(getattr(e, "input_shapes", None) for e in rows)

        def time(us: float) -> str:
            return (
                _format_time(us)
                if time_unit is None
                else f"{us / _UNITS[time_unit]:.3f}{time_unit}"
            )

        def share(us: float) -> str:
            return f"{100 * us / total if total else 0:.2f}%"

        heads = ["Name", "Self CPU %", "Self CPU", "CPU total %", "CPU total", "CPU time avg", "# of Calls"]  # fmt: skip
        more: list[tuple[str, Callable[[Any], str]]] = []
        if "memory" in self.columns:
            more.append(("CPU Mem", lambda e: _format_memory(e.cpu_memory_usage)))
            more.append(("Self CPU Mem", lambda e: _format_memory(e.self_cpu_memory_usage)))
        if shapes:
            more.append(
                ("Input Shapes", lambda e: _cut(str(e.input_shapes), max_shapes_column_width))
            )
        if isinstance(next(iter(rows), None), FunctionEventAvg) and any(e.stack for e in rows):
            more.append(
                (
                    "Source Location",
                    lambda e: _cut(e.stack[0] if e.stack else "", max_src_column_width),
                )
            )
        if "flops" in self.columns:
            more.append(("Total FLOPs", lambda e: _format_flops(e.flops)))
        lines = [heads + [head for head, _ in more]]
        for e in rows[: row_limit if row_limit >= 0 else None]:
            line = [
                _cut(e.key, max_name_column_width), share(e.self_cpu_time_total), time(e.self_cpu_time_total),
                share(e.cpu_time_total), time(e.cpu_time_total), time(e.cpu_time), str(e.count),
            ]  # fmt: skip
            lines.append(line + [show(e) for _, show in more])
        widths = [max(map(len, column)) + 2 for column in zip(*lines, strict=True)]
        rule = "  ".join("-" * w for w in widths)
        text = ["  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines]
        top = [header, rule] if header is not None else [rule]
        return "\n".join(
            [*top, text[0], rule, *text[1:], rule, f"Self CPU time total: {time(total)}\n"]
        )

    def __str__(self) -> str:
        return self.table()

    def export_chrome_trace(self, path: str) -> None:
        """Write the events as a file for chrome://tracing and Perfetto."""
        write_trace(path, self)

    @property
    def supported_export_stacks_metrics(self) -> list[str]:
        """What `export_stacks` can write."""
        return list(_STACKS)

    def export_stacks(self, path: str, metric: str = "self_cpu_time_total") -> None:
        """Write a line for each event that has a stack, outermost call first, with its time: what flame graphs are made of."""
        if metric not in _STACKS:
            raise KilnValueError(
                "export_stacks", f"metric should be one of: {_STACKS}", repr(metric), ""
            )
        blanks = str.maketrans(" ;\t\n", "____")
        with open(path, "w") as f:
            for e in self:
                n = int(getattr(e, metric))
                if e.stack and n > 0:
                    calls = [*reversed(e.stack), e.key]
                    f.write(";".join(c.translate(blanks) for c in calls) + f" {n}\n")


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width or width < 0 else text[: width - 3] + "..."


def events_of(recorder: Recorder) -> EventList:
    """What was recorded, in the order in which it began."""
    recorded, began = recorder.events, recorder.began
    made = {id(e): FunctionEvent(e, began) for e in recorded}
    for e in recorded:
        parent = None if e.parent is None else made.get(id(e.parent))
        if parent is not None:
            made[id(e)].cpu_parent = parent
            parent.cpu_children.append(made[id(e)])
    columns = [c for c in ("memory", "flops") if getattr(recorder, c)]
    return EventList(sorted(made.values(), key=lambda e: e.time_range.start), columns)


def write_trace(path: str, events: Iterable[FunctionEvent], metadata: dict[str, Any] | None = None,
                opener: Callable = open) -> None:  # fmt: skip
    """Write events in the format of Chrome's traces."""
    pid = os.getpid()
    events = list(events)
    names = {t.ident: t.name for t in threading.enumerate()}
    known = {e.thread: names.get(e.thread, f"thread {e.thread}") for e in events}
    rows: list[dict] = [
        {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": "python"}}
    ]
    rows += [
        {"ph": "M", "name": "thread_name", "pid": pid, "tid": i, "args": {"name": n}}
        for i, n in known.items()
    ]
    rows += [
        {
            "ph": "X", "cat": e.kind, "name": e.name, "pid": pid, "tid": e.thread,
            "ts": e.time_range.start, "dur": e.time_range.elapsed_us(), "args": {"Input Dims": e.input_shapes} | {
                name: value for name, value in (
                    ("Bytes", e.self_cpu_memory_usage), ("flops", e.flops), ("Moved bytes", e.moved), ("Call stack", ";".join(e.stack)),
                ) if value
            },
        }
        for e in events
    ]  # fmt: skip
    with opener(path, "wt") as f:
        json.dump({"schemaVersion": 1, **(metadata or {}), "traceEvents": rows}, f)
