"""What a backend is: a function from a Graph to a Program, and how one is found by name."""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np

from ..errors import KilnValueError
from ..graph import Graph

NAMES = ("cpu", "reference")


class Program(Protocol):
    """A Graph made executable: flat inputs in, flat outputs out.

    `run(inputs)` gives an array for each output of the Graph that is not an update; updates are
    stored in the memory of their input arrays. Safe to call from several threads.
    """

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Execute once."""
        ...


class Backend(Protocol):
    """Turns Graphs into Programs."""

    def compile(self, graph: Graph, name: str) -> Program:
        """A Program for a Graph as it was captured."""
        ...


def get(name: str) -> Any:
    """The backend module of that name."""
    if name not in NAMES:
        raise KilnValueError("backend", "no such backend", repr(name), "one of " + ", ".join(NAMES))
    return importlib.import_module(f".{name}", __package__)
