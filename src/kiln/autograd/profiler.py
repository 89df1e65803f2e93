"""The profiler's older face: `profile` and `record_function`. `kiln.profiler` has schedules and traces.

https://docs.pytorch.org/docs/stable/autograd.html#profiler
"""

from __future__ import annotations

from contextlib import ContextDecorator
from typing import Any, NoReturn, Self

from ..errors import KilnError
from ..library import DEFINED
from ..recording import BLOCK, RECORDING, Event, Recorder, begin, end
from .profiler_util import EventList, FunctionEvent, FunctionEventAvg, events_of


class record_function(ContextDecorator):
    """A name for a block of the program, or for a function as its decorator, where a profiler records."""

    def __init__(self, name: str, args: str | None = None):
        self.name, self.args = name, args
        self._events: list[Event | None] = []

    def __enter__(self) -> Self:
        self._events.append(begin(self.name, BLOCK) if RECORDING else None)
        return self

    def __exit__(self, *_: object) -> None:
        e = self._events.pop()
        if e is not None:
            end(e)


def _record_function_enter(name: str, args: str | None = None) -> Any:
    """Begin a block, as Graphs of `kiln.fx` do by calls: what to hand to `_record_function_exit`."""
    return record_function(name, args).__enter__()


def _record_function_exit(handle: Any) -> Any:
    """End a block that `_record_function_enter` began."""
    if (ask := getattr(type(handle), "__torch_function__", None)) is not None:
        return ask(_record_function_exit, (type(handle),), (handle,))
    return handle.__exit__()


DEFINED["profiler"] = {f.__name__: f for f in (_record_function_enter, _record_function_exit)}


class profile:
    """Records the ops that run inside: on all threads, with the time that each took and what it called.

    A run of a compiled function is one event. Ops of backward run one by one while somebody records. `profile_memory`: the
    bytes of results that each event made, less those that died in it; memory that an op uses meanwhile is not seen. `with_flops`: of
    products and convolutions. `with_stack`: the program's lines that called.
    """

    def __init__(self, enabled: bool = True, *, use_cuda: bool = False, use_device: str | None = None,
                 record_shapes: bool = False, with_flops: bool = False, profile_memory: bool = False,
                 with_stack: bool = False, with_modules: bool = False, use_kineto: bool = False, use_cpu: bool = True,
                 **kwargs: Any):  # fmt: skip
        self.enabled, self._recorder = (
            enabled,
            Recorder(record_shapes, profile_memory, with_flops, with_stack),
        )
        self._events: EventList | None = None

    def __enter__(self) -> Self:
        if self.enabled:
            self._recorder.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self._recorder.stop()
            self._events = events_of(self._recorder)

    @property
    def function_events(self) -> EventList:
        """The events; an error before the block has ended."""
        if self._events is None:
            raise KilnError("profile", "Profiler didn't finish running", None, "read it after the block")  # fmt: skip
        return self._events

    def key_averages(self, group_by_input_shape: bool = False, group_by_stack_n: int = 0, group_by_overload_name: bool = False) -> EventList:  # fmt: skip
        """`EventList.key_averages` of the events."""
        return self.function_events.key_averages(group_by_input_shape, group_by_stack_n)

    def table(self, *args: Any, **kwargs: Any) -> str:
        """`EventList.table` of the events."""
        return self.function_events.table(*args, **kwargs)

    def total_average(self) -> FunctionEventAvg:
        """All events together."""
        return self.function_events.total_average()

    @property
    def self_cpu_time_total(self) -> float:
        """The time of all events, in microseconds."""
        return self.function_events.self_cpu_time_total

    def export_stacks(self, path: str, metric: str = "self_cpu_time_total") -> None:
        """`EventList.export_stacks` of the events; they have stacks where `with_stack` was given."""
        self.function_events.export_stacks(path, metric)

    def export_chrome_trace(self, path: str) -> None:
        """Write the events as a file for chrome://tracing and Perfetto."""
        self.function_events.export_chrome_trace(path)

    def __repr__(self) -> str:
        return "<unfinished profile>" if self._events is None else str(self._events)

    __str__ = __repr__


class _Emit:
    """A marker of ranges for a vendor's profiler, which is not there."""

    tool = ""

    def __init__(self, enabled: bool = True, record_shapes: bool = False):
        self.enabled = enabled

    def __enter__(self) -> Self:
        if self.enabled:
            self._refuse()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _refuse(self) -> NoReturn:
        raise KilnError(
            type(self).__name__, f"{self.tool} is not available: this build of Kiln has no such device", None,
            "use kiln.profiler.profile",
        )  # fmt: skip


class emit_nvtx(_Emit):
    """Ranges for NVIDIA's profilers: an error, as there is no CUDA device."""

    tool = "NVTX"


class emit_itt(_Emit):
    """Ranges for Intel's VTune: an error, as Kiln doesn't speak to it."""

    tool = "ITT"


__all__ = ["EventList", "FunctionEvent", "FunctionEventAvg", "emit_itt", "emit_nvtx", "profile", "record_function"]  # fmt: skip
