"""The reference backend: every op by its NumPy reference, one after the other. It defines the semantics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...compile import pipeline
from ...errors import KilnNotImplementedError
from ...graph import Graph
from ...runtime.forks import own_lock


class ReferenceProgram:
    """A Graph run node by node."""

    memory_bytes = kept_bytes = 0

    def __init__(self, graph: Graph, name: str):
        self.graph, self.name = graph, name
        self.evaluate = graph.evaluator()
        self.bound: list[Any] = [None] * len(graph.inputs)
        self.lock = own_lock(self)

    def bind(self, i: int, a: np.ndarray) -> None:
        """Have input i lie in this array at each call from now on."""
        self.bound[i] = a

    def caller(self, varying: Sequence[int]) -> Callable[..., None]:
        """The program as a function of the arrays of these inputs and of its outputs."""

        def call(*arrays: np.ndarray) -> None:
            inputs = list(self.bound)
            for i, a in zip(varying, arrays, strict=False):
                inputs[i] = a
            for out, r in zip(arrays[len(varying) :], self.run(inputs), strict=True):
                np.copyto(out, r)

        return call

    def run(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Execute once; updates are stored only after everything has been computed."""
        outs = self.evaluate(inputs)
        taken = [np.array(o) if k in self.graph.updates else o for k, o in enumerate(outs)]
        results = []
        for k, o in enumerate(taken):
            i = self.graph.updates.get(k)
            if i is None:
                results.append(np.array(o))
            else:
                inputs[i][...] = o
        return results


def compile(
    graph: Graph, name: str, max_memory: int | None = None, steady: Sequence[int] = ()
) -> ReferenceProgram:
    """A Program that calls each op's reference, in the Graph as it was captured."""
    if max_memory is not None:
        raise KilnNotImplementedError(
            "compile", "the reference backend does not plan memory", f"max_memory={max_memory}",
            "leave max_memory out, or use backend='cpu'",
        )  # fmt: skip
    pipeline.optimize(graph, None, name)
    return ReferenceProgram(graph, name)
