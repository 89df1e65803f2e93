"""What a program spends its time on: `profile`, with schedules and traces. PyTorch's `torch.profiler`.

https://docs.pytorch.org/docs/stable/profiler.html
"""

from __future__ import annotations

import gzip
import os
import socket
import time
from collections.abc import Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Any, Self

from ..autograd.profiler import record_function
from ..autograd.profiler_util import DeviceType, EventList, events_of, write_trace
from ..errors import KilnAssertionError
from ..recording import BLOCK, Event, Recorder, begin, end
from .flame import write_flame
from .limits import Efficiency, Limits, machine_limits


class ProfilerActivity(Enum):
    """What to record: only the CPU's ops are there to be recorded."""

    CPU = 0
    XPU = 1
    MTIA = 2
    CUDA = 3
    HPU = 4
    PrivateUse1 = 5


class ProfilerAction(Enum):
    """What a profiler does in a step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


def supported_activities() -> set[ProfilerActivity]:
    """What can be recorded."""
    return {ProfilerActivity.CPU}


def schedule(*, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0,
             skip_first_wait: int = 0) -> Callable[[int], ProfilerAction]:  # fmt: skip
    """What to do in each step: after `skip_first`, cycles of waiting, warming up and recording, `repeat` times or for good."""
    if min(wait, warmup, repeat, skip_first) < 0 or active <= 0:
        raise KilnAssertionError(
            "schedule", "Invalid profiler schedule arguments", (wait, warmup, active, repeat, skip_first),
            "active is positive, the others are not negative",
        )  # fmt: skip
    cycle = wait + warmup + active

    def action(step: int) -> ProfilerAction:
        if step < 0:
            raise KilnAssertionError(
                "schedule", f"Step must be non-negative. Got {step}.", step, ""
            )
        step -= skip_first
        if step < 0:
            return ProfilerAction.NONE
        step += wait if skip_first_wait else 0
        if repeat and step >= repeat * cycle:
            return ProfilerAction.NONE
        at = step % cycle
        if at < wait:
            return ProfilerAction.NONE
        if at < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD_AND_SAVE if at == cycle - 1 else ProfilerAction.RECORD

    return action


def tensorboard_trace_handler(dir_name: str, worker_name: str | None = None, use_gzip: bool = False,
                              use_python_export: bool = False) -> Callable[[profile], None]:  # fmt: skip
    """An `on_trace_ready` that writes each trace into a folder."""

    def write(p: profile) -> None:
        Path(dir_name).mkdir(parents=True, exist_ok=True)
        worker = worker_name or f"{socket.gethostname()}_{os.getpid()}"
        end_of_name = ".pt.trace.json" + (".gz" if use_gzip else "")
        p.export_chrome_trace(str(Path(dir_name) / f"{worker}.{time.time_ns()}{end_of_name}"))

    return write


_RECORDS = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)


class profile:
    """Records the ops that run inside, or in the steps that a `schedule` chooses.

    `on_trace_ready(self)` is called at the end of each recording. A run of a compiled function is one event. `profile_memory`: the
    bytes of results that each event made, less those that died in it; memory that an op uses meanwhile is not seen. `with_flops`: of
    products and convolutions, as PyTorch's formulas count them. `with_stack`: the program's lines that called. Off, it costs nothing.

    Kiln's own: `with_kernels` makes each kernel of a compiled program an event, run by itself, and has events know their flops and the
    bytes that they read and wrote; `efficiency()` holds that against what the machine can do, `export_flame` draws it.
    """

    def __init__(self, *, activities: Iterable[ProfilerActivity] | None = None,
                 schedule: Callable[[int], ProfilerAction] | None = None,
                 on_trace_ready: Callable[..., Any] | None = None, record_shapes: bool = False,
                 profile_memory: bool = False, with_stack: bool = False, with_flops: bool = False,
                 with_modules: bool = False, experimental_config: Any = None, execution_trace_observer: Any = None,
                 acc_events: bool = False, use_cuda: bool | None = None, with_kernels: bool = False, **kwargs: Any):  # fmt: skip
        self.activities = set(supported_activities() if activities is None else activities)
        self.schedule = schedule or (lambda step: ProfilerAction.RECORD)
        self.on_trace_ready, self.record_shapes = on_trace_ready, record_shapes
        self._looks = {
            "memory": bool(profile_memory), "flops": bool(with_flops or with_kernels), "stacks": bool(with_stack), "kernels": bool(with_kernels),
        }  # fmt: skip
        self._marks, self.step_num = schedule is not None, 0
        self.current_action = self.schedule(0)
        self._recorder: Recorder | None = None
        self._events: EventList | None = None
        self._step: Event | None = None
        self._metadata: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin with the first step."""
        self._begin()

    def stop(self) -> None:
        """End with the present step; what is being recorded is ready."""
        self._mark_end()
        if self._recorder is not None:
            self._ready()

    def step(self) -> None:
        """The program's next step begins."""
        self._mark_end()
        before, self.step_num = self.current_action, self.step_num + 1
        self.current_action = self.schedule(self.step_num)
        goes_on = before is ProfilerAction.RECORD and self.current_action in _RECORDS
        if self._recorder is not None and not goes_on:
            self._ready()
        self._begin()

    def _begin(self) -> None:
        if self.current_action in _RECORDS and self._recorder is None:
            self._recorder = Recorder(self.record_shapes, **self._looks)
            self._recorder.start()
        if self._recorder is not None and self._marks:
            self._step = begin(f"ProfilerStep#{self.step_num}", BLOCK)

    def _mark_end(self) -> None:
        if self._step is not None:
            end(self._step)
            self._step = None

    def _ready(self) -> None:
        r, self._recorder = self._recorder, None
        if r is None:
            return
        r.stop()
        self._events = events_of(r)
        if self.on_trace_ready is not None:
            self.on_trace_ready(self)

    # ---- what was recorded last

    def events(self) -> EventList:
        """The events of the last recording."""
        if self._events is None:
            raise KilnAssertionError("profile", "nothing has been recorded yet", None, "read it after stop(), or in on_trace_ready")  # fmt: skip
        return self._events

    def key_averages(self, group_by_input_shape: bool = False, group_by_stack_n: int = 0, group_by_overload_name: bool = False) -> EventList:  # fmt: skip
        """Averages over events of one name, and of one choice of shapes if asked for."""
        return self.events().key_averages(group_by_input_shape, group_by_stack_n)

    def export_chrome_trace(self, path: str) -> None:
        """Write the events as a file for chrome://tracing and Perfetto, compressed where it ends in .gz."""
        opener = gzip.open if str(path).endswith(".gz") else open
        write_trace(path, self.events(), self._metadata, opener)

    def export_stacks(self, path: str, metric: str = "self_cpu_time_total") -> None:
        """Write the time of each stack of calls, recorded `with_stack`: what flame graphs are made of."""
        self.events().export_stacks(path, metric)

    def efficiency(self, limits: Limits | None = None) -> Efficiency:
        """What ops and kernels reach of the machine's limits, measured once (`machine_limits`): `str()` of it is a table.

        Recorded `with_kernels`; KilnAssertionError otherwise.
        """
        if not self._looks["kernels"]:
            raise KilnAssertionError("profile", "nothing was counted", None, "profile(with_kernels=True)")  # fmt: skip
        return Efficiency(self.events(), limits or machine_limits())

    def export_flame(self, path: str) -> None:
        """Write the events as a flame picture, an SVG file: what was called in what, as wide as it took long."""
        write_flame(path, self.events())

    def add_metadata(self, key: str, value: str) -> None:
        """Have the trace's file hold a text."""
        self._metadata[key] = value

    add_metadata_json = preset_metadata_json = add_metadata

    def __repr__(self) -> str:
        return f"<profile step={self.step_num} {self.current_action.name}>"


def kineto_available() -> bool:
    """Whether PyTorch's library for traces is there: False, Kiln writes them itself."""
    return False


__all__ = [
    "DeviceType", "Efficiency", "Limits", "ProfilerAction", "ProfilerActivity", "machine_limits", "profile", "record_function", "schedule", "supported_activities",
    "tensorboard_trace_handler",
]  # fmt: skip
