"""What profilers record: which op, compiled function or block of a program ran when, on which thread.

While anybody records, `CAPTURING` holds an entry of no thread, as inside autocast, so that short paths are left for
`dispatch.apply`, which asks here; otherwise nothing is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident

from . import naming
from .tensor import CAPTURING, Tensor, watch_calls

RECORDING: list[Recorder] = []
"""Who records; empty almost always."""

OP, PROGRAM, BLOCK = "cpu_op", "program", "user_annotation"


class Event:
    """A stretch of time on a thread, in nanoseconds; `inside` is how much of it other events took."""

    __slots__ = ("children", "end", "inside", "kind", "name", "parent", "shapes", "start", "thread")

    def __init__(self, name: str, kind: str, shapes: list, parent: Event | None):
        self.name, self.kind, self.shapes, self.parent = name, kind, shapes, parent
        self.thread, self.inside, self.end, self.children = get_ident(), 0, 0, []
        self.start = time.perf_counter_ns()


class Recorder:
    """Events from `start` to `stop`, of all threads."""

    def __init__(self, shapes: bool = False):
        self.events: list[Event] = []
        self.shapes, self.began, self.ended = shapes, 0, 0

    def start(self) -> None:
        """Record from now on."""
        self.began = time.perf_counter_ns()
        RECORDING.append(self)
        watch_calls("recording", True)

    def stop(self) -> None:
        """Record no more."""
        self.ended = time.perf_counter_ns()
        RECORDING.remove(self)
        watch_calls("recording", bool(RECORDING))


class _Open(threading.local):
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.counted = False  # whether the call that comes next has its event


_open = _Open()


def begin(name: str, kind: str, shapes: list | None = None) -> Event:
    """An event that begins now."""
    e = Event(name, kind, shapes or [], _open.events[-1] if _open.events else None)
    _open.events.append(e)
    return e


def end(e: Event) -> None:
    """The event ends now."""
    e.end = time.perf_counter_ns()
    _open.events.remove(e)
    if e.parent is not None:
        e.parent.inside += e.end - e.start
        e.parent.children.append(e)
    for r in RECORDING:
        if e.start >= r.began:
            r.events.append(e)


def begin_call(name: str, kind: str, args: tuple = ()) -> Event | None:
    """The event of a call that is about to be made again by who asks; None where it is that call, or symbolic."""
    if _open.counted:
        _open.counted = False
        return None
    if CAPTURING.get(get_ident()) is not None:
        return None
    shapes = []
    if any(r.shapes for r in RECORDING):
        shapes = [list(x._a.shape) if isinstance(x, Tensor) else [] for x in args]
    prefix = "" if kind == PROGRAM else "aten::" if naming.name == "torch" else "kiln::"
    e = begin(prefix + name, kind, shapes)
    _open.counted = True
    return e


@contextmanager
def block(name: str) -> Iterator[None]:
    """An event around a block of the program, where anybody records."""
    e = begin(name, BLOCK) if RECORDING else None
    try:
        yield
    finally:
        if e is not None:
            end(e)
