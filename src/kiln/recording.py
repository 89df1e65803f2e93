"""What profilers record: which op, compiled function or block of a program ran when, on which thread.

While anybody records, `CAPTURING` holds an entry of no thread, as inside autocast, so that short paths are left for
`dispatch.apply`, which asks here; otherwise nothing is asked.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident
from types import FrameType
from typing import Any

import numpy as np

from . import naming
from .tensor import CAPTURING, Tensor, watch_calls

RECORDING: list[Recorder] = []
"""Who records; empty almost always."""

OP, PROGRAM, KERNEL, COMPILE, BLOCK, MEMORY = (
    "cpu_op",
    "program",
    "kernel",
    "compile",
    "user_annotation",
    "cpu_instant_event",
)


class Event:
    """A stretch of time on a thread, in nanoseconds; `inside` is how much of it other events took."""

    __slots__ = (
        "allocated", "args", "children", "end", "flops", "inside", "kind", "moved", "name", "parent", "shapes", "stack", "start", "thread",
    )  # fmt: skip

    def __init__(self, name: str, kind: str, shapes: list, parent: Event | None):
        self.name, self.kind, self.shapes, self.parent = name, kind, shapes, parent
        self.thread, self.inside, self.end, self.children = get_ident(), 0, 0, []
        self.allocated, self.flops, self.moved = 0, 0, 0
        self.args: tuple[Any, ...] = ()
        self.stack = _stack() if any(r.stacks for r in RECORDING) else []
        self.start = time.perf_counter_ns()


class Recorder:
    """Events from `start` to `stop`, of all threads.

    `shapes`, `memory` (bytes of results that events made, less those that died meanwhile), `flops` and `stacks` (the program's
    lines that called) say what else is looked at; with `values`, events hold the arguments of their calls; with
    `kernels`, those of compiled programs are events, and events say how many bytes they read and wrote.
    """

    def __init__(
        self,
        shapes: bool = False,
        memory: bool = False,
        flops: bool = False,
        stacks: bool = False,
        values: bool = False,
        kernels: bool = False,
    ):
        self.events: list[Event] = []
        self.shapes, self.memory, self.flops, self.stacks = shapes, memory, flops, stacks
        self.values, self.kernels = values, kernels
        self.began, self.ended = 0, 0

    def start(self) -> None:
        """Record from now on."""
        self.began = time.perf_counter_ns()
        RECORDING.append(self)
        watch_calls("recording", True)

    def take(self, e: Event, args: tuple, out: Any) -> None:
        """An event has ended, with what the call made of its arguments."""
        self.events.append(e)

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


def end(e: Event, args: tuple = (), out: Any = None) -> None:
    """The event ends now, with what the call made of its arguments."""
    e.end = time.perf_counter_ns()
    if out is not None:
        if any(r.memory for r in RECORDING):
            _count_memory(e, args, out)
        if any(r.flops for r in RECORDING):
            e.flops = _flops(e, args, out)
    if e.args:
        if kernels_wanted():
            e.moved = sum(
                t._a.nbytes for t in _tensors([e.args, out]) if isinstance(t._a, np.ndarray)
            )
        given, e.args = e.args, ()
    else:
        given = args
    _open.events.remove(e)
    if e.parent is not None:
        e.parent.inside += e.end - e.start
        e.parent.children.append(e)
    for r in RECORDING:
        if e.start >= r.began:
            r.take(e, given, out)


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
    if any(r.values or r.kernels for r in RECORDING):
        e.args = args
    _open.counted = True
    return e


def kernels_wanted() -> bool:
    """Whether anybody records the kernels of compiled programs."""
    return any(r.kernels for r in RECORDING)


def note_kernel(name: str, start: int, end: int, moved: int, flops: int) -> None:
    """A kernel of a compiled program ran from `start` to `end` and read and wrote so many bytes."""
    e = Event(name, KERNEL, [], _open.events[-1] if _open.events else None)
    e.start, e.end, e.moved, e.flops = start, end, moved, flops
    if e.parent is not None:
        e.parent.inside += end - start
        e.parent.children.append(e)
    for r in RECORDING:
        if r.kernels:
            r.take(e, (), None)


@contextmanager
def block(name: str, kind: str = BLOCK) -> Iterator[None]:
    """An event around a block of the program, where anybody records."""
    e = begin(name, kind) if RECORDING else None
    try:
        yield
    finally:
        if e is not None:
            end(e)


# ---------------------------------------------------------------- what is measured besides time

_ROOM = os.path.dirname(os.path.abspath(__file__)) + os.sep
_alive: dict[int, weakref.ref] = {}


def _stack() -> list[str]:
    """The program's lines that are being run, the innermost first; Kiln's own are left out."""
    out = []
    f: FrameType | None = sys._getframe(2)
    while f is not None:
        code = f.f_code
        if not code.co_filename.startswith((_ROOM, "<kiln")):
            out.append(f"{code.co_filename}({f.f_lineno}): {code.co_name}")
        f = f.f_back
    return out


def _tensors(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, list | tuple):
        for y in x:
            yield from _tensors(y)
    elif isinstance(x, dict):
        yield from _tensors(list(x.values()))


def _memory(x: Any) -> dict[int, np.ndarray]:
    """The arrays that own the memory of tensors, by id."""
    out = {}
    for t in _tensors(x):
        a = t._a
        while isinstance(a, np.ndarray) and isinstance(a.base, np.ndarray):
            a = a.base
        if isinstance(a, np.ndarray):
            out[id(a)] = a
    return out


def _count_memory(e: Event, args: tuple, out: Any) -> None:
    """Count what a call's results take, unless it lies in its arguments, or in what a call inside of it made."""
    given = _memory(args)
    for key, a in _memory(out).items():
        if key not in given and key not in _alive:
            n = a.nbytes
            e.allocated += n
            _alive[key] = weakref.ref(a, lambda _, key=key, n=n: _freed(key, n))


def _freed(key: int, n: int) -> None:
    _alive.pop(key, None)
    if not any(r.memory for r in RECORDING):
        return
    if _open.events:
        _open.events[-1].allocated -= n
        return
    e = Event("[memory]", MEMORY, [], None)
    e.end, e.allocated = e.start, -n
    for r in RECORDING:
        r.events.append(e)


def _flops(e: Event, args: tuple, out: Any) -> int:
    """The operations of an event; of a call that makes such calls, they count there."""
    if any(_counted(c) for c in e.children):
        return 0
    name = e.name.rpartition("::")[2]
    if name in ("add", "mul"):
        return out.numel() if isinstance(out, Tensor) else 0
    return flops(name, args, out)


def flops(name: str, args: tuple, out: Any) -> int:
    """Multiplications and additions of an op that is a product, a convolution or attention; 0 for all else.

    As PyTorch's profiler and flop counter count them. `args` and `out` are tensors, or nodes of a Graph.
    """
    if name in ("attention", "attention_grad"):
        query, key, value = args[:3] if name == "attention" else args[1:4]
        backward = name == "attention_grad"
        width = (3 if backward else 1) * query.shape[-1] + (2 if backward else 1) * value.shape[-1]
        return 2 * query.numel() // max(query.shape[-1], 1) * key.shape[-2] * width
    if not hasattr(out, "numel"):  # several tensors
        return 0
    if name in ("mm", "bmm", "matmul", "linear"):
        return 2 * out.numel() * args[0].shape[-1]
    if name in ("addmm", "baddbmm"):
        return 2 * out.numel() * args[1].shape[-1]
    if name == "linear_weight_grad":  # PyTorch's backward is a product there
        return 2 * out.numel() * math.prod(args[0].shape[:-1])
    if name == "convolution":
        return 2 * out.numel() * math.prod(args[1].shape[1:])
    if name in (
        "conv_input_grad",
        "conv_weight_grad",
    ):  # of which PyTorch's profiler knows nothing, its flop counter does
        weight = args[1] if name == "conv_input_grad" else out
        return 2 * args[0].numel() * math.prod(weight.shape[1:])
    return 0


def _counted(e: Event) -> bool:
    return e.flops > 0 or any(map(_counted, e.children))
