"""Streams and events of the CPU, where each call has ended when it returns: there is nothing to wait for.

Those of other devices raise, as in PyTorch's builds for the CPU. Source: torch.Stream, torch.Event, torch.cpu.
"""

from __future__ import annotations

from typing import Any, Self

from .device import CPU, device
from .errors import KilnError


def _on_cpu(name: str, given: Any) -> device:
    kind = CPU if given is None else device(given)
    if kind.type != "cpu":
        raise KilnError(name, f"Kiln is not linked with support for {kind.type} devices", repr(given), "device='cpu'")  # fmt: skip
    return kind


class Event:
    """A place in a stream."""

    def __init__(
        self, device: Any = None, *, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False
    ) -> None:  # fmt: skip
        self.device, self.event_id = _on_cpu("Event", device), 0

    def record(self, stream: Any = None) -> None:
        """Stand behind all that the stream was given."""

    def wait(self, stream: Any = None) -> None:
        """Have the stream wait for this: it is over."""

    def query(self) -> bool:
        """Whether all before it is done: True."""
        return True

    def synchronize(self) -> None:
        """Wait for all before it: it is over."""

    def elapsed_time(self, end_event: Event) -> float:
        """Time between two events: not measured on the CPU, as in PyTorch."""
        raise KilnError("Event", "events of the CPU measure no time", None, "time.perf_counter()")

    def __repr__(self) -> str:
        return (
            f"torch.Event device_type=cpu, device_index=-1, event_flag=0, event_id={self.event_id}"
        )


class Stream:
    """What is done one after the other."""

    def __init__(self, device: Any = None, *, priority: int = 0, **ids: int) -> None:
        self.device, self.device_index, self.device_type = _on_cpu("Stream", device), -1, 0
        self.stream_id, self.priority = 0, priority

    def query(self) -> bool:
        """Whether all is done: True."""
        return True

    def synchronize(self) -> None:
        """Wait for all that it was given: it is over."""

    def wait_event(self, event: Any) -> None:
        """Wait for an event: it is over."""

    def wait_stream(self, stream: Any) -> None:
        """Wait for all that another stream was given: it is over."""

    def record_event(self, event: Event | None = None) -> Event:
        """An event behind all that it was given."""
        return Event() if event is None else event

    def is_capturing(self) -> bool:
        """Whether a graph of calls is being captured from it: False."""
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def __repr__(self) -> str:
        return "torch.Stream device_type=cpu, device_index=-1, stream_id=0"


class StreamContext:
    """A `with` block on a stream."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass
