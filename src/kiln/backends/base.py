"""What a backend is: a function from a Graph to a Program, and how one is found by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from ..errors import KilnMemoryError, KilnValueError
from ..graph import Graph

NAMES = ("cpu", "reference")


class Program(Protocol):
    """A Graph made executable: flat inputs in, flat outputs out.

    Updates are stored in the memory of their input arrays. `run` is all that most callers need; one
    that runs a program often binds the inputs that stay where they are and calls it under its lock.
    """

    lock: AbstractContextManager[Any]
    memory_bytes: int
    """What it holds beside its inputs and outputs; 0 where nothing is laid out before it runs."""
    kept_bytes: int
    """What of that it keeps from call to call, computed of inputs that stay the same."""

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Execute once: an array for each output of the Graph that is not an update. Safe from any thread."""
        ...

    def bind(self, i: int, a: np.ndarray) -> None:
        """Have input i lie in this C-contiguous array at each call from now on."""
        ...

    def caller(self, varying: Sequence[int]) -> Callable[..., None]:
        """The program as a function of C-contiguous arrays: those of the inputs `varying`, in that order,
        and of all outputs that are not updates, which it fills: from `runtime.blocks.allocator`. The other
        inputs must be bound."""
        ...


class Backend(Protocol):
    """Turns Graphs into Programs."""

    def compile(
        self, graph: Graph, name: str, max_memory: int | None = None, steady: Sequence[int] = ()
    ) -> Program:
        """A Program for a Graph as it was captured, which holds at most so many bytes beside its inputs and outputs.

        `steady` are inputs that will be bound and hold the same at most calls: the Program may keep what
        it computes of them alone, if it looks after their memory (`sharing.Watch`).
        Errors: KilnMemoryError where it can't.
        """
        ...


def get(name: str) -> Any:
    """The backend module of that name."""
    if name not in NAMES:
        raise KilnValueError("backend", "no such backend", repr(name), "one of " + ", ".join(NAMES))
    return importlib.import_module(f".{name}", __package__)


def too_large(what: str, size: int) -> KilnMemoryError:
    """The error where so many bytes are not to be had."""
    return KilnMemoryError(
        "compile", "not enough memory for a program", f"{size / 2**30:,.2f} GiB for {what}",
        "pass max_memory= to kiln.compile, use smaller batches, or compile smaller functions",
    )  # fmt: skip
