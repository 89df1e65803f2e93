"""What gives another value each time it is asked: clocks, random numbers of Python and NumPy, iterators.

A captured function is run once, so a program would keep what they gave then: it is refused. Calls of
builtins are seen as they are made. NumPy's are none, so generators that the function can reach are told by
their state, which is put back where a capture fails.
"""

from __future__ import annotations

import datetime
import io
import os
import pickle
import random
import sys
import time
import types
from typing import Any

import numpy as np

_CLOCKS = frozenset({
    datetime.datetime.now, datetime.datetime.utcnow, datetime.date.today, os.urandom, time.monotonic,
    time.monotonic_ns, time.perf_counter, time.perf_counter_ns, time.process_time, time.process_time_ns,
    time.thread_time, time.time, time.time_ns,
})  # fmt: skip


def asked(call: Any) -> str | None:
    """What a builtin function asks that answers otherwise next time, by name; None for all others."""
    owner = getattr(call, "__self__", None)
    if isinstance(owner, random.Random):
        return f"random.{call.__name__}"
    if isinstance(owner, types.ModuleType | type) and call in _CLOCKS:
        return f"{owner.__name__}.{call.__name__}"
    return None


def is_iterator(x: Any) -> bool:
    """Whether what is taken from it is gone."""
    return hasattr(type(x), "__next__") and not isinstance(x, io.IOBase)


class Generators:
    """NumPy's random generators that a function can reach, and their states before it ran."""

    def __init__(self) -> None:
        self.states: dict[int, tuple[Any, bytes, str]] = {}

    def note(self, value: Any, path: str) -> None:
        """Look whether a value is a generator, a method of one, or the module of the global one."""
        if value is sys.modules.get("numpy.random"):
            value = np.random.rand  # whose owner is the global generator
        owner = getattr(value, "__self__", value)
        if isinstance(owner, np.random.Generator | np.random.RandomState):
            self.states.setdefault(id(owner), (owner, _state(owner), path))

    def drawn(self) -> str | None:
        """The name of one from which was drawn since."""
        for g, was, path in self.states.values():
            if _state(g) != was:
                return path
        return None

    def undo(self) -> None:
        """Give them the states that they had."""
        for g, was, _ in self.states.values():
            if isinstance(g, np.random.RandomState):
                g.set_state(pickle.loads(was))
            else:
                g.bit_generator.state = pickle.loads(was)


def _state(g: Any) -> bytes:
    return pickle.dumps(
        g.get_state(legacy=False) if isinstance(g, np.random.RandomState) else g.bit_generator.state
    )
